"""The disks of f members only pretend to sync, and then the power goes: the others repair what is gone."""

from bftkit.sim.faults import Fault, LyingDisk
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (17,)
NEEDS = ("liar",)


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = setting.smallest(random.choice((1, 1, 2)))
    faults: list[Fault] = []
    for who in random.sample(group.names, group.f):
        faults.append(LyingDisk(at=random.randint(0, 500), who=who, ticks=random.randint(500, 2000)))
    return setting.plan(group=group, faults=tuple(faults))
