"""Paxos is not for liars (f must be 0), and the manual says so: here is how one lying member breaks it.

`simulations/paxos_liar.py` shows the same to a person.
"""

from __future__ import annotations

import pytest

from bftkit.core.machine import Blame
from bftkit.core.plugin import load_protocol
from bftkit.sim.ordering.world import Network, OrderingWorld, Violation
from bftkit_paxos import conflicts
from bftkit_paxos import messages as m


def two_lives(protocol: str, n: int, f: int, c: int, seed: int) -> OrderingWorld:
    """m0 leads twice, once with each half of the others; neither life lies."""
    others = [f"m{index}" for index in range(1, n)]
    half = len(others) // 2
    sides = (["m0", *others[:half]], ["m0", *others[half:]])
    return OrderingWorld(
        load_protocol(protocol), n, f, c, seed, twins={"m0": sides}, network=Network(1, 4), learned_after=None
    )


def broken(world: OrderingWorld) -> bool:
    """Whether two members decide differently; the two lives may also propose the same by chance."""
    world.submit(4)
    try:
        world.run(2_000)
    except Violation as violation:
        return "agreement" in str(violation)
    return False


@pytest.mark.parametrize("n", [3, 5, 7])
def test_one_liar_gets_two_values_decided_in_one_slot(n: int) -> None:
    worlds = [two_lives("paxos", n, 0, (n - 1) // 2, seed) for seed in range(8)]
    split = [world for world in worlds if broken(world)]
    assert len(split) >= 4
    for world in split:
        # What is left is the proof: both signatures are on honest members' disks (SAFETY rules 6 and 22).
        reports = {name: world.plugin.history(world.setup(name), 0, world.records(name)) for name in world.members[1:]}
        found = conflicts(reports)
        assert found
        for conflict in found:
            judge = world.setup("m1").keyring
            for entry in (conflict.first, conflict.second):
                assert judge.verify("m0", m.ACCEPT_PURPOSE, entry.statement, entry.signature)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_two_lives_do_not_break_pbft(seed: int) -> None:
    world = two_lives("pbft", 4, 1, 0, seed)
    world.submit(4)
    world.run_until(world.all_delivered, 60_000)


def test_a_member_that_hears_both_lives_proves_the_lie() -> None:
    proofs: list[Blame] = []
    for seed in range(8):
        sides = (["m0", "m1"], ["m0", "m1", "m2"])
        world = OrderingWorld(
            load_protocol("paxos"), 3, 0, 1, seed, twins={"m0": sides}, network=Network(1, 4), learned_after=None
        )
        broken(world)
        proofs += [blame for _, blame in world.blames if blame.fault == "equivocation"]
    assert len(proofs) >= 4
    assert {blame.member for blame in proofs} == {"m0"}
    conflict = m.CONFLICTS.decode(proofs[0].proof)
    assert (conflict.first.ballot, conflict.first.slot) == (conflict.second.ballot, conflict.second.slot)
    assert conflict.first.digest != conflict.second.digest
