"""Binary agreement: the members agree on 0 or 1, without a clock and without a leader, by votes and coins.

It goes in rounds of two votes; `agreement_messages` says what each message means. Every vote carries what justifies
it, so that a liar can say only what a correct member might have said (Cachin, Kursawe, Shoup, "Random oracles in
Constantinople", PODC 2000, section 5):

0. *Wish.* Tell the input. From n - t inputs, the majority is the first pre-vote.
1. *Pre-vote.* Later, from n - t main-votes of the round before: b, if one of them is for b; the
   coin, if all abstain.
2. *Main-vote.* From n - t pre-votes: b, if all are for b; else abstain.
3. *Decide* b on n - t main-votes for b. Else on to the next round, with n - t main-votes in hand; what they say is
   settled then, and only then does the share of this round's coin leave. Who must, waits for the coin.

**Agreement.** Two sets of n - t pre-votes share a correct member, so main-votes for 0 and 1 are never both justified in
a round; and beside n - t main-votes for b there are no n - t abstentions. So after a decision for b no pre-vote but for
b is justified, hence no main-vote but for b, for ever. No assumption on time or chance enters here.

**Termination.** When a coin comes out, t + 1 correct members at least have settled their next pre-votes, since at most
f of its n - t shares are liars'. If these pre-votes are all for one v, a certificate in their round can only be for v,
so with probability 1/2 that round's coin is v, too: then all pre-votes of the next round are for v, and it decides. If
they are not, some are hard for b and the others soft for a coin that fell against b (for b, it would be decided). In
that round the scheduler can wait for the coin and then have the others make a certificate against it; but those who
settled by then are all for the coin, or some of them were hard for a b that stood before it. So of two rounds in a row,
one coin at least ends it with probability 1/2 (`sim/adversaries/agreement_schedule.py` plays what is left). This needs
the threshold n - t: with t + 1, a coin is known while all correct members but one can still be steered.

**Certificates stand for votes.** A certificate of n - t pre-votes counts as those pre-votes, one of n - t abstentions
as those main-votes, wherever it is found. So a member that was away is taken to the present by any justified
message, and messages of rounds long past may be forgotten. It adds nothing that the votes one by one could not do: who
finds pre-votes for b casts its main-vote for b there (else a liar could take all members from round to round unheard),
and who finds abstentions without having voted passes them on, since others may be waiting for its vote.

**Three forms.** *Plain*: as above; step 0 makes sure that what all correct members wish is decided, since no liar can
justify another first pre-vote. *Validated* (`valid`; CRYPTO 2001, section 4): there is no step 0, the input is the
first pre-vote, and 1 needs evidence, which goes with all that a 1 may follow from; whoever decides 1 holds it.
*Biased*: no step 0 either, and the coin of round 1 is 1. Then 1 is decided if t + 1 correct members propose it.

Memory: the votes of three rounds, one of each member in each; two justified pre-votes a round; of coin shares that come
too early the newest few of each member.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import attrs

from bftkit.blocks.agreement_grounds import Abstained, Finding, Grounds, PreVoted, Vote
from bftkit.blocks.agreement_grounds import Input as Wished
from bftkit.blocks.agreement_messages import (
    ABSTAIN,
    CODEC,
    ID_BYTES_MAX,
    Abstention,
    AllAbstained,
    CoinShare,
    Decision,
    MainVote,
    Message,
    PreVote,
    Valid,
    Wish,
    check_decision,
    decision_holds,
    evidence_fits,
    read_decision,
)
from bftkit.blocks.agreement_rounds import KEPT, NOTHING, Round, RoundCoins
from bftkit.core.machine import Machine, MemberId, Out, Record, Transition
from bftkit.core.ordering import Setup
from bftkit.core.state import SHARED, Forkable

__all__ = [
    "CODEC",
    "PHASES",
    "BinaryAgreement",
    "Decided",
    "Input",
    "Learn",
    "Message",
    "Output",
    "Propose",
    "check_decision",
    "read_decision",
]


@attrs.frozen
class Propose:
    """This member's input; the first one counts. `evidence` is for 1 where that needs any, and else empty."""

    value: bool
    evidence: bytes = b""


@attrs.frozen
class Learn:
    """A `Decided.proof` that came on another way. What proves nothing is passed over."""

    proof: bytes


@attrs.frozen
class Decided:
    """The decision, said once (and once after each restart). `proof` convinces anybody; see `check_decision`."""

    value: bool
    evidence: bytes
    proof: bytes


Input: TypeAlias = Propose | Learn
Output: TypeAlias = Decided

PHASES: Final = (
    Transition("no input", "Propose (plain): persist and send the wish", "wished"),
    Transition("wished", "n - t wishes: persist and send the pre-vote", "pre-voted"),
    Transition("no input", "Propose (validated or biased): persist and send the pre-vote", "pre-voted"),
    Transition("pre-voted", "n - t justified pre-votes: persist and send the main-vote", "main-voted"),
    Transition("main-voted", "n - t justified main-votes, some for b: pre-vote b, release the share", "pre-voted"),
    Transition("main-voted", "n - t justified abstentions: release the share", "awaiting the coin"),
    Transition("awaiting the coin", "the coin: pre-vote it", "pre-voted"),
    Transition("any", "n - t main-votes for b, or a Decision", "decided"),
    Transition("any", "a certificate of pre-votes for b of this round or a later one: main-vote b", "main-voted"),
    Transition("any", "a certificate of abstentions of this round or a later one", "awaiting the coin"),
)
"""The phases, for the documentation."""


@attrs.define
class BinaryAgreement(Forkable, Machine[Input, Message, Output]):
    """One member's part in one agreement; see `create`."""

    setup: Setup = attrs.field(metadata=SHARED)
    grounds: Grounds
    _coins: RoundCoins
    round: int = 1
    awaiting: bool = False
    """All of n - t main-votes of `round` abstain, the share is out, and the next pre-vote is the coin."""
    decision: Decision | None = None
    evidence: bytes | None = None
    """Good evidence for 1, as soon as any was seen."""
    own_strongest: MainVote | None = None
    own_wish: Wish | None = None
    _wishes: dict[MemberId, tuple[bool, bytes]] = attrs.field(factory=dict[MemberId, tuple[bool, bytes]])
    """Value and vote; forgotten with round 1."""
    _rounds: dict[int, Round] = attrs.field(factory=dict[int, Round])
    _asked: set[int] = attrs.field(factory=set[int])
    """Rounds that are past here and whose coin others need: our share leaves at the end of this step."""

    @classmethod
    def create(
        cls,
        setup: Setup,
        id: bytes,  # noqa: A002
        *,
        biased: bool = False,
        valid: Valid | None = None,
        coin_threshold: int | None = None,
    ) -> BinaryAgreement:
        """The agreement that `id` names; `valid` says what is evidence for 1, and must be a pure function.

        Raises `ValueError` if the group cannot run it: fewer than 3 (f + c) + 1 members, no coin keys, or coins of
        another threshold than n - t. (`coin_threshold` lets a study see what another one does.)
        """
        quorum = setup.quorum
        if quorum.n < 3 * quorum.faulty + 1:
            raise ValueError(f"{quorum.faulty} faulty members need {3 * quorum.faulty + 1}; there are {quorum.n}")
        if not 0 < len(id) <= ID_BYTES_MAX:
            raise ValueError(f"an agreement's id has 1 to {ID_BYTES_MAX} bytes, not {len(id)}")
        if setup.coins is None:
            raise ValueError("this group has no coin keys")
        wanted = quorum.available if coin_threshold is None else coin_threshold
        if setup.coins.threshold != wanted:
            raise ValueError(f"the coin must take {wanted} shares, not {setup.coins.threshold}")
        return cls(setup, Grounds.of(setup, id, valid, biased), RoundCoins(setup, id, biased))

    # --------------------------------------------------------------------------------------------- what others ask

    def said(self) -> tuple[Message, ...]:
        """What this member said that may still matter to others, oldest first; after the decision only that."""
        if self.decision is not None:
            return (self.decision,)
        said: list[Message] = [] if self.own_wish is None else [self.own_wish]
        for number in sorted({*self._rounds, *self._coins.coins}):
            said += [*self._rounds.get(number, NOTHING).said(), *self._coins.said(number)]
        return tuple(said)

    def strongest(self) -> tuple[int, bool, bytes] | None:
        """(round, value, certificate of pre-votes) of this member's last main-vote for 0 or 1; None without one."""
        vote = self.own_strongest
        return None if vote is None else (vote.round, vote.value, vote.certificate)

    # --------------------------------------------------------------------------------------------- events

    def on_start(self, out: Out[Message, Output]) -> None:
        """Go on from what was restored. The crash may have taken the last record: a share that was due leaves now."""
        if self.decision is None:
            if self.awaiting:
                self._release(self.round, out)
            elif self.round > 1 and self._rounds.get(self.round, NOTHING).own_pre is not None:
                self._release(self.round - 1, out)
        self._advance(out)

    def on_input(self, value: Input, out: Out[Message, Output]) -> None:
        """Raises `ValueError` for evidence that is not what it must be."""
        match value:
            case Propose(wish, evidence):
                if not evidence_fits(wish, evidence, self.grounds.valid):
                    raise ValueError("the evidence must be good where 1 is proposed and needs any, and else empty")
                if wish:
                    self._keep_evidence(evidence)
                # A member that others took along, or that voted before it crashed, has no say in round 1 any more.
                first = self.round == 1 and not self.awaiting and self._rounds.get(1, NOTHING).own_pre is None
                if first and self.decision is None:
                    if self.grounds.plain:
                        self._make_wish(wish, out)
                    else:
                        self._pre_vote(1, wish, False, b"", out)
                    self._advance(out)
            case Learn(proof):
                decision = read_decision(self.setup, self.grounds.id, proof, self.grounds.valid)
                if decision is not None:
                    self._decide(decision, out)

    def on_message(self, sender: MemberId, message: Message, out: Out[Message, Output]) -> None:
        """Take a message for what it proves."""
        if self.decision is not None or sender not in self.setup.members:
            return
        match message:
            case Decision():
                if decision_holds(self.setup, self.grounds.id, message, self.grounds.valid):
                    self._decide(message, out)
                else:
                    out.blame(sender, "a decision that is not proved")
                return
            case Wish():
                self._on_wish(sender, message, out)
            case CoinShare(number, share):
                if self._coins.take(sender, number, share, self.round, out):
                    self._coin_came(number, out)
            case _ if message.round < 1:
                out.blame(sender, "a vote of no round")
            case _ if message.round < self.round - 1:
                # Nobody waits for anything in that round who has not heard of a later one, or soon will.
                return
            case PreVote():
                self._on_pre_vote(sender, message, out)
            case MainVote():
                self._on_main_vote(sender, message, out)
            case Abstention():
                self._on_abstention(sender, message, out)
            case AllAbstained():
                self._on_all_abstained(sender, message, out)
        self._advance(out)

    def on_restore(self, records: Sequence[Record], out: Out[Message, Output]) -> None:
        """Be again where one's own words say, so that nothing else is ever said in their place (SAFETY rule 5)."""
        for record in records:
            message = CODEC.decode(record)
            match message:
                case CoinShare(number, share):
                    self._coins.restore(number, share)
                case Wish(value, vote):
                    self.own_wish = message
                    self._wishes[self.setup.me] = value, vote
                case Decision():
                    self.decision = message
                    out.deliver(Decided(message.value, message.evidence, CODEC.encode(message)))
                    return
                case _:
                    self._restore(message)

    def _restore(self, message: Vote) -> None:
        if message.round > self.round:
            self._enter(message.round)
        about = self._round(message.round)
        me = self.setup.me
        match message:
            case PreVote():
                about.own_pre = message
                about.count_pre(me, message.value, message.soft, message.certificate, message.vote)
            case MainVote():
                about.own_main = self.own_strongest = message
                about.quorum = message.value, message.certificate
                about.main[me] = message.value, message.vote
            case Abstention():
                about.own_main = message
                about.main[me] = ABSTAIN, message.vote
            case AllAbstained():
                about.own_abstained = message
                about.abstained = message.certificate
                self.awaiting = True
        if self.grounds.needs_evidence(message):
            self._keep_evidence(message.evidence)

    # --------------------------------------------------------------------------------------------- others' votes

    def _on_wish(self, sender: MemberId, message: Wish, out: Out[Message, Output]) -> None:
        earlier = self._wishes.get(sender)
        if not self.grounds.plain or self.round > 1 or (earlier is not None and earlier[0] == message.value):
            return
        if not self.grounds.is_wish(sender, message.value, message.vote):
            out.blame(sender, "a wish with a bad signature")
        elif earlier is None:
            self._wishes[sender] = message.value, message.vote
        else:
            self._accuse(sender, 0, 1, earlier, (message.value, message.vote), out)

    def _on_pre_vote(self, sender: MemberId, message: PreVote, out: Out[Message, Output]) -> None:
        if not self._new_vote(sender, sender, False, message.round, message.value, message.vote, out):
            return
        if not self._evidence_good(message):
            out.blame(sender, "a pre-vote without the evidence that it needs")
            return
        verdict = self._rests(message.round, message.value, message.soft, message.certificate)
        if verdict is None:
            self._round(message.round).waiting_pre[sender] = message
        elif verdict:
            about = self._round(message.round)
            about.count_pre(sender, message.value, message.soft, message.certificate, message.vote)
        else:
            out.blame(sender, "a pre-vote that is not justified")

    def _on_main_vote(self, sender: MemberId, message: MainVote, out: Out[Message, Output]) -> None:
        number, value = message.round, message.value
        if not self._new_vote(sender, sender, True, number, value, message.vote, out):
            return
        if not self._evidence_good(message):
            out.blame(sender, "a main-vote without the evidence that it needs")
        elif not self.grounds.pre_voted(number, value, message.certificate):
            out.blame(sender, "a main-vote that is not justified")
        else:
            self._found(PreVoted(number, value, message.certificate))
            self._count_main(sender, number, value, message.vote, out)

    def _on_abstention(self, sender: MemberId, message: Abstention, out: Out[Message, Output]) -> None:
        if not self._new_vote(sender, sender, True, message.round, ABSTAIN, message.vote, out):
            return
        if not self._evidence_good(message):
            out.blame(sender, "an abstention without the evidence that it needs")
            return
        verdict = self._mixed(message)
        if verdict is None:
            self._round(message.round).waiting_main[sender] = message
        elif verdict:
            # The pre-votes that it shows are as good as if their signers had sent them here.
            for value, shown in ((False, message.zero), (True, message.one)):
                if self._new_vote(sender, shown.member, False, message.round, value, shown.vote, out):
                    about = self._round(message.round)
                    about.count_pre(shown.member, value, shown.soft, shown.certificate, shown.vote)
            self._count_main(sender, message.round, ABSTAIN, message.vote, out)
        else:
            out.blame(sender, "an abstention that is not justified")

    def _on_all_abstained(self, sender: MemberId, message: AllAbstained, out: Out[Message, Output]) -> None:
        if self._evidence_good(message) and self.grounds.abstained(message.round, message.certificate):
            self._found(Abstained(message.round, message.certificate))
        else:
            out.blame(sender, "abstentions that are not proved")

    def _new_vote(
        self,
        sender: MemberId,
        voter: MemberId,
        main: bool,
        number: int,
        value: int,
        vote: bytes,
        out: Out[Message, Output],
    ) -> bool:
        """Whether this is a good vote of a member that had none in this round and phase. Two values are a lie.

        `sender` showed it, and answers for a signature that is none; `voter` signed it.
        """
        about = self._rounds.get(number, NOTHING)
        earlier = about.earlier(voter, main)
        if earlier is not None and earlier[0] == value:
            return False
        signed = self.grounds.is_main_vote if main else self.grounds.is_pre_vote
        if not signed(voter, number, value, vote):
            out.blame(sender, "a vote with a bad signature")
            return False
        if earlier is None:
            return True
        self._accuse(voter, 1 + main, number, earlier, (value, vote), out)
        return False

    def _accuse(
        self,
        voter: MemberId,
        phase: int,
        number: int,
        first: tuple[int, bytes],
        second: tuple[int, bytes],
        out: Out[Message, Output],
    ) -> None:
        """Two values of one member in one phase and round: blame it, once."""
        accused = self._round(number).accused
        if (voter, phase) not in accused:
            accused.add((voter, phase))
            # A wish's statement has the round 0.
            proof = self.grounds.two(voter, phase, number if phase else 0, first, second)
            out.blame(voter, "two votes in one round", proof)

    # --------------------------------------------------------------------------------------------- justification

    def _evidence_good(self, message: Vote) -> bool:
        """Whether the message has the evidence that it needs, or needs none and has none. It is kept."""
        if not self.grounds.evidence_good(message, self.evidence):
            return False
        if self.grounds.needs_evidence(message):
            self._keep_evidence(message.evidence)
        return True

    def _keep_evidence(self, evidence: bytes) -> None:
        if self.evidence is None:
            self.evidence = evidence

    def _rests(self, number: int, value: bool, soft: bool, certificate: bytes) -> bool | None:
        """Whether a pre-vote is justified; None: it will be if the coin, which is not known yet, falls so.

        The evidence was looked at before, since what the certificate proves is taken in here.
        """
        finding = self.grounds.rests(number, value, soft, certificate)
        if finding is None:
            return False
        self._found(finding)
        if not soft:
            return True
        coin = self._coins.value(number - 1)
        return None if coin is None else coin == value

    def _mixed(self, message: Abstention) -> bool | None:
        """Whether an abstention shows a justified pre-vote for each value; None: that hangs on the coin."""
        if not self.grounds.shown_votes(message):
            return False
        verdicts = [
            self._rests(message.round, value, shown.soft, shown.certificate)
            for value, shown in ((False, message.zero), (True, message.one))
        ]
        return False if False in verdicts else None if None in verdicts else True

    def _found(self, finding: Finding) -> None:
        """Take in what a certificate proves; evidence for what may follow from it is in hand."""
        if isinstance(finding, Wished):
            return
        if finding.round > self.round:
            self._enter(finding.round)
        now = finding.round == self.round
        match finding:
            case PreVoted(number, value, certificate) if now:
                about = self._round(number)
                about.quorum = about.quorum or (value, certificate)
            case Abstained(number, certificate) if now:
                about = self._round(number)
                about.abstained = about.abstained or certificate
            case Abstained(number):
                # We are past that round: nothing that its coin says can change a word of ours there.
                self._asked.add(number)
            case _:
                pass

    # --------------------------------------------------------------------------------------------- counting

    def _count_main(self, voter: MemberId, number: int, value: int, vote: bytes, out: Out[Message, Output]) -> None:
        about = self._round(number)
        about.main[voter] = value, vote
        agreeing = about.votes_for(value)
        if value != ABSTAIN and len(agreeing) >= self.setup.quorum.available:
            certificate = self.grounds.main_votes(number, value, agreeing)
            self._decide(Decision(number, bool(value), certificate, self._evidence_for(value == 1)), out)

    def _evidence_for(self, needed: bool) -> bytes:
        if not needed or self.grounds.valid is None:
            return b""
        assert self.evidence is not None, "nothing that needs evidence was taken in without it"
        return self.evidence

    # --------------------------------------------------------------------------------------------- one's own steps

    def _advance(self, out: Out[Message, Output]) -> None:
        """Do all that can be done now; then give the shares that others need.

        In this order: what a share may not influence is written down before it leaves.
        """
        while self._step(out):
            pass
        while self._asked and self.decision is None:
            number = min(self._asked)
            self._asked.remove(number)
            if self.round - KEPT <= number < self.round:
                self._release(number, out)
                # A coin that became known may have brought votes in.
                while self._step(out):
                    pass

    def _step(self, out: Out[Message, Output]) -> bool:
        """One step of the paper's, if one is due; whether there may be another."""
        if self._coins.early:
            for tossed in self._coins.take_early(self.round, out):
                self._coin_came(tossed, out)
        if self.decision is not None:
            return False
        number, about = self.round, self._round(self.round)
        if self.awaiting:
            # "If all abstain, pre-vote the coin." What came since then changes nothing: the share is out.
            coin = self._coins.value(number)
            if coin is None:
                return False
            self._pre_vote(number + 1, coin, True, about.abstained, out)
            return True
        if number == 1 and self.own_wish is not None and about.own_pre is None and self._first_pre_vote(out):
            return True
        if about.own_main is None and self._main_vote(number, about, out):
            return True
        return self._close(number, about, out)

    def _make_wish(self, value: bool, out: Out[Message, Output]) -> None:
        if self.own_wish is None:
            vote = self.grounds.sign_wish(value)
            self.own_wish = Wish(value, vote)
            self._say(self.own_wish, out)
            self._wishes[self.setup.me] = value, vote

    def _first_pre_vote(self, out: Out[Message, Output]) -> bool:
        """In the plain form: pre-vote what most of n - t members wish, which one of them that is correct does."""
        if len(self._wishes) < self.setup.quorum.available:
            return False
        ones = sum(value for value, _ in self._wishes.values())
        value = 2 * ones >= len(self._wishes)
        votes = {member: vote for member, (wish, vote) in self._wishes.items() if wish == value}
        certificate = self.grounds.wishes(value, votes)
        self._pre_vote(1, value, False, certificate, out)
        return True

    def _main_vote(self, number: int, about: Round, out: Out[Message, Output]) -> bool:
        """Main-vote, if n - t justified pre-votes are in hand."""
        if about.quorum is None and len(about.pre) >= self.setup.quorum.available:
            values = {value for value, _ in about.pre.values()}
            if len(values) == 1:
                (value,) = values
                votes = {member: vote for member, (_, vote) in about.pre.items()}
                about.quorum = value, self.grounds.pre_votes(number, value, votes)
            else:
                vote = self.grounds.sign_main_vote(number, ABSTAIN)
                zero, one = about.shown[False], about.shown[True]
                about.own_main = Abstention(number, zero, one, vote, self._evidence_for(True))
                self._say(about.own_main, out)
                self._count_main(self.setup.me, number, ABSTAIN, vote, out)
                return True
        if about.quorum is None:
            return False
        value, certificate = about.quorum
        vote = self.grounds.sign_main_vote(number, value)
        about.own_main = self.own_strongest = MainVote(number, value, certificate, vote, self._evidence_for(value))
        self._say(about.own_main, out)
        self._count_main(self.setup.me, number, value, vote, out)
        return True

    def _close(self, number: int, about: Round, out: Out[Message, Output]) -> bool:
        """Leave the round, if n - t justified main-votes are in hand. What they say is settled with this step."""
        if len(about.main) < self.setup.quorum.available and not about.abstained:
            return False
        if any(value != ABSTAIN for value, _ in about.main.values()):
            assert about.quorum is not None, "a main-vote for 0 or 1 brings its certificate"
            value, certificate = about.quorum
            self._pre_vote(number + 1, value, False, certificate, out)
            self._release(number, out)
            return True
        if not about.abstained:
            about.abstained = self.grounds.main_votes(number, ABSTAIN, about.votes_for(ABSTAIN))
        about.own_abstained = AllAbstained(number, about.abstained, self._evidence_for(True))
        self.awaiting = True
        out.persist(CODEC.encode(about.own_abstained))
        if about.own_main is None:
            # Others may need n - t main-votes, and ours will never come.
            out.broadcast(about.own_abstained)
        self._release(number, out)
        return True

    def _pre_vote(self, number: int, value: bool, soft: bool, certificate: bytes, out: Out[Message, Output]) -> None:
        evidence = self._evidence_for(value or soft)
        vote = self.grounds.sign_pre_vote(number, value)
        if number > self.round:
            self._enter(number)
        about = self._round(number)
        about.own_pre = PreVote(number, value, soft, certificate, vote, evidence)
        self._say(about.own_pre, out)
        about.count_pre(self.setup.me, value, soft, certificate, vote)

    def _say(self, message: Wish | PreVote | MainVote | Abstention, out: Out[Message, Output]) -> None:
        out.persist(CODEC.encode(message))
        out.broadcast(message)

    def _decide(self, decision: Decision, out: Out[Message, Output]) -> None:
        """Decide, and send the proof to all, so that everybody gets there though we vote no more."""
        if self.decision is not None:
            return
        self.decision = decision
        self._rounds.clear()
        self._coins.clear()
        self._asked.clear()
        proof = CODEC.encode(decision)
        out.persist(proof)
        out.broadcast(decision)
        out.deliver(Decided(decision.value, decision.evidence, proof))

    # --------------------------------------------------------------------------------------------- rounds and coins

    def _round(self, number: int) -> Round:
        assert max(1, self.round - KEPT) <= number <= self.round + 1, "what is justified is of the present"
        return self._rounds.setdefault(number, Round())

    def _enter(self, number: int) -> None:
        """Go to a later round and forget what is too old to matter."""
        assert number > self.round
        self.round = number
        self.awaiting = False
        self._wishes.clear()
        for old in [key for key in self._rounds if key < number - KEPT]:
            del self._rounds[old]
        self._coins.forget(number)

    def _release(self, number: int, out: Out[Message, Output]) -> None:
        if self._coins.release(number, out):
            self._coin_came(number, out)

    def _coin_came(self, number: int, out: Out[Message, Output]) -> None:
        """The votes of the next round that waited for this round's coin are justified now, or lies."""
        about = self._rounds.get(number + 1)
        if about is None:
            return
        waiting_pre, about.waiting_pre = about.waiting_pre, {}
        waiting_main, about.waiting_main = about.waiting_main, {}
        for member in self.setup.members:
            if member in waiting_pre:
                self._on_pre_vote(member, waiting_pre[member], out)
        for member in self.setup.members:
            if member in waiting_main:
                self._on_abstention(member, waiting_main[member], out)
