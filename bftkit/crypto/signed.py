"""Signed bytes and certificates: what one member said, and what a quorum said.

Both keep the *bytes* that were signed. They are verified first and decoded after, and nothing is ever encoded again
in order to be verified. A statement is signed through a `Keyring`, which puts the purpose, the group, the epoch and
the opening hand-over in front (SAFETY rule 2), so that a vote cannot be used anywhere but where it was cast.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

import attrs

from bftkit.core.machine import MemberId
from bftkit.core.wire import Blob, Many, Member, Signature64, Struct
from bftkit.crypto.keys import Keyring


@attrs.frozen
class Signed:
    """`signer` said `body`; the signature covers the body as it stands here."""

    signer: Member
    body: Annotated[bytes, Blob(1 << 20)]
    signature: Signature64

    @classmethod
    def by(cls, me: MemberId, keyring: Keyring, purpose: str, body: bytes) -> Signed:
        """Sign a body as `me`."""
        return cls(me, body, keyring.sign(purpose, body))

    def valid(self, keyring: Keyring, purpose: str) -> bool:
        """Whether the signer really said this for this purpose, in this group and epoch."""
        return keyring.verify(self.signer, purpose, self.body, self.signature)


@attrs.frozen
class Vote:
    """One member's signature under a certificate's statement."""

    member: Member
    signature: Signature64


@attrs.frozen
class Certificate:
    """One statement and the members that signed it, in ascending order of their ids, each once."""

    body: Annotated[bytes, Blob(4096)]
    votes: Annotated[tuple[Vote, ...], Many(Struct(Vote), 1024)]

    @classmethod
    def of(cls, body: bytes, signatures: Mapping[MemberId, bytes]) -> Certificate:
        """A certificate from signatures that were verified one by one."""
        return cls(body, tuple(Vote(member, signatures[member]) for member in sorted(signatures)))

    def valid(self, keyring: Keyring, purpose: str, size: int) -> bool:
        """Whether at least `size` different members signed the statement. Every signature must be good.

        All votes count or none does: a certificate with one bad vote more than it needs is refused too, so that it
        is good for everybody or for nobody.
        """
        assert size > 0, "a certificate of nobody would prove anything"
        members = [vote.member for vote in self.votes]
        if len(members) < size or any(a >= b for a, b in pairwise(members)):
            return False
        return all(keyring.verify(vote.member, purpose, self.body, vote.signature) for vote in self.votes)
