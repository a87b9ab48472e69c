"""Trap: a backup drops proposals because its own window lags, and misses them once everybody counts."""

from bftkit.sim.faults import Crash, OneWay
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting, must_go_on
from bftkit.sim.world import World

NEEDS = ("partition", "follower-crash", "leader-crash")
LONG_TICKS = 10_000
"""Ten view timeouts: so long may it take."""


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    late, gone, *others = setting.random.sample(group.names[1:], group.members - 1)
    faults = (
        # It hears the leader, and no checkpoint vote of anybody else: its window stands still.
        *(OneWay(at=100, ticks=1500, sender=sender, receiver=late) for sender in (gone, *others)),
        Crash(at=1590, who=gone, ticks=LONG_TICKS + 10),  # from here on nothing is decided without it
    )
    load = Load(operations=300, bursts=100, pipeline=2)
    return setting.plan(group=group, load=load, interval=2, window=4, ticks=12_000, faults=faults)


def watch(world: World, plan: Plan) -> None:
    for fault in plan.faults:
        if isinstance(fault, Crash) and fault.ticks >= LONG_TICKS:
            must_go_on(world, fault.at + 1, fault.ticks - 2, f"without {fault.who}")
