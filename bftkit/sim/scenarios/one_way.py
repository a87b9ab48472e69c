"""One direction of a link is dead: the leader is not heard, or hears nothing, and followers miss each other."""

from bftkit.sim.faults import FOLLOWER, LEADER, OneWay
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (5,)
NEEDS = ("partition",)


def plan(setting: Setting) -> Plan:
    random, names = setting.random, setting.smallest().names
    faults: list[OneWay] = []
    for at in range(100, 3000, 450):
        sender, receiver = random.choice(((LEADER, FOLLOWER), (FOLLOWER, LEADER), tuple(random.sample(names, 2))))
        faults.append(OneWay(at=at, ticks=random.randint(200, 1200), sender=sender, receiver=receiver))
    return setting.plan(faults=tuple(faults))
