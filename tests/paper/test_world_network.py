"""The network fails: loss, duplicates, reordering, partitions. Nothing acknowledged is lost, and it all goes on."""

from __future__ import annotations

import pytest

from bftkit.sim.links import Network
from bftkit.sim.world import Violation, World

GROUPS = [("pbft", 4), ("coordinator", 3), ("paxos", 3)]
groups = pytest.mark.parametrize(("protocol", "members"), GROUPS)


def told(world: World, *clients: str) -> int:
    return sum(world.actors[name].told.executed + world.actors[name].told.reads for name in clients)


@groups
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "network",
    [
        Network(loss=0.3),
        Network(duplication=0.5),
        Network(straggling=0.2, delay_max=20),
        Network(loss=0.3, duplication=0.5, straggling=0.1),
    ],
    ids=["loss", "duplication", "reordering", "all"],
)
def test_a_bad_network_costs_time_only(protocol: str, members: int, seed: int, network: Network) -> None:
    world = World(seed, protocol, members, network=network)
    world.load(40, keys=3)
    world.run_until(lambda: world.outstanding == 0, 120_000, "all answered over the bad network")
    assert network.loss == 0 or world.links.lost > 0
    world.finish()


@groups
@pytest.mark.parametrize("seed", range(3))
def test_the_minority_side_acknowledges_nothing(protocol: str, members: int, seed: int) -> None:
    """The leader and a client alone: whatever the leader does, its client hears no result (FAULTS 4)."""
    world = World(seed, protocol, members)
    world.load(20, keys=3)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    world.partition(["m0", "c0"], [*world.members[1:], "c1", "c2"])
    before = told(world, "c0")
    world.load(30, keys=3)
    world.run(8_000)
    assert told(world, "c0") == before
    assert world.actors["c0"].outstanding > 0
    if protocol == "pbft":
        assert world.actors["c1"].outstanding == world.actors["c2"].outstanding == 0, "the majority goes on"
    world.finish()


@groups
@pytest.mark.parametrize("seed", range(3))
def test_one_way_cuts_and_bridges_heal(protocol: str, members: int, seed: int) -> None:
    """m0 hears m1 and m1 does not hear m0; then one member is the only bridge between two halves (FAULTS 5)."""
    world = World(seed, protocol, members)
    world.load(20, keys=3)
    world.cut("m0", "m1")
    world.run(3_000)
    world.heal()
    last = world.members[-1]
    rest = world.members[:-1]
    world.partition(rest[:1], rest[1:])
    world.load(20, keys=3)
    world.run(3_000)
    assert last in world.correct
    world.finish()


@groups
def test_the_progress_checker_can_fail(protocol: str, members: int) -> None:
    world = World(1, protocol, members)
    world.partition(world.members[:1], world.members[1:2], world.members[2:3], world.members[3:])
    world.load(5, keys=1)
    with pytest.raises(
        Violation, match=r"progress: all answered.*\n(.*\n)*.*seed 1.*test_the_progress_checker_can_fail"
    ):
        world.run_until(lambda: world.outstanding == 0, 5_000, "all answered")
