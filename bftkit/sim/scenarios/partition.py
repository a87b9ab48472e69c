"""The group is split: a client on the smaller side, with f + c members, hears of no result before it heals."""

from bftkit.sim.faults import Partition
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting, acknowledged, missed
from bftkit.sim.world import World

LINES = (4,)
NEEDS = ("partition",)
FLIGHT_TICKS = 60
"""What was on its way when the network was split has arrived by then."""


def plan(setting: Setting) -> Plan:
    group = setting.smallest(setting.random.choice((1, 1, 2)))
    names = list(group.names)
    faults: list[Partition] = []
    for at in (300, 2300):
        # The first time the leader is cut off; the second time whoever the seed says.
        small = names[: group.f + group.c]
        large = names[len(small) :]
        sides = ((*small, "c0"), (*large, "c1", "c2"))
        faults.append(Partition(at=at, ticks=1500, sides=sides))
        setting.random.shuffle(names)
    return setting.plan(group=group, ticks=4500, faults=tuple(faults))


def watch(world: World, plan: Plan) -> None:
    for fault in plan.faults:
        if isinstance(fault, Partition) and fault.ticks > FLIGHT_TICKS:
            _watch_split(world, fault)


def _watch_split(world: World, split: Partition) -> None:
    room = world.quorum.f + world.quorum.c
    for side in split.sides:
        if len(set(side) & set(world.members)) > room:
            continue
        clients = [name for name in side if name in world.actors]
        if not clients:
            continue

        def begin(clients: list[str] = clients) -> None:
            before = acknowledged(world, *clients)

            def end() -> None:
                told = acknowledged(world, *clients) - before
                if told:
                    missed(world, f"{told} answers on the smaller side of a split")

            world.after(split.ticks - FLIGHT_TICKS, end)

        world.after(split.at + FLIGHT_TICKS, begin)
