"""The record: how one entry of the log lies in a segment, and how the reader tells harm from a torn end.

A record is a header of fixed size, a check and the payload:

    field      bytes   meaning
    marker       4     the same in all records of a log, so that they can be found again behind a damaged one
    kind         1     `Kind`
    length       4     bytes of the payload
    slot         8     the slot that the record is about; 0: a standing record
    segment      4     number of the segment it was written to
    offset       8     where in the segment it starts
    durable      8     how many bytes of this segment were known to be synced when the record was made
    previous    16     check of the record before it (across segments too): the chain
    header crc   4     CRC-32 of the fields above, started from a secret
    check       16     BLAKE2b of header and payload, keyed with a secret

Since the check covers `previous`, a record vouches for everything before it, and since it covers `segment` and
`offset`, a record that was moved, doubled or swapped is known for what it is. Little-endian throughout.

**Torn or corrupt?** A record that fails its check at offset p is either the remains of a write that no sync covered,
or synced data gone bad. The field `durable` decides: it is raised only after a sync has returned, so a later record
with `durable > p` proves that the bytes at p were safe once, and the log is corrupt. Without such proof the rest is
a torn tail: no sync that covered it has returned, or its return left no trace, and a crash may have kept any subset
of its pages in any order. A header alone is proof enough, because the payload behind it may be torn for itself. A
valid record in a place where it was not written is corruption also: no torn write moves bytes.

Marker, start of the CRC and key come from a secret of the log, so that no client can plant, inside its operations,
bytes that pass for records or that make the search for records slow.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

import attrs

CHECK_SIZE: Final = 16
"""Length in bytes of a record's check."""

NO_CHECK: Final = bytes(CHECK_SIZE)
"""Stands as `previous` in the very first record of a log."""

PAYLOAD_SIZE_MAX: Final = 1 << 30
"""No record may be longer (bytes); a larger length in a header means damage."""

_FIELDS: Final = struct.Struct("<4sBIQIQQ16s")
_CRC: Final = struct.Struct("<I")
_CRC_AT: Final = _FIELDS.size
_CHECK_AT: Final = _CRC_AT + _CRC.size

OVERHEAD: Final = _CHECK_AT + CHECK_SIZE
"""Bytes of a record beside its payload."""


class Kind(enum.IntEnum):
    """What a record is there for."""

    OPENING = 1
    """First record of a segment: ties it to the segment before it."""
    STANDING = 2
    """Written by `Log.rotate` right behind the opening: replaces all earlier standing records."""
    ENTRY = 3
    """Written by `Log.append`."""
    SEAL = 4
    """Says only, by its field `durable`, that what lies before it was synced."""


_KINDS: Final = frozenset(int(kind) for kind in Kind)


@attrs.frozen
class Header:
    """The fixed part of a record, whose CRC was right."""

    kind: Kind
    length: int
    slot: int
    segment: int
    offset: int
    durable: int
    previous: bytes


@attrs.frozen
class Record:
    """A whole record, whose check was right."""

    header: Header
    payload: bytes
    check: bytes


@attrs.frozen
class Damage:
    """Why the bytes at `offset` are no record, in words for the operator."""

    offset: int
    reason: str


class Codec:
    """Writes and reads the records of one log, whose secret it knows."""

    __slots__ = ("_crc_start", "_hasher", "_marker")

    def __init__(self, key: bytes) -> None:
        """`key`: 32 bytes, the same for all segments of a log."""
        assert len(key) == 32
        self._hasher = blake2b(key=key, digest_size=CHECK_SIZE)
        (self._crc_start,) = _CRC.unpack(blake2b(b"header crc", key=key, digest_size=_CRC.size).digest())
        self._marker = blake2b(b"marker", key=key, digest_size=4).digest()

    @property
    def marker(self) -> bytes:
        """The bytes with which every record of the log begins."""
        return self._marker

    def encode(
        self, kind: int, slot: int, segment: int, offset: int, durable: int, previous: bytes, payload: bytes
    ) -> tuple[bytes, bytes]:
        """The bytes that go in front of the payload, and the record's check (the next record's `previous`)."""
        fields = _FIELDS.pack(self._marker, kind, len(payload), slot, segment, offset, durable, previous)
        header = fields + _CRC.pack(zlib.crc32(fields, self._crc_start))
        hasher = self._hasher.copy()
        hasher.update(header)
        hasher.update(payload)
        check = hasher.digest()
        return header + check, check

    def header(self, data: bytes, at: int) -> Header | None:
        """The header at this place, or None if there is none whose CRC is right."""
        if at + OVERHEAD > len(data):
            return None
        fields = data[at : at + _CRC_AT]
        (crc,) = _CRC.unpack_from(data, at + _CRC_AT)
        if zlib.crc32(fields, self._crc_start) != crc:
            return None
        marker, kind, length, slot, segment, offset, durable, previous = _FIELDS.unpack(fields)
        if marker != self._marker or kind not in _KINDS:
            return None
        return Header(Kind(kind), length, slot, segment, offset, durable, previous)

    def _body(self, data: bytes, at: int, header: Header) -> Record | None:
        start = at + OVERHEAD
        end = start + header.length
        if header.length > PAYLOAD_SIZE_MAX or end > len(data):
            return None
        payload = data[start:end]
        check = data[at + _CHECK_AT : start]
        hasher = self._hasher.copy()
        hasher.update(data[at : at + _CHECK_AT])
        hasher.update(payload)
        return Record(header, payload, check) if hasher.digest() == check else None

    def record(self, data: bytes, segment: int, at: int, previous: bytes | None) -> Record | Damage:
        """The record at this place of the segment, which must follow the one with check `previous` (None: any)."""
        header = self.header(data, at)
        if header is None:
            return Damage(at, "no record begins here: the header is cut short or damaged")
        if header.segment != segment or header.offset != at:
            return Damage(at, f"the record belongs at byte {header.offset} of segment {header.segment}")
        record = self._body(data, at, header)
        if record is None:
            return Damage(at, "the record is cut short or its check is wrong")
        if previous is not None and header.previous != previous:
            return Damage(at, "the record does not follow the one before it")
        return record

    def proof_of_corruption(self, data: bytes, segment: int, damage: Damage) -> str | None:
        """Why the damage cannot be a torn tail, in words, or None if it may be one.

        Looks at every marker from the damage on, so a wrong length misleads nobody. Linear in the bytes searched.
        """
        for at in self._markers(data, damage.offset):
            header = self.header(data, at)
            if header is None:
                continue
            if header.segment == segment and header.offset == at:
                if header.durable > damage.offset:
                    return f"{damage.reason}, and the record at byte {at} was written after a sync that covered it"
            elif self._body(data, at, header) is not None:
                return (
                    f"{damage.reason}, and the record at byte {at} belongs at byte {header.offset} "
                    f"of segment {header.segment}"
                )
        return None

    def holds_entries(self, data: bytes) -> bool:
        """Whether anything in these bytes is a record that `Log.append` made, however damaged its surroundings."""
        headers = (self.header(data, at) for at in self._markers(data, 0))
        return any(header is not None and header.kind in (Kind.ENTRY, Kind.SEAL) for header in headers)

    def _markers(self, data: bytes, start: int) -> Iterator[int]:
        at = data.find(self._marker, start)
        while at >= 0:
            yield at
            at = data.find(self._marker, at + 1)
