"""Machines lose power in the middle of a write: the torn end is cut off, and the member takes part again."""

from bftkit.sim.faults import LEADER, Crash, Fault, PowerCut
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (13,)
NEEDS = ("power-cut",)


def plan(setting: Setting) -> Plan:
    random, names = setting.random, setting.smallest().names
    faults: list[Fault] = []
    for at in range(100, 2900, 350):
        at += random.randint(0, 100)
        who = random.choice((LEADER, *names))
        faults.append(PowerCut(at=at, ticks=50) if random.random() < 0.5 else Crash(at=at, who=who, ticks=150))
    return setting.plan(faults=tuple(faults))
