"""Mixed scenarios at random: everything goes wrong that the protocol says it survives (see `bftkit.sim.scenarios`).

Longer campaigns: ``python simulations/mixed.py --seeds 0..9999 --protocol pbft``.
"""

from __future__ import annotations

import pytest

from bftkit.sim.scenarios import mixed

STEP = 10


@pytest.mark.parametrize("protocol", ["pbft", "coordinator"])
@pytest.mark.parametrize("first", range(0, 80, STEP))
def test_mixed_scenarios(protocol: str, first: int) -> None:
    answered = 0
    for seed in range(first, first + STEP):
        world = mixed(seed, protocol)
        answered += sum(actor.told.executed + actor.told.reads for actor in world.actors.values())
    assert answered > 100
