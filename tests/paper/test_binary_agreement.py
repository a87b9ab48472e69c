"""What the paper claims of binary agreement, claim by claim (Cachin, Kursawe, Shoup 2000, section 5; CRYPTO 2001).

A `Forger` holds the liars' keys and hears everything that was ever said. So "nothing justifies it" is asked of it: what
it cannot make, nobody can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import TypeAlias

import pytest

from bftkit.blocks.agreement_messages import (
    ABSTAIN,
    CODEC,
    Abstention,
    AllAbstained,
    CoinShare,
    Decision,
    MainVote,
    Message,
    PreVote,
    Valid,
)
from bftkit.blocks.binary_agreement import BinaryAgreement, Decided, Input, Propose
from bftkit.core.machine import MemberId, Out
from bftkit.sim.adversaries.agreement import Forger
from bftkit.sim.adversaries.agreement_schedule import WorstSchedule
from bftkit.sim.block_world import BlockWorld, Silent, block_setups
from tests.seeds import at_least

ID = b"paper"
EVIDENCE = b"good"
SEEDS = at_least(20)
World: TypeAlias = BlockWorld[Input, Message, Decided]


def valid(evidence: bytes) -> bool:
    return evidence == EVIDENCE


class Group:
    """A group whose liars say anything that they can justify, at any time, and junk."""

    def __init__(
        self, seed: int, inputs: Mapping[MemberId, bool], *, n: int = 4, f: int = 1, biased: bool, validated: bool
    ) -> None:
        self.setups = block_setups(n, f, seed=seed)
        self.random = Random(seed)
        self.evidence = EVIDENCE if validated else b""
        judge: Valid | None = valid if validated else None
        liars = [name for name in self.setups if name not in inputs]
        self.world: World = BlockWorld(
            {
                name: BinaryAgreement.create(setup, ID, biased=biased, valid=judge)
                for name, setup in self.setups.items()
            },
            seed=seed,
            liars=dict.fromkeys(liars, Silent()),
            codec=CODEC,
        )
        self.forger = Forger({name: self.setups[name] for name in liars}, ID, self.evidence, biased=biased)
        self.world.observers.append(self.forger.hear)
        for name, value in inputs.items():
            self.world.input(name, Propose(value, self.evidence if value else b""))

    @property
    def rounds(self) -> int:
        """The highest round of a correct member."""
        votes = [message for _, message in self.said() if isinstance(message, PreVote | MainVote | Abstention)]
        return max((vote.round for vote in votes), default=1)

    def said(self) -> list[tuple[MemberId, Message]]:
        return [(name, message) for name in self.world.honest for message in self.world.sent[name]]

    def lie(self) -> None:
        liar = self.random.choice(self.forger.liars)
        number = self.random.randint(max(1, self.rounds - 1), self.rounds + 1)
        message = self.forger.anything(liar, number, self.random)
        if message is not None:
            self.world.inject(liar, self.random.choice(self.world.honest), message)

    def run(self, until: Callable[[], bool] | None = None, lies: float = 0.3) -> None:
        decided = until or (lambda: all(self.world.outputs[name] for name in self.world.honest))
        for _ in range(20_000):
            if decided():
                return
            if self.random.random() < lies:
                self.lie()
            if not self.world.step():
                break
        assert decided(), "nothing is under way, and not everybody has decided"

    def decision(self) -> Decided:
        """The one value that everybody decided."""
        outputs = [self.world.outputs[name] for name in self.world.honest]
        assert all(len(said) == 1 for said in outputs)
        assert len({said[0].value for said in outputs}) == 1
        for setup in self.setups.values():
            for (said,) in outputs:
                assert isinstance(CODEC.decode(said.proof), Decision)
                assert setup.members == tuple(self.setups)
        return outputs[0][0]


def split(seed: int, n: int = 4, f: int = 1) -> dict[MemberId, bool]:
    """Inputs of the correct members, some of both; the liars have none."""
    random = Random(seed)
    names = [f"m{index}" for index in range(n)]
    honest = sorted(random.sample(names, n - f))
    return {name: index % 2 == seed % 2 for index, name in enumerate(honest)}


def forms() -> list[tuple[bool, bool]]:
    """(biased, validated): plain, validated, biased and validated."""
    return [(False, False), (False, True), (True, True)]


@pytest.mark.parametrize(("biased", "validated"), forms())
@pytest.mark.parametrize(("n", "f"), [(4, 1), (7, 2)])
def test_agreement_and_termination_among_liars(biased: bool, validated: bool, n: int, f: int) -> None:
    for seed in SEEDS:
        group = Group(seed, split(seed, n, f), n=n, f=f, biased=biased, validated=validated)
        group.run()
        decided = group.decision()
        assert decided.evidence == (EVIDENCE if decided.value and validated else b"")
        assert {blame.member for who, blame in group.world.blames if who in group.world.honest} <= {*group.forger.liars}


def test_validity_what_all_correct_members_wish_is_decided() -> None:
    """In the plain form. In round 1 the liars may pre-vote only what f + 1 members wish, so what all of them wish."""
    for seed in SEEDS:
        value = seed % 2 == 0
        group = Group(seed, dict.fromkeys(split(seed), value), biased=False, validated=False)
        group.run(lies=0.6)
        assert group.decision().value == value
        assert group.rounds <= 2


def test_external_validity_without_evidence_nobody_decides_one() -> None:
    for seed in SEEDS:
        group = Group(seed, dict.fromkeys(split(seed), False), biased=True, validated=True)
        group.forger.evidence = b"bad"
        group.run(lies=0.6)
        assert group.decision().value is False


def test_biased_what_t_plus_1_correct_members_propose_is_decided() -> None:
    for seed in SEEDS:
        names = sorted(split(seed))
        zero = names[seed % 3]
        group = Group(seed, {name: name != zero for name in names}, biased=True, validated=True)
        group.run()
        assert group.decision().value is True


def test_main_votes_for_0_and_1_are_never_both_justified_in_one_round() -> None:
    for seed in SEEDS:
        group = Group(seed, split(seed), biased=seed % 3 == 0, validated=seed % 2 == 0)
        group.run()
        group.world.run()
        for number in range(1, group.rounds + 2):
            both = [group.forger.pre_certificate(number, value) for value in (False, True)]
            assert None in both, f"seed {seed}, round {number}"


def test_a_decision_forces_every_justified_vote_of_the_next_round() -> None:
    for seed in SEEDS:
        group = Group(seed, split(seed), biased=seed % 3 == 0, validated=seed % 2 == 0)
        group.run()
        group.world.run()
        forger, decided = group.forger, group.decision().value
        message = CODEC.decode(group.decision().proof)
        assert isinstance(message, Decision)
        (liar,) = forger.liars
        for number in range(1, group.rounds + 2):
            if forger.decision(number, decided) is None:
                continue
            assert forger.all_abstained(number) is None
            assert forger.pre_vote(liar, number + 1, decided) is not None
            assert forger.pre_vote(liar, number + 1, not decided) is None, f"seed {seed}, round {number}"
            assert forger.abstention(liar, number + 1) is None
            assert forger.decision(number, not decided) is None


def test_a_share_leaves_only_with_n_minus_t_main_votes_in_hand() -> None:
    """Step 4, watched from outside: what a member heard and said itself, before its share of the round's coin left."""
    for seed in SEEDS:
        setups = block_setups(4, 1, seed=seed)
        world: World = BlockWorld(
            {name: BinaryAgreement.create(setups[name], ID) for name in setups}, seed=seed, choose=lambda world: 0
        )
        heard: dict[MemberId, set[tuple[int, MemberId]]] = {name: set() for name in world.members}
        certified: dict[MemberId, int] = dict.fromkeys(world.members, 0)

        def note(name: MemberId, sender: MemberId, message: Message) -> None:
            match message:
                case MainVote() | Abstention():
                    heard[name].add((message.round, sender))  # noqa: B023
                case PreVote(number, _, True) | AllAbstained(number):
                    # A certificate of abstentions is n - t main-votes.
                    past = number - isinstance(message, PreVote)
                    certified[name] = max(certified[name], past)  # noqa: B023
                case CoinShare(number) if name == sender:
                    votes = {voter for at, voter in heard[name] if at == number}  # noqa: B023
                    assert len(votes) >= 3 or certified[name] >= number, f"{name}, round {number}"  # noqa: B023
                case _:
                    pass

        world.observers.append(lambda name, message: note(name, name, message))
        random = Random(seed)
        for index, name in enumerate(world.members):
            world.input(name, Propose(index % 2 == 0))
        while world.flights:
            index = random.randrange(len(world.flights))
            flight = world.flights[index]
            note(flight.receiver, flight.sender, flight.message)
            world.deliver(index)
        assert all(world.outputs.values())


def test_nobody_waits_for_the_coin_but_who_saw_all_abstain() -> None:
    """All shares are lost: whoever has a main-vote for 0 or 1 among its n - t still goes on."""
    setups = block_setups(4, 1, seed=5)
    forger = Forger({name: setups[name] for name in ("m1", "m2", "m3")}, ID, EVIDENCE)
    waiting, going = (BinaryAgreement.create(setups["m0"], ID, valid=valid) for _ in range(2))
    for machine in (waiting, going):
        # In round 3, where it votes for what the coin of round 2 was.
        machine.on_message("m1", _made(forger.all_abstained(2)), Out())
        for liar in ("m1", "m2", "m3"):
            machine.on_message(liar, forger.share(liar, 2), Out())
        # With this abstention it holds three pre-votes, and abstains itself.
        machine.on_message("m1", _made(forger.abstention("m1", 3)), Out())
        assert (machine.round, machine.awaiting) == (3, False)
    waiting.on_message("m2", _made(forger.abstention("m2", 3)), Out())
    assert (waiting.round, waiting.awaiting) == (3, True)
    going.on_message("m3", _made(forger.main_vote("m3", 3, True)), Out())
    assert (going.round, going.awaiting) == (4, False)


def _made(message: Message | None) -> Message:
    assert message is not None
    return message


# ------------------------------------------------------------------------------------------------- rounds


def worst(seed: int, *, plain: bool, threshold: int, cutoff: int) -> int | None:
    setups = block_setups(4, 1, seed=seed, coin_threshold=threshold)
    return WorstSchedule(setups, plain=plain, coin_threshold=threshold).run(cutoff)


def test_the_worst_schedule_is_beaten_by_a_coin_of_n_minus_t_shares() -> None:
    """Each even round ends it with probability 1/2: rounds 3, 5, 7, ... in the plain form, mean 5."""
    rounds = [worst(seed, plain=True, threshold=3, cutoff=200) for seed in range(60)]
    ended = [number for number in rounds if number is not None]
    assert len(ended) == 60
    assert all(number % 2 == 1 and number >= 3 for number in ended)
    assert 3.6 < sum(ended) / 60 < 6.4
    assert max(ended) > 7, "a tail there is"


def test_the_worst_schedule_with_fixed_inputs() -> None:
    """In the validated form no input can follow the first coin: rounds 2, 4, 6, ..., mean 4."""
    rounds = [worst(seed, plain=False, threshold=3, cutoff=200) for seed in range(60)]
    ended = [number for number in rounds if number is not None]
    assert len(ended) == 60
    assert all(number % 2 == 0 for number in ended)
    assert 2.8 < sum(ended) / 60 < 5.2


def test_with_t_plus_1_shares_the_same_schedule_stalls_it_for_ever() -> None:
    assert [worst(seed, plain=True, threshold=2, cutoff=40) for seed in range(10)] == [None] * 10


def test_main_votes_are_counted_by_member_not_by_message() -> None:
    """One liar that main-votes b again and again is one vote."""
    setups = block_setups(4, 1)
    forger = Forger({name: setups[name] for name in ("m1", "m2", "m3")}, ID, EVIDENCE)
    machine, out = BinaryAgreement.create(setups["m0"], ID, valid=valid), Out[Message, Decided]()
    for _ in range(5):
        machine.on_message("m3", _made(forger.main_vote("m3", 1, True)), out)
    # Its own main-vote, from the certificate, and m3's.
    assert machine.decision is None
    machine.on_message("m2", _made(forger.main_vote("m2", 1, True)), out)
    assert machine.decision is not None
    assert forger.main_certificate(1, ABSTAIN) is not None
