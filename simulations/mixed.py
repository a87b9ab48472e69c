"""Random mixed scenarios, many seeds: crashes, power cuts, partitions, loss, clocks, full disks, liars.

    python simulations/mixed.py --seeds 0..999 --protocol pbft
    python simulations/mixed.py --seeds 17 --protocol coordinator --trace     # one run, with all that happened

Exit code 0: every checker was content in every run. 1: some run violated something; it is printed with its seed.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

from bftkit.core.plugin import protocol_names
from bftkit.sim.scenarios import mixed
from bftkit.sim.world import Violation


def seeds_of(text: str) -> range:
    """``17`` or ``0..999``, both ends included."""
    first, dots, last = text.partition("..")
    return range(int(first), int(last if dots else first) + 1)


def main() -> int:
    """Run the campaign; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=seeds_of, default=range(100), help="one seed, or first..last")
    parser.add_argument("--protocol", choices=protocol_names(), action="append", help="default: all")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    arguments = parser.parse_args()
    started = perf_counter()
    runs = failures = operations = 0
    for protocol in arguments.protocol or protocol_names():
        for seed in arguments.seeds:
            runs += 1
            try:
                world = mixed(seed, protocol, trace=arguments.trace)
            except Violation as violation:
                failures += 1
                print(f"VIOLATION seed {seed} {protocol}: {violation}\n", flush=True)
                if not arguments.keep_going:
                    return 1
                continue
            operations += sum(actor.told.executed + actor.told.reads for actor in world.actors.values())
            if world.lines is not None:
                print("\n".join(world.lines))
    seconds = perf_counter() - started
    print(f"{runs} runs, {failures} violations, {operations} operations answered, {seconds:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
