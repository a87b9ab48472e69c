"""Trap: a log that is never cut takes hours to replay: its size stays flat however much was executed."""

from bftkit.sim.faults import PowerCut
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting, missed
from bftkit.sim.world import World

NEEDS = ("power-cut",)
LOOK_TICKS = 50


def plan(setting: Setting) -> Plan:
    load = Load(operations=500, bursts=30, pipeline=4)
    cut = PowerCut(at=5900, ticks=50)
    return setting.plan(load=load, interval=4, window=8, segment_bytes=2048, ticks=6000, faults=(cut,))


def watch(world: World, plan: Plan) -> None:
    largest = [0, 0]

    def look() -> None:
        late = world.now > plan.ticks // 2
        for member in world.correct:
            largest[late] = max(largest[late], world.hosts[member].disk.directory.bytes_used)
        if world.now + LOOK_TICKS < plan.ticks:
            world.after(LOOK_TICKS, look)
        elif 2 * largest[1] > 3 * largest[0]:
            missed(world, f"logs held {largest[0]} bytes in the first half of the run and {largest[1]} in the second")

    world.after(LOOK_TICKS, look)
