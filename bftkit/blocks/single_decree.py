"""Single-decree Paxos: a group without liars chooses one value, once, and can prove it to anybody.

In words (the messages are in `bedrock_messages`): whoever wants a value chosen takes a *ballot* of its own, higher than
all that it has heard of, and asks everybody to take part in none below it. When q members have promised, it proposes
the value that the highest ballot among them had accepted, or its own if none had. When q members have accepted, and
signed that they did, the value is chosen; these signatures are the certificate.

*Agreement.* Let d be chosen in ballot b. The q members that promised a later ballot include one that had accepted d in
b before it promised, or it could not have accepted it after; so each later ballot proposes d, by induction over the
ballots between. What a member promises and accepts is durable before it says so (SAFETY rule 5): it keeps its word
through a restart, and never uses a ballot twice.

*Validity.* A member accepts only what satisfies the predicate, and holds the bytes, durably, before it votes (SAFETY
rule 3). So whoever sees a certificate can get the bytes from any of its q signers, c of which may be gone.

*Termination* needs time, as it must (Fischer, Lynch, Paterson 1985): two proposers that overtake each other for ever
choose nothing. So each waits a drawn time before each attempt, from a range that doubles with each failure, and longer
if it hears that somebody else is at it. Safety never depends on a timer.

*Bytes once.* Promises and votes name digests. A proposal carries the bytes to a member once; one that lacks them asks.

Source: Lamport, "Paxos Made Simple" (2001), section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import ClassVar, Final, TypeAlias

import attrs

from bftkit.blocks.bedrock_messages import (
    ID_BYTES_MAX,
    PROOFS,
    RECORDS,
    VALUE_BYTES_MAX,
    Accept,
    Accepted,
    Again,
    Agreed,
    Ask,
    Bytes,
    Chosen,
    ChosenValue,
    Held,
    Input,
    Message,
    Own,
    Prepare,
    Promise,
    Promised,
    Propose,
    Refuse,
    Vote,
    Want,
)
from bftkit.blocks.certificates import SignatureLists
from bftkit.blocks.shelf import Shelf
from bftkit.core.digest import digest as digest_of
from bftkit.core.machine import Digest, DrawKey, Machine, MemberId, Record, TimerKey, Transition
from bftkit.core.machine import Out as AnyOut
from bftkit.core.ordering import Setup
from bftkit.core.state import SHARED, Forkable
from bftkit.core.wire import WireError

Out: TypeAlias = AnyOut[Message, Agreed]

PURPOSE: Final = "bedrock choice"
"""The purpose under which votes are signed."""

ATTEMPT: Final[TimerKey] = ("attempt",)

RESEND_TICKS: Final = 250
"""After so long without an answer it is asked for again."""
TRIES: Final = 4
"""So many times in one attempt; then a higher ballot is tried, since a member may have promised one unheard."""
PATIENCE_TICKS: Final = 600
"""The range from which waits are drawn; it doubles with each failure."""
LEVEL_MAX: Final = 5
"""It doubles so many times at most."""

NOTHING: Final = bytes(32)
"""In a promise: no value was accepted."""


class Phase(Enum):
    """What a member does for its own proposal, and whether it knows the outcome."""

    IDLE = "idle"
    WAITING = "waiting"
    PREPARING = "preparing"
    FETCHING = "fetching"
    ACCEPTING = "accepting"
    CHOSEN = "chosen"
    AGREED = "agreed"


PHASES: Final = (
    Transition("idle", "Propose: draw a time to wait", "waiting"),
    Transition("waiting", "the time is over: take a ballot, ask for promises", "preparing"),
    Transition("preparing", "q promises, and the bytes are here: propose", "accepting"),
    Transition("preparing", "q promises, the bytes are elsewhere", "fetching"),
    Transition("fetching", "the bytes: propose", "accepting"),
    Transition("preparing", "a higher ballot, or no answers", "waiting"),
    Transition("fetching", "a higher ballot, or no answers", "waiting"),
    Transition("accepting", "a higher ballot, or no answers", "waiting"),
    Transition("accepting", "q votes", "agreed"),
    Transition("idle", "a certificate", "chosen"),
    Transition("waiting", "a certificate", "chosen"),
    Transition("preparing", "a certificate", "chosen"),
    Transition("fetching", "a certificate", "chosen"),
    Transition("accepting", "a certificate", "chosen"),
    Transition("chosen", "the bytes are here", "agreed"),
)
"""The phases, for the documentation."""

_ATTEMPTING: Final = (Phase.PREPARING, Phase.FETCHING, Phase.ACCEPTING)


@attrs.define(eq=False)
class SingleDecree(Forkable, Machine[Input, Message, Agreed]):
    """One member's part in one agreement; see `create`, and the top of this file."""

    setup: Setup = attrs.field(metadata=SHARED)
    id: bytes
    valid: Callable[[bytes], bool] = attrs.field(metadata=SHARED)
    value_max: int
    index: int
    """This member's place in the roster, which is its share of the ballots."""
    certifier: SignatureLists = attrs.field(metadata=SHARED)
    shelf: Shelf = attrs.field(factory=Shelf)
    phase: Phase = Phase.IDLE
    # the acceptor
    promised: int = 0
    accepted: int = 0
    """The ballot in which this member accepted last; 0: none."""
    accepted_digest: Digest = NOTHING
    offered: tuple[int, Digest] | None = None
    """A proposal, ballot and digest, whose bytes are asked for."""
    # the proposer
    own: Digest | None = None
    """What this member wants to be chosen."""
    ballot: int = 0
    digest: Digest = NOTHING
    """What it proposes in that ballot."""
    promises: dict[MemberId, Promise] = attrs.field(factory=dict[MemberId, Promise])
    votes: dict[MemberId, bytes] = attrs.field(factory=dict[MemberId, bytes])
    carried: set[tuple[Digest, MemberId]] = attrs.field(factory=set[tuple[Digest, MemberId]])
    """Whom this member sent which bytes, unasked."""
    seen: int = 0
    """The highest ballot that anybody refused ours for."""
    tries: int = 0
    level: int = 0
    serial: int = 0
    """Of the wait."""
    after: int = 0
    """So many ticks are waited besides what is drawn."""
    # the learner
    chosen: Chosen | None = None
    result: Agreed | None = None
    told: set[MemberId] = attrs.field(factory=set[MemberId])
    """Who was told the outcome since the last look, without asking."""
    restored: bool = False

    phases: ClassVar[tuple[Transition, ...]] = PHASES

    @classmethod
    def create(
        cls,
        setup: Setup,
        id: bytes,  # noqa: A002
        valid: Callable[[bytes], bool],
        value_max: int,
    ) -> SingleDecree:
        """The instance `id` (up to 64 bytes), for values of up to `value_max` bytes (up to 15 MiB).

        `valid` is a pure function of what is the same at every member. Raises `ValueError` for a group with liars, an
        id that is too long or a bound out of range.
        """
        if setup.quorum.f != 0:
            raise ValueError(f"single-decree Paxos survives no Byzantine member; f is {setup.quorum.f}, must be 0")
        if len(id) > ID_BYTES_MAX or not 0 <= value_max <= VALUE_BYTES_MAX:
            raise ValueError(f"an id of {len(id)} bytes or values of up to {value_max} bytes are too long")
        return cls(setup, id, valid, value_max, setup.members.index(setup.me), _certifier(setup))

    def standing(self) -> Sequence[Record]:
        """The records that still matter, to be repeated at the head of a new log segment."""
        kept = self.shelf.standing()
        if self.chosen is not None:
            return [*kept, RECORDS.encode(self.chosen)]
        if self.own is not None:
            kept.append(RECORDS.encode(Own(self.own)))
        if self.promised:
            kept.append(RECORDS.encode(Promised(self.promised)))
        if self.accepted:
            kept.append(RECORDS.encode(Accepted(self.accepted, self.accepted_digest)))
        return kept

    # ------------------------------------------------------------------------------------------- inputs, time

    def on_start(self, out: Out) -> None:
        """After a restart: ask what happened meanwhile, and go on with one's own proposal."""
        if self.chosen is None and self.restored:
            out.broadcast(Ask(b""))
            if self.own is not None:
                self._wait(out)
        elif self.chosen is not None and self.result is None:
            self._fetch_chosen(self.chosen, out)

    def on_input(self, value: Input, out: Out) -> None:
        """Raises `ValueError` for a proposal that is not valid. After the first one, proposals are passed over."""
        match value:
            case Propose():
                self._on_propose(value.value, out)
            case Again():
                self.told.clear()
                self.shelf.again(out)
                if self.chosen is None:
                    out.broadcast(Ask(b""))

    def _on_propose(self, value: bytes, out: Out) -> None:
        if len(value) > self.value_max or not self.valid(value):
            raise ValueError(f"the proposed value of {len(value)} bytes is not valid, or longer than {self.value_max}")
        if self.own is None and self.chosen is None:
            self.own = self.shelf.hold(value, out)
            out.persist(RECORDS.encode(Own(self.own)))
            self._wait(out)

    def on_draw(self, key: DrawKey, value: int, out: Out) -> None:
        """How long to wait."""
        if self.phase is Phase.WAITING and key == ("wait", self.serial):
            out.set_timer(ATTEMPT, self.after + value + 1)

    def on_timer(self, key: TimerKey, out: Out) -> None:
        """The wait is over, or answers did not come."""
        if self.phase is Phase.WAITING:
            self._prepare(out)
        elif self.phase in _ATTEMPTING:
            self.tries += 1
            if self.tries == TRIES:
                self._fail(0, out)
            else:
                self._resend(out)

    def _wait(self, out: Out, after: int = 0) -> None:
        """Draw a time. Before a first attempt the first member of the roster waits for nobody, to avoid duels."""
        self.phase = Phase.WAITING
        self.serial += 1
        self.after = after
        first = self.level == 0 and after == 0
        out.cancel_timer(ATTEMPT)
        out.draw(("wait", self.serial), 1 + PATIENCE_TICKS * self.index if first else PATIENCE_TICKS << self.level)

    def _fail(self, after: int, out: Out) -> None:
        """This attempt came to nothing; the next one waits longer."""
        self.level = min(self.level + 1, LEVEL_MAX)
        self.promises.clear()
        self.votes.clear()
        self._wait(out, after)

    # ------------------------------------------------------------------------------------------- messages

    def on_message(self, sender: MemberId, message: Message, out: Out) -> None:
        """See `Machine.on_message`. Who speaks of what is settled is told the outcome, once between two looks."""
        match message:
            case Want():
                self.shelf.on_want(sender, message, out)
            case Bytes():
                self._on_bytes(message, out)
            case Chosen():
                self._on_chosen(sender, message, out)
            case Ask() if self.chosen is not None:
                out.send(sender, self.chosen)
            case _ if self.chosen is not None:
                if sender not in self.told:
                    self.told.add(sender)
                    out.send(sender, self.chosen)
            case Prepare() | Accept():
                if self._is_owner(sender, message.ballot, out):
                    self._on_ballot(sender, message, out)
            case Promise():
                self._on_promise(sender, message, out)
            case Refuse():
                self._on_refuse(message, out)
            case Vote():
                self._on_vote(sender, message, out)
            case Ask():
                pass
            case _:
                out.blame(sender, f"sent a {type(message).__name__} to an agreement without liars")

    def _is_owner(self, sender: MemberId, ballot: int, out: Out) -> bool:
        n = self.setup.quorum.n
        good = ballot >= n and self.setup.members[ballot % n] == sender
        if not good:
            out.blame(sender, f"used ballot {ballot}, which is not its own")
        return good

    # ------------------------------------------------------------------------------------------- the acceptor

    def _on_ballot(self, sender: MemberId, message: Prepare | Accept, out: Out) -> None:
        """Nothing below what was promised is answered but by a refusal. (Section 2.2)"""
        if message.ballot < self.promised:
            out.send(sender, Refuse(message.ballot, self.promised))
            return
        # Somebody else is at it: let it finish, with a higher ballot than ours.
        if self.phase in _ATTEMPTING and message.ballot > self.ballot:
            self._fail(PATIENCE_TICKS, out)
        elif self.phase is Phase.WAITING:
            self._wait(out, PATIENCE_TICKS)
        if isinstance(message, Prepare):
            self._promise(message.ballot, out)
            out.send(sender, self._own_promise())
        else:
            self._on_accept(sender, message, out)

    def _promise(self, ballot: int, out: Out) -> None:
        if ballot > self.promised:
            self.promised = ballot
            out.persist(RECORDS.encode(Promised(ballot)))

    def _own_promise(self) -> Promise:
        return Promise(self.promised, self.accepted, self.accepted_digest)

    def _on_accept(self, sender: MemberId, message: Accept, out: Out) -> None:
        """Phase 2b: once the bytes are here."""
        digest = message.digest
        if message.ballot == self.accepted and digest != self.accepted_digest:
            out.blame(sender, "proposed two values in one ballot")
        elif digest in self.shelf.held:
            self._vote(sender, message.ballot, digest, out)
        elif not message.carried:
            self.offered = (message.ballot, digest)
            self.shelf.want(digest, (sender,), out)
        elif digest_of(message.value) != digest or not self._accepts(message.value):
            out.blame(sender, "proposed a value that is not valid, or not the one that it named")
        else:
            self.shelf.hold(message.value, out)
            self._vote(sender, message.ballot, digest, out)

    def _accepts(self, value: bytes) -> bool:
        return len(value) <= self.value_max and self.valid(value)

    def _vote(self, owner: MemberId, ballot: int, digest: Digest, out: Out) -> None:
        out.send(owner, Vote(ballot, digest, self._accept(ballot, digest, out)))

    def _accept(self, ballot: int, digest: Digest, out: Out) -> bytes:
        """Write it down; the vote, which may be said from now on."""
        assert ballot >= self.promised, "a promise would be broken"
        assert digest in self.shelf.held, "bytes before votes"
        if ballot != self.accepted:
            self.promised = self.accepted = ballot
            self.accepted_digest = digest
            out.persist(RECORDS.encode(Accepted(ballot, digest)))
            # What was accepted before and differs was not chosen, or this could not have been proposed.
            self._tidy()
        self.offered = None
        return self.certifier.sign(statement(self.id, ballot, digest))

    def _tidy(self) -> None:
        """Forget bytes that nobody can need from this member."""
        self.shelf.keep_only(kept for kept in (self.own, self.accepted_digest, self.digest) if kept is not None)

    def _on_bytes(self, message: Bytes, out: Out) -> None:
        """Bytes that were looked for: for a proposal of ours, for somebody else's, or because they are chosen."""
        if not self._accepts(message.value):
            return
        digest = self.shelf.on_bytes(message, out)
        if digest is None:
            return
        if self.chosen is not None:
            self._finish(self.chosen, out)
            return
        if self.offered is not None and self.offered[1] == digest and self.offered[0] >= self.promised:
            ballot = self.offered[0]
            self._vote(self.setup.members[ballot % self.setup.quorum.n], ballot, digest, out)
        if self.phase is Phase.FETCHING and digest == self.digest:
            self._propose(out)

    # ------------------------------------------------------------------------------------------- the proposer

    def _prepare(self, out: Out) -> None:
        """Phase 1a, with a ballot above all that this member has heard of."""
        n = self.setup.quorum.n
        self.ballot = (max(self.promised, self.seen) // n + 1) * n + self.index
        self.phase, self.tries = Phase.PREPARING, 0
        self._promise(self.ballot, out)
        self.promises = {self.setup.me: self._own_promise()}
        self.votes.clear()
        out.broadcast(Prepare(self.ballot))
        out.set_timer(ATTEMPT, RESEND_TICKS)
        self._count_promises(out)

    def _on_promise(self, sender: MemberId, message: Promise, out: Out) -> None:
        if self.phase is Phase.PREPARING and message.ballot == self.ballot:
            self.promises[sender] = message
            self._count_promises(out)

    def _on_refuse(self, message: Refuse, out: Out) -> None:
        self.seen = max(self.seen, message.promised)
        if self.phase in _ATTEMPTING and message.ballot == self.ballot and message.promised > self.ballot:
            self._fail(PATIENCE_TICKS, out)

    def _count_promises(self, out: Out) -> None:
        """Phase 2a: with q promises, what the highest ballot among them accepted; what I want, if none did."""
        if len(self.promises) < self.setup.quorum.certificate:
            return
        assert self.own is not None, "who proposes nothing takes no ballot"
        best = max(self.promises.values(), key=lambda promise: promise.accepted)
        self.digest = best.digest if best.accepted else self.own
        if self.digest in self.shelf.held:
            self._propose(out)
        else:
            self.phase = Phase.FETCHING
            self.shelf.want(self.digest, self._holders(), out)

    def _holders(self) -> list[MemberId]:
        """Who said in its promise that it accepted what is to be proposed, so it holds the bytes."""
        return [
            member
            for member in sorted(self.promises)
            if self.promises[member].accepted and self.promises[member].digest == self.digest
        ]

    def _propose(self, out: Out) -> None:
        self.phase, self.tries = Phase.ACCEPTING, 0
        vote = self._accept(self.ballot, self.digest, out)
        self.votes = {self.setup.me: vote}
        holders = self._holders()
        for member in self.setup.members:
            if member != self.setup.me:
                self._send_accept(member, member not in holders, out)
        out.set_timer(ATTEMPT, RESEND_TICKS)
        self._count_votes(out)

    def _send_accept(self, member: MemberId, lacks: bool, out: Out) -> None:
        """The bytes go with it once, to those that did not say that they hold them. Who lost them asks."""
        carried = lacks and (self.digest, member) not in self.carried
        if carried:
            self.carried.add((self.digest, member))
        out.send(member, Accept(self.ballot, self.digest, carried, self.shelf.held[self.digest] if carried else b""))

    def _resend(self, out: Out) -> None:
        """Ask those again that did not answer."""
        out.set_timer(ATTEMPT, RESEND_TICKS)
        others = [member for member in self.setup.members if member != self.setup.me]
        if self.phase is Phase.PREPARING:
            out.send([member for member in others if member not in self.promises], Prepare(self.ballot))
        elif self.phase is Phase.FETCHING:
            self.shelf.want(self.digest, self.shelf.wanted.get(self.digest) or self._holders(), out)
        else:
            for member in others:
                if member not in self.votes:
                    self._send_accept(member, lacks=False, out=out)

    def _on_vote(self, sender: MemberId, message: Vote, out: Out) -> None:
        if self.phase is not Phase.ACCEPTING or (message.ballot, message.digest) != (self.ballot, self.digest):
            return
        if not self.certifier.verify_vote(sender, statement(self.id, self.ballot, self.digest), message.vote):
            out.blame(sender, "sent a vote with a bad signature")
            return
        self.votes[sender] = message.vote
        self._count_votes(out)

    def _count_votes(self, out: Out) -> None:
        if len(self.votes) >= self.certifier.size:
            signed = statement(self.id, self.ballot, self.digest)
            chosen = Chosen(self.ballot, self.digest, self.certifier.combine(signed, self.votes))
            out.broadcast(chosen)
            self._choose(chosen, out)

    # ------------------------------------------------------------------------------------------- the learner

    def _on_chosen(self, sender: MemberId, message: Chosen, out: Out) -> None:
        """Whoever says it, a good certificate decides."""
        if self.chosen is not None:
            return
        if not self.certifier.verify(statement(self.id, message.ballot, message.digest), message.certificate):
            out.blame(sender, "sent a choice with a bad certificate")
            return
        self._choose(message, out)
        if self.result is None:
            self._fetch_chosen(message, out)

    def _choose(self, chosen: Chosen, out: Out) -> None:
        self.chosen = chosen
        self.phase = Phase.CHOSEN
        out.persist(RECORDS.encode(chosen))
        out.cancel_timer(ATTEMPT)
        self._settle(chosen, out)

    def _settle(self, chosen: Chosen, out: Out) -> None:
        """Nothing of the ballots matters any more, since the certificate convinces everybody."""
        for table in (self.promises, self.votes, self.carried):
            table.clear()
        self.shelf.keep_only((chosen.digest,))
        if chosen.digest in self.shelf.held:
            self._finish(chosen, out)

    def _fetch_chosen(self, chosen: Chosen, out: Out) -> None:
        """Whoever signed holds the bytes."""
        signers = self.certifier.signers(chosen.certificate)
        self.shelf.want(chosen.digest, (member for member in signers if member != self.setup.me), out)

    def _finish(self, chosen: Chosen, out: Out) -> None:
        value = self.shelf.held[chosen.digest]
        self.phase = Phase.AGREED
        self.result = Agreed(value, PROOFS.encode(ChosenValue(chosen.ballot, chosen.certificate, value)))
        out.deliver(self.result)

    # ------------------------------------------------------------------------------------------- restarts

    def on_restore(self, records: Sequence[Record], out: Out) -> None:
        """Be again who promised and accepted all this. A ballot of one's own that was used is never used again."""
        self.restored = bool(records)
        for data in records:
            match RECORDS.decode(data):
                case Held(value):
                    self.shelf.held[digest_of(value)] = value
                case Own(digest):
                    self.own = digest
                case Promised(ballot):
                    self.promised = max(self.promised, ballot)
                case Accepted(ballot, digest):
                    self.promised = max(self.promised, ballot)
                    if ballot > self.accepted:
                        self.accepted, self.accepted_digest = ballot, digest
                case Chosen() as chosen:
                    self.chosen = chosen
                case _:
                    raise AssertionError("the record of another variant")
        if self.chosen is not None:
            self.phase = Phase.CHOSEN
            self._settle(self.chosen, out)
        else:
            self._tidy()


# ------------------------------------------------------------------------------------------------- proofs


def check_chosen(setup: Setup, id: bytes, proof: bytes) -> bytes | None:  # noqa: A002
    """The value that this proves to be chosen in instance `id`; None for what is no proof of that. Pure."""
    try:
        said = PROOFS.decode(proof)
    except WireError:
        return None
    if not isinstance(said, ChosenValue):
        return None
    signed = statement(id, said.ballot, digest_of(said.value))
    return said.value if _certifier(setup).verify(signed, said.certificate) else None


def _certifier(setup: Setup) -> SignatureLists:
    return SignatureLists.of(setup, PURPOSE, setup.quorum.certificate)


def statement(id: bytes, ballot: int, digest: Digest) -> bytes:  # noqa: A002
    """What a vote signs. Two fixed lengths and the rest: no two instances, ballots or values share one."""
    return b"".join((ballot.to_bytes(8, "big"), digest, id))
