"""When what waits in a client's queue must have been executed: as runs, so that nothing is paid for each operation.

A bundle has one deadline for all its requests. Operations whose deadlines lie a few ms apart share one, the earliest:
each is executed in time or not at all, and the few ms are far below what agreed time is accurate to.
"""

from __future__ import annotations

from collections import deque
from typing import Final

SHARED_MS: Final = 10
"""Deadlines so close together count as one."""


class Deadlines:
    """Runs of (how many operations, their deadline in ms since 1970; 0: none), in the order of the queue."""

    def __init__(self) -> None:
        self._runs: deque[tuple[int, int]] = deque()

    def add(self, count: int, expires_ms: int) -> None:
        """So many operations more, at the queue's end."""
        if not count:
            return
        if self._runs:
            before, shared_ms = self._runs[-1]
            close = shared_ms <= expires_ms <= shared_ms + SHARED_MS if shared_ms and expires_ms else False
            if close or shared_ms == expires_ms:
                self._runs[-1] = (before + count, shared_ms)
                return
        self._runs.append((count, expires_ms))

    def next(self) -> tuple[int, int]:
        """How many operations at the queue's head share a deadline, and which."""
        return self._runs[0]

    def take(self, count: int) -> None:
        """So many have left the queue's head, all of the first run."""
        left, expires_ms = self._runs[0]
        assert count <= left
        if count == left:
            self._runs.popleft()
        else:
            self._runs[0] = (left - count, expires_ms)

    def clear(self) -> None:
        """The queue is empty."""
        self._runs.clear()


__all__ = ["SHARED_MS", "Deadlines"]
