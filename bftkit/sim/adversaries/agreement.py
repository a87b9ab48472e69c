"""A liar in binary agreement: says anything that the votes which it heard of can justify.

A `Forger` reads all messages that were ever said, whether or not they arrived, and holds the keys of the liars. From
these it makes votes: justified ones, for either value where both can be justified, and bad ones. It cannot forge a
correct member's vote, and it knows a coin no sooner than there are shares enough. So what it can say is what the
adversary of the paper can say (Cachin, Kursawe, Shoup 2000, section 2): it sees everything, but a coin's shares only
once they are sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import attrs

from bftkit.blocks.agreement_messages import (
    ABSTAIN,
    Abstention,
    AllAbstained,
    CoinShare,
    Decision,
    MainVote,
    Message,
    PreVote,
    Shown,
    Wish,
    coin_id,
    main_certifier,
    main_statement,
    pre_certifier,
    pre_statement,
    wish_certifier,
    wish_statement,
)
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Setup
from bftkit.crypto.threshold import SHARE_SIZE


class Forger:
    """What one liar can say, with the help of all others that lie. See the top of this file."""

    def __init__(
        self,
        setups: Mapping[MemberId, Setup],
        id: bytes,  # noqa: A002
        evidence: bytes = b"",
        *,
        biased: bool = False,
    ) -> None:
        """`setups` are those of the liars only; `evidence` is good evidence for 1, or empty where none is needed."""
        assert setups, "somebody must lie"
        self.liars = tuple(setups)
        self.evidence = evidence
        self._setups = dict(setups)
        self._setup = setups[self.liars[0]]
        self._id = id
        self._biased = biased
        self._plain = not biased and not evidence
        self._pre_certifiers = {liar: pre_certifier(setup) for liar, setup in setups.items()}
        self._main_certifiers = {liar: main_certifier(setup) for liar, setup in setups.items()}
        self._wishes: dict[bool, dict[MemberId, bytes]] = {False: {}, True: {}}
        self._pre: dict[tuple[int, int], dict[MemberId, bytes]] = {}
        self._main: dict[tuple[int, int], dict[MemberId, bytes]] = {}
        self._pre_proofs: dict[tuple[int, int], bytes] = {}
        self._main_proofs: dict[tuple[int, int], bytes] = {}
        self._shown: dict[tuple[int, int], Shown] = {}
        self._shares: dict[int, dict[MemberId, bytes]] = {}

    # --------------------------------------------------------------------------------------------- what it hears

    def hear(self, sender: MemberId, message: Message) -> None:
        """Take in what a correct member said."""
        match message:
            case Wish(value, vote):
                self._wishes[value][sender] = vote
            case PreVote(number, value, soft, certificate, vote):
                self._pre.setdefault((number, value), {})[sender] = vote
                self._shown.setdefault((number, value), Shown(sender, soft, certificate, vote))
            case MainVote(number, value, certificate, vote):
                self._main.setdefault((number, value), {})[sender] = vote
                self._pre_proofs[number, value] = certificate
            case Abstention(number, _, _, vote):
                self._main.setdefault((number, ABSTAIN), {})[sender] = vote
            case AllAbstained(number, certificate):
                self._main_proofs[number, ABSTAIN] = certificate
            case CoinShare(number, share):
                self._shares.setdefault(number, {})[sender] = share
            case Decision(number, value, certificate):
                self._main_proofs[number, value] = certificate

    # --------------------------------------------------------------------------------------------- what it knows

    def coin(self, number: int) -> bool | None:
        """The coin of a round, if the correct members' shares and the liars' own are enough for it."""
        if self._biased and number == 1:
            return True
        coins, name = self._setup.coins, coin_id(self._id, number)
        assert coins is not None
        shares = {liar: self._share(liar, number) for liar in self.liars} | self._shares.get(number, {})
        return bool(coins.combine(name, shares)[0] & 1) if len(shares) >= coins.threshold else None

    def pre_certificate(self, number: int, value: bool) -> bytes | None:
        """A certificate of pre-votes, if the liars' votes complete it."""
        known = self._pre_proofs.get((number, value))
        if known is not None:
            return known
        votes = {liar: self.pre_signature(liar, number, value) for liar in self.liars}
        votes |= self._pre.get((number, value), {})
        if len(votes) < self._setup.quorum.available:
            return None
        return self._pre_certifiers[self.liars[0]].combine(pre_statement(self._id, number, value), votes)

    def main_certificate(self, number: int, value: int) -> bytes | None:
        """A certificate of main-votes, if the liars' votes complete it."""
        known = self._main_proofs.get((number, value))
        if known is not None:
            return known
        votes = {liar: self.main_signature(liar, number, value) for liar in self.liars}
        votes |= self._main.get((number, value), {})
        if len(votes) < self._setup.quorum.available:
            return None
        return self._main_certifiers[self.liars[0]].combine(main_statement(self._id, number, value), votes)

    # --------------------------------------------------------------------------------------------- what it says

    def wish(self, liar: MemberId, value: bool) -> Wish:
        """Any wish."""
        return Wish(value, wish_certifier(self._setups[liar]).sign(wish_statement(self._id, 0, value)))

    def pre_vote(self, liar: MemberId, number: int, value: bool) -> PreVote | None:
        """The liar's pre-vote; None if nothing justifies one."""
        reason = self._reason(number, value)
        if reason is None:
            return None
        soft, certificate = reason
        evidence = self.evidence if value or soft else b""
        return PreVote(number, value, soft, certificate, self.pre_signature(liar, number, value), evidence)

    def main_vote(self, liar: MemberId, number: int, value: bool) -> MainVote | None:
        """The liar's main-vote for 0 or 1; None if nothing justifies one."""
        certificate = self.pre_certificate(number, value)
        if certificate is None:
            return None
        vote = self.main_signature(liar, number, value)
        return MainVote(number, value, certificate, vote, self.evidence if value else b"")

    def abstention(self, liar: MemberId, number: int) -> Abstention | None:
        """The liar's abstention; None if nothing justifies one."""
        shown = [self._show(number, False), self._show(number, True)]
        zero, one = shown
        if zero is not None and one is not None and zero.member == one.member:
            # The liars' own votes are of any value; a correct member's is of one.
            others = [item for item in self.liars if item != zero.member]
            if not others:
                return None
            one = Shown(others[0], one.soft, one.certificate, self.pre_signature(others[0], number, True))
        if zero is None or one is None:
            return None
        return Abstention(number, zero, one, self.main_signature(liar, number, ABSTAIN), self.evidence)

    def all_abstained(self, number: int) -> AllAbstained | None:
        """n - t abstentions; None if there are not so many."""
        certificate = self.main_certificate(number, ABSTAIN)
        return None if certificate is None else AllAbstained(number, certificate, self.evidence)

    def decision(self, number: int, value: bool) -> Decision | None:
        """A decision; None if it cannot be proved."""
        certificate = self.main_certificate(number, value)
        return None if certificate is None else Decision(number, value, certificate, self.evidence if value else b"")

    def share(self, liar: MemberId, number: int) -> CoinShare:
        """The liar's share of a round's coin, whenever it likes."""
        return CoinShare(number, self._share(liar, number))

    def bad(self, liar: MemberId, number: int, random: Random) -> Message:
        """Something that no correct member would take: unjustified, badly signed, or a share of another coin."""
        value = random.random() < 0.5
        good = self.pre_vote(liar, number, value)
        match random.randrange(6):
            case 0:
                return CoinShare(number, random.randbytes(SHARE_SIZE))
            case 1:
                return CoinShare(number, self._share(liar, number + 1))
            case 2:
                # A soft pre-vote against the coin, if it is known; else one that may turn out to be so.
                certificate = self.main_certificate(number - 1, ABSTAIN) or b""
                coin = self.coin(number - 1)
                against = value if coin is None else not coin
                return PreVote(
                    number, against, True, certificate, self.pre_signature(liar, number, against), self.evidence
                )
            case 3 if good is not None:
                return attrs.evolve(good, vote=random.randbytes(64))
            case 4:
                vote = self.main_signature(liar, number, value)
                return MainVote(number, value, self.pre_certificate(number, not value) or b"", vote, b"")
            case _:
                certificate = self.main_certificate(number, ABSTAIN) or b""
                return Decision(number, value, certificate, self.evidence if value else b"")

    def anything(self, liar: MemberId, number: int, random: Random) -> Message | None:
        """A random message about a round, good or bad."""
        value = random.random() < 0.5
        match random.randrange(10):
            case 0 if number == 1:
                return self.wish(liar, value)
            case 0 | 1 | 2:
                return self.pre_vote(liar, number, value)
            case 3 | 4:
                return self.main_vote(liar, number, value)
            case 5:
                return self.abstention(liar, number)
            case 6:
                return self.all_abstained(number)
            case 7:
                return self.share(liar, number)
            case 8:
                return self.decision(number, value)
            case _:
                return self.bad(liar, number, random)

    # --------------------------------------------------------------------------------------------- inside

    def pre_signature(self, liar: MemberId, number: int, value: bool) -> bytes:
        """The liar's signature under any pre-vote."""
        return self._pre_certifiers[liar].sign(pre_statement(self._id, number, value))

    def main_signature(self, liar: MemberId, number: int, value: int) -> bytes:
        """The liar's signature under any main-vote."""
        return self._main_certifiers[liar].sign(main_statement(self._id, number, value))

    def _share(self, liar: MemberId, number: int) -> bytes:
        coins = self._setups[liar].coins
        assert coins is not None
        return coins.share(coin_id(self._id, number))

    def _wish_certificate(self, value: bool) -> bytes | None:
        votes = {liar: self.wish(liar, value).vote for liar in self.liars} | self._wishes[value]
        certifier = wish_certifier(self._setup)
        return certifier.combine(wish_statement(self._id, 0, value), votes) if len(votes) >= certifier.size else None

    def _reason(self, number: int, value: bool) -> tuple[bool, bytes] | None:
        """(soft, certificate) of a justified pre-vote."""
        if number == 1:
            certificate = self._wish_certificate(value) if self._plain else b""
            return None if certificate is None else (False, certificate)
        certificate = self.pre_certificate(number - 1, value)
        if certificate is not None:
            return False, certificate
        certificate = self.main_certificate(number - 1, ABSTAIN)
        if certificate is None or self.coin(number - 1) != value:
            return None
        return True, certificate

    def _show(self, number: int, value: bool) -> Shown | None:
        known = self._shown.get((number, value))
        if known is not None:
            return known
        own = self.pre_vote(self.liars[0], number, value)
        return None if own is None else Shown(self.liars[0], own.soft, own.certificate, own.vote)
