"""Leaving the coordinator by force: whatever was delivered is carried over (SAFETY rules 22, 24 and 29)."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bftkit.core.digest import digest
from bftkit.core.machine import Digest, Slot
from bftkit.core.ordering import Carried, Setup
from bftkit.core.quorum import Quorum
from bftkit.sim.keyring import fast_keyrings
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from bftkit_coordinator import PLUGIN, conflicts
from bftkit_coordinator.messages import APPEND_PURPOSE, HISTORIES, RECORDS, Entry, History, entry_statement

A, B, C = (digest(name.encode()) for name in "abc")
KEYRINGS = fast_keyrings(b"test", bytes(32), 0, bytes(32), [f"m{index}" for index in range(7)])
MEMBERS = ("m0", "m1", "m2")
SETUP = Setup("m2", MEMBERS, Quorum(3, 0, 1), KEYRINGS["m2"])


def entry(slot: Slot, batch: Digest, signer: str = "m0") -> Entry:
    """An entry under somebody's signature."""
    return Entry(slot, batch, KEYRINGS[signer].sign(APPEND_PURPOSE, entry_statement(slot, batch)))


def report(*entries: Entry, stable: Slot = 0) -> bytes:
    """A history with these entries."""
    return HISTORIES.encode(History(stable, entries))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), shape=st.sampled_from([(3, 1), (4, 1), (5, 2), (3, 0)]), ticks=st.integers(0, 1000))
def test_no_delivered_slot_is_lost_whichever_members_report(seed: int, shape: tuple[int, int], ticks: int) -> None:
    """Rule 24: a delivered slot is on c + 1 disks, and any n - c members include one of them.

    All machines lose their memory and everything unsynced at once, and only the disks are asked.
    """
    n, c = shape
    world = OrderingWorld(PLUGIN, n, 0, c, seed, network=Network(loss=0.2, straggling=0.1), disk=Disk(0, 60))
    for _ in range(20):  # few at a time, so that some disk is always behind another
        world.submit(2)
        world.run(ticks // 20 + 1)
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


def test_the_continuation_ends_at_the_first_slot_that_nobody_holds() -> None:
    histories = {"m1": report(entry(1, A), entry(4, B)), "m2": report(entry(2, C))}
    assert PLUGIN.carry(SETUP, 0, histories) == Carried(0, ((1, A), (2, C)))


def test_what_the_checkpoint_covers_is_not_carried() -> None:
    histories = {"m1": report(entry(1, A), entry(2, B)), "m2": report(entry(2, B), stable=1)}
    assert PLUGIN.carry(SETUP, 1, histories) == Carried(1, ((2, B),))


def test_too_few_histories_are_refused() -> None:
    """With c = 0 that means: not without the coordinator."""
    with pytest.raises(ValueError, match="too few"):
        PLUGIN.carry(SETUP, 0, {"m1": report(entry(1, A))})
    alone = Setup("m1", ("m0", "m1"), Quorum(2, 0, 0), KEYRINGS["m1"])
    with pytest.raises(ValueError, match="c = 0, 2 are needed"):
        PLUGIN.carry(alone, 0, {"m1": report(entry(1, A))})


def test_conflicting_entries_end_by_a_fixed_rule_and_are_evidence() -> None:
    """Rule 24: the batch that more members report; among equals, the smaller digest; whoever computes it."""
    small, large = sorted([A, B])
    histories = {"m0": report(entry(1, large)), "m1": report(entry(1, small)), "m2": report(entry(1, large))}
    assert PLUGIN.carry(SETUP, 0, histories).slots == ((1, large),)
    del histories["m2"]
    assert PLUGIN.carry(SETUP, 0, histories).slots == ((1, small),)
    assert PLUGIN.carry(SETUP, 0, dict(reversed(histories.items()))).slots == ((1, small),)
    (conflict,) = conflicts(histories)
    assert (conflict.first, conflict.second) == (entry(1, small), entry(1, large))


def test_histories_that_agree_hold_no_evidence() -> None:
    assert conflicts({"m0": report(entry(1, A), entry(2, B)), "m1": report(entry(1, A))}) == ()


def test_a_history_is_what_lies_above_the_checkpoint_in_order() -> None:
    records = [RECORDS.encode(entry(slot, A)) for slot in (5, 3, 4)]
    reported = PLUGIN.history(SETUP, 3, records)
    assert HISTORIES.decode(reported) == History(3, (entry(4, A), entry(5, A)))
    assert PLUGIN.check_history(SETUP, "m1", 3, reported)


@pytest.mark.parametrize(
    "reported",
    [
        b"",
        b"\x01garbage",
        report(entry(1, A), stable=4),
        report(entry(2, A), entry(1, B)),
        report(entry(1, A), entry(1, A)),
        report(entry(0, A)),
        report(entry(1, A, signer="m1")),
        report(entry(1, A)) + b"\0",
    ],
    ids=["empty", "garbage", "other checkpoint", "unsorted", "repeated", "settled", "forged", "longer"],
)
def test_a_malformed_or_unproved_history_is_refused(reported: bytes) -> None:
    assert not PLUGIN.check_history(SETUP, "m1", 0, reported)


def test_a_stranger_has_no_history() -> None:
    assert PLUGIN.check_history(SETUP, "m1", 0, report())
    assert not PLUGIN.check_history(SETUP, "m9", 0, report())
