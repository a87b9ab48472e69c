"""How a member waits for its disk: for its log within a round, for its checkpoints beside the rounds.

The log is written and synced in the member's own thread: nothing that a round would acknowledge leaves before it
(SAFETY rule 5). When the disk is full, the round waits where it is until there is room. A checkpoint of a large state
takes seconds, and is saved in a thread of its own while the member goes on.

When the disk *fails*, nothing here catches that: the member stops and says so, since a failed sync must never be tried
again as if it had succeeded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio

from bftkit.channel.interface import Save
from bftkit.core.machine import MemberId, Slot
from bftkit.membership.chain import Place
from bftkit.node.status import NodeCounters
from bftkit.node.sync_times import SyncTimes
from bftkit.storage.durability import DurabilityKeeper
from bftkit.storage.files import DiskFull
from bftkit.storage.log import Durability, RecordLog
from bftkit.storage.snapshots import SnapshotStore

logger = logging.getLogger("bftkit.node")

SEAL_SECONDS: Final = 0.2
"""So long after the last record the log is sealed (see ADR 0005)."""
DISK_FULL_SECONDS: Final = 0.25
"""So often a full disk is tried again."""


class StoppedInRound(Exception):
    """The member is to stop, and the disk has no room for what this round would have to write first."""


class Patience:
    """Tries to write until the disk has room, or the member is to stop."""

    def __init__(self, me: MemberId, counters: NodeCounters, stopping: Callable[[], bool]) -> None:
        """`stopping`: whether the member is to stop."""
        self._me = me
        self._counters = counters
        self._stopping = stopping

    async def within_round(self, write: Callable[[], object]) -> None:
        """Write, in the member's own thread: the round waits, and nothing that waits for these records has left.

        Raises `StoppedInRound`.
        """
        told = False
        while True:
            try:
                write()
                if told:
                    logger.warning("%s: the disk has room again", self._me)
                return
            except DiskFull as error:
                self._counters.disk_full += 1
                if not told:
                    logger.error("%s acknowledges nothing until there is room: %s", self._me, error)
                    told = True
                if self._stopping():
                    raise StoppedInRound from None
                await trio.sleep(DISK_FULL_SECONDS)

    async def in_thread(self, work: Callable[[], None], what: str) -> bool:
        """Write in another thread; False if the member is to stop before there was room. `what`: told if it waits."""
        while True:
            try:
                await trio.to_thread.run_sync(work)
                return True
            except DiskFull as error:
                logger.error("%s cannot %s: %s", self._me, what, error)
                if self._stopping():
                    return False
                await trio.sleep(DISK_FULL_SECONDS)


class LogKeeper:
    """A member's log beyond the appending of records: when it is synced, sealed, begun anew and cut."""

    def __init__(
        self,
        log: RecordLog,
        durability: DurabilityKeeper | None,
        patience: Patience,
        counters: NodeCounters,
        clock: Callable[[], float],
    ) -> None:
        """`durability` says how the log is to work in each epoch; None: as it does."""
        self.log = log
        self.sync_times = SyncTimes()
        """How long rounds waited until their records were written, and synced if the log syncs."""
        self.seal_at = float("inf")
        """When the log is to be sealed; infinity if nothing was appended since it was."""
        self._durability = durability
        self._patience = patience
        self._counters = counters
        self._clock = clock
        self._cut: Slot | None = None

    async def sync(self) -> None:
        """Make all records durable, as far as the log does that. Raises `StoppedInRound`."""
        began = self._clock()
        await self._patience.within_round(self.log.sync)
        self.sync_times.add(self._clock() - began)
        self._counters.sync_rounds += 1

    async def rotate(self, standing: Sequence[bytes]) -> None:
        """Begin a new segment with what still stands; all is durable then. Raises `StoppedInRound`."""
        await self._patience.within_round(partial(self.log.rotate, standing))

    async def suit(self, place: Place | None) -> None:
        """A segment was begun, and all before it is durable; it may be a new epoch's, with other needs.

        What is appended in this round before the new epoch's segment, if this is not yet that, is made durable by it,
        and nothing leaves before (SAFETY rule 5). Raises `StoppedInRound`.
        """
        if self._durability is not None and place is not None:
            needs = place.configuration.qos
            asked = None if needs is None else needs.durability
            await self._patience.within_round(partial(self._durability.suit, self.log, asked))

    def appended(self) -> None:
        """There are new records. A log that syncs is sealed once it is idle; another is settled every so often, busy
        or not."""
        if self.seal_at == float("inf") or self.log.durability is Durability.FSYNC:
            self.seal_at = self._clock() + SEAL_SECONDS

    def cut(self, slot: Slot) -> None:
        """Segments that concern nothing above this slot are to go, once `tend` may cut."""
        self._cut = slot

    def tend(self, now: float, *, may_cut: bool) -> None:
        """After a round: cut what may go, and seal if it is time."""
        if self._cut is not None and may_cut:
            self.log.cut(self._cut)
            self._cut = None
        if now >= self.seal_at:
            self.seal_at = float("inf")
            self.log.seal()


class CheckpointSaver:
    """Saves one checkpoint at a time, in a thread; of those that wait meanwhile, the newest alone."""

    def __init__(self, me: MemberId, snapshots: SnapshotStore, saved: Callable[[Slot], None]) -> None:
        """`saved` is told of each, in the member's own thread."""
        self._me = me
        self._snapshots = snapshots
        self._saved = saved
        self._saving = False
        self._next: Save | None = None

    def save(self, save: Save, nursery: trio.Nursery) -> None:
        """Save this one, or after the one that is under way."""
        # Only the newest of those that wait: large states must not pile up behind a slow disk.
        if self._saving:
            self._next = save
            return
        self._saving = True
        nursery.start_soon(self._in_thread, save, nursery)

    async def _in_thread(self, save: Save, nursery: trio.Nursery) -> None:
        stable = save.stable

        def work() -> None:
            has = self._snapshots.has
            view = stable.view
            self._snapshots.save(
                stable.slot,
                save.manifest(),
                ((leaf, None if has(leaf) else view.chunk(index)) for index, leaf in enumerate(stable.leaves)),
            )

        while True:  # a member that is to stop cancels this
            try:
                await trio.to_thread.run_sync(work)
                break
            except DiskFull as error:
                logger.error("%s cannot save its checkpoint: %s", self._me, error)
                await trio.sleep(DISK_FULL_SECONDS)
        self._saving = False
        self._saved(stable.slot)
        if self._next is not None:
            following, self._next = self._next, None
            self.save(following, nursery)
