"""The timers that a replica has set, by key: when the next one is due, and which are due now.

A replica under load sets and cancels timers all the time, and hardly any ever fires. So neither of the two searches
anything: a timer that was cancelled, or set again for another time, stays in the heap and is passed over when it comes
to the top.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from bftkit.core.machine import CancelTimer, SetTimer, TimerKey


class Timers:
    """Timers by key; setting one again replaces it."""

    def __init__(self) -> None:
        self._due: dict[TimerKey, float] = {}
        self._heap: list[tuple[float, int, TimerKey]] = []
        self._count = 0

    def set(self, key: TimerKey, at: float) -> None:
        """The timer fires at this time, and at no other."""
        self._due[key] = at
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, key))

    def cancel(self, key: TimerKey) -> None:
        """Forget it, if it is set."""
        self._due.pop(key, None)

    def next(self) -> float:
        """When the next timer is due; infinity if none is set."""
        heap = self._heap
        while heap and self._due.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else float("inf")

    def pop_due(self, now: float) -> TimerKey | None:
        """The first timer that is due, if any; it is set no more."""
        if self.next() > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._due[key]
        return key


def is_withdrawn(key: TimerKey, effects: Sequence[object]) -> bool:
    """Whether these effects, which were not carried out yet, cancel the timer or set it anew.

    A round takes in all that is ready before it carries out anything. A timer that is due in the same round as the
    message that ended the wait for it must not fire any more: whoever set it has been told that it will not.
    """
    return any(isinstance(effect, SetTimer | CancelTimer) and effect.key == key for effect in reversed(effects))
