"""The pytest plug-in, in the suite of a third party: it fails with the line that repeats, and loads nothing before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SUITE = """
import sys
from random import Random

from bftkit.service import StateMachine

assert "bftkit.sim.world" not in sys.modules, "the plug-in has loaded the simulator"


class Tally(StateMachine):
    def __init__(self):
        self.total = 0

    def apply(self, operation, context):
        self.total += int(operation)
        return str(self.total).encode()

    @staticmethod
    def sample_operation(random: Random) -> bytes:
        return str(random.randint(1, 9)).encode()


class Unsure(Tally):
    calls = 0

    def apply(self, operation, context):
        Unsure.calls += 1
        return str(Unsure.calls).encode()


def test_good(simulate):
    campaign = simulate({scenario!r}, service=Tally)
    assert campaign.service == __name__ + ":Tally"
    print("seeds", [outcome.seed for outcome in campaign.outcomes])


def test_bad(simulate):
    simulate({scenario!r}, service=Unsure)


def test_chosen(simulate):
    simulate({scenario!r}, protocol="pbft", service=Unsure, seeds=[3])
"""

SCENARIO = '''"""A small one."""
from bftkit.sim.plan import Load
def plan(setting):
    return setting.plan(load=Load(operations=6, bursts=1, clients=1), ticks=60)
'''

Suite = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Runs a suite of somebody who has bftkit installed."""
    scenario = tmp_path / "small.py"
    scenario.write_text(SCENARIO)
    (tmp_path / "test_shop.py").write_text(SUITE.replace("{scenario!r}", repr(str(scenario))))
    # As an installation has it; the checkout's own may be older than the entry point.
    information = tmp_path / "elsewhere" / "bftkit_for_pytest-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: bftkit-for-pytest\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[pytest11]\nbftkit = bftkit.sim.pytest_plugin\n")

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:trio", "-q", "-s", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(information.parent), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_a_service_that_keeps_its_promises_passes_over_the_seeds_that_were_asked_for(suite: Suite) -> None:
    run = suite("-k", "good", "--bftkit-seeds", "2", BFTKIT_SEEDS_FROM="40")
    assert run.returncode == 0, run.stdout
    assert "seeds [40, 41]" in run.stdout


def test_a_violation_fails_the_test_with_its_story_and_the_lines_that_repeat_it(suite: Suite) -> None:
    run = suite("-k", "bad or chosen")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "2 failed" in run.stdout
    bad, _, chosen = run.stdout.partition("test_chosen")
    assert "pbft, seed 0: agreement: " in bad
    assert "4 members (m0, m1, m2, m3)" in bad, "the story"
    assert "bftkit replay --seed 0 --scenario" in bad
    assert "--service test_shop:Unsure --shrink" in bad
    assert "BFTKIT_SEEDS_FROM=0 pytest 'test_shop.py::test_bad' --bftkit-seeds 1" in bad
    assert "pbft, seed 3: " in chosen
    assert "Traceback" not in run.stdout


@pytest.mark.parametrize(
    ("arguments", "environment"), [(("--bftkit-seeds", "0"), {}), ((), {"BFTKIT_SEEDS_FROM": "x"})]
)
def test_impossible_numbers_are_refused(arguments: tuple[str, ...], environment: dict[str, str], suite: Suite) -> None:
    run = suite(*arguments, **environment)
    assert run.returncode == 4
    assert "BFTKIT_SEEDS_FROM=x" in run.stderr if environment else "--bftkit-seeds 0: at least 1" in run.stderr
