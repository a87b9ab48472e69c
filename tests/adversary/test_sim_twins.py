"""Twins: the enumeration has every scenario once, and the scenarios find what quorums and view changes are for."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import attrs
import pytest

from bftkit.core.plugin import load_protocol
from bftkit.core.quorum import Quorum
from bftkit.sim.ordering.world import Network, OrderingWorld, Violation
from bftkit.sim.twins import LONG, SHORT, TwinRound, Twins, TwinScenario, run_twins
from bftkit_pbft import view_change, views
from bftkit_pbft.machine import PbftMachine

SEEDS = 40
"""So many scenarios may a planted bug take."""


# ------------------------------------------------------------------------------------------------- enumeration


@pytest.mark.parametrize(
    ("n", "f", "rounds", "sides", "count"),
    [(4, 1, 1, 2, 30), (4, 1, 2, 2, 2_040), (4, 1, 2, 3, 11_412), (4, 1, 3, 2, 166_752), (7, 2, 2, 2, 64_500)],
)
def test_the_number_of_scenarios_is_known(n: int, f: int, rounds: int, sides: int, count: int) -> None:
    assert Twins(n, f, rounds=rounds, sides=sides).count == count


def test_every_index_is_a_scenario_and_every_scenario_has_its_index() -> None:
    twins = Twins(4, 1, rounds=2)
    scenarios = [twins.scenario(index) for index in range(twins.count)]
    assert len(set(scenarios)) == twins.count
    assert [twins.index(scenario) for scenario in scenarios] == list(range(twins.count))


@pytest.mark.parametrize(("n", "f", "rounds", "sides"), [(4, 1, 4, 3), (7, 2, 3, 2)])
def test_large_enumerations_can_be_entered_anywhere(n: int, f: int, rounds: int, sides: int) -> None:
    twins = Twins(n, f, rounds=rounds, sides=sides)  # which takes a while, and should not for whoever only collects
    for index in [0, 1, twins.count // 3, twins.count // 2 + 17, twins.count - 1]:
        assert twins.index(twins.scenario(index)) == index
    with pytest.raises(IndexError, match=str(twins.count)):
        twins.scenario(twins.count)


def test_whatever_the_network_can_do_is_in_it() -> None:
    """All divisions of two rounds, with any one member doubled, come down to the scenarios that are enumerated."""
    twins = Twins(4, 1, rounds=2, view_changes=0, lengths=(LONG,))
    reached: set[int] = set()
    for member in ("m0", "m1"):  # m0 leads; the others are alike, and the enumeration doubles the first of them
        copies = ("m0", "m1", "m2", "m3", f"{member}'")
        for first, second in product(product(range(2), repeat=5), repeat=2):
            rounds = tuple(TwinRound(0, LONG, _sides(copies, division)) for division in (first, second))
            reached.add(twins.index(TwinScenario(4, 1, 0, (member,), rounds)))
    assert reached == set(range(twins.count))


def test_scenarios_that_differ_in_names_are_one() -> None:
    twins = Twins(4, 1, rounds=2, view_changes=0)
    one = (("m0", "m1", "m2"), ("m0'", "m3"))
    other = (("m0", "m1", "m3"), ("m0'", "m2"))
    swapped = (("m0'", "m1", "m2"), ("m0", "m3"))
    later = (("m0", "m0'"), ("m1", "m2", "m3"))
    indices = {
        twins.index(TwinScenario(4, 1, 0, ("m0",), (TwinRound(0, LONG, sides), TwinRound(0, SHORT, later))))
        for sides in (one, other, swapped)
    }
    assert len(indices) == 1
    # But not if the next round tells m2 from m3.
    apart = (("m0", "m2"), ("m0'", "m1", "m3"))
    told = {
        twins.index(TwinScenario(4, 1, 0, ("m0",), (TwinRound(0, LONG, sides), TwinRound(0, SHORT, apart))))
        for sides in (one, other)
    }
    assert len(told) == 2


def test_seeds_visit_each_scenario_once() -> None:
    twins = Twins(4, 1, rounds=2)
    first = [twins.index(twins.spread(seed)) for seed in range(twins.count)]
    assert sorted(first) == list(range(twins.count))
    assert twins.spread(twins.count + 3) == twins.spread(3)
    assert len({twins.spread(seed).twinned for seed in range(10)}) > 1


def test_a_scenario_is_data() -> None:
    scenario = Twins().spread(7)
    assert json.loads(json.dumps(attrs.asdict(scenario)))["twinned"] == list(scenario.twinned)
    assert "doubled: " in scenario.tell()


@pytest.mark.parametrize("bad", [{"f": 0}, {"rounds": 0}, {"sides": 5}, {"n": 3}])
def test_groups_without_twins_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"twins need|need 4 members"):
        Twins(**bad)


def _sides(copies: tuple[str, ...], division: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
    sides = [tuple(copy for copy, side in zip(copies, division, strict=True) if side == number) for number in (0, 1)]
    return tuple(side for side in sides if side)


# ------------------------------------------------------------------------------------------------- the world


def test_copies_on_different_sides_do_not_hear_each_other() -> None:
    members = ("m0", "m1", "m2", "m3")
    world = OrderingWorld(
        load_protocol("pbft"), 4, 1, 0, 1, network=Network(1, 1), twins={"m0": (members, members)}, learned_after=None
    )
    world.divide(("m0", "m1", "m2"), ("m0'", "m3"))
    world.submit(2)
    world.run(80)
    assert world.height("m1") == world.height("m2") == 2
    assert world.height("m0'") == world.height("m3") == 0
    assert world.machine("m3").highest_voted > 0, "the other copy proposed to its own side"
    world.heal()
    world.run_until(world.all_delivered, 20_000)
    assert world.height("m3") >= 2


def test_a_neglected_leader_is_replaced() -> None:
    world = OrderingWorld(load_protocol("pbft"), 4, 1, 0, 1, network=Network(1, 1))
    world.neglect()
    world.run(60)
    assert {world.machine(member).leader for member in world.members} == {"m1"}


# ------------------------------------------------------------------------------------------------- runs and teeth


def test_pbft_stands_up_to_its_twins() -> None:
    twins = Twins(4, 1, rounds=3)
    view_changes = 0
    for seed in range(40):
        world = run_twins("pbft", twins.spread(seed), seed=seed)
        view_changes += max(world.machine(member).view for member in world.correct())
    assert view_changes > 10


@pytest.mark.parametrize(("n", "f", "c"), [(7, 2, 0), (6, 1, 1)])
def test_larger_groups_stand_up_to_their_twins(n: int, f: int, c: int) -> None:
    twins = Twins(n, f, c, rounds=2)
    for seed in range(6):
        run_twins("pbft", twins.spread(seed), seed=seed)


def test_the_same_scenario_is_the_same_run() -> None:
    def trace() -> str:
        world = run_twins("pbft", Twins().spread(11), seed=3, trace=True)
        assert world.trace is not None
        return world.trace.text()

    assert trace() == trace()


def found(expected: str) -> None:
    """That the scenarios see the planted bug, and as what."""
    twins = Twins(4, 1, rounds=3)

    def campaign() -> None:
        for seed in range(SEEDS):
            run_twins("pbft", twins.spread(seed))

    with pytest.raises(Violation, match=rf"(?s)({expected}).*again: run_twins\('pbft', TwinScenario\("):
        campaign()


def test_quorums_that_need_not_meet_in_a_correct_member_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAFETY rule 1: quorums of 2f."""

    def twice_f(quorum: Quorum) -> int:
        return 2 * quorum.f

    def unchecked(quorum: Quorum) -> None:
        """The numbers that `Quorum` would refuse."""

    monkeypatch.setattr(Quorum, "certificate", property(twice_f))
    monkeypatch.setattr(Quorum, "__attrs_post_init__", unchecked)
    found("agreement")


def test_commits_of_too_few_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that is decided with q - 1 commits is not in every view change."""
    original = PbftMachine.count_commits

    class TooFew:
        certificate = 2
        weak = 2

    def count_commits(machine: Any, slot: int, state: Any, commit: Any, out: Any) -> None:
        setup = machine.setup
        machine.setup = _With(setup, quorum=TooFew())
        try:
            original(machine, slot, state, commit, out)
        finally:
            machine.setup = setup

    monkeypatch.setattr(PbftMachine, "count_commits", count_commits)
    found("agreement")


def test_a_view_change_that_keeps_a_certificate_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was prepared last is not said, so that the new view begins without it."""
    original = views.tell_view_change

    def tell_view_change(machine: Any, out: Any) -> None:
        held = machine.held
        machine.held = {slot: held[slot] for slot in sorted(held)[:-1]}
        try:
            original(machine, out)
        finally:
            machine.held = held

    monkeypatch.setattr(views, "tell_view_change", tell_view_change)
    found("agreement|no progress")


def test_a_new_view_that_forgets_what_was_prepared_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody computes the same, and it is wrong: the last slot of the opening is filled with the empty batch."""
    original = view_change.choose

    def choose(setup: Any, changes: Any) -> view_change.Opening:
        opening = original(setup, changes)
        return view_change.Opening(opening.low, opening.choices[:-1])

    monkeypatch.setattr(view_change, "choose", choose)
    monkeypatch.setattr(views, "choose", choose)
    found("agreement|no progress")


class _With:
    """An object with some attributes replaced."""

    def __init__(self, inner: Any, **others: Any) -> None:
        self.__dict__.update(others)
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
