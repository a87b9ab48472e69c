"""Settling: how a checkpoint becomes stable, durable, and the end of what lies below it.

A member votes for the digest of its state (the vote is in its log first, so that a disk that was rolled back shows).
With a quorum's votes for its own digest the checkpoint is stable: the protocol is told, the state is saved, and once
that is durable the log begins anew and its old end may go. Members whose states differ stop and say where (SAFETY
rule 14).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bftkit.channel import frames
from bftkit.channel.checkpoints import Stable
from bftkit.channel.frames import CheckpointVote, pack_control
from bftkit.channel.interface import Cut, ReplicaOut, Rotate, Save
from bftkit.channel.records import OWN_RECORD
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.wire import WireError, pack_plain, unpack_plain
from bftkit.crypto.signed import Certificate

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica


def own_record(voted: Slot, *, silent: bool, forgotten: bytes = b"", covered: Slot = 0) -> bytes:
    """The standing record of a replica itself: its newest checkpoint vote, and whether it must stay silent.

    `forgotten` is the root of the keys under which it may have promised what it does not know; b"" if that is unknown.
    `covered`: what the log said about slots up to this one may be cut, since a checkpoint has it.
    """
    more = [forgotten, covered] if covered else [forgotten] if forgotten else []
    return OWN_RECORD + pack_plain([voted, silent, *more])


def read_own_record(body: bytes) -> tuple[Slot, bool, bytes]:
    """What `own_record` was made of, without its kind. Raises `WireError`."""
    voted, silent, *rest = unpack_plain(body)
    return voted, silent, rest[0] if rest else b""


def read_covered(body: bytes) -> Slot:
    """The same of `covered`. Raises `WireError`."""
    _, _, *rest = unpack_plain(body)
    return rest[1] if len(rest) > 1 else 0


class Settling:
    """The part of a replica that makes checkpoints stable."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.voted: Slot = 0
        """The newest checkpoint that this member voted for, as its log says."""
        self.saved: list[Slot] = []
        """The checkpoints that are durable here, the last two."""
        self.covered: Slot = 0
        """What the log said about slots up to this one may be cut, since a checkpoint has it."""

    def vote(self, slot: Slot, root: Digest, out: ReplicaOut) -> None:
        """Our state after this slot has this digest: vote for it."""
        replica = self._replica
        if replica.succession is not None and replica.succession.on_hashed(slot, root, out):
            return
        if replica.passive or replica.wedged or replica.stopped is not None:
            self._try_stable(slot, out)
            return
        self.note_voted(slot, out)
        signature = replica.settings.keyring.sign(frames.CHECKPOINT_PURPOSE, frames.checkpoint_body(slot, root))
        out.broadcast(pack_control(CheckpointVote(replica.settings.epoch, slot, root, signature)))
        replica.checkpoints.add_vote(replica.me, slot, root, signature)
        self._try_stable(slot, out)

    def note_voted(self, slot: Slot, out: ReplicaOut) -> None:
        """Write down that this member votes for its state after this slot."""
        if slot > self.voted:
            self.voted = slot
            out.persist(self.own_record())

    def own_record(self) -> bytes:
        """See the function of the same name."""
        replica = self._replica
        return own_record(self.voted, silent=replica.silent, forgotten=replica.forgotten, covered=self.covered)

    def on_vote(self, sender: MemberId, vote: CheckpointVote, out: ReplicaOut) -> None:
        """Another member's checkpoint vote."""
        replica = self._replica
        if vote.slot <= replica.checkpoints.stable:
            return
        body = frames.checkpoint_body(vote.slot, vote.root)
        if not replica.settings.keyring.verify(sender, frames.CHECKPOINT_PURPOSE, body, vote.signature):
            raise WireError("a checkpoint vote with a bad signature")
        if replica.checkpoints.add_vote(sender, vote.slot, vote.root, vote.signature):
            self._try_stable(vote.slot, out)

    def _try_stable(self, slot: Slot, out: ReplicaOut) -> None:
        replica = self._replica
        ready = replica.checkpoints.ready.get(slot)
        if ready is None:
            return
        certified = replica.checkpoints.certificate(slot)
        if certified is None:
            if replica.checkpoints.is_divergent(slot):
                replica.halt(f"the members' states differ at slot {slot}: no digest can reach a quorum", out)
            return
        self.on_certified(slot, *certified, out)

    def on_certified(self, slot: Slot, root: Digest, certificate: Certificate, out: ReplicaOut) -> None:
        """A quorum's certificate for a slot that was executed here, from votes or from another member."""
        replica = self._replica
        ready = replica.checkpoints.ready.get(slot)
        if ready is None:
            return  # not hashed yet
        mine, hashed = ready
        if root != mine:
            replica.halt(f"this member's state differs from the quorum's at slot {slot}", out)
            return
        self.settle(Stable(slot, root, certificate, tuple(hashed.leaves), hashed.view), out)

    def settle(self, stable: Stable, out: ReplicaOut, *, tell: bool = True) -> None:
        """A checkpoint became stable, and its state is here. `tell`: the protocol, too."""
        replica = self._replica
        lacked = replica.lacks_state
        replica.checkpoints.make_stable(stable)
        replica.counters.checkpoints += 1
        out.deliver(Save(stable))
        self._forget()
        if tell and not replica.passive:
            if lacked:
                replica.driving.start(out)
            else:
                replica.driving.tell_stable(stable, out)

    def vote_again(self, out: ReplicaOut) -> None:
        """Checkpoints that are not stable yet: votes may have been lost, and nothing else would bring them again."""
        replica = self._replica
        if replica.wedged:
            return  # what it signs from now on is the epoch's end (SAFETY rule 21)
        for slot in sorted(replica.checkpoints.ready):
            vote = replica.checkpoints.votes.get(slot, {}).get(replica.me)
            if vote is not None:
                out.broadcast(pack_control(CheckpointVote(replica.settings.epoch, slot, *vote)))

    def _forget(self) -> None:
        """Drop what lies at or below the older kept checkpoint (SAFETY rule 18)."""
        replica = self._replica
        kept = replica.checkpoints.kept
        floor = kept[0].slot if len(kept) > 1 else 0
        replica.batches.forget(floor, replica.applied)
        replica.history = {slot: name for slot, name in replica.history.items() if slot > floor}
        replica.catchup.forget(replica.applied)
        replica.driving.forget_records(floor)

    def on_saved(self, slot: Slot, out: ReplicaOut) -> None:
        """The checkpoint is durable."""
        replica = self._replica
        self.saved.append(slot)
        if len(self.saved) > 1:
            self.covered = max(self.covered, self.saved[-2])  # written before the log is cut there
        if replica.succession is None or not replica.succession.on_saved(slot, out):
            out.deliver(Rotate(replica.standing()))
        if len(self.saved) > 1:
            out.deliver(Cut(self.saved[-2]))
            del self.saved[:-2]

    def check_own_vote(self, slot: Slot, certificate: Certificate, out: ReplicaOut) -> None:
        """A quorum's certificate with a vote of ours that we do not remember: our disk was rolled back (rule 16)."""
        replica = self._replica
        unknown = slot > self.voted and not replica.passive
        if unknown and any(vote.member == replica.me for vote in certificate.votes):
            # Remembered, or a restart would let us vote on a log that lacks what we said before.
            replica.silent = True
            out.persist(self.own_record())
            replica.halt(f"a checkpoint vote of ours at slot {slot} is not in our log: the disk was rolled back", out)
