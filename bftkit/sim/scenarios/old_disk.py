"""Members come back with the disks that they had some time before: A holds, whatever they promised since."""

from bftkit.sim.faults import Rollback
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (18,)
NEEDS = ("liar",)


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = setting.smallest(random.choice((1, 1, 2)))
    old = random.sample(group.names, group.f)
    faults = tuple(Rollback(at=random.randint(100, 1200), who=who, ticks=random.randint(200, 1500)) for who in old)
    return setting.plan(group=group, interval=4, window=16, faults=faults)
