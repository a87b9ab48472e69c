"""Policies: who decides when a group changes its protocol by itself, and by what.

A policy is part of the configuration, so operators signed it. It lists *modes*, protocols with parameters, from the
least robust to the most; members, f and c stay as they are. The members report what they measure, the reports are
ordered like requests, and the lower medians of them, which f liars cannot move beyond what honest members report, are
the *conditions*. From these every member computes the same: an algorithm (`PolicyAlgorithm`) says which mode it would
rather have, and why; the channel (`bftkit.channel.steering`) waits until it has said so for a while, and then changes
to it as to any planned change. A protocol that has stopped orders no reports: it is left by force, by votes of members
that it has stopped, for the one mode that the policy names for that (SAFETY rule 25).

An algorithm is a pure function without memory. Third parties' are found through the entry-point group
``bftkit.policies``, as protocols are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, Protocol

import attrs

from bftkit.configuration.qos import QoS
from bftkit.core.ordering import Parameter
from bftkit.core.wire import U64, Codec, Many, Pairs, Struct, Text

MODES_MAX: Final = 8
REASON_MAX: Final = 500
"""The longest reason (characters)."""


@attrs.frozen
class Mode:
    """A protocol with its parameters."""

    protocol: Annotated[str, Text(32)]
    parameters: Annotated[Mapping[str, int], Pairs()] = attrs.field(factory=dict[str, int], hash=False)


@attrs.frozen
class Policy:
    """A policy as operators sign it."""

    name: Annotated[str, Text(32)]
    """The algorithm, by its entry point's name."""
    modes: Annotated[tuple[Mode, ...], Many(Struct(Mode), MODES_MAX)] = ()
    """From the least robust to the most. Empty: the policy never changes anything."""
    forced: U64 = 0
    """The mode for which a protocol that has stopped is left by force, counted from 1; 0: it is not left."""
    stall_ms: U64 = 0
    """A protocol that decides nothing for so long, while requests wait, has stopped. It doubles with each forced
    change that members make by themselves (SAFETY rule 25). 0: never."""
    parameters: Annotated[Mapping[str, int], Pairs()] = attrs.field(factory=dict[str, int], hash=False)
    """The algorithm's; what is absent has its default."""

    def mode_of(self, protocol: str, parameters: Mapping[str, int]) -> int | None:
        """Which mode this is, counted from 0; None: none of them."""
        for index, mode in enumerate(self.modes):
            if mode.protocol == protocol and dict(mode.parameters) == dict(parameters):
                return index
        return None


@attrs.frozen
class Measurement:
    """What one member measured in its last window (of `period_ms`), and, as lower medians, what all did.

    Times in microseconds.
    """

    window_us: U64 = 0
    """How long the window was."""
    waited_us: U64 = 0
    """The median time from a request's arrival here to its execution here; of those executed in the window."""
    waited_most_us: U64 = 0
    """The same, the longest."""
    oldest_us: U64 = 0
    """How long the oldest request that waits here has waited."""
    arrived: U64 = 0
    """Requests that arrived here."""
    executed: U64 = 0
    """Requests that were executed here."""
    batches: U64 = 0
    """Slots with requests that were executed here."""
    views: U64 = 0
    """Changes of view (ballot, leader) that this member saw; rounds of a protocol without a leader do not count."""
    blames: U64 = 0
    """How often this member blamed another."""
    silent: U64 = 0
    """Members that this one has heard nothing from in the window."""
    lateness_us: U64 = 0
    """How much later than at their best the other members' reports came, in the median over the members."""


MEASUREMENT_CODEC: Final = Codec[Measurement]("measurement", {1: Measurement}, bytes_max=256)


@attrs.frozen
class Outlook:
    """All that an algorithm may know: the same at every member."""

    conditions: Measurement
    """The lower medians, field by field, of n - f - c or more members' newest measurements."""
    mode: int
    """The present one, counted from 0."""
    modes: Sequence[Mode]
    parameters: Mapping[str, int]
    """The algorithm's, defaults filled in."""
    qos: QoS | None


@attrs.frozen
class Wish:
    """The mode that an algorithm would rather have, and why, in words for people with the numbers in them."""

    mode: int
    reason: str


@attrs.frozen
class PolicyRecord:
    """What an algorithm says of itself."""

    name: str
    title: str
    when: str
    """When to choose it, in one sentence."""
    parameters: Mapping[str, Parameter] = attrs.field(factory=dict[str, Parameter])
    """Besides those of every policy (`COMMON_PARAMETERS`)."""
    modes: Literal["none", "two", "all"] = "all"
    """What the configuration manager gives it to choose from: nothing; the protocol that is chosen for the needs, and
    the least one that needs no timing; or all protocols that meet the needs, from the least costly up."""


COMMON_PARAMETERS: Final[Mapping[str, Parameter]] = {
    "period_ms": Parameter(500, 100, 600_000, "how often members measure and conditions are judged (ms)"),
    "patience": Parameter(
        2,
        1,
        1000,
        "so many judgements in a row must wish for a more robust mode; half as many, rounded up, right after a return "
        "to a less robust one, which is a trial",
    ),
    "calm": Parameter(
        6,
        1,
        10_000,
        "so many judgements in a row must wish for a less robust mode; twice as many "
        "after each time that this did not last, up to four times as many",
    ),
    "cooldown": Parameter(1, 0, 10_000, "so many judgements after a change of configuration count for nothing"),
}
"""What every policy's waiting is made of: hysteresis and cooldown."""


class PolicyAlgorithm(Protocol):
    """Judges conditions. Deterministic: a function of its arguments, with whole numbers only."""

    @property
    def record(self) -> PolicyRecord:
        """What it says of itself."""
        ...

    def judge(self, outlook: Outlook) -> Wish:
        """Which mode it would rather have; the present one, if nothing speaks against it."""
        ...
