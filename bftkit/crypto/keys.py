"""Signatures: Ed25519 keys, keys for each epoch, and what a protocol machine signs and verifies with.

A member has one signing key for each epoch. Its entry in the roster commits to the public halves of all of them in
advance, by a Merkle root; the private half of an epoch is erased once the successor's hand-over is durable, so that
whoever breaks in later cannot sign for the past, and old proofs stay checkable with the public half (SAFETY rule 28).

Every string that a member signs begins with its purpose, the group, the epoch and the digest of the hand-over that
opened the epoch (SAFETY rule 2). Exactly::

    "bftkit/1/" | purpose | 0 | group 32 | epoch 8 | opening 32 | 0 | statement             up to 128 bytes
    "bftkit/1/" | purpose | 0 | group 32 | epoch 8 | opening 32 | 1 | digest(statement)     longer ones

A purpose has no zero byte, all else before the last byte string has a fixed length, and the byte 0 or 1 tells a short
statement from a digest, so that no two (purpose, group, epoch, opening, statement) give the same string. Long ones
are hashed first because Ed25519 runs twice over what it signs, and the binding copies it.

A client's signature binds purpose and group only, so that an undecided request can move to the next epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, Protocol

import attrs
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from bftkit.core.digest import DIGEST_SIZE, digest
from bftkit.core.machine import MemberId
from bftkit.crypto import merkle

SEED_SIZE: Final = 32
PUBLIC_KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64

STATEMENT_WHOLE_MAX: Final = 128
"""Statements up to so many bytes are signed as they are, longer ones by their digest."""

TREES_KEPT: Final = 32
"""The trees over so many members' lists of keys are kept: every change of the configuration asks for the same ones,
some of them while clients wait."""

_DOMAIN: Final = b"bftkit/1/"
_EPOCH_LEAF: Final = b"bftkit/1/epoch-key\0"


class SigningKey:
    """An Ed25519 key pair, from a secret seed of 32 bytes. Shows its public half only."""

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        """Raises ValueError if the seed has another length; the text does not show it."""
        if len(seed) != SEED_SIZE:
            raise ValueError(f"the seed of a signing key has {SEED_SIZE} bytes, not {len(seed)}")
        self.public: bytes
        """32 bytes."""
        self._secret: bytes
        self.public, self._secret = crypto_sign_seed_keypair(seed)

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes; the same each time."""
        return crypto_sign(message, self._secret)[:SIGNATURE_SIZE]

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SigningKey) and self.public == other.public

    def __hash__(self) -> int:
        return hash(self.public)

    def __copy__(self) -> SigningKey:
        return self

    def __deepcopy__(self, memo: object) -> SigningKey:
        # Nothing in it ever changes; a machine that is forked shares its key.
        return self

    def __reduce__(self) -> str:
        raise TypeError("a signing key is not pickled: secrets leave through key files only (SAFETY rule 20)")


def verify_signature(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the owner of the public key signed the message. False for keys and signatures of a wrong length."""
    # libsodium reads 32 bytes of key whatever we give it, and splits what it gets after 64 bytes.
    if len(public) != PUBLIC_KEY_SIZE or len(signature) != SIGNATURE_SIZE:
        return False
    try:
        crypto_sign_open(signature + message, public)
    except BadSignatureError:
        return False
    return True


# Keys of the epochs.


class EpochKeys:
    """A member's signing keys, one for each epoch from 0 on; some first ones may be erased.

    Python cannot overwrite bytes in memory: `erase_before` forgets the secrets, so that they are in no file written
    afterwards, and the memory is reused when it is. What is on disk must be overwritten by the owner of the file.
    """

    def __init__(self, publics: Sequence[bytes], first: int, seeds: Sequence[bytes]) -> None:
        """From the public keys of all epochs and the seeds from epoch `first` on.

        Raises ValueError if they do not fit together; the text shows no secret.
        """
        if not 0 <= first <= len(publics) or len(seeds) != len(publics) - first:
            raise ValueError(f"{len(seeds)} seeds from epoch {first} on do not fit {len(publics)} public keys")
        self._publics = tuple(publics)
        self._first = first
        self._keys = [SigningKey(seed) for seed in seeds]
        self._seeds = list(seeds)
        for epoch, public in enumerate(self._publics):
            if len(public) != PUBLIC_KEY_SIZE:
                raise ValueError(f"the public key of epoch {epoch} has {len(public)} bytes, not {PUBLIC_KEY_SIZE}")
        for epoch, key in enumerate(self._keys, first):
            if key.public != self._publics[epoch]:
                raise ValueError(f"the seed and the public key of epoch {epoch} are not a pair")
        self._tree = merkle.Tree([_epoch_leaf(epoch, public) for epoch, public in enumerate(self._publics)])

    @classmethod
    def generate(cls, seeds: Sequence[bytes]) -> EpochKeys:
        """The keys of epochs 0, 1, … from secret seeds of 32 bytes. Raises ValueError for other lengths."""
        return cls([SigningKey(seed).public for seed in seeds], 0, seeds)

    @property
    def root(self) -> bytes:
        """What the roster says of these keys: a Merkle root over all public halves."""
        return self._tree.root

    @property
    def count(self) -> int:
        """For how many epochs there are keys, erased ones included."""
        return len(self._publics)

    @property
    def first(self) -> int:
        """The first epoch that can still be signed for."""
        return self._first

    @property
    def publics(self) -> tuple[bytes, ...]:
        """The public keys of all epochs, erased or not."""
        return self._publics

    def public(self, epoch: int) -> bytes:
        """The public key of the epoch, erased or not. Raises ValueError if the epoch never had a key here."""
        self._require(epoch)
        return self._publics[epoch]

    def path(self, epoch: int) -> tuple[bytes, ...]:
        """The proof that the epoch's public key lies under `root`. Raises ValueError if there is no such key."""
        self._require(epoch)
        return self._tree.path(epoch)

    def signing_key(self, epoch: int) -> SigningKey:
        """The key to sign with in this epoch. Raises ValueError if it is erased or never existed."""
        self._require(epoch)
        if epoch < self._first:
            raise ValueError(f"the private key of epoch {epoch} is erased; the first that is left is {self._first}")
        return self._keys[epoch - self._first]

    def erase_before(self, epoch: int) -> None:
        """Forgets the secrets of all earlier epochs, for good. Public keys and proofs stay.

        Raises ValueError if the epoch has no key, since then nothing would be left to sign with.
        """
        self._require(epoch)
        gone = max(0, epoch - self._first)
        del self._keys[:gone], self._seeds[:gone]
        self._first += gone

    def to_bytes(self) -> bytes:
        """The content of a key file: secrets, to be written with mode 0600."""
        body = b"".join(
            (_FILE_MAGIC, self.count.to_bytes(8, "big"), self._first.to_bytes(8, "big"), *self._publics, *self._seeds)
        )
        return body + digest(body)

    @classmethod
    def from_bytes(cls, data: bytes) -> EpochKeys:
        """Reads what `to_bytes` wrote. Raises ValueError, without a secret in it, if the file is not whole."""
        body, check = data[:-DIGEST_SIZE], data[-DIGEST_SIZE:]
        header = len(_FILE_MAGIC)
        if not data.startswith(_FILE_MAGIC):
            raise ValueError("this is no file of epoch keys")
        if len(body) < header + 16 or digest(body) != check:
            raise ValueError("the file of epoch keys is damaged or cut short")
        count = int.from_bytes(body[header : header + 8], "big")
        first = int.from_bytes(body[header + 8 : header + 16], "big")
        rest = body[header + 16 :]
        if first > count or len(rest) != PUBLIC_KEY_SIZE * count + SEED_SIZE * (count - first):
            raise ValueError("the file of epoch keys is damaged: its numbers do not fit its length")
        words = [rest[start : start + 32] for start in range(0, len(rest), 32)]
        return cls(words[:count], first, words[count:])

    def __repr__(self) -> str:
        return f"EpochKeys(root={self.root.hex()}, count={self.count}, first={self._first})"

    def __reduce__(self) -> str:
        raise TypeError("epoch keys are not pickled: secrets leave through key files only (SAFETY rule 20)")

    def _require(self, epoch: int) -> None:
        if not 0 <= epoch < len(self._publics):
            raise ValueError(f"there is no key for epoch {epoch}: the keys reach from 0 to {len(self._publics) - 1}")


_FILE_MAGIC: Final = b"bftkit epoch keys 1\n"


def _epoch_leaf(epoch: int, public: bytes) -> bytes:
    return digest(_EPOCH_LEAF, epoch.to_bytes(8, "big"), public)


def epoch_key_proof(publics: Sequence[bytes], epoch: int) -> tuple[bytes, tuple[bytes, ...]]:
    """(root, path): what commits to all these public keys, and the proof that the epoch's is one of them.

    Raises `IndexError` if there is no key for the epoch.
    """
    tree = _epoch_tree(tuple(publics))
    return tree.root, tree.path(epoch)


@lru_cache(maxsize=TREES_KEPT)
def _epoch_tree(publics: tuple[bytes, ...]) -> merkle.Tree:
    return merkle.Tree([_epoch_leaf(number, public) for number, public in enumerate(publics)])


def verify_epoch_key(root: bytes, count: int, epoch: int, public: bytes, path: Sequence[bytes]) -> bool:
    """Whether a member that is committed to `root` over `count` epochs signs with this key in this epoch.

    Never raises on a peer's input.
    """
    if not 0 <= epoch < count <= merkle.COUNT_MAX or len(public) != PUBLIC_KEY_SIZE:
        return False
    return merkle.verify(root, count, epoch, _epoch_leaf(epoch, public), path)


# What machines sign and verify with.


class Keyring(Protocol):
    """One member's signatures in one epoch of one group; the domain separation is inside."""

    def sign(self, purpose: str, statement: bytes) -> bytes:
        """This member's 64-byte signature under the statement, for this purpose only."""
        ...

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """Whether the member made this signature. False for a stranger; never raises on a peer's input."""
        ...


@attrs.frozen(eq=False)
class Ed25519Keyring:
    """The keyring of real groups. Raises ValueError if its parts do not fit together."""

    group: bytes
    """The group's id, 32 bytes."""
    epoch: int
    opening: bytes
    """Digest of the hand-over (or genesis) that opened the epoch, 32 bytes."""
    me: MemberId
    key: SigningKey
    """This member's key of the epoch."""
    publics: Mapping[MemberId, bytes] = attrs.field(repr=False)
    """All members' public keys of the epoch."""
    _prefixes: dict[str, bytes] = attrs.field(init=False, repr=False, factory=dict[str, bytes])

    def __attrs_post_init__(self) -> None:
        signing_context(self.group, self.epoch, self.opening)
        if self.publics.get(self.me) != self.key.public:
            raise ValueError(f"the key is not the one that the members know {self.me} by in epoch {self.epoch}")

    def sign(self, purpose: str, statement: bytes) -> bytes:
        return self.key.sign(self._signed(purpose, statement))

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        public = self.publics.get(member)
        return public is not None and verify_signature(public, self._signed(purpose, statement), signature)

    def _signed(self, purpose: str, statement: bytes) -> bytes:
        prefix = self._prefixes.get(purpose)
        if prefix is None:
            # Purposes are constants of our own code, so this stays small.
            prefix = purpose_prefix(purpose) + signing_context(self.group, self.epoch, self.opening)
            self._prefixes[purpose] = prefix
        return prefix + framed_statement(statement)

    def __deepcopy__(self, memo: object) -> Ed25519Keyring:
        return self


@attrs.frozen(eq=False)
class Ed25519Verifier:
    """The half of a keyring that needs no secret: for clients, and for whoever checks evidence."""

    group: bytes
    epoch: int
    opening: bytes
    publics: Mapping[MemberId, bytes] = attrs.field(repr=False)

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """See `Keyring.verify`."""
        public = self.publics.get(member)
        if public is None:
            return False
        context = signing_context(self.group, self.epoch, self.opening)
        return verify_signature(public, purpose_prefix(purpose) + context + framed_statement(statement), signature)


def purpose_prefix(purpose: str) -> bytes:
    """The first bytes of every signed string. Raises ValueError unless the purpose is printable ASCII."""
    if not purpose or not purpose.isascii() or not purpose.isprintable():
        raise ValueError(f"a purpose is printable ASCII text, not {purpose!r}")
    return _DOMAIN + purpose.encode("ascii") + b"\0"


def signing_context(group: bytes, epoch: int, opening: bytes) -> bytes:
    """Group, epoch and opening as they stand in a signed string: 72 bytes. Raises ValueError for wrong lengths."""
    if len(group) != DIGEST_SIZE or len(opening) != DIGEST_SIZE:
        raise ValueError(f"a group id and an opening have {DIGEST_SIZE} bytes, not {len(group)} and {len(opening)}")
    if not 0 <= epoch < 1 << 64:
        raise ValueError(f"an epoch is a number from 0 on, not {epoch}")
    return group + epoch.to_bytes(8, "big") + opening


def framed_statement(statement: bytes) -> bytes:
    """The last part of a signed string: the statement itself if it is short, else its digest, told apart."""
    return b"\0" + statement if len(statement) <= STATEMENT_WHOLE_MAX else b"\1" + digest(statement)


def client_statement(group: bytes, statement: bytes) -> bytes:
    """What a client signs: bound to the purpose and the group, not to an epoch (SAFETY rule 2).

    Raises ValueError if the group's id has not 32 bytes.
    """
    if len(group) != DIGEST_SIZE:
        raise ValueError(f"a group id has {DIGEST_SIZE} bytes, not {len(group)}")
    return purpose_prefix("client") + group + framed_statement(statement)
