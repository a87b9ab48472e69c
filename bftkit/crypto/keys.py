"""Ed25519 keys: what members, clients and operators sign with, and how a signature is tied to its purpose.

Every string that a member signs begins with its purpose, the group, the epoch and the digest of the hand-over that
opened the epoch (SAFETY rule 2), so that nothing signed for one use can be shown as if it were for another. A
`Keyring` puts that prefix in front; machines only name the purpose.

A member signs with a key of the epoch, to which its roster entry commits in advance by a Merkle root; when the epoch
is over the secret half is erased, and old signatures stay checkable with the public half (rule 28).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import attrs
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.crypto import merkle

SEED_SIZE: Final = 32
PUBLIC_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64

_DOMAIN: Final = b"bftkit/1/"


class SigningKey:
    """An Ed25519 key pair, from 32 secret bytes. Its `repr` shows the public half only."""

    __slots__ = ("_secret", "public", "seed")

    def __init__(self, seed: bytes) -> None:
        """`seed`: 32 bytes from a source that is good enough for keys. Raises `ValueError` for another length."""
        if len(seed) != SEED_SIZE:
            raise ValueError(f"a key's seed has {SEED_SIZE} bytes, not {len(seed)}")
        self.seed = seed
        self.public: bytes
        self.public, self._secret = crypto_sign_seed_keypair(seed)

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()[:16]}…)"

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature under `message`."""
        return crypto_sign(message, self._secret)[:SIGNATURE_SIZE]


def verify_signature(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the owner of `public` signed `message`. Answers any input, however malformed."""
    if len(public) != PUBLIC_SIZE or len(signature) != SIGNATURE_SIZE:
        return False
    try:
        crypto_sign_open(signature + message, public)
    except CryptoError:
        return False
    return True


class Keyring(Protocol):
    """What a protocol machine signs and verifies with, for one member in one epoch."""

    def sign(self, purpose: str, statement: bytes) -> bytes:
        """This member's 64-byte signature under the statement, for this purpose only."""
        ...

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """Whether that member made this signature. Never raises on a peer's input."""
        ...


class Ed25519Keyring:
    """The real keyring.

    What is signed is ``bftkit/1/`` purpose NUL group epoch opening statement: the purpose holds no NUL and the parts
    between it and the statement have fixed lengths, so no two (purpose, statement) pairs give the same string.
    """

    __slots__ = ("_key", "_publics", "_scope", "me")

    def __init__(
        self,
        group: bytes,
        epoch: int,
        opening: bytes,
        me: MemberId,
        key: SigningKey,
        publics: Mapping[MemberId, bytes],
    ) -> None:
        """`opening`: digest of the hand-over that opened the epoch (the group id, for epoch 0)."""
        if len(group) != 32 or len(opening) != 32:
            raise ValueError("the group id and the opening digest have 32 bytes each")
        self.me = me
        self._key = key
        self._publics = dict(publics)
        self._scope = b"\0" + group + epoch.to_bytes(8, "big") + opening

    def sign(self, purpose: str, statement: bytes) -> bytes:
        """See `Keyring`."""
        return self._key.sign(_DOMAIN + purpose.encode() + self._scope + statement)

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """See `Keyring`."""
        public = self._publics.get(member)
        if public is None:
            return False
        return verify_signature(public, _DOMAIN + purpose.encode() + self._scope + statement, signature)


@attrs.define
class EpochKeys:
    """A member's signing keys for all epochs to come. A seed of None is erased."""

    seeds: list[bytes | None] = attrs.field(repr=False)
    publics: tuple[bytes, ...] = attrs.field(repr=False)

    @classmethod
    def generate(cls, seeds: Sequence[bytes]) -> EpochKeys:
        """Keys for epochs 0 to len(seeds) - 1, each from its own 32 secret bytes."""
        if not seeds:
            raise ValueError("a member needs a key for at least one epoch")
        return cls(list(seeds), tuple(SigningKey(seed).public for seed in seeds))

    @property
    def root(self) -> bytes:
        """The commitment that stands in the roster."""
        return merkle.root([digest(public) for public in self.publics])

    @property
    def count(self) -> int:
        """How many epochs there are keys for."""
        return len(self.publics)

    def public(self, epoch: int) -> bytes:
        """The public key of an epoch."""
        return self.publics[epoch]

    def path(self, epoch: int) -> tuple[bytes, ...]:
        """The proof that `public(epoch)` belongs to `root`."""
        return merkle.path([digest(public) for public in self.publics], epoch)

    def signing_key(self, epoch: int) -> SigningKey:
        """The key of an epoch. Raises `LookupError` if it was erased."""
        seed = self.seeds[epoch]
        if seed is None:
            raise LookupError(f"the signing key of epoch {epoch} was erased when that epoch ended")
        return SigningKey(seed)

    def erase_before(self, epoch: int) -> None:
        """Forget the secret keys of earlier epochs."""
        for index in range(min(epoch, len(self.seeds))):
            self.seeds[index] = None


def verify_epoch_key(root: bytes, count: int, epoch: int, public: bytes, path: Sequence[bytes]) -> bool:
    """Whether `public` is the key that the owner of `root` committed to for this epoch."""
    return merkle.verify(root, count, epoch, digest(public), path)
