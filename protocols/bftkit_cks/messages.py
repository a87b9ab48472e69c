"""What members say to each other, what they sign, and what they write down.

In words:

- `Part(r, kind, index, body)`: a message of one of round r's blocks. Kind 0 is the consistent broadcast of the offer of
  the member with this index in the roster; the other kinds are those of the round's validated agreement, of which the
  last, its outcome, proves to anybody what the round agreed on. What the blocks' messages mean stands in
  `bftkit.blocks`.
- `Status(d, o)`: I have delivered all rounds up to d, and know of none above o. Send me what I lack.

A member writes down what it says, each statement as an `Own`, before the statement leaves (SAFETY rule 5). A record's
slot is the last one of its round, so that it is forgotten with the round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct as Layout
from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_messages as va
from bftkit.core.digest import digest
from bftkit.core.machine import Record, Slot
from bftkit.core.wire import U8, U16, U32, U64, Blob, Bool, Codec, WireError

OFFER: Final = 0
"""The kind of an offer's parts. The kinds of the agreement's parts are counted from 1."""

AGREEMENT: Final = 255
"""The kind under which the agreement's records are written; which of its parts each is about, it says itself."""

BODY_BYTES_MAX: Final = 8 << 20
"""A block's message is at most so long: a link carries frames of 16 MiB."""

_ROUND: Final = Layout(">3sQc")


def offer_id(number: int) -> bytes:
    """The name of a round's offers, which stands in every statement of theirs (SAFETY rule 2)."""
    return _ROUND.pack(b"cks", number, b"o")


def agreement_id(number: int) -> bytes:
    """The name of a round's agreement, which stands in every statement and every coin's name of it."""
    return _ROUND.pack(b"cks", number, b"a")


# ------------------------------------------------------------------------------------------------- messages


@attrs.frozen
class Part:
    """A message of a block of a round; `body` encodes it in that block's codec."""

    round: U64
    kind: U8
    index: U16
    body: Annotated[bytes, Blob(BODY_BYTES_MAX)]

    def binds(self) -> Iterator[tuple[tuple[str | int, ...], bytes]]:
        """What it binds its sender to: a place, and what was said there. A correct member says no two things there.

        For whoever watches a group, such as tests. Bytes that are no message bind to nothing.
        """
        place = (self.round, self.kind, self.index)
        try:
            match self.kind:
                case 0 | va.PROPOSAL | va.COMMITMENT:
                    match cb.CODEC.decode(self.body):
                        case cb.Send(value):
                            yield ("send", *place), digest(value)
                        case cb.Echo(vote):
                            yield ("echo", *place), vote
                        case cb.Final():
                            pass
                case va.AGREEMENT:
                    match am.CODEC.decode(self.body):
                        case am.PreVote(number, one):
                            yield ("pre-vote", *place, number), bytes([one])
                        case am.MainVote(number, one):
                            yield ("main-vote", *place, number), bytes([one])
                        case am.Abstention(number):
                            yield ("main-vote", *place, number), bytes([am.ABSTAIN])
                        case _:
                            pass
                case va.STATEMENT:
                    yield ("statement", *place), digest(self.body)
                case _:
                    pass
        except WireError:
            pass


@attrs.frozen
class Status:
    """Where the sender stands."""

    delivered: U64
    """All rounds up to this one are delivered."""
    begun: U64
    """No round above this one has begun, as far as the sender knows."""
    answer: Bool
    """True: said in answer to a status; no further status is wanted in return."""


Message: TypeAlias = Part | Status

CODEC: Final = Codec[Message]("cks", {1: Part, 2: Status})


# ------------------------------------------------------------------------------------------------- records


@attrs.frozen
class Own:
    """This member's own statement in a block of a round; `record` is what the block persisted."""

    round: U64
    serial: U32
    """Counts the round's records from 0. The log forgets from its beginning: a round without its 0 is over."""
    kind: U8
    index: U16
    record: Annotated[bytes, Blob(BODY_BYTES_MAX)]


RECORDS: Final = Codec[Own]("cks record", {1: Own})


def read_records(records: Iterable[Record]) -> dict[int, list[Own]]:
    """A member's own statements by round; rounds of which the log has forgotten a part are left out.

    Raises `WireError` if a record is not this protocol's.
    """
    rounds: dict[int, list[Own]] = {}
    for record in records:
        own = RECORDS.decode(record)
        statements = rounds.setdefault(own.round, [])
        # In a round that is over, what is left of its records says nothing that could be gone on with.
        if own.serial == len(statements):
            statements.append(own)
    return {number: statements for number, statements in rounds.items() if statements}


# ------------------------------------------------------------------------------------------------- slots


@attrs.frozen
class Rounds:
    """Which slots belong to which round: `width` = n − f − c of them to each, in ascending order of senders."""

    start: Slot
    width: int

    def first(self, number: int) -> Slot:
        """The first slot of a round."""
        return self.start + (number - 1) * self.width + 1

    def last(self, number: int) -> Slot:
        """The last slot of a round; of round 0, the last slot before the first round."""
        return self.start + number * self.width

    def of(self, slot: Slot) -> int:
        """The round that a slot belongs to."""
        return (slot - self.start - 1) // self.width + 1

    def complete(self, slot: Slot) -> int:
        """The last round that lies at or below this slot as a whole."""
        return max(0, slot - self.start) // self.width
