"""One member's group channel: everything between authenticated frames and the replicated application.

A `Replica` is itself a machine. It runs a protocol's machine inside, gives it batches to order, keeps the bytes that
the protocol only knows by digest, executes what is decided, answers clients, takes checkpoints, and brings itself or
others up to date. A node runs it over sockets and a disk, the simulator over neither; the object is the same.

Inputs come in *rounds*: everything that is ready is handed in, then `RoundEnd`. That is where batches are made, so
that a batch holds all that came together, without any timer.

This file has what goes in, and sends it where it belongs; each part is an object of its own that holds the replica::

    interface.py            what goes in and out    frames.py, bundles.py     what travels
    clients.py, watch.py    clients, the leader     pool.py, batches.py       what waits, what is kept
    proposing.py            what is proposed        driving.py                the protocol's machine
    executing.py            what is decided         state.py, sessions.py     what it is executed on
    checkpoints.py, settling.py                     catchup.py, transfer.py   who is behind
    records.py, restoring.py  the log, restarts     orders.py, preparing.py, succession.py, entering.py, wedge.py
                                                    from epoch to epoch
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from bftkit.channel import frames
from bftkit.channel.agreed_time import AgreedClock
from bftkit.channel.application import Application
from bftkit.channel.batches import SERVED_AT_ONCE, BatchStore
from bftkit.channel.bundles import is_self_proved
from bftkit.channel.catchup import CatchUp
from bftkit.channel.checkpoints import Checkpoints, Stable
from bftkit.channel.clients import ClientDesk
from bftkit.channel.coin_keys import DRAW
from bftkit.channel.driving import Driving
from bftkit.channel.entering import Entering
from bftkit.channel.executing import Executing
from bftkit.channel.frames import CheckpointVote, Control, Status, pack_answer, pack_control
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
    SecretKept,
    StatusAsked,
    ToClient,
)
from bftkit.channel.measuring import Measuring
from bftkit.channel.orders import Orders
from bftkit.channel.pool import Pool
from bftkit.channel.preparing import Preparing
from bftkit.channel.proposing import Proposer
from bftkit.channel.reconfiguring import Judges, Reconfiguring
from bftkit.channel.records import EPOCH_RECORD, MARKED_RECORD, PROTOCOL_RECORD
from bftkit.channel.restoring import Restoring
from bftkit.channel.sessions import SessionTable
from bftkit.channel.settling import Settling
from bftkit.channel.stalling import Stalling
from bftkit.channel.state import ReplicatedState
from bftkit.channel.succession import Succession
from bftkit.channel.watch import CLOCK_BEATS, LeaderWatch
from bftkit.channel.wedge import Wedge
from bftkit.core.machine import Digest, DrawKey, MemberId, Slot, TimerKey
from bftkit.core.ordering import OrderingMachine
from bftkit.core.wire import WireError
from bftkit.crypto.signed import Certificate
from bftkit.membership.chain import Ending, HandOver, Place

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
    proposed: int = 0
    """Batches that this member made and proposed."""
    learned: int = 0
    strangers: int = 0
    """Frames of senders that are no members in the present epoch."""
    returned: int = 0
    """Batches of this member that were left out of their rounds and offered again; only where nobody leads."""


class Replica:
    """One member of the group. See the top of this file."""

    def __init__(self, settings: ReplicaSettings, application: Application) -> None:
        self.limits = settings.limits
        self.me = settings.me
        limits = settings.limits
        self.state = ReplicatedState(
            settings.group,
            application,
            SessionTable(limits.sessions, limits.session_window, limits.session_reply_bytes),
            AgreedClock(settings.quorum.available),
            settings.member_keys,
        )
        self.stopped: str | None = None
        self.removed = False
        """Whether it has stopped since operators took it out of the group: it follows on, and may be taken in again."""
        self.silent = False
        """Whether this member has forgotten what it promised (SAFETY rule 16)."""
        self.forgotten = b""
        """The root of the keys under which it has forgotten that, if it is known."""
        self._take_settings(settings, 0)
        self.pool = Pool(limits.pool_bytes, limits.client_pool_bytes)
        self.batches = BatchStore(settings)
        self.checkpoints = Checkpoints(settings.quorum, settings.keyring)
        self.catchup = CatchUp(self)
        self.clients = ClientDesk(self)
        self.watch = LeaderWatch(self)
        self.proposer = Proposer(self)
        self.executing = Executing(self)
        self.settling = Settling(self)
        self.succession = Succession(self, settings.place) if settings.place is not None else None
        """How epochs end and begin; None: this group's configuration never changes."""
        self.preparing = Preparing(self)
        self.orders = Orders(self)
        self.entering = Entering(self)
        self.wedge = Wedge(self)
        self.stalling = Stalling(self)
        if settings.place is not None:
            self.state.reconfiguring = self._reconfiguring(settings, settings.place)
            self.founding = settings.place.configuration
        self.counters = Counters()
        self.history: dict[Slot, Digest] = {}
        """What is decided, from the older kept checkpoint on."""
        self.clock_ms = 0
        self.beat = 0
        self.measuring = Measuring(self) if settings.steers else None
        """What this member measures for the epoch's policy; None: there is none."""
        self.promised: Slot = 0
        """What this member knew as decided when it started: no strong read is answered before (SAFETY rule 13)."""
        self._served: dict[MemberId, int] = {}
        self._status_told: tuple[int, int, int, int] = (0, 0, 0, 0)
        self._status_beat = 0

    def _take_settings(self, settings: ReplicaSettings, start: Slot) -> None:
        """The settings of an epoch, and a fresh machine of its protocol, for the slots after `start`."""
        self.settings = settings
        self.others = tuple(member for member in settings.members if member != settings.me)
        self.indices = {member: index for index, member in enumerate(settings.members)}
        self.quorum = settings.quorum
        self.observing = settings.me not in self.indices or not settings.may_sign
        """Whether this is no member in the present epoch, or another machine is: it follows, and says nothing."""
        self.wedged = False
        """Whether this member has left the epoch's protocol (SAFETY rule 21)."""
        self.driving = Driving(self, start)

    def take_epoch(self, settings: ReplicaSettings, opened_by: Ending) -> None:
        """Everything that belongs to one epoch only is made anew, for the one that began where `opened_by` says."""
        kept = self.checkpoints.kept
        if self.removed and settings.me in settings.members:
            self.stopped, self.removed = None, False
        self._take_settings(settings, opened_by.slot)
        self.batches = BatchStore(settings)
        self.checkpoints = Checkpoints(settings.quorum, settings.keyring, kept=kept, opened_by=opened_by)
        self.catchup = CatchUp(self)
        self.watch = LeaderWatch(self)
        self.proposer = Proposer(self)
        self.wedge = Wedge(self)
        self.stalling = Stalling(self)
        self.measuring = Measuring(self, self.measuring) if settings.steers else None
        self.executing.on_jump()
        self.history = {}
        self.promised = 0

    @staticmethod
    def _reconfiguring(settings: ReplicaSettings, place: Place) -> Reconfiguring:
        assert settings.keychain is not None
        judges = Judges(settings.verify, settings.keychain.preparing)
        return Reconfiguring(settings.group, place, settings.schedule, judges)

    # ------------------------------------------------------------------------------------------ what it is

    @property
    def machine(self) -> OrderingMachine:
        """The present epoch's protocol."""
        return self.driving.machine

    @property
    def passive(self) -> bool:
        """Whether this member votes for nothing in this epoch: it is none, or has forgotten what it promised."""
        return self.silent or self.observing

    @property
    def lacks_state(self) -> bool:
        """Whether the checkpoint is gone that has what was cut from the log: its state is to be fetched.

        Until then this member votes in no protocol. It would not know what it helped to decide (SAFETY rule 16).
        """
        return self.checkpoints.stable < self.settling.covered

    @property
    def succession_part(self) -> Succession:
        """See `succession`; asked for only where there is one."""
        assert self.succession is not None
        return self.succession

    @property
    def opened_by(self) -> HandOver | None:
        """The hand-over that opened the present epoch; None in epoch 0."""
        return self.succession.opened_by if self.succession is not None else None

    @property
    def applied(self) -> Slot:
        """The last slot that was executed here."""
        return self.state.applied

    def standing(self) -> tuple[bytes, ...]:
        """The standing records that a new log segment must begin with."""
        records = () if self.passive else self.driving.standing()
        opened_by = self.opened_by
        epoch: tuple[bytes, ...] = () if opened_by is None else (EPOCH_RECORD + opened_by.encode(),)
        if self.entering.marked:
            epoch = (*epoch, MARKED_RECORD)
        own = self.settling.own_record()
        return (*epoch, own, *(PROTOCOL_RECORD + record for record in records), *self.wedge.standing())

    # ------------------------------------------------------------------------------------------ machine

    def on_restore(self, restored: Restored, out: ReplicaOut) -> None:
        """After a restart, before `on_start`. Raises `WireError` if what the disk holds makes no sense."""
        Restoring(self).restore(restored, out)

    def on_start(self, out: ReplicaOut) -> None:
        """Begin to take part."""
        out.set_timer(("beat",), BEAT_TICKS)
        if not self.passive:
            self.driving.start(out)
        if self.succession is not None:
            self.succession.tell_neighbours(out)
            self.preparing.on_executed(out)
            self.succession.begin(out)
            self.preparing.resume(out)
            self.succession.resume(out)
            self.wedge.start(out)
        self.executing.advance(out, replay=True)
        self.tell_status(out)

    def on_input(self, value: ReplicaInput, out: ReplicaOut) -> None:
        """See the inputs above."""
        if isinstance(value, FromClient):
            self.clients.on_client(value.client, value.frame, out)
        elif isinstance(value, RoundEnd):
            self._on_round_end(out)
        elif isinstance(value, Clock):
            self.clock_ms = max(0, value.now_ms)
        elif isinstance(value, ClientLink):
            if self.succession is not None:
                self.succession.on_client_link(value.client, value.binding, out)
                return
            signature = self.settings.keyring.sign(frames.LINK_PURPOSE, value.binding)
            proof = frames.LinkProof(self.settings.epoch, signature)
            out.deliver(ToClient(value.client, pack_answer(proof)))
        elif isinstance(value, SecretKept):
            self.preparing.on_kept(value.name, out)
        else:
            self.settling.on_saved(value.slot, out)

    def on_message(self, sender: MemberId, message: bytes, out: ReplicaOut) -> None:
        """A frame from another member, over a link that authenticates it."""
        try:
            kind = message[0] if message else 0
            if sender not in self.indices and not self._may_follow(sender, kind, message):
                # Removed, or not a member yet (FAULTS 38): counted, and no fault of anybody who is one.
                self.counters.refused_frames += 1
                self.counters.strangers += 1
                return
            if self.measuring is not None:
                self.measuring.on_heard(sender)
            if kind == frames.PROTOCOL:
                self.driving.on_frame(sender, message, out)
            elif kind == frames.BUNDLE:
                self.clients.on_bundle(message[1:], sender, None, out)
            elif kind == frames.CONTROL:
                self._on_control(sender, self.settings.control.decode(message[1:]), out)
            else:
                raise WireError(f"unknown kind of frame {kind}")
        except WireError as error:
            self.refuse(sender, str(error), out)

    def _may_follow(self, sender: MemberId, kind: int, message: bytes) -> bool:
        """Whether one that is no member may say this: it follows the group, and votes on nothing.

        What is proved by itself needs nobody's word, and one that joins may be the only one to have the proof.
        """
        succession = self.succession
        if succession is None or not succession.is_known(sender):
            return False
        return kind == frames.CONTROL or (kind == frames.BUNDLE and is_self_proved(message[1:]))

    def on_timer(self, key: TimerKey, out: ReplicaOut) -> None:
        """A timer of ours, of the protocol's, or of the bedrock's."""
        if self.driving.is_mine(key):
            self.driving.on_timer(key, out)
        elif key == ("beat",):
            self._on_beat(out)
        elif self.wedge.is_mine(key):
            self.wedge.on_timer(key, out)
            self.executing.advance(out)

    def on_draw(self, key: DrawKey, value: int, out: ReplicaOut) -> None:
        """A draw that a part asked for."""
        if self.driving.is_mine(key):
            self.driving.on_draw(key, value, out)
        elif key[0] == DRAW:
            self.preparing.coin_keys.on_draw(key, value, out)
        elif self.wedge.is_mine(key):
            self.wedge.on_draw(key, value, out)
            self.executing.advance(out)

    def _on_round_end(self, out: ReplicaOut) -> None:
        ready = self.checkpoints.step()
        if ready is not None:
            self.settling.vote(*ready, out)
        if self.stopped is not None or self.passive:
            return
        if not self.wedged and not self.lacks_state:
            self.driving.tell_waiting(out)
            self.proposer.on_round_end(out)
        self.executing.advance(out)

    # ------------------------------------------------------------------------------------------ the beat

    def _on_beat(self, out: ReplicaOut) -> None:
        self.beat += 1
        out.set_timer(("beat",), BEAT_TICKS)
        if self.beat % CLOCK_BEATS == 0 and not self.passive:
            self.watch.report_clock(out)
        self.clients.prune(out)
        self._served.clear()
        self.clients.drop_old_reads(out)
        self.batches.retry(self.applied, out)
        self.catchup.on_beat(out)
        if self.beat % VOTE_BEATS == 0:
            self.settling.vote_again(out)
        if self.succession is not None:
            self.succession.on_beat(out)
            self.preparing.on_beat(out)
            self.wedge.on_beat(out)
            self.stalling.on_beat(out)
        if self.measuring is not None:
            self.measuring.on_beat(out)
        if self.stopped is None and not self.passive:
            self.clients.forward(out)
            self.watch.on_beat(out)
            self.proposer.on_beat()
        self.tell_status(out)

    def tell_status(self, out: ReplicaOut) -> None:
        """Tell everybody how far this member is, if that is news, or has not been told for a while."""
        now = (self.settings.epoch, self.applied, self.checkpoints.stable, self.machine.view)
        busy = now != self._status_told or len(self.pool) > 0 or self.catchup.busy
        if busy or self.beat - self._status_beat >= IDLE_BEATS:
            self._status_told, self._status_beat = now, self.beat
            frame = pack_control(Status(*now))
            if self.succession is not None:
                self.succession.everyone(frame, out)
            else:
                out.broadcast(frame)

    # ------------------------------------------------------------------------------------------ the rest

    def _on_control(self, sender: MemberId, message: Control, out: ReplicaOut) -> None:
        if self.succession is not None and (
            self.succession.on_control(sender, message, out)
            or self.preparing.on_control(sender, message, out)
            or self.wedge.on_control(sender, message, out)
            or self.stalling.on_control(sender, message, out)
        ):
            pass
        elif isinstance(message, CheckpointVote):
            if message.epoch == self.settings.epoch and sender in self.indices:
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
        self.executing.advance(out)

    def _on_batch_bytes(self, sender: MemberId, raw: bytes, out: ReplicaOut) -> None:
        arrived = self.batches.arrived(raw, self.pool)
        if arrived is None:
            return
        if self.passive:
            return
        self.driving.on_arrived(*arrived, out)
        self.wedge.on_batch(out)

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

    def proves_here(self, stable: Stable) -> bool:
        """Whether members of this epoch can check the checkpoint's certificate.

        A member that is behind may have fetched a state of a later epoch already, whose members signed that.
        """
        ends = None if self.succession is None else self.succession.lineage.known(self.settings.epoch)
        return self.checkpoints.proves_here(stable) and (ends is None or stable.slot <= ends.ending.slot)

    def newest_proof(self) -> Certificate | None:
        """The certificate of the newest state that this member holds, of those that this epoch's members can check."""
        return next((one.certificate for one in reversed(self.checkpoints.kept) if self.proves_here(one)), None)

    def may_serve(self, member: MemberId) -> bool:
        """Whether this member may still be sent something on request in this beat (FAULTS 45)."""
        return self._served.get(member, 0) < self.limits.served_bytes

    def serve(self, member: MemberId, frame: bytes, out: ReplicaOut) -> None:
        """Send something that was asked for."""
        self._served[member] = self._served.get(member, 0) + len(frame)
        out.send(member, frame)

    def halt(self, reason: str, out: ReplicaOut) -> None:
        """Stop taking part, and say why."""
        self._stop(Halted(reason), out)

    def leave(self, reason: str, out: ReplicaOut, *, needed: bool) -> None:
        """Stop taking part since operators took this member out of the group: nothing is wrong."""
        self._stop(Halted(reason, removed=True, needed=needed), out)

    def _stop(self, halted: Halted, out: ReplicaOut) -> None:
        if self.stopped is None or (self.removed and not halted.removed):
            self.stopped, self.removed = halted.reason, halted.removed
            out.deliver(halted)

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
            "catching_up": self.catchup.busy or self.lacks_state,
            "counters": attrs.asdict(self.counters),
            "qos": self._qos(),
            "policy": self._policy(),
        }

    def _qos(self) -> dict[str, Any] | None:
        place = self.settings.place
        return None if place is None or place.configuration.qos is None else attrs.asdict(place.configuration.qos)

    def _policy(self) -> dict[str, Any] | None:
        state = self.state.reconfiguring
        if state is None:
            return None
        told = state.steering.status(state.configuration, pending=state.pending is not None)
        if told is not None:
            told["stalled"] = self.stalling.told()
        return told
