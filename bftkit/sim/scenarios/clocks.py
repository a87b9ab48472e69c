"""Clocks jump by thirty days either way, and one after the other runs ten times too fast: no storm of view changes."""

from bftkit.sim.faults import ClockJump, ClockRate, Fault
from bftkit.sim.plan import Plan
from bftkit.sim.running import Result
from bftkit.sim.scenarios import Setting

LINES = (19,)
FIGURE = "view changes in six seconds"
AT_MOST = 4
MONTH_MS = 30 * 86_400_000


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    faults: list[Fault] = []
    for at in range(200, 6000, 300):
        who = random.choice(group.names)
        faults.append(ClockJump(at=at, who=who, ms=random.choice((-MONTH_MS, MONTH_MS))))
    for at in (100, 2100, 4100):
        faults.append(ClockRate(at=at, who=random.choice(group.names), ppm=10_000_000, ticks=1800))
    return setting.plan(group=group, ticks=6000, faults=tuple(sorted(faults, key=lambda fault: fault.at)))


def measure(result: Result, baseline: Result) -> float:
    return result.view_changes
