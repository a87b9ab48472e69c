"""A network schedule under which pbft stands still for ever, and cks goes on.

    python simulations/asynchrony.py [--seconds 300] [--seed 1] [--members 4] [--json]

No message is lost, none is changed and no member is faulty: an adversary only decides when each message arrives. It
looks at the members of a pbft group and holds back whatever the member sends that leads their view, until too few are
left in it to decide anything. So every view ends by its timeout; the next one gives its leader twice as long, and the
adversary takes twice as long, too. (When the timeout has reached its maximum, the delays stay below a bound. It is
larger than what the protocol was told.)

The same schedule, written down as "from this tick to that one, this member's messages wait", is then played to a cks
group: same members, same load, same seed. For the fun of it a third run lets the adversary choose its victim anew, at
random and for as long as it likes, against cks.

Safety is watched in all runs: no two members ever decide different batches in one slot.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from random import Random
from typing import Any

import attrs

from bftkit.core.machine import MemberId
from bftkit.core.plugin import load_protocol
from bftkit.core.quorum import largest_tolerance
from bftkit.sim.ordering.parts import Node
from bftkit.sim.ordering.world import Network, OrderingWorld

SETTLE_TICKS = 1_000
"""So long the group works undisturbed first: both protocols are known to work."""
SUBMIT_EVERY = 1_000
"""A client submits a batch every so many ticks."""


@attrs.frozen
class Hold:
    """From tick `start` on, until tick `end`, what this member sends waits."""

    start: int
    end: int
    member: MemberId


class Schedule:
    """Whose messages wait, as it was written down."""

    def __init__(self, holds: list[Hold]) -> None:
        self._holds = holds

    def __call__(self, world: HinderedWorld) -> MemberId | None:
        now = world.now
        return next((hold.member for hold in self._holds if hold.start <= now < hold.end), None)


class Leaders:
    """Whoever leads, or will lead, the highest view that f + 1 members have come to: the others cannot do without."""

    def __call__(self, world: HinderedWorld) -> MemberId | None:
        views = sorted((world.machine(name).view for name in world.members), reverse=True)
        return world.members[views[world.quorum.f] % len(world.members)]


class Whims:
    """Somebody, for a while, and then somebody else."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"whims {seed}")
        self._victim: MemberId | None = None
        self._until = 0

    def __call__(self, world: HinderedWorld) -> MemberId | None:
        if world.now >= self._until:
            self._victim = self._random.choice(world.members)
            self._until = world.now + self._random.randint(1, 5_000)
        return self._victim


class HinderedWorld(OrderingWorld):
    """A group whose adversary holds back one member's messages at a time. All of them arrive in the end."""

    def __init__(
        self, protocol: str, n: int, seed: int, adversary: Callable[[HinderedWorld], MemberId | None], **more: Any
    ) -> None:
        self._adversary: Callable[[HinderedWorld], MemberId | None] | None = None
        self.holds: list[Hold] = []
        """What the adversary did."""
        self._victim: MemberId | None = None
        self._since = 0
        self._held: list[Callable[[], None]] = []
        super().__init__(
            load_protocol(protocol), n, largest_tolerance(n), 0, seed, network=Network(delay_min=1, delay_max=5), **more
        )
        self._chosen_adversary = adversary
        self.links.hinder = self._hold

    def begin(self) -> None:
        """From now on the adversary is at work."""
        self._adversary = self._chosen_adversary
        self._look()

    def end(self) -> None:
        """The adversary gives up, and everything that waits arrives."""
        self._adversary = None
        self._change(None)

    def _look(self) -> None:
        if self._adversary is not None:
            victim = self._adversary(self)
            if victim != self._victim:
                self._change(victim)
            self._time.after(1, self._look)

    def _change(self, victim: MemberId | None) -> None:
        if self._victim is not None:
            self.holds.append(Hold(self._since, self.now, self._victim))
        self._victim, self._since = victim, self.now
        held, self._held = self._held, []
        for release in held:
            release()

    def _hold(self, sender: Node, send: Callable[[], None]) -> bool:
        if sender.name != self._victim:
            return False
        self._held.append(send)
        return True


def play(world: HinderedWorld, ticks: int) -> dict[str, Any]:
    """Work undisturbed, then with the adversary for so many ticks, then undisturbed again."""
    world.submit(5)
    world.run_until(world.all_delivered, 60_000)
    world.run(max(0, SETTLE_TICKS - world.now))
    before = decided(world)
    views = max(world.machine(name).view for name in world.members)
    world.begin()
    submitted = 0
    start = world.now
    while world.now < start + ticks:
        world.submit(1)
        submitted += 1
        world.run(SUBMIT_EVERY)
    during = decided(world) - before
    views = max(world.machine(name).view for name in world.members) - views
    world.end()
    world.run_until(world.all_delivered, 10_000_000)
    return {
        "protocol": world.plugin.record.name,
        "submitted": submitted,
        "decided": during,
        "views": views,
        "holds": len(world.holds),
        "longest_hold_ms": max((hold.end - hold.start for hold in world.holds), default=0),
        "decided_after_all": decided(world),
    }


def decided(world: OrderingWorld) -> int:
    """How many different batches have been decided."""
    return len({digest for digest in world.chosen.values() if any(digest)})


def compare(n: int, seed: int, ticks: int) -> list[dict[str, Any]]:
    """pbft against the adversary, cks against the same schedule, and cks against an adversary's whims."""
    pbft = HinderedWorld("pbft", n, seed, Leaders(), learned_after=None)
    results = [play(pbft, ticks) | {"schedule": "holds back whoever leads"}]
    cks = HinderedWorld("cks", n, seed, Schedule(pbft.holds), learned_after=None)
    results.append(play(cks, ticks) | {"schedule": "the same, tick for tick"})
    other = HinderedWorld("cks", n, seed, Whims(seed), learned_after=None)
    results.append(play(other, ticks) | {"schedule": "holds back anybody, at whim"})
    return results


def main() -> int:
    """Returns 1 if pbft did make progress, or cks did not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300, help="simulated seconds of the adversary")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = compare(arguments.members, arguments.seed, 1_000 * arguments.seconds)
    if arguments.json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    else:
        print(f"{arguments.members} members, {arguments.seconds} s with the adversary, seed {arguments.seed}\n")
        print(f"{'protocol':9} {'schedule':30} {'submitted':>9} {'decided':>8} {'views':>6} {'longest hold':>13}")
        for row in results:
            print(
                f"{row['protocol']:9} {row['schedule']:30} {row['submitted']:9} {row['decided']:8} "
                f"{row['views'] if row['protocol'] == 'pbft' else '-':>6} {row['longest_hold_ms'] / 1000:11.1f} s"
            )
    return 0 if results[0]["decided"] == 0 and all(row["decided"] > 0 for row in results[1:]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
