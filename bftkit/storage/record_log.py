"""What the node asks of a log, apart from how it is kept; and the log that keeps nothing.

`RecordLog` is the interface, `log.Log` the one on disk, `MemoryLog` the one for a group that trades its memory of a
restart for speed (durability `memory`).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import attrs


class Durability(enum.Enum):
    """When the disk has what `RecordLog.sync` was called for."""

    FSYNC = "fsync"
    """When `sync` returns."""

    ASYNC = "async"
    """Some time after, when `settle` is called; a crash loses what came since. A restart counts as amnesia."""

    MEMORY = "memory"
    """Never. A restart counts as amnesia."""


_FROM_THE_STRICTEST = (Durability.FSYNC, Durability.ASYNC, Durability.MEMORY)


def strictest(*durabilities: Durability) -> Durability:
    """The one of these that survives most."""
    return min(durabilities, key=_FROM_THE_STRICTEST.index)


@attrs.define
class LogCounters:
    """What the log has done since it was opened."""

    records: int = 0
    record_bytes: int = 0
    """Payload bytes appended."""
    writes: int = 0
    syncs: int = 0
    """Syncs that waited for the disk."""
    seals: int = 0
    rotations: int = 0
    cut_segments: int = 0


class RecordLog(Protocol):
    """What the node needs of a log, whatever its durability."""

    @property
    def durability(self) -> Durability:
        """When the disk has what was synced."""
        ...

    @property
    def counters(self) -> LogCounters:
        """What has been done since the log was opened."""
        ...

    @property
    def dirty(self) -> bool:
        """Whether a record was appended that the disk may not have yet."""
        ...

    @property
    def full(self) -> bool:
        """Whether the newest segment has reached its size, so that `rotate` is due."""
        ...

    @property
    def bytes_on_disk(self) -> int:
        """Bytes in all segments, with what is still buffered."""
        ...

    @property
    def segments(self) -> int:
        """How many segments there are."""
        ...

    def append(self, payload: bytes, slot: int) -> None:
        """Take a record into the buffer. `slot`: the slot it is about; 0 for a standing record."""
        ...

    def flush(self) -> None:
        """Write the buffer, in one call. It survives the end of the process, not of the machine."""
        ...

    def sync(self) -> None:
        """Flush, and return when the records are as durable as `durability` says. Cheap if nothing is new."""
        ...

    def settle(self) -> None:
        """Flush and wait for the disk, whatever the durability setting (not for `MEMORY`)."""
        ...

    def work_at(self, durability: Durability) -> None:
        """From now on `sync` waits for this; what was appended before is durable on return.

        A log on disk is never laxer than `ASYNC`, and one in memory stays what it is.
        """
        ...

    def seal(self) -> bool:
        """Settle, then mark that all before was synced; False if the disk is too full for that. Call it when idle."""
        ...

    def rotate(self, standing: Sequence[bytes]) -> None:
        """Begin a new segment with these standing records, which replace all earlier ones. Durable on return."""
        ...

    def cut(self, slot: int) -> int:
        """Remove the oldest segments as far as all their records are about slots up to this one. Bytes freed.

        0 also if the disk has no room left to note it: nothing was removed, and a later call does it.
        """
        ...

    def close(self) -> None:
        """Seal and release the log. It refuses everything but `close` afterwards."""
        ...


class MemoryLog(RecordLog):
    """A log for durability `memory`: takes everything, keeps nothing. Same interface as `Log`."""

    def __init__(self) -> None:
        """Nothing to open, nothing to recover."""
        self._counters = LogCounters()

    @property
    def durability(self) -> Durability:
        """Always `MEMORY`."""
        return Durability.MEMORY

    @property
    def counters(self) -> LogCounters:
        """See `RecordLog`."""
        return self._counters

    @property
    def dirty(self) -> bool:
        """Never: there is no disk to wait for."""
        return False

    @property
    def full(self) -> bool:
        """Never."""
        return False

    @property
    def bytes_on_disk(self) -> int:
        """None."""
        return 0

    @property
    def segments(self) -> int:
        """None."""
        return 0

    def append(self, payload: bytes, slot: int) -> None:
        """Counts the record."""
        self._counters.records += 1
        self._counters.record_bytes += len(payload)

    def flush(self) -> None:
        """Nothing to do."""

    def sync(self) -> None:
        """Nothing to do."""

    def settle(self) -> None:
        """Nothing to do."""

    def work_at(self, durability: Durability) -> None:
        """There is no disk to wait for."""

    def seal(self) -> bool:
        """Nothing to do."""
        return True

    def rotate(self, standing: Sequence[bytes]) -> None:
        """Counts the rotation."""
        self._counters.rotations += 1

    def cut(self, slot: int) -> int:
        """Nothing to free."""
        return 0

    def close(self) -> None:
        """Nothing to do."""
