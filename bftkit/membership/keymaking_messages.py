"""What is said while members make a coin key, and what anybody can check of it: `bftkit.membership.keymaking`'s words.

- `Deal(commitment, promise, row, column, signature)`, to one member alone: I, the sender, deal one sharing in this key
  making; here are its commitment and your part. I signed the commitment for everybody, and your part for you.
- `Held(vote)`, back to the dealer: I hold my part of the sharing that you dealt, durably. Never said of two
  commitments of one dealer.
- `Complete(sharing, promise)`, to all: n - t members hold their parts of this sharing. Whoever gets it can pass it on.
- `AskPoint(dealer, digest, commitment_too)`: a selected sharing is without my part. What do you have of it?
- `Point(dealer, value, commitment)`, back to who asked alone: your row's value at my place.

A `Selection` is f + 1 complete sharings of different dealers. It follows from it alone what the key's public part is:
`check_selection`, for members, for clients, for who is not in the new roster.

Evidence is what a dealer signed: a part that contradicts its commitment, or two commitments. The first kind shows the
part to the world; it is a part of a sharing whose dealer is a liar and knows all of it, and the key has at least one
sharing of somebody else.

Every signature is bound to purpose, group, epoch and opening by its keyring (SAFETY rule 2), and to the id of the key
making, 32 bytes. Exactly, within that::

    "key making commitment"   id 32 | digest 32 | dealer                                        the promise
    "key making part"         id 32 | digest 32 | place 4 | digest(row) 32 | digest(column) 32 | dealer
    "key making held"         id 32 | digest 32 | dealer                                        a vote
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Final, Protocol, TypeAlias

import attrs

from bftkit.blocks.certificates import CERTIFICATE_FIELD, VOTE_FIELD, SignatureLists
from bftkit.core.digest import DIGEST_SIZE, digest
from bftkit.core.machine import MemberId
from bftkit.core.memo import Memo
from bftkit.core.ordering import SignerProtocol
from bftkit.core.quorum import Quorum
from bftkit.core.wire import Blob, Bool, Codec, Digest32, Many, Maybe, Member, Raw, Signature64, Struct, WireError
from bftkit.crypto.dkg import Shape, piece_fits, summed_publics
from bftkit.crypto.threshold import SCALAR_SIZE, CoinPublics

COMMITMENT_PURPOSE: Final = "key making commitment"
PART_PURPOSE: Final = "key making part"
HELD_PURPOSE: Final = "key making held"

COMMITMENT_BYTES_MAX: Final = 1 << 20
"""The longest commitment, (n - t) (f + 1) points: enough for some 380 members."""

HOLDERS_MAX: Final = 1024
_NUMBERS: Final = Blob(HOLDERS_MAX * SCALAR_SIZE)


# ------------------------------------------------------------------------------------------------- messages


@attrs.frozen
class Deal:
    """One member's part of the sender's sharing."""

    commitment: Annotated[bytes, Blob(COMMITMENT_BYTES_MAX)]
    promise: Signature64
    """The dealer's signature under the commitment's digest: it deals this one and no other."""
    row: Annotated[bytes, _NUMBERS] = attrs.field(repr=False)
    column: Annotated[bytes, _NUMBERS] = attrs.field(repr=False)
    signature: Signature64
    """The dealer's signature under all of it and the receiver's place."""


@attrs.frozen
class Held:
    """The sender's vote that it holds its part of the receiver's sharing."""

    vote: Annotated[bytes, VOTE_FIELD]


@attrs.frozen
class Sharing:
    """A sharing that n - t members hold: the public part of the commitment, a digest of the rest, their votes."""

    dealer: Member
    public: Annotated[bytes, _NUMBERS]
    rest: Digest32
    certificate: Annotated[bytes, CERTIFICATE_FIELD]


@attrs.frozen
class Complete:
    """A complete sharing, with its dealer's promise."""

    sharing: Annotated[Sharing, Struct(Sharing)]
    promise: Signature64


@attrs.frozen
class AskPoint:
    """The sender has no part of this sharing and wants the receiver's point of its row."""

    dealer: Member
    digest: Digest32
    commitment_too: Bool
    """Whether it has no commitment either, against which it could check points."""


@attrs.frozen
class Point:
    """The receiver's row at the sender's place."""

    dealer: Member
    value: Annotated[bytes, Raw(SCALAR_SIZE)] = attrs.field(repr=False)
    commitment: Annotated[bytes | None, Maybe(Blob(COMMITMENT_BYTES_MAX))]


Message: TypeAlias = Deal | Held | Complete | AskPoint | Point

CODEC: Final = Codec[Message]("key making", {1: Deal, 2: Held, 3: Complete, 4: AskPoint, 5: Point})


@attrs.frozen
class Selection:
    """The sharings whose sum is the coin key: f + 1 of them, their dealers in roster order."""

    sharings: Annotated[tuple[Sharing, ...], Many(Struct(Sharing), HOLDERS_MAX)]

    def encode(self) -> bytes:
        """The only encoding, as it is ordered and kept."""
        return _SELECTIONS.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Selection:
        """The selection of this encoding, unchecked. Raises `WireError`."""
        return _SELECTIONS.decode(data)


_SELECTIONS: Final = Codec[Selection]("coin key selection", {1: Selection})


# ------------------------------------------------------------------------------------------------- evidence


@attrs.frozen
class BadPart:
    """The dealer signed this part for this receiver, and it is not what the commitment says."""

    receiver: Member
    deal: Annotated[Deal, Struct(Deal)]


@attrs.frozen
class TwoCommitments:
    """The dealer promised to deal by one commitment, and by another one; the lower digest comes first."""

    first: Digest32
    first_promise: Signature64
    second: Digest32
    second_promise: Signature64


EVIDENCE: Final = Codec[BadPart | TwoCommitments]("key making evidence", {1: BadPart, 2: TwoCommitments})


# ------------------------------------------------------------------------------------------------- checks


class Verifier(Protocol):
    """Checks members' signatures of one epoch: a `Keyring`, or `crypto.keys.Ed25519Verifier`."""

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """Whether the member made this signature. Never raises on a peer's input."""
        ...


@attrs.frozen
class Judge:
    """One key making, as far as it is known to everybody: whatever needs no secret to be decided."""

    verifier: Verifier
    quorum: Quorum
    members: tuple[MemberId, ...]
    """The new roster: these make the key and hold its shares, by their places from 1 on."""
    name: bytes
    """The id of the key making, 32 bytes: the digest of the command that caused it."""
    shape: Shape
    _held: SignatureLists

    @classmethod
    def of(
        cls, verifier: Verifier, quorum: Quorum, members: Sequence[MemberId], name: bytes, memo: Memo | None = None
    ) -> Judge:
        """Raises `ValueError` for a name of another length or a roster that is not of the quorum's size."""
        if len(name) != DIGEST_SIZE:
            raise ValueError(f"a key making is named by {DIGEST_SIZE} bytes, not {len(name)}")
        if len(set(members)) != quorum.n or len(members) != quorum.n:
            raise ValueError(f"the quorum counts {quorum.n} different members, not {', '.join(members)}")
        shape = Shape(quorum.n, quorum.available, quorum.weak)
        if shape.commitment_bytes > COMMITMENT_BYTES_MAX:
            raise ValueError(f"{quorum.n} members with f = {quorum.f} are too many to make a coin key")
        roster = tuple(members)
        held = SignatureLists(
            quorum.available, HELD_PURPOSE, roster, _NoSigner(verifier), memo or Memo(), "", (quorum.n + 7) >> 3
        )
        return cls(verifier, quorum, roster, name, shape, held)

    def place(self, member: MemberId) -> int:
        """A member's place, from 1 on."""
        return self.members.index(member) + 1

    def about(self, dealer: MemberId, commitment: bytes) -> bytes:
        """What is signed by a promise and by a vote, with the commitment's digest."""
        return self.name + commitment + dealer.encode()

    def about_part(self, dealer: MemberId, commitment: bytes, place: int, row: bytes, column: bytes) -> bytes:
        """What is signed by a dealer for the holder at this place."""
        part = place.to_bytes(4, "big") + digest(row) + digest(column)
        return self.name + commitment + part + dealer.encode()

    def promised(self, dealer: MemberId, commitment: bytes, promise: bytes) -> bool:
        """Whether the dealer signed the commitment with this digest."""
        return self.verifier.verify(dealer, COMMITMENT_PURPOSE, self.about(dealer, commitment), promise)

    def signed_part(self, dealer: MemberId, receiver: MemberId, deal: Deal) -> bool:
        """Whether the dealer signed this part, right or wrong."""
        commitment = self.shape.commitment_digest(deal.commitment)
        statement = self.about_part(dealer, commitment, self.place(receiver), deal.row, deal.column)
        return self.verifier.verify(dealer, PART_PURPOSE, statement, deal.signature)

    def fits(self, receiver: MemberId, deal: Deal) -> bool:
        """Whether the part is what the commitment says."""
        return piece_fits(self.shape, deal.commitment, self.place(receiver), deal.row, deal.column)

    def held(self, member: MemberId, dealer: MemberId, commitment: bytes, vote: bytes) -> bool:
        """Whether the member said that it holds its part of the dealer's sharing with this commitment."""
        return self._held.verify_vote(member, self.about(dealer, commitment), vote)

    def holders(self, sharing: Sharing) -> tuple[MemberId, ...]:
        """Whose votes are in a complete sharing."""
        return self._held.signers(sharing.certificate)

    def commitment_of(self, sharing: Sharing) -> bytes:
        """The digest of the sharing's commitment."""
        return self.shape.digest(sharing.public, sharing.rest)

    def check_sharing(self, sharing: Sharing) -> None:
        """Raises `ValueError`, with the reason, unless n - t members said that they hold their parts of it."""
        if sharing.dealer not in self.members:
            raise ValueError(f"{sharing.dealer} deals no sharing: it is no member")
        if len(sharing.public) != self.shape.public_bytes:
            raise ValueError(f"the sharing of {sharing.dealer} is not of n − t = {self.shape.threshold} points")
        statement = self.about(sharing.dealer, self.commitment_of(sharing))
        if not self._held.verify(statement, sharing.certificate):
            raise ValueError(
                f"the sharing of {sharing.dealer} is not certified by n − t = {self._held.size} members that hold it"
            )

    def check_selection(self, selection: Selection) -> CoinPublics:
        """See the function."""
        dealers = [sharing.dealer for sharing in selection.sharings]
        places = [self.place(dealer) for dealer in dealers if dealer in self.members]
        # First what costs nothing to find.
        if len(dealers) != self.quorum.weak or len(places) != len(dealers) or any(a >= b for a, b in pairwise(places)):
            raise ValueError(
                f"a coin key is the sum of the sharings of f + 1 = {self.quorum.weak} different members in roster "
                f"order, not of {len(dealers)}: {', '.join(dealers)}"
            )
        for sharing in selection.sharings:
            self.check_sharing(sharing)
        return summed_publics(self.shape, [sharing.public for sharing in selection.sharings])


def check_selection(
    verifier: Verifier, quorum: Quorum, members: Sequence[MemberId], name: bytes, selection: Selection
) -> CoinPublics:
    """The public part of the coin key that this selection makes; everybody comes to the same.

    `verifier`, `quorum` and `members` are of the new roster, `name` is the id of the key making. Raises `ValueError`
    with the reason for a selection that makes none.
    """
    return Judge.of(verifier, quorum, members, name).check_selection(selection)


def check_evidence(
    verifier: Verifier, quorum: Quorum, members: Sequence[MemberId], name: bytes, member: MemberId, proof: bytes
) -> bool:
    """Whether this proves to anybody that the member dealt falsely in this key making (SAFETY rule 6).

    Never raises on what somebody else made up.
    """
    judge = Judge.of(verifier, quorum, members, name)
    try:
        evidence = EVIDENCE.decode(proof)
    except WireError:
        return False
    if member not in judge.members:
        return False
    if isinstance(evidence, TwoCommitments):
        return (
            evidence.first != evidence.second
            and judge.promised(member, evidence.first, evidence.first_promise)
            and judge.promised(member, evidence.second, evidence.second_promise)
        )
    receiver, deal = evidence.receiver, evidence.deal
    return receiver in judge.members and judge.signed_part(member, receiver, deal) and not judge.fits(receiver, deal)


@attrs.frozen
class _NoSigner(SignerProtocol):
    """A verifier where a signer is expected, for who only checks."""

    verifier: Verifier

    def sign(self, purpose: str, statement: bytes) -> bytes:
        """Nobody who only checks signs."""
        raise AssertionError("whoever only checks has no key")

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """See `Verifier.verify`."""
        return self.verifier.verify(member, purpose, statement, signature)
