"""A protocol without a leader, for tests only: what the house around protocols does when everybody proposes.

It works in rounds. Every member offers one batch a round; n - c offers make a round, in the order of the roster, and
what was left out is returned. Which n - c these are, a clerk says (the first member), which no real protocol could do:
here it replaces agreement. The clerk must not crash for good; up to c others may.

`Offer(round, digest)`  "this is my batch for the round".
`Sheet(round, entries)`  "these n - c offers are the round", of the clerk.
`Ack(round)`  "I hold all sheets up to this one"; c + 1 members with the clerk decide.
`Commit(round)`  "all rounds up to this one are decided", of the clerk.
`Status(round)`  "so many rounds are done here, what did I miss?", to the clerk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Digest, DrawKey, MemberId, Out, Record, Slot, TimerKey
from bftkit.core.ordering import (
    Available,
    BatchWanted,
    Carried,
    Decided,
    Fetch,
    LeaderChanged,
    Learned,
    OrderingInput,
    OrderingMachine,
    OrderingOutput,
    Parameter,
    Plugin,
    Propose,
    ProtocolRecord,
    Returned,
    Setup,
)
from bftkit.core.state import SHARED, Forkable
from bftkit.core.wire import U16, U64, Codec, Digest32, Many, Struct

RESENT_MAX: Final = 16

RECORD: Final = ProtocolRecord(
    name="tests.unit.round_table:PLUGIN",
    title="A table without a head, with a clerk",
    paper="none",
    byzantine=False,
    timing="partial",
    steps=4,
    messages="n (n - 1) + 3 (n - 1)",
    survives=frozenset({"loss", "partition"}),
    when="never, but in tests",
    parameters={
        "pipeline": Parameter(2, 1, 64, "rounds that may be open at a time"),
        "status_ticks": Parameter(100, 5, 60_000, "ticks between two status messages"),
    },
)


@attrs.frozen
class Offer:
    round: U64
    digest: Digest32


@attrs.frozen
class Entry:
    index: U16
    digest: Digest32


@attrs.frozen
class Sheet:
    round: U64
    entries: Annotated[tuple[Entry, ...], Many(Struct(Entry), 1024)]


@attrs.frozen
class Ack:
    round: U64


@attrs.frozen
class Commit:
    round: U64


@attrs.frozen
class Status:
    round: U64


Message: TypeAlias = Offer | Sheet | Ack | Commit | Status
TableOut: TypeAlias = Out[Message, OrderingOutput]
CODEC: Final = Codec[Message]("round table", {1: Offer, 2: Sheet, 3: Ack, 4: Commit, 5: Status})


@attrs.define(eq=False)
class Seat(Forkable):
    """A member at the table."""

    setup: Setup = attrs.field(metadata=SHARED)
    delivered: Slot
    stable: Slot
    done: int = 0
    """Rounds whose slots are all delivered."""
    begun: int = 0
    """The highest round that anybody is known to have begun."""
    wanted: int = 0
    sheeted: int = 0
    """Of the clerk: the last round that it made. Of others: all sheets up to here are held."""
    committed: int = 0
    boundary: Slot | None = None
    mine: dict[int, Digest] = attrs.field(factory=dict[int, Digest])
    offers: dict[int, dict[MemberId, Digest]] = attrs.field(factory=dict[int, dict[MemberId, Digest]])
    """By round: offers whose bytes are here."""
    sheets: dict[int, Sheet] = attrs.field(factory=dict[int, Sheet])
    learned: dict[Slot, Digest] = attrs.field(factory=dict[Slot, Digest])
    here: dict[Digest, int] = attrs.field(factory=dict[Digest, int])
    """Bytes that are here, and for which round."""
    awaited: dict[Digest, list[tuple[int, MemberId]]] = attrs.field(factory=dict[Digest, list[tuple[int, MemberId]]])
    acks: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])

    # ------------------------------------------------------------------------------------------ what it is asked

    @property
    def leader(self) -> MemberId | None:
        return None

    @property
    def view(self) -> int:
        return self.done

    @property
    def highest_voted(self) -> Slot:
        return max(self.delivered, self._last(self.sheeted))

    @property
    def room(self) -> int:
        if self.boundary is not None:
            return 0
        in_window = (self.stable + self.setup.window - self.setup.start) // self._per
        highest = min(self.done + self.setup.parameter(RECORD, "pipeline"), in_window)
        return max(0, highest - self._offered)

    @property
    def _per(self) -> int:
        return self.setup.quorum.available

    @property
    def _clerk(self) -> MemberId:
        return self.setup.members[0]

    @property
    def _offered(self) -> int:
        return max([self.done, *self.mine])

    def _round(self, slot: Slot) -> int:
        return (slot - self.setup.start - 1) // self._per + 1

    def _last(self, number: int) -> Slot:
        return self.setup.start + number * self._per

    def standing(self) -> Sequence[Record]:
        return ()

    # ------------------------------------------------------------------------------------------ events

    def on_start(self, out: TableOut) -> None:
        out.deliver(LeaderChanged(0, None))
        self._say(out)
        self._deliver(out)

    def on_restore(self, records: Sequence[Record], out: TableOut) -> None:
        for record in records:
            message = CODEC.decode(record)
            if isinstance(message, Offer):
                self.mine[message.round] = message.digest
                self.offers.setdefault(message.round, {})[self.setup.me] = message.digest
            elif isinstance(message, Sheet):
                self.sheets[message.round] = message
            elif isinstance(message, Commit):
                self.committed = max(self.committed, message.round)
        self._extend()

    def on_timer(self, key: TimerKey, out: TableOut) -> None:
        self._say(out)

    def on_draw(self, key: DrawKey, value: int, out: TableOut) -> None:
        raise AssertionError("nothing is drawn here")

    def on_input(self, value: OrderingInput, out: TableOut) -> None:
        match value:
            case Propose(batch):
                if self.room <= 0:
                    raise ValueError("there is no room")
                self._offer(self._offered + 1, batch.digest, out)
            case Available(digest):
                for number, sender in self.awaited.pop(digest, []):
                    self.here[digest] = max(number, self.here.get(digest, 0))
                    if sender:
                        self.offers.setdefault(number, {})[sender] = digest
                self._go_on(out)
            case Learned(slot, digest):
                if slot > self.delivered:
                    self.learned[slot] = digest
                    self.here[digest] = self._round(slot)
                self._go_on(out)
            case _:
                pass

    def on_message(self, sender: MemberId, message: Message, out: TableOut) -> None:
        match message:
            case Offer(number, digest):
                if self.done < number <= self.done + 1000 and sender not in self.offers.get(number, {}):
                    self.begun = max(self.begun, number)
                    if digest == NO_DIGEST:
                        self.offers.setdefault(number, {})[sender] = digest
                    else:
                        self._fetch(digest, number, sender, (sender,), out)
            case Sheet(number, _):
                if sender == self._clerk and number > self.sheeted and number not in self.sheets:
                    self._hold(message, out)
                    self.begun = max(self.begun, number)
                    self._extend()
                    out.send(sender, Ack(self.sheeted))
            case Ack(number):
                self.acks[sender] = max(number, self.acks.get(sender, 0))
            case Commit(number):
                if sender == self._clerk and number > self.committed:
                    self.committed = number
            case Status(number):
                if self.setup.me == self._clerk:
                    for wanted in sorted(at for at in self.sheets if at > number)[:RESENT_MAX]:
                        out.send(sender, self.sheets[wanted])
                    if self.committed > number:
                        out.send(sender, Commit(self.committed))
        self._go_on(out)

    def on_stable(self, slot: Slot, digest: Digest, out: TableOut) -> None:
        self.stable = max(self.stable, slot)
        self.delivered = max(self.delivered, slot)
        self.done = max(self.done, (self.delivered - self.setup.start) // self._per)
        self._forget()
        self._go_on(out)

    def on_stop(self, slot: Slot, out: TableOut) -> None:
        self.boundary = slot
        self._go_on(out)

    # ------------------------------------------------------------------------------------------ rounds

    def _say(self, out: TableOut) -> None:
        """Whatever may have been lost."""
        out.set_timer(("status",), self.setup.parameter(RECORD, "status_ticks"))
        for number in sorted(self.mine):
            if number > self.done:
                # Without the bytes: whoever lacks them asks.
                out.broadcast(Offer(number, self.mine[number]))
        if self.setup.me != self._clerk:
            out.send(self._clerk, Status(self.done))
            out.send(self._clerk, Ack(self.sheeted))

    def _fetch(
        self, digest: Digest, number: int, sender: MemberId, holders: tuple[MemberId, ...], out: TableOut
    ) -> None:
        waiting = self.awaited.setdefault(digest, [])
        if (number, sender) not in waiting:
            waiting.append((number, sender))
            out.deliver(Fetch(digest, self._last(number), holders))

    def _offer(self, number: int, digest: Digest, out: TableOut) -> None:
        out.persist(CODEC.encode(Offer(number, digest)), self._last(number))
        self.mine[number] = digest
        self.here[digest] = number
        self.begun = max(self.begun, number)
        self.offers.setdefault(number, {})[self.setup.me] = digest
        out.broadcast(Offer(number, digest), carry=() if digest == NO_DIGEST else (digest,))
        self._go_on(out)

    def _hold(self, sheet: Sheet, out: TableOut) -> None:
        out.persist(CODEC.encode(sheet), self._last(sheet.round))
        self.sheets[sheet.round] = sheet

    def _extend(self) -> None:
        self.sheeted = max(self.sheeted, self.done)
        while self.sheeted + 1 in self.sheets:
            self.sheeted += 1

    def _go_on(self, out: TableOut) -> None:
        if self.setup.me == self._clerk:
            self._keep_minutes(out)
        self._deliver(out)
        if self.boundary is not None:
            while self._offered < self._round(self.boundary):
                self._offer(self._offered + 1, NO_DIGEST, out)
            return
        while self._offered < self.begun and self.room > 0 and max(self._offered, self.wanted) < self.begun:
            self.wanted = max(self._offered, self.wanted) + 1
            if self.wanted <= self.done:
                continue
            out.deliver(BatchWanted())

    def _keep_minutes(self, out: TableOut) -> None:
        self._extend()
        indices = {member: index for index, member in enumerate(self.setup.members)}
        while len(offers := self.offers.get(self.sheeted + 1, {})) >= self._per:
            chosen = sorted(list(offers)[: self._per], key=lambda member: indices[member])
            sheet = Sheet(self.sheeted + 1, tuple(Entry(indices[member], offers[member]) for member in chosen))
            self._hold(sheet, out)
            self._extend()
            out.broadcast(sheet)
        held = sorted((self.acks.get(member, 0) for member in self.setup.members[1:]), reverse=True)
        c = self.setup.quorum.c
        committed = min(self.sheeted, held[c - 1]) if c else self.sheeted
        if committed > self.committed:
            self.committed = committed
            out.persist(CODEC.encode(Commit(committed)))
            out.broadcast(Commit(committed))

    def _deliver(self, out: TableOut) -> None:
        while self.boundary is None or self.delivered < self.boundary:
            slot = self.delivered + 1
            number = self._round(slot)
            sheet = self.sheets.get(number) if number <= self.committed else None
            digest = self.learned.get(slot)
            if sheet is not None:
                digest = sheet.entries[slot - self._last(number - 1) - 1].digest
            if digest is None:
                return
            if digest != NO_DIGEST and digest not in self.here:
                self._fetch(digest, number, "", self.setup.members, out)
                return
            self.delivered = slot
            out.deliver(Decided(slot, digest))
            if slot == self._last(number):
                self.done = number
                names = [entry.digest for entry in sheet.entries] if sheet else list(self.learned.values())
                offered = self.mine.get(number, NO_DIGEST)
                if offered != NO_DIGEST and offered not in names:
                    out.deliver(Returned(offered))
                self._forget()

    def _forget(self) -> None:
        self._extend()
        self.committed = max(self.committed, self.done)
        old = (self.stable - self.setup.start) // self._per
        self.mine = {number: digest for number, digest in self.mine.items() if number > self.done}
        self.offers = {number: offers for number, offers in self.offers.items() if number > self.done}
        self.sheets = {number: sheet for number, sheet in self.sheets.items() if number > old}
        self.learned = {slot: digest for slot, digest in self.learned.items() if slot > self._last(self.done)}
        self.here = {digest: number for digest, number in self.here.items() if number > old}


def create(setup: Setup) -> OrderingMachine:
    return Seat(setup, setup.start, setup.start)


PLUGIN: Final = Plugin(
    RECORD,
    CODEC,
    create,
    history=lambda setup, stable, records: b"",
    check_history=lambda setup, member, stable, history: history == b"",
    carry=lambda setup, stable, histories: Carried(stable, ()),
)
