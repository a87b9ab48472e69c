"""Members crash and come back: nothing that was acknowledged is lost, nothing that was promised is contradicted."""

from __future__ import annotations

import pytest

from bftkit.sim.host import Host
from bftkit.sim.links import Network
from bftkit.sim.world import Violation, World

GROUPS = [("pbft", 4), ("coordinator", 3), ("paxos", 3)]
groups = pytest.mark.parametrize(("protocol", "members"), GROUPS)


@groups
@pytest.mark.parametrize("seed", range(4))
def test_members_crash_and_restart_at_any_moment(protocol: str, members: int, seed: int) -> None:
    world = World(seed, protocol, members, network=Network(loss=0.05), interval=4, window=16, segment_bytes=4096)
    world.load(60, keys=3)
    for _ in range(6):
        world.run(world.random.randint(1, 400))
        member = world.random.choice(world.members)
        world.crash(member, power=world.random.random() < 0.5)
        world.run(world.random.randint(1, 400))
        world.restart(member)
    world.finish()


@groups
@pytest.mark.parametrize("seed", range(4))
def test_after_a_power_cut_of_all_everything_acknowledged_is_there(protocol: str, members: int, seed: int) -> None:
    world = World(seed, protocol, members, interval=4, window=16)
    for _ in range(4):
        world.load(20, keys=3)
        world.run(world.random.randint(50, 700))
        world.power_cut()
        world.run(10)
        world.restart(*world.members)
    world.finish()
    assert sum(actor.told.executed for actor in world.actors.values()) > 0


def plan_power_cut(world: World) -> None:
    """Cut everybody's power before some operation of one member's disk, and switch it on again."""
    random = world.random
    host = world.hosts[random.choice([member for member in world.members if world.hosts[member].up])]
    world.cut_power_before(host.me, random.randint(1, 12))
    world.run(random.randint(100, 800))
    world.forget_planned_cut(host.me)
    world.restart(*(member for member in world.members if not world.hosts[member].up))


@groups
@pytest.mark.parametrize("seed", range(6))
def test_the_power_is_cut_before_any_operation_of_a_disk(protocol: str, members: int, seed: int) -> None:
    """In the middle of a sync, of a rotation, of a cut (FAULTS 12)."""
    world = World(seed, protocol, members, interval=2, window=8, segment_bytes=2048)
    for _ in range(4):
        world.load(12, keys=2)
        world.run(world.random.randint(1, 200))
        plan_power_cut(world)
    world.finish()


class Hasty(Host):
    """A member that lets its words go before the disk has what they rest on."""

    def must_sync(self, gated: bool) -> bool:
        return False


@groups
def test_without_the_gate_a_power_cut_loses_what_was_acknowledged(protocol: str, members: int) -> None:
    """SAFETY rule 5, and the proof that these checkers would see it broken."""
    caught: list[str] = []
    for seed in range(6):
        world = World(seed, protocol, members, host=Hasty)
        world.guards.holding.active = False  # it would see it before anything is lost
        world.load(20, keys=2)
        world.run(150)
        try:
            world.power_cut()
            world.restart(*world.members)
            world.load(10, keys=2)
            world.finish(max_ticks=20_000)
        except Violation as violation:
            caught.append(str(violation))
    assert len(caught) >= 3


@groups
def test_a_full_disk_stops_acknowledgements_and_no_more(protocol: str, members: int) -> None:
    """FAULTS 15: with room again, all goes on."""
    world = World(3, protocol, members)
    world.load(10, keys=2)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    for member in world.members:
        directory = world.hosts[member].disk.directory
        directory.capacity = directory.bytes_used + 100
    before = sum(actor.told.executed for actor in world.actors.values())
    for index in range(10):
        world.actors["c0"].put(b"k%d" % (index % 2))
    world.run(3_000)
    assert sum(actor.told.executed for actor in world.actors.values()) == before
    assert any(world.hosts[member].waits_for_space for member in world.members)
    world.finish()
    assert world.actors["c0"].told.executed >= 10


@groups
def test_a_disk_that_fails_to_sync_stops_its_member(protocol: str, members: int) -> None:
    """FAULTS 16: never tried again as if it had worked; after a restart the member is as good as any other."""
    world = World(4, protocol, members)
    world.load(20, keys=2)
    world.run(100)
    last = world.members[-1]
    world.hosts[last].disk.directory.fail_syncs = 1
    world.load(10, keys=2)
    world.run_until(lambda: not world.hosts[last].up, 20_000, "the member stops")
    assert world.hosts[last].broken_disk is not None
    world.finish()


@groups
def test_a_lying_disk_of_one_member_is_repaired_by_the_others(protocol: str, members: int) -> None:
    """FAULTS 17: the member loses what its disk promised; it counts as faulty, and nobody else suffers."""
    world = World(5, protocol, members)
    last = world.members[-1]
    world.exempt(last)
    world.hosts[last].disk.directory.lying = True
    world.load(40, keys=2)
    world.run(300)
    world.crash(last)
    world.run(100)
    world.restart(last)
    world.finish()
