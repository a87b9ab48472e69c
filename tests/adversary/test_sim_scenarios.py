"""Every shipped scenario holds under every protocol that claims to survive it, and really injects what it names.

One seed of each, and a second one if not all that the scenario names has happened in the first. More of them:
``BFTKIT_SEEDS=5``, ``python simulations/coverage.py`` (docs/COVERAGE.md is what it says) and ``bftkit sweep NAME``.
"""

from __future__ import annotations

import pytest

from bftkit.core.plugin import load_protocol
from bftkit.sim.examining import examine
from bftkit.sim.scenarios import Scenario, load_scenario, scenario_names
from tests.seeds import at_least

PROTOCOLS = ("pbft", "coordinator", "paxos", "cks")
SEEDS_MAX = 2
APART = ("mixed",)  # tests/adversary/test_world_mixed.py

LONG = (
    *("amnesia", "clocks", "corrupt-chunks", "flooding-client", "flooding-member", "lying-disk", "partition"),
    *("slow-leader", "slow-links", "torn-record", "trap-lagging-window", "trap-long-replay", "trap-own-vote"),
    *("trap-transfer-under-load", "trap-view-after-transfer", "unfair-leader"),
)
"""Scenarios that take many seconds under cks; there they are run with `BFTKIT_SEEDS` only."""
CHANGES = ("forced-", "key-rotation", "planned-switches", "removed-member", "switch-")
"""Scenarios that go through all protocols whichever one they begin with: two beginnings are enough here."""


def is_brief(name: str, protocol: str) -> bool:
    """Whether the suite has the time for it; simulations/coverage.py runs all."""
    if protocol == "cks":
        return name not in LONG
    return not name.startswith(CHANGES) or protocol == "pbft"


CASES = [
    (name, protocol)
    for name in scenario_names()
    if name not in APART
    for protocol in PROTOCOLS
    if load_scenario(name).suits(protocol) and (len(at_least(1)) > 1 or is_brief(name, protocol))
]


@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_a_shipped_scenario_holds_and_does_what_it_says(name: str, protocol: str) -> None:
    scenario = load_scenario(name)
    missing = set(scenario.lines(load_protocol(protocol).record))
    for seed in at_least(SEEDS_MAX):
        if seed >= len(at_least(1)) and not missing:
            break
        result = examine(scenario, scenario.plan(protocol, seed))
        assert result.ok, result.report
        missing -= {line for line, times in result.injected.items() if times}
    assert not missing, "lines of docs/FAULTS.md that did not happen"


@pytest.mark.parametrize("name", scenario_names())
def test_a_scenario_says_what_it_is_about(name: str) -> None:
    scenario: Scenario = load_scenario(name)
    assert scenario.text.endswith(".")
    assert any(scenario.suits(protocol) for protocol in PROTOCOLS)
    assert (scenario.measure is None) == (scenario.figure == "")
    assert scenario.measure is None or (scenario.at_least is None) != (scenario.at_most is None)
    lines = scenario.lines(load_protocol("pbft").record)
    assert bool(lines) != name.startswith("trap-")


@pytest.mark.parametrize("name", [name for name in scenario_names() if name not in APART])
def test_a_plan_is_decided_by_its_seed_and_valid_without_any_of_its_faults(name: str) -> None:
    scenario = load_scenario(name)
    for protocol in PROTOCOLS:
        if scenario.suits(protocol):
            plan = scenario.plan(protocol, 3)
            assert plan == scenario.plan(protocol, 3)
            plan.check()
