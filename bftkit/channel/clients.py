"""The door for clients: which bundles and reads are taken in, and what is answered.

A bundle is judged once, when it comes: its form, its client, its session, its signature. What was executed before is
answered from the kept reply; what cannot be executed is refused with a reason that the client can act upon.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import attrs

from bftkit.channel import frames
from bftkit.channel.bundles import (
    CLOCK,
    COMMAND,
    COMMIT,
    OPEN,
    REPORT,
    Bundle,
    is_self_proved,
    opening_tag,
    parse_bundle,
)
from bftkit.channel.frames import (
    AskChain,
    AskCommand,
    AskStatus,
    ChainAnswer,
    CommandAnswer,
    Glance,
    Read,
    ReadAnswer,
    ReadRefusal,
    Refusal,
    pack_answer,
    pack_reply,
)
from bftkit.channel.interface import ReplicaOut, StatusAsked, ToClient
from bftkit.channel.sessions import Reply
from bftkit.channel.state import RESULT_BYTES_MAX, error_text, opening_reply
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId, Slot
from bftkit.core.wire import WireError
from bftkit.membership.commands import SignedCommand

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica

FORWARD_BEATS: Final = 2
"""A bundle that has waited for so long is forwarded to the leader again, and again after as long."""
READ_BEATS: Final = 30
"""A read that could not be answered for so long is refused."""
FULL_REPLY_BYTES: Final = 512
"""Results up to this size are sent by every member; larger ones by one, the others send the digest (SAFETY rule 8)."""


@attrs.define
class _PendingRead:
    client: bytes
    number: int
    operation: bytes
    after: Slot
    beat: int


class ClientDesk:
    """The part of a replica that deals with clients."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._reads: list[_PendingRead] = []
        self._readers: Counter[bytes] = Counter()
        """How many reads of each client wait."""

    def reply(self, bundle: Bundle, reply: Reply, out: ReplicaOut) -> None:
        """Tell a client the results of a bundle that was executed just now."""
        full = len(reply.results) <= FULL_REPLY_BYTES or self._sends_result(reply)
        out.deliver(ToClient(bundle.client, self._reply_frame(bundle, reply, full=full)))

    def on_client(self, client: bytes, frame: bytes, out: ReplicaOut) -> None:
        try:
            kind = frame[0] if frame else 0
            if kind == frames.BUNDLE:
                self.on_bundle(frame[1:], None, client, out)
            elif kind == frames.ASK:
                ask = frames.ASK_CODEC.decode(frame[1:])
                if isinstance(ask, Read):
                    self._on_read(client, ask, out)
                elif isinstance(ask, Glance):
                    self._on_glance(client, ask, out)
                elif isinstance(ask, AskStatus):
                    out.deliver(StatusAsked(client, ask.number))
                else:
                    self._on_epoch_ask(client, ask, out)
            else:
                raise WireError(f"unknown kind of frame {kind}")
        except WireError:
            self._replica.counters.refused_frames += 1

    def on_bundle(self, raw: bytes, member: MemberId | None, client: bytes | None, out: ReplicaOut) -> None:
        """A bundle, straight from its client or forwarded by a member."""
        replica = self._replica
        if client is not None and len(raw) > replica.limits.bundle_bytes and not is_self_proved(raw):
            # Refused by its header alone, with a reason that the client can act upon.
            self._refuse_large(raw, client, out)
            return
        bundle = parse_bundle(raw, bytes_max=replica.limits.bundle_bytes)
        if bundle.kind == CLOCK:
            replica.watch.on_report(member, bundle)
            return
        if bundle.kind == REPORT:
            self._on_report(bundle, member)
            return
        if bundle.kind in (COMMAND, COMMIT):
            self._on_proved(bundle, member, out)
            return
        if client is not None and bundle.client != client:
            raise WireError("a bundle of another client")
        key = (bundle.client, bundle.session, bundle.first)
        held = replica.pool.entries.get(key)
        if held is not None and not _is_newer_opening(bundle, held.bundle):
            return
        refusal = self._refusal(bundle)
        if refusal is None:
            done = self._known_reply(bundle)
            if done is not None:
                if client is not None and not replica.passive:
                    out.deliver(ToClient(client, self._reply_frame(bundle, done, full=True)))
                return
            if self._is_over(bundle):
                refusal = (frames.OUTSIDE_WINDOW, "executed before, and its reply is no longer kept")
            elif not bundle.authentic(replica.settings.group, replica.settings.verify):
                raise WireError("a bundle with a bad signature")
            elif not replica.pool.fits(bundle):
                refusal = (frames.BUSY, "too many requests wait; try again")
        if refusal is not None:
            if client is not None:
                reason, text = refusal
                answer = Refusal(bundle.session, bundle.first, reason, text)
                out.deliver(ToClient(client, pack_answer(answer)))
            return
        replica.pool.remove(key, replica.beat, replica.applied, replaced=True)
        replica.proposer.take_in(bundle)
        leader = replica.machine.leader
        if member is None and leader is not None and leader != replica.me:
            out.send(leader, b"\x02" + raw)

    def _on_report(self, bundle: Bundle, member: MemberId | None) -> None:
        """What a member measured."""
        replica = self._replica
        if bundle.client not in replica.settings.member_keys and replica.succession is not None:
            return  # signed with a key of another epoch
        if replica.measuring is None:
            raise WireError("a report of what was measured, and nobody asked for it")
        replica.measuring.on_report(member, bundle)

    def _on_proved(self, bundle: Bundle, member: MemberId | None, out: ReplicaOut) -> None:
        """An operators' command, or the commit of one."""
        replica = self._replica
        if replica.succession is None:
            raise WireError("this group's configuration never changes")
        (payload,) = bundle.payloads()
        if bundle.kind == COMMAND:
            if SignedCommand.decode(payload).name != bundle.client:
                raise WireError("a command under another name")  # it could stand in a client's place in the pool
            fresh = replica.orders.on_command(payload, out)
        else:
            fresh = member is not None and replica.preparing.judge_commit(bundle.client, payload)
        if not fresh or replica.passive or (bundle.client, 0, 0) in replica.pool:
            return
        replica.proposer.take_in(bundle)
        if bundle.kind == COMMAND:
            out.broadcast(b"\x02" + bundle.raw)  # whoever has it passes it on: no member can swallow it (FAULTS 44)

    def _on_epoch_ask(self, client: bytes, ask: AskChain | AskCommand, out: ReplicaOut) -> None:
        succession = self._replica.succession
        if succession is None:
            return
        if isinstance(ask, AskChain):
            out.deliver(ToClient(client, pack_answer(ChainAnswer(succession.lineage.chain_from(ask.epoch)))))
        else:
            state, text = self._replica.orders.state_of(ask.command)
            out.deliver(ToClient(client, pack_answer(CommandAnswer(ask.number, ask.command, state, text))))

    def _refuse_large(self, raw: bytes, client: bytes, out: ReplicaOut) -> None:
        bundle = parse_bundle(raw, bytes_max=len(raw))
        text = f"{len(raw)} bytes exceed the group's limit of {self._replica.limits.bundle_bytes} a bundle"
        answer = Refusal(bundle.session, bundle.first, frames.TOO_LARGE, text)
        out.deliver(ToClient(client, pack_answer(answer)))

    def _refusal(self, bundle: Bundle) -> tuple[int, str] | None:
        """Why this member will not take the bundle, if so."""
        replica = self._replica
        if replica.stopped is not None:
            return frames.STOPPED, f"this member has stopped: {replica.stopped}"[:400]
        if replica.passive:
            return frames.STOPPED, "this member lost its disk, or is none, and takes no part in this epoch"
        listed = replica.settings.listed_clients
        if listed is not None and bundle.client not in listed:
            return frames.NOT_LISTED, "this group serves listed clients only"
        if bundle.kind == OPEN:
            return None
        session = replica.state.sessions.get(bundle.client, bundle.session)
        if session is None:
            if bundle.session >> 20 > replica.applied:
                # A session's number begins with the slot that opened it, and this member has not got there yet.
                return frames.BUSY, "this member is behind and does not know the session yet"
            return frames.NO_SESSION, "no such session; its requests are never executed"
        if not session.in_window(bundle.low, bundle.end, replica.limits.session_window):
            return frames.OUTSIDE_WINDOW, f"the session's window is {replica.limits.session_window} requests wide"
        if replica.batches.oversize(bundle):
            return frames.TOO_LARGE, f"an operation exceeds the group's limit of {replica.limits.operation_bytes} bytes"
        return None

    def _known_reply(self, bundle: Bundle) -> Reply | None:
        replica = self._replica
        if bundle.kind == OPEN:
            session = replica.state.sessions.by_client.get(bundle.client)
            if session is not None and bundle.payloads() == [session.nonce]:
                return opening_reply(session)
            return None
        session = replica.state.sessions.get(bundle.client, bundle.session)
        reply = session.replies.get(bundle.first) if session is not None else None
        return reply if reply is not None and reply.count == bundle.count else None

    def _is_over(self, bundle: Bundle) -> bool:
        replica = self._replica
        if bundle.kind == OPEN:
            opened = replica.state.sessions.by_client.get(bundle.client)
            return opened is not None and bundle.payloads()[0] < opened.nonce
        session = replica.state.sessions.get(bundle.client, bundle.session)
        return session is not None and session.is_done(bundle.first, bundle.count)

    def _sends_result(self, reply: Reply) -> bool:
        replica = self._replica
        return replica.settings.members[reply.slot % replica.quorum.n] == replica.me

    def _reply_frame(self, bundle: Bundle, reply: Reply, *, full: bool) -> bytes:
        replica = self._replica
        leader = replica.machine.leader
        return pack_reply(
            replica.settings.epoch,
            reply.slot,
            opening_tag(bundle.payloads()[0]) if bundle.kind == OPEN else bundle.session,
            reply.first,
            reply.count,
            reply.digest,
            frames.NO_LEADER if leader is None else replica.indices.get(leader, frames.NO_LEADER),
            reply.results if full else None,
        )

    def _on_read(self, client: bytes, read: Read, out: ReplicaOut) -> None:
        replica = self._replica
        text = replica.stopped
        if replica.passive:
            text = "this member takes no part in this epoch"
        elif replica.wedged:
            text = "this member has left the epoch's protocol; ask in the next epoch"
        elif replica.driving.failed is not None:
            text = "the epoch's protocol has failed here, and what it voted for is not known"
        elif replica.succession is not None and replica.succession.at_end:
            # What it signs now opens the next epoch, which may execute more before this member is there.
            text = "the epoch ends; ask in the next one"
        elif len(read.operation) > replica.limits.operation_bytes:
            text = f"an operation exceeds the group's limit of {replica.limits.operation_bytes} bytes"
        elif len(self._reads) >= replica.limits.reads or self._readers[client] >= replica.limits.client_reads:
            text = "too many reads wait; try again"
        if text is not None:
            out.deliver(ToClient(client, pack_answer(ReadRefusal(read.number, text[:400]))))
            return
        # What this member voted for, or knew as decided before a restart, must be applied first (SAFETY rule 13).
        after = max(replica.machine.highest_voted, replica.promised)
        pending = _PendingRead(client, read.number, read.operation, after, replica.beat)
        if after <= replica.applied:
            self._answer_read(pending, out)
        else:
            self._reads.append(pending)
            self._readers[client] += 1

    def _on_glance(self, client: bytes, glance: Glance, out: ReplicaOut) -> None:
        """A best-effort read: the present state answers at once, wherever the others are."""
        replica = self._replica
        text = replica.stopped
        if replica.passive:
            text = "this member takes no part in this epoch"
        elif len(glance.operation) > replica.limits.operation_bytes:
            text = f"an operation exceeds the group's limit of {replica.limits.operation_bytes} bytes"
        if text is not None:
            out.deliver(ToClient(client, pack_answer(ReadRefusal(glance.number, text[:400]))))
            return
        self._answer_read(_PendingRead(client, glance.number, glance.operation, 0, replica.beat), out)

    def answer_reads(self, out: ReplicaOut) -> None:
        replica = self._replica
        if not self._reads:
            return
        due = [read for read in self._reads if read.after <= replica.applied]
        if due:
            self._reads = [read for read in self._reads if read.after > replica.applied]
            self._readers = Counter(read.client for read in self._reads)
        for read in due:
            self._answer_read(read, out)

    def drop_old_reads(self, out: ReplicaOut) -> None:
        """Reads that waited too long: their clients have turned to the total order meanwhile."""
        replica = self._replica
        old = [read for read in self._reads if replica.beat - read.beat >= READ_BEATS]
        if old:
            self._reads = [read for read in self._reads if replica.beat - read.beat < READ_BEATS]
            self._readers = Counter(read.client for read in self._reads)
        for read in old:
            answer = ReadRefusal(read.number, "what this member voted for is not decided yet")
            out.deliver(ToClient(read.client, pack_answer(answer)))

    def _answer_read(self, read: _PendingRead, out: ReplicaOut) -> None:
        replica = self._replica
        failed = 0
        try:
            result = replica.state.application.read(read.operation)
            if type(result) is not bytes:
                raise TypeError(f"read returned {type(result).__name__}, not bytes")
            if len(result) > RESULT_BYTES_MAX:
                raise ValueError(f"the answer exceeds {RESULT_BYTES_MAX} bytes")
        except Exception as error:
            failed, result = 1, error_text(error)
        name = digest(bytes((failed,)), result)
        answer = ReadAnswer(read.number, replica.settings.epoch, replica.applied, failed, name, result)
        out.deliver(ToClient(read.client, pack_answer(answer)))

    def enter(self) -> None:
        """A new epoch: what was asked in the one before is asked again by whoever still waits."""
        self._reads.clear()
        self._readers.clear()

    def prune(self, out: ReplicaOut) -> None:
        """Drop bundles that can no longer be executed: their numbers ran in another bundle, or the session ended."""
        replica = self._replica
        for entry in list(replica.pool.oldest()):
            if replica.beat - entry.beat < FORWARD_BEATS:
                break
            bundle = entry.bundle
            if bundle.kind in (COMMAND, COMMIT):
                over = replica.orders.is_over(bundle)
            elif bundle.kind == OPEN:
                over = self._known_reply(bundle) is not None or self._is_over(bundle)
            else:
                session = replica.state.sessions.get(bundle.client, bundle.session)
                over = session is None or session.is_done(bundle.first, bundle.count)
            if over:
                replica.pool.remove((bundle.client, bundle.session, bundle.first), replica.beat, replica.applied)

    def forward(self, out: ReplicaOut) -> None:
        """A request may have been lost on its way to the leader: forward what has waited, some at a time.

        Without a leader it goes to everybody, and the members that hold it take turns at that: it may have come to
        this one only, and should reach those that may propose it before.
        """
        replica = self._replica
        leader, everybody = replica.machine.leader, replica.proposer.everybody
        if leader == replica.me or (leader is None and not everybody):
            return
        budget = replica.limits.batch_bytes
        every = FORWARD_BEATS * (replica.quorum.n if everybody else 1)
        for entry in replica.pool.oldest():
            age = replica.beat - entry.beat
            if age < FORWARD_BEATS or budget < 0:
                break
            if (age - FORWARD_BEATS * entry.rank) % every == 0:
                receivers = replica.others if leader is None else (leader,)
                out.send(receivers, b"\x02" + entry.bundle.raw)
                budget -= len(entry.bundle.raw) * len(receivers)


def _is_newer_opening(bundle: Bundle, held: Bundle) -> bool:
    """Whether this opens a session after the one that waits to be opened: the client has begun anew.

    All members come to wait for its newest one, whatever each of them heard first.
    """
    return bundle.kind == held.kind == OPEN and bundle.payloads() > held.payloads()
