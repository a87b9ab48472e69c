"""A sync fails with an input/output error: the member stops, and does not take a second try for success."""

from bftkit.sim.faults import SyncFails
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting, missed
from bftkit.sim.world import World

LINES = (16,)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    faults = tuple(SyncFails(at=at, who=random.choice(group.names), ticks=600) for at in (200, 1000, 1800))
    return setting.plan(group=group, faults=faults)


def watch(world: World, plan: Plan) -> None:
    for fault in plan.faults:
        if isinstance(fault, SyncFails) and fault.who in world.members:
            world.after(fault.at, lambda fault=fault: _watch_one(world, fault))  # type: ignore[misc]


def _watch_one(world: World, fault: SyncFails) -> None:
    host = world.hosts[fault.who]
    directory, wanted = host.disk.directory, host.disk.directory.fail_syncs

    def look() -> None:
        if directory.fail_syncs < wanted and host.up:
            missed(world, f"{fault.who} runs on although a sync of its disk failed")

    if wanted:
        world.after(fault.ticks - 1, look)
