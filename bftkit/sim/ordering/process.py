"""A member's process: it crashes, comes back as another incarnation, and may stand still for a while."""

from __future__ import annotations

from collections.abc import Callable


class Process:
    """One incarnation after the other. What was planned for one does not happen to the next."""

    def __init__(self) -> None:
        self.paused = False
        self._incarnation = 0
        self._stalled: list[Callable[[], None]] = []

    def bound(self, event: Callable[[], None]) -> Callable[[], None]:
        """The event, for this incarnation only; while the process is paused, it waits."""
        incarnation = self._incarnation

        def run() -> None:
            if self._incarnation != incarnation:
                return
            if self.paused:
                self._stalled.append(run)
            else:
                event()

        return run

    def die(self) -> None:
        """This incarnation is over."""
        self._incarnation += 1
        self.paused = False
        self._stalled.clear()

    def resume(self) -> list[Callable[[], None]]:
        """The process goes on; here is what has come for it meanwhile."""
        self.paused = False
        stalled, self._stalled = self._stalled, []
        return stalled
