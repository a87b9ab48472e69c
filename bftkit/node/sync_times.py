"""How long rounds waited for the disk: counts by duration, cheap enough to be kept always.

One observation for each round that had to wait for its records, which is at most one for each batch, and none for a
request. The bounds are those that matter to a group: an SSD with a capacitor syncs in a tenth of a millisecond, one
without in a few, a rotating disk in ten; and what takes longer than a view's timeout looks like a dead leader.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds in seconds, each inclusive."""


class SyncTimes:
    """Durations in seconds, counted by size."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        """Their sum (seconds)."""

    def add(self, seconds: float) -> None:
        """One more. A clock that went backwards counts as no time."""
        seconds = max(0.0, seconds)
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """For each bound, and for infinity, how many took at most so long; bounds as Prometheus writes them."""
        told: list[tuple[str, int]] = []
        count = 0
        for bound, here in zip([*map(repr, BOUNDS), "+Inf"], self._counts, strict=True):
            count += here
            told.append((bound, count))
        return told
