"""Restoring: what a restart makes of the log and of the newest saved checkpoint.

First the epoch: the newest hand-over in the log says which one this member was in. Then the checkpoint, if the members
of that epoch, or the hand-over that opened it, prove it; a state that is proved by nothing is fetched anew. Then the
log's records in order: the protocol gets its own back, batches and decisions are at hand again, and so is whatever this
member promised (SAFETY rules 5 and 16). What stands before the epoch's begin belongs to epochs before, and is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from bftkit.channel import frames
from bftkit.channel.batches import BatchStore
from bftkit.channel.checkpoints import Stable
from bftkit.channel.interface import ReplicaOut, Restored
from bftkit.channel.records import (
    BATCH_RECORD,
    BEDROCK_RECORD,
    DECIDED_RECORD,
    ENTERED_RECORD,
    EPOCH_RECORD,
    MARKED_RECORD,
    OWN_RECORD,
    PROTOCOL_RECORD,
    SLOT_UNKNOWN,
    WEDGE_RECORD,
)
from bftkit.channel.settling import read_covered, read_own_record
from bftkit.core.digest import digest
from bftkit.core.machine import Digest, Slot
from bftkit.core.wire import WireError
from bftkit.membership.chain import Ending, HandOver

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica


class Restoring:
    """The part of a replica that is at work after a restart, and only then."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def restore(self, restored: Restored, out: ReplicaOut) -> None:
        """Take over what the disk holds. Raises `WireError` if that makes no sense."""
        replica = self._replica
        replica.silent = restored.amnesic
        replica.forgotten = restored.forgotten
        if replica.succession is not None:
            self._restore_epoch(restored)
        if restored.checkpoint is not None:
            self._restore_checkpoint(*restored.checkpoint)
        decided = self._restore_records(restored, out)
        for slot in sorted(decided):
            if slot > replica.applied:
                replica.catchup.learned[slot] = decided[slot]
        replica.promised = max([replica.applied, replica.settling.voted, replica.settling.covered, *decided])
        if restored.amnesic:
            out.persist(replica.settling.own_record())
        opened_by = replica.opened_by
        if opened_by is not None and not replica.entering.marked:
            replica.entering.mark(opened_by, out)  # the crash was faster

    # ------------------------------------------------------------------------------------------ the log

    def _restore_records(self, restored: Restored, out: ReplicaOut) -> dict[Slot, Digest]:
        """The log's records of the present epoch; what is returned was decided, as they say."""
        replica, entering = self._replica, self._replica.entering
        protocol_records: list[tuple[Slot, bytes]] = []
        decided: dict[Slot, Digest] = {}
        wedged_by, bedrock_records = b"", list[bytes]()
        entered = b""
        covered = 0
        marked = entering.marked = any(record == MARKED_RECORD for record in restored.records)
        slots = restored.slots or [SLOT_UNKNOWN] * len(restored.records)
        for about, record in zip(slots, restored.records, strict=True):
            kind, body = record[:1], record[1:]
            if kind == PROTOCOL_RECORD:
                protocol_records.append((about, body))
            elif kind == BATCH_RECORD:
                replica.batches.restore(body[8:], int.from_bytes(body[:8], "big"))
            elif kind == DECIDED_RECORD:
                decided[int.from_bytes(body[:8], "big")] = body[8:]
            elif kind == OWN_RECORD:
                replica.settling.voted, amnesic, forgotten = read_own_record(body)
                covered = max(covered, read_covered(body))
                replica.silent = replica.silent or amnesic
                replica.forgotten = replica.forgotten or forgotten
            elif kind == MARKED_RECORD:
                pass
            elif kind == ENTERED_RECORD or (kind == EPOCH_RECORD and digest(body) != entered and not marked):
                # Every segment begins with the hand-over; what stands before the first one is of epochs before.
                entered = body if kind == ENTERED_RECORD else digest(body)
                entering.marked = kind == ENTERED_RECORD
                protocol_records.clear()
                decided.clear()
                # Judged by the keys of an epoch before: whoever was up all the time would refuse them (SAFETY rule 4).
                replica.batches = BatchStore(replica.settings)
                wedged_by, bedrock_records = b"", []
            elif kind == EPOCH_RECORD:
                pass
            elif kind == WEDGE_RECORD:
                wedged_by = body
            elif kind == BEDROCK_RECORD:
                if body not in bedrock_records:
                    bedrock_records.append(body)
            else:
                raise WireError(f"unknown kind of log record {kind.hex()}")
        driving = replica.driving
        if not replica.passive:
            driving.step(lambda inner: driving.machine.on_restore([one for _, one in protocol_records], inner), out)
        replica.settling.covered = covered
        if replica.succession is not None:
            driving.records = protocol_records + driving.records
            if wedged_by:
                replica.wedge.restore(wedged_by, bedrock_records)
        return decided

    def _restore_epoch(self, restored: Restored) -> None:
        """Which epoch this member was in: the one that the newest hand-over in its log opened."""
        replica = self._replica
        newest: HandOver | None = None
        for record in restored.records:
            if record[:1] == EPOCH_RECORD:
                newest = HandOver.decode(record[1:])
        replica.succession_part.restore(restored.links, newest)
        replica.preparing.coin_keys.restore(restored.secrets)
        if newest is not None:
            replica.entering.restore(newest)

    # ------------------------------------------------------------------------------------------ the checkpoint

    def _restore_checkpoint(self, slot: Slot, packed: bytes, chunks: Sequence[bytes]) -> None:
        replica, succession = self._replica, self._replica.succession
        manifest = frames.CONTROL_CODEC.decode(packed)
        if not isinstance(manifest, frames.Manifest):
            raise WireError("the saved checkpoint has no manifest")
        opened_by = replica.opened_by
        if opened_by is not None and slot < opened_by.ending.slot:
            return  # of an epoch before: the state is fetched
        if succession is not None and Ending.is_one(manifest.certificate.body):
            ending = Ending.decode(manifest.certificate.body)
            if ending.epoch >= replica.settings.epoch and not succession.reached(ending, manifest.certificate):
                return  # of an epoch that this member knows no way to: the state is fetched
            certified, root = ending.slot, ending.root
        elif opened_by is not None and slot == opened_by.ending.slot:
            # A forced ending fell on this checkpoint: nobody checks signatures of the epoch before any more.
            certified, root = slot, opened_by.ending.root
            manifest = attrs.evolve(manifest, certificate=opened_by.certificate)
        else:
            try:
                certified, root = replica.checkpoints.check(manifest.certificate)
            except WireError:
                # The links that lead there may not have been stored when the state was.
                if succession is None or not (
                    succession.ahead or replica.state.epoch_of(chunks) > replica.settings.epoch
                ):
                    raise
                return  # of an epoch that the log has not reached: it was fetched, and is fetched again
        names = [digest(chunk) for chunk in chunks]
        if certified != slot or names != list(manifest.leaves) or not replica.checkpoints.fits(root, names):
            raise WireError("the saved checkpoint is not the certified one")
        replica.state.restore(slot, chunks)
        view = replica.state.view()
        replica.checkpoints.make_stable(Stable(slot, root, manifest.certificate, manifest.leaves, view))
        replica.settling.saved.append(slot)
        replica.entering.enter_fetched(slot)
