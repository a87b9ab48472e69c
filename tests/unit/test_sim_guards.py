"""Each guard sees the bug that it is there for, planted into the real code; and a sound group alarms none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from bftkit.blocks import bedrock_messages as bed
from bftkit.channel import frames
from bftkit.channel.agreed_time import AgreedClock, Report
from bftkit.channel.application import Context
from bftkit.channel.batches import StoredBatch
from bftkit.channel.checkpoints import Checkpoints
from bftkit.channel.frames import CheckpointVote, pack_control
from bftkit.channel.interface import ReplicaOut, Restored
from bftkit.channel.replica import Replica
from bftkit.channel.sessions import Session
from bftkit.core.machine import Digest, MemberId, Record, Slot
from bftkit.core.ordering import Decided
from bftkit.crypto.signed import Certificate
from bftkit.membership.chain import Ending
from bftkit.service.keyvalue import KeyValueStore, get
from bftkit.sim.checkers import Violation, Watched
from bftkit.sim.disk import Disk
from bftkit.sim.holding import _Reader  # pyright: ignore[reportPrivateUsage]
from bftkit.sim.host import Host
from bftkit.sim.workloads import PoisonedStore, poison
from bftkit.sim.world import World
from bftkit.storage.log import Log
from bftkit_coordinator.machine import Coordinator
from bftkit_pbft import messages, restart


def found(world: World, oracle: str, text: str, before: Callable[[], None] | None = None) -> None:
    """The world finds this, and nothing else first."""

    def to_the_end() -> None:
        if before is not None:
            before()
        world.run(4000)
        world.finish()

    with pytest.raises(Violation) as caught:
        to_the_end()
    assert (caught.value.oracle, text in caught.value.short) == (oracle, True), caught.value.short


# ------------------------------------------------------------------------------------------ durability


def test_a_coordinator_that_answers_for_one_disk_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: c members hold what is acknowledged, and not c + 1 (SAFETY rule 24)."""

    def decide(self: Coordinator, out: Any) -> None:
        self.log.committed = max(self.log.committed, self.log.held)
        for slot, digest in self.log.deliverable(None):
            out.deliver(Decided(slot, digest))

    monkeypatch.setattr(Coordinator, "_decide", decide)
    world = World(1, "coordinator", members=3)
    world.run(200)
    world.partition(("m0", "c0", "c1", "c2"), ("m1", "m2"))
    world.load(20)
    found(world, "durability", "2 correct members must hold durably; m0 does")


class NeverSyncs(Host):
    """Lets frames go before their records are on the disk."""

    def must_sync(self, gated: bool) -> bool:
        return False


@pytest.mark.parametrize("protocol", ["pbft", "coordinator"])
def test_members_that_speak_before_they_write(protocol: str) -> None:
    """Planted: no sync in front of what is sent (SAFETY rule 5)."""
    world = World(1, protocol, host=NeverSyncs)
    world.load(20)
    found(world, "durability", "must hold durably; nobody does")


def test_certificates_that_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: PBFT commits without a durable prepared certificate."""
    encode = messages.RECORDS.encode

    def forget(message: Any) -> bytes:
        if isinstance(message, messages.Prepared):
            message = messages.Settled(0)
        return encode(message)

    monkeypatch.setattr(messages.RECORDS, "encode", forget)
    world = World(1)
    world.load(20)
    found(world, "durability", "must hold durably; nobody does")


# ------------------------------------------------------------------------------------------ checkpoints and time


def test_checkpoints_that_too_few_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: f + 1 votes make a checkpoint stable, for everybody (SAFETY rule 1)."""
    sizes: list[int] = []

    def certificate(self: Checkpoints, slot: int) -> tuple[Digest, Certificate] | None:
        votes = self.votes.get(slot, {})
        sizes.append(len(votes))
        if len(votes) < self.quorum.weak:
            return None
        root = next(iter(votes.values()))[0]
        return root, Certificate.of(
            frames.checkpoint_body(slot, root), {member: vote[1] for member, vote in votes.items()}
        )

    monkeypatch.setattr(Checkpoints, "certificate", certificate)
    world = World(1, interval=2, window=8)
    world.load(60)
    found(world, "checkpoints", "signed it: 3 must")


def test_a_signature_that_nobody_made_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: votes for checkpoints are taken unread, and one member's are no signatures."""

    def unread(self: Any, sender: MemberId, vote: frames.CheckpointVote, out: ReplicaOut) -> None:
        signature = bytes(64) if sender == "m2" else vote.signature
        if self._replica.checkpoints.add_vote(sender, vote.slot, vote.root, signature):
            self._try_stable(vote.slot, out)

    monkeypatch.setattr("bftkit.channel.settling.Settling.on_vote", unread)
    world = World(1, interval=2, window=8)
    world.load(60)
    found(world, "checkpoints", "signed it: 3 must")


@pytest.mark.parametrize("protocol", ["pbft", "coordinator"])
def test_a_leader_that_sets_the_time_alone(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a slot's time is its proposal (SAFETY rule 11)."""

    def settle(self: AgreedClock, proposal_ms: int) -> int:
        self.now_ms = max(self.now_ms, proposal_ms)
        return self.now_ms

    monkeypatch.setattr(AgreedClock, "settle", settle)
    world = World(1, protocol)
    world.load(60)
    found(world, "agreed-time", "by proposals and reports it is at")


def test_reports_of_a_clock_that_is_not_the_members_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: all members report a time that no clock shows; the arithmetic alone is content with that."""
    monkeypatch.setattr(AgreedClock, "report", _report_ahead)
    world = World(1)

    def work_out(slot: Slot, batch: StoredBatch | None) -> None:
        """No arithmetic."""

    monkeypatch.setattr(world.guards.times, "_work_out", work_out)
    world.load(60)
    found(world, "agreed-time", "no right clock is beyond")


def _report_ahead(self: AgreedClock, member: MemberId, counter: int, time_ms: int) -> bool:
    self.reports[member] = Report(counter, time_ms + 5000)
    return True


# ------------------------------------------------------------------------------------------ what members say


@pytest.mark.parametrize("protocol", ["pbft", "coordinator"])
def test_a_member_that_takes_part_although_it_forgot(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: an empty disk is taken for a new member's (SAFETY rule 16)."""
    on_restore = Replica.on_restore

    def careless(self: Replica, restored: Restored, out: ReplicaOut) -> None:
        on_restore(self, attrs.evolve(restored, amnesic=False), out)
        self.silent = False

    monkeypatch.setattr(Replica, "on_restore", careless)
    world = World(1, protocol)
    world.load(30)
    world.run(300)
    world.crash("m1")
    world.wipe("m1")
    world.restart("m1")
    world.load(30)
    found(world, "durability", "m1 lost its disk in this epoch and sends")


def test_a_member_that_forgets_that_it_forgot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the remark in the new log is not read at the second start."""
    on_restore = Replica.on_restore

    def careless(self: Replica, restored: Restored, out: ReplicaOut) -> None:
        on_restore(self, restored, out)
        self.silent = restored.amnesic

    monkeypatch.setattr(Replica, "on_restore", careless)
    world = World(1)
    world.load(30)
    world.run(300)
    world.crash("m1")
    world.wipe("m1")
    world.restart("m1")
    world.run(500)
    world.crash("m1")
    world.restart("m1")
    world.load(30)
    found(world, "durability", "m1 lost its disk in this epoch and sends")


@pytest.mark.parametrize("entered", [False, True])
def test_who_forgot_before_its_new_keys_were_used_may_use_them(entered: bool) -> None:
    """Found by `mixed`, paxos, seed 1016: the member was behind the group when its disk went."""
    world = World(1, "paxos", 4, reconfigurable=True)
    world.load(30)
    world.run(300)
    if not entered:
        world.crash("m1")
    world.switch(rotate=("m1",))
    world.load(30)
    world.run_until(lambda: world.chain.now.epoch == 1, 8000, "the next epoch")
    world.run(500)
    if entered:
        world.crash("m1")
    world.wipe("m1")
    world.restart("m1")
    world.load(30)
    world.finish()
    assert world.replica("m1").silent == entered, "what it signed with the new keys may still be under way"
    world.guards.speech.said("m1", pack_control(CheckpointVote(1, 1000, bytes(32), bytes(64))))
    alarms = ["m1 lost its disk in this epoch and sends a checkpoint vote (SAFETY rule 16)"] if entered else []
    assert [one.text for one in world.recorder.violations] == alarms


def test_a_leader_that_forgets_its_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: PBFT restores nothing but the view after a restart (SAFETY rule 5)."""
    restore = restart.restore

    def forget(machine: Any, records: Sequence[Record]) -> None:
        kept = [record for record in records if not isinstance(messages.RECORDS.decode(record), _VOTES)]
        restore(machine, kept)

    monkeypatch.setattr(restart, "restore", forget)
    world = World(1)

    def cuts() -> None:
        for _ in range(20):
            world.load(10)
            world.run(30)
            world.power_cut()
            world.restart(*world.members)

    found(world, "agreement", "contradicts itself: PrePrepare", cuts)


_VOTES = (messages.Voted, messages.Prepared, messages.Settled)


def test_a_checkpoint_vote_that_is_taken_back() -> None:
    """Two votes for one slot, in two lives."""
    world = World(1)
    for root in (b"a" * 32, b"b" * 32):
        vote = frames.CheckpointVote(0, 8, root, bytes(64))
        world.send(world.hosts["m1"], ("m2",), frames.pack_control(vote))
    assert [str(finding).partition(":")[0] for finding in world.recorder.violations] == ["agreement"]


def in_epoch_1(protocol: str = "pbft", members: int = 4) -> World:
    """A group that has gone on once, as planned."""
    world = World(1, protocol, members, reconfigurable=True)
    world.load(20)
    world.run(300)
    world.switch()
    world.run_until(
        lambda: all(world.replica(name).settings.epoch == 1 for name in world.members), 20_000, "the next epoch"
    )
    return world


def ending_vote(epoch: int, next_one: bytes) -> bytes:
    """A frame that says how this epoch ends."""
    ending = Ending(epoch, 800, bytes(32), next_one, bytes(32))
    return pack_control(frames.EndingVote(ending.encode(), bytes(64)))


def test_a_member_that_ends_an_epoch_twice() -> None:
    """SAFETY rule 21: two endings are two groups. Its own two lives may not say so, be it that nobody else agrees."""
    world = in_epoch_1()
    said = world.guards.speech.said
    said("m1", ending_vote(1, b"a" * 32))
    said("m1", ending_vote(1, b"a" * 32))
    said("m2", ending_vote(1, b"b" * 32))
    said("m1", ending_vote(2, b"b" * 32))
    assert world.recorder.violations == []
    said("m1", ending_vote(1, b"b" * 32))
    assert [one.text.partition(":")[0] for one in world.recorder.violations] == ["m1 contradicts itself"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (bed.Offer(b"a"), bed.Offer(b"b")),
        (bed.Accept(3, b"a" * 32, False, b""), bed.Accept(3, b"b" * 32, False, b"")),
        (bed.Vote(3, b"a" * 32, bytes(64)), bed.Vote(3, b"b" * 32, bytes(64))),
    ],
    ids=["offer", "accept", "vote"],
)
def test_a_member_that_says_two_things_about_the_end(one: bed.Message, other: bed.Message) -> None:
    """The agreement on the ending is guarded as the protocol is (SAFETY rules 5, 16 and 21)."""
    world = in_epoch_1()

    def says(member: MemberId, epoch: int, message: bed.Message) -> None:
        world.guards.speech.said(member, pack_control(frames.BedrockMessage(epoch, bed.CODEC.encode(message))))

    says("m1", 1, one)
    says("m1", 1, one)
    says("m1", 0, other)
    says("m2", 1, other)
    assert world.recorder.violations == []
    says("m1", 1, other)
    assert [one.text.partition(":")[0] for one in world.recorder.violations] == ["m1 contradicts itself"]


@pytest.mark.parametrize(
    "frame",
    [
        pack_control(frames.Wedged(1, b"", bytes(64))),
        pack_control(frames.BedrockMessage(1, bed.CODEC.encode(bed.Offer(b"a")))),
        ending_vote(1, b"a" * 32),
    ],
    ids=["report", "offer", "ending"],
)
def test_who_forgot_says_nothing_about_the_end(frame: bytes) -> None:
    """Planted by hand (SAFETY rule 16): a report of it would hide what it helped to decide."""
    world = in_epoch_1()
    world.load(20)
    world.run(300)
    world.guards.speech.said("m2", frame)
    assert world.recorder.violations == []
    world.crash("m1")
    world.wipe("m1")
    world.guards.speech.said("m1", frame)
    assert [one.text.partition(" sends")[0] for one in world.recorder.violations] == [
        "m1 lost its disk in this epoch and"
    ]


def test_a_hand_over_that_is_exchanged_for_another_one() -> None:
    """As many as before, and not the same (SAFETY rule 21)."""
    world = in_epoch_1()
    replica = world.replica("m1")
    links = replica.succession_part.links
    ending = attrs.evolve(links[0].ending, root=b"x" * 32)
    links[0] = attrs.evolve(links[0], certificate=attrs.evolve(links[0].certificate, body=ending.encode()))
    assert links[0].ending == ending
    world.chain.look(world.hosts["m1"], replica)
    assert [str(one).partition(" ")[0] for one in world.recorder.violations] == ["agreement:"]


def test_who_is_no_member_halts_because_it_was_taken_out_and_for_no_other_reason() -> None:
    """One that is to join is as correct as the members are."""
    world = World(1, reconfigurable=True, spares=1)
    world.run(100)
    host = world.hosts["m4"]
    world.replica("m4").removed = True
    world.on_halted(host, "it was taken out")
    assert world.recorder.violations == []
    world.replica("m4").removed = False
    world.on_halted(host, "its state differs")
    assert [one.oracle for one in world.recorder.violations] == ["halting"]


def test_a_disk_that_was_taken_away_excuses_its_member_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a coordinator that answers for one disk too few, long after another member has lost its own."""
    world = World(1, "coordinator", members=3)
    world.load(30)
    world.run(300)
    world.crash("m1")
    world.wipe("m1")
    world.restart("m1")
    for _ in range(8):
        world.load(40)
        world.run(400)

    def decide(self: Coordinator, out: Any) -> None:
        self.log.committed = max(self.log.committed, self.log.held)
        for slot, digest in self.log.deliverable(None):
            out.deliver(Decided(slot, digest))

    monkeypatch.setattr(Coordinator, "_decide", decide)
    world.partition(("m0", "c0", "c1", "c2"), ("m1", "m2"))
    world.load(20)
    found(world, "durability", "2 correct members must hold durably; m0 does")


def test_a_disk_that_lied_in_the_place_of_one_that_was_taken_away_excuses_its_member_for_good() -> None:
    """No false alarm: what such a disk was given after the loss may be gone, too."""
    reader = _Reader(Disk(), excused_up_to=5)
    reader.go_on(set())
    assert not reader.excused
    reader.disk.directory.lying = True
    reader.go_on(set())
    assert reader.excused


def test_nothing_is_said_of_members_that_lie() -> None:
    """The same of a liar is none of the guard's business."""
    world = World(1)
    world.exempt("m1")
    for root in (b"a" * 32, b"b" * 32):
        vote = frames.CheckpointVote(0, 8, root, bytes(64))
        world.send(world.hosts["m1"], ("m2",), frames.pack_control(vote))
    assert world.recorder.violations == []


# ------------------------------------------------------------------------------------------ outcomes, poison


def test_requests_that_are_given_up_without_a_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a session's window ends too early (SAFETY rule 9)."""

    def in_window(self: Session, low: int, end: int, window: int) -> bool:
        return end <= 9

    monkeypatch.setattr(Session, "in_window", in_window)
    world = World(1)
    world.load(60)
    found(world, "exactly-once", "and there is no cause for it")


def test_poison_changes_something_and_raises() -> None:
    """What stands under the key is gone unless somebody takes it back."""
    store = PoisonedStore()
    store.mark()
    with pytest.raises(ValueError, match="poison"):
        store.apply(poison(b"k", b"v"), Context(b""))
    assert store.read(get(b"k")) == b"+v"
    store.undo(None)
    assert store.read(get(b"k")) == b"-"
    with pytest.raises(ValueError, match="no operation"):
        KeyValueStore().apply(poison(b"k", b"v"), Context(b""))


def test_partial_changes_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: no member takes back what a failed operation changed (SAFETY rule 10)."""

    def undo(self: Watched, mark: object) -> None:
        """Leave it all there."""

    monkeypatch.setattr(Watched, "undo", undo)
    world = World(1)
    world.load(80, keys=2, poison=0.3)
    found(world, "linearizability", "")


# ------------------------------------------------------------------------------------------ no false alarms


@pytest.mark.parametrize("protocol", ["pbft", "coordinator"])
def test_a_group_that_is_sound_alarms_nobody(protocol: str) -> None:
    """Crashes of all kinds, an empty disk, clocks that are wrong."""
    world = World(3, protocol, members=4, interval=4, window=16, segment_bytes=4096)
    for step in range(6):
        world.load(30)
        world.run(150)
        world.crash(f"m{step % 4}", power=step % 2 == 0)
        world.jump_clock(f"m{step % 4}", 60_000 * (-1) ** step)
        world.run(200)
        world.restart(f"m{step % 4}")
    world.power_cut()
    world.restart(*world.members)
    world.crash("m3")
    world.wipe("m3")
    world.restart("m3")
    world.load(30)
    world.finish()
    assert world.recorder.acknowledged_up_to > 10
    assert world.guards.holding.active


def test_a_frame_that_says_nothing_is_passed_over() -> None:
    """Guards raise nothing themselves, whatever leaves a member."""
    world = World(1)
    host = world.hosts["m1"]
    for frame in (b"", b"\x01", b"\x01" + bytes(9) + b"\xff", b"\x03\x02"):
        world.guards.said(host, frame)
    assert world.recorder.violations == []


def test_a_segment_that_the_log_does_not_have_says_nothing() -> None:
    """A member that dies while a segment is begun leaves bytes of it: it begins it anew, in the epoch before."""
    world = World(3, "paxos", 3, clients=2)
    world.load(10)
    world.run(100)
    host = world.hosts["m1"]
    copied = host.disk.copy().directory
    log, _ = Log.open(copied, group=host.settings.group, identity=host.settings.clock_key.public)
    log.rotate([bytes((5,)) + bytes(700)])  # the record of a hand-over that is none
    (name,) = set(copied.names()) - set(host.disk.directory.names())
    host.disk.directory.write(name, copied.read(name))
    world.load(30)
    world.run(400)
    world.finish()
