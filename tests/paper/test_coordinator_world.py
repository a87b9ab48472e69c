"""Whole groups under the faults that the coordinator's record claims to survive, and under one that it does not."""

from __future__ import annotations

import pytest

from bftkit.core.machine import MemberId
from bftkit.core.ordering import FAULT_NAMES
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld, Violation
from bftkit_coordinator import PLUGIN
from bftkit_coordinator.messages import Append
from bftkit_coordinator.record import RECORD
from tests.seeds import at_least

SEEDS = at_least(4)


def group(seed: int, n: int = 5, c: int = 2, **more: object) -> OrderingWorld:
    """A group with slow disks, so that a crash has something to lose; the protocol must help itself."""
    return OrderingWorld(PLUGIN, n, 0, c, seed, disk=Disk(0, 20), learned_after=None, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_loss(seed: int) -> None:
    world = group(seed, network=Network(loss=0.3, duplication=0.5, straggling=0.2))
    world.submit(60)
    world.run_until(world.all_delivered, 60_000)


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_partition(seed: int) -> None:
    """Cut off with fewer than c followers, the coordinator decides nothing (FAULTS 4)."""
    world = group(seed)
    world.partition({"m0", "m1"}, {"m2", "m3", "m4"})
    world.submit(60)
    world.run(5_000)
    assert not world.chosen
    world.heal()
    world.run_until(world.all_delivered, 20_000)


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_follower_crash(seed: int) -> None:
    world = group(seed)
    world.submit(40)
    world.run(20)
    world.crash("m3", "m4")
    world.submit(40)
    world.run_until(world.all_delivered, 20_000)
    world.restart("m3", "m4")
    world.run_until(world.all_delivered, 20_000)


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_leader_restart(seed: int) -> None:
    """Whatever the coordinator ever said of a slot, it says again after each restart (SAFETY rule 24)."""
    world = group(seed, network=Network(loss=0.1))
    given: dict[int, bytes] = {}

    def watch(sender: MemberId, message: object) -> None:
        if isinstance(message, Append):
            assert given.setdefault(message.entry.slot, message.entry.digest) == message.entry.digest

    world.observers.append(watch)
    for turn in range(6):
        world.submit(20)
        world.run((13 * seed + 7 * turn) % 40 + 1)
        world.crash("m0")
        world.run(20)
        world.restart("m0")
    world.run_until(world.all_delivered, 60_000)
    assert len(given) >= 120


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_power_cut(seed: int) -> None:
    world = group(seed)
    for turn in range(5):
        world.submit(20)
        world.run((13 * seed + 7 * turn) % 60 + 1)
        world.crash(*world.members)
        world.restart(*world.members)
    world.run_until(world.all_delivered, 60_000)


def test_every_claim_of_the_record_has_its_test() -> None:
    tested = {name.removeprefix("test_survives_").replace("_", "-") for name in globals() if "survives" in name}
    assert RECORD.survives == tested
    assert tested <= set(FAULT_NAMES)


def test_does_not_survive_the_coordinators_absence() -> None:
    """Not claimed, and here is why: nobody else orders. Leaving the epoch is the group's decision."""
    world = group(1)
    world.crash("m0")
    world.submit(1)
    with pytest.raises(Violation, match="no progress"):
        world.run_until(world.all_delivered, 20_000)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_coordinator_may_be_any_member(seed: int) -> None:
    world = group(seed, parameters={"coordinator": 3})
    world.submit(40)
    world.run_until(world.all_delivered, 20_000)
    assert {world.machine(name).leader for name in world.members} == {"m3"}


def test_a_group_of_one() -> None:
    world = group(1, n=1, c=0)
    world.submit(40)
    world.run_until(world.all_delivered, 5_000)
    world.crash("m0")
    world.restart("m0")
    world.submit(10)
    world.run_until(world.all_delivered, 5_000)
    assert world.height("m0") >= 50
