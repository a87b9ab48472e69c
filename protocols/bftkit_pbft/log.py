"""What a member knows of one slot, and how far it is with it."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import attrs

from bftkit.core.machine import Digest, MemberId
from bftkit.core.machine import Transition as Row
from bftkit.crypto.signed import Certificate

from .messages import Commit, Prepare, PrePrepare


class Phase(IntEnum):
    """How far a slot is, in one member's present view. The numbers are the bytes of `Status.phases`."""

    OPEN = 0
    """Nothing is known of the leader's choice."""
    HEADED = 1
    """The leader's header is accepted; the bytes, and so the own vote, are still missing."""
    VOTED = 2
    """The own vote is out."""
    PREPARED = 3
    """q votes are here: a prepared certificate."""
    DECIDED = 4
    """q members hold such a certificate."""


PHASES: Final = (
    Row("OPEN", "header by PrePrepare, Prepare or NewView", "HEADED"),
    Row("HEADED", "Available", "VOTED"),
    Row("VOTED", "q votes", "PREPARED"),
    Row("PREPARED", "q Commits", "DECIDED"),
    Row("OPEN", "q Commits and Available, or Learned", "DECIDED"),
    Row("HEADED", "q Commits and Available, or Learned", "DECIDED"),
    Row("VOTED", "q Commits or Learned", "DECIDED"),
    Row("HEADED", "ViewChange", "OPEN"),
    Row("VOTED", "ViewChange", "OPEN"),
    Row("PREPARED", "ViewChange (the certificate is kept)", "OPEN"),
)
"""The phases of a slot. What is decided stays decided; its votes run through the phases again in a new view."""


@attrs.frozen
class Held:
    """A prepared certificate that this member holds durably, and what it says."""

    view: int
    digest: Digest
    certificate: Certificate


@attrs.define
class SlotState:
    """One slot. All but `commits` and `committed` belong to the present view."""

    digest: Digest | None = None
    """What the accepted header says."""
    leader_signature: bytes = b""
    from_new_view: bool = False
    """The header came with the new view, hence from certificates (or fills a gap), not from the leader's choice."""
    holders: tuple[MemberId, ...] = ()
    """Who should have the bytes."""
    signature: bytes = b""
    """The own vote's; empty: not voted."""
    votes: dict[MemberId, bytes] = attrs.field(factory=dict[MemberId, bytes])
    """Verified vote signatures for `digest`, the leader's and the own included."""
    prepares: dict[MemberId, Prepare] = attrs.field(factory=dict[MemberId, Prepare])
    """One prepare a backup, not verified yet."""
    prepared: bool = False
    ahead: PrePrepare | None = None
    """A proposal that came before this member's window had reached the slot."""
    commits: dict[MemberId, Commit] = attrs.field(factory=dict[MemberId, Commit])
    """The newest commit of each member, of whatever view."""
    committed: Digest | None = None
    """q commits name this digest, but its bytes are not here yet."""

    def leave_view(self) -> None:
        """Forget what belongs to the view that is left."""
        self.digest = None
        self.leader_signature = b""
        self.from_new_view = False
        self.holders = ()
        self.signature = b""
        self.votes.clear()
        self.prepares.clear()
        self.prepared = False
        self.ahead = None
