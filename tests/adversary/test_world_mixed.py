"""The scenario `mixed`: everything goes wrong that the protocol says it survives, by seed.

A few seeds that never change. More of them: ``BFTKIT_SEEDS=100``. `.ci/run` tries a hundred, and some that are new each
time. Longer campaigns: ``bftkit sweep mixed --protocol pbft --seeds 0..9999``.
"""

from __future__ import annotations

import pytest

from bftkit.sim import run
from tests.seeds import at_least

STEP = 3


@pytest.mark.parametrize("protocol", ["pbft", "coordinator", "paxos"])
@pytest.mark.parametrize("first", at_least(6)[::STEP])
def test_mixed_scenarios(protocol: str, first: int) -> None:
    for seed in range(first, first + STEP):
        result = run("mixed", protocol=protocol, seed=seed)
        result.raise_for_violation()
        assert result.operations >= 300
