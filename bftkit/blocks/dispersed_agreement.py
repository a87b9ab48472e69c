"""Validated agreement on large values, with liars: the bytes go to everybody once, and only digests are voted on.

Validated agreement shows the value in proposals, votes, statements, outcomes and records: fine for a list of digests,
dozens of times too much for megabytes. So here it agrees on who *offered* the value, in three steps:

1. *Dispersal.* Everybody sends its value to everybody, once, and the value's digest goes through a verifiable
   consistent broadcast. A member echoes the digest when it holds the bytes, durably, and the predicate accepts them
   (SAFETY rule 3).
2. *Agreement.* Its proposals are such broadcasts' proofs: of one's own offer or of anybody's, whichever is first.
3. *Fetching.* n - t members signed the echoes of what is agreed on, f + c + 1 correct ones at least and f + 1 that stay
   up: who lacks the bytes asks them in turn, and the digest says whether what comes is right.

*Agreement* and *termination* are the validated agreement's. *External validity*: a correct member echoed the digest, so
it found the value with this digest valid. One correct member that offers something and stays up is enough for all to
come to an outcome, since its offer's proof is what the others propose.

*Lost messages.* Whoever does not know the outcome asks for it when it is told `Again`, and says whose offers it holds.
Who knows the outcome sends its proof. Who does not, says again what it said; its own offer in full only if the asker
lacks it and no proof of it exists yet, and more and more seldom. No step waits for a timer.

*Restarts.* All that the parts write down is kept, and their order with it; bytes are kept beside, once.

Source: as `validated_agreement`; agreement on digests with certificates of those that hold the bytes is section 6's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.blocks.bedrock_messages import (
    ID_BYTES_MAX,
    PROOFS,
    RECORDS,
    VALUE_BYTES_MAX,
    Again,
    Agreed,
    Ask,
    Bytes,
    Dispersal,
    DispersalSaid,
    DispersedValue,
    Held,
    Input,
    Message,
    Offer,
    PartSaid,
    Propose,
    Want,
)
from bftkit.blocks.certificates import VOTE_BYTES
from bftkit.blocks.shelf import Shelf
from bftkit.blocks.validated_messages import Finished
from bftkit.core.digest import DIGEST_SIZE
from bftkit.core.digest import digest as digest_of
from bftkit.core.machine import Broadcast, Deliver, Digest, Machine, MemberId, Persist, Record
from bftkit.core.machine import Out as AnyOut
from bftkit.core.ordering import Setup
from bftkit.core.state import SHARED, Forkable
from bftkit.core.wire import U16, Blob, Codec, WireError

Out: TypeAlias = AnyOut[Message, Agreed]

ANSWERS_MAX: Final = 4
"""So many times between two looks a peer that asks is told again what this member said: asking is cheap."""

# ------------------------------------------------------------------------------------------------- candidates


@attrs.frozen
class Candidate:
    """What the validated agreement is about: the offer of the member with this index, and the proof of its digest."""

    index: U16
    proof: Annotated[bytes, Blob(1 << 17)]


CANDIDATES: Final = Codec[Candidate]("bedrock candidate", {1: Candidate})


@attrs.frozen
class Judge:
    """Reads candidates, the same at every member and for third parties."""

    setup: Setup
    id: bytes

    @property
    def offer_id(self) -> bytes:
        """The name of the broadcasts of digests."""
        return b"bedrock offer" + self.id

    @property
    def agreement_id(self) -> bytes:
        """The name of the validated agreement."""
        return b"bedrock" + self.id

    @property
    def candidate_max(self) -> int:
        """A candidate is at most so long: a digest, a certificate, and a few lengths."""
        quorum = self.setup.quorum
        return DIGEST_SIZE + ((quorum.n + 7) >> 3) + quorum.available * VOTE_BYTES + 32

    def read(self, value: bytes) -> tuple[Digest, tuple[MemberId, ...]] | None:
        """The digest that the candidate names, and who holds its bytes; None if it proves nothing."""
        try:
            candidate = CANDIDATES.decode(value)
        except WireError:
            return None
        if candidate.index >= self.setup.quorum.n:
            return None
        sender = self.setup.members[candidate.index]
        digest = cb.check_proof(self.setup, self.offer_id, sender, candidate.proof)
        if digest is None or len(digest) != DIGEST_SIZE:
            return None
        return digest, cb.proof_signers(self.setup, candidate.proof)

    def accepts(self, value: bytes) -> bool:
        """Whether this may be agreed on."""
        return self.read(value) is not None


# ------------------------------------------------------------------------------------------------- the machine


@attrs.define(eq=False)
class DispersedAgreement(Forkable, Machine[Input, Message, Agreed]):
    """One member's part in one agreement; see `create`, and the top of this file."""

    setup: Setup = attrs.field(metadata=SHARED)
    judge: Judge = attrs.field(metadata=SHARED)
    valid: Callable[[bytes], bool] = attrs.field(metadata=SHARED)
    value_max: int
    index: int
    """This member's place in the roster."""
    offers: list[cb.ConsistentBroadcast]
    """The broadcasts of digests, in the order of the roster; none once the outcome is known."""
    agreement: va.ValidatedAgreement
    shelf: Shelf = attrs.field(factory=Shelf)
    proposed: bool = False
    """Whether the agreement has this member's proposal (of this life: it passes over another one)."""
    records: list[Record] = attrs.field(factory=list[Record])
    """What was written down, in order, but for bytes."""
    outcome: bytes = b""
    """The proof of the agreement, once there is one."""
    digest: Digest = b""
    """What is agreed on."""
    result: Agreed | None = None
    refused: set[MemberId] = attrs.field(factory=set[MemberId])
    """Who offered what is not valid. No more of its offers is looked at: the predicate may be dear."""
    answered: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])
    """How often each peer was told again what this member said, since the last look."""

    @classmethod
    def create(
        cls,
        setup: Setup,
        id: bytes,  # noqa: A002
        valid: Callable[[bytes], bool],
        value_max: int,
    ) -> DispersedAgreement:
        """The instance `id` (up to 64 bytes), for values of up to `value_max` bytes (up to 15 MiB).

        `valid` is a pure function of what is the same at every member. Raises `ValueError` for a group that is too
        small (SAFETY rule 26) or has no coins of the right threshold, an id that is too long or a bound out of range.
        """
        quorum = setup.quorum
        needed = 3 * quorum.faulty + 1
        if quorum.n < needed:
            raise ValueError(
                f"agreement with f = {quorum.f} liars and c = {quorum.c} crashes needs {needed} members; "
                f"there are {quorum.n}"
            )
        if setup.coins is None:
            raise ValueError(f"agreement with f = {quorum.f} liars tosses coins: the group needs coin keys")
        if setup.coins.threshold != quorum.available:
            raise ValueError(f"the coins' threshold is {setup.coins.threshold}, must be n - f - c = {quorum.available}")
        if len(id) > ID_BYTES_MAX or not 0 <= value_max <= VALUE_BYTES_MAX:
            raise ValueError(f"an id of {len(id)} bytes or values of up to {value_max} bytes are too long")
        judge = Judge(setup, id)
        return cls(
            setup,
            judge,
            valid,
            value_max,
            setup.members.index(setup.me),
            [cb.ConsistentBroadcast.create(setup, judge.offer_id, name, DIGEST_SIZE) for name in setup.members],
            va.ValidatedAgreement.create(setup, judge.agreement_id, judge.accepts, judge.candidate_max),
        )

    def standing(self) -> Sequence[Record]:
        """The records that still matter, to be repeated at the head of a new log segment."""
        return [*self.shelf.standing(), *self.records]

    # ------------------------------------------------------------------------------------------- inputs

    def on_start(self, out: Out) -> None:
        """After a restart: ask what happened meanwhile."""
        if self.result is None and (self.records or self.shelf.held):
            self._look(out)

    def on_input(self, value: Input, out: Out) -> None:
        """Raises `ValueError` for a proposal that is not valid. After the first one, proposals are passed over."""
        match value:
            case Propose():
                self._on_propose(value.value, out)
            case Again():
                self.answered.clear()
                self._look(out)

    def _look(self, out: Out) -> None:
        self.shelf.again(out)
        if not self.outcome:
            out.broadcast(Ask(self._held_bits()))

    def _held_bits(self) -> bytes:
        """Whose offers are here: bit i % 8 of byte i // 8 stands for member i."""
        bits = sum([1 << i for i, offer in enumerate(self.offers) if offer.value in self.shelf.held])
        return bits.to_bytes((self.setup.quorum.n + 7) >> 3, "little")

    def _on_propose(self, value: bytes, out: Out) -> None:
        if not self._accepts(value):
            raise ValueError(f"the proposed value of {len(value)} bytes is not valid, or longer than {self.value_max}")
        if not self.outcome and self.offers[self.index].value is None:
            digest = self.shelf.hold(value, out)
            self._in_offer(self.index, lambda child, inner: child.on_input(cb.Start(digest), inner), out)

    def _accepts(self, value: bytes) -> bool:
        return len(value) <= self.value_max and self.valid(value)

    # ------------------------------------------------------------------------------------------- messages

    def on_message(self, sender: MemberId, message: Message, out: Out) -> None:
        """See `Machine.on_message`. Who speaks of what is settled is told the outcome."""
        match message:
            case Want():
                self.shelf.on_want(sender, message, out)
            case Bytes():
                self._on_bytes(message, out)
            case Ask() if self.outcome:
                out.send(sender, va.Part(va.OUTCOME, 0, self.outcome))
            case Ask():
                self._on_ask(sender, message, out)
            case Offer() | Dispersal() | va.Part() if self.outcome:
                if not (isinstance(message, va.Part) and message.kind == va.OUTCOME) and self._may_answer(sender, 1):
                    out.send(sender, va.Part(va.OUTCOME, 0, self.outcome))
            case Offer():
                self._on_offer(sender, message, out)
            case Dispersal():
                self._on_dispersal(sender, message, out)
            case va.Part():
                self._in_agreement(lambda child, inner: child.on_message(sender, message, inner), out)
            case _:
                out.blame(sender, f"sent a {type(message).__name__} to an agreement with liars")

    def _may_answer(self, member: MemberId, limit: int) -> bool:
        answered = self.answered.get(member, 0)
        if answered < limit:
            self.answered[member] = answered + 1
        return answered < limit

    def _on_ask(self, sender: MemberId, ask: Ask, out: Out) -> None:
        """Say again what the sender may have lost. An echo that was lost comes when the digest is sent again."""
        if not self._may_answer(sender, ANSWERS_MAX):
            return
        own = self.offers[self.index]
        holds = int.from_bytes(ask.held, "little") >> self.index & 1
        if own.value is not None and own.final is None and not holds:
            if self.shelf.is_due(sender):
                self.shelf.sent(sender)
                out.send(sender, Offer(self.shelf.held[own.value]))
        else:
            for message in own.said():
                out.send(sender, Dispersal(self.index, cb.CODEC.encode(message)))
        for part in self.agreement.said():
            out.send(sender, part)

    def _on_offer(self, sender: MemberId, message: Offer, out: Out) -> None:
        """The first offer of a member is the one that counts; its bytes are kept if they are valid."""
        index = self.setup.members.index(sender)
        child, value = self.offers[index], message.value
        if len(value) > self.value_max:
            out.blame(sender, f"offered a value of {len(value)} bytes, more than {self.value_max}")
            return
        if sender in self.refused:
            return
        digest = digest_of(value)
        # Of a liar's many offers one only is kept: that which is known to be the first, or certified.
        if child.value in (None, digest) and digest not in self.shelf.held:
            if not self.valid(value):
                self.refused.add(sender)
                out.blame(sender, "offered a value that is not valid")
                return
            self.shelf.hold(value, out)
        self._on_statement(index, sender, cb.Send(digest), out)

    def _on_dispersal(self, sender: MemberId, message: Dispersal, out: Out) -> None:
        if message.index >= self.setup.quorum.n:
            out.blame(sender, f"spoke of the offer of member {message.index}, who does not exist")
            return
        try:
            inner = cb.CODEC.decode(message.body)
        except WireError as error:
            out.blame(sender, f"sent a message about an offer that cannot be read: {error}")
            return
        self._on_statement(message.index, sender, inner, out)

    def _on_statement(self, index: int, sender: MemberId, message: cb.Message, out: Out) -> None:
        self._in_offer(index, lambda child, inner: child.on_message(sender, message, inner), out)
        self._echo(index, out)

    def _echo(self, index: int, out: Out) -> None:
        """Sign that the bytes are here, once they are (SAFETY rule 3)."""
        if self.outcome or index == self.index:
            return
        child = self.offers[index]
        if child.value in self.shelf.held and child.echo is None and child.final is None:
            self._in_offer(index, lambda child, inner: child.on_input(cb.Approve(), inner), out)

    def _on_bytes(self, message: Bytes, out: Out) -> None:
        """What was agreed on is here: by its digest, so it is what correct members found valid."""
        if len(message.value) <= self.value_max and self.shelf.on_bytes(message, out) is not None:
            self._finish(out)

    # ------------------------------------------------------------------------------------------- going on

    def _propose(self, index: int, proof: bytes, out: Out) -> None:
        """The first offer that is proved is what this member proposes."""
        if not self.proposed:
            self.proposed = True
            value = CANDIDATES.encode(Candidate(index, proof))
            self._in_agreement(lambda child, inner: child.on_input(va.Propose(value), inner), out)

    def _on_outcome(self, agreed: va.Agreed, out: Out) -> None:
        """Nothing else that was offered matters any more."""
        found = self.judge.read(agreed.value)
        assert found is not None, "what is no candidate was agreed on"
        self.digest, holders = found
        self.outcome = agreed.proof
        self.records = [RECORDS.encode(PartSaid(va.RECORDS.encode(Finished(agreed.proof))))]
        self.offers.clear()
        self.shelf.keep_only((self.digest,))
        if self.digest in self.shelf.held:
            self._finish(out)
        else:
            self.shelf.want(self.digest, (member for member in holders if member != self.setup.me), out)

    def _finish(self, out: Out) -> None:
        value = self.shelf.held[self.digest]
        self.result = Agreed(value, PROOFS.encode(DispersedValue(self.outcome, value)))
        out.deliver(self.result)

    # ------------------------------------------------------------------------------------------- restarts

    def on_restore(self, records: Sequence[Record], out: Out) -> None:
        """Be again who said all this, and go on from there."""
        offers: dict[int, list[Record]] = {}
        agreement: list[Record] = []
        for record in records:
            match RECORDS.decode(record):
                case Held(value):
                    self.shelf.held[digest_of(value)] = value
                    continue
                case DispersalSaid(index, inner):
                    offers.setdefault(index, []).append(inner)
                case PartSaid(inner):
                    agreement.append(inner)
                case _:
                    raise AssertionError("the record of another variant")
            self.records.append(record)
        for index in sorted(offers):
            self._in_offer(index, partial(_restore, offers[index]), out)
            self._recognise(index, out)
        if agreement:
            self._in_agreement(lambda child, inner: child.on_restore(agreement, inner), out)

    def _recognise(self, index: int, out: Out) -> None:
        """After a restart an echo is only a signature: find what it is about, so that nobody sends the bytes again."""
        child = self.offers[index]
        if child.echo is None:
            return
        for digest in sorted(self.shelf.held):
            signed = cb.statement(child.id, child.sender, digest)
            if child.certifier.verify_vote(self.setup.me, signed, child.echo):
                self._on_statement(index, child.sender, cb.Send(digest), out)
                return

    # ------------------------------------------------------------------------------------------- the parts

    def _in_offer(
        self, index: int, step: Callable[[cb.ConsistentBroadcast, AnyOut[cb.Message, cb.Output]], None], out: Out
    ) -> None:
        """Let the broadcast of a digest take a step. Where it would send the digest to all, the bytes go instead."""
        child: AnyOut[cb.Message, cb.Output] = AnyOut()
        step(self.offers[index], child)
        for effect in child.effects:
            match effect:
                case Broadcast(cb.Send(digest), _):
                    out.broadcast(Offer(self.shelf.held[digest]))
                    for member in self.setup.members:
                        self.shelf.sent(member)
                case Broadcast(message, _):
                    out.broadcast(Dispersal(index, cb.CODEC.encode(message)))
                case Persist(record, _):
                    self._persist(DispersalSaid(index, record), out)
                case Deliver(cb.Delivered(_, proof)):
                    self._propose(index, proof, out)
                case Deliver(cb.Offered()):
                    pass  # `_echo` answers, when the bytes are here
                case _:
                    single: AnyOut[cb.Message, cb.Output] = AnyOut()
                    single.effects.append(effect)
                    out.adopt("offer", single, lambda message: Dispersal(index, cb.CODEC.encode(message)))

    def _in_agreement(
        self, step: Callable[[va.ValidatedAgreement, AnyOut[va.Part, va.Agreed]], None], out: Out
    ) -> None:
        """Let the validated agreement take a step."""
        child: AnyOut[va.Part, va.Agreed] = AnyOut()
        step(self.agreement, child)
        for effect in child.effects:
            match effect:
                case Persist(record, _):
                    self._persist(PartSaid(record), out)
                case Deliver(agreed):
                    self._on_outcome(agreed, out)
                case _:
                    single: AnyOut[va.Part, va.Agreed] = AnyOut()
                    single.effects.append(effect)
                    out.adopt("agreement", single, lambda part: part)

    def _persist(self, record: DispersalSaid | PartSaid, out: Out) -> None:
        encoded = RECORDS.encode(record)
        self.records.append(encoded)
        out.persist(encoded)


def _restore(records: Sequence[Record], child: cb.ConsistentBroadcast, inner: AnyOut[cb.Message, cb.Output]) -> None:
    child.on_restore(records, inner)


# ------------------------------------------------------------------------------------------------- proofs


def check_dispersed(setup: Setup, id: bytes, proof: bytes) -> bytes | None:  # noqa: A002
    """The value that this proves to be agreed on in instance `id`; None for what is no proof of that. Pure."""
    try:
        said = PROOFS.decode(proof)
    except WireError:
        return None
    if not isinstance(said, DispersedValue):
        return None
    judge = Judge(setup, id)
    candidate = va.check_agreed(setup, judge.agreement_id, judge.accepts, judge.candidate_max, said.agreed)
    found = None if candidate is None else judge.read(candidate)
    return said.value if found is not None and found[0] == digest_of(said.value) else None
