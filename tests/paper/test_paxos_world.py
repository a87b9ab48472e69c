"""Whole groups under Paxos: progress under every fault that its record names, and leaders that are chosen well.

The protocol helps itself here (`learned_after=None`): what the channel gives is a state transfer below a stable
checkpoint, nothing else.
"""

from __future__ import annotations

from typing import Any

import pytest

from bftkit.core.machine import MemberId
from bftkit.core.ordering import Neglected
from bftkit.sim.contract_case import watch_votes
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from bftkit_paxos import PLUGIN
from bftkit_paxos import messages as m
from bftkit_paxos.machine import PaxosMachine
from bftkit_paxos.record import RECORD
from tests.seeds import at_least

SEEDS = at_least(3)
BEAT = RECORD.parameters["beat"].default
SILENCE = RECORD.parameters["silence"].default * BEAT


def group(seed: int, n: int = 3, c: int = 1, **more: Any) -> OrderingWorld:
    more.setdefault("disk", Disk(0, 10))
    more.setdefault("learned_after", None)
    return OrderingWorld(PLUGIN, n, 0, c, seed, **more)


def machine(world: OrderingWorld, member: MemberId) -> PaxosMachine:
    found = world.machine(member)
    assert isinstance(found, PaxosMachine)
    return found


def done(world: OrderingWorld, ticks: int = 20_000) -> None:
    world.run_until(world.all_delivered, ticks)
    assert world.blames == []


def leaders(world: OrderingWorld) -> set[MemberId | None]:
    return {machine(world, member).leader for member in world.up()}


# ------------------------------------------------------------------------------------------------- no faults


@pytest.mark.parametrize(("n", "c"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (7, 3)])
def test_without_faults_the_first_leader_stays(n: int, c: int) -> None:
    world = group(1, n, c)
    for _ in range(20):
        world.submit(10)
        world.run(300)
    done(world)
    assert {machine(world, member).view for member in world.members} == {0}


def test_two_message_delays_to_the_leaders_decision_and_three_to_everybodys() -> None:
    """With links of exactly 5 ticks and no disk."""
    world = group(1, network=Network(5, 5), disk=Disk(0, 0))
    world.submit(1, ["m0"])
    world.run_until(lambda: world.height("m0") == 1, 100)
    assert world.now == 5 + RECORD.steps * 5  # the first 5 are the client's
    world.run_until(world.all_delivered, 100)
    assert world.now == 5 + 3 * 5


def test_three_messages_a_follower_and_batch() -> None:
    world = group(1, 5, 2, network=Network(5, 5), disk=Disk(0, 0))
    said: list[str] = []
    world.observers.append(lambda _, message: said.append(type(message).__name__))
    world.submit(1, ["m0"])
    world.run(BEAT - 1)
    done(world)
    counted = {name: said.count(name) for name in ("Accept", "Accepted", "Commit")}
    assert counted == {"Accept": 1, "Accepted": 4, "Commit": 1}  # broadcasts are seen once


# ------------------------------------------------------------------------------------------------- the record's claims


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_loss(seed: int) -> None:
    """FAULTS 1 to 3."""
    world = group(seed, network=Network(loss=0.3, duplication=0.5, straggling=0.1))
    world.submit(40)
    done(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_leader_stays_away(seed: int) -> None:
    world = group(seed)
    world.submit(20)
    world.run(30)
    world.crash("m0")
    world.submit(20)
    done(world, 5_000)
    assert leaders(world) in ({"m1"}, {"m2"})
    world.restart("m0")
    world.submit(5)
    done(world)


def test_a_leader_change_takes_less_than_half_a_second() -> None:
    """From the crash to the new leader, over 50 seeds; ticks are milliseconds."""
    waits: list[int] = []
    for seed in range(50):
        world = group(seed)
        world.submit(20)
        world.run(200 + seed)
        world.crash("m0")
        crashed = world.now
        while leaders(world) not in ({"m1"}, {"m2"}):
            world.run(1)
        waits.append(world.now - crashed)
    assert max(waits) < 500
    assert min(waits) >= SILENCE - 2 * BEAT  # and nobody is given up rashly


@pytest.mark.parametrize("seed", SEEDS)
def test_every_leader_crashes_in_turn(seed: int) -> None:
    world = group(seed, 5, 2)
    watch_votes(world)
    for _ in range(8):
        world.submit(6)
        world.run(60)
        (leader,) = leaders(world) - {None}
        assert leader is not None
        world.crash(leader)
        world.run(700)
        world.restart(leader)
        world.run_until(lambda: len(leaders(world)) == 1 and None not in leaders(world), 20_000)
    done(world)


# ------------------------------------------------------------------------------------------------- cuts and bridges


def test_a_member_that_hears_nobody_never_deposes_the_leader() -> None:
    """It is heard, and asks for pre-votes again and again; without them each of its ballots would end the leader's."""
    world = group(1)
    world.submit(10)
    done(world)
    asked: list[str] = []
    world.observers.append(lambda sender, message: asked.append(sender) if isinstance(message, m.PreVote) else None)
    for member in ("m0", "m1"):
        world.block(member, "m2")
    for _ in range(20):
        world.submit(5)
        world.run(500)
    assert asked.count("m2") > 5
    assert {machine(world, member).view for member in ("m0", "m1")} == {0}
    assert world.height("m0") == len(world.chosen) > 100
    world.heal()
    done(world)
    assert {machine(world, member).view for member in world.members} == {0}


def test_a_member_that_nobody_hears_deposes_nobody() -> None:
    world = group(1)
    for member in ("m0", "m1"):
        world.block("m2", member)
    world.submit(50)
    world.run(10_000)
    assert {machine(world, member).view for member in world.members} == {0}
    done(world)


def test_a_leader_that_hears_nobody_is_replaced() -> None:
    """Its heartbeats arrive: it must go by itself."""
    world = group(1)
    for member in ("m1", "m2"):
        world.block(member, "m0")
    world.submit(10)
    world.run_until(lambda: world.height("m1") >= 10, 3_000)
    assert machine(world, "m1").leader in ("m1", "m2")
    world.heal()
    done(world)


def test_a_leader_that_nobody_hears_is_replaced_and_follows() -> None:
    world = group(1)
    for member in ("m1", "m2"):
        world.block("m0", member)
    world.submit(10)
    world.run_until(lambda: world.height("m0") >= 10, 3_000)
    assert machine(world, "m0").leader in ("m1", "m2")
    world.heal()
    done(world)


@pytest.mark.parametrize("seed", at_least(5))
def test_the_bridge_becomes_leader(seed: int) -> None:
    """Ng et al. 2023, quorum loss: all five see m2 only, m0 leads. m2 hears m0, so m0 must go by itself."""
    world = group(seed, 5, 2)
    world.submit(5)
    done(world)
    ends = [member for member in world.members if member != "m2"]
    for one in ends:
        for other in ends:
            if one != other:
                world.block(one, other)
    world.submit(10)
    done(world, 5_000)
    assert {machine(world, member).leader for member in ("m2", *ends)} == {"m2"}
    changes = len(world.leaders)
    world.submit(10)
    world.run(10_000)
    assert len(world.leaders) == changes, "the ends depose the bridge"
    done(world)


@pytest.mark.parametrize("seed", at_least(5))
def test_a_bridge_with_an_old_log_can_lead(seed: int) -> None:
    """Ng et al. 2023, constrained election: the only member that sees a quorum has missed what was chosen."""
    world = group(seed, 5, 2, window=64, interval=32)  # no checkpoint meanwhile
    world.partition(["m0", "m1", "m3", "m4"], ["m2"])
    world.submit(20)
    world.run(500)
    assert world.height("m0") == 20
    world.heal()
    for one in ("m0", "m1", "m3", "m4"):
        for other in ("m0", "m1", "m3", "m4"):
            if one != other:
                world.block(one, other)
    world.submit(5)
    done(world, 5_000)
    assert machine(world, "m2").leader == "m2"


@pytest.mark.parametrize("seed", at_least(5))
def test_a_chain_keeps_its_leader_and_its_far_end_learns(seed: int) -> None:
    """Ng et al. 2023, chained: m0 leads and m2 does not see it, but sees m1. No livelock, and m2 stays informed."""
    world = group(seed)
    world.submit(5)
    done(world)
    world.block("m0", "m2")
    world.block("m2", "m0")
    for _ in range(10):
        world.submit(5)
        world.run(500)
    done(world, 5_000)
    assert {machine(world, member).view for member in ("m0", "m1")} == {0}


# ------------------------------------------------------------------------------------------------- duels


@pytest.mark.parametrize("seed", at_least(10))
def test_duelling_candidates_converge(seed: int) -> None:
    """Everybody loses the leader at the same moment and, with a spread of one tick, asks at the same moment."""
    world = group(seed, 5, 2, parameters={"spread": 1}, network=Network(10, 30))
    seen = watch_votes(world)
    world.submit(10)
    world.run(40)
    prepared: list[int] = []
    world.observers.append(
        lambda _, message: prepared.append(message.ballot) if isinstance(message, m.Prepare) else None
    )
    world.crash("m0")
    world.submit(10)
    done(world, 20_000)
    assert seen
    assert len(set(prepared)) <= 16
    settled = len(world.leaders)
    world.run(5_000)
    assert len(world.leaders) == settled


def test_two_candidates_really_prepared_in_some_duel() -> None:
    """The test above would be empty if the draws kept candidates apart."""
    duels = 0
    for seed in range(20):
        world = group(seed, 5, 2, parameters={"spread": 1}, network=Network(10, 30))
        prepared: list[Any] = []
        world.observers.append(lambda _, message, said=prepared: said.append(message))  # type: ignore[misc]
        world.crash("m0")
        world.submit(3)
        done(world)
        duels += len({message.ballot for message in prepared if isinstance(message, m.Prepare)}) > 1
    assert duels >= 5


def test_a_stale_promise_at_one_member_costs_one_exchange_and_no_leader() -> None:
    """A candidate came and went, and one member has promised its ballot: the leader takes a higher one at once."""
    world = group(1)
    world.submit(5)
    done(world)
    world.input("m1", Neglected("m0"))
    machine(world, "m2").promised = 5
    world.submit(5)
    done(world, 1_000)
    assert leaders(world) == {"m0"}
    assert machine(world, "m0").view == 6


# ------------------------------------------------------------------------------------------------- restarts


@pytest.mark.parametrize("wanted", [m.PreVote, m.Grant, m.Prepare, m.Promise, m.Accept])
@pytest.mark.parametrize("seed", at_least(3))
def test_all_members_restart_in_the_middle_of_a_leader_change(seed: int, wanted: type[Any]) -> None:
    """At each stage: asked, granted, prepared, promised, and right after the new leader has proposed again."""
    world = group(seed, disk=Disk(0, 40), network=Network(loss=0.05))
    watch_votes(world)
    said: list[MemberId] = []
    world.observers.append(lambda sender, message: said.append(sender) if isinstance(message, wanted) else None)
    for _ in range(3):
        world.run_until(lambda: len(leaders(world)) == 1 and None not in leaders(world), 20_000)
        world.submit(8)
        world.run(30 + seed)
        (leader,) = leaders(world)
        assert leader is not None
        world.crash(leader)
        said.clear()
        world.run_until(lambda: bool(said), 20_000)
        world.run(seed)
        world.crash(*world.up())
        world.restart(*world.members)
    done(world)


@pytest.mark.parametrize("seed", at_least(5))
def test_what_the_leader_accepted_alone_is_not_taken_for_chosen(seed: int) -> None:
    """It proposes to itself alone and crashes, and the others choose something else in its slot."""
    world = group(seed)
    world.partition(["m0"], ["m1", "m2"])
    (lost,) = world.submit(1, ["m0"])
    world.run(20)
    assert machine(world, "m0").accepted[1].digest == lost
    world.crash("m0")
    world.heal()
    world.submit(5, ["m1", "m2"])
    world.run_until(lambda: bool(world.chosen), 3_000)
    world.restart("m0")
    done(world)
    assert lost in world.chosen.values()  # its client asked again


# ------------------------------------------------------------------------------------------------- epochs, neglect


def test_everybody_neglected_replaces_the_leader_and_one_alone_does_not() -> None:
    world = group(1)
    world.submit(3)
    done(world)
    world.input("m1", Neglected("m0"))
    world.run(3_000)
    assert leaders(world) == {"m0"}
    world.neglect()
    world.run(1_000)
    assert leaders(world) in ({"m1"}, {"m2"})
    world.submit(3)
    done(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_epochs_end_is_reached_although_its_leaders_crash(seed: int) -> None:
    """SAFETY rule 23."""
    world = group(seed, network=Network(loss=0.1))
    world.stop(5, 8)
    world.submit(4)
    world.run(100)
    world.submit(2)
    world.crash("m0")
    world.run_until(world.all_stopped, 20_000)
    world.restart("m0")
    world.run_until(world.all_stopped, 20_000)
    assert max(world.chosen) == 8
