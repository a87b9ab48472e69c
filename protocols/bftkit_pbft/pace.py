"""How long to wait for a leader, and how slow it may be: all counted in timer periods, for a machine has no clock.

`Patience` is the request timer and the timeout for a new view. The request timer looks every quarter of the timeout
whether anything was decided since; so a step on the hot path costs one assignment and sets no timer. Timeouts double
with each view that fails and halve again with progress (Castro 2001, section 2.3.5).

`Pace` watches a leader that delivers, but slowly on purpose: always just in time for the timeout (Clement et al.,
"Making Byzantine Fault Tolerant Systems Tolerate Byzantine Faults", NSDI 2009, section 4.2). Two rules:

- *Gap.* While requests wait and there is room for a proposal, a correct leader proposes at once. A period of `gap`
  ticks throughout which requests waited, with room and without one proposal, is a mark against the leader; a period
  in which it did propose takes one mark away. `MARKS_MAX` marks are too many.
- *Rate.* A leader that decides less than `percent` of the best rate seen from anybody, for `SLOW_MAX` spans in a row,
  is too slow. The rate is counted by time under demand, or else a light load would make every leader look slow: a span
  ends when requests were waiting at the end of `SPAN` periods, however long that takes, and all slots that were decided
  meanwhile count. The best rate is taken from spans with several slots in flight only: at a load so light that each
  slot travels alone, slots are far smaller and faster than any leader can make them under a heavy one.

When everything is slow (a starved machine, a bad network) the leader is innocent, and a new one would do no better.
So both rules relax after each leader that fell to them, by doubling the period and halving the share, and tighten
step by step in quiet times: a system that is slow as a whole sees a few view changes, not a storm.
"""

from __future__ import annotations

from typing import Final

import attrs

QUARTERS: Final = 4
MARKS_MAX: Final = 5
SPAN: Final = 10
SLOW_MAX: Final = 3
RELAX_MAX: Final = 6
QUIET_SPANS: Final = 6


@attrs.define
class Patience:
    """The timeout that grows and shrinks, and the request timer's count of quiet quarters."""

    base: int
    """The timeout without failures, in ticks."""
    maximum: int
    shrink_after: int
    """So many decided slots halve the timeout again."""
    failures: int = 0
    successes: int = 0
    quiet: int = 0
    """Quarters of the timeout that requests have waited through without a decision."""

    @property
    def timeout(self) -> int:
        """The present timeout, in ticks."""
        return min(self.base << min(self.failures, 32), self.maximum)

    @property
    def quarter(self) -> int:
        """How often the request timer looks, in ticks."""
        return max(1, self.timeout // QUARTERS)

    def failed(self) -> None:
        """A view is given up."""
        if self.timeout < self.maximum:
            self.failures += 1
        self.successes = 0
        self.quiet = 0

    def decided(self) -> None:
        """A slot was decided."""
        self.quiet = 0
        if self.failures:
            self.successes += 1
            if self.successes >= self.shrink_after:
                self.successes = 0
                self.failures -= 1

    def quarter_passed(self) -> bool:
        """A quarter passed in which requests waited; whether the timeout is over."""
        self.quiet += 1
        return self.quiet > QUARTERS


@attrs.define
class Pace:
    """Marks against a leader that is slow on purpose. See the top of this file."""

    gap: int
    """Ticks; 0 switches both rules off."""
    percent: int
    relax: int = 0
    marks: int = 0
    unbroken: bool = False
    """Whether requests have waited through the whole present period."""
    proposals: int = 0
    """In the present period."""
    decided: int = 0
    """In the present span."""
    periods: int = 0
    """Periods of the present span that ended with requests waiting."""
    busy_periods: int = 0
    """Those of them that ended with several slots in flight."""
    slow_spans: int = 0
    quiet_spans: int = 0
    best: int = 0
    """The most slots decided in a busy span, for a period of `gap` ticks."""

    @property
    def period(self) -> int:
        """The length of a period, in ticks."""
        return max(1, self.gap << self.relax)

    def new_leader(self) -> None:
        """Another leader starts without marks; what was the best rate stays."""
        self.marks = self.proposals = self.decided = self.periods = self.busy_periods = self.slow_spans = 0
        self.unbroken = False

    def suspected(self) -> None:
        """A leader fell to one of the rules: relax them."""
        self.relax = min(self.relax + 1, RELAX_MAX)
        self.quiet_spans = 0

    def period_passed(self, *, waiting: bool, room: bool, busy: bool) -> bool:
        """Close a period; whether the leader is too slow.

        `room`: whether it could have proposed more; `busy`: whether several slots are in flight.
        """
        if self.proposals:
            self.marks = max(0, self.marks - 1)
        elif self.unbroken and waiting and room:
            self.marks += 1
        too_slow = self.marks >= MARKS_MAX
        if waiting:
            self.periods += 1
            self.busy_periods += busy
        if self.periods >= SPAN:
            too_slow = self._span_passed() or too_slow
        self.unbroken = waiting
        self.proposals = 0
        return too_slow

    def _span_passed(self) -> bool:
        rate = self.decided >> self.relax
        slow = rate * 100 < self.best * (self.percent >> self.relax)
        self.slow_spans = self.slow_spans + 1 if slow else 0
        if not slow:
            if 2 * self.busy_periods >= self.periods:
                self.best = max(self.best, rate)
            self.quiet_spans += 1
            if self.quiet_spans >= QUIET_SPANS and self.marks == 0:
                self.quiet_spans = 0
                self.relax = max(0, self.relax - 1)
        self.decided = self.periods = self.busy_periods = 0
        return self.slow_spans >= SLOW_MAX
