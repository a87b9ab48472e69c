"""Campaigns: no seed is lost, no figure depends on the number of workers, and only fitting results are reused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest

from bftkit.core.plugin import UnknownProtocol
from bftkit.service.loading import ServiceError
from bftkit.sim.campaign import Campaign, CampaignError, Outcome, ResumeError, seeds_in, sweep
from bftkit.sim.crew import Crew, Here
from bftkit.sim.examining import protocol_name, run, service_name
from bftkit.sim.outcomes import Header, ResultsFile
from bftkit.sim.running import Result
from bftkit.sim.scenarios import UnknownScenario

SMALL = '''"""A small scenario for tests."""
import os, signal
import attrs
from bftkit.sim.faults import Crash
from bftkit.sim.plan import Load
{head}
def plan(setting):
    seed = setting.seed
    {before}
    plan = setting.plan(load=Load(operations=6, bursts=1, clients=1), ticks=60, faults=({faults}))
    return attrs.evolve(plan, service="bftkit.service.null:NullService")
'''

CRASH = 'Crash(at=20, who="m1", ticks=30),'


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., str]:
    """Writes a scenario with few operations; returns its path."""

    def write(head: str = "", before: str = "pass", faults: str = "") -> str:
        path = tmp_path / "small.py"
        path.write_text(SMALL.format(head=head, before=before, faults=faults))
        return str(path)

    return write


class Shop:
    """No service, but at the top level of a module."""


# ------------------------------------------------------------------------------------------------ every seed


def test_every_seed_runs_and_the_digest_is_the_same_for_any_number_of_workers(small: Callable[..., str]) -> None:
    scenario = small(faults=CRASH)
    seen: list[int] = []
    one = sweep(scenario, "pbft", range(6), jobs=1, on_result=lambda outcome: seen.append(outcome.seed))
    two = sweep(scenario, "pbft", [5, 4, 3, 2, 1, 0, 0], jobs=2)
    assert sorted(seen) == [outcome.seed for outcome in two.outcomes] == list(range(6))
    assert one.outcomes == two.outcomes
    assert one.trace_digest == two.trace_digest
    assert one.trace_digest != sweep(scenario, "pbft", range(5), jobs=1).trace_digest
    assert one.ok
    assert one.figures()["operations"] == 36


@pytest.mark.parametrize("make", [Here, lambda: ThreadPoolExecutor(2), lambda: ProcessPoolExecutor(1)])
def test_any_executor_will_do(make: Callable[[], Executor], small: Callable[..., str]) -> None:
    scenario = small()
    with make() as executor:
        assert sweep(scenario, "pbft", range(2), executor=executor) == attrs.evolve(
            sweep(scenario, "pbft", range(2), jobs=1)
        )


def test_the_digest_is_the_same_under_two_hash_seeds(small: Callable[..., str]) -> None:
    program = (
        "import sys; from bftkit.sim import sweep\n"
        "if __name__ == '__main__': print(sweep(sys.argv[1], 'pbft', range(3), jobs=2).trace_digest)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program, small(faults=CRASH)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    assert len(told.pop().strip()) == 64


def test_a_seed_that_kills_its_process_fails_and_takes_no_other_with_it(small: Callable[..., str]) -> None:
    scenario = small(before="if seed in (1, 4): os.kill(os.getpid(), signal.SIGKILL)")
    campaign = sweep(scenario, "pbft", range(6), jobs=2)
    assert [(outcome.seed, outcome.oracle) for outcome in campaign.failing] == [(1, "exception"), (4, "exception")]
    assert campaign.failing[0].violation == "the process that ran it was killed by SIGKILL"
    assert [outcome.operations for outcome in campaign.outcomes if outcome.ok] == [6, 6, 6, 6]
    assert campaign.kind == "safety"


def test_the_executor_of_somebody_else_may_break_as_well(small: Callable[..., str]) -> None:
    scenario = small(before="if seed == 1: os._exit(9)")
    with ProcessPoolExecutor(1) as executor:
        campaign = sweep(scenario, "pbft", range(4), executor=executor)
    assert [(one.seed, one.violation) for one in campaign.failing] == [
        (1, "the process that ran it ended with exit code 9")
    ]
    assert len(campaign.outcomes) == 4


def test_a_seed_that_never_ends_fails_for_want_of_progress(small: Callable[..., str]) -> None:
    endless = "while seed == 1:\n        try: os.getpid()\n        except Exception: pass"
    campaign = sweep(small(before=endless), "pbft", range(3), jobs=1, seconds_per_seed=2.0)
    assert [(one.seed, one.oracle) for one in campaign.failing] == [(1, "progress")]
    # Where a process gets less than a tenth of a core, the wall's clock is first.
    limits = [f"the run did not end within {limit}" for limit in ("2 s of CPU time", "20 s")]
    assert campaign.failing[0].violation in limits
    assert campaign.kind == "progress"


def test_what_a_seed_raises_is_its_outcome(small: Callable[..., str]) -> None:
    campaign = sweep(small(before="if seed == 1: raise KeyError('k')"), "pbft", range(3), jobs=1)
    assert [(one.seed, one.kind) for one in campaign.failing] == [(1, "plan")]
    assert "makes no plan: KeyError: 'k' (small.py, line 9)" in campaign.failing[0].violation
    assert "small.py" in campaign.failing[0].report


def test_no_new_seed_is_begun_once_enough_have_failed(small: Callable[..., str]) -> None:
    campaign = sweep(small(before="raise ValueError"), "pbft", range(50), executor=Here(), stop_at=2)
    assert 2 <= len(campaign.outcomes) < 50
    assert campaign.requested == 50


def _explode(task: int) -> int:
    return task


def test_the_workers_end_when_the_campaign_is_interrupted() -> None:
    def interrupt(task: int, answer: int | BaseException) -> None:
        raise KeyboardInterrupt

    import multiprocessing

    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        Crew(_explode, 2).do(range(10), interrupt, lambda: False)
    assert set(multiprocessing.active_children()) <= before


# ------------------------------------------------------------------------------------------------ verdicts


def test_a_figure_that_is_missed_fails_the_seed_and_both_runs_count(small: Callable[..., str]) -> None:
    head = "\n".join(
        (
            "FIGURE = 'operations'",
            "def baseline(plan): return plan",
            "def measure(result, baseline): return result.operations + baseline.operations + result.plan.seed",
            "AT_MOST = 13",
        )
    )
    campaign = sweep(small(head), "pbft", range(3), jobs=1)
    assert [(one.seed, one.oracle, one.violation) for one in campaign.failing] == [
        (2, "figure", "operations: 14.00, more than 13")
    ]
    assert "bftkit replay --seed 2 --scenario" in campaign.failing[0].report
    assert campaign.kind == "progress"
    assert campaign.figures()["figure"] == {"least": 12, "median": 13, "most": 14}
    assert campaign.outcomes[0].digest.count("+") == 1


def campaign_of(seeds: int, times: dict[int, int], **more: Any) -> Campaign:
    """Made by hand: line n happened in the first times[n] seeds."""
    outcomes = tuple(
        Outcome(seed=seed, operations=300, injected={line: 5 for line, count in times.items() if seed < count})
        for seed in range(seeds)
    )
    return Campaign(scenario="mixed", protocol="pbft", service="", outcomes=outcomes, requested=seeds, **more)


@pytest.mark.parametrize(
    ("seeds", "count", "rare"),
    [(19, 0, False), (20, 0, True), (20, 1, False), (99, 1, False), (100, 1, True), (100, 2, False), (1000, 19, True)],
)
def test_a_claimed_line_that_hardly_happens_fails_the_campaign(seeds: int, count: int, rare: bool) -> None:
    campaign = campaign_of(seeds, {1: seeds, 7: count}, lines=(1, 7))
    assert campaign.injected == {1: seeds, 7: count}
    assert campaign.too_rare == ((7,) if rare else ())
    assert campaign.ok is not rare
    if rare:
        assert f"line 7 of docs/FAULTS.md happened in {count} of {seeds:,} seeds" in campaign.complaints[0]


def test_a_line_that_nobody_claimed_may_be_rare() -> None:
    assert campaign_of(100, {1: 100, 7: 1}, lines=(1,)).ok
    assert campaign_of(100, {}, lines=(3,)).figures()["injected"] == {"3": 0}


def test_seeds_in_which_little_was_done_fail_the_campaign(small: Callable[..., str]) -> None:
    assert campaign_of(3, {}, operations_min=300).ok
    campaign = sweep(small("OPERATIONS_MIN = 7"), "pbft", range(2), jobs=1)
    assert not campaign.failing
    assert campaign.complaints == ("2 of 2 seeds acknowledged fewer than 7 operations; seed 0 the fewest, 6",)


# ------------------------------------------------------------------------------------------------ resuming


def test_earlier_results_are_taken_only_from_the_file_that_is_named(small: Callable[..., str], tmp_path: Path) -> None:
    scenario, file = small(), tmp_path / "results"
    first = sweep(scenario, "pbft", range(3), jobs=1, resume=file)
    lines = file.read_text().splitlines()
    assert len(lines) == 4
    changed = json.loads(lines[2])
    changed["operations"] = 1000
    file.write_text("\n".join([*lines[:2], json.dumps(changed), lines[3], '{"seed": 3, "dig']))
    second = sweep(scenario, "pbft", range(5), jobs=1, resume=file)
    assert sum(one.operations for one in second.outcomes) == 1000 + 4 * 6
    assert [json.loads(line)["seed"] for line in file.read_text().splitlines()[1:]] == [0, 1, 2, 3, 4]
    assert sweep(scenario, "pbft", range(3), jobs=1).outcomes == first.outcomes


def test_results_of_something_else_are_refused(small: Callable[..., str], tmp_path: Path) -> None:
    scenario, file = small(), tmp_path / "results"
    sweep(scenario, "pbft", range(1), jobs=1, resume=file)
    with pytest.raises(ResumeError, match="has results of protocol pbft, and this campaign is about coordinator"):
        sweep(scenario, "coordinator", range(1), jobs=1, resume=file)
    small(before="pass  # changed")
    with pytest.raises(ResumeError, match="has results of other code"):
        sweep(scenario, "pbft", range(1), jobs=1, resume=file)


HEADER = Header(scenario="s", protocol="p", service="x", code="c")


def test_a_damaged_file_is_refused_unless_it_is_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "results"
    with ResultsFile(path, HEADER) as results:
        for seed in range(3):
            results.add(Outcome(seed=seed, injected={7: 2}, figure=0.5))
    good = path.read_bytes()
    header, one, two, three, _ = good.split(b"\n")
    for last in (three[:-4], three[:-4] + b"\n"):
        path.write_bytes(b"\n".join((header, one, two, last)))
        with ResultsFile(path, HEADER) as results:
            assert sorted(results.outcomes) == [0, 1]
            results.add(Outcome(seed=2, injected={7: 2}, figure=0.5))
        assert path.read_bytes() == good
    for damaged in (b"\n".join((header, one[:-4], two, b"")), one + b"\n", b"no json\n"):
        path.write_bytes(damaged)
        with pytest.raises(ResumeError, match=r"line [12] is none of a campaign's results"):
            ResultsFile(path, HEADER)


def test_two_campaigns_cannot_share_a_file(tmp_path: Path) -> None:
    with ResultsFile(tmp_path / "results", HEADER), pytest.raises(ResumeError, match="another campaign"):
        ResultsFile(tmp_path / "results", HEADER)


# ------------------------------------------------------------------------------------------------ what is asked for


def test_seeds_are_written_as_ranges() -> None:
    assert seeds_in("7") == (7,)
    assert seeds_in("0..3, 2..4,9") == (0, 1, 2, 3, 4, 9)


@pytest.mark.parametrize("text", ["", "a", "3..1", "1..", "..4", "-1", "1...3", "0..9,", "0..999999999"])
def test_other_texts_are_no_seeds(text: str) -> None:
    with pytest.raises(CampaignError, match=r"are no seeds|too many"):
        seeds_in(text)


def test_what_cannot_be_run_is_said_before_anything_runs(small: Callable[..., str]) -> None:
    scenario = small()
    with pytest.raises(UnknownScenario, match="no scenario 'nix'"):
        sweep("nix")
    with pytest.raises(UnknownProtocol, match="no protocol named 'raft'"):
        sweep(scenario, "raft")
    with pytest.raises(ServiceError, match="no_such_module"):
        sweep(scenario, service="no_such_module:Shop")
    with pytest.raises(CampaignError, match="coordinator does not claim to survive: liar"):
        sweep(small("NEEDS = ('liar',)"), "coordinator")
    scenario = small()
    for refused in (
        lambda: sweep(scenario, "pbft", []),
        lambda: sweep(scenario, "pbft", [-1]),
        lambda: sweep(scenario, "pbft", [0], jobs=0),
        lambda: sweep(scenario, "pbft", [0], seconds_per_seed=0),
    ):
        with pytest.raises(CampaignError):
            refused()  # type: ignore[no-untyped-call]


def test_classes_and_plugins_stand_for_their_names() -> None:
    from bftkit.core.plugin import load_protocol

    assert service_name(Shop) == f"{__name__}:Shop"
    assert service_name("a:B") == "a:B"
    assert load_protocol(protocol_name(load_protocol("pbft"))) is load_protocol("pbft")

    class Local:
        """Nobody else finds it."""

        @staticmethod
        def sample_operation(random: Random) -> bytes:
            return b""

    with pytest.raises(ServiceError, match="top level of a module"):
        service_name(Local)


def test_one_seed_by_name_and_what_it_raises(small: Callable[..., str]) -> None:
    result = run(small("FIGURE, AT_LEAST = 'n', 7\ndef measure(result, baseline): return result.operations"), seed=3)
    assert isinstance(result, Result)
    with pytest.raises(
        AssertionError, match=r"n: 6.00, less than 7(.|\n)*bftkit replay --seed 3 --scenario .*small.py"
    ):
        result.raise_for_violation()
    assert run(result.plan).oracle == "figure"
    run(small(), seed=3).raise_for_violation()


def test_importing_an_adversary_loads_no_simulator() -> None:
    program = "import sys, bftkit.sim; print(sorted(name for name in sys.modules if name.startswith('bftkit.sim')))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "['bftkit.sim']"
