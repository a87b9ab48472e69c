"""A group goes from epoch to epoch in a simulated world: SAFETY rules 21 to 26, planned and by force."""

from __future__ import annotations

import pytest

from bftkit.channel.frames import DONE, PREPARED, REFUSED, ReadyFor
from bftkit.channel.interface import ReplicaOut
from bftkit.membership.commands import CANCEL
from bftkit.sim.faults.changes import FORCED_STEPS, PLANNED_STEPS, CrashAtStep, order
from bftkit.sim.world import Network, World

PROTOCOLS = ("coordinator", "paxos", "pbft", "cks")


def at_work(protocol: str, members: int = 4, seed: int = 1, spares: int = 0, **more: object) -> World:
    """A group with some operations behind it and some to come."""
    world = World(seed, protocol, members, reconfigurable=True, spares=spares, **more)  # type: ignore[arg-type]
    world.load(40)
    world.run(300)
    world.load(80)
    return world


def to_the_end(world: World, epochs: int = 1) -> None:
    """The changes are made, under load, and all that must hold holds."""
    world.run_until(lambda: world.chain.now.epoch >= epochs, 8000, "the next epoch")
    world.load(20)
    world.finish()
    assert world.chain.now.epoch == epochs


@pytest.mark.parametrize("after", PROTOCOLS)
@pytest.mark.parametrize("before", PROTOCOLS)
def test_rule_23_a_planned_switch_between_any_two_protocols(before: str, after: str) -> None:
    world = at_work(before)
    name = world.switch(after)
    to_the_end(world)
    era = world.chain.now
    assert era.settings.plugin.record.name == after
    assert era.start % era.settings.checkpoint_interval == 0
    assert world.replica("m0").orders.state_of(name)[0] == DONE


@pytest.mark.parametrize("before", PROTOCOLS)
def test_rule_21_a_forced_switch_away_from_any_protocol(before: str) -> None:
    world = at_work(before, members=4)
    order(world, "pbft" if before != "pbft" else "cks", world.members, forced=True)
    to_the_end(world)


def test_switches_one_after_the_other_come_back_to_the_first() -> None:
    world = at_work("paxos", members=4)
    for epoch, protocol in enumerate(("pbft", "cks", "paxos"), 1):
        world.switch(protocol)
        world.run_until(lambda epoch=epoch: world.chain.now.epoch >= epoch, 8000, "the next epoch")  # type: ignore[misc]
        world.load(20)
    to_the_end(world, 3)


def test_rule_26_from_three_to_four_to_seven_members_and_back_with_other_protocols() -> None:
    world = at_work("coordinator", members=3, spares=4)
    rosters = (("paxos", 4), ("pbft", 4), ("pbft", 7), ("cks", 4), ("paxos", 3))
    for epoch, (protocol, count) in enumerate(rosters, 1):
        world.switch(protocol, members=tuple(f"m{index}" for index in range(count)))
        world.run_until(lambda epoch=epoch: world.chain.now.epoch >= epoch, 8000, "the next epoch")  # type: ignore[misc]
        assert len(world.members) == count
        world.load(20)
    to_the_end(world, len(rosters))


def test_rule_26_a_member_that_joins_is_brought_up_to_date_and_one_that_leaves_stops() -> None:
    world = at_work("pbft", spares=1)
    world.switch(members=("m0", "m1", "m2", "m4"))
    to_the_end(world)
    assert world.replica("m4").applied == world.replica("m0").applied
    assert world.hosts["m3"].halted is not None
    assert "no part of the group since epoch 1" in world.hosts["m3"].halted


def test_faults_38_a_removed_member_is_nobody() -> None:
    world = at_work("pbft", spares=1)
    world.crash("m3")
    world.switch(members=("m0", "m1", "m2", "m4"))
    world.run_until(lambda: world.chain.now.epoch == 1, 8000, "the next epoch")
    world.switch("cks")
    world.run_until(lambda: world.chain.now.epoch == 2, 8000, "the epoch after")
    world.restart("m3")
    world.load(40)
    world.run(2000)
    assert world.injected[38]
    assert world.replica("m3").settings.epoch == 0
    to_the_end(world, 2)


def test_faults_35_of_two_commands_one_wins_everywhere() -> None:
    world = at_work("pbft")
    one, other = world.switch("cks", to=("m0", "m1")), world.switch("paxos", to=("m2", "m3"))
    world.run_until(lambda: world.replica("m0").settings.epoch == 1, 8000, "the next epoch")
    done = [name for name in (one, other) if world.replica("m0").orders.state_of(name)[0] == DONE]
    assert len(done) == 1
    assert world.injected[35]
    to_the_end(world)


def test_a_cancelled_change_is_not_made_and_another_one_is() -> None:
    world = at_work("pbft", spares=1)
    # The one that joins is away, so that the change stays prepared.
    world.crash("m4")
    name = world.switch(members=("m0", "m1", "m2", "m4"), c=0, f=0)
    world.run_until(lambda: world.replica("m0").orders.state_of(name)[0] == PREPARED, 4000, "it is prepared")
    world.run(1000)
    assert world.chain.now.epoch == 0
    world.order(CANCEL, None)
    world.run_until(lambda: world.replica("m0").orders.state_of(name)[0] == REFUSED, 4000, "an outcome")
    assert "cancelled" in world.replica("m0").orders.state_of(name)[1]
    world.switch("paxos")
    to_the_end(world)


def test_faults_39_a_member_with_new_keys_is_believed_and_its_old_ones_are_not() -> None:
    world = at_work("pbft")
    before = world.chain.now
    world.switch(rotate=("m1",))
    to_the_end(world)
    after = world.chain.now
    assert before.place is not None
    assert after.place is not None
    old, new = before.place.configuration.roster.entry("m1"), after.place.configuration.roster.entry("m1")
    assert old.epoch_root != new.epoch_root
    keychain = world.keychain("m1")
    keychain.generations = [0]
    assert keychain.why_not(after.place.configuration) is not None


@pytest.mark.parametrize("members", [1, 4])
def test_rule_26_nobody_stays_and_those_who_join_make_the_coin_key(members: int) -> None:
    """Found by `mixed`, cks, seed 211: only they can prove that it is made, and they propose nothing themselves."""
    world = at_work("cks", members=members, spares=members)
    world.switch(members=tuple(f"m{members + index}" for index in range(members)))
    to_the_end(world)


def test_a_state_is_fetched_from_who_holds_it_though_all_that_signed_for_it_are_gone() -> None:
    """One of them left the group and one is the c that may crash; the only one to have the state has fetched it."""
    world = World(1, "paxos", 3, c=1, reconfigurable=True, spares=1, clients=2, interval=4, window=8)
    world.load(8)
    world.run(80)
    world.crash("m3")
    world.switch(members=("m1", "m2", "m3"))
    state = world.replica("m2").state.reconfiguring
    assert state is not None
    world.run_until(lambda: bool(state.boundary), 8000, "it is committed")
    world.crash("m2")
    world.run_until(lambda: world.replica("m1").settings.epoch == 1, 8000, "the ending is signed by the other two")
    world.restart("m2")
    world.run_until(lambda: len(world.replica("m1").succession_part.holders) == 2, 8000, "the next epoch has begun")
    signed = world.replica("m2").succession_part.links[0].certificate.votes
    assert {vote.member for vote in signed} == {"m0", "m1"}
    world.crash("m0", "m1")
    world.restart("m3")
    world.load(20)
    world.finish(without=("m0", "m1"))
    assert world.replica("m3").applied > world.chain.now.start


def test_who_fetches_a_later_state_of_an_epoch_counts_clock_reports_on_from_there() -> None:
    """Regression: it began anew, as those that crossed at the epoch's begin had, and its state was another one."""
    world = World(1, "paxos", 3, c=1, reconfigurable=True, clients=2, interval=4, window=8)
    world.load(8)
    world.run(80)
    world.crash("m2")
    world.switch()
    world.run_until(lambda: world.replica("m0").settings.epoch == 1, 8000, "the next epoch")
    while world.replica("m0").checkpoints.stable < world.chain.now.start + 12:
        world.load(8)
        world.run(600)
    world.run_until(lambda: world.outstanding == 0, 8000, "nothing waits")
    world.restart("m2")
    behind, other = world.replica("m2"), world.replica("m0")
    world.run_until(lambda: behind.settings.epoch == 1 and behind.applied == other.applied, 8000, "m2 is up to date")
    assert behind.counters.transfers > 0
    assert behind.state.clock.reports == other.state.clock.reports
    world.load(8)
    world.finish()


def test_a_client_dials_whom_it_has_learned_of_and_nobody_before() -> None:
    """Found by `mixed`, paxos, seed 191: a connection that came too early was of no use, and no other one followed."""
    world = at_work("paxos", members=1, spares=1)
    (actor,) = (actor for actor in world.actors.values() if actor.name == "c0")
    world.connect(actor, "m1")
    world.run(100)
    assert ("c0", "m1") not in world._connections  # pyright: ignore[reportPrivateUsage]
    world.switch(members=("m1",))
    to_the_end(world)
    assert ("c0", "m1") in world._connections  # pyright: ignore[reportPrivateUsage]


def test_a_command_that_those_who_stay_refuse_is_not_waited_for() -> None:
    """Found by `mixed`, coordinator, seed 682: whoever is to leave has nothing to get ready, and refuses nothing."""
    world = at_work("paxos")
    for member in ("m0", "m1", "m2"):
        world.keychain(member).generations = []
    name = world.switch(members=("m0", "m1", "m2"))
    world.load(20)
    world.finish()
    assert world.chain.now.epoch == 0
    states = [world.replica(member).orders.state_of(name)[0] for member in ("m0", "m1", "m2", "m3")]
    assert states[:3] == [REFUSED] * 3
    assert states[3] != REFUSED


def test_a_state_of_a_later_epoch_is_not_proved_to_members_of_this_one() -> None:
    """Found by `mixed`, paxos, seed 5053: they have other keys, and blamed the member that had fetched it."""
    world = at_work("paxos")
    world.crash("m3")
    world.switch()
    world.run_until(lambda: world.chain.now.epoch == 1, 8000, "the next epoch")
    world.load(80)
    world.run(1000)
    link = world.replica("m0").succession_part.lineage.known(0)
    later = world.replica("m0").checkpoints.kept[-1]
    assert link is not None
    assert later.slot > link.ending.slot
    world.restart("m3")
    behind = world.replica("m3")
    assert behind.settings.epoch == 0
    behind.succession_part.lineage.ahead.append(link)
    own = behind.newest_proof()
    behind.checkpoints.kept = [*behind.checkpoints.kept, later]
    assert not behind.proves_here(later)
    assert behind.newest_proof() == own


@pytest.mark.parametrize("restarted", [False, True])
def test_operators_reach_a_group_of_which_nobody_was_there_before(restarted: bool) -> None:
    """Found by `mixed`, coordinator 191, paxos 5048: who gives the orders follows no chain, and knows the members."""
    world = at_work("paxos", members=1, spares=1)
    world.switch(members=("m1",))
    world.run_until(lambda: world.chain.now.epoch == 1, 8000, "the next epoch")
    if restarted:
        world.crash("m1")
        world.restart("m1")
    else:
        world.run(100)
        world.crash("m0")  # nobody is left who could pass the command on
    world.switch("cks")
    world.run_until(lambda: world.chain.now.epoch == 2, 8000, "the next epoch")
    to_the_end(world, 2)


def test_who_says_wrongly_and_too_early_that_it_is_ready_is_blamed_for_that_itself() -> None:
    """Found by `mixed`, pbft, seed 398: it was blamed on whoever's frame let the command be executed."""
    world = at_work("pbft")
    world.exempt("m3")
    name = world.switch()
    for member in ("m0", "m1", "m2"):
        world.replica(member).preparing.on_control("m3", ReadyFor(name, bytes(64)), ReplicaOut())
    to_the_end(world)  # no correct member is blamed
    wrong = "refused: a bad signature under what a member is ready for"
    assert {(who, whom) for who, whom, fault, _ in world.blames if fault == wrong} == {
        (member, "m3") for member in ("m0", "m1", "m2")
    }


def test_a_member_whose_new_keys_come_late_is_ready_then() -> None:
    """The change was prepared for ever, though nothing was missing any more."""
    world = at_work("paxos", members=2, f=0, c=0)
    keychain = world.keychain("m1")
    name = world.switch(rotate=("m1",), to=("m0",))
    missing = keychain.generations.pop()
    world.run(1000)
    assert world.replica("m1").orders.state_of(name)[0] == PREPARED
    assert "m1: " in world.replica("m1").orders.state_of(name)[1]
    keychain.generations.append(missing)
    to_the_end(world)


def test_rule_16_a_member_that_lost_its_disk_speaks_again_with_new_keys_only() -> None:
    world = at_work("pbft")
    world.crash("m1")
    world.wipe("m1")
    world.restart("m1")
    world.run(500)
    assert world.replica("m1").silent
    world.switch()
    world.run_until(lambda: world.chain.now.epoch == 1, 8000, "the next epoch")
    world.run(2000)
    assert world.replica("m1").silent
    world.switch(rotate=("m1",))
    to_the_end(world, 2)
    assert not world.replica("m1").silent


@pytest.mark.parametrize("seed", range(2))
def test_rule_26_a_silent_member_asks_whether_an_idle_epoch_has_begun(seed: int) -> None:
    """It signs nothing that could be counted, nothing is executed that would show it, and the others have all begun."""
    world = at_work("pbft", seed=seed)
    world.crash("m3")
    world.wipe("m3")
    world.restart("m3")
    world.finish()
    world.crash("m3")
    world.switch()
    world.run_until(lambda: world.chain.now.epoch == 1, 8000, "the next epoch")
    world.run(2000)
    world.restart("m3")
    world.run(3000)
    late = world.replica("m3")
    assert (late.silent, late.settings.epoch, late.applied) == (True, 1, world.replica("m0").applied)
    assert late.succession_part.active
    assert world.replica("m0").counters.blames == 0


def test_a_client_that_was_cut_off_for_three_epochs_comes_back() -> None:
    world = at_work("paxos", members=3)
    cut = world.partition(("c0",), world.members)
    for epoch in (1, 2, 3):
        world.switch()
        world.run_until(lambda epoch=epoch: world.chain.now.epoch == epoch, 8000, "the next epoch")  # type: ignore[misc]
    cut.end()
    to_the_end(world, 3)
    assert world.actors["c0"].machine.settings.epoch == 3


@pytest.mark.parametrize("step", PLANNED_STEPS)
@pytest.mark.parametrize("member", ["m0", "m3"])
def test_faults_34_a_member_dies_at_each_step_of_a_planned_switch(member: str, step: str) -> None:
    world = at_work("paxos", interval=4, window=16)
    CrashAtStep(at=0, who=member, step=step, ticks=300).inject(world)
    world.switch("pbft")
    to_the_end(world)
    assert world.injected[34] == 1


@pytest.mark.parametrize("step", FORCED_STEPS)
def test_faults_34_a_member_dies_at_each_step_of_a_forced_switch(step: str) -> None:
    world = at_work("pbft", interval=4, window=16)
    CrashAtStep(at=0, who="m1", step=step, ticks=300).inject(world)
    order(world, "cks", world.members, forced=True)
    to_the_end(world)


@pytest.mark.parametrize("seed", range(2))
def test_a_switch_where_a_fifth_of_all_packets_is_lost(seed: int) -> None:
    world = at_work("pbft", seed=seed, network=Network(loss=0.2, duplication=0.1))
    world.switch("paxos")
    to_the_end(world)


def test_all_lose_power_before_each_disk_operation_of_a_switch() -> None:
    """Operation by operation, until the switch is over before the cut comes."""
    cuts = 0
    for operation in range(1, 400, 3):
        world = World(5, "paxos", 3, reconfigurable=True, clients=1, interval=4, window=16)
        world.load(12)
        world.run(200)
        world.cut_power_before("m1", operation)
        world.switch("paxos", window=8)
        world.load(8)
        world.run(700)
        over = world.hosts["m1"].up
        world.forget_planned_cut("m1")
        cuts += not over
        world.finish()
        assert world.chain.now.epoch == 1
        if over:
            break
    assert cuts > 5
