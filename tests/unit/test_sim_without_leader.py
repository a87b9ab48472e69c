"""The simulator where nobody leads, and where a protocol lacks what a scenario is about."""

from __future__ import annotations

import pytest

from bftkit.blocks import consistent_broadcast as cb
from bftkit.channel.frames import pack_protocol
from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.ordering import Batch, OrderingInput, Propose, Returned
from bftkit.core.plugin import load_protocol
from bftkit.sim import contract
from bftkit.sim.adversaries import adversary_names, load_adversary
from bftkit.sim.campaign import CampaignError
from bftkit.sim.examining import check_fit
from bftkit.sim.faults import FOLLOWER, LEADER, chosen
from bftkit.sim.ordering.turns import TURN_SLOTS, Turns
from bftkit.sim.ordering.world import OrderingWorld, Violation
from bftkit.sim.plan import Group, Plan, PlanError
from bftkit.sim.scenarios import load_scenario
from bftkit.sim.world import World
from bftkit_cks.messages import Part
from tests.unit.round_table import PLUGIN, RECORD, Seat, TableOut

TABLE = RECORD.name
N = 4

# ------------------------------------------------------------------------------------------------- worlds


def test_where_nobody_leads_one_member_after_the_other_is_taken_for_the_leader() -> None:
    world = World(1, protocol=TABLE, members=N)
    assert not world.is_led
    world.load(60, keys=2)
    victims: set[str | None] = set()
    for _ in range(40):
        world.run(25)
        leader, follower = chosen(world, LEADER), chosen(world, FOLLOWER)
        assert leader == chosen(world, LEADER), "the same at the same time"
        assert leader != follower
        victims.add(leader)
    assert len(victims) > 1
    assert None not in victims
    world.crash("m0")
    assert chosen(world, LEADER) in world.members[1:]
    world.finish()
    assert world.view_changes == 0, "rounds are no views"


def test_between_two_leaders_nobody_is_taken_for_one() -> None:
    world = World(1, members=N, parameters={"view_timeout": 300})
    world.load(40, keys=2)
    world.run(100)
    assert world.is_led
    assert chosen(world, LEADER) == "m0"
    world.crash("m0", "m1")
    world.run(2000)
    assert world.is_led
    assert chosen(world, LEADER) is None


@pytest.mark.parametrize("kind", adversary_names())
def test_every_liar_can_lie_where_nobody_leads(kind: str) -> None:
    """It may find nothing to lie about; but nothing raises, and nobody who is correct suffers."""
    options = {"fellows": "m1"} if kind == "collude" else {}
    world = World(3, protocol="cks", members=N, clients=2)
    world.lie("m1", load_adversary(kind, **options))
    world.load(10, keys=2)
    world.run(400)
    world.finish()


def test_what_a_message_binds_to_is_watched_even_if_its_parts_are_encoded() -> None:
    """SAFETY rules 5 and 16: the guard of `Speech` asks a message that has a method `binds`."""
    world = World(1, protocol="cks", members=N, clients=0)
    codec = load_protocol("cks").codec

    def say(digest: Digest) -> None:
        part = Part(1, 0, 2, cb.CODEC.encode(cb.Send(digest)))
        world.guards.said(world.hosts["m2"], pack_protocol(0, codec.encode(part), []))

    say(bytes(32))
    say(bytes(32))
    assert not world.recorder.violations
    say(b"x" * 32)
    assert [found.oracle for found in world.recorder.violations] == ["agreement"]


# ------------------------------------------------------------------------------------------------- scenarios


def test_a_scenario_about_messages_that_a_protocol_lacks_is_left_out_with_the_reason() -> None:
    found = load_scenario("forged-certificates")
    assert found.suits("pbft")
    assert found.misses("cks") == "is about a message ViewChange or NewView, and cks has none"
    assert "does not claim to survive: liar" in found.misses("paxos")
    with pytest.raises(CampaignError, match="forged-certificates is about a message"):
        check_fit("forged-certificates", "cks")


def test_mixed_claims_no_line_about_a_message_that_the_protocol_lacks() -> None:
    mixed = load_scenario("mixed")
    assert {23, 24} <= set(mixed.lines(load_protocol("pbft").record))
    assert not {23, 24} & set(mixed.lines(load_protocol("cks").record))


def test_a_plan_that_the_protocol_refuses_is_told_as_such() -> None:
    plan = Plan(protocol="cks", group=Group(members=7, f=2, c=0), interval=2, window=4)
    with pytest.raises(PlanError, match="cks: rounds of 5 slots need a window of 8"):
        plan.check()
    wide = load_scenario("corrupt-chunks").plan("cks", 0)
    assert (wide.interval, wide.window) == (2, 8), "scenarios take what the protocol needs"
    wide.check()


# ------------------------------------------------------------------------------------------------- protocols alone


def table(seed: int = 1) -> OrderingWorld:
    return OrderingWorld(PLUGIN, N, 0, 1, seed)


@pytest.mark.parametrize("check", sorted(set(contract.CHECKS) - {"histories_lose_nothing", "power_cut"}))
def test_the_contract_can_be_run_where_nobody_leads(check: str) -> None:
    """The fixture promises no histories, and its messages name no slots."""
    for case in contract.cases(PLUGIN, seeds=(1, 2), checks=[check]):
        contract.run(case)


def test_a_batch_that_is_wanted_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client's request reaches one member: the others begin nothing, and still offer."""
    given: dict[MemberId, list[Batch]] = {}
    on_input = Seat.on_input

    def watch(self: Seat, value: OrderingInput, out: TableOut) -> None:
        if isinstance(value, Propose):
            given.setdefault(self.setup.me, []).append(value.batch)
        on_input(self, value, out)

    monkeypatch.setattr(Seat, "on_input", watch)
    idle = table()
    idle.run(1000)
    assert not given, "nothing waits, and no round begins"
    worlds = map(table, range(20))
    # One whose first batch is this member's to propose; and it must be decided before the client asks everybody.
    world = next(world for world in worlds if world.submit(1, at=["m1"])[0][0] % N == 1)
    world.run_until(world.all_delivered, 140)
    assert set(given) == set(world.members)
    assert all(batch.digest == NO_DIGEST for name in ("m0", "m2", "m3") for batch in given[name][:1])


def test_an_empty_batch_cannot_be_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    def say(self: Seat, out: TableOut) -> None:
        out.deliver(Returned(NO_DIGEST))

    monkeypatch.setattr(Seat, "_say", say)
    with pytest.raises(Violation, match="returned the empty batch"):
        table()


def test_a_batch_that_is_decided_more_often_than_it_was_proposed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what a round left out is decided in its place all the same, and returned besides."""
    deliver = Seat._deliver  # pyright: ignore[reportPrivateUsage]
    last: dict[Slot, Digest] = {}

    def twice(self: Seat, out: TableOut) -> None:
        for number, sheet in list(self.sheets.items()):
            names = [entry.digest for entry in sheet.entries if entry.digest != NO_DIGEST]
            last.setdefault(number, names[0] if names else NO_DIGEST)
        for number in sorted(self.sheets):
            before = last.get(number - 1, NO_DIGEST)
            entries = self.sheets[number].entries
            if number % 2 == 0 and before != NO_DIGEST and entries[0].digest == NO_DIGEST and before in self.here:
                self.sheets[number] = type(self.sheets[number])(number, (type(entries[0])(0, before), *entries[1:]))
        deliver(self, out)

    monkeypatch.setattr(Seat, "_deliver", twice)

    def many() -> None:
        for seed in range(20):
            contract.run(contract.Case(PLUGIN, "fault_free", contract.Shape(4, 0, 1), seed))

    with pytest.raises(AssertionError, match="more often than it was proposed"):
        many()


# ------------------------------------------------------------------------------------------------- turns


def turn(member: int) -> Digest:
    """A batch whose turn is this member's."""
    return bytes([member]) * 32


def test_in_the_small_world_turns_are_counted_in_slots_as_well() -> None:
    turns = Turns(0, N)
    mine, other = turn(0), turn(1)
    assert turns.propose([other, mine], 0, 0) == mine
    assert turns.propose([other, mine], 0, 0) is None
    assert turns.propose([other, mine], TURN_SLOTS * N - 1, 0) is None
    assert turns.propose([other, mine], TURN_SLOTS * N, 0) == other
    turns = Turns(0, N)
    assert turns.propose([other], 0, 0) is None
    turns.delivered(turn(5), 4)  # another one of the same member
    assert turns.propose([other], TURN_SLOTS * N, 0) is None, "that member is there"
    assert turns.propose([other], TURN_SLOTS * N + 4, 0) == other


def test_in_the_small_world_a_round_is_begun_when_a_client_asks_again() -> None:
    turns = Turns(0, N)
    other = turn(1)
    assert turns.propose([other], 3, 3) is None
    turns.begins = True
    assert turns.propose([other], 3, 3) == NO_DIGEST
    assert turns.propose([other], 3, 3) is None
    assert turns.propose([other], 4, 4) == NO_DIGEST
    assert turns.propose([], 5, 5) is None
    turns.calls = 1
    assert turns.propose([], 5, 5) == NO_DIGEST
    assert turns.propose([], 5, 5) is None
