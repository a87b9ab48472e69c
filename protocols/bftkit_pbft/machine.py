"""The machine: normal case, view change, retransmission. `messages` says what each message means.

The order in this file is the order of the story: proposing and voting, deciding, windows, leaving a view, opening the
next one, slow leaders, asking for what was lost, restarting.

Two persists a slot, each before the send that it gates: the own vote before `PrePrepare` or `Prepare`, the prepared
certificate before `Commit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, TypeAlias

import attrs

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import STANDING, Digest, DrawKey, MemberId, Record, Slot, TimerKey, Transition
from bftkit.core.machine import Out as AnyOut
from bftkit.core.ordering import (
    Available,
    Decided,
    Fetch,
    LeaderChanged,
    Learned,
    Neglected,
    OrderingInput,
    OrderingOutput,
    Propose,
    Refused,
    Setup,
    Waiting,
)
from bftkit.core.state import SHARED, Forkable
from bftkit.crypto.signed import Certificate

from . import messages as m
from .evidence import signer_and_view, valid_equivocation
from .log import PHASES, Phase, SlotState
from .pace import Pace, Patience
from .record import RECORD
from .view_change import (
    Choice,
    Invalid,
    Known,
    Opening,
    best_low,
    choose,
    leader_of,
    low_of,
    read_new_view,
    read_view_change,
    signed_by_leader,
    signed_by_signer,
    view_of,
)

Out: TypeAlias = AnyOut[m.Message, OrderingOutput]

REQUEST: Final = ("request",)
NEW_VIEW: Final = ("new-view",)
STATUS: Final = ("status",)
PACE: Final = ("pace",)

ANSWERS_MAX: Final = 4
"""So many statuses of one peer are answered in a status interval: asking is cheap, answering is not."""
CARRIES_MAX: Final = 4
"""So many batches go with one answer."""
RETRIES_MAX: Final = 8
"""So many stuck slots are looked after at a time."""
IDLE: Final = 10
"""An idle member tells its status every so many intervals; one that stays stuck falls back to that, too."""
EAGER: Final = 20
"""A stuck member tells its status every interval, so many times."""


@attrs.frozen
class Held:
    """A prepared certificate that this member holds durably, and what it says."""

    view: int
    digest: Digest
    certificate: Certificate


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
    """What opened the present view; None in view 0 and while changing."""
    opening: Opening = Opening(0, ())
    opening_votes: tuple[bytes, ...] = ()
    changes: dict[MemberId, tuple[m.ViewChange, m.ViewChangeBody]] = attrs.field(
        factory=dict[MemberId, tuple[m.ViewChange, m.ViewChangeBody]]
    )
    """The newest view change of each member, checked."""
    candidate: tuple[MemberId, ...] = ()
    """As the coming leader: whose view changes the new view is made of."""
    new_view_timer: bool = False
    accused: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])
    """The highest view in which a member's equivocation was proved."""
    # the log
    delivered: Slot = 0
    stable: Slot = 0
    low: Slot = 0
    """The proven low mark; certificates above it are kept."""
    low_votes: tuple[m.StableVote, ...] = ()
    stable_votes: dict[MemberId, m.StableVote] = attrs.field(factory=dict[MemberId, m.StableVote])
    high: Slot = 0
    next_slot: Slot = 1
    """As leader: the next slot to propose in."""
    headed: Slot = 0
    """The highest slot with a header in this view."""
    voted: Slot = 0
    """The highest slot ever voted for."""
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

    @classmethod
    def create(cls, setup: Setup) -> PbftMachine:
        """A fresh machine for this member and epoch."""
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
        machine._set_high()
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
        """The highest slot this member voted for, in any view."""
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
                self._tell_view_change(out)
            for slot in sorted(self.slots):
                # In a group of one, and where the vote was the last one missing, nobody else would wake it up.
                self._try_prepare(slot, self.slots[slot], out)
                self._try_decide(slot, self.slots[slot], out)
            out.broadcast(self._status(answer=False))

    def on_input(self, value: OrderingInput, out: Out) -> None:
        """What the channel sees and the protocol cannot."""
        match value:
            case Propose(batch):
                if self.room <= 0:
                    raise ValueError(f"{self.setup.me} has no room for a proposal in view {self.view}")
                self._lead(batch.digest, out)
            case Available(digest):
                self._on_available(digest, out)
            case Refused(digest):
                self._on_refused(digest, out)
            case Waiting(waiting):
                self._on_waiting(waiting, out)
            case Neglected(leader):
                if leader == self.leader and leader != self.setup.me:
                    self._leave_view(self.view + 1, out)
            case Learned(slot, digest):
                # SAFETY rule 17: f + 1 members said so, and the channel has the bytes.
                if self.delivered < slot <= self.stable + 3 * self.setup.window:
                    self._decide(slot, digest, out)

    def on_message(self, sender: MemberId, message: m.Message, out: Out) -> None:
        """A peer's message, over an authenticated link; its content may be a lie."""
        kind = type(message)
        if kind is m.Prepare:
            self._on_prepare(sender, message, out)  # type: ignore[arg-type]
        elif kind is m.Commit:
            self._on_commit(sender, message, out)  # type: ignore[arg-type]
        elif kind is m.PrePrepare:
            self._on_pre_prepare(sender, message, out)  # type: ignore[arg-type]
        else:
            match message:
                case m.Stable(slot, signature):
                    self._on_stable_vote(sender, slot, signature, out)
                case m.Status():
                    self._on_status(sender, message, out)
                case m.ViewChange():
                    self._on_view_change(sender, message, out)
                case m.NewView():
                    self._on_new_view(sender, message, out)
                case m.Accusation(proof):
                    self._on_accusation(sender, proof, out)
                case _:
                    raise TypeError(f"{kind.__name__} is no message of this protocol")

    def on_timer(self, key: TimerKey, out: Out) -> None:
        """One of the four timers: the request timer, the new view's, the status exchange, the leader's pace."""
        if key == REQUEST:
            self._request_timer_due(out)
        elif key == NEW_VIEW:
            self.new_view_timer = False
            if not self.active:
                self._leave_view(self.view + 1, out)
        elif key == STATUS:
            self._status_due(out)
        elif key == PACE:
            self._pace_due(out)

    def on_draw(self, key: DrawKey, value: int, out: Out) -> None:
        """PBFT draws nothing."""
        raise ValueError("this protocol asked for no draw")

    # ----------------------------------------------------------------------------------- proposing and voting

    def _lead(self, digest: Digest, out: Out) -> None:
        """The leader assigns the next slot and multicasts a pre-prepare. (Castro 2001, section 2.3.4)"""
        slot = self.next_slot
        self.next_slot = slot + 1
        signature = self.setup.keyring.sign(m.VOTE, m.vote_statement(self.view, slot, digest))
        state = self.slots.setdefault(slot, SlotState())
        self._head(slot, state, digest, signature)
        if digest != NO_DIGEST:
            self.here[digest] = slot
        self._record_vote(slot, state, signature, out)
        out.broadcast(m.PrePrepare(self.view, slot, digest, signature), (digest,) if digest != NO_DIGEST else ())
        self._try_prepare(slot, state, out)

    def _state(self, slot: Slot) -> SlotState | None:
        """The state of a slot that may concern us: above the stable checkpoint, at most a window ahead of ours."""
        state = self.slots.get(slot)
        if state is None and self.stable < slot <= self.high + self.setup.window:
            state = self.slots[slot] = SlotState()
        return state

    def _on_pre_prepare(self, sender: MemberId, message: m.PrePrepare, out: Out) -> None:
        """A backup accepts a pre-prepare in its view, inside its window, if it accepted no other there."""
        if sender != leader_of(self.setup, message.view):
            out.blame(sender, "pre-prepare from a member that does not lead its view")
            return
        if message.view != self.view or not self.active:
            return
        slot = message.slot
        state = self._state(slot)
        # What lies at or below the new view's low mark is settled by a checkpoint. A laggard that voted there once
        # more could help a liar to decide it differently.
        if state is None or slot <= self.opening.low:
            return
        if state.digest is not None:
            if state.digest != message.digest:
                self._second_header(sender, slot, state, message.digest, message.signature, out)
            return
        if slot > self.high:
            # This member's watermark lags. To drop the proposal would strand it until the leader repeats it.
            state.ahead = state.ahead or message
            return
        self._take_header(sender, slot, state, message.digest, message.signature, (sender,), out)

    def _take_header(
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
        self.pace.proposals += 1
        self._head(slot, state, digest, signature)
        state.holders = holders
        self._compare_prepares(slot, state, out)
        if self.active and state.digest == digest:
            self._vote_if_here(slot, state, out)
        return True

    def _head(self, slot: Slot, state: SlotState, digest: Digest, signature: bytes) -> None:
        state.digest = digest
        state.leader_signature = signature
        state.votes = {leader_of(self.setup, self.view): signature}
        state.ahead = None
        if slot > self.headed:
            self.headed = slot

    def _compare_prepares(self, slot: Slot, state: SlotState, out: Out) -> None:
        for member in self.setup.members:
            prepare = state.prepares.get(member)
            if prepare is not None and prepare.digest != state.digest:
                self._second_header(member, slot, state, prepare.digest, prepare.leader_signature, out)
                if not self.active:
                    return

    def _vote_if_here(self, slot: Slot, state: SlotState, out: Out) -> None:
        """No vote before the bytes are here, authentic and durable (SAFETY rules 3 and 4)."""
        assert state.digest is not None
        decided = self.decided.get(slot)
        if decided is not None and decided != state.digest:
            return  # only beyond f liars; never vote against a decision
        if not state.signature and self._have(state.digest, slot, state.holders, out):
            self._vote(slot, state, out)

    def _have(self, digest: Digest, slot: Slot, holders: tuple[MemberId, ...], out: Out) -> bool:
        """Whether the bytes are here; asks for them if not."""
        if digest == NO_DIGEST:
            return True
        known = self.here.get(digest)
        if known is not None:
            if slot > known:
                self.here[digest] = slot
            return True
        slots = self.wanted.setdefault(digest, [])
        if slot not in slots:
            slots.append(slot)
            out.deliver(Fetch(digest, slot, tuple(member for member in holders if member != self.setup.me)))
        return False

    def _vote(self, slot: Slot, state: SlotState, out: Out) -> None:
        """Durably vote, and multicast a prepare. (Castro 2001, section 2.3.4)"""
        digest = state.digest
        assert digest is not None
        assert not state.signature
        signature = self.setup.keyring.sign(m.VOTE, m.vote_statement(self.view, slot, digest))
        self._record_vote(slot, state, signature, out)
        out.broadcast(m.Prepare(self.view, slot, digest, state.leader_signature, signature))
        self._try_prepare(slot, state, out)

    def _record_vote(self, slot: Slot, state: SlotState, signature: bytes, out: Out) -> None:
        assert state.digest is not None
        state.signature = signature
        state.votes[self.setup.me] = signature
        if slot > self.voted:
            self.voted = slot
        record = m.Voted(self.view, slot, state.digest, state.leader_signature, signature)
        out.persist(m.RECORDS.encode(record), slot)

    def _on_prepare(self, sender: MemberId, message: m.Prepare, out: Out) -> None:
        if message.view != self.view:
            return
        slot = message.slot
        state = self._state(slot)
        if state is None or slot <= self.opening.low:
            return
        if sender == leader_of(self.setup, self.view):
            out.blame(sender, "prepare from the leader")
            return
        before = state.prepares.get(sender)
        if before is not None:
            if before.digest != message.digest:
                self._two_votes(sender, before, message, out)
            return
        state.prepares[sender] = message
        if state.digest is None or state.prepared:
            # Kept unverified. While the view changes this is what the new view's first slots need.
            return
        if message.digest != state.digest:
            self._second_header(sender, slot, state, message.digest, message.leader_signature, out)
        else:
            self._try_prepare(slot, state, out)

    def _try_prepare(self, slot: Slot, state: SlotState, out: Out) -> None:
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
        if slot > self.low:
            self.held[slot] = Held(self.view, digest, certificate)
        out.persist(m.RECORDS.encode(m.Prepared(certificate)), slot)
        commit = m.Commit(self.view, slot, digest)
        out.broadcast(commit)
        state.commits[self.setup.me] = commit
        self._count_commits(slot, state, commit, out)

    # ----------------------------------------------------------------------------------- deciding

    def _on_commit(self, sender: MemberId, message: m.Commit, out: Out) -> None:
        """Commits count in whatever view they were made, also for a member that has left that view.

        A commit says that its sender holds a certificate durably, which stays true. So a member that suspected the
        leader alone, and may not vote until the others follow, still delivers what they decide.
        """
        slot = message.slot
        if slot in self.decided:
            return
        state = self._state(slot)
        if state is None:
            return
        before = state.commits.get(sender)
        if before is not None and before.view >= message.view:
            if before.view == message.view and before.digest != message.digest:
                out.blame(sender, "commits for two digests in one view")
            return
        state.commits[sender] = message
        self._count_commits(slot, state, message, out)

    def _try_decide(self, slot: Slot, state: SlotState, out: Out) -> None:
        for member in self.setup.members:
            commit = state.commits.get(member)
            if commit is not None and slot not in self.decided:
                self._count_commits(slot, state, commit, out)

    def _count_commits(self, slot: Slot, state: SlotState, commit: m.Commit, out: Out) -> None:
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
        if self._have(digest, slot, holders, out):
            self._decide(slot, digest, out)

    def _decide(self, slot: Slot, digest: Digest, out: Out) -> None:
        if slot in self.decided or slot <= self.stable:
            return
        self.decided[slot] = digest
        if digest != NO_DIGEST:
            self.here[digest] = max(slot, self.here.get(digest, slot))
        self._deliver(out)

    def _deliver(self, out: Out) -> None:
        decided = self.decided
        last = self.stop
        while (slot := self.delivered + 1) in decided and (last is None or slot <= last):
            self.delivered = slot
            out.deliver(Decided(slot, decided[slot]))
            self.patience.decided()
            self.pace.decided += 1

    # ----------------------------------------------------------------------------------- batches

    def _on_available(self, digest: Digest, out: Out) -> None:
        slots = self.wanted.pop(digest, [])
        self.here[digest] = max([self.here.get(digest, self.stable), *slots])
        for slot in sorted(slots):
            state = self.slots.get(slot)
            if state is None:
                continue
            if state.committed == digest:
                self._decide(slot, digest, out)
            if self.active and state.digest == digest:
                self._vote_if_here(slot, state, out)
        if self.candidate:
            self._open_view(out)

    def _on_refused(self, digest: Digest, out: Out) -> None:
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
            self._leave_view(self.view + 1, out)

    # ----------------------------------------------------------------------------------- liars

    def _second_header(
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
            self._leave_view(self.view + 1, out)
        else:
            first = m.vote_statement(self.view, slot, state.digest)
            self._accuse(
                leader, self.view, m.equivocation(leader, (first, state.leader_signature), (other, signature)), out
            )

    def _two_votes(self, sender: MemberId, before: m.Prepare, after: m.Prepare, out: Out) -> None:
        first = m.vote_statement(before.view, before.slot, before.digest)
        second = m.vote_statement(after.view, after.slot, after.digest)
        verify = self.setup.keyring.verify
        if verify(sender, m.VOTE, first, before.signature) and verify(sender, m.VOTE, second, after.signature):
            self._accuse(
                sender, before.view, m.equivocation(sender, (first, before.signature), (second, after.signature)), out
            )
        else:
            out.blame(sender, "a prepare that it did not sign")

    def _on_accusation(self, sender: MemberId, proof: bytes, out: Out) -> None:
        found = signer_and_view(proof)
        if found is None or not valid_equivocation(self.setup, proof):
            out.blame(sender, "an accusation without a proof")
            return
        signer, view = found
        if signer != self.setup.me:
            self._accuse(signer, view, proof, out)

    def _accuse(self, member: MemberId, view: int, proof: bytes, out: Out) -> None:
        """Blame with proof, tell everybody once a view, and leave the view if it was its leader."""
        if self.accused.get(member, -1) >= view:
            return
        self.accused[member] = view
        out.blame(member, "equivocation", proof)
        out.broadcast(m.Accusation(proof))
        if view == self.view and member == leader_of(self.setup, view) and self.active:
            self._leave_view(view + 1, out)

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
        self._raise_low(out)
        self._window_moved(out)
        self._deliver(out)
        self._fill(out)
        if self.candidate:
            self._open_view(out)

    def _on_stable_vote(self, sender: MemberId, slot: Slot, signature: bytes, out: Out) -> None:
        before = self.stable_votes.get(sender)
        if slot <= self.low or (before is not None and before.slot >= slot):
            return
        if not self.setup.keyring.verify(sender, m.STABLE, m.stable_statement(slot), signature):
            out.blame(sender, "a stable vote that it did not sign")
            return
        self.stable_votes[sender] = m.StableVote(sender, slot, signature)
        if self._raise_low(out):
            self._window_moved(out)

    def _raise_low(self, out: Out) -> bool:
        """Certificates are dropped when f + 1 members' votes prove a stable checkpoint above them; see `view_change`."""
        votes = best_low(self.setup, self.stable_votes)
        low = low_of(self.setup, votes)
        if low <= self.low:
            return False
        self.low, self.low_votes = low, votes
        out.persist(m.RECORDS.encode(m.Proven(votes)), STANDING)
        for old in [at for at in self.held if at <= low]:
            del self.held[old]
        return True

    def _set_high(self) -> None:
        window = self.setup.window
        self.high = min(self.stable + window, self.low + 2 * window) if self.stop is None else self.stop

    def _window_moved(self, out: Out) -> None:
        """Take up what came too early for this member's window."""
        self._set_high()
        self._take_choices(out)
        for slot in sorted(self.slots):
            state = self.slots.get(slot)
            if state is not None and state.ahead is not None and slot <= self.high and self.active:
                ahead, state.ahead = state.ahead, None
                self._on_pre_prepare(leader_of(self.setup, ahead.view), ahead, out)

    def on_stop(self, slot: Slot, out: Out) -> None:
        """The epoch ends with `slot`: fill up to it, even beyond the window, and go no further (SAFETY rule 23)."""
        if self.stop is not None:
            return
        self.stop = slot
        self._window_moved(out)
        self._deliver(out)
        self._fill(out)
        self._arm_request_timer(out)

    def _fill(self, out: Out) -> None:
        while self.stop is not None and self.leader == self.setup.me and self.next_slot <= self.stop:
            self._lead(NO_DIGEST, out)

    # ----------------------------------------------------------------------------------- leaving a view

    def _demand(self) -> bool:
        """Whether somebody waits for decisions."""
        return self.waiting or (self.stop is not None and self.delivered < self.stop)

    def _on_waiting(self, waiting: bool, out: Out) -> None:
        if waiting and not self.waiting:
            self.patience.quiet = 0
        if not waiting:
            self.pace.unbroken = False
        self.waiting = waiting
        if waiting:
            self._arm_request_timer(out)
            if not self.pace_timer and self.pace.gap > 0:
                self.pace_timer = True
                out.set_timer(PACE, self.pace.period)

    def _arm_request_timer(self, out: Out) -> None:
        if not self.request_timer and self.active and self._demand():
            self.request_timer = True
            self.patience.quiet = 0
            out.set_timer(REQUEST, self.patience.quarter)

    def _request_timer_due(self, out: Out) -> None:
        """Requests waited for a whole timeout and nothing was decided: the leader is given up. (Section 2.3.5)"""
        self.request_timer = False
        if not self.active or not self._demand():
            return
        if self.patience.quarter_passed():
            self._leave_view(self.view + 1, out)
        else:
            self.request_timer = True
            out.set_timer(REQUEST, self.patience.quarter)

    def _leave_view(self, view: int, out: Out) -> None:
        """Accept no more in views below `view`, durably, and say what may have been decided. (Section 2.3.5)"""
        assert view > self.view
        self.patience.failed()
        self._forget_view()
        self.view, self.active = view, False
        out.persist(m.RECORDS.encode(m.Entered(view)), STANDING)
        out.deliver(LeaderChanged(view, None))
        if self.new_view_timer:
            self.new_view_timer = False
            out.cancel_timer(NEW_VIEW)
        self._tell_view_change(out)
        self._count_changes(out)

    def _forget_view(self) -> None:
        self.new_view = None
        self.opening, self.opening_votes = Opening(self.setup.start, ()), ()
        self.candidate = ()
        self.headed = self.stable
        self.pace.new_leader()
        for slot in list(self.slots):
            state = self.slots[slot]
            state.leave_view()
            if not state.commits:
                del self.slots[slot]

    def _tell_view_change(self, out: Out) -> None:
        me = self.setup.me
        body = m.ViewChangeBody(
            self.view, self.low_votes, tuple(self.held[slot].certificate for slot in sorted(self.held))
        )
        data = m.BODIES.encode(body)
        change = m.ViewChange(me, data, self.setup.keyring.sign(m.VIEW_CHANGE, data))
        self.changes[me] = (change, body)
        out.broadcast(change)

    def _known(self) -> Known:
        return Known(self.changes, {slot: held.certificate for slot, held in self.held.items()})

    def _on_view_change(self, sender: MemberId, message: m.ViewChange, out: Out) -> None:
        before = self.changes.get(sender)
        if before is not None and before[0] == message:
            return
        if message.signer != sender or not signed_by_signer(self.setup, message):
            out.blame(sender, "a view change that it did not sign")
            return
        try:
            body = read_view_change(self.setup, message, self._known())
        except Invalid as fault:
            out.blame(sender, f"view change: {fault}", m.PROOFS.encode(m.BadViewChange(message)))
            return
        if before is not None and before[1].view >= body.view:
            return
        self.changes[sender] = (message, body)
        if body.view < self.view or (body.view == self.view and self.active):
            self._tell_view(sender, out)
        else:
            self._count_changes(out)

    def _tell_view(self, member: MemberId, out: Out) -> None:
        """A member in an older view is sent what brought this one here; bounded, since it can be asked for again."""
        if self._may_answer(member):
            if self.new_view is not None:
                out.send(member, self.new_view)
            elif not self.active:
                out.send(member, self.changes[self.setup.me][0])

    def _count_changes(self, out: Out) -> None:
        """Follow f + 1 others into a later view; with q in this one, its leader opens it. (Section 2.3.5)

        The view that is joined is the (f + 1)-th highest: a correct member is there or beyond.
        """
        later = sorted(body.view for _, body in self.changes.values() if body.view > self.view)
        if len(later) >= self.setup.quorum.weak:
            self._leave_view(later[-self.setup.quorum.weak], out)
            return
        if self.active:
            return
        here = [member for member in self.setup.members if member in self.changes]
        here = [member for member in here if self.changes[member][1].view == self.view]
        if len(here) < self.setup.quorum.certificate:
            return
        if not self.new_view_timer:
            # Only now: to wait for a new view that too few want would be to race ahead alone.
            self.new_view_timer = True
            out.set_timer(NEW_VIEW, self.patience.timeout)
        if leader_of(self.setup, self.view) == self.setup.me and not self.candidate:
            self.candidate = tuple(sorted(here)[: self.setup.quorum.certificate])
            self._open_view(out)

    # ----------------------------------------------------------------------------------- opening a view

    def _open_view(self, out: Out) -> None:
        """As the new leader: once all bytes are here, sign what the view changes yield, durably, and say it.

        The signatures are the leader's votes, so it fetches what it lacks first (SAFETY rule 3). A certificate's
        voters hold the bytes, so that this ends; if it takes too long, the timer ends the view.
        """
        view, setup = self.view, self.setup
        bodies = {member: self.changes[member][1] for member in self.candidate}
        opening = choose(setup, bodies)
        missing = False
        for choice in opening.choices:
            if choice.slot > self.stable and not self._have(choice.digest, choice.slot, choice.holders, out):
                missing = True
        if missing:
            return
        votes = tuple(
            setup.keyring.sign(m.VOTE, m.vote_statement(view, choice.slot, choice.digest)) for choice in opening.choices
        )
        data = m.BODIES.encode(m.NewViewBody(view, tuple(self.changes[member][0] for member in self.candidate), votes))
        new_view = m.NewView(data, setup.keyring.sign(m.NEW_VIEW, data))
        self._install(new_view, view, opening, votes, out)

    def _on_new_view(self, sender: MemberId, message: m.NewView, out: Out) -> None:
        """A backup computes for itself what the new view must start with. (Castro 2001, section 2.3.5)"""
        try:
            view = view_of(message)
        except Invalid as fault:
            out.blame(sender, f"new view: {fault}")
            return
        if view < 1 or view < self.view or (view == self.view and self.active):
            return
        if not signed_by_leader(self.setup, message, view):
            out.blame(sender, "a new view that its leader did not sign")
            return
        leader = leader_of(self.setup, view)
        try:
            body, opening = read_new_view(self.setup, message, self._known())
        except Invalid as fault:
            out.blame(leader, f"new view: {fault}", m.PROOFS.encode(m.BadNewView(message)))
            if view == self.view:
                self._leave_view(view + 1, out)
            return
        if leader != self.setup.me:
            self._install(message, view, opening, body.votes, out)

    def _install(self, new_view: m.NewView, view: int, opening: Opening, votes: tuple[bytes, ...], out: Out) -> None:
        """Start in the new view, durably: the records of votes in it rely on it."""
        self._enter(new_view, view, opening, votes)
        out.persist(m.RECORDS.encode(m.Installed(new_view)), STANDING)
        leader = leader_of(self.setup, view)
        if leader == self.setup.me:
            out.broadcast(new_view)
        if self.new_view_timer:
            self.new_view_timer = False
            out.cancel_timer(NEW_VIEW)
        out.deliver(LeaderChanged(view, leader))
        self._take_choices(out)
        self._fill(out)
        self._arm_request_timer(out)

    def _enter(self, new_view: m.NewView, view: int, opening: Opening, votes: tuple[bytes, ...]) -> None:
        if view > self.view:
            self._forget_view()
        self.view, self.active = view, True
        self.new_view, self.opening, self.opening_votes = new_view, opening, votes
        self.candidate = ()
        self.next_slot = max(opening.high, self.stable) + 1
        self.headed = max(opening.low, self.stable)
        self.patience.quiet = 0

    def _take_choices(self, out: Out) -> None:
        """Run the new view's first slots through the phases again, decided ones too: others may lack them."""
        leader = leader_of(self.setup, self.view)
        for choice, signature in zip(self.opening.choices, self.opening_votes, strict=True):
            slot = choice.slot
            if not self.active or slot <= self.stable or slot > self.high:
                continue
            state = self.slots.setdefault(slot, SlotState())
            if state.digest is None:
                self._take_choice(choice, signature, state)
                if leader == self.setup.me:
                    state.signature = signature
                    state.votes[leader] = signature
                    self.voted = max(self.voted, slot)
                self._compare_prepares(slot, state, out)
                if self.active:
                    self._vote_if_here(slot, state, out)
                    self._try_prepare(slot, state, out)

    def _take_choice(self, choice: Choice, signature: bytes, state: SlotState) -> None:
        self._head(choice.slot, state, choice.digest, signature)
        state.from_new_view = True
        state.holders = choice.holders

    # ----------------------------------------------------------------------------------- slow leaders

    def _pace_due(self, out: Out) -> None:
        self.pace_timer = False
        judged = self.active and self.leader != self.setup.me
        room = self.headed - self.delivered < self.setup.parameter(RECORD, "pipeline_depth") and self.headed < self.high
        waiting, seen = self.waiting, self.pace.proposals
        if judged and self.pace.period_passed(waiting=waiting, room=room and self.stop is None):
            self.pace.suspected()
            self._leave_view(self.view + 1, out)
        if waiting or seen:
            self.pace_timer = True
            out.set_timer(PACE, self.pace.period)

    # ----------------------------------------------------------------------------------- the status exchange

    def _phase(self, slot: Slot) -> Phase:
        if slot in self.decided:
            return Phase.DECIDED
        state = self.slots.get(slot)
        if state is None:
            return Phase.OPEN
        if state.committed is not None:
            return Phase.DECIDED
        if state.prepared:
            return Phase.PREPARED
        if state.signature:
            return Phase.VOTED
        return Phase.OPEN if state.digest is None else Phase.HEADED

    def _status(self, *, answer: bool) -> m.Status:
        first = self.delivered + 1
        phases = bytes(self._phase(slot) for slot in range(first, first + m.PHASES_MAX)).rstrip(b"\0")
        bitmap = bytearray((len(self.setup.members) + 7) // 8)
        for index, member in enumerate(self.setup.members):
            change = self.changes.get(member)
            if change is not None and change[1].view >= self.view:
                bitmap[index // 8] |= 1 << index % 8
        own = self.stable_votes.get(self.setup.me)
        return m.Status(
            self.view,
            self.active,
            self.delivered,
            own.slot if own is not None else 0,
            own.signature if own is not None else None,
            phases,
            bytes(bitmap),
            answer,
        )

    def _status_due(self, out: Out) -> None:
        """Look whether something is stuck; if so, say where this member is, and ask again for bytes."""
        out.set_timer(STATUS, self.setup.parameter(RECORD, "status_interval"))
        self.answered.clear()
        self.intervals += 1
        unfinished = not self.active or self._demand() or any(slot > self.delivered for slot in self.slots)
        if not unfinished:
            self.delivered_before = -1
            self.stuck = 0
        elif self.delivered == self.delivered_before:
            self.stuck += 1
        else:
            self.delivered_before = self.delivered
            self.stuck = 0
        if self.intervals % IDLE == 0 or 0 < self.stuck <= EAGER:
            out.broadcast(self._status(answer=False))
        if self.stuck > 0:
            self._retry(out)

    def _retry(self, out: Out) -> None:
        """Take headers from others' prepares, and ask for missing bytes at everybody who should have them."""
        for slot in range(self.delivered + 1, self.delivered + 1 + RETRIES_MAX):
            state = self.slots.get(slot)
            if state is None:
                continue
            if state.digest is None and self.active and self.opening.low < slot <= self.high:
                for member in self.setup.members:
                    prepare = state.prepares.get(member)
                    if prepare is None or state.digest is not None:
                        continue
                    leader = leader_of(self.setup, self.view)
                    if not self._take_header(
                        member, slot, state, prepare.digest, prepare.leader_signature, (leader, member), out
                    ):
                        del state.prepares[member]
                    if not self.active:
                        return
            digest = state.committed or state.digest
            if digest is not None and digest in self.wanted:
                holders = [*state.holders]
                holders += [member for member, prepare in state.prepares.items() if prepare.digest == digest]
                holders += [member for member, commit in state.commits.items() if commit.digest == digest]
                out.deliver(Fetch(digest, slot, tuple(sorted(set(holders) - {self.setup.me}))))

    def _may_answer(self, member: MemberId) -> bool:
        count = self.answered.get(member, 0) + 1
        self.answered[member] = count
        return count <= ANSWERS_MAX

    def _on_status(self, sender: MemberId, status: m.Status, out: Out) -> None:
        """Send exactly what the sender lacks and this member has; ask back if the sender has more."""
        if status.stable_signature is not None:
            self._on_stable_vote(sender, status.stable, status.stable_signature, out)
        if not self._may_answer(sender):
            return
        if not status.answer and self._is_behind(sender, status):
            out.send(sender, self._status(answer=True))
        if status.view < self.view or (status.view == self.view and self.active and not status.active):
            if self.new_view is not None:
                out.send(sender, self.new_view)
            elif not self.active:
                out.send(sender, self.changes[self.setup.me][0])
        elif status.view == self.view and not self.active and not status.active:
            index = self.setup.members.index(self.setup.me)
            bitmap = status.changes
            if index // 8 >= len(bitmap) or not bitmap[index // 8] >> index % 8 & 1:
                out.send(sender, self.changes[self.setup.me][0])
        self._send_missing(sender, status, out)

    def _is_behind(self, sender: MemberId, status: m.Status) -> bool:
        change = self.changes.get(sender)
        if status.view > self.view:
            return status.active or change is None or change[1].view < status.view
        if status.view == self.view and not self.active:
            return status.active or change is None or change[1].view < status.view
        if status.delivered > self.delivered:
            return True
        if status.view < self.view:
            return False
        first = status.delivered + 1
        return any(
            phase > self._phase(first + offset)
            for offset, phase in enumerate(status.phases)
            if first + offset > self.delivered
        )

    def _send_missing(self, sender: MemberId, status: m.Status, out: Out) -> None:
        same_view = self.active and status.active and status.view == self.view
        leads = self.leader == self.setup.me
        carries = CARRIES_MAX
        first = max(status.delivered, self.low) + 1
        last = min(status.delivered + m.PHASES_MAX, max([self.headed, self.delivered, *self.held]))
        for slot in range(first, last + 1):
            offset = slot - status.delivered - 1
            phase = status.phases[offset] if offset < len(status.phases) else Phase.OPEN
            if phase >= Phase.DECIDED:
                continue
            state = self.slots.get(slot)
            if same_view and phase < Phase.PREPARED and state is not None and state.signature:
                digest = state.digest
                assert digest is not None
                if not leads:
                    out.send(sender, m.Prepare(self.view, slot, digest, state.leader_signature, state.signature))
                elif phase == Phase.OPEN and not state.from_new_view and carries > 0:
                    carries -= 1
                    carry = (digest,) if digest != NO_DIGEST else ()
                    out.send(sender, m.PrePrepare(self.view, slot, digest, state.signature), carry)
            held = self.held.get(slot)
            if held is not None:
                out.send(sender, m.Commit(held.view, slot, held.digest))

    # ----------------------------------------------------------------------------------- restarting

    def on_restore(self, records: Sequence[Record], out: Out) -> None:
        """Be again what the records say: in the same view, with the same votes, contradicting nothing."""
        votes: list[m.Voted] = []
        installed: m.NewView | None = None
        for data in records:
            match m.RECORDS.decode(data):
                case m.Voted() as voted:
                    votes.append(voted)
                case m.Prepared(certificate):
                    self._restore_certificate(certificate)
                case m.Entered(view):
                    if view > self.view:
                        self.view, self.active, installed = view, False, None
                case m.Installed(new_view):
                    view = view_of(new_view)
                    if view > self.view or (view == self.view and not self.active):
                        self.view, self.active, installed = view, True, new_view
                case m.Proven(low_votes):
                    low = low_of(self.setup, low_votes)
                    if low > self.low:
                        self.low, self.low_votes = low, low_votes
                        self.stable_votes = {vote.member: vote for vote in low_votes}
                case m.Settled(slot):
                    self.stable = self.delivered = max(self.stable, slot)
        self.restored = bool(records)
        for slot in [slot for slot in self.held if slot <= self.low]:
            del self.held[slot]
        self.next_slot = self.stable + 1
        self.headed = self.stable
        self._set_high()
        if installed is not None:
            _, opening = read_new_view(self.setup, installed)
            body = m.BODIES.decode(installed.body)
            assert isinstance(body, m.NewViewBody)
            self._enter(installed, self.view, opening, body.votes)
            self._restore_choices()
        for voted in votes:
            self.voted = max(self.voted, voted.slot)
            if voted.view == self.view and self.active and voted.slot > self.stable:
                self._restore_vote(voted)

    def _restore_certificate(self, certificate: Certificate) -> None:
        statement = m.read_vote_statement(certificate.body)
        assert statement is not None
        view, slot, digest = statement
        held = self.held.get(slot)
        if held is None or view > held.view:
            self.held[slot] = Held(view, digest, certificate)

    def _restore_choices(self) -> None:
        leads = leader_of(self.setup, self.view) == self.setup.me
        for choice, signature in zip(self.opening.choices, self.opening_votes, strict=True):
            if self.stable < choice.slot <= self.high:
                state = self.slots.setdefault(choice.slot, SlotState())
                self._take_choice(choice, signature, state)
                if leads:
                    state.signature = signature
                    self.voted = max(self.voted, choice.slot)
                    self._restore_prepared(choice.slot, state)

    def _restore_vote(self, voted: m.Voted) -> None:
        slot, digest = voted.slot, voted.digest
        state = self.slots.setdefault(slot, SlotState())
        self._head(slot, state, digest, voted.leader_signature)
        state.signature = voted.signature
        state.votes[self.setup.me] = voted.signature
        self.next_slot = max(self.next_slot, slot + 1)
        self._restore_prepared(slot, state)

    def _restore_prepared(self, slot: Slot, state: SlotState) -> None:
        held = self.held.get(slot)
        assert state.digest is not None
        # The vote was cast with the bytes here; they are kept until a checkpoint covers them (SAFETY rule 3).
        if state.digest != NO_DIGEST:
            self.here[state.digest] = max(slot, self.here.get(state.digest, slot))
        if held is not None and held.view == self.view and held.digest == state.digest:
            state.prepared = True
            state.commits[self.setup.me] = m.Commit(held.view, slot, held.digest)
