"""Twins, systematically: doubled members in every division of a small group, round after round.

    python simulations/twins.py                                        # pbft, 4 members, 3 rounds: the first 2000
    python simulations/twins.py --members 7 --liars 2 --rounds 2       # other groups
    python simulations/twins.py --scenarios 0..166751 --jobs 2         # all of them
    python simulations/twins.py --scenarios 17 --tell                  # one scenario in words, with all that happened

Scenarios are numbered so that the first ones already see a bit of everything; see `bftkit.sim.twins`. Numbers beyond
the count begin anew with other delays.

Exit code 0: every scenario ended well. 1: one did not, and is printed with its number.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from time import perf_counter

import attrs

from bftkit.core.plugin import protocol_names
from bftkit.core.quorum import QuorumError
from bftkit.sim.ordering.world import Violation
from bftkit.sim.twins import Twins, run_twins

CHUNK = 50
SHOWN = 3


@attrs.frozen
class Shape:
    """Which enumeration."""

    n: int
    f: int
    c: int
    rounds: int
    sides: int
    view_changes: int

    def twins(self) -> Twins:
        return Twins(self.n, self.f, self.c, rounds=self.rounds, sides=self.sides, view_changes=self.view_changes)


def numbers(text: str) -> range:
    """``17`` or ``0..999``, both ends included."""
    first, dots, last = text.partition("..")
    return range(int(first), int(last if dots else first) + 1)


def run_some(protocol: str, shape: Shape, some: Sequence[int]) -> list[tuple[int, str]]:
    """The scenarios that went wrong, with what the violation says."""
    twins = shape.twins()
    wrong: list[tuple[int, str]] = []
    for number in some:
        try:
            run_twins(protocol, twins.spread(number), seed=number)
        except Violation as violation:
            wrong.append((number, str(violation)))
    return wrong


def tell(protocol: str, shape: Shape, number: int) -> int:
    """Print one scenario and its run."""
    scenario = shape.twins().spread(number)
    print(scenario.tell())
    try:
        world = run_twins(protocol, scenario, seed=number, trace=True)
    except Violation as violation:
        print(violation)
        return 1
    assert world.trace is not None
    print(world.trace.text())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--protocol", choices=protocol_names(), default="pbft")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--liars", type=int, default=1, help="so many members are doubled (f)")
    parser.add_argument("--crashes", type=int, default=0, help="so many more could crash (c)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", type=int, default=2, help="so many sides at most in each round")
    parser.add_argument("--view-changes", type=int, default=1, help="so many at most are provoked in each round")
    parser.add_argument("--scenarios", type=numbers, default=range(2000), help="one number, or first..last")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--tell", action="store_true", help="the first of the scenarios only, with all that happens")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    options = parser.parse_args(arguments)
    shape = Shape(options.members, options.liars, options.crashes, options.rounds, options.sides, options.view_changes)
    try:
        count = shape.twins().count
    except (QuorumError, ValueError) as error:
        parser.error(str(error))
    if options.tell:
        return tell(options.protocol, shape, options.scenarios[0])
    began = perf_counter()
    asked: range = options.scenarios
    chunks = [asked[start : start + CHUNK] for start in range(0, len(asked), CHUNK)]
    wrong: list[tuple[int, str]] = []
    work = partial(run_some, options.protocol, shape)
    if options.jobs > 1:
        with ProcessPoolExecutor(options.jobs) as pool:
            for found in pool.map(work, chunks):
                wrong.extend(found)
    else:
        for chunk in chunks:
            wrong.extend(work(chunk))
    seconds = perf_counter() - began
    for number, text in wrong[:SHOWN]:
        print(f"scenario {number}:\n{shape.twins().spread(number).tell()}\n{text}\n")
    if options.json:
        result = {
            "event": "result",
            "protocol": options.protocol,
            **attrs.asdict(shape),
            "scenarios": len(asked),
            "of": count,
            "violations": len(wrong),
            "failing": [number for number, _ in wrong[:100]],
            "seconds": round(seconds, 1),
        }
        print(json.dumps(result))
    else:
        print(f"{len(asked)} of {count} scenarios, {len(wrong)} violations, {len(asked) / seconds:.0f} a second")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
