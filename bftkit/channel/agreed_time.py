"""Agreed time: one clock for all members that no clock alone decides (SAFETY rule 11).

Every member reports its clock in a signed report, and reports are ordered like requests. M is the lower median of the
members' latest reports. A batch carries its proposer's clock; the slot's time is that proposal clamped to [M, M + D],
and never less than the slot before. A proposal is never refused for its time, so a clock that jumps causes no view
change: it is only clamped. A leader can place the time anywhere within [M, M + D]; f liars cannot move M beyond what
some honest member reported.

Until n - f - c members have reported, time stands still.
"""

from __future__ import annotations

from typing import Final

import attrs

from bftkit.core.machine import MemberId

SPREAD_MS: Final = 1000
"""D: how far above M a proposal may lie. Members report every D/2."""


@attrs.frozen
class Report:
    """A member's latest report: newer counters replace older ones, wherever the clock jumped.

    Counters begin anew with each epoch, and its keys (`bftkit.channel.entering`).
    """

    counter: int
    time_ms: int


@attrs.define
class AgreedClock:
    """The replicated clock. `needed` is n - f - c."""

    needed: int
    now_ms: int = 0
    reports: dict[MemberId, Report] = attrs.field(factory=dict[MemberId, Report])

    def report(self, member: MemberId, counter: int, time_ms: int) -> bool:
        """An ordered report; says whether it was news."""
        known = self.reports.get(member)
        if known is not None and known.counter >= counter:
            return False
        self.reports[member] = Report(counter, time_ms)
        return True

    def settle(self, proposal_ms: int) -> int:
        """The time of the next slot, for a batch that proposes this one."""
        if len(self.reports) >= self.needed:
            times = sorted(report.time_ms for report in self.reports.values())
            median = times[(len(times) - 1) // 2]
            self.now_ms = max(self.now_ms, min(max(proposal_ms, median), median + SPREAD_MS))
        return self.now_ms
