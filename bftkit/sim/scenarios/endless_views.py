"""Nobody can agree for a long time: views come and go, ever more slowly, and nothing grows with them."""

from bftkit.sim.faults import Partition
from bftkit.sim.plan import Load, Plan
from bftkit.sim.running import Result
from bftkit.sim.scenarios import Setting
from bftkit.sim.world import World

LINES = (48,)
NEEDS = ("partition", "leader-crash")
FIGURE = "views in a minute without a quorum"
AT_MOST = 12


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    names = list(group.names)
    setting.random.shuffle(names)
    # Two halves: each can begin views and neither can decide anything in one.
    sides = (tuple(names[: len(names) // 2]), (*names[len(names) // 2 :], "c0", "c1", "c2"))
    split = Partition(at=200, ticks=60_000, sides=sides)
    return setting.plan(group=group, load=Load(bursts=12), ticks=61_000, faults=(split,))


def watch(world: World, plan: Plan) -> None:
    def look() -> None:
        views = max(world.replica(member).machine.view for member in world.correct if world.hosts[member].up)
        world.inject(48, views)

    world.after(plan.ticks - 1, look)


def measure(result: Result, baseline: Result) -> float:
    return result.view_changes
