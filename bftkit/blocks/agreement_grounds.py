"""What justifies a vote in binary agreement: the paper's rules as checks that change nothing.

A check of a pre-vote's justification brings something to light that is true whoever says it, a *finding*: n - t members
pre-voted a value, or n - t members abstained, in the round before. The machine takes that in, too.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from bftkit.blocks.agreement_messages import (
    ABSTAIN,
    Abstention,
    AllAbstained,
    MainVote,
    PreVote,
    Valid,
    equivocation,
    evidence_fits,
    main_certifier,
    main_statement,
    pre_certifier,
    pre_statement,
    wish_certifier,
    wish_statement,
)
from bftkit.blocks.certificates import Certifier
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Setup
from bftkit.core.state import SHARED

Vote: TypeAlias = PreVote | MainVote | Abstention | AllAbstained


@attrs.frozen
class Input:
    """It is the voter's input: nothing else follows from it."""


@attrs.frozen
class PreVoted:
    """n - t members pre-voted `value` in `round`."""

    round: int
    value: bool
    certificate: bytes


@attrs.frozen
class Abstained:
    """n - t members abstained in `round`."""

    round: int
    certificate: bytes


Finding: TypeAlias = Input | PreVoted | Abstained


@attrs.frozen
class Grounds:
    """The checks of one instance, and this member's signatures in it."""

    id: bytes
    valid: Valid | None = attrs.field(metadata=SHARED)
    biased: bool
    _wish: Certifier = attrs.field(metadata=SHARED)
    _pre: Certifier = attrs.field(metadata=SHARED)
    _main: Certifier = attrs.field(metadata=SHARED)

    @classmethod
    def of(cls, setup: Setup, id: bytes, valid: Valid | None, biased: bool) -> Grounds:  # noqa: A002
        """The checks of the instance `id`."""
        return cls(id, valid, biased, wish_certifier(setup), pre_certifier(setup), main_certifier(setup))

    @property
    def plain(self) -> bool:
        """Whether the members' inputs alone justify a decision."""
        return self.valid is None and not self.biased

    # --------------------------------------------------------------------------------------------- justification

    def rests(self, number: int, value: bool, soft: bool, certificate: bytes) -> Finding | None:
        """What a pre-vote rests on; None: nothing justifies it. If it is soft, its coin is still to be compared."""
        if number == 1:
            return Input() if not soft and self._first(value, certificate) else None
        before = number - 1
        if soft:
            return Abstained(before, certificate) if self.abstained(before, certificate) else None
        return PreVoted(before, value, certificate) if self.pre_voted(before, value, certificate) else None

    def _first(self, value: bool, certificate: bytes) -> bool:
        """In round 1: in the plain form f + 1 members must wish it, else the evidence says all."""
        if self.plain:
            return self._wish.verify(wish_statement(self.id, 0, value), certificate)
        return not certificate

    def pre_voted(self, number: int, value: bool, certificate: bytes) -> bool:
        """Whether n - t members pre-voted it."""
        return self._pre.verify(pre_statement(self.id, number, value), certificate)

    def abstained(self, number: int, certificate: bytes) -> bool:
        """Whether n - t members abstained."""
        return self._main.verify(main_statement(self.id, number, ABSTAIN), certificate)

    def shown_votes(self, message: Abstention) -> bool:
        """Whether the pre-votes that an abstention shows are votes of two members for two values."""
        return message.zero.member != message.one.member and all(
            self.is_pre_vote(shown.member, message.round, value, shown.vote)
            for value, shown in ((False, message.zero), (True, message.one))
        )

    # --------------------------------------------------------------------------------------------- evidence

    def needs_evidence(self, message: Vote) -> bool:
        """Whether a pre-vote for 1 may follow from it."""
        match message:
            case PreVote():
                return message.value or message.soft
            case MainVote():
                return message.value
            case Abstention() | AllAbstained():
                return True

    def evidence_good(self, message: Vote, known: bytes | None) -> bool:
        """Whether the message has the evidence that it needs, or needs none and has none; `known` is good."""
        if not self.needs_evidence(message):
            return not message.evidence
        return message.evidence == known or evidence_fits(True, message.evidence, self.valid)

    # --------------------------------------------------------------------------------------------- signatures

    def is_wish(self, voter: MemberId, value: bool, vote: bytes) -> bool:
        """Whether the member signed this wish."""
        return self._wish.verify_vote(voter, wish_statement(self.id, 0, value), vote)

    def is_pre_vote(self, voter: MemberId, number: int, value: int, vote: bytes) -> bool:
        """Whether the member signed this pre-vote. False for strangers."""
        return self._pre.verify_vote(voter, pre_statement(self.id, number, value), vote)

    def is_main_vote(self, voter: MemberId, number: int, value: int, vote: bytes) -> bool:
        """Whether the member signed this main-vote. False for strangers."""
        return self._main.verify_vote(voter, main_statement(self.id, number, value), vote)

    def sign_wish(self, value: bool) -> bytes:
        """This member's signature under its wish."""
        return self._wish.sign(wish_statement(self.id, 0, value))

    def sign_pre_vote(self, number: int, value: bool) -> bytes:
        """This member's signature under its pre-vote."""
        return self._pre.sign(pre_statement(self.id, number, value))

    def sign_main_vote(self, number: int, value: int) -> bytes:
        """This member's signature under its main-vote."""
        return self._main.sign(main_statement(self.id, number, value))

    def wishes(self, value: bool, votes: dict[MemberId, bytes]) -> bytes:
        """A certificate of f + 1 wishes."""
        return self._wish.combine(wish_statement(self.id, 0, value), votes)

    def pre_votes(self, number: int, value: bool, votes: dict[MemberId, bytes]) -> bytes:
        """A certificate of n - t pre-votes."""
        return self._pre.combine(pre_statement(self.id, number, value), votes)

    def main_votes(self, number: int, value: int, votes: dict[MemberId, bytes]) -> bytes:
        """A certificate of n - t main-votes."""
        return self._main.combine(main_statement(self.id, number, value), votes)

    def two(self, voter: MemberId, phase: int, number: int, a: tuple[int, bytes], b: tuple[int, bytes]) -> bytes:
        """The proof that a member signed two values."""
        return equivocation(voter, self.id, phase, number, (int(a[0]), a[1]), (int(b[0]), b[1]))
