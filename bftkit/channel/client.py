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

from collections import Counter, deque
from collections.abc import Sequence, Set
from typing import Final

import attrs

from bftkit.channel import frames
from bftkit.channel.bundles import FAILED, OK, OPEN, OVERHEAD, REQUESTS, make_bundle, unpack_results
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
from bftkit.channel.deadlines import Deadlines
from bftkit.channel.frames import (
    ANSWER_CODEC,
    AskStatus,
    ChainAnswer,
    LinkProof,
    Read,
    ReadAnswer,
    ReadRefusal,
    Refusal,
    ReplyFrame,
    StatusAnswer,
    pack_ask,
    unpack_reply,
)
from bftkit.channel.glances import Glances
from bftkit.configuration.qos import QoS
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId, Slot, TimerKey
from bftkit.core.wire import WireError
from bftkit.membership.chain import Place

WATCHED_BYTES: Final = 16 << 10
"""Where a policy may change the protocol, bundles up to this size go to all members at once. Each of them then knows
since when they wait: whoever leads can make them wait, and cannot hide it. Larger ones would cost too much; their
clients turn to all members only when they lose patience."""
READ_PATIENCE_TICKS: Final = 300
SETTLED_KEPT: Final = 64
_OLD_LEADER: Final = 65534
"""In a word of an epoch before: whoever led then does not any more."""
_LEAPS_MS: Final = (3_600_000, 86_400_000, 30 * 86_400_000, 400 * 86_400_000, 20 * 365 * 86_400_000)
"""An hour, a day, a month, a year, twenty: how far the client leaps if its clock was set back."""


@attrs.frozen
class _Word:
    """A member's newest reply to a bundle."""

    place: tuple[Slot, bytes]
    """Slot, and digest of the results."""
    leader: int
    results: bytes | None
    """The results, if it sent them and they fit the digest."""


@attrs.define(eq=False)
class _InFlight:
    """A bundle that waits for its results."""

    raw: bytes
    first: int
    count: int
    due: int
    """The client's own tick count at which patience ends."""
    patience: int = PATIENCE_TICKS
    said: dict[MemberId, _Word] = attrs.field(factory=dict[MemberId, _Word])
    refusals: dict[int, set[MemberId]] = attrs.field(factory=dict[int, set[MemberId]])

    def keep(self, members: Set[MemberId]) -> None:
        """A new epoch: what these members said of the bundle stays true, and the others' words count no more."""
        self.said = {
            name: attrs.evolve(word, leader=_OLD_LEADER) for name, word in self.said.items() if name in members
        }
        self.refusals = {reason: voters & members for reason, voters in self.refusals.items()}


@attrs.define(eq=False)
class _Reading:
    token: int
    operation: bytes
    due: int
    answers: dict[MemberId, bytes] = attrs.field(factory=dict[MemberId, bytes])
    """Each member's newest answer, by its digest."""
    ordered_as: int | None = None


class ClientMachine:
    """One client identity with one session. See the top of this file."""

    def __init__(self, settings: ClientSettings) -> None:
        if settings.place is not None:
            settings = settings.at(settings.place)
        self.settings = settings
        self.following = Following(settings) if settings.place is not None else None
        """None: this group's configuration never changes."""
        self.orders = Orders()
        self.stopped: str | None = None
        """Why this client believes nobody any more, if so."""
        self.session = 0
        self.next_number = 1
        """The sequence number that the next submitted operation gets."""
        self.heard_from: set[MemberId] = set()
        """Who answered anything at all."""
        self.contradictions = 0
        """Replies that differed from what enough members agreed on: some member lied."""
        self.last_refusal: str | None = None
        self._settled: dict[int, tuple[Slot, bytes]] = {}
        """What was accepted lately, to notice lies that come late."""
        self._bindings: dict[MemberId, bytes] = {}
        self._proved: set[MemberId] = set()
        """Whose links are proved with the keys of this epoch."""
        self._later: dict[MemberId, LinkProof] = {}
        """Proofs for epochs that the client has not reached."""
        self._openings = 0
        self._leaps = 0
        self._asked_nonce = False
        self._opening: _InFlight | None = None
        self._queue: deque[bytes] = deque()
        self._queue_first = 1
        self._deadlines = Deadlines()
        """When what is in the queue must have been executed."""
        self._in_flight: dict[int, _InFlight] = {}
        self._reads: dict[int, _Reading] = {}
        self._read_number = 0
        self._ordered_reads: dict[int, _Reading] = {}
        self._glances = Glances()
        self._receivers: tuple[MemberId, ...] = settings.members[:1]
        """Where new bundles go: to the leader, or to all members if nobody leads."""
        self._now = 0
        self._ticking = False
        self._bundle_bytes = min(settings.bundle_bytes_max, 256 << 10)

    # -------------------------------------------------------------------------------------------- machine

    @property
    def outstanding(self) -> int:
        """Operations that are submitted and not answered."""
        return len(self._queue) + sum(bundle.count for bundle in self._in_flight.values())

    @property
    def is_open(self) -> bool:
        """Whether the session is open."""
        return self.session != 0

    @property
    def is_settled(self) -> bool:
        """Whether so many members have proved their links for this epoch that a correct one is among them."""
        return len(self._proved) >= self.settings.quorum.weak

    def on_start(self, out: ClientOut) -> None:
        """Nothing yet: the session is opened when there is something to order."""

    def on_draw(self, key: TimerKey, value: int, out: ClientOut) -> None:
        """Randomness for the opening's nonce, behind a part that grows: an old opening cannot end a newer session."""
        self._openings += 1
        started = self.settings.started_ms + sum(_LEAPS_MS[: self._leaps])
        nonce = ((started << 16) + self._openings).to_bytes(8, "big") + value.to_bytes(8, "big")
        raw = make_bundle(self.settings.key, self.settings.group, OPEN, 0, 0, 0, (nonce,))
        self._asked_nonce = False
        self._opening = _InFlight(raw, 0, 1, self._now + PATIENCE_TICKS)
        out.send(self.settings.members, b"\x02" + raw)
        self._tick(out)

    def on_input(self, value: ClientInput, out: ClientOut) -> None:
        """See the inputs above. Raises `ValueError` for an operation that exceeds the group's limit."""
        if isinstance(value, Submit):
            for operation in value.operations:
                self._check_size(operation)
            self._queue.extend(value.operations)
            self._deadlines.add(len(value.operations), self.expiry(value.now_ms, value.deadline_ms))
            self.next_number += len(value.operations)
            if self.stopped is not None:
                out.deliver(Stopped(self.stopped))
                self._fail_queue(self.stopped, out)
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
            self._send_queue(out)
        elif isinstance(value, Order):
            kept = [] if self.following is None else [one.link for one in self.following.kept]
            self.orders.start(value.signed, self.settings.members, self.settings.epoch, kept, out)
            self._tick(out)
        elif self.following is not None:
            self.following.start_walk(out)
            self._tick(out)
        else:
            out.deliver(History(()))

    def on_message(self, sender: MemberId, message: bytes, out: ClientOut) -> None:
        """A frame from a member, over a link that authenticates it. Rubbish is ignored."""
        if self.stopped is not None or sender not in self.settings.members:
            return
        try:
            kind = message[0] if message else 0
            if kind == frames.REPLY:
                self._on_reply(sender, unpack_reply(message), out)
            elif kind == frames.ANSWER:
                answer = ANSWER_CODEC.decode(message[1:])
                self.heard_from.add(sender)
                if isinstance(answer, StatusAnswer):
                    out.deliver(MemberStatus(sender, answer.text))
                elif isinstance(answer, LinkProof):
                    self._on_proof(sender, answer, out)
                elif isinstance(answer, ChainAnswer):
                    self._on_links(sender, answer, out)
                elif isinstance(answer, ReadAnswer):
                    self._on_read_answer(sender, answer, out)
                elif sender not in self._proved:
                    if isinstance(answer, Refusal) and answer.reason == frames.STOPPED:
                        self._doubt(out)
                elif isinstance(answer, Refusal):
                    self._on_refusal(sender, answer, out)
                elif isinstance(answer, ReadRefusal):
                    self._on_read_refusal(sender, answer, out)
                else:
                    here = self.settings
                    self.orders.on_answer(sender, answer, here.members, here.quorum, here.epoch, out)
        except WireError:
            return

    def on_timer(self, key: TimerKey, out: ClientOut) -> None:
        """Look for what is late, and ask everybody."""
        self._now += RETRY_TICKS
        self._ticking = False
        if self.stopped is not None:
            return
        if self.following is not None:
            self.following.on_tick(self._now, out)
        if self._opening is not None:
            self._retry(self._opening, out)
        for bundle in self._in_flight.values():
            self._retry(bundle, out)
        self._glances.on_tick(self.settings.members, self._proved, self._now, out)
        for number in [number for number, read in self._reads.items() if read.due <= self._now]:
            self._order_read(number, out)
            self._doubt(out)
        if self.orders.on_tick(self._now, self.settings.members, out):
            self._doubt(out)
        self._send_queue(out)
        late = self._opening is not None or self._in_flight or self._reads or self._queue or self.orders.waiting
        if late or self._glances.waiting or (self.following is not None and self.following.waiting):
            self._tick(out)

    def ask_status(self, out: ClientOut) -> None:
        """Ask every member how it is; the answers are `MemberStatus`, one by one."""
        self._read_number += 1
        out.send(self.settings.members, pack_ask(AskStatus(self._read_number)))

    def on_link(self, member: MemberId, binding: bytes, out: ClientOut) -> None:
        """A link to this member came up: what waits for an answer may have been lost with the one before.

        Nothing from the member counts until its epoch key has signed the link's binding (SAFETY rule 8).
        """
        if self.stopped is not None or member not in self.settings.members:
            return
        self._bindings[member] = binding
        self._proved.discard(member)
        self._later.pop(member, None)
        if self.following is not None:
            self.following.on_link(member)
        self.orders.on_link(member, out)
        if self._opening is not None:
            out.send(member, b"\x02" + self._opening.raw)
        if member in self._receivers:
            for bundle in self._in_flight.values():
                out.send(member, b"\x02" + bundle.raw)
        for number, read in self._reads.items():
            out.send(member, pack_ask(Read(number, read.operation)))
        self._glances.on_link(member, out)

    # -------------------------------------------------------------------------------------------- epochs

    def _on_proof(self, sender: MemberId, proof: LinkProof, out: ClientOut) -> None:
        epoch = self.settings.epoch
        if proof.epoch > epoch:
            if self.following is not None:
                self._later[sender] = proof
                self._on_later(sender, proof.epoch, out)
        elif proof.epoch == epoch and not self._prove(sender, proof) and self.following is not None:
            self.following.suspect(sender)
            self._tick(out)

    def _prove(self, member: MemberId, proof: LinkProof) -> bool:
        """Whether this is the member's proof of its link for this epoch."""
        binding = self._bindings.get(member)
        if binding is None or not self.settings.keyring.verify(member, frames.LINK_PURPOSE, binding, proof.signature):
            return False
        self._proved.add(member)
        return True

    def _on_later(self, sender: MemberId, epoch: int, out: ClientOut) -> None:
        """A member shows that it is in a later epoch."""
        if self.following is not None:
            self.following.on_shown(sender, epoch, out)
            self._tick(out)

    def _doubt(self, out: ClientOut) -> None:
        if self.following is not None:
            self.following.doubt(out)
            self._tick(out)

    def _on_links(self, sender: MemberId, answer: ChainAnswer, out: ClientOut) -> None:
        following = self.following
        if following is None:
            return
        if following.on_answer(sender, answer.links, out):
            self._enter(following.place, out)
        if following.contradiction is not None:
            self._stop(following.contradiction, out)
        elif following.waiting:
            self._tick(out)

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
        self._proved = set()
        later = {name: proof for name, proof in self._later.items() if name in staying and proof.epoch >= here.epoch}
        self._later = {name: proof for name, proof in later.items() if proof.epoch > here.epoch}
        for name, proof in later.items():
            if proof.epoch == here.epoch and not self._prove(name, proof):
                following.suspect(name)
        out.deliver(Moved(place, following.kept[-1].raw, tuple(one.raw for one in following.kept)))
        # A word was given when so many could lie; if fewer are to be believed now, it must be given again.
        heard = staying if here.quorum.weak >= before.quorum.weak else set[MemberId]()
        self._receivers = here.members
        for bundle in (*(() if self._opening is None else (self._opening,)), *self._in_flight.values()):
            bundle.keep(heard)
            bundle.patience = PATIENCE_TICKS
            bundle.due = self._now + PATIENCE_TICKS
            out.send(here.members, b"\x02" + bundle.raw)
        for number, read in self._reads.items():
            read.answers.clear()
            read.due = self._now + READ_PATIENCE_TICKS
            out.send(here.members, pack_ask(Read(number, read.operation)))
        self._glances.on_moved(here.members, self._now, out)
        self.orders.on_moved([one.link for one in following.kept], here.members, out)
        self._tick(out)

    def _stop(self, reason: str, out: ClientOut) -> None:
        """Two histories: whatever is under way, nobody can be believed about it (SAFETY rule 28)."""
        if self.stopped is not None:
            return
        self.stopped = reason
        out.deliver(Stopped(reason))
        lost, self._in_flight, self._opening = list(self._in_flight.values()), {}, None
        self._reads, self._ordered_reads = {}, {}
        self._glances.clear()
        self.orders.clear()
        for bundle in lost:
            out.deliver(NotExecuted(bundle.first, bundle.count, reason, unknown=True))
        self._fail_queue(reason, out)

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

    def _send_queue(self, out: ClientOut) -> None:
        queue = self._queue
        if not self.session:
            if self.stopped is not None:
                return
            if queue and self._opening is None and not self._asked_nonce:
                self._asked_nonce = True
                out.draw(("nonce",), 1 << 64)
            return
        settings = self.settings
        while queue:
            low = next(iter(self._in_flight), self._queue_first)
            alike, expires_ms = self._deadlines.next()
            room = min(alike, settings.bundle_requests_max, low + settings.session_window - self._queue_first)
            if room <= 0:
                return
            size = OVERHEAD
            payloads: list[bytes] = []
            while len(payloads) < room:
                size += 4 + len(queue[0])
                if payloads and size > self._bundle_bytes:
                    break
                payloads.append(queue.popleft())
            first = self._queue_first
            raw = make_bundle(settings.key, settings.group, REQUESTS, self.session, first, low, payloads, expires_ms)
            self._queue_first += len(payloads)
            self._deadlines.take(len(payloads))
            self._in_flight[first] = _InFlight(raw, first, len(payloads), self._now + PATIENCE_TICKS)
            out.send(self._receivers_of(raw), b"\x02" + raw)
        self._tick(out)

    def _receivers_of(self, raw: bytes) -> tuple[MemberId, ...]:
        """Whom a new bundle goes to."""
        place = self.settings.place
        policy = None if place is None else place.configuration.policy
        watched = policy is not None and len(policy.modes) > 1 and len(raw) <= WATCHED_BYTES
        return self.settings.members if watched else self._receivers

    def _retry(self, bundle: _InFlight, out: ClientOut) -> None:
        if self._now >= bundle.due:
            bundle.patience = min(2 * bundle.patience, PATIENCE_TICKS_MAX)
            bundle.due = self._now + bundle.patience
            out.send(self.settings.members, b"\x02" + bundle.raw)
            self._doubt(out)

    def _tick(self, out: ClientOut) -> None:
        if not self._ticking:
            self._ticking = True
            out.set_timer(("retry",), RETRY_TICKS)

    # -------------------------------------------------------------------------------------------- results

    def _on_reply(self, sender: MemberId, reply: ReplyFrame, out: ClientOut) -> None:
        if reply.epoch > self.settings.epoch:
            self._on_later(sender, reply.epoch, out)
        if reply.epoch != self.settings.epoch or sender not in self._proved:
            return
        self.heard_from.add(sender)
        if reply.session == 0 and reply.first == 0:
            bundle = self._opening
        else:
            bundle = self._in_flight.get(reply.first) if reply.session == self.session else None
        if bundle is None or reply.count != bundle.count:
            settled = self._settled.get(reply.first)
            if settled is not None and reply.session == self.session and settled != (reply.slot, reply.digest):
                self.contradictions += 1
            return
        place = (reply.slot, reply.digest)
        known = bundle.said.get(sender)
        sent = reply.results if reply.full and digest(reply.results) == reply.digest else None
        if known is not None and known.place == place and sent is None:
            return
        # Only a member's newest word counts, so one that contradicts itself has one vote like everybody.
        bundle.said[sender] = _Word(place, reply.leader, sent)
        agreeing = [word for word in bundle.said.values() if word.place == place]
        if len(agreeing) < self.settings.quorum.weak:
            return
        blob = next((word.results for word in agreeing if word.results is not None), None)
        if blob is None:
            return
        self._follow(agreeing)
        results = unpack_results(blob, bundle.count)
        if bundle is self._opening:
            self._opening = None
            self.session = int.from_bytes(results[0][1], "big")
            self._send_queue(out)
            return
        del self._in_flight[bundle.first]
        self.contradictions += len(bundle.said) - len(agreeing)
        self._settled[bundle.first] = place
        if len(self._settled) > SETTLED_KEPT:
            del self._settled[next(iter(self._settled))]
        self._settle(bundle.first, reply.slot, results, out)

    def _follow(self, words: Sequence[_Word]) -> None:
        """New bundles go to the leader that enough members name; one liar's word sends them nowhere.

        If enough say that nobody leads, they go to all members: each has its share of what is to be proposed.
        """
        named = Counter(word.leader for word in words)
        members = self.settings.members
        for leader in sorted(named):
            if named[leader] >= self.settings.quorum.weak:
                if leader == frames.NO_LEADER:
                    self._receivers = members
                elif leader < len(members):
                    self._receivers = (members[leader],)

    def _settle(self, first: int, slot: Slot, results: list[tuple[int, bytes]], out: ClientOut) -> None:
        if self._ordered_reads:
            for number, (status, result) in enumerate(results, first):
                read = self._ordered_reads.pop(number, None)
                if read is not None:
                    out.deliver(ReadDone(read.token, status, result))
        out.deliver(Executed(first, slot, results))

    def _on_refusal(self, sender: MemberId, refusal: Refusal, out: ClientOut) -> None:
        self.last_refusal = refusal.text
        if refusal.reason == frames.STOPPED:
            self._doubt(out)
        if refusal.session == 0 and refusal.first == 0:
            bundle = self._opening
        else:
            bundle = self._in_flight.get(refusal.first) if refusal.session == self.session else None
        if bundle is None:
            return
        voters = bundle.refusals.setdefault(refusal.reason, set())
        voters.add(sender)
        if len(voters) < self.settings.quorum.weak or refusal.reason in (frames.BUSY, frames.STOPPED):
            return
        if bundle is self._opening:
            if refusal.reason == frames.NOT_LISTED:
                self._opening = None
                self._fail_queue(refusal.text, out)
            elif refusal.reason == frames.OUTSIDE_WINDOW and self._leaps < len(_LEAPS_MS):
                # An older session of ours has a higher nonce: our clock was set back since. Leap over it.
                self._leaps += 1
                self._opening = None
                self._send_queue(out)
            return
        if refusal.reason == frames.NO_SESSION:
            self._reopen(out)
        else:
            del self._in_flight[bundle.first]
            unknown = refusal.reason == frames.OUTSIDE_WINDOW
            self._give_up(bundle.first, bundle.count, refusal.text, out, unknown=unknown)
            self._send_queue(out)

    def _fail_queue(self, reason: str, out: ClientOut) -> None:
        first, count = self._queue_first, len(self._queue)
        self._queue.clear()
        self._deadlines.clear()
        self._queue_first += count
        if count:
            self._give_up(first, count, reason, out)

    def _give_up(self, first: int, count: int, reason: str, out: ClientOut, *, unknown: bool = False) -> None:
        out.deliver(NotExecuted(first, count, reason, unknown))
        for number in range(first, first + count):
            read = self._ordered_reads.pop(number, None)
            if read is None:
                continue
            if not unknown:
                out.deliver(ReadDone(read.token, FAILED, reason.encode()))
            else:
                # A read changes nothing, so it may be asked again under another number: its caller still waits.
                self._queue.append(read.operation)
                self._deadlines.add(1, 0)
                self._ordered_reads[self.next_number] = read
                read.ordered_as = self.next_number
                self.next_number += 1

    def _reopen(self, out: ClientOut) -> None:
        """The group ended the session: what was under way may have been executed before that, or never will."""
        lost = list(self._in_flight.values())
        self._in_flight.clear()
        self.session = 0
        for bundle in lost:
            text = "the group ended this session; whether the operation was executed before is not known"
            self._give_up(bundle.first, bundle.count, text, out, unknown=True)
        self._send_queue(out)

    # -------------------------------------------------------------------------------------------- reads

    def _start_read(self, value: AskRead, out: ClientOut) -> None:
        self._read_number += 1
        number = self._read_number
        self._reads[number] = _Reading(value.token, value.operation, self._now + READ_PATIENCE_TICKS)
        out.send(self.settings.members, pack_ask(Read(number, value.operation)))
        self._tick(out)

    def _start_glance(self, value: AskRead, out: ClientOut) -> None:
        self._read_number += 1
        here = self.settings.members
        self._glances.start(self._read_number, value.token, value.operation, here, self._proved, self._now, out)
        self._tick(out)

    def _on_read_answer(self, sender: MemberId, answer: ReadAnswer, out: ClientOut) -> None:
        if answer.epoch > self.settings.epoch:
            self._on_later(sender, answer.epoch, out)
        here = answer.epoch == self.settings.epoch and sender in self._proved
        if here and self._glances.on_answer(sender, answer, out):
            return
        read = self._reads.get(answer.number)
        if read is None or answer.epoch != self.settings.epoch or sender not in self._proved:
            return
        if digest(bytes((answer.failed,)), answer.result) != answer.digest:
            return
        read.answers[sender] = answer.digest
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
        self.last_refusal = answer.text
        if self._glances.on_refusal(sender, answer.number, self.settings.members, self._proved, self._now, out):
            return
        read = self._reads.get(answer.number)
        if read is not None:
            # A refusal is an answer that agrees with nobody's.
            read.answers[sender] = b"refused by " + sender.encode()
            if len(read.answers) >= self.settings.quorum.available:
                self._order_read(answer.number, out)

    def _order_read(self, number: int, out: ClientOut) -> None:
        """The members do not agree at once (something is being written): let the total order decide."""
        read = self._reads.pop(number)
        read.ordered_as = self.next_number
        self._ordered_reads[self.next_number] = read
        self._queue.append(read.operation)
        self._deadlines.add(1, 0)
        self.next_number += 1
        self._send_queue(out)


__all__ = [
    "PATIENCE_TICKS",
    "PATIENCE_TICKS_MAX",
    "READ_PATIENCE_TICKS",
    "RETRY_TICKS",
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
