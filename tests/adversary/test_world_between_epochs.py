"""What members of other epochs, liars and old disks try between epochs: each by hand, against one member."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from bftkit.channel.bundles import COMMAND, make_proved_bundle
from bftkit.channel.frames import (
    ANSWER_CODEC,
    CONTROL,
    CONTROL_CODEC,
    ChainLinks,
    CheckpointProof,
    DecidedClaims,
    Read,
    ReadRefusal,
    Status,
    pack_ask,
    pack_control,
)
from bftkit.channel.interface import FromClient, Neighbours, Restored, Save, ToClient
from bftkit.channel.records import EPOCH_RECORD
from bftkit.channel.replica import Replica
from bftkit.configuration.text import ConfigurationError
from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Blame, Deliver, MemberId, Out, Send
from bftkit.membership.chain import HandOver
from bftkit.membership.commands import CANCEL, FORCED, PLANNED, Command, sign_command
from bftkit.sim.epochs import operator_key
from bftkit.sim.host import FromMember
from bftkit.sim.links import Network
from bftkit.sim.world import World

LIMIT = 20_000


def group(protocol: str = "pbft", seed: int = 1, **more: Any) -> World:
    """A small group that has just decided something; m4 may become a member."""
    n, f, c = (4, 1, 0) if protocol in ("pbft", "cks") else (3, 0, 1)
    settings: dict[str, Any] = {"clients": 2, "interval": 4, "window": 8, "spares": 1, **more}
    world = World(seed, protocol, n, f, c, reconfigurable=True, network=Network(delay_max=3), **settings)
    world.load(8, keys=2, poison=0.0)
    world.run(80)
    return world


def cross(world: World, epoch: int = 1, *members: MemberId) -> None:
    """Run until these members, or all, are in this epoch."""
    wanted = members or tuple(world.members)
    world.run_until(lambda: all(world.replica(name).settings.epoch >= epoch for name in wanted), LIMIT, "the epoch")


def late(world: World, member: MemberId = "m3") -> tuple[Replica, HandOver]:
    """A member that was down while the group went to epoch 1, up again this moment; and the hand-over."""
    world.crash(member)
    world.switch()
    cross(world, 1, *(name for name in world.members if name != member))
    link = world.replica("m0").succession_part.links[0]
    world.restart(member)
    replica = world.replica(member)
    assert replica.settings.epoch == 0
    assert not replica.succession_part.ahead
    return replica, link


def hears(replica: Replica, sender: MemberId, *frames: bytes) -> Out[Any, Any]:
    """What the replica does about these frames, which nobody really sent."""
    out: Out[Any, Any] = Out()
    for frame in frames:
        replica.on_message(sender, frame, out)
    return out


# ------------------------------------------------------------------------------------------------ quorums


def test_who_is_no_member_in_the_epoch_claims_no_decisions() -> None:
    """SAFETY rules 17 and 26: one liar and one removed member are no f + 1 members of this epoch."""
    world = group()
    world.switch(members=["m0", "m1", "m2", "m4"])
    cross(world, 1, "m0", "m1", "m2")
    replica = world.replica("m0")
    assert "m3" in replica.succession_part.observers()
    forged = pack_control(DecidedClaims(1, replica.applied + 1, (b"x" * 32,)))
    hears(replica, "m3", forged)
    hears(replica, "m1", forged)
    assert not replica.catchup.learned
    hears(replica, "m2", forged)  # two members' claims do count: it was no other check that stopped them
    assert replica.catchup.learned


# ------------------------------------------------------------------------------------------------ links


def test_sharings_that_do_not_make_the_signed_coin_key_are_no_part_of_a_hand_over() -> None:
    """They are not signed: a liar could keep a member out for ever, or crash it, by what it puts in their place."""
    replica, link = late(group())
    assert link.selection
    for wrong in (b"", b"no sharings at all", link.selection[:-1]):
        out = hears(replica, "m1", pack_control(ChainLinks((attrs.evolve(link, selection=wrong).encode(),))))
        assert [effect.member for effect in out.effects if isinstance(effect, Blame)] == ["m1"]
        assert not replica.succession_part.ahead
    hears(replica, "m1", pack_control(ChainLinks((link.encode(),))))
    assert replica.succession_part.ahead == [link]


def test_links_that_do_not_follow_are_nobodys_fault() -> None:
    """An answer that was overtaken by another one, after a restart without the older links."""
    world = group()
    world.switch()
    cross(world)
    link = world.replica("m0").succession_part.links[0]
    replica = world.replica("m1")
    del replica.succession_part.links[0]
    out = hears(replica, "m0", pack_control(ChainLinks((link.encode(),))))
    assert not [effect for effect in out.effects if isinstance(effect, Blame)]


def test_a_slot_above_the_last_one_is_decided_and_void() -> None:
    """SAFETY rule 23: a protocol with many slots at once decides some before the epoch is known to end below."""
    world = group()
    replica = world.replica("m0")
    world.switch()
    world.run_until(lambda: replica.succession_part.at_end, LIMIT, "the end")
    assert replica.settings.epoch == 0
    end, out = replica.applied, Out[Any, Any]()
    replica.executing.on_decided(end + 1, NO_DIGEST, out)
    replica.executing.advance(out)
    assert replica.history[end + 1] == NO_DIGEST
    assert replica.applied == end
    cross(world)
    assert replica.succession_part.links[0].ending.slot == end
    world.finish()


def test_void_slots_are_not_executed_on_a_state_of_a_later_epoch() -> None:
    """SAFETY rule 23: the old protocol may have decided slots above the end, and the fetched state is beyond it."""
    replica, link = late(group())
    end = link.ending.slot
    hears(replica, "m1", pack_control(ChainLinks((link.encode(),))))
    replica.history = dict.fromkeys(range(1, end + 5), NO_DIGEST)
    hears(replica, "m1", pack_control(ChainLinks((link.encode(),))))
    assert replica.applied == end


def test_void_slots_are_nobodys_decisions_when_a_state_of_a_later_epoch_was_fetched() -> None:
    """They were taken for slots that the member had executed otherwise than the next epoch (regression)."""
    world = group()
    cut = world.partition(["m3"], ["m0", "m1", "m2"])
    world.switch()
    cross(world, 1, "m0", "m1", "m2")
    link = world.replica("m0").succession_part.links[0]
    world.load(40, keys=2, poison=0.0, pipeline=1)
    world.run(3_000)
    late = world.replica("m3")
    assert late.applied < link.ending.slot
    assert world.replica("m0").checkpoints.stable > link.ending.slot + 4
    late.history |= dict.fromkeys(range(link.ending.slot + 1, link.ending.slot + 5), NO_DIGEST)
    cut.end()
    cross(world, 1, "m3")
    world.finish()


def test_the_last_checkpoint_of_an_epoch_is_proved_by_the_hand_over_to_who_fetched_it_before() -> None:
    """It could neither prove its state to members of the next epoch, nor report on it when that is left by force."""
    world = group()
    donor = world.replica("m0")
    world.crash("m3")
    while donor.applied % 4 or donor.checkpoints.stable < donor.applied:
        world.load(1, keys=2, poison=0.0)
        world.run(400)
    last = donor.checkpoints.kept[-1]
    world.switch(forced=True)
    cross(world, 1, "m0", "m1", "m2")
    link = donor.succession_part.links[0]
    assert link.ending.slot == last.slot
    world.restart("m3")
    late = world.replica("m3")
    assert late.applied < last.slot
    for message in (CheckpointProof(0, last.certificate), ChainLinks((link.encode(),))):
        world.hosts["m3"].put(FromMember("m0", pack_control(message)))
    cross(world, 1, "m3")
    assert late.newest_proof() == link.certificate
    world.crash("m0")
    world.switch(forced=True)
    cross(world, 2, "m1", "m2", "m3")
    world.finish()


def test_who_cannot_enter_an_epoch_says_of_what_it_shows_which_epoch_signed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is far behind, and knows of the epoch after, would blame it for signatures that do not fit."""
    world = group()
    world.switch()
    cross(world)
    replica = world.replica("m1")
    start = replica.succession_part.links[0].ending.slot
    world.load(20, keys=2, poison=0.0)
    world.run_until(lambda: replica.checkpoints.stable > start, LIMIT, "a checkpoint of epoch 1")

    def refuses(*_: object) -> None:
        raise ConfigurationError("protocol", "it is not here", "install it")

    monkeypatch.setattr(world.keychain("m1"), "enter", refuses)
    world.expected_halts.add("m1")
    world.switch()
    cross(world, 2, "m0", "m2", "m3")
    world.run_until(lambda: replica.stopped is not None, LIMIT, "m1 cannot enter epoch 2")
    out = hears(replica, "m3", pack_control(Status(0, 0, 0, 0)))
    shown = [
        CONTROL_CODEC.decode(effect.message[1:])
        for effect in out.effects
        if isinstance(effect, Send) and effect.message[0] == CONTROL
    ]
    assert [one.epoch for one in shown if isinstance(one, CheckpointProof)] == [1]


# ------------------------------------------------------------------------------------------------ reads


def test_a_member_at_the_end_of_its_epoch_confirms_no_reads() -> None:
    """SAFETY rule 13: of what it signs follows an epoch that may have executed more, with other members."""
    world = group(seed=2)
    world.switch()
    replica = world.replica("m1")
    world.run_until(lambda: replica.succession_part.at_end, LIMIT, "the end")
    assert replica.settings.epoch == 0
    out: Out[Any, Any] = Out()
    replica.on_input(FromClient(b"c" * 32, pack_ask(Read(7, b"anything"))), out)
    answers = [
        ANSWER_CODEC.decode(effect.output.frame[1:])
        for effect in out.effects
        if isinstance(effect, Deliver) and isinstance(effect.output, ToClient)
    ]
    assert [type(answer) for answer in answers] == [ReadRefusal]


def test_rubbish_behind_a_genuine_link_does_not_hide_to_whom_that_leads() -> None:
    """The link is known from then on; nobody else's answer would be news, and its members never be dialled."""
    world = group()
    world.crash("m3")
    world.switch(members=["m0", "m1", "m3", "m4"])
    cross(world, 1, "m0", "m1", "m4")
    link = world.replica("m0").succession_part.links[0].encode()
    world.restart("m3")
    late = world.replica("m3")
    out = hears(late, "m1", pack_control(ChainLinks((link, b"rubbish"))))
    assert [effect.member for effect in out.effects if isinstance(effect, Blame)] == ["m1"]
    out.effects += hears(late, "m0", pack_control(ChainLinks((link,)))).effects
    told = [effect.output for effect in out.effects if isinstance(effect, Deliver)]
    assert [entry.id for one in told if isinstance(one, Neighbours) for entry in one.entries if entry.id == "m4"]


# ------------------------------------------------------------------------------------------------ coin keys


def test_a_forced_change_keeps_the_share_though_a_planned_one_had_made_another() -> None:
    """A planned change was committed and its key made, and then its boundary was never reached."""
    world = group()
    shares = {name: world.replica(name).settings.coin_share for name in world.members}
    assert all(shares.values())
    for name in world.members:
        world.replica(name).preparing.coin_keys.shares[1] = b"of the key that was made in vain"
    world.switch(forced=True)
    cross(world)
    assert world.replica("m0").succession_part.links[0].kind == "forced"
    assert {name: world.replica(name).settings.coin_share for name in world.members} == shares
    world.finish()


# ------------------------------------------------------------------------------------------------ old disks


@pytest.mark.parametrize("stored", [True, False])
def test_a_saved_state_of_an_epoch_that_the_log_has_not_reached_is_fetched_again(stored: bool) -> None:
    """The crash came between the saving of a fetched state and the first record of its epoch.

    Hand-overs are stored a moment after they came: it may have been faster than that, too.
    """
    world = group()
    _, link = late(world)
    donor = world.replica("m0")
    world.load(40, keys=2, poison=0.0)
    world.run_until(lambda: donor.checkpoints.stable > link.ending.slot, LIMIT, "a checkpoint of epoch 1")
    stable = donor.checkpoints.kept[-1]
    chunks = [stable.view.chunk(index) for index in range(stable.view.count)]
    settings = world.hosts["m3"].settings
    again = Replica(settings, world.make_application("m3"))
    links = [link.encode()] if stored else []
    again.on_restore(Restored((), (stable.slot, Save(stable).manifest(), chunks), links=links), Out())
    assert again.settings.epoch == 0
    assert again.applied == 0


def test_new_keys_end_no_silence_if_it_was_them_that_promised() -> None:
    """SAFETY rule 16: an empty disk begins in epoch 0, and the keys of that epoch are not those that promised."""
    world = group()
    world.switch(rotate=["m3"])
    cross(world)
    world.run(200)
    world.crash("m3")
    world.wipe("m3")
    world.restart("m3")
    cross(world, 1, "m3")
    assert world.replica("m3").silent
    world.crash("m3")
    world.restart("m3")
    assert world.replica("m3").silent
    world.switch(rotate=["m3"])
    cross(world, 2, "m3")
    assert not world.replica("m3").silent
    world.finish()


# ------------------------------------------------------------------------------------------------ commands


def test_commands_that_no_operator_signed_push_no_cancelled_one_out_of_memory() -> None:
    """FAULTS 43 and 44: else whoever leads could order what the operators took back."""
    world = group()
    state = world.replica("m0").state.reconfiguring
    assert state is not None
    here = state.configuration
    wished = [Command(state.group, 0, PLANNED, 0, False, here.change(), bytes([n]) * 16) for n in range(80)]
    first = sign_command(wished[0], operator_key(0))
    state.on_command(first.encode(), 10)
    taken_back = sign_command(Command(state.group, 0, CANCEL, 0, False, None, bytes(16)), operator_key(0))
    state.on_command(taken_back.encode(), 11)
    assert state.pending is None
    for command in wished[1:]:
        state.on_command(sign_command(command).encode(), 12)
    state.on_command(first.encode(), 13)
    assert state.pending is None


# ------------------------------------------------------------------------------------------------ without keys


def test_a_machine_whose_keys_are_not_those_of_the_roster_follows_in_silence() -> None:
    """Another one takes its place under the same name: it signs nothing, and does not end with an exception."""
    world = group()
    keychain = world.keychain("m3")
    world.switch(rotate=["m3"])
    keychain.generations.pop()
    world.run_until(lambda: world.replica("m3").settings.epoch == 1, LIMIT, "the epoch")
    assert world.replica("m3").passive
    assert world.replica("m3").stopped is None
    world.finish(without=["m3"])


def test_a_member_without_a_share_of_the_coin_key_leaves_by_force_with_the_others() -> None:
    """It cannot take part in the agreement; it reports, and is shown the hand-over."""
    world = group()
    replica = world.replica("m3")
    assert replica.driving.setup is not None
    replica.driving.setup = attrs.evolve(replica.driving.setup, coins=None)
    replica.settings = attrs.evolve(replica.settings, coins=None, coin_share=None)
    world.switch(forced=True)
    cross(world, 1)
    assert world.replica("m0").succession_part.links[0].kind == "forced"
    assert replica.driving.setup is None or replica.driving.setup.coins is None


def test_an_end_that_is_far_away_is_not_filled_up_to_at_once() -> None:
    """Else a leader would say as many empty batches as the operators put before it, and nobody could leave by force."""
    world = group()
    replica = world.replica("m0")
    world.switch(at=(1 << 62) - 1)
    world.run_until(lambda: replica.state.reconfiguring is not None and replica.state.reconfiguring.boundary > 0, LIMIT)
    world.run(500)
    assert replica.applied < 100
    world.switch(forced=True)
    cross(world)
    assert replica.succession_part.links[0].kind == "forced"
    world.finish()


def test_a_command_under_the_name_of_a_client_takes_nobodys_place() -> None:
    """Its own bundles would not be taken in, or be taken out, as long as the command waits under its name."""
    world = group()
    replica = world.replica("m0")
    command = Command(replica.settings.group, 0, PLANNED, 0, False, world.configuration.change(), bytes(16))
    signed = sign_command(command, operator_key(0))
    victim = b"v" * 32
    out = hears(replica, "m1", b"\x02" + make_proved_bundle(COMMAND, victim, signed.encode()))
    assert [effect.member for effect in out.effects if isinstance(effect, Blame)] == ["m1"]
    assert (victim, 0, 0) not in replica.pool
    hears(replica, "m1", b"\x02" + make_proved_bundle(COMMAND, signed.name, signed.encode()))
    assert (signed.name, 0, 0) in replica.pool


def test_a_member_whose_saved_states_are_lost_says_neither_that_it_holds_nor_what_it_did() -> None:
    """SAFETY rules 21 and 26: what it would say is not so, and others would blame it for the report."""
    world = group()
    world.switch()
    cross(world)
    link = world.replica("m0").succession_part.links[0]
    again = Replica(world.hosts["m3"].settings, world.make_application("m3"))
    out: Out[Any, Any] = Out()
    again.on_restore(Restored([EPOCH_RECORD + link.encode()], links=[link.encode()]), out)
    again.on_start(out)
    assert again.settings.epoch == 1
    assert again.applied == 0
    assert not again.succession_part.holders
    world.replica("m3").checkpoints.kept = []
    world.switch(forced=True)
    cross(world, 2, "m0", "m1", "m2")
    assert not world.blames


@pytest.mark.parametrize("restarts", [False, True])
def test_what_the_others_were_told_is_decided_goes_on_without_the_coordinator(restarts: bool) -> None:
    """Regression: they had executed it and never held it, and both stopped, since their reports did not have it."""
    world = World(1, "coordinator", 3, 0, 0, reconfigurable=True, interval=4, clients=1)
    world.load(21, keys=2, poison=0.0, pipeline=1)
    world.run_until(lambda: world.outstanding == 0, LIMIT)
    world.run(300)
    lost = world.hold("Append", 0)
    world.load(1, keys=2, poison=0.0)
    followers = [world.replica("m1"), world.replica("m2")]
    world.run_until(lambda: any(one.applied > one.machine.highest_voted for one in followers), LIMIT)
    done = world.replica("m0").applied
    assert all(one.machine.highest_voted < done for one in followers)
    world.crash("m0")
    lost.end()
    change = attrs.evolve(world.configuration.change(), protocol="pbft", parameters={})
    command = Command(world.chain.now.settings.group, 0, FORCED, 0, True, change, bytes(16))
    world.guards.holding.active = False  # with c = 0 one member alone may hold what clients were told of
    unheard = [world.slow(name, LIMIT, lambda frame: frame[0] == CONTROL) for name in ("m1", "m2")]
    world.operator.send(sign_command(command, operator_key(0)))
    world.run_until(lambda: followers[0].wedged and followers[1].wedged, LIMIT)
    for slowness in unheard:
        slowness.end()
    if restarts:
        world.crash("m1", "m2")
        world.restart("m1", "m2")
    world.run_until(lambda: world.chain.now.epoch == 1, LIMIT)
    assert world.chain.now.start == done
    world.load(4, keys=2)
    world.finish()
