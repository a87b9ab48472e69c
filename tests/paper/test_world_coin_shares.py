"""Every correct member comes by its share of the coin key, as long as the key lives: over forced changes, too.

A planned change makes a key while one member is away; a forced one keeps the key before that member has its share. The
coins of the next protocol take n - f - c shares, so with one of the others gone for good it is needed (SAFETY rule 26).
"""

from __future__ import annotations

from typing import Any

import pytest

from bftkit.channel.coin_keys import SHARE_NAME
from bftkit.channel.frames import ChainLinks, CheckpointProof, pack_control
from bftkit.channel.interface import ReplicaOut
from bftkit.core.machine import MemberId
from bftkit.sim.links import Network
from bftkit.sim.world import World

LIMIT = 20_000
AWAY = "m2"
"""Who misses the making of the key."""
GONE = "m0"
"""Who is gone for good afterwards."""
HOLDERS = ("m1", "m3")


def group(seed: int = 1, **more: Any) -> World:
    """Four members, one of which may lie."""
    settings: dict[str, Any] = {"clients": 2, "interval": 4, "window": 8, **more}
    world = World(seed, "pbft", 4, 1, 0, reconfigurable=True, network=Network(delay_max=3), **settings)
    world.load(8, keys=2, poison=0.0)
    world.run(80)
    return world


def cross(world: World, epoch: int, *members: MemberId) -> None:
    """Run until these members are in this epoch."""
    world.run_until(lambda: all(world.replica(name).settings.epoch >= epoch for name in members), LIMIT, "the epoch")


def leave_it_behind(world: World, *, forced: int = 1, step: str = "ordered") -> None:
    """To an epoch with a new coin key, and on by force under cks, while one member is away from this step on."""
    if step == "ordered":
        world.crash(AWAY)
    world.switch()
    if step == "committed":
        state = world.replica(AWAY).state.reconfiguring
        assert state is not None
        world.run_until(lambda: state.boundary > 0, LIMIT, "the commit")
        world.crash(AWAY)
    others = tuple(name for name in world.members if name != AWAY)
    cross(world, 1, *others)
    for epoch in range(2, 2 + forced):
        world.switch("cks", forced=True)
        cross(world, epoch, *others)
    assert (1, SHARE_NAME) not in world.hosts[AWAY].disk.secrets


def go_on_without(world: World) -> None:
    """Clients are answered, though one member is gone for good."""
    world.load(12, keys=2, poison=0.0)
    world.finish(without=[GONE])


@pytest.mark.parametrize("step", ["ordered", "committed"])
@pytest.mark.parametrize("forced", [1, 2])
def test_who_missed_the_making_of_the_key_gets_its_share_in_a_forced_epoch(forced: int, step: str) -> None:
    world = group()
    leave_it_behind(world, forced=forced, step=step)
    world.restart(AWAY)
    cross(world, 1 + forced, AWAY)
    assert world.replica(AWAY).settings.coins is not None
    world.crash(GONE)
    go_on_without(world)


def test_of_those_that_are_left_all_restart_before() -> None:
    """The holders have parts in memory no more, and signing keys of the epoch that the key was made for neither."""
    world = group()
    leave_it_behind(world)
    world.run(200)
    for name in (GONE, *HOLDERS):
        assert world.keychain(name).first == 2
    world.power_cut()
    world.restart(*HOLDERS, AWAY)
    go_on_without(world)
    assert world.replica(AWAY).settings.coins is not None


@pytest.mark.parametrize("seed", range(3))
def test_it_restarts_again_and_again_while_it_waits(seed: int) -> None:
    world = group(seed)
    leave_it_behind(world)
    world.crash(GONE)
    for ticks in range(3, 60, 7):
        world.restart(AWAY)
        world.run(ticks)
        world.crash(AWAY)
    world.restart(AWAY)
    go_on_without(world)


def test_who_restarts_between_its_share_and_the_epoch_gives_others_theirs() -> None:
    """Its share is durable, so nothing asks it to make the key; the parts that others need are on its disk."""
    world = group()
    leave_it_behind(world, step="committed")
    name = world.replica("m1").succession_part.links[0].signed.name
    world.restart(AWAY)
    secrets = world.hosts[AWAY].disk.secrets
    world.run_until(lambda: (1, SHARE_NAME) in secrets, LIMIT, "the share")
    assert world.replica(AWAY).settings.epoch == 0
    world.crash(AWAY)
    world.restart(AWAY)
    cross(world, 2, AWAY)
    assert list(world.replica(AWAY).preparing.coin_keys.makings) == [name]
    assert world.replica(AWAY).preparing.coin_keys.makings[name].machine.ready


def test_who_waits_for_its_share_goes_on_when_the_group_does() -> None:
    """Nobody keeps parts of a key that is not in use, nor the first state of an epoch for long."""
    world = group()
    others = (GONE, *HOLDERS)
    world.crash(AWAY)
    world.switch()
    cross(world, 1, *others)
    world.restart(AWAY)
    late = world.replica(AWAY)
    world.run_until(lambda: late.succession_part.crossing is not None, LIMIT, "the first state of epoch 1")
    away = world.partition((AWAY,), others)
    world.switch()
    cross(world, 2, *others)
    donor = world.replica(GONE)
    world.load(30, keys=2, poison=0.0)
    world.run_until(
        lambda: donor.checkpoints.kept[0].slot > donor.succession_part.links[1].ending.slot, LIMIT, "two checkpoints"
    )
    assert late.settings.epoch == 0
    out = ReplicaOut()
    newest = donor.newest_proof()
    assert newest is not None
    for message in (ChainLinks(donor.succession_part.lineage.chain_from(0)), CheckpointProof(2, newest)):
        late.on_message(GONE, pack_control(message), out)
    assert late.succession_part.crossing is not None
    assert late.catchup.transfer is not None
    assert late.catchup.transfer.slot == donor.checkpoints.stable
    away.end()
    cross(world, 2, AWAY)
    world.finish()


def test_with_real_keys() -> None:
    """Nothing that is said for this needs a signature by a key that is erased (SAFETY rule 28)."""
    world = group(keys="ed25519")
    leave_it_behind(world)
    world.power_cut()
    world.restart(*HOLDERS, AWAY)
    go_on_without(world)


def test_parts_of_a_key_live_as_long_as_the_key() -> None:
    """No longer, and those of a key that was made in vain are no longer known at all."""
    world = group()
    world.switch()
    cross(world, 1, *world.members)
    name = world.replica("m1").succession_part.links[0].signed.name
    keys = world.replica("m1").preparing.coin_keys
    vain = world.switch(at=(1 << 62) - 1)  # it is committed, and its boundary never reached
    world.run_until(lambda: 2 in keys.shares, LIMIT, "the making of a key")
    assert list(keys.makings) == [name, vain]
    world.switch("cks", forced=True)
    cross(world, 2, *world.members)
    assert list(keys.makings) == [name]
    making = keys.makings[name]
    assert making.keys is not None
    assert not making.keys.may_sign
    world.run(200)
    parts = [place for place in world.hosts["m1"].disk.secrets if place[0] == 1]
    assert len(parts) > 1
    others = [place for place in world.hosts["m1"].disk.secrets if place not in parts]
    assert others == [(2, SHARE_NAME)], "the share of the key that goes on took its place"
    assert world.hosts["m1"].disk.secrets[2, SHARE_NAME] == world.hosts["m1"].disk.secrets[1, SHARE_NAME]
    world.crash("m1")
    world.restart("m1")
    cross(world, 2, "m1")
    assert list(world.replica("m1").preparing.coin_keys.makings) == [name]
    world.switch("pbft")
    cross(world, 3, *world.members)
    assert list(world.replica("m1").preparing.coin_keys.makings) != [name]
    world.run(200)
    assert {epoch for epoch, _ in world.hosts["m1"].disk.secrets} == {3}
    world.finish()


def test_who_comes_past_the_first_state_of_an_epoch_keeps_the_parts_that_others_may_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the state that it fetched nothing is prepared any more, and it takes a while until that is saved."""
    world = group()
    world.switch()
    late = world.replica(AWAY)
    state = late.state.reconfiguring
    assert state is not None
    world.run_until(lambda: state.boundary > 0, LIMIT, "the commit")
    away = world.partition((AWAY,), (GONE, *HOLDERS))
    cross(world, 1, GONE, *HOLDERS)
    end = world.replica(GONE).succession_part.links[0].ending.slot
    world.load(30, keys=2, poison=0.0)
    world.run_until(lambda: world.replica(GONE).checkpoints.stable > end, LIMIT, "a checkpoint of the next epoch")
    keys = late.preparing.coin_keys
    (before,) = keys.makings.values()
    held = sorted(before.machine.holdings)
    monkeypatch.setattr("bftkit.sim.interpreter.SAVE_US_MAX", 3_000_000)
    away.end()
    cross(world, 1, AWAY)
    (after,) = keys.makings.values()
    assert after is not before, "it was saved too fast for what this is about"
    assert sorted(after.machine.holdings) == held
    world.finish()
