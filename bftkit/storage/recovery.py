"""Reading a log back: which records stand, what to cut, and when to refuse (SAFETY rules 15 and 16).

Nothing in this module changes anything on disk. It ends in one of four ways:

- `Recovered`: every record that was ever synced is there, in order. A torn tail behind them may be cut.
- `LogCorrupt`: something that had been synced is damaged or gone. The member casts no vote; it fetches the state from
  the group and begins a new log.
- `LogMissing`: there is no log. The member has forgotten its votes and counts as amnesic.
- `LogMismatch`: the log is another member's or another group's.

How a reader must treat **standing records** (slot 0): the group that opens a segment (`Log.rotate`) replaces all
standing records before it; standing records appended later add to it. `Recovered.records` has the replaced ones
already taken out. What is left is in the order in which it was written, so standing records of the newest segment
come behind the slotted records of older segments.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import attrs

from bftkit.storage.files import Directory, StorageError
from bftkit.storage.head import HEAD_NAME, Head, HeadDamaged, segment_name, segment_number
from bftkit.storage.records import CHECK_SIZE, NO_CHECK, OVERHEAD, Codec, Damage, Kind

OPENING: Final = struct.Struct(f"<Q{CHECK_SIZE}sI")
"""Payload of an opening record: size and last check of the segment before, number of standing records that follow."""


class LogMissing(StorageError):
    """There is no log here: this member is new or has lost its memory (SAFETY rule 16)."""


class LogMismatch(StorageError):
    """The log belongs to another group or another member."""


class LogCorrupt(StorageError):
    """Synced bytes of the log are damaged or missing (SAFETY rule 15). Nothing was changed on disk."""

    def __init__(self, segment: int, offset: int, reason: str) -> None:
        """`segment`: its number, 0 for the head file; `offset`: byte in it."""
        where = f"segment {segment}, byte {offset}" if segment else "the head file"
        super().__init__(f"the log is corrupt ({where}): {reason}")
        self.segment = segment
        self.offset = offset
        self.reason = reason


@attrs.frozen
class Entry:
    """One record as it was appended."""

    slot: int
    payload: bytes


@attrs.frozen
class SegmentReading:
    """One segment, read and checked."""

    number: int
    entries: tuple[Entry, ...]
    size: int
    """Bytes up to the end of the last good record."""
    torn_bytes: int
    last_check: bytes
    last_kind: Kind
    durable: int
    """Bytes at its start that are proved to have been synced once."""
    slot_max: int
    previous_size: int
    previous_check: bytes


@attrs.frozen
class Reading:
    """A whole log, read and checked, as it lies on disk."""

    head: Head
    segments: tuple[SegmentReading, ...]
    leftovers: tuple[str, ...]
    """Files of an interrupted `rotate` or `cut`; no record that counts is in them."""


@attrs.frozen
class Recovered:
    """What `Log.open` found."""

    records: tuple[Entry, ...]
    """All records that count, in the order in which they were written."""

    torn_bytes: int
    """Length of the torn tail that was cut; 0 after a clean stop."""

    segments: int
    """How many segments the log has."""

    @property
    def standing(self) -> tuple[bytes, ...]:
        """The standing records (slot 0) in force."""
        return tuple(entry.payload for entry in self.records if entry.slot == 0)

    @property
    def slotted(self) -> tuple[Entry, ...]:
        """The records that belong to slots."""
        return tuple(entry for entry in self.records if entry.slot)


@attrs.frozen
class Problem:
    """The first thing wrong with a log; fields as in `LogCorrupt`."""

    segment: int
    offset: int
    reason: str


@attrs.frozen
class Report:
    """What `verify` found. With a problem, the counts cover what lies before it."""

    segments: int
    records: int
    bytes: int
    torn_bytes: int
    problem: Problem | None


def read_segment(codec: Codec, number: int, data: bytes, durable: int, whole: bool) -> SegmentReading:
    """Check one segment.

    `durable`: bytes at its start known from elsewhere to have been synced. `whole`: a newer segment follows, so all
    of it was. Raises `LogCorrupt`.
    """
    entries: list[Entry] = []
    at, last_check, last_kind, slot_max = 0, b"", Kind.OPENING, 0
    previous: bytes | None = None
    previous_size, previous_check, standing = 0, NO_CHECK, 0
    proved = len(data) if whole else durable
    damage: Damage | None = None
    while at < len(data):
        record = codec.record(data, number, at, previous)
        if isinstance(record, Damage):
            damage = record
            break
        header = record.header
        if (header.kind is Kind.OPENING) != (at == 0):
            raise LogCorrupt(number, at, "a segment has one opening record, and it comes first")
        if header.kind is Kind.OPENING:
            if header.length != OPENING.size:
                raise LogCorrupt(number, at, "the opening record has the wrong length")
            previous_size, previous_check, standing = OPENING.unpack(record.payload)
        elif header.kind is not Kind.SEAL:
            entries.append(Entry(header.slot, record.payload))
            slot_max = max(slot_max, header.slot)
        proved = max(proved, header.durable)
        previous = last_check = record.check
        last_kind = header.kind
        at += OVERHEAD + header.length
    if damage is not None:
        if at < proved:
            raise LogCorrupt(number, at, f"{damage.reason}, and these bytes had been synced")
        proof = codec.proof_of_corruption(data, number, damage)
        if proof is not None:
            raise LogCorrupt(number, at, proof)
    if at < proved:
        raise LogCorrupt(number, at, f"the file ends here, but {proved} bytes had been synced")
    if at == 0:
        raise LogCorrupt(number, 0, "the segment is empty")
    if len(entries) < standing:
        raise LogCorrupt(number, at, "standing records are missing")
    return SegmentReading(
        number,
        tuple(entries),
        at,
        len(data) - at,
        last_check,
        last_kind,
        proved,
        slot_max,
        previous_size,
        previous_check,
    )


def read_head(directory: Directory) -> tuple[Head, list[str]]:
    """The head and the names of all segment files. Raises `LogMissing`, `LogCorrupt`."""
    names = directory.names()
    files = [name for name in names if segment_number(name) is not None]
    if HEAD_NAME not in names:
        if files:
            raise LogCorrupt(0, 0, "it is missing, but there are segments")
        raise LogMissing("there is no log in this folder: this member is new, or has lost its memory")
    try:
        head = Head.decode(directory.read(HEAD_NAME))
    except HeadDamaged as error:
        raise LogCorrupt(0, 0, str(error)) from None
    return head, files


def _leftovers(directory: Directory, head: Head, codec: Codec, files: Sequence[str]) -> tuple[str, ...]:
    """Files outside the head's range. Raises `LogCorrupt` if the head must be older than they are."""
    found: list[str] = []
    for name in files:
        number = segment_number(name)
        assert number is not None
        if head.oldest <= number <= head.newest:
            continue
        if number > head.newest:
            # An interrupted `rotate` leaves a segment that holds no more than its opening and standing records. More
            # than that means that the head did move on and its disk then lost it; the records there may be promises.
            data = directory.read(name)
            if number > head.newest + 1 or codec.holds_entries(data):
                raise LogCorrupt(number, 0, f"the head says that segment {head.newest} is the newest")
        found.append(name)
    return tuple(found)


def read_log(directory: Directory) -> Reading:
    """Read and check a whole log. Changes nothing. Raises `LogMissing`, `LogCorrupt`."""
    reading = _Walk(directory)
    reading.run()
    assert reading.head is not None
    return Reading(reading.head, tuple(reading.segments), reading.leftovers)


class _Walk:
    """Reads segment after segment and keeps what it has when an exception ends it, for `verify`."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.head: Head | None = None
        self.segments: list[SegmentReading] = []
        self.leftovers: tuple[str, ...] = ()

    def run(self) -> None:
        head, files = read_head(self.directory)
        self.head = head
        codec = Codec(head.key())
        self.leftovers = _leftovers(self.directory, head, codec, files)
        for number in range(head.oldest, head.newest + 1):
            name = segment_name(number)
            if name not in files:
                raise LogCorrupt(number, 0, "the file of this segment is missing")
            newest = number == head.newest
            segment = read_segment(codec, number, self.directory.read(name), head.durable if newest else 0, not newest)
            if self.segments:
                before = self.segments[-1]
                if before.size != segment.previous_size or before.last_check != segment.previous_check:
                    raise LogCorrupt(
                        before.number,
                        before.size,
                        f"segment {number} follows byte {segment.previous_size} of it, and another record",
                    )
            elif number == 1 and segment.previous_check != NO_CHECK:
                raise LogCorrupt(number, 0, "the first segment claims to follow another")
            self.segments.append(segment)


def recovered(reading: Reading) -> Recovered:
    """The records that count: those for slots from all segments, standing ones from the newest only."""
    newest = reading.segments[-1].number
    records = tuple(
        entry for segment in reading.segments for entry in segment.entries if entry.slot or segment.number == newest
    )
    return Recovered(records, reading.segments[-1].torn_bytes, len(reading.segments))


def verify(directory: Directory) -> Report:
    """Check a log without changing anything; for `bftkit log verify`. Raises `LogMissing`, `StorageFailed`.

    Nobody may write the log meanwhile: a segment that is begun or cut while this reads looks like damage.
    """
    walk = _Walk(directory)
    problem: Problem | None = None
    try:
        walk.run()
    except LogCorrupt as error:
        problem = Problem(error.segment, error.offset, error.reason)
    return Report(
        segments=len(walk.segments),
        records=sum(len(segment.entries) for segment in walk.segments),
        bytes=sum(segment.size for segment in walk.segments),
        torn_bytes=sum(segment.torn_bytes for segment in walk.segments),
        problem=problem,
    )
