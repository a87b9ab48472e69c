"""Trap: a member fetches a state that is old when it arrives, for as long as there is load."""

from bftkit.sim.faults import Crash
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting, missed
from bftkit.sim.world import World

NEEDS = ("follower-crash",)
LOOK_TICKS = 20


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    away = Crash(at=100, who=setting.random.choice(group.names[1:]), ticks=1500, power=False)
    # A slot for nearly each operation, and the log is cut after every few of them.
    load = Load(operations=420, bursts=40, pipeline=2, poison=0.0)
    return setting.plan(group=group, load=load, interval=2, window=4, ticks=4500, faults=(away,))


def watch(world: World, plan: Plan) -> None:
    for fault in plan.faults:
        if isinstance(fault, Crash) and fault.who in world.members:
            world.after(fault.at + fault.ticks, lambda fault=fault: _follow(world, plan, fault.who))  # type: ignore[misc]


def _follow(world: World, plan: Plan, who: str) -> None:
    target = max(world.replica(member).applied for member in world.members if world.hosts[member].up)

    def look() -> None:
        if world.hosts[who].up and world.replica(who).applied > target:
            best = max(world.replica(member).applied for member in world.members if world.hosts[member].up)
            if best - world.replica(who).applied <= plan.window:
                return
        if world.now + LOOK_TICKS >= plan.ticks:
            missed(world, f"{who} did not catch up before {plan.ticks} ms of load")
        world.after(LOOK_TICKS, look)

    world.after(LOOK_TICKS, look)
