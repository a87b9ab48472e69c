"""Runs every shipped scenario and writes docs/COVERAGE.md: what was done about each line of docs/FAULTS.md.

    python simulations/coverage.py                          # twenty seeds of each, under each protocol that it suits
    python simulations/coverage.py --seeds 0..99 --jobs 2
    python simulations/coverage.py --protocols cks --seeds 0..4   # the rows of the others stay as they are
    python simulations/coverage.py --only slow-links,twins    # shows these, writes nothing
    python simulations/coverage.py --only loss --write        # the other rows stay as they are

Lines that concern the real network layer are measured by simulations of their own, which are run too. The scenario
`mixed`, which draws everything at once, has campaigns of its own (``bftkit sweep mixed``).

Exit code 0: everything held, and every line that a scenario claims really happened. 1: something did not.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from bftkit.core.plugin import load_protocol, protocol_names
from bftkit.sim.campaign import Campaign, seeds_in, sweep
from bftkit.sim.scenarios import Scenario, load_scenario, scenario_names

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "COVERAGE.md"
CATALOGUE: Final = ROOT / "docs" / "FAULTS.md"
PROTOCOLS: Final = protocol_names()
"""All that is on the shelf."""
APART: Final = ("mixed",)
"""Scenarios whose campaigns are not run from here."""

HEAD: Final = """\
# What was run against each fault

Written by `python simulations/coverage.py`; not to be edited. The lines are those of [FAULTS.md](FAULTS.md), where the
tests for each of them are named as well; the scenarios are files in `bftkit/sim/scenarios/`, and any of them is run
again by ``bftkit sweep NAME --protocol PROTOCOL --seeds 0..99``. In every run all checkers look on (agreement,
durability, exactly once, linearizability, progress, bounds, no unhandled exception, no blame of a correct member); a
scenario that names a figure is judged by it in every single seed, against the same run without the fault. That a line
*happened* is counted where it happens: when a packet is lost, a bit turned over, a lie told.
"""


@attrs.frozen
class Line:
    """A line of the catalogue."""

    number: int
    fault: str
    covered_by: tuple[str, ...]


@attrs.frozen
class Row:
    """What came of a scenario under a protocol."""

    scenario: Scenario
    protocol: str
    seeds: int
    ok: bool
    lines: tuple[int, ...]
    result: str


@attrs.frozen
class Study:
    """A simulation with real processes, or without any group."""

    line: int
    command: tuple[str, ...]
    tell: Callable[[Mapping[str, Any]], str]


STUDIES: Final = (
    Study(
        8,
        ("simulations/half_open.py", "--json"),
        lambda told: (
            f"{told['connections']} connections that never finish: the client's 99th percentile went from "
            f"{told['p99_alone_ms']:.0f} to {told['p99_attacked_ms']:.0f} ms, and the leader held "
            f"{told['held']} connections at most"
        ),
    ),
    Study(
        10,
        ("simulations/fuzz_wire.py", "--codec", "pbft", "--inputs", "1000000", "--seed", "7", "--json"),
        lambda told: f"{told['inputs']:,} inputs: {told['refused']:,} refused, the others valid, none mistaken",
    ),
)


def catalogue() -> list[Line]:
    """The lines of docs/FAULTS.md."""
    lines: list[Line] = []
    for row in CATALOGUE.read_text(encoding="utf-8").splitlines():
        if re.match(r"\| \d+ \|", row):
            number, fault, _, covered = (cell.strip() for cell in row.strip("|").split("|"))
            lines.append(Line(int(number), fault, tuple(re.findall(r"`([\w/.-]+)`", covered))))
    return lines


def run_scenario(scenario: Scenario, protocol: str, seeds: Sequence[int], jobs: int | None) -> Row:
    """A campaign, in one row."""
    campaign = sweep(scenario.name, protocol, seeds, jobs=jobs)
    happened = all(campaign.injected[line] for line in campaign.lines)
    return Row(
        scenario,
        protocol,
        len(campaign.outcomes),
        campaign.ok and happened,
        tuple(scenario.lines(load_protocol(protocol).record)),
        tell(scenario, campaign),
    )


def tell(scenario: Scenario, campaign: Campaign) -> str:
    """What came of a campaign, in words."""
    if campaign.failing:
        first = campaign.failing[0]
        return f"**failed** in {len(campaign.failing)} seeds, first in {first.seed}: {first.oracle}: {first.violation}"
    words = ["held"]
    measured = campaign.figures().get("figure")
    if measured is not None:
        worst, best = ("least", "most") if scenario.at_most is None else ("most", "least")
        bound = f"at least {scenario.at_least:g}" if scenario.at_most is None else f"at most {scenario.at_most:g}"
        words.append(
            f"{scenario.figure}: {measured[worst]:.2f} at worst, {measured['median']:.2f} in the middle, "
            f"{measured[best]:.2f} at best ({bound})"
        )
    words += [f"**line {line} never happened**" for line in campaign.lines if not campaign.injected[line]]
    views = sum(outcome.view_changes for outcome in campaign.outcomes)
    operations = sum(outcome.operations for outcome in campaign.outcomes)
    words.append(f"{operations:,} operations, {views} view changes")
    return "; ".join((*words, *campaign.complaints))


def run_study(study: Study) -> tuple[bool, str]:
    """Whether it held, and what it told."""
    done = subprocess.run([sys.executable, *study.command], cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        return done.returncode == 0, study.tell(json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, KeyError, json.JSONDecodeError):
        return False, f"**failed**: {done.stderr[-200:]}"


def page(lines: Sequence[Line], rows: Sequence[Row], studies: Mapping[int, tuple[Study, bool, str]]) -> str:
    """docs/COVERAGE.md."""
    parts = [HEAD, "## Lines\n", "| # | fault | scenario | protocol | seeds | result |", "|---|---|---|---|---|---|"]
    for line in lines:
        found = [row for row in rows if line.number in row.lines]
        for row in found:
            parts.append(
                f"| {line.number} | {line.fault} | `{row.scenario.name}` | {row.protocol} | {row.seeds} | "
                f"{row.result} |"
            )
        if line.number in studies:
            study, _, told = studies[line.number]
            parts.append(f"| {line.number} | {line.fault} | `{study.command[0]}` | — | — | {told} |")
        elif not found and line.covered_by:
            parts.append(f"| {line.number} | {line.fault} | tests, see FAULTS.md | — | — | part of the test suite |")
        elif not found:
            parts.append(f"| {line.number} | {line.fault} | — | — | — | what it is about is not there yet |")
    parts += ["\n## Traps\n", "| trap | scenario | protocol | seeds | result |", "|---|---|---|---|---|"]
    for row in rows:
        if not row.lines:
            text = row.scenario.text.removeprefix("Trap: ").rstrip(".")
            parts.append(f"| {text} | `{row.scenario.name}` | {row.protocol} | {row.seeds} | {row.result} |")
    return "\n".join(parts) + "\n"


def kept(text: str, protocols: Sequence[str]) -> tuple[list[Row], dict[int, tuple[Study, bool, str]]]:
    """What a page says already of these protocols, and of the studies."""
    rows: dict[tuple[str, str], Row] = {}
    studies: dict[int, tuple[Study, bool, str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| ") or len(cells) not in (5, 6):
            continue
        named, protocol, seeds, result = cells[-4].strip("`"), cells[-3], cells[-2], cells[-1]
        if protocol in protocols and named in scenario_names():
            scenario = load_scenario(named)
            lines = tuple(scenario.lines(load_protocol(protocol).record))
            ok = "**" not in result
            rows[named, protocol] = Row(scenario, protocol, int(seeds), ok, lines, result)
        for study in STUDIES:
            if named == study.command[0] and cells[0] == str(study.line):
                studies[study.line] = (study, "**failed" not in result, result)
    return list(rows.values()), studies


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0..19")
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help="with commas between; default: all")
    parser.add_argument("--only", default="", help="scenarios, with commas; without --write the page is not written")
    parser.add_argument("--write", action="store_true", help="with --only: write the rows of these scenarios")
    options = parser.parse_args()
    only: list[str] = [name for name in options.only.split(",") if name]
    chosen: list[str] = [name for name in options.protocols.split(",") if name]
    others = [name for name in PROTOCOLS if name not in chosen]
    written = PAGE.read_text(encoding="utf-8")
    if only and options.write:
        rows, studies = kept(written, PROTOCOLS)
        rows = [row for row in rows if row.scenario.name not in only or row.protocol in others]
    else:
        rows, studies = kept(written if others else "", others)
    for name in only or [name for name in scenario_names() if name not in APART]:
        scenario = load_scenario(name)
        for protocol in chosen:
            if scenario.suits(protocol):
                rows.append(run_scenario(scenario, protocol, seeds_in(options.seeds), options.jobs))
                print(f"{name:28} {protocol:12} {rows[-1].result}", flush=True)
    ok = all(row.ok for row in rows)
    if not only or options.write:
        for study in STUDIES if not others and not only else ():
            held, told = run_study(study)
            ok = ok and held
            studies[study.line] = (study, held, told)
            print(f"{study.command[0]:41} {told}", flush=True)
        rows.sort(key=lambda row: (row.scenario.name, PROTOCOLS.index(row.protocol)))
        PAGE.write_text(page(catalogue(), rows, studies), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
