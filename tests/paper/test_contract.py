"""The contract of all ordering protocols, over every plug-in that is installed: see `bftkit.sim.contract`.

``BFTKIT_SEEDS=50 pytest tests/paper/test_contract.py`` tries more seeds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from bftkit.core.plugin import load_protocol, protocol_names
from bftkit.sim import contract
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from tests.seeds import at_least

SEEDS = [1 + seed for seed in at_least(4)]
"""Shapes of groups take turns with the seeds: with four, each check meets each shape."""


def seeds(name: str) -> Sequence[int]:
    """A protocol of many steps takes several times as long: half the seeds are for it."""
    return SEEDS if load_protocol(name).record.steps < 10 else SEEDS[: (len(SEEDS) + 1) // 2]


CASES = [case for name in protocol_names() for case in contract.cases(load_protocol(name), seeds(name))]

TRACE = """
import sys
from bftkit.core.digest import digest
from bftkit.core.plugin import load_protocol
from bftkit.sim import contract
from bftkit.sim.ordering.world import Network, OrderingWorld

plugin = load_protocol(sys.argv[1])
shape = contract.shapes(plugin)[0]
world = OrderingWorld(plugin, shape.n, shape.f, shape.c, 7, network=Network(loss=0.2, straggling=0.2), trace=True)
world.submit(20)
world.run(100)
world.crash("m0")
world.run(3_000)
world.restart("m0")
world.run_until(world.all_delivered, contract.PATIENCE)
print(digest(world.trace.text().encode()).hex())
"""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case: contract.Case) -> None:
    contract.run(case)


@pytest.mark.parametrize("protocol", protocol_names())
def test_one_seed_is_one_run_in_every_process(protocol: str) -> None:
    """Whatever order Python's own hashes put things into: the trace is the same, byte for byte."""

    def trace(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", TRACE, protocol]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout

    first = trace("1")
    assert len(first.strip()) == 64
    assert [trace(hash_seed) for hash_seed in ("2", "3")] == [first, first]


@pytest.mark.parametrize("protocol", protocol_names())
def test_a_decision_takes_as_many_message_delays_as_the_record_says(protocol: str) -> None:
    """From a proposal in an idle group to the first decision, where every message takes ten ticks and work none."""
    plugin = load_protocol(protocol)
    shape = contract.shapes(plugin)[0]
    links = Network(delay_min=10, delay_max=10)
    world = OrderingWorld(plugin, shape.n, shape.f, shape.c, 1, network=links, disk=Disk(0, 0))
    world.run(1_000)
    world.submit(1)
    began = world.now
    while not any(world.delivered(member) for member in world.members):
        assert world.now < began + 1_000, world.failure("nothing is decided")
        world.run(1)
    # One delay more: until the batch has come from its client.
    assert world.now - began == 10 * (plugin.record.steps + 1)


def test_a_failure_says_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    """The command in a failure's text runs the same case; here one that holds."""
    case = contract.Case(load_protocol("coordinator"), "loss", contract.Shape(3, 0, 1), 5)
    text = case.world().failure("something")
    assert f"python -m bftkit.sim.contract {case}" in text
    assert contract.main(str(case).split()) == 0
    assert capsys.readouterr().out == "holds\n"
    assert contract.main(["coordinator", "no_such_check", "3,0,1", "5"]) == 2


@pytest.mark.parametrize(
    ("protocol", "shape", "words"),
    [
        ("coordinator", "4,1,0", "it needs f = 0"),
        ("pbft", "3,1,0", "it needs 4 members"),
        ("pbtf", "4,1,0", "did you mean 'pbft'?"),
        ("pbft", "four", "invalid literal"),
    ],
)
def test_a_case_that_cannot_be_is_told_in_one_line(
    protocol: str, shape: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert contract.main([protocol, "loss", shape, "5"]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_every_fault_that_a_record_can_claim_has_a_check() -> None:
    """Slow leaders are not among them: what slow means is the protocol's own affair, and so is its test."""
    checks = {
        "loss": "loss",
        "partition": "partition",
        "follower-crash": "follower_crash",
        "leader-crash": "leader_crash",
        "leader-restart": "leader_restart",
        "power-cut": "power_cut",
        "liar": "liars",
    }
    claimed = frozenset[str]().union(*(load_protocol(name).record.survives for name in protocol_names()))
    assert claimed - {"slow-leader"} <= set(checks)
    assert set(checks.values()) <= set(contract.CHECKS)
