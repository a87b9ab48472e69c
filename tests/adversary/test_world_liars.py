"""Members that lie, in a whole group with clients: what they can do is cost time."""

from __future__ import annotations

from typing import Any

import pytest

from bftkit.channel import frames
from bftkit.channel.bundles import OPEN, make_batch, parse_batch
from bftkit.channel.frames import (
    CONTROL_CODEC,
    BatchBytes,
    CheckpointProof,
    CheckpointVote,
    DecidedClaims,
    Status,
    pack_control,
    pack_protocol,
    unpack_protocol,
)
from bftkit.channel.interface import ReplicaOut, ReplicaSettings, Restored
from bftkit.channel.records import EPOCH_RECORD
from bftkit.channel.replica import Replica
from bftkit.core.machine import Broadcast, Effect, Out, Send
from bftkit.crypto.signed import Certificate
from bftkit.sim.adversaries import Honest, Liar, Silent
from bftkit.sim.links import Network
from bftkit.sim.world import World


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("liar", ["m0", "m2"])
def test_a_liar_that_equivocates_and_gives_wrong_replies(seed: int, liar: str) -> None:
    """FAULTS 20 and 33: agreement holds, clients are not fooled, the equivocation is proved."""
    world = World(seed)
    adversary = world.lie(liar, Liar)
    assert isinstance(adversary, Liar)
    world.load(60, keys=3)
    world.run(2_000)
    world.finish()
    assert adversary.counters.wrong_replies > 0
    if liar == "m0":
        assert adversary.counters.equivocations > 0
        assert any(whom == "m0" and fault == "equivocation" and proof for _, whom, fault, proof in world.blames)
        assert all(world.replica(member).machine.view > 0 for member in world.correct)


@pytest.mark.parametrize("members", [4, 7])
def test_f_members_that_lie_at_once(members: int) -> None:
    world = World(5, members=members)
    for index in range(world.quorum.f):
        world.lie(f"m{index}", Liar)
    world.load(40, keys=3)
    world.finish()


@pytest.mark.parametrize("seed", range(3))
def test_a_silent_leader_is_replaced(seed: int) -> None:
    world = World(seed)
    world.lie("m0", Silent)
    world.load(40, keys=3)
    world.run_until(lambda: world.outstanding == 0, 20_000, "all answered without the leader")
    assert all(world.replica(member).machine.view > 0 for member in world.correct)
    world.finish()


@pytest.mark.parametrize("seed", range(3))
def test_silence_towards_some_members_only(seed: int) -> None:
    """FAULTS 21: the leader speaks to two of the others; the third must learn what they decide."""
    world = World(seed)
    world.lie("m0", lambda settings: Silent(settings, frozenset({"m3"})))
    world.load(60, keys=3)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    world.finish()


@pytest.mark.parametrize("seed", range(2))
def test_a_leader_that_is_slow_on_purpose_is_replaced(seed: int) -> None:
    """FAULTS 31: just under the timeout, for ever."""
    world = World(seed)
    world.exempt("m0")
    world.slow("m0", 380, lambda frame: frame[0] == frames.PROTOCOL and frame[9] > 0)
    world.load(300, keys=4, pipeline=8)
    world.run_until(lambda: all(world.replica(m).machine.view > 0 for m in world.correct), 60_000, "a new leader")
    world.finish()


class Unfair(Honest):
    """Hears nothing of one client, not even what other members forward."""

    def __init__(self, settings: Any, victim: bytes) -> None:
        super().__init__(settings)
        self.victim = victim
        self.ignored = 0

    def incoming(self, sender: str, frame: bytes) -> bytes | None:
        if frame[:1] == bytes((frames.BUNDLE,)) and frame[2:34] == self.victim:
            self.ignored += 1
            return None
        return frame


def test_a_leader_that_is_unfair_to_one_client_is_replaced() -> None:
    """The others keep it busy, so no timeout of the protocol itself would ever end."""
    world = World(3, clients=3, interval=4, window=8)
    victim = world.actors["c0"]
    adversary = world.lie("m0", lambda settings: Unfair(settings, victim.public))
    assert isinstance(adversary, Unfair)
    world.partition(["m0"], ["c0"])  # nor does it take the client's own frames
    world.actors["c0"].put(b"k0")
    for _ in range(60):
        for name in ("c1", "c2"):
            world.actors[name].put(b"k1")
        world.run(100)
        if victim.outstanding == 0:
            break
    assert victim.outstanding == 0
    assert adversary.ignored > 0
    world.finish()


@pytest.mark.parametrize("window", [8, 256])
def test_a_leader_that_serves_its_friends_only_is_replaced_however_large_the_window(window: int) -> None:
    """FAULTS 31: what it orders never waited at the others, and what waits there it never orders."""
    world = World(3, clients=3, interval=window // 2, window=window)
    victim = world.actors["c0"]
    world.lie("m0", lambda settings: Unfair(settings, victim.public))
    world.partition(["m0"], ["c0"])
    victim.put(b"k0")
    for _ in range(80):
        for name in ("c1", "c2"):
            world.actors[name].put(b"k1")
        world.run(100)
    assert victim.outstanding == 0
    assert all(world.replica(member).machine.view == 1 for member in world.correct)
    world.finish()


@pytest.mark.parametrize("seed", range(2))
def test_an_honest_leader_under_load_is_not_taken_for_an_unfair_one(seed: int) -> None:
    """Although one client reaches it by way of the others only."""
    world = World(seed, clients=3, interval=128, window=256)
    world.partition(["m0"], ["c0"])
    for _ in range(60):
        world.actors["c0"].put(b"k0")
        for name in ("c1", "c2"):
            for _ in range(8):
                world.actors[name].put(b"k1")
        world.run(100)
    assert all(world.replica(member).machine.view == 0 for member in world.members)
    assert world.replica("m1").applied > 32
    world.finish()


class Withholds(Honest):
    """Leads with digests only, and never hands over the bytes (FAULTS 27)."""

    withheld = 0

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        changed: ReplicaOut = Out()
        effects: list[Effect[bytes, Any]] = changed.effects
        for effect in out.effects:
            match effect:
                case Broadcast(frame) if frame[:1] == bytes((frames.PROTOCOL,)):
                    effects.append(Broadcast(self._strip(frame)))
                case Send(to, frame) if frame[:1] == bytes((frames.PROTOCOL,)):
                    effects.append(Send(to, self._strip(frame)))
                case Send(_, frame) if frame[:1] == bytes((frames.CONTROL,)):
                    if not isinstance(CONTROL_CODEC.decode(frame[1:]), BatchBytes):
                        effects.append(effect)
                case _:
                    effects.append(effect)
        return changed

    def _strip(self, frame: bytes) -> bytes:
        epoch, message, carried = unpack_protocol(frame)
        self.withheld += len(carried)
        return pack_protocol(epoch, message, [])


@pytest.mark.parametrize("seed", range(2))
def test_batches_that_are_withheld_cost_the_leader_its_place(seed: int) -> None:
    world = World(seed)
    adversary = world.lie("m0", Withholds)
    assert isinstance(adversary, Withholds)
    world.load(30, keys=3)
    world.run_until(lambda: world.outstanding == 0, 30_000, "all answered")
    assert adversary.withheld > 0
    world.finish()


class Exaggerates(Honest):
    """Claims, votes and positions that are not true, for slots near and far (FAULTS 22, 25 and 29)."""

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        changed: ReplicaOut = Out()
        for effect in out.effects:
            changed.effects.append(effect)
        applied = replica.applied
        for slot in (applied + 1, applied + 5, 1 << 40):
            lie = bytes((slot % 251,)) * 32
            body = frames.checkpoint_body(slot, lie)
            signature = self.settings.keyring.sign(frames.CHECKPOINT_PURPOSE, body)
            changed.broadcast(pack_control(DecidedClaims(0, slot, (lie,) * 20)))
            changed.broadcast(pack_control(CheckpointVote(0, slot, lie, signature)))
        if len(replica.history) > 2:
            # True batches, each claimed one slot too early: they can be fetched, so only the count of claims protects.
            slots = sorted(replica.history)
            names = tuple(replica.history[slot] for slot in slots[1:])
            changed.broadcast(pack_control(DecidedClaims(0, slots[0], names)))
        changed.broadcast(pack_control(Status(0, 1 << 40, 1 << 40, 9)))
        return changed


@pytest.mark.parametrize("seed", range(2))
def test_claims_and_checkpoints_of_one_member_alone_move_nobody(seed: int) -> None:
    world = World(seed, interval=4, window=8, network=Network(loss=0.1))
    world.lie("m1", Exaggerates)
    world.load(40, keys=3)
    world.run(1_000)
    world.crash("m3")
    world.run(1_000)
    world.restart("m3")
    world.load(20, keys=3)
    world.finish()
    for member in world.correct:
        replica = world.replica(member)
        assert replica.checkpoints.stable <= replica.applied < 1 << 20
        held = sum(len(votes) for votes in replica.checkpoints.votes.values())
        assert held <= 8 * len(world.members)


class Babbles(Honest):
    """Sends rubbish of every kind of frame to everybody (oracle X)."""

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        changed: ReplicaOut = Out()
        changed.effects.extend(out.effects)
        for kind in (0, 1, 2, 3, 16, 17, 255):
            size = (replica.applied * 7 + kind * 13) % 90
            changed.broadcast(bytes((kind,)) + bytes((index * 31 + size) % 256 for index in range(size)))
        changed.broadcast(b"")
        return changed


def test_rubbish_is_refused_counted_and_attributed() -> None:
    world = World(1)
    world.lie("m2", Babbles)
    world.load(20, keys=3)
    world.run(500)
    world.finish()
    assert {whom for _, whom, _, _ in world.blames} == {"m2"}
    assert world.replica("m0").counters.refused_frames > 100


class Forger(Liar):
    """Leads with batches of operations that no client signed, the same version to everybody."""

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self._deceived = frozenset(settings.members)

    def _other_batch(self, raw: bytes) -> bytes:
        time_ms, bundles = parse_batch(raw, bundle_bytes_max=len(raw))
        if any(bundle.kind == OPEN for bundle in bundles):
            return raw
        forged = [bytearray(bundle.raw) for bundle in bundles]
        for bundle in forged:
            bundle[-65] ^= 1  # the last byte of the last operation, or of a clock report
        return make_batch(time_ms, [bytes(bundle) for bundle in forged])


@pytest.mark.parametrize("seed", range(2))
def test_operations_that_no_client_signed_are_never_voted_for(seed: int) -> None:
    """SAFETY rule 4: every member judges alike, and before its vote."""
    world = World(seed)
    adversary = world.lie("m0", Forger)
    assert isinstance(adversary, Forger)
    world.load(30, keys=3)
    world.run_until(lambda: world.outstanding == 0, 30_000, "all answered")
    assert adversary.counters.equivocations > 0
    assert all(world.replica(member).machine.view > 0 for member in world.correct)
    world.finish()


@pytest.mark.parametrize("seed", range(2))
def test_one_member_alone_cannot_tell_a_laggard_what_was_decided(seed: int) -> None:
    """SAFETY rule 17: f + 1 equal claims, and nothing less."""
    world = World(seed, interval=64, window=128)
    world.lie("m1", Exaggerates)
    world.load(20, keys=3, pipeline=1)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    world.crash("m3")
    world.load(40, keys=3, pipeline=1)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    world.cut("m0", "m3")  # the liar is heard first
    world.slow("m2", 150)
    world.restart("m3")
    world.run(3_000)
    world.finish()


def test_a_forged_proof_of_the_state_that_an_epoch_begins_with_makes_nobody_silent() -> None:
    """SAFETY rule 16: whose saved states are lost believes no signatures of its own that nobody checked."""
    world = World(1, "pbft", 4, 1, reconfigurable=True, clients=2, interval=4, window=8)
    world.load(8)
    world.run(80)
    world.crash("m3")
    world.switch()
    world.run_until(lambda: all(world.replica(name).settings.epoch == 1 for name in ("m0", "m1", "m2")), 20_000)
    link = world.replica("m0").succession_part.links[0]
    lost = Replica(world.hosts["m3"].settings, world.make_application("m3"))
    out: ReplicaOut = Out()
    lost.on_restore(Restored([EPOCH_RECORD + link.encode()], links=[link.encode()]), out)
    lost.on_start(out)
    forged = Certificate.of(link.certificate.body, dict.fromkeys(("m3", "nobody", "none"), bytes(64)))
    lost.on_message("m1", pack_control(CheckpointProof(1, forged)), out)
    assert lost.stopped is None
    assert not lost.silent
    assert lost.catchup.transfer is not None
    assert set(lost.catchup.transfer.sources) == {"m0", "m1", "m2"}
