"""The durable log: what a member has promised, kept so that it never contradicts itself after a restart.

One writer appends records to numbered segments. `append` only buffers; `flush` hands everything buffered to the file
in one write; `sync` also waits until the disk has it. The node calls `sync` once a round, before it lets any message
or reply go that depends on what was appended (SAFETY rule 5). `rotate` begins a new segment with the standing records
that must outlive old segments; `cut` removes the old ones once a checkpoint covers them; `seal` marks, while nothing
else is to do, that all before it was synced.

After a restart `Log.open` reads everything back (`recovery.py`) and tells apart what a crash may do to unsynced bytes
(a torn tail: cut) from damage to synced ones (corruption: `LogCorrupt`, and nothing is touched). The proof lies in
the records themselves: each says how much of its segment was synced when it was made (`records.py`).

What cannot be told: if the power fails right after a sync, before any later record or seal has reached the disk, and
a bit of that very last group has flipped as well, the group looks torn. `seal` keeps this window small.

The module is pure; it runs on a real directory (`disk.py`) and on a simulated one (`memory_files.py`) alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from bftkit.storage.files import AppendFile, Directory, DiskFull, StorageFailed
from bftkit.storage.head import (
    HEAD_NAME,
    Head,
    check_names,
    segment_name,
    segment_number,
)
from bftkit.storage.record_log import Durability, LogCounters, MemoryLog, RecordLog, strictest
from bftkit.storage.records import NO_CHECK, OVERHEAD, PAYLOAD_SIZE_MAX, Codec, Kind
from bftkit.storage.recovery import (
    OPENING,
    Entry,
    LogCorrupt,
    LogMismatch,
    LogMissing,
    Problem,
    Recovered,
    Report,
    read_log,
    recovered,
    verify,
)

__all__ = [
    "Durability",
    "Entry",
    "Log",
    "LogCorrupt",
    "LogCounters",
    "LogMismatch",
    "LogMissing",
    "MemoryLog",
    "Problem",
    "RecordLog",
    "Recovered",
    "Report",
    "set_aside",
    "verify",
]

SEGMENT_BYTES_DEFAULT: Final = 64 << 20
"""Size at which a segment counts as full."""

_ASIDE: Final = "aside-"


@attrs.define
class _Segment:
    """What the writer must know of a segment to cut it."""

    number: int
    size: int
    slot_max: int
    opening: int = 0
    """Bytes of the standing records that it began with; 0 if it was there before this process."""


class Log(RecordLog):
    """The log on a directory. See the module's text; made by `create`, opened by `open`.

    All methods raise `StorageFailed` once the device has failed, and ever after. `DiskFull` leaves the log as it was
    (what was appended stays buffered), and the call may be made again after space was freed.
    """

    def __init__(
        self,
        directory: Directory,
        head: Head,
        segments: list[_Segment],
        file: AppendFile,
        last_check: bytes,
        last_kind: Kind,
        segment_bytes: int,
        durability: Durability,
    ) -> None:
        """For `open` only."""
        self._directory = directory
        self._head = head
        self._codec = Codec(head.key())
        self._segments = segments
        self._current = segments[-1]
        self._file = file
        self._check = last_check
        self._sealed = last_kind is Kind.SEAL
        self._segment_bytes = segment_bytes
        self._durability = durability
        self._counters = LogCounters()
        self._buffer: list[bytes] = []
        self._durable = self._current.size
        self._dirty = False
        self._failed: StorageFailed | None = None
        self._closed = False

    # --- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        directory: Directory,
        *,
        group: bytes,
        identity: bytes,
        salt: bytes,
        standing: Sequence[bytes] = (),
    ) -> None:
        """Begin a log, durable on return. Done once, when a member is set up (`bftkit init`).

        `group` and `identity` name whose log it is; `salt` is 16 secret, random bytes. `standing`: standing records
        that it holds from the first moment, such as the remark that a member begins anew after it lost its memory: a
        crash must not leave a log that looks like that of a new member (SAFETY rule 16). Raises `FileExistsError` if
        there is a log already, or what is left of one; then nothing is changed.
        """
        check_names(group, identity, salt)
        if any(name == HEAD_NAME or segment_number(name) is not None for name in directory.names()):
            raise FileExistsError("there is a log in this folder already")
        head = Head(group, identity, salt, 1, 1, 0)
        data, _ = _opening_group(Codec(head.key()), 1, 0, NO_CHECK, standing)
        file = directory.create(segment_name(1))
        file.append(data)
        file.sync()
        file.close()
        directory.sync()
        directory.replace(HEAD_NAME, attrs.evolve(head, durable=len(data)).encode())

    @classmethod
    def open(
        cls,
        directory: Directory,
        *,
        group: bytes,
        identity: bytes,
        segment_bytes: int = SEGMENT_BYTES_DEFAULT,
        durability: Durability = Durability.FSYNC,
    ) -> tuple[Log, Recovered]:
        """Read the log back, cut a torn tail and go on behind it.

        Raises `LogMissing` (nothing there), `LogCorrupt` (nothing was changed on disk), `LogMismatch`, `DiskFull`,
        `StorageFailed`.
        """
        if durability is Durability.MEMORY:
            raise ValueError("a log on disk has durability fsync or async; take MemoryLog for memory")
        reading = read_log(directory)
        head = reading.head
        if head.group != group:
            raise LogMismatch(f"the log belongs to group {head.group.hex()}, not {group.hex()}")
        if head.identity != identity:
            raise LogMismatch(f"the log belongs to member {head.identity.hex()}, not {identity.hex()}")
        newest = reading.segments[-1]
        file = directory.open(segment_name(newest.number))
        if newest.torn_bytes:
            file.truncate(newest.size)
        # What lies behind the last proof of a sync may be only in the kernel's memory: this process may not be the
        # one that wrote it, and its sync may have failed. It counts from now on, so the disk must have it now.
        if newest.durable < newest.size:
            file.renew(newest.durable)
        file.sync()
        for name in reading.leftovers:
            directory.remove(name)
        directory.sync()
        segments = [_Segment(one.number, one.size, one.slot_max) for one in reading.segments]
        log = cls(directory, head, segments, file, newest.last_check, newest.last_kind, segment_bytes, durability)
        log.seal()
        return log, recovered(reading)

    # --- state -----------------------------------------------------------------------------------------------------

    @property
    def durability(self) -> Durability:
        """See `RecordLog`."""
        return self._durability

    @property
    def counters(self) -> LogCounters:
        """See `RecordLog`."""
        return self._counters

    @property
    def dirty(self) -> bool:
        """See `RecordLog`."""
        return self._dirty

    @property
    def full(self) -> bool:
        """See `RecordLog`.

        A segment whose standing records alone have that size must double first. Else each round would begin another
        segment, and write them all again.
        """
        return self._current.size >= max(self._segment_bytes, 2 * self._current.opening)

    @property
    def bytes_on_disk(self) -> int:
        """See `RecordLog`."""
        return sum(segment.size for segment in self._segments)

    @property
    def segments(self) -> int:
        """See `RecordLog`."""
        return len(self._segments)

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise StorageFailed(f"the log has stopped: {self._failed}") from self._failed
        if self._closed:
            raise RuntimeError("the log is closed")

    # --- writing ---------------------------------------------------------------------------------------------------

    def append(self, payload: bytes, slot: int) -> None:
        """See `RecordLog`. Raises `ValueError` for a slot or a size out of range."""
        self._check_usable()
        if not 0 <= slot < 1 << 64:
            raise ValueError(f"slot {slot} is out of range")
        if len(payload) > PAYLOAD_SIZE_MAX:
            raise ValueError(f"a record takes at most {PAYLOAD_SIZE_MAX} bytes, not {len(payload)}")
        self._put(Kind.ENTRY, slot, payload)
        self._sealed = False
        self._dirty = True
        counters = self._counters
        counters.records += 1
        counters.record_bytes += len(payload)
        current = self._current
        if slot > current.slot_max:
            current.slot_max = slot

    def _put(self, kind: Kind, slot: int, payload: bytes) -> None:
        current = self._current
        front, self._check = self._codec.encode(
            kind, slot, current.number, current.size, self._durable, self._check, payload
        )
        self._buffer.append(front)
        self._buffer.append(payload)
        current.size += OVERHEAD + len(payload)

    def flush(self) -> None:
        """See `RecordLog`. Raises `DiskFull`, `StorageFailed`."""
        self._check_usable()
        if not self._buffer:
            return
        try:
            self._file.append(b"".join(self._buffer))
        except StorageFailed as error:
            self._failed = error
            raise
        self._buffer.clear()
        self._counters.writes += 1

    def sync(self) -> None:
        """See `RecordLog`. Raises `DiskFull`, `StorageFailed`."""
        if self._durability is Durability.FSYNC:
            self.settle()
        else:
            self.flush()

    def settle(self) -> None:
        """See `RecordLog`. Raises `DiskFull`, `StorageFailed`."""
        self.flush()
        if self._dirty:
            self._sync_file()

    def work_at(self, durability: Durability) -> None:
        """See `RecordLog`. Raises `DiskFull`, `StorageFailed`; the durability is what it was then."""
        self.settle()
        self._durability = strictest(durability, Durability.ASYNC)

    def _sync_file(self) -> None:
        assert not self._buffer
        try:
            self._file.sync()
        except StorageFailed as error:
            self._failed = error
            raise
        self._durable = self._current.size
        self._dirty = False
        self._counters.syncs += 1

    def seal(self) -> bool:
        """See `RecordLog`. Raises `StorageFailed`; a full disk only means that there is no seal yet."""
        try:
            self.settle()
            if not self._sealed:
                self._put(Kind.SEAL, 0, b"")
                self._sealed = True
                self._counters.seals += 1
                self.flush()
        except DiskFull:
            return False
        return True

    # --- segments --------------------------------------------------------------------------------------------------

    def rotate(self, standing: Sequence[bytes]) -> None:
        """See `RecordLog`. After `DiskFull` the log goes on in the old segment."""
        self.flush()
        if self._durable < self._current.size:  # a seal makes nothing dirty, but the next segment builds on it too
            self._sync_file()
        before = self._current
        number = before.number + 1
        data, check = _opening_group(self._codec, number, before.size, self._check, standing)
        name = segment_name(number)
        try:
            file = self._begin(name, data)
            self._move_head(attrs.evolve(self._head, newest=number, durable=len(data)), name, file)
        except StorageFailed as error:
            self._failed = error
            raise
        self._file.close()
        self._file = file
        self._current = _Segment(number, len(data), 0, len(data))
        self._segments.append(self._current)
        self._check = check
        self._durable = len(data)
        self._sealed = True  # the head proves as much
        self._counters.rotations += 1

    def _begin(self, name: str, data: bytes) -> AppendFile:
        if name in self._directory.names():  # of an earlier `rotate` that found the disk full
            self._directory.remove(name)
        file = self._directory.create(name)
        try:
            file.append(data)
            file.sync()
            self._directory.sync()
        except DiskFull:
            file.close()
            self._directory.remove(name)
            raise
        return file

    def _move_head(self, head: Head, name: str, file: AppendFile) -> None:
        try:
            self._directory.replace(HEAD_NAME, head.encode())
        except DiskFull:
            file.close()
            self._directory.remove(name)
            raise
        self._head = head

    def cut(self, slot: int) -> int:
        """See `RecordLog`. Raises `StorageFailed`.

        Every segment but the first begins with standing records of its own, so that the segments before it are
        needed for their slots only. The newest segment always stays.
        """
        self._check_usable()
        count = 0
        while count < len(self._segments) - 1 and self._segments[count].slot_max <= slot:
            count += 1
        if count == 0:
            return 0
        leading = self._segments[:count]
        head = attrs.evolve(self._head, oldest=self._segments[count].number)
        try:
            # The head first: files below its range are leftovers, a file that is missing inside it is corruption.
            try:
                self._directory.replace(HEAD_NAME, head.encode())
            except DiskFull:
                return 0
            self._head = head
            del self._segments[:count]
            for segment in leading:
                self._directory.remove(segment_name(segment.number))
            self._directory.sync()
        except StorageFailed as error:
            self._failed = error
            raise
        self._counters.cut_segments += count
        return sum(segment.size for segment in leading)

    def close(self) -> None:
        """See `RecordLog`. Syncs the seal too, so that after a clean stop every flipped bit is found.

        Raises `DiskFull` (what was appended could not be written), `StorageFailed`; the log is closed all the same.
        """
        if self._closed:
            return
        try:
            if self._failed is None:
                self.settle()
                if self.seal() and self._durable < self._current.size:
                    self._sync_file()
        finally:
            self._closed = True
            self._file.close()


def _opening_group(
    codec: Codec, number: int, previous_size: int, previous: bytes, standing: Sequence[bytes]
) -> tuple[bytes, bytes]:
    """The first bytes of a segment, and the check of the last record in them."""
    parts: list[bytes] = []
    offset, check = 0, previous
    payloads = [OPENING.pack(previous_size, previous, len(standing)), *standing]
    for payload in payloads:
        kind = Kind.STANDING if parts else Kind.OPENING
        front, check = codec.encode(kind, 0, number, offset, 0, check, payload)
        parts += [front, payload]
        offset += OVERHEAD + len(payload)
    return b"".join(parts), check


def set_aside(directory: Directory) -> int:
    """Put a corrupt log out of the way, so that `Log.create` can begin a new one; its files keep for the operator.

    The files are renamed with the prefix `aside-`, over those of an earlier time. Durable on return; gives the number
    of files. Whoever calls this has lost its memory (SAFETY rule 16).
    """
    names = [name for name in directory.names() if name == HEAD_NAME or segment_number(name) is not None]
    for name in directory.names():
        if name.startswith(_ASIDE):
            directory.remove(name)
    for name in names:  # interrupted, it leaves a head without segments or segments without a head: still refused
        directory.rename(name, _ASIDE + name)
    directory.sync()
    return len(names)
