"""The clock of a world, and what is to happen when.

Time is an integer number of microseconds; whoever speaks of *ticks* means milliseconds. Events of the same
microsecond happen in the order in which they were planned.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final

from bftkit.sim.journal import NOTE, Journal

US: Final = 1000
"""Microseconds in a tick."""

Happening = tuple[int, int, Callable[..., None], tuple[Any, ...]]


class Scheduler:
    """Virtual time, chance, and the journal of what happened. The base of `World`."""

    def __init__(self, seed: int, *, trace: bool) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now_us = 0
        """Microseconds since the start."""
        self.injected: Counter[int] = Counter()
        """How often each line of docs/FAULTS.md really happened."""
        self.journal = Journal(self._party, keep_lines=trace, clients=self._client_of)
        self._events: list[Happening] = []
        self._serial = 0

    def _party(self, number: int) -> str:
        """Who has this number in the journal."""
        return str(number)

    def _client_of(self, key: bytes) -> str | None:
        """The client whose public key begins so; None if there is none."""
        return None

    @property
    def now(self) -> int:
        """Ticks since the start."""
        return self.now_us // US

    def moment(self) -> int:
        """A clock for the clients' history that never shows the same time twice: nothing there is a tie."""
        self._serial += 1
        return self._serial

    def after(self, ticks: int, action: Callable[[], None]) -> None:
        """Run the action so many ticks from now."""
        self.after_us(ticks * US, action)

    def after_us(self, us: int, action: Callable[..., None], *given: Any) -> None:
        """Run the action with what is given, so many microseconds from now."""
        self._serial += 1
        heapq.heappush(self._events, (self.now_us + us, self._serial, action, given))

    def inject(self, line: int, times: int = 1) -> None:
        """This line of docs/FAULTS.md really happened."""
        self.injected[line] += times

    def note(self, member: str, text: str) -> None:
        """Something worth a line."""
        self.journal.add(self.now_us, NOTE, 0, 0, f"{member} {text}".encode())

    @property
    def fingerprint(self) -> str:
        """The digest of everything that happened so far: every input, effect, packet and disk operation."""
        return self.journal.fingerprint

    @property
    def lines(self) -> list[str] | None:
        """Everything that happened, a line each, if the world was made with `trace`."""
        return self.journal.lines
