"""Watching the leader, and reporting the clock.

A leader that orders, but passes over one client's requests or one member's clock reports, is unfair; what it does is
never wrong by itself, so only its omissions over time tell (FAULTS 31, SAFETY rule 11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bftkit.channel.bundles import CLOCK, Bundle, make_bundle, parse_bundle
from bftkit.channel.interface import ReplicaOut
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Neglected
from bftkit.core.wire import WireError

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica

CLOCK_BEATS: Final = 5
"""A clock report every D/2 = 500 ticks."""
PATIENCE_BEATS: Final = 20
"""A leader that passes over a request for so long, and for two windows of slots, is unfair."""
CLOCK_PATIENCE_BEATS: Final = 40
"""The same for a member's clock reports, which may be lost on their way, and one window of slots."""


class LeaderWatch:
    """The part of a replica that watches the leader and reports this member's clock."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._reports: dict[MemberId, Bundle] = {}
        self._report_counter = 0
        self._report_beat = 0
        self._report_slot = 0
        self._report_watched = 0
        self._neglect_view = -1

    def on_beat(self, out: ReplicaOut) -> None:
        """Unfairness to one client, or to one member's clock, is a reason to replace the leader (FAULTS 31)."""
        replica = self._replica
        leader = replica.machine.leader
        if leader is None or leader == replica.me or self._neglect_view == replica.machine.view:
            return
        oldest = next(replica.pool.oldest(), None)
        passed_over = (
            oldest is not None
            and replica.beat - oldest.beat >= PATIENCE_BEATS
            and replica.applied - oldest.applied >= 2 * replica.settings.window
        )
        known = replica.state.clock.reports.get(replica.me)
        if self._report_counter == 0 or (known is not None and known.counter >= self._report_watched):
            self._report_beat, self._report_slot = replica.beat, replica.applied
            self._report_watched = self._report_counter
        unreported = (
            replica.beat - self._report_beat >= CLOCK_PATIENCE_BEATS
            and replica.applied - self._report_slot >= replica.settings.window
        )
        if passed_over or unreported:
            self._neglect_view = replica.machine.view
            self._report_beat, self._report_slot = replica.beat, replica.applied
            replica.give(Neglected(leader), out)

    def report_clock(self, out: ReplicaOut) -> None:
        replica = self._replica
        known = replica.state.clock.reports.get(replica.me)
        self._report_counter = max(self._report_counter, known.counter if known is not None else 0) + 1
        raw = make_bundle(
            replica.settings.clock_key, replica.settings.group, CLOCK, self._report_counter, replica.clock_ms, 0, ()
        )
        self._reports[replica.me] = parse_bundle(raw, bytes_max=len(raw))
        out.broadcast(b"\x02" + raw)

    def on_report(self, member: MemberId | None, bundle: Bundle) -> None:
        if member is None or self._replica.settings.member_keys.get(bundle.client) != member:
            raise WireError("a clock report of somebody else")
        held = self._reports.get(member)
        if held is None or bundle.session > held.session:
            self._reports[member] = bundle

    def reports_due(self) -> list[Bundle]:
        """Reports that are news; checked only now, since most of them are overtaken before they are needed."""
        replica = self._replica
        due: list[Bundle] = []
        for member in replica.settings.members:
            bundle = self._reports.get(member)
            if bundle is None:
                continue
            known = replica.state.clock.reports.get(member)
            if known is not None and known.counter >= bundle.session:
                continue
            if member == replica.me or bundle.authentic(replica.settings.group):
                due.append(bundle)
                # Put into one batch only, unless that one is lost and a newer report comes.
            del self._reports[member]
        return due
