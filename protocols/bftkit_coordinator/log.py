"""What a member holds, what it knows to be decided, and what may therefore be delivered next.

The same for the coordinator and its followers. All positions count slots::

    floor <= stable <= delivered              entries are kept above the floor, the stable checkpoint before the last
             stable <= held <= last           everything in (stable, held] is in `entries`
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from bftkit.core.machine import Digest, Slot
from bftkit_coordinator.messages import Entry


@attrs.define
class Log:
    """One member's log. Everything in `entries` was given to `persist` before it came here."""

    floor: Slot
    stable: Slot
    last: Slot
    """The highest slot of which anything was ever here, perhaps above a gap."""
    held: Slot
    """Everything above `stable` and up to this slot is here without a gap."""
    committed: Slot
    """Everything up to this slot is decided, as far as this member knows."""
    delivered: Slot
    entries: dict[Slot, Entry] = attrs.field(factory=dict[Slot, Entry])
    learned: dict[Slot, Digest] = attrs.field(factory=dict[Slot, Digest])
    """Decided slots of which the channel told. They may be delivered; to be *held*, their entry must come too."""

    @classmethod
    def after(cls, start: Slot) -> Log:
        """The empty log of an instance whose first slot is ``start + 1``."""
        return cls(start, start, start, start, start, start)

    def add(self, entry: Entry) -> None:
        """Hold an entry, also above a gap."""
        self.entries[entry.slot] = entry
        self.last = max(self.last, entry.slot)
        self._close_gaps()

    def learn(self, slot: Slot, digest: Digest) -> None:
        """Slot `slot` is known to be decided."""
        if slot > self.delivered:
            self.learned[slot] = digest

    def settle(self, slot: Slot) -> None:
        """A checkpoint at `slot` is stable. Entries stay for one interval more, for followers that lag a little."""
        if slot <= self.stable:
            return
        self.floor, self.stable = self.stable, slot
        self.entries = {at: entry for at, entry in self.entries.items() if at > self.floor}
        self.learned = {at: digest for at, digest in self.learned.items() if at > slot}
        self.last = max(self.last, slot)
        self.held = max(self.held, slot)
        self.committed = max(self.committed, slot)
        self.delivered = max(self.delivered, slot)
        self._close_gaps()

    def deliverable(self, last: Slot | None) -> Iterator[tuple[Slot, Digest]]:
        """Take the decided slots that are here, in order, up to `last` (None: without end)."""
        while last is None or self.delivered < last:
            slot = self.delivered + 1
            if slot in self.learned:
                digest = self.learned.pop(slot)
            elif slot <= min(self.committed, self.held):
                digest = self.entries[slot].digest
            else:
                return
            self.delivered = slot
            yield slot, digest

    def missing(self, held: Slot, most: int) -> list[Entry]:
        """At most so many entries that someone who holds everything up to `held` still needs, in order."""
        return [self.entries[slot] for slot in sorted(self.entries) if slot > held][:most]

    def _close_gaps(self) -> None:
        while self.held + 1 in self.entries:
            self.held += 1
