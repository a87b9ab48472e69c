"""One member's group channel: everything between authenticated frames and the replicated application.

A `Replica` is itself a machine. It runs a protocol's machine inside, gives it batches to order, keeps the bytes that
the protocol only knows by digest, executes what is decided, answers clients, takes checkpoints, and brings itself or
others up to date. A node runs it over sockets and a disk, the simulator over neither; the object is the same.

Inputs come in *rounds*: everything that is ready is handed in, then `RoundEnd`. That is where batches are made, so
that a batch holds all that came together, without any timer.

A round's parts and where they live::

    interface.py            what goes in and out    frames.py, bundles.py     what travels
    clients.py, watch.py    clients, the leader     pool.py, batches.py       what waits, what is kept
    proposing.py            what is proposed, by whom
    state.py, sessions.py   executing               checkpoints.py, settling.py, catchup.py, transfer.py
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs

from bftkit.channel import frames
from bftkit.channel.agreed_time import AgreedClock
from bftkit.channel.application import Application
from bftkit.channel.batches import SERVED_AT_ONCE, BatchStore, StoredBatch
from bftkit.channel.catchup import CatchUp
from bftkit.channel.checkpoints import Checkpoints, Stable
from bftkit.channel.clients import ClientDesk
from bftkit.channel.frames import (
    CheckpointVote,
    Control,
    Status,
    pack_answer,
    pack_control,
    pack_protocol,
)
from bftkit.channel.interface import (
    ClientLink,
    Clock,
    Cut,
    FromClient,
    Halted,
    Jot,
    Limits,
    ReplicaInput,
    ReplicaOut,
    ReplicaOutput,
    ReplicaSettings,
    Restored,
    Rotate,
    RoundEnd,
    Save,
    Saved,
    StatusAsked,
    ToClient,
)
from bftkit.channel.pool import Pool
from bftkit.channel.proposing import Proposer
from bftkit.channel.sessions import SessionTable
from bftkit.channel.settling import OWN_RECORD, Settling
from bftkit.channel.state import ReplicatedState, error_text
from bftkit.channel.watch import CLOCK_BEATS, LeaderWatch
from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import (
    Blame,
    Broadcast,
    CancelTimer,
    Deliver,
    Digest,
    Draw,
    DrawKey,
    DrawSecret,
    MemberId,
    Out,
    Persist,
    Send,
    SetTimer,
    Slot,
    TimerKey,
)
from bftkit.core.ordering import (
    Available,
    BatchWanted,
    Decided,
    Fetch,
    LeaderChanged,
    Learned,
    OrderingInput,
    OrderingMachine,
    Refused,
    Returned,
    Setup,
    Waiting,
)
from bftkit.core.wire import WireError, unpack_plain

__all__ = [
    "ClientLink",
    "Clock",
    "Counters",
    "Cut",
    "FromClient",
    "Halted",
    "Jot",
    "Limits",
    "Replica",
    "ReplicaInput",
    "ReplicaOut",
    "ReplicaOutput",
    "ReplicaSettings",
    "Restored",
    "Rotate",
    "RoundEnd",
    "Save",
    "Saved",
    "StatusAsked",
    "ToClient",
]

BEAT_TICKS: Final = 100
"""The replica's own rhythm: forwarding, status, retries."""
VOTE_BEATS: Final = 5
"""Votes for checkpoints that are not stable are sent again every so many beats."""
IDLE_BEATS: Final = 10
"""An idle member tells its status every so many beats."""
# Kinds of log records.
_PROTOCOL_RECORD: Final = b"\x01"
_BATCH_RECORD: Final = b"\x02"
_DECIDED_RECORD: Final = b"\x03"


@attrs.define
class Counters:
    """What happened here since the start, for people and metrics."""

    refused_frames: int = 0
    blames: int = 0
    evidence: int = 0
    equivocations: int = 0
    view_changes: int = 0
    checkpoints: int = 0
    transfers: int = 0
    transferred_bytes: int = 0
    batches: int = 0
    learned: int = 0
    returned: int = 0
    """Batches of this member that were left out of their rounds and offered again; only where nobody leads."""


class Replica:
    """One member of the group in one epoch. See the top of this file."""

    def __init__(self, settings: ReplicaSettings, application: Application) -> None:
        self.settings = settings
        self.limits = settings.limits
        self.me = settings.me
        self.others = tuple(member for member in settings.members if member != settings.me)
        self.indices = {member: index for index, member in enumerate(settings.members)}
        self.quorum = settings.quorum
        limits = settings.limits
        self.state = ReplicatedState(
            settings.group,
            application,
            SessionTable(limits.sessions, limits.session_window, limits.session_reply_bytes),
            AgreedClock(settings.quorum.available),
            settings.member_keys,
        )
        self.machine: OrderingMachine = settings.plugin.create(
            Setup(
                settings.me,
                settings.members,
                settings.quorum,
                settings.keyring,
                0,
                settings.window,
                settings.parameters,
                settings.coins,
            )
        )
        self.pool = Pool(limits.pool_bytes, limits.client_pool_bytes)
        self.batches = BatchStore(settings)
        self.checkpoints = Checkpoints(settings.quorum, settings.keyring)
        self.catchup = CatchUp(self)
        self.clients = ClientDesk(self)
        self.watch = LeaderWatch(self)
        self.proposer = Proposer(self)
        self.settling = Settling(self)
        self.counters = Counters()
        self.history: dict[Slot, Digest] = {}
        """What is decided, from the older kept checkpoint on."""
        self.silent = False
        self.stopped: str | None = None
        self.clock_ms = 0
        self.beat = 0
        self._inputs: deque[OrderingInput] = deque()
        self._stepping = False
        self._told_waiting = False
        self._bytes_since_checkpoint = 0
        self.promised: Slot = 0
        """What this member knew as decided when it started: no strong read is answered before (SAFETY rule 13)."""
        self._served: dict[MemberId, int] = {}
        self._status_told: tuple[int, int, int, int] = (0, 0, 0, 0)
        self._status_beat = 0

    # ------------------------------------------------------------------------------------------ machine

    @property
    def applied(self) -> Slot:
        """The last slot that was executed here."""
        return self.state.applied

    def on_restore(self, restored: Restored, out: ReplicaOut) -> None:
        """After a restart, before `on_start`. Raises `WireError` if what the disk holds makes no sense."""
        self.silent = restored.amnesic
        if restored.checkpoint is not None:
            slot, packed, chunks = restored.checkpoint
            manifest = frames.CONTROL_CODEC.decode(packed)
            if not isinstance(manifest, frames.Manifest):
                raise WireError("the saved checkpoint has no manifest")
            certified, root = self.checkpoints.check(manifest.certificate)
            names = [digest(chunk) for chunk in chunks]
            if certified != slot or names != list(manifest.leaves) or not self.checkpoints.fits(root, names):
                raise WireError("the saved checkpoint is not the certified one")
            self.state.restore(slot, chunks)
            self.checkpoints.make_stable(Stable(slot, root, manifest.certificate, manifest.leaves, self.state.view()))
            self.settling.saved.append(slot)
        protocol_records: list[bytes] = []
        decided: dict[Slot, Digest] = {}
        for record in restored.records:
            kind, body = record[:1], record[1:]
            if kind == _PROTOCOL_RECORD:
                protocol_records.append(body)
            elif kind == _BATCH_RECORD:
                self.batches.restore(body[8:], int.from_bytes(body[:8], "big"))
            elif kind == _DECIDED_RECORD:
                decided[int.from_bytes(body[:8], "big")] = body[8:]
            elif kind == OWN_RECORD:
                self.settling.voted, amnesic = unpack_plain(body)
                self.silent = self.silent or amnesic
            else:
                raise WireError(f"unknown kind of log record {kind.hex()}")
        if not self.silent:
            self._step(lambda inner: self.machine.on_restore(protocol_records, inner), out)
        for slot in sorted(decided):
            if slot > self.applied:
                self.catchup.learned[slot] = decided[slot]
        self.promised = max([self.applied, self.settling.voted, *decided])
        if restored.amnesic:
            out.persist(self.settling.own_record())

    def on_start(self, out: ReplicaOut) -> None:
        """Begin to take part."""
        out.set_timer(("beat",), BEAT_TICKS)
        if not self.silent:
            self._step(self.machine.on_start, out)
            if self.checkpoints.stable:
                self.tell_stable(self.checkpoints.kept[-1], out)
        self._advance(out, replay=True)
        self._tell_status(out)

    def on_input(self, value: ReplicaInput, out: ReplicaOut) -> None:
        """See the inputs above."""
        if isinstance(value, FromClient):
            self.clients.on_client(value.client, value.frame, out)
        elif isinstance(value, RoundEnd):
            self._on_round_end(out)
        elif isinstance(value, Clock):
            self.clock_ms = max(0, value.now_ms)
        elif isinstance(value, ClientLink):
            signature = self.settings.keyring.sign(frames.LINK_PURPOSE, value.binding)
            proof = frames.LinkProof(self.settings.epoch, signature)
            out.deliver(ToClient(value.client, pack_answer(proof)))
        else:
            self.settling.on_saved(value.slot, out)

    def on_message(self, sender: MemberId, message: bytes, out: ReplicaOut) -> None:
        """A frame from another member, over a link that authenticates it."""
        try:
            kind = message[0] if message else 0
            if kind == frames.PROTOCOL:
                self._on_protocol(sender, message, out)
            elif kind == frames.BUNDLE:
                self.clients.on_bundle(message[1:], sender, None, out)
            elif kind == frames.CONTROL:
                self._on_control(sender, self.settings.control.decode(message[1:]), out)
            else:
                raise WireError(f"unknown kind of frame {kind}")
        except WireError as error:
            self.refuse(sender, str(error), out)

    def on_timer(self, key: TimerKey, out: ReplicaOut) -> None:
        """A timer of ours, or of the protocol's (those begin with ``p``)."""
        if key[0] == "p":
            if not self.silent:
                self._step(lambda inner: self.machine.on_timer(key[1:], inner), out)
        elif key == ("beat",):
            self._on_beat(out)

    def on_draw(self, key: DrawKey, value: int, out: ReplicaOut) -> None:
        """A draw that the protocol asked for."""
        if not self.silent:
            self._step(lambda inner: self.machine.on_draw(key[1:], value, inner), out)

    # ------------------------------------------------------------------------------------------ the protocol

    def _step(self, call: Callable[[Out[Any, Any]], None], out: ReplicaOut) -> None:
        """One step of the protocol, and then whatever inputs its effects call for."""
        if self.stopped is not None:
            return
        assert not self._stepping
        self._stepping = True
        try:
            inner: Out[Any, Any] = Out()
            call(inner)
            if inner.effects:
                self._absorb(inner, out)
            while self._inputs:
                value = self._inputs.popleft()
                inner = Out()
                self.machine.on_input(value, inner)
                self._absorb(inner, out)
        except WireError:
            raise
        except Exception as error:
            # A plug-in's bug (SAFETY rule 29): the protocol counts as stopped, the member lives on without it.
            self.halt(f"the protocol failed: {error_text(error).decode()}", out)
        finally:
            self._stepping = False

    def give(self, value: OrderingInput, out: ReplicaOut) -> None:
        """Hand the protocol an input, now or at the end of the step that is under way."""
        self._inputs.append(value)
        if not self._stepping:
            self._step(lambda inner: None, out)

    def _absorb(self, inner: Out[Any, Any], out: ReplicaOut) -> None:
        codec = self.settings.plugin.codec
        for effect in inner.effects:
            match effect:
                case Broadcast(message, carry):
                    frame = pack_protocol(self.settings.epoch, codec.encode(message), self._carried(carry))
                    out.broadcast(frame)
                case Send(to, message, carry):
                    frame = pack_protocol(self.settings.epoch, codec.encode(message), self._carried(carry))
                    out.send(to, frame)
                case Persist(record, slot):
                    out.persist(_PROTOCOL_RECORD + record, slot)
                case Deliver(output):
                    self._on_output(output, out)
                case SetTimer(key, ticks):
                    out.set_timer(("p", *key), ticks)
                case CancelTimer(key):
                    out.cancel_timer(("p", *key))
                case Blame(member, fault, proof):
                    self.blame(member, fault, proof, out)
                case Draw(key, choices):
                    out.draw(("p", *key), choices)
                case DrawSecret(key):
                    out.draw_secret(("p", *key))

    def _carried(self, carry: tuple[Digest, ...]) -> list[bytes]:
        stored = (self.batches.get(name) for name in carry if name != NO_DIGEST)
        return [batch.raw for batch in stored if batch is not None]

    def _on_output(self, output: Any, out: ReplicaOut) -> None:
        if isinstance(output, Decided):
            self._on_decided(output.slot, output.digest, out)
        elif isinstance(output, Fetch):
            self._on_fetch(output, out)
        elif isinstance(output, LeaderChanged):
            self.counters.view_changes += output.view > 0
            self.proposer.on_leader(output.leader)
        elif isinstance(output, BatchWanted):
            self.proposer.on_wanted()
        elif isinstance(output, Returned):
            self.counters.returned += 1
            self.proposer.on_returned(output.digest)

    def _on_protocol(self, sender: MemberId, frame: bytes, out: ReplicaOut) -> None:
        epoch, packed, carried = self.settings.unpack(frame)
        if epoch != self.settings.epoch:
            raise WireError(f"a message of epoch {epoch}; this is epoch {self.settings.epoch}")
        if self.silent:
            return
        message = self.settings.plugin.codec.decode(packed)
        if carried:
            self.batches.offer(carried)
        try:
            self._step(partial(self.machine.on_message, sender, message), out)
        finally:
            if carried:
                self.batches.withdraw()
        self._advance(out)

    def _on_fetch(self, fetch: Fetch, out: ReplicaOut) -> None:
        if fetch.digest == NO_DIGEST:
            self._inputs.append(Available(fetch.digest))
            return
        holders = tuple(member for member in fetch.holders if member != self.me)
        if self.batches.get(fetch.digest) is None and not self.batches.has_room(fetch.slot, self.applied):
            # A leader that fills the window with large batches over a gap: they are fetched when there is room.
            self.batches.postpone(fetch.digest, fetch.slot, holders)
            return
        stored = self.batches.find(fetch.digest, self.pool)
        if stored is None:
            self.batches.want(fetch.digest, fetch.slot, holders, out)
            return
        self._answer_fetch(stored, fetch.slot, out)

    def _answer_fetch(self, stored: StoredBatch, slot: Slot, out: ReplicaOut) -> None:
        if not stored.authentic:
            self._inputs.append(Refused(stored.name))
            return
        self.keep_durable(stored, slot, out)
        self._inputs.append(Available(stored.name))

    def keep_durable(self, stored: StoredBatch, slot: Slot, out: ReplicaOut) -> None:
        """Bytes before votes (SAFETY rule 3): the batch is in the log before whatever the protocol sends next."""
        if stored.durable < slot:
            stored.durable = slot
            out.persist(_BATCH_RECORD + slot.to_bytes(8, "big") + stored.raw, slot)

    def _on_decided(self, slot: Slot, name: Digest, out: ReplicaOut) -> None:
        if slot <= self.applied or slot in self.catchup.learned:
            known = self.history.get(slot, self.catchup.learned.get(slot))
            if known is not None and known != name:
                self.halt(f"slot {slot} was decided twice, as {known.hex()[:16]} and {name.hex()[:16]}", out)
                return
        if slot <= self.applied:
            return
        self.history[slot] = name

    def tell_stable(self, stable: Stable, out: ReplicaOut) -> None:
        """Tell the protocol of a stable checkpoint."""
        self._step(lambda inner: self.machine.on_stable(stable.slot, stable.root, inner), out)

    # ------------------------------------------------------------------------------------------ proposing

    def _on_round_end(self, out: ReplicaOut) -> None:
        ready = self.checkpoints.step()
        if ready is not None:
            self.settling.vote(*ready, out)
        if self.stopped is not None or self.silent:
            return
        self._tell_waiting(out)
        self.proposer.on_round_end(out)
        self._advance(out)

    def _tell_waiting(self, out: ReplicaOut) -> None:
        waiting = len(self.pool) > 0
        if waiting != self._told_waiting:
            self._told_waiting = waiting
            self.give(Waiting(waiting), out)

    # ------------------------------------------------------------------------------------------ executing

    def _advance(self, out: ReplicaOut, *, replay: bool = False) -> None:
        """Execute whatever is decided next and here (SAFETY rule 7)."""
        state = self.state
        while self.stopped is None:
            slot = state.applied + 1
            name = self.history.get(slot)
            learned = name is None
            if name is None:
                name = self.catchup.learned.get(slot)
                if name is None:
                    break
            if name == NO_DIGEST:
                self.state.skip(slot)
            else:
                stored = self.batches.get(name)
                if stored is None:
                    if not replay:
                        self._want_from(slot, out)
                    break
                self._execute(slot, stored, out, replay=replay)
            self.history[slot] = name
            if not replay:
                out.deliver(Jot(_DECIDED_RECORD + slot.to_bytes(8, "big") + name, slot))
            if learned:
                self.catchup.settle(slot)
                self.counters.learned += 1
                if not self.silent:
                    self.give(Learned(slot, name), out)
            self._after_slot(slot, out)
        self.clients.answer_reads(out)

    def _want_from(self, first: Slot, out: ReplicaOut) -> None:
        """Ask for the bytes of the next slots, several at a time: one after the other would take too long."""
        for slot in range(first, first + SERVED_AT_ONCE):
            name = self.history.get(slot) or self.catchup.learned.get(slot)
            if name is None:
                break
            if name != NO_DIGEST and self.batches.get(name) is None:
                self.batches.want(name, slot, self.catchup.claimers(slot, name) or self.others, out)

    def _execute(self, slot: Slot, stored: StoredBatch, out: ReplicaOut, *, replay: bool) -> None:
        stored.slot = max(stored.slot, slot)
        self._bytes_since_checkpoint += len(stored.raw)
        self.counters.batches += 1
        if stored.own:
            self.proposer.on_executed()
        entries = self.state.execute(slot, stored.name, stored.time_ms, stored.bundles)
        answer = not (replay or self.silent)
        for bundle, reply in entries:
            self.pool.remove((bundle.client, bundle.session, bundle.first), self.beat, self.applied)
            if answer and reply is not None:
                self.clients.reply(bundle, reply, out)

    def _after_slot(self, slot: Slot, out: ReplicaOut) -> None:
        interval = self.settings.checkpoint_interval
        if slot % interval == 0 or self._bytes_since_checkpoint >= self.limits.checkpoint_bytes:
            self._bytes_since_checkpoint = 0
            self.checkpoints.begin(slot, self.state.view())

    # ------------------------------------------------------------------------------------------ checkpoints

    def on_jump(self) -> None:
        """The state was fetched: what was proposed and counted below it is over."""
        self._bytes_since_checkpoint = 0
        self.proposer.on_jump()

    def standing(self) -> tuple[bytes, ...]:
        """The standing records that a new log segment must begin with."""
        records = () if self.silent else self.machine.standing()
        return (self.settling.own_record(), *(_PROTOCOL_RECORD + record for record in records))

    # ------------------------------------------------------------------------------------------ the beat

    def _on_beat(self, out: ReplicaOut) -> None:
        self.beat += 1
        out.set_timer(("beat",), BEAT_TICKS)
        if self.beat % CLOCK_BEATS == 0 and not self.silent:
            self.watch.report_clock(out)
        self.clients.prune(out)
        self._served.clear()
        self.clients.drop_old_reads(out)
        self.batches.retry(self.applied, out)
        self.catchup.on_beat(out)
        if self.beat % VOTE_BEATS == 0:
            self.settling.vote_again(out)
        if self.stopped is None and not self.silent:
            self.clients.forward(out)
            self.watch.on_beat(out)
            self.proposer.on_beat()
        self._tell_status(out)

    def _tell_status(self, out: ReplicaOut) -> None:
        now = (self.settings.epoch, self.applied, self.checkpoints.stable, self.machine.view)
        busy = now != self._status_told or len(self.pool) > 0 or self.catchup.busy
        if busy or self.beat - self._status_beat >= IDLE_BEATS:
            self._status_told, self._status_beat = now, self.beat
            out.broadcast(pack_control(Status(*now)))

    # ------------------------------------------------------------------------------------------ the rest

    def _on_control(self, sender: MemberId, message: Control, out: ReplicaOut) -> None:
        if isinstance(message, CheckpointVote):
            if message.epoch == self.settings.epoch:
                self.settling.on_vote(sender, message, out)
        elif isinstance(message, frames.BatchBytes):
            self._on_batch_bytes(sender, message.batch, out)
        elif isinstance(message, frames.BatchRequest):
            for name in message.digests[:SERVED_AT_ONCE]:
                stored = self.batches.get(name)
                if stored is not None and stored.authentic and self.may_serve(sender):
                    self.serve(sender, pack_control(frames.BatchBytes(stored.raw)), out)
        else:
            self.catchup.on_control(sender, message, out)
        self._advance(out)

    def _on_batch_bytes(self, sender: MemberId, raw: bytes, out: ReplicaOut) -> None:
        arrived = self.batches.arrived(raw, self.pool)
        if arrived is None:
            return
        stored, slot = arrived
        if self.silent:
            return
        self._answer_fetch(stored, slot, out)
        self._step(lambda inner: None, out)

    def refuse(self, sender: MemberId, reason: str, out: ReplicaOut) -> None:
        """Something that this member sent is not understood: counted and attributed, nothing else."""
        self.counters.refused_frames += 1
        self.blame(sender, f"refused: {reason}", b"", out)

    def blame(self, member: MemberId, fault: str, proof: bytes, out: ReplicaOut) -> None:
        """A peer broke the rules; with a proof it is evidence (SAFETY rule 6)."""
        self.counters.blames += 1
        if proof:
            self.counters.evidence += 1
        if fault == "equivocation":
            self.counters.equivocations += 1
        out.blame(member, fault, proof)

    def may_serve(self, member: MemberId) -> bool:
        """Whether this member may still be sent something on request in this beat (FAULTS 45)."""
        return self._served.get(member, 0) < self.limits.served_bytes

    def serve(self, member: MemberId, frame: bytes, out: ReplicaOut) -> None:
        """Send something that was asked for."""
        self._served[member] = self._served.get(member, 0) + len(frame)
        out.send(member, frame)

    def halt(self, reason: str, out: ReplicaOut) -> None:
        """Stop taking part, and say why."""
        if self.stopped is None:
            self.stopped = reason
            out.deliver(Halted(reason))

    def status(self) -> dict[str, Any]:
        """How this member is, as plain data for people."""
        return {
            "member": self.me,
            "epoch": self.settings.epoch,
            "protocol": self.settings.plugin.record.name,
            "view": self.machine.view,
            "leader": self.machine.leader,
            "everybody_proposes": self.proposer.everybody,
            "applied": self.applied,
            "stable": self.checkpoints.stable,
            "checkpoints": {str(kept.slot): kept.root.hex() for kept in self.checkpoints.kept},
            "executed": self.state.executed,
            "failed": self.state.failed,
            "sessions": len(self.state.sessions.by_client),
            "waiting": len(self.pool),
            "agreed_time_ms": self.state.clock.now_ms,
            "silent": self.silent,
            "stopped": self.stopped,
            "catching_up": self.catchup.busy,
            "counters": attrs.asdict(self.counters),
        }
