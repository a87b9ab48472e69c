"""Under load, operators switch the group three times, to protocols that the seed draws; two commands come at once."""

from bftkit.sim.faults.changes import Switch
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting, missed
from bftkit.sim.world import World

LINES = (35,)
OPERATIONS_MIN = 200
TIMES = (400, 1300, 2200)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    others = setting.others(group)
    faults: list[Switch] = []
    for at in TIMES:
        # The two reach different members first, so that it is the order that decides.
        to = list(group.names)
        random.shuffle(to)
        faults.append(Switch(at=at, protocol=random.choice(others), to=tuple(to[:2])))
        faults.append(Switch(at=at + random.randint(0, 3), protocol=random.choice(others), to=tuple(to[2:])))
    return setting.plan(group=group, faults=tuple(faults))


def watch(world: World, plan: Plan) -> None:
    def look() -> None:
        if world.chain.now.epoch < len(TIMES) - 1:
            missed(world, f"only {world.chain.now.epoch} of {len(TIMES)} switches were over")

    world.after(plan.ticks - 1, look)
