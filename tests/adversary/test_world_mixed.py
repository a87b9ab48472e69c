"""The scenario `mixed`: everything goes wrong that the protocol says it survives, by seed.

A few seeds that never change, and some that are new each time where `BFTKIT_SEEDS_FROM` says so (`.ci/run` does).
More of the former: ``BFTKIT_SEEDS=100``. Longer campaigns: ``bftkit sweep mixed --protocol pbft --seeds 0..9999``.
"""

from __future__ import annotations

import pytest

from bftkit.sim import run
from tests.seeds import at_least

STEP = 3


@pytest.mark.parametrize("protocol", ["pbft", "coordinator", "paxos"])
@pytest.mark.parametrize("first", at_least(18)[::STEP])
def test_mixed_scenarios(protocol: str, first: int) -> None:
    for seed in range(first, first + STEP):
        result = run("mixed", protocol=protocol, seed=seed)
        result.raise_for_violation()
        assert result.operations >= 300
