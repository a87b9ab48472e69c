"""An honest leader with a backlog is neither slow nor unfair, and a change of view need not make the timeout grow."""

from __future__ import annotations

from bftkit.channel.interface import Limits
from bftkit.core.machine import Out
from bftkit.core.ordering import Neglected
from bftkit.sim.links import Network
from bftkit.sim.world import World
from bftkit_pbft.machine import PbftMachine
from bftkit_pbft.pace import Patience


def test_a_backlog_in_small_batches_deposes_nobody() -> None:
    """A hundred requests wait, two fit into a slot, and a window has eight: the last one waits for many windows.

    Seen failing: with two windows as the bound, whatever came before, the leader is replaced three times.
    """
    network = Network(delay_min=80, delay_max=100)
    world = World(5, clients=5, network=network, interval=2, window=8, limits=Limits(batch_requests=2))
    world.load(300, keys=2, pipeline=24)
    world.run(20_000)
    assert world.view_changes == 0
    world.finish()


def test_only_a_view_that_brought_nothing_or_took_too_long_makes_the_timeout_grow() -> None:
    world = World(1, parameters={"pace_gap": 0})
    world.load(40)
    world.run(1500)
    world.crash(str(world.replica("m1").machine.leader), power=False)
    world.load(10)
    world.run_until(lambda: world.view_changes == 1 and world.outstanding == 0, 20_000)
    failures = [patience_of(world, member).failures for member in world.members if world.hosts[member].up]
    assert max(failures) == 1  # who waited through the timeout
    world.restart("m0")
    before = sum(failures)
    leader = str(world.replica("m1").machine.leader)
    for member in world.members:
        if member != leader:
            world.replica(member).driving.give(Neglected(leader), Out())
    world.run_until(lambda: world.view_changes == 2, 20_000)
    assert sum(patience_of(world, member).failures for member in world.members) == before  # it had decided, and in time


def patience_of(world: World, member: str) -> Patience:
    machine = world.replica(member).machine
    assert isinstance(machine, PbftMachine)
    return machine.patience
