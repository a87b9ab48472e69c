"""Carrying out what a simulated member decided: its log, its timers, its frames, its checkpoints.

The half of a `Host` that acts, as `bftkit.node.effects` does: records are written and synced once a round, and only
then does whatever was sent after them leave (SAFETY rule 5).
"""

from __future__ import annotations

import heapq
import json
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from bftkit.channel.frames import StatusAnswer, pack_answer
from bftkit.channel.interface import (
    ClientLink,
    Cut,
    Entered,
    Halted,
    Jot,
    KeepSecret,
    Linked,
    Neighbours,
    ReplicaInput,
    ReplicaOut,
    ReplicaSettings,
    Rotate,
    Save,
    Saved,
    SecretKept,
    StatusAsked,
    ToClient,
)
from bftkit.channel.replica import Replica
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
from bftkit.sim.journal import DISK, DRAWN, TIMER
from bftkit.sim.links import WallClock
from bftkit.storage.durability import DurabilityKeeper
from bftkit.storage.files import DiskFull, StorageFailed
from bftkit.storage.log import Log
from bftkit.storage.memory_files import PowerCut

if TYPE_CHECKING:
    from bftkit.sim.host import Host
    from bftkit.sim.world import World

SEAL_US: Final = 200_000
DISK_FULL_US: Final = 250_000
SYNC_US_MAX: Final = 4_000
"""A sync takes up to so long where work costs nothing."""
SAVE_US_MAX: Final = 40_000
FILE_US_MAX: Final = 10_000
"""A small file of its own takes up to so long."""
HUB: Final = HubLimits()
# Lines of docs/FAULTS.md.
_FULL: Final = 15
_SYNC_FAILED: Final = 16


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


class Interpreter:
    """The half of a `Host` that carries out effects."""

    def __init__(
        self, world: World, settings: ReplicaSettings, clock: WallClock, adversary: Honest | None, meter: Meter
    ) -> None:
        self.world = world
        self.settings = settings
        self.me = settings.me
        self.number = world.number_of(self.me)
        self.clock = clock
        self.adversary = adversary
        self.disk = Disk()
        self.durability = world.durability
        """The member's own setting."""
        self.replica: Replica | None = None
        self.watched: Watched | None = None
        self.incarnation: int = 0
        self.halted: str | None = None
        self.broken_disk: str | None = None
        """Why the member stopped by itself: its disk refused."""
        self.clients: set[bytes] = set()
        self.blamed: dict[tuple[MemberId, str], int] = {}
        self.waits_for_space = False
        self.killed_at_disk = False
        """A planned end in the middle of a disk operation is that of the process only."""
        self.cut_alone = False
        """A planned end in the middle of anything is that of this machine only."""
        self.before_step: Callable[[str], None] | None = None
        """Called before anything of a round leaves, as `Disk.plan` has it for operations of the disk."""
        self.paused = False
        self.rounds: int = 0
        self.syncs: int = 0
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
        self._saved: list[Saved | SecretKept] = []
        self.neighbours: frozenset[MemberId] | None = None
        """With whom it has links; None: with everybody."""
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

    @property
    def log(self) -> Log:
        """The open log of a member that is up."""
        assert self._log is not None
        return self._log

    def _host(self) -> Host:
        raise NotImplementedError

    def _wake(self) -> None:
        raise NotImplementedError

    def _put(self, event: Event) -> None:
        raise NotImplementedError

    def _after_us(self, us: int, action: Callable[[], None]) -> None:
        self.world.after_us(us, self._act, self.incarnation, action)

    def _act(self, incarnation: int, action: Callable[[], None]) -> None:
        if self.incarnation == incarnation:
            if self.paused:
                self._held.append(action)
            else:
                action()

    def _disk_refused(self, error: Exception) -> None:
        self.broken_disk = str(error)
        self.world.note(self.me, f"stops: {error}")
        if isinstance(error, DiskFull):
            self.world.inject(_FULL)
        elif self.disk.directory.failed_syncs:
            self.world.inject(_SYNC_FAILED)
            self.disk.directory.failed_syncs = 0

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
        costs, replica = self._costs, self.replica
        assert replica is not None
        others = len(replica.others)
        ns = costs.round_ns
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
        """As the node's own `Interpreter.carry_out`; yields the microseconds that the disk takes."""
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
                    yield from self._when_not_full(self._suit_log)
                    self._gated = False
                elif isinstance(output, Cut):
                    log.cut(output.slot)
                elif isinstance(output, Save):
                    self._save(output)
                elif isinstance(output, StatusAsked):
                    answer = StatusAnswer(output.number, json.dumps(replica.status()))
                    outbox.append((output.client, pack_answer(answer)))
                elif isinstance(output, Linked | Neighbours | Entered | KeepSecret):
                    self._on_epoch(output)
                else:
                    assert isinstance(output, Halted)
                    self.halted = output.reason
                    world.on_halted(self._host(), output.reason)
            elif kind is SetTimer:
                assert isinstance(effect, SetTimer)
                self._set_timer(effect.key, effect.ticks)
            elif kind is CancelTimer:
                assert isinstance(effect, CancelTimer)
                world.journal.add(world.now_us, TIMER, self.number, 0, key_bytes(effect.key))
                self._timers.pop(effect.key, None)
            elif kind is Blame:
                assert isinstance(effect, Blame)
                place = (effect.member, effect.fault)
                self.blamed[place] = self.blamed.get(place, 0) + 1
                world.on_blame(self._host(), effect.member, effect.fault, effect.proof)
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
        if outbox and self.before_step is not None:
            self.before_step("send")
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
                world.send(self._host(), to, frame)
            else:
                assert isinstance(to, bytes)
                world.carry_to_client(self._host(), to, frame)
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

    @property
    def keeper(self) -> DurabilityKeeper:
        """Knows how durable its records are to be."""
        return DurabilityKeeper(self.durability, self.disk.directory)

    def _suit_log(self) -> None:
        """See `Node._suit_log`."""
        replica = self.replica
        place = replica.settings.place if replica is not None else None
        if place is not None:
            self.keeper.suit(self.log, None if place.configuration.qos is None else place.configuration.qos.durability)

    def _on_epoch(self, output: Linked | Neighbours | Entered | KeepSecret) -> None:
        """What belongs to going from epoch to epoch: files of their own, and whom to have links with."""
        disk = self.disk
        if isinstance(output, Neighbours):
            self.neighbours = frozenset(entry.id for entry in output.entries)
        elif isinstance(output, Linked):
            write = partial(disk.links.__setitem__, output.epoch, output.link)
            self._after_us(self._file_us(), partial(self._write_file, "write link", write))
        elif isinstance(output, KeepSecret):
            self._after_us(self._file_us(), partial(self._write_file, "write secret", partial(self._keep, output)))
        else:
            epoch = output.place.configuration.epoch
            disk.directory.announce("erase keys")
            keychain = self.world.keychain(self.me)
            keychain.first = epoch  # the keys of all epochs before are erased
            entry = output.place.configuration.roster.by_id.get(self.me)
            keychain.root = entry.epoch_root if entry is not None else keychain.root
            if entry is not None:
                self.halted = None  # operators may take in again whom they took out
            assert self.replica is not None
            since, vain = (
                self.replica.succession_part.lineage.coin_since,
                self.replica.preparing.coin_keys.vain(disk.secrets),
            )
            for known in [known for known in disk.secrets if known[0] < since or known in vain]:
                del disk.secrets[known]

    def _write_file(self, what: str, write: Callable[[], None]) -> None:
        try:
            self.disk.directory.announce(what)
        except PowerCut:
            self.world.on_power_cut(self._host())
            return
        write()

    def _file_us(self) -> int:
        return 500 + (self.world.random.getrandbits(20) * FILE_US_MAX >> 20)

    def _keep(self, secret: KeepSecret) -> None:
        self.disk.secrets[secret.epoch, secret.name] = secret.secret
        self._put(SecretKept(secret.name))

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
        world.journal.add(world.now_us, TIMER, self.number, ticks, key_bytes(key))
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
            self.world.stop_host(self._host(), power=False)
            return
        except PowerCut:
            self.world.on_power_cut(self._host())
            return
        self._saving = None
        self._put(Saved(stable.slot))
        if self._next_save is not None:
            following, self._next_save = self._next_save, None
            self._save(following)


_KEYS: Final[dict[TimerKey, bytes]] = {}


def key_bytes(key: TimerKey) -> bytes:
    known = _KEYS.get(key)
    if known is None:
        if len(_KEYS) > 1000:
            _KEYS.clear()
        known = _KEYS[key] = repr(key).encode()
    return known
