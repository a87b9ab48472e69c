"""One member's process and machine in the simulated world: a replica, its disk, its clock, its timers.

It interprets effects as `bftkit.node.node` does, round by round: everything that is ready goes in, then the effects
are carried out in order, records are written and synced once, and only then does whatever was sent leave (SAFETY
rule 5). A round that waits for its disk holds up the next one, and a crash can hit in between: then the records of
the round are partly or wholly lost, and nothing of it has left.
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
from bftkit.sim.adversaries import Honest
from bftkit.sim.checkers import Watched
from bftkit.sim.links import WallClock
from bftkit.storage.files import DiskFull, StorageFailed
from bftkit.storage.log import Log, LogCorrupt, LogMissing, set_aside
from bftkit.storage.memory_files import MemoryDirectory, PowerCut
from bftkit.storage.snapshots import MemorySnapshots, SnapshotCorrupt

if TYPE_CHECKING:
    from bftkit.sim.world import World

SEAL_TICKS: Final = 200
DISK_FULL_TICKS: Final = 250
SYNC_TICKS_MAX: Final = 4
SAVE_TICKS_MAX: Final = 40


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


@attrs.define(eq=False)
class Disk:
    """What survives the process."""

    directory: MemoryDirectory
    snapshots: MemorySnapshots

    def copy(self) -> Disk:
        """The disk as it is now, for a later rollback (FAULTS 18)."""
        snapshots = MemorySnapshots()
        for slot, manifest in self.snapshots.checkpoints():
            message = CONTROL_CODEC.decode(manifest)
            assert isinstance(message, Manifest)
            snapshots.save(slot, manifest, [(leaf, self.snapshots.chunk(leaf)) for leaf in message.leaves])
        return Disk(self.directory.copy(), snapshots)


class Host:
    """A member. It is up while it has a replica."""

    def __init__(self, world: World, settings: ReplicaSettings, clock: WallClock, adversary: Honest | None) -> None:
        self.world = world
        self.settings = settings
        self.me = settings.me
        self.clock = clock
        self.adversary = adversary
        self.disk = Disk(MemoryDirectory(), MemorySnapshots())
        self.replica: Replica | None = None
        self.watched: Watched | None = None
        self.incarnation = 0
        self.halted: str | None = None
        self.broken_disk: str | None = None
        """Why the member stopped by itself: its disk refused."""
        self.clients: set[bytes] = set()
        self.blamed: dict[tuple[MemberId, str], int] = {}
        self.waits_for_space = False
        self.rounds = 0
        self.syncs = 0
        self._log: Log | None = None
        self._inbox: deque[Event] = deque()
        self._timers: dict[TimerKey, int] = {}
        self._timer_heap: list[tuple[int, int, TimerKey]] = []
        self._timer_count = 0
        self._busy = False
        self._gated = False
        self._outbox: list[Callable[[], None]] = []
        self._saving: Save | None = None
        self._next_save: Save | None = None
        self._seal_at: int | None = None
        self._applied_seen = 0
        Log.create(self.disk.directory, group=settings.group, identity=self._identity, salt=self._salt)

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

    # ---------------------------------------------------------------------------------------- life and death

    def start(self) -> None:
        """The process starts, with whatever the disk has."""
        assert self.replica is None, f"{self.me} is up already"
        restored = self._open()
        self.watched = self.world.make_application(self.me)
        self.replica = replica = Replica(self.settings, self.watched)
        self._applied_seen = restored.checkpoint[0] if restored.checkpoint is not None else 0
        self.halted = self.broken_disk = None
        out: ReplicaOut = Out()
        replica.on_input(Clock(self.clock.read(self.world.now)), out)
        replica.on_restore(restored, out)
        replica.on_start(out)
        self._note_applied()
        self._drive(self._carry_out(out))

    def _open(self) -> Restored:
        directory, settings = self.disk.directory, self.settings
        amnesic = False
        try:
            self._log, recovered = self._open_log()
        except (LogMissing, LogCorrupt) as error:
            self.world.note(self.me, f"amnesia: {error}")
            set_aside(directory)
            remark = own_record(0, silent=True)
            group, identity = settings.group, self._identity
            Log.create(directory, group=group, identity=identity, salt=self._salt, standing=[remark])
            self._log, recovered = self._open_log()
            amnesic = True
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
        self.replica = self.watched = None
        self.incarnation += 1
        self._log = None
        self._busy = self._gated = self.waits_for_space = False
        self._saving = self._next_save = None
        self._seal_at = None
        for container in (self._inbox, self._timers, self._timer_heap, self._outbox, self.clients):
            container.clear()
        if power:
            self.disk.directory.crash(self.world.random.randrange)
        else:
            self.disk.directory.restart_process()
        self.disk.snapshots.crash()

    def wipe(self) -> None:
        """Somebody puts an empty disk into a member that is down (FAULTS 18)."""
        assert self.replica is None
        self.disk = Disk(MemoryDirectory(), MemorySnapshots())

    # ---------------------------------------------------------------------------------------- rounds

    def put(self, event: Event) -> None:
        """Something is ready for the next round."""
        if self.replica is None:
            return
        self._inbox.append(event)
        self._wake()

    def link(self, client: bytes, binding: bytes) -> None:
        """A client's connection comes up."""
        if self.replica is not None:
            self.clients.add(client)
            self.put(ClientLink(client, binding))

    def _wake(self) -> None:
        if not self._busy:
            self._busy = True
            # Sometimes a frame is handled alone, sometimes with all that came within some ticks.
            self._after(self.world.random.choice((0, 0, 1, 3)), self._start_round)

    def _after(self, ticks: int, action: Callable[[], None]) -> None:
        incarnation = self.incarnation

        def act() -> None:
            if self.incarnation == incarnation:
                action()

        self.world.after(ticks, act)

    def _start_round(self) -> None:
        self._drive(self._round())

    def _drive(self, steps: Iterator[int]) -> None:
        """Run on until the disk is to be waited for."""
        self._busy = True
        incarnation = self.incarnation
        try:
            ticks = next(steps, None)
        except StorageFailed as error:
            if self.incarnation == incarnation:
                self.broken_disk = str(error)
                self.world.crash(self.me, power=False)
            return
        except PowerCut:
            self.world.on_power_cut(self)
            return
        if self.incarnation != incarnation:
            return
        if ticks is not None:
            self._after(ticks, partial(self._drive, steps))
            return
        self._busy = False
        if self._inbox:
            self._wake()

    def _round(self) -> Iterator[int]:
        replica = self.replica
        assert replica is not None
        world = self.world
        self.rounds += 1
        out: ReplicaOut = Out()
        replica.on_input(Clock(self.clock.read(world.now)), out)
        size = len(self._inbox)
        if size > 1 and world.random.random() < 0.3:
            size = world.random.randint(1, size)
        for _ in range(size):
            event = self._inbox.popleft()
            world.trace_input(self.me, event)
            if isinstance(event, FromMember):
                frame = self.adversary.incoming(event.sender, event.frame) if self.adversary else event.frame
                if frame is not None:
                    replica.on_message(event.sender, frame, out)
            elif isinstance(event, Due):
                replica.on_timer(event.key, out)
            else:
                replica.on_input(event, out)
        replica.on_input(RoundEnd(), out)
        if self.adversary is not None:
            out = self.adversary.outgoing(replica, out)
        self._note_applied()
        world.check_step(self)
        yield from self._carry_out(out)
        if self._seal_at is not None and world.now >= self._seal_at:
            self._seal_at = None
            self.log.seal()

    def _note_applied(self) -> None:
        replica = self.replica
        assert replica is not None
        assert self.watched is not None
        recorder = self.world.recorder
        if self.me in recorder.exempt:
            return
        for slot in range(self._applied_seen + 1, replica.applied + 1):
            name = replica.history.get(slot)
            if name is not None:
                self.watched.pending.append(partial(recorder.batch, self.me, slot, name))
        self._applied_seen = max(self._applied_seen, replica.applied)
        for stable in replica.checkpoints.kept:
            recorder.root(self.me, stable.slot, stable.root)

    # ---------------------------------------------------------------------------------------- effects

    def must_sync(self, gated: bool) -> bool:
        """Whether this round's frames wait for the disk. A test that breaks this must see a checker fail."""
        return gated

    def _carry_out(self, out: ReplicaOut) -> Iterator[int]:
        """As `Node._carry_out`; yields the ticks that the disk takes."""
        replica, log = self.replica, self.log
        assert replica is not None
        world = self.world
        drawn: list[Draw | DrawSecret] = []
        appended = gate = False
        for effect in out.effects:
            match effect:
                case Broadcast(frame):
                    gate = gate or self._gated
                    for member in replica.others:
                        self._outbox.append(partial(world.carry, self.me, member, frame))
                case Send(to, frame):
                    gate = gate or self._gated
                    for member in to:
                        self._outbox.append(partial(world.carry, self.me, member, frame))
                case Persist(record, slot):
                    log.append(record, slot)
                    self._gated = appended = True
                case Deliver(output):
                    match output:
                        case ToClient(client, frame):
                            gate = gate or self._gated
                            if client in self.clients:
                                self._outbox.append(partial(world.carry_to_client, self.me, client, frame))
                        case Jot(record, slot):
                            log.append(record, slot)
                            appended = True
                        case Rotate(standing):
                            yield from self._when_not_full(partial(log.rotate, standing))
                            self._gated = False
                        case Cut(slot):
                            log.cut(slot)
                        case Save():
                            self._save(output)
                        case StatusAsked(client, number):
                            answer = StatusAnswer(number, json.dumps(replica.status()))
                            self._outbox.append(partial(world.carry_to_client, self.me, client, pack_answer(answer)))
                        case Halted(reason):
                            self.halted = reason
                            world.on_halted(self, reason)
                case SetTimer(key, ticks):
                    self._set_timer(key, ticks)
                case CancelTimer(key):
                    self._timers.pop(key, None)
                case Draw() | DrawSecret():
                    drawn.append(effect)
                case Blame(member, fault, proof):
                    self.blamed[member, fault] = self.blamed.get((member, fault), 0) + 1
                    world.on_blame(self, member, fault, proof)
        if self.must_sync(gate):
            yield from self._when_not_full(log.flush)
            yield world.random.randint(0, SYNC_TICKS_MAX)
            yield from self._when_not_full(log.sync)
            self._gated = False
            self.syncs += 1
        outbox, self._outbox = self._outbox, []
        if outbox or not self._gated:
            # Whatever was executed is visible from now on, or rests on nothing that a crash can take back.
            assert self.watched is not None
            pending, self.watched.pending = self.watched.pending, []
            for happened in pending:
                happened()
        for leave in outbox:
            leave()
        if appended:
            self._seal_at = world.now + SEAL_TICKS
            self._after(SEAL_TICKS, self._wake)
        if log.full:
            yield from self._when_not_full(lambda: log.rotate(replica.standing()))
        if drawn:
            inner: ReplicaOut = Out()
            for effect in drawn:
                choices = effect.choices if isinstance(effect, Draw) else 1 << 256
                replica.on_draw(effect.key, world.random.randrange(choices), inner)
            yield from self._carry_out(inner)

    def _when_not_full(self, write: Callable[[], object]) -> Iterator[int]:
        while True:
            try:
                write()
                self.waits_for_space = False
                return
            except DiskFull:
                self.waits_for_space = True
                yield DISK_FULL_TICKS

    def _set_timer(self, key: TimerKey, ticks: int) -> None:
        due = self.world.now + ticks
        self._timers[key] = due
        self._timer_count += 1
        heapq.heappush(self._timer_heap, (due, self._timer_count, key))
        self._after(ticks, self._pop_timers)

    def _pop_timers(self) -> None:
        heap, now = self._timer_heap, self.world.now
        while heap and heap[0][0] <= now:
            due, _, key = heapq.heappop(heap)
            if self._timers.get(key) == due:
                del self._timers[key]
                self.put(Due(key))

    # ---------------------------------------------------------------------------------------- checkpoints

    def _save(self, save: Save) -> None:
        if self._saving is not None:
            self._next_save = save
            return
        self._saving = save
        self._after(self.world.random.randint(1, SAVE_TICKS_MAX), self._finish_save)

    def _finish_save(self) -> None:
        save = self._saving
        assert save is not None
        stable, snapshots = save.stable, self.disk.snapshots
        try:
            snapshots.save(
                stable.slot,
                save.manifest(),
                [(leaf, None if snapshots.has(leaf) else stable.view.chunk(i)) for i, leaf in enumerate(stable.leaves)],
            )
        except DiskFull:
            self._after(DISK_FULL_TICKS, self._finish_save)
            return
        self._saving = None
        self.put(Saved(stable.slot))
        if self._next_save is not None:
            following, self._next_save = self._next_save, None
            self._save(following)
