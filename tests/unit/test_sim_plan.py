"""A plan that cannot be meant is refused, with the number that is wrong."""

from __future__ import annotations

import attrs
import pytest

from bftkit.sim.links import Network
from bftkit.sim.plan import Load, Plan, PlanError
from bftkit.sim.scenarios import load_scenario, scenario_names

WRONG = [
    (Plan(network=Network(loss=7)), "network.loss: 7"),
    (Plan(network=Network(delay_min=9, delay_max=3)), "delay_max 3"),
    (Plan(load=Load(poison=-0.1)), "load.poison"),
    (Plan(load=Load(operations=-1)), "load.operations: -1"),
    (Plan(load=Load(pipeline=0)), "load.pipeline: 0"),
    (Plan(ticks=-1), "ticks: -1"),
    (attrs.evolve(Plan(), batch_requests=0), "batch_requests: 0"),
]


@pytest.mark.parametrize(("plan", "text"), WRONG, ids=[text for _, text in WRONG])
def test_impossible_numbers_are_named(plan: Plan, text: str) -> None:
    with pytest.raises(PlanError, match=text):
        plan.check()


@pytest.mark.parametrize("name", scenario_names())
def test_every_shipped_scenario_makes_plans_that_can_be_run(name: str) -> None:
    scenario = load_scenario(name)
    for protocol in ("pbft", "coordinator", "paxos", "cks"):
        for seed in range(20) if scenario.suits(protocol) else ():
            scenario.plan(protocol, seed).check()
