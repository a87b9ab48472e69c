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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import attrs

from bftkit.channel import frames
from bftkit.channel.agreed_time import AgreedClock
from bftkit.channel.application import Application
from bftkit.channel.batches import SERVED_AT_ONCE, BatchStore, StoredBatch
from bftkit.channel.bundles import COMMAND, COMMIT
from bftkit.channel.catchup import CatchUp
from bftkit.channel.checkpoints import Checkpoints, Stable
from bftkit.channel.clients import ClientDesk
from bftkit.channel.coin_keys import DRAW
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
    SecretKept,
    StatusAsked,
    ToClient,
)
from bftkit.channel.orders import Orders
from bftkit.channel.pool import Pool
from bftkit.channel.preparing import Preparing
from bftkit.channel.proposing import Proposer
from bftkit.channel.reconfiguring import Judges, Reconfiguring
from bftkit.channel.sessions import SessionTable
from bftkit.channel.settling import OWN_RECORD, Settling, read_own_record
from bftkit.channel.spectator import Spectator
from bftkit.channel.state import ReplicatedState, error_text
from bftkit.channel.succession import Succession
from bftkit.channel.watch import CLOCK_BEATS, LeaderWatch
from bftkit.channel.wedge import BEDROCK_RECORD, WEDGE_RECORD, Wedge
from bftkit.configuration.text import ConfigurationError
from bftkit.core.digest import NO_DIGEST, digest
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
    Learned,
    OrderingInput,
    OrderingMachine,
    Refused,
    Returned,
    Setup,
    Waiting,
)
from bftkit.core.wire import WireError
from bftkit.crypto.signed import Certificate
from bftkit.membership.chain import Ending, HandOver, Place
from bftkit.membership.epochs import Configuration, extended

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
SLOT_UNKNOWN: Final = 1 << 62
"""Stands for what a record is about that was found on a disk: no checkpoint covers it."""
ENTERED_RECORD: Final = b"\x08"
"""Where in the log an epoch begins: the digest of the hand-over that opened it."""
MARKED_RECORD: Final = b"\x09"
"""Standing: that record is in the log, or was there and was cut, and with it all that stood before it."""
EPOCH_RECORD: Final = b"\x05"
"""The hand-over that opened the epoch: what stands before it in the log is of epochs before."""


def entered_record(link: HandOver) -> bytes:
    """The record that an epoch's entries in the log begin with."""
    return ENTERED_RECORD + digest(link.encode())


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
        self._take_settings(settings, 0)
        self.pool = Pool(limits.pool_bytes, limits.client_pool_bytes)
        self.batches = BatchStore(settings)
        self.checkpoints = Checkpoints(settings.quorum, settings.keyring)
        self.catchup = CatchUp(self)
        self.clients = ClientDesk(self)
        self.watch = LeaderWatch(self)
        self.proposer = Proposer(self)
        self.settling = Settling(self)
        self.succession = Succession(self, settings.place) if settings.place is not None else None
        """How epochs end and begin; None: this group's configuration never changes."""
        self.preparing = Preparing(self)
        self.orders = Orders(self)
        self.wedge = Wedge(self)
        if settings.place is not None:
            self.state.reconfiguring = self._reconfiguring(settings, settings.place)
            self.founding = settings.place.configuration
        self.counters = Counters()
        self.history: dict[Slot, Digest] = {}
        """What is decided, from the older kept checkpoint on."""
        self.silent = False
        """Whether this member has forgotten what it promised (SAFETY rule 16)."""
        self.forgotten = b""
        """The root of the keys under which it has forgotten that, if it is known."""
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

    def _take_settings(self, settings: ReplicaSettings, start: Slot) -> None:
        """The settings of an epoch, and a fresh machine of its protocol, for the slots after `start`."""
        self.settings = settings
        self.others = tuple(member for member in settings.members if member != settings.me)
        self.indices = {member: index for index, member in enumerate(settings.members)}
        self.quorum = settings.quorum
        self.observing = settings.me not in self.indices or not settings.may_sign
        """Whether this is no member in the present epoch, or another machine is: it follows, and says nothing."""
        self._tag = "p" if settings.epoch == 0 else f"p{settings.epoch}"
        """What the protocol's timers and draws begin with: those of an epoch before mean nothing."""
        self.failed: str | None = None
        """Why this epoch's protocol has stopped here, if it has: a bug of the plug-in (SAFETY rule 29)."""
        self.wedged = False
        """Whether this member has left the epoch's protocol (SAFETY rule 21)."""
        self._marked = False
        """Whether the log says where this epoch begins."""
        self.records: list[tuple[Slot, bytes]] = []
        """The protocol's records of this epoch that a forced ending may need, each with the slot that it is about."""
        self.machine: OrderingMachine
        self.setup: Setup | None = None
        """What the protocol's machine was made from; None at one that is no member."""
        if self.observing:
            self.machine = Spectator()
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
            self.machine = Spectator()
            self.failed = f"the protocol cannot begin: {error_text(error).decode()}"

    @staticmethod
    def _reconfiguring(settings: ReplicaSettings, place: Place) -> Reconfiguring:
        assert settings.keychain is not None
        judges = Judges(settings.verify, settings.keychain.preparing)
        return Reconfiguring(settings.group, place, settings.schedule, judges)

    # ------------------------------------------------------------------------------------------ machine

    @property
    def passive(self) -> bool:
        """Whether this member votes for nothing in this epoch: it is none, or has forgotten what it promised."""
        return self.silent or self.observing

    @property
    def succession_part(self) -> Succession:
        """See `succession`; asked for only where there is one."""
        assert self.succession is not None
        return self.succession

    @property
    def applied(self) -> Slot:
        """The last slot that was executed here."""
        return self.state.applied

    def on_restore(self, restored: Restored, out: ReplicaOut) -> None:
        """After a restart, before `on_start`. Raises `WireError` if what the disk holds makes no sense."""
        self.silent = restored.amnesic
        self.forgotten = restored.forgotten
        if self.succession is not None:
            self._restore_epoch(restored, out)
        if restored.checkpoint is not None:
            self._restore_checkpoint(*restored.checkpoint)
        protocol_records: list[tuple[Slot, bytes]] = []
        decided: dict[Slot, Digest] = {}
        wedged_by, bedrock_records = b"", list[bytes]()
        entered = b""
        marked = self._marked = any(record == MARKED_RECORD for record in restored.records)
        slots = restored.slots or [SLOT_UNKNOWN] * len(restored.records)
        for about, record in zip(slots, restored.records, strict=True):
            kind, body = record[:1], record[1:]
            if kind == _PROTOCOL_RECORD:
                protocol_records.append((about, body))
            elif kind == _BATCH_RECORD:
                self.batches.restore(body[8:], int.from_bytes(body[:8], "big"))
            elif kind == _DECIDED_RECORD:
                decided[int.from_bytes(body[:8], "big")] = body[8:]
            elif kind == OWN_RECORD:
                self.settling.voted, amnesic, forgotten = read_own_record(body)
                self.silent = self.silent or amnesic
                self.forgotten = self.forgotten or forgotten
            elif kind == MARKED_RECORD:
                pass
            elif kind == ENTERED_RECORD or (kind == EPOCH_RECORD and digest(body) != entered and not marked):
                # Every segment begins with the hand-over; what stands before the first one is of epochs before.
                entered = body if kind == ENTERED_RECORD else digest(body)
                self._marked = kind == ENTERED_RECORD
                protocol_records.clear()
                decided.clear()
                wedged_by, bedrock_records = b"", []
            elif kind == EPOCH_RECORD:
                pass
            elif kind == WEDGE_RECORD:
                wedged_by = body
            elif kind == BEDROCK_RECORD:
                if body not in bedrock_records:
                    bedrock_records.append(body)
            else:
                raise WireError(f"unknown kind of log record {kind.hex()}")
        if not self.passive:
            self._step(lambda inner: self.machine.on_restore([one for _, one in protocol_records], inner), out)
        if self.succession is not None:
            self.records = protocol_records + self.records
            if wedged_by:
                self.wedge.restore(wedged_by, bedrock_records)
        for slot in sorted(decided):
            if slot > self.applied:
                self.catchup.learned[slot] = decided[slot]
        self.promised = max([self.applied, self.settling.voted, *decided])
        if restored.amnesic:
            out.persist(self.settling.own_record())
        opened_by = self.succession.opened_by if self.succession is not None else None
        if opened_by is not None and not self._marked:
            self._mark(opened_by, out)  # the crash was faster

    def _restore_epoch(self, restored: Restored, out: ReplicaOut) -> None:
        """Which epoch this member was in: the one that the newest hand-over in its log opened."""
        assert self.succession is not None
        newest: HandOver | None = None
        for record in restored.records:
            if record[:1] == EPOCH_RECORD:
                newest = HandOver.decode(record[1:])
        self.succession.restore(list(restored.links), newest)
        self.preparing.coin_keys.restore(restored.secrets)
        if newest is not None:
            place = self.succession.place
            assert self.settings.keychain is not None
            settings = self.settings.keychain.enter(self.settings, place, self.preparing.share_for(newest.next.epoch))
            self._new_epoch(settings, newest)
            self._judge_clocks()
            assert self.state.reconfiguring is not None
            self.state.reconfiguring.place = place

    def _restore_checkpoint(self, slot: Slot, packed: bytes, chunks: Sequence[bytes]) -> None:
        manifest = frames.CONTROL_CODEC.decode(packed)
        if not isinstance(manifest, frames.Manifest):
            raise WireError("the saved checkpoint has no manifest")
        opened_by = self.succession.opened_by if self.succession is not None else None
        if opened_by is not None and slot < opened_by.ending.slot:
            return  # of an epoch before: the state is fetched
        if self.succession is not None and Ending.is_one(manifest.certificate.body):
            ending = Ending.decode(manifest.certificate.body)
            if ending.epoch >= self.settings.epoch and not self.succession.reached(ending, manifest.certificate):
                return  # of an epoch that this member knows no way to: the state is fetched
            certified, root = ending.slot, ending.root
        elif opened_by is not None and slot == opened_by.ending.slot:
            # A forced ending fell on this checkpoint: nobody checks signatures of the epoch before any more.
            certified, root = slot, opened_by.ending.root
            manifest = attrs.evolve(manifest, certificate=opened_by.certificate)
        else:
            try:
                certified, root = self.checkpoints.check(manifest.certificate)
            except WireError:
                if self.succession is None or not self.succession.ahead:
                    raise
                return  # of an epoch that the log has not reached: it was fetched, and is fetched again
        names = [digest(chunk) for chunk in chunks]
        if certified != slot or names != list(manifest.leaves) or not self.checkpoints.fits(root, names):
            raise WireError("the saved checkpoint is not the certified one")
        self.state.restore(slot, chunks)
        self.checkpoints.make_stable(Stable(slot, root, manifest.certificate, manifest.leaves, self.state.view()))
        self.settling.saved.append(slot)
        self.enter_fetched(slot)

    def enter_fetched(self, slot: Slot) -> None:
        """The state after this slot was fetched: if the epoch began with it, what was pending in it is over."""
        opened_by = self.succession.opened_by if self.succession is not None else None
        if opened_by is not None and slot == opened_by.ending.slot:
            self._enter_state(opened_by)

    def _enter_state(self, link: HandOver) -> None:
        """The state that the epoch ended with becomes the one that the next begins with."""
        state = self.state.reconfiguring
        assert state is not None
        if state.configuration.epoch == link.ending.epoch:
            place = Place(link.next, link.ending.opening)
            state.enter(place, extended(state.schedule, link.signed.command))
        self._judge_clocks()
        clock = self.state.clock
        clock.reports = {member: clock.reports[member] for member in sorted(clock.reports) if member in self.indices}

    def _judge_clocks(self) -> None:
        """From now on the clock reports of this epoch's members count."""
        self.state.member_keys = self.settings.member_keys
        self.state.clock.needed = self.settings.quorum.available

    def stays_silent(self, here: Configuration, there: Configuration) -> bool:
        """Whether this member, having forgotten what it promised, must stay silent in the next epoch too.

        Only new keys end that: what it signed with the old ones may still be under way (SAFETY rule 16).
        """
        if not self.silent:
            return False
        mine = there.roster.by_id.get(self.me)
        if mine is not None and mine.epoch_root == self.forgotten:
            return True  # its log may not know the epoch that it was in
        before, after = (
            {entry.id: entry.epoch_root for entry in roster.entries}.get(self.me)
            for roster in (here.roster, there.roster)
        )
        return before is None or before == after

    def _new_epoch(self, settings: ReplicaSettings, link: HandOver) -> None:
        """Everything that belongs to one epoch only is made anew."""
        kept = self.checkpoints.kept
        self._take_settings(settings, link.ending.slot)
        self.batches = BatchStore(settings)
        self.checkpoints = Checkpoints(settings.quorum, settings.keyring, kept=kept, opened_by=link.ending)
        self.catchup = CatchUp(self)
        self.watch = LeaderWatch(self)
        self.proposer = Proposer(self)
        self.wedge = Wedge(self)
        self._inputs.clear()
        self._told_waiting = False
        self._bytes_since_checkpoint = 0
        self.history = {}
        self.promised = 0

    def enter(self, before: Configuration, place: Place, link: HandOver, out: ReplicaOut) -> bool:
        """Go into the epoch that this hand-over opens; its state is here, and durable. False: this member cannot."""
        keychain = self.settings.keychain
        assert keychain is not None
        silent = self.stays_silent(before, place.configuration)
        share = self.preparing.share_for(place.configuration.epoch)
        try:
            settings = keychain.enter(self.settings, place, share)
            self._new_epoch(settings, link)
        except (ConfigurationError, ValueError) as error:
            self.halt(f"this member cannot take part in epoch {place.configuration.epoch}: {error}", out)
            return False
        self.silent = silent
        if not silent:
            self.forgotten = b""
        self._enter_state(link)
        self.preparing.enter()
        self.clients.enter()
        waiting = [entry.bundle for entry in self.pool.oldest()]
        self.pool = Pool(self.limits.pool_bytes, self.limits.client_pool_bytes)
        out.deliver(Rotate(self.standing()))
        self._mark(link, out)
        if not self.passive:
            self._step(self.machine.on_start, out)
            if self.checkpoints.stable > link.ending.slot:
                self.tell_stable(self.checkpoints.kept[-1], out)
        for bundle in waiting:
            if bundle.kind not in (COMMAND, COMMIT) and not self.passive:
                self.proposer.take_in(bundle)
        self._tell_status(out)
        return True

    def proves_here(self, stable: Stable) -> bool:
        """Whether members of this epoch can check the certificate: it is of this epoch, or of what opened it.

        The state that the epoch ends with is shown by the hand-over, and not before.
        """
        opened_by, body = self.checkpoints.opened_by, stable.certificate.body
        if Ending.is_one(body):
            return Ending.decode(body) == opened_by
        return opened_by is None or stable.slot > opened_by.slot

    def newest_proof(self) -> Certificate | None:
        """The certificate of the newest state that this member holds, of those that this epoch's members can check."""
        provable = [stable.certificate for stable in self.checkpoints.kept if self.proves_here(stable)]
        return provable[-1] if provable else None

    def _mark(self, link: HandOver, out: ReplicaOut) -> None:
        """Write down where in the log this epoch begins."""
        out.persist(entered_record(link), link.ending.slot)
        self._marked = True

    def end_at(self, slot: Slot, out: ReplicaOut) -> None:
        """The epoch's last slot is fixed: the protocol fills up to it, and goes no further (SAFETY rule 23)."""
        if not self.passive:
            self._step(lambda inner: self.machine.on_stop(slot, inner), out)

    def hash_now(self, slot: Slot) -> None:
        """The state after this slot is wanted, be it a checkpoint or not."""
        known = slot in self.checkpoints.ready or any(item.slot == slot for item in self.checkpoints.hashing)
        if not known and slot > self.checkpoints.stable:
            self.checkpoints.begin(slot, self.state.view())

    def on_start(self, out: ReplicaOut) -> None:
        """Begin to take part."""
        out.set_timer(("beat",), BEAT_TICKS)
        if not self.passive:
            self._step(self.machine.on_start, out)
            if self.checkpoints.stable > (self.checkpoints.opened_by.slot if self.checkpoints.opened_by else 0):
                self.tell_stable(self.checkpoints.kept[-1], out)
        if self.succession is not None:
            self.succession.tell_neighbours(out)
            self.preparing.on_executed(out)
            self.succession.begin(out)
            self.preparing.resume(out)
            self.succession.resume(out)
            self.wedge.start(out)
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
            if sender not in self.indices and not self._may_follow(sender, kind):
                # Removed, or not a member yet (FAULTS 38): counted, and no fault of anybody who is one.
                self.counters.refused_frames += 1
                self.counters.strangers += 1
                return
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

    def _may_follow(self, sender: MemberId, kind: int) -> bool:
        """Whether one that is no member may say something of this kind: it follows the group, and votes on nothing."""
        succession = self.succession
        if succession is None:
            return False
        return kind == frames.CONTROL and succession.is_known(sender)

    def on_timer(self, key: TimerKey, out: ReplicaOut) -> None:
        """A timer of ours, or of the protocol's (those begin with ``p``)."""
        if key[0] == self._tag:
            if not self.passive:
                self._step(lambda inner: self.machine.on_timer(key[1:], inner), out)
        elif key == ("beat",):
            self._on_beat(out)
        elif self.wedge.is_mine(key):
            self.wedge.on_timer(key, out)
            self._advance(out)

    def on_draw(self, key: DrawKey, value: int, out: ReplicaOut) -> None:
        """A draw that the protocol asked for."""
        if key[0] == self._tag and not self.passive:
            self._step(lambda inner: self.machine.on_draw(key[1:], value, inner), out)
        elif key[0] == DRAW:
            self.preparing.coin_keys.on_draw(key, value, out)
        elif self.wedge.is_mine(key):
            self.wedge.on_draw(key, value, out)
            self._advance(out)

    # ------------------------------------------------------------------------------------------ the protocol

    def _step(self, call: Callable[[Out[Any, Any]], None], out: ReplicaOut) -> None:
        """One step of the protocol, and then whatever inputs its effects call for."""
        if self.stopped is not None or self.wedged or self.failed is not None:
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
            self.failed = f"the protocol failed: {error_text(error).decode()}"
            if self.succession is None:
                self.halt(self.failed, out)
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
                    if self.succession is not None:
                        self.records.append((slot, record))
                case Deliver(output):
                    self._on_output(output, out)
                case SetTimer(key, ticks):
                    out.set_timer((self._tag, *key), ticks)
                case CancelTimer(key):
                    out.cancel_timer((self._tag, *key))
                case Blame(member, fault, proof):
                    self.blame(member, fault, self._completed(member, proof), out)
                case Draw(key, choices):
                    out.draw((self._tag, *key), choices)
                case DrawSecret(key):
                    out.draw_secret((self._tag, *key))

    def _completed(self, member: MemberId, proof: bytes) -> bytes:
        """The proof, with the bytes of the batch that it is about, if these must show that the batch is bad."""
        signed_for = self.settings.plugin.signed_for
        name = signed_for(self.setup, member, proof) if proof and signed_for and self.setup is not None else None
        return proof if name is None else self.batches.shown_with(proof, name)

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
            if self.succession is None:
                raise WireError(f"a message of epoch {epoch}; this is epoch {self.settings.epoch}")
            self.succession.on_other_epoch(sender, epoch, frame, out)
            return
        if self.passive or self.wedged:
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
        if self.stopped is not None or self.passive:
            return
        if self.wedged:
            self._advance(out)
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
        state, succession = self.state, self.succession
        while self.stopped is None:
            slot = state.applied + 1
            if succession is not None and (succession.at_end or not succession.active):
                break  # slots above the last one are void
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
                if not self.passive:
                    self.give(Learned(slot, name), out)
            self._after_slot(slot, out)
            if succession is not None:
                self.preparing.on_executed(out)
                succession.on_executed(slot, out)
                self.wedge.look_for_end(out)
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
        answer = not (replay or self.passive)
        for bundle, reply in entries:
            if bundle.kind in (COMMAND, COMMIT) and not self.pool.holds(bundle):
                continue  # a liar may have ordered one under the name of a client that waits
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

    def forget_records(self, floor: Slot) -> None:
        """Of the protocol's records, those about slots above `floor`, and the standing ones, still matter."""
        if self.records and self.failed is None and not self.passive:
            standing = [(STANDING, record) for record in self._standing_of_protocol()]
            self.records = standing + [
                (slot, record) for slot, record in self.records if slot != STANDING and slot > floor
            ]

    def _standing_of_protocol(self) -> Sequence[bytes]:
        """The protocol's standing records; of one that has failed, those that it had written before."""
        if self.failed is None or self.succession is None:
            try:
                return self.machine.standing()
            except Exception as error:
                if self.succession is None:
                    raise
                self.failed = f"the protocol failed: {error_text(error).decode()}"
        return [record for slot, record in self.records if slot == STANDING]

    def standing(self) -> tuple[bytes, ...]:
        """The standing records that a new log segment must begin with."""
        records = () if self.passive else self._standing_of_protocol()
        opened_by = self.succession.opened_by if self.succession is not None else None
        epoch: tuple[bytes, ...] = () if opened_by is None else (EPOCH_RECORD + opened_by.encode(),)
        if self._marked:
            epoch = (*epoch, MARKED_RECORD)
        own = self.settling.own_record()
        return (*epoch, own, *(_PROTOCOL_RECORD + record for record in records), *self.wedge.standing())

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
        if self.stopped is None and not self.passive:
            self.clients.forward(out)
            self.watch.on_beat(out)
            self.proposer.on_beat()
        self._tell_status(out)

    def _tell_status(self, out: ReplicaOut) -> None:
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
        self._advance(out)

    def _on_batch_bytes(self, sender: MemberId, raw: bytes, out: ReplicaOut) -> None:
        arrived = self.batches.arrived(raw, self.pool)
        if arrived is None:
            return
        stored, slot = arrived
        if self.passive:
            return
        self._answer_fetch(stored, slot, out)
        self._step(lambda inner: None, out)
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
