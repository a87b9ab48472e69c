"""Some have left the protocol when it comes back to life among the others: nothing is decided in two ways."""

from bftkit.sim.faults import Partition
from bftkit.sim.faults.changes import Switch
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (4, 36)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    others = setting.others(group)
    faults: list[Switch | Partition] = []
    for at in (300, 1300):
        names = list(group.names)
        random.shuffle(names)
        cut = random.randint(1, len(names) - 1)
        sides = (tuple(names[:cut]), (*names[cut:], *(("c0",) if random.random() < 0.5 else ())))
        faults.append(Partition(at=at, ticks=random.randint(30, 700), sides=sides))
        told = tuple(names[:cut])
        faults.append(Switch(at=at + random.randint(0, 200), protocol=random.choice(others), forced=True, to=told))
    return setting.plan(group=group, interval=random.choice((2, 4)), window=16, faults=tuple(faults), ticks=2300)
