"""A member as an operating-system process: the interpreter of a replica's effects that does real I/O.

One task runs everything, in rounds. A round takes in all that is ready (frames, timers, finished saves), hands it to
the replica, and then carries out the replica's effects in their order: records are written and synced *once*, and
only then does whatever was sent after them leave (SAFETY rule 5). Nothing here costs a task, a lock or a thread for a
request, or for a batch.

When the disk is full, the round waits where it is: nothing that it would have acknowledged leaves until there is
room. When the disk fails, the member stops and says so; a failed sync is never tried again as if it had succeeded.
"""

from __future__ import annotations

import heapq
import json
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import attrs
import trio

from bftkit.channel.frames import StatusAnswer, pack_answer
from bftkit.channel.interface import Entered, KeepSecret, Linked, SecretKept
from bftkit.channel.interface import Neighbours as NeighboursAre
from bftkit.channel.replica import (
    ClientLink,
    Clock,
    Cut,
    FromClient,
    Halted,
    Jot,
    Replica,
    ReplicaOut,
    Restored,
    Rotate,
    RoundEnd,
    Save,
    Saved,
    StatusAsked,
    ToClient,
)
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
from bftkit.network.addresses import Address
from bftkit.network.hub import Hub, LinkDown, LinkUp, Peer, Received
from bftkit.node.chronicle import Chronicle
from bftkit.node.evidence import EvidenceStore
from bftkit.node.names import Names
from bftkit.node.neighbours import Door, Neighbours, Peers
from bftkit.node.scribe import Scribe
from bftkit.node.sync_times import SyncTimes
from bftkit.node.vault import Vault
from bftkit.storage.durability import DurabilityKeeper
from bftkit.storage.files import DiskFull
from bftkit.storage.log import Durability, RecordLog
from bftkit.storage.snapshots import SnapshotStore

logger = logging.getLogger("bftkit.node")

SEAL_SECONDS: Final = 0.2
"""So long after the last record the log is sealed (see ADR 0005)."""
TIDY_SECONDS: Final = 0.2
"""So long after an epoch began its hand-over is stored, old keys are erased, and the log loses its old end."""
DISK_FULL_SECONDS: Final = 0.25
FAULTS_KEPT: Final = 500
PROOFS_KEPT: Final = 4
"""So many proofs are kept for each member and kind of fault."""
OTHERS: Final = "(others)"
"""No member's id."""
LINGER_SECONDS: Final = 0.001
"""So long a round waits for more in the hub itself, before it lets other tasks wait with it."""
NOBODY: Final = bytes(32)
"""In place of the client of a frame that came by another way; no link has it, so nothing is sent back."""
YIELD_SECONDS: Final = 0.01
"""Other tasks of the process get a turn at least this often."""


class Adversary(Protocol):
    """Changes what a member hears and says, for fault injection: see `bftkit.sim.adversaries`."""

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """What the replica hears in place of this frame; None: nothing."""
        ...

    def from_client(self, client: bytes, frame: bytes) -> bytes | None:
        """What the replica hears in place of this frame of a client; None: nothing."""
        ...

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """What the world sees in place of these effects."""
        ...

    def postponed(self) -> list[tuple[int, tuple[MemberId, ...], bytes]]:
        """Frames to send later or besides: in how many ticks, to whom. Asked for after each round."""
        ...

    def status(self) -> dict[str, Any]:
        """What it has done."""
        ...


@attrs.define
class NodeCounters:
    """What this process did, for people and metrics."""

    rounds: int = 0
    sync_rounds: int = 0
    disk_full: int = 0
    dropped_frames: int = 0


class _StoppedInRound(Exception):
    """The member is to stop, and the disk has no room for what this round would have to write first."""


class Timers:
    """Timers by key; setting one again replaces it."""

    def __init__(self) -> None:
        self._due: dict[TimerKey, float] = {}
        self._heap: list[tuple[float, int, TimerKey]] = []
        self._count = 0

    def set(self, key: TimerKey, at: float) -> None:
        """The timer fires at this time, and at no other."""
        self._due[key] = at
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, key))

    def cancel(self, key: TimerKey) -> None:
        """Forget it, if it is set."""
        self._due.pop(key, None)

    def next(self) -> float:
        """When the next timer is due; infinity if none is set."""
        heap = self._heap
        while heap and self._due.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else float("inf")

    def pop_due(self, now: float) -> list[TimerKey]:
        """The timers that are due, in order; they are set no more."""
        due: list[TimerKey] = []
        while self.next() <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._due[key]
            due.append(key)
        return due


class Node:
    """Runs one replica over a hub and a disk. Use `run` inside a trio nursery."""

    def __init__(
        self,
        replica: Replica,
        hub: Hub,
        log: RecordLog,
        snapshots: SnapshotStore,
        *,
        peers: Mapping[MemberId, tuple[bytes, tuple[Address, ...]]],
        wall_clock: Callable[[], float] = time.time,
        adversary: Adversary | None = None,
        names: Names | None = None,
        door: Door | None = None,
        vault: Vault | None = None,
        durability: DurabilityKeeper | None = None,
        chronicle: Chronicle | None = None,
        evidence: EvidenceStore | None = None,
        scribe: Scribe | None = None,
    ) -> None:
        """`peers`: identity key and addresses of every other member. `names`: where to learn of newer addresses.

        In a group whose configuration can change, `door` is the hub's accept callback, which is told who the members
        are, and `vault` has this member's secrets; `peers` may then be empty. `durability` says how the log is to work
        in each epoch; None: as it does. `chronicle` and `evidence` keep what
        happened, and proofs of lies; `scribe` writes for them. The hub, log, store and scribe become the node's.
        """
        self.released = trio.Event()
        """This member was taken out of the group, and nobody needs its process any more: it may be stopped."""
        self.replica = replica
        self.hub = hub
        self.log = log
        self.snapshots = snapshots
        self.counters = NodeCounters()
        self.sync_times = SyncTimes()
        """How long rounds waited until their records were written, and synced if the log syncs."""
        self.blames: Counter[tuple[MemberId, str]] = Counter()
        """How often each member was blamed here, by whether that was a frame that is ``refused``, or another fault,
        ``proved`` or ``unproved``. Under `OTHERS`: whoever was none in the epoch of the time."""
        self._neighbours = Neighbours(hub, door, replica.me, peers)
        self._vault = vault
        self._root: bytes | None = None
        """The root of this member's keys in the present roster."""
        self._has_new_keys = False
        """Whether they are others than in the epoch before, and the key file has not followed yet."""
        self._durability = durability
        self._chronicle = chronicle if chronicle is not None else Chronicle(None)
        self._evidence = evidence
        self._scribe = scribe
        self._wall_clock = wall_clock
        self._adversary = adversary
        self._names = names
        self._postponed: list[tuple[float, int, tuple[MemberId, ...], bytes]] = []
        self._postponements = 0
        self._timers = Timers()
        self._saved: list[int] = []
        self._kept: list[bytes] = []
        self._taken: list[tuple[bytes, trio.Event]] = []
        self.heard: dict[MemberId, float] = {}
        """When each other member was last heard, by the hub's clock."""
        self._linking: dict[int, bytes] = {}
        self._saving: Save | None = None
        self._next_save: Save | None = None
        self._gated = False
        self._stopping = False
        self._untidy = False
        self._cut: int | None = None
        self._seal_at = float("inf")
        self._yield_at = 0.0
        self._started = time.monotonic()
        self._blamed: dict[tuple[MemberId, str], int] = {}
        self.evidence: list[tuple[MemberId, str, bytes]] = []

    @property
    def uptime(self) -> float:
        """How long this process has had the member (seconds)."""
        return time.monotonic() - self._started

    @property
    def chronicle(self) -> Chronicle:
        """What happened here, for people."""
        return self._chronicle

    @property
    def proofs(self) -> EvidenceStore | None:
        """The proofs of lies that this member keeps on disk, if it keeps any."""
        return self._evidence

    @property
    def peers(self) -> Peers:
        """Identity and addresses of the members that this one dials now."""
        return self._neighbours.peers

    def stop(self) -> None:
        """Ends `run` after the round under way. May be called from anywhere."""
        self._stopping = True
        self.hub.wake()

    async def take(self, frame: bytes) -> None:
        """Take in a frame as if a client had sent it over a link, and wait until the replica has seen it.

        It is for what proves itself, such as an operators' command: nobody is there to be answered. To be called in
        the node's own thread; under cancellation, or when the member stops before, it may not have been seen.
        """
        seen = trio.Event()
        self._taken.append((frame, seen))
        self.hub.wake()
        await seen.wait()

    def readdress(self, member: MemberId, addresses: Sequence[Address]) -> None:
        """From now on a peer is dialled at these addresses, in this order. A link that is up stays up.

        To be called in the node's own thread. Raises `ValueError` for who is no peer, `HubError` for an address that
        the hub cannot dial.
        """
        self._neighbours.readdress(member, addresses)
        self.hub.wake()  # it may be waiting for a deadline that is later than the new address's first attempt

    async def run(self, restored: Restored, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until `stop` is called or this task is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                try:
                    out: ReplicaOut = Out()
                    self.replica.on_input(self._clock(), out)
                    self.replica.on_restore(restored, out)
                    self.replica.on_start(out)
                    self._chronicle.begin(self.replica)
                    if self._evidence is not None and self.replica.succession is not None:
                        self._evidence.place = self.replica.succession.place
                    self._neighbours.dial()
                    if self.replica.succession is not None:
                        await self._remember_epoch()
                    await self._carry_out(out, nursery)
                    if self._names is not None:
                        nursery.start_soon(self._names.run, self.readdress)
                    task_status.started()
                    while not self._stopping:
                        await self._round(nursery)
                    if self.replica.succession is not None:
                        await self._tidy()
                except _StoppedInRound:
                    pass
                nursery.cancel_scope.cancel()  # leaving it waits for a checkpoint that a thread is saving
        finally:
            self.close()

    def close(self) -> None:
        """Close everything that is this node's. `run` does so itself; this is for one that is never run."""
        # Not flushed: after a failed sync, the hub's queues hold what depends on it (SAFETY rule 5).
        self.hub.close()
        try:
            self.log.close()
        except DiskFull as error:
            logger.warning("%s: %s; what was not written was never acknowledged", self.replica.me, error)
        finally:
            self.snapshots.close()
            if self._scribe is not None:
                self._scribe.close()

    def _clock(self) -> Clock:
        return Clock(int(self._wall_clock() * 1000))

    async def _round(self, nursery: trio.Nursery) -> None:
        hub, replica = self.hub, self.replica
        received = await self._receive()
        out: ReplicaOut = Out()
        self.counters.rounds += 1
        replica.on_input(self._clock(), out)
        for event in hub.events():
            if not isinstance(event, (LinkUp, LinkDown)) or not isinstance(event.peer, bytes):
                continue
            # A second process with the client's key may have come and gone: then the older link is the client's again,
            # and that one's binding is what has to be proved in the next epoch.
            binding = event.binding if isinstance(event, LinkUp) else event.falls_back
            if binding is not None and not self._neighbours.as_member(event.peer):
                # (A member that is a neighbour now was let in as a client just before.)
                replica.on_input(ClientLink(event.peer, binding), out)
        now = hub.clock()
        for peer, frames in received:
            if isinstance(peer, str):
                self.heard[peer] = now
                for frame in frames if self._adversary is None else self._heard(self._adversary, peer, frames):
                    replica.on_message(peer, frame, out)
            else:
                for frame in frames if self._adversary is None else self._heard_from(self._adversary, peer, frames):
                    replica.on_input(FromClient(peer, frame), out)
        while self._taken:
            frame, seen = self._taken.pop(0)
            seen.set()  # nobody else runs before the replica has seen it, a few lines below
            for one in [frame] if self._adversary is None else self._heard_from(self._adversary, NOBODY, [frame]):
                replica.on_input(FromClient(NOBODY, one), out)
        for key in self._timers.pop_due(now):
            replica.on_timer(key, out)
        while self._saved:
            replica.on_input(Saved(self._saved.pop(0)), out)
        while self._kept:
            replica.on_input(SecretKept(self._kept.pop(0)), out)
        replica.on_input(RoundEnd(), out)
        if self._adversary is not None:
            out = self._adversary.outgoing(replica, out)
            self._send_postponed(self._adversary, now)
        await self._carry_out(out, nursery)
        self._chronicle.after_round(replica, now)
        if self._cut is not None and not self._untidy and not self._linking:
            self.log.cut(self._cut)
            self._cut = None
        if now >= self._seal_at:
            self._seal_at = float("inf")
            self.log.seal()

    async def _receive(self) -> Received:
        """What is ready, once anything is.

        The answer to what was just sent is often there within a millisecond; waiting for it in the selector itself
        costs a third of what waiting through trio does. Other tasks get their turn between.
        """
        hub = self.hub
        now = hub.clock()
        due = min(self._timers.next(), self._seal_at, hub.deadline())
        if self._postponed:
            due = min(due, self._postponed[0][0])
        if self.replica.checkpoints.hashing:
            due = now  # a large state is hashed a little in every round, also when nothing comes
        if now < self._yield_at and not self._saved:
            received = hub.poll(max(0.0, min(LINGER_SECONDS, due - now)))
            if received or due <= now:
                return received
        self._yield_at = hub.clock() + YIELD_SECONDS
        await hub.wait(due)
        return hub.poll()

    @staticmethod
    def _heard(adversary: Adversary, peer: MemberId, frames: list[bytes]) -> list[bytes]:
        heard = (adversary.incoming(peer, frame) for frame in frames)
        return [frame for frame in heard if frame is not None]

    @staticmethod
    def _heard_from(adversary: Adversary, client: bytes, frames: list[bytes]) -> list[bytes]:
        heard = (adversary.from_client(client, frame) for frame in frames)
        return [frame for frame in heard if frame is not None]

    def _send_postponed(self, adversary: Adversary, now: float) -> None:
        """What an adversary says late. It waits for no record: whoever lies keeps no rules."""
        heap = self._postponed
        for ticks, to, frame in adversary.postponed():
            self._postponements += 1
            heapq.heappush(heap, (now + ticks / 1000, self._postponements, to, frame))
        while heap and heap[0][0] <= now:
            _, _, to, frame = heapq.heappop(heap)
            for member in to:
                self._send(member, frame)

    # ------------------------------------------------------------------------------------------ effects

    async def _carry_out(self, out: ReplicaOut, nursery: trio.Nursery) -> None:
        effects = out.effects
        if not effects:
            self.hub.flush()
            return
        hub, log = self.hub, self.log
        others = self.replica.others
        drawn: list[Draw | DrawSecret] = []
        appended = False
        gate = False
        # One pass over the effects: records go to the log's buffer and frames to the hub's queues; nothing leaves
        # before the flush at the end, and that waits for the sync if anything to be sent came after a record.
        for effect in effects:
            match effect:
                case Broadcast(frame):
                    gate = gate or self._gated
                    for member in others:
                        self._send(member, frame)
                case Send(to, frame):
                    gate = gate or self._gated
                    for member in to:
                        self._send(member, frame)
                case Persist(record, slot):
                    log.append(record, slot)
                    self._gated = appended = True
                case Deliver(output):
                    match output:
                        case ToClient(client, frame):
                            gate = gate or self._gated
                            if hub.is_up(client):
                                self._send(client, frame)
                        case Jot(record, slot):
                            log.append(record, slot)
                            appended = True
                        case Rotate(standing):
                            if self._linking:  # the log may be about to lose the only copy of a link
                                await self._keep_links()
                            await self._when_not_full(partial(log.rotate, standing))
                            await self._when_not_full(self._suit_log)
                            self._gated = False
                        case Cut(slot):
                            self._cut = slot
                        case Save():
                            self._save(output, nursery)
                        case StatusAsked(client, number):
                            text = json.dumps(self.status())
                            self._send(client, pack_answer(StatusAnswer(number, text)))
                        case Halted(reason, removed, needed):
                            # Operators asked for it if it was removed: nobody need be alarmed.
                            level = logging.INFO if removed else logging.ERROR
                            logger.log(level, "%s halts: %s", self.replica.me, reason)
                            self._chronicle.note("halted", epoch=self.replica.settings.epoch, reason=reason)
                            if not needed:
                                self.released.set()
                        case Linked(epoch, link):
                            self._linking[epoch] = link
                            self._tidy_soon(nursery)
                        case NeighboursAre(entries):
                            self._neighbours.follow(entries)
                            if self._names is not None:
                                self._names.follow(entries, self.readdress)
                        case Entered(place, link):
                            self._chronicle.entered(place, link)
                            if self._evidence is not None:
                                self._evidence.place = place
                            self._entered(nursery)
                        case KeepSecret(epoch, name, secret):
                            await self._keep_secret(epoch, name, secret)
                case SetTimer(key, ticks):
                    self._timers.set(key, hub.clock() + ticks / 1000)
                case CancelTimer(key):
                    self._timers.cancel(key)
                case Draw() | DrawSecret():
                    drawn.append(effect)
                case Blame(member, fault, proof):
                    self._blame(member, fault, proof)
        if gate:
            began = hub.clock()
            await self._when_not_full(log.sync)
            self.sync_times.add(hub.clock() - began)
            self._gated = False
            self.counters.sync_rounds += 1
        if self._has_new_keys:
            # Should the log be lost right now, the key file must say what keys were in use (SAFETY rule 16).
            self._has_new_keys = False
            await self._settle_vault()
        hub.flush()
        if appended and (self._seal_at == float("inf") or log.durability is Durability.FSYNC):
            # A log that syncs is sealed once it is idle; one that does not is settled every so often, busy or not.
            self._seal_at = hub.clock() + SEAL_SECONDS
        if log.full:
            await self._when_not_full(partial(log.rotate, self.replica.standing()))
        if drawn:
            await self._draw(drawn, nursery)

    def _suit_log(self) -> None:
        """A segment was begun, and all before it is durable; it may be a new epoch's, with other needs.

        What is appended in this round before the new epoch's segment, if this is not yet that, is made durable by it,
        and nothing leaves before (SAFETY rule 5).
        """
        place = self.replica.settings.place
        if self._durability is not None and place is not None:
            needs = place.configuration.qos
            self._durability.suit(self.log, None if needs is None else needs.durability)

    def _send(self, peer: Peer, frame: bytes) -> None:
        # Bounds in the channel keep frames below the hub's. Should one exceed them, it is lost and this member is not.
        if len(frame) > self.hub.limits.frame_bytes or not self.hub.send(peer, frame):
            self.counters.dropped_frames += 1

    async def _when_not_full(self, write: Callable[[], object]) -> None:
        """Try until the disk has room. Nothing that waits for these records has left, so nothing is acknowledged."""
        told = False
        while True:
            try:
                write()
                if told:
                    logger.warning("%s: the disk has room again", self.replica.me)
                return
            except DiskFull as error:
                self.counters.disk_full += 1
                if not told:
                    logger.error("%s acknowledges nothing until there is room: %s", self.replica.me, error)
                    told = True
                if self._stopping:
                    raise _StoppedInRound from None
                await trio.sleep(DISK_FULL_SECONDS)

    async def _draw(self, drawn: list[Draw | DrawSecret], nursery: trio.Nursery) -> None:
        out: ReplicaOut = Out()
        for effect in drawn:
            if isinstance(effect, Draw):
                self.replica.on_draw(effect.key, secrets.randbelow(effect.choices), out)
            else:
                self.replica.on_draw(effect.key, int.from_bytes(secrets.token_bytes(32), "big"), out)
        await self._carry_out(out, nursery)

    def _save(self, save: Save, nursery: trio.Nursery) -> None:
        # One at a time, and only the newest of those that wait: a large state must not pile up behind a slow disk.
        if self._saving is not None:
            self._next_save = save
            return
        self._saving = save
        nursery.start_soon(self._save_in_thread, save, nursery)

    async def _save_in_thread(self, save: Save, nursery: trio.Nursery) -> None:
        stable = save.stable

        def work() -> None:
            has = self.snapshots.has
            view = stable.view
            self.snapshots.save(
                stable.slot,
                save.manifest(),
                ((leaf, None if has(leaf) else view.chunk(index)) for index, leaf in enumerate(stable.leaves)),
            )

        while True:
            try:
                await trio.to_thread.run_sync(work)
                break
            except DiskFull as error:
                logger.error("%s cannot save its checkpoint: %s", self.replica.me, error)
                await trio.sleep(DISK_FULL_SECONDS)
        self._saving = None
        self._saved.append(stable.slot)
        self.hub.wake()
        if self._next_save is not None:
            following, self._next_save = self._next_save, None
            self._save(following, nursery)

    # ------------------------------------------------------------------------------------------ epochs

    async def _remember_epoch(self) -> None:
        """At the start: do again what a crash may have cut off. The log, which says where we are, is durable."""
        stored = set(self.snapshots.links())
        known = {epoch: link.encode() for epoch, link in sorted(self.replica.succession_part.links.items())}
        self._linking |= {epoch: link for epoch, link in known.items() if link not in stored}
        self._forget()
        await self._tidy()

    def _entered(self, nursery: trio.Nursery) -> None:
        """In a new epoch, and the log says so durably: what belongs to those before may go (SAFETY rule 28)."""
        here = self.replica.succession_part.configuration
        logger.info("%s is in epoch %d, under %s", self.replica.me, here.epoch, here.protocol)
        self._forget()
        self._tidy_soon(nursery)

    def _tidy_soon(self, nursery: trio.Nursery) -> None:
        """Keep links, erase keys and cut the log in a moment: clients wait for the epoch's first decision."""
        if not self._untidy:
            self._untidy = True
            nursery.start_soon(self._tidy_later)

    async def _tidy_later(self) -> None:
        await trio.sleep(TIDY_SECONDS)
        await self._tidy()

    async def _tidy(self) -> None:
        self._untidy = False
        await self._keep_links()
        self.hub.wake()  # now the log's old end may go
        await self._settle_vault()

    def _forget(self) -> None:
        configuration = self.replica.succession_part.configuration
        self._neighbours.let_in(configuration.operators)
        if self._vault is not None:
            mine = configuration.roster.by_id.get(self.replica.me)
            root = mine.epoch_root if mine is not None else None
            self._has_new_keys = None not in (self._root, root) and self._root != root
            self._root = root
            vain = self.replica.preparing.coin_keys.vain(self._vault.secrets())
            self._vault.forget(configuration.epoch, self.replica.succession_part.lineage.coin_since, root, vain)

    async def _settle_vault(self) -> None:
        if self._vault is not None:
            await self._in_thread(self._vault.settle, "erase its old keys")

    async def _keep_links(self) -> None:
        for epoch, link in sorted(self._linking.items()):
            if await self._in_thread(partial(self.snapshots.keep_link, epoch, link), "keep a hand-over"):
                self._linking.pop(epoch, None)

    async def _keep_secret(self, epoch: int, name: bytes, secret: bytes) -> None:
        if self._vault is None:
            raise RuntimeError("a member without a vault cannot keep secrets")
        if await self._in_thread(partial(self._vault.keep, epoch, name, secret), "keep a secret"):
            self._kept.append(name)
            self.hub.wake()

    async def _in_thread(self, work: Callable[[], None], what: str) -> bool:
        """Work on the disk, until there is room for it; False if the member is to stop before."""
        while True:
            try:
                await trio.to_thread.run_sync(work)
                return True
            except DiskFull as error:
                logger.error("%s cannot %s: %s", self.replica.me, what, error)
                if self._stopping:
                    return False
                await trio.sleep(DISK_FULL_SECONDS)

    def _blame(self, member: MemberId, fault: str, proof: bytes) -> None:
        kind = "proved" if proof else "refused" if fault.startswith("refused:") else "unproved"
        self.blames[member if member in self.replica.indices else OTHERS, kind] += 1
        key = (member, fault[:80])
        if key not in self._blamed and len(self._blamed) >= FAULTS_KEPT:
            key = (member, "other faults")  # texts may hold numbers that a liar chooses
        count = self._blamed[key] = self._blamed.get(key, 0) + 1
        kept: str | None = None
        if proof and count <= PROOFS_KEPT:
            self.evidence.append((member, fault, proof))
            if self._evidence is not None:
                kept = self._evidence.keep(member, fault, proof)
        # Told once, then at every doubling: a liar must not fill our disk with words (FAULTS, oracle X).
        if count & (count - 1) == 0:
            logger.warning("%s: %s %s (%d times)", self.replica.me, member, key[1], count)
            epoch = self.replica.settings.epoch
            self._chronicle.note("blamed", epoch=epoch, member=member, fault=key[1], count=count, evidence=kept)

    # ------------------------------------------------------------------------------------------ telling

    def status(self) -> dict[str, Any]:
        """How this member is, for people: JSON-ready."""
        status = self.replica.status()
        status |= {
            "pid": os.getpid(),
            "uptime_s": round(self.uptime, 3),
            "durability": self.log.durability.value,
            "log_bytes": self.log.bytes_on_disk,
            "log_segments": self.log.segments,
            "links": sorted(peer for peer in self.hub.up() if isinstance(peer, str)),
            "clients": sum(isinstance(peer, bytes) for peer in self.hub.up()),
            "blamed": {f"{member}: {fault}": count for (member, fault), count in sorted(self._blamed.items())[:100]},
            "node": attrs.asdict(self.counters),
            "network": dict(sorted(self.hub.counters.items())),
        }
        status |= self._chronicle.told()
        status["evidence"] = self._evidence.count if self._evidence is not None else len(self.evidence)
        if self._names is not None:
            status["names"] = self._names.status()
        if self._adversary is not None:
            status |= self._adversary.status()
        return status
