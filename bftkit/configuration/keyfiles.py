"""Secret keys as files: TOML with the public half beside the secret one.

A `KeyPair` is one Ed25519 key: a member's identity, an operator's or a client's key. `EpochSecrets` are a member's
signing keys for all epochs to come, of which the oldest are erased as epochs end (SAFETY rule 28); the public halves
stay, since old signatures must remain checkable and the Merkle paths are computed from them.

A key file names what it is for, and a wrong one is refused: with the operator's key in a member's place, that
member would sign in the operator's name. Secrets never show in a `repr`, an error text or a log (SAFETY rule 20).
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, TypeVar, cast

import attrs
from nacl.signing import SigningKey

from bftkit.configuration.text import ConfigurationError, hex_bytes, parse_toml, right, structure, to_toml

T = TypeVar("T")

KeyKind: TypeAlias = Literal["identity", "operator", "client"]

KEY_KINDS: Final = ("identity", "operator", "client")
EPOCHS_KIND: Final = "epochs"
EPOCHS_DEFAULT: Final = 256
"""So many epochs are prepared when a member is set up."""

_SECRET_COMMENT: Final = "# A secret key of bftkit. Whoever can read this file can act in its owner's name.\n"
_PUBLIC_RIGHT: Final = "a public key as 64 hexadecimal digits"


def public_of(seed: bytes) -> bytes:
    """The Ed25519 public key of a 32-byte secret seed."""
    return bytes(SigningKey(seed).verify_key)


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
        return cls(kind, seed, public_of(seed))

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
        if public_of(seed) != public:
            raise ConfigurationError("public", "this is not the public key of the secret", "restore the whole file")
        return cls(kind, seed, public)


@attrs.frozen
class EpochSecrets:
    """A member's signing keys, epoch by epoch."""

    publics: tuple[bytes, ...]
    """The public keys, from epoch 0 on; none is ever removed."""
    first: int
    """The first epoch whose secret is still here."""
    seeds: tuple[bytes, ...] = attrs.field(repr=False)
    """Secret seeds, 32 bytes each, from epoch `first` on."""

    @classmethod
    def of(cls, seeds: tuple[bytes, ...]) -> EpochSecrets:
        """The keys of so many secret seeds, from epoch 0 on."""
        return cls(tuple(public_of(seed) for seed in seeds), 0, seeds)

    def erase(self, epoch: int) -> EpochSecrets:
        """The same keys without the secrets of all epochs before this one (the file must be overwritten with it)."""
        gone = max(0, epoch - self.first)
        return attrs.evolve(self, first=self.first + gone, seeds=self.seeds[gone:])

    def to_text(self) -> str:
        """The content of the file."""
        return _SECRET_COMMENT + to_toml(
            {
                "kind": EPOCHS_KIND,
                "first": self.first,
                "publics": [public.hex() for public in self.publics],
                "secrets": [seed.hex() for seed in self.seeds],
            }
        )

    @classmethod
    def from_text(cls, text: str) -> EpochSecrets:
        """Reads the keys. Raises `ConfigurationError`, which never has a secret in it."""
        table = _structure(text, _EpochsTable)
        _check_kind(table.kind, EPOCHS_KIND)
        count = len(table.publics)
        if not 0 <= table.first <= count or len(table.secrets) != count - table.first:
            raise ConfigurationError(
                "secrets",
                f"there are {len(table.secrets)} secrets from epoch {table.first} on, for {count} public keys",
                "restore the whole file",
            )
        publics = tuple(hex_bytes(f"publics[{i}]", key, 32, "a public key") for i, key in enumerate(table.publics))
        seeds = tuple(_secret(f"secrets[{i}]", seed) for i, seed in enumerate(table.secrets))
        for index, seed in enumerate(seeds):
            if public_of(seed) != publics[table.first + index]:
                raise ConfigurationError(
                    f"publics[{table.first + index}]",
                    "this is not the public key of its secret",
                    "restore the whole file",
                )
        return cls(publics, table.first, seeds)


@attrs.frozen
class _KeyTable:
    kind: str = attrs.field(metadata=right(f"one of {', '.join(KEY_KINDS)}"))
    public: str = attrs.field(metadata=right(_PUBLIC_RIGHT))
    secret: str = attrs.field(metadata=right("the secret as 64 hexadecimal digits"))


@attrs.frozen
class _EpochsTable:
    kind: str = attrs.field(metadata=right(f'"{EPOCHS_KIND}"'))
    first: int = attrs.field(metadata=right("the first epoch whose secret is here, as a whole number"))
    publics: tuple[str, ...] = attrs.field(metadata=right("a list of public keys"))
    secrets: tuple[str, ...] = attrs.field(metadata=right("a list of secrets"))


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
        known = found if found in (*KEY_KINDS, EPOCHS_KIND) else "unknown"
        raise ConfigurationError(
            "kind", f"the file holds a key of kind {known}, not {wanted}", f"give the path of the {wanted} key"
        )


def _secret(where: str, text: str) -> bytes:
    try:
        return hex_bytes(where, text, 32, "a secret")
    except ConfigurationError:
        raise ConfigurationError(where, "this is not a secret key", "restore the file from a copy") from None


def key_kind(text: str) -> str | None:
    """What the key file says that it holds; None if it is none. For telling files apart, not for trusting them."""
    try:
        kind = cast("dict[str, object]", _parsed(text)).get("kind")
    except ConfigurationError:
        return None
    return kind if isinstance(kind, str) and kind in (*KEY_KINDS, EPOCHS_KIND) else None
