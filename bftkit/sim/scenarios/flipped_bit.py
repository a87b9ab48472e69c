"""A bit turns over anywhere in a member's log: it is found, and nobody else suffers."""

from bftkit.sim.faults import FlipBit
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (14,)
NEEDS = ("liar",)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    who = random.choice(group.names)
    flip = FlipBit(at=random.randint(300, 2500), who=who, place=random.getrandbits(40), ticks=200)
    return setting.plan(group=group, faults=(flip,))
