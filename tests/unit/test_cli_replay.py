"""`bftkit replay` and `bftkit trace show`: the same run again, its story, its frames; and files that are no traces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from bftkit.cli import main
from bftkit.core.machine import Record
from bftkit.sim.faults import ClockJump, PowerCut
from bftkit.sim.links import Network
from bftkit.sim.plan import Load, Plan
from bftkit.sim.running import run
from bftkit.sim.trace_files import TraceError, load_trace, save_trace
from bftkit_pbft import restart
from bftkit_pbft.machine import PbftMachine

SMALL = Plan(
    network=Network(delay_max=5, loss=0.1),
    load=Load(clients=2, operations=6, bursts=1, keys=1, pipeline=1, poison=0.0),
    ticks=200,
    costs=False,
    faults=(ClockJump(at=10, who="m3", ms=1000), PowerCut(at=60, ticks=20), PowerCut(at=120, ticks=20)),
)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """PBFT whose members forget in every restart what they voted for."""

    def on_restore(self: PbftMachine, records: Sequence[Record], out: Any) -> None:
        restart.restore(self, ())

    monkeypatch.setattr(PbftMachine, "on_restore", on_restore)


@pytest.fixture
def trace(forgetful: None, tmp_path: Path) -> Path:
    """A violation of agreement in a file."""
    results = (run(attrs.evolve(SMALL, seed=seed)) for seed in range(200))
    path = tmp_path / "trace.json"
    save_trace(path, next(result for result in results if result.oracle == "agreement"))
    return path


def test_a_trace_is_the_same_run_again(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(trace)]) == 10
    text = capsys.readouterr().out
    assert "the same run as the recorded one" in text
    assert "VIOLATION of agreement" in text
    assert "FAULT: all members lose power" in text


def test_replay_for_programs(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(trace), "--json"]) == 10
    *_, result = told = events(capsys.readouterr().out)
    assert result["event"] == "result"
    assert (result["ok"], result["oracle"], result["same"]) == (False, "agreement", True)
    assert {"run", "story"} <= {one["event"] for one in told}


def test_a_trace_becomes_smaller_and_is_saved(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "small.json"
    assert main(["replay", str(trace), "--shrink", "--runs", "25", "--save", str(saved), "--json"]) == 10
    *_, result = events(capsys.readouterr().out)
    before, after = result["smaller"]["faults"]
    assert before == 3
    assert after < 3
    assert result["runs"] <= 25
    small = load_trace(saved)
    assert (small.oracle, len(small.plan.faults)) == ("agreement", after)
    assert main(["replay", str(saved)]) == 10
    assert "the same run as the recorded one" in capsys.readouterr().out


def test_other_code_is_another_run(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(trace.read_text())
    data["digest"] = "00" * 16
    trace.write_text(json.dumps(data))
    assert main(["replay", str(trace)]) == 10
    assert "not the run that was recorded" in capsys.readouterr().out


def test_a_seed_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--seed", "3", "--scenario", "loss", "--json"]) == 0
    *_, result = events(capsys.readouterr().out)
    assert result["ok"] is True
    assert result["same"] is None


def test_every_frame_is_shown(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "show", str(trace), "--messages", "--json"]) == 0
    *lines, result = events(capsys.readouterr().out)
    assert result["lines"] == len(lines) > 20
    assert (
        main(["trace", "show", str(trace), "--messages", "--member", "m1", "--slot", "1", "--to", "60", "--json"]) == 0
    )
    *some, _ = events(capsys.readouterr().out)
    assert 0 < len(some) < len(lines)
    assert all(one["ms"] <= 60 for one in some)
    assert all(one["who"] == "m1" or "m1" in one["to"] for one in some)
    assert any(one["kind"] == "Prepare" for one in some)


def test_a_trace_is_shown_as_plan_and_story(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "show", str(trace)]) == 0
    text = capsys.readouterr().out
    assert '"fault": "power-cut"' in text
    assert "VIOLATION of agreement" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay"], "give a trace, or the --seed of a scenario"),
        (["replay", "--seed", "-1"], "seeds are not negative"),
        (["replay", "--seed", "1", "--scenario", "nothing-like-it"], "there is no scenario"),
        (["replay", "--seed", "1", "--protocol", "nothing-like-it"], "no protocol named"),
    ],
)
def test_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "this is no text"),
        (b'{"bftkit_trace": 1, "pl', "this is no JSON, or not all of it"),
        (b"[1]", "one JSON object with the key 'bftkit_trace'"),
        (b'{"hello": 1}', "neither a trace"),
        (b'{"bftkit_trace": 7, "plan": {}}', "format 7; this version of bftkit reads format 1"),
        (b'{"bftkit_trace": 1}', "the trace has no plan"),
        (b'{"bftkit_trace": 1, "plan": {"tikcs": 4}}', "its plan cannot be read"),
        (b'{"bftkit_trace": 1, "plan": {}, "digest": 4}', "digest is not a text"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5_000, "4300 digits"),
    ],
)
def test_files_that_are_no_traces(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    with pytest.raises(TraceError) as caught:
        load_trace(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    for command in (["replay"], ["trace", "show"]):
        assert main([*command, str(path)]) == 2
        assert words in capsys.readouterr().err


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["replay"], ["trace", "show"]):
        for path, why in ((tmp_path / "nothing", "No such file or directory"), (tmp_path, "Is a directory")):
            assert main([*command, str(path)]) == 2
            assert capsys.readouterr().err == f"bftkit: {path}: {why}\n"


def test_a_bare_plan_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(SMALL.to_json())
    found = load_trace(path)
    assert found.plan == SMALL
    assert found.digest == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "import no_such_module",
            "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module' (own.py, line 1)",
        ),
        ("def plan(", "cannot be loaded: SyntaxError: "),
        ("def plan(setting):\n    raise KeyError('k')", "plan(setting) fails: KeyError: 'k' (own.py, line 2)"),
    ],
)
@pytest.mark.parametrize("command", [("simulate",), ("replay", "--seed", "0", "--scenario")])
def test_an_error_in_a_scenario_file_is_told_with_its_place(
    command: Sequence[str], text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.py"
    path.write_text(text)
    assert main([*command, str(path)]) == 2
    assert reason in capsys.readouterr().err


def test_a_plan_that_is_no_object_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "seven.json"
    path.write_text('{"bftkit_trace": 1, "plan": 7}')
    assert main(["replay", str(path)]) == 2
    assert "its plan cannot be read: a plan is an object" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"scenario": "mixd"}, "scenario: there is no scenario 'mixd'"),
        ({"scenario": "mixd"}, "did you mean 'mixed'? (a plan of none says 'own')"),
        ({"scenario": "./gone.py"}, "there is no scenario file 'gone.py'"),
        ({"protocol": "pbtf"}, "did you mean 'pbft'?"),
        ({"faults": [{"fault": "power-cutt"}]}, "did you mean 'power-cut'?"),
        ({"seed": -1}, "seed: -1 is less than 0"),
        ({"seed": 1 << 64}, "seed: 18446744073709551616 is more than 18446744073709551615"),
        ({"load": {"clients": 1 << 70}}, "load.clients: "),
        ({"group": {"members": 1 << 70}}, "group.members: "),
    ],
)
@pytest.mark.parametrize("command", [("replay",), ("trace", "show")])
def test_a_plan_of_what_there_is_not_is_refused(
    command: Sequence[str], data: dict[str, object], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    assert main([*command, str(path)]) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1


def test_what_is_no_plug_in_is_no_bug_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "mixed", "--protocol", "json:loads"]) == 2
    assert "json:loads is not a bftkit Plugin" in capsys.readouterr().err
