"""What members say to each other, what they sign, and what they write down.

In words:

- `Accept(b, s, d)`: I lead ballot b, and I propose batch d for slot s. (My signature.) In my ballot everything up to
  `committed` is chosen.
- `Accepted(b, s, d)`: I have accepted that, durably, the bytes included.
- `Commit(b)`, `Heartbeat(b)`: I lead ballot b, and everything up to `committed` is chosen. A heartbeat wants an answer.
- `Echo(b)`: I follow you; I know what was chosen up to here, and have accepted what you proposed up to there.
- `PreVote(k)`: I have lost the leader. Have you, too? `Grant(k)`: I have, and this is the highest ballot that I know.
- `Prepare(b)`: promise me to accept nothing in lower ballots. `Promise(b)`: I do, durably, and this is everything that
  I have accepted above my stable checkpoint.
- `Refuse(b)`: I have promised ballot b, which is higher than yours.
- `Resign(b)`: I do not hear a quorum any more; choose another leader.
- `Ask(s)`: I know what was chosen up to slot s. What comes next? `Chosen(s)`: from slot s on, these were chosen.

A *ballot* is one number, (round x n + index of the member that leads it): ballots of different members differ, and
they are ordered by their rounds, then by the index.

Source: Lamport, "Paxos Made Simple" (2001), sections 2.2 and 3: phase 1 is `Prepare` and `Promise`, for all slots at
once; phase 2 is `Accept` and `Accepted`.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.core.wire import U64, Codec, Digest32, Many, Raw, Signature64, Struct

ACCEPT_PURPOSE: Final = "paxos accept"
"""What the leader's signature under `Entry.statement` is for (SAFETY rule 2)."""
HELD_MAX: Final = 1 << 18
"""A promise reports at most so many slots; see `bftkit_paxos.ballots.window_max`."""
PROMISE_BYTES_MAX: Final = 15 << 20
"""A promise is at most so long: a link carries frames of 16 MiB."""
CHOSEN_MAX: Final = 256
"""One answer names at most so many chosen slots; the next question asks for more."""


def proposal_statement(ballot: int, slot: int, digest: bytes) -> bytes:
    """What a leader signs: 8 bytes of ballot, 8 of slot, 32 of digest."""
    return ballot.to_bytes(8, "big") + slot.to_bytes(8, "big") + digest


@attrs.frozen
class Entry:
    """A batch proposed for a slot in a ballot, under its leader's signature; also the record of having accepted it.

    One signature a batch makes a leader that proposes two batches in one ballot and slot evidence (SAFETY rule 6).
    """

    ballot: U64
    slot: U64
    digest: Digest32
    signature: Signature64

    @property
    def statement(self) -> bytes:
        """The bytes that the signature covers."""
        return proposal_statement(self.ballot, self.slot, self.digest)


@attrs.frozen
class Accept:
    """Phase 2a. Everything up to `committed` is chosen, and nothing that differs was proposed there in this ballot."""

    entry: Entry
    committed: U64


@attrs.frozen
class Accepted:
    """Phase 2b."""

    ballot: U64
    slot: U64
    digest: Digest32


@attrs.frozen
class Commit:
    """The leader of `ballot` knows that everything up to `committed` is chosen."""

    ballot: U64
    committed: U64


@attrs.frozen
class Heartbeat:
    """As `Commit`, and an answer is wanted. Nothing above `high` was proposed in this ballot yet."""

    ballot: U64
    committed: U64
    high: U64


@attrs.frozen
class Echo:
    """The sender follows `ballot`, knows what was chosen up to `known`, and accepted in it what lies up to `held`."""

    ballot: U64
    known: U64
    held: U64


@attrs.frozen
class PreVote:
    """The sender has lost its leader and asks, for the `attempt`-th time, who else has."""

    attempt: U64


@attrs.frozen
class Grant:
    """The answer to `PreVote`: so have I. It promises nothing."""

    attempt: U64
    ballot: U64
    """The highest ballot that the sender knows of."""


@attrs.frozen
class Prepare:
    """Phase 1a, for all slots at once."""

    ballot: U64


@attrs.frozen
class Held:
    """What a member accepted for a slot, in the highest ballot in which it did."""

    slot: U64
    ballot: U64
    digest: Digest32


@attrs.frozen
class Promise:
    """Phase 1b: everything that the sender accepted above its stable checkpoint, ascending by slot."""

    ballot: U64
    stable: U64
    held: Annotated[tuple[Held, ...], Many(Struct(Held), HELD_MAX)]


@attrs.frozen
class Refuse:
    """The sender has promised this ballot and takes no part in a lower one."""

    ballot: U64


@attrs.frozen
class Resign:
    """The leader of this ballot leads no more."""

    ballot: U64


@attrs.frozen
class Ask:
    """The sender knows what was chosen up to this slot and wants to know what comes next."""

    known: U64


@attrs.frozen
class Chosen:
    """These digests were chosen for the slots from `first` on."""

    first: U64
    digests: Annotated[tuple[bytes, ...], Many(Raw(32), CHOSEN_MAX)]


Message: TypeAlias = (
    Accept | Accepted | Commit | Heartbeat | Echo | PreVote | Grant | Prepare | Promise | Refuse | Resign | Ask | Chosen
)

CODEC: Final = Codec[Message](
    "paxos",
    {
        1: Accept,
        2: Accepted,
        3: Commit,
        4: Heartbeat,
        5: Echo,
        6: PreVote,
        7: Grant,
        8: Prepare,
        9: Promise,
        10: Refuse,
        11: Resign,
        12: Ask,
        13: Chosen,
    },
)


# ------------------------------------------------------------------------------------------------- on the disk


@attrs.frozen
class Promised:
    """A standing record: nothing is accepted in a ballot below this one any more."""

    ballot: U64


OwnRecord: TypeAlias = Entry | Promised
RECORDS: Final = Codec[OwnRecord]("paxos record", {1: Entry, 2: Promised})


@attrs.frozen
class Conflict:
    """Evidence: two proposals of one leader for one slot in one ballot."""

    first: Entry
    second: Entry


CONFLICTS: Final = Codec[Conflict]("paxos conflict", {1: Conflict})
