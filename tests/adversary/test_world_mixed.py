"""The scenario `mixed`: everything goes wrong that the protocol says it survives, by seed.

A few seeds that never change. More of them: ``BFTKIT_SEEDS=100``. `.ci/run` tries a hundred, and some that are new each
time. Longer campaigns: ``bftkit sweep mixed --protocol pbft --seeds 0..9999``.
"""

from __future__ import annotations

import pytest

from bftkit.sim import run
from bftkit.sim.scenarios import load_scenario
from tests.seeds import at_least

STEP = 3


@pytest.mark.parametrize("protocol", ["pbft", "coordinator", "paxos"])
@pytest.mark.parametrize("first", at_least(6)[::STEP])
def test_mixed_scenarios(protocol: str, first: int) -> None:
    for seed in range(first, first + STEP):
        result = run("mixed", protocol=protocol, seed=seed)
        result.raise_for_violation()
        assert result.operations >= 300


def test_a_protocol_that_is_on_no_shelf_takes_part() -> None:
    """Given as module:NAME it cannot be named in a policy, and so gets none; the faults are the same."""
    for seed in range(40):
        plan = load_scenario("mixed").plan("bftkit_paxos:PLUGIN", seed)
        plan.check()
        assert plan.policy is None
        assert plan.faults
