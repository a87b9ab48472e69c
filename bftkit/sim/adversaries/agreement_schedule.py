"""The worst schedule for binary agreement that we know: one liar of four, and every message when it hurts most.

It sees everything, makes what votes the liar D can justify, and picks who hears what, when. It knows a round's coin
as soon as shares enough were released, D's own among them, and steers who is not settled then. In each round one of
the correct members A, B and C, namely C, is kept behind: it has not settled the round before.

*Split* round: A and B are for different values, C is free to come to either. A and B hear both, abstain, and settle
that all abstain, so that the coin x is out. Now C is brought to 1 - x, which with D makes a certificate for 1 - x in
this round; so in the next A and B are for x, while C and D can be for 1 - x. No coin stops this.

*Even* round: A and B are for v, and D can show votes for 1 - v. A hears v only and main-votes it; B and C hear both and
abstain. B hears abstentions, A goes by its own main-vote to v again. If the coin is v, nothing but v can be justified
any more, and the next round decides. If not, the next round is split. So chance 1/2 ends it in every second round.

With a coin of t + 1 shares, the coin is out when A alone is settled. Then B is free as well: it is brought to 1 - x,
the next round is split again, and no coin ever stops it.

The messages that it keeps back are all delivered in the end: `run` gives up steering when nothing is left to steer, or
at the cut-off, and what a stalled run shows is a beginning that has no end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from bftkit.blocks.agreement_messages import CODEC, Abstention, CoinShare, Decision, MainVote, Message, PreVote, Wish
from bftkit.blocks.binary_agreement import BinaryAgreement, Decided, Input, Propose
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Setup
from bftkit.sim.adversaries.agreement import Forger
from bftkit.sim.block_world import BlockWorld, Silent

EVIDENCE: Final = b"evidence"

A, B, C, D = "m0", "m1", "m2", "m3"


def is_evidence(evidence: bytes) -> bool:
    """What the schedule's members take for evidence of 1."""
    return evidence == EVIDENCE


class WorstSchedule:
    """One agreement of four under this schedule; see the top of this file."""

    def __init__(self, setups: Mapping[MemberId, Setup], *, plain: bool, coin_threshold: int | None = None) -> None:
        """`setups` are those of four members with f = 1.

        In the `plain` form C can still be given its first pre-vote when the first coin is out, since it follows from
        the wishes that it hears; in the validated form the inputs are 0, 1, 0.
        """
        assert tuple(setups) == (A, B, C, D)
        self.plain = plain
        evidence = b"" if plain else EVIDENCE
        self.world: BlockWorld[Input, Message, Decided] = BlockWorld(
            {
                name: BinaryAgreement.create(
                    setup, b"worst", valid=None if plain else is_evidence, coin_threshold=coin_threshold
                )
                for name, setup in setups.items()
            },
            seed=1,
            liars={D: Silent()},
        )
        self.forger = Forger({D: setups[D]}, b"worst", evidence)
        self.world.observers.append(self.forger.hear)
        for name, wish in ((A, False), (B, True), (C, False)):
            self.world.input(name, Propose(wish, evidence if wish else b""))

    def run(self, rounds_max: int) -> int | None:
        """The round that decides; None if nobody has decided when round `rounds_max` begins."""
        number = 1
        even: bool | None
        if self.plain:
            self._wishes(A, (C, False))
            self._wishes(B, (A, True))
            even, value, quiet = None, False, A
        else:
            # An even round but for B's input, which is one vote for 1.
            even, value, quiet = False, False, B
        while number < rounds_max:
            if even is None:
                even, value, quiet = self._split_round(number, value, quiet)
            elif self._even_round(number, even):
                value, even, quiet = even, None, B
            else:
                self.world.run()
                return self._decided()
            number += 1
        assert not any(self.world.outputs.values()), "a stalled run decides nothing"
        return None

    def _decided(self) -> int:
        """The last round that anybody decided by. Raises `AssertionError` unless all decided the same."""
        outputs = [self.world.outputs[name] for name in (A, B, C)]
        assert all(len(said) == 1 for said in outputs), "everybody decides once"
        assert len({said[0].value for said in outputs}) == 1, "all decide the same"
        decisions = [CODEC.decode(said[0].proof) for said in outputs]
        return max(decision.round for decision in decisions if isinstance(decision, Decision))

    # --------------------------------------------------------------------------------------------- rounds

    def _split_round(self, number: int, value: bool, quiet: MemberId) -> tuple[bool | None, bool, MemberId]:
        """A is for `value`, B against it, and C free; `quiet` abstained in the round before.

        The value of the even round that follows; or None, and A's value and the quiet member for one more split round.
        """
        for name, other in ((A, B), (B, A)):
            self._pre(other, name, number)
            self._lie(name, self.forger.pre_vote(D, number, value))
        self._main(B, A, number)
        self._lie(A, self.forger.abstention(D, number))
        coin = self.forger.coin(number)
        early = coin is not None
        if coin is None:
            self._main(A, B, number)
            self._lie(B, self.forger.abstention(D, number))
            coin = self.forger.coin(number)
            assert coin is not None, "two settled members and a liar make a coin of four members"
        self._steer(number, not coin, value, quiet)
        self._pre(A, C, number)
        self._pre(B, C, number)
        against = self.forger.main_vote(D, number, not coin)
        if early:
            self._main(A, B, number)
            self._lie(B, against)
            self._coin_to_both(number)
            return None, coin, A
        self._coin_to_both(number)
        self._main(A, C, number)
        self._lie(C, against)
        self._coin_to_c(number)
        return coin, coin, A

    def _steer(self, number: int, wanted: bool, value: bool, quiet: MemberId) -> None:
        """Bring C, which is free, to pre-vote `wanted` in this round."""
        before = number - 1
        if number == 1:
            self._wishes(C, (B if wanted else A, wanted))
            return
        self._main(quiet, C, before)
        hard = value if quiet == B else not value
        wants_hard = wanted == hard
        self._lie(C, self.forger.main_vote(D, before, wanted) if wants_hard else self.forger.abstention(D, before))
        self._coin_to_c(before)

    def _coin_to_both(self, number: int) -> None:
        """A and B settled the round."""
        for name, other in ((A, B), (B, A)):
            self._share(other, name, number)
            self._lie(name, self.forger.share(D, number))

    def _coin_to_c(self, number: int) -> None:
        """C settled a round, so that it may know the coin, which it needs to judge what follows from it."""
        for name in (A, B):
            self._share(name, C, number)
        self._lie(C, self.forger.share(D, number))

    def _even_round(self, number: int, value: bool) -> bool:
        """A and B (in round 1: A and C) are for `value`. Whether the coin falls against it, so that it goes on."""
        self._pre(B if number > 1 else C, A, number)
        self._lie(A, self.forger.pre_vote(D, number, value))
        self._pre(A, B, number)
        self._lie(B, self.forger.pre_vote(D, number, not value))
        self._pre(A, C, number)
        if number > 1:
            self._lie(C, self.forger.pre_vote(D, number, not value))
        else:
            self._pre(B, C, number)
        self._main(C, B, number)
        self._lie(B, self.forger.abstention(D, number))
        self._main(B, A, number)
        self._lie(A, self.forger.abstention(D, number))
        coin = self.forger.coin(number)
        assert coin is not None
        if coin == value:
            return False
        self._coin_to_both(number)
        return True

    # --------------------------------------------------------------------------------------------- single messages

    def _wishes(self, receiver: MemberId, *wishes: tuple[MemberId, bool]) -> None:
        """Let a member hear n - t wishes: its own, a correct one's and D's, which makes the majority."""
        for sender, value in wishes:
            self._give(sender, receiver, lambda message: isinstance(message, Wish))
            self._lie(receiver, self.forger.wish(D, value))

    def _pre(self, sender: MemberId, receiver: MemberId, number: int) -> None:
        self._give(sender, receiver, lambda message: isinstance(message, PreVote) and message.round == number)

    def _main(self, sender: MemberId, receiver: MemberId, number: int) -> None:
        self._give(
            sender, receiver, lambda message: isinstance(message, MainVote | Abstention) and message.round == number
        )

    def _share(self, sender: MemberId, receiver: MemberId, number: int) -> None:
        self._give(sender, receiver, lambda message: isinstance(message, CoinShare) and message.round == number)

    def _give(self, sender: MemberId, receiver: MemberId, match: Callable[[Message], bool]) -> None:
        flights = self.world.flights
        for index in reversed(range(len(flights))):
            flight = flights[index]
            if flight.sender == sender and flight.receiver == receiver and match(flight.message):
                self.world.deliver(index)
                return
        raise AssertionError(f"{sender} said nothing of the kind to {receiver}")

    def _lie(self, receiver: MemberId, message: Message | None) -> None:
        assert message is not None, "the votes that were said justify this one"
        self.world.inject(D, receiver, message)
        self.world.deliver(len(self.world.flights) - 1)
