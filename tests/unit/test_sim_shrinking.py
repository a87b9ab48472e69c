"""A failing plan becomes small and still fails, and its story names what a person must know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import pytest

from bftkit.core.machine import Record
from bftkit.sim import reductions
from bftkit.sim.faults import (
    ClockJump,
    Crash,
    Fault,
    Lie,
    OneWay,
    Partition,
    Pause,
    PowerCut,
    SlowDisk,
    Twin,
)
from bftkit.sim.links import Network
from bftkit.sim.plan import Group, Load, Plan, PlanError
from bftkit.sim.running import Result, run
from bftkit.sim.scenarios import load_scenario
from bftkit.sim.shrinking import NothingToShrink, Shrunk, Trial, failure, shrink
from bftkit.sim.story import concerned_slots, story_of, tell
from bftkit_pbft import restart
from bftkit_pbft.machine import PbftMachine

TROUBLE: tuple[Fault, ...] = (
    Lie(at=0, who="m6", kind="silent"),
    ClockJump(at=50, who="m2", ms=60_000),
    SlowDisk(at=80, who="m3", us=2000, ticks=200),
    Crash(at=200, who="m4", ticks=300),
    OneWay(at=300, ticks=200, sender="m1", receiver="m2"),
    PowerCut(at=400, ticks=50),
    Pause(at=600, who="m5", ticks=100),
    PowerCut(at=800, ticks=90),
)
LARGE = Plan(
    group=Group(members=7, f=2),
    network=Network(loss=0.1, duplication=0.2),
    load=Load(operations=120, bursts=6),
    ticks=1500,
    faults=TROUBLE,
)


MIDDLE = attrs.evolve(
    LARGE,
    group=Group(members=5, f=1),
    load=Load(operations=24, bursts=2, clients=2, keys=2),
    ticks=900,
    faults=(*TROUBLE[1:6], Lie(at=0, who="m4", kind="silent"), PowerCut(at=700, ticks=90)),
)


@pytest.fixture(scope="module")
def forgetful() -> Iterator[None]:
    """PBFT whose members forget in every restart what they voted for."""

    def on_restore(self: PbftMachine, records: Sequence[Record], out: Any) -> None:
        restart.restore(self, ())

    patch = pytest.MonkeyPatch()
    patch.setattr(PbftMachine, "on_restore", on_restore)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def failing(forgetful: None) -> Plan:
    """A large plan under which that is a violation of agreement."""
    plans = (attrs.evolve(MIDDLE, seed=seed) for seed in range(100))
    return next(plan for plan in plans if run(plan).oracle == "agreement")


@pytest.fixture(scope="module")
def shrunk(failing: Plan) -> Shrunk:
    return shrink(failing, budget_seconds=1000, budget_runs=150)


def test_a_failing_plan_becomes_small(failing: Plan, shrunk: Shrunk) -> None:
    plan = shrunk.plan
    assert len(plan.faults) <= 3
    assert plan.group.members <= 4
    assert plan.group.members == 3 * plan.group.f + 2 * plan.group.c + 1
    assert plan.load.operations <= 5
    assert plan.ticks < failing.ticks // 2
    assert shrunk.tried <= 150
    assert shrunk.steps


def test_what_is_left_fails_in_the_same_way(shrunk: Shrunk) -> None:
    again = run(shrunk.plan)
    assert again.oracle == shrunk.result.oracle == "agreement"
    assert again.digest == shrunk.result.digest


def test_the_story_names_members_slots_and_faults(shrunk: Shrunk) -> None:
    story = story_of(shrunk.plan)
    (slot, *_) = story.slots
    assert story.result.digest == shrunk.result.digest  # watching changes nothing
    assert f"This is about slot {slot}" in story.text
    for member in shrunk.plan.group.names:
        assert member in story.text
    for fault in shrunk.plan.faults:
        assert fault.tell() in story.text
    for words in ("VIOLATION of agreement", f"slot {slot}, digest", "PrePrepare", "Commit"):
        assert words in story.text
    # The two facts that contradict each other stand side by side.
    end = story.text.partition("VIOLATION")[2]
    named = set(re.findall(r"\b[0-9a-f]{6}\b", end))
    assert len(named) >= 2
    assert len(story.text.splitlines()) <= 70


def test_the_same_budget_gives_the_same_plan(failing: Plan, forgetful: None) -> None:
    told: list[str] = []

    def progress(trial: Trial) -> None:
        told.append(trial.step)

    first = shrink(failing, budget_runs=12, progress=progress)
    second = shrink(failing, budget_runs=12)
    assert first.plan == second.plan
    assert first.steps == second.steps
    assert not first.finished
    assert first.tried == 12
    assert len(told) >= 11


def test_a_plan_that_holds_is_not_shrunk() -> None:
    with pytest.raises(NothingToShrink, match="seed 1 of own with pbft violates nothing"):
        shrink(Plan(seed=1, load=Load(operations=5, bursts=1), ticks=50))


def fails_with(*needed: Fault) -> Any:
    """A runner in whose world the violation needs exactly these faults; another oracle fails without the first."""

    def runner(plan: Plan) -> Result:
        if all(fault in plan.faults for fault in needed):
            return Result(plan=plan, digest="", oracle="agreement", violation="agreement: slot 1")
        oracle = "progress" if needed[0] not in plan.faults else ""
        return Result(plan=plan, digest="", oracle=oracle, violation=oracle)

    return runner


def test_any_pair_of_faults_is_found_whatever_stands_between_them() -> None:
    plan = attrs.evolve(LARGE, faults=TROUBLE)
    for one in range(len(TROUBLE)):
        other = (one + 3) % len(TROUBLE)
        needed = (TROUBLE[one], TROUBLE[other])
        found = shrink(plan, runner=fails_with(*needed), budget_runs=400)
        assert sorted(map(repr, found.plan.faults)) == sorted(map(repr, needed))


def test_another_oracle_counts_only_if_asked_for() -> None:
    plan = attrs.evolve(LARGE, faults=TROUBLE)
    runner = fails_with(TROUBLE[1], TROUBLE[2])
    assert shrink(plan, runner=runner).result.oracle == "agreement"
    anything = shrink(plan, runner=runner, any_oracle=True)
    assert anything.result.oracle == "progress"
    assert anything.plan.faults == ()


def test_a_failure_that_depends_on_chance_is_found_under_a_neighbouring_seed() -> None:
    def runner(plan: Plan) -> Result:
        lucky = len(plan.faults) == len(TROUBLE) or plan.seed % 3 == 2
        return Result(plan=plan, digest="", oracle="durability" if lucky else "", violation="gone")

    found = shrink(attrs.evolve(LARGE, seed=0), runner=runner, budget_runs=2000)
    assert found.plan.faults == ()
    assert found.plan.seed % 3 == 2


@pytest.mark.parametrize(
    ("oracle", "violation", "expected"),
    [
        ("", "", ""),
        ("agreement", "agreement: slot 3", "agreement"),
        ("exception", "unhandled KeyError: 7", "exception KeyError"),
        ("exception", "m1 cannot start: ValueError: no", "exception ValueError"),
    ],
)
def test_exceptions_of_different_kinds_are_different_failures(oracle: str, violation: str, expected: str) -> None:
    assert failure(Result(plan=LARGE, digest="", oracle=oracle, violation=violation)) == expected


def test_every_reduction_changes_the_plan_and_none_comes_back() -> None:
    for seed in range(4):
        plan = load_scenario("mixed").plan("pbft", seed)
        for reduction in (reductions.operations, reductions.members, *reductions.DETAILS):
            for words, smaller in reduction(plan):
                assert smaller != plan, words
                backward = [step for step in reduction(smaller) if step[1] == plan]
                assert backward == [], words


def test_members_that_go_are_taken_out_of_the_faults() -> None:
    faults = (
        Crash(at=1, who="m6", ticks=5),
        Partition(at=2, ticks=5, sides=(("m0", "m5"), ("m6", "c0"))),
        Twin(at=3, who="m6", left=("m0", "m1"), right=("m5",)),
    )
    plan = attrs.evolve(LARGE, faults=faults)
    smaller = [changed for _, changed in reductions.members(plan) if changed.group == Group(members=4, f=1)]
    first = smaller[0]
    first.check()
    assert {name for fault in first.faults for name in fault.named()} <= {*first.group.names, "c0"}
    assert first.faults[0].named() == ("m3",)  # the liar is kept, under another name
    for changed in smaller:
        try:
            changed.check()
        except PlanError as error:
            pytest.fail(str(error))


def test_slots_of_a_violation() -> None:
    assert concerned_slots("agreement: slot 7 is ab at m1 and cd at m2") == (7,)
    assert concerned_slots("agreement: m0 contradicts itself: Prepare 2 9 was ab and is cd") == (9,)
    assert concerned_slots("exactly once: ran at (3, 0) and again at (5, 1) (m2)") == (3, 5)
    assert concerned_slots("progress: every client has its answers did not come true") == ()


def test_a_run_that_holds_ends_well() -> None:
    text = tell(Plan(seed=2, load=Load(operations=8, bursts=1), ticks=100))
    assert text.endswith("no checker has anything to say.")
