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
"""A leader that passes over a client for so long, and for two windows of slots and one for each client that waits, is
unfair: an honest one gives everybody a turn meanwhile."""
FRUITLESS_SLOTS: Final = 32
"""So is one that orders so many slots in that time without a single request of those that wait here.

An honest leader, however overloaded, orders what came first; and what came before a request that has waited here for so
long has reached all members meanwhile, since clients turn to all of them. So these slots would empty this pool, too.
"""
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
        self._view = -1
        self._since = (0, 0)
        """Beat and slot from which on the present leader is judged."""
        self._fruitful = (0, 0)
        """Beat and slot when this member's pool was last empty, or lost a request to a slot."""
        self._removed = 0

    def on_beat(self, out: ReplicaOut) -> None:
        """Unfairness to one client, or to one member's clock, is a reason to replace the leader (FAULTS 31)."""
        replica = self._replica
        leader = replica.machine.leader
        now = (replica.beat, replica.applied)
        if self._view != replica.machine.view or leader is None or leader == replica.me:
            # A new leader answers for nothing that was passed over before its time.
            self._view, self._since, self._fruitful = replica.machine.view, now, now
        if len(replica.pool) == 0 or replica.pool.removed != self._removed:
            self._fruitful, self._removed = now, replica.pool.removed
        if leader is None or leader == replica.me:
            return
        waits_since = replica.pool.longest_wait()
        passed_over = waits_since is not None and (
            self._longer(
                max(waits_since, self._since),
                PATIENCE_BEATS,
                2 * replica.settings.window + len(replica.pool.turns),
            )
            or self._longer(self._fruitful, PATIENCE_BEATS, FRUITLESS_SLOTS)
        )
        known = replica.state.clock.reports.get(replica.me)
        if self._report_counter == 0 or (known is not None and known.counter >= self._report_watched):
            self._report_beat, self._report_slot = replica.beat, replica.applied
            self._report_watched = self._report_counter
        unreported = (
            replica.beat - self._report_beat >= CLOCK_PATIENCE_BEATS
            and replica.applied - self._report_slot >= replica.settings.window
        )
        if replica.measuring is not None and replica.measuring.is_passed_over():
            unreported = True
        if passed_over or unreported:
            # Should the protocol keep the leader, it gets the same time once more.
            self._since = self._fruitful = now
            self._report_beat, self._report_slot = now
            replica.driving.give(Neglected(leader), out)

    def _longer(self, since: tuple[int, int], beats: int, slots: int) -> bool:
        """Whether so many beats and slots have passed since this beat and slot."""
        return self._replica.beat - since[0] >= beats and self._replica.applied - since[1] >= slots

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
        if self._replica.succession is not None and bundle.client not in self._replica.settings.member_keys:
            return  # signed with a key of another epoch
        if member is None or self._replica.settings.member_keys.get(bundle.client) != member:
            raise WireError("a clock report of somebody else")
        if self._replica.measuring is not None:
            self._replica.measuring.on_clock(member, bundle.first)
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
            if member == replica.me or bundle.authentic(replica.settings.group, replica.settings.verify):
                due.append(bundle)
                # Put into one batch only, unless that one is lost and a newer report comes.
            del self._reports[member]
        return due
