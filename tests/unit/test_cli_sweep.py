"""`bftkit simulate` and `bftkit sweep`: what they tell, their exit codes, and third parties that take part by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bftkit.cli import main
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import scenario_names

SMALL = '''"""A small scenario for tests."""
import attrs
from bftkit.sim.faults import ClockJump, Crash
from bftkit.sim.plan import Load
LINES = (19,)
{head}
def plan(setting):
    {before}
    faults = (ClockJump(at=10, who="m2", ms=100), Crash(at=20, who="m1", ticks=30))
    return setting.plan(load=Load(operations=6, bursts=1, clients=1), ticks=60, faults=faults)
'''

SERVICE = """
from bftkit import StateMachine

class Tally(StateMachine):
    def __init__(self):
        self.total = 0
    def apply(self, operation, context):
        self.total += int(operation)
        return str(self.total).encode()
    @staticmethod
    def sample_operation(random):
        return str(random.randint(1, 9)).encode()

class Silent(StateMachine):
    def apply(self, operation, context):
        return b""
"""

PLUGIN = """
import attrs
from bftkit.core.plugin import load_protocol

PLUGIN = attrs.evolve(load_protocol("pbft"), record=attrs.evolve(load_protocol("pbft").record, name="theirs"))
"""


def small(folder: Path, head: str = "", before: str = "pass") -> str:
    path = folder / "small.py"
    path.write_text(SMALL.format(head=head, before=before))
    return str(path)


def result_of(out: str) -> dict[str, Any]:
    events: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert events[-1]["event"] == "result"
    return events[-1]


def test_a_campaign_ends_with_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", small(tmp_path), "--seeds", "0..2,5", "--jobs", "2", "--json"]) == 0
    result = result_of(capsys.readouterr().out)
    assert list(result)[:12] == [
        "event", "scenario", "protocol", "seeds", "violations", "failing", "operations", "view_changes", "injected",
        "messages_per_second", "trace_digest", "service",
    ]  # fmt: skip
    assert (result["seeds"], result["violations"], result["failing"]) == (4, 0, [])
    assert result["injected"]["19"] == 4
    assert len(result["trace_digest"]) == 64


@pytest.mark.parametrize(
    ("head", "before", "code"),
    [
        ("", "if setting.seed == 1: raise ValueError('bug')", 2),
        ("FIGURE, AT_LEAST = 'n', 7\ndef measure(result, baseline): return result.plan.seed", "pass", 11),
        ("OPERATIONS_MIN = 1000", "pass", 1),
    ],
)
def test_the_exit_code_says_what_was_missed(
    head: str, before: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = small(tmp_path, head, before)
    assert main(["sweep", scenario, "--seeds", "0..1", "--jobs", "1", "--save-failing", str(tmp_path / "bad")]) == code
    captured = capsys.readouterr()
    if code == 1:
        assert "fewer than 1000 operations" in captured.err
    elif code == 2:
        assert f"seed 1: {scenario} makes no plan: ValueError: bug" in captured.out
        assert "2 seeds, 0 violations, 1 without a plan" in captured.out
        assert "makes no plan for 1 seed; they were not run" in captured.err
    else:
        assert f"bftkit replay --seed 1 --scenario {scenario} --protocol pbft --shrink" in captured.out
    if code == 11:
        saved = Plan.from_json((tmp_path / "bad" / "small-pbft-1.json").read_text())
        assert saved.seed == 1


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("raise ValueError('bug')", "plan(setting) fails: ValueError: bug (small.py, line 8)"),
        ("from bftkit.sim.plan import Group; return setting.plan(group=Group(members=4, f=2))", "need 7 members"),
    ],
)
def test_a_scenario_that_makes_no_plan_is_a_matter_of_usage_and_not_a_violation(
    before: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = small(tmp_path, before=before)
    assert main(["sweep", scenario, "--jobs", "1", "--save-failing", str(tmp_path / "bad")]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert list((tmp_path / "bad").iterdir()) == []


def test_one_seed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = small(tmp_path)
    saved = tmp_path / "plan.json"
    assert main(["simulate", scenario, "--seed", "3", "--set", "load.clients=2", "--save", str(saved), "--story"]) == 0
    out = capsys.readouterr().out
    assert "m1 loses power and is back after 30 ms" in out
    assert "2 clients ask for 6 operations" in out
    assert "every promise was kept" in out
    plan = Plan.from_json(saved.read_text())
    assert (plan.seed, plan.load.clients) == (3, 2)
    assert main(["simulate", scenario, "--seed", "3"]) == 0
    assert "1 client asks for 6 operations in 1 burst, " in capsys.readouterr().out
    assert main(["sweep", scenario, "--seeds", "3"]) == 0
    assert "small.py, pbft: 1 seed, 0 violations\n" in capsys.readouterr().out
    assert main(["simulate", scenario, "--seed", "3", "--json"]) == 0
    assert (
        result_of(capsys.readouterr().out)["again"] == f"bftkit replay --seed 3 --scenario {scenario} --protocol pbft"
    )


def test_all_shipped_scenarios_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["name"] for event in events] == scenario_names()
    assert {"mixed", "loss"} <= {event["name"] for event in events}
    assert all(event["text"] for event in events)
    assert main(["simulate", "--list", "--protocol", "coordinator"]) == 0
    assert "(not for coordinator)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [  # each with the last words of the complaint
        (["sweep", "nix"], "there is no scenario 'nix'"),
        (["sweep", "mixde"], "did you mean 'mixed'?"),
        (["simulate", "power-cut"], "did you mean 'power-cuts'?"),
        (["sweep", "loss", "--protocol", "coordinater"], "did you mean 'coordinator'?"),
        (["simulate", "loss", "--protocol", "pbtf"], "did you mean 'pbft'?"),
        (["sweep", "loss", "--protocol", "raft"], "no protocol named 'raft'"),
        (["sweep", "equivocation", "--protocol", "coordinator"], "coordinator does not claim to survive"),
        (["sweep", "loss", "--seeds", "9..2"], "'9..2' are no seeds"),
        (["sweep", "loss", "--seeds", "0", "--service", "Shop"], "'Shop' names no service"),
        (["sweep", "loss", "--seeds", "0", "--service", "collections:Counter"], "Counter"),
        (["sweep", "loss", "--seeds", "0", "--jobs", "0"], "at least one job"),
        (["sweep", "loss", "--stop-at", "-1"], "--stop-at -1"),
        (["simulate", "loss", "--seed", "-1"], "--seed -1"),
        (["simulate", "loss", "--set", "ticks"], "write name=value"),
        (["simulate", "loss", "--set", "tikcs=3"], "tikcs"),
        (["simulate", "loss", "--set", "group.f=7"], "group: "),
    ],
)
def test_what_cannot_be_run_is_wrong_usage(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err.splitlines()[-1]


def test_third_parties_take_part_by_name(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SERVICE)
    (tmp_path / "theirs.py").write_text(PLUGIN)
    small(tmp_path)
    information = tmp_path / "theirs-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[bftkit.protocols]\ntheirs = theirs:PLUGIN\n")

    def sweep(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
        program = "import sys; from bftkit.cli import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-P", "-c", program, "sweep", "./small.py", "--seeds", "0..1", "--json", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    installed = sweep("--protocol", "theirs", "--service", "shop:Tally", path=str(tmp_path))
    assert installed.returncode == 0, installed.stdout + installed.stderr
    result = result_of(installed.stdout)
    assert (result["protocol"], result["service"], result["violations"]) == ("theirs", "shop:Tally", 0)
    beside = sweep("--protocol", "theirs:PLUGIN", "--service", "shop:Tally")
    assert beside.returncode == 0, beside.stdout + beside.stderr
    assert result_of(beside.stdout)["trace_digest"] == result["trace_digest"]
    unknown = sweep("--service", "shop:Silent")
    assert unknown.returncode == 2
    assert "Silent has no sample_operation" in unknown.stderr
    assert "def sample_operation(random: Random) -> bytes:" in unknown.stderr
