"""Catching up: how a member learns what it missed, by claims for a few slots and by state transfer for many.

Members tell each other their status. Who sees another one lag behind sends *claims*: which batch was decided in which
slot. Links are authenticated but claims are not transferable, so f + 1 equal ones are needed (SAFETY rule 17); the
bytes are fetched from those that claimed. Who lags behind the oldest slot that others still hold is sent a certified
checkpoint instead, and fetches its state (see `transfer`). Both work while the group is idle as well (rule 18).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bftkit.channel import frames
from bftkit.channel.checkpoints import Stable
from bftkit.channel.frames import (
    CheckpointProof,
    Chunk,
    ChunkRequest,
    Control,
    DecidedClaims,
    Manifest,
    ManifestRequest,
    NotHere,
    Status,
    pack_control,
)
from bftkit.channel.transfer import Transfer
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.wire import WireError
from bftkit.crypto.signed import Certificate
from bftkit.membership.chain import Ending

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica, ReplicaOut

CLAIMS_AT_ONCE: Final = 256
RETRY_BEATS: Final = 5
"""A transfer that got nothing for so long asks again, elsewhere first."""


class CatchUp:
    """The part of a replica that brings it, and others, up to date."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.peers: dict[MemberId, Status] = {}
        self.learned: dict[Slot, Digest] = {}
        """Decided by others, as f + 1 of them say; or by ourselves, as our log says."""
        self.transfer: Transfer | None = None
        self._claims: dict[Slot, dict[MemberId, Digest]] = {}
        self._applied_at_beat: Slot = 0
        self._stable_at_beat: Slot = 0
        self._progress: tuple[int, int] = (0, 0)
        self._manifest_asked = False

    @property
    def busy(self) -> bool:
        """Whether this member knows that it is behind."""
        if self.transfer is not None:
            return True
        applied = self._replica.applied
        return any(status.applied > applied for status in self.peers.values())

    def claimers(self, slot: Slot, name: Digest) -> tuple[MemberId, ...]:
        """Who claimed that this batch was decided in this slot."""
        claims = self._claims.get(slot, {})
        return tuple(member for member in sorted(claims) if claims[member] == name)

    def settle(self, slot: Slot) -> None:
        """The slot is executed."""
        self.learned.pop(slot, None)
        self._claims.pop(slot, None)

    def forget(self, applied: Slot) -> None:
        """Drop claims about slots that are executed."""
        self._claims = {slot: claims for slot, claims in self._claims.items() if slot > applied}
        self.learned = {slot: name for slot, name in self.learned.items() if slot > applied}

    def on_control(self, sender: MemberId, message: Control, out: ReplicaOut) -> None:
        """Dispatch."""
        match message:
            case Status():
                self._on_status(sender, message, out)
            case DecidedClaims():
                self._on_claims(sender, message)
            case CheckpointProof():
                self._on_proof(message, out)
                self._add_source(sender, message.certificate)
            case ManifestRequest(slot):
                self._on_manifest_request(sender, slot, out)
            case Manifest():
                self._on_manifest(sender, message, out)
            case ChunkRequest(slot, index):
                self._on_chunk_request(sender, slot, index, out)
            case Chunk():
                self._on_chunk(sender, message, out)
            case NotHere(slot):
                if self.transfer is not None and self.transfer.slot == slot:
                    self.transfer.drop(sender)
                    if self.transfer.leaves is None:
                        self._ask_manifest(self.transfer, out)
                    self._continue(out)
            case _:
                raise WireError(f"unexpected message {type(message).__name__}")

    def on_beat(self, out: ReplicaOut) -> None:
        """Every beat: retry what did not come."""
        replica = self._replica
        self._applied_at_beat = replica.applied
        self._stable_at_beat = replica.checkpoints.stable
        transfer = self.transfer
        if transfer is None:
            return
        beat, received = self._progress
        if received != transfer.received_bytes:
            self._progress = (replica.beat, transfer.received_bytes)
            transfer.fruitless = 0
        elif replica.beat - beat >= RETRY_BEATS:
            self._progress = (replica.beat, transfer.received_bytes)
            if not transfer.sources:
                self.transfer = None  # another proof will come with somebody's answer to our status
                return
            transfer.retry()
            if transfer.leaves is None:
                self._ask_manifest(transfer, out)
        self._continue(out)

    # ------------------------------------------------------------------------------------------ by claims

    def _on_status(self, sender: MemberId, status: Status, out: ReplicaOut) -> None:
        replica = self._replica
        if status.epoch != replica.settings.epoch:
            if replica.succession is not None:
                replica.succession.on_status(sender, status.epoch, out)
            return
        if sender in replica.indices:  # others follow the group, and no member is behind them
            self.peers[sender] = status
        if replica.succession is not None:
            replica.succession.beginning.look_for_progress(self.peers, out)
        self._offer_certificate(sender, status, out)
        # Who is behind by less than a beat is about to get there without help.
        if status.applied >= min(self._applied_at_beat, replica.applied):
            return
        history = replica.history
        first = status.applied + 1
        if first not in history:
            newest = replica.newest_proof()
            if newest is not None:
                out.send(sender, pack_control(CheckpointProof(status.epoch, newest)))
            return
        names: list[Digest] = []
        for slot in range(first, min(replica.applied, first + CLAIMS_AT_ONCE - 1) + 1):
            if slot not in history:
                break  # jumped over by a state transfer
            names.append(history[slot])
        out.send(sender, pack_control(DecidedClaims(status.epoch, first, tuple(names))))

    def _offer_certificate(self, sender: MemberId, status: Status, out: ReplicaOut) -> None:
        """Votes were lost: whoever has executed a checkpoint's slot lacks nothing but its certificate."""
        for stable in reversed(self._replica.checkpoints.kept):
            if not self._replica.proves_here(stable):
                continue
            if status.stable < stable.slot <= min(status.applied, self._stable_at_beat):
                out.send(sender, pack_control(CheckpointProof(status.epoch, stable.certificate)))
                return

    def _on_claims(self, sender: MemberId, message: DecidedClaims) -> None:
        replica = self._replica
        if sender not in replica.indices:
            return  # who joins or was removed is told what is decided, and tells nobody (SAFETY rule 26)
        if message.epoch != replica.settings.epoch:
            if replica.succession is None:
                raise WireError("claims of another epoch")
            return  # one of us is in the next epoch meanwhile
        if len(message.digests) > CLAIMS_AT_ONCE:
            raise WireError("too many claims")
        applied = replica.applied
        highest = applied + 2 * CLAIMS_AT_ONCE  # bounded, whatever is claimed (FAULTS 29)
        for slot, name in enumerate(message.digests, message.first):
            if not applied < slot <= highest:
                continue
            claims = self._claims.setdefault(slot, {})
            # Later ones are kept, too: whoever claimed first may be gone before it has sent the bytes.
            claims[sender] = name
            if slot in self.learned:
                continue
            if sum(claimed == name for claimed in claims.values()) >= replica.quorum.weak:
                self.learned[slot] = name

    # ------------------------------------------------------------------------------------------ by state

    def _on_proof(self, message: CheckpointProof, out: ReplicaOut) -> None:
        replica = self._replica
        if message.epoch != replica.settings.epoch:
            if replica.succession is not None:
                replica.succession.lineage.on_proof(message, out)
            return
        # Looked at before the signatures are: most proofs are news to nobody.
        slot, _ = frames.certified_state(message.certificate.body)
        if slot <= replica.checkpoints.stable or not self._is_better(slot):
            return
        certificate = message.certificate
        slot, root = replica.checkpoints.check(certificate)
        if Ending.is_one(certificate.body):
            # Known here with signatures that were checked. Those that came may say that anybody signed, as this member.
            assert replica.opened_by is not None
            certificate = replica.opened_by.certificate
        replica.settling.check_own_vote(slot, certificate, out)
        if slot <= replica.applied:
            replica.settling.on_certified(slot, root, certificate, out)
            return
        self._begin(slot, root, certificate, out)

    def _is_better(self, slot: Slot) -> bool:
        """Whether to fetch this state rather than what is being fetched: a newer one; or an older one, if need be.

        Of those that hold a new state, only some may have got its certificate, and these may be gone. The others will
        have it when this member votes with them, and for that the state that they can show is good enough.
        """
        return self.transfer is None or self.transfer.gives_way_to(slot)

    def _add_source(self, sender: MemberId, certificate: Certificate) -> None:
        """Who shows that a state is certified holds it, be it one of those that signed for it or not."""
        transfer = self.transfer
        if transfer is not None and frames.certified_state(certificate.body) == (transfer.slot, transfer.root):
            transfer.add(sender)

    def fetch(self, slot: Slot, root: Digest, certificate: Certificate, out: ReplicaOut) -> None:
        """Fetch this certified state, unless that, or a newer one, is under way; or it was just fetched in vain."""
        if self.transfer is None or (self.transfer.slot < slot and self._is_better(slot)):
            self._begin(slot, root, certificate, out)

    def _begin(self, slot: Slot, root: Digest, certificate: Certificate, out: ReplicaOut) -> None:
        replica = self._replica
        signers = [vote.member for vote in certificate.votes if vote.member != replica.me]
        turn = replica.indices.get(replica.me, 0) % max(1, len(signers))
        transfer = Transfer(slot, root, certificate, signers[turn:] + signers[:turn])
        if self.transfer is not None:
            transfer.go_on_from(self.transfer)
        self.transfer = transfer
        self._progress = (replica.beat, 0)
        replica.counters.transfers += 1
        self._ask_manifest(transfer, out)

    def _ask_manifest(self, transfer: Transfer, out: ReplicaOut) -> None:
        if transfer.sources:
            out.send(transfer.sources[0], pack_control(ManifestRequest(transfer.slot)))

    def _on_manifest_request(self, sender: MemberId, slot: Slot, out: ReplicaOut) -> None:
        stable = self._replica.checkpoints.at(slot)
        if stable is None:
            out.send(sender, pack_control(NotHere(slot)))
        else:
            out.send(sender, pack_control(Manifest(stable.certificate, stable.leaves)))

    def _on_manifest(self, sender: MemberId, message: Manifest, out: ReplicaOut) -> None:
        transfer = self.transfer
        if transfer is None or transfer.leaves is not None:
            return
        slot, _ = frames.certified_state(message.certificate.body)
        if slot != transfer.slot or sender not in transfer.sources:
            return
        if not transfer.take_manifest(message.leaves, self._own_chunks(message.leaves)):
            transfer.bar(sender)
            self._replica.blame(sender, "manifest that is not the certified one", b"", out)
            self._ask_manifest(transfer, out)
            return
        self._continue(out)

    def _own_chunks(self, leaves: tuple[Digest, ...]) -> dict[Digest, bytes]:
        """What this member's own state has of these chunks already."""
        view = self._replica.state.view()
        wanted = set(leaves)
        own: dict[Digest, bytes] = {}
        for index in range(view.count):
            name = view.leaf(index)
            if name in wanted:
                own[name] = view.chunk(index)
        return own

    def _on_chunk_request(self, sender: MemberId, slot: Slot, index: int, out: ReplicaOut) -> None:
        stable = self._replica.checkpoints.at(slot)
        if stable is None or index >= stable.view.count:
            out.send(sender, pack_control(NotHere(slot)))
        elif self._replica.may_serve(sender):
            self._replica.serve(sender, pack_control(Chunk(slot, index, stable.view.chunk(index))), out)

    def _on_chunk(self, sender: MemberId, message: Chunk, out: ReplicaOut) -> None:
        transfer = self.transfer
        if transfer is None:
            return
        self._replica.counters.transferred_bytes += len(message.data)
        if transfer.slot == message.slot:
            good = transfer.take_chunk(sender, message.index, message.data)
        else:
            good = transfer.take_owed(sender, message.slot, message.index, message.data)
        if not good:
            self._replica.blame(sender, "chunk that is not the certified one", b"", out)
        self._continue(out)

    def _continue(self, out: ReplicaOut) -> None:
        transfer = self.transfer
        if transfer is None:
            return
        if transfer.slot <= self._replica.applied:
            self.transfer = None  # claims were faster
            return
        for source, index in transfer.requests():
            out.send(source, pack_control(ChunkRequest(transfer.slot, index)))
        if transfer.complete:
            self._finish(transfer, out)

    def _finish(self, transfer: Transfer, out: ReplicaOut) -> None:
        replica = self._replica
        self.transfer = None
        assert transfer.leaves is not None
        replica.state.restore(transfer.slot, transfer.chunks())
        replica.executing.on_jump()
        replica.proposer.on_jump()
        self.forget(transfer.slot)
        stable = Stable(transfer.slot, transfer.root, transfer.certificate, transfer.leaves, replica.state.view())
        crosses = replica.succession is not None and replica.succession.on_fetched(transfer.slot)
        if not crosses:
            replica.entering.enter_fetched(transfer.slot)
        replica.settling.settle(stable, out, tell=not crosses)
