"""What a member of a binary agreement knows of each round, and the rounds' coins. `binary_agreement` decides by it."""

from __future__ import annotations

from typing import Final, TypeVar

import attrs

from bftkit.blocks.agreement_messages import (
    ABSTAIN,
    CODEC,
    Abstention,
    AllAbstained,
    CoinShare,
    MainVote,
    Message,
    PreVote,
    Shown,
    coin_id,
)
from bftkit.blocks.coin import CODEC as COIN_CODEC
from bftkit.blocks.coin import CommonCoin, Release, Share
from bftkit.blocks.coin import Message as CoinMessage
from bftkit.blocks.coin import Output as CoinOutput
from bftkit.core.machine import MemberId, Out, Record
from bftkit.core.ordering import Setup
from bftkit.core.state import SHARED, Forkable

O = TypeVar("O")  # noqa: E741 - the letter is the interface's own

KEPT: Final = 2
"""The rounds before the present one of which one's own messages and the coin are kept, for others."""
EARLY_SHARES: Final = 3
"""So many coin shares of each member are kept of rounds that are not known to exist."""


@attrs.define
class Round:
    """What is known of one round: one vote of each member in each phase."""

    pre: dict[MemberId, tuple[bool, bytes]] = attrs.field(factory=dict[MemberId, tuple[bool, bytes]])
    """Justified pre-votes: value and vote."""
    main: dict[MemberId, tuple[int, bytes]] = attrs.field(factory=dict[MemberId, tuple[int, bytes]])
    """Justified main-votes: value and vote."""
    shown: dict[bool, Shown] = attrs.field(factory=dict[bool, Shown])
    """A justified pre-vote for each value, to justify an abstention."""
    quorum: tuple[bool, bytes] | None = None
    """The value that n - t members pre-voted, and their certificate."""
    abstained: bytes = b""
    """The certificate of n - t abstentions, if there is one."""
    waiting_pre: dict[MemberId, PreVote] = attrs.field(factory=dict[MemberId, PreVote])
    """Soft pre-votes that are justified if the coin falls so."""
    waiting_main: dict[MemberId, Abstention] = attrs.field(factory=dict[MemberId, Abstention])
    """Abstentions that rest on such a pre-vote."""
    accused: set[tuple[MemberId, int]] = attrs.field(factory=set[tuple[MemberId, int]])
    """Who was blamed for two votes, and in which phase: 0 for wishes, 1 for pre-votes, 2 for main-votes."""
    own_pre: PreVote | None = None
    own_main: MainVote | Abstention | None = None
    own_abstained: AllAbstained | None = None

    def earlier(self, voter: MemberId, main: bool) -> tuple[int, bytes] | None:
        """The (value, vote) that is known of a member, whether it counts yet or waits."""
        if main:
            waiting = self.waiting_main.get(voter)
            return self.main.get(voter) if waiting is None else (ABSTAIN, waiting.vote)
        soft = self.waiting_pre.get(voter)
        return self.pre.get(voter) if soft is None else (soft.value, soft.vote)

    def count_pre(self, voter: MemberId, value: bool, soft: bool, certificate: bytes, vote: bytes) -> None:
        """A justified pre-vote."""
        self.pre[voter] = value, vote
        self.shown.setdefault(value, Shown(voter, soft, certificate, vote))

    def votes_for(self, value: int) -> dict[MemberId, bytes]:
        """The main-votes for a value."""
        return {member: vote for member, (main, vote) in self.main.items() if main == value}

    def said(self) -> list[Message]:
        """What this member broadcast in the round, but for coin shares."""
        passed_on = self.own_abstained if self.own_main is None else None
        return [message for message in (self.own_pre, self.own_main, passed_on) if message is not None]


NOTHING: Final = Round()
"""Stands for a round of which nothing is known; never changed."""


@attrs.define
class RoundCoins(Forkable):
    """The coins of the rounds about the present one, and shares that came too early."""

    setup: Setup = attrs.field(metadata=SHARED)
    id: bytes
    biased: bool
    """The coin of round 1 is 1 and is never tossed."""
    coins: dict[int, CommonCoin] = attrs.field(factory=dict[int, CommonCoin])
    early: dict[MemberId, dict[int, bytes]] = attrs.field(factory=dict[MemberId, dict[int, bytes]])
    """Any number can be written on a share, so few are kept of rounds that nothing else has shown to exist."""

    def fixed(self, number: int) -> bool:
        """ "In round 1 the coin is fixed to 1", in the biased form."""
        return self.biased and number == 1

    def value(self, number: int) -> bool | None:
        """The round's coin, once it is known."""
        if self.fixed(number):
            return True
        coin = self.coins.get(number)
        return None if coin is None or coin.value is None else bool(coin.value[0] & 1)

    def said(self, number: int) -> list[CoinShare]:
        """The share, if it was released."""
        coin = self.coins.get(number)
        return [] if coin is None else [CoinShare(number, message.share) for message in coin.said()]

    def release(self, number: int, out: Out[Message, O]) -> bool:
        """Release this member's share; whether the coin is known by it."""
        if self.fixed(number):
            return False
        step = Out[CoinMessage, CoinOutput]()
        self._coin(number).on_input(Release(), step)
        return _adopt(number, step, out)

    def take(self, sender: MemberId, number: int, share: bytes, now: int, out: Out[Message, O]) -> bool:
        """A share came while this member is in round `now`; whether the coin is known by it."""
        if number < max(1, now - KEPT) or self.fixed(number):
            return False
        if number <= now + 1:
            step = Out[CoinMessage, CoinOutput]()
            self._coin(number).on_message(sender, Share(share), step)
            return _adopt(number, step, out)
        # The newest are kept: who sent them shows its round by other messages, too.
        early = self.early.setdefault(sender, {})
        early.setdefault(number, share)
        if len(early) > EARLY_SHARES:
            del early[min(early)]
        return False

    def take_early(self, now: int, out: Out[Message, O]) -> list[int]:
        """Give the shares that are not too early any more; the rounds whose coin is known by that."""
        known: list[int] = []
        for member in self.setup.members:
            early = self.early.get(member, {})
            for number in sorted(early):
                if number <= now + 1 and self.take(member, number, early.pop(number), now, out):
                    known.append(number)
            if not early:
                self.early.pop(member, None)
        return known

    def restore(self, number: int, share: bytes) -> None:
        """This member released its share before it crashed."""
        self._coin(number).on_restore([COIN_CODEC.encode(Share(share))], Out())

    def forget(self, now: int) -> None:
        """Forget the coins that matter to nobody in round `now` or later."""
        for old in [number for number in self.coins if number < now - KEPT]:
            del self.coins[old]

    def clear(self) -> None:
        """Forget everything."""
        self.coins.clear()
        self.early.clear()

    def _coin(self, number: int) -> CommonCoin:
        if number not in self.coins:
            self.coins[number] = CommonCoin.create(self.setup, coin_id(self.id, number))
        return self.coins[number]


def _adopt(number: int, step: Out[CoinMessage, CoinOutput], out: Out[Message, O]) -> bool:
    """Take a coin's effects as the agreement's; whether it was tossed."""

    def wrap(message: CoinMessage) -> CoinShare:
        return CoinShare(number, message.share)

    def wrap_record(record: Record) -> Record:
        return CODEC.encode(wrap(COIN_CODEC.decode(record)))

    return bool(out.adopt("coin", step, wrap, wrap_record))
