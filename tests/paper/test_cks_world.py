"""The claims about randomized atomic broadcast, over whole groups in the seeded world (CRYPTO 2001, section 6)."""

from __future__ import annotations

from random import Random

import pytest

from bftkit.blocks import consistent_broadcast as cb
from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Out, TimerKey
from bftkit.core.plugin import load_protocol
from bftkit.sim.ordering.parts import Node
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from bftkit_cks import messages as m
from bftkit_cks.machine import CksMachine

PLUGIN = load_protocol("cks")
SHAPES = [(4, 1, 0), (5, 1, 0), (7, 2, 0), (7, 1, 1), (4, 0, 1)]
WILD = Network(delay_max=40, duplication=0.2, straggling=0.5)
"""Loses nothing; delays range over three orders of magnitude, and nothing comes in order."""


class Timeless(OrderingWorld):
    """A group whose timers are never due."""

    def _timer(self, node: Node, key: TimerKey, serial: int) -> None:
        pass


def machine(world: OrderingWorld, member: str) -> CksMachine:
    found = world.machine(member)
    assert isinstance(found, CksMachine)
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_decision_needs_a_timer(shape: tuple[int, int, int], seed: int) -> None:
    """Asynchrony: where links lose nothing, everything is decided although no clock ever ticks for the protocol."""
    world = Timeless(PLUGIN, *shape, seed, network=WILD, learned_after=None)
    for _ in range(4):
        world.submit(12)
        world.run(Random(seed).randint(1, 2_000))
    world.run_until(world.all_delivered, 200_000)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_decision_needs_a_timer_while_members_are_away(shape: tuple[int, int, int]) -> None:
    """f + c members are down for good, others stand still for long: still no timer."""
    world = Timeless(PLUGIN, *shape, 3, network=WILD, learned_after=None, transfer_after=1 << 40)
    world.crash(*world.members[: world.quorum.faulty])
    for _ in range(3):
        world.submit(10)
        world.run(100)
        world.pause(world.members[-1])
        world.submit(10)
        world.run(5_000)
        world.resume(world.members[-1])
    world.run_until(world.all_delivered, 300_000)


def test_a_restart_needs_no_timer_either() -> None:
    """What was under way to a member that crashed is lost; it asks when it is back."""
    world = Timeless(PLUGIN, 4, 1, 0, 5, network=Network(delay_max=20), disk=Disk(0, 20), learned_after=None)
    for turn in range(8):
        world.submit(5)
        world.run(40 + 10 * turn)
        name = world.members[turn % 4]
        world.crash(name)
        world.run(30)
        world.restart(name)
        world.run(600)
    world.run_until(world.all_delivered, 100_000)


@pytest.mark.parametrize("ticks", [20, 35, 50, 65])
def test_a_restart_of_who_cannot_be_done_without_needs_no_timer(ticks: int) -> None:
    """One member is away for good and another falls in the middle of the first round: all that are left are needed."""
    world = Timeless(PLUGIN, 4, 1, 0, 5, network=Network(delay_max=10), disk=Disk(0, 5), learned_after=None)
    world.crash("m3")
    world.submit(4)
    world.run(ticks)
    assert not world.chosen
    world.crash("m0")
    world.run(200)
    assert not world.chosen
    world.restart("m0")
    world.run_until(world.all_delivered, 100_000)


@pytest.mark.parametrize("seed", range(4))
def test_a_group_of_one_loses_power_again_and_again(seed: int) -> None:
    """What it said is enough for all to follow, so a restart goes through it to the end, from wherever the disk ends.

    It must not say all of it anew beside what it had said.
    """
    random = Random(seed)
    world = OrderingWorld(PLUGIN, 1, 0, 0, seed, disk=Disk(0, 40, keep_some=True))
    for _ in range(20):
        world.submit(1)
        world.run(random.randrange(60))
        world.crash("m0")
        world.restart("m0")
    world.run_until(world.all_delivered, 10_000)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pipeline", [1, 2, 5])
def test_rounds_have_their_slots_and_every_member_has_its_turn(shape: tuple[int, int, int], pipeline: int) -> None:
    world = OrderingWorld(PLUGIN, *shape, 7, parameters={"pipeline": pipeline})
    batches = world.submit(80)
    world.run_until(world.all_delivered, 100_000)
    world.run(2_000)  # what is decided by now reaches the disks
    width = world.quorum.available
    assert max(world.chosen) % width == 0, "rounds are delivered as a whole"
    assert set(batches) <= set(world.chosen.values())
    for name in world.members:
        assert machine(world, name).view == max(world.chosen) // width


def test_a_member_that_is_always_late_is_heard_all_the_same() -> None:
    """Fairness: what only the slowest member proposes is left out of its round, and in a later one all the same."""
    world = OrderingWorld(PLUGIN, 4, 1, 0, 2, network=Network(delay_max=4), learned_after=None)
    for _ in range(10):
        world.block("m3", world.members[Random(world.now).randrange(3)])
        world.submit(6)
        (late,) = world.submit(1, at=["m3"])
        world.run(400)
        world.heal()
        world.run_until(lambda late=late: late in world.chosen.values(), 20_000)  # type: ignore[misc]
    world.run_until(world.all_delivered, 20_000)


def test_an_idle_group_is_silent_but_for_a_status_now_and_then() -> None:
    world = OrderingWorld(PLUGIN, 4, 1, 0, 1)
    world.submit(5)
    world.run_until(world.all_delivered, 20_000)
    world.run(5_000)
    heard: list[str] = []
    world.observers.append(lambda _, message: heard.append(type(message).__name__))
    slots = len(world.chosen)
    world.run(20_000)
    assert len(world.chosen) == slots
    assert set(heard) <= {"Status"}
    assert len(heard) <= 4 * 20_000 // 2_000


def test_one_request_costs_one_round() -> None:
    """Who has nothing to offer offers the empty batch, once, and no further round begins by itself."""
    world = OrderingWorld(PLUGIN, 4, 1, 0, 1)
    world.submit(1)
    world.run_until(world.all_delivered, 20_000)
    world.run(5_000)
    assert len(world.chosen) <= 2 * 3
    assert sum(name != NO_DIGEST for name in world.chosen.values()) == 1


@pytest.mark.parametrize("boundary", [8, 16, 24])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_epoch_ends_in_the_middle_of_a_round(boundary: int, seed: int) -> None:
    """SAFETY rule 23: 3 does not divide these, so the last round is cut in two."""
    world = OrderingWorld(PLUGIN, 4, 1, 0, seed, network=Network(loss=0.1, straggling=0.1))
    world.stop(boundary - 5, boundary)
    world.submit(boundary)
    world.run_until(world.all_stopped, 200_000)
    world.run(3_000)
    assert max(world.chosen) == boundary


def test_what_a_machine_holds_does_not_grow_with_messages_for_far_rounds() -> None:
    """A flood for rounds that nobody will see soon: only so many are looked at."""
    world = OrderingWorld(PLUGIN, 4, 1, 0, 1, parameters={"pipeline": 2})
    mine = machine(world, "m0")
    for number in range(1, 2_000):
        out: Out[m.Message, object] = Out()
        part = m.Part(number, m.OFFER, 1, cb.CODEC.encode(cb.Send(NO_DIGEST)))
        mine.on_message("m1", part, out)  # type: ignore[arg-type]
    assert len(mine.rounds) == mine.limit == 2 * world.window // 3
    asked = [number for number, state in mine.rounds.items() if state.asked]
    assert asked == [1, 2], "and only so many are answered"
