"""Bearer tokens: who may use a member's HTTP interface, and what for.

A token is 256 bits of chance, so a plain digest of it is enough to keep: the member's file has digests only, and who
reads it can ask for nothing. There are two roles, ``read`` and ``operate``; the second includes the first. Neither lets
anybody change the group: that takes an operator's signature under a command, which no token can stand in for. What
``operate`` adds is that commands are taken in at all.

Each member has tokens of its own: one that is shown to a member that was broken into opens no other.
"""

from __future__ import annotations

import hmac
import secrets
import stat
from pathlib import Path
from typing import Final, Literal, TypeAlias

import attrs

from bftkit.configuration.text import ConfigurationError, check_choice, hex_bytes, parse_toml, right, structure, to_toml
from bftkit.core.digest import digest

Role: TypeAlias = Literal["read", "operate"]

ROLES: Final[tuple[Role, ...]] = ("read", "operate")
"""From the least to the most; each includes those before it."""

PREFIX: Final = "bftkit_"
"""What a token begins with, so that it is known for one where it should not be."""
TOKEN_BYTES_MAX: Final = 256
FILE_BYTES_MAX: Final = 1 << 16
TOKENS_MAX: Final = 64

_HEADER: Final = """\
# Who may use this member's HTTP interface. Only digests of tokens stand here; a line that is removed is a token that
# is refused from the member's next start on. Mode 0600.
"""


@attrs.frozen
class Entry:
    """One token, as it is kept."""

    name: str = attrs.field(metadata=right("whose token it is, in a word"))
    role: str = attrs.field(metadata=right(f"one of {', '.join(ROLES)}"))
    digest: str = attrs.field(metadata=right("a digest as 64 hexadecimal digits"))


@attrs.frozen
class _Table:
    token: tuple[Entry, ...] = ()


class Tokens:
    """The tokens that a member accepts."""

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        """Raises `ConfigurationError` for an entry that is none."""
        self.entries = entries
        self._known: list[tuple[bytes, int]] = []
        for number, entry in enumerate(entries):
            check_choice(f"token.{number}.role", entry.role, ROLES)
            kept = hex_bytes(f"token.{number}.digest", entry.digest, 32, "a digest")
            self._known.append((kept, ROLES.index(entry.role)))

    def role_of(self, token: str) -> Role | None:
        """The role of who shows this token; None if nobody should have it. Takes as long for any token."""
        if len(token) > TOKEN_BYTES_MAX:
            return None
        shown = digest_of(token)
        found = -1
        for kept, rank in self._known:
            if hmac.compare_digest(kept, shown):
                found = max(found, rank)
        return ROLES[found] if found >= 0 else None

    def to_text(self) -> str:
        """The file's content."""
        return _HEADER + to_toml({"token": tuple(attrs.asdict(entry) for entry in self.entries)})

    @classmethod
    def from_text(cls, text: str) -> Tokens:
        """Raises `ConfigurationError`."""
        entries = structure(parse_toml(text), _Table).token
        if not 0 < len(entries) <= TOKENS_MAX:
            raise ConfigurationError("token", f"{len(entries)} tokens are listed", f"give 1 to {TOKENS_MAX}")
        return cls(entries)


def new_token() -> str:
    """A fresh one."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> bytes:
    """What is kept of a token."""
    return digest(b"bftkit admin token", token.encode("utf-8", "surrogatepass"))


def entry_of(name: str, role: Role, token: str) -> Entry:
    """A token as it is kept."""
    return Entry(name, role, digest_of(token).hex())


def read_tokens(path: Path) -> Tokens:
    """The tokens in a file. Raises `ConfigurationError`, also if others than its owner may read or write it."""
    return _read(path, "bftkit init writes one with --admin-base-port").inside_tokens()


def read_token(path: Path) -> str:
    """One token, for whoever is to show it. Raises `ConfigurationError`."""
    text = _read(path, "give the path of the file with the token").text.strip()
    if not 0 < len(text) <= TOKEN_BYTES_MAX or not all("!" <= c <= "~" for c in text):
        raise ConfigurationError(str(path), "there is no token in it", "give the path of the file with the token")
    return text


@attrs.frozen
class _File:
    path: Path
    text: str

    def inside_tokens(self) -> Tokens:
        try:
            return Tokens.from_text(self.text)
        except ConfigurationError as error:
            raise error.inside(str(self.path)) from None


def _read(path: Path, advice: str) -> _File:
    try:
        known = path.stat()
        if stat.S_IMODE(known.st_mode) & 0o077:
            mode = f"mode {stat.S_IMODE(known.st_mode):04o}"
            raise ConfigurationError(
                str(path), f"others than its owner can reach this secret ({mode})", f"chmod 600 {path}"
            )
        if known.st_size > FILE_BYTES_MAX:
            raise ConfigurationError(str(path), "the file is far too large", advice)
        return _File(path, path.read_text("utf-8"))
    except UnicodeDecodeError:
        raise ConfigurationError(str(path), "the file is not UTF-8 text", advice) from None
    except OSError as error:
        raise ConfigurationError(str(path), error.strerror or "it cannot be read", advice) from None
