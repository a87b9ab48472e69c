"""What members say to each other, what they sign, and what they write down.

In words:

- `PrePrepare(v, s, d)`: I lead view v, and I put batch d into slot s. (My signature is my vote for it, too.)
- `Prepare(v, s, d)`: the leader of view v said so (here is its signature), I hold the bytes, and I said nothing else
  for (v, s). (My signature.)
- `Commit(v, s, d)`: I hold, durably, q members' votes for (v, s, d). (No signature: the link says who speaks.)
- `Stable(s)`: slot s is covered by a stable checkpoint here. (My signature.)
- `ViewChange(v)`: I have left all views below v. Above this proved low mark, here are all my prepared certificates.
- `NewView(v)`: q members came to view v; what they said makes these proposals the ones that view v starts with.
- `Status`: where I am, slot by slot: send me what I lack.
- `Accusation`: here is a proof that the leader said two things.

**One vote statement.** The leader's pre-prepare and a backup's prepare sign the same bytes, (view, slot, digest),
under the same purpose. A prepared certificate is therefore q signatures of different members under one statement,
checkable by anybody with the members' keys, and two statements of one signer for one (view, slot) with different
digests are a proof of equivocation, whoever the signer is.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.wire import U64, Blob, Bool, Codec, Digest32, Many, Maybe, Member, Raw, Signature64, Struct
from bftkit.crypto.signed import Certificate

VOTE: Final = "pbft vote"
"""The purpose under which pre-prepares and prepares are signed."""
STABLE: Final = "pbft stable"
VIEW_CHANGE: Final = "pbft view change"
NEW_VIEW: Final = "pbft new view"

CERTIFICATES_MAX: Final = 1 << 14
"""More prepared certificates than this are in no window."""
VIEW_CHANGE_BYTES_MAX: Final = 4 << 20
"""A view change's body is at most so long."""
NEW_VIEW_BYTES_MAX: Final = 15 << 20
"""A new view's body is at most so long: a link carries frames of 16 MiB."""
PHASES_MAX: Final = 64
"""A status speaks of at most so many slots above the delivered one."""

# ------------------------------------------------------------------------------------------------- statements

_VOTE_LAYOUT: Final = Layout(">QQ32s")
_SLOT_LAYOUT: Final = Layout(">Q")
VOTE_BYTES: Final = _VOTE_LAYOUT.size
"""How long a vote's statement is."""


def vote_statement(view: int, slot: Slot, digest: Digest) -> bytes:
    """The 48 bytes that a vote signs."""
    return _VOTE_LAYOUT.pack(view, slot, digest)


def read_vote_statement(body: bytes) -> tuple[int, Slot, Digest] | None:
    """(view, slot, digest) of a vote's bytes; None if these are no vote's."""
    if len(body) != _VOTE_LAYOUT.size:
        return None
    view, slot, digest = _VOTE_LAYOUT.unpack(body)
    return view, slot, digest


def stable_statement(slot: Slot) -> bytes:
    """The 8 bytes that say "a checkpoint at this slot or above it is stable here"."""
    return _SLOT_LAYOUT.pack(slot)


# ------------------------------------------------------------------------------------------------- messages


@attrs.frozen
class PrePrepare:
    """The leader of `view` puts `digest` into `slot`."""

    view: U64
    slot: U64
    digest: Digest32
    signature: Signature64


@attrs.frozen
class Prepare:
    """A backup accepted it. `leader_signature` is the pre-prepare's, so that others can compare and catch up."""

    view: U64
    slot: U64
    digest: Digest32
    leader_signature: Signature64
    signature: Signature64


@attrs.frozen
class Commit:
    """The sender holds a prepared certificate for exactly this. Stays true for ever, whatever views follow."""

    view: U64
    slot: U64
    digest: Digest32


@attrs.frozen
class Stable:
    """A checkpoint at `slot` or above is stable at the sender."""

    slot: U64
    signature: Signature64


@attrs.frozen
class ViewChange:
    """`body` encodes a `ViewChangeBody`; the signature covers it as it stands."""

    signer: Member
    body: Annotated[bytes, Blob(VIEW_CHANGE_BYTES_MAX)]
    signature: Signature64


@attrs.frozen
class NewView:
    """`body` encodes a `NewViewBody`, signed by the new view's leader. Anybody may pass it on."""

    body: Annotated[bytes, Blob(NEW_VIEW_BYTES_MAX)]
    signature: Signature64


@attrs.frozen
class Status:
    """Where the sender is. Each byte of `phases` speaks of one slot, from ``delivered + 1`` on (see `log.Phase`)."""

    view: U64
    active: Bool
    delivered: U64
    stable: U64
    stable_signature: Annotated[bytes | None, Maybe(Raw(64))]
    """Under `stable_statement(stable)`; None if nothing was stable yet."""
    phases: Annotated[bytes, Blob(PHASES_MAX)]
    changes: Annotated[bytes, Blob(128)]
    """A bitmap over the members: whose view change for `view` the sender has."""
    answer: Bool
    """True: said in answer to a status; no further status is wanted in return."""


@attrs.frozen
class Accusation:
    """`proof` is an encoded `Equivocation`."""

    proof: Annotated[bytes, Blob(1024)]


Message: TypeAlias = PrePrepare | Prepare | Commit | Stable | ViewChange | NewView | Status | Accusation

CODEC: Final = Codec[Message](
    "pbft",
    {
        1: PrePrepare,
        2: Prepare,
        3: Commit,
        4: Stable,
        5: ViewChange,
        6: NewView,
        7: Status,
        8: Accusation,
    },
)

# ------------------------------------------------------------------------------------------------- signed bodies


@attrs.frozen
class StableVote:
    """One member's `Stable`."""

    member: Member
    slot: U64
    signature: Signature64


@attrs.frozen
class ViewChangeBody:
    """What a view change says. See `view_change` for what makes it valid."""

    view: U64
    low: Annotated[tuple[StableVote, ...], Many(Struct(StableVote), 1024)]
    """The proof of the low mark: f + 1 members' `Stable`, ascending by member; empty: nothing is stable yet."""
    prepared: Annotated[tuple[Certificate, ...], Many(Struct(Certificate), CERTIFICATES_MAX)]
    """All of the sender's prepared certificates above the low mark, one a slot, ascending by slot."""


@attrs.frozen
class NewViewBody:
    """What a new view says."""

    view: U64
    changes: Annotated[tuple[ViewChange, ...], Many(Struct(ViewChange), 1024)]
    """q view changes for this view, ascending by signer."""
    votes: Annotated[tuple[bytes, ...], Many(Raw(64), CERTIFICATES_MAX)]
    """The leader's vote signatures for the slots that `view_change.choose` yields, ascending by slot."""


BODIES: Final = Codec[ViewChangeBody | NewViewBody]("pbft body", {1: ViewChangeBody, 2: NewViewBody})

# ------------------------------------------------------------------------------------------------- proofs


@attrs.frozen
class Equivocation:
    """`signer` voted for two digests in one (view, slot)."""

    signer: Member
    first: Annotated[bytes, Raw(_VOTE_LAYOUT.size)]
    first_signature: Signature64
    second: Annotated[bytes, Raw(_VOTE_LAYOUT.size)]
    second_signature: Signature64


@attrs.frozen
class BadBatch:
    """The leader proposed a batch with a request in it that is not authentic: its signed header.

    With the batch's bytes, which every member that refused it has, this is complete.
    """

    signer: Member
    header: Annotated[bytes, Raw(_VOTE_LAYOUT.size)]
    signature: Signature64


@attrs.frozen
class BadViewChange:
    """The signer signed a view change that breaks the rules, whoever reads it."""

    change: ViewChange


@attrs.frozen
class BadNewView:
    """The leader of the view that the body names signed a new view that breaks the rules."""

    new_view: NewView


Proof: TypeAlias = Equivocation | BadBatch | BadViewChange | BadNewView

PROOFS: Final = Codec[Proof]("pbft proof", {1: Equivocation, 2: BadBatch, 3: BadViewChange, 4: BadNewView})

# ------------------------------------------------------------------------------------------------- records


@attrs.frozen
class Voted:
    """I voted for this, as leader or as backup; never for anything else in (view, slot)."""

    view: U64
    slot: U64
    digest: Digest32
    leader_signature: Signature64
    signature: Signature64


@attrs.frozen
class Prepared:
    """I hold this prepared certificate."""

    certificate: Certificate


@attrs.frozen
class Entered:
    """I have left all views below this one. (Standing.)"""

    view: U64


@attrs.frozen
class Installed:
    """I accepted this new view. (Standing.)"""

    new_view: NewView


@attrs.frozen
class Proven:
    """The proof of my low mark. (Standing.)"""

    votes: Annotated[tuple[StableVote, ...], Many(Struct(StableVote), 1024)]


@attrs.frozen
class Settled:
    """A checkpoint at `slot` was told to be stable here: votes at or below it may be missing. (Standing.)

    Without it a leader whose votes were all forgotten would begin again at a slot that is long decided.
    """

    slot: U64


OwnRecord: TypeAlias = Voted | Prepared | Entered | Installed | Proven | Settled

RECORDS: Final = Codec[OwnRecord](
    "pbft record", {1: Voted, 2: Prepared, 3: Entered, 4: Installed, 5: Proven, 6: Settled}
)


def equivocation(signer: MemberId, first: tuple[bytes, bytes], second: tuple[bytes, bytes]) -> bytes:
    """The proof that `signer` signed both (statement, signature) pairs, in one defined order."""
    (a, a_signature), (b, b_signature) = sorted((first, second))
    return PROOFS.encode(Equivocation(signer, a, a_signature, b, b_signature))
