"""What an `OrderingWorld` proposes where nobody leads: a small stand-in for `bftkit.channel.proposing`.

A batch is proposed by the member that its digest names. The others wait until that member had 2n slots to do it,
counted from the last of its batches that was delivered; so hardly anything is proposed twice in a run without faults.
Whoever still holds a batch when its client asks again begins rounds with empty ones, until it is decided or due.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Digest, Slot

TURN_SLOTS: Final = 2


@attrs.define(eq=False)
class Turns:
    """One member's part in proposing."""

    index: int
    """Its place in the roster."""
    n: int
    calls: int = 0
    """Batches that the protocol wants of this member."""
    begins: bool = False
    """Whether a client asked again for something that this member holds."""
    highest: Slot = -1
    """What was under way, or delivered, when it proposed last."""
    came: dict[Digest, Slot] = attrs.field(factory=dict[Digest, Slot])
    out: dict[Digest, None] = attrs.field(factory=dict[Digest, None])
    """Proposed here, and neither decided nor returned."""
    heard: dict[int, Slot] = attrs.field(factory=dict[int, Slot])
    """By member: the slot in which a batch of its turn was delivered last."""

    def propose(self, demand: Iterable[Digest], height: Slot, voted: Slot) -> Digest | None:
        """The next batch to give to a protocol that has room, if any: perhaps the empty one."""
        under_way = max(height, voted)
        waits = False
        for batch in demand:
            waits = True
            if batch not in self.out and self._is_due(batch, height, under_way):
                self.out[batch] = None
                return self._proposed(batch, under_way)
        self.begins = self.begins and waits
        if self.calls or (self.begins and not self.out and height > self.highest):
            return self._proposed(NO_DIGEST, under_way)
        return None

    def _is_due(self, batch: Digest, height: Slot, under_way: Slot) -> bool:
        whose = batch[0] % self.n
        since = max(self.came.setdefault(batch, under_way), self.heard.get(whose, 0))
        return whose == self.index or height >= since + TURN_SLOTS * self.n

    def _proposed(self, batch: Digest, under_way: Slot) -> Digest:
        self.calls = max(0, self.calls - 1)
        self.highest = under_way
        return batch

    def delivered(self, batch: Digest, slot: Slot) -> None:
        """A slot was delivered."""
        self.out.pop(batch, None)
        self.came.pop(batch, None)
        if batch != NO_DIGEST:
            self.heard[batch[0] % self.n] = slot

    def forget(self) -> None:
        """The member crashed."""
        self.calls, self.begins, self.highest = 0, False, -1
        for container in (self.came, self.out, self.heard):
            container.clear()
