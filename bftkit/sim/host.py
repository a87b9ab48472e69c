"""One member's process and machine in the simulated world: a replica, its disk, its clock, its timers.

It interprets effects as `bftkit.node.node` does, round by round: everything that is ready goes in, at most so much of
each peer as a hub reads at once, then the effects are carried out in order, records are written and synced once, and
only then does whatever was sent leave (SAFETY rule 5). A round takes as long as its work costs, and then as long as
its disk does; meanwhile nothing else goes in, and a crash can hit in between: then the records of the round are
partly or wholly lost, and nothing of it has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bftkit.channel.frames import CONTROL_CODEC, Manifest
from bftkit.channel.interface import (
    ClientLink,
    Clock,
    FromClient,
    Linked,
    ReplicaOut,
    ReplicaSettings,
    Restored,
    RoundEnd,
    Saved,
    SecretKept,
)
from bftkit.channel.records import EPOCH_RECORD, OWN_RECORD
from bftkit.channel.replica import Replica
from bftkit.channel.settling import own_record, read_own_record
from bftkit.core.machine import (
    MemberId,
    Out,
)
from bftkit.membership.chain import HandOver
from bftkit.sim.adversaries import Honest
from bftkit.sim.costs import Meter
from bftkit.sim.disk import Disk
from bftkit.sim.epochs import WorldKeychain
from bftkit.sim.interpreter import HUB, Due, Event, FromMember, Inlet, Interpreter, key_bytes
from bftkit.sim.journal import DISK, DUE, HEARD, OTHER, ROUND
from bftkit.sim.links import WallClock
from bftkit.storage.files import DiskFull, StorageFailed
from bftkit.storage.log import Durability, Log, LogCorrupt, LogMissing, set_aside
from bftkit.storage.memory_files import PowerCut
from bftkit.storage.snapshots import SnapshotCorrupt

if TYPE_CHECKING:
    from bftkit.sim.world import World

__all__ = ["Due", "Event", "FromMember", "Host"]

WAKING_US: Final = (0, 0, 1000, 3000)
"""Where work costs nothing, a frame is sometimes handled alone, sometimes with all that came within some ticks."""
_ROUND_END: Final = RoundEnd()
# Lines of docs/FAULTS.md.
_AT_THE_DISK: Final = 12
_TORN: Final = 13
_FLIPPED: Final = 14
_LIED: Final = 17


class Host(Interpreter):
    """A member. It is up while it has a replica."""

    def __init__(
        self, world: World, settings: ReplicaSettings, clock: WallClock, adversary: Honest | None, meter: Meter
    ) -> None:
        """`meter` is what the member's signatures are charged to."""
        super().__init__(world, settings, clock, adversary, meter)
        self.client_frame_max = settings.limits.bundle_bytes + (64 << 10)
        self.prepare_disk()

    def _host(self) -> Host:
        return self

    def _put(self, event: Event) -> None:
        self.put(event)

    @property
    def _identity(self) -> bytes:
        return self.settings.clock_key.public

    @property
    def _salt(self) -> bytes:
        return self.settings.clock_key.public[:16]

    @property
    def current(self) -> ReplicaSettings:
        """The settings of the epoch that it is in; of a member that is down, those that it began with."""
        return self.settings if self.replica is None else self.replica.settings

    @property
    def up(self) -> bool:
        """Whether the process runs."""
        return self.replica is not None

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
            if self.killed_at_disk:
                self.disk.directory.restart_process()
            else:
                self.disk.directory.crash(self.world.random.randrange)
            self.world.on_power_cut(self)
            return
        self.neighbours = None if self.settings.place is None else frozenset()
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
        self._remember_epoch(replica)
        self._note_applied()
        self._drive(self._finish_round(out))

    def _remember_epoch(self, replica: Replica) -> None:
        """As the node does: a link that the crash was faster than may be the only one that says who made the key."""
        links = replica.succession.links if replica.succession is not None else {}
        for epoch, link in sorted(links.items()):
            if epoch not in self.disk.links:
                self._on_epoch(Linked(epoch, link.encode()))

    def _open(self) -> Restored:
        world, directory, settings = self.world, self.disk.directory, self.settings
        keeper = self.keeper
        amnesic = before = keeper.is_marked
        try:
            self._log, recovered = self._open_log()
        except (LogMissing, LogCorrupt) as error:
            world.note(self.me, f"amnesia: {error}")
            if directory.flips and isinstance(error, LogCorrupt):
                world.inject(_FLIPPED)
                directory.flips = 0
            set_aside(directory)
            remark = own_record(0, silent=True, forgotten=self._root())
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
        links = [self.disk.links[epoch] for epoch in sorted(self.disk.links)]
        slots = [entry.slot for entry in recovered.records]
        self._suit_opened(self._log, records, before=before)
        forgotten = self._root() if amnesic else b""
        return Restored(records, checkpoint, amnesic, forgotten, links, dict(self.disk.secrets), slots)

    def _suit_opened(self, log: Log, records: Sequence[bytes], *, before: bool) -> None:
        """As `open_storage` does it."""
        place, keeper = self.settings.place, self.keeper
        opened = [record for record in records if record.startswith(EPOCH_RECORD)]
        newest = HandOver.decode(opened[-1][1:]).next if opened else None
        here = newest or (place.configuration if place is not None else None)
        asked = here.qos.durability if here is not None and here.qos is not None else None
        if before:
            self.world.note(self.me, "its log may lack what it promised")
        if before and keeper.needed(asked) is Durability.FSYNC:
            own = [record for record in records if record.startswith(OWN_RECORD)]
            voted = read_own_record(own[-1][1:])[0] if own else 0
            log.append(own_record(voted, silent=True, forgotten=self._root()), 0)
            log.settle()
            keeper.unmark()
        keeper.suit(log, asked)

    def _root(self) -> bytes:
        """The root of the keys that the member signed with last, as its key file says."""
        keychain = self.settings.keychain
        return keychain.root if isinstance(keychain, WorldKeychain) else b""

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
        if self.neighbours is not None and isinstance(peer, str):
            self.world.successions.on_stranger(peer)
            if not self.admits(peer):
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
            self._busy = True
            us = WAKING_US[self.world.random.getrandbits(2)] if self._free else 0
            if us or self.paused:
                self._after_us(us, self._start_round)
            else:
                self._start_round()

    def admits(self, peer: object) -> bool:
        """Whether it has links with this member."""
        return self.neighbours is None or peer in self.neighbours

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
            case Saved() | SecretKept():
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

    # ---------------------------------------------------------------------------------------- rounds

    def _start_round(self) -> None:
        out = self._round()
        if out.effects or not self._free or self._seal_at is not None or self._pending():
            self._drive(self._finish_round(out))
        else:
            self._end_round()  # nothing came of it, as of most votes before the last one

    def _pending(self) -> bool:
        watched = self.watched
        return watched is not None and bool(watched.pending)

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
        self._end_round()

    def _end_round(self) -> None:
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

    def _round(self) -> ReplicaOut:
        """Hand in what is ready; returns what the replica wants."""
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
            if now_ms > world.recorder.latest_ms and self.me not in world.recorder.exempt:
                world.recorder.latest_ms = now_ms
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
                add(now_us, DUE, number, 0, key_bytes(key))
                self._watch(Due(key))
                replica.on_timer(key, out)
        if self._saved:
            saved, self._saved = self._saved, []
            for one in saved:
                add(now_us, OTHER, number, 0, b"saved %d" % one.slot if isinstance(one, Saved) else b"kept " + one.name)
                self._watch(one)
                replica.on_input(one, out)
        hashing = replica.checkpoints.hashing[0] if replica.checkpoints.hashing else None
        hashed = len(hashing.leaves) if hashing is not None else 0
        replica.on_input(_ROUND_END, out)
        if hashing is not None:
            self._meter.ns += self._costs.chunk_ns * (len(hashing.leaves) - hashed)
        adversary = self.adversary
        if adversary is not None:
            if adversary.settings is not replica.settings and replica.settings.place is not None:
                adversary.on_epoch(replica.settings)
            out = adversary.outgoing(replica, out)
            self._heed(adversary)
        self._note_applied()
        world.check_step(self)
        return out

    def _watch(self, event: Event) -> None:
        for watch in self.world.inputs:
            watch(self.me, event)

    def _read(self, replica: Replica, out: ReplicaOut) -> None:
        """Hand in what came: of each peer as much as a hub reads at once, so that no peer starves the others."""
        world, adversary = self.world, self.adversary
        journal, now_us, number, inputs = world.journal, world.now_us, self.number, world.inputs
        numbers, data = journal.numbers, journal.data
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
                numbers += (now_us, HEARD, number, packet)
                data.append(name)
                if type(peer) is bytes:
                    event = FromClient(peer, frame)
                    if inputs:
                        self._watch(event)
                    if adversary is not None:
                        heard = adversary.from_client(peer, frame)
                        if heard is None:
                            continue
                        event = FromClient(peer, heard)
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
        applied, stable = replica.state.applied, replica.checkpoints.stable
        if applied == self._applied_seen and stable == self._stable_seen:
            return
        recorder = self.world.recorder
        if self.me in recorder.exempt:
            return
        if applied != self._applied_seen:
            self.watched.pending.append(partial(recorder.reached, self.me, applied))
        if applied > self._applied_seen:
            # What its protocol decided above the epoch's last slot is void, and the state may be of a later epoch.
            end = replica.succession.end if replica.succession is not None else None
            for slot in range(self._applied_seen + 1, applied + 1):
                name = replica.history.get(slot)
                if name is not None and (end is None or slot <= end):
                    self.watched.pending.append(partial(recorder.batch, self.me, slot, name))
            self._applied_seen = applied
        if stable != self._stable_seen:
            self._stable_seen = stable
            for kept in replica.checkpoints.kept:
                recorder.root(self.me, kept.slot, kept.root)
