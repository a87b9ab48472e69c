"""Puts the protocols beside other systems: writes the tables of docs/BENCHMARKS.md, section "Beside other systems".

    python simulations/compare_peers.py            # from docs/protocols/peers.json and docs/protocols/measured.json
    python simulations/compare_peers.py --check    # exit code 1 if the tables are out of date

Our rows are those that `simulations/compare_protocols.py bench` measured; the others' were measured once and are kept
as they were. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from simulations.compare_protocols import DATA, ROOT, Data, load, ordered, three_digits

PAGE: Final = ROOT / "docs" / "BENCHMARKS.md"
PEERS: Final = ROOT / "docs" / "protocols" / "peers.json"
OURS: Final[Mapping[str, tuple[int, tuple[str, ...]]]] = {
    "byzantine": (4, ("pbft", "cks")),
    "crash": (3, ("paxos", "coordinator")),
}
"""Each table's number of members, and our protocols of that fault model."""
COLUMNS: Final = ("system", "how", "outstanding", "ops", "p50", "p99", "memory")
HEAD: Final = ("system", "how", "outstanding", "ops/s", "p50 ms", "p99 ms", "memory MB, all members")
PLACE: Final = re.compile(
    r"(?P<head><!-- beside: (?P<name>[a-z]+) begins -->\n).*?(?P<tail><!-- beside: (?P=name) ends -->)", re.DOTALL
)


def written(page: str, peers: Mapping[str, Sequence[Mapping[str, str]]], data: Data) -> str:
    """The page with its tables made anew."""
    return PLACE.sub(lambda place: place["head"] + table(place["name"], peers, data) + place["tail"], page)


def table(name: str, peers: Mapping[str, Sequence[Mapping[str, str]]], data: Data) -> str:
    """The others' rows, and below them ours."""
    members, protocols = OURS[name]
    rows = [[row[column] for column in COLUMNS] for row in peers[name]]
    names = ordered(protocols)
    ours = [row for row in data["bench"] if row["members"] == members and row["protocol"] in protocols]
    ours.sort(key=lambda row: (names.index(row["protocol"]), row["durability"], row["size"], row["outstanding"]))
    lines = [HEAD, ["---"] * len(HEAD), *rows, *map(our_row, ours)]
    told = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if not ours:
        return told
    busy = median(row.get("busy", 0) for row in ours)
    return f"{told}\nJust before bftkit's rows began, other work took {busy:.0%} of the processors' time.\n"


def our_row(row: Data) -> list[str]:
    """One of our own measurements, in the columns of the table."""
    how = {"memory": "memory", "fsync": "disk with fsync"}[row["durability"]]
    if row["size"]:
        how += f", {row['size']:,} bytes"
    figures = [three_digits(row[name]) for name in ("ops_per_second", "p50_ms", "p99_ms", "memory_mb")]
    return [f"**bftkit `{row['protocol']}`**", how, f"{row['outstanding']:,}", *figures]


def main() -> int:
    """Write the tables, or compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    old = given.page.read_text(encoding="utf-8")
    new = written(old, json.loads(PEERS.read_text(encoding="utf-8")), load(DATA))
    if given.check:
        return int(old != new)
    given.page.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
