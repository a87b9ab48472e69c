"""Commands and commits that nobody makes with the tools at hand: what becomes of them, by hand, against members."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from bftkit.channel.batches import judge_batch
from bftkit.channel.bundles import (
    COMMAND,
    COMMIT,
    PROVED_BYTES_MAX,
    REQUESTS,
    make_batch,
    make_bundle,
    make_proved_bundle,
    parse_bundle,
)
from bftkit.channel.coin_keys import Making
from bftkit.channel.frames import REFUSED, ChainLinks, pack_control
from bftkit.channel.interface import FromClient, ReplicaSettings
from bftkit.channel.replica import Replica
from bftkit.core.machine import Blame, Out
from bftkit.core.wire import WireError
from bftkit.crypto.keys import SigningKey
from bftkit.membership import chain
from bftkit.membership.commands import PLANNED, Command, SignedCommand, sign_command
from bftkit.sim.epochs import operator_key
from bftkit.sim.links import Network
from bftkit.sim.world import World

LIMIT = 20_000


def group(protocol: str = "pbft", f: int = 1, c: int = 0, seed: int = 1, **more: Any) -> World:
    """A small group that has just decided something."""
    settings: dict[str, Any] = {"clients": 2, "interval": 4, "window": 8, **more}
    world = World(seed, protocol, 4, f, c, reconfigurable=True, network=Network(delay_max=3), **settings)
    world.load(8, keys=2, poison=0.0)
    world.run(80)
    return world


def cross(world: World, epoch: int = 1) -> None:
    """Run until all members are in this epoch."""
    world.run_until(
        lambda: all(world.replica(name).settings.epoch >= epoch for name in world.members), LIMIT, "the epoch"
    )


def hears(replica: Replica, *frames: bytes) -> list[str]:
    """Whom the replica blames for these frames, which m1 is said to have sent."""
    out: Out[Any, Any] = Out()
    for frame in frames:
        replica.on_message("m1", frame, out)
    return [effect.member for effect in out.effects if isinstance(effect, Blame)]


# ------------------------------------------------------------------------------------------------ without a coin


def to_cks_without_a_coin(world: World) -> SignedCommand:
    """What no tool makes: a protocol that tosses coins, and no coin key."""
    change = attrs.evolve(world.configuration.change(), protocol="cks", parameters={}, coin=False)
    return sign_command(Command(world.replica("m0").settings.group, 0, PLANNED, 0, False, change, bytes(16)), *KEYS)


KEYS = (operator_key(0),)


def test_a_command_for_a_protocol_with_coins_and_without_a_key_is_refused_at_the_door() -> None:
    world = group("paxos", f=0, c=1)
    signed = to_cks_without_a_coin(world)
    replica = world.replica("m0")
    assert hears(replica, b"\x02" + make_proved_bundle(COMMAND, signed.name, signed.encode())) == []
    state, text = replica.orders.state_of(signed.name)
    assert state == REFUSED
    assert text == "cks tosses coins: the command wants no coin key made; make it anew with one"
    assert (signed.name, 0, 0) not in replica.pool


def test_if_a_liar_orders_it_nobody_is_ready_and_the_group_goes_on() -> None:
    """At the crossing every member would stop: the machine cannot begin without its coins."""
    world = group("paxos", f=0, c=1)
    signed = to_cks_without_a_coin(world)
    for name in world.members:
        replica = world.replica(name)
        state = replica.state.reconfiguring
        assert state is not None
        state.on_command(signed.encode(), replica.applied)
        assert state.pending is not None
        replica.preparing.on_executed(Out())
        assert replica.preparing.why_not == "cks tosses coins"
        assert name not in replica.preparing.ready
    world.load(20, keys=2, poison=0.0)
    world.run(400)
    assert world.configuration.epoch == 0
    assert all(world.replica(name).stopped is None for name in world.members)


# ------------------------------------------------------------------------------------------------ large commits


def tight(settings: ReplicaSettings, bundle_bytes: int) -> ReplicaSettings:
    return attrs.evolve(settings, limits=attrs.evolve(settings.limits, bundle_bytes=bundle_bytes, batch_bytes=4096))


def test_a_commit_may_be_larger_than_clients_bundles() -> None:
    """It holds signatures and sharings for each member: a group with a low limit could never change else."""
    settings = tight(group().hosts["m0"].settings, 512)
    commit = make_proved_bundle(COMMIT, b"n" * 32, bytes(80_000))
    _, (bundle,) = judge_batch(make_batch(1, [commit]), settings)
    assert bundle.kind == COMMIT
    key = SigningKey(b"c" * 32)
    request = make_bundle(key, settings.group, REQUESTS, 1, 1, 1, (bytes(5000),))
    with pytest.raises(WireError, match="is not between"):
        judge_batch(make_batch(1, [request]), settings)
    with pytest.raises(WireError, match="is not between"):
        parse_bundle(make_proved_bundle(COMMIT, b"n" * 32, bytes(PROVED_BYTES_MAX)), bytes_max=512)


def test_a_group_with_a_low_limit_changes_to_another_one_with_a_coin() -> None:
    world = group()
    for name in world.members:
        replica = world.replica(name)
        replica.limits = attrs.evolve(replica.limits, bundle_bytes=660)
        replica.settings = attrs.evolve(replica.settings, limits=replica.limits)
        replica.batches.__init__(replica.settings)  # type: ignore[misc]
    world.switch()
    cross(world)
    link = world.replica("m0").succession_part.links[0]
    assert len(link.selection) > 660
    assert not world.blames


def test_an_operators_client_may_bring_a_command_that_is_larger_than_a_clients_bundle() -> None:
    world = group()
    replica = world.replica("m0")
    change = world.configuration.change()
    signed = sign_command(Command(replica.settings.group, 0, PLANNED, 0, False, change, bytes(16)), *KEYS)
    replica.limits = attrs.evolve(replica.limits, bundle_bytes=len(signed.encode()) // 2)
    raw = make_proved_bundle(COMMAND, signed.name, signed.encode())
    replica.on_input(FromClient(b"c" * 32, b"\x02" + raw), Out())
    assert (signed.name, 0, 0) in replica.pool


# ------------------------------------------------------------------------------------------------ two commands


def test_who_comes_second_is_told_whether_the_first_is_committed() -> None:
    world = group()
    replica = world.replica("m0")
    state = replica.state.reconfiguring
    assert state is not None
    group_id, change = replica.settings.group, world.configuration.change()
    made = [sign_command(Command(group_id, 0, PLANNED, 0, False, change, bytes([n]) * 16), *KEYS) for n in range(3)]
    state.on_command(made[0].encode(), 10)
    state.on_command(made[1].encode(), 11)
    assert state.outcomes[made[1].name] == (11, "superseded by epoch 1, for which pbft is being prepared since slot 10")
    assert state.pending is not None
    state.pending = attrs.evolve(state.pending, boundary=16)
    state.on_command(made[2].encode(), 12)
    assert state.outcomes[made[2].name] == (
        12,
        "superseded by epoch 1, for which pbft is committed: epoch 0 ends at slot 16",
    )


def test_a_coin_key_that_a_beaten_command_wanted_is_not_made_any_further() -> None:
    """A forced change came first; where that epoch has no coin, the making went on asking for a whole epoch."""
    world = group("paxos", f=0, c=1)
    replica = world.replica("m0")
    makings = replica.preparing.coin_keys.makings
    for epoch, name in ((1, b"beaten" * 5), (2, b"later." * 5)):
        there: Any = SimpleNamespace(epoch=epoch)
        machine: Any = object()
        makings[name] = Making(machine, name, there)
    replica.preparing.coin_keys.enter(1, None)
    assert [making.epoch for making in replica.preparing.coin_keys.makings.values()] == [2]


# ------------------------------------------------------------------------------------------------ forged links


def test_a_forged_link_costs_its_hearer_the_check_of_one_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 29 and 41: else a liar makes it verify the whole chain, again and again, with frames that cost nothing."""
    world = group()
    for epoch in range(1, 4):
        world.switch()
        cross(world, epoch)
    replica = world.replica("m0")
    links = replica.succession_part.links
    ending = attrs.evolve(links[2].ending, root=bytes(32)).encode()
    forged = attrs.evolve(links[2], certificate=attrs.evolve(links[2].certificate, body=ending))
    checked: list[int] = []
    genuine = chain.follow

    def counting(group: bytes, place: chain.Place, *more: Any) -> chain.Place:
        checked.append(place.configuration.epoch)
        return genuine(group, place, *more)

    monkeypatch.setattr("bftkit.channel.lineage.follow", counting)
    assert hears(replica, pack_control(ChainLinks((forged.encode(), forged.encode())))) == ["m1"]
    assert checked == [2]
    assert replica.stopped is None


def test_what_became_of_a_command_is_looked_up() -> None:
    world = group()
    world.switch()
    cross(world)
    lineage = world.replica("m0").succession_part.lineage
    assert lineage.begun_by(lineage.links[0].ending.command) == 1
    assert lineage.begun_by(bytes(32)) is None
    world.crash("m0")
    world.restart("m0")
    again = world.replica("m0").succession_part.lineage
    assert again.begun_by(lineage.links[0].ending.command) == 1
