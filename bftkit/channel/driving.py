"""Driving the epoch's protocol: inputs and messages go into its machine, its effects come out and are carried out here.

One `Driving` is one epoch's protocol at one member; the next epoch has another. The protocol knows batches by digest
only, so their bytes are put beside its messages here, found or fetched when it asks for them, and written before it
votes (SAFETY rule 3). Its timers and draws carry the epoch's tag, so that those of an epoch before mean nothing.

An exception in the machine's code is a bug of the plug-in: the protocol counts as stopped, the member lives on without
it, and the group can leave it by force (SAFETY rule 29).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from bftkit.channel.batches import StoredBatch
from bftkit.channel.checkpoints import Stable
from bftkit.channel.frames import pack_protocol
from bftkit.channel.interface import ReplicaOut
from bftkit.channel.records import BATCH_RECORD, PROTOCOL_RECORD
from bftkit.channel.spectator import Spectator
from bftkit.channel.state import error_text
from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import (
    STANDING,
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
    OrderingInput,
    OrderingMachine,
    Refused,
    Returned,
    Setup,
    Waiting,
)
from bftkit.core.wire import WireError

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica


class Driving:
    """The part of a replica that runs one epoch's protocol."""

    def __init__(self, replica: Replica, start: Slot) -> None:
        """A fresh machine of the protocol that the replica's settings name, for the slots after `start`."""
        self._replica = replica
        settings = replica.settings
        self._tag = "p" if settings.epoch == 0 else f"p{settings.epoch}"
        """What the protocol's timers and draws begin with: those of an epoch before mean nothing."""
        self.failed: str | None = None
        """Why this epoch's protocol has stopped here, if it has: a bug of the plug-in (SAFETY rule 29)."""
        self.records: list[tuple[Slot, bytes]] = []
        """The protocol's records of this epoch that a forced ending may need, each with the slot that it is about."""
        self.machine: OrderingMachine = Spectator()
        self.setup: Setup | None = None
        """What the protocol's machine was made from; None at one that is no member."""
        self._inputs: deque[OrderingInput] = deque()
        self._stepping = False
        self._told_waiting = False
        if replica.observing:
            return
        self.setup = Setup(
            settings.me,
            settings.members,
            settings.quorum,
            settings.keyring,
            start,
            settings.window,
            settings.parameters,
            settings.coins,
        )
        try:
            self.machine = settings.plugin.create(self.setup)
        except Exception as error:
            if settings.place is None:
                raise
            # A plug-in's bug (SAFETY rule 29): this protocol never ran here, and the group can leave it by force.
            self.failed = f"the protocol cannot begin: {error_text(error).decode()}"

    # ------------------------------------------------------------------------------------------ going in

    def step(self, call: Callable[[Out[Any, Any]], None], out: ReplicaOut) -> None:
        """One step of the protocol, and then whatever inputs its effects call for."""
        replica = self._replica
        if replica.stopped is not None or replica.wedged or replica.lacks_state or self.failed is not None:
            self._inputs.clear()
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
            self._inputs.clear()
            reason = f"the protocol failed: {error_text(error).decode()}"
            self._fail(reason)
            if replica.succession is None:
                replica.halt(reason, out)
        finally:
            self._stepping = False

    def _fail(self, reason: str) -> None:
        """The machine has failed, and where the group can leave it, it is not looked at any more.

        What it would say of itself may be wrong, or fail as well.
        """
        self.failed = reason
        if self._replica.succession is not None:
            self.machine = Spectator()

    def give(self, value: OrderingInput, out: ReplicaOut) -> None:
        """Hand the protocol an input, now or at the end of the step that is under way."""
        self._inputs.append(value)
        if not self._stepping:
            self.step(lambda inner: None, out)

    def start(self, out: ReplicaOut) -> None:
        """The protocol begins, or goes on after a restart: what is stable above the epoch's begin is told to it.

        Not yet as long as this member lacks its state (`Replica.lacks_state`); then it is called again.
        """
        checkpoints = self._replica.checkpoints
        self.step(self.machine.on_start, out)
        if checkpoints.stable > (checkpoints.opened_by.slot if checkpoints.opened_by else 0):
            self.tell_stable(checkpoints.kept[-1], out)

    def on_frame(self, sender: MemberId, frame: bytes, out: ReplicaOut) -> None:
        """A PROTOCOL frame. Raises `WireError`."""
        replica = self._replica
        epoch, packed, carried = replica.settings.unpack(frame)
        if epoch != replica.settings.epoch:
            if replica.succession is None:
                raise WireError(f"a message of epoch {epoch}; this is epoch {replica.settings.epoch}")
            replica.succession.on_other_epoch(sender, epoch, frame, out)
            return
        if replica.passive or replica.wedged:
            return
        message = replica.settings.plugin.codec.decode(packed)
        if carried:
            replica.batches.offer(carried)
        try:
            self.step(partial(self.machine.on_message, sender, message), out)
        finally:
            if carried:
                replica.batches.withdraw()
        replica.executing.advance(out)

    def is_mine(self, key: TimerKey) -> bool:
        """Whether a timer or a draw is this protocol's."""
        return key[0] == self._tag

    def on_timer(self, key: TimerKey, out: ReplicaOut) -> None:
        """A timer of the protocol's."""
        if not self._replica.passive:
            self.step(lambda inner: self.machine.on_timer(key[1:], inner), out)

    def on_draw(self, key: DrawKey, value: int, out: ReplicaOut) -> None:
        """A draw that the protocol asked for."""
        if not self._replica.passive:
            self.step(lambda inner: self.machine.on_draw(key[1:], value, inner), out)

    def end_at(self, slot: Slot, out: ReplicaOut) -> None:
        """The epoch's last slot is fixed: the protocol fills up to it, and goes no further (SAFETY rule 23)."""
        if not self._replica.passive:
            self.step(lambda inner: self.machine.on_stop(slot, inner), out)

    def tell_stable(self, stable: Stable, out: ReplicaOut) -> None:
        """Tell the protocol of a stable checkpoint."""
        self.step(lambda inner: self.machine.on_stable(stable.slot, stable.root, inner), out)

    def tell_waiting(self, out: ReplicaOut) -> None:
        """Tell the protocol whether something waits to be ordered, if that has changed."""
        waiting = len(self._replica.pool) > 0
        if waiting != self._told_waiting:
            self._told_waiting = waiting
            self.give(Waiting(waiting), out)

    # ------------------------------------------------------------------------------------------ coming out

    def _absorb(self, inner: Out[Any, Any], out: ReplicaOut) -> None:
        replica = self._replica
        epoch, codec = replica.settings.epoch, replica.settings.plugin.codec
        for effect in inner.effects:
            match effect:
                case Broadcast(message, carry):
                    out.broadcast(pack_protocol(epoch, codec.encode(message), self._carried(carry)))
                case Send(to, message, carry):
                    out.send(to, pack_protocol(epoch, codec.encode(message), self._carried(carry)))
                case Persist(record, slot):
                    out.persist(PROTOCOL_RECORD + record, slot)
                    if replica.succession is not None:
                        self.records.append((slot, record))
                case Deliver(output):
                    self._on_output(output, out)
                case SetTimer(key, ticks):
                    out.set_timer((self._tag, *key), ticks)
                case CancelTimer(key):
                    out.cancel_timer((self._tag, *key))
                case Blame(member, fault, proof):
                    replica.blame(member, fault, self._completed(member, proof), out)
                case Draw(key, choices):
                    out.draw((self._tag, *key), choices)
                case DrawSecret(key):
                    out.draw_secret((self._tag, *key))

    def _completed(self, member: MemberId, proof: bytes) -> bytes:
        """The proof, with the bytes of the batch that it is about, if these must show that the batch is bad."""
        signed_for = self._replica.settings.plugin.signed_for
        name = signed_for(self.setup, member, proof) if proof and signed_for and self.setup is not None else None
        return proof if name is None else self._replica.batches.shown_with(proof, name)

    def _carried(self, carry: tuple[Digest, ...]) -> list[bytes]:
        stored = (self._replica.batches.get(name) for name in carry if name != NO_DIGEST)
        return [batch.raw for batch in stored if batch is not None]

    def _on_output(self, output: Any, out: ReplicaOut) -> None:
        replica = self._replica
        if isinstance(output, Decided):
            replica.executing.on_decided(output.slot, output.digest, out)
        elif isinstance(output, Fetch):
            self._on_fetch(output, out)
        elif isinstance(output, LeaderChanged):
            replica.counters.view_changes += output.view > 0
            replica.proposer.on_leader(output.leader)
        elif isinstance(output, BatchWanted):
            replica.proposer.on_wanted()
        elif isinstance(output, Returned):
            replica.counters.returned += 1
            replica.proposer.on_returned(output.digest)

    # ------------------------------------------------------------------------------------------ bytes of batches

    def _on_fetch(self, fetch: Fetch, out: ReplicaOut) -> None:
        if fetch.digest == NO_DIGEST:
            self._inputs.append(Available(fetch.digest))
            return
        replica = self._replica
        batches = replica.batches
        holders = tuple(member for member in fetch.holders if member != replica.me)
        if batches.get(fetch.digest) is None and not batches.has_room(fetch.slot, replica.applied):
            # A leader that fills the window with large batches over a gap: they are fetched when there is room.
            batches.postpone(fetch.digest, fetch.slot, holders)
            return
        stored = batches.find(fetch.digest, replica.pool)
        if stored is None:
            batches.want(fetch.digest, fetch.slot, holders, out)
            return
        self._answer_fetch(stored, fetch.slot, out)

    def on_arrived(self, stored: StoredBatch, slot: Slot, out: ReplicaOut) -> None:
        """A batch that was asked for is here."""
        self._answer_fetch(stored, slot, out)
        self.step(lambda inner: None, out)

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
            out.persist(BATCH_RECORD + slot.to_bytes(8, "big") + stored.raw, slot)

    # ------------------------------------------------------------------------------------------ records

    def forget_records(self, floor: Slot) -> None:
        """Of the protocol's records, those about slots above `floor`, and the standing ones, still matter."""
        if self.records and self.failed is None and not self._replica.passive:
            standing = [(STANDING, record) for record in self.standing()]
            self.records = standing + [
                (slot, record) for slot, record in self.records if slot != STANDING and slot > floor
            ]

    def standing(self) -> Sequence[bytes]:
        """The protocol's standing records; of one that has failed, those that it had written before."""
        changes = self._replica.succession is not None
        if self.failed is None or not changes:
            try:
                return self.machine.standing()
            except Exception as error:
                if not changes:
                    raise
                self._fail(f"the protocol failed: {error_text(error).decode()}")
        return [record for slot, record in self.records if slot == STANDING]
