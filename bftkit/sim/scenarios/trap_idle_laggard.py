"""Trap: a member comes back when nobody asks for anything any more, and nothing tells it that it is behind."""

from bftkit.sim.faults import Crash
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting, missed
from bftkit.sim.world import World

NEEDS = ("follower-crash",)
PATIENCE_TICKS = 3000


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    who = setting.random.choice(group.names[1:])
    away = Crash(at=100, who=who, ticks=3000)
    # A burst at the beginning, whose log was cut when the member is back; then nothing.
    load = Load(operations=200, bursts=1, pipeline=2)
    ticks = away.at + away.ticks + PATIENCE_TICKS
    return setting.plan(group=group, load=load, interval=4, window=8, ticks=ticks, faults=(away,))


def watch(world: World, plan: Plan) -> None:
    def look() -> None:
        applied = {member: world.replica(member).applied for member in world.correct if world.hosts[member].up}
        if len(set(applied.values())) > 1:
            missed(world, f"a member is stranded in an idle group: {applied}")

    world.after(plan.ticks - 1, look)
