"""For fault injection only: what a member that lies could sign. No other part of the protocol uses this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from bftkit.core.machine import Digest
from bftkit.core.ordering import Setup
from bftkit.core.wire import WireError
from bftkit.crypto.signed import Certificate, Vote

from .messages import (
    BODIES,
    NEW_VIEW,
    STABLE,
    VIEW_CHANGE,
    VOTE,
    NewView,
    NewViewBody,
    Prepare,
    PrePrepare,
    Stable,
    StableVote,
    Status,
    ViewChange,
    ViewChangeBody,
    read_vote_statement,
    stable_statement,
    vote_statement,
)
from .view_change import WINDOWS, Opening, choose, leader_of, low_of


def forge(setup: Setup, message: Any, digest: Digest) -> PrePrepare | None:
    """The same pre-prepare for another batch, signed by this member; None for any other message."""
    if not isinstance(message, PrePrepare):
        return None
    statement = vote_statement(message.view, message.slot, digest)
    return attrs.evolve(message, digest=digest, signature=setup.keyring.sign(VOTE, statement))


def resign(setup: Setup, message: Any) -> Any | None:
    """A message or a body whose fields were changed, with this member's own signatures in it made anew."""
    me, sign = setup.me, setup.keyring.sign
    match message:
        case PrePrepare(view, slot, digest):
            return attrs.evolve(message, signature=sign(VOTE, vote_statement(view, slot, digest)))
        case Prepare(view, slot, digest, header):
            vote = sign(VOTE, vote_statement(view, slot, digest))
            return attrs.evolve(
                message, leader_signature=vote if leader_of(setup, view) == me else header, signature=vote
            )
        case Stable(slot):
            return Stable(slot, sign(STABLE, stable_statement(slot)))
        case Status(stable=stable, stable_signature=bytes()):
            return attrs.evolve(message, stable_signature=sign(STABLE, stable_statement(stable)))
        case ViewChange(signer, body) if signer == me:
            return ViewChange(me, body, sign(VIEW_CHANGE, body))
        case NewView(body):
            return NewView(body, sign(NEW_VIEW, body))
        case ViewChangeBody(view, low, prepared):
            return ViewChangeBody(view, _low(setup, low), tuple(_certificate(setup, each) for each in prepared))
        case NewViewBody(view, changes, votes):
            again = tuple(resign(setup, each) or each for each in changes)
            return NewViewBody(view, again, _votes(setup, view, again, votes))
        case _:
            return None


def _low(setup: Setup, votes: Sequence[StableVote]) -> tuple[StableVote, ...]:
    sign = setup.keyring.sign
    return tuple(
        StableVote(vote.member, vote.slot, sign(STABLE, stable_statement(vote.slot)))
        if vote.member == setup.me
        else vote
        for vote in votes
    )


def _certificate(setup: Setup, certificate: Certificate) -> Certificate:
    own = Vote(setup.me, setup.keyring.sign(VOTE, certificate.body))
    return Certificate(certificate.body, tuple(own if vote.member == setup.me else vote for vote in certificate.votes))


def _votes(setup: Setup, view: int, changes: Sequence[ViewChange], votes: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The leader's votes for what these view changes yield, if that has as many slots as there were votes."""
    opening = _opening(setup, changes)
    if opening is None or len(opening.choices) != len(votes):
        return votes
    return tuple(
        setup.keyring.sign(VOTE, vote_statement(view, choice.slot, choice.digest)) for choice in opening.choices
    )


def _opening(setup: Setup, changes: Sequence[ViewChange]) -> Opening | None:
    bodies: dict[str, ViewChangeBody] = {}
    for change in changes:
        try:
            body = BODIES.decode(change.body)
        except WireError:
            return None
        if not isinstance(body, ViewChangeBody):
            return None
        for certificate in body.prepared:
            statement = read_vote_statement(certificate.body)
            # What was changed may speak of slots so far away that nobody could name all that lie before them.
            if statement is None or statement[1] > low_of(setup, body.low) + WINDOWS * setup.window:
                return None
        bodies[change.signer] = body
    return choose(setup, bodies) if bodies else None
