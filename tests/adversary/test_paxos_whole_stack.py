"""Paxos under the whole stack: duels, one-way cuts, clocks that jump under reads, all members restarted at once.

Every run ends with `finish`: everything is healed, every client has its answers, all members agree, and one order of
all operations explains what the clients saw, reads included.
"""

from __future__ import annotations

import pytest

from bftkit.core.machine import MemberId
from bftkit.sim.links import Network
from bftkit.sim.world import World
from bftkit_paxos.machine import PaxosMachine
from bftkit_paxos.roles import Role

MONTH_MS = 30 * 86_400_000


def machine(world: World, member: MemberId) -> PaxosMachine:
    found = world.replica(member).machine
    assert isinstance(found, PaxosMachine)
    return found


def leader(world: World) -> MemberId | None:
    """Who leads, if exactly one member says so of itself."""
    leading = [name for name in world.members if world.hosts[name].up and machine(world, name).role is Role.LEADING]
    return leading[0] if len(leading) == 1 else None


def work(world: World, rounds: int = 1) -> None:
    """A hot key: one client writes, the others read all the time."""
    for _ in range(rounds):
        world.actors["c0"].put(b"k0")
        for name in ("c1", "c2", "c3"):
            world.actors[name].read(b"k0")
        world.run(world.random.randint(5, 120))
    world.keys.add(b"k0")


@pytest.mark.parametrize("seed", range(8))
def test_clocks_that_jump_cannot_make_a_read_stale(seed: int) -> None:
    """ADR 0013: no lease. Clocks jump by a month and run ten times too fast while leaders come and go."""
    world = World(seed, "paxos", 3, network=Network(delay_max=60, loss=0.1), clients=4)
    random = world.random
    for _ in range(10):
        work(world, 2)
        member = random.choice(world.members)
        world.jump_clock(member, random.choice((-MONTH_MS, MONTH_MS)))
        world.set_clock_rate(random.choice(world.members), random.choice((100_000, 1_000_000, 10_000_000)))
        gone = leader(world)
        if gone is not None and random.random() < 0.5:
            # The old leader lives on, alone with the readers, and with a clock that may stand nearly still.
            rest = [name for name in world.members if name != gone]
            world.partition([gone, "c1", "c2"], [*rest, "c0", "c3"])
            work(world, 3)
            world.run(400)
            work(world, 2)
            world.heal()
    world.finish()
    assert sum(actor.told.reads for actor in world.actors.values()) >= 30


@pytest.mark.parametrize("seed", range(6))
def test_duelling_leaders_converge(seed: int) -> None:
    """Everybody asks at the same moment (a spread of one tick), on links slow enough for two to prepare."""
    world = World(seed, "paxos", 5, network=Network(delay_min=10, delay_max=40), clients=2, parameters={"spread": 1})
    world.load(30, keys=3)
    for _ in range(3):
        world.run_until(lambda: leader(world) is not None, 30_000, "a leader")
        gone = leader(world)
        assert gone is not None
        world.crash(gone)
        world.run(1_500)
        world.restart(gone)
    world.run_until(lambda: leader(world) is not None, 30_000, "a leader")
    world.finish()
    view = max(machine(world, name).view for name in world.members)
    world.run(5_000)
    assert max(machine(world, name).view for name in world.members) == view


@pytest.mark.parametrize("seed", range(4))
def test_a_member_behind_a_one_way_partition_never_deposes_the_leader(seed: int) -> None:
    world = World(seed, "paxos", 3, network=Network(delay_max=10), clients=3)
    world.load(10, keys=3)
    world.run(1_000)
    before = machine(world, "m0").view
    world.cut("m0", "m2")
    world.cut("m1", "m2")
    for _ in range(8):
        world.load(6, keys=3)
        world.run(1_000)
    assert machine(world, "m0").view == machine(world, "m1").view == before
    assert machine(world, "m2").attempt >= 4
    world.finish()
    assert {machine(world, name).view for name in world.members} == {before}


@pytest.mark.parametrize("stage", [Role.SEEKING, Role.ASKING, Role.PREPARING, Role.LEADING], ids=lambda role: role.name)
@pytest.mark.parametrize("seed", range(3))
def test_all_members_restart_in_the_middle_of_a_leader_change(stage: Role, seed: int) -> None:
    """Power is cut at all members when the first one has reached that stage of the change."""
    world = World(seed, "paxos", 3, network=Network(delay_min=2, delay_max=30), clients=3)
    world.load(60, keys=3)
    for _ in range(3):
        world.run_until(lambda: leader(world) is not None, 30_000, "a leader")
        world.run(world.random.randint(20, 300))
        gone = leader(world)
        if gone is None:
            continue
        world.crash(gone)

        def reached(gone: MemberId = gone) -> bool:
            return any(machine(world, name).role is stage for name in world.members if name != gone)

        world.run_until(reached, 10_000, stage.name)
        world.run(world.random.randint(0, 3))
        world.power_cut()
        world.run(100)
        world.restart(*world.members)
    world.finish()


@pytest.mark.parametrize("seed", range(3))
def test_the_bridge_between_members_that_do_not_see_each_other_leads(seed: int) -> None:
    world = World(seed, "paxos", 5, network=Network(delay_max=10), clients=2)
    world.load(10, keys=2)
    world.run(1_000)
    ends = [name for name in world.members if name != "m3"]
    for one in ends:
        for other in ends:
            if one != other:
                world.cut(one, other)
    world.run_until(lambda: leader(world) == "m3", 10_000, "the bridge leads")
    world.load(10, keys=2)
    world.run_until(lambda: world.outstanding == 0, 20_000, "answers")
    world.finish()
