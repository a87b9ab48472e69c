"""Leaving a protocol that has stopped: wedge, report, agree by the bedrock, carry on from what may have been decided.

An operators' command, or votes of n - f - c members that the protocol has stopped (`stalling`), passed on by whoever
has it, makes a member *wedge*: it leaves the epoch's protocol for good,
durably, before anything that says so leaves (SAFETY rule 21). Then it *reports*, signed: its newest stable checkpoint,
and what it may have helped to decide above it, from its durable records alone, so that a protocol whose code has
failed can be left, too (rule 29). With n - f - c reports at hand it proposes them to the group's bedrock agreement,
which decides *which* reports count. From these everybody computes the same continuation (rule 22), executes it, and
signs the end of the epoch like any other.

Should the continuation reach the boundary of a planned change that was committed before, then that one wins, and the
forced command is superseded: both paths sign the same ending.

What was delivered anywhere is in every continuation; what stood above it returns to the pool, and its clients notice
nothing but time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, islice
from typing import TYPE_CHECKING, Any, Final

from bftkit.blocks import bedrock as bed
from bftkit.channel import frames
from bftkit.channel.bundles import COMMAND, make_proved_bundle
from bftkit.channel.court import (
    DECIDED_MAX,
    ENDING_CODEC,
    REPORT_CODEC,
    REPORT_PURPOSE,
    Continuation,
    Court,
    ForcedEnding,
    Report,
    SignedReport,
)
from bftkit.channel.frames import BedrockMessage, Wedged, pack_control
from bftkit.channel.interface import ReplicaOut
from bftkit.channel.records import BEDROCK_RECORD, WEDGE_RECORD
from bftkit.channel.state import error_text
from bftkit.channel.succession import REPEAT_BEATS, Last
from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import (
    STANDING,
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
from bftkit.core.wire import WireError
from bftkit.membership.commands import CommandError, SignedCommand
from bftkit.membership.epochs import extended

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica

BEDROCK_ID: Final = b"ending"
CHOICES_MAX: Final = 64
"""So many sets of reports are looked at for one whose batches are here."""


class Wedge:
    """The part of a replica that leaves a protocol by force."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.command: SignedCommand | None = None
        self.reports: dict[MemberId, SignedReport] = {}
        self.bedrock: bed.Bedrock | None = None
        self.continuation: Continuation | None = None
        self._proposed = False
        self._waits_for_state = False
        self._unsure: dict[tuple[MemberId, str], bed.Message] = {}
        """What others say of values that carry batches whose bytes are not here yet, one message of a kind of each."""
        self._records: list[bytes] = []
        self._tag = f"b{replica.settings.epoch}"

    # ------------------------------------------------------------------------------------------ wedging

    @property
    def court(self) -> Court:
        """The judge of this epoch's endings."""
        replica = self._replica
        settings, state = replica.settings, replica.state.reconfiguring
        assert state is not None
        plugin, setup = settings.plugin, replica.driving.setup
        assert setup is not None

        def history_of(member: MemberId, stable: Slot, history: bytes) -> bool:
            try:
                return plugin.check_history(setup, member, stable, history)
            except Exception:  # a plug-in's bug on a peer's bytes must not take this member down (SAFETY rule 29)
                return False

        return Court(
            setup,
            settings.group,
            replica.succession_part.configuration,
            state.schedule,
            history_of,
            replica.checkpoints.check,
            plugin.carry,
            settings.verify,
        )

    def on_order(self, signed: SignedCommand, out: ReplicaOut) -> None:
        """Operators, or n - f - c members (`stalling`), want the epoch's protocol left; the command was checked."""
        replica, known = self._replica, self.command
        if replica.passive or replica.stopped is not None or (known is not None and not self._is_easier(signed)):
            return
        if replica.succession_part.crossing is not None:
            return  # this member holds the hand-over, which ends every wedge, and shows it to all once it has crossed
        self.command = signed
        replica.wedged = True
        out.persist(WEDGE_RECORD + signed.encode(), STANDING)
        if known is None:
            self._begin([], out)
        else:
            self._tell(out)
            self._try_propose(out)

    def _is_easier(self, signed: SignedCommand) -> bool:
        """Whether fewer reports are enough by this command than by the one that this member has.

        Operators accept what is lost without those that did not come back. Which command counts, the bedrock decides.
        """
        if self.command is None or self._proposed or self.continuation is not None:
            return False
        return self.court.needed(signed.command) < self.court.needed(self.command.command)

    def _begin(self, records: list[bytes], out: ReplicaOut) -> None:
        court = self.court
        if court.setup.coins is not None or court.setup.quorum.f == 0:
            self.bedrock = bed.Bedrock.create(court.setup, BEDROCK_ID, self._is_valid, bed.VALUE_BYTES_MAX)
            if records:
                self._step(partial(self.bedrock.on_restore, records), out)
            if self._is_over:
                return
            self._step(self.bedrock.on_start, out)
            if self._is_over:
                return
        # A member without a share of the coin key reports, and hears of the ending from the others.
        self._sign_report()
        self._tell(out)
        self._try_propose(out)

    def _is_valid(self, value: bytes) -> bool:
        return self.court.is_valid(value)

    def _sign_report(self) -> None:
        report = self._report()
        if report is not None:
            replica = self._replica
            data = REPORT_CODEC.encode(report)
            signature = replica.settings.keyring.sign(REPORT_PURPOSE, digest(data))
            self.reports[replica.me] = SignedReport(replica.me, data, signature)

    def _report(self) -> Report | None:
        """This member's report; None if the plug-in cannot make one."""
        replica = self._replica
        setup = replica.driving.setup
        assert setup is not None
        kept = replica.checkpoints.kept
        stable = kept[-1] if kept else None
        if replica.lacks_state or (stable is None and setup.start):
            # Its checkpoints are lost, and so is what it would report above them, until it has fetched them.
            return None
        if stable is not None and not replica.proves_here(stable):
            return None  # its end is signed already, and this member is about to cross
        records = [record for _, record in replica.driving.records]
        try:
            history = replica.settings.plugin.history(setup, stable.slot if stable is not None else 0, records)
        except Exception as error:
            replica.driving.failed = f"the protocol cannot say what it did: {error_text(error).decode()}"
            return None
        start = stable.slot if stable is not None else 0
        decided = tuple(islice(self._decided_after(start), DECIDED_MAX)) if setup.quorum.f == 0 else ()
        return Report(stable.certificate if stable is not None else None, history, decided)

    def _decided_after(self, slot: Slot) -> Iterator[Digest]:
        """What this member knows to be decided in the slots after this one, up to the first of which it does not."""
        history, learned = self._replica.history, self._replica.catchup.learned
        while (name := history.get(slot + 1, learned.get(slot + 1))) is not None:
            slot += 1
            yield name

    @property
    def _is_over(self) -> bool:
        """Whether this member has come to the next epoch meanwhile, which has another wedge; or is on its way there.

        A valid hand-over ends the wedge (SAFETY rule 21), and the state that it leads to may be that of an epoch after.
        """
        succession = self._replica.succession_part
        return self._replica.wedge is not self or succession.crossing is not None or bool(succession.ahead)

    def _tell(self, out: ReplicaOut) -> None:
        """The command, and this member's report as long as it may count, to everybody."""
        replica = self._replica
        assert self.command is not None
        out.broadcast(b"\x02" + make_proved_bundle(COMMAND, self.command.name, self.command.encode()))
        mine = self.reports.get(replica.me)
        if mine is not None and self.continuation is None:
            out.broadcast(pack_control(Wedged(replica.settings.epoch, mine.report, mine.signature)))

    # ------------------------------------------------------------------------------------------ the bedrock

    def on_control(self, sender: MemberId, message: object, out: ReplicaOut) -> bool:
        """A message about leaving the protocol; says whether it was one."""
        replica = self._replica
        if isinstance(message, Wedged):
            if message.epoch == replica.settings.epoch and sender in replica.indices and not replica.observing:
                self._on_report(sender, message, out)
            return True
        if isinstance(message, BedrockMessage):
            if message.epoch == replica.settings.epoch and sender in replica.indices and self.bedrock is not None:
                decoded = bed.CODEC.decode(message.message)
                if self._may_hear(sender, decoded, out):
                    self._step(partial(self.bedrock.on_message, sender, decoded), out)
            return True
        return False

    def _may_hear(self, sender: MemberId, message: bed.Message, out: ReplicaOut) -> bool:
        """Whether the bedrock may be told this; else it waits here.

        A member's vote for a value says that it holds its bytes. The batches that the value carries belong to these:
        only then can a group that has agreed execute what it agreed on, whoever of those that reported is gone by then
        (SAFETY rule 3).
        """
        value = _value_in(message)
        if value is None or self.continuation is not None:
            return True
        try:
            continuation = self.court.outcome(value)
        except (WireError, CommandError):
            return True  # the bedrock finds out, and says whose fault it is
        if self._holds(continuation, out):
            return True
        place = (sender, type(message).__name__)
        if not isinstance(message, bed.Offer) or place not in self._unsure:
            self._unsure[place] = message
        return False

    def _holds(self, continuation: Continuation, out: ReplicaOut) -> bool:
        """Whether what the continuation carries is here, durably; what is not is asked for."""
        replica = self._replica
        saved = replica.settling.saved[-1] if replica.settling.saved else 0
        complete = True
        for slot, name in continuation.slots:
            if name == NO_DIGEST or slot <= saved:
                continue
            stored = replica.batches.find(name, replica.pool)
            if stored is not None and stored.authentic:
                replica.driving.keep_durable(stored, slot, out)
            else:
                complete = False
                if stored is None and slot > replica.applied:
                    replica.batches.want(name, slot, replica.others, out, at_once=True)
        return complete

    def on_batch(self, out: ReplicaOut) -> None:
        """Bytes came that somebody asked for, or time has passed: what waited for them may go on."""
        if self.bedrock is None or self._is_over:
            return
        unsure, self._unsure = self._unsure, {}
        for sender, kind in sorted(unsure):
            message = unsure[sender, kind]
            if self._is_over:
                return
            if self._may_hear(sender, message, out):
                self._step(partial(self.bedrock.on_message, sender, message), out)
        self._try_propose(out)

    def _on_report(self, sender: MemberId, message: Wedged, out: ReplicaOut) -> None:
        known = self.reports.get(sender)
        if known is not None and known.report == message.report:
            return
        self.court.judge(sender, message.report, message.signature)
        self.reports[sender] = SignedReport(sender, message.report, message.signature)
        self._try_propose(out)

    def _try_propose(self, out: ReplicaOut) -> None:
        bedrock, signed = self.bedrock, self.command
        if bedrock is None or signed is None or self._proposed or self.continuation is not None or self._is_over:
            return
        court = self.court
        needed = court.needed(signed.command)
        if len(self.reports) < needed:
            return
        # The shortest ones, so that they fit together. If what they carry is not here, who has it may be gone: others.
        shortest = sorted(self.reports, key=lambda member: (len(self.reports[member].report), member))
        for members in islice(combinations(shortest, needed), CHOICES_MAX):
            chosen = tuple(self.reports[member] for member in sorted(members))
            if sum(len(one.report) for one in chosen) > bed.VALUE_BYTES_MAX - (3 << 20):
                return  # what remains of an epoch is bounded by its window, and this is far above that
            reports = {one.member: REPORT_CODEC.decode(one.report) for one in chosen}
            try:
                continuation = court.continuation(signed, reports)
            except WireError as error:
                self._replica.driving.failed = str(error)
                continue
            value = ENDING_CODEC.encode(ForcedEnding(signed.encode(), chosen))
            if self._holds(continuation, out) and court.is_valid(value):
                self._proposed = True
                self._step(partial(bedrock.on_input, bed.Propose(value)), out)
                return

    def _step(self, call: Callable[[Out[Any, Any]], None], out: ReplicaOut) -> None:
        replica = self._replica
        inner: Out[bed.Message, bed.Agreed] = Out()
        call(inner)
        epoch = replica.settings.epoch
        for effect in inner.effects:
            if replica.wedge is not self:
                return  # it led into the next epoch, whose log must not have records of this one
            match effect:
                case Broadcast(message):
                    out.broadcast(pack_control(BedrockMessage(epoch, bed.CODEC.encode(message))))
                case Send(to, message):
                    out.send(to, pack_control(BedrockMessage(epoch, bed.CODEC.encode(message))))
                case Persist(record, slot):
                    out.persist(BEDROCK_RECORD + record, slot)
                case Deliver(output):
                    self._on_agreed(output, out)
                case SetTimer(key, ticks):
                    out.set_timer((self._tag, *key), ticks)
                case CancelTimer(key):
                    out.cancel_timer((self._tag, *key))
                case Draw(key, choices):
                    out.draw((self._tag, *key), choices)
                case DrawSecret(key):
                    out.draw_secret((self._tag, *key))
                case _:
                    replica.blame(effect.member, effect.fault, effect.proof, out)

    def is_mine(self, key: TimerKey) -> bool:
        """Whether a timer or a draw is the bedrock's."""
        return key[0] == self._tag

    def on_timer(self, key: TimerKey, out: ReplicaOut) -> None:
        """A timer of the bedrock's."""
        if self.bedrock is not None:
            self._step(partial(self.bedrock.on_timer, key[1:]), out)

    def on_draw(self, key: DrawKey, value: int, out: ReplicaOut) -> None:
        """A draw that the bedrock asked for."""
        if self.bedrock is not None:
            self._step(partial(self.bedrock.on_draw, key[1:], value), out)

    # ------------------------------------------------------------------------------------------ the continuation

    def _on_agreed(self, agreed: bed.Agreed, out: ReplicaOut) -> None:
        if self.continuation is None:
            self.continuation = self.court.outcome(agreed.value)
            self._look_for_lies(agreed.value, out)
            self._go_on(out)

    def _look_for_lies(self, value: bytes, out: ReplicaOut) -> None:
        """Reports that contradict each other, in an epoch in which nobody was to lie, prove that somebody did.

        The continuation is what a fixed rule makes of them. That safety was lost in this epoch is written down with the
        proofs (SAFETY rule 24).
        """
        replica, setup = self._replica, self._replica.driving.setup
        find = replica.settings.plugin.conflicts
        if find is None or setup is None:
            return
        # What counts is what was agreed on. Other reports that are here may show more.
        reports = {**self.reports, **{one.member: one for one in ENDING_CODEC.decode(value).reports}}
        histories = {member: REPORT_CODEC.decode(reports[member].report).history for member in sorted(reports)}
        try:
            found = find(setup, histories)
        except Exception as error:  # its code has failed before, or nobody would leave it (SAFETY rule 29)
            replica.driving.failed = f"the protocol cannot say who lied: {error_text(error).decode()}"
            return
        fault = f"safety lost in epoch {replica.settings.epoch}: two batches for one slot"
        for member, proof in found:
            replica.blame(member, fault, proof, out)

    def _go_on(self, out: ReplicaOut) -> None:
        """Execute the continuation."""
        replica, continuation = self._replica, self.continuation
        assert continuation is not None
        if self._is_over:
            return
        if replica.applied > continuation.end and replica.succession_part.last is None:
            replica.halt(f"the agreed continuation ends at slot {continuation.end}, and this member executed more", out)
            return
        for slot, name in continuation.slots:
            known = replica.history.get(slot)
            if known is not None and known != name:
                replica.halt(f"slot {slot} was decided, and the agreed continuation says otherwise", out)
                return
            if slot > replica.applied:
                replica.history[slot] = name
        if replica.applied < continuation.start and continuation.certificate is not None:
            slot, root = frames.certified_state(continuation.certificate.body)
            replica.catchup.fetch(slot, root, continuation.certificate, out)
        self.look_for_end(out)

    def look_for_end(self, out: ReplicaOut) -> None:
        """Is the continuation executed?"""
        replica, continuation = self._replica, self.continuation
        succession = replica.succession_part
        if continuation is None or self._is_over:
            return
        succession.sign(out)
        succession.try_cross(out)
        if succession.last is not None or self._is_over:
            return
        state = replica.state.reconfiguring
        assert state is not None
        if state.boundary and state.boundary == replica.applied <= continuation.end:
            # A planned change was committed, and its boundary is reached: that one wins (SAFETY rule 21).
            succession.on_executed(replica.applied, out)
            return
        if replica.applied != continuation.end:
            return
        command = continuation.command.command
        there = self.court.next(command)
        schedule = extended(state.schedule, command)
        succession.conclude(Last(continuation.end, there, schedule, continuation.command, b""), out)

    # ------------------------------------------------------------------------------------------ again and again

    def on_beat(self, out: ReplicaOut) -> None:
        """Say again what may have been lost."""
        replica = self._replica
        if self.command is None or replica.beat % REPEAT_BEATS:
            return
        if self._waits_for_state:
            self.start(out)
        elif not self._is_over:
            if replica.me not in self.reports:
                self._sign_report()
            self._tell(out)
            if self.continuation is None:
                self.on_batch(out)
            else:
                self._go_on(out)
        if self.bedrock is not None and replica.wedge is self:
            self._step(partial(self.bedrock.on_input, bed.Again()), out)

    def standing(self) -> tuple[bytes, ...]:
        """The standing records that a new log segment must have."""
        if self.command is None:
            return ()
        records = self.bedrock.standing() if self.bedrock is not None else self._records
        return (WEDGE_RECORD + self.command.encode(), *(BEDROCK_RECORD + record for record in records))

    def restore(self, command: bytes, records: list[bytes]) -> None:
        """After a restart, as soon as the state is here: this member had left the protocol."""
        self.command = SignedCommand.decode(command)
        self._replica.wedged = True
        self._records = records

    def start(self, out: ReplicaOut) -> None:
        """After a restart; again, as soon as the state that the epoch began with is here, if the disk has lost it."""
        replica, opened_by = self._replica, self._replica.opened_by
        if self.command is not None and not replica.passive and not self._is_over:
            # That state says which keys the next epochs have: without it, nobody can judge what leads there.
            self._waits_for_state = opened_by is not None and replica.applied < opened_by.ending.slot
            if not self._waits_for_state:
                self._begin(self._records, out)


def _value_in(message: bed.Message) -> bytes | None:
    """The bytes that somebody shows, so that this member may say that it holds them."""
    match message:
        case bed.Offer(value) | bed.Bytes(value):
            return value
        case bed.Accept(carried=True, value=value):
            return value
        case _:
            return None
