"""Under load, members get new keys one after the other, one of them after it has lost its disk."""

from bftkit.sim.faults import Fault, Wipe
from bftkit.sim.faults.changes import RotateKeys
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting, missed
from bftkit.sim.world import World

LINES = (39,)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    names = list(group.names)
    random.shuffle(names)
    faults: list[Fault] = [RotateKeys(at=300 + 700 * index, who=name) for index, name in enumerate(names[:3])]
    forgetful = names[1]
    if forgetful != "m0" or setting.survives("leader-crash"):
        faults.append(Wipe(at=random.choice((310, 650)), who=forgetful, ticks=100))
    return setting.plan(group=group, faults=tuple(faults))


def watch(world: World, plan: Plan) -> None:
    def look() -> None:
        if world.chain.now.epoch < 2:
            missed(world, f"only {world.chain.now.epoch} of 3 rotations were over")

    world.after(plan.ticks - 1, look)
