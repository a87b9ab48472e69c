"""A member's disk in an `OrderingWorld`: records are durable when a sync completes, and not before.

Whatever a machine sends or decides after a `persist` waits for that sync (SAFETY rule 5). A crash loses what was not
synced, or, if the disk is to `keep_some`, all but a prefix of it. Batches lie in the same log. A new segment of the
log begins with the standing records; once it is durable, what it settles is purged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from bftkit.core.machine import STANDING, Digest, Record, Slot
from bftkit.sim.ordering.process import Process
from bftkit.sim.ordering.timeline import Timeline

PREFIX_SYNCED: Final = 0.5
"""So often a sync takes only some of what waits."""


@attrs.frozen
class Disk:
    """How long a sync takes, in ticks, and what a crash does to records that were not synced."""

    sync_min: int = 0
    sync_max: int = 5
    keep_some: bool = False
    """False: a crash loses every unsynced record. True: a prefix of them, drawn from the seed, survives."""


@attrs.frozen
class Entry:
    """One record on a member's disk."""

    serial: int
    record: Record
    slot: Slot
    batch: Digest | None = None
    purge_below: int | None = None
    """When this entry is durable, standing and settled records with a lower serial are forgotten."""


class MemberDisk:
    """The log of one member, and what waits for it to be durable."""

    def __init__(self, settings: Disk, time: Timeline, process: Process, stable: Slot) -> None:
        self.stable = stable
        """The newest stable checkpoint that is kept here."""
        self._settings = settings
        self._time = time
        self._process = process
        self._log: list[Entry] = []
        self._written = 0
        self._synced = 0
        self._syncing = False
        self._outbox: deque[tuple[int, Callable[[], None]]] = deque()

    def records(self) -> list[Record]:
        """The machine's durable records, as a restart gets them."""
        return [
            entry.record for entry in self._log if entry.serial <= self._synced and entry.batch is None and entry.record
        ]

    def batches(self) -> set[Digest]:
        """The batches that are in the log."""
        return {entry.batch for entry in self._log if entry.batch is not None}

    def write(self, record: Record, slot: Slot) -> None:
        """The machine wants this record kept."""
        self._append(record, slot)

    def keep_batch(self, batch: Digest) -> None:
        """The bytes of a batch are to be kept."""
        self._append(b"", STANDING, batch)

    def begin_segment(self, standing: Iterable[Record]) -> None:
        """The log starts a new segment: standing records are repeated, what is settled goes."""
        first = self._written + 1
        for record in standing:
            self._append(record, STANDING)
        self._append(b"", STANDING, None, first)

    def when_durable(self, action: Callable[[], None]) -> None:
        """Do it when everything that is written by now is durable (SAFETY rule 5)."""
        self._outbox.append((self._written, action))

    def release(self) -> None:
        """Do what waits for nothing any more."""
        while self._outbox and self._outbox[0][0] <= self._synced:
            self._outbox.popleft()[1]()

    def crash(self) -> None:
        """What was not synced is lost, or some of it."""
        unsynced = self._written - self._synced
        kept = self._time.random.randint(0, unsynced) if self._settings.keep_some else 0
        self._written = self._synced = self._synced + kept
        self._log = [entry for entry in self._log if entry.serial <= self._written]
        self._syncing = False
        self._outbox.clear()

    def _append(self, record: Record, slot: Slot, batch: Digest | None = None, purge_below: int | None = None) -> None:
        self._written += 1
        self._log.append(Entry(self._written, record, slot, batch, purge_below))
        if not self._syncing:
            # One sync takes what is there when it starts; what comes meanwhile waits for the next one.
            self._syncing = True
            self._time.after(0, self._process.bound(self._sync))

    def _sync(self) -> None:
        random, reached = self._time.random, self._written
        if random.random() < PREFIX_SYNCED:
            # A writer may take any prefix of what waits; it is not to be relied on that one step is one sync.
            reached = random.randint(self._synced + 1, reached)
        ticks = random.randint(self._settings.sync_min, self._settings.sync_max)
        self._time.after(ticks, self._process.bound(lambda: self._done(reached)))

    def _done(self, reached: int) -> None:
        purge_below = 0
        for entry in reversed(self._log):  # what waits is at the end, and a log may be long
            if entry.serial <= self._synced:
                break
            if entry.serial <= reached:
                purge_below = max(purge_below, entry.purge_below or 0)
        self._synced = reached
        self._syncing = reached < self._written
        if self._syncing:
            self._sync()
        if purge_below:
            self._log = [
                entry
                for entry in self._log
                if entry.serial >= purge_below or entry.batch is not None or entry.slot > self.stable
            ]
        self.release()
