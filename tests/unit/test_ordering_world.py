"""The seeded world for ordering protocols does what it says: disks, crashes, links, and failures that can be rerun.

That its checkers see what they should is shown by planted bugs, in `tests/paper/test_contract_teeth`.
"""

from __future__ import annotations

from typing import Any

import pytest

from bftkit.core.plugin import load_protocol
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld, Violation

PLUGIN = load_protocol("coordinator")
SLOW = Disk(50, 50)
"""Every sync takes 50 ticks; the links below take one."""


def group(seed: int = 1, **more: Any) -> OrderingWorld:
    """Three members, m0 orders."""
    more.setdefault("network", Network(1, 1))
    return OrderingWorld(PLUGIN, 3, 0, 1, seed, **more)


def test_nothing_leaves_before_its_record_is_durable() -> None:
    """SAFETY rule 5."""
    world = group(disk=SLOW)
    world.submit(1)
    world.run(40)
    assert world.machine("m0").highest_voted == 1
    assert world.records("m0") == []
    assert world.machine("m1").highest_voted == 0
    world.run(80)
    assert len(world.records("m0")) == 1
    assert world.machine("m1").highest_voted == 1


def test_nothing_is_delivered_before_the_records_below_it_are_durable() -> None:
    world = OrderingWorld(PLUGIN, 1, 0, 0, 1, network=Network(1, 1), disk=SLOW)
    world.submit(1)
    world.run(40)
    assert world.height("m0") == 0
    world.run(80)
    assert world.height("m0") == 1


def test_a_crash_loses_what_was_not_synced_and_nothing_else() -> None:
    world = group(disk=SLOW)
    world.submit(1)
    world.run(140)
    durable = world.records("m0")
    assert durable
    world.submit(3)
    world.run(3)
    assert world.machine("m0").highest_voted > len(durable)
    world.crash("m0")
    world.restart("m0")
    assert world.records("m0") == durable
    assert world.machine("m0").highest_voted == len(durable)


def test_a_disk_may_keep_some_of_it() -> None:
    kept: set[int] = set()
    for seed in range(20):
        world = group(seed, disk=Disk(50, 50, keep_some=True))
        world.submit(3)
        world.run(10)
        world.crash("m0")
        kept.add(len(world.records("m0")))
    assert 0 in kept
    assert len(kept) > 1


def test_one_direction_of_a_link_is_cut() -> None:
    world = group(learned_after=None)
    world.block("m0", "m1")
    heard: list[Any] = []
    world.observers.append(lambda sender, message: heard.append(sender))
    world.submit(5)
    world.run(1_000)
    assert world.height("m2") == 5
    assert world.height("m1") == 0
    assert "m1" in heard
    world.heal()
    world.run_until(world.all_delivered, 1_000)


def test_a_paused_member_finds_everything_later() -> None:
    world = group()
    world.pause("m2")
    world.submit(5)
    world.run(20)
    assert world.machine("m2").highest_voted == 0
    world.resume("m2")
    world.run(20)
    assert world.machine("m2").highest_voted == 5


def test_a_laggard_below_a_checkpoint_gets_its_state() -> None:
    world = group(learned_after=None, transfer_after=300)
    world.partition({"m0", "m1"}, {"m2"})
    for _ in range(5):
        world.submit(8)
        world.run(100)
    assert world.stable_of("m0") > 0
    world.heal()
    world.run(3_000)
    assert world.delivered("m2") == world.delivered("m0")
    assert world.stable_of("m2") == world.stable_of("m0")


def test_another_seed_is_another_run() -> None:
    def trace(seed: int) -> str:
        world = group(seed, network=Network(loss=0.2), trace=True)
        world.submit(5)
        world.run(500)
        assert world.trace is not None
        return world.trace.text()

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_a_failure_names_the_seed_and_the_way_back() -> None:
    world = group(4711)
    world.crash("m0")
    world.submit(1)
    with pytest.raises(Violation, match=r"(?s)no progress: all_delivered.*seed 4711.*m0=down.*again: .*seed=4711"):
        world.run_until(world.all_delivered, 1_000)


def test_a_window_without_room_for_two_intervals_is_refused() -> None:
    """SAFETY rule 18."""
    with pytest.raises(ValueError, match="two checkpoint intervals"):
        group(window=15, interval=8)
