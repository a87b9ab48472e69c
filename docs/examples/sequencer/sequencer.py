"""The first member puts batches into slots, the others follow. For members that may crash and do not lie (f = 0).

`Order(slot, digest)`: I, the first member, put this batch into this slot for ever; I hold every slot up to it.
`Held(slot)`: I hold every slot up to this one on my disk, and the bytes of its batch.

A slot is decided when c + 1 members hold it: whichever c are lost, one that holds it is left (SAFETY rule 24).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Digest, MemberId, Out, Record, Slot, TimerKey
from bftkit.core.ordering import (
    Available,
    Carried,
    Decided,
    Fetch,
    LeaderChanged,
    Learned,
    Neglected,
    OrderingInput,
    OrderingMachine,
    OrderingOutput,
    Plugin,
    Propose,
    ProtocolRecord,
    Refused,
    Setup,
    Waiting,
)
from bftkit.core.state import SHARED, Forkable
from bftkit.core.wire import U64, Codec, Digest32, Many, Struct, WireError


@attrs.frozen
class Order:
    slot: U64
    digest: Digest32


@attrs.frozen
class Held:
    slot: U64


Message: TypeAlias = Order | Held
Output: TypeAlias = Out[Message, OrderingOutput]
CODEC: Final = Codec[Message]("sequencer", {1: Order, 2: Held})
STATUS_TICKS: Final = 200


@attrs.define(eq=False)
class Sequencer(Forkable, OrderingMachine):
    setup: Setup = attrs.field(metadata=SHARED)
    stable: Slot  # the newest stable checkpoint: what lies at or below it is settled
    delivered: Slot
    held: dict[MemberId, Slot]  # how far each member holds everything, as far as I know
    log: dict[Slot, Digest] = attrs.field(factory=dict[Slot, Digest])  # what I hold myself, above `stable`
    offered: dict[Slot, Digest] = attrs.field(factory=dict[Slot, Digest])  # ordered, and not held yet
    here: set[Digest] = attrs.field(factory=lambda: {NO_DIGEST})  # batches among those whose bytes are here
    boundary: Slot | None = None  # the epoch's last slot, once it is known

    def on_input(self, value: OrderingInput, out: Output) -> None:
        match value:
            case Propose(batch):
                if not self.room:
                    raise ValueError("there is no room for a proposal: ask `room` first")
                self._hold(batch.digest, out)
            case Available(digest):
                self.here.add(digest)
                self._take(out)
            case Learned(slot, digest) if self.highest_voted < slot <= self.limit:
                self.offered[slot] = digest  # decided elsewhere, and the bytes are here: as good as an order
                self.here.add(digest)
                self._take(out)
            case Refused():
                out.blame(self.setup.members[0], "a batch that is not authentic")
            case Learned() | Waiting() | Neglected():
                pass  # known already or too far ahead; and there is no other leader to turn to

    def on_message(self, sender: MemberId, message: Message, out: Output) -> None:
        if isinstance(message, Order):
            slot, digest = message.slot, message.digest
            if sender != self.leader or self.log.get(slot, digest) != digest:
                out.blame(sender, f"an order for slot {slot} that is not this member's to give")
                return
            if self.highest_voted < slot <= self.limit:
                self.offered[slot] = digest
                if digest not in self.here:
                    out.deliver(Fetch(digest, slot, (sender,)))
                self._take(out)
        self.held[sender] = max(self.held[sender], message.slot)
        self._deliver(out)

    def _take(self, out: Output) -> None:
        while self.offered.get(self.highest_voted + 1) in self.here:
            self._hold(self.offered.pop(self.highest_voted + 1), out)

    def _hold(self, digest: Digest, out: Output) -> None:
        slot = self.highest_voted + 1
        self.log[slot] = digest
        self.held[self.setup.me] = slot
        out.persist(CODEC.encode(Order(slot, digest)), slot)  # first on the disk, and only then in the world
        if self.setup.me == self.leader:
            out.broadcast(Order(slot, digest), carry=() if digest == NO_DIGEST else (digest,))
        else:
            out.broadcast(Held(slot))
        self._deliver(out)

    def _deliver(self, out: Output) -> None:
        decided = sorted(self.held.values(), reverse=True)[self.setup.quorum.durable - 1]
        while (slot := self.delivered + 1) <= min(decided, self.limit) and slot in self.log:
            self.delivered = slot
            out.deliver(Decided(slot, self.log[slot]))

    def on_start(self, out: Output) -> None:
        out.deliver(LeaderChanged(self.view, self.leader))
        self._deliver(out)  # after a restart: whatever I know to be decided is decided once more
        self.on_timer(("status",), out)

    def on_timer(self, key: TimerKey, out: Output) -> None:
        """All the retransmission there is: how far I hold and, from the first member, what each of the others lacks."""
        out.broadcast(Held(self.highest_voted))
        for member in self.setup.members if self.setup.me == self.leader else ():
            for slot in range(self.held[member] + 1, min(self.held[member] + 64, self.highest_voted) + 1):
                if slot in self.log:
                    out.send(member, Order(slot, self.log[slot]))
        out.set_timer(key, STATUS_TICKS)

    def on_restore(self, records: Sequence[Record], out: Output) -> None:
        for order in orders_in(records):
            self.log[order.slot] = order.digest
            self.held[self.setup.me] = order.slot

    def on_stable(self, slot: Slot, digest: Digest, out: Output) -> None:
        self.stable, self.delivered = slot, max(self.delivered, slot)
        self.held[self.setup.me] = max(self.highest_voted, slot)
        self.log = {at: digest for at, digest in self.log.items() if at > slot}
        self.offered = {at: digest for at, digest in self.offered.items() if at > slot}
        self.here = {NO_DIGEST} | self.here & set(self.offered.values())
        self._take(out)
        self._deliver(out)

    def on_stop(self, slot: Slot, out: Output) -> None:
        self.boundary = slot
        while self.setup.me == self.leader and self.highest_voted < slot:
            self._hold(NO_DIGEST, out)  # the epoch must reach its end, window or not (SAFETY rule 23)
        self._deliver(out)

    def standing(self) -> Sequence[Record]:
        return ()  # every record is about one slot

    @property
    def room(self) -> int:
        # Somebody who holds what the leader does not know has it from a leader with a better memory (SAFETY rule 16).
        forgetful = max(self.held.values()) > self.highest_voted
        return 0 if self.setup.me != self.leader or forgetful else max(0, self.limit - self.highest_voted)

    @property
    def limit(self) -> Slot:
        return self.stable + self.setup.window if self.boundary is None else self.boundary

    @property
    def leader(self) -> MemberId | None:
        return self.setup.members[0]

    @property
    def view(self) -> int:
        return 0

    @property
    def highest_voted(self) -> Slot:
        return self.held[self.setup.me]


def create(setup: Setup) -> OrderingMachine:
    if setup.quorum.f:
        raise ValueError(f"the sequencer survives no liars: f is {setup.quorum.f}, and must be 0")
    return Sequencer(setup, setup.start, setup.start, dict.fromkeys(setup.members, setup.start))


@attrs.frozen
class History:
    stable: U64
    orders: Annotated[tuple[Order, ...], Many(Struct(Order), 1 << 16)]


HISTORIES: Final = Codec[History]("sequencer history", {1: History})


def orders_in(records: Sequence[Record]) -> list[Order]:
    return [order for order in map(CODEC.decode, records) if isinstance(order, Order)]


def history(setup: Setup, stable: Slot, records: Sequence[Record]) -> bytes:
    orders = {order.slot: order for order in orders_in(records) if order.slot > stable}
    return HISTORIES.encode(History(stable, tuple(orders[slot] for slot in sorted(orders))))


def check_history(setup: Setup, member: MemberId, stable: Slot, reported: bytes) -> bool:
    try:
        report = HISTORIES.decode(reported)
    except WireError:
        return False
    slots = [order.slot for order in report.orders]
    return report.stable == stable and slots == sorted(set(slots)) and all(slot > stable for slot in slots)


def carry(setup: Setup, stable: Slot, histories: Mapping[MemberId, bytes]) -> Carried:
    """c + 1 members hold whatever was delivered, and all below it; so one of any n - c that report holds it, too."""
    if len(histories) < setup.quorum.available:
        raise ValueError(f"{len(histories)} histories are too few: {setup.quorum.available} are needed")
    held: dict[Slot, Digest] = {}
    for member in sorted(histories):
        held.update((order.slot, order.digest) for order in HISTORIES.decode(histories[member]).orders)
    slots: list[tuple[Slot, Digest]] = []
    while (slot := stable + 1 + len(slots)) in held:
        slots.append((slot, held[slot]))
    return Carried(stable, tuple(slots))


RECORD: Final = ProtocolRecord(
    name="sequencer",
    title="Fixed sequencer",
    paper="folklore",
    byzantine=False,
    timing="partial",
    steps=2,
    messages="n (n - 1)",
    survives=frozenset({"loss", "partition", "follower-crash", "leader-restart", "power-cut"}),
    when="To learn how a protocol is written.",
)
PLUGIN: Final = Plugin(RECORD, CODEC, create, history, check_history, carry)
