"""How fast the simulated world runs on one core: messages a second with and without signatures, seeds a minute.

    python simulations/bench_sim.py [--times 5] [--seeds 10] [--scenario mixed]

Prints one JSON object a line. A message is a frame that one party sends to another, members and clients alike; its
whole way counts: the sender's replica or client, the link, the receiver's, the disk, and every checker. ``fast`` keys
are keyed hashes; with ``ed25519`` each distinct key, bytes and signature is really made and checked once. Figures are
of processor time, the best of so many times.
"""

from __future__ import annotations

import argparse
import json
from time import process_time
from typing import Any

from bftkit.sim.running import run
from bftkit.sim.scenarios import load_scenario
from bftkit.sim.world import World

GROUPS = ((4, 3_000), (7, 1_500), (13, 600), (31, 100))
"""Members, and operations of the run."""


def messages(members: int, operations: int, keys: str) -> tuple[int, float]:
    """How many messages a run takes, and how many seconds."""
    world = World(7, "pbft", members, clients=4, interval=32, window=128, keys=keys)
    world.run(100)
    before = world.counters.messages
    world.load(operations, keys=16, pipeline=8)
    began = process_time()
    world.run_until(lambda: world.outstanding == 0, 600_000, "all answered")
    return world.counters.messages - before, process_time() - began


def seeds(scenario: str, protocol: str, count: int) -> dict[str, Any]:
    """How long seeds of a scenario take."""
    found = load_scenario(scenario)
    began = process_time()
    operations = sent = 0
    for seed in range(count):
        result = run(found.plan(protocol, seed))
        operations += result.operations
        sent += result.messages
    taken = process_time() - began
    return {
        "event": "seeds",
        "scenario": scenario,
        "protocol": protocol,
        "seeds": count,
        "seeds_per_minute": round(60 * count / taken),
        "seconds_per_seed": round(taken / count, 3),
        "operations_per_seed": operations // count,
        "messages_per_second": round(sent / taken),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--scenario", default="mixed")
    parser.add_argument("--protocol", default="pbft")
    arguments = parser.parse_args()
    for members, operations in GROUPS:
        for keys in ("fast", "ed25519"):
            runs = [messages(members, operations, keys) for _ in range(arguments.times)]
            line = {
                "event": "messages",
                "members": members,
                "keys": keys,
                "messages": runs[0][0],
                "messages_per_second": round(max(count / taken for count, taken in runs)),
            }
            print(json.dumps(line), flush=True)
    if arguments.seeds:
        print(json.dumps(seeds(arguments.scenario, arguments.protocol, arguments.seeds)), flush=True)


if __name__ == "__main__":
    main()
