"""Diagrams of roles and phases, drawn from the machines' own tables into the pages about protocols.

A page marks the place with ``<!-- diagram: NAME begins -->`` and ``<!-- diagram: NAME ends -->``. What stands between
the two is written by ``python docs/diagrams.py``; a test fails while it is not what the tables say.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from bftkit.core.machine import Transition

PAGES: Final = Path(__file__).resolve().parent / "protocols"
TABLES: Final = {
    "cks-round": "bftkit_cks.machine:CksMachine.round_phases",
    "pbft-slot": "bftkit_pbft.machine:PbftMachine.slot_phases",
    "pbft-view": "bftkit_pbft.machine:PbftMachine.view_phases",
    "paxos-roles": "bftkit_paxos.roles:ROLES",
    "coordinator-roles": "bftkit_coordinator.machine:TRANSITIONS",
    "consistent-broadcast": "bftkit.blocks.consistent_broadcast:ROLES",
    "reliable-broadcast": "bftkit.blocks.reliable_broadcast:PHASES",
    "binary-agreement": "bftkit.blocks.binary_agreement:PHASES",
    "validated-agreement": "bftkit.blocks.validated_agreement:PHASES",
    "single-decree": "bftkit.blocks.single_decree:PHASES",
}
"""Where each diagram's table lies."""
PLACE: Final = re.compile(
    r"(?P<head><!-- diagram: (?P<name>[a-z-]+) begins -->\n).*?(?P<tail><!-- diagram: (?P=name) ends -->)", re.DOTALL
)


def table(name: str) -> Sequence[Transition]:
    """The rows of the table with this name. Raises `KeyError` for a name that is not in `TABLES`."""
    module, _, path = TABLES[name].partition(":")
    found: object = import_module(module)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    return cast("Sequence[Transition]", found)


def diagram(rows: Sequence[Transition]) -> str:
    """The rows as text: each state once, in the order of the table, and below it what leads where."""
    states = list(dict.fromkeys([row.source for row in rows] + [row.target for row in rows]))
    width = max(len(row.target) for row in rows)
    lines = ["```text"]
    for state in states:
        leaving = [row for row in rows if row.source == state]
        lines.append(state if leaving else f"{state}  (the end)")
        for row in leaving:
            branch = "└" if row is leaving[-1] else "├"
            lines.append(f"  {branch}─▶ {row.target:<{width}}  when: {row.event}")
    lines.append("```")
    return "\n".join(lines) + "\n"


def drawn(page: str) -> str:
    """The page with all its diagrams drawn anew."""
    return PLACE.sub(lambda match: match["head"] + diagram(table(match["name"])) + match["tail"], page)


def main() -> int:
    """Write all pages; with ``--check`` only say which are out of date. Returns the number of those."""
    stale = 0
    for path in sorted(PAGES.glob("*.md")):
        old = path.read_text(encoding="utf-8")
        new = drawn(old)
        if new != old:
            stale += 1
            sys.stdout.write(f"{path.name}\n")
            if "--check" not in sys.argv[1:]:
                path.write_text(new, encoding="utf-8")
    return stale if "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
