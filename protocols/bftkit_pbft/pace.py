"""How long to wait for a leader, and how slow it may be: all counted in timer periods, for a machine has no clock.

`Patience` is the request timer and the timeout for a new view. The request timer looks every quarter of the timeout
whether anything was decided since; so a step on the hot path costs one assignment and sets no timer. Timeouts double
with each view that fails and halve again with progress (Castro 2001, section 2.3.5); but only if none of the decisions
that make up this progress took half the timeout, for then the half of it would depose a leader that does its best.

`Pace` watches a leader that delivers, but slowly on purpose: always just in time for the timeout (Clement et al.,
"Making Byzantine Fault Tolerant Systems Tolerate Byzantine Faults", NSDI 2009, section 4.2). Two rules:

- *Gap.* While requests wait and nothing is in work, a correct leader proposes at once. (While a batch is in work, it
  may wait for a larger one; a leader that draws that out meets the second rule.) A period of `gap` ticks throughout
  which requests waited, with nothing in work at its end and without one proposal, is a mark against the leader; a
  period in which it did propose takes one mark away. `MARKS_MAX` marks are too many.
- *Rate.* A leader that decides less than `percent` of the best rate seen of late, for `SLOW_MAX` spans in a row,
  is too slow. The rate is counted by time under demand, or else a light load would make every leader look slow: a span
  ends when requests were waiting at the end of `SPAN` periods, however long that takes, and all slots that were decided
  meanwhile count. The best rate is taken from spans with several slots in flight only: at a load so light that each
  slot travels alone, slots are far smaller and faster than any leader can make them under a heavy one. It is
  halved whenever a leader fell to it: perhaps the operations have become heavier, and nobody can do better any more.

When everything is slow (a starved machine, a bad network) the leader is innocent, and a new one would do no better.
So both rules relax after each leader that fell to them, by doubling the period and halving the share, and tighten
step by step in quiet times: a system that is slow as a whole sees a few view changes, not a storm. A suspicion after a
tightening says that it came too early, and the next one takes twice as long.
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
CALM_MAX: Final = 6


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
    longest: int = 0
    """The most quiet quarters before any of the `successes`."""

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
        self.successes = self.longest = 0
        self.quiet = 0

    def decided(self) -> None:
        """A slot was decided."""
        if self.failures:
            self.longest = max(self.longest, self.quiet)
            self.successes += 1
            if self.successes >= self.shrink_after:
                # With at most one look in between, each decision took less than two quarters: half the timeout.
                self.failures -= self.longest <= 1
                self.successes = self.longest = 0
        self.quiet = 0

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
    """The most slots decided in a busy span, for a period of `gap` ticks; halved when a leader fell short of it."""
    calm: int = 0
    """Tightening takes `QUIET_SPANS` quiet spans, doubled so many times."""
    tightened: bool = False
    """Whether the rules were tightened since the last suspicion."""

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
        if self.tightened:
            self.calm = min(self.calm + 1, CALM_MAX)
        self.tightened = False
        self.quiet_spans = 0

    def forgiven(self) -> None:
        """The leader is not slow after all: this member is only behind."""
        self.marks = self.slow_spans = 0

    def period_passed(self, *, waiting: bool, idle: bool, busy: bool) -> bool:
        """Close a period; whether the leader is too slow.

        `idle`: whether nothing is in work, and it could have proposed; `busy`: whether several slots are in work.
        """
        if self.proposals:
            self.marks = max(0, self.marks - 1)
        elif self.unbroken and waiting and idle:
            self.marks += 1
            self.quiet_spans = 0
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
            if self.relax and self.quiet_spans >= QUIET_SPANS << self.calm:
                self.quiet_spans = 0
                self.relax -= 1
                self.tightened = True
        self.decided = self.periods = self.busy_periods = 0
        if self.slow_spans < SLOW_MAX:
            return False
        self.best = max(rate, self.best // 2)
        return True
