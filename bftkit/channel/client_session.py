"""A client's session: operations are numbered, go out as signed bundles, and come back as results.

A result is accepted when f + 1 members agree on (slot, digest of the results) and one of them sent the results
themselves (SAFETY rule 8). What is not answered in time is sent again, unchanged and to every member: it can execute
only once, however often it is sent (rule 9). If the group ended the session, another one is opened; what was under way
may have been executed, and its caller is told so.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Final

import attrs

from bftkit.channel import frames
from bftkit.channel.bundles import FAILED, OPEN, OVERHEAD, REQUESTS, make_bundle, opening_tag, unpack_results
from bftkit.channel.client_face import (
    PATIENCE_TICKS,
    PATIENCE_TICKS_MAX,
    ClientOut,
    Executed,
    NotExecuted,
    ReadDone,
)
from bftkit.channel.deadlines import Deadlines
from bftkit.channel.frames import (
    Refusal,
    ReplyFrame,
)
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId, Slot

if TYPE_CHECKING:
    from bftkit.channel.client import ClientMachine

SETTLED_KEPT: Final = 64
WATCHED_BYTES: Final = 16 << 10
"""Where a policy may change the protocol, bundles up to this size go to all members at once. Each of them then knows
since when they wait: whoever leads can make them wait, and cannot hide it. Larger ones would cost too much; their
clients turn to all members only when they lose patience (docs/adr/0023)."""
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
class InFlight:
    """A bundle that waits for its results."""

    raw: bytes
    first: int
    count: int
    due: int
    """The client's own tick count at which patience ends."""
    patience: int = PATIENCE_TICKS
    said: dict[MemberId, _Word] = attrs.field(factory=dict[MemberId, _Word])
    refusals: dict[int, set[MemberId]] = attrs.field(factory=dict[int, set[MemberId]])
    sendings: int = 1
    """How often it was sent to everybody, or at first."""
    reasons: dict[MemberId, tuple[int, str]] = attrs.field(factory=dict[MemberId, tuple[int, str]])
    """Why a member would not take it when it refused last, and after which sending that was: for people."""

    @property
    def present_reasons(self) -> dict[MemberId, str]:
        """Why members would not take it lately. Who is silent since two sendings may have taken it by now."""
        return {name: text for name, (sending, text) in self.reasons.items() if sending + 1 >= self.sendings}

    def keep(self, members: Set[MemberId]) -> None:
        """A new epoch: what these members said of the bundle stays true, and the others' words count no more."""
        self.said = {
            name: attrs.evolve(word, leader=_OLD_LEADER) for name, word in self.said.items() if name in members
        }
        self.refusals = {reason: voters & members for reason, voters in self.refusals.items()}
        self.reasons = {}


@attrs.define(eq=False)
class Reading:
    """A strong read that waits for its answer."""

    token: int
    operation: bytes
    due: int
    answers: dict[MemberId, bytes] = attrs.field(factory=dict[MemberId, bytes])
    """Each member's newest answer, by its digest."""
    reasons: dict[MemberId, str] = attrs.field(factory=dict[MemberId, str])
    """Why members cannot answer it now."""
    ordered_as: int | None = None


class Session:
    """The part of a client that has operations ordered."""

    def __init__(self, client: ClientMachine) -> None:
        self._client = client
        self.session = 0
        self.next_number = 1
        """The sequence number that the next submitted operation gets."""
        self.contradictions = 0
        """Replies that differed from what enough members agreed on: some member lied."""
        self.opening: InFlight | None = None
        """What asks for a session."""
        self._opening_tag = 0
        """Which opening replies must be about: one of an earlier life with this key, executed again by members that
        restarted, has another."""
        self.queue: deque[bytes] = deque()
        self.queue_first = 1
        self.deadlines = Deadlines()
        """When what is in the queue must have been executed."""
        self.in_flight: dict[int, InFlight] = {}
        self.ordered_reads: dict[int, Reading] = {}
        """Reads that were put into the total order, by their sequence numbers."""
        self.receivers: tuple[MemberId, ...] = client.settings.members[:1]
        """Where new bundles go: to the leader, or to all members if nobody leads."""
        self._settled: dict[int, tuple[Slot, bytes]] = {}
        """What was accepted lately, to notice lies that come late."""
        self._openings = 0
        self._leaps = 0
        self._asked_nonce = False
        self._bundle_bytes = min(client.settings.bundle_bytes_max, 256 << 10)

    @property
    def outstanding(self) -> int:
        """Operations that are submitted and not answered."""
        return len(self.queue) + sum(bundle.count for bundle in self.in_flight.values())

    @property
    def bundles(self) -> Sequence[InFlight]:
        """All that is under way, what asks for a session first."""
        return (*(() if self.opening is None else (self.opening,)), *self.in_flight.values())

    def reasons(self, first: int, count: int) -> dict[MemberId, str]:
        """Why members would not take these operations, in their newest words: for people who wait for them."""
        under_way = [
            one for one in self.in_flight.values() if one.first < first + count and first < one.first + one.count
        ]
        if first + count > self.queue_first and self.opening is not None:
            under_way.append(self.opening)  # without a session nothing is sent
        found: dict[MemberId, str] = {}
        for bundle in under_way:
            found.update(bundle.present_reasons)
        return found

    # -------------------------------------------------------------------------------------------- sending

    def submit(self, operations: Sequence[bytes], expires_ms: int) -> None:
        """Operations to be ordered. They leave with the next `send_queue`."""
        self.queue.extend(operations)
        self.deadlines.add(len(operations), expires_ms)
        self.next_number += len(operations)

    def order_read(self, read: Reading) -> None:
        """Let the total order answer a read."""
        read.ordered_as = self.next_number
        self.ordered_reads[self.next_number] = read
        self.submit((read.operation,), 0)

    def on_link(self, member: MemberId, out: ClientOut) -> None:
        """A link came up: what waits for an answer may have been lost with the one before."""
        if self.opening is not None:
            out.send(member, b"\x02" + self.opening.raw)
        if member in self.receivers:
            for bundle in self.in_flight.values():
                out.send(member, b"\x02" + bundle.raw)

    def on_moved(self, heard: Set[MemberId], ended: Slot, out: ClientOut) -> None:
        """A new epoch: what is under way goes to its members as it is; of those before, these are still believed.

        `ended`: the last slot of the epoch before, or of one after that.
        """
        members, now = self._client.settings.members, self._client.now
        self.receivers = members
        if self.session >> 20 > ended:
            # Operators have accepted a loss, and the slot that opened the session is part of it. Nobody knows the
            # session; while too few slots follow, members take themselves to be behind, and do not say so.
            self._reopen(out)
        for bundle in self.bundles:
            bundle.keep(heard)
            bundle.patience = PATIENCE_TICKS
            bundle.due = now + PATIENCE_TICKS
            out.send(members, b"\x02" + bundle.raw)

    def on_tick(self, out: ClientOut) -> None:
        """Look for what is late."""
        for bundle in self.bundles:
            self.retry(bundle, out)

    def stop(self, reason: str, out: ClientOut) -> None:
        """Nobody can be believed any more."""
        lost, self.in_flight, self.opening = list(self.in_flight.values()), {}, None
        self.ordered_reads = {}
        for bundle in lost:
            out.deliver(NotExecuted(bundle.first, bundle.count, reason, unknown=True))
        self.fail_queue(reason, out)

    def open(self, value: int, out: ClientOut) -> None:
        """Ask for a session. `value` is random, for the opening's nonce.

        It stands behind a part that grows: an old opening cannot end a newer session.
        """
        self._openings += 1
        started = self._client.settings.started_ms + sum(_LEAPS_MS[: self._leaps])
        nonce = ((started << 16) + self._openings).to_bytes(8, "big") + value.to_bytes(8, "big")
        raw = make_bundle(self._client.settings.key, self._client.settings.group, OPEN, 0, 0, 0, (nonce,))
        self._asked_nonce = False
        self.opening = InFlight(raw, 0, 1, self._client.now + PATIENCE_TICKS)
        self._opening_tag = opening_tag(nonce)
        out.send(self._client.settings.members, b"\x02" + raw)
        self._client.tick(out)

    def send_queue(self, out: ClientOut) -> None:
        """Send what waits, as far as the session's window reaches; without a session, ask for one first."""
        queue = self.queue
        if not self.session:
            if self._client.stopped is not None:
                return
            if queue and self.opening is None and not self._asked_nonce:
                self._asked_nonce = True
                out.draw(("nonce",), 1 << 64)
            return
        settings = self._client.settings
        while queue:
            low = next(iter(self.in_flight), self.queue_first)
            alike, expires_ms = self.deadlines.next()
            room = min(alike, settings.bundle_requests_max, low + settings.session_window - self.queue_first)
            if room <= 0:
                return
            size = OVERHEAD
            payloads: list[bytes] = []
            while len(payloads) < room:
                size += 4 + len(queue[0])
                if payloads and size > self._bundle_bytes:
                    break
                payloads.append(queue.popleft())
            first = self.queue_first
            raw = make_bundle(settings.key, settings.group, REQUESTS, self.session, first, low, payloads, expires_ms)
            self.queue_first += len(payloads)
            self.deadlines.take(len(payloads))
            self.in_flight[first] = InFlight(raw, first, len(payloads), self._client.now + PATIENCE_TICKS)
            out.send(self._receivers_of(raw), b"\x02" + raw)
        self._client.tick(out)

    def _receivers_of(self, raw: bytes) -> tuple[MemberId, ...]:
        """Whom a new bundle goes to."""
        place = self._client.settings.place
        policy = None if place is None else place.configuration.policy
        watched = policy is not None and len(policy.modes) > 1 and len(raw) <= WATCHED_BYTES
        return self._client.settings.members if watched else self.receivers

    def retry(self, bundle: InFlight, out: ClientOut) -> None:
        """Send a bundle again, to everybody, if its patience has ended."""
        if self._client.now >= bundle.due:
            bundle.patience = min(2 * bundle.patience, PATIENCE_TICKS_MAX)
            bundle.due = self._client.now + bundle.patience
            bundle.sendings += 1
            out.send(self._client.settings.members, b"\x02" + bundle.raw)
            self._client.doubt(out)

    # -------------------------------------------------------------------------------------------- results

    def on_reply(self, sender: MemberId, reply: ReplyFrame, out: ClientOut) -> None:
        """A member's results of a bundle. Raises `WireError`."""
        if reply.epoch > self._client.settings.epoch:
            self._client.on_later(sender, reply.epoch, out)
        if reply.epoch != self._client.settings.epoch or sender not in self._client.proved:
            return
        self._client.heard_from.add(sender)
        if reply.first == 0:
            bundle = self.opening if reply.session == self._opening_tag else None
        else:
            bundle = self.in_flight.get(reply.first) if reply.session == self.session else None
        if bundle is None or reply.count != bundle.count:
            settled = self._settled.get(reply.first)
            if settled is not None and reply.session == self.session and settled != (reply.slot, reply.digest):
                self.contradictions += 1
            return
        bundle.reasons.pop(sender, None)
        place = (reply.slot, reply.digest)
        known = bundle.said.get(sender)
        sent = reply.results if reply.full and digest(reply.results) == reply.digest else None
        if known is not None and known.place == place and sent is None:
            return
        # Only a member's newest word counts, so one that contradicts itself has one vote like everybody.
        bundle.said[sender] = _Word(place, reply.leader, sent)
        agreeing = [word for word in bundle.said.values() if word.place == place]
        if len(agreeing) < self._client.settings.quorum.weak:
            return
        blob = next((word.results for word in agreeing if word.results is not None), None)
        if blob is None:
            return
        self._follow(agreeing)
        results = unpack_results(blob, bundle.count)
        if bundle is self.opening:
            self.opening = None
            self.session = int.from_bytes(results[0][1], "big")
            self.send_queue(out)
            return
        del self.in_flight[bundle.first]
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
        members = self._client.settings.members
        for leader in sorted(named):
            if named[leader] >= self._client.settings.quorum.weak:
                if leader == frames.NO_LEADER:
                    self.receivers = members
                elif leader < len(members):
                    self.receivers = (members[leader],)

    def _settle(self, first: int, slot: Slot, results: list[tuple[int, bytes]], out: ClientOut) -> None:
        if self.ordered_reads:
            for number, (status, result) in enumerate(results, first):
                read = self.ordered_reads.pop(number, None)
                if read is not None:
                    out.deliver(ReadDone(read.token, status, result))
        out.deliver(Executed(first, slot, results))

    def on_refusal(self, sender: MemberId, refusal: Refusal, out: ClientOut) -> None:
        """A member will not take a bundle."""
        if refusal.reason == frames.STOPPED:
            self._client.doubt(out)
        if refusal.session == 0 and refusal.first == 0:
            bundle = self.opening
        else:
            bundle = self.in_flight.get(refusal.first) if refusal.session == self.session else None
        if bundle is None:
            return
        bundle.reasons[sender] = (bundle.sendings, refusal.text)
        voters = bundle.refusals.setdefault(refusal.reason, set())
        voters.add(sender)
        if len(voters) < self._client.settings.quorum.weak or refusal.reason in (frames.BUSY, frames.STOPPED):
            return
        if bundle is self.opening:
            if refusal.reason == frames.NOT_LISTED:
                self.opening = None
                self.fail_queue(refusal.text, out)
            elif refusal.reason == frames.OUTSIDE_WINDOW and self._leaps < len(_LEAPS_MS):
                # An older session of ours has a higher nonce: our clock was set back since. Leap over it.
                self._leaps += 1
                self.opening = None
                self.send_queue(out)
            return
        if refusal.reason == frames.NO_SESSION:
            self._reopen(out)
        else:
            del self.in_flight[bundle.first]
            unknown = refusal.reason == frames.OUTSIDE_WINDOW
            self._give_up(bundle.first, bundle.count, refusal.text, out, unknown=unknown)
            self.send_queue(out)

    def fail_queue(self, reason: str, out: ClientOut) -> None:
        """What was not sent yet never will be."""
        first, count = self.queue_first, len(self.queue)
        self.queue.clear()
        self.deadlines.clear()
        self.queue_first += count
        if count:
            self._give_up(first, count, reason, out)

    def _give_up(self, first: int, count: int, reason: str, out: ClientOut, *, unknown: bool = False) -> None:
        out.deliver(NotExecuted(first, count, reason, unknown))
        for number in range(first, first + count):
            read = self.ordered_reads.pop(number, None)
            if read is None:
                continue
            if not unknown:
                out.deliver(ReadDone(read.token, FAILED, reason.encode()))
            else:
                # A read changes nothing, so it may be asked again under another number: its caller still waits.
                self.order_read(read)

    def _reopen(self, out: ClientOut) -> None:
        """The group ended the session: what was under way may have been executed before that, or never will."""
        lost = list(self.in_flight.values())
        self.in_flight.clear()
        self.session = 0
        for bundle in lost:
            text = "the group ended this session; whether the operation was executed before is not known"
            self._give_up(bundle.first, bundle.count, text, out, unknown=True)
        self.send_queue(out)
