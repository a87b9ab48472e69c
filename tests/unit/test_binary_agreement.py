"""Binary agreement, one machine at a time: each rule of the paper, each lie, memory, and restarts.

`m0` is the machine under test. A `Forger` holds the keys of the three others, so that it can say whatever they might.
"""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

import attrs
import pytest

from bftkit.blocks.agreement_messages import (
    CODEC,
    PROOFS,
    Abstention,
    AllAbstained,
    CoinShare,
    Decision,
    MainVote,
    Message,
    PreVote,
    Shown,
    Wish,
    check_decision,
    check_proof,
    coin_id,
    read_decision,
)
from bftkit.blocks.agreement_rounds import EARLY_SHARES
from bftkit.blocks.binary_agreement import BinaryAgreement, Decided, Input, Learn, Propose
from bftkit.core.machine import Blame, Broadcast, Deliver, MemberId, Out, Persist, Record
from bftkit.core.ordering import Setup
from bftkit.sim.adversaries.agreement import Forger
from bftkit.sim.block_world import BlockWorld, block_setups

ID = b"agreement"
EVIDENCE = b"good evidence"
T = TypeVar("T")


def valid(evidence: bytes) -> bool:
    return evidence.startswith(b"good")


class Bench:
    """One machine, and what the others say to it."""

    def __init__(self, *, validated: bool = True, biased: bool = False, seed: int = 1) -> None:
        self.setups = block_setups(4, 1, seed=seed)
        self.validated, self.biased = validated, biased
        others = {name: setup for name, setup in self.setups.items() if name != "m0"}
        self.forger = Forger(others, ID, EVIDENCE if validated else b"", biased=biased)
        self.machine = self.fresh()
        self.records: list[Record] = []
        self.said: list[Message] = []
        self.blames: list[Blame] = []
        self.decided: list[Decided] = []

    @property
    def setup(self) -> Setup:
        return self.setups["m0"]

    def fresh(self) -> BinaryAgreement:
        return BinaryAgreement.create(self.setup, ID, biased=self.biased, valid=valid if self.validated else None)

    def take(self, out: Out[Message, Decided]) -> list[Message]:
        """What was said in this step; the rest is kept."""
        said: list[Message] = []
        for effect in out.effects:
            match effect:
                case Broadcast(message):
                    said.append(message)
                    self.forger.hear("m0", message)
                case Persist(record):
                    self.records.append(record)
                case Blame():
                    self.blames.append(effect)
                case Deliver(output):
                    self.decided.append(output)
                case _:
                    raise AssertionError(effect)
        self.said += said
        return said

    def propose(self, value: bool) -> list[Message]:
        return self.give(Propose(value, EVIDENCE if value and self.validated else b""))

    def give(self, value: Input) -> list[Message]:
        out = Out[Message, Decided]()
        self.machine.on_input(value, out)
        return self.take(out)

    def hear(self, sender: MemberId, message: Message | None) -> list[Message]:
        assert message is not None, "nothing justifies this message"
        out = Out[Message, Decided]()
        self.machine.on_message(sender, CODEC.decode(CODEC.encode(message)), out)
        return self.take(out)

    def restart(self, records: Sequence[Record] | None = None) -> None:
        self.machine = self.fresh()
        out = Out[Message, Decided]()
        self.machine.on_restore(self.records if records is None else records, out)
        self.machine.on_start(out)
        self.take(out)

    def mixed_round_one(self) -> list[Message]:
        """m0 is for 0, m1 is for 1: m0 abstains in round 1."""
        self.propose(False)
        self.hear("m1", self.forger.pre_vote("m1", 1, True))
        return self.hear("m2", self.forger.pre_vote("m2", 1, False))

    def all_abstain(self) -> list[Message]:
        """As above; then m0 holds three abstentions."""
        self.mixed_round_one()
        self.hear("m1", self.forger.abstention("m1", 1))
        return self.hear("m2", self.forger.abstention("m2", 1))

    def coin(self, number: int) -> bool:
        """The coin, as the others with m0's share would find it; or fixed."""
        assert self.setup.coins is not None
        shares = {name: setup.coins.share(coin_id(ID, number)) for name, setup in self.setups.items() if setup.coins}
        return bool(self.setup.coins.combine(coin_id(ID, number), shares)[0] & 1)

    def toss(self, number: int) -> list[Message]:
        """Two others release their shares; with m0's own that is the coin."""
        said = self.hear("m1", self.forger.share("m1", number))
        return said + self.hear("m2", self.forger.share("m2", number))


def one(messages: Sequence[Message], kind: type[T]) -> T:
    (found,) = [message for message in messages if isinstance(message, kind)]
    return found


def kinds(messages: Sequence[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


# ------------------------------------------------------------------------------------------------- inputs


def test_what_cannot_run_is_refused() -> None:
    setups = block_setups(4, 1)
    with pytest.raises(ValueError, match="2 faulty members need 7"):
        BinaryAgreement.create(block_setups(6, 1, 1)["m0"], ID)
    with pytest.raises(ValueError, match="no coin keys"):
        BinaryAgreement.create(attrs.evolve(setups["m0"], coins=None), ID)
    with pytest.raises(ValueError, match="must take 3 shares, not 2"):
        BinaryAgreement.create(block_setups(4, 1, coin_threshold=2)["m0"], ID)
    for wrong in (b"", bytes(129)):
        with pytest.raises(ValueError, match="id"):
            BinaryAgreement.create(setups["m0"], wrong)


@pytest.mark.parametrize(("value", "evidence"), [(True, b""), (True, b"bad"), (False, EVIDENCE)])
def test_evidence_that_does_not_fit_the_proposal_is_the_callers_mistake(value: bool, evidence: bytes) -> None:
    with pytest.raises(ValueError, match="evidence"):
        Bench().give(Propose(value, evidence))


def test_the_validated_form_pre_votes_its_input_and_only_the_first_counts() -> None:
    bench = Bench()
    vote = one(bench.propose(True), PreVote)
    assert (vote.round, vote.value, vote.soft, vote.certificate, vote.evidence) == (1, True, False, b"", EVIDENCE)
    assert bench.propose(False) == bench.propose(True) == []


@pytest.mark.parametrize("majority", [False, True])
def test_the_plain_form_pre_votes_what_most_of_n_minus_t_wish(majority: bool) -> None:
    bench = Bench(validated=False)
    assert kinds(bench.propose(not majority)) == ["Wish"]
    assert bench.hear("m1", bench.forger.wish("m1", majority)) == []
    vote = one(bench.hear("m2", bench.forger.wish("m2", majority)), PreVote)
    assert vote.value == majority
    other = Bench(validated=False)
    other.hear("m1", attrs.evolve(vote, vote=bench.forger.pre_vote("m1", 1, majority).vote))  # type: ignore[union-attr]
    assert not other.blames
    assert other.machine.fingerprint() != other.fresh().fingerprint()


def test_the_plain_form_takes_no_first_pre_vote_that_no_correct_member_need_wish() -> None:
    bench = Bench(validated=False)
    bench.propose(False)
    vote = bench.forger.pre_vote("m1", 1, True)
    assert vote is not None
    for certificate in (b"", vote.certificate[:-1] + b"\0", bench.forger.pre_vote("m1", 1, False).certificate):  # type: ignore[union-attr]
        bench.hear("m1", attrs.evolve(vote, certificate=certificate))
    assert [blame.fault for blame in bench.blames] == ["a pre-vote that is not justified"] * 3


# ------------------------------------------------------------------------------------------------- main-votes


def test_n_minus_t_pre_votes_for_one_value_make_a_main_vote_for_it() -> None:
    bench = Bench()
    bench.propose(True)
    assert bench.hear("m1", bench.forger.pre_vote("m1", 1, True)) == []
    vote = one(bench.hear("m2", bench.forger.pre_vote("m2", 1, True)), MainVote)
    assert (vote.round, vote.value, vote.evidence) == (1, True, EVIDENCE)
    assert bench.machine.strongest() == (1, True, vote.certificate)


def test_mixed_pre_votes_make_an_abstention_that_shows_both() -> None:
    bench = Bench()
    vote = one(bench.mixed_round_one(), Abstention)
    assert (vote.round, vote.zero.member, vote.one.member, vote.evidence) == (1, "m0", "m1", EVIDENCE)
    assert bench.machine.strongest() is None


# ------------------------------------------------------------------------------------------------- coins


def test_the_share_leaves_only_with_n_minus_t_main_votes_and_after_what_it_settles_is_durable() -> None:
    bench = Bench()
    bench.mixed_round_one()
    assert bench.hear("m1", bench.forger.abstention("m1", 1)) == []
    records = len(bench.records)
    assert kinds(bench.hear("m2", bench.forger.abstention("m2", 1))) == ["CoinShare"]
    assert kinds([CODEC.decode(record) for record in bench.records[records:]]) == ["AllAbstained", "CoinShare"]


def test_a_main_vote_among_them_makes_a_hard_pre_vote_at_once_and_the_share_leaves_after_it() -> None:
    bench = Bench()
    bench.mixed_round_one()
    bench.hear("m1", bench.forger.abstention("m1", 1))
    said = bench.hear("m3", bench.forger.main_vote("m3", 1, True))
    assert kinds(said) == ["PreVote", "CoinShare"]
    vote = one(said, PreVote)
    assert (vote.round, vote.value, vote.soft) == (2, True, False)


def test_who_saw_all_abstain_waits_for_n_minus_t_shares_and_pre_votes_the_coin() -> None:
    bench = Bench()
    bench.all_abstain()
    assert bench.hear("m1", bench.forger.share("m1", 1)) == []
    vote = one(bench.hear("m2", bench.forger.share("m2", 1)), PreVote)
    assert (vote.round, vote.value, vote.soft, vote.evidence) == (2, bench.coin(1), True, EVIDENCE)


def test_what_was_settled_with_the_share_stays_settled() -> None:
    """A main-vote that comes when the coin may be known already must not turn the next pre-vote (step 4's point)."""
    for seed in range(20):
        bench = Bench(seed=seed)
        bench.all_abstain()
        bench.hear("m3", bench.forger.main_vote("m3", 1, not bench.coin(1)))
        vote = one(bench.toss(1), PreVote)
        assert (vote.value, vote.soft) == (bench.coin(1), True)


def test_biased_the_first_coin_is_one_and_nobody_waits_for_it() -> None:
    bench = Bench(biased=True)
    said = bench.all_abstain()
    assert kinds(said) == ["PreVote"]
    assert (one(said, PreVote).value, one(said, PreVote).soft) == (True, True)


def test_a_soft_vote_waits_for_its_coin_and_is_judged_by_it() -> None:
    for seed in range(10):
        bench = Bench(seed=seed)
        bench.all_abstain()
        right, wrong = (
            bench.forger.pre_vote("m3", 2, bench.coin(1)),
            bench.forger.pre_vote("m3", 2, not bench.coin(1)),
        )
        assert right is not None
        assert wrong is None or not wrong.soft
        certificate = bench.forger.main_certificate(1, 2) or b""
        lie = PreVote(
            2, not bench.coin(1), True, certificate, bench.forger.pre_signature("m3", 2, not bench.coin(1)), EVIDENCE
        )
        bench.hear("m3", lie)
        bench.hear("m1", attrs.evolve(right, vote=bench.forger.pre_signature("m1", 2, bench.coin(1))))
        assert not bench.blames
        # While it waits it counts as said.
        bench.hear("m3", right)
        assert [blame.member for blame in bench.blames] == ["m3"]
        assert check_proof(bench.setups["m1"], bench.blames.pop().proof) == "m3"
        bench.toss(1)
        assert [(blame.member, blame.fault) for blame in bench.blames] == [("m3", "a pre-vote that is not justified")]
        # m0's and m1's count, m3's does not: one more makes the main-vote.
        vote = one(bench.hear("m2", bench.forger.pre_vote("m2", 2, bench.coin(1))), MainVote)
        assert vote.value == bench.coin(1)


def test_an_abstention_that_rests_on_a_coin_waits_for_it() -> None:
    bench = Bench()
    bench.all_abstain()
    coin = bench.coin(1)
    soft, hard = bench.forger.pre_vote("m3", 2, coin), bench.forger.pre_vote("m2", 2, not coin)
    assert hard is not None
    assert not hard.soft
    assert soft is not None
    if not soft.soft:
        soft = attrs.evolve(soft, soft=True, certificate=bench.forger.main_certificate(1, 2) or b"", evidence=EVIDENCE)
    shown = {
        soft.value: Shown("m3", soft.soft, soft.certificate, soft.vote),
        hard.value: Shown("m2", hard.soft, hard.certificate, hard.vote),
    }
    message = Abstention(2, shown[False], shown[True], bench.forger.main_signature("m1", 2, 2), EVIDENCE)
    bench.hear("m1", message)
    assert not bench.blames
    # While it waits it counts as said.
    bench.hear("m1", bench.forger.main_vote("m1", 2, not coin))
    assert [blame.member for blame in bench.blames] == ["m1"]
    assert check_proof(bench.setups["m3"], bench.blames[0].proof) == "m1"
    said = bench.toss(1)
    # The pre-votes that it shows count, so m0 has three of both kinds at once.
    assert kinds(said) == ["PreVote", "Abstention"]


# ------------------------------------------------------------------------------------------------- lies


def test_unjustified_votes_are_blamed_and_change_nothing() -> None:
    bench = Bench()
    bench.mixed_round_one()
    before = bench.machine.fingerprint()
    forger = bench.forger
    zero = forger.pre_vote("m3", 1, False)
    assert zero is not None
    hard, main, mixed = forger.pre_vote("m3", 2, True), forger.main_vote("m3", 1, True), forger.abstention("m3", 1)
    assert hard is not None
    assert main is not None
    assert mixed is not None
    lies: list[Message] = [
        attrs.evolve(zero, evidence=EVIDENCE),
        attrs.evolve(hard, certificate=b""),
        attrs.evolve(hard, certificate=forger.pre_certificate(1, False) or b"junk"),
        attrs.evolve(hard, evidence=b""),
        attrs.evolve(hard, evidence=b"bad"),
        attrs.evolve(hard, vote=bytes(64)),
        attrs.evolve(hard, soft=True, certificate=b""),
        attrs.evolve(hard, round=1, vote=forger.pre_signature("m3", 1, True)),
        attrs.evolve(hard, round=0, vote=forger.pre_signature("m3", 0, True)),
        attrs.evolve(main, certificate=b""),
        attrs.evolve(main, certificate=forger.pre_certificate(1, False) or b"junk"),
        attrs.evolve(main, evidence=b""),
        attrs.evolve(main, vote=bytes(64)),
        attrs.evolve(mixed, evidence=b""),
        attrs.evolve(mixed, zero=mixed.one),
        attrs.evolve(mixed, one=attrs.evolve(mixed.one, vote=bytes(64))),
        attrs.evolve(mixed, one=attrs.evolve(mixed.one, soft=True)),
        attrs.evolve(mixed, one=attrs.evolve(mixed.one, member="stranger")),
        attrs.evolve(
            mixed,
            zero=Shown("m2", False, b"", forger.pre_signature("m2", 1, False)),
            one=Shown("m2", False, b"", forger.pre_signature("m2", 1, True)),
        ),
        AllAbstained(1, b"", EVIDENCE),
        AllAbstained(1, forger.main_certificate(1, 0) or b"", EVIDENCE),
        Decision(1, True, b"", EVIDENCE),
        Decision(1, False, forger.main_certificate(1, 2) or b"", b""),
        Decision(2, True, forger.main_certificate(2, 1) or b"", b"bad"),
    ]
    for number, lie in enumerate(lies, 1):
        assert bench.hear("m3", lie) == [], lie
        assert len(bench.blames) == number, lie
    assert {blame.member for blame in bench.blames} == {"m3"}
    assert bench.machine.fingerprint() == before


def test_a_wish_with_a_bad_signature_is_blamed_and_does_not_count() -> None:
    bench = Bench(validated=False)
    bench.propose(False)
    bench.hear("m1", bench.forger.wish("m1", False))
    assert bench.hear("m2", Wish(False, bench.forger.wish("m3", False).vote)) == []
    assert [(blame.member, blame.fault) for blame in bench.blames] == [("m2", "a wish with a bad signature")]
    assert kinds(bench.hear("m2", bench.forger.wish("m2", False))) == ["PreVote"]


def test_a_vote_of_another_instance_is_no_vote() -> None:
    bench = Bench()
    others = {name: setup for name, setup in bench.setups.items() if name != "m0"}
    bench.hear("m1", Forger(others, b"another", EVIDENCE).pre_vote("m1", 1, True))
    assert [blame.fault for blame in bench.blames] == ["a vote with a bad signature"]


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_two_values_of_one_member_are_blamed_once_with_a_proof_for_anybody(phase: int) -> None:
    bench = Bench(validated=phase > 0)
    bench.propose(False)
    forger = bench.forger
    first: Message | None
    second: Message | None
    match phase:
        case 0:
            first, second = forger.wish("m3", False), forger.wish("m3", True)
        case 1:
            first, second = forger.pre_vote("m3", 1, False), forger.pre_vote("m3", 1, True)
        case _:
            first, second = forger.abstention("m3", 1), forger.main_vote("m3", 1, True)
    for message in (first, first, second, first, second):
        bench.hear("m3", message)
    (blame,) = bench.blames
    assert blame.member == "m3"
    # Checked by another member, and in another order of the two.
    assert check_proof(bench.setups["m1"], blame.proof) == "m3"
    for position in range(0, len(blame.proof), 7):
        changed = bytearray(blame.proof)
        changed[position] ^= 1
        assert check_proof(bench.setups["m1"], bytes(changed)) is None


def test_one_vote_twice_is_no_proof() -> None:
    bench = Bench()
    bench.propose(False)
    bench.hear("m3", bench.forger.pre_vote("m3", 1, False))
    bench.hear("m3", bench.forger.pre_vote("m3", 1, True))
    proof = PROOFS.decode(bench.blames[0].proof)
    same = attrs.evolve(proof, second=proof.first, second_vote=proof.first_vote)
    assert check_proof(bench.setups["m1"], PROOFS.encode(same)) is None
    assert check_proof(bench.setups["m1"], PROOFS.encode(attrs.evolve(proof, phase=3))) is None


def test_equivocation_inside_an_abstention_convicts_its_signer_not_its_bearer() -> None:
    bench = Bench()
    bench.propose(False)
    bench.hear("m3", bench.forger.pre_vote("m3", 1, False))
    shown = Shown("m3", False, b"", bench.forger.pre_signature("m3", 1, True))
    zero = Shown("m2", False, b"", bench.forger.pre_signature("m2", 1, False))
    bench.hear("m1", Abstention(1, zero, shown, bench.forger.main_signature("m1", 1, 2), EVIDENCE))
    assert [blame.member for blame in bench.blames] == ["m3"]
    assert check_proof(bench.setups["m2"], bench.blames[0].proof) == "m3"


# ------------------------------------------------------------------------------------------------- laggards


def test_a_certificate_of_pre_votes_takes_a_laggard_along_and_it_main_votes_there() -> None:
    bench = Bench()
    bench.propose(False)
    said = bench.hear("m1", bench.forger.main_vote("m1", 7, True))
    vote = one(said, MainVote)
    assert (vote.round, vote.value, bench.machine.round) == (7, True, 7)


def test_a_certificate_of_abstentions_takes_a_laggard_along_and_it_passes_it_on() -> None:
    bench = Bench()
    bench.propose(False)
    said = bench.hear("m1", bench.forger.all_abstained(7))
    assert kinds(said) == ["AllAbstained", "CoinShare"]
    assert bench.machine.said() == tuple(said)
    vote = one(bench.toss(7), PreVote)
    assert (vote.round, vote.value, vote.soft) == (8, bench.coin(7), True)


def test_nobody_is_taken_past_its_main_vote_by_a_hard_pre_vote() -> None:
    """Else a liar that is quick with certificates leads all members from round to round, and nobody ever decides."""
    bench = Bench()
    bench.propose(True)
    said = bench.hear("m3", bench.forger.pre_vote("m3", 2, True))
    assert kinds(said) == ["MainVote"]
    assert bench.machine.round == 1
    assert kinds(bench.hear("m1", bench.forger.main_vote("m1", 1, True))) == []
    assert kinds(bench.hear("m2", bench.forger.main_vote("m2", 1, True))) == ["Decision"]


def test_a_share_that_others_lack_leaves_though_the_round_is_past() -> None:
    """It skipped rounds; who stayed behind needs n - t shares to judge soft votes."""
    bench = Bench()
    bench.propose(False)
    bench.hear("m1", bench.forger.main_vote("m1", 7, True))
    shares = [message.round for message in bench.said if isinstance(message, CoinShare)]
    certificate = bench.forger.main_certificate(6, 2) or b""
    soft = PreVote(7, False, True, certificate, bench.forger.pre_signature("m2", 7, False), EVIDENCE)
    said = bench.hear("m2", soft)
    assert shares == []
    assert [message.round for message in said if isinstance(message, CoinShare)] == [6]


# ------------------------------------------------------------------------------------------------- memory


def test_memory_is_bounded_whatever_a_liar_sends() -> None:
    bench = Bench()
    bench.mixed_round_one()
    for number in range(1, 400):
        bench.hear("m3", bench.forger.share("m3", number))
        bench.hear("m3", PreVote(number, True, True, b"junk", bytes(64), EVIDENCE))
        bench.hear("m3", PreVote(number, True, True, b"junk", bench.forger.pre_signature("m3", number, True), EVIDENCE))
        bench.hear("m3", AllAbstained(number, b"junk", EVIDENCE))
    machine = bench.machine
    assert machine.round == 1
    assert sorted(machine._coins.early["m3"]) == [397, 398, 399]
    assert len(machine._coins.early["m3"]) == EARLY_SHARES
    assert sorted(machine._rounds) == [1]
    assert sorted(machine._coins.coins) == [1, 2]


def test_shares_that_come_before_their_round_count_when_it_comes() -> None:
    bench = Bench()
    bench.propose(False)
    assert bench.toss(7) == []
    said = bench.hear("m1", bench.forger.all_abstained(7))
    assert kinds(said) == ["AllAbstained", "CoinShare", "PreVote"]
    vote = one(said, PreVote)
    assert (vote.round, vote.value) == (8, bench.coin(7))


def test_rounds_that_are_long_past_are_forgotten() -> None:
    bench = Bench()
    bench.propose(False)
    for number in range(1, 100):
        for name in ("m1", "m2"):
            bench.hear(name, bench.forger.abstention(name, number))
            bench.hear(name, bench.forger.share(name, number))
        bench.hear("m3", bench.forger.abstention("m3", number))
        bench.hear("m3", bench.forger.share("m3", number))
    assert bench.machine.round == 100
    assert len(bench.machine._rounds) <= 4
    assert len(bench.machine._coins.coins) <= 4
    assert len(bench.machine.said()) <= 12
    assert not bench.machine._coins.early


# ------------------------------------------------------------------------------------------------- decisions


def decide(bench: Bench) -> Decided:
    bench.propose(True)
    bench.hear("m1", bench.forger.main_vote("m1", 1, True))
    bench.hear("m2", bench.forger.main_vote("m2", 1, True))
    (decided,) = bench.decided
    return decided


def test_a_decision_comes_with_its_evidence_and_convinces_everybody() -> None:
    bench = Bench()
    decided = decide(bench)
    assert (decided.value, decided.evidence) == (True, EVIDENCE)
    assert bench.machine.said() == (CODEC.decode(decided.proof),) == (bench.said[-1],)
    for setup in bench.setups.values():
        assert check_decision(setup, ID, decided.proof, valid) is True
        assert check_decision(setup, b"another", decided.proof, valid) is None
        assert read_decision(setup, ID, decided.proof) is None, "evidence where none is needed"
    assert check_decision(bench.setup, ID, b"junk") is None
    assert check_decision(bench.setup, ID, CODEC.encode(bench.said[0])) is None


@pytest.mark.parametrize("way", ["told", "learned"])
def test_the_proof_makes_another_member_decide_and_pass_it_on(way: str) -> None:
    proof = decide(Bench()).proof
    other = Bench()
    message = CODEC.decode(proof)
    said = other.hear("m3", message) if way == "told" else other.give(Learn(proof))
    assert said == [message]
    assert [output.proof for output in other.decided] == [proof]
    assert other.hear("m3", message) == other.give(Learn(proof)) == other.propose(False) == []


def test_a_bad_proof_teaches_nothing() -> None:
    bench = Bench()
    proof = decide(Bench()).proof
    decision = CODEC.decode(proof)
    assert isinstance(decision, Decision)
    for wrong in (
        b"",
        proof[:-1],
        CODEC.encode(attrs.evolve(decision, evidence=b"bad")),
        CODEC.encode(attrs.evolve(decision, value=False, evidence=b"")),
    ):
        assert bench.give(Learn(wrong)) == []
    assert not bench.decided


# ------------------------------------------------------------------------------------------------- restarts


def words(messages: Sequence[Message]) -> dict[tuple[str, int], int]:
    """What a member committed itself to, by phase and round. Raises if it said two things."""
    found: dict[tuple[str, int], int] = {}
    for message in messages:
        match message:
            case Wish(value):
                key, word = ("wish", 0), int(value)
            case PreVote(number, value):
                key, word = ("pre", number), int(value)
            case MainVote(number, value):
                key, word = ("main", number), int(value)
            case Abstention(number):
                key, word = ("main", number), 2
            case _:
                continue
        assert found.setdefault(key, word) == word, f"two words for {key}"
    return found


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_after_a_restart_at_any_point_a_member_never_contradicts_itself(validated: bool, seed: int) -> None:
    setups = block_setups(4, 1, seed=seed)

    def create(name: MemberId) -> BinaryAgreement:
        return BinaryAgreement.create(setups[name], ID, valid=valid if validated else None)

    world = BlockWorld({name: create(name) for name in setups}, seed=seed)
    for index, name in enumerate(world.members):
        one_here = index % 2 == 1
        world.input(name, Propose(one_here, EVIDENCE if one_here and validated else b""))
    world.run()
    records, random = world.records["m0"], Random(seed)
    assert len(records) >= 4
    others = [(name, said) for name in world.members[1:] for said in world.sent[name] if not isinstance(said, Decision)]
    for length in range(len(records)):
        again, out = create("m0"), Out[Message, Decided]()
        again.on_restore(records[:length], out)
        again.on_start(out)
        before = [CODEC.decode(record) for record in records[:length]]
        assert all(message in before for message in again.said() if not isinstance(message, CoinShare))
        again.on_input(Propose(True, EVIDENCE if validated else b""), out)
        for name, said in random.sample(others, len(others)):
            again.on_message(name, said, out)
        words([*before, *[effect.message for effect in out.effects if isinstance(effect, Broadcast)]])


def test_a_restarted_member_still_awaits_the_coin() -> None:
    for seed in range(20):
        bench = Bench(seed=seed)
        bench.all_abstain()
        said = bench.machine.said()
        # Even if the crash came before the share's own record: it leaves then, for the others cannot do without it.
        bench.restart(bench.records[: -1 if seed % 2 else None])
        assert bench.machine.said() == said
        assert one(said, CoinShare) in bench.said[len(said) if seed % 2 else 0 :]
        bench.hear("m3", bench.forger.main_vote("m3", 1, not bench.coin(1)))
        for name in ("m1", "m2", "m3"):
            bench.hear(name, bench.forger.share(name, 1))
        votes = [message for message in bench.said if isinstance(message, PreVote) and message.round == 2]
        assert [(vote.value, vote.soft) for vote in votes] == [(bench.coin(1), True)]


def test_a_share_that_was_due_beside_a_hard_pre_vote_leaves_after_a_restart() -> None:
    """Others may await the coin: they heard of abstentions only, and this member of a vote that they never see."""
    bench = Bench()
    bench.propose(True)
    bench.hear("m1", bench.forger.pre_vote("m1", 1, True))
    bench.hear("m2", bench.forger.pre_vote("m2", 1, True))
    bench.hear("m1", bench.forger.main_vote("m1", 1, True))
    for name in ("m1", "m2"):
        bench.forger.hear(name, bench.forger.pre_vote(name, 1, False))  # type: ignore[arg-type]
    assert kinds(bench.hear("m2", bench.forger.abstention("m2", 1))) == ["PreVote", "CoinShare"]
    share = one(bench.said, CoinShare)
    bench.said.clear()
    bench.restart(bench.records[:-1])
    assert bench.said == [share]


def test_a_restarted_member_says_what_it_said_and_knows_its_decision() -> None:
    bench = Bench()
    bench.all_abstain()
    said, strongest = bench.machine.said(), bench.machine.strongest()
    bench.restart()
    assert (bench.machine.said(), bench.machine.strongest()) == (said, strongest)
    bench.hear("m1", bench.forger.main_vote("m1", 5, False))
    strongest = bench.machine.strongest()
    bench.restart()
    assert bench.machine.strongest() == strongest is not None
    done = Bench()
    decided = decide(done)
    done.restart()
    assert done.decided == [decided, decided]
    assert done.machine.said() == (CODEC.decode(decided.proof),)


def test_a_fork_goes_its_own_way() -> None:
    bench = Bench()
    bench.mixed_round_one()
    fork = bench.machine.fork()
    assert fork.fingerprint() == bench.machine.fingerprint()
    bench.hear("m1", bench.forger.abstention("m1", 1))
    assert fork.fingerprint() != bench.machine.fingerprint()
