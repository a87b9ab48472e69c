"""Leaving Paxos by force: whatever was delivered is carried over (SAFETY rules 22 and 29)."""

from __future__ import annotations

from itertools import combinations, permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Digest, Slot
from bftkit.core.ordering import Carried, Setup
from bftkit.core.quorum import Quorum
from bftkit.sim.keyring import fast_keyrings
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from bftkit_paxos import PLUGIN, conflicts
from bftkit_paxos import messages as m
from bftkit_paxos.history import HISTORIES, History

A, B, C = (digest(name.encode()) for name in "abc")
MEMBERS = ("m0", "m1", "m2")
KEYRINGS = fast_keyrings(b"test", bytes(32), 0, bytes(32), MEMBERS)
SETUP = Setup("m2", MEMBERS, Quorum(3, 0, 1), KEYRINGS["m2"], window=8)


def entry(ballot: int, slot: Slot, batch: Digest, signer: str | None = None) -> m.Entry:
    """A proposal under its ballot's leader's signature, or another one's."""
    ring = KEYRINGS[signer or MEMBERS[ballot % 3]]
    return m.Entry(ballot, slot, batch, ring.sign(m.ACCEPT_PURPOSE, m.proposal_statement(ballot, slot, batch)))


def report(*entries: m.Entry, stable: Slot = 0) -> bytes:
    """The history of a member that wrote these down, in this order."""
    records: list[m.OwnRecord] = [m.Promised(0), *entries]
    return PLUGIN.history(SETUP, stable, [m.RECORDS.encode(each) for each in records])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), shape=st.sampled_from([(3, 1), (4, 1), (5, 2), (3, 0), (7, 3)]))
def test_no_delivered_slot_is_lost_whichever_members_report(seed: int, shape: tuple[int, int]) -> None:
    """With leaders that change over slots in flight; then all machines are gone and only the disks are asked."""
    n, c = shape
    random = Random(seed)
    world = OrderingWorld(PLUGIN, n, 0, c, seed, network=Network(loss=0.2, straggling=0.1), disk=Disk(0, 60))
    for _ in range(random.randint(2, 8)):
        world.submit(3)
        world.run(random.randint(1, 200))
        if random.random() < 0.5:
            away = random.choice(world.members)
            world.crash(away)
            world.submit(2)
            world.run(random.randint(1, 900))
            world.restart(away)
    world.crash(*world.members)
    reports = {
        name: PLUGIN.history(world.setup(name), world.stable_of(name), world.records(name)) for name in world.members
    }
    for reporters in combinations(world.members, n - c):
        stable = max(world.stable_of(name) for name in reporters)
        for name in reporters:
            assert PLUGIN.check_history(world.setup(reporters[0]), name, world.stable_of(name), reports[name])
        carried = PLUGIN.carry(world.setup(reporters[0]), stable, {name: reports[name] for name in reporters})
        slots = dict(carried.slots)
        for slot, chosen in world.chosen.items():
            assert slot <= stable or slots.get(slot) == chosen, world.failure(f"slot {slot} is lost by {reporters}")


def test_the_highest_ballot_wins_and_not_the_longest_history_nor_the_majority() -> None:
    """SAFETY rule 22: a value accepted in an old ballot loses to one that was chosen in a newer one."""
    histories = {
        "m0": report(entry(0, 1, A), entry(0, 2, A), entry(0, 3, A)),
        "m1": report(entry(0, 1, A), entry(2, 1, B)),
        "m2": report(entry(0, 1, A)),
    }
    assert PLUGIN.carry(SETUP, 0, histories).slots[0] == (1, B)


def test_of_several_acceptances_of_one_slot_the_highest_is_reported_whatever_the_order_of_the_records() -> None:
    for order in permutations([entry(0, 1, A), entry(2, 1, B), entry(1, 1, C)]):
        carried = PLUGIN.carry(SETUP, 0, {"m0": report(*order), "m1": report()})
        assert carried.slots == ((1, B),)


def test_it_ends_at_the_first_slot_without_a_value_and_starts_above_the_checkpoint() -> None:
    histories = {
        "m0": report(entry(0, 1, A), entry(0, 9, A), entry(0, 10, NO_DIGEST), entry(0, 12, A)),
        "m1": report(entry(0, 9, A), stable=8),
    }
    assert PLUGIN.carry(SETUP, 8, histories) == Carried(8, ((9, A), (10, NO_DIGEST)))


def test_fewer_than_n_minus_c_histories_are_refused() -> None:
    with pytest.raises(ValueError, match="2 are needed"):
        PLUGIN.carry(SETUP, 0, {"m0": report()})


def test_a_history_is_refused_that_is_not_signed_sorted_or_above_the_checkpoint() -> None:
    def check(*entries: m.Entry, stable: Slot = 0) -> bool:
        return PLUGIN.check_history(SETUP, "m0", stable, HISTORIES.encode(History(entries)))

    assert check(entry(0, 1, A), entry(2, 2, B))
    assert not check(entry(0, 2, A), entry(0, 1, A))
    assert not check(entry(0, 1, A), entry(2, 1, B))
    assert not check(entry(0, 8, A), stable=8)
    assert not check(entry(1, 1, A, signer="m0"))
    assert check(*(entry(0, slot, A) for slot in range(1, 100)))  # so far may a power cut throw checkpoints back
    assert not PLUGIN.check_history(SETUP, "m7", 0, report())
    assert not PLUGIN.check_history(SETUP, "m0", 0, b"rubbish")


def test_two_values_in_one_ballot_end_the_same_way_everywhere_and_are_evidence() -> None:
    histories = {"m0": report(entry(2, 1, A)), "m1": report(entry(2, 1, B))}
    carried = PLUGIN.carry(SETUP, 0, histories)
    assert carried == PLUGIN.carry(SETUP, 0, dict(reversed(histories.items())))
    assert carried.slots == ((1, max(A, B)),)
    (found,) = conflicts(histories)
    assert {found.first.digest, found.second.digest} == {A, B}
    assert conflicts({"m0": report(entry(2, 1, A)), "m1": report(entry(1, 1, B))}) == ()
