"""The engine of the simulated world: each fault does what it says, and work takes the time that it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import attrs
import pytest

from bftkit.channel.frames import Status, pack_control
from bftkit.channel.interface import ClientLink, ReplicaOut, ReplicaSettings
from bftkit.channel.replica import Replica
from bftkit.core.machine import MemberId
from bftkit.network.framing import FRAME_BYTES_MAX
from bftkit.sim.adversaries import Honest
from bftkit.sim.checkers import Violation
from bftkit.sim.costs import Costs, Meter
from bftkit.sim.host import Host
from bftkit.sim.interpreter import HUB
from bftkit.sim.journal import DUE, HEARD, NOTE, PACKET, Journal
from bftkit.sim.keyring import KNOWN_MAX, Notary
from bftkit.sim.memory import RememberingCodec
from bftkit.sim.world import Network, World
from bftkit.storage.memory_files import MemoryDirectory
from bftkit_pbft.messages import CODEC, Prepare


def loaded(world: World, operations: int = 20, ticks: int = 60_000) -> World:
    world.load(operations, keys=3, poison=0.0)
    world.run_until(lambda: world.outstanding == 0, ticks, "all answered")
    return world


# ------------------------------------------------------------------------------------------------- processes


def test_a_paused_member_does_nothing_and_then_everything() -> None:
    world = loaded(World(1))
    world.pause("m3")
    rounds, beat = world.hosts["m3"].rounds, world.replica("m3").beat
    loaded(world)
    world.run(1_000)
    assert (world.hosts["m3"].rounds, world.replica("m3").beat) == (rounds, beat)
    assert world.hosts["m3"].waiting > 20
    behind = world.replica("m3").applied
    assert behind < world.replica("m0").applied
    world.resume("m3")
    world.resume("m3")
    world.run(500)
    assert world.hosts["m3"].waiting == 0
    assert world.replica("m3").applied == world.replica("m0").applied
    world.finish()


def test_a_paused_member_that_loses_power_is_as_good_as_any() -> None:
    world = loaded(World(2))
    world.pause("m0")
    world.run(100)
    world.crash("m0")
    world.restart("m0")
    assert not world.hosts["m0"].paused
    loaded(world)
    world.finish()


def test_a_crash_while_the_disk_is_written_counts() -> None:
    world = World(3)
    world.load(60, keys=3)
    injected = 0
    for _ in range(30):
        world.run(15)
        world.crash("m2", power=False)
        world.restart("m2")
        injected = world.injected[12]
    assert injected > 0
    world.finish()


def test_a_planned_power_cut_counts_and_may_tear_a_record() -> None:
    torn = 0
    for seed in range(8):
        world = World(seed)
        world.load(60, keys=3)
        world.run(100)
        world.cut_power_before("m1", 5 + seed)
        world.run(2_000)
        assert world.injected[12] >= 1
        assert not any(host.up for host in world.hosts.values())
        world.forget_planned_cut("m1")
        world.restart(*world.members)
        torn += world.injected[13]
        world.finish()
    assert torn > 0


@pytest.mark.parametrize("operation", range(1, 30, 3))
def test_a_process_can_be_killed_before_any_operation_of_its_disk(operation: int) -> None:
    """FAULTS 12: at every write and every sync, those of starting again included."""
    world = loaded(World(operation), 5)
    world.kill_before("m1", operation)
    world.load(40, keys=2)
    world.run(3_000)
    assert world.injected[12] == 1
    assert [member for member in world.members if not world.hosts[member].up] == ["m1"]
    world.kill_before("m1", 1 + operation % 3)
    world.restart("m1")
    assert world.injected[12] == 2
    assert not world.hosts["m1"].up
    world.finish()


# ------------------------------------------------------------------------------------------------- disks


def test_a_full_disk_counts_when_something_did_not_fit() -> None:
    world = loaded(World(4))
    directory = world.hosts["m1"].disk.directory
    directory.capacity = directory.bytes_used + 300
    assert world.injected[15] == 0
    world.load(20, keys=2)
    world.run(500)
    assert world.injected[15] > 0
    world.finish()


def test_a_failed_sync_stops_its_member_and_counts() -> None:
    world = loaded(World(5))
    world.hosts["m1"].disk.directory.fail_syncs = 1
    world.load(20, keys=2)
    world.run(500)
    assert not world.hosts["m1"].up
    assert world.hosts["m1"].broken_disk is not None
    assert world.injected[16] == 1
    world.finish()


def test_a_member_whose_disk_refuses_at_the_start_stays_down() -> None:
    world = loaded(World(5))
    world.crash("m1")
    world.hosts["m1"].disk.directory.fail_syncs = 1
    world.restart("m1")
    assert not world.hosts["m1"].up
    assert world.injected[16] == 1
    world.finish()
    assert world.hosts["m1"].up


def test_a_lying_disk_counts_when_it_lost_something() -> None:
    world = loaded(World(6))
    world.exempt("m1")
    world.hosts["m1"].disk.directory.lying = True
    world.crash("m1")
    world.restart("m1")
    assert world.injected[17] == 0, "nothing was promised yet"
    loaded(world, 40)
    for _ in range(4):  # what was not synced may be there by luck
        world.crash("m1")
        world.restart("m1")
        loaded(world, 10)
    assert world.injected[17] > 0
    world.finish()


def test_what_a_lying_sync_promised_is_known_when_it_is_lost() -> None:
    directory = MemoryDirectory()
    file = directory.create("f")
    directory.sync()
    file.append(b"kept")
    file.sync()
    directory.lying = True
    file.append(b", lost")
    file.sync()
    directory.crash()
    assert (directory.read("f"), directory.losses) == (b"kept", 1)
    directory.crash()
    assert directory.losses == 1
    directory.create("g")
    directory.sync()
    directory.crash()
    assert directory.losses == 2, "a file that was never there"


def test_a_flipped_bit_counts_when_it_is_found() -> None:
    world = loaded(World(7))
    world.exempt("m1")
    world.crash("m1")
    directory = world.hosts["m1"].disk.directory
    directory.flip(next(name for name in directory.names() if name.startswith("log")), 8 * 60)
    assert world.injected[14] == 0
    world.restart("m1")
    assert world.injected[14] == 1
    assert world.replica("m1").silent
    world.finish()


def test_wiped_and_old_disks_count() -> None:
    world = loaded(World(8))
    old = world.disk_of("m3")
    loaded(world)
    world.exempt("m3")
    world.crash("m3")
    world.restart("m3", disk=old)
    assert world.injected[18] == 1
    world.crash("m2")
    world.wipe("m2")
    assert world.injected[18] == 2


def test_a_slow_disk_makes_every_answer_late() -> None:
    quick = loaded(World(9)).now
    world = World(9)
    handles = [world.slow_disk(member, 200_000) for member in world.members]
    slow = loaded(world).now
    assert slow > quick + 1_000
    for handle in handles:
        handle.end()
    before = world.now
    assert loaded(world).now - before < slow / 2


# ------------------------------------------------------------------------------------------------- clocks


def test_a_clock_that_runs_ten_times_as_fast_takes_the_timers_along() -> None:
    world = World(10)
    world.run(1_000)
    beats = world.replica("m1").beat
    reading = world.replica("m1").clock_ms
    world.set_clock_rate("m1", 10_000_000)
    world.run(2_000)
    assert 180 <= world.replica("m1").beat - beats <= 201
    assert 19_000 < world.replica("m1").clock_ms - reading < 21_000
    assert world.replica("m0").beat < 31
    assert world.injected[19] == 1
    world.set_clock_rate("m1", 1_000_000)
    beats = world.replica("m1").beat
    world.run(2_000)
    assert 19 <= world.replica("m1").beat - beats <= 21
    loaded(world).finish()
    with pytest.raises(ValueError, match="positive"):
        world.set_clock_rate("m1", 0)


# ------------------------------------------------------------------------------------------------- network


def test_a_partition_that_ends_leaves_another_cut_alone() -> None:
    world = World(11)
    world.run(50)
    split = world.partition(["m0", "m1"], ["m2", "m3"])
    cut = world.cut("m0", "m3")
    world.run(1_500)
    assert world.injected[4] > 0
    split.end()
    assert not world.links.reaches("m0", "m3")
    assert world.links.reaches("m0", "m2")
    world.run(1_500)
    assert world.injected[5] > 0
    cut.end()
    assert world.links.plain
    loaded(world).finish()


def test_who_stands_on_neither_side_makes_a_bridge() -> None:
    world = World(12)
    world.partition(["m0"], ["m1"])
    world.run(1_500)
    assert world.injected[5] > 0
    assert world.injected[4] == 0
    loaded(world).finish()


def test_clients_that_suffered_come_back_when_their_cut_ends() -> None:
    world = World(13, clients=1)
    world.run(100)
    cuts = [world.cut(member, "c0") for member in world.members]
    world.actors["c0"].put(b"k0")
    world.run(1_000)
    assert world.outstanding == 1
    linked: list[MemberId] = []
    world.inputs.append(lambda member, event: linked.append(member) if isinstance(event, ClientLink) else None)
    for cut in cuts:
        cut.end()
    world.run_until(lambda: world.outstanding == 0, 2_000, "the client has its answer")
    world.run(100)
    assert sorted(linked) == list(world.members), "a connection that lost frames is made anew"
    world.finish()


def test_a_thin_line_bounds_what_gets_through() -> None:
    world = World(14, interval=64, window=128)
    world.run(100)
    handle = world.limit_bandwidth("m3", 64_000)
    heard = Counter[MemberId]()
    world.observers.append(lambda sender, receiver, frame: heard.update({receiver: len(frame)}))
    world.load(300, keys=4, pipeline=16)
    world.run(3_000)
    assert world.injected[6] > 0
    sent = heard["m3"]
    assert sent > 2 * 64_000 * 3 // 8, "the test needs more than the line takes"
    assert world.replica("m3").applied < world.replica("m0").applied
    handle.end()
    world.finish()


def test_a_frame_that_no_hub_takes_does_not_leave() -> None:
    world = World(15)
    host = world.hosts["m0"]
    world.send(host, ["m1", "m2"], bytes(FRAME_BYTES_MAX + 1))
    assert world.counters.oversize == 2
    world.run(200)
    connection = world.counters.oversize
    world.carry_from_client(world.actors["c0"], "m0", bytes(host.client_frame_max + 1))
    assert world.counters.oversize == connection + 1
    assert world.actors["c0"].public not in host.clients, "the hub ends such a link"
    world.run(200)
    assert world.actors["c0"].public in host.clients


def test_a_peer_that_floods_starves_nobody() -> None:
    """FAULTS 45: of each peer so much is read in a round as a hub reads at once."""
    world = World(16)
    world.run(200)
    host = world.hosts["m0"]
    heard: list[tuple[MemberId, int]] = []
    world.inputs.append(
        lambda member, event: heard.append((getattr(event, "sender", ""), host.rounds)) if member == "m0" else None
    )
    world.pause("m0")
    large = b"\x03" + bytes(HUB.read_bytes // 4)
    world.exempt("m1")
    for _ in range(40):
        host.arrive("m1", 0, large)
    honest = pack_control(Status(0, 0, 0, 0))
    host.arrive("m2", 0, honest)
    rounds = host.rounds
    world.resume("m0")
    world.run(2_000)
    floods = [at for sender, at in heard if sender == "m1"]
    assert max(Counter(floods[:40]).values()) <= 4
    first = next(at for sender, at in heard if sender == "m2")
    assert first <= rounds + 4, "not behind all that the other sent"


def test_what_waits_of_one_peer_is_bounded() -> None:
    world = World(17)
    world.pause("m0")
    host = world.hosts["m0"]
    large = bytes(1 << 20)
    for _ in range(HUB.queue_bytes // len(large) + 5):
        host.arrive("m1", 0, large)
    assert host.refused == 5
    assert world.counters.refused == 5
    host.arrive("m2", 0, large)
    assert host.refused == 5


# ------------------------------------------------------------------------------------------------- costs

SOME = Costs(round_ns=20_000, frame_ns=20_000, verify_ns=50_000, sign_ns=20_000, sync_us=1_000)


def throughput(costs: Costs, keys: str = "fast") -> float:
    world = World(18, network=Network(1, 2), interval=64, window=128, costs=costs, keys=keys)
    world.run(100)
    began = world.now_us
    loaded(world, 300)
    return 300_000_000 / (world.now_us - began)


def test_work_takes_its_time() -> None:
    usual = throughput(SOME)
    assert throughput(Costs(round_ns=20_000, frame_ns=2_000_000, verify_ns=50_000, sync_us=1_000)) < usual * 0.8
    assert throughput(Costs(round_ns=20_000, frame_ns=20_000, verify_ns=5_000_000, sync_us=1_000)) < usual * 0.8
    assert throughput(Costs(round_ns=20_000, frame_ns=20_000, verify_ns=50_000, sync_us=50_000)) < usual * 0.8


def test_a_round_lets_go_of_nothing_before_its_time() -> None:
    """SAFETY rule 5 holds for the work's own time, too: who crashes meanwhile has said nothing."""
    world = World(19, network=Network(1, 1), costs=Costs(round_ns=500_000_000))
    said: list[int] = []
    world.observers.append(lambda sender, receiver, frame: said.append(world.now) if sender == "m1" else None)
    world.load(4, keys=1)
    world.run(20_000)
    times = sorted(set(said))
    assert len(times) > 5
    assert all(later - earlier >= 499 for earlier, later in pairwise(times))
    world.crash("m1")
    count = len(said)
    world.run(1_000)
    assert len(said) == count


def test_the_table_charges_what_was_done() -> None:
    world = World(20, costs=Costs(verify_ns=1_000_000))
    loaded(world)
    busy = sum(host.busy_us for host in world.hosts.values())
    by_members = busy // 1000
    assert 0 < by_members <= world.counters.verifies
    assert world.counters.applied >= 4 * 5
    assert sum(host.busy_us for host in loaded(World(20)).hosts.values()) == 0


def test_the_measured_table_is_complete() -> None:
    table = Costs.measured()
    assert all(figure > 0 for figure in attrs.asdict(table).values())
    assert table != Costs.none()


# ------------------------------------------------------------------------------------------------- signatures


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
def test_each_signature_is_checked_once_and_charged_each_time(kind: str) -> None:
    notary = Notary(kind, bytes(32), ("m0", "m1"), Costs(sign_ns=3, verify_ns=10))
    meter = Meter()
    mine, other = notary.keyring("m0", meter), notary.keyring("m1", Meter())
    signature = mine.sign("vote", b"statement")
    assert [ring.verify("m0", "vote", b"statement", signature) for ring in (mine, other, mine)] == [True] * 3
    assert meter.ns == 3 + 10 + 10
    assert (notary.counters.signs, notary.counters.verifies, notary.counters.checked) == (1, 3, 1)
    assert not other.verify("m0", "vote", b"another", signature)
    assert not other.verify("m0", "other", b"statement", signature)
    assert not other.verify("m1", "vote", b"statement", signature)
    assert not other.verify("stranger", "vote", b"statement", signature)
    assert notary.counters.checked == 5


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
def test_clients_signatures_are_checked_by_key_bytes_and_signature(kind: str) -> None:
    notary = Notary(kind, bytes(32), ("m0",), Costs.none())
    verify = notary.verifier(Meter())
    key, other = notary.signing_key(b"k" * 32), notary.signing_key(b"o" * 32)
    signature = key.sign(b"bundle")
    assert verify(key.public, b"bundle", signature)
    assert verify(key.public, b"bundle", signature)
    assert not verify(other.public, b"bundle", signature)
    assert not verify(key.public, b"bundle!", signature)
    assert not verify(key.public, b"bundle", bytes(64))
    assert notary.counters.checked == 4


def test_what_was_checked_is_forgotten_at_last() -> None:
    notary = Notary("fast", bytes(32), ("m0",), Costs.none())
    ring = notary.keyring("m0")
    for number in range(3 * KNOWN_MAX):
        notary.remember(number, lambda: True)
    assert len(notary._known) + len(notary._before) <= 2 * KNOWN_MAX  # pyright: ignore[reportPrivateUsage]
    signature = ring.sign("vote", b"x")
    assert ring.verify("m0", "vote", b"x", signature)
    with pytest.raises(ValueError, match="fast or ed25519"):
        Notary("rot13", bytes(32), ("m0",), Costs.none())


def test_real_keys_decide_the_same() -> None:
    world = loaded(World(21, keys="ed25519"))
    assert 0 < world.counters.checked < world.counters.verifies / 2
    world.finish()


def test_a_message_is_decoded_once_in_a_world() -> None:
    codec = RememberingCodec(CODEC)
    data = CODEC.encode(Prepare(1, 2, bytes(32), bytes(64), bytes(64)))
    assert codec.decode(data) is codec.decode(bytes(bytearray(data)))
    assert codec.decode(data) == CODEC.decode(data)
    for _ in range(2):
        with pytest.raises(ValueError):
            codec.decode(data + b"!")


# ------------------------------------------------------------------------------------------------- liars


class Late(Honest):
    """Says something of its own later, and says that it did."""

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self.said = 0
        self._waiting: list[tuple[int, tuple[MemberId, ...], bytes]] = []

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        if self.said < 3:
            self.said += 1
            self._waiting.append((500, ("m0", "nobody", "m1"), b"\x09late"))
            self.acted[22] += 1
        return out

    def postponed(self) -> list[tuple[int, tuple[MemberId, ...], bytes]]:
        waiting, self._waiting = self._waiting, []
        return waiting


def test_an_adversary_speaks_later_and_is_counted() -> None:
    world = World(22)
    world.run(100)
    world.lie("m1", Late)
    late: list[tuple[int, MemberId]] = []
    world.observers.append(
        lambda sender, receiver, frame: late.append((world.now, receiver)) if frame == b"\x09late" else None
    )
    world.run(1_500)
    assert world.injected[22] == 3
    assert [receiver for _, receiver in late] == ["m0"] * 3
    assert min(at for at, _ in late) >= 600
    loaded(world).finish()


# ------------------------------------------------------------------------------------------------- twins


def test_twins_speak_each_to_their_side() -> None:
    """FAULTS 20: two copies of one identity, each with its own disk."""
    for seed in range(3):
        world = World(seed)
        world.run(50)
        copy = world.twin("m0", ["m1", "m2", "c0"], ["m2", "m3", "c1", "c2"])
        heard: list[tuple[bool, MemberId]] = []
        send = world.send

        def watched(host: Host, receivers: tuple[MemberId, ...], frame: bytes) -> None:
            if host.me == "m0":
                heard.extend((host is copy, receiver) for receiver in receivers)  # noqa: B023
            send(host, receivers, frame)  # noqa: B023

        world.send = watched  # type: ignore[method-assign, assignment]
        world.load(40, keys=3)
        world.run(3_000)
        assert any(second for second, _ in heard)
        assert any(not second for second, _ in heard)
        assert copy.replica is not None
        assert copy.replica is not world.replica("m0")
        world.finish()


def test_only_the_side_hears_a_twin() -> None:
    world = World(23)
    copy = world.twin("m0", ["m1", "m2"], ["m2", "m3"])
    first = world.hosts["m0"]
    reached: list[str] = []

    def watch(host: Host) -> Callable[[str | bytes, int, bytes], None]:
        return lambda peer, packet, frame: reached.append(host.me if host is not copy else "copy")

    for host in (*world.hosts.values(), copy):
        host.arrive = watch(host)  # type: ignore[method-assign, assignment]
    world.send(first, ["m1", "m2", "m3"], b"\x09a")
    world.run(20)
    assert {"m1", "m2"} <= set(reached)
    assert "m3" not in reached
    reached.clear()
    world.send(copy, ["m1", "m2", "m3"], b"\x09b")
    world.send(world.hosts["m1"], ["m0"], b"\x09c")
    world.send(world.hosts["m3"], ["m0"], b"\x09d")
    world.run(20)
    assert "m1" not in reached
    assert {"m2", "m3", "m0", "copy"} <= set(reached)
    reached.clear()
    world.send(world.hosts["m2"], ["m0"], b"\x09e")
    world.run(20)
    assert sorted(reached) == ["copy", "m0"]
    with pytest.raises(ValueError, match="twin already"):
        world.twin("m0", [], [])
    world.untwin("m0")
    assert not copy.up


# ------------------------------------------------------------------------------------------------- journal


def journal(events: list[tuple[int, int, int, int, bytes]], *, lines: bool = False) -> Journal:
    book = Journal(lambda number: f"m{number}", keep_lines=lines)
    for event in events:
        book.add(*event)
    return book


def test_every_part_of_every_event_counts() -> None:
    events = [(1, NOTE, 0, 0, b"a note"), (2, PACKET, 1, 3, b"\x01frame"), (3, HEARD, 2, 1, b"m1")]
    known = {journal(events).fingerprint}
    for index, event in enumerate(events):
        for part in range(5):
            changed = list(event)
            changed[part] = b"other" if part == 4 else int(changed[part]) + 1  # type: ignore[call-overload]
            known.add(journal([*events[:index], tuple(changed), *events[index + 1 :]]).fingerprint)  # type: ignore[list-item]
    known.add(journal([(1, NOTE, 0, 0, b"a no"), (2, PACKET, 1, 3, b"te\x01frame"), events[2]]).fingerprint)
    known.add(journal(events[:2]).fingerprint)
    assert len(known) == 1 + 15 + 2


def test_what_lies_in_an_earlier_block_counts() -> None:
    def digest_of(now: int, kind: int, data: bytes) -> str:
        return journal([(now, kind, 0, 0, data), *[(9, NOTE, 0, 0, b"later")] * 5_000]).fingerprint

    assert (
        len({digest_of(1, NOTE, b"a"), digest_of(2, NOTE, b"a"), digest_of(1, DUE, b"a"), digest_of(1, NOTE, b"b")})
        == 4
    )


def test_asking_for_the_digest_changes_nothing() -> None:
    asked, silent = journal([]), journal([])
    for number in range(10_000):
        for book in (asked, silent):
            book.add(number, NOTE, 0, 0, b"%d" % number)
        if number % 1_000 == 0:
            assert asked.fingerprint == silent.fingerprint
    assert asked.fingerprint == silent.fingerprint


def test_the_last_lines_reach_over_the_blocks() -> None:
    book = journal([(number * 1000, NOTE, 0, 0, b"%d" % number) for number in range(4_100)])
    assert [line.split()[-1] for line in book.recent(10)] == [str(number) for number in range(4_090, 4_100)]
    assert len(book.recent(60)) == 60
    assert book.recent(60)[0].split() == ["4040.000", "4040"]
    assert book.lines is None
    assert journal([(1, NOTE, 0, 0, b"x")], lines=True).lines == ["      0.001 x"]


def test_a_trace_has_a_line_for_everything() -> None:
    world = loaded(World(24, trace=True), 5)
    lines = world.lines
    assert lines is not None
    text = "\n".join(lines)
    for part in ("m0 begins a round", "m0 says", "c0 says", "hears", "disk append", "disk sync", "sets ('beat',)"):
        assert part in text, part


def test_costs_and_twins_keep_a_seed_a_seed() -> None:
    def fingerprint() -> str:
        world = World(25, costs=Costs.measured())
        world.twin("m3", ["m0", "m1"], ["m1", "m2"])
        world.limit_bandwidth("m2", 1_000_000)
        world.load(30, keys=3)
        world.run(2_000)
        return world.fingerprint

    assert fingerprint() == fingerprint()


@pytest.mark.parametrize("frame", [b"\x03", b"\x01", b"\x01\x00"])
def test_frames_that_are_cut_short_are_no_message_that_is_held_back(frame: bytes) -> None:
    """Liars send what they like while a kind of message is held back."""
    world = World(16)
    world.run(50)
    world.hold("Status", 50)
    world.send(world.hosts["m0"], ["m1"], frame)
    with pytest.raises(Violation, match="m1 blames m0: refused"):  # m0 is no liar here: so it came, and was looked at
        world.run(200)
