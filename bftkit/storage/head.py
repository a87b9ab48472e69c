"""The head: a small file that says which segments make up the log, and whose log it is.

The chain inside the segments shows that nothing is missing *between* two of them. It cannot show that the newest or
the oldest file is gone, nor that a segment which was just begun was complete. The head does: it is replaced
atomically and durably after each new segment has been synced, and before old ones are removed. It also holds the
secret from which the records' checks are keyed, and the names of group and member, so that a log in the wrong
folder is refused before anything in it is believed.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final

import attrs

from bftkit.core.digest import digest

HEAD_NAME: Final = "log.head"
"""Name of the head's file."""

SALT_SIZE: Final = 16
"""Length in bytes of a log's secret."""

_MARKER: Final = b"bftkhead"
_VERSION: Final = 1
_FIELDS: Final = struct.Struct("<8sHIIQ16sHH")
_CHECK_SIZE: Final = 16
_NAME_SIZE_MAX: Final = 1024


class HeadDamaged(Exception):
    """The head cannot be read; the text says why."""


@attrs.frozen
class Head:
    """What the head file holds."""

    group: bytes
    """Which group this member serves (its genesis digest, say)."""

    identity: bytes
    """Which member this is (its public key, say)."""

    salt: bytes
    """The log's secret."""

    oldest: int
    """Number of the first segment still kept."""

    newest: int
    """Number of the segment being written."""

    durable: int
    """How many bytes at the start of the newest segment (opening and standing records) are known to be synced."""

    def key(self) -> bytes:
        """The key of the records' checks."""
        sizes = struct.pack("<HH", len(self.group), len(self.identity))
        return digest(b"bftkit log key", self.salt, sizes, self.group, self.identity)

    def encode(self) -> bytes:
        """The bytes of the head file."""
        fields = _FIELDS.pack(
            _MARKER,
            _VERSION,
            self.oldest,
            self.newest,
            self.durable,
            self.salt,
            len(self.group),
            len(self.identity),
        )
        body = fields + self.group + self.identity
        return body + blake2b(body, digest_size=_CHECK_SIZE).digest()

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Read the head file. Raises `HeadDamaged`."""
        body, check = data[:-_CHECK_SIZE], data[-_CHECK_SIZE:]
        if len(body) < _FIELDS.size or blake2b(body, digest_size=_CHECK_SIZE).digest() != check:
            raise HeadDamaged("its check is wrong")
        _, version, oldest, newest, durable, salt, group_size, identity_size = _FIELDS.unpack_from(body)
        if version != _VERSION:
            raise HeadDamaged(f"it has format version {version}; this program reads {_VERSION}")
        names = body[_FIELDS.size :]
        if len(names) != group_size + identity_size:
            raise HeadDamaged("its names have the wrong length")
        return cls(names[:group_size], names[group_size:], salt, oldest, newest, durable)


def check_names(group: bytes, identity: bytes, salt: bytes) -> None:
    """Refuse what the head cannot hold. Raises `ValueError`."""
    if not 0 < len(group) <= _NAME_SIZE_MAX or not 0 < len(identity) <= _NAME_SIZE_MAX:
        raise ValueError(f"group and identity take 1 to {_NAME_SIZE_MAX} bytes each")
    if len(salt) != SALT_SIZE:
        raise ValueError(f"the salt of a log has {SALT_SIZE} bytes, not {len(salt)}")


def segment_name(number: int) -> str:
    """Name of a segment's file; sorts by number."""
    return f"log-{number:010d}.seg"


def segment_number(name: str) -> int | None:
    """The number in a segment's name, or None for any other file."""
    digits = name[4:-4]
    if name.startswith("log-") and name.endswith(".seg") and len(digits) == 10 and digits.isdecimal():
        return int(digits)
    return None
