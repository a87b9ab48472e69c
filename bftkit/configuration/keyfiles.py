"""Secret keys as files: TOML with the public half beside the secret one.

A `KeyPair` is one Ed25519 key: a member's identity, an operator's or a client's key. (The keys that a member signs
with from epoch to epoch have a file form of their own, `EpochKeys.to_bytes`, since the secrets in it are erased one
by one.) A `CoinShare` is a member's share of the key of the group's coins, for one epoch.

A key file names what it is for, and a wrong one is refused: with the operator's key in a member's place, that
member would sign in the operator's name. Secrets never show in a `repr`, an error text or a log (SAFETY rule 20).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, TypeVar

import attrs

from bftkit.configuration.text import ConfigurationError, hex_bytes, parse_toml, right, structure, to_toml
from bftkit.crypto.keys import SigningKey
from bftkit.crypto.threshold import POINT_SIZE, is_scalar, public_point

T = TypeVar("T")

KeyKind: TypeAlias = Literal["identity", "operator", "client"]

KEY_KINDS: Final = ("identity", "operator", "client")
COIN_KIND: Final = "coin"
EPOCHS_DEFAULT: Final = 256
"""So many epochs are prepared when a member is set up."""

_SECRET_COMMENT: Final = "# A secret key of bftkit. Whoever can read this file can act in its owner's name.\n"
_SECRET_RIGHT: Final = "the secret as 64 hexadecimal digits"
_PUBLIC_RIGHT: Final = "a public key as 64 hexadecimal digits"


@attrs.frozen
class KeyPair:
    """One Ed25519 key and what it is for."""

    kind: KeyKind
    seed: bytes = attrs.field(repr=False)
    """32 secret bytes."""
    public: bytes
    """The public key, 32 bytes."""

    @classmethod
    def of(cls, kind: KeyKind, seed: bytes) -> KeyPair:
        """The key pair of 32 secret bytes, which must come from a source that is good enough for keys."""
        return cls(kind, seed, SigningKey(seed).public)

    @property
    def signing_key(self) -> SigningKey:
        """What signs with this key."""
        return SigningKey(self.seed)

    def to_text(self) -> str:
        """The content of the key's file."""
        return _SECRET_COMMENT + to_toml({"kind": self.kind, "public": self.public.hex(), "secret": self.seed.hex()})

    @classmethod
    def from_text(cls, text: str, kind: KeyKind) -> KeyPair:
        """Reads a key of this kind. Raises `ConfigurationError`, which never has the secret in it."""
        table = _structure(text, _KeyTable, kind)
        public = hex_bytes("public", table.public, 32, "a public key")
        seed = _secret("secret", table.secret)
        if SigningKey(seed).public != public:
            raise ConfigurationError("public", "this is not the public key of the secret", "restore the whole file")
        return cls(kind, seed, public)


@attrs.frozen
class CoinShare:
    """A member's secret share of a coin key, and the epoch that the key is for."""

    epoch: int
    secret: bytes = attrs.field(repr=False)
    """A scalar, 32 bytes."""
    public: bytes
    """The point by which the other members know the share, 32 bytes."""

    @classmethod
    def of(cls, epoch: int, secret: bytes) -> CoinShare:
        """The share with its public point. Raises `ValueError` if this can be no share."""
        return cls(epoch, secret, public_point(secret))

    def to_text(self) -> str:
        """The content of the share's file."""
        return _SECRET_COMMENT + to_toml(
            {"kind": COIN_KIND, "epoch": self.epoch, "public": self.public.hex(), "secret": self.secret.hex()}
        )

    @classmethod
    def from_text(cls, text: str) -> CoinShare:
        """Reads a share. Raises `ConfigurationError`, which never has the secret in it."""
        table = _structure(text, _ShareTable, COIN_KIND)
        if not 0 <= table.epoch < 1 << 64:
            raise ConfigurationError("epoch", f"{table.epoch} is no epoch", "restore the file from a copy")
        public = hex_bytes("public", table.public, POINT_SIZE, "a public point")
        secret = _secret("secret", table.secret)
        if not is_scalar(secret):
            raise ConfigurationError("secret", "this is not a share of a coin key", "restore the file from a copy")
        if public_point(secret) != public:
            raise ConfigurationError("public", "this is not the public point of the share", "restore the whole file")
        return cls(table.epoch, secret, public)


@attrs.frozen
class _KeyTable:
    kind: str = attrs.field(metadata=right(f"one of {', '.join(KEY_KINDS)}"))
    public: str = attrs.field(metadata=right(_PUBLIC_RIGHT))
    secret: str = attrs.field(metadata=right(_SECRET_RIGHT))


@attrs.frozen
class _ShareTable:
    kind: str = attrs.field(metadata=right(f'"{COIN_KIND}"'))
    epoch: int = attrs.field(metadata=right("the epoch that the coin key is for, as a whole number"))
    public: str = attrs.field(metadata=right("a point as 64 hexadecimal digits"))
    secret: str = attrs.field(metadata=right(_SECRET_RIGHT))


def _parsed(text: str) -> Mapping[str, object]:
    try:
        return parse_toml(text)
    except ConfigurationError as error:
        # The parser may quote the line it stumbled over, and that may be the secret.
        raise ConfigurationError(error.where, "this is not a key file", "restore the file from a copy") from None


def _structure(text: str, cls: type[T], kind: str) -> T:
    table = _parsed(text)
    # What the file is for comes first: the keys of another kind's file would only seem misspelt.
    _check_kind(table.get("kind"), kind)
    try:
        return structure(table, cls)
    except ConfigurationError as error:
        if error.where.startswith("secret"):  # the text would show the value
            raise ConfigurationError(error.where, "this is not a secret key", "restore the file from a copy") from None
        raise


def _check_kind(found: object, wanted: str) -> None:
    if isinstance(found, str) and found != wanted:
        known = found if found in (*KEY_KINDS, COIN_KIND) else "unknown"
        raise ConfigurationError(
            "kind", f"the file holds a key of kind {known}, not {wanted}", f"give the path of the {wanted} key"
        )


def _secret(where: str, text: str) -> bytes:
    try:
        return hex_bytes(where, text, 32, "a secret")
    except ConfigurationError:
        raise ConfigurationError(where, "this is not a secret key", "restore the file from a copy") from None
