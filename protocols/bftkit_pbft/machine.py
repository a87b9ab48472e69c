"""The machine: normal case and windows. `messages` says what each message means.

The chapters of the story: proposing and voting, deciding, batches, liars and windows stand in this file; leaving a view
and opening the next one in `views`; asking for what was lost in `exchange`; coming back after a crash in `restart`.
The functions there work on the machine's state, which is all declared here.

Two persists a slot, each before the send that it gates: the own vote before `PrePrepare` or `Prepare`, the prepared
certificate before `Commit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import attrs

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import STANDING, Digest, DrawKey, MemberId, Record, Slot, TimerKey, Transition
from bftkit.core.ordering import (
    Available,
    Decided,
    Fetch,
    LeaderChanged,
    Learned,
    Neglected,
    OrderingInput,
    Propose,
    Refused,
    Setup,
    Waiting,
)
from bftkit.core.state import SHARED, Forkable
from bftkit.crypto.signed import Certificate

from . import exchange, restart, views
from . import messages as m
from .evidence import signer_and_view, valid_equivocation
from .log import PHASES, Held, SlotState
from .pace import Pace, Patience
from .record import RECORD
from .timers import NEW_VIEW, PACE, REQUEST, STATUS, Out
from .view_change import WINDOWS, Opening, best_low, leader_of, low_of, window_max

START = Opening(0, ())


@attrs.define
class PbftMachine(Forkable):
    """One member of one epoch. See the top of this file."""

    slot_phases: ClassVar[tuple[Transition, ...]] = PHASES
    view_phases: ClassVar[tuple[Transition, ...]] = (
        Transition("ACTIVE", "timeout, proof, Neglected, slow leader, or f + 1 ViewChanges", "CHANGING"),
        Transition("CHANGING", "q ViewChanges and all bytes (leader): NewView", "ACTIVE"),
        Transition("CHANGING", "NewView (backup)", "ACTIVE"),
        Transition("CHANGING", "timeout, false NewView, or f + 1 ViewChanges for later views", "CHANGING"),
        Transition("ACTIVE", "NewView of a later view", "ACTIVE"),
    )

    setup: Setup = attrs.field(metadata=SHARED)
    patience: Patience
    pace: Pace
    # the view
    view: int = 0
    active: bool = True
    new_view: m.NewView | None = None
    """What opened the present view; None in view 0 and while views."""
    opening: Opening = START
    opening_votes: tuple[bytes, ...] = ()
    changes: dict[MemberId, tuple[m.ViewChange, m.ViewChangeBody]] = attrs.field(
        factory=dict[MemberId, tuple[m.ViewChange, m.ViewChangeBody]]
    )
    """The newest view change of each member, checked."""
    candidate: tuple[tuple[m.ViewChange, m.ViewChangeBody], ...] = ()
    """As the coming leader: the view changes that the new view is made of. Their senders may have moved on since."""
    new_view_timer: bool = False
    accused: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])
    """A view in which a member's equivocation was proved: the newest one that concerned the present view."""
    # the log
    delivered: Slot = 0
    stable: Slot = 0
    low: Slot = 0
    """The proven low mark; certificates above it go into view changes."""
    low_votes: tuple[m.StableVote, ...] = ()
    stable_votes: dict[MemberId, m.StableVote] = attrs.field(factory=dict[MemberId, m.StableVote])
    high: Slot = 0
    next_slot: Slot = 1
    """As leader: the next slot to propose in."""
    headed: Slot = 0
    """The highest slot with a header in this view."""
    voted: Slot = 0
    """The highest slot voted for that may have been decided by that vote."""
    view_began: Slot = 0
    """What was delivered when this view was entered."""
    stop: Slot | None = None
    slots: dict[Slot, SlotState] = attrs.field(factory=dict[Slot, SlotState])
    decided: dict[Slot, Digest] = attrs.field(factory=dict[Slot, Digest])
    """Decided slots above the stable checkpoint, delivered or still behind a gap."""
    held: dict[Slot, Held] = attrs.field(factory=dict[Slot, Held])
    here: dict[Digest, Slot] = attrs.field(factory=dict[Digest, Slot])
    """Batches whose bytes are here, with the highest slot that they were wanted for."""
    wanted: dict[Digest, list[Slot]] = attrs.field(factory=dict[Digest, list[Slot]])
    # the timers
    waiting: bool = False
    request_timer: bool = False
    pace_timer: bool = False
    restored: bool = False
    # the status exchange
    intervals: int = 0
    stuck: int = 0
    delivered_before: Slot = -1
    answered: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])
    claims: dict[MemberId, Slot] = attrs.field(factory=dict[MemberId, Slot])
    """How far each peer's last status says that it has delivered."""
    claims_seen: Slot = 0
    """What f + 1 peers claimed when that last kept this member from leaving its view."""

    @classmethod
    def create(cls, setup: Setup) -> PbftMachine:
        """A fresh machine for this member and epoch.

        Raises `ValueError` if a new view of so many members might not fit into a message.
        """
        if setup.window > (fits := window_max(setup)):
            raise ValueError(
                f"pbft: with {len(setup.members)} members and a window of {setup.window} slots, what a new leader must "
                f"say may exceed {m.NEW_VIEW_BYTES_MAX >> 20} MiB; the window can be {fits} slots at most"
            )
        machine = cls(
            setup,
            Patience(
                setup.parameter(RECORD, "view_timeout"),
                max(setup.parameter(RECORD, "view_timeout_max"), setup.parameter(RECORD, "view_timeout")),
                setup.parameter(RECORD, "shrink_after"),
            ),
            Pace(setup.parameter(RECORD, "pace_gap"), setup.parameter(RECORD, "pace_percent")),
        )
        start = setup.start
        machine.opening = Opening(start, ())
        machine.delivered = machine.stable = machine.low = machine.headed = machine.voted = start
        machine.next_slot = start + 1
        machine.set_high()
        return machine

    # ----------------------------------------------------------------------------------- what others may ask

    @property
    def leader(self) -> MemberId | None:
        """The leader of the present view, once it is active."""
        return leader_of(self.setup, self.view) if self.active else None

    @property
    def room(self) -> int:
        """How many proposals this member would take: as active leader, within pipeline and window."""
        if self.stop is not None or self.leader != self.setup.me:
            return 0
        last = self.next_slot - 1
        depth = self.setup.parameter(RECORD, "pipeline_depth")
        return max(0, min(self.delivered + depth - last, self.high - last))

    @property
    def highest_voted(self) -> Slot:
        """The highest slot that this member's votes may have helped to decide, in any view (SAFETY rule 13)."""
        return self.voted

    def standing(self) -> Sequence[Record]:
        """The view, the proof of the low mark, and the certificates between it and the stable checkpoint."""
        records: list[m.OwnRecord] = []
        if self.stable > self.setup.start:
            records.append(m.Settled(self.stable))
        if self.low_votes:
            records.append(m.Proven(self.low_votes))
        if self.new_view is not None:
            records.append(m.Installed(self.new_view))
        elif self.view > 0:
            records.append(m.Entered(self.view))
        records.extend(m.Prepared(self.held[slot].certificate) for slot in sorted(self.held) if slot <= self.stable)
        return [m.RECORDS.encode(record) for record in records]

    # ----------------------------------------------------------------------------------- events

    def on_start(self, out: Out) -> None:
        """Begin in view 0, or go on where the records end."""
        out.set_timer(STATUS, self.setup.parameter(RECORD, "status_interval"))
        out.deliver(LeaderChanged(self.view, self.leader))
        if self.restored:
            if not self.active:
                views.tell_view_change(self, out)
                views.count_changes(self, out)
            for slot in sorted(self.slots):
                state = self.slots[slot]
                if self.active and state.digest is not None:
                    self.vote_if_here(slot, state, out)
                # In a group of one, and where the own vote was the last one missing, nobody else would wake it up.
                self.try_prepare(slot, state, out)
                self.try_decide(slot, state, out)
            out.broadcast(exchange.status_of(self, answer=False))

    def on_input(self, value: OrderingInput, out: Out) -> None:
        """What the channel sees and the protocol cannot."""
        match value:
            case Propose(batch):
                if self.room <= 0:
                    raise ValueError(f"{self.setup.me} has no room for a proposal in view {self.view}")
                self.lead(batch.digest, out)
            case Available(digest):
                self.on_available(digest, out)
            case Refused(digest):
                self.on_refused(digest, out)
            case Waiting(waiting):
                views.on_waiting(self, waiting, out)
            case Neglected(leader):
                if leader == self.leader and leader != self.setup.me and not views.others_go_on(self):
                    views.leave_view(self, self.view + 1, out)
            case Learned(slot, digest):
                # SAFETY rule 17: f + 1 members said so, and the channel has the bytes.
                if self.delivered < slot <= self.stable + 3 * self.setup.window:
                    self.decide(slot, digest, out)

    def on_message(self, sender: MemberId, message: m.Message, out: Out) -> None:
        """A peer's message, over an authenticated link; its content may be a lie."""
        if isinstance(message, m.Prepare):
            self.on_prepare(sender, message, out)
        elif isinstance(message, m.Commit):
            self.on_commit(sender, message, out)
        elif isinstance(message, m.PrePrepare):
            self.on_pre_prepare(sender, message, out)
        else:
            match message:
                case m.Stable(slot, signature):
                    self.on_stable_vote(sender, slot, signature, out)
                case m.Status():
                    exchange.on_status(self, sender, message, out)
                case m.ViewChange():
                    views.on_view_change(self, sender, message, out)
                case m.NewView():
                    views.on_new_view(self, sender, message, out)
                case m.Accusation(proof):
                    self.on_accusation(sender, proof, out)

    def on_timer(self, key: TimerKey, out: Out) -> None:
        """One of the four timers: the request timer, the new view's, the status exchange, the leader's pace."""
        if key == REQUEST:
            views.request_timer_due(self, out)
        elif key == NEW_VIEW:
            self.new_view_timer = False
            if not self.active:
                views.leave_view(self, self.view + 1, out, timed_out=True)
        elif key == STATUS:
            exchange.status_due(self, out)
        elif key == PACE:
            views.pace_due(self, out)

    def on_draw(self, key: DrawKey, value: int, out: Out) -> None:
        """PBFT draws nothing."""
        raise ValueError("this protocol asked for no draw")

    # ----------------------------------------------------------------------------------- proposing and voting

    def lead(self, digest: Digest, out: Out) -> None:
        """The leader assigns the next slot and multicasts a pre-prepare. (Castro 2001, section 2.3.4)"""
        slot = self.next_slot
        self.next_slot = slot + 1
        signature = self.setup.keyring.sign(m.VOTE, m.vote_statement(self.view, slot, digest))
        state = self.slots.setdefault(slot, SlotState())
        self.head(slot, state, digest, signature)
        if digest != NO_DIGEST:
            self.here[digest] = slot
        self.record_vote(slot, state, signature, out)
        out.broadcast(m.PrePrepare(self.view, slot, digest, signature), (digest,) if digest != NO_DIGEST else ())
        self.try_prepare(slot, state, out)

    def state(self, slot: Slot) -> SlotState | None:
        """The state of a slot that may concern us: above the stable checkpoint, at most a window ahead of ours."""
        state = self.slots.get(slot)
        if state is None and self.stable < slot <= self.high + self.setup.window:
            state = self.slots[slot] = SlotState()
        return state

    def on_pre_prepare(self, sender: MemberId, message: m.PrePrepare, out: Out) -> None:
        """A backup accepts a pre-prepare in its view, inside its window, if it accepted no other there."""
        if sender != leader_of(self.setup, message.view):
            out.blame(sender, "pre-prepare from a member that does not lead its view")
            return
        if message.view != self.view or not self.active:
            return
        slot = message.slot
        state = self.state(slot)
        # What lies at or below the new view's low mark is settled by a checkpoint. A laggard that voted there once
        # more could help a liar to decide it differently.
        if state is None or slot <= self.opening.low:
            return
        if state.digest is not None:
            if state.digest != message.digest:
                self.second_header(sender, slot, state, message.digest, message.signature, out)
            return
        if slot > self.high:
            # This member's watermark lags. To drop the proposal would strand it until the leader repeats it.
            state.ahead = state.ahead or message
            return
        self.take_header(sender, slot, state, message.digest, message.signature, (sender,), out)

    def take_header(
        self,
        sender: MemberId,
        slot: Slot,
        state: SlotState,
        digest: Digest,
        signature: bytes,
        holders: tuple[MemberId, ...],
        out: Out,
    ) -> bool:
        leader = leader_of(self.setup, self.view)
        if not self.setup.keyring.verify(leader, m.VOTE, m.vote_statement(self.view, slot, digest), signature):
            out.blame(sender, "a header that the leader did not sign")
            return False
        self.head(slot, state, digest, signature)
        state.holders = holders
        self.compare_prepares(slot, state, out)
        if self.active and state.digest == digest:
            self.vote_if_here(slot, state, out)
        return True

    def head(self, slot: Slot, state: SlotState, digest: Digest, signature: bytes) -> None:
        state.digest = digest
        state.leader_signature = signature
        state.votes = {leader_of(self.setup, self.view): signature}
        state.ahead = None
        if slot > self.headed:
            self.headed = slot

    def compare_prepares(self, slot: Slot, state: SlotState, out: Out) -> None:
        for member in self.setup.members:
            prepare = state.prepares.get(member)
            if prepare is not None and prepare.digest != state.digest:
                self.second_header(member, slot, state, prepare.digest, prepare.leader_signature, out)
                if not self.active:
                    return

    def vote_if_here(self, slot: Slot, state: SlotState, out: Out) -> None:
        """No vote before the bytes are here, authentic and durable (SAFETY rules 3 and 4)."""
        assert state.digest is not None
        decided = self.decided.get(slot)
        if decided is not None and decided != state.digest:
            return  # only beyond f liars; never vote against a decision
        if not state.signature and self.have(state.digest, slot, state.holders, out):
            self.vote(slot, state, out)

    def have(self, digest: Digest, slot: Slot, holders: tuple[MemberId, ...], out: Out) -> bool:
        """Whether the bytes are here; asks for them if not."""
        if digest == NO_DIGEST:
            return True
        known = self.here.get(digest)
        if known is not None:
            if slot > known:
                # The channel must keep the bytes for this slot as well (SAFETY rule 3).
                self.here[digest] = slot
                out.deliver(Fetch(digest, slot, ()))
            return True
        slots = self.wanted.setdefault(digest, [])
        if slot not in slots:
            slots.append(slot)
            out.deliver(Fetch(digest, slot, tuple(member for member in holders if member != self.setup.me)))
        return False

    def vote(self, slot: Slot, state: SlotState, out: Out) -> None:
        """Durably vote, and multicast a prepare. (Castro 2001, section 2.3.4)"""
        digest = state.digest
        assert digest is not None
        assert not state.signature
        signature = self.setup.keyring.sign(m.VOTE, m.vote_statement(self.view, slot, digest))
        self.record_vote(slot, state, signature, out)
        # A header without its bytes is no proposal yet.
        self.pace.proposals += not state.from_new_view and self.counts(slot, digest)
        out.broadcast(m.Prepare(self.view, slot, digest, state.leader_signature, signature))
        self.try_prepare(slot, state, out)

    def record_vote(self, slot: Slot, state: SlotState, signature: bytes, out: Out) -> None:
        assert state.digest is not None
        state.signature = signature
        state.votes[self.setup.me] = signature
        if slot > self.voted:
            self.voted = slot
        record = m.Voted(self.view, slot, state.digest, state.leader_signature, signature)
        out.persist(m.RECORDS.encode(record), slot)

    def on_prepare(self, sender: MemberId, message: m.Prepare, out: Out) -> None:
        if message.view != self.view:
            return
        slot = message.slot
        state = self.state(slot)
        if state is None or slot <= self.opening.low:
            return
        if sender == leader_of(self.setup, self.view):
            out.blame(sender, "prepare from the leader")
            return
        before = state.prepares.get(sender)
        if before is not None:
            if before.digest != message.digest:
                self.two_votes(sender, before, message, out)
            return
        if state.digest is None and self.led_before(slot):
            self.own_signature_returns(sender, message, out)
            return
        state.prepares[sender] = message
        if state.digest is None or state.prepared:
            # Kept unverified. While the view changes this is what the new view's first slots need.
            return
        if message.digest != state.digest:
            self.second_header(sender, slot, state, message.digest, message.leader_signature, out)
        else:
            self.try_prepare(slot, state, out)

    def led_before(self, slot: Slot) -> bool:
        """Whether an own header in this slot and view would be one that this member has forgotten."""
        return leader_of(self.setup, self.view) == self.setup.me and (not self.active or slot >= self.next_slot)

    def own_signature_returns(self, sender: MemberId, message: m.Prepare, out: Out) -> None:
        """A vote for a proposal that this leader does not know of: it leads nothing in this view any more.

        With its signature under it, it was made by this member before its disk went back in time; to propose there
        again would be to say two things (SAFETY rule 16).
        """
        statement = m.vote_statement(message.view, message.slot, message.digest)
        if self.setup.keyring.verify(self.setup.me, m.VOTE, statement, message.leader_signature):
            views.leave_view(self, self.view + 1, out)
        else:
            out.blame(sender, "a header that the leader did not sign")

    def try_prepare(self, slot: Slot, state: SlotState, out: Out) -> None:
        """Prepared: q members' votes, own and leader's included. Verified only up to q, and only when they suffice."""
        if state.prepared or not state.signature:
            return
        digest = state.digest
        assert digest is not None
        votes = state.votes
        prepares = state.prepares
        quorum = self.setup.quorum.certificate
        if len(votes) + len(prepares) < quorum:
            return
        body = m.vote_statement(self.view, slot, digest)
        if len(votes) < quorum:
            candidates = [
                member
                for member in self.setup.members
                if member not in votes and member in prepares and prepares[member].digest == digest
            ]
            if len(votes) + len(candidates) < quorum:
                return
            for member in candidates:
                signature = prepares[member].signature
                if self.setup.keyring.verify(member, m.VOTE, body, signature):
                    votes[member] = signature
                    if len(votes) == quorum:
                        break
                else:
                    del prepares[member]
                    out.blame(member, "a prepare that it did not sign")
            if len(votes) < quorum:
                return
        state.prepared = True
        certificate = Certificate.of(body, votes)
        self.held[slot] = Held(self.view, digest, certificate)
        out.persist(m.RECORDS.encode(m.Prepared(certificate)), slot)
        commit = m.Commit(self.view, slot, digest)
        out.broadcast(commit)
        state.commits[self.setup.me] = commit
        self.count_commits(slot, state, commit, out)

    # ----------------------------------------------------------------------------------- deciding

    def on_commit(self, sender: MemberId, message: m.Commit, out: Out) -> None:
        """Commits count in whatever view they were made, also for a member that has left that view.

        A commit says that its sender holds a certificate durably, which stays true. So a member that suspected the
        leader alone, and may not vote until the others follow, still delivers what they decide.
        """
        slot = message.slot
        if slot in self.decided:
            return
        state = self.state(slot)
        if state is None:
            return
        before = state.commits.get(sender)
        if before is not None and before.view >= message.view:
            if before.view == message.view and before.digest != message.digest:
                out.blame(sender, "commits for two digests in one view")
            return
        state.commits[sender] = message
        self.count_commits(slot, state, message, out)

    def try_decide(self, slot: Slot, state: SlotState, out: Out) -> None:
        for member in self.setup.members:
            commit = state.commits.get(member)
            if commit is not None and slot not in self.decided:
                self.count_commits(slot, state, commit, out)

    def count_commits(self, slot: Slot, state: SlotState, commit: m.Commit, out: Out) -> None:
        """Committed: q members hold a certificate of one view for one digest. (Castro 2001, section 2.3.4)"""
        commits = state.commits
        quorum = self.setup.quorum.certificate
        if len(commits) < quorum or slot in self.decided:
            return
        digest, view = commit.digest, commit.view
        count = 0
        for other in commits.values():
            if other.digest == digest and other.view == view:
                count += 1
        if count < quorum:
            return
        holders = tuple(
            member for member in self.setup.members if member in commits and commits[member].digest == digest
        )
        state.committed = digest
        if self.have(digest, slot, holders, out):
            self.decide(slot, digest, out)

    def decide(self, slot: Slot, digest: Digest, out: Out) -> None:
        if slot in self.decided or slot <= self.stable:
            return
        self.decided[slot] = digest
        if digest != NO_DIGEST:
            self.here[digest] = max(slot, self.here.get(digest, slot))
        self.deliver(out)

    def counts(self, slot: Slot, digest: Digest) -> bool:
        """Whether a slot is work that a leader may be thanked for.

        An empty batch is none, or else a leader could sit out all requests by ordering nothing at all; but where a view
        begins or the epoch ends, empty batches are due.
        """
        return digest != NO_DIGEST or self.stop is not None or slot <= self.opening.high

    def deliver(self, out: Out) -> None:
        decided = self.decided
        last = self.stop
        while (slot := self.delivered + 1) in decided and (last is None or slot <= last):
            self.delivered = slot
            out.deliver(Decided(slot, decided[slot]))
            if self.counts(slot, decided[slot]):
                self.patience.decided()
                self.pace.decided += 1

    # ----------------------------------------------------------------------------------- batches

    def on_available(self, digest: Digest, out: Out) -> None:
        slots = self.wanted.pop(digest, [])
        self.here[digest] = max([self.here.get(digest, self.stable), *slots])
        for slot in sorted(slots):
            state = self.slots.get(slot)
            if state is None:
                continue
            if state.committed == digest:
                self.decide(slot, digest, out)
            if self.active and state.digest == digest:
                self.vote_if_here(slot, state, out)
        if self.candidate:
            views.open_view(self, out)

    def on_refused(self, digest: Digest, out: Out) -> None:
        """The leader proposed what no correct member may vote for."""
        for slot in sorted(self.wanted.pop(digest, [])):
            state = self.slots.get(slot)
            if not self.active or state is None or state.digest != digest or state.from_new_view:
                continue
            leader = leader_of(self.setup, self.view)
            header = m.vote_statement(self.view, slot, digest)
            out.blame(
                leader,
                "a batch with a request that is not authentic",
                m.PROOFS.encode(m.BadBatch(leader, header, state.leader_signature)),
            )
            views.leave_view(self, self.view + 1, out)

    # ----------------------------------------------------------------------------------- liars

    def second_header(
        self, sender: MemberId, slot: Slot, state: SlotState, digest: Digest, signature: bytes, out: Out
    ) -> None:
        """Somebody shows another digest in a slot that has a header: the leader lied, or the sender does."""
        assert state.digest is not None
        leader = leader_of(self.setup, self.view)
        other = m.vote_statement(self.view, slot, digest)
        if not self.setup.keyring.verify(leader, m.VOTE, other, signature):
            out.blame(sender, "a header that the leader did not sign")
        elif leader == self.setup.me:
            # SAFETY rule 16: my own signature under something that I do not know. I led this view in another life.
            views.leave_view(self, self.view + 1, out)
        else:
            first = m.vote_statement(self.view, slot, state.digest)
            self.accuse(
                leader, self.view, m.equivocation(leader, (first, state.leader_signature), (other, signature)), out
            )

    def two_votes(self, sender: MemberId, before: m.Prepare, after: m.Prepare, out: Out) -> None:
        first = m.vote_statement(before.view, before.slot, before.digest)
        second = m.vote_statement(after.view, after.slot, after.digest)
        verify = self.setup.keyring.verify
        if verify(sender, m.VOTE, first, before.signature) and verify(sender, m.VOTE, second, after.signature):
            self.accuse(
                sender, before.view, m.equivocation(sender, (first, before.signature), (second, after.signature)), out
            )
        else:
            out.blame(sender, "a prepare that it did not sign")

    def on_accusation(self, sender: MemberId, proof: bytes, out: Out) -> None:
        found = signer_and_view(proof)
        if found is None or not valid_equivocation(self.setup, proof):
            out.blame(sender, "an accusation without a proof")
            return
        signer, view = found
        if signer != self.setup.me:
            self.accuse(signer, view, proof, out)

    def accuse(self, member: MemberId, view: int, proof: bytes, out: Out) -> None:
        """Blame with proof; if it concerns the present view, tell everybody, and leave the view if its leader lied.

        A proof of another view counts once a member: a liar can make as many as it likes, for views far away.
        """
        before = self.accused.get(member)
        if before == view or (before is not None and view != self.view):
            return
        self.accused[member] = view
        out.blame(member, "equivocation", proof)
        if view == self.view:
            out.broadcast(m.Accusation(proof))
            if self.active and member == leader_of(self.setup, view):
                views.leave_view(self, view + 1, out)

    # ----------------------------------------------------------------------------------- windows

    def on_stable(self, slot: Slot, digest: Digest, out: Out) -> None:
        """A checkpoint is stable: forget what lies below it, open what lies ahead. (Castro 2001, section 2.3.4)"""
        if slot <= self.stable:
            return
        self.stable = slot
        if self.delivered < slot:
            self.delivered = slot  # the state came by a transfer
        if self.next_slot <= slot:
            self.next_slot = slot + 1
        for table in (self.slots, self.decided):
            for old in [at for at in table if at <= slot]:
                del table[old]
        self.here = {batch: at for batch, at in self.here.items() if at > slot}
        for batch in list(self.wanted):
            left = [at for at in self.wanted[batch] if at > slot]
            if left:
                self.wanted[batch] = left
            else:
                del self.wanted[batch]
        me = self.setup.me
        vote = m.StableVote(me, slot, self.setup.keyring.sign(m.STABLE, m.stable_statement(slot)))
        self.stable_votes[me] = vote
        out.broadcast(m.Stable(slot, vote.signature))
        self.raise_low(out)
        self.drop_certificates()
        self.window_moved(out)
        self.deliver(out)
        if self.candidate:
            views.open_view(self, out)

    def on_stable_vote(self, sender: MemberId, slot: Slot, signature: bytes, out: Out) -> None:
        before = self.stable_votes.get(sender)
        if slot <= self.low or (before is not None and before.slot >= slot):
            return
        if not self.setup.keyring.verify(sender, m.STABLE, m.stable_statement(slot), signature):
            out.blame(sender, "a stable vote that it did not sign")
            return
        self.stable_votes[sender] = m.StableVote(sender, slot, signature)
        if self.raise_low(out):
            self.window_moved(out)

    def raise_low(self, out: Out) -> bool:
        """Certificates go once f + 1 members' votes prove a stable checkpoint above them; see `view_change`."""
        votes = best_low(self.setup, self.stable_votes)
        low = low_of(self.setup, votes)
        if low <= self.low:
            return False
        self.low, self.low_votes = low, votes
        out.persist(m.RECORDS.encode(m.Proven(votes)), STANDING)
        self.drop_certificates()
        return True

    def drop_certificates(self) -> None:
        """Certificates go when the proved mark *and* the own stable checkpoint have reached them.

        View changes need them above the mark only. But a power cut may throw everybody back to an older checkpoint than
        the one that was proved, if no disk had the newer one yet; then only commits can decide these slots again.
        """
        edge = min(self.low, self.stable)
        for old in [at for at in self.held if at <= edge]:
            del self.held[old]

    def set_high(self) -> None:
        window = self.setup.window
        if self.stop is None:
            self.high = min(self.stable + window, self.low + 2 * window)
        else:
            # A certificate further above the own low mark has no place in a view change. That mark may lag far behind.
            self.high = min(self.stop, self.low + WINDOWS * window)

    def window_moved(self, out: Out) -> None:
        """Take up what came too early for this member's window."""
        self.set_high()
        views.take_choices(self, out)
        for slot in sorted(self.slots):
            state = self.slots.get(slot)
            if state is not None and state.ahead is not None and slot <= self.high and self.active:
                ahead, state.ahead = state.ahead, None
                self.on_pre_prepare(leader_of(self.setup, ahead.view), ahead, out)
        self.fill(out)

    def on_stop(self, slot: Slot, out: Out) -> None:
        """The epoch ends with `slot`: fill up to it, even beyond the window, and go no further (SAFETY rule 23)."""
        if self.stop is not None:
            return
        self.stop = slot
        self.window_moved(out)
        self.deliver(out)
        views.arm_request_timer(self, out)

    def fill(self, out: Out) -> None:
        while self.stop is not None and self.leader == self.setup.me and self.next_slot <= self.high:
            self.lead(NO_DIGEST, out)

    def on_restore(self, records: Sequence[Record], out: Out) -> None:
        """Be again what the records say: in the same view, with the same votes, contradicting nothing."""
        restart.restore(self, records)
