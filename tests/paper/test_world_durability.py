"""What is needed of durability holds from an epoch's first record on, and a log is judged by how it was kept."""

from __future__ import annotations

import pytest

from bftkit.configuration.qos import QoS
from bftkit.sim.world import World
from bftkit.storage.durability import MARK
from bftkit.storage.log import Durability

FSYNC, ASYNC = QoS(durability="fsync"), QoS(durability="async")


def at_work(own: str, needs: QoS | None, seed: int = 1) -> World:
    world = World(seed, "pbft", 4, reconfigurable=True, durability=own, qos=needs)
    world.load(60)
    world.run(300)
    return world


def go_over(world: World, needs: QoS) -> None:
    epoch = world.chain.now.epoch + 1
    world.switch(qos=needs)
    everybody = world.members
    world.load(40)
    world.run_until(lambda: all(world.replica(name).settings.epoch == epoch for name in everybody), 8000, "the epoch")


def durabilities(world: World) -> set[Durability]:
    return {world.hosts[member].log.durability for member in world.members}


def marked(world: World) -> set[bool]:
    return {MARK in world.hosts[member].disk.directory.names() for member in world.members}


@pytest.mark.parametrize(
    ("own", "needs", "expected"),
    [
        ("async", None, Durability.ASYNC),
        ("async", ASYNC, Durability.ASYNC),
        ("async", FSYNC, Durability.FSYNC),
        ("fsync", ASYNC, Durability.FSYNC),
        ("async", QoS(durability="memory"), Durability.ASYNC),
    ],
)
def test_the_stricter_of_setting_and_needs_holds(own: str, needs: QoS | None, expected: Durability) -> None:
    world = at_work(own, needs)
    assert durabilities(world) == {expected}
    assert marked(world) == {expected is not Durability.FSYNC}
    world.finish()


@pytest.mark.parametrize("seed", range(2))
def test_rule_16_who_restarts_from_an_unsynced_log_is_silent_and_from_a_synced_one_is_not(seed: int) -> None:
    world = at_work("async", ASYNC, seed)
    world.crash("m3", power=True)
    world.restart("m3")
    assert world.replica("m3").silent
    go_over(world, FSYNC)
    assert durabilities(world) == {Durability.FSYNC}
    assert world.replica("m3").silent, "only new keys end that"
    assert marked(world) == {False}
    world.crash("m1", power=True)
    world.restart("m1")
    assert not world.replica("m1").silent, "the needs of its epoch were in force"
    world.finish()


@pytest.mark.parametrize("seed", range(2))
def test_a_power_cut_of_all_after_the_boundary_loses_nothing(seed: int) -> None:
    world = at_work("async", None, seed)
    go_over(world, FSYNC)
    world.power_cut()
    for member in world.members:
        if not world.hosts[member].up:
            world.restart(member)
    assert not any(world.replica(member).silent for member in world.members)
    world.load(40)
    world.finish()


@pytest.mark.parametrize("seed", range(2))
def test_the_hand_over_to_laxer_needs_is_durable_and_what_comes_after_is_marked(seed: int) -> None:
    world = at_work("async", FSYNC, seed)
    go_over(world, ASYNC)
    assert durabilities(world) == {Durability.ASYNC}
    assert marked(world) == {True}
    world.crash("m2", power=True)
    world.restart("m2")
    assert world.replica("m2").settings.epoch == 1, "the hand-over was durable before"
    assert world.replica("m2").silent
    world.finish()


def test_a_setting_that_is_changed_while_the_member_is_down_hides_nothing() -> None:
    world = at_work("async", None)
    world.crash("m3", power=True)
    world.hosts["m3"].durability = Durability.FSYNC
    world.restart("m3")
    assert world.replica("m3").silent
    assert world.hosts["m3"].log.durability is Durability.FSYNC
    assert MARK not in world.hosts["m3"].disk.directory.names(), "the log says it itself now"
    world.crash("m3", power=True)
    world.restart("m3")
    assert world.replica("m3").silent
    world.finish()
