"""Random honest runs: everything is decided once healed, everywhere the same, and nobody correct is ever blamed.

Members crash (also all at once), come back, and are cut off from each other; messages are lost, doubled and late; disks
lose what was not synced, or keep a part of it. The world checks agreement, order, validity and blame at each step.
"""

from __future__ import annotations

from random import Random

import pytest

from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from bftkit_pbft import PLUGIN
from tests.seeds import at_least

SHAPES = [(4, 1, 0), (4, 1, 0), (3, 0, 1), (6, 1, 1), (7, 2, 0), (5, 1, 0), (2, 0, 0), (1, 0, 0)]


def chaos(seed: int) -> OrderingWorld:
    random = Random(seed)
    n, f, c = random.choice(SHAPES)
    loss = random.choice([0.0, 0.05, 0.3])
    world = OrderingWorld(
        PLUGIN,
        n,
        f,
        c,
        seed,
        network=Network(loss=loss, duplication=loss, straggling=loss / 2),
        disk=Disk(0, random.choice([5, 40]), keep_some=random.random() < 0.5),
        parameters={"pipeline_depth": random.choice([1, 4, 8, 16])},
    )
    for _ in range(random.randint(2, 8)):
        world.submit(random.randint(1, 25))
        world.run(random.randint(1, 1_200))
        down = [member for member in world.members if member not in world.up()]
        match random.choice(["crash", "crash", "restart", "restart", "partition", "heal", "block", "nothing"]):
            case "crash" if world.up():
                world.crash(*random.sample(world.up(), random.randint(1, len(world.up()))))
            case "restart" if down:
                world.restart(*random.sample(down, random.randint(1, len(down))))
            case "partition":
                members = random.sample(world.members, n)
                cut = random.randint(1, n)
                world.partition(members[:cut], members[cut:])
            case "heal":
                world.heal()
            case "block":
                world.block(random.choice(world.members), random.choice(world.members))
            case _:
                pass
    world.heal()
    world.restart(*[member for member in world.members if member not in world.up()])
    return world


@pytest.mark.parametrize("seed", at_least(30))
def test_chaos(seed: int) -> None:
    world = chaos(seed)
    world.run_until(world.all_delivered, 60_000)
    assert world.blames == []
    assert world.refused == []
