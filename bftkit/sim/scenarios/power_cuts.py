"""All lose power right before an operation on a disk: seed by seed before each of the first ones, then at random."""

from bftkit.sim.faults import CutAtDisk
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (12,)
NEEDS = ("power-cut",)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    step, member = divmod(setting.seed, group.members)
    faults = [CutAtDisk(at=0, who=group.names[member], operation=1 + step, ticks=400)]
    for at in (700, 1400, 2100):
        who = random.choice(group.names)
        faults.append(CutAtDisk(at=at, who=who, operation=random.randint(1, 30), ticks=400))
    # Small segments and a short interval, so that files are begun, sealed and cut while it happens.
    return setting.plan(group=group, interval=2, window=8, segment_bytes=2048, faults=tuple(faults))
