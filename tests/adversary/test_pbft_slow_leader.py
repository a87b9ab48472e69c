"""A leader that is slow on purpose, always just in time for the timeout, is replaced (FAULTS 31).

And a system that is slow as a whole is not shaken by view changes, since no other leader would do better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bftkit.core.digest import digest
from bftkit.core.machine import Broadcast, Effect, MemberId, Send
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from bftkit_pbft import PLUGIN
from bftkit_pbft import messages as m
from bftkit_pbft.machine import PbftMachine
from bftkit_pbft.pace import MARKS_MAX, QUIET_SPANS, RELAX_MAX, SLOW_MAX, SPAN, Pace, Patience
from bftkit_pbft.record import RECORD

GAP = RECORD.parameters["pace_gap"].default
BASE = RECORD.parameters["view_timeout"].default


class Dawdler:
    """Holds its proposals back, and lets those that wait go together once in `delay` ticks."""

    def __init__(self, delay: int) -> None:
        self.delay = delay
        self.world: OrderingWorld | None = None
        """None while it is being made: then it is tick 0."""
        self.kept: list[Effect[Any, Any]] = []
        self.last = 0

    def on_message(self, member: MemberId, sender: MemberId, message: Any) -> Any | None:
        return message

    def on_effects(self, member: MemberId, effects: Sequence[Effect[Any, Any]]) -> Sequence[Effect[Any, Any]]:
        tick = 0 if self.world is None else self.world.now
        now: list[Effect[Any, Any]] = []
        for effect in effects:
            held = isinstance(effect, (Broadcast, Send)) and isinstance(effect.message, m.PrePrepare)
            (self.kept if held else now).append(effect)
        if tick >= self.last + self.delay:
            self.last = tick
            now += self.kept
            self.kept = []
        return now


def dawdle(
    delay: int,
    ticks: int,
    *,
    each: int = 20,
    batches: int = 2,
    adversary: type[Dawdler] = Dawdler,
    **parameters: int,
) -> tuple[OrderingWorld, int]:
    """A loaded group whose first leader dawdles; and the view that it ends in."""
    dawdler = adversary(delay)
    world = OrderingWorld(
        PLUGIN, 4, 1, 0, 5, adversaries={"m0": dawdler}, disk=Disk(0, 0), parameters=parameters, window=64
    )
    dawdler.world = world
    for _ in range(0, ticks, each):
        world.submit(batches)
        world.run(each)
    return world, view(world)


def view(world: OrderingWorld) -> int:
    found = world.machine("m1")
    assert isinstance(found, PbftMachine)
    return found.view


@pytest.mark.parametrize("delay", [900, 450, 250])
def test_a_leader_just_under_the_timeout_is_replaced(delay: int) -> None:
    world, last = dawdle(delay, 6_000)
    assert last == 1
    world.run_until(world.all_delivered, 10_000)
    # Checks the check: without the rules it stays.
    _, last = dawdle(delay, 6_000, pace_gap=0)
    assert last == 0


class Excuse(Dawdler):
    """As a dawdler, with an excuse: headers that keep the pipeline full, far ahead or without bytes."""

    excused = False

    def on_effects(self, member: MemberId, effects: Sequence[Effect[Any, Any]]) -> Sequence[Effect[Any, Any]]:
        excuses: list[Effect[Any, Any]] = []
        if self.world is not None and self.world.now >= 40 and not self.excused:
            self.excused = True
            keyring = self.world.setup("m0").keyring
            for slot in range(20, 28):
                name = digest(b"%d" % slot)
                signature = keyring.sign(m.VOTE, m.vote_statement(0, slot, name))
                excuses.append(Broadcast(m.PrePrepare(0, slot, name, signature)))
        return [*super().on_effects(member, effects), *excuses]


def test_headers_that_fill_the_pipeline_are_no_excuse() -> None:
    _, last = dawdle(450, 4_000, adversary=Excuse)
    assert last == 1


def test_a_leader_that_becomes_slow_falls_behind_its_own_best() -> None:
    """The rate rule: proposals in every period, but far fewer than were possible under demand."""
    pace = Pace(GAP, 20)
    for _ in range(4):
        assert not spans(pace, decided=500)
    results = [spans(pace, decided=50) for _ in range(SLOW_MAX)]
    assert results == [False] * (SLOW_MAX - 1) + [True]


def spans(pace: Pace, decided: int, busy: bool = True) -> bool:
    """One span under demand with a proposal in each period; whether it made the leader suspect."""
    suspect = False
    for _ in range(SPAN):
        pace.proposals = 1
        pace.decided += decided // SPAN
        suspect = pace.period_passed(waiting=True, idle=True, busy=busy) or suspect
    return suspect


def test_a_correct_leader_is_never_suspected_however_the_load_changes() -> None:
    world = OrderingWorld(PLUGIN, 4, 1, 0, 9, disk=Disk(0, 2), network=Network(1, 4), window=64)
    for load in (1, 6, 12, 1, 6, 12):
        for _ in range(24):
            world.submit(load)
            world.run(100)
    world.run_until(world.all_delivered, 20_000)
    assert view(world) == 0


def test_a_light_load_after_a_heavy_one_makes_nobody_slow() -> None:
    """The rate is counted by time under demand."""
    pace = Pace(GAP, 20)
    assert not spans(pace, decided=5_000)
    for _ in range(100 * SPAN):
        # A slot now and then, decided long before the period's end.
        pace.proposals = 1
        pace.decided += 1
        assert not pace.period_passed(waiting=False, idle=True, busy=False)
    # And a heavy load after a light one is not held against the tiny slots of the light one.
    pace = Pace(GAP, 20)
    assert not spans(pace, decided=5_000, busy=False)
    for _ in range(2 * SLOW_MAX):
        assert not spans(pace, decided=100)


def test_a_period_without_demand_or_with_work_is_no_mark() -> None:
    pace = Pace(GAP, 5)
    for waiting, idle in ((False, True), (True, False)):
        pace.unbroken = True
        for _ in range(10 * MARKS_MAX):
            assert not pace.period_passed(waiting=waiting, idle=idle, busy=False)
            pace.unbroken = waiting
        assert pace.marks == 0
    # A request that came in the middle of a period has not waited through all of it.
    pace.unbroken = False
    pace.period_passed(waiting=True, idle=True, busy=False)
    assert pace.marks == 0
    pace.period_passed(waiting=True, idle=True, busy=False)
    assert pace.marks == 1


def test_proposals_take_marks_away() -> None:
    pace = Pace(GAP, 5)
    for _ in range(20 * MARKS_MAX):
        assert not pace.period_passed(waiting=True, idle=True, busy=False)
        pace.proposals = 1
        assert not pace.period_passed(waiting=True, idle=True, busy=False)


def test_suspicions_relax_the_rules_and_quiet_times_tighten_them() -> None:
    pace = Pace(GAP, 20)
    for _ in range(2 * RELAX_MAX):
        pace.suspected()
    assert pace.period == GAP << RELAX_MAX
    for _ in range(RELAX_MAX * QUIET_SPANS):
        assert not spans(pace, decided=100)
    assert pace.period == GAP


def test_operations_that_become_heavier_are_not_held_against_every_leader() -> None:
    """The rate rule: what was possible once may not be possible any more."""
    pace = Pace(GAP, 5)
    assert not spans(pace, decided=3000)
    fallen = 0
    for _ in range(600):
        if spans(pace, decided=100 << pace.relax):
            fallen += 1
            pace.suspected()
            pace.new_leader()
    assert fallen == 1


def test_a_suspicion_after_a_tightening_makes_the_next_one_wait() -> None:
    """The rules as a whole come to rest, however unlucky the gap is."""
    pace = Pace(GAP, 20)
    tightened: list[int] = []
    for _ in range(3):
        pace.suspected()
        count = 0
        while pace.relax:
            assert not spans(pace, decided=100)
            count += 1
        tightened.append(count)
    assert tightened == [QUIET_SPANS, 2 * QUIET_SPANS, 4 * QUIET_SPANS]


@pytest.mark.parametrize("load", [20, 100])
def test_slow_disks_cost_no_leader_its_place(load: int) -> None:
    """A sync takes 100 to 200 ticks: so much that a slot needs nearly a timeout. (FAULTS 19, 31.)"""
    world = OrderingWorld(PLUGIN, 4, 1, 0, 5, disk=Disk(100, 200), network=Network(1, 10), window=256, interval=128)
    for _ in range(0, 20_000, load):
        world.submit(1)
        world.run(load)
    assert view(world) <= 1


def test_a_timeout_shrinks_only_if_decisions_would_have_come_within_the_half_of_it() -> None:
    patience = Patience(base=100, maximum=1000, shrink_after=4)
    patience.failed()
    for quiet in (0, 0, 2, 0):
        patience.quiet = quiet
        patience.decided()
    assert patience.timeout == 200
    for quiet in (0, 1, 1, 0):
        patience.quiet = quiet
        patience.decided()
    assert patience.timeout == 100


def test_a_slow_system_sees_few_view_changes() -> None:
    """Everything takes so long that each leader looks slow: no storm (FAULTS 19's figure for clocks that run fast)."""
    world = OrderingWorld(
        PLUGIN, 4, 1, 0, 3, network=Network(60, 140), disk=Disk(20, 80), window=64, parameters={"pipeline_depth": 2}
    )
    for _ in range(100):
        world.submit(2)
        world.run(300)
    assert view(world) <= 6
    seen = view(world)
    world.run(20_000)
    assert view(world) <= seen + 3


def test_patience() -> None:
    patience = Patience(base=100, maximum=450, shrink_after=2)
    assert [patience.quarter_passed() for _ in range(5)] == [False, False, False, False, True]
    patience.decided()
    assert not patience.quarter_passed()
    timeouts: list[int] = []
    for _ in range(4):
        patience.failed()
        timeouts.append(patience.timeout)
    assert timeouts == [200, 400, 450, 450]
    for _ in range(6):
        patience.decided()
    assert patience.timeout == 100
