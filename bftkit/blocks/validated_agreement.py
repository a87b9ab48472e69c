"""Multi-valued validated agreement: all agree on one member's proposal, and only on one that a predicate accepts.

In words (the messages are in `validated_messages`):

1. *Proposals.* Everybody sends its value by verifiable consistent broadcast. It is echoed only if it is valid, so a
   proposal that has a proof is valid, and there is only one of each member.
2. *Commitments.* With n - t proposals here, durably, a member commits to which ones it holds: a vector of n bits with
   at least n - t ones, by verifiable consistent broadcast too, so that it cannot commit to two.
3. *Order.* With n - t commitments here, a member releases its share of a coin (threshold n - t). The coin says in which
   order the members are candidates.
4. *Attempts.* In that order, for each candidate: everybody states "yes", with the proof of the candidate's proposal, or
   "no". With n - t statements, a member goes into a binary agreement, with 1 if one of them was a "yes". That agreement
   is biased towards 1, and a vote for 1 must show the proposal. If it decides 1, the candidate's proposal is the
   outcome, and the decision carries it to those that lack it; if 0, the next candidate's turn comes.

   (In the paper all members wait for n - t statements. That is what brings proposals to those that lack them; whoever
   holds the candidate's proposal could only be confirmed by waiting. So it votes 1 at once, which is its statement too:
   one message delay and n (n - 1) messages less.)

*Agreement.* A candidate comes up only after the agreement on all before it decided 0, and n - t main-votes for 1, of
which correct members sign some, are the proof of a decision for 1. So one attempt only has such a proof, for one
candidate, and the candidate has one proposal: `Agreed.proof` convinces anybody, and no two convince of two values.

*External validity.* n - t members echoed the outcome, a correct one among them: it found it valid.

*Termination.* Count ones: n - t commitments with n - t ones each cannot be spread so thinly over n columns that there
is no column with more than t of them; at n = 3t + 1 more than a third of all columns has so many, at n = 4 three of
four. Let a candidate have such a column. Among the n - t statements that a member waits for is one by a member that
committed to 1. A "no" of that member does not count, so it said "yes" and showed the proposal; hence every correct
member goes into the agreement with 1, and it decides 1. Now the order was unknown when these n - t commitments were
made: the coin comes out only when correct members release shares, and the first to do so holds them already. So each
candidate is a good one with a constant probability, whatever the liars and the network do, and the expected number of
attempts is constant: at most 1.25 at n = 4. **Were the order known before**, a scheduler could let everybody commit
without the proposals of the first t candidates, and make every run take t + 1 attempts; and each attempt costs several
message delays.

What a commitment claims is recorded before the commitment leaves: a member that forgot it in a restart could say
neither yes nor no.

A member takes part in everything whether or not it has proposed anything. No step waits for a timer.

Source: Cachin, Kursawe, Petzold, Shoup (CRYPTO 2001), section 4, with the permutation of section 4.3 ("VBAconst").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Final, TypeAlias, TypeVar

import attrs

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import binary_agreement as ba
from bftkit.blocks import coin as co
from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks.permutation import permutation
from bftkit.blocks.validated_messages import (
    AGREEMENT,
    CODEC,
    COMMITMENT,
    ORDER,
    OUTCOME,
    PHASES,
    PROOFS,
    PROPOSAL,
    RECORDS,
    STATEMENT,
    Agreed,
    Agreement,
    Denied,
    Finished,
    Held,
    Input,
    Judge,
    Learn,
    Ordered,
    Part,
    Propose,
    Said,
    Strongest,
    check_agreed,
    part_id,
    read_vector,
    vector_bytes,
)
from bftkit.core.machine import Broadcast, Deliver, Machine, MemberId, Persist, Record, Transition
from bftkit.core.machine import Out as AnyOut
from bftkit.core.ordering import Setup
from bftkit.core.state import SHARED, Forkable
from bftkit.core.wire import WireError

__all__ = [
    "AGREEMENT",
    "CODEC",
    "COMMITMENT",
    "ID_BYTES_MAX",
    "ORDER",
    "OUTCOME",
    "PHASES",
    "PROPOSAL",
    "RECORDS",
    "STATEMENT",
    "Agreed",
    "Input",
    "Judge",
    "Learn",
    "Part",
    "Propose",
    "Strongest",
    "ValidatedAgreement",
    "check_agreed",
    "part_id",
]

Out: TypeAlias = AnyOut[Part, Agreed]
C = TypeVar("C")
CM = TypeVar("CM")
CO = TypeVar("CO")
Step: TypeAlias = Callable[[C, AnyOut[CM, CO]], None]
"""What a child machine is to do, with what takes its effects."""

ID_BYTES_MAX: Final = 112
"""The longest name of an instance. The names of what it consists of are a little longer."""

WAITING_MAX: Final = 8
"""So many messages of one sender about one agreement wait until this member comes to it; the newest stay.

The last one that a correct member sends there is the decision, which is all that a late member needs.
"""

# ------------------------------------------------------------------------------------------------- the machine


@attrs.define(eq=False)
class ValidatedAgreement(Forkable, Machine[Input, Part, Agreed]):
    """One member's part in one agreement; see `create`, and the top of this file."""

    setup: Setup = attrs.field(metadata=SHARED)
    judge: Judge = attrs.field(metadata=SHARED)
    me: int
    """This member's place in the roster, by which proposals, commitments and candidates are counted."""
    proposals: list[cb.ConsistentBroadcast]
    commitments: list[cb.ConsistentBroadcast]
    coin: co.CommonCoin

    held: dict[int, bytes] = attrs.field(factory=dict[int, bytes])
    """The proofs of the proposals that are here."""
    recorded: set[int] = attrs.field(factory=set[int])
    """Those of them that are in this member's records."""
    vectors: dict[int, int] = attrs.field(factory=dict[int, int])
    """The commitments that are here: bit i stands for the proposal of member i."""
    surplus: dict[tuple[int, int], dict[MemberId, cb.Final]] = attrs.field(
        factory=dict[tuple[int, int], dict[MemberId, cb.Final]]
    )
    """By kind and index, then sender: finals that nothing hangs on for the time being, unchecked."""
    released: bool = False
    order: tuple[int, ...] = ()
    """The candidates in their order; () as long as it is not known."""

    attempt: int = 0
    """The attempt that this member is in, from 1 on."""
    statements: dict[int, dict[int, bytes]] = attrs.field(factory=dict[int, dict[int, bytes]])
    """By attempt and speaker, this member included: the proof, or nothing for a "no"."""
    weighed: dict[int, bool] = attrs.field(factory=dict[int, bool])
    """Whose statements of this attempt count, and whose never will."""
    entered: bool = False
    """The agreement of this attempt has this member's input."""
    rejected: bool = False
    """The agreement of this attempt decided 0."""
    agreements: dict[int, ba.BinaryAgreement] = attrs.field(factory=dict[int, ba.BinaryAgreement])
    """By attempt: those that this member came to."""
    waiting: dict[int, dict[MemberId, deque[am.Message]]] = attrs.field(
        factory=dict[int, dict[MemberId, deque[am.Message]]]
    )
    """By attempt and sender: what was said of agreements that this member has not come to."""

    result: Agreed | None = None
    last_vote: Strongest | None = None
    """This member's strongest vote when it learned the outcome."""

    phases: ClassVar[tuple[Transition, ...]] = PHASES

    @classmethod
    def create(
        cls,
        setup: Setup,
        id: bytes,  # noqa: A002
        valid: Callable[[bytes], bool],
        value_max: int,
    ) -> ValidatedAgreement:
        """The instance `id` (up to 112 bytes), for values of up to `value_max` bytes.

        `valid` is a pure function of what is the same at every member. Raises `ValueError` for an id that is too long.
        """
        if len(id) > ID_BYTES_MAX:
            raise ValueError(f"an id of {len(id)} bytes is longer than {ID_BYTES_MAX}")
        proposal, commitment, vector_max = part_id(id, PROPOSAL), part_id(id, COMMITMENT), vector_bytes(setup)
        create = cb.ConsistentBroadcast.create
        return cls(
            setup,
            Judge(setup, id, valid, value_max),
            setup.members.index(setup.me),
            [create(setup, proposal, member, value_max) for member in setup.members],
            [create(setup, commitment, member, vector_max) for member in setup.members],
            co.CommonCoin.create(setup, part_id(id, ORDER)),
        )

    @property
    def phase(self) -> str:
        """For people and tests: see `PHASES`."""
        if self.result is not None:
            return "agreed"
        if self.order:
            return "attempting"
        return "tossing" if self.released else "gathering" if self._vector is None else "committed"

    def said(self) -> tuple[Part, ...]:
        """What this member said to all and what a peer that lost it may need, to come to the outcome with it."""
        if self.result is not None:
            return (Part(OUTCOME, 0, self.result.proof),)
        own, parts = self.me, list[Part]()
        parts += [Part(PROPOSAL, own, cb.CODEC.encode(message)) for message in self.proposals[own].said()]
        parts += [Part(COMMITMENT, own, cb.CODEC.encode(message)) for message in self.commitments[own].said()]
        parts += [Part(ORDER, 0, co.CODEC.encode(message)) for message in self.coin.said()]
        for attempt in sorted(self.statements):
            if own in self.statements[attempt]:
                parts.append(Part(STATEMENT, attempt, self.statements[attempt][own]))
        for attempt in sorted(self.agreements):
            parts += [Part(AGREEMENT, attempt, am.CODEC.encode(item)) for item in self.agreements[attempt].said()]
        return tuple(parts)

    def strongest(self) -> Strongest | None:
        """This member's main-vote for 0 or 1 of the highest attempt and round (SAFETY rule 22); None: there is none."""
        if self.result is not None:
            return self.last_vote
        for attempt in sorted(self.agreements, reverse=True):
            found = self.agreements[attempt].strongest()
            if found is not None:
                proof = self.agreements[attempt].evidence if found[1] else None
                return Strongest(attempt, self.order[attempt - 1], *found, proof or b"")
        return None

    # ------------------------------------------------------------------------------------------- inputs, messages

    def on_input(self, value: Input, out: Out) -> None:
        """Raises `ValueError` for a proposal that is not valid. After the first one, proposals are passed over."""
        match value:
            case Propose():
                self._on_propose(value.value, out)
            case Learn(proof):
                self._on_outcome(None, proof, out)
        self._advance(out)

    def _on_propose(self, value: bytes, out: Out) -> None:
        if not self.judge.accepts(value):
            raise ValueError("the proposed value is not valid")
        if self.result is None and self.proposals[self.me].value is None:
            self._in_proposal(self.me, lambda child, inner: child.on_input(cb.Start(value), inner), out)

    def on_message(self, sender: MemberId, message: Part, out: Out) -> None:
        """See `Machine.on_message`. Once the outcome is known, what peers say here is past: they have it sent."""
        if self.result is not None:
            return
        try:
            self._on_part(sender, message, out)
        except WireError as error:
            out.blame(sender, f"sent a part that cannot be read: {error}")
            return
        self._advance(out)

    def _on_part(self, sender: MemberId, part: Part, out: Out) -> None:
        kind, index, body, n = part.kind, part.index, part.body, self.setup.quorum.n
        if len(body) > self.judge.part_bytes_max:
            # Much of what comes waits here unchecked.
            out.blame(sender, f"sent a part of {len(body)} bytes, more than {self.judge.part_bytes_max}")
        elif kind in (PROPOSAL, COMMITMENT) and index < n:
            self._on_broadcast(kind, index, sender, cb.CODEC.decode(body), out)
        elif kind == ORDER and index == 0:
            share = co.CODEC.decode(body)
            self._in_coin(lambda child, inner: child.on_message(sender, share, inner), out)
        elif kind == AGREEMENT and 1 <= index <= n:
            self._on_agreement(sender, index, am.CODEC.decode(body), out)
        elif kind == STATEMENT and 1 <= index <= n:
            self._on_statement(sender, index, body, out)
        elif kind == OUTCOME and index == 0:
            self._on_outcome(sender, body, out)
        else:
            out.blame(sender, f"sent a part ({kind}, {index}), which does not exist")

    def _on_broadcast(self, kind: int, index: int, sender: MemberId, message: cb.Message, out: Out) -> None:
        """A message of the broadcast of a proposal or a commitment.

        To check a final is dear. With n - t of a kind here, the others wait, and are mostly never needed.
        """
        if isinstance(message, cb.Final) and not self._wanted(kind, index):
            self.surplus.setdefault((kind, index), {}).setdefault(sender, message)
            return
        within = self._in_proposal if kind == PROPOSAL else self._in_commitment
        within(index, lambda child, inner: child.on_message(sender, message, inner), out)

    def _wanted(self, kind: int, index: int) -> bool:
        """Whether a final of this broadcast would move anything here, or elsewhere.

        That of an own one is for others: a member that was restarted has forgotten it, and nobody else says it again.
        """
        if index == self.me:
            return True
        if kind == PROPOSAL:
            return self._vector is None or (self.attempt > 0 and self.order[self.attempt - 1] == index)
        return not self.released or self.statements.get(self.attempt, {}).get(index) == b""

    def _use_surplus(self, kind: int, index: int, out: Out) -> None:
        """The finals of a broadcast that waited are wanted now."""
        finals = self.surplus.pop((kind, index), {})
        for sender in sorted(finals):
            self._on_broadcast(kind, index, sender, finals[sender], out)

    def _on_agreement(self, sender: MemberId, attempt: int, message: am.Message, out: Out) -> None:
        """A vote about a candidate. With evidence it is a "yes" too. It waits until this member comes to it."""
        if not isinstance(message, am.CoinShare | am.Wish) and message.evidence:
            self._on_statement(sender, attempt, message.evidence, out)
        if attempt in self.agreements:
            self._in_agreement(attempt, lambda child, inner: child.on_message(sender, message, inner), out)
        elif attempt > self.attempt:
            waiting = self.waiting.setdefault(attempt, {})
            waiting.setdefault(sender, deque(maxlen=WAITING_MAX)).append(message)

    def _on_statement(self, sender: MemberId, attempt: int, proof: bytes, out: Out) -> None:
        """The first statement of each member about each candidate; it waits until the candidate is known."""
        if attempt < self.attempt:
            return
        speaker = self.setup.members.index(sender)
        if speaker not in self.statements.setdefault(attempt, {}):
            if len(proof) > self.judge.proof_bytes_max:
                out.blame(sender, f"sent a proof of {len(proof)} bytes, more than {self.judge.proof_bytes_max}")
                return
            self.statements[attempt][speaker] = proof
            if attempt == self.attempt:
                self._weigh(speaker, out)

    def _on_outcome(self, sender: MemberId | None, proof: bytes, out: Out) -> None:
        """Whoever says it, a good proof decides."""
        if self.result is not None:
            return
        value = self.judge.agreed(proof)
        if value is not None:
            self._finish(value, proof, out)
        elif sender is not None:
            out.blame(sender, "sent an outcome with a bad proof")

    # ------------------------------------------------------------------------------------------- restarts

    def on_restore(self, records: Sequence[Record], out: Out) -> None:
        """Be again who said all this, and go on from there."""
        parts: dict[tuple[int, int], list[Record]] = {}
        outcome = b""
        for record in records:
            match RECORDS.decode(record):
                case Said(kind, index, inner):
                    parts.setdefault((kind, index), []).append(inner)
                case Held(candidate, proof):
                    self.held[candidate] = proof
                    self.recorded.add(candidate)
                case Ordered(coin):
                    self.order = permutation(coin, self.setup.quorum.n)
                case Denied(attempt):
                    self.statements.setdefault(attempt, {})[self.me] = b""
                case Finished(proof):
                    outcome = proof
        for kind, index in sorted(parts):
            self._restore_part(kind, index, parts[kind, index], out)
        if outcome:
            value = self.judge.agreed(outcome)
            assert value is not None, "the record of an outcome that is none"
            self._take(Agreed(value, outcome), out)
            return
        # Whoever took part in an attempt knew that all before it had decided 0.
        last = max((*self.statements, *self.agreements), default=0)
        if last and self.order and self.result is None:
            self._enter(last, out)
        self._advance(out)

    def _restore_part(self, kind: int, index: int, records: Sequence[Record], out: Out) -> None:
        if kind == PROPOSAL:
            self._in_proposal(index, lambda child, inner: child.on_restore(records, inner), out)
        elif kind == COMMITMENT:
            self._in_commitment(index, lambda child, inner: child.on_restore(records, inner), out)
        elif kind == ORDER:
            self.released = True
            self._in_coin(lambda child, inner: child.on_restore(records, inner), out)
        else:
            assert kind == AGREEMENT, "nothing else has records"
            if not self.order:
                # The log's older end was cut off, and the order with it: what is left of this is settled long since.
                return
            candidate = self.order[index - 1]
            if candidate in self.held:
                self.statements.setdefault(index, {}).setdefault(self.me, self.held[candidate])
            self.agreements[index] = self._agreement(index)
            self._in_agreement(index, lambda child, inner: child.on_restore(records, inner), out)
            self._in_agreement(index, lambda child, inner: child.on_start(inner), out)

    # ------------------------------------------------------------------------------------------- going on

    def _advance(self, out: Out) -> None:
        """Everything that has become possible; each step is taken once."""
        if self.result is None:
            self._commit(out)
            self._release(out)
        while self.result is None and self._attempt(out):
            pass

    @property
    def _vector(self) -> bytes | None:
        """This member's commitment, once it has made one."""
        return self.commitments[self.me].value

    def _commit(self, out: Out) -> None:
        """With n - t proposals here: commit to which ones."""
        if self._vector is not None or len(self.held) < self.setup.quorum.available:
            return
        vector = 0
        for candidate in sorted(self.held):
            self._record(candidate, out)
            vector |= 1 << candidate
        value = vector.to_bytes(vector_bytes(self.setup), "little")
        self._in_commitment(self.me, lambda child, inner: child.on_input(cb.Start(value), inner), out)

    def _release(self, out: Out) -> None:
        """With n - t commitments here, which nobody can change any more: let the order be known."""
        if not self.released and len(self.vectors) >= self.setup.quorum.available:
            self.released = True
            self._in_coin(lambda child, inner: child.on_input(co.Release(), inner), out)

    def _attempt(self, out: Out) -> bool:
        """One step in trying the candidates; whether there was one to take."""
        if not self.order:
            return False
        if self.attempt == 0 or self.rejected:
            # That all candidates are rejected is not possible while at most f members lie.
            if self.attempt == self.setup.quorum.n:
                return False
            self._enter(self.attempt + 1, out)
            return True
        candidate = self.order[self.attempt - 1]
        if candidate not in self.held:
            self._deny(out)
        if not self.entered and self._informed(candidate):
            self._vote(candidate, out)
            return True
        return False

    def _informed(self, candidate: int) -> bool:
        """Whether this member knows what to vote: it holds the proposal, or n - t members spoke and none showed it."""
        return candidate in self.held or sum(self.weighed.values()) >= self.setup.quorum.available

    def _enter(self, attempt: int, out: Out) -> None:
        """The turn of the next candidate: hear what was said of it before."""
        self.attempt, self.entered, self.rejected, self.weighed = attempt, False, False, {}
        if attempt not in self.agreements:
            self.agreements[attempt] = self._agreement(attempt)
        elif self.agreements[attempt].decision is not None:
            # For 0, else there were an outcome. A restart found that, and no word of this member's on the next one.
            self.rejected = True
        self._use_surplus(PROPOSAL, self.order[attempt - 1], out)
        for speaker in sorted(self.statements.get(attempt, {})):
            self._weigh(speaker, out)
        waiting = self.waiting.pop(attempt, {})
        for sender in sorted(waiting):
            for message in waiting[sender]:
                if self.result is None:
                    self._on_agreement(sender, attempt, message, out)

    def _deny(self, out: Out) -> None:
        """Say "no", once a commitment of this member's stands that says so too."""
        said = self.statements.setdefault(self.attempt, {})
        if self.me not in said and self._vector is not None:
            said[self.me] = b""
            out.persist(RECORDS.encode(Denied(self.attempt)))
            out.broadcast(Part(STATEMENT, self.attempt, b""))
            self._weigh(self.me, out)

    def _weigh(self, speaker: int, out: Out) -> None:
        """Whether the statement of a member about this attempt's candidate counts; a "no" may have to wait."""
        said = self.statements.get(self.attempt, {})
        if speaker in self.weighed or speaker not in said:
            return
        proof, candidate, member = said[speaker], self.order[self.attempt - 1], self.setup.members[speaker]
        if not proof and speaker not in self.vectors:
            # If the commitment is among them, this comes back here and weighs it.
            self._use_surplus(COMMITMENT, speaker, out)
            if speaker in self.weighed:
                return
        if proof:
            counts = self.judge.proves(candidate, proof)
            if counts:
                self.held.setdefault(candidate, proof)
            else:
                out.blame(member, "showed a proposal with a bad proof")
        elif speaker == self.me:
            counts = True
        elif speaker in self.vectors:
            counts = not self.vectors[speaker] >> candidate & 1
            if not counts:
                out.blame(member, "denied a proposal that it had committed to")
        else:
            return
        self.weighed[speaker] = counts

    def _vote(self, candidate: int, out: Out) -> None:
        """Go into the agreement about the candidate."""
        self.entered = True
        holds = candidate in self.held
        if holds:
            self._record(candidate, out)
            self.statements.setdefault(self.attempt, {}).setdefault(self.me, self.held[candidate])
        wish = ba.Propose(holds, self.held[candidate] if holds else b"")
        self._in_agreement(self.attempt, lambda child, inner: child.on_input(wish, inner), out)

    def _record(self, candidate: int, out: Out) -> None:
        """Make a proposal durable, before it is claimed."""
        if candidate not in self.recorded:
            self.recorded.add(candidate)
            out.persist(RECORDS.encode(Held(candidate, self.held[candidate])))

    def _finish(self, value: bytes, proof: bytes, out: Out) -> None:
        """The outcome is known here. Everybody is told: this member says nothing more that could help a late one."""
        out.persist(RECORDS.encode(Finished(proof)))
        out.broadcast(Part(OUTCOME, 0, proof))
        self._take(Agreed(value, proof), out)

    def _take(self, result: Agreed, out: Out) -> None:
        self.last_vote = self.strongest()
        self.result = result
        for table in (
            self.held,
            self.vectors,
            self.statements,
            self.weighed,
            self.agreements,
            self.waiting,
            self.surplus,
        ):
            table.clear()
        self.recorded.clear()
        self.proposals.clear()
        self.commitments.clear()
        out.deliver(result)

    # ------------------------------------------------------------------------------------------- the parts

    def _in_proposal(self, index: int, step: Step[cb.ConsistentBroadcast, cb.Message, cb.Output], out: Out) -> None:
        """Let the broadcast of a member's proposal take a step."""
        child = self.proposals[index]
        inner: AnyOut[cb.Message, cb.Output] = AnyOut()
        step(child, inner)
        for output in adopt(PROPOSAL, index, cb.CODEC.encode, inner, out):
            match output:
                case cb.Offered(value):
                    if self.judge.accepts(value):
                        self._in_proposal(index, lambda child, inner: child.on_input(cb.Approve(), inner), out)
                    else:
                        out.blame(child.sender, "proposed a value that is not valid")
                case cb.Delivered(value, proof):
                    # Correct members echoed it, so it is valid, unless more lie than the group is to survive.
                    if self.judge.accepts(value):
                        self.held.setdefault(index, proof)

    def _in_commitment(self, index: int, step: Step[cb.ConsistentBroadcast, cb.Message, cb.Output], out: Out) -> None:
        """Let the broadcast of a member's commitment take a step."""
        child = self.commitments[index]
        inner: AnyOut[cb.Message, cb.Output] = AnyOut()
        step(child, inner)
        for output in adopt(COMMITMENT, index, cb.CODEC.encode, inner, out):
            match output:
                case cb.Offered(value):
                    if read_vector(self.setup, value) is not None:
                        self._in_commitment(index, lambda child, inner: child.on_input(cb.Approve(), inner), out)
                    else:
                        out.blame(child.sender, "committed to fewer than n - t proposals")
                case cb.Delivered(value, _):
                    vector = read_vector(self.setup, value)
                    if vector is not None:
                        self.vectors[index] = vector
                        self._weigh(index, out)

    def _in_coin(self, step: Step[co.CommonCoin, co.Message, co.Output], out: Out) -> None:
        """Let the coin take a step."""
        inner: AnyOut[co.Message, co.Output] = AnyOut()
        step(self.coin, inner)
        for output in adopt(ORDER, 0, co.CODEC.encode, inner, out):
            if not self.order:
                out.persist(RECORDS.encode(Ordered(output.value)))
                self.order = permutation(output.value, self.setup.quorum.n)

    def _agreement(self, attempt: int) -> ba.BinaryAgreement:
        """The agreement about the candidate of an attempt, as it begins."""
        candidate = self.order[attempt - 1]
        name = self.judge.agreement_id(attempt, candidate)
        return ba.BinaryAgreement.create(self.setup, name, biased=True, valid=partial(self.judge.proves, candidate))

    def _in_agreement(self, attempt: int, step: Step[ba.BinaryAgreement, am.Message, ba.Decided], out: Out) -> None:
        """Let the agreement of an attempt take a step."""
        inner: AnyOut[am.Message, ba.Decided] = AnyOut()
        step(self.agreements[attempt], inner)
        decided = next((effect.output for effect in inner.effects if isinstance(effect, Deliver)), None)
        if decided is not None and decided.value:
            # The outcome says all that the agreement's own decision says, and in whatever phase a peer is.
            inner.effects = [
                effect
                for effect in inner.effects
                if not (isinstance(effect, Broadcast) and isinstance(effect.message, am.Decision))
                and not (isinstance(effect, Persist) and effect.record == decided.proof)
            ]
        adopt(AGREEMENT, attempt, am.CODEC.encode, inner, out)
        candidate, evidence = self.order[attempt - 1], self.agreements[attempt].evidence
        if evidence:
            self.held.setdefault(candidate, evidence)
        if decided is None:
            return
        if decided.value:
            value = self.judge.value(candidate, decided.evidence)
            assert value is not None, "1 was decided without the evidence that each vote for it carries"
            proof = PROOFS.encode(Agreement(attempt, candidate, decided.proof))
            self._finish(value, proof, out)
        elif attempt == self.attempt:
            self.rejected = True


# ------------------------------------------------------------------------------------------------- small parts


def adopt(kind: int, index: int, encode: Callable[[CM], bytes], inner: AnyOut[CM, CO], out: Out) -> list[CO]:
    """Take the effects of the part (kind, index) as ours; its outputs."""

    def wrap(message: CM) -> Part:
        return Part(kind, index, encode(message))

    def wrap_record(record: Record) -> Record:
        return RECORDS.encode(Said(kind, index, record))

    return out.adopt(kind, inner, wrap, wrap_record)
