"""The two machines: the member that orders, and those that follow it.

The coordinator writes an entry down before it sends it, and a follower writes it down before it acknowledges it, the
bytes included. When c + 1 members hold a slot and all slots below it, that slot is decided: whichever c members are
lost, one that holds it is left (SAFETY rule 24). A follower delivers only what the coordinator says is decided.

There is nothing to agree on and hence nothing to time out: the coordinator has no timer at all. A follower says every
`status_ticks` where it stands and is answered with what it misses; this one exchange repairs losses, brings laggards
up to date and tells a coordinator that was restarted who holds what.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Digest, DrawKey, MemberId, Out, Record, Slot, TimerKey, Transition
from bftkit.core.ordering import (
    Available,
    Decided,
    Fetch,
    LeaderChanged,
    Learned,
    Neglected,
    OrderingInput,
    OrderingMachine,
    OrderingOutput,
    Propose,
    Refused,
    Setup,
    Waiting,
)
from bftkit.core.state import SHARED, Forkable
from bftkit_coordinator.log import Log
from bftkit_coordinator.messages import (
    APPEND_PURPOSE,
    CONFLICTS,
    RECORDS,
    Ack,
    Append,
    Commit,
    Conflict,
    Entry,
    Message,
    Status,
    entry_statement,
)
from bftkit_coordinator.record import RECORD

STATUS_TIMER: Final[TimerKey] = ("status",)
RESEND_MAX: Final = 64
"""One status is answered with at most so many entries; the next status asks for more."""

TRANSITIONS: Final = (
    Transition("ordering", "a follower holds a slot that I do not know", "forgetful"),
    Transition("ordering", "stop", "filling"),
    Transition("filling", "the boundary is decided", "ended"),
    Transition("following", "stop", "ending"),
    Transition("ending", "the boundary is delivered", "ended"),
)


def create(setup: Setup) -> OrderingMachine:
    """The machine for this member: the coordinator's, or a follower's. Raises `ValueError` for a set-up that lies."""
    if setup.quorum.f != 0:
        raise ValueError(f"the coordinator protocol survives no Byzantine member; f is {setup.quorum.f}, must be 0")
    index = setup.parameter(RECORD, "coordinator")
    if index >= len(setup.members):
        raise ValueError(f"coordinator = {index}, but the members are numbered 0 to {len(setup.members) - 1}")
    return Coordinator.of(setup) if setup.members[index] == setup.me else Follower.of(setup)


@attrs.define(eq=False)
class Member(Forkable):
    """What both roles share."""

    setup: Setup = attrs.field(metadata=SHARED)
    log: Log
    boundary: Slot | None = None
    """The epoch's last slot, once it is known."""

    @property
    def leader(self) -> MemberId | None:
        """The coordinator, always."""
        return self.setup.members[self.setup.parameter(RECORD, "coordinator")]

    @property
    def view(self) -> int:
        """There is only one."""
        return 0

    @property
    def highest_voted(self) -> Slot:
        """The highest slot that this member wrote down."""
        return self.log.last

    def on_timer(self, key: TimerKey, out: Out[Message, OrderingOutput]) -> None:
        """The coordinator sets none."""

    def on_draw(self, key: DrawKey, value: int, out: Out[Message, OrderingOutput]) -> None:
        """Nothing is drawn here."""

    def on_restore(self, records: Sequence[Record], out: Out[Message, OrderingOutput]) -> None:
        """Hold again what the disk has. How far it is decided, the others will say."""
        for record in records:
            self.log.add(RECORDS.decode(record))

    def on_stable(self, slot: Slot, digest: Digest, out: Out[Message, OrderingOutput]) -> None:
        """Everything up to `slot` is settled."""
        self.log.settle(slot)
        self._deliver(out)

    def standing(self) -> Sequence[Record]:
        """Every record is about one slot."""
        return ()

    def _hold(self, entry: Entry, out: Out[Message, OrderingOutput]) -> None:
        out.persist(RECORDS.encode(entry), entry.slot)
        self.log.add(entry)

    def _deliver(self, out: Out[Message, OrderingOutput]) -> None:
        for slot, digest in self.log.deliverable(self.boundary):
            out.deliver(Decided(slot, digest))


@attrs.define(eq=False)
class Coordinator(Member):
    """The member that puts batches into slots."""

    held_by: dict[MemberId, Slot] = attrs.field(factory=dict[MemberId, Slot])
    """How far each follower holds everything. It never shrinks: what was acknowledged is on that disk."""
    forgetful: bool = False
    """This member lost something that it had sent: it must never order again in this epoch (SAFETY rule 16)."""

    @classmethod
    def of(cls, setup: Setup) -> Coordinator:
        return cls(setup, Log.after(setup.start))

    @property
    def room(self) -> int:
        """Slots that may be opened: within the pipeline, within the window, before the epoch's end."""
        if self.forgetful or self.boundary is not None:
            return 0
        open_slots = self.log.last - self.log.committed
        return max(
            0,
            min(
                self.setup.parameter(RECORD, "pipeline") - open_slots,
                self.log.stable + self.setup.window - self.log.last,
            ),
        )

    def on_start(self, out: Out[Message, OrderingOutput]) -> None:
        """Wait for batches, or, after a restart, for the followers to say what they hold."""
        out.deliver(LeaderChanged(self.view, self.setup.me))
        self._decide(out)

    def on_input(self, value: OrderingInput, out: Out[Message, OrderingOutput]) -> None:
        match value:
            case Propose(batch):
                if self.room <= 0:
                    raise ValueError("there is no room for a proposal: ask `room` first")
                self._append(batch.digest, out)
                self._decide(out)
            case Learned(slot, digest):
                self.log.learn(slot, digest)
                self._deliver(out)
            case Available() | Refused() | Waiting() | Neglected():
                pass  # nothing was fetched, and there is no other leader to turn to

    def on_message(self, sender: MemberId, message: Message, out: Out[Message, OrderingOutput]) -> None:
        match message:
            case Ack(held):
                self._on_held(sender, held, out)
            case Status(held, delivered):
                self._on_held(sender, held, out)
                self._catch_up(sender, held, delivered, out)
            case Append() | Commit():
                out.blame(sender, "only the coordinator appends and commits")

    def on_stable(self, slot: Slot, digest: Digest, out: Out[Message, OrderingOutput]) -> None:
        super().on_stable(slot, digest, out)
        self._decide(out)

    def on_stop(self, slot: Slot, out: Out[Message, OrderingOutput]) -> None:
        """Fill up to the boundary with empty batches, window or not (SAFETY rule 23)."""
        self.boundary = slot
        if not self.forgetful:
            while self.log.last < slot:
                self._append(NO_DIGEST, out)
        self._decide(out)

    def _append(self, digest: Digest, out: Out[Message, OrderingOutput]) -> None:
        slot = self.log.last + 1
        entry = Entry(slot, digest, self.setup.keyring.sign(APPEND_PURPOSE, entry_statement(slot, digest)))
        # In this order: a slot that anybody ever saw is on this disk and is never given away again.
        self._hold(entry, out)
        out.broadcast(Append(entry, self.log.committed), carry=() if digest == NO_DIGEST else (digest,))

    def _on_held(self, sender: MemberId, held: Slot, out: Out[Message, OrderingOutput]) -> None:
        if held > self.log.last:
            # Somebody holds a slot that we gave away and do not know: our disk is not what it was.
            self.forgetful = True
            return
        if held > self.held_by.get(sender, 0):
            self.held_by[sender] = held
            self._decide(out)

    def _decide(self, out: Out[Message, OrderingOutput]) -> None:
        """A slot is decided when c + 1 members, this one included, hold it and everything below it."""
        followers = sorted((self.held_by.get(name, 0) for name in self._followers()), reverse=True)
        needed = self.setup.quorum.durable - 1
        decided = min(self.log.held, followers[needed - 1]) if needed else self.log.held
        if decided > self.log.committed:
            self.log.committed = decided
            out.broadcast(Commit(decided))
        self._deliver(out)

    def _catch_up(self, member: MemberId, held: Slot, delivered: Slot, out: Out[Message, OrderingOutput]) -> None:
        if self.forgetful:
            return
        for entry in self.log.missing(held, RESEND_MAX):
            # Without the bytes: whoever lacks them asks, and most often only an acknowledgement was lost.
            out.send(member, Append(entry, self.log.committed))
        if delivered < self.log.committed:
            out.send(member, Commit(self.log.committed))

    def _followers(self) -> list[MemberId]:
        return [name for name in self.setup.members if name != self.setup.me]


@attrs.define(eq=False)
class Follower(Member):
    """A member that holds and delivers what the coordinator ordered."""

    offered: dict[Slot, Entry] = attrs.field(factory=dict[Slot, Entry])
    """Entries whose bytes are not here yet."""
    refused: set[Digest] = attrs.field(factory=set[Digest])
    """Batches above the stable checkpoint that are not authentic; each is held against the coordinator once."""

    @classmethod
    def of(cls, setup: Setup) -> Follower:
        return cls(setup, Log.after(setup.start))

    @property
    def room(self) -> int:
        """A follower proposes nothing."""
        return 0

    def on_start(self, out: Out[Message, OrderingOutput]) -> None:
        out.deliver(LeaderChanged(self.view, self.leader))
        self._say_status(out)

    def on_timer(self, key: TimerKey, out: Out[Message, OrderingOutput]) -> None:
        self._say_status(out)

    def on_input(self, value: OrderingInput, out: Out[Message, OrderingOutput]) -> None:
        match value:
            case Available(digest):
                self._on_bytes(digest, out)
            case Refused(digest):
                # A correct coordinator authenticates before it appends. We never acknowledge this slot.
                if digest not in self.refused:
                    self.refused.add(digest)
                    out.blame(self._coordinator, f"a batch that is not authentic: {digest.hex()}")
            case Learned(slot, digest):
                self.log.learn(slot, digest)
                self._deliver(out)
            case Propose():
                raise ValueError("a follower proposes nothing: its room is 0")
            case Waiting() | Neglected():
                pass  # there is no other leader to turn to; leaving the epoch is the group's decision

    def on_message(self, sender: MemberId, message: Message, out: Out[Message, OrderingOutput]) -> None:
        if sender != self._coordinator:
            out.blame(sender, "a follower has nothing to say to a follower")
            return
        match message:
            case Append(entry, committed):
                self._on_append(entry, out)
                self._on_committed(committed, out)
            case Commit(committed):
                self._on_committed(committed, out)
            case Ack() | Status():
                out.blame(sender, "the coordinator acknowledges nothing")

    def on_stable(self, slot: Slot, digest: Digest, out: Out[Message, OrderingOutput]) -> None:
        self.offered = {at: entry for at, entry in self.offered.items() if at > slot}
        self.refused.clear()
        super().on_stable(slot, digest, out)

    def on_stop(self, slot: Slot, out: Out[Message, OrderingOutput]) -> None:
        """From now on nothing above the boundary is taken or delivered; the coordinator fills up to it."""
        self.boundary = slot
        self.offered = {at: entry for at, entry in self.offered.items() if at <= slot}

    @property
    def _coordinator(self) -> MemberId:
        assert self.leader is not None
        return self.leader

    def _on_append(self, entry: Entry, out: Out[Message, OrderingOutput]) -> None:
        slot = entry.slot
        if slot <= self.log.stable or slot > self._limit():
            return  # settled, or too far ahead: a status asks for it again when it is time (SAFETY rule 18)
        if not self.setup.keyring.verify(self._coordinator, APPEND_PURPOSE, entry.statement, entry.signature):
            out.blame(self._coordinator, "an entry without a valid signature")
            return
        known = self.log.entries.get(slot) or self.offered.get(slot)
        if known is not None and known.digest != entry.digest:
            proof = CONFLICTS.encode(Conflict(known, entry))
            out.blame(self._coordinator, f"two batches for slot {slot}", proof)
        elif slot in self.log.entries:
            pass  # if our acknowledgement was lost, the next status makes up for it
        elif entry.digest == NO_DIGEST:
            self._accept([entry], out)
        else:
            # If it was offered before, the coordinator did not answer our call for the bytes; others may have them.
            holders = (self._coordinator,) if known is None else self._others()
            self.offered[slot] = entry
            out.deliver(Fetch(entry.digest, slot, holders))

    def _on_bytes(self, digest: Digest, out: Out[Message, OrderingOutput]) -> None:
        self._accept([self.offered[slot] for slot in sorted(self.offered) if self.offered[slot].digest == digest], out)

    def _accept(self, entries: Sequence[Entry], out: Out[Message, OrderingOutput]) -> None:
        """Write the entries down, and only then say that they are held (SAFETY rules 3 and 5)."""
        before = self.log.held
        for entry in entries:
            self.offered.pop(entry.slot, None)
            self._hold(entry, out)
        if self.log.held > before:
            out.send(self._coordinator, Ack(self.log.held))
            self._deliver(out)

    def _on_committed(self, committed: Slot, out: Out[Message, OrderingOutput]) -> None:
        self.log.committed = max(self.log.committed, committed)
        self._deliver(out)

    def _say_status(self, out: Out[Message, OrderingOutput]) -> None:
        out.send(self._coordinator, Status(self.log.held, self.log.delivered))
        out.set_timer(STATUS_TIMER, self.setup.parameter(RECORD, "status_ticks"))

    def _limit(self) -> Slot:
        if self.boundary is not None:
            return self.boundary
        return self.log.stable + self.setup.window

    def _others(self) -> tuple[MemberId, ...]:
        return tuple(name for name in self.setup.members if name != self.setup.me)
