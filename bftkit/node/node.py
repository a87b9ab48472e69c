"""A member as an operating-system process: the loop that runs a replica over real links, a real disk and real time.

One task runs everything, in rounds. A round takes in all that is ready (`inputs`: frames, timers, finished saves),
hands it to the replica, and then carries out the replica's effects in their order (`effects`): records are written and
synced *once*, and only then does whatever was sent after them leave (SAFETY rule 5). Nothing here costs a task, a lock
or a thread for a request, or for a batch.

When the disk is full, the round waits where it is: nothing that it would have acknowledged leaves until there is
room. When the disk fails, the member stops and says so (`disk`). From epoch to epoch it keeps what the group will ask
for, and erases what nobody may find (`succession`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from bftkit.channel.interface import Saved
from bftkit.channel.replica import Clock, Replica, ReplicaOut, Restored
from bftkit.core.machine import MemberId, Out
from bftkit.membership.roster import RosterEntry
from bftkit.network.addresses import Address
from bftkit.network.hub import Hub
from bftkit.node.adversary import Adversary as Adversary
from bftkit.node.adversary import Tampering
from bftkit.node.blames import OTHERS as OTHERS
from bftkit.node.blames import Blames
from bftkit.node.chronicle import Chronicle
from bftkit.node.disk import CheckpointSaver, LogKeeper, Patience, StoppedInRound
from bftkit.node.effects import Interpreter
from bftkit.node.evidence import EvidenceStore
from bftkit.node.inputs import Inputs
from bftkit.node.names import Names
from bftkit.node.neighbours import Door, Neighbours, Peers
from bftkit.node.scribe import Scribe
from bftkit.node.status import NodeCounters as NodeCounters
from bftkit.node.status import process_status
from bftkit.node.succession import Succession
from bftkit.node.timers import Timers
from bftkit.node.vault import Vault
from bftkit.storage.durability import DurabilityKeeper
from bftkit.storage.files import DiskFull
from bftkit.storage.log import RecordLog
from bftkit.storage.snapshots import SnapshotStore

logger = logging.getLogger("bftkit.node")


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
        in each epoch; None: as it does. `chronicle` and `evidence` keep what happened, and proofs of lies; `scribe`
        writes for them. The hub, log, store and scribe become the node's.
        """
        me = replica.me
        self.released = trio.Event()
        """This member was taken out of the group, and nobody needs its process any more: it may be stopped."""
        self.replica = replica
        self.hub = hub
        self.log = log
        self.snapshots = snapshots
        self.counters = NodeCounters()
        self._wall_clock = wall_clock
        self._names = names
        self._scribe = scribe
        self._stopping = False
        self._started = time.monotonic()
        self._timers = Timers()
        self._tampering = Tampering(adversary)
        self._neighbours = Neighbours(hub, door, me, peers)
        self._inputs = Inputs(replica, hub, self._timers, self._neighbours, self._tampering)
        self._chronicle = chronicle if chronicle is not None else Chronicle(None)
        self._blames = Blames(replica, self._chronicle, evidence)
        patience = Patience(me, self.counters, lambda: self._stopping)
        self._keeper = LogKeeper(log, durability, patience, self.counters, hub.clock)
        self._succession = Succession(
            replica,
            self._neighbours,
            snapshots,
            vault,
            self._chronicle,
            evidence,
            patience,
            kept=self._inputs.finished,
            wake=hub.wake,
        )
        self._effects = Interpreter(
            replica=replica,
            hub=hub,
            keeper=self._keeper,
            timers=self._timers,
            saver=CheckpointSaver(me, snapshots, lambda slot: self._inputs.finished(Saved(slot))),
            succession=self._succession,
            blames=self._blames,
            chronicle=self._chronicle,
            counters=self.counters,
            status=self.status,
            follow=self._follow,
            release=self.released.set,
        )
        self.heard = self._inputs.heard
        """When each other member was last heard, by the hub's clock."""
        self.sync_times = self._keeper.sync_times
        """How long rounds waited until their records were written, and synced if the log syncs."""
        self.blames = self._blames.counts
        """How often each member was blamed here, by kind of fault: see `Blames.counts`."""
        self.evidence = self._blames.evidence
        """The proofs of lies that this process has seen: whose, of what."""

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
        return self._blames.store

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
        await self._inputs.take(frame)

    def readdress(self, member: MemberId, addresses: Sequence[Address]) -> None:
        """From now on a peer is dialled at these addresses, in this order. A link that is up stays up.

        To be called in the node's own thread. Raises `ValueError` for who is no peer, `HubError` for an address that
        the hub cannot dial.
        """
        self._neighbours.readdress(member, addresses)
        self.hub.wake()  # it may be waiting for a deadline that is later than the new address's first attempt

    def corrupt(self, adversary: Adversary) -> None:
        """From now on this member lies, for fault injection: what it hears and says is the adversary's."""
        self._tampering.adversary = adversary

    async def run(self, restored: Restored, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until `stop` is called or this task is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                try:
                    await self._begin(restored, nursery)
                    task_status.started()
                    while not self._stopping:
                        await self._round(nursery)
                    if self.replica.succession is not None:
                        await self._succession.tidy()
                except StoppedInRound:
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

    def status(self) -> dict[str, Any]:
        """How this member is, for people: JSON-ready."""
        status = process_status(
            self.replica, self.log, self.hub, self.counters, self._blames, self._chronicle, self.uptime
        )
        if self._names is not None:
            status["names"] = self._names.status()
        return status | self._tampering.status()

    # ------------------------------------------------------------------------------------------ rounds

    async def _begin(self, restored: Restored, nursery: trio.Nursery) -> None:
        out: ReplicaOut = Out()
        self.replica.on_input(self._clock(), out)
        self.replica.on_restore(restored, out)
        self._succession.restored()
        self.replica.on_start(out)
        if self.replica.lacks_state:
            logger.error(
                "%s has lost the state for which its log was cut at slot %d: it votes for nothing until it has fetched "
                "one as new from the others",
                self.replica.me,
                self.replica.settling.covered,
            )
        self._chronicle.begin(self.replica)
        self._neighbours.dial()
        await self._succession.begin()
        await self._effects.carry_out(out, nursery)
        if self._names is not None:
            nursery.start_soon(self._names.run, self.readdress)

    async def _round(self, nursery: trio.Nursery) -> None:
        replica, tampering = self.replica, self._tampering
        received = await self._inputs.receive(min(self._keeper.seal_at, tampering.next()))
        self.counters.rounds += 1
        now = self.hub.clock()
        out: ReplicaOut = Out()
        replica.on_input(self._clock(), out)
        self._inputs.hand_over(received, now, out)
        if tampering.adversary is not None:
            out = tampering.said(replica, out, now)
            for to, frame in tampering.pop_due(now):  # it waits for no record: whoever lies keeps no rules
                for member in to:
                    self._effects.send(member, frame)
        await self._effects.carry_out(out, nursery)
        self._chronicle.after_round(replica, now)
        self._keeper.tend(now, may_cut=self._succession.is_tidy)

    def _clock(self) -> Clock:
        return Clock(int(self._wall_clock() * 1000))

    def _follow(self, entries: tuple[RosterEntry, ...]) -> None:
        self._neighbours.follow(entries)
        if self._names is not None:
            self._names.follow(entries, self.readdress)
