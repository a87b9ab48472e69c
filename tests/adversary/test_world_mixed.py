"""The scenario `mixed`: everything goes wrong that the protocol says it survives, by seed.

A few seeds that never change. More of them: ``BFTKIT_SEEDS=100``. `.ci/run` tries a hundred, and some that are new each
time. Longer campaigns: ``bftkit sweep mixed --protocol pbft --seeds 0..9999``.
"""

from __future__ import annotations

import pytest

from bftkit.sim import run
from bftkit.sim.scenarios import load_scenario
from bftkit.sim.scenarios.mixed import OPERATIONS_MIN
from bftkit.sim.workloads import READ_SHARE
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


def test_so_much_is_asked_that_no_seed_falls_short_by_chance() -> None:
    """What takes a slot is drawn for each operation: the least that a seed must do is six deviations below the mean."""
    scenario = load_scenario("mixed")
    loads = {scenario.plan("pbft", seed).load for seed in range(100)}
    assert {bool(load.glances) for load in loads} == {bool(load.per_second) for load in loads} == {False, True}
    for load in loads:
        ordered = (1 - READ_SHARE) * (1 - load.glances)
        mean, deviation = load.operations * ordered, (load.operations * ordered * (1 - ordered)) ** 0.5
        assert mean - 6 * deviation > OPERATIONS_MIN
