"""Members that are behind, have forgotten, or have gone astray: state transfer, amnesia, rollback, divergence."""

from __future__ import annotations

from typing import Any

import pytest

from bftkit.channel import frames
from bftkit.channel.application import Context
from bftkit.channel.frames import (
    CONTROL_CODEC,
    BatchBytes,
    BatchRequest,
    Chunk,
    Control,
    DecidedClaims,
    Manifest,
    pack_control,
)
from bftkit.channel.interface import ReplicaOut
from bftkit.channel.replica import Replica
from bftkit.core.machine import Broadcast, Effect, Out, Send
from bftkit.service.keyvalue import KeyValueStore
from bftkit.sim.adversaries import Honest
from bftkit.sim.host import FromMember
from bftkit.sim.links import Handle, Network
from bftkit.sim.workloads import EmptyLoad
from bftkit.sim.world import World

GROUPS = [("pbft", 4), ("coordinator", 3), ("paxos", 3)]
groups = pytest.mark.parametrize(("protocol", "members"), GROUPS)


def answer_all(world: World) -> None:
    """Run until the clients wait for nothing."""
    world.run_until(lambda: world.outstanding == 0, 60_000)


def leave_behind(world: World, member: str, slots: int) -> None:
    """The member is down until the others have cut the log that it would need."""
    world.crash(member)
    other = next(name for name in world.members if name != member)
    while world.replica(other).applied < slots:
        world.load(12, keys=6, poison=0.0, pipeline=1)
        world.run_until(lambda: world.outstanding == 0, 60_000)
    world.run(300)
    assert 1 not in world.replica(other).history, "the first slots are forgotten"


@groups
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "under load"])
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_a_laggard_fetches_the_state(protocol: str, members: int, busy: bool, loss: float) -> None:
    """SAFETY rule 18: with or without new slots, and over a bad network."""
    world = World(7, protocol, members, interval=4, window=8, network=Network(loss=loss))
    last = world.members[-1]
    leave_behind(world, last, 24)
    world.restart(last)
    if busy:
        world.load(40, keys=6, pipeline=1)
    world.run_until(
        lambda: world.replica(last).applied >= world.replica("m0").applied - 4, 60_000, f"{last} is up to date"
    )
    assert world.replica(last).counters.transfers > 0
    world.finish()


class BadChunks(Honest):
    """Serves states that are not the certified ones."""

    def __init__(self, settings: Any, *, manifests: bool = False) -> None:
        super().__init__(settings)
        self.spoilt = 0
        self._manifests = manifests

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        changed: ReplicaOut = Out()
        effects: list[Effect[bytes, Any]] = changed.effects
        for effect in out.effects:
            match effect:
                case Send(to, frame) if frame[:1] == bytes((frames.CONTROL,)):
                    effects.append(Send(to, self._spoil(frame)))
                case _:
                    effects.append(effect)
        return changed

    def _spoil(self, frame: bytes) -> bytes:
        message = CONTROL_CODEC.decode(frame[1:])
        if isinstance(message, Chunk):
            self.spoilt += 1
            return pack_control(Chunk(message.slot, message.index, message.data + b"!"))
        if isinstance(message, Manifest) and self._manifests:
            self.spoilt += 1
            return pack_control(Manifest(message.certificate, (*message.leaves, bytes(32))))
        return frame


@pytest.mark.parametrize("manifests", [False, True], ids=["chunks", "manifest"])
def test_a_source_that_serves_rubbish_is_blamed_and_replaced(manifests: bool) -> None:
    """FAULTS 26. Whichever member the laggard asks first, it ends with the certified state."""
    spoilt = blamed = 0
    for seed, liar in enumerate(("m0", "m1", "m2")):
        world = World(seed, interval=4, window=8)
        leave_behind(world, "m3", 24)
        adversary = world.lie(liar, lambda settings: BadChunks(settings, manifests=manifests))
        assert isinstance(adversary, BadChunks)
        world.restart("m3")
        world.finish()
        spoilt += adversary.spoilt > 0
        faults = [fault for who, whom, fault, _ in world.blames if (who, whom) == ("m3", liar)]
        blamed += any("not the certified one" in fault for fault in faults)
    assert spoilt > 0
    assert blamed == spoilt


@groups
def test_a_source_that_dies_under_the_transfer_is_replaced(protocol: str, members: int) -> None:
    world = World(9, protocol, members, interval=4, window=8)
    last = world.members[-1]
    leave_behind(world, last, 24)
    world.slow("m1", 100_000)  # m1 is named as a source, and says nothing any more
    world.restart(last)
    world.run_until(lambda: world.replica(last).applied >= world.replica("m0").applied, 60_000)
    world.finish()


@groups
@pytest.mark.parametrize("seed", range(3))
def test_known_amnesia_is_silent_and_follows(protocol: str, members: int, seed: int) -> None:
    """SAFETY rule 16: an empty disk has forgotten its promises, so its member promises nothing any more."""
    world = World(seed, protocol, members, interval=4, window=8)
    last = world.members[-1]
    world.load(40, keys=3)
    world.run(400)
    world.crash(last)
    world.wipe(last)
    world.run(10_000)  # whatever it had sent has arrived
    said: list[int] = []
    world.observers.append(lambda sender, receiver, frame: said.append(frame[0]) if sender == last else None)
    world.restart(last)
    world.load(40, keys=3)
    world.run(500)
    # Again: the remark that it is amnesic must have reached the new disk.
    world.crash(last)
    world.restart(last)
    world.finish()
    world.run(3_000)
    assert world.replica(last).silent
    assert set(said) == {frames.CONTROL}
    assert world.replica(last).applied == world.replica("m0").applied
    assert world.replica(last).checkpoints.stable == world.replica("m0").checkpoints.stable


def test_a_disk_that_was_rolled_back_is_noticed() -> None:
    """SAFETY rule 16: a member that sees its own vote on something that it does not know stops.

    A certificate holds q votes of n, so it may be without this member's; then it counts towards f like a liar, and
    nobody else suffers.
    """
    noticed = 0
    for seed in range(4):
        world = World(seed, interval=4, window=8)
        world.load(20, keys=3, pipeline=1)
        answer_all(world)
        old = world.disk_of("m3")
        world.load(60, keys=3, pipeline=1)
        answer_all(world)
        world.exempt("m3")  # from now on it counts towards f
        world.crash("m3")
        world.restart("m3", disk=old)
        world.load(20, keys=3)
        world.finish()
        noticed += "rolled back" in world.halts.get("m3", "")
    assert noticed > 0


class Diverging(KeyValueStore):
    """An application that breaks the rule: what it does depends on which member runs it."""

    def __init__(self, own: bytes) -> None:
        super().__init__()
        self._own = own

    def apply(self, operation: bytes, context: Context) -> bytes:
        result = super().apply(operation, context)
        if context.slot == 5 and self._own:
            super().apply(b"P\0\1?" + self._own, context)
        return result


@pytest.mark.parametrize("seed", range(2))
def test_a_member_whose_state_differs_stops_and_the_others_go_on(seed: int) -> None:
    world = World(
        seed,
        interval=4,
        window=8,
        application=lambda member: Diverging(b"mine" if member == "m2" else b""),
    )
    world.exempt("m2")
    world.load(60, keys=3, poison=0.0)
    world.finish()
    assert "differs from the quorum's at slot 8" in world.halts["m2"]
    assert set(world.halts) == {"m2"}


def test_without_a_quorum_for_any_digest_everybody_stops_at_that_slot() -> None:
    """SAFETY rule 14: two against two. They name the slot, rather than run on."""
    world = World(
        2,
        interval=4,
        window=8,
        application=lambda member: Diverging(b"odd" if member in ("m1", "m3") else b""),
    )
    world.expected_halts.update(world.members)
    world.load(60, keys=3, poison=0.0)
    world.run(5_000)
    assert set(world.halts) == set(world.members)
    assert all("states differ at slot 8" in reason for reason in world.halts.values())
    assert max(world.replica(member).applied for member in world.members) <= 16


@groups
def test_stable_checkpoints_survive_lost_votes(protocol: str, members: int) -> None:
    """Votes are sent once, and when they are all lost, again: or the window would never open (regression)."""
    world = World(8, protocol, members, interval=4, window=8)
    dropped: list[int] = []

    class DropsVotes(Honest):
        def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
            kept: ReplicaOut = Out()
            for effect in out.effects:
                if isinstance(effect, Broadcast) and effect.message[:1] == bytes((frames.CONTROL,)):
                    message = CONTROL_CODEC.decode(effect.message[1:])
                    if isinstance(message, frames.CheckpointVote) and world.now < 1500:
                        dropped.append(message.slot)
                        continue
                kept.effects.append(effect)
            return kept

    for member in world.members:
        world.hosts[member].adversary = DropsVotes(world.hosts[member].settings)
    world.load(80, keys=3)
    world.run(1500)
    assert dropped
    assert all(world.replica(member).checkpoints.stable == 0 for member in world.members)
    world.finish()
    assert world.replica("m0").checkpoints.stable >= 8


@groups
def test_a_member_that_jumped_over_slots_helps_with_what_it_has(protocol: str, members: int) -> None:
    """Regression: its history has a gap, which a laggard's status must not run into."""
    world = World(6, protocol, members, interval=16, window=32)
    last = world.members[-1]
    world.load(3, keys=2, pipeline=1)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    world.run(500)
    world.partition([last], [*world.members[:-1], *world.actors])
    while world.replica("m0").applied < 50:
        world.load(6, keys=2, pipeline=1)
        world.run_until(lambda: world.outstanding == 0, 20_000)
    world.heal()
    replica = world.replica(last)
    world.run_until(lambda: replica.applied >= 50, 20_000, "the laggard is there")
    world.run(150)
    assert replica.counters.transfers > 0
    assert 2 in replica.history
    assert 20 not in replica.history
    claims: list[DecidedClaims] = []

    def watch(sender: str, receiver: str, frame: bytes) -> None:
        if (sender, receiver) == (last, "m1") and frame[0] == frames.CONTROL:
            message = CONTROL_CODEC.decode(frame[1:])
            if isinstance(message, DecidedClaims):
                claims.append(message)

    world.observers.append(watch)
    world.hosts[last].put(FromMember("m1", pack_control(frames.Status(0, 1, 0, 0))))
    world.run(100)
    assert [claim.first for claim in claims] == [2]
    world.finish()


def control_in(frame: bytes) -> Control | None:
    """The message, if it is one of the channel's own."""
    return CONTROL_CODEC.decode(frame[1:]) if frame[0] == frames.CONTROL else None


class Withholds(Honest):
    """Claims what was decided, and sends no batch to whoever asks."""

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        changed: ReplicaOut = Out()
        for effect in out.effects:
            if not (isinstance(effect, Send) and isinstance(control_in(effect.message), BatchBytes)):
                changed.effects.append(effect)
        return changed


@pytest.mark.parametrize(("protocol", "members", "f", "c"), [("paxos", 4, 0, 1), ("pbft", 4, 0, 1), ("pbft", 6, 1, 1)])
def test_who_claimed_first_is_gone_before_it_sent_the_batches(protocol: str, members: int, f: int, c: int) -> None:
    """Regression: bytes were asked for from the first f + 1 that claimed a slot, and never from those that came after.

    With f = 0 that is one member, which crashes; with f = 1 the other one of the two lies (SAFETY rule 17).
    """
    world = World(3, protocol, members, f, c, interval=4, window=8)
    first, *others, last = world.members
    liars, rest = others[:f], others[f:]
    for liar in liars:
        world.lie(liar, Withholds)

    def go_on_to(slot: int, *members: str) -> None:
        while world.replica(first).applied < slot:
            world.load(1, keys=2)
            answer_all(world)
        world.run_until(lambda: all(world.replica(name).checkpoints.stable == slot for name in members), 10_000)

    go_on_to(4, *world.members)
    world.crash(last)
    go_on_to(8, first, *others)  # the protocol has forgotten the slots between; the channel has not
    for member in rest:
        world.cut(member, last)
    slow = world.slow(last, 10_000, lambda frame: isinstance(control_in(frame), BatchRequest))
    world.restart(last)
    replica = world.replica(last)
    world.run_until(lambda: 5 in replica.catchup.learned, 20_000, f"{last} knows what was decided")
    world.crash(first)
    assert set(replica.catchup.claimers(5, replica.catchup.learned[5])) == {first, *liars}
    assert replica.applied == 4, "no bytes came"
    slow.end()
    for member in rest:
        world.uncut(member, last)
    world.run_until(lambda: replica.applied >= 8, 20_000, "the others sent them")
    world.load(12, keys=2)
    world.finish(without=[first])


def test_batches_are_not_asked_for_faster_than_a_slow_link_brings_them() -> None:
    """Regression: each was asked for again in every beat, and the copies buried what else was to come, for ever."""
    world = World(1, "paxos", 3, c=1, interval=64, window=128, clients=1, network=Network(delay_max=5))
    world.crash("m2")
    world.load(40, workload=lambda name: EmptyLoad(name, 16_000), pipeline=1)
    answer_all(world)
    sent = 0

    def count(sender: str, receiver: str, frame: bytes) -> None:
        nonlocal sent
        if receiver == "m2" and isinstance(control_in(frame), BatchBytes):
            sent += len(frame)

    world.observers.append(count)
    line = world.limit_bandwidth("m2", 256_000)  # 40 batches take 20 seconds
    world.restart("m2")
    replica = world.replica("m2")
    world.run_until(lambda: replica.applied == world.replica("m0").applied, 120_000, "m2 is up to date")
    line.end()
    assert sent < 12 * 40 * 16_000
    world.finish()


def test_an_older_state_will_do_if_who_showed_the_newest_is_gone() -> None:
    """Only m0 has the certificate of slot 12, and crashes for good; m1 needs the laggard's vote to come by one."""
    world = World(3, "paxos", 3, c=1, interval=4, window=8)

    def go_on_to(slot: int, *members: str) -> None:
        while world.replica("m0").applied < slot:
            world.load(1, keys=2)
            answer_all(world)
        world.run_until(lambda: all(world.replica(name).checkpoints.stable == slot for name in members), 10_000)

    def hold_back(member: str, kind: type[Control]) -> Handle:
        return world.slow(member, 1_000_000, lambda frame: isinstance(control_in(frame), kind))

    world.crash("m2")
    go_on_to(4, "m0", "m1")
    go_on_to(8, "m0", "m1")
    held = [hold_back("m0", frames.CheckpointVote), hold_back("m1", frames.Status), hold_back("m0", Manifest)]
    go_on_to(12, "m0")
    world.cut("m1", "m2")
    world.restart("m2")
    replica = world.replica("m2")
    world.run_until(lambda: replica.catchup.transfer is not None, 20_000, "m2 is on its way")
    assert replica.catchup.transfer is not None
    assert replica.catchup.transfer.slot == 12
    assert world.replica("m1").checkpoints.stable == 8
    world.crash("m0")
    for handle in held:
        handle.end()
    world.uncut("m1", "m2")
    world.load(20)
    world.finish(without=["m0"])
    assert world.replica("m1").checkpoints.stable >= 12


def test_a_member_that_is_behind_ends_no_session() -> None:
    """Regression: with f = 0 one refusal is final, and this member only did not know the session yet."""
    world = World(5, "coordinator", members=3, clients=1)
    client = world.actors["c0"]
    world.partition(["m2"], ["m0", "m1", "c0"])
    client.put(b"k0")
    world.run_until(lambda: world.outstanding == 0, 10_000)
    session = client.machine.session
    world.heal()
    world.cut("m0", "m2")
    world.cut("m1", "m2")
    world.cut("c0", "m0")
    client.put(b"k0")
    world.run_until(lambda: "behind" in client.machine.reasons(2).get("m2", ""), 3_000, "m2 refuses")
    world.run(3_000)
    assert client.machine.session == session
    assert client.told.unknown == 0
    world.finish()
    assert client.told.executed == 2
