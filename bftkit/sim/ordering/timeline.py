"""Time and chance of an `OrderingWorld`: ticks, what is to happen when, and the draws of one seed.

Events of the same tick happen in the order in which they were planned.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random


class Timeline:
    """The one clock of a world, and its one source of chance."""

    def __init__(self, seed: int) -> None:
        self.now = 0
        """Ticks since the start."""
        self.random = Random(seed)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0

    def number(self) -> int:
        """A number that was given to nothing before."""
        self._serial += 1
        return self._serial

    def after(self, ticks: int, event: Callable[[], None]) -> None:
        """This happens so many ticks from now."""
        heapq.heappush(self._events, (self.now + ticks, self.number(), event))

    @property
    def next_tick(self) -> int | None:
        """When something happens next; None: never."""
        return self._events[0][0] if self._events else None

    def run_to(self, end: int) -> None:
        """Let everything happen that is planned up to this tick, `end` included."""
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
