"""What the coordinator and its followers say to each other, and what they write down.

`Append(entry, committed)`
    "I, the coordinator, put this batch into this slot, for ever; all slots up to `committed` are decided."
`Ack(held)`
    "I, a follower, hold every slot up to `held` durably, the bytes included."
`Commit(committed)`
    "All slots up to `committed` are decided: c + 1 members hold them." Sent at once, so that followers need not wait
    for the next `Append` to hear it.
`Status(held, delivered)`
    "I hold so much and have delivered so much; tell me what I miss." Followers say it again and again, and that is
    all the retransmission there is: nobody relies on the transport to send twice.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.core.wire import U64, Codec, Digest32, Many, Signature64, Struct

APPEND_PURPOSE: Final = "coordinator append"
"""What the coordinator's signature under `Entry.statement` is for (SAFETY rule 2)."""


@attrs.frozen
class Entry:
    """A batch in a slot, under the coordinator's signature; also the only record that this protocol writes.

    The signature costs little (one a batch), and it turns a coordinator that gives two batches one slot into
    evidence that anybody can check (SAFETY rules 6 and 24).
    """

    slot: U64
    digest: Digest32
    signature: Signature64

    @property
    def statement(self) -> bytes:
        """The bytes that the signature covers."""
        return entry_statement(self.slot, self.digest)


def entry_statement(slot: int, digest: bytes) -> bytes:
    """What the coordinator signs: 8 bytes of slot, 32 of digest."""
    return slot.to_bytes(8) + digest


@attrs.frozen
class Append:
    """A batch for a slot, and how far the group has decided."""

    entry: Entry
    committed: U64


@attrs.frozen
class Ack:
    """Every slot up to this one is held durably by the sender."""

    held: U64


@attrs.frozen
class Commit:
    """Every slot up to this one is decided."""

    committed: U64


@attrs.frozen
class Status:
    """Where a follower stands; the answer is what it misses."""

    held: U64
    delivered: U64


Message: TypeAlias = Append | Ack | Commit | Status

CODEC: Final = Codec[Message]("coordinator", {1: Append, 2: Ack, 3: Commit, 4: Status})


@attrs.frozen
class History:
    """What a member holds above the checkpoint at `stable`: its part of the group's memory (SAFETY rule 22)."""

    stable: U64
    entries: Annotated[tuple[Entry, ...], Many(Struct(Entry), 1 << 16)]


RECORDS: Final = Codec[Entry]("coordinator record", {1: Entry})
HISTORIES: Final = Codec[History]("coordinator history", {1: History})


@attrs.frozen
class Conflict:
    """Evidence: two entries for one slot, both signed by the coordinator."""

    first: Entry
    second: Entry


CONFLICTS: Final = Codec[Conflict]("coordinator conflict", {1: Conflict})
