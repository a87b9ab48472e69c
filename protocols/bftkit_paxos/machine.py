"""The machine: all of its state, and the acceptor's and the learner's parts. `messages` says what each message means.

The chapters of the story: promising, accepting, learning and delivering stand in this file; the leader's part in
`leading`; losing a leader and making a new one in `election`. The functions there work on the machine's state.

Two rules carry everything (Lamport 2001, section 2.2). An acceptor accepts nothing below the ballot that it promised,
and writes down what it promises and accepts before it says so (SAFETY rule 5). A leader proposes nothing before q
members have promised its ballot, and for each slot the value of the highest ballot among what they had accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

from . import election, leading
from . import messages as m
from .ballots import WINDOWS, leader_of, window_max
from .record import RECORD
from .roles import BEAT, ELECTION, ROLES, Out, Role


@attrs.define
class PaxosMachine(Forkable):
    """One member of one epoch. See the top of this file."""

    roles: ClassVar[tuple[Transition, ...]] = ROLES

    setup: Setup = attrs.field(metadata=SHARED)
    role: Role = Role.FOLLOWING
    # the acceptor
    promised: int = 0
    """The highest ballot that this member takes part in; it accepts nothing below it."""
    recorded: int = -1
    """The highest ballot of which a record says that it is promised."""
    established: bool = True
    """Whether the leader of that ballot has shown itself as such (or this member leads it)."""
    accepted: dict[Slot, m.Entry] = attrs.field(factory=dict[Slot, m.Entry])
    """What was accepted above the stable checkpoint, for each slot in the highest ballot. All of it is on the disk."""
    offered: dict[Slot, m.Entry] = attrs.field(factory=dict[Slot, m.Entry])
    """Proposals of this ballot whose bytes are not here yet."""
    voted: Slot = 0
    """The highest slot in which something was accepted that may be chosen."""
    # the learner
    chosen: dict[Slot, Digest] = attrs.field(factory=dict[Slot, Digest])
    """What is known to be chosen above the stable checkpoint."""
    committed: Slot = 0
    """Everything up to here is chosen, and nothing else was proposed there in this ballot, says its leader."""
    known: Slot = 0
    """What was chosen is known for every slot up to here."""
    delivered: Slot = 0
    stable: Slot = 0
    stop: Slot | None = None
    here: dict[Digest, Slot] = attrs.field(factory=dict[Digest, Slot])
    """Batches whose bytes are here, with the highest slot that they were wanted for."""
    wanted: dict[Digest, list[Slot]] = attrs.field(factory=dict[Digest, list[Slot]])
    # the leader
    base: Slot = 0
    """What lies at or below was settled before this ballot began."""
    next_slot: Slot = 1
    opening: dict[Slot, Digest] = attrs.field(factory=dict[Slot, Digest])
    """Slots that this ballot must propose again, once the bytes are here."""
    votes: dict[Slot, int] = attrs.field(factory=dict[Slot, int])
    """Who accepted a slot that is not chosen yet, as a bitmap over the members."""
    heard_at: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])
    """The beat in which each member last answered."""
    held_by: dict[MemberId, Slot] = attrs.field(factory=dict[MemberId, Slot])
    """What each member's last echo said that it holds."""
    before: tuple[Slot, Slot] = (0, 0)
    """`committed` and `next_slot` at the last heartbeat: what an answer to it may be expected to know."""
    lagging: int = 0
    # losing a leader
    beats: int = 0
    missed: int = 0
    """Beats without a sign of the leader."""
    level: int = 0
    """All waits are doubled so many times."""
    calm: int = 0
    since: int = 0
    """The beat in which the present leader was first heard."""
    waiting: bool = False
    stalled: int = 0
    """Beats in which requests waited and nothing was chosen."""
    seen_committed: Slot = 0
    stubborn: int = 0
    """For so many beats more this member wants another leader, whatever it hears of this one."""
    # making a leader
    seen: int = 0
    """The highest ballot that anybody refused us for."""
    serial: int = 0
    attempt: int = 0
    tries: int = 0
    grants: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])
    asked: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])
    """Pre-votes of others that get their answer if this member loses its leader, too."""
    promises: dict[MemberId, m.Promise] = attrs.field(factory=dict[MemberId, m.Promise])
    told: tuple[int, MemberId | None] | None = None
    restored: bool = False

    @classmethod
    def create(cls, setup: Setup) -> PaxosMachine:
        """A fresh machine for this member and epoch.

        Raises `ValueError` if f is not 0, or if a promise about such a window might not fit into a message.
        """
        if setup.quorum.f != 0:
            raise ValueError(f"paxos survives no Byzantine member; f is {setup.quorum.f}, must be 0")
        if setup.window > (fits := window_max(setup)):
            raise ValueError(
                f"paxos: with a window of {setup.window} slots a promise may exceed {m.PROMISE_BYTES_MAX >> 20} MiB; "
                f"the window can be {fits} slots at most"
            )
        machine = cls(setup)
        start = setup.start
        machine.voted = machine.committed = machine.known = machine.delivered = machine.stable = machine.base = start
        machine.next_slot = start + 1
        machine.before = (start, start + 1)
        return machine

    # ----------------------------------------------------------------------------------- what others may ask

    @property
    def leader(self) -> MemberId | None:
        """The leader of the present ballot, once it has shown itself and while it is not given up."""
        if self.role is Role.LEADING:
            return self.setup.me
        return leader_of(self.setup, self.promised) if self.role is Role.FOLLOWING and self.established else None

    @property
    def view(self) -> int:
        """The ballot: (round x n + index of its leader)."""
        return self.promised

    @property
    def room(self) -> int:
        """How many proposals this member would take: as leader, within pipeline and window, before the end."""
        if self.role is not Role.LEADING or self.stop is not None:
            return 0
        last = self.next_slot - 1
        floor = max(self.stable, self.base)
        pipeline = self.parameter("pipeline")
        return max(0, min(pipeline - (last - self.committed), floor + self.setup.window - last))

    @property
    def highest_voted(self) -> Slot:
        """The highest slot that this member may have helped to choose (SAFETY rule 13)."""
        return self.voted if self.stop is None else min(self.voted, self.stop)

    def standing(self) -> Sequence[Record]:
        """The promise."""
        return [m.RECORDS.encode(m.Promised(self.promised))]

    def parameter(self, name: str) -> int:
        return self.setup.parameter(RECORD, name)

    def others(self) -> tuple[MemberId, ...]:
        return tuple(name for name in self.setup.members if name != self.setup.me)

    # ----------------------------------------------------------------------------------- events

    def on_restore(self, records: Sequence[Record], out: Out) -> None:
        """Hold again what the disk has: the promise, and what was accepted. What is chosen the others will say."""
        for data in records:
            record = m.RECORDS.decode(data)
            self.promised = max(self.promised, record.ballot)
            if isinstance(record, m.Entry):
                known = self.accepted.get(record.slot)
                if known is None or record.ballot >= known.ballot:
                    self.accepted[record.slot] = record
                # It was accepted with the bytes here, and they are kept as long as it is (SAFETY rule 3).
                if record.digest != NO_DIGEST:
                    self.here[record.digest] = max(record.slot, self.here.get(record.digest, 0))
                self.voted = max(self.voted, record.slot)
        self.recorded = self.promised
        self.restored = bool(records)
        self.established = not self.restored

    def on_start(self, out: Out) -> None:
        """Ballot 0 needs no promises: there is none below it. After a restart a new ballot must be made."""
        out.set_timer(BEAT, self.parameter("beat"))
        mine = leader_of(self.setup, self.promised) == self.setup.me
        if not self.restored:
            # Written down before the first proposal, so that a restarted leader never takes ballot 0 for a fresh one.
            self.record_promise(out)
            if mine:
                self.role = Role.LEADING
                self.heard_at = dict.fromkeys(self.others(), 0)
        elif mine:
            # It may have proposed what it did not write down: its own ballot is over (see `leading.propose`).
            election.lose_leader(self, out)
        self.tell(out)

    def on_input(self, value: OrderingInput, out: Out) -> None:
        """What the channel sees and the protocol cannot."""
        match value:
            case Propose(batch):
                if self.room <= 0:
                    raise ValueError(f"{self.setup.me} has no room for a proposal in ballot {self.promised}")
                self.on_bytes(batch.digest, self.next_slot, out)
                if self.next_slot > self.stable + self.setup.window:
                    # This leader lags behind what is settled, and its channel keeps the bytes for a window above that.
                    out.deliver(Fetch(batch.digest, self.next_slot, ()))
                leading.propose_next(self, batch.digest, out)
            case Available(digest):
                self.on_available(digest, out)
            case Refused(digest):
                self.on_refused(digest, out)
            case Waiting(waiting):
                self.waiting = waiting
                self.stalled = 0
            case Neglected(leader):
                if leader == self.leader:
                    election.give_up(self, out)
            case Learned(slot, digest):
                self.on_bytes(digest, slot, out)
                self.choose(slot, digest, out)

    def on_message(self, sender: MemberId, message: m.Message, out: Out) -> None:
        """A peer's message, over an authenticated link; its content may be a lie."""
        match message:
            case m.Accept(entry, committed):
                if self.is_current(sender, entry.ballot, out):
                    self.on_accept(sender, entry, out)
                    self.on_committed(entry.ballot, committed, out)
            case m.Accepted(ballot, slot, digest):
                leading.on_accepted(self, sender, ballot, slot, digest, out)
            case m.Commit(ballot, committed):
                if self.is_current(sender, ballot, out):
                    self.on_committed(ballot, committed, out)
            case m.Heartbeat(ballot, committed, high):
                if self.is_current(sender, ballot, out):
                    self.on_heartbeat(sender, ballot, committed, high, out)
            case m.Echo(ballot, known, held):
                leading.on_echo(self, sender, ballot, known, held, out)
            case m.Prepare(ballot):
                self.on_prepare(sender, ballot, out)
            case m.Ask(known):
                self.tell_chosen(sender, known, out)
            case m.Chosen(first, digests):
                for slot, digest in enumerate(digests, first):
                    self.choose(slot, digest, out)
            case m.PreVote() | m.Grant() | m.Promise() | m.Refuse() | m.Resign():
                election.on_message(self, sender, message, out)

    def on_timer(self, key: TimerKey, out: Out) -> None:
        """One of the two timers."""
        if key == BEAT:
            out.set_timer(BEAT, self.parameter("beat"))
            self.beats += 1
            if self.role is Role.LEADING:
                leading.beat(self, out)
            else:
                election.beat(self, out)
        elif key == ELECTION:
            election.election_due(self, out)

    def on_draw(self, key: DrawKey, value: int, out: Out) -> None:
        """How long a candidate waits before it asks."""
        election.on_draw(self, key, value, out)

    # ----------------------------------------------------------------------------------- promising

    def is_current(self, sender: MemberId, ballot: int, out: Out) -> bool:
        """Whether this comes from the leader of a ballot that this member may take part in; then it is a sign of it."""
        if leader_of(self.setup, ballot) != sender:
            out.blame(sender, "speaks as the leader of another member's ballot")
            return False
        if ballot < self.promised:
            out.send(sender, m.Refuse(self.promised))
            return False
        if ballot > self.promised:
            self.enter(ballot)
        election.hear(self, out)
        return True

    def on_prepare(self, sender: MemberId, ballot: int, out: Out) -> None:
        """Phase 1b: promise, and report what was accepted, if no higher ballot was promised. (Lamport 2001, 2.2)"""
        if leader_of(self.setup, ballot) != sender:
            out.blame(sender, "prepares another member's ballot")
            return
        if ballot < self.promised:
            out.send(sender, m.Refuse(self.promised))
            return
        if ballot == self.promised and self.established:
            return  # late: it leads already
        self.enter(ballot)
        election.await_candidate(self, out)
        self.record_promise(out)
        out.send(sender, self.promise())

    def promise(self) -> m.Promise:
        """What a promise of the present ballot says."""
        return m.Promise(
            self.promised,
            self.stable,
            tuple(m.Held(slot, entry.ballot, entry.digest) for slot, entry in sorted(self.accepted.items())),
        )

    def enter(self, ballot: int) -> None:
        """Take part in a ballot, and in none below it any more."""
        assert ballot >= self.promised
        if ballot > self.promised:
            self.promised = ballot
            self.committed = self.stable
            self.established = False
            self.offered.clear()
            leading.forget(self)

    def record_promise(self, out: Out) -> None:
        if self.recorded < self.promised:
            out.persist(m.RECORDS.encode(m.Promised(self.promised)), STANDING)
            self.recorded = self.promised

    # ----------------------------------------------------------------------------------- accepting

    def limit(self) -> Slot:
        """Nothing above is accepted, so that a promise stays bounded (SAFETY rule 18)."""
        return self.stable + 2 * self.setup.window if self.stop is None else self.stop

    def on_accept(self, sender: MemberId, entry: m.Entry, out: Out) -> None:
        """Phase 2b: accept a proposal of a ballot that is not below the promised one. (Lamport 2001, section 2.2)"""
        slot = entry.slot
        if not self.stable < slot <= self.limit():
            return  # settled, or too far ahead: it comes again when it is time
        known = self.accepted.get(slot)
        if known is None or known.ballot < entry.ballot:
            known = self.offered.get(slot)
        if known is not None and known.digest != entry.digest:
            self.two_values(sender, known, entry, out)
            return
        if slot in self.accepted and self.accepted[slot].ballot == entry.ballot:
            out.send(sender, m.Accepted(entry.ballot, slot, entry.digest))  # the first one was lost
            return
        if not self.setup.keyring.verify(sender, m.ACCEPT_PURPOSE, entry.statement, entry.signature):
            out.blame(sender, "a proposal without a valid signature")
            return
        self.offered[slot] = entry
        # When it comes again, the leader has not answered our call for the bytes: others may have them.
        if self.have(entry.digest, slot, (sender,) if known is None else self.others(), out):
            self.accept(entry, out)

    def two_values(self, sender: MemberId, known: m.Entry, entry: m.Entry, out: Out) -> None:
        """Two values in one ballot and slot: with both signatures that is evidence."""
        if self.setup.keyring.verify(sender, m.ACCEPT_PURPOSE, entry.statement, entry.signature):
            out.blame(sender, "equivocation", m.CONFLICTS.encode(m.Conflict(known, entry)))
        else:
            out.blame(sender, "a proposal without a valid signature")

    def accept(self, entry: m.Entry, out: Out) -> None:
        """Write it down, bytes included, and only then say so (SAFETY rules 3 and 5)."""
        self.offered.pop(entry.slot, None)
        self.write(entry, out)
        out.send(leader_of(self.setup, entry.ballot), m.Accepted(entry.ballot, entry.slot, entry.digest))
        self.go_on(out)

    def write(self, entry: m.Entry, out: Out) -> None:
        assert entry.ballot == self.promised
        out.persist(m.RECORDS.encode(entry), entry.slot)
        self.recorded = max(self.recorded, entry.ballot)
        self.accepted[entry.slot] = entry
        self.voted = max(self.voted, entry.slot)

    # ----------------------------------------------------------------------------------- batches

    def have(self, digest: Digest, slot: Slot, holders: Iterable[MemberId], out: Out) -> bool:
        """Whether the bytes are here; asks for them if not."""
        if digest == NO_DIGEST:
            return True
        at = self.here.get(digest)
        if at is not None:
            if slot > at:
                # The channel must keep the bytes for this slot as well (SAFETY rule 3).
                self.here[digest] = slot
                out.deliver(Fetch(digest, slot, ()))
            return True
        slots = self.wanted.setdefault(digest, [])
        if slot not in slots:
            slots.append(slot)
        out.deliver(Fetch(digest, slot, tuple(member for member in holders if member != self.setup.me)))
        return False

    def on_bytes(self, digest: Digest, slot: Slot, out: Out) -> None:
        """The channel has the bytes for this slot; perhaps they were asked for, and the answer will not come now."""
        if digest != NO_DIGEST:
            self.here[digest] = max(slot, self.here.get(digest, slot))
            if digest in self.wanted:
                self.on_available(digest, out)

    def on_available(self, digest: Digest, out: Out) -> None:
        slots = self.wanted.pop(digest, [])
        self.here[digest] = max([self.here.get(digest, self.stable), *slots])
        for slot in sorted(slots):
            offered = self.offered.get(slot)
            if offered is not None and offered.digest == digest:
                self.accept(offered, out)
            if self.opening.get(slot) == digest:
                leading.propose_again(self, slot, digest, out)
        self.go_on(out)

    def on_refused(self, digest: Digest, out: Out) -> None:
        """A correct leader authenticates before it proposes. Nobody correct accepts this."""
        for slot in sorted(self.wanted.pop(digest, [])):
            offered = self.offered.get(slot)
            if offered is not None and offered.digest == digest:
                del self.offered[slot]
                out.blame(leader_of(self.setup, offered.ballot), "a batch with a request that is not authentic")

    # ----------------------------------------------------------------------------------- learning

    def on_heartbeat(self, sender: MemberId, ballot: int, committed: Slot, high: Slot, out: Out) -> None:
        """The leader is there. Say how far we are, so that it sends what was lost."""
        if self.since == self.beats and self.voted > high:
            # Accepted above all that this ballot has proposed, in a ballot that is over: no quorum accepted it, or the
            # leader had heard of it, and none ever will. So no strong read need wait for it (SAFETY rule 13).
            self.voted = max([high, *(slot for slot, entry in self.accepted.items() if entry.ballot == ballot)])
        self.on_committed(ballot, committed, out)
        held = self.known
        while (entry := self.accepted.get(held + 1)) is not None and entry.ballot == ballot:
            held += 1
        out.send(sender, m.Echo(ballot, self.known, held))

    def on_committed(self, ballot: int, committed: Slot, out: Out) -> None:
        """What this member accepted in the leader's own ballot is what was chosen up to there."""
        assert ballot == self.promised
        if committed > self.committed:
            self.committed = committed
            self.go_on(out)

    def choose(self, slot: Slot, digest: Digest, out: Out) -> None:
        """This was chosen: we counted it, or somebody said so."""
        floor = max(self.stable, self.base) if self.role is Role.LEADING else self.stable
        if not self.known < slot <= floor + WINDOWS * self.setup.window or slot in self.chosen:
            return
        entry = self.accepted.get(slot)
        self.chosen[slot] = digest
        self.have(digest, slot, self.others(), out)
        if self.role is Role.LEADING and entry is not None and entry.ballot == self.promised and entry.digest != digest:
            # Only a higher ballot can have chosen something else than we proposed. We must not say `Commit` for it.
            election.resign(self, out)
        self.go_on(out)

    def go_on(self, out: Out) -> None:
        """Go as far as is known, and deliver as far as the bytes are here."""
        while True:
            slot = self.known + 1
            if slot not in self.chosen:
                entry = self.accepted.get(slot)
                if entry is None or slot > self.committed or entry.ballot != self.promised:
                    break
                self.chosen[slot] = entry.digest
            self.known = slot
        if self.role is Role.LEADING:
            leading.commit(self, out)
        while (slot := self.delivered + 1) <= self.known and (self.stop is None or slot <= self.stop):
            digest = self.chosen[slot]
            if digest != NO_DIGEST and digest not in self.here:
                break
            self.delivered = slot
            out.deliver(Decided(slot, digest))

    def tell_chosen(self, sender: MemberId, known: Slot, out: Out) -> None:
        """Somebody asks what was chosen after a slot. What is settled here comes to it by the channel."""
        digests: list[Digest] = []
        while len(digests) < m.CHOSEN_MAX and (slot := known + 1 + len(digests)) in self.chosen:
            digests.append(self.chosen[slot])
        if digests:
            out.send(sender, m.Chosen(known + 1, tuple(digests)))

    # ----------------------------------------------------------------------------------- windows

    def on_stable(self, slot: Slot, digest: Digest, out: Out) -> None:
        """A checkpoint is stable: what lies below it is settled, and windows move on."""
        if slot <= self.stable:
            return
        self.stable = slot
        self.delivered = max(self.delivered, slot)
        self.known = max(self.known, slot)
        self.committed = max(self.committed, slot)
        self.next_slot = max(self.next_slot, slot + 1)
        self.voted = max(self.voted, slot)
        self.accepted = {at: entry for at, entry in self.accepted.items() if at > slot}
        self.offered = {at: entry for at, entry in self.offered.items() if at > slot}
        self.chosen = {at: name for at, name in self.chosen.items() if at > slot}
        self.opening = {at: name for at, name in self.opening.items() if at > slot}
        self.votes = {at: votes for at, votes in self.votes.items() if at > slot}
        self.here = {name: at for name, at in self.here.items() if at > slot}
        for name in list(self.wanted):
            left = [at for at in self.wanted[name] if at > slot]
            if left:
                self.wanted[name] = left
            else:
                del self.wanted[name]
        self.go_on(out)
        leading.fill(self, out)

    def on_stop(self, slot: Slot, out: Out) -> None:
        """The epoch ends with `slot`: fill up to it, even beyond the window, and go no further (SAFETY rule 23)."""
        if self.stop is not None:
            return
        self.stop = slot
        self.offered = {at: entry for at, entry in self.offered.items() if at <= slot}
        self.opening = {at: name for at, name in self.opening.items() if at <= slot}
        self.go_on(out)
        leading.fill(self, out)

    def tell(self, out: Out) -> None:
        """Say who leads, if that has changed."""
        now = (self.promised, self.leader)
        if now != self.told:
            self.told = now
            out.deliver(LeaderChanged(*now))
