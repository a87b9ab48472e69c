"""One member's process and machine in the simulated world: a replica, its disk, its clock, its timers.

It interprets effects as `bftkit.node.node` does, round by round: everything that is ready goes in, at most so much of
each peer as a hub reads at once, then the effects are carried out in order, records are written and synced once, and
only then does whatever was sent leave (SAFETY rule 5). A round takes as long as its work costs, and then as long as
its disk does; meanwhile nothing else goes in, and a crash can hit in between: then the records of the round are
partly or wholly lost, and nothing of it has left.
"""

from __future__ import annotations

import heapq
import json
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs

from bftkit.channel.frames import CONTROL_CODEC, Manifest, StatusAnswer, pack_answer
from bftkit.channel.interface import (
    ClientLink,
    Clock,
    Cut,
    FromClient,
    Halted,
    Jot,
    ReplicaInput,
    ReplicaOut,
    ReplicaSettings,
    Restored,
    Rotate,
    RoundEnd,
    Save,
    Saved,
    StatusAsked,
    ToClient,
)
from bftkit.channel.replica import Replica
from bftkit.channel.settling import own_record
from bftkit.core.machine import (
    Blame,
    Broadcast,
    CancelTimer,
    Deliver,
    Draw,
    DrawSecret,
    MemberId,
    Out,
    Persist,
    Send,
    SetTimer,
    TimerKey,
)
from bftkit.network.hub import Limits as HubLimits
from bftkit.sim.adversaries import Honest
from bftkit.sim.checkers import Watched
from bftkit.sim.costs import FREE, Meter
from bftkit.sim.disk import Disk
from bftkit.sim.journal import DISK, DRAWN, DUE, HEARD, OTHER, ROUND, TIMER
from bftkit.sim.links import WallClock
from bftkit.storage.files import DiskFull, StorageFailed
from bftkit.storage.log import Log, LogCorrupt, LogMissing, set_aside
from bftkit.storage.memory_files import PowerCut
from bftkit.storage.snapshots import SnapshotCorrupt

if TYPE_CHECKING:
    from bftkit.sim.world import World

SEAL_US: Final = 200_000
DISK_FULL_US: Final = 250_000
SYNC_US_MAX: Final = 4_000
"""A sync takes up to so long where work costs nothing."""
SAVE_US_MAX: Final = 40_000
WAKING_US: Final = (0, 0, 1000, 3000)
"""Where work costs nothing, a frame is sometimes handled alone, sometimes with all that came within some ticks."""
HUB: Final = HubLimits()
_ROUND_END: Final = RoundEnd()
# Lines of docs/FAULTS.md.
_AT_THE_DISK: Final = 12
_TORN: Final = 13
_FLIPPED: Final = 14
_FULL: Final = 15
_SYNC_FAILED: Final = 16
_LIED: Final = 17


@attrs.frozen
class FromMember:
    """A frame that arrived over the link with another member."""

    sender: MemberId
    frame: bytes


@attrs.frozen
class Due:
    """A timer."""

    key: TimerKey


Event = FromMember | Due | ReplicaInput


class Inlet:
    """What one peer sent and this member has not read yet."""

    __slots__ = ("bytes", "frames", "name", "peer")

    def __init__(self, peer: str | bytes) -> None:
        self.peer = peer
        self.name = peer.encode() if isinstance(peer, str) else peer[:4]
        self.bytes = 0
        self.frames: deque[tuple[int, bytes]] = deque()


class Host:
    """A member. It is up while it has a replica."""

    def __init__(
        self, world: World, settings: ReplicaSettings, clock: WallClock, adversary: Honest | None, meter: Meter
    ) -> None:
        """`meter` is what the member's signatures are charged to."""
        self.world = world
        self.settings = settings
        self.me = settings.me
        self.number = world.number_of(self.me)
        self.clock = clock
        self.adversary = adversary
        self.client_frame_max = settings.limits.bundle_bytes + (64 << 10)
        self.disk = Disk()
        self.replica: Replica | None = None
        self.watched: Watched | None = None
        self.incarnation = 0
        self.halted: str | None = None
        self.broken_disk: str | None = None
        """Why the member stopped by itself: its disk refused."""
        self.clients: set[bytes] = set()
        self.blamed: dict[tuple[MemberId, str], int] = {}
        self.waits_for_space = False
        self.paused = False
        self.rounds = 0
        self.syncs = 0
        self.refused = 0
        """Frames for which a peer's queue had no room."""
        self.busy_us = 0
        """For how long its rounds took, syncs left out."""
        self._meter = meter
        self._costs = world.costs
        self._free = world.costs is FREE
        self._log: Log | None = None
        self._inlets: dict[str | bytes, Inlet] = {}
        self._ready: list[Inlet] = []
        """Those that have something, in the order in which it came."""
        self._links: list[ClientLink] = []
        self._due: list[TimerKey] = []
        self._saved: list[Saved] = []
        self._timers: dict[TimerKey, int] = {}
        self._timer_heap: list[tuple[int, int, TimerKey]] = []
        self._timer_count = 0
        self._timer_at: int | None = None
        self._busy = False
        self._at_disk = False
        self._gated = False
        self._unsynced_bytes = 0
        self._outbox: list[tuple[tuple[MemberId, ...] | bytes, bytes]] = []
        self._held: list[Callable[[], None]] = []
        self._saving: Save | None = None
        self._next_save: Save | None = None
        self._seal_at: int | None = None
        self._seal_waits = False
        self._applied_seen = 0
        self._executed_seen = 0
        self._stable_seen = -1
        self._clock_ms = -1
        self.prepare_disk()

    @property
    def _identity(self) -> bytes:
        return self.settings.clock_key.public

    @property
    def _salt(self) -> bytes:
        return self.settings.clock_key.public[:16]

    @property
    def up(self) -> bool:
        """Whether the process runs."""
        return self.replica is not None

    @property
    def log(self) -> Log:
        """The open log of a member that is up."""
        assert self._log is not None
        return self._log

    @property
    def waiting(self) -> int:
        """Frames that came and were not read yet."""
        return sum(len(inlet.frames) for inlet in self._inlets.values())

    # ---------------------------------------------------------------------------------------- life and death

    def prepare_disk(self) -> None:
        """A new member's disk: an empty log."""
        Log.create(self.disk.directory, group=self.settings.group, identity=self._identity, salt=self._salt)
        self.disk.directory.changed = self._on_disk

    def _on_disk(self, operation: str, data: bytes) -> None:
        world = self.world
        world.journal.add(world.now_us, DISK, self.number, 0, operation.encode() + b"\0" + data)

    def start(self) -> None:
        """The process starts, with whatever the disk has. A disk that refuses leaves the member down."""
        assert self.replica is None, f"{self.me} is up already"
        self.disk.directory.changed = self._on_disk
        self.halted = self.broken_disk = None
        try:
            restored = self._open()
        except (StorageFailed, DiskFull) as error:
            self._disk_refused(error)
            self.disk.directory.restart_process()
            return
        except PowerCut:
            self.disk.directory.crash(self.world.random.randrange)
            self.world.on_power_cut(self)
            return
        self.watched = self.world.make_application(self.me)
        self.replica = replica = Replica(self.settings, self.watched)
        self._applied_seen = restored.checkpoint[0] if restored.checkpoint is not None else 0
        self._stable_seen = -1
        self._executed_seen = self._meter.ns = 0
        out: ReplicaOut = Out()
        self._clock_ms = self.clock.read(self.world.now_us)
        replica.on_input(Clock(self._clock_ms), out)
        replica.on_restore(restored, out)
        replica.on_start(out)
        self._note_applied()
        self._drive(self._finish_round(out))

    def _disk_refused(self, error: Exception) -> None:
        self.broken_disk = str(error)
        self.world.note(self.me, f"stops: {error}")
        if isinstance(error, DiskFull):
            self.world.inject(_FULL)
        elif self.disk.directory.failed_syncs:
            self.world.inject(_SYNC_FAILED)
            self.disk.directory.failed_syncs = 0

    def _open(self) -> Restored:
        world, directory, settings = self.world, self.disk.directory, self.settings
        amnesic = False
        try:
            self._log, recovered = self._open_log()
        except (LogMissing, LogCorrupt) as error:
            world.note(self.me, f"amnesia: {error}")
            if directory.flips and isinstance(error, LogCorrupt):
                world.inject(_FLIPPED)
                directory.flips = 0
            set_aside(directory)
            remark = own_record(0, silent=True)
            group, identity = settings.group, self._identity
            Log.create(directory, group=group, identity=identity, salt=self._salt, standing=[remark])
            self._log, recovered = self._open_log()
            amnesic = True
        if recovered.torn_bytes:
            world.note(self.me, f"cuts a torn tail of {recovered.torn_bytes} bytes")
            world.inject(_TORN)
        records = [entry.payload for entry in recovered.records]
        checkpoint = None
        snapshots = self.disk.snapshots
        for slot, packed in reversed(snapshots.checkpoints()):
            try:
                manifest = CONTROL_CODEC.decode(packed)
                assert isinstance(manifest, Manifest)
                chunks = [snapshots.chunk(leaf) for leaf in manifest.leaves]
            except SnapshotCorrupt:
                continue
            whole = [chunk for chunk in chunks if chunk is not None]
            if len(whole) == len(chunks):
                checkpoint = (slot, packed, whole)
                break
        return Restored(records, checkpoint, amnesic)

    def _open_log(self) -> tuple[Log, Any]:
        return Log.open(
            self.disk.directory,
            group=self.settings.group,
            identity=self._identity,
            segment_bytes=self.world.segment_bytes,
        )

    def stop(self, *, power: bool) -> None:
        """The process dies at once; with `power` its machine too, and what was not synced is lost or torn."""
        assert self.replica is not None, f"{self.me} is down already"
        world, directory = self.world, self.disk.directory
        if self._at_disk:
            world.inject(_AT_THE_DISK)
        self.replica = self.watched = None
        self.incarnation += 1
        self._log = None
        self._busy = self._at_disk = self._gated = self.waits_for_space = self.paused = False
        self._saving = self._next_save = None
        self._seal_at = self._timer_at = None
        self._seal_waits = False
        self._unsynced_bytes = 0
        for container in (self._ready, self._links, self._due, self._saved, self._timer_heap, self._outbox, self._held):
            container.clear()
        for mapping in (self._inlets, self._timers, self.clients):
            mapping.clear()
        if power:
            directory.crash(world.random.randrange)
            if directory.losses:
                world.inject(_LIED, directory.losses)
                directory.losses = 0
        else:
            directory.restart_process()
        self.disk.snapshots.crash()

    def wipe(self) -> None:
        """Somebody puts an empty disk into a member that is down (FAULTS 18)."""
        assert self.replica is None
        self.disk = Disk()

    def pause(self) -> None:
        """The process stands still; what comes waits."""
        assert self.replica is not None, f"{self.me} is down"
        self.paused = True

    def resume(self) -> None:
        """The process goes on, with all that was due meanwhile."""
        self.paused = False
        held, self._held = self._held, []
        for action in held:
            self.world.after_us(0, self._act, self.incarnation, action)

    # ---------------------------------------------------------------------------------------- what comes

    def arrive(self, peer: str | bytes, packet: int, frame: bytes) -> None:
        """A frame came over a link. It waits until the member reads it; there is a bound for each peer."""
        if self.replica is None:
            return
        inlet = self._inlets.get(peer)
        if inlet is None:
            inlet = self._inlets[peer] = Inlet(peer)
        size = len(frame)
        if inlet.bytes + size > HUB.queue_bytes:
            self.refused += 1
            self.world.counters.refused += 1
            return
        if not inlet.frames:
            self._ready.append(inlet)
        inlet.frames.append((packet, frame))
        inlet.bytes += size
        if not self._busy:
            self._wake()

    def put(self, event: Event) -> None:
        """Something is ready for the next round, as if it had come by itself."""
        if self.replica is None:
            return
        match event:
            case FromMember(sender, frame):
                self.arrive(sender, 0, frame)
            case FromClient(client, frame):
                self.arrive(client, 0, frame)
            case Due(key):
                self._due.append(key)
            case ClientLink():
                self._links.append(event)
            case Saved():
                self._saved.append(event)
            case _:
                raise ValueError(f"a round makes its own {type(event).__name__}")
        if not self._busy:
            self._wake()

    def link(self, client: bytes, binding: bytes) -> None:
        """A client's connection comes up."""
        if self.replica is not None:
            self.clients.add(client)
            self.put(ClientLink(client, binding))

    def _wake(self) -> None:
        if not self._busy:
            self._busy = True
            us = WAKING_US[self.world.random.getrandbits(2)] if self._free else 0
            self._after_us(us, self._start_round)

    def _after_us(self, us: int, action: Callable[[], None]) -> None:
        self.world.after_us(us, self._act, self.incarnation, action)

    def _act(self, incarnation: int, action: Callable[[], None]) -> None:
        if self.incarnation == incarnation:
            if self.paused:
                self._held.append(action)
            else:
                action()

    # ---------------------------------------------------------------------------------------- rounds

    def _start_round(self) -> None:
        self._drive(self._round())

    def _drive(self, steps: Iterator[int]) -> None:
        """Run on until there is something to wait for: the work itself, or the disk."""
        self._busy = True
        incarnation = self.incarnation
        try:
            us = next(steps, None)
        except StorageFailed as error:
            if self.incarnation == incarnation:
                self._disk_refused(error)
                self.world.stop_host(self, power=False)
            return
        except PowerCut:
            self._at_disk = False  # counted where the cut was planned
            self.world.on_power_cut(self)
            return
        if self.incarnation != incarnation:
            return
        if us is not None:
            self._after_us(us, partial(self._drive, steps))
            return
        self._busy = False
        replica = self.replica
        if (
            self._ready
            or self._due
            or self._links
            or self._saved
            or (replica is not None and replica.checkpoints.hashing)
        ):
            self._wake()

    def _round(self) -> Iterator[int]:
        replica, world = self.replica, self.world
        assert replica is not None
        self.rounds += 1
        world.counters.rounds += 1
        now_ms = self.clock.read(world.now_us)
        add, now_us, number = world.journal.add, world.now_us, self.number
        add(now_us, ROUND, number, now_ms, b"")
        out: ReplicaOut = Out()
        if now_ms != self._clock_ms:
            self._clock_ms = now_ms
            replica.on_input(Clock(now_ms), out)
        if self._links:
            links, self._links = self._links, []
            for link in links:
                add(now_us, OTHER, number, 0, b"link " + link.client)
                self._watch(link)
                replica.on_input(link, out)
        if self._ready:
            self._read(replica, out)
        if self._due:
            due, self._due = self._due, []
            for key in due:
                add(now_us, DUE, number, 0, _key_bytes(key))
                self._watch(Due(key))
                replica.on_timer(key, out)
        if self._saved:
            saved, self._saved = self._saved, []
            for one in saved:
                add(now_us, OTHER, number, 0, b"saved %d" % one.slot)
                self._watch(one)
                replica.on_input(one, out)
        hashed = replica.checkpoints.hashing
        replica.on_input(_ROUND_END, out)
        if hashed and not self._free:
            self._meter.ns += self._costs.chunk_ns * hashed[0].view.count
        adversary = self.adversary
        if adversary is not None:
            out = adversary.outgoing(replica, out)
            self._heed(adversary)
        self._note_applied()
        world.check_step(self)
        return self._finish_round(out)

    def _watch(self, event: Event) -> None:
        for watch in self.world.inputs:
            watch(self.me, event)

    def _read(self, replica: Replica, out: ReplicaOut) -> None:
        """Hand in what came: of each peer as much as a hub reads at once, so that no peer starves the others."""
        world, adversary = self.world, self.adversary
        add, now_us, number, inputs = world.journal.add, world.now_us, self.number, world.inputs
        ready, self._ready = self._ready, []
        budget = 1 << 60
        if self._free and (len(ready) > 1 or len(ready[0].frames) > 1) and world.random.getrandbits(10) < 307:
            count = sum(len(inlet.frames) for inlet in ready)
            budget = 1 + (world.random.getrandbits(20) * count >> 20)
        frames = size = 0
        for inlet in ready:
            queue, peer, name = inlet.frames, inlet.peer, inlet.name
            room = HUB.read_bytes
            while queue and budget > 0 and room > 0:
                packet, frame = queue.popleft()
                budget -= 1
                frames += 1
                length = len(frame)
                room -= length
                size += length
                inlet.bytes -= length
                add(now_us, HEARD, number, packet, name)
                if type(peer) is bytes:
                    event = FromClient(peer, frame)
                    if inputs:
                        self._watch(event)
                    replica.on_input(event, out)
                else:
                    assert isinstance(peer, str)
                    if inputs:
                        self._watch(FromMember(peer, frame))
                    heard = frame if adversary is None else adversary.incoming(peer, frame)
                    if heard is not None:
                        replica.on_message(peer, heard, out)
            if queue:
                self._ready.append(inlet)
        if not self._free:
            costs = self._costs
            self._meter.ns += frames * costs.frame_ns + size * costs.byte_ns

    def _heed(self, adversary: Honest) -> None:
        """What an adversary wants besides: frames for later, and what it says that it did."""
        postponed: Callable[[], list[tuple[int, tuple[MemberId, ...], bytes]]] | None
        postponed = getattr(adversary, "postponed", None)
        if postponed is not None:
            for ticks, to, frame in postponed():
                self._after_us(ticks * 1000, partial(self._say, tuple(to), frame))
        acted: dict[int, int] | None = getattr(adversary, "acted", None)
        if acted:
            for line in sorted(acted):
                self.world.inject(line, acted[line])
            acted.clear()

    def _say(self, to: tuple[MemberId, ...], frame: bytes) -> None:
        self.world.send(self, [member for member in to if member in self.world.hosts and member != self.me], frame)

    def _note_applied(self) -> None:
        replica = self.replica
        assert replica is not None
        assert self.watched is not None
        recorder = self.world.recorder
        if self.me in recorder.exempt:
            return
        applied = replica.applied
        if applied > self._applied_seen:
            for slot in range(self._applied_seen + 1, applied + 1):
                name = replica.history.get(slot)
                if name is not None:
                    self.watched.pending.append(partial(recorder.batch, self.me, slot, name))
            self._applied_seen = applied
        stable = replica.checkpoints.stable
        if stable != self._stable_seen:
            self._stable_seen = stable
            for kept in replica.checkpoints.kept:
                recorder.root(self.me, kept.slot, kept.root)

    # ---------------------------------------------------------------------------------------- effects

    def must_sync(self, gated: bool) -> bool:
        """Whether this round's frames wait for the disk. A test that breaks this must see a checker fail."""
        return gated

    def _finish_round(self, out: ReplicaOut) -> Iterator[int]:
        """The work takes its time; then the effects are carried out."""
        if not self._free:
            us = self._cost_us(out)
            self.busy_us += us
            if us:
                yield us
        yield from self._carry_out(out)
        if self._seal_at is not None and self.world.now_us >= self._seal_at:
            self._seal_at = None
            self.log.seal()

    def _cost_us(self, out: ReplicaOut) -> int:
        costs, others = self._costs, len(self.settings.members) - 1
        ns = costs.round_ns
        replica = self.replica
        assert replica is not None
        executed = replica.state.executed
        ns += (executed - self._executed_seen) * costs.apply_ns
        self.world.counters.applied += executed - self._executed_seen
        self._executed_seen = executed
        for effect in out.effects:
            if isinstance(effect, Broadcast):
                ns += others * (costs.send_ns + len(effect.message) * costs.send_byte_ns)
            elif isinstance(effect, Send):
                ns += len(effect.to) * (costs.send_ns + len(effect.message) * costs.send_byte_ns)
            elif isinstance(effect, Persist):
                ns += costs.record_ns
            elif isinstance(effect, Deliver) and isinstance(effect.output, ToClient):
                ns += costs.send_ns + len(effect.output.frame) * costs.send_byte_ns
        self._meter.ns += ns
        return self._meter.take()

    def _carry_out(self, out: ReplicaOut) -> Iterator[int]:
        """As `Node._carry_out`; yields the microseconds that the disk takes."""
        replica, log, world = self.replica, self.log, self.world
        assert replica is not None
        outbox = self._outbox
        drawn: list[Draw | DrawSecret] = []
        appended = gate = False
        for effect in out.effects:
            kind = type(effect)
            if kind is Broadcast:
                gate = gate or self._gated
                outbox.append((replica.others, effect.message))  # type: ignore[union-attr]
            elif kind is Send:
                gate = gate or self._gated
                outbox.append((effect.to, effect.message))  # type: ignore[union-attr]
            elif kind is Persist:
                assert isinstance(effect, Persist)
                log.append(effect.record, effect.slot)
                self._unsynced_bytes += len(effect.record)
                self._gated = appended = True
            elif kind is Deliver:
                assert isinstance(effect, Deliver)
                output = effect.output
                if isinstance(output, ToClient):
                    gate = gate or self._gated
                    if output.client in self.clients:
                        outbox.append((output.client, output.frame))
                elif isinstance(output, Jot):
                    log.append(output.record, output.slot)
                    self._unsynced_bytes += len(output.record)
                    appended = True
                elif isinstance(output, Rotate):
                    yield from self._when_not_full(partial(log.rotate, output.standing))
                    self._gated = False
                elif isinstance(output, Cut):
                    log.cut(output.slot)
                elif isinstance(output, Save):
                    self._save(output)
                elif isinstance(output, StatusAsked):
                    answer = StatusAnswer(output.number, json.dumps(replica.status()))
                    outbox.append((output.client, pack_answer(answer)))
                else:
                    assert isinstance(output, Halted)
                    self.halted = output.reason
                    world.on_halted(self, output.reason)
            elif kind is SetTimer:
                assert isinstance(effect, SetTimer)
                self._set_timer(effect.key, effect.ticks)
            elif kind is CancelTimer:
                assert isinstance(effect, CancelTimer)
                world.journal.add(world.now_us, TIMER, self.number, 0, _key_bytes(effect.key))
                self._timers.pop(effect.key, None)
            elif kind is Blame:
                assert isinstance(effect, Blame)
                place = (effect.member, effect.fault)
                self.blamed[place] = self.blamed.get(place, 0) + 1
                world.on_blame(self, effect.member, effect.fault, effect.proof)
            else:
                assert isinstance(effect, (Draw, DrawSecret))
                drawn.append(effect)
        if self.must_sync(gate):
            self._at_disk = True
            yield from self._when_not_full(log.flush)
            yield self._sync_us()
            yield from self._when_not_full(log.sync)
            self._at_disk = self._gated = False
            self._unsynced_bytes = 0
            self.syncs += 1
            world.counters.syncs += 1
        self._outbox = []
        watched = self.watched
        assert watched is not None
        if watched.pending and (outbox or not self._gated):
            # Whatever was executed is visible from now on, or rests on nothing that a crash can take back.
            pending, watched.pending = watched.pending, []
            for happened in pending:
                happened()
        for to, frame in outbox:
            if type(to) is tuple:
                world.send(self, to, frame)
            else:
                assert isinstance(to, bytes)
                world.carry_to_client(self, to, frame)
        if appended:
            self._seal_at = world.now_us + SEAL_US
            if not self._seal_waits:
                self._seal_waits = True
                self._after_us(SEAL_US, self._seal_due)
        if log.full:
            yield from self._when_not_full(lambda: log.rotate(replica.standing()))
        if drawn:
            inner: ReplicaOut = Out()
            for effect in drawn:
                choices = effect.choices if isinstance(effect, Draw) else 1 << 256
                value = world.random.randrange(choices)
                world.journal.add(world.now_us, DRAWN, self.number, 0, b"%d" % value)
                replica.on_draw(effect.key, value, inner)
            yield from self._carry_out(inner)

    def _sync_us(self) -> int:
        costs, bits = self._costs, self.world.random.getrandbits(20)
        slow = sum(self.disk.slow_us)
        if self._free:
            return slow + (bits * (SYNC_US_MAX + 1) >> 20)
        us = costs.sync_us + (self._unsynced_bytes * costs.sync_kib_us >> 10)
        return slow + us + (us * bits >> 22)  # a real disk takes up to a quarter longer

    def _seal_due(self) -> None:
        self._seal_waits = False
        if self._seal_at is None:
            return
        left = self._seal_at - self.world.now_us
        if left > 0:
            self._seal_waits = True
            self._after_us(left, self._seal_due)
        else:
            self._wake()

    def _when_not_full(self, write: Callable[[], object]) -> Iterator[int]:
        while True:
            try:
                write()
                self.waits_for_space = False
                return
            except DiskFull:
                self.waits_for_space = True
                self.world.inject(_FULL)
                yield DISK_FULL_US

    def _set_timer(self, key: TimerKey, ticks: int) -> None:
        world = self.world
        world.journal.add(world.now_us, TIMER, self.number, ticks, _key_bytes(key))
        factor = self.clock.factor_ppm
        due = world.now_us + (ticks * 1000 if factor == 1_000_000 else max(1, ticks * 1_000_000_000 // factor))
        self._timers[key] = due
        self._timer_count += 1
        heapq.heappush(self._timer_heap, (due, self._timer_count, key))
        if self._timer_at is None or due < self._timer_at:
            self._timer_at = due
            self._after_us(due - world.now_us, self._pop_timers)

    def _pop_timers(self) -> None:
        heap, now, timers = self._timer_heap, self.world.now_us, self._timers
        woken = False
        while heap and (heap[0][0] <= now or timers.get(heap[0][2]) != heap[0][0]):
            due, _, key = heapq.heappop(heap)
            if timers.get(key) == due:
                del timers[key]
                self._due.append(key)
                woken = True
        if self._timer_at is not None and self._timer_at <= now:
            self._timer_at = None
        if heap and (self._timer_at is None or heap[0][0] < self._timer_at):
            self._timer_at = heap[0][0]
            self._after_us(heap[0][0] - now, self._pop_timers)
        if woken and not self._busy:
            self._wake()

    # ---------------------------------------------------------------------------------------- checkpoints

    def _save(self, save: Save) -> None:
        if self._saving is not None:
            self._next_save = save
            return
        self._saving = save
        us = 1000 + (self.world.random.getrandbits(20) * SAVE_US_MAX >> 20)
        self._after_us(us, self._finish_save)

    def _finish_save(self) -> None:
        save = self._saving
        assert save is not None
        stable, snapshots = save.stable, self.disk.snapshots
        self.world.journal.add(
            self.world.now_us, DISK, self.number, stable.slot, b"snapshot\0" + b"".join(stable.leaves)
        )
        try:
            snapshots.save(
                stable.slot,
                save.manifest(),
                [(leaf, None if snapshots.has(leaf) else stable.view.chunk(i)) for i, leaf in enumerate(stable.leaves)],
            )
        except DiskFull:
            self.world.inject(_FULL)
            self._after_us(DISK_FULL_US, self._finish_save)
            return
        except StorageFailed as error:
            self._disk_refused(error)
            self.world.stop_host(self, power=False)
            return
        except PowerCut:
            self.world.on_power_cut(self)
            return
        self._saving = None
        self.put(Saved(stable.slot))
        if self._next_save is not None:
            following, self._next_save = self._next_save, None
            self._save(following)


_KEYS: Final[dict[TimerKey, bytes]] = {}


def _key_bytes(key: TimerKey) -> bytes:
    known = _KEYS.get(key)
    if known is None:
        if len(_KEYS) > 1000:
            _KEYS.clear()
        known = _KEYS[key] = repr(key).encode()
    return known
