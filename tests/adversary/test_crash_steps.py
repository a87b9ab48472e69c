"""FAULTS line 34, enumerated: a member dies at every step of a change, and so do all; see simulations/crash_steps.py.

Here it is one member at each of its steps of a planned change and of one by force, in the smallest group. All members,
and everybody at once: ``BFTKIT_SEEDS=1``. All protocols: the command.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bftkit.sim.running import run
from simulations.crash_steps import PLANNED, Case, Crash, Enumeration, NoSuchPair, cases
from tests.seeds import ASKED

COMMAND = Path(__file__).parents[2] / "simulations" / "crash_steps.py"


def enumerated(*words: str) -> list[Mapping[str, Any]]:
    """What the command says; in a process of its own, which forks."""
    command = [sys.executable, str(COMMAND), "--json", "--jobs", "2", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("before", "after", "how", "member"),
    [("coordinator", "paxos", "planned", "m1"), ("paxos", "coordinator", "forced", "m2")],
)
def test_a_member_dies_at_every_step_of_a_change(before: str, after: str, how: str, member: str) -> None:
    less = () if ASKED else ("--member", member, "--only", "one")
    change, result = enumerated("--from", before, "--to", after, "--how", how, *less)
    assert result["failed"] == 0
    assert change["steps"] > 100
    assert change["run"] == change["crashes"] if ASKED else change["run"] > 30


def counted(case: Case) -> Enumeration:
    """The steps of a change, and no crash."""
    one = Enumeration(case, 1, 40, 1, 1, (), (False, True), lambda line: None)
    one.run()
    return one


def test_a_plan_with_a_crash_reaches_the_step_that_was_counted() -> None:
    """What is printed for a failure must show it again."""
    case = Case("paxos", "paxos", PLANNED)
    steps = counted(case).steps
    assert set(steps) == {"m0", "m1", "m2"}
    for everybody in (False, True):
        last = Crash("m2", steps["m2"], "anything", everybody)
        result = run(case.plan(1, last.fault(40)))
        assert result.ok, result.violation
        assert result.injected[34] == 1


def test_changes_that_there_are() -> None:
    names = ("coordinator", "paxos", "pbft", "cks")
    assert len(cases(names, names, ("planned",))) == 16
    assert [case.after for case in cases(("pbft",), names, ("forced",))] == ["pbft", "cks"]
    assert [case.after for case in cases(("paxos",), names, ("forced",))] == ["coordinator", "paxos", "pbft"]
    with pytest.raises(NoSuchPair, match="keeps f, c and the coin key"):
        cases(("cks",), ("paxos",), ("forced",))
