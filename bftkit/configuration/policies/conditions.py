"""What policies see in the conditions: whether the leader or the network misbehaves, and whether all is calm again.

A measurement says how long requests waited, not why. Three things make them wait, and only one of them is cured by a
more robust protocol:

- *The leader, or what is between it and the others, misbehaves.* Views change and change again, or nothing is executed
  while requests grow old, or requests wait long although few of them are executed.
- *The network is slow for everybody.* Then reports are late, too, and a protocol with more steps would be slower still.
  So what counts as long grows with the lateness of the reports.
- *There is more load than the members can bear.* Then many requests are executed while others wait: again more steps
  would make it worse.

Times are in microseconds, as in `Measurement`; whole numbers only, so that all members conclude the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bftkit.configuration.policy import Outlook
from bftkit.core.ordering import Parameter

DELAYS: Final = 4
"""So many messages' delays lie between a request's arrival and its execution where a leader orders: each is as late as
the reports are."""
DEADLINE_PERCENT: Final = 80
"""Whoever waits for the deadline to be missed is too late."""

PARAMETERS: Final[Mapping[str, Parameter]] = {
    "slow_ms": Parameter(250, 1, 3_600_000, "a median wait above this (ms) is long; never above 80 % of the deadline"),
    "busy": Parameter(
        1000, 1, 1 << 30, "with so many requests executed a second, long waits come from load and not from the leader"
    ),
    "views": Parameter(2, 1, 1000, "so many changes of the leader in one window are too many"),
    "stuck_ms": Parameter(
        1000, 1, 3_600_000, "a request that waits for so long (ms), in a window in which none is executed, is stuck"
    ),
    "late_ms": Parameter(20, 0, 3_600_000, "reports that are later than this (ms) are no sign of calm"),
    "silent": Parameter(0, 0, 1024, "with no more silent members than this it may be calm"),
}
"""What the policies of this folder have in common; what else they have stands with each."""


def milliseconds(microseconds: int) -> str:
    """A time for people."""
    return f"{microseconds // 1000:,} ms"


def rate(outlook: Outlook) -> int:
    """Requests executed a second."""
    return outlook.conditions.executed * 1_000_000 // max(1, outlook.conditions.window_us)


def long_us(outlook: Outlook) -> int:
    """How long a wait must be to be called long, in this network."""
    limit = 1000 * outlook.parameters["slow_ms"]
    if outlook.qos is not None and outlook.qos.deadline_ms:
        limit = min(limit, 1000 * outlook.qos.deadline_ms * DEADLINE_PERCENT // 100)
    return limit + DELAYS * outlook.conditions.lateness_us


def misbehaves(outlook: Outlook) -> str | None:
    """What speaks for a more robust mode, in words; None if nothing does."""
    now, parameters = outlook.conditions, outlook.parameters
    window = milliseconds(now.window_us)
    if now.views >= parameters["views"]:
        return f"the leader changed {now.views} times in {window}; {parameters['views']} are too many"
    if now.executed == 0 and now.oldest_us >= 1000 * parameters["stuck_ms"]:
        return f"nothing was executed in {window}, and a request has waited for {milliseconds(now.oldest_us)}"
    limit = long_us(outlook)
    if now.executed and now.waited_us > limit and rate(outlook) < parameters["busy"]:
        return (
            f"requests waited for {milliseconds(now.waited_us)} in the median, more than {milliseconds(limit)}, while "
            f"{rate(outlook):,} a second were executed: that is not load"
        )
    return None


def disturbed(outlook: Outlook) -> str | None:
    """Why it is not calm, in words; None if it is."""
    now, parameters = outlook.conditions, outlook.parameters
    if now.silent > parameters["silent"]:
        return f"{now.silent} members are not heard"
    if now.lateness_us > 1000 * parameters["late_ms"]:
        late = milliseconds(now.lateness_us)
        return f"messages are {late} later than at their best, and {parameters['late_ms']:,} ms would be calm"
    if now.views:
        return f"the leader changed {now.views} times"
    if now.executed == 0 and now.oldest_us >= 1000 * parameters["stuck_ms"]:
        return f"a request has waited for {milliseconds(now.oldest_us)}, and none was executed"
    return None


def calm(outlook: Outlook) -> str:
    """That it is calm, in words."""
    now = outlook.conditions
    heard = "all members are heard" if not now.silent else f"only {now.silent} members are not heard"
    return f"{heard}, and messages are {milliseconds(now.lateness_us)} later than at their best"
