"""Twins: every way of dividing a group with doubled members, round after round.

A Byzantine member is made of two honest ones that have the same name and the same keys, and that do not know of each
other. Divided over the sides of a partition they say two things in one place, vote twice, forget what the other one
promised: without a line of code that lies. What is left to choose is who is doubled, who is on which side in each
round, and who leads; and of that there are so few possibilities that all of them can be tried.

An enumeration is made for a group and a number of rounds::

    every = Twins(n=4, f=1, rounds=3)
    every.count                       # how many scenarios there are
    every.scenario(17)                # one of them, as data; every.index(scenario) == 17
    run_twins("pbft", every.scenario(17))

**Rounds.** In each round the n + f copies are divided into at most `sides` sides. In each round but the first the
leader is passed over up to `view_changes` times: everybody hears `Neglected` and votes for the next leader, as far as
the sides let them. (The leader follows from the view in protocols that let members take turns; where nobody leads, or
one for ever, `view_changes` is 0.) Then clients submit new batches. A round is *long*, so that whatever can happen on
its sides happens, or *short*: a message or two, so that the sides change between a proposal, the votes for it and its
decision. After the last round the group is whole again and must go on: the doubled members are Byzantine, but no more
than f.

**Up to symmetry.** Two scenarios that differ in names only are one. Leaders differ in when they lead; the members that
do not lead in any of the rounds can change places with each other if both are doubled or both are not, and the copies
of a doubled member can change places. The scenarios that the enumeration yields are one of each orbit of that group:
the first round's division is taken up to the whole group, the second one up to those permutations that leave the first
in place, and so on. With P divisions this leaves about (2 P)^R (V + 1)^(R - 1) scenarios over the group's size, for
each way to choose who is doubled; `count` is exact.

==== ==== ======= ====== ============
 n    f   rounds  sides   scenarios
==== ==== ======= ====== ============
 4    1    2       2            2,040
 4    1    3       2          166,752
 4    1    3       3        2,555,712
 4    1    4       2       12,766,592
 5    1    3       2          747,136
 7    2    2       2           64,500
 7    2    3       2       81,152,928
==== ==== ======= ====== ============

S. Bano, A. Sonnino, A. Chursin, D. Perelman, Z. Li, A. Ching and D. Malkhi, "Twins: BFT Systems Made Robust", OPODIS
2021, first as arXiv 2004.10617. There leaders are given to rounds by the test; here views have to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations, permutations, product
from math import gcd
from typing import Final, TypeAlias

import attrs

from bftkit.core.machine import MemberId
from bftkit.core.ordering import Plugin
from bftkit.core.plugin import load_protocol
from bftkit.core.quorum import Quorum
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld

SHORT: Final = 6
"""Ticks of a short round: with the delays of `run_twins`, a proposal arrives and is voted for, and little more."""

LONG: Final = 60
"""Ticks of a long round: a view change and some decisions after it."""

BATCHES: Final = 2
"""So many batches are submitted in each round: twins that lead take the first and the last of what they have."""

FINISH_TICKS: Final = 30_000
"""So long may it take, at most, until everything is decided once the group is whole."""

HASTY: Final = {"status_interval": 15, "view_timeout": 200, "view_timeout_max": 800}
"""Parameters that a protocol of the shelf may have, so that a round is not spent waiting."""

Division: TypeAlias = tuple[int, ...]
"""The side of each copy: members in order, then second copies. A side is named by the order of its first copy."""

Permutation: TypeAlias = tuple[int, ...]
"""The place where each copy goes."""

Group: TypeAlias = tuple[Permutation, ...]


@attrs.frozen
class TwinRound:
    """What the network does for a while."""

    view_changes: int
    """So many times the leader is passed over when this round begins."""
    ticks: int
    """How long it lasts, and how long each of its view changes is waited for."""
    sides: tuple[tuple[str, ...], ...]
    """Copies that reach each other; the second copy of ``m0`` is ``m0'``."""


@attrs.frozen
class TwinScenario:
    """One scenario: who is doubled, and what happens in each round."""

    n: int
    f: int
    c: int
    twinned: tuple[MemberId, ...]
    rounds: tuple[TwinRound, ...]

    def tell(self) -> str:
        """The scenario in words."""
        lines = [f"{self.n} members; doubled: {', '.join(self.twinned)}"]
        for number, each in enumerate(self.rounds, 1):
            sides = " | ".join(" ".join(side) for side in each.sides)
            passed = f"; the leader is passed over {each.view_changes} time(s)" if each.view_changes else ""
            lines.append(f"round {number} of {each.ticks} ticks: {sides}{passed}")
        return "\n".join(lines)


@attrs.frozen
class _Block:
    """The scenarios of one choice of doubled members and of one schedule of view changes."""

    schedule: tuple[tuple[int, int], ...]
    """Of each round: view changes, ticks."""
    twinned: tuple[int, ...]
    group: Group
    first: int
    """The index of its first scenario."""
    count: int


class Twins:
    """All scenarios of a group; see the top of this file."""

    def __init__(
        self,
        n: int = 4,
        f: int = 1,
        c: int = 0,
        *,
        rounds: int = 3,
        sides: int = 2,
        view_changes: int = 1,
        lengths: Sequence[int] = (SHORT, LONG),
    ) -> None:
        """Raises `QuorumError` for a group that is too small, `ValueError` if f is 0 or there are no rounds."""
        Quorum(n, f, c)
        if f < 1 or rounds < 1 or not 1 <= sides <= n:
            raise ValueError("twins need f >= 1, rounds >= 1, and 1 to n sides")
        self.n, self.f, self.c = n, f, c
        self.rounds = rounds
        self._divisions = tuple(_divisions(n + f, sides))
        self._orbits = cache(self._find_orbits)
        self._count = cache(self._find_count)
        blocks: list[_Block] = []
        first = 0
        # That the first leader is passed over before anything happened only gives the leaders other names.
        later = tuple(product(range(view_changes + 1), lengths))
        for schedule in product(tuple((0, ticks) for ticks in lengths), *[later] * (rounds - 1)):
            leaders = min(n, sum(changes for changes, _ in schedule) + 1)
            for twinned in _choices(n, f, leaders):
                group = _symmetries(n, twinned, leaders)
                count = self._count(group, rounds)
                blocks.append(_Block(schedule, twinned, group, first, count))
                first += count
        self._blocks = tuple(blocks)
        self.count = first
        """How many scenarios there are."""
        self._stride = next(each for each in range(int(first * 0.618) or 1, first + 2) if gcd(each, first) == 1)

    def scenario(self, index: int) -> TwinScenario:
        """The scenario of this index, from 0 to ``count - 1``. Raises `IndexError` for any other."""
        if not 0 <= index < self.count:
            raise IndexError(f"there are {self.count} scenarios; {index} is none of them")
        block = next(block for block in self._blocks if index < block.first + block.count)
        rest = index - block.first
        group, divisions = block.group, list[Division]()
        for left in range(self.rounds - 1, -1, -1):
            for division, stabilizer in self._orbits(group):
                count = self._count(stabilizer, left)
                if rest < count:
                    divisions.append(division)
                    group = stabilizer
                    break
                rest -= count
        names = self._names(block.twinned)
        return TwinScenario(
            self.n,
            self.f,
            self.c,
            tuple(names[member] for member in block.twinned),
            tuple(
                TwinRound(changes, ticks, _sides(names, division))
                for (changes, ticks), division in zip(block.schedule, divisions, strict=True)
            ),
        )

    def spread(self, seed: int) -> TwinScenario:
        """The scenario of a seed: seeds 0 to ``count - 1`` give each scenario once, neighbours far from each other.

        So the first seeds of a campaign already see a bit of everything. Seeds beyond begin anew.
        """
        return self.scenario(seed * self._stride % self.count)

    def index(self, scenario: TwinScenario) -> int:
        """The index of a scenario, or of the one that differs from it in names only.

        Raises `ValueError` if this enumeration has no such scenario.
        """
        schedule = tuple((each.view_changes, each.ticks) for each in scenario.rounds)
        names_of = {f"m{index}": index for index in range(self.n)}
        asked = tuple(sorted(names_of[name] for name in scenario.twinned if name in names_of))
        block = next((one for one in self._blocks if one.schedule == schedule and one.twinned == asked), None)
        if block is None or (scenario.n, scenario.f, scenario.c) != (self.n, self.f, self.c):
            raise ValueError("not a scenario of this enumeration")
        names = self._names(block.twinned)
        divisions: list[Division] = []
        for each in scenario.rounds:
            side_of = {name: number for number, side in enumerate(each.sides) for name in side}
            if side_of.keys() != set(names):
                raise ValueError("each copy stands on one side")
            divisions.append(_normal([side_of[name] for name in names]))
        index, group = block.first, block.group
        for done, division in enumerate(divisions):
            moved, by = min((_moved(division, each), each) for each in group)
            divisions[done + 1 :] = [_moved(later, by) for later in divisions[done + 1 :]]
            for other, stabilizer in self._orbits(group):
                if other == moved:
                    group = stabilizer
                    break
                index += self._count(stabilizer, self.rounds - done - 1)
            else:
                raise ValueError("more sides than this enumeration has")
        return index

    def _names(self, twinned: Sequence[int]) -> list[str]:
        return [*(f"m{index}" for index in range(self.n)), *(f"m{index}'" for index in twinned)]

    def _find_orbits(self, group: Group) -> tuple[tuple[Division, Group], ...]:
        """The least division of each orbit, with the permutations that leave it in place."""
        found: list[tuple[Division, Group]] = []
        reached: set[Division] = set()
        for division in self._divisions:
            if division in reached:
                continue
            stabilizer: list[Permutation] = []
            for permutation in group:
                moved = _moved(division, permutation)
                reached.add(moved)
                if moved == division:
                    stabilizer.append(permutation)
            found.append((division, tuple(stabilizer)))
        return tuple(found)

    def _find_count(self, group: Group, rounds: int) -> int:
        if rounds == 0:
            return 1
        return sum(self._count(stabilizer, rounds - 1) for _, stabilizer in self._orbits(group))


def _divisions(copies: int, sides: int) -> Iterator[Division]:
    """All divisions into at most so many sides, in ascending order."""
    for division in product(range(sides), repeat=copies):
        if division == _normal(division):
            yield division


def _normal(sides: Sequence[int]) -> Division:
    names: dict[int, int] = {}
    return tuple(names.setdefault(side, len(names)) for side in sides)


def _moved(division: Division, permutation: Permutation) -> Division:
    moved = [0] * len(division)
    for copy, side in enumerate(division):
        moved[permutation[copy]] = side
    return _normal(moved)


def _choices(n: int, f: int, leaders: int) -> Iterator[tuple[int, ...]]:
    """Who is doubled: any of those that lead, and the first ones of the others, who are all alike."""
    for among_leaders in range(min(f, leaders), -1, -1):
        if f - among_leaders <= n - leaders:
            for some in combinations(range(leaders), among_leaders):
                yield (*some, *range(leaders, leaders + f - among_leaders))


def _symmetries(n: int, twinned: tuple[int, ...], leaders: int) -> Group:
    """The permutations of the copies that change nothing but names."""
    alike = [member for member in range(leaders, n) if member not in twinned]
    doubled = [member for member in twinned if member >= leaders]
    second = {member: n + place for place, member in enumerate(twinned)}
    group: list[Permutation] = []
    for single, pairs, swaps in product(
        permutations(alike), permutations(doubled), product((False, True), repeat=len(twinned))
    ):
        goes = {member: member for member in range(n)}
        goes |= dict(zip(alike, single, strict=True)) | dict(zip(doubled, pairs, strict=True))
        goes |= {second[member]: second[goes[member]] for member in twinned}
        for member, swap in zip(twinned, swaps, strict=True):
            if swap:
                goes[member], goes[second[member]] = goes[second[member]], goes[member]
        group.append(tuple(goes[copy] for copy in range(n + len(twinned))))
    return tuple(sorted(group))


def _sides(names: Sequence[str], division: Division) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(name for name, side in zip(names, division, strict=True) if side == number)
        for number in range(max(division) + 1)
    )


# ------------------------------------------------------------------------------------------------- running


def run_twins(
    protocol: str | Plugin,
    scenario: TwinScenario,
    *,
    seed: int = 0,
    trace: bool = False,
) -> OrderingWorld:
    """Run a scenario in an `OrderingWorld`. Raises `Violation`. Returns the world, for figures."""
    plugin = load_protocol(protocol) if isinstance(protocol, str) else protocol
    members = tuple(f"m{index}" for index in range(scenario.n))
    world = OrderingWorld(
        plugin,
        scenario.n,
        scenario.f,
        scenario.c,
        seed,
        network=Network(1, 2),
        disk=Disk(0, 1),
        parameters={name: value for name, value in HASTY.items() if name in plugin.record.parameters},
        twins=dict.fromkeys(scenario.twinned, (members, members)),
        trace=trace,
        rerun=f"run_twins({plugin.record.name!r}, {scenario!r}, seed={seed}, trace=True)",
    )
    for each in scenario.rounds:
        world.divide(*each.sides)
        for _ in range(each.view_changes):
            world.neglect()
            world.run(each.ticks)
        world.submit(BATCHES)
        world.run(each.ticks)
    world.heal()
    world.submit(BATCHES)
    world.run_until(world.all_delivered, FINISH_TICKS)
    return world
