"""For fault injection only: what a member that lies could sign. No other part of the protocol uses this."""

from __future__ import annotations

from typing import Any, TypeAlias

import attrs

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.core.machine import Digest
from bftkit.core.ordering import Setup
from bftkit.core.wire import WireError

from . import lists
from . import messages as m

Vote: TypeAlias = am.PreVote | am.MainVote | am.Abstention


def forge(setup: Setup, message: Any, digest: Digest) -> m.Part | None:
    """The same offer for another batch; None for any other message.

    An offer carries no signature of its sender: the link says who speaks, and the echoes bind it.
    """
    if not isinstance(message, m.Part) or message.kind != m.OFFER:
        return None
    if setup.members.index(setup.me) != message.index or not isinstance(_offer(message), cb.Send):
        return None
    return attrs.evolve(message, body=cb.CODEC.encode(cb.Send(digest)))


def resign(setup: Setup, message: Any) -> m.Part | None:
    """A part whose body was changed, with this member's own vote in it made anew; None if it has none.

    Only a vote of a binary agreement says what it is for. (An echo is for what its receiver sent; the votes in
    certificates are others'.)
    """
    if not isinstance(message, m.Part) or message.kind != va.AGREEMENT or not 1 <= message.index <= setup.quorum.n:
        return None
    try:
        vote = am.CODEC.decode(message.body)
    except WireError:
        return None
    if not isinstance(vote, am.PreVote | am.MainVote | am.Abstention):
        return None
    name = _instance(setup, message, vote)
    if name is None:
        return None
    main = not isinstance(vote, am.PreVote)
    value = am.ABSTAIN if isinstance(vote, am.Abstention) else int(vote.value)
    statement = am.main_statement(name, vote.round, value) if main else am.pre_statement(name, vote.round, value)
    certifier = am.main_certifier(setup) if main else am.pre_certifier(setup)
    again = attrs.evolve(vote, vote=certifier.sign(statement))
    return attrs.evolve(message, body=am.CODEC.encode(again))


def _offer(part: m.Part) -> cb.Message | None:
    try:
        return cb.CODEC.decode(part.body)
    except WireError:
        return None


def _instance(setup: Setup, part: m.Part, vote: Vote) -> bytes | None:
    """The agreement that the vote is about: it names the candidate, which the part does not.

    The vote as it was before the change tells: it is this member's under one candidate's name, and the change moved
    the round by one at most.
    """
    judge = lists.judge(setup, part.round)
    main = not isinstance(vote, am.PreVote)
    certifier = am.main_certifier(setup) if main else am.pre_certifier(setup)
    statement = am.main_statement if main else am.pre_statement
    for candidate in range(setup.quorum.n):
        name = judge.agreement_id(part.index, candidate)
        for value in (0, 1, am.ABSTAIN) if main else (0, 1):
            for number in range(max(0, vote.round - 1), min(vote.round + 1, (1 << 32) - 1) + 1):
                if certifier.verify_vote(setup.me, statement(name, number, value), vote.vote):
                    return name
    return None
