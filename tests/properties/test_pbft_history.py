"""No delivered slot is ever lost by a forced ending (SAFETY rules 22 and 29), whoever reports and whoever lies.

Random runs with loss, crashes and view changes are cut off at a random moment. Then every set of n - f - c members
reports from its durable records alone, up to f of them lying as well as they can without others' keys: they leave
certificates out, or show the oldest that they have.
"""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import MemberId, Record, Slot
from bftkit.core.ordering import Carried, Neglected, Setup
from bftkit.core.quorum import Quorum
from bftkit.crypto.signed import Certificate, Vote
from bftkit.sim.keyring import fast_keyrings
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from bftkit_pbft import PLUGIN
from bftkit_pbft import messages as m

SHAPES = [(4, 1, 0), (3, 0, 1), (5, 1, 0), (6, 1, 1), (7, 2, 0), (1, 0, 0)]
A, B = digest(b"a"), digest(b"b")


def troubled(shape: tuple[int, int, int], seed: int) -> OrderingWorld:
    """A run with view changes over slots that are in flight, cut off somewhere."""
    random = Random(seed)
    n, f, c = shape
    world = OrderingWorld(
        PLUGIN, n, f, c, seed, network=Network(loss=random.choice([0, 0.1, 0.3]), duplication=0.1), disk=Disk(0, 10)
    )
    for _ in range(random.randint(1, 5)):
        world.submit(random.randint(1, 20))
        world.run(random.randint(1, 400))
        if random.random() < 0.7:
            for member in random.sample(world.up(), min(len(world.up()), f + 1)):
                leader = world.machine(member).leader
                if leader is not None and leader != member:
                    world.input(member, Neglected(leader))
        if random.random() < 0.3:
            down = random.choice(world.members)
            if down in world.up():
                world.crash(down)
            else:
                world.restart(down)
        world.run(random.randint(1, 300))
    return world


def lie(records: list[Record], random: Random) -> list[Record]:
    """What a liar reports from: nothing, some of its records, or for each slot the oldest certificate."""
    kind = random.choice(["nothing", "some", "oldest"])
    if kind == "nothing":
        return []
    if kind == "some":
        return [record for record in records if random.random() < 0.5]
    oldest: dict[Slot, tuple[int, Record]] = {}
    for record in records:
        found = m.RECORDS.decode(record)
        if isinstance(found, m.Prepared):
            statement = m.read_vote_statement(found.certificate.body)
            assert statement is not None
            view, slot, _ = statement
            oldest[slot] = min(oldest.get(slot, (view, record)), (view, record))
    return [record for _, record in oldest.values()]


@settings(max_examples=25)
@given(st.sampled_from(SHAPES), st.integers(0, 10_000))
def test_no_delivered_slot_is_lost(shape: tuple[int, int, int], seed: int) -> None:
    world = troubled(shape, seed)
    random = Random(seed)
    setup = world.setup("m0")
    for _ in range(4):
        liars = random.sample(world.members, setup.quorum.f)
        for reporters in combinations(world.members, setup.quorum.available):
            stable = max(world.stable_of(member) for member in reporters)
            histories: dict[MemberId, bytes] = {}
            for member in reporters:
                records = world.records(member)
                if member in liars:
                    records = lie(records, random)
                histories[member] = PLUGIN.history(world.setup(member), stable, records)
                assert PLUGIN.check_history(setup, member, stable, histories[member])
            carried = PLUGIN.carry(setup, stable, histories)
            assert carried.start == stable
            slots = dict(carried.slots)
            assert list(slots) == list(range(stable + 1, stable + 1 + len(slots)))
            for slot, name in sorted(world.chosen.items()):
                if slot > stable:
                    assert slots.get(slot) == name, f"slot {slot} is lost by {reporters} with liars {liars}"


# ------------------------------------------------------------------------------------------------- by hand

MEMBERS = ("m0", "m1", "m2", "m3")
KEYRINGS = fast_keyrings(b"", bytes(32), 0, bytes(32), MEMBERS)
SETUP = Setup("m0", MEMBERS, Quorum(4, 1), KEYRINGS["m0"], window=16)


def prepared(view: int, slot: Slot, name: bytes, voters: tuple[MemberId, ...] = MEMBERS[:3]) -> Record:
    body = m.vote_statement(view, slot, name)
    votes = tuple(Vote(member, KEYRINGS[member].sign(m.VOTE, body)) for member in voters)
    return m.RECORDS.encode(m.Prepared(Certificate(body, votes)))


def told(*records: Record, stable: Slot = 0) -> bytes:
    return PLUGIN.history(SETUP, stable, records)


def test_the_highest_view_wins() -> None:
    """Not the longest history, nor the most reporters."""
    old = told(prepared(0, 1, A), prepared(0, 2, A))
    new = told(prepared(0, 1, A), prepared(1, 1, B))
    assert PLUGIN.carry(SETUP, 0, {"m0": old, "m1": old, "m2": new}) == Carried(0, ((1, B), (2, A)))


def test_it_ends_at_the_first_slot_without_a_certificate() -> None:
    one = told(prepared(0, 1, A), prepared(0, 3, B))
    assert PLUGIN.carry(SETUP, 0, {"m0": one, "m1": told(), "m2": told()}) == Carried(0, ((1, A),))


def test_empty_batches_are_carried() -> None:
    one = told(prepared(1, 1, NO_DIGEST), prepared(1, 2, A))
    assert PLUGIN.carry(SETUP, 0, {"m0": one, "m1": told(), "m2": told()}).slots == ((1, NO_DIGEST), (2, A))


def test_what_the_checkpoint_covers_is_left_out() -> None:
    one = told(prepared(0, 1, A), prepared(0, 2, B), stable=1)
    assert PLUGIN.carry(SETUP, 1, {"m0": one, "m1": told(), "m2": told()}) == Carried(1, ((2, B),))
    whole = told(prepared(0, 1, A), prepared(0, 2, B))
    assert PLUGIN.carry(SETUP, 1, {"m0": whole, "m1": told(), "m2": told()}) == Carried(1, ((2, B),))


def test_votes_and_other_records_carry_nothing() -> None:
    """A vote is no certificate: rule 22 takes, with f > 0, only what a quorum certified."""
    voted = m.RECORDS.encode(m.Voted(0, 1, A, bytes(64), bytes(64)))
    entered = m.RECORDS.encode(m.Entered(3))
    assert told(voted, entered) == told()


def test_too_few_histories_carry_nothing() -> None:
    with pytest.raises(ValueError, match="needs 3"):
        PLUGIN.carry(SETUP, 0, {"m0": told(), "m1": told()})


def test_unproved_histories_are_refused() -> None:
    good = told(prepared(0, 1, A))
    assert PLUGIN.check_history(SETUP, "m1", 0, good)
    minority = told(prepared(0, 1, A, MEMBERS[:2]))
    stranger = told(prepared(0, 1, A), stable=0).replace(b"m1", b"m9")
    far = told(prepared(0, 100, A))
    assert PLUGIN.check_history(SETUP, "m1", 0, far)  # a power cut may throw checkpoints back by more than windows
    for bad in (minority, stranger, b"", b"garbage", good + b"\0", good[:-1]):
        assert not PLUGIN.check_history(SETUP, "m1", 0, bad)
    assert not PLUGIN.check_history(SETUP, "m1", 1, good)
    assert not PLUGIN.check_history(SETUP, "m9", 0, good)
