"""Trap: a group of one needs nobody's votes, and acknowledges before its own disk has the write."""

from bftkit.sim.faults import CutAtDisk, Fault, PowerCut
from bftkit.sim.plan import Group, Plan
from bftkit.sim.scenarios import Setting

NEEDS = ("power-cut",)


def plan(setting: Setting) -> Plan:
    random = setting.random
    faults: list[Fault] = [PowerCut(at=at + random.randint(0, 200), ticks=50) for at in range(200, 2900, 500)]
    for at in (350, 1350, 2350):
        faults.append(CutAtDisk(at=at, who="m0", operation=random.randint(1, 12), ticks=100))
    return setting.plan(group=Group(members=1, f=0, c=0), interval=4, window=8, faults=tuple(faults))
