"""Checkpoints: the state's digest after a slot, stable once a quorum has signed it.

Taking the view is quick; its chunks are hashed a few at a time between other work, so that a large state does not
hold up requests (SAFETY rule 19). The last two stable checkpoints are kept (rule 18), so that a member that is being
brought up to date does not lose its source under its hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from bftkit.channel.frames import CHECKPOINT_PURPOSE, checkpoint_body, parse_checkpoint_body
from bftkit.channel.state import FullView
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.ordering import SignerProtocol
from bftkit.core.quorum import Quorum
from bftkit.core.wire import WireError
from bftkit.crypto.merkle import root as merkle_root
from bftkit.crypto.signed import Certificate
from bftkit.membership.chain import Ending

CHANGED_PER_STEP: Final = 16
"""Chunks, of 64 KiB usually, that one step hashes: about a millisecond's work."""
LEAVES_PER_STEP: Final = 1024
"""Leaves that one step looks at; those of unchanged chunks are remembered and not computed."""

KEPT: Final = 2
"""So many stable checkpoints are kept."""

VOTES_PER_MEMBER: Final = 8
"""A member's votes are kept for so many slots at most (FAULTS 29)."""


@attrs.define(eq=False)
class Hashing:
    """A view whose chunks are being hashed."""

    slot: Slot
    view: FullView
    before: Sequence[Digest] = ()
    """The leaves of the last state that was hashed: where they are the same, nothing had to be hashed."""
    leaves: list[Digest] = attrs.field(factory=list[Digest])

    def step(self) -> Digest | None:
        """Hash some more; the root, once all is done."""
        view, leaves, before = self.view, self.leaves, self.before
        count, begin = view.count, len(leaves)
        changed = 0
        for index in range(begin, min(count, begin + LEAVES_PER_STEP)):
            leaf = view.leaf(index)
            leaves.append(leaf)
            if index >= len(before) or leaf != before[index]:
                changed += 1
                if changed == CHANGED_PER_STEP:
                    break
        return merkle_root(leaves) if len(leaves) == count else None


@attrs.frozen(eq=False)
class Stable:
    """A stable checkpoint that this member holds the state of."""

    slot: Slot
    root: Digest
    certificate: Certificate
    leaves: tuple[Digest, ...]
    view: FullView


@attrs.define(eq=False)
class Checkpoints:
    """One member's checkpoints: being hashed, voted for, stable."""

    quorum: Quorum
    keyring: SignerProtocol
    hashing: list[Hashing] = attrs.field(factory=list[Hashing])
    ready: dict[Slot, tuple[Digest, Hashing]] = attrs.field(factory=dict[Slot, tuple[Digest, Hashing]])
    """Hashed here, and not stable yet."""
    votes: dict[Slot, dict[MemberId, tuple[Digest, bytes]]] = attrs.field(
        factory=dict[Slot, dict[MemberId, tuple[Digest, bytes]]]
    )
    hashed: Sequence[Digest] = ()
    """The leaves of the last state that was hashed."""
    kept: list[Stable] = attrs.field(factory=list[Stable])
    """The newest stable checkpoints, older first."""
    opened_by: Ending | None = None
    """The end of the epoch before, which is a certified state, too."""

    @property
    def stable(self) -> Slot:
        """The newest stable checkpoint whose state this member holds."""
        return self.kept[-1].slot if self.kept else 0

    def at(self, slot: Slot) -> Stable | None:
        """The kept stable checkpoint at this slot."""
        return next((kept for kept in self.kept if kept.slot == slot), None)

    def begin(self, slot: Slot, view: FullView) -> None:
        """The state after `slot`: hash it in the steps to come."""
        self.hashing.append(Hashing(slot, view, self.hashed))

    def step(self) -> tuple[Slot, Digest] | None:
        """Hash some more; says when a checkpoint of ours is ready to be voted for."""
        if not self.hashing:
            return None
        current = self.hashing[0]
        root = current.step()
        if root is None:
            return None
        self.hashing.pop(0)
        self.hashed = current.leaves
        for later in self.hashing:
            later.before = self.hashed
        self.ready[current.slot] = (root, current)
        return current.slot, root

    def add_vote(self, member: MemberId, slot: Slot, root: Digest, signature: bytes) -> bool:
        """A vote whose signature was checked; False if it is not wanted (old, or too many of this member)."""
        if slot <= self.stable:
            return False
        mine = [at for at, votes in self.votes.items() if member in votes]
        if slot in mine:
            return False
        if len(mine) >= VOTES_PER_MEMBER:
            # A correct member's newer votes matter more than its older ones.
            oldest = min(mine)
            if slot < oldest:
                return False
            del self.votes[oldest][member]
            if not self.votes[oldest]:
                del self.votes[oldest]
        self.votes.setdefault(slot, {})[member] = (root, signature)
        return True

    def certificate(self, slot: Slot) -> tuple[Digest, Certificate] | None:
        """A quorum's certificate for this slot, once there is one."""
        by_root: dict[Digest, dict[MemberId, bytes]] = {}
        for member, (root, signature) in self.votes.get(slot, {}).items():
            by_root.setdefault(root, {})[member] = signature
        for root in sorted(by_root):
            if len(by_root[root]) >= self.quorum.certificate:
                return root, Certificate.of(checkpoint_body(slot, root), by_root[root])
        return None

    def is_divergent(self, slot: Slot) -> bool:
        """Whether no digest can reach a quorum any more, whatever the missing votes say (SAFETY rule 14)."""
        counts: dict[Digest, int] = {}
        votes = self.votes.get(slot, {})
        for root, _ in votes.values():
            counts[root] = counts.get(root, 0) + 1
        missing = self.quorum.n - len(votes)
        return bool(counts) and max(counts.values()) + missing < self.quorum.certificate

    def check(self, certificate: Certificate) -> tuple[Slot, Digest]:
        """The slot and root that a quorum really signed. Raises `WireError`."""
        if Ending.is_one(certificate.body):
            # Signed in the epoch before, and checked when this member came from there.
            ending = Ending.decode(certificate.body)
            if ending != self.opened_by:
                raise WireError("a hand-over that did not open this epoch")
            return ending.slot, ending.root
        slot, root = parse_checkpoint_body(certificate.body)
        if not certificate.valid(self.keyring, CHECKPOINT_PURPOSE, self.quorum.certificate):
            raise WireError("the checkpoint's certificate is not signed by a quorum")
        return slot, root

    def proves_here(self, stable: Stable) -> bool:
        """Whether members of this epoch can check the certificate: it is of this epoch, or of what opened it.

        The state that the epoch ends with is shown by the hand-over, and not before.
        """
        opened_by, body = self.opened_by, stable.certificate.body
        if Ending.is_one(body):
            return Ending.decode(body) == opened_by
        return opened_by is None or stable.slot > opened_by.slot

    def certify(self, slot: Slot, certificate: Certificate) -> None:
        """The kept stable checkpoint at this slot is proved by this from now on."""
        self.kept = [attrs.evolve(kept, certificate=certificate) if kept.slot == slot else kept for kept in self.kept]

    def fits(self, root: Digest, leaves: Sequence[Digest]) -> bool:
        """Whether these are the chunks of that root."""
        return merkle_root(leaves) == root

    def make_stable(self, stable: Stable) -> None:
        """Keep it; forget everything that lies at or below, and the stable ones before the last two."""
        assert stable.slot > self.stable
        self.kept = [*self.kept, stable][-KEPT:]
        self.hashing = [item for item in self.hashing if item.slot > stable.slot]
        self.ready = {slot: item for slot, item in self.ready.items() if slot > stable.slot}
        self.votes = {slot: votes for slot, votes in self.votes.items() if slot > stable.slot}
