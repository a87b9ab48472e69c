"""The client's deterministic part: what it sends, when it believes an answer, when it asks again.

A client opens a session (see `sessions`), numbers its operations, and sends them as signed bundles to the member that
it believes to lead, or to all members if it is told that nobody leads. It accepts a result when f + 1 members agree on
(slot, digest of the results), and one of them sent the results themselves (SAFETY rule 8). What is not answered in time
is sent again, unchanged and to every member, so it can execute only once, however often it is sent.

A strong read goes to all members and counts when q of them give the same answer in one epoch (rule 13); if they do
not, it is ordered like any other operation. A best-effort read goes to one member (see `glances`).

Operations may have a deadline (see `deadlines`). A bundle that came too late is answered like any other, and stays what
it is: it is sent again until it is answered, which is harmless, and never anew under another number.

The group may move from epoch to epoch meanwhile, with other members and another protocol: the client follows the chain
of hand-overs (see `client_chain`), and what is under way goes to the new members as it is. Sessions are part of what
they took over, so it executes only once (rule 9).

The same object runs under trio, asyncio, in a plain loop and in the simulator; `bftkit.client` only drives it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from bftkit.channel import frames
from bftkit.channel.bundles import FAILED, OK
from bftkit.channel.client_chain import Following
from bftkit.channel.client_face import (
    PATIENCE_TICKS,
    PATIENCE_TICKS_MAX,
    RETRY_TICKS,
    AskHistory,
    AskRead,
    ClientInput,
    ClientOut,
    ClientOutput,
    ClientSettings,
    CommandState,
    Enough,
    Executed,
    HaltNow,
    History,
    LinkRefused,
    MemberStatus,
    Moved,
    NotExecuted,
    Order,
    ReadDone,
    SendNow,
    Stopped,
    Submit,
    VerifierProtocol,
)
from bftkit.channel.client_orders import Orders
from bftkit.channel.client_session import WATCHED_BYTES, Reading, Session
from bftkit.channel.frames import (
    ANSWER_CODEC,
    AskStatus,
    ChainAnswer,
    LinkProof,
    Read,
    ReadAnswer,
    ReadRefusal,
    Refusal,
    StatusAnswer,
    pack_ask,
    unpack_reply,
)
from bftkit.channel.glances import Glances
from bftkit.configuration.qos import QoS
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId, TimerKey
from bftkit.core.wire import WireError
from bftkit.membership.chain import HandOver, Place

READ_PATIENCE_TICKS: Final = 300


class ClientMachine:
    """One client identity with one session. See the top of this file."""

    def __init__(self, settings: ClientSettings) -> None:
        if settings.place is not None:
            settings = settings.at(settings.place)
        self.settings = settings
        self.following = Following(settings) if settings.place is not None else None
        """None: this group's configuration never changes."""
        before = settings.asked_before
        self.orders = Orders(before)
        self.stopped: str | None = None if self.following is None else self.following.contradiction
        """Why this client believes nobody any more, if so."""
        self.heard_from: set[MemberId] = set()
        """Who answered anything at all, and whose link was not lost since."""
        self._bindings: dict[MemberId, bytes] = {}
        self.proved: set[MemberId] = set()
        """Whose links are proved with the keys of this epoch."""
        self._later: dict[MemberId, LinkProof] = {}
        """Proofs for epochs that the client has not reached."""
        self._reads: dict[int, Reading] = {}
        self._read_number = before
        self._first_status = before + 1
        self.status_number = before
        """Of the newest question how members are. What is asked later gets a higher one."""
        self._glances = Glances()
        self.now = 0
        """The client's own tick count."""
        self._ticking = False
        self.work = Session(self)

    # -------------------------------------------------------------------------------------------- machine

    @property
    def outstanding(self) -> int:
        """Operations that are submitted and not answered."""
        return self.work.outstanding

    @property
    def session(self) -> int:
        """The session's number; 0: there is none."""
        return self.work.session

    @property
    def next_number(self) -> int:
        """The sequence number that the next submitted operation gets."""
        return self.work.next_number

    @property
    def contradictions(self) -> int:
        """Replies that differed from what enough members agreed on: some member lied."""
        return self.work.contradictions

    def reasons(self, first: int, count: int = 1) -> dict[MemberId, str]:
        """Why members would not take the operations with these numbers, in their newest words: for people."""
        return self.work.reasons(first, count)

    def reasons_of_read(self, token: int) -> dict[MemberId, str]:
        """Why members cannot answer the read of this token, in their newest words: for people."""
        reads = (*self._reads.values(), *self.work.ordered_reads.values())
        read = next((one for one in reads if one.token == token), None)
        if read is None:
            return self._glances.reasons(token)
        if read.ordered_as is None:
            return dict(read.reasons)
        return self.work.reasons(read.ordered_as, 1)

    @property
    def is_open(self) -> bool:
        """Whether the session is open."""
        return self.session != 0

    @property
    def is_settled(self) -> bool:
        """Whether so many members have proved their links for this epoch that a correct one is among them."""
        return len(self.proved) >= self.settings.quorum.weak

    @property
    def waits_for(self) -> int | None:
        """The epoch before which this client believes nobody, if it has not come there (`ClientSettings.trusted`)."""
        return None if self.following is None else self.following.waits_for

    @property
    def _links(self) -> list[HandOver]:
        """The newest hand-overs that were followed, as far as they say anything for sure."""
        if self.following is None or self.waits_for is not None:
            return []
        return [one.link for one in self.following.kept]

    def on_start(self, out: ClientOut) -> None:
        """Nothing yet: the session is opened when there is something to order."""

    def on_draw(self, key: TimerKey, value: int, out: ClientOut) -> None:
        """Randomness for the opening of a session."""
        self.work.open(value, out)

    def on_input(self, value: ClientInput, out: ClientOut) -> None:
        """See the inputs above. Raises `ValueError` for an operation that exceeds the group's limit."""
        if isinstance(value, Submit):
            for operation in value.operations:
                self._check_size(operation)
            self.work.submit(value.operations, self.expiry(value.now_ms, value.deadline_ms))
            if self.stopped is not None:
                out.deliver(Stopped(self.stopped))
                self.work.fail_queue(self.stopped, out)
        elif isinstance(value, Enough):
            self.orders.forget(value.name)
        elif isinstance(value, HaltNow):
            self._stop(value.reason, out)
        elif self.stopped is not None:
            if not isinstance(value, SendNow):
                out.deliver(Stopped(self.stopped))
        elif isinstance(value, AskRead):
            self._check_size(value.operation)
            if self.consistency(value.consistency) == "best-effort":
                self._start_glance(value, out)
            else:
                self._start_read(value, out)
        elif isinstance(value, SendNow):
            self.work.send_queue(out)
        elif isinstance(value, Order):
            self.orders.start(value.signed, self.settings.members, self.settings.epoch, self._links, out)
            self.tick(out)
        elif self.following is not None:
            self.following.start_walk(out)
            self.tick(out)
        else:
            out.deliver(History(()))

    def on_message(self, sender: MemberId, message: bytes, out: ClientOut) -> None:
        """A frame from a member, over a link that authenticates it. Rubbish is ignored."""
        if self.stopped is not None or sender not in self.settings.members:
            return
        try:
            kind = message[0] if message else 0
            if kind == frames.REPLY:
                self.work.on_reply(sender, unpack_reply(message), out)
            elif kind == frames.ANSWER:
                answer = ANSWER_CODEC.decode(message[1:])
                self.heard_from.add(sender)
                if isinstance(answer, StatusAnswer):
                    if self._first_status <= answer.number <= self.status_number:
                        out.deliver(MemberStatus(sender, answer.text, answer.number))
                elif isinstance(answer, LinkProof):
                    self._on_proof(sender, answer, out)
                elif isinstance(answer, ChainAnswer):
                    self._on_links(sender, answer, out)
                elif isinstance(answer, ReadAnswer):
                    self._on_read_answer(sender, answer, out)
                elif sender not in self.proved:
                    if isinstance(answer, Refusal) and answer.reason == frames.STOPPED:
                        self.doubt(out)
                elif isinstance(answer, Refusal):
                    self.work.on_refusal(sender, answer, out)
                elif isinstance(answer, ReadRefusal):
                    self._on_read_refusal(sender, answer, out)
                else:
                    here = self.settings
                    self.orders.on_answer(sender, answer, here.members, here.quorum, here.epoch, out)
        except WireError:
            return

    def on_timer(self, key: TimerKey, out: ClientOut) -> None:
        """Look for what is late, and ask everybody."""
        self.now += RETRY_TICKS
        self._ticking = False
        if self.stopped is not None:
            return
        if self.following is not None:
            self.following.on_tick(self.now, out)
        self.work.on_tick(out)
        if self._glances.on_tick(self.settings.members, self.proved, self.now, out):
            self.doubt(out)
        for number in [number for number, read in self._reads.items() if read.due <= self.now]:
            self._order_read(number, out)
            self.doubt(out)
        if self.orders.on_tick(self.now, self.settings.members, out):
            self.doubt(out)
        self.work.send_queue(out)
        late = self.work.bundles or self._reads or self.work.queue or self.orders.waiting
        if late or self._glances.waiting or (self.following is not None and self.following.waiting):
            self.tick(out)

    def ask_status(self, out: ClientOut) -> None:
        """Ask every member how it is; the answers are `MemberStatus`, one by one."""
        self.status_number += 1
        out.send(self.settings.members, pack_ask(AskStatus(self.status_number)))

    def seek(self, out: ClientOut) -> None:
        """Somebody waits to know the present members; to be called again and again until `is_settled`.

        If none of those that are known here is a member any more, nobody says so without being asked.
        """
        if self.stopped is None and not self.is_settled:
            self.doubt(out)

    def on_link(self, member: MemberId, binding: bytes, out: ClientOut) -> None:
        """A link to this member came up: what waits for an answer may have been lost with the one before.

        Nothing from the member counts until its epoch key has signed the link's binding (SAFETY rule 8).
        """
        if self.stopped is not None or member not in self.settings.members:
            return
        self._bindings[member] = binding
        self.proved.discard(member)
        self._later.pop(member, None)
        if self.following is not None:
            self.following.on_link(member)
        self.orders.on_link(member, out)
        self.work.on_link(member, out)
        for number, read in self._reads.items():
            out.send(member, pack_ask(Read(number, read.operation)))
        self._glances.on_link(member, out)

    def on_gone(self, member: MemberId) -> None:
        """No link leads to this member any more: whatever it answered, it is not there now."""
        self.heard_from.discard(member)

    # -------------------------------------------------------------------------------------------- epochs

    def _on_proof(self, sender: MemberId, proof: LinkProof, out: ClientOut) -> None:
        epoch = self.settings.epoch
        if proof.epoch > epoch:
            if self.following is not None:
                self._later[sender] = proof
                self.on_later(sender, proof.epoch, out)
        elif proof.epoch == epoch and not self._prove(sender, proof) and self.following is not None:
            self.following.suspect(sender)
            self.tick(out)

    def _prove(self, member: MemberId, proof: LinkProof) -> bool:
        """Whether this is the member's proof of its link for this epoch. Then it is believed, if anybody is yet."""
        binding = self._bindings.get(member)
        if binding is None or not self.settings.keyring.verify(member, frames.LINK_PURPOSE, binding, proof.signature):
            return False
        if self.waits_for is None:
            self.proved.add(member)
        return True

    def on_later(self, sender: MemberId, epoch: int, out: ClientOut) -> None:
        """A member shows that it is in a later epoch."""
        if self.following is not None:
            self.following.on_shown(sender, epoch, out)
            self.tick(out)

    def doubt(self, out: ClientOut) -> None:
        """Something is late, or refused: the group may be in a later epoch."""
        if self.following is not None:
            self.following.doubt(out)
            self.tick(out)

    def _on_links(self, sender: MemberId, answer: ChainAnswer, out: ClientOut) -> None:
        following = self.following
        if following is None:
            return
        if following.on_answer(sender, answer.links, out):
            self._enter(following.place, out)
        if following.contradiction is not None:
            self._stop(following.contradiction, out)
        elif following.waiting:
            self.tick(out)

    def _enter(self, place: Place, out: ClientOut) -> None:
        """The group is in a later epoch, and so is the client from here on."""
        before, following = self.settings, self.following
        assert before.place is not None
        assert following is not None
        here = self.settings = before.at(place)
        was, now = before.place.configuration.roster, place.configuration.roster
        staying = {
            name for name in here.members if name in was.by_id and was.entry(name).identity == now.entry(name).identity
        }
        self._bindings = {name: binding for name, binding in self._bindings.items() if name in staying}
        self.heard_from &= staying
        self.proved = set()
        later = {name: proof for name, proof in self._later.items() if name in staying and proof.epoch >= here.epoch}
        self._later = {name: proof for name, proof in later.items() if proof.epoch > here.epoch}
        for name, proof in later.items():
            if proof.epoch == here.epoch and not self._prove(name, proof):
                following.suspect(name)
        chain = tuple(one.raw for one in following.kept) if following.waits_for is None else ()
        out.deliver(Moved(place, following.kept[-1].raw, chain))
        # A word was given when so many could lie; if fewer are to be believed now, it must be given again.
        heard = staying if here.quorum.weak >= before.quorum.weak else set[MemberId]()
        passed = (one.link.ending for one in following.kept if one.link.ending.epoch >= before.epoch)
        self.work.on_moved(heard, next(passed).slot, out)
        for number, read in self._reads.items():
            read.answers.clear()
            read.reasons.clear()
            read.due = self.now + READ_PATIENCE_TICKS
            out.send(here.members, pack_ask(Read(number, read.operation)))
        self._glances.on_moved(here.members, self.now, out)
        self.orders.on_moved(self._links, here.members, out)
        self.tick(out)

    def _stop(self, reason: str, out: ClientOut) -> None:
        """Two histories: whatever is under way, nobody can be believed about it (SAFETY rule 28)."""
        if self.stopped is not None:
            return
        self.stopped = reason
        out.deliver(Stopped(reason))
        self._reads = {}
        self._glances.clear()
        self.orders.clear()
        self.work.stop(reason, out)

    # -------------------------------------------------------------------------------------------- needs

    @property
    def needs(self) -> QoS | None:
        """What operators said is needed of the group; None: nothing in particular."""
        place = self.settings.place
        return None if place is None else place.configuration.qos

    def expiry(self, now_ms: int, deadline_ms: int) -> int:
        """When an operation that is asked for now must have been executed, by the client's clock; 0: at any time."""
        needs = self.needs
        if needs is not None and needs.deadline_ms:
            deadline_ms = min(deadline_ms or needs.deadline_ms, needs.deadline_ms)
        return now_ms + deadline_ms if now_ms and deadline_ms else 0

    def consistency(self, asked: str = "") -> str:
        """How a read is answered for which that was asked."""
        needs = self.needs
        return asked or ("strong" if needs is None else needs.consistency)

    # -------------------------------------------------------------------------------------------- sending

    def _check_size(self, operation: bytes) -> None:
        limit = self.settings.operation_bytes_max
        if len(operation) > limit:
            raise ValueError(f"an operation of {len(operation)} bytes exceeds the group's limit of {limit}")

    def tick(self, out: ClientOut) -> None:
        """Have the timer run, since something waits."""
        if not self._ticking:
            self._ticking = True
            out.set_timer(("retry",), RETRY_TICKS)

    # -------------------------------------------------------------------------------------------- reads

    def _start_read(self, value: AskRead, out: ClientOut) -> None:
        self._read_number += 1
        number = self._read_number
        self._reads[number] = Reading(value.token, value.operation, self.now + READ_PATIENCE_TICKS)
        out.send(self.settings.members, pack_ask(Read(number, value.operation)))
        self.tick(out)

    def _start_glance(self, value: AskRead, out: ClientOut) -> None:
        self._read_number += 1
        here = self.settings.members
        self._glances.start(self._read_number, value.token, value.operation, here, self.proved, self.now, out)
        self.tick(out)

    def _on_read_answer(self, sender: MemberId, answer: ReadAnswer, out: ClientOut) -> None:
        if answer.epoch > self.settings.epoch:
            self.on_later(sender, answer.epoch, out)
        here = answer.epoch == self.settings.epoch and sender in self.proved
        if here and self._glances.on_answer(sender, answer, out):
            return
        read = self._reads.get(answer.number)
        if read is None or answer.epoch != self.settings.epoch or sender not in self.proved:
            return
        if digest(bytes((answer.failed,)), answer.result) != answer.digest:
            return
        read.answers[sender] = answer.digest
        read.reasons.pop(sender, None)
        quorum = self.settings.quorum
        counts = Counter(read.answers.values())
        # With f = 0 a protocol may decide with c + 1 members (SAFETY rule 24): only n - c are sure to meet them.
        needed = quorum.certificate if quorum.f else quorum.available
        if counts[answer.digest] >= needed:
            del self._reads[answer.number]
            out.deliver(ReadDone(read.token, FAILED if answer.failed else OK, answer.result))
        elif max(counts.values()) + quorum.n - len(read.answers) < needed:
            self._order_read(answer.number, out)

    def _on_read_refusal(self, sender: MemberId, answer: ReadRefusal, out: ClientOut) -> None:
        if self._glances.on_refusal(
            sender, answer.number, answer.text, self.settings.members, self.proved, self.now, out
        ):
            return
        read = self._reads.get(answer.number)
        if read is not None:
            # A refusal is an answer that agrees with nobody's.
            read.answers[sender] = b"refused by " + sender.encode()
            read.reasons[sender] = answer.text
            if len(read.answers) >= self.settings.quorum.available:
                self._order_read(answer.number, out)

    def _order_read(self, number: int, out: ClientOut) -> None:
        """The members do not agree at once (something is being written): let the total order decide."""
        self.work.order_read(self._reads.pop(number))
        self.work.send_queue(out)


__all__ = [
    "PATIENCE_TICKS",
    "PATIENCE_TICKS_MAX",
    "READ_PATIENCE_TICKS",
    "RETRY_TICKS",
    "WATCHED_BYTES",
    "AskHistory",
    "AskRead",
    "ClientInput",
    "ClientMachine",
    "ClientOut",
    "ClientOutput",
    "ClientSettings",
    "CommandState",
    "Enough",
    "Executed",
    "HaltNow",
    "History",
    "LinkRefused",
    "MemberStatus",
    "Moved",
    "NotExecuted",
    "Order",
    "ReadDone",
    "SendNow",
    "Stopped",
    "Submit",
    "VerifierProtocol",
]
