"""simulations/policies.py, on a short trace: the policy leaves a slow leader, and comes back when it is fast again."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from simulations.policies import (
    BEGIN,
    CALM,
    END,
    SLOW,
    Decided,
    Outcome,
    Phase,
    contestants,
    is_met,
    outcome_of,
    ratios,
    run,
    seeds_of,
    table,
    write,
)

QUICK = {"period_ms": 200, "patience": 1, "calm": 16, "cooldown": 1}


def test_steady_goes_over_in_the_phase_of_the_slow_leader_and_comes_back() -> None:
    outcome = run(contestants("liars", QUICK)[-1], 1, 4000, 32, (CALM, SLOW, CALM))
    (there, back) = outcome.decisions
    assert (there.before, there.after) == ("pbft", "cks")
    assert 4 < there.at_s <= there.began_s < 8
    assert "that is not load" in there.reason
    assert (back.before, back.after) == ("cks", "pbft")
    assert 8 < back.at_s <= back.began_s < 12
    assert outcome.whole.operations == sum(phase.operations for phase in outcome.phases) > 0


def told(name: str, seed: int, counts: tuple[int, ...], decisions: tuple[Decided, ...] = ()) -> Outcome:
    phases = tuple(Phase(CALM, count, 10.0, 20.0) for count in counts)
    return Outcome(name, seed, phases, Phase("the whole", sum(counts), 10.0, 20.0), decisions, 20.0, 1.0, "", "liars")


def test_the_best_fixed_protocol_of_each_phase_and_of_the_whole_is_the_measure() -> None:
    fixed = [told("pbft", 1, (100, 10)), told("cks", 1, (40, 50))]
    assert ratios([*fixed, told("steady", 1, (95, 48))], 1) == [0.95, 0.96, 1.3]
    assert is_met([*fixed, told("steady", 1, (95, 48))])
    assert not is_met([*fixed, told("steady", 1, (89, 60))]), "less than 0.9 in a phase"
    assert not is_met([told("pbft", 1, (100, 50)), told("cks", 1, (40, 50)), told("steady", 1, (98, 50))])


def test_a_run_is_told_in_a_line_and_read_again() -> None:
    outcome = told("steady", 1, (1, 2), (Decided(1.0, 1.5, "pbft", "cks", "so", False),))
    assert outcome_of(json.dumps(attrs.asdict(outcome))) == outcome
    with pytest.raises(ValueError, match="tells of no run"):
        outcome_of("{}")


def test_the_table_names_everybody_and_every_change(tmp_path: Path) -> None:
    change = Decided(1.0, 1.5, "pbft", "cks", "the leader is slow", False)
    text = table([told("pbft", 1, (100,)), told("steady", 1, (90,), (change,)), told("pbft", 2, (100,))])
    assert "| calm | 100, 10 / 20 | 90, 10 / 20 | **0.90** (0.90) |" in text, "a seed that not all ran with is left out"
    assert "1.0, 1.5: pbft → cks: the leader is slow" in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN.format('policies liars')}old\n{END.format('policies liars')}after\n")
    write("liars", text, page)
    assert "old" not in page.read_text()
    assert page.read_text().endswith("after\n")
    with pytest.raises(ValueError, match="no place"):
        write("crashes", text, page)


def test_seeds() -> None:
    assert seeds_of("3..5") == [3, 4, 5]
    assert seeds_of("7") == [7]
