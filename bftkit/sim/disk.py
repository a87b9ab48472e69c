"""A simulated member's disk: its log's directory and its snapshots, and what happens to them.

Each change is written into the world's journal, and counted among those before which a test cuts the power.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from bftkit.channel.frames import CONTROL_CODEC, Manifest
from bftkit.storage.memory_files import MemoryDirectory
from bftkit.storage.snapshots import MemorySnapshots, SnapshotCorrupt


@attrs.define(eq=False)
class Disk:
    """What survives the process."""

    directory: MemoryDirectory = attrs.field(factory=MemoryDirectory)
    snapshots: MemorySnapshots = attrs.field(factory=MemorySnapshots)
    links: dict[int, bytes] = attrs.field(factory=dict[int, bytes])
    """Hand-overs that are durable, by the epoch that each ends."""
    secrets: dict[tuple[int, bytes], bytes] = attrs.field(factory=dict[tuple[int, bytes], bytes], repr=False)
    """What lies in files that can be overwritten, by epoch and name."""
    slow_us: list[int] = attrs.field(factory=list[int])
    """So much longer takes each sync."""

    def copy(self) -> Disk:
        """The disk as it is now, for a later rollback (FAULTS 18); without faults."""
        snapshots = MemorySnapshots()
        for slot, manifest in self.snapshots.checkpoints():
            message = CONTROL_CODEC.decode(manifest)
            assert isinstance(message, Manifest)
            try:
                snapshots.save(slot, manifest, [(leaf, self.snapshots.chunk(leaf)) for leaf in message.leaves])
            except (SnapshotCorrupt, ValueError):
                continue  # damaged here, so it would be passed over there
        return Disk(self.directory.copy(), snapshots, dict(self.links), dict(self.secrets))

    def plan(self, before: Callable[[str], None] | None) -> None:
        """Call this before each change, of the log's files and of the snapshots."""
        self.directory.before = self.snapshots.before = before

    def mend(self) -> None:
        """Whatever was planned to go wrong does not any more; what is damaged stays so."""
        directory, snapshots = self.directory, self.snapshots
        self.plan(None)
        directory.capacity = snapshots.capacity = None
        directory.lying = snapshots.lying = False
        directory.fail_syncs = snapshots.fail_saves = 0
        self.slow_us.clear()
