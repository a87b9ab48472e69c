"""Signatures for simulated worlds: a keyed hash in the place of Ed25519, a hundred times as fast.

Each member's secret comes from the world's seed. Verifying recomputes the hash, so the world must be trusted not to
forge, and is: nothing signs but through a `FastKeyring`, and an adversary is handed its own member's only. The bytes
that are bound are those of `Ed25519Keyring`, so a statement that is shown in another context fails here as it would
there (SAFETY rule 2).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import attrs

from bftkit.core.machine import MemberId
from bftkit.crypto.keys import SIGNATURE_SIZE, framed_statement, purpose_prefix, signing_context


class _World:
    """The members' secrets, as hash objects that already hold secret, purpose and context."""

    def __init__(self, seed: bytes, context: bytes, members: Iterable[MemberId]) -> None:
        self._members = frozenset(members)
        self._seed = blake2b(seed, digest_size=64, person=b"bftkit sim keys").digest()
        self._context = context
        self._ready: dict[tuple[MemberId, str], blake2b] = {}

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def signature(self, member: MemberId, purpose: str, statement: bytes) -> bytes:
        ready = self._ready.get((member, purpose))
        if ready is None:
            secret = blake2b(member.encode(), digest_size=64, key=self._seed).digest()
            ready = blake2b(purpose_prefix(purpose) + self._context, digest_size=SIGNATURE_SIZE, key=secret)
            self._ready[member, purpose] = ready
        hasher = ready.copy()
        hasher.update(framed_statement(statement))
        return hasher.digest()


@attrs.frozen(eq=False)
class FastKeyring:
    """One member's keyring in one epoch of a simulated group; see `fast_keyrings`."""

    me: MemberId
    _world: _World = attrs.field(repr=False)

    def sign(self, purpose: str, statement: bytes) -> bytes:
        return self._world.signature(self.me, purpose, statement)

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        return member in self._world and self._world.signature(member, purpose, statement) == signature

    def __deepcopy__(self, memo: object) -> FastKeyring:
        return self


def fast_keyrings(
    seed: bytes, group: bytes, epoch: int, opening: bytes, members: Iterable[MemberId]
) -> dict[MemberId, FastKeyring]:
    """The keyrings of all members of a simulated group, by member.

    `group` and `opening` have 32 bytes, as in `Ed25519Keyring`; the seed has any length. Raises ValueError for
    other lengths.
    """
    names = tuple(members)
    world = _World(seed, signing_context(group, epoch, opening), names)
    return {name: FastKeyring(name, world) for name in names}
