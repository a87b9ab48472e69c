"""docs/COVERAGE.md is of these scenarios and of these lines, and nothing in it failed."""

from __future__ import annotations

import re
from pathlib import Path

from bftkit.core.plugin import load_protocol, protocol_names
from bftkit.sim.scenarios import load_scenario, scenario_names
from simulations.coverage import catalogue, kept, page

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for name in scenario_names() if name != "mixed"]
ALWAYS = {"pbft", "coordinator"}


def rows() -> list[list[str]]:
    """The cells of all rows of both tables."""
    text = (ROOT / "docs" / "COVERAGE.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cells for cells in found if cells[0] not in ("#", "trap")]


PROTOCOLS = sorted({cells[-3] for cells in rows()} & set(protocol_names()))
"""Those that were run so far: a campaign over all scenarios takes hours under some."""


def test_the_table_is_about_the_protocols_that_ship() -> None:
    assert set(PROTOCOLS) >= ALWAYS
    assert {cells[-3] for cells in rows()} <= {*protocol_names(), "—"}


def test_what_the_table_says_of_other_protocols_is_kept_as_it_stands() -> None:
    text = (ROOT / "docs" / "COVERAGE.md").read_text(encoding="utf-8")
    found, studies = kept(text, protocol_names())
    found.sort(key=lambda row: row.scenario.name)
    assert {row.protocol for row in found} == set(PROTOCOLS)
    again = page(catalogue(), found, studies).splitlines()
    assert sorted(again) == sorted(text.splitlines())


def test_the_table_names_exactly_the_shipped_scenarios_with_their_lines() -> None:
    told = {
        (int(cells[0]), cells[2].strip("`"), cells[3])
        for cells in rows()
        if cells[0].isdecimal() and cells[3] in PROTOCOLS
    }
    wanted = {
        (line, name, protocol)
        for name in NAMES
        for protocol in PROTOCOLS
        if load_scenario(name).suits(protocol)
        for line in load_scenario(name).lines(load_protocol(protocol).record)
    }
    assert told == wanted


def test_the_table_names_exactly_the_shipped_traps() -> None:
    told = {(cells[1].strip("`"), cells[2]) for cells in rows() if not cells[0].isdecimal()}
    traps = [name for name in NAMES if not load_scenario(name).lines(load_protocol("pbft").record)]
    assert told == {(name, p) for name in traps for p in PROTOCOLS if load_scenario(name).suits(p)}


def test_every_line_has_something_and_nothing_failed() -> None:
    done = {int(cells[0]) for cells in rows() if cells[0].isdecimal() and cells[2] != "—"}
    assert done == set(range(1, 49))
    assert [cells for cells in rows() if "failed" in cells[-1]] == []
    assert [
        cells for cells in rows() if "never happened" in cells[-1] or "docs/FAULTS.md happened in" in cells[-1]
    ] == []


def test_the_catalogue_names_the_scenarios_of_each_line() -> None:
    text = (ROOT / "docs" / "FAULTS.md").read_text(encoding="utf-8")
    told: set[tuple[int, str]] = set()
    for row in re.findall(r"(?m)^\| \d+ \|.*$", text):
        cells = row.strip("|").split("|")
        told |= {(int(cells[0]), name) for name in re.findall(r"\*\*`([\w-]+)`\*\*", cells[3])}
    record = load_protocol("pbft").record
    assert told == {(line, name) for name in NAMES for line in load_scenario(name).lines(record)}
    traps = set(re.findall(r"`(trap-[\w-]+)`", text))
    assert traps == {name for name in NAMES if name.startswith("trap-")}
