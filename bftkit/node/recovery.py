"""What a member finds on its disk when it starts, and what that makes of it.

A disk that is empty, damaged or was not synced makes the member *silent* for the rest of the epoch (SAFETY rules 15
and 16): it follows the group and promises nothing, since it may have promised something else before. A damaged
checkpoint is no such loss: the one before serves, or the state is fetched from the group.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Final

from bftkit.channel.frames import CONTROL_CODEC, Manifest
from bftkit.channel.interface import Restored
from bftkit.channel.records import EPOCH_RECORD, OWN_RECORD
from bftkit.channel.settling import own_record, read_own_record
from bftkit.core.wire import WireError
from bftkit.membership.chain import HandOver
from bftkit.node.folders import MemberFolder
from bftkit.storage.disk import DiskDirectory
from bftkit.storage.durability import DurabilityKeeper
from bftkit.storage.head import SALT_SIZE
from bftkit.storage.log import Durability, Log, LogCorrupt, LogMissing, MemoryLog, RecordLog, set_aside
from bftkit.storage.recovery import read_log
from bftkit.storage.recovery import recovered as recovered_records
from bftkit.storage.snapshots import MemorySnapshots, SnapshotCorrupt, SnapshotStore
from bftkit.storage.sqlite_snapshots import SqliteSnapshots, set_database_aside

logger = logging.getLogger("bftkit.node")

SNAPSHOTS_FILE: Final = "checkpoints.db"
FoundCheckpoint = tuple[int, bytes, list[bytes]]
"""Slot, manifest and chunks."""


def open_storage(folder: MemberFolder) -> tuple[RecordLog, SnapshotStore, Restored]:
    """The member's disk, and what it remembers. Raises `StorageFailed`, `LogMismatch`, `StorageBusy`, `DiskFull`."""
    keeper = durability_keeper(folder)
    told = tuple(link.encode() for link in folder.history)
    before = keeper.is_marked
    if keeps_nothing(folder):
        before = before or _has_promised(folder)
        keeper.mark()
        forgotten = folder.epochs.root if before else b""
        return MemoryLog(), MemorySnapshots(), Restored(amnesic=before, forgotten=forgotten, links=told)
    directory = DiskDirectory(folder.log)
    directory.lock()
    group, identity = folder.genesis.group_id, folder.identity.public
    # What the kernel had not written when the power went is gone, and nobody can tell (durability `async`). It is the
    # mark that says so, and not the setting: somebody may have changed that while the member was down.
    amnesic = before
    try:
        log, recovered = Log.open(directory, group=group, identity=identity)
    except (LogMissing, LogCorrupt) as error:
        logger.error("%s: this member has forgotten what it promised, and stays silent in this epoch", error)
        set_aside(directory)
        # The remark is in the new log from its first byte on, or a crash right now would make us look new.
        remark = own_record(0, silent=True, forgotten=folder.epochs.root)
        salt = secrets.token_bytes(SALT_SIZE)
        Log.create(directory, group=group, identity=identity, salt=salt, standing=[remark])
        log, recovered = Log.open(directory, group=group, identity=identity)
        amnesic = True
    if recovered.torn_bytes:
        logger.warning("cut a torn tail of %d bytes: nothing in it was ever acknowledged", recovered.torn_bytes)
    snapshots = _open_snapshots(folder)
    records = [entry.payload for entry in recovered.records]
    slots = [entry.slot for entry in recovered.records]
    newest = newest_link(records)
    needs = folder.genesis.qos if newest is None else newest.next.qos
    asked = None if needs is None else needs.durability
    if before and keeper.needed(asked) is Durability.FSYNC:
        log.append(own_record(_voted(records), silent=True, forgotten=folder.epochs.root), 0)
        log.settle()
        keeper.unmark()  # the log itself says now that its member has forgotten
    keeper.suit(log, asked)
    forgotten = folder.epochs.root if amnesic else b""
    checkpoint, links = newest_checkpoint(snapshots), (*told, *snapshots.links())
    return log, snapshots, Restored(records, checkpoint, amnesic, forgotten, links, slots=slots)


def _has_promised(folder: MemberFolder) -> bool:
    """Whether there is a log, of a time with another setting, that is not as `bftkit init` made it.

    It is not followed any more, so what its member promised there is forgotten (SAFETY rule 16).
    """
    try:
        records = recovered_records(read_log(DiskDirectory(folder.log))).records
    except LogMissing:
        return False
    except LogCorrupt:
        return True
    return any(entry.payload != own_record(0, silent=True) for entry in records)


def newest_link(records: Sequence[bytes]) -> HandOver | None:
    """The hand-over that opened the epoch which a log is in; None in epoch 0. Raises `WireError`."""
    opened = [record for record in records if record.startswith(EPOCH_RECORD)]
    return HandOver.decode(opened[-1][len(EPOCH_RECORD) :]) if opened else None


def durability_keeper(folder: MemberFolder) -> DurabilityKeeper:
    """Knows how durable this member's records are to be."""
    data = DiskDirectory(folder.path / folder.settings.data)
    return DurabilityKeeper(Durability(folder.settings.durability), data)


def keeps_nothing(folder: MemberFolder) -> bool:
    """Whether the member has no log on disk: by its own setting, and by what the group needed when it was founded.

    That is for good, until it is started with another setting: a log that begins in the middle would lack what the
    member promised before.
    """
    needs = folder.genesis.qos
    return durability_keeper(folder).needed(None if needs is None else needs.durability) is Durability.MEMORY


def _voted(records: Sequence[bytes]) -> int:
    """The newest checkpoint that the member voted for, as far as its log knows."""
    own = [record for record in records if record.startswith(OWN_RECORD)]
    return read_own_record(own[-1][len(OWN_RECORD) :])[0] if own else 0


def _open_snapshots(folder: MemberFolder) -> SnapshotStore:
    path = folder.snapshots / SNAPSHOTS_FILE
    try:
        store = SqliteSnapshots(path)
        store.checkpoints()
        return store
    except SnapshotCorrupt as error:
        logger.error("%s; the checkpoint is fetched from the group", error)
        set_database_aside(path)
        return SqliteSnapshots(path)


def newest_checkpoint(store: SnapshotStore) -> FoundCheckpoint | None:
    """The newest checkpoint that is whole."""
    for slot, packed in reversed(store.checkpoints()):
        try:
            manifest = CONTROL_CODEC.decode(packed)
            if not isinstance(manifest, Manifest):
                raise WireError("this is no manifest")
            chunks = [store.chunk(leaf) for leaf in manifest.leaves]
        except (SnapshotCorrupt, WireError) as error:
            logger.error("the checkpoint at slot %d is damaged (%s)", slot, error)
            continue
        whole = [chunk for chunk in chunks if chunk is not None]
        if len(whole) == len(chunks):
            return slot, packed, whole
    return None
