"""Trap: after a state transfer a member is in no view: then another one falls, and nothing is decided any more."""

from bftkit.sim.faults import Crash, Partition
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting, must_go_on
from bftkit.sim.world import World

NEEDS = ("partition", "leader-crash")
LONG_TICKS = 10_000
"""Ten view timeouts: so long may it take."""


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    late, gone = setting.random.sample(group.names[1:], 2)
    rest = tuple(name for name in group.names if name != late)
    faults = (
        # It misses a change of view and more slots than the others keep.
        Partition(at=200, ticks=2800, sides=((late,), rest)),
        Crash(at=500, who=group.names[0], ticks=700, power=False),
        Crash(at=4500, who=gone, ticks=LONG_TICKS + 10),  # now each of the others counts
    )
    load = Load(operations=400, bursts=80, pipeline=2)
    return setting.plan(group=group, load=load, interval=2, window=4, ticks=15_000, faults=faults)


def watch(world: World, plan: Plan) -> None:
    for fault in plan.faults:
        if isinstance(fault, Crash) and fault.ticks >= LONG_TICKS:
            must_go_on(world, fault.at + 1, fault.ticks - 2, f"without {fault.who}")
