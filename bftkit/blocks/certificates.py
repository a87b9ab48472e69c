"""Quorum certificates: bytes that prove to anybody that so many members signed one statement.

A *vote* is one member's word for a statement. Votes of `size` different members combine to a *certificate*, which is
opaque to everybody but the `Certifier` that made it, so that lists of signatures could give way to threshold
signatures without a change elsewhere (docs/adr/0011 has the choice and its cost).

`SignatureLists`, the one kind that exists, writes a certificate as::

    ceil(n / 8) bytes    whose votes these are: bit i % 8 of byte i // 8 stands for member i of the roster
    size * 64 bytes      their signatures, in the order of the roster

A statement, a set of signers and their signatures have exactly one certificate: there are exactly `size` signatures,
all of them good, and no bit stands for nobody. With one vote more or one bad vote it is good for nobody, so it cannot
be good for one member and bad for another.

What was found good is remembered in the set-up's memo: a vote that came alone and comes again inside a certificate
is not checked again, nor is a certificate that comes by several ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import attrs

from bftkit.core.machine import MemberId
from bftkit.core.memo import Memo
from bftkit.core.ordering import Setup, SignerProtocol
from bftkit.core.wire import Blob

VOTE_BYTES: Final = 64
"""The length of a vote. (It would be another one for threshold signatures.)"""

CERTIFICATE_BYTES_MAX: Final = (1024 >> 3) + 1024 * VOTE_BYTES
"""No certificate is longer: a group has at most 1024 members."""

VOTE_FIELD: Final = Blob(VOTE_BYTES)
"""A vote as a field of a message. A shorter one is no vote, which `Certifier.verify_vote` finds."""

CERTIFICATE_FIELD: Final = Blob(CERTIFICATE_BYTES_MAX)
"""A certificate as a field of a message; `Certifier.verify` looks closer."""


class Certifier(Protocol):
    """One member's way to make and to check certificates of one size, for one purpose (SAFETY rules 1 and 2)."""

    @property
    def size(self) -> int:
        """How many votes make a certificate."""
        ...

    def sign(self, statement: bytes) -> bytes:
        """This member's vote for the statement; the same each time."""
        ...

    def verify_vote(self, member: MemberId, statement: bytes, vote: bytes) -> bool:
        """Whether this is the member's vote for the statement. Never raises on a peer's input."""
        ...

    def combine(self, statement: bytes, votes: Mapping[MemberId, bytes]) -> bytes:
        """A certificate out of verified votes for the statement; of more than `size` some are left out.

        Raises `ValueError` if fewer than `size` members of the group are among them.
        """
        ...

    def verify(self, statement: bytes, certificate: bytes) -> bool:
        """Whether this certifies the statement. Never raises on a peer's input."""
        ...

    def signers(self, certificate: bytes) -> tuple[MemberId, ...]:
        """Whose votes are in it, in roster order: who can be asked for what they certified. () if it is malformed.

        Only a certificate that was verified says the truth about it.
        """
        ...


@attrs.frozen
class SignatureLists:
    """Certificates that are lists of Ed25519 signatures. See the top of this file."""

    size: int
    _purpose: str
    _members: tuple[MemberId, ...]
    _keyring: SignerProtocol
    _memo: Memo
    _me: MemberId
    _bitmap_bytes: int

    @classmethod
    def of(cls, setup: Setup, purpose: str, size: int) -> SignatureLists:
        """For certificates of `size` votes, `setup.quorum.available` or another of the quorum's sizes."""
        assert 0 < size <= setup.quorum.n, "a certificate of nobody would prove anything"
        return cls(size, purpose, setup.members, setup.keyring, setup.memo, setup.me, (setup.quorum.n + 7) >> 3)

    def sign(self, statement: bytes) -> bytes:
        """See `Certifier.sign`."""
        vote = self._keyring.sign(self._purpose, statement)
        self._memo.keep(("vote", self._me, self._purpose, statement, vote))
        return vote

    def verify_vote(self, member: MemberId, statement: bytes, vote: bytes) -> bool:
        """See `Certifier.verify_vote`."""
        key = ("vote", member, self._purpose, statement, vote)
        if self._memo.recall(key) is not None:
            return True
        if not self._keyring.verify(member, self._purpose, statement, vote):
            return False
        self._memo.keep(key)
        return True

    def combine(self, statement: bytes, votes: Mapping[MemberId, bytes]) -> bytes:
        """See `Certifier.combine`."""
        bits = count = 0
        signatures: list[bytes] = []
        for index, member in enumerate(self._members):
            if member in votes:
                bits |= 1 << index
                signatures.append(votes[member])
                count += 1
                if count == self.size:
                    return bits.to_bytes(self._bitmap_bytes, "little") + b"".join(signatures)
        raise ValueError(f"a certificate needs the votes of {self.size} members, not of {count}")

    def verify(self, statement: bytes, certificate: bytes) -> bool:
        """See `Certifier.verify`."""
        key = ("certificate", self.size, self._purpose, statement, certificate)
        if self._memo.recall(key) is not None:
            return True
        signers = self.signers(certificate)
        if not signers:
            return False
        start = self._bitmap_bytes
        for member in signers:
            if not self.verify_vote(member, statement, certificate[start : start + VOTE_BYTES]):
                return False
            start += VOTE_BYTES
        self._memo.keep(key)
        return True

    def signers(self, certificate: bytes) -> tuple[MemberId, ...]:
        """See `Certifier.signers`."""
        if len(certificate) != self._bitmap_bytes + self.size * VOTE_BYTES:
            return ()
        bits = int.from_bytes(certificate[: self._bitmap_bytes], "little")
        # A bit beyond the last member would give one certificate several forms, each with its own digest.
        if bits >> len(self._members) or bits.bit_count() != self.size:
            return ()
        return tuple([member for index, member in enumerate(self._members) if bits >> index & 1])
