"""Secret keys as files: TOML with the public half beside the secret one.

A `KeyPair` is one Ed25519 key: a member's identity, an operator's or a client's key. (The keys that a member signs
with from epoch to epoch have a file form of their own, `EpochKeys.to_bytes`, since the secrets in it are erased one
by one.)

A key file names what it is for, and a wrong one is refused: with the operator's key in a member's place, that
member would sign in the operator's name. Secrets never show in a `repr`, an error text or a log (SAFETY rule 20).
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, TypeVar

import attrs

from bftkit.configuration.text import ConfigurationError, hex_bytes, parse_toml, right, structure, to_toml
from bftkit.crypto.keys import SigningKey

T = TypeVar("T")

KeyKind: TypeAlias = Literal["identity", "operator", "client"]

KEY_KINDS: Final = ("identity", "operator", "client")
EPOCHS_DEFAULT: Final = 256
"""So many epochs are prepared when a member is set up."""

_SECRET_COMMENT: Final = "# A secret key of bftkit. Whoever can read this file can act in its owner's name.\n"
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
        table = _structure(text, _KeyTable)
        _check_kind(table.kind, kind)
        public = hex_bytes("public", table.public, 32, "a public key")
        seed = _secret("secret", table.secret)
        if SigningKey(seed).public != public:
            raise ConfigurationError("public", "this is not the public key of the secret", "restore the whole file")
        return cls(kind, seed, public)


@attrs.frozen
class _KeyTable:
    kind: str = attrs.field(metadata=right(f"one of {', '.join(KEY_KINDS)}"))
    public: str = attrs.field(metadata=right(_PUBLIC_RIGHT))
    secret: str = attrs.field(metadata=right("the secret as 64 hexadecimal digits"))


def _parsed(text: str) -> object:
    try:
        return parse_toml(text)
    except ConfigurationError as error:
        # The parser may quote the line it stumbled over, and that may be the secret.
        raise ConfigurationError(error.where, "this is not a key file", "restore the file from a copy") from None


def _structure(text: str, cls: type[T]) -> T:
    try:
        return structure(_parsed(text), cls)
    except ConfigurationError as error:
        if error.where.startswith("secret"):  # the text would show the value
            raise ConfigurationError(error.where, "this is not a secret key", "restore the file from a copy") from None
        raise


def _check_kind(found: str, wanted: str) -> None:
    if found != wanted:
        known = found if found in KEY_KINDS else "unknown"
        raise ConfigurationError(
            "kind", f"the file holds a key of kind {known}, not {wanted}", f"give the path of the {wanted} key"
        )


def _secret(where: str, text: str) -> bytes:
    try:
        return hex_bytes(where, text, 32, "a secret")
    except ConfigurationError:
        raise ConfigurationError(where, "this is not a secret key", "restore the file from a copy") from None
