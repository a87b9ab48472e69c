"""Checking proofs: whether signed bytes show, to anybody with the members' keys, that a member broke the protocol."""

from __future__ import annotations

from bftkit.core.machine import Digest, MemberId
from bftkit.core.ordering import Setup
from bftkit.core.wire import WireError

from .messages import (
    PROOFS,
    VOTE,
    BadBatch,
    BadNewView,
    BadViewChange,
    Equivocation,
    Proof,
    read_vote_statement,
)
from .view_change import (
    Invalid,
    leader_of,
    read_new_view,
    read_view_change,
    signed_by_leader,
    signed_by_signer,
    view_of,
)


def signer_and_view(proof: bytes) -> tuple[MemberId, int] | None:
    """Whom an equivocation's proof accuses, and in which view; None if the bytes are none. Verifies nothing."""
    found = _decode(proof)
    if not isinstance(found, Equivocation):
        return None
    statement = read_vote_statement(found.first)
    return None if statement is None else (found.signer, statement[0])


def valid_equivocation(setup: Setup, proof: bytes) -> bool:
    """Whether the bytes prove that the signer voted for two digests in one (view, slot)."""
    found = _decode(proof)
    return isinstance(found, Equivocation) and _is_equivocation(setup, found)


def accused(setup: Setup, proof: bytes) -> MemberId | None:
    """The member that a proof convicts; None if it proves nothing.

    A `BadBatch` names its signer if the header is signed; whether the batch is bad its bytes must show.
    """
    match _decode(proof):
        case Equivocation() as found:
            return found.signer if _is_equivocation(setup, found) else None
        case BadBatch(signer, header, signature):
            known = signer in setup.members and setup.keyring.verify(signer, VOTE, header, signature)
            return signer if known else None
        case BadViewChange(change):
            if signed_by_signer(setup, change):
                try:
                    read_view_change(setup, change)
                except Invalid:
                    return change.signer
        case BadNewView(new_view):
            try:
                view = view_of(new_view)
            except Invalid:
                return None  # nobody can say whose it is
            if view >= 1 and signed_by_leader(setup, new_view, view):
                try:
                    read_new_view(setup, new_view)
                except Invalid:
                    return leader_of(setup, view)
        case None:
            pass
    return None


def convicts(setup: Setup, member: MemberId, proof: bytes) -> bool:
    """Whether these bytes alone show that the member lied; of a `BadBatch` they are only one half (`signed_for`)."""
    return not isinstance(_decode(proof), BadBatch) and accused(setup, proof) == member


def signed_for(setup: Setup, member: MemberId, proof: bytes) -> Digest | None:
    """The batch that the member signed for, if the proof is a `BadBatch` that shows it.

    A correct leader signs no header for a batch with a request that is not authentic: not for one that it makes, and
    not in a new view, where it repeats only what a quorum had prepared (SAFETY rule 4).
    """
    found = _decode(proof)
    if not isinstance(found, BadBatch) or accused(setup, proof) != member:
        return None
    statement = read_vote_statement(found.header)
    return None if statement is None else statement[2]


def _decode(proof: bytes) -> Proof | None:
    try:
        return PROOFS.decode(proof)
    except WireError:
        return None


def _is_equivocation(setup: Setup, found: Equivocation) -> bool:
    first, second = read_vote_statement(found.first), read_vote_statement(found.second)
    return (
        found.signer in setup.members
        and first is not None
        and second is not None
        and first[:2] == second[:2]
        and first[2] != second[2]
        and setup.keyring.verify(found.signer, VOTE, found.first, found.first_signature)
        and setup.keyring.verify(found.signer, VOTE, found.second, found.second_signature)
    )
