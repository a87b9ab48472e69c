"""Hand-overs: the certificate that ends one epoch and begins the next, and the chain of them from genesis on.

At the end of an epoch its members sign (epoch, slot, digest of the state, digest of the next configuration, name of
the command that caused it). A quorum's signatures make the *hand-over*. It is a certified checkpoint besides, so a
member that is behind can fetch the state at its slot. The digest of what was signed is the *opening* of the next
epoch, which stands in front of everything that is signed there (SAFETY rule 2).

Whoever trusts one configuration can check the hand-over that leaves it, and so the next configuration, and so on: a
client or a member that was away follows the chain by itself, and never goes back (SAFETY rule 28). It does not
believe the members alone: the operators' command is in the link, and the configuration must be what it asks for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, Final, Protocol

import attrs

from bftkit.core.digest import digest
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.wire import Blob, Codec, Struct, WireError
from bftkit.crypto.keys import Keyring
from bftkit.crypto.signed import Certificate
from bftkit.membership.commands import Command, CommandError, SignedCommand
from bftkit.membership.epochs import Configuration, stalls_after
from bftkit.membership.steering import authorized

HANDOVER_PURPOSE: Final = "hand-over"
LINK_BYTES_MAX: Final = 12 << 20
"""A hand-over is no longer."""
_BODY: Final = struct.Struct(">QQ32s32s32s")


class ChainError(ValueError):
    """A chain of hand-overs that is not to be believed; the text says which link, and why."""


class Verifier(Protocol):
    """Checks members' signatures of one epoch; `bftkit.crypto.keys.Ed25519Verifier` is this."""

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """Whether that member made this signature."""
        ...


class Verifiers(Protocol):
    """Makes the verifier of an epoch from its configuration and its opening."""

    def __call__(self, configuration: Configuration, opening: Digest) -> Verifier:
        """The verifier."""
        ...


@attrs.frozen
class Ending:
    """What the members of an epoch sign at its end."""

    epoch: int
    """The epoch that ends."""
    slot: Slot
    root: Digest
    """The digest of the state after the slot."""
    next: Digest
    """The digest of the next configuration."""
    command: Digest
    """The name of the command that caused it."""

    def encode(self) -> bytes:
        """The statement."""
        return _BODY.pack(self.epoch, self.slot, self.root, self.next, self.command)

    @classmethod
    def decode(cls, body: bytes) -> Ending:
        """Raises `WireError`."""
        if len(body) != _BODY.size:
            raise WireError("not the statement of a hand-over")
        return cls(*_BODY.unpack(body))

    @staticmethod
    def is_one(body: bytes) -> bool:
        """Whether a certificate's statement has the form of a hand-over's."""
        return len(body) == _BODY.size

    @property
    def opening(self) -> Digest:
        """The opening of the next epoch."""
        return digest(b"bftkit opening", self.encode())


@attrs.frozen
class HandOver:
    """One link of the chain."""

    certificate: Certificate
    """A quorum of the ending epoch, under `Ending`."""
    configuration: Annotated[bytes, Blob(8 << 20)]
    """The next configuration."""
    command: Annotated[bytes, Blob(2 << 20)]
    """The operators' command that caused it."""
    selection: Annotated[bytes, Blob(1 << 20)] = b""
    """How the members made the next coin key; b"" if there is none, or if it is the one before."""

    @cached_property
    def ending(self) -> Ending:
        """What was signed. Raises `WireError`."""
        return Ending.decode(self.certificate.body)

    @cached_property
    def next(self) -> Configuration:
        """The next configuration. Raises `WireError`."""
        return Configuration.decode(self.configuration)

    @cached_property
    def signed(self) -> SignedCommand:
        """The command. Raises `WireError`."""
        return SignedCommand.decode(self.command)

    @property
    def kind(self) -> str:
        """``planned`` or ``forced``."""
        return "forced" if self.signed.command.forced else "planned"

    @property
    def cause(self) -> str:
        """Who decided it: ``operators`` or ``policy``."""
        return "policy" if self.signed.command.by_policy else "operators"

    def encode(self) -> bytes:
        """The link as bytes."""
        return HANDOVER_CODEC.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> HandOver:
        """Raises `WireError`, also if what is inside cannot be read."""
        link = HANDOVER_CODEC.decode(data)
        _ = link.ending, link.next, link.signed
        return link


HANDOVER_CODEC: Final = Codec[HandOver]("hand-over", {1: HandOver}, bytes_max=LINK_BYTES_MAX)


@attrs.frozen
class Place:
    """Where somebody is in the chain: a configuration that it believes, and the opening of its epoch."""

    configuration: Configuration
    opening: Digest


@attrs.frozen
class TrustedPoint:
    """A hand-over that somebody knows from elsewhere and trusts, newer than the genesis: a light client's checkpoint.

    Whoever holds one believes nobody before that epoch, so keys of the epochs before it, stolen long after, lead it
    nowhere (SAFETY rule 28).
    """

    epoch: int
    """The epoch that it began; 1 at least."""
    opening: Digest
    """The digest of what was signed: the opening of that epoch."""

    def contradicted_by(self, link: HandOver) -> str | None:
        """Why a link is not of the history that is trusted, if it is known by this that it is not."""
        ending = link.ending
        if ending.epoch + 1 != self.epoch or ending.opening == self.opening:
            return None
        return (
            f"the hand-over to epoch {self.epoch} has the digest {ending.opening.hex()}, and the one to be trusted has "
            f"{self.opening.hex()} (trusted_digest): one of the two is not of this group's history"
        )


def follow(
    group: bytes,
    place: Place,
    link: HandOver,
    verifiers: Verifiers,
    verify: Callable[[bytes, bytes, bytes], bool],
) -> Place:
    """The next place, if this link really leads there. Raises `ChainError`, which says what is wrong with it."""
    here = place.configuration
    try:
        ending, there, signed = link.ending, link.next, link.signed
    except WireError as error:
        raise ChainError(f"the hand-over of epoch {here.epoch} cannot be read: {error}") from None
    where = f"the hand-over from epoch {here.epoch} to {here.epoch + 1}"
    if ending.epoch != here.epoch or there.epoch != here.epoch + 1:
        raise ChainError(f"{where} is one of epoch {ending.epoch} to {there.epoch}")
    keyring = verifiers(here, place.opening)
    if not link.certificate.valid(only_verifies(keyring), HANDOVER_PURPOSE, here.quorum.certificate):
        raise ChainError(f"{where} is not signed by {here.quorum.certificate} members of epoch {here.epoch}")
    if ending.next != there.digest or ending.command != signed.name:
        raise ChainError(f"{where} shows another configuration or command than its members signed")
    try:
        command = authorized(group, here, signed, only_verifies(keyring), verify)
        check_caused(here, command, there)
    except CommandError as error:
        raise ChainError(f"{where} is not what operators or their policy asked for: {error}") from None
    return Place(there, ending.opening)


def check_caused(here: Configuration, command: Command, there: Configuration) -> None:
    """Whether the configuration is the one that the command asks for. Raises `CommandError`.

    Its coin key is made by the members and attested by their quorum; a forced change keeps the one there is.
    """
    change = command.change
    if change is None:
        raise CommandError("the command changes nothing")
    asked = attrs.evolve(change, members=tuple(attrs.evolve(seat, keys=b"") for seat in change.members))
    if there.change() != asked:
        raise CommandError("the next configuration is not the one that the command names")
    if there.stalls != stalls_after(here, command):
        raise CommandError(f"it counts {there.stalls} forced changes by members, not {stalls_after(here, command)}")
    if command.forced and there.coin != here.coin:
        raise CommandError("a forced change keeps the coin key")


def follow_all(
    group: bytes,
    place: Place,
    links: Sequence[HandOver],
    verifiers: Verifiers,
    verify: Callable[[bytes, bytes, bytes], bool],
) -> Place:
    """The last place of a chain. Raises `ChainError`."""
    for link in links:
        place = follow(group, place, link, verifiers, verify)
    return place


def contradict(one: HandOver, other: HandOver) -> bool:
    """Whether two links, each checked, end the same epoch in two ways: evidence that its members broke the rules.

    f + 1 of them at least signed both; whoever holds both stops (SAFETY rule 28).
    """
    return one.ending.epoch == other.ending.epoch and one.ending != other.ending


def signers_of_both(one: HandOver, other: HandOver) -> tuple[MemberId, ...]:
    """The members that signed both of two contradicting links."""
    first = {vote.member for vote in one.certificate.votes}
    return tuple(vote.member for vote in other.certificate.votes if vote.member in first)


@attrs.frozen
class TwoEndings:
    """Evidence: two hand-overs that end one epoch in two ways."""

    first: Annotated[HandOver, Struct(HandOver)]
    second: Annotated[HandOver, Struct(HandOver)]


TWO_ENDINGS: Final = Codec[TwoEndings]("two endings", {1: TwoEndings}, bytes_max=2 * LINK_BYTES_MAX)


def two_endings(one: HandOver, other: HandOver) -> bytes:
    """The proof against those who signed both of two contradicting links, in one defined order."""
    first, second = sorted((one, other), key=lambda link: link.certificate.body)
    return TWO_ENDINGS.encode(TwoEndings(first, second))


def read_two_endings(proof: bytes) -> TwoEndings | None:
    """What `two_endings` made, unchecked; None for other bytes."""
    try:
        return TWO_ENDINGS.decode(proof)
    except WireError:
        return None


class _OnlyVerifies:
    """A verifier where a keyring is asked for."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def sign(self, purpose: str, statement: bytes) -> bytes:
        raise AssertionError("nothing is signed here")

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        return self._verifier.verify(member, purpose, statement, signature)


def only_verifies(verifier: Verifier) -> Keyring:
    """A keyring that can verify, and must not be asked to sign."""
    return _OnlyVerifies(verifier)
