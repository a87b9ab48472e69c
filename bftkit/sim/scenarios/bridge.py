"""Two halves of the group reach each other through one member only."""

from bftkit.sim.faults import Fault, OneWay
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (5,)
NEEDS = ("partition",)


def plan(setting: Setting) -> Plan:
    random = setting.random
    faults: list[Fault] = []
    for at in (200, 1700):
        # One half, the bridge, the other half.
        names = list(setting.smallest().names)
        random.shuffle(names)
        middle = random.randrange(1, len(names) - 1)
        for one in names[:middle]:
            for other in names[middle + 1 :]:
                faults.append(OneWay(at=at, ticks=1200, sender=one, receiver=other))
                faults.append(OneWay(at=at, ticks=1200, sender=other, receiver=one))
    return setting.plan(faults=tuple(faults))
