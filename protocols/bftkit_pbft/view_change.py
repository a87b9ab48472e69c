"""From one view to the next: what a view change must prove, and which proposals a new view must start with.

Castro 2001, sections 2.3.5 and 3.2.4 (in the form with signatures), with hybrid quorums and with one change: where the
low mark comes from.

**What is chosen.** From q valid view changes: the low mark h is the highest *proven* low mark among them. For each slot
above h up to the highest slot of any certificate: the digest of the certificate with the highest view; where there is
none, the empty batch, so that no gap stops delivery. Everybody computes the same from the same q view changes.

**Why nothing decided is lost.** Let slot s > h be decided as d in view v. Then q members held a prepared certificate
(v, s, d), durably, before they said `Commit`. The q view changes share f + 1 members with these, one of them correct.
It sent its view change after its commit (a member that has left view v prepares nothing in it), and it drops a
certificate only when its own proven low mark reaches the slot. Its proven low mark is at most h < s, so its
certificate, or one of a higher view, is in its view change. A certificate of a view between v and the new one names d
too, by the same argument applied to those views in order; two certificates of one view and slot cannot differ, since
their q voters share a correct member. So d is chosen.

**Why slots up to h may be left out.** The proof of a low mark is f + 1 members' signed "a checkpoint at this slot or
above is stable here"; the mark is the least slot among them. One of them is correct, so a stable checkpoint at or
above the mark exists: what lies below is settled in it, and whoever lacks it gets it by a state transfer.

**Why a bare claim would not do.** A liar could claim a high stable slot, and decided slots below would be dropped. And
to believe only what f + 1 of the q claim is unsafe as well if members drop certificates at their own stable
checkpoint: the one correct member of the q that had prepared s may have dropped it, its claim (being the only one)
would not count, and s would be filled with the empty batch. Hence certificates are kept down to the *proven* mark,
which lags the stable checkpoint by about one message delay. (The paper's checkpoints carry 2f + 1 signatures and are
the protocol's own; here they belong to the group channel, and `Stable` is all the protocol needs to know of them.)

**Why it is bounded.** No slot is opened above (proven mark + 2 windows), or, where the epoch ends, three; so
certificates lie within three windows above the mark. A new view holds q view changes and so q times three windows of
certificates of q votes each; `window_max` says which window keeps that below what a message may take.

All functions are pure. Signatures are verified before anything is decoded from what they cover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import attrs

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.ordering import Setup
from bftkit.core.wire import WireError
from bftkit.crypto.signed import Certificate, Vote

from .messages import (
    BODIES,
    CERTIFICATES_MAX,
    NEW_VIEW,
    NEW_VIEW_BYTES_MAX,
    STABLE,
    VIEW_CHANGE,
    VIEW_CHANGE_BYTES_MAX,
    VOTE,
    VOTE_BYTES,
    NewView,
    NewViewBody,
    StableVote,
    ViewChange,
    ViewChangeBody,
    read_vote_statement,
    stable_statement,
    vote_statement,
)

WINDOWS: Final = 3
"""Certificates lie within so many windows above their sender's low mark."""


class Invalid(Exception):
    """A signed message breaks the rules. The text says which."""


@attrs.frozen
class Choice:
    """What a new view starts with in one slot."""

    slot: Slot
    digest: Digest
    holders: tuple[MemberId, ...]
    """Who voted for it, and so has the bytes."""


@attrs.frozen
class Opening:
    """What a new view starts with."""

    low: Slot
    choices: tuple[Choice, ...]
    """For each slot from ``low + 1`` on, without a gap."""

    @property
    def high(self) -> Slot:
        """The last slot that the opening fills."""
        return self.low + len(self.choices)


@attrs.frozen
class Known:
    """What the reader has verified before, so that it need not be verified again."""

    changes: Mapping[MemberId, tuple[ViewChange, ViewChangeBody]] = attrs.field(
        factory=dict[MemberId, tuple[ViewChange, ViewChangeBody]]
    )
    certificates: Mapping[Slot, Certificate] = attrs.field(factory=dict[Slot, Certificate])


NOTHING: Final = Known()


def leader_of(setup: Setup, view: int) -> MemberId:
    """The leader of a view: members take turns."""
    return setup.members[view % len(setup.members)]


def window_max(setup: Setup) -> int:
    """The largest window with which all view changes and new views of these members fit into messages."""
    q = setup.quorum.certificate
    longest = sorted(setup.members, key=len)[-q:]
    low = tuple(StableVote(member, 0, bytes(64)) for member in longest[-setup.quorum.weak :])
    certificate = Certificate(bytes(VOTE_BYTES), tuple(Vote(member, bytes(64)) for member in longest))
    without = len(BODIES.encode(ViewChangeBody(1, low, ())))
    each = len(BODIES.encode(ViewChangeBody(1, low, (certificate,)))) - without
    by_view_change = (VIEW_CHANGE_BYTES_MAX - without) // each
    # Each view change comes with its signer's name, its signature and a few lengths: 128 bytes at most.
    # And the leader's vote for each slot costs its signature with its length.
    by_new_view = (NEW_VIEW_BYTES_MAX - 128 - q * (without + 128)) // (q * each + 66)
    return min(by_view_change, by_new_view, CERTIFICATES_MAX) // WINDOWS


# ------------------------------------------------------------------------------------------------- low marks


def low_of(setup: Setup, votes: Sequence[StableVote]) -> Slot:
    """The low mark that these votes prove; without any, the slot that the epoch started from."""
    return min((vote.slot for vote in votes), default=setup.start)


def best_low(setup: Setup, votes: Mapping[MemberId, StableVote]) -> tuple[StableVote, ...]:
    """The proof of the highest mark that f + 1 of the members' votes reach; empty if there is none yet."""
    highest = sorted(votes.values(), key=lambda vote: (-vote.slot, vote.member))[: setup.quorum.weak]
    if len(highest) < setup.quorum.weak:
        return ()
    return tuple(sorted(highest, key=lambda vote: vote.member))


def check_low(setup: Setup, votes: Sequence[StableVote]) -> None:
    """Raises `Invalid` unless the votes prove a low mark (none at all prove the epoch's start)."""
    if not votes:
        return
    if len(votes) != setup.quorum.weak:
        raise Invalid(f"a low mark needs {setup.quorum.weak} votes, not {len(votes)}")
    _check_members(setup, [vote.member for vote in votes])
    for vote in votes:
        if vote.slot <= setup.start:
            raise Invalid("a low mark below the epoch's start")
        if not setup.keyring.verify(vote.member, STABLE, stable_statement(vote.slot), vote.signature):
            raise Invalid(f"the low mark's vote of {vote.member} is not signed by it")


# ------------------------------------------------------------------------------------------------- certificates


def check_certificate(setup: Setup, certificate: Certificate, known: Known = NOTHING) -> tuple[int, Slot, Digest]:
    """(view, slot, digest) of a prepared certificate; raises `Invalid` if it is none."""
    statement = read_vote_statement(certificate.body)
    if statement is None:
        raise Invalid("a certificate without a vote's statement")
    voters = [vote.member for vote in certificate.votes]
    # Not more either: what everybody carries along in a view change must be bounded, see `window_max`.
    if len(voters) != setup.quorum.certificate:
        raise Invalid(f"a certificate of {len(voters)} votes; it takes {setup.quorum.certificate}")
    _check_members(setup, voters)
    own = known.certificates.get(statement[1])
    verified = own.votes if own is not None and own.body == certificate.body else ()
    for vote in certificate.votes:
        if vote not in verified and not setup.keyring.verify(vote.member, VOTE, certificate.body, vote.signature):
            raise Invalid(f"a certificate's vote of {vote.member} is not signed by it")
    return statement


def _check_members(setup: Setup, members: Sequence[MemberId]) -> None:
    # Ascending and different: a repeated vote is one vote.
    if any(a >= b for a, b in pairwise(members)):
        raise Invalid("votes of one member twice, or out of order")
    for member in members:
        if member not in setup.members:
            raise Invalid(f"{member} is no member")


# ------------------------------------------------------------------------------------------------- view changes


def signed_by_signer(setup: Setup, change: ViewChange) -> bool:
    """Whether the view change is what its signer said."""
    return change.signer in setup.members and setup.keyring.verify(
        change.signer, VIEW_CHANGE, change.body, change.signature
    )


def read_view_change(setup: Setup, change: ViewChange, known: Known = NOTHING) -> ViewChangeBody:
    """What a view change says, if its signer (`signed_by_signer` comes first) was allowed to say it.

    Raises `Invalid` otherwise; since everybody judges it alike, the message is then a proof against its signer.
    """
    body = _decode(change.body)
    if not isinstance(body, ViewChangeBody):
        raise Invalid("not a view change's body")
    if body.view < 1:
        raise Invalid("nobody changes to view 0")
    check_low(setup, body.low)
    low = low_of(setup, body.low)
    before = low
    for certificate in body.prepared:
        view, slot, _ = check_certificate(setup, certificate, known)
        if view >= body.view:
            raise Invalid(f"a certificate of view {view} in a change to view {body.view}")
        if slot <= before:
            raise Invalid("certificates out of order, or not above the low mark")
        if slot > low + WINDOWS * setup.window:
            raise Invalid(f"a certificate for slot {slot}, far above the low mark {low}")
        before = slot
    return body


def choose(setup: Setup, changes: Mapping[MemberId, ViewChangeBody]) -> Opening:
    """What the new view starts with, from q checked view changes. See the top of this file."""
    low = max(low_of(setup, change.low) for change in changes.values())
    best: dict[Slot, tuple[int, Digest, Certificate]] = {}
    for member in sorted(changes):
        for certificate in changes[member].prepared:
            statement = read_vote_statement(certificate.body)
            assert statement is not None
            view, slot, digest = statement
            if slot > low and (slot not in best or best[slot][:2] < (view, digest)):
                best[slot] = (view, digest, certificate)
    choices: list[Choice] = []
    for slot in range(low + 1, max(best, default=low) + 1):
        found = best.get(slot)
        if found is None:
            choices.append(Choice(slot, NO_DIGEST, ()))
        else:
            choices.append(Choice(slot, found[1], tuple(vote.member for vote in found[2].votes)))
    return Opening(low, tuple(choices))


# ------------------------------------------------------------------------------------------------- new views


def signed_by_leader(setup: Setup, new_view: NewView, view: int) -> bool:
    """Whether the leader of that view signed the new view."""
    return setup.keyring.verify(leader_of(setup, view), NEW_VIEW, new_view.body, new_view.signature)


def view_of(new_view: NewView) -> int:
    """The view that a new view claims to open. Raises `Invalid` if its bytes are none.

    Needed before the signature can be verified, because the view names the signer.
    """
    body = _decode(new_view.body)
    if not isinstance(body, NewViewBody):
        raise Invalid("not a new view's body")
    return body.view


def read_new_view(setup: Setup, new_view: NewView, known: Known = NOTHING) -> tuple[NewViewBody, Opening]:
    """What a new view says, and what it starts with, if its leader was allowed to say it.

    Raises `Invalid` otherwise; the message is then a proof against its leader (`signed_by_leader` comes first).
    """
    body = _decode(new_view.body)
    if not isinstance(body, NewViewBody):
        raise Invalid("not a new view's body")
    if len(body.changes) != setup.quorum.certificate:
        raise Invalid(f"a new view from {len(body.changes)} view changes; it takes {setup.quorum.certificate}")
    _check_members(setup, [change.signer for change in body.changes])
    changes: dict[MemberId, ViewChangeBody] = {}
    for change in body.changes:
        before = known.changes.get(change.signer)
        if before is not None and before[0] == change:
            said = before[1]
        elif signed_by_signer(setup, change):
            said = read_view_change(setup, change, known)
        else:
            raise Invalid(f"a view change of {change.signer} that it did not sign")
        if said.view != body.view:
            raise Invalid(f"a change to view {said.view} in view {body.view}")
        changes[change.signer] = said
    opening = choose(setup, changes)
    if len(body.votes) != len(opening.choices):
        raise Invalid(f"{len(body.votes)} proposals where the view changes yield {len(opening.choices)}")
    leader = leader_of(setup, body.view)
    for choice, signature in zip(opening.choices, body.votes, strict=True):
        # The slots and digests are never taken from the leader: they are computed, and it must have signed those.
        if not setup.keyring.verify(leader, VOTE, vote_statement(body.view, choice.slot, choice.digest), signature):
            raise Invalid(f"slot {choice.slot} does not hold what the view changes yield")
    return body, opening


def _decode(body: bytes) -> ViewChangeBody | NewViewBody:
    try:
        return BODIES.decode(body)
    except WireError as error:
        raise Invalid(f"undecodable: {error}") from None
