"""What is executed, and how: failing operations, agreed time, strong reads."""

from __future__ import annotations

import pytest

from bftkit.channel.application import Context
from bftkit.channel.bundles import FAILED
from bftkit.service import keyvalue
from bftkit.service.keyvalue import KeyValueStore
from bftkit.sim.links import Network
from bftkit.sim.world import START_MS, World

GROUPS = [("pbft", 4), ("coordinator", 3), ("paxos", 3)]
groups = pytest.mark.parametrize(("protocol", "members"), GROUPS)

MONTH_MS = 30 * 86_400_000


class Clumsy(KeyValueStore):
    """Changes something before it notices that it cannot go on."""

    def apply(self, operation: bytes, context: Context) -> bytes:
        if operation[:1] == b"X":
            super().apply(keyvalue.put(b"k0", b"half done"), context)
            super().apply(keyvalue.delete(b"k1"), context)
            raise RuntimeError("no such thing")
        return super().apply(operation, context)


@groups
@pytest.mark.parametrize("seed", range(2))
def test_a_poison_operation_harms_nobody(protocol: str, members: int, seed: int) -> None:
    """SAFETY rule 10: the same error everywhere, its changes undone, the group goes on."""
    world = World(seed, protocol, members, application=lambda member: Clumsy(), interval=4, window=16)
    world.load(60, keys=2, poison=0.5)
    number = world.actors["c0"].submit(b"X first of all")
    world.finish()
    assert world.actors["c0"].answers[number] == (FAILED, b"RuntimeError: no such thing")
    assert sum(actor.told.failed for actor in world.actors.values()) > 10


@groups
@pytest.mark.parametrize("seed", range(2))
def test_clocks_that_jump_cause_no_change_of_view(protocol: str, members: int, seed: int) -> None:
    """SAFETY rule 11, FAULTS 19: one clock cannot move the agreed time far, and never backwards."""
    world = World(seed, protocol, members)
    world.load(20, keys=2)
    world.run(2_000)
    for direction in (1, -1, -1, 1):
        world.jump_clock("m0", direction * MONTH_MS)
        world.load(20, keys=2)
        world.run(2_000)
    world.finish()
    for member in world.members:
        replica = world.replica(member)
        assert replica.machine.view == 0
        assert abs(replica.state.clock.now_ms - (START_MS + world.now)) < 5_000


def test_time_stands_still_for_nobody() -> None:
    """A group that was idle starts again with the present time."""
    world = World(1)
    world.load(10, keys=2)
    world.run(5_000)
    world.run(50_000)
    world.load(4, keys=2)
    world.run(2_000)
    world.finish()
    assert abs(world.replica("m1").state.clock.now_ms - (START_MS + world.now)) < 5_000


@groups
@pytest.mark.parametrize("seed", range(3))
def test_strong_reads_under_writes_are_linearizable(protocol: str, members: int, seed: int) -> None:
    """SAFETY rule 13: one hot key, members that lag, and reads all the time."""
    world = World(seed, protocol, members, network=Network(delay_max=60, loss=0.1), clients=4)
    for _ in range(12):
        world.actors["c0"].put(b"k0")
        for name in ("c1", "c2", "c3"):
            world.actors[name].read(b"k0")
        world.run(world.random.randint(5, 150))
    world.keys.add(b"k0")
    world.finish()
    assert sum(actor.told.reads for actor in world.actors.values()) >= 36


def test_a_read_meets_every_decision_of_a_small_write_quorum() -> None:
    """SAFETY rule 24: with f = 0, c + 1 of five may decide; three others must not be able to confirm a read."""
    world = World(1, "coordinator", members=5, f=0, c=1, clients=2)
    world.load(2, keys=1)
    world.run(500)
    world.partition(["m0", "m1", "c0"], ["m2", "m3", "m4", "c1"])
    world.actors["c0"].put(b"k0")
    world.run_until(lambda: world.actors["c0"].outstanding == 0, 20_000, "two members decide")
    world.actors["c1"].read(b"k0")
    world.run(3_000)
    world.finish()
