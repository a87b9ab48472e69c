"""Machines lose power in the middle of a write: the torn end is cut off, and the member takes part again."""

from bftkit.sim.faults import LEADER, Crash, CutAtDisk, Fault
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (13,)
NEEDS = ("power-cut",)


def plan(setting: Setting) -> Plan:
    random, names = setting.random, setting.smallest().names
    faults: list[Fault] = []
    for at in range(100, 2900, 180):
        if random.random() < 0.3:
            faults.append(Crash(at=at + random.randint(0, 50), who=random.choice((LEADER, *names)), ticks=120))
        else:
            # Some of these stand before a sync: then what was written since the last one is there in part.
            operation = random.randint(1, 12)
            faults.append(CutAtDisk(at=at, who=random.choice(names), operation=operation, ticks=120))
    return setting.plan(faults=tuple(faults))
