"""No delivered slot is ever lost by a forced ending (SAFETY rules 22 and 29), whoever reports and whoever lies.

Random runs with loss, crashes and cut links are ended at a random moment. Then every set of n - f - c members reports
from its durable records alone, up to f of them lying as well as they can without others' keys: they leave records out,
or report from what was on their disks long before.
"""

from __future__ import annotations

from itertools import combinations
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import MemberId, Out, Record, Send
from bftkit.core.ordering import Setup
from bftkit.core.plugin import load_protocol
from bftkit.core.quorum import Quorum
from bftkit.sim.coins import fast_coins
from bftkit.sim.keyring import fast_keyrings
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from bftkit_cks import lists
from bftkit_cks import messages as m
from bftkit_cks.history import HISTORIES, Entry, History, Voted

PLUGIN = load_protocol("cks")
SHAPES = [(4, 1, 0), (5, 1, 0), (4, 0, 1), (7, 1, 1)]


def troubled(shape: tuple[int, int, int], seed: int) -> OrderingWorld:
    """A run with rounds at every stage of being decided, cut off somewhere."""
    random = Random(seed)
    n, f, c = shape
    loss = random.choice([0, 0.1, 0.3])
    world = OrderingWorld(
        PLUGIN, n, f, c, seed, network=Network(loss=loss, duplication=0.1, straggling=0.3), disk=Disk(0, 10)
    )
    for _ in range(random.randint(1, 4)):
        world.submit(random.randint(1, 8))
        world.run(random.randint(1, 300))
        if random.random() < 0.4:
            world.block(*random.sample(world.members, 2))
        if random.random() < 0.3:
            down = random.choice(world.members)
            if down in world.up():
                world.crash(down)
            else:
                world.restart(down)
        world.run(random.randint(1, 200))
    if random.random() < 0.7:
        # The hardest moment: one member has just decided, and nobody else knows it yet.
        world.heal()
        world.restart(*[name for name in world.members if name not in world.up()])
        before = max(world.chosen, default=0)
        world.submit(1)
        world.run_until(lambda: max(world.chosen, default=0) > before, 200_000)
    return world


def lie(records: list[Record], random: Random) -> list[Record]:
    """What a liar reports from: nothing, or what it had at some moment before."""
    return [] if random.random() < 0.3 else records[: random.randint(0, len(records))]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(0, 1 << 32))
def test_whoever_reports_and_whoever_lies_nothing_delivered_is_lost(shape: tuple[int, int, int], seed: int) -> None:
    world = troubled(shape, seed)
    random = Random(seed)
    true = {
        name: PLUGIN.history(world.setup(name), world.stable_of(name), world.records(name)) for name in world.members
    }
    for reporters in combinations(world.members, world.quorum.available):
        reports = {name: true[name] for name in reporters}
        for liar in random.sample(reporters, world.quorum.f):
            records = lie(world.records(liar), random)
            reports[liar] = PLUGIN.history(world.setup(liar), world.stable_of(liar), records)
        for name in reporters:
            assert PLUGIN.check_history(world.setup(reporters[0]), name, world.stable_of(name), reports[name])
        stable = max(world.stable_of(name) for name in reporters)
        carried = dict(PLUGIN.carry(world.setup(reporters[0]), stable, reports).slots)
        for slot, batch in sorted(world.chosen.items()):
            assert slot <= stable or carried.get(slot) == batch, world.failure(f"slot {slot} is lost by {reporters}")


# ------------------------------------------------------------------------------------------------- by hand

MEMBERS = ("m0", "m1", "m2", "m3")
QUORUM = Quorum(4, 1)
RINGS = fast_keyrings(b"", bytes(32), 0, bytes(32), MEMBERS)
COINS = fast_coins(b"", bytes(32), 0, bytes(32), MEMBERS, QUORUM.available)
A, B = digest(b"a"), digest(b"b")


def setup_of(me: MemberId) -> Setup:
    return Setup(me, MEMBERS, QUORUM, RINGS[me], window=32, coins=COINS[me])


def certified(setup: Setup, number: int, attempt: int, candidate: int, round_: int, value: bool) -> bytes:
    """The pre-votes of the first three members."""
    statement = am.pre_statement(lists.judge(setup, number).agreement_id(attempt, candidate), round_, value)
    votes = {me: am.pre_certifier(setup_of(me)).sign(statement) for me in MEMBERS[:3]}
    return am.pre_certifier(setup).combine(statement, votes)


def broadcast(name: bytes, sender: int, value: bytes) -> bytes:
    """The proof that this member broadcast the value in the instance, with all members' echoes at hand."""
    machines = [cb.ConsistentBroadcast.create(setup_of(me), name, MEMBERS[sender], len(value)) for me in MEMBERS]
    own = machines[sender]
    out: Out[Any, Any] = Out()
    own.on_input(cb.Start(value), out)
    for me, machine in zip(MEMBERS, machines, strict=True):
        if machine is not own:
            echo: Out[Any, Any] = Out()
            machine.on_message(MEMBERS[sender], cb.Send(value), echo)
            machine.on_input(cb.Approve(), echo)
            for effect in echo.effects:
                match effect:
                    case Send(_, message):
                        own.on_message(me, message, out)
                    case _:
                        pass
    assert own.proof is not None
    return own.proof


def proposal_of(number: int, candidate: int, names: dict[int, bytes]) -> bytes:
    """The proof of a candidate's proposal: a list of these offers."""
    value = lists.make_list({index: broadcast(m.offer_id(number), index, name) for index, name in names.items()})
    return broadcast(va.part_id(m.agreement_id(number), va.PROPOSAL), candidate, value)


def vote(number: int, attempt: int, candidate: int, round_: int, value: bool, name: bytes = NO_DIGEST) -> Entry:
    setup = setup_of("m0")
    proposal = proposal_of(number, candidate, {0: name, 1: NO_DIGEST, 2: NO_DIGEST}) if value else b""
    certificate = certified(setup, number, attempt, candidate, round_, value)
    return Entry(number, b"", Voted(attempt, candidate, round_, value, certificate, proposal))


def told(*entries: Entry) -> bytes:
    return HISTORIES.encode(History(entries))


def carry(*histories: bytes, stable: int = 0) -> dict[int, bytes]:
    reports: dict[MemberId, bytes] = dict[MemberId, bytes](zip(MEMBERS, histories, strict=False))
    for name in reports:
        assert PLUGIN.check_history(setup_of("m3"), name, stable, reports[name])
    return dict(PLUGIN.carry(setup_of("m3"), stable, reports).slots)


def test_the_highest_attempt_and_round_wins() -> None:
    """Not the value that more members report, and not the one of a 1 against a later 0."""
    one = told(vote(1, 1, 0, 1, True, A))
    assert carry(one, told(), told()) == {1: A, 2: NO_DIGEST, 3: NO_DIGEST}
    assert carry(one, one, told(vote(1, 1, 0, 2, False))) == {}
    assert carry(one, one, told(vote(1, 2, 3, 1, True, B)))[1] == B
    assert carry(told(vote(1, 1, 0, 2, True, A)), told(vote(1, 1, 0, 1, False)), told())[1] == A


def test_the_continuation_ends_at_the_first_round_without_a_one() -> None:
    first, third = vote(1, 1, 0, 1, True, A), vote(3, 1, 0, 1, True, B)
    assert sorted(carry(told(first, third), told(), told())) == [1, 2, 3]
    assert sorted(carry(told(first, vote(2, 1, 1, 1, False), third), told(), told())) == [1, 2, 3]
    assert carry(told(), told(third), told()) == {}


def test_a_checkpoint_may_cut_a_round() -> None:
    entry = told(vote(1, 1, 0, 1, True, A))
    assert carry(entry, told(), told(), stable=2) == {3: NO_DIGEST}
    assert not PLUGIN.check_history(setup_of("m3"), "m0", 3, entry), "the round is over at its last slot"


def test_histories_that_prove_nothing_are_refused() -> None:
    good = vote(1, 1, 0, 1, True, A)
    assert good.voted is not None

    def refused(*entries: Entry) -> bool:
        return not PLUGIN.check_history(setup_of("m3"), "m0", 0, told(*entries))

    assert not refused(good)
    assert refused(good, good)
    assert refused(vote(2, 1, 0, 1, True, A), good)
    assert refused(attrs.evolve(good, number=2))
    assert not refused(vote(1 << 20, 1, 0, 1, True, A))  # a power cut may throw checkpoints back by more than windows
    for change in (
        {"attempt": 2},
        {"attempt": 0},
        {"candidate": 1},
        {"candidate": 9},
        {"round": 2},
        {"value": False},
        {"certificate": good.voted.certificate[:-1]},
        {"proposal": b""},
        {"proposal": proposal_of(2, 0, {0: A, 1: NO_DIGEST, 2: NO_DIGEST})},
        {"proposal": proposal_of(1, 0, {0: A, 1: NO_DIGEST})},
        {"proposal": proposal_of(1, 1, {0: A, 1: NO_DIGEST, 2: NO_DIGEST})},
    ):
        assert refused(attrs.evolve(good, voted=attrs.evolve(good.voted, **change))), change
    assert refused(Entry(1, b"no proof", None))
    assert not PLUGIN.check_history(setup_of("m3"), "stranger", 0, told(good))


def test_an_entry_is_one_of_two_things() -> None:
    entry = vote(1, 1, 0, 1, False)
    for proof, voted in ((b"", None), (b"x", entry.voted)):
        with pytest.raises(ValueError, match="a proof or a vote"):
            Entry(1, proof, voted)


def test_too_few_histories_carry_nothing() -> None:
    with pytest.raises(ValueError, match="2 histories; the continuation needs 3"):
        PLUGIN.carry(setup_of("m0"), 0, {"m0": told(), "m1": told()})
