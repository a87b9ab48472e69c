"""PBFT's page tells the truth: its messages and parameters are those of the code."""

from __future__ import annotations

from pathlib import Path

from bftkit_pbft import PLUGIN
from bftkit_pbft import messages as m
from bftkit_pbft.log import Phase
from bftkit_pbft.machine import PbftMachine

PAGE = (Path(__file__).parents[2] / "docs" / "protocols" / "pbft.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, without its head."""
    part = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_parameters() -> None:
    told = {name.strip("`"): (int(default), meaning) for name, default, meaning in rows("Parameters")}
    assert told == {name: (item.default, item.meaning) for name, item in PLUGIN.record.parameters.items()}


def test_messages() -> None:
    told = [cells[0].strip("`").split("(")[0] for cells in rows("What the messages mean")]
    kinds = (m.PrePrepare, m.Prepare, m.Commit, m.Stable, m.ViewChange, m.NewView, m.Status, m.Accusation)
    assert told == [kind.__name__ for kind in kinds]


def test_phases() -> None:
    """The table speaks of the phases that there are. (The diagrams on the page are drawn from it.)"""
    phases = {phase.name for phase in Phase}
    assert phases == {name for row in PbftMachine.slot_phases for name in (row.source, row.target)}
    assert {name for row in PbftMachine.view_phases for name in (row.source, row.target)} == {"ACTIVE", "CHANGING"}
