"""Liars under a policy: false reports of what they measured, false votes that the protocol has stopped, and commands
that only the policy itself could have decided.

One lies with the keys that it has: its own reports and votes, as it likes, and nobody else's. Line 44 of
docs/FAULTS.md: a member that invents a command.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

import attrs

from bftkit.channel.bundles import COMMAND, REPORT, make_bundle, make_proved_bundle, parse_bundle
from bftkit.channel.frames import BUNDLE, StalledVote, pack_control
from bftkit.channel.interface import ReplicaSettings
from bftkit.channel.replica import Replica
from bftkit.configuration.policy import MEASUREMENT_CODEC, Measurement
from bftkit.core.machine import MemberId
from bftkit.crypto.signed import Certificate
from bftkit.membership.epochs import Configuration
from bftkit.membership.steering import STALLED_PURPOSE, leaving, stalled_body, steered
from bftkit.sim.adversaries.honest import Rewriting, Said

LINE: Final = 44
"""A broken member invents a command."""
MOST: Final = (1 << 63) - 1
EVERY_BEATS: Final = 3


def extreme(*, high: bool) -> Measurement:
    """The most, or the least, that can be said of everything."""
    value = MOST if high else 0
    return Measurement(**{field.name: value for field in attrs.fields(Measurement)})


class FalseReports(Rewriting):
    """Reports extremes, in every beat: to one half of the members the most that can be said, to the others the least.

    What others report it passes over, and puts its own into whatever it proposes. The defence: conditions are lower
    medians over n - f - c members or more, or there are none (SAFETY rule 11 says so of clocks); and a leader that
    passes members over is replaced.
    """

    lines: ClassVar[tuple[int, ...]] = (LINE,)

    def __init__(self, settings: ReplicaSettings, high: bool = True) -> None:
        """`high`: what the first half is told."""
        super().__init__(settings)
        self._high = high
        self.lies = 0
        self._beat = -1

    def status(self) -> dict[str, Any]:
        """How many lies left."""
        return {"adversary": {"kind": "false-reports", "lies": self.lies}}

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """What others report is not heard."""
        return None if _reports(frame) else frame

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """The true report stays here."""
        if not _reports(frame):
            yield to, frame

    def besides(self, replica: Replica) -> Iterator[Said]:
        """Two false ones in its place."""
        measuring = replica.measuring
        if measuring is None or replica.beat == self._beat or replica.passive:
            return
        self._beat = replica.beat
        half = self.last_half
        for high in (self._high, not self._high):
            raw = self._report(replica.beat + 1, extreme(high=high))
            if high == self._high:
                measuring.on_report(replica.me, parse_bundle(raw, bytes_max=len(raw)))
            yield tuple(one for one in replica.others if (one in half) != (high == self._high)), bytes((BUNDLE,)) + raw
            self.lies += 1
            self.act(LINE)

    def _report(self, counter: int, measurement: Measurement) -> bytes:
        payload = MEASUREMENT_CODEC.encode(measurement)
        return make_bundle(self.settings.clock_key, self.settings.group, REPORT, counter, 0, 0, (payload,))


def _reports(frame: bytes) -> bool:
    return len(frame) > 1 and frame[0] == BUNDLE and frame[1] == REPORT


class FalseStalls(Rewriting):
    """Says at once, and of two slots, that the protocol has stopped; shows commands that nobody decided.

    The defence: n - f - c votes for one slot, each signed, and no other way to a command of the policy than to have
    executed what it is made from (SAFETY rule 25).
    """

    lines: ClassVar[tuple[int, ...]] = (LINE,)

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self.lies = 0
        self._beat = 0

    def status(self) -> dict[str, Any]:
        """How many lies left."""
        return {"adversary": {"kind": "false-stalls", "lies": self.lies}}

    def besides(self, replica: Replica) -> Iterator[Said]:
        """Every few beats all of it."""
        settings = replica.settings
        here = settings.place.configuration if settings.place is not None else None
        if here is None or not settings.steers or replica.beat < self._beat + EVERY_BEATS or replica.passive:
            return
        self._beat = replica.beat
        for slot in (replica.applied, replica.applied + 1):
            signature = settings.keyring.sign(STALLED_PURPOSE, stalled_body(here.epoch, slot))
            yield replica.others, pack_control(StalledVote(here.epoch, slot, signature))
            self.lies += 1
        for invented in self._invented(replica, here):
            yield replica.others, bytes((BUNDLE,)) + invented
            self.lies += 1
        self.act(LINE)

    def _invented(self, replica: Replica, here: Configuration) -> Iterator[bytes]:
        policy, settings = here.policy, replica.settings
        assert policy is not None
        for mode in range(len(policy.modes)):
            planned = steered(settings.group, here, mode, replica.applied, "so it was decided")
            yield make_proved_bundle(COMMAND, planned.name, planned.encode())
        if policy.forced:
            body = stalled_body(here.epoch, replica.applied)
            mine = settings.keyring.sign(STALLED_PURPOSE, body)
            votes = dict.fromkeys(settings.members, mine)
            forced = attrs.evolve(leaving(settings.group, here), stalled=Certificate.of(body, votes))
            yield make_proved_bundle(COMMAND, forced.name, forced.encode())
