"""Trap: after a restart a member says again what it said before, and is taken, or takes itself, for a liar."""

from bftkit.sim.faults import Crash
from bftkit.sim.plan import Load, Plan
from bftkit.sim.running import Result
from bftkit.sim.scenarios import Setting

NEEDS = ("follower-crash",)
FIGURE = "view changes while followers restart"
AT_MOST = 0


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    followers = group.names[1:]
    faults = [
        # One after the other, in the middle of slots, and back at once: it has voted, and the slot is not decided.
        Crash(at=at + random.randint(0, 40), who=random.choice(followers), ticks=30, power=random.random() < 0.5)
        for at in range(100, 3000, 90)
    ]
    return setting.plan(group=group, load=Load(operations=330, bursts=24), faults=tuple(faults))


def measure(result: Result, baseline: Result) -> float:
    return result.view_changes
