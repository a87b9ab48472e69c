"""What scenarios check beyond the usual fails once the defence is gone: in turns, each with its own defence removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from bftkit.channel.catchup import CatchUp
from bftkit.channel.watch import LeaderWatch
from bftkit.sim import faults
from bftkit.sim.examining import examine
from bftkit.sim.faults import Crash, SlowLink
from bftkit.sim.plan import Plan
from bftkit.sim.running import Result, run
from bftkit.sim.scenarios import STEADY, load_scenario, without_faults
from bftkit.storage.log import Log
from bftkit.storage.memory_files import MemoryDirectory

IMPATIENT = {"pace_gap": 0, "view_timeout": 60_000}
"""No rule against slow leaders, and a timeout that never comes."""


FEW = attrs.evolve(STEADY, operations=160)


def nothing(*rest: Any) -> None:
    """In the place of a method: it is not done."""


def cut_nothing(*rest: Any) -> int:
    """In the place of `Log.cut`."""
    return 0


def never_longer(*rest: Any) -> bool:
    """In the place of `LeaderWatch._longer`."""
    return False


def judged(name: str, change: Callable[[Plan], Plan] = lambda plan: plan, seed: int = 0) -> Result:
    """The scenario's verdict on its own plan, changed."""
    scenario = load_scenario(name)
    return examine(scenario, change(scenario.plan("pbft", seed)))


def misses(result: Result, words: str) -> bool:
    return result.oracle == "figure" and words in result.violation


def test_a_slow_leader_that_may_stay_is_seen() -> None:
    result = judged("slow-leader", lambda plan: attrs.evolve(plan, parameters=IMPATIENT, ticks=1500, load=FEW))
    assert misses(result, "the leader stays")
    # The figure alone would tell as well.
    scenario = load_scenario("slow-leader")
    assert scenario.judge is not None
    plan = attrs.evolve(scenario.plan("pbft", 0), scenario="own", parameters=IMPATIENT, ticks=1500, load=FEW)
    assert scenario.judge(run(plan), run(without_faults(plan))) is not None


def test_an_unfair_leader_that_may_stay_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeaderWatch, "_longer", never_longer)
    result = judged("unfair-leader", lambda plan: attrs.evolve(plan, ticks=2500))
    assert misses(result, "the leader stays")


def test_a_leader_behind_a_slow_link_that_may_stay_costs_more_than_a_fifth() -> None:
    def change(plan: Plan) -> Plan:
        slow = SlowLink(at=0, who="m0", bits_per_second=256_000, ticks=plan.ticks)
        return attrs.evolve(plan, parameters=IMPATIENT, faults=(slow,))

    assert misses(judged("slow-links", change), "share of the fault-free")


def test_views_whose_timeout_does_not_grow_come_in_a_storm() -> None:
    def change(plan: Plan) -> Plan:
        return attrs.evolve(plan, parameters={"view_timeout": 1000, "view_timeout_max": 1000})

    assert misses(judged("endless-views", change), "views in a minute")


def test_answers_on_the_smaller_side_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults.Partition, "inject", nothing)
    assert misses(judged("partition"), "on the smaller side")


def test_acknowledgements_without_space_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults.DiskFull, "inject", nothing)
    assert misses(judged("full-disks"), "while every disk was full")


def test_a_member_that_runs_on_after_a_failed_sync_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgive(directory: MemoryDirectory) -> None:
        directory.fail_syncs = max(0, directory.fail_syncs - 1)

    monkeypatch.setattr(MemoryDirectory, "take_sync_fault", forgive)
    assert misses(judged("failed-sync"), "runs on although")


@pytest.mark.parametrize("name", ["trap-idle-laggard", "trap-transfer-under-load"])
def test_without_state_transfer_a_laggard_is_seen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(CatchUp, "_begin", nothing)
    result = judged(name)
    assert misses(result, "stranded") or misses(result, "did not catch up")


def test_a_log_that_is_never_cut_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Log, "cut", cut_nothing)
    assert not judged("trap-long-replay").ok


@pytest.mark.parametrize("name", ["trap-lagging-window", "trap-view-after-transfer"])
def test_a_group_that_stands_still_is_seen(name: str) -> None:
    """One member more than the group survives is away all the time that the watch looks."""

    def change(plan: Plan) -> Plan:
        last = plan.faults[-1]
        assert isinstance(last, Crash)
        other = next(name for name in plan.group.names if name not in {fault.who for fault in crashes(plan)})
        return attrs.evolve(plan, faults=(*plan.faults, attrs.evolve(last, who=other)))

    assert misses(judged(name, change), "nothing was answered")


def crashes(plan: Plan) -> list[Crash]:
    return [fault for fault in plan.faults if isinstance(fault, Crash)]
