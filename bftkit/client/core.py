"""The driver that all faces of the client share: a hub, the client machine, its timers, and who waits for what.

It has no event loop of its own: `turn` does one round (take in what is ready, let the machine act, send), and the
faces decide how to wait between rounds. Everything happens in one thread.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import attrs

from bftkit.channel.bundles import FAILED, LATE, SKIPPED, unpack_lateness
from bftkit.channel.client import (
    AskHistory,
    AskRead,
    ClientMachine,
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
)
from bftkit.client.errors import (
    ClientError,
    Contradicted,
    NoAnswer,
    OperationFailed,
    OutcomeUnknown,
    Refused,
    TooFewAgreed,
    TooLate,
    refused_in_words,
)
from bftkit.client.reading import Reading
from bftkit.configuration.qos import CONSISTENCIES
from bftkit.core.machine import Broadcast, CancelTimer, Deliver, Digest, Draw, MemberId, Out, Send, SetTimer
from bftkit.membership.chain import HandOver
from bftkit.membership.commands import SignedCommand
from bftkit.membership.epochs import Configuration
from bftkit.membership.roster import Roster
from bftkit.network.addresses import Address, parse_address
from bftkit.network.hub import Hub, HubError, LinkDown, LinkUp

logger = logging.getLogger("bftkit.client")

ABANDONED_KEPT = 10_000
"""So many operations with unknown outcomes can be asked about again."""

REASONS_TOLD = 3
"""So many different reasons are told when members refuse something."""

Outcome = bytes | ClientError
"""A result, or why there is none."""


@attrs.define(eq=False)
class Pending:
    """Operations that one caller waits for together."""

    first: int
    count: int
    outcomes: list[Outcome | None]
    missing: int
    on_done: Callable[[], None]
    reading: Reading | None = None
    """Of a read: its answer, and how that came about."""
    token: int = 0
    """Of a read: by which the machine knows it."""

    def set(self, index: int, outcome: Outcome) -> None:
        """One of them is settled."""
        if self.outcomes[index] is None:
            self.outcomes[index] = outcome
            self.missing -= 1
            if self.missing == 0:
                self.on_done()


@attrs.define(eq=False)
class Watch:
    """Somebody waits for what becomes of a command."""

    name: Digest
    on_news: Callable[[], None]
    states: deque[CommandState] = attrs.field(factory=deque[CommandState])
    """What is new; taken away by whoever waits."""
    error: ClientError | None = None


@attrs.define(eq=False)
class Chain:
    """Somebody waits for the whole chain of hand-overs."""

    on_done: Callable[[], None]
    links: tuple[HandOver, ...] | None = None
    error: ClientError | None = None


@attrs.define(eq=False)
class Survey:
    """Somebody asks all members how they are. Several may at a time: each is served by all that is asked meanwhile."""

    first: int
    """The number of the first question that counts: what answers an earlier one may tell how a member was before."""
    answers: dict[MemberId, dict[str, Any]] = attrs.field(factory=dict[MemberId, "dict[str, Any]"])

    def lacks(self, members: Sequence[MemberId]) -> bool:
        """Whether one of these has not answered."""
        return any(member not in self.answers for member in members)


class Keeper(Protocol):
    """Keeps the newest hand-overs between two lives (SAFETY rule 28)."""

    def keep(self, chain: Sequence[bytes]) -> str | None:
        """Make them durable; the reason to stop if other clients of this folder were shown another history."""
        ...


class ClientCore:
    """One client session, driven by `turn`."""

    def __init__(
        self,
        settings: ClientSettings,
        hub: Hub,
        peers: Mapping[MemberId, tuple[bytes, tuple[Address, ...]]],
        *,
        on_executed: Callable[[Executed], None] | None = None,
        keeper: Keeper | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_executed` is for load generators: it is called with whole bundles of results instead of single ones.
        `wall_clock` is what deadlines are counted from, in seconds since 1970.

        `peers` are the members of the settings' configuration, with their identities and addresses.
        """
        self.machine = ClientMachine(settings)
        self.hub = hub
        self._surveys: list[Survey] = []
        self._on_executed = on_executed
        self._wall_clock = wall_clock
        self._pending: dict[int, tuple[Pending, int]] = {}
        self._reads: dict[int, Pending] = {}
        self._abandoned: dict[int, Pending] = {}
        self._tokens = 0
        self._timer: float | None = None
        self._keeper = keeper
        self._watches: dict[Digest, Watch] = {}
        self._chains: list[Chain] = []
        for member in sorted(peers):
            key, addresses = peers[member]
            ClientCore.link(self, member, key, addresses)
        self._roster = settings.place.configuration.roster if settings.place is not None else None
        self._step(self.machine.on_start)

    # ------------------------------------------------------------------------------------------ asking

    def submit(
        self, operations: Sequence[bytes], on_done: Callable[[], None], deadline: float | None = None
    ) -> Pending:
        """Queue operations; `turn` sends them.

        Raises `ValueError` for one that exceeds the group's limit, and for a deadline that is not positive.
        """
        first = self.machine.next_number
        asked = self._submission(operations, deadline)
        self._step(lambda out: self.machine.on_input(asked, out))
        pending = Pending(first, len(operations), [None] * len(operations), len(operations), on_done)
        for index in range(len(operations)):
            self._pending[first + index] = (pending, index)
        self._fail_if_stopped()
        return pending

    def submit_bulk(self, operations: Sequence[bytes]) -> int:
        """As `submit`, for load generators: results go to `on_executed` alone. Returns the first number."""
        first = self.machine.next_number
        asked = self._submission(operations, None)
        self._step(lambda out: self.machine.on_input(asked, out))
        return first

    def _submission(self, operations: Sequence[bytes], deadline: float | None) -> Submit:
        if deadline is not None and not 0 < deadline < float("inf"):
            raise ValueError(f"a deadline is a positive number of seconds, not {deadline}")
        deadline_ms = 0 if deadline is None else max(1, int(deadline * 1000))
        return Submit(operations, int(self._wall_clock() * 1000), deadline_ms)

    def read(self, operation: bytes, on_done: Callable[[], None], consistency: str | None = None) -> Pending:
        """Ask for a read; a strong one, unless the caller or the group's needs say otherwise. Raises `ValueError`."""
        if consistency is not None and consistency not in CONSISTENCIES:
            raise ValueError(f"the consistency of a read is one of {', '.join(CONSISTENCIES)}, not {consistency!r}")
        self._tokens += 1
        token = self._tokens
        self._reads[token] = pending = Pending(0, 1, [None], 1, on_done, token=token)
        self._step(lambda out: self.machine.on_input(AskRead(token, operation, consistency or ""), out))
        self._fail_if_stopped()
        return pending

    def order(self, signed: SignedCommand, on_news: Callable[[], None]) -> Watch:
        """Bring an operators' command to the members, and watch what becomes of it."""
        watch = self._watches[signed.name] = Watch(signed.name, on_news)
        self._step(lambda out: self.machine.on_input(Order(signed), out))
        self._fail_if_stopped()
        return watch

    def enough(self, watch: Watch) -> None:
        """Nobody waits any more."""
        if self._watches.get(watch.name) is watch:
            del self._watches[watch.name]
            self._step(lambda out: self.machine.on_input(Enough(watch.name), out))

    def ask_history(self, on_done: Callable[[], None]) -> Chain:
        """Fetch and check the whole chain of hand-overs."""
        chain = Chain(on_done)
        self._chains.append(chain)
        if len(self._chains) == 1:
            self._step(lambda out: self.machine.on_input(AskHistory(), out))
        self._fail_if_stopped()
        return chain

    @property
    def configuration(self) -> Configuration:
        """The newest configuration that this client has verified. Raises `ValueError` if its group never changes."""
        place = self.machine.settings.place
        if place is None:
            raise ValueError("this client was made without a place in the chain of hand-overs")
        return place.configuration

    @property
    def refused_links(self) -> Mapping[MemberId, tuple[int, str]]:
        """Which members showed hand-overs that do not hold: how many, and why the last one was refused."""
        following = self.machine.following
        return {} if following is None else following.refused

    @contextmanager
    def survey(self) -> Generator[Survey]:
        """Collect what members answer to each `ask_status` from now on, until the block's end."""
        survey = Survey(self.machine.status_number + 1)
        self._surveys.append(survey)
        try:
            yield survey
        finally:
            self._surveys.remove(survey)

    def ask_status(self) -> None:
        """Ask all members for their status; the answers appear in the surveys that are under way."""
        self._step(self.machine.ask_status)

    def seek(self) -> None:
        """Somebody waits until the client is settled: to be called again and again until it is."""
        self._step(self.machine.seek)
        self.hub.flush()

    def give_up(self, pending: Pending) -> OutcomeUnknown:
        """The caller's patience is over: what is known now. The operation itself stays under way."""
        number = pending.first
        if number:
            self._abandoned[number] = pending
            if len(self._abandoned) > ABANDONED_KEPT:
                del self._abandoned[next(iter(self._abandoned))]
            return self.unanswered(number, self.machine.reasons(number, pending.count))
        return self.unanswered(0, self.machine.reasons_of_read(pending.token))

    def unanswered(self, number: int = 0, reasons: Mapping[MemberId, str] | None = None) -> OutcomeUnknown:
        """Why there is no answer: what is known of the members, why they refuse what was asked (`reasons`), and why
        hand-overs that they showed were not believed.
        """
        heard = sorted(self.machine.heard_from)
        refused = refused_in_words(self.refused_links)
        if not heard:
            return NoAnswer(number, "; ".join(("no member answered", *refused)))
        text = f"{', '.join(heard)} answered, but too few agreed"
        if (epoch := self.machine.waits_for) is not None:
            here = self.machine.settings.epoch
            text += f"; this client believes nobody before epoch {epoch} (trusted_epoch), and was led to epoch {here}"
        return TooFewAgreed(number, "; ".join((text, *_in_words(reasons or {}), *refused)))

    def again(self, number: int, on_done: Callable[[], None]) -> Pending:
        """Wait once more for an operation that `give_up` was said of. Raises `ValueError` for any other number."""
        pending = self._abandoned.pop(number, None)
        if pending is None:
            raise ValueError(f"no operation with number {number} has an unknown outcome")
        pending.on_done = on_done
        if not pending.missing:
            on_done()
        return pending

    # ------------------------------------------------------------------------------------------ driving

    @property
    def deadline(self) -> float:
        """When `turn` should be called at the latest, by the hub's clock."""
        own = self._timer if self._timer is not None else float("inf")
        return min(own, self.hub.deadline())

    def turn(self, timeout: float = 0.0) -> None:
        """One round; waits up to `timeout` seconds if nothing is ready."""
        received = self.hub.poll(timeout)
        out: ClientOut = Out()
        machine = self.machine
        gone: set[MemberId] = set()
        for event in self.hub.events():
            if isinstance(event, LinkUp) and isinstance(event.peer, str):
                gone.discard(event.peer)
                machine.on_link(event.peer, event.binding, out)
            elif isinstance(event, LinkDown) and isinstance(event.peer, str) and event.last:
                gone.add(event.peer)
        for peer, frames in received:
            if isinstance(peer, str):
                for frame in frames:
                    machine.on_message(peer, frame, out)
        for member in sorted(gone):
            machine.on_gone(member)
        if self._timer is not None and self.hub.clock() >= self._timer:
            self._timer = None
            machine.on_timer(("retry",), out)
        # First the results, so that what their receivers submit in answer leaves with this round's bundle.
        self._carry_out(out)
        out = Out()
        machine.on_input(SendNow(), out)
        self._carry_out(out)
        self.hub.flush()

    def close(self) -> None:
        """Close all links; what is under way is abandoned."""
        self.hub.close()

    def _step(self, step: Callable[[ClientOut], None]) -> None:
        out: ClientOut = Out()
        step(out)
        self._carry_out(out)

    def _carry_out(self, out: ClientOut) -> None:
        for effect in out.effects:
            match effect:
                case Send(to, frame):
                    for member in to:
                        self.hub.send(member, frame)
                case Deliver(output):
                    self._on_output(output)
                case SetTimer(_, ticks):
                    self._timer = self.hub.clock() + ticks / 1000
                case CancelTimer():
                    self._timer = None
                case Draw(key, choices):
                    value = secrets.randbelow(choices)
                    inner: ClientOut = Out()
                    self.machine.on_draw(key, value, inner)
                    self._carry_out(inner)
                case Broadcast():
                    raise AssertionError("a client is no member: it sends, and never broadcasts")
                case _:
                    raise AssertionError(f"a client machine has no use for {type(effect).__name__}")

    def _on_output(self, output: ClientOutput) -> None:
        match output:
            case Executed():
                if self._on_executed is not None:
                    self._on_executed(output)
                if self._pending:
                    for number, (status, result) in enumerate(output.results, output.first):
                        self._settle(number, status, result)
            case NotExecuted(first, count, reason, unknown):
                for number in range(first, first + count):
                    error = OutcomeUnknown(number, reason) if unknown else Refused(reason)
                    waiting = self._pending.pop(number, None)
                    if waiting is not None:
                        waiting[0].set(waiting[1], error)
            case ReadDone(token, status, result):
                pending = self._reads.pop(token, None)
                if pending is not None:
                    if status != FAILED:
                        pending.reading = Reading.of(output)
                    pending.set(0, _outcome(status, result))
            case MemberStatus():
                self._on_status(output)
            case CommandState(name):
                watch = self._watches.get(name)
                if watch is not None:
                    watch.states.append(output)
                    watch.on_news()
            case History(links):
                chains, self._chains = self._chains, []
                for chain in chains:
                    chain.links = links
                    chain.on_done()
            case Moved():
                self._on_moved(output)
            case LinkRefused(member, reason):
                logger.warning("%s showed a hand-over that does not hold: %s", member, reason)
            case Stopped(reason):
                logger.error("this client has stopped: %s", reason)
                self._fail_if_stopped()

    def _on_moved(self, moved: Moved) -> None:
        """Another epoch: its members are the ones to have links with (SAFETY rule 28)."""
        # Durable first: whoever was told a result of this epoch never goes back behind it.
        contradiction = self._keeper.keep(moved.chain) if self._keeper is not None and moved.chain else None
        if contradiction is not None:
            self._step(lambda out: self.machine.on_input(HaltNow(contradiction), out))
            return
        roster, before = moved.place.configuration.roster, self._roster
        assert before is not None
        self._roster = roster
        for member in before.ids:
            if member not in roster.by_id:
                self.unlink(member)
        for entry in roster.entries:
            known = before.by_id.get(entry.id)
            if known is None or (known.identity, known.addresses) != (entry.identity, entry.addresses):
                self.link(entry.id, entry.identity, tuple(parse_address(address) for address in entry.addresses))
        logger.info("epoch %d: %s", roster.epoch, ", ".join(roster.ids))

    def link(self, member: MemberId, identity: bytes, addresses: tuple[Address, ...]) -> None:
        """Have a link with this member from now on, at these addresses."""
        try:
            self.hub.connect(member, identity, addresses)
        except HubError as error:
            logger.warning("%s cannot be reached from here: %s", member, error)

    def unlink(self, member: MemberId) -> None:
        """This is no member any more."""
        self.hub.disconnect(member)

    def _fail_if_stopped(self) -> None:
        reason = self.machine.stopped
        if reason is None:
            return
        pending = {id(one): one for one, _ in self._pending.values()} | {id(one): one for one in self._reads.values()}
        self._pending.clear()
        self._reads.clear()
        for one in pending.values():
            for index in range(one.count):
                one.set(index, Contradicted(reason))
        watches, self._watches = self._watches, {}
        chains, self._chains = self._chains, []
        for watch in watches.values():
            watch.error = Contradicted(reason)
            watch.on_news()
        for chain in chains:
            chain.error = Contradicted(reason)
            chain.on_done()

    def _settle(self, number: int, status: int, result: bytes) -> None:
        waiting = self._pending.pop(number, None)
        if waiting is not None:
            waiting[0].set(waiting[1], _outcome(status, result))

    def _on_status(self, said: MemberStatus) -> None:
        surveys = [survey for survey in self._surveys if survey.first <= said.number]
        if not surveys:
            return
        try:
            status = json.loads(said.text)
        except (ValueError, RecursionError):
            return
        if isinstance(status, dict):
            for survey in surveys:
                survey.answers[said.member] = status


def peers_of_roster(roster: Roster) -> dict[MemberId, tuple[bytes, tuple[Address, ...]]]:
    """Identities and addresses of a roster's members."""
    return {
        entry.id: (entry.identity, tuple(parse_address(address) for address in entry.addresses))
        for entry in roster.entries
    }


def _in_words(reasons: Mapping[MemberId, str]) -> list[str]:
    """What members say, those that say the same together; the texts that most of them say, if there are many."""
    told: dict[str, list[MemberId]] = {}
    for member, text in sorted(reasons.items()):
        told.setdefault(text, []).append(member)
    most = sorted(told, key=lambda text: -len(told[text]))[:REASONS_TOLD]
    return [f"{', '.join(told[text])}: {text}" for text in most]


def _outcome(status: int, result: bytes) -> Outcome:
    if status == FAILED:
        return OperationFailed(result.decode("utf-8", "replace"))
    if status == LATE:
        return TooLate(unpack_lateness(result))
    if status == SKIPPED:
        return Refused("this sequence number was executed before with another operation")
    return result
