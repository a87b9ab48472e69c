"""How one lying member breaks Paxos: two batches are chosen for one slot, with a majority each.

    python simulations/paxos_liar.py [--members 3] [--seed 1] [--trace]

Nothing has to be forged. The leader runs twice with one identity: one copy speaks with one half of the group, the other
copy with the other half, and each is as honest as a leader can be. Both halves have a majority with the leader in it.
The same is then tried on pbft with one member more, where it does nothing.

Prints what each member decided, and the evidence: the leader's signatures under both. Exit code 0: it went as told.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bftkit.core.plugin import load_protocol
from bftkit.sim.ordering.world import Network, OrderingWorld, Violation
from bftkit_paxos import conflicts


def split(protocol: str, members: int, f: int, c: int, seed: int, *, trace: bool = False) -> OrderingWorld:
    """A group whose first leader leads two lives, one with each half of the others."""
    others = [f"m{index}" for index in range(1, members)]
    half = (len(others) + 1) // 2
    sides = (["m0", *others[:half]], ["m0", *others[half:]])
    plugin = load_protocol(protocol)
    return OrderingWorld(
        plugin, members, f, c, seed, twins={"m0": sides}, network=Network(1, 4), learned_after=None, trace=trace
    )


def attack(world: OrderingWorld, patience: int) -> str:
    """Give both lives work; what the checker of agreement says, or nothing."""
    world.submit(4)
    try:
        world.run(patience)
    except Violation as violation:
        return str(violation).splitlines()[0]
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=3, help="an odd number: the liar's halves must be majorities")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    options = parser.parse_args(arguments)
    members = options.members
    if members < 3 or members % 2 == 0:
        parser.error("--members: an odd number, 3 or more")
    world = split("paxos", members, 0, (members - 1) // 2, options.seed, trace=options.trace)
    broken = attack(world, 2_000)
    if world.trace is not None:
        print(world.trace.text())
    honest = world.members[1:]
    reports = {name: world.plugin.history(world.setup(name), 0, world.records(name)) for name in honest}
    print(f"paxos, {members} members, m0 leads two lives: {broken or 'nothing happened'}")
    found = conflicts(reports)
    for conflict in found:
        one, other = conflict.first, conflict.second
        print(
            f"  evidence: m0 signed {one.digest.hex()[:8]} and {other.digest.hex()[:8]} "
            f"for ballot {one.ballot}, slot {one.slot}"
        )
    world = split("pbft", 4, 1, 0, options.seed)
    held = attack(world, 20_000)
    print(f"pbft, 4 members, the same: {held or f'{len(world.chosen)} slots decided, each as one batch'}")
    return 0 if "agreement" in broken and found and not held else 1


if __name__ == "__main__":
    sys.exit(main())
