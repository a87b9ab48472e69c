"""The disks are full: no operation is acknowledged until there is space, and then all goes on."""

from bftkit.sim.faults import DiskFull
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting, missed
from bftkit.sim.world import World

LINES = (15,)
MARGIN_TICKS = 300
"""By then whatever still fitted, or was durable before, was answered."""


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    all_of_them = tuple(DiskFull(at=900, who=who, room=0, ticks=1200) for who in group.names)
    room = setting.random.randint(0, 3000)
    one = DiskFull(at=100, who=setting.random.choice(group.names), room=room, ticks=500)
    return setting.plan(group=group, faults=(one, *all_of_them))


def watch(world: World, plan: Plan) -> None:
    full = [fault for fault in plan.faults if isinstance(fault, DiskFull) and fault.at == 900]
    if {fault.who for fault in full} != set(world.members):
        return
    end = min(fault.at + fault.ticks for fault in full)

    def begin() -> None:
        before = ordered(world)

        def look() -> None:
            told = ordered(world) - before
            if told:
                missed(world, f"{told} operations were acknowledged while every disk was full")
            if not any(world.hosts[member].waits_for_space for member in world.members):
                missed(world, "no member says that it waits for space")

        world.after(end - 1 - world.now, look)

    world.after(900 + MARGIN_TICKS, begin)


def ordered(world: World) -> int:
    """Operations that were acknowledged so far: strong reads need no disk."""
    return sum(actor.told.executed + actor.told.failed for actor in world.actors.values())
