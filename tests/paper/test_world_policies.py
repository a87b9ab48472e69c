"""Policies in simulated groups: what members measure, votes that a protocol has stopped, restarts in between."""

from __future__ import annotations

from functools import cache

import attrs
import pytest

from bftkit.channel.batches import judge_batch
from bftkit.channel.bundles import CLOCK, REPORT, make_batch, make_bundle, parse_batch
from bftkit.channel.frames import BUNDLE, StalledVote
from bftkit.channel.interface import ReplicaOut
from bftkit.channel.measuring import LATENESS_MOST_US, Measuring
from bftkit.channel.replica import Replica
from bftkit.configuration.policy import MEASUREMENT_CODEC, Measurement, Mode, Policy
from bftkit.core.machine import MemberId, Out
from bftkit.core.wire import WireError
from bftkit.membership.steering import STALLED_PURPOSE, stalled_body
from bftkit.sim.adversaries import load_adversary
from bftkit.sim.world import World

MANUAL = Policy("manual", (Mode("pbft"), Mode("cks")), forced=2, stall_ms=60_000, parameters={"period_ms": 200})


def world_of(seed: int = 1, policy: Policy | None = MANUAL, protocol: str = "pbft", members: int = 4) -> World:
    return World(seed, protocol, members, reconfigurable=True, policy=policy)


def loaded(world: World, ticks: int, operations: int = 60) -> None:
    world.load(operations, per_second=40)
    world.run(ticks)


# ------------------------------------------------------------------------------------------------- reports


@cache
def steady_world() -> World:
    world = world_of()
    loaded(world, 3000, 400)
    return world


def test_conditions_are_the_same_at_all_members_and_say_what_happened() -> None:
    world = steady_world()
    told = [world.replica(member).status()["policy"] for member in world.members]
    assert all(one["conditions"] == told[0]["conditions"] for one in told)
    conditions = told[0]["conditions"]
    assert conditions["window_us"] == 200_000
    assert (conditions["views"], conditions["silent"], conditions["blames"]) == (0, 0, 0)
    assert told[0]["wish"]["reason"] == "operators decide"


def test_a_member_that_is_gone_is_silent_and_a_request_that_waits_is_old() -> None:
    world = world_of(2)
    loaded(world, 500)
    world.crash("m3")
    world.crash("m0")
    world.load(4)
    world.run(2000)
    measuring = world.replica("m1").measuring
    assert measuring is not None
    measured = measuring.measured()
    assert measured.silent == 2
    assert measured.oldest_us >= 1_000_000
    assert measured.executed == 0


def test_a_jump_of_the_clock_makes_no_wait() -> None:
    world = world_of(3)
    loaded(world, 500)
    world.crash("m0")
    world.crash("m3")
    world.load(4)
    world.run(600)
    world.jump_clock("m1", 30 * 24 * 3600 * 1000)
    world.run(600)
    measuring = world.replica("m1").measuring
    assert measuring is not None
    assert 0 < measuring.measured().oldest_us < 2_000_000


def test_without_a_policy_nobody_measures_and_nobody_may_report() -> None:
    world = world_of(policy=None)
    replica = world.replica("m0")
    assert replica.measuring is None
    assert replica.status()["policy"] is None
    with pytest.raises(WireError, match="not authentic"):
        judge_batch(make_batch(0, [report_of(world, "m1")]), replica.settings)


def report_of(world: World, member: MemberId, payload: bytes | None = None, kind: int = REPORT) -> bytes:
    settings = world.replica(member).settings
    said = MEASUREMENT_CODEC.encode(Measurement()) if payload is None else payload
    return make_bundle(settings.clock_key, settings.group, kind, 7, 0, 0, (said,) if kind == REPORT else ())


def test_a_batch_has_one_report_of_a_member_and_it_says_what_one_can_measure() -> None:
    world = world_of()
    settings = world.replica("m0").settings
    one, other = report_of(world, "m1"), report_of(world, "m2")
    assert len(judge_batch(make_batch(0, [one, other]), settings)[1]) == 2
    clock = report_of(world, "m1", kind=CLOCK)
    forged = one[:-1] + bytes((one[-1] ^ 1,))
    for bad in ([one, one], [report_of(world, "m1", b"nonsense")], [forged], [one[:-64] + clock[-64:]]):
        with pytest.raises(WireError):
            judge_batch(make_batch(0, bad), settings)


def test_reports_are_really_ordered() -> None:
    world = steady_world()
    replica = world.replica("m2")
    stored = [replica.batches.get(name) for name in replica.history.values()]
    kinds = [
        bundle.kind
        for one in stored
        if one is not None
        for bundle in parse_batch(one.raw, bundle_bytes_max=len(one.raw))[1]
    ]
    assert REPORT in kinds
    reports = replica.state.reconfiguring.steering.reports if replica.state.reconfiguring is not None else {}
    assert set(reports) == set(world.members)


def clock_of(world: World, member: MemberId, counter: int, time_ms: int) -> bytes:
    settings = world.replica(member).settings
    return bytes((BUNDLE,)) + make_bundle(settings.clock_key, settings.group, CLOCK, counter, time_ms, 0, ())


def test_nobody_is_silent_because_an_epoch_begins() -> None:
    world = world_of(13, attrs.evolve(MANUAL, parameters={"period_ms": 100}))
    loaded(world, 1500)
    replica = world.replica("m1")
    assert Measuring(replica, replica.measuring).measured().silent == 0


def test_a_clock_of_another_age_takes_nobody_down() -> None:
    world = world_of(10)
    loaded(world, 500)
    for member in ("m2", "m3"):
        world.crash(member)
    world.run(1500)
    replica = world.replica("m1")
    assert replica.measuring is not None
    for counter, time_ms in ((10**6, (1 << 63) - 1), (10**6 + 1, 0)):
        replica.on_message("m0", clock_of(world, "m0", counter, time_ms), Out())
    assert replica.measuring.measured().lateness_us == LATENESS_MOST_US
    world.run(600)
    assert replica.stopped is None  # it has told the others of that window


def test_a_liar_that_alone_reports_its_clock_in_a_window_makes_no_lateness() -> None:
    world = world_of(11, attrs.evolve(MANUAL, parameters={"period_ms": 100}))
    loaded(world, 1000)
    replica = world.replica("m1")
    for counter in range(20):
        world.run(70)
        assert replica.measuring is not None
        for step, time_ms in enumerate(((1 << 62), 0)):
            replica.on_message("m0", clock_of(world, "m0", 10**6 + 2 * counter + step, time_ms), Out())
        assert replica.measuring.measured().lateness_us < 1_000_000


# ------------------------------------------------------------------------------------------------- votes


def vote(world: World, to: Replica, member: MemberId, slot: int) -> None:
    settings = world.replica(member).settings
    signature = settings.keyring.sign(STALLED_PURPOSE, stalled_body(settings.epoch, slot))
    out: ReplicaOut = Out()
    to.stalling.on_control(member, StalledVote(settings.epoch, slot, signature), out)


def test_votes_of_different_slots_do_not_mix_and_f_plus_one_are_too_few() -> None:
    world = world_of(4)
    loaded(world, 500)
    replica = world.replica("m0")
    for member, slot in (("m1", 5), ("m2", 6), ("m3", 5), ("m2", 4)):
        vote(world, replica, member, slot)
        assert not replica.wedged
    vote(world, replica, "m2", 5)
    assert replica.wedged
    signed = replica.wedge.command
    assert signed is not None
    assert signed.stalled is not None
    assert [one.member for one in signed.stalled.votes] == ["m1", "m2", "m3"]


def test_votes_of_a_while_ago_count_no_more() -> None:
    world = world_of(5)
    loaded(world, 500)
    replica = world.replica("m0")
    vote(world, replica, "m1", 5)
    vote(world, replica, "m2", 5)
    world.run(1500)
    vote(world, replica, "m3", 5)
    assert not replica.wedged
    assert replica.stalling.told() == {"m3": 5}


def test_a_vote_that_its_member_did_not_sign_is_refused() -> None:
    world = world_of(6)
    loaded(world, 200)
    replica = world.replica("m0")
    with pytest.raises(WireError, match="bad signature"):
        replica.stalling.on_control("m1", StalledVote(0, 5, bytes(64)), Out())
    plain = world_of(6, policy=None)
    with pytest.raises(WireError, match="no policy"):
        vote(plain, plain.replica("m0"), "m1", 5)


def test_who_votes_to_leave_a_protocol_that_cannot_be_left_is_not_to_blame() -> None:
    stopped = Policy("manual", (Mode("coordinator"), Mode("paxos")), forced=2, stall_ms=60_000)
    world = World(12, "coordinator", 3, 0, 0, reconfigurable=True, policy=stopped)  # c = 0: only operators accept loss
    loaded(world, 300)
    replica = world.replica("m0")
    for member in ("m1", "m2", "m0", "m1", "m2"):
        vote(world, replica, member, 5)
    assert not replica.wedged
    assert any("accept that loss" in text for text in replica.orders.refused.values())
    assert replica.counters.blames == 0


def test_a_group_that_has_nothing_to_do_has_not_stopped() -> None:
    world = world_of(7, attrs.evolve(MANUAL, stall_ms=300))
    loaded(world, 600, 12)
    world.run(2000)
    assert world.chain.now.epoch == 0
    world.finish()


def test_the_time_doubles_with_each_change_that_members_force() -> None:
    both = Policy("manual", (Mode("coordinator"), Mode("paxos")), forced=2, stall_ms=400)
    world = World(8, "coordinator", 3, 0, 1, reconfigurable=True, policy=both)
    loaded(world, 500)
    world.crash("m0")
    world.run_until(lambda: world.replica("m1").settings.epoch == 1, 5000, "the others leave the coordinator")
    assert world.configuration.stalls == 1
    assert world.configuration.protocol == "paxos"
    told = world.replica("m1").status()["policy"]
    assert told["stall_ms"] == 800
    assert [one["forced"] for one in told["decisions"]] == [True]
    world.finish()


# ------------------------------------------------------------------------------------------------- in between

SHARP = Policy(
    "steady",
    (Mode("pbft", {"view_timeout": 3000}), Mode("cks")),
    parameters={"period_ms": 200, "patience": 1, "calm": 4, "cooldown": 3, "slow_ms": 60, "stuck_ms": 400},
)


@pytest.mark.parametrize("seed", range(2))
def test_members_that_restart_decide_with_the_others(seed: int) -> None:
    world = World(
        seed, "pbft", 4, reconfigurable=True, policy=SHARP, parameters={"view_timeout": 3000}, interval=4, window=16
    )
    world.load(600, per_second=60)
    world.run(1000)
    world.lie("m0", load_adversary("slow-leader", ticks=380))
    for turn in range(8):
        member = ("m1", "m2", "m3")[turn % 3]
        world.crash(member)
        world.run(150)
        world.restart(member)
        world.run(350)
    world.finish()
    assert world.chain.now.epoch > 0
    told = [world.replica(member).status()["policy"]["decisions"] for member in world.correct]
    assert all(one == told[0] for one in told)
    link = world.chain.eras[1].link
    assert link is not None
    assert link.cause == "policy"
    assert link.signed.command.reason == told[0][0]["reason"]


def test_a_leader_that_passes_over_reports_is_replaced() -> None:
    world = world_of(9)
    world.lie("m0", load_adversary("false-reports"))
    world.load(900, per_second=30)
    world.run_until(lambda: world.view_changes > 0, 12_000, "the leader is replaced")
    world.run(1500)
    told = world.replica("m1").status()["policy"]
    assert told["conditions"] is not None


def test_operators_order_a_coin_key_where_only_the_policy_may_need_one() -> None:
    """Without liars and under Paxos nothing tosses a coin; without a key the members refuse the command."""
    tossing = Policy("manual", (Mode("paxos"), Mode("cks")), forced=1, stall_ms=60_000)
    world = World(9, "paxos", 4, 0, 1, reconfigurable=True, policy=tossing)
    world.load(60, per_second=40)
    world.switch(interval=16)
    world.run_until(lambda: world.chain.now.epoch == 1, 5000, "the members cross")
    assert world.configuration.coin is not None
    world.finish()
