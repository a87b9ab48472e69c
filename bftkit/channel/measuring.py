"""Measuring: what this member sees of how well the group works, as a report for the group's policy.

Only where the epoch's configuration has a policy with modes is there a `Measuring`. It costs something per bundle and
per batch, nothing per request. Once every `period_ms`, by this member's own timer, it fills in a `Measurement` of the
window that is over, signs it with its key of the epoch and tells everybody; whoever proposes puts the newest report of
each member into its batch, as it does with reports of clocks (`watch`). What comes of it is `steering`'s.

Times are read from the wall clock, which has milliseconds, and may jump; the replica's own beats do not. Where the
clock has jumped, a wait is counted in beats.

*Lateness* is how much later than at their best the clock reports of others come: the difference of their clock and
ours, over the least that was seen. Clocks drift apart, so the least creeps up by `CREEP` of the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from bftkit.channel.bundles import REPORT, REQUESTS, Bundle, make_bundle, parse_bundle
from bftkit.channel.interface import ReplicaOut
from bftkit.channel.pool import Key
from bftkit.channel.steering import setting
from bftkit.configuration.policy import MEASUREMENT_CODEC, Measurement
from bftkit.core.machine import MemberId
from bftkit.core.wire import WireError

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica
    from bftkit.channel.state import Entry

BEAT_MS: Final = 100
QUIET_BEATS: Final = 10
"""A member that was not heard for a window, and not for so many beats, is silent: the idle say that they are there."""
JUMP_MS: Final = 10_000
"""A clock that goes on by more than this within a beat has jumped."""
LATENESS_MOST_US: Final = 1 << 50
"""No report counts as later than this (decades): a liar's clock says what it likes, and a report has 64 bits for it."""
CREEP: Final = 2000
"""The least difference of two clocks grows by one part in so many: more than clocks drift."""
PATIENCE_BEATS: Final = 40
"""A leader that orders for so long, and for a window of slots, without this member's report passes it over."""


class Measuring:
    """The part of a replica that measures."""

    def __init__(self, replica: Replica, before: Measuring | None = None) -> None:
        """`before`: the epoch before had one; what waits since then has waited since then."""
        self._replica = replica
        place = replica.settings.place
        assert place is not None
        policy = place.configuration.policy
        assert policy is not None
        self._beats = max(1, setting(policy, "period_ms") // BEAT_MS)
        self._arrived: dict[Key, tuple[int, int]] = before._arrived if before is not None else {}
        """When bundles came that wait: clock and beat."""
        self._heard: dict[MemberId, int] = dict.fromkeys(replica.others, replica.beat)
        """In which beat members were heard last; nobody is silent because an epoch begins."""
        self._least: dict[MemberId, int] = before._least if before is not None else {}
        """The least that this member's clock was ahead of another's report, in microseconds."""
        self._late: dict[MemberId, int] = {}
        """The most in this window over that."""
        self._late_before: dict[MemberId, int] = {}
        """The same in the last window in which a report of the member came."""
        self._clock = (replica.clock_ms, replica.beat)
        self._jumped: int = before._jumped if before is not None else -1
        """The beat of the clock's last jump."""
        self._begin()
        self._reports: dict[MemberId, Bundle] = {}
        self._counter = 0
        self._ordered = (replica.beat, replica.applied)
        """When a report of this member was ordered last, or told first."""
        self._awaited = 0

    def _begin(self) -> None:
        """A window begins."""
        replica = self._replica
        self._since = replica.beat
        self._waits: list[tuple[int, int]] = []
        """(microseconds, requests) of what was executed."""
        self._arrivals = self._executed = self._batches = 0
        self._view = replica.machine.view
        self._blames = replica.counters.blames
        self._late_before = {**self._late_before, **self._late}
        self._late = {}

    # ------------------------------------------------------------------------------------------ what is seen

    def on_arrival(self, bundle: Bundle) -> None:
        """A bundle waits from now on."""
        if bundle.kind == REQUESTS:
            key = (bundle.client, bundle.session, bundle.first)
            if key not in self._arrived:
                self._arrived[key] = (self._replica.clock_ms, self._replica.beat)
                self._arrivals += bundle.count

    def on_executed(self, entries: Iterable[Entry]) -> None:
        """A batch was executed."""
        before = self._executed
        for bundle, reply in entries:
            if bundle.kind != REQUESTS:
                continue
            arrived = self._arrived.pop((bundle.client, bundle.session, bundle.first), None)
            if reply is None:
                continue
            self._executed += bundle.count
            if arrived is not None:
                self._waits.append((self._waited_us(*arrived), bundle.count))
        self._batches += self._executed > before

    def _waited_us(self, clock_ms: int, beat: int) -> int:
        replica = self._replica
        if beat <= self._jumped or replica.clock_ms < clock_ms:
            return (replica.beat - beat) * BEAT_MS * 1000
        return (replica.clock_ms - clock_ms) * 1000

    def on_heard(self, member: MemberId) -> None:
        """A frame of another member came."""
        self._heard[member] = self._replica.beat

    def on_clock(self, member: MemberId, time_ms: int) -> None:
        """A clock report came, straight from the member whose clock it is."""
        ahead = (self._replica.clock_ms - time_ms) * 1000
        least = min(self._least.get(member, ahead), ahead)
        self._least[member] = least
        self._late[member] = max(self._late.get(member, 0), min(ahead - least, LATENESS_MOST_US))

    # ------------------------------------------------------------------------------------------ the window

    def on_beat(self, out: ReplicaOut) -> None:
        """Once a beat: does the clock go on as it should, and is the window over?"""
        replica = self._replica
        (clock_ms, beat), self._clock = self._clock, (replica.clock_ms, replica.beat)
        if not 0 <= replica.clock_ms - clock_ms <= (replica.beat - beat) * BEAT_MS + JUMP_MS:
            self._jumped = replica.beat
            self._least = {}
            self._late, self._late_before = {}, {}
        if replica.beat - self._since >= self._beats:
            self._report(self.measured(), out)
            self._begin()
            creeps = self._beats * BEAT_MS * 1000 // CREEP
            self._least = {member: least + creeps for member, least in self._least.items()}
            waiting = replica.pool.entries
            self._arrived = {key: arrived for key, arrived in self._arrived.items() if key in waiting}

    def measured(self) -> Measurement:
        """The window so far."""
        replica = self._replica
        oldest = next((self._arrived[key] for key in replica.pool.entries if key in self._arrived), None)
        led = replica.proposer.led or replica.machine.leader is not None
        quiet = replica.beat - max(self._beats, QUIET_BEATS)
        # Whoever is heard counts, be it with its last window: else a liar could be the only one that reported in this.
        before = {member: late for member, late in self._late_before.items() if self._heard.get(member, 0) > quiet}
        late = sorted({**before, **self._late}.values())
        return Measurement(
            window_us=(replica.beat - self._since) * BEAT_MS * 1000,
            waited_us=_median_of(self._waits),
            waited_most_us=max((us for us, _ in self._waits), default=0),
            oldest_us=self._waited_us(*oldest) if oldest is not None else 0,
            arrived=self._arrivals,
            executed=self._executed,
            batches=self._batches,
            views=max(0, replica.machine.view - self._view) if led else 0,
            blames=replica.counters.blames - self._blames,
            silent=sum(self._heard.get(member, 0) <= quiet for member in replica.others),
            lateness_us=late[(len(late) - 1) // 2] if late else 0,
        )

    # ------------------------------------------------------------------------------------------ reports

    def _report(self, measured: Measurement, out: ReplicaOut) -> None:
        replica = self._replica
        if replica.passive or replica.stopped is not None:
            return
        self._counter = max(self._counter, self._known(replica.me)) + 1
        payload = MEASUREMENT_CODEC.encode(measured)
        settings = replica.settings
        raw = make_bundle(settings.clock_key, settings.group, REPORT, self._counter, 0, 0, (payload,))
        self._reports[replica.me] = parse_bundle(raw, bytes_max=len(raw))
        out.broadcast(b"\x02" + raw)

    def _known(self, member: MemberId) -> int:
        """The counter of the newest report of this member that was executed."""
        state = self._replica.state.reconfiguring
        known = state.steering.reports.get(member) if state is not None else None
        return known.counter if known is not None else 0

    def on_report(self, member: MemberId | None, bundle: Bundle) -> None:
        """A report came, straight from the member whose it is. Raises `WireError`."""
        from bftkit.channel.batches import is_measurement

        if member is None or self._replica.settings.member_keys.get(bundle.client) != member:
            raise WireError("a report of somebody else")
        if not is_measurement(bundle):
            raise WireError("a report that says nothing one can measure")
        held = self._reports.get(member)
        if held is None or bundle.session > held.session:
            self._reports[member] = bundle

    def due(self) -> list[Bundle]:
        """Reports that are news, for the batch that this member makes now; each goes into one batch only."""
        replica, due = self._replica, list[Bundle]()
        for member in replica.settings.members:
            bundle = self._reports.pop(member, None)
            if bundle is None or self._known(member) >= bundle.session:
                continue
            if member == replica.me or bundle.authentic(replica.settings.group, replica.settings.verify):
                due.append(bundle)
        return due

    def is_passed_over(self) -> bool:
        """Whether a leader has ordered for long without any newer report of this member (SAFETY rule 11, FAULTS 31)."""
        replica = self._replica
        if self._counter == 0 or self._known(replica.me) >= self._awaited:
            self._ordered, self._awaited = (replica.beat, replica.applied), self._counter
            return False
        beat, slot = self._ordered
        if replica.beat - beat < PATIENCE_BEATS + self._beats or replica.applied - slot < replica.settings.window:
            return False
        self._ordered = (replica.beat, replica.applied)
        return True


def _median_of(waits: list[tuple[int, int]]) -> int:
    """The lower median over all requests, of (microseconds, requests)."""
    middle = (sum(count for _, count in waits) + 1) // 2
    for us, count in sorted(waits):
        middle -= count
        if middle <= 0:
            return us
    return 0
