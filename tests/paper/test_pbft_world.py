"""Whole groups: progress under every fault that PBFT's record names, views that end, open and calm down again.

The protocol helps itself here (`learned_after=None`): what the channel gives is a state transfer below a stable
checkpoint, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Broadcast, Effect, MemberId, Out, Send
from bftkit.core.ordering import FAULT_NAMES, Neglected, Setup
from bftkit.core.quorum import Quorum
from bftkit.sim.keyring import fast_keyrings
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from bftkit_pbft import PLUGIN
from bftkit_pbft import messages as m
from bftkit_pbft.machine import PbftMachine
from bftkit_pbft.record import RECORD
from tests.seeds import at_least

SEEDS = at_least(3)
BASE = RECORD.parameters["view_timeout"].default
KEYRINGS = fast_keyrings(b"", bytes(32), 0, bytes(32), [f"m{index}" for index in range(7)])


def group(seed: int, n: int = 4, f: int = 1, c: int = 0, **more: Any) -> OrderingWorld:
    more.setdefault("disk", Disk(0, 10))
    more.setdefault("learned_after", None)
    return OrderingWorld(PLUGIN, n, f, c, seed, **more)


def machine(world: OrderingWorld, member: MemberId) -> PbftMachine:
    found = world.machine(member)
    assert isinstance(found, PbftMachine)
    return found


def done(world: OrderingWorld, ticks: int = 20_000) -> None:
    world.run_until(world.all_delivered, ticks)


# ------------------------------------------------------------------------------------------------- no faults


@pytest.mark.parametrize(("n", "f", "c"), [(1, 0, 0), (2, 0, 0), (3, 0, 1), (4, 1, 0), (5, 1, 0), (6, 1, 1), (7, 2, 0)])
def test_without_faults_the_first_leader_stays(n: int, f: int, c: int) -> None:
    world = group(1, n, f, c)
    for _ in range(20):
        world.submit(10)
        world.run(300)
    done(world)
    assert {machine(world, member).view for member in world.members} == {0}
    assert not world.blames


def test_three_message_delays() -> None:
    """Pre-prepare, prepare, commit: with links of exactly 5 ticks and no disk, 15 ticks."""
    world = group(1, network=Network(5, 5), disk=Disk(0, 0))
    world.submit(1, ["m0"])
    world.run_until(lambda: world.height("m0") == 1, 100)
    assert world.now == 5 + RECORD.steps * 5  # the first 5 are the client's


# ------------------------------------------------------------------------------------------------- the record's claims


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_loss(seed: int) -> None:
    """FAULTS 1 to 3: 30 % lost, half of all messages twice, many late."""
    world = group(seed, network=Network(loss=0.3, duplication=0.5, straggling=0.1))
    world.submit(40)
    done(world, 10 * BASE)


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_partition(seed: int) -> None:
    """FAULTS 4: no side without a quorum decides; after healing everybody does."""
    world = group(seed)
    world.submit(10)
    done(world)
    before = dict(world.chosen)
    world.partition(["m0", "m1"], ["m2", "m3"])
    world.submit(20)
    world.run(5 * BASE)
    assert world.chosen == before
    world.heal()
    done(world, 20 * BASE)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bridge_partition_does_not_stop_the_group(seed: int) -> None:
    """FAULTS 5: the leader hears everybody and is heard by one only."""
    world = group(seed)
    world.block("m0", "m1")
    world.block("m0", "m2")
    world.submit(30)
    done(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_follower_crash(seed: int) -> None:
    world = group(seed, 6, 1, 1)
    world.crash("m4", "m5")
    world.submit(40)
    done(world)
    assert machine(world, "m0").view == 0
    world.restart("m4", "m5")
    world.submit(3)
    done(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_leader_crash(seed: int) -> None:
    world = group(seed, 7, 2, 0)
    world.submit(20)
    world.run(15)
    world.crash("m0", "m1")
    world.submit(20)
    done(world)
    assert {machine(world, member).leader for member in world.up()} == {"m2"}


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_leader_restart(seed: int) -> None:
    world = group(seed)
    for _ in range(3):
        world.submit(10)
        world.run(7)
        leader = machine(world, "m1").leader or "m0"
        world.crash(leader)
        world.run(2 * BASE)
        world.restart(leader)
        world.run(BASE)
    done(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_survives_power_cut(seed: int) -> None:
    """Also in the middle of a view change: whoever installed or entered a view is still there afterwards."""
    world = group(seed, disk=Disk(0, 30))
    world.submit(30)
    world.run(100)
    world.crash("m0")
    world.run(BASE + 200 + 40 * seed)
    world.crash("m1", "m2", "m3")
    world.restart(*world.members)
    world.submit(5)
    done(world)


def test_every_claim_of_the_record_has_its_test() -> None:
    claims = {name.replace("-", "_") for name in RECORD.survives}
    here = {name.removeprefix("test_survives_") for name in globals() if name.startswith("test_survives_")}
    assert claims - here == {"liar", "slow_leader"}  # tests/adversary
    assert RECORD.survives == frozenset(FAULT_NAMES)


# ------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("seed", at_least(5))
def test_a_view_change_over_prepared_slots_and_gaps(seed: int) -> None:
    """The leader dies in the middle of a pipeline of which some messages were lost: nothing decided is undone.

    The channel helps here: a member that suspected alone may lack a commit that the dead leader took along.
    """
    world = group(seed, network=Network(loss=0.3), disk=Disk(0, 3), learned_after=600)
    world.submit(30)
    world.run(40 + 15 * seed)
    decided = dict(world.chosen)
    world.crash("m0")
    done(world, 30_000)
    assert decided.items() <= world.chosen.items()


def test_gaps_become_empty_batches() -> None:
    """Slots 1 and 3 are prepared, slot 2 reached nobody: the new view decides it as the empty batch."""
    members = ("m0", "m1", "m2", "m3")
    setup = Setup("m1", members, Quorum(4, 1), KEYRINGS["m1"])
    world = OrderingWorld(
        PLUGIN, 4, 1, 0, 3, keyrings=KEYRINGS, adversaries={"m0": Forgetful("m0", 2)}, learned_after=None
    )
    assert setup.quorum.certificate == 3
    world.submit(6)
    world.run(200)
    world.crash("m0")
    done(world)
    assert world.chosen[2] == NO_DIGEST
    assert NO_DIGEST not in {world.chosen[1], world.chosen[3]}


class Forgetful:
    """A leader that loses its proposal for one slot on the way to everybody."""

    def __init__(self, me: MemberId, slot: int) -> None:
        self.me, self.slot = me, slot

    def on_message(self, member: MemberId, sender: MemberId, message: Any) -> Any | None:
        return message

    def on_effects(self, member: MemberId, effects: Sequence[Effect[Any, Any]]) -> Sequence[Effect[Any, Any]]:
        return [effect for effect in effects if not self.lost(effect)]

    def lost(self, effect: Effect[Any, Any]) -> bool:
        if not isinstance(effect, (Broadcast, Send)):
            return False
        message = effect.message
        return isinstance(message, m.PrePrepare) and message.slot == self.slot


def test_timeouts_double_with_each_failed_view_and_shrink_with_progress() -> None:
    """Castro 2001, section 2.3.5. Two of seven members are gone, the first leaders."""
    world = group(2, 7, 2, 0, parameters={"pace_gap": 0})  # without the rule that is quicker when nothing is in work
    world.crash("m0", "m1")
    world.submit(1)
    done(world)
    grown = machine(world, "m2").patience.timeout
    assert grown == 4 * BASE
    opened = [tick for tick, _, change in world.leaders if change.view == 2 and change.leader == "m2"]
    # One timeout for the first view, a doubled one for the second, and what the messages take.
    assert 3 * BASE <= min(opened) <= 4 * BASE
    for _ in range(2 * RECORD.parameters["shrink_after"].default):
        world.submit(1)
        done(world)
    assert machine(world, "m2").patience.timeout == BASE


def test_timeouts_are_bounded() -> None:
    world = group(1, parameters={"view_timeout_max": 4 * BASE})
    world.submit(3)
    world.partition(["m0"], ["m1", "m2"], ["m3"])
    world.run(40 * BASE)
    world.heal()
    done(world, 10 * BASE)
    assert all(machine(world, member).patience.timeout <= 4 * BASE for member in world.members)


def test_a_member_that_suspects_alone_delivers_what_the_others_decide() -> None:
    """It may vote no more, but it need not be left behind until the others follow it into its view."""
    world = group(4)
    world.submit(5)
    done(world)
    world.input("m3", Neglected("m0"))
    assert machine(world, "m3").leader is None
    world.submit(30)
    done(world)
    assert machine(world, "m0").view == 0
    assert machine(world, "m3").view == 1
    # With f + 1 suspicions everybody follows at once, without a timeout of its own.
    world.input("m2", Neglected("m0"))
    world.run(100)
    assert {machine(world, member).leader for member in world.members} == {"m1"}
    world.submit(5)
    done(world)
    assert {machine(world, member).leader for member in world.members} == {"m1"}


def test_neglect_by_a_leader_of_the_past_is_no_reason() -> None:
    world = group(4)
    world.input("m3", Neglected("m1"))
    assert machine(world, "m3").active


@pytest.mark.parametrize("seed", SEEDS)
def test_an_idle_network_strands_no_laggard(seed: int) -> None:
    """SAFETY rule 18: statuses are told without new slots, also across a view change that the laggard missed."""
    world = group(seed, interval=16)
    world.partition(["m0", "m1", "m2"], ["m3"])
    world.submit(5)
    world.run(2 * BASE)
    world.input("m1", Neglected("m0"))
    world.input("m2", Neglected("m0"))
    world.submit(5)
    world.run(2 * BASE)
    assert world.height("m3") == 0
    world.heal()
    done(world, 5 * BASE)
    world.run(5 * BASE)
    assert machine(world, "m3").leader == "m1"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_view_becomes_active_again_after_a_state_transfer(seed: int) -> None:
    """A trap of real implementations: a member that comes back by a transfer stays passive for ever."""
    world = group(seed)
    world.submit(3)
    done(world)
    world.crash("m3")
    world.input("m1", Neglected("m0"))
    world.input("m2", Neglected("m0"))
    for _ in range(5):
        world.submit(10)
        world.run(300)
    world.restart("m3")
    world.submit(5)
    done(world)
    world.run(3_000)
    assert world.stable_of("m3") > 0
    assert machine(world, "m3").leader == "m1"
    # It is needed now, and it is there.
    world.crash("m2")
    world.submit(20)
    done(world)
    assert machine(world, "m3").view == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restarted_member_joins_the_present_view(seed: int) -> None:
    world = group(seed)
    world.crash("m3")
    world.input("m1", Neglected("m0"))
    world.input("m2", Neglected("m0"))
    world.submit(4)
    done(world)
    world.restart("m3")
    world.run(3_000)
    assert machine(world, "m3").leader == "m1"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_new_leader_without_the_bytes_fetches_them_before_it_signs(seed: int) -> None:
    """SAFETY rule 3 holds for the new view's proposals, too."""
    world = group(seed)
    world.block("m0", "m1")
    signed: list[tuple[MemberId, int]] = []

    def watch(sender: MemberId, message: Any) -> None:
        if isinstance(message, m.NewView):
            body = m.BODIES.decode(message.body)
            assert isinstance(body, m.NewViewBody)
            opening = machine(world, sender).opening
            assert {choice.digest for choice in opening.choices} <= {*machine(world, sender).here, NO_DIGEST}
            signed.append((sender, body.view))

    world.observers.append(watch)
    world.submit(10, ["m0"])
    world.run(12)
    world.crash("m0")
    done(world)
    assert signed


@pytest.mark.parametrize("seed", SEEDS)
def test_the_epochs_end_is_reached_under_loss_and_a_view_change(seed: int) -> None:
    world = group(seed, network=Network(loss=0.2), window=16, interval=8)
    world.stop(5, 16)
    world.submit(12)
    world.run(100)
    world.crash("m0")
    world.run_until(world.all_stopped, 30_000)
    world.restart("m0")
    world.run_until(world.all_stopped, 30_000)


def test_a_new_views_low_mark_closes_the_slots_below_it() -> None:
    """Below it a checkpoint has settled everything: a laggard must not vote there on a new leader's word."""
    setup = Setup("m3", ("m0", "m1", "m2", "m3"), Quorum(4, 1), KEYRINGS["m3"])
    laggard = PbftMachine.create(setup)
    low = tuple(
        m.StableVote(member, 8, KEYRINGS[member].sign(m.STABLE, m.stable_statement(8))) for member in ("m0", "m2")
    )
    changes: list[m.ViewChange] = []
    for member in ("m0", "m1", "m2"):
        data = m.BODIES.encode(m.ViewChangeBody(1, low, ()))
        changes.append(m.ViewChange(member, data, KEYRINGS[member].sign(m.VIEW_CHANGE, data)))
    data = m.BODIES.encode(m.NewViewBody(1, tuple(changes), ()))
    out: Out[Any, Any] = Out()
    laggard.on_message("m1", m.NewView(data, KEYRINGS["m1"].sign(m.NEW_VIEW, data)), out)
    assert laggard.active
    assert laggard.view == 1
    out = Out()
    name = digest(b"other than decided")
    for slot in (8, 9):
        vote = KEYRINGS["m1"].sign(m.VOTE, m.vote_statement(1, slot, name))
        laggard.on_message("m1", m.PrePrepare(1, slot, name, vote), out)
    assert [state.digest for _, state in sorted(laggard.slots.items()) if state.digest] == [name]
    assert laggard.slots[9].digest == name
