"""Checkpoints on disk: the last two, as chunks named by their digest (SAFETY rules 18 and 19).

A checkpoint is a slot, a manifest (bytes that the channel makes: the list of chunks, the certificate) and the chunks
themselves. Chunks that a new checkpoint shares with the one before are stored once and not written again, so a large
state of which little changed costs little. A chunk is checked against its name whenever it is read: what has rotted
is reported (`ChunkCorrupt`) and never handed out, neither to the service nor to a member that fetches the state.

A checkpoint is saved wholly or not at all, and is durable when `save` returns. A manifest that no longer matches its
own digest is left out and named by `damaged_slots`; the older checkpoint, from which the log is kept too, is still
good to start from.

This file is pure: the interface, and a store in memory for the simulator. The real one is `sqlite_snapshots.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import attrs

from bftkit.core.digest import digest
from bftkit.storage.files import DiskFull, StorageError, StorageFailed

Chunks = Iterable[tuple[bytes, bytes | None]]
"""Digest and bytes of every chunk of a checkpoint; None for the bytes of one that the store has already."""

Checkpoint = tuple[int, bytes]
"""Slot and manifest."""

KEPT_DEFAULT: Final = 2
"""How many checkpoints are kept (SAFETY rule 18)."""


class SnapshotCorrupt(StorageError):
    """What the store keeps is damaged; fetch the checkpoint from the group."""


class ChunkCorrupt(SnapshotCorrupt):
    """A stored chunk no longer matches its digest."""

    def __init__(self, name: bytes) -> None:
        """`name`: the digest under which the chunk was stored."""
        super().__init__(f"the stored chunk {name.hex()} is damaged")
        self.digest = name


class SnapshotStore(Protocol):
    """Where a member keeps its checkpoints.

    All methods may raise `StorageFailed` (and then do so ever after) and `SnapshotCorrupt`.
    """

    def save(self, slot: int, manifest: bytes, chunks: Chunks) -> None:
        """Keep this checkpoint, durable on return; forget the oldest beyond two, and chunks that none needs.

        A checkpoint of the same slot is replaced, and those above it are forgotten: a member goes back only if it could
        not use them, for it lost power before it had stored the hand-overs that lead there. Raises `ValueError` if
        bytes do not match their digest, or if a chunk given as None is not there; `DiskFull` (nothing was changed).
        """
        ...

    def checkpoints(self) -> list[Checkpoint]:
        """All undamaged checkpoints, the oldest first."""
        ...

    def latest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, if there is any."""
        ...

    def damaged_slots(self) -> list[int]:
        """Slots of checkpoints whose manifest is damaged, ascending."""
        ...

    def chunk(self, name: bytes) -> bytes | None:
        """The bytes with this digest, or None if they are not kept.

        Raises `ChunkCorrupt`; from then on the chunk counts as not kept, until a `save` brings its bytes again.
        """
        ...

    def has(self, name: bytes) -> bool:
        """Whether a chunk with this digest is kept and was not seen to be damaged."""
        ...

    def drop_below(self, slot: int) -> None:
        """Forget all checkpoints before this slot, and chunks that no other needs."""
        ...

    def keep_link(self, epoch: int, link: bytes) -> None:
        """Keep the hand-over that ends this epoch, durable on return. It is never forgotten. Raises `DiskFull`."""
        ...

    def links(self) -> list[bytes]:
        """All undamaged hand-overs that are kept, by their epochs. (Each proves itself to who follows the chain.)"""
        ...

    def close(self) -> None:
        """Release the store."""
        ...


@attrs.frozen
class _Kept:
    manifest: bytes
    manifest_digest: bytes
    contents: tuple[bytes, ...]


@attrs.frozen
class _State:
    checkpoints: Mapping[int, _Kept]
    chunks: Mapping[bytes, bytes]
    links: Mapping[int, bytes] = attrs.field(factory=dict[int, bytes])

    @property
    def size(self) -> int:
        manifests = sum(len(kept.manifest) for kept in self.checkpoints.values())
        links = sum(len(link) for link in self.links.values())
        return manifests + links + sum(len(data) for data in self.chunks.values())

    def pruned(self, slots: Iterable[int]) -> _State:
        """Only these checkpoints and the chunks that they need."""
        checkpoints = {slot: self.checkpoints[slot] for slot in sorted(slots)}
        needed = {name for kept in checkpoints.values() for name in kept.contents}
        chunks = {name: data for name, data in self.chunks.items() if name in needed}
        return _State(checkpoints, chunks, self.links)


class MemorySnapshots(SnapshotStore):
    """A store in memory with the faults of `memory_files.MemoryDirectory`, for the simulator and for tests."""

    def __init__(
        self,
        *,
        kept: int = KEPT_DEFAULT,
        digest_of: Callable[[bytes], bytes] = digest,
        capacity: int | None = None,
        lying: bool = False,
        before: Callable[[str], None] | None = None,
    ) -> None:
        """An empty store. `digest_of` names chunks; the other arguments are as in `MemoryDirectory`."""
        self.capacity = capacity
        self.lying = lying
        self.before = before
        self.fail_saves = 0
        """How many of the next changes fail with an I/O error."""
        self._kept = kept
        self._digest_of = digest_of
        self._failed = False
        self._damaged: set[bytes] = set()
        self._now = self._durable = _State({}, {})

    def _commit(self, operation: str, state: _State) -> None:
        if self.before is not None:
            self.before(operation)
        if self._failed:
            raise StorageFailed("an earlier operation on the simulated disk failed")
        if self.fail_saves:
            self.fail_saves -= 1
            self._failed = True
            raise StorageFailed("input/output error on the simulated disk")
        if self.capacity is not None and self._now.size < state.size > self.capacity:
            raise DiskFull("no space left on the simulated disk")
        self._now = state
        if not self.lying:
            self._durable = state

    def save(self, slot: int, manifest: bytes, chunks: Chunks) -> None:
        """See `SnapshotStore`."""
        contents: list[bytes] = []
        repaired: set[bytes] = set()
        stored = dict(self._now.chunks)
        for name, data in chunks:
            contents.append(name)
            if data is not None:
                if self._digest_of(data) != name:
                    raise ValueError(f"the bytes of chunk {name.hex()} do not match its digest")
                stored[name] = data
                repaired.add(name)
            elif name not in stored or name in self._damaged:
                raise ValueError(f"chunk {name.hex()} was given without its bytes and is not kept")
        kept = _Kept(manifest, digest(manifest), tuple(contents))
        before = {one: checkpoint for one, checkpoint in self._now.checkpoints.items() if one < slot}
        state = _State({**before, slot: kept}, stored, self._now.links)
        self._commit("save", state.pruned(sorted(state.checkpoints)[-self._kept :]))
        self._damaged = {name for name in self._damaged if name not in repaired}

    def checkpoints(self) -> list[Checkpoint]:
        """See `SnapshotStore`."""
        return [
            (slot, kept.manifest)
            for slot, kept in sorted(self._now.checkpoints.items())
            if digest(kept.manifest) == kept.manifest_digest
        ]

    def latest(self) -> Checkpoint | None:
        """See `SnapshotStore`."""
        return next(reversed(self.checkpoints()), None)

    def damaged_slots(self) -> list[int]:
        """See `SnapshotStore`."""
        good = {slot for slot, _ in self.checkpoints()}
        return sorted(slot for slot in self._now.checkpoints if slot not in good)

    def chunk(self, name: bytes) -> bytes | None:
        """See `SnapshotStore`."""
        data = self._now.chunks.get(name)
        if data is not None and self._digest_of(data) != name:
            self._damaged.add(name)
            raise ChunkCorrupt(name)
        return data

    def has(self, name: bytes) -> bool:
        """See `SnapshotStore`."""
        return name in self._now.chunks and name not in self._damaged

    def drop_below(self, slot: int) -> None:
        """See `SnapshotStore`."""
        self._commit("drop", self._now.pruned(kept for kept in self._now.checkpoints if kept >= slot))

    def keep_link(self, epoch: int, link: bytes) -> None:
        """See `SnapshotStore`."""
        self._commit("keep link", attrs.evolve(self._now, links={**self._now.links, epoch: link}))

    def links(self) -> list[bytes]:
        """See `SnapshotStore`."""
        return [link for _, link in sorted(self._now.links.items())]

    def close(self) -> None:
        """See `SnapshotStore`. Nothing to release."""

    # --- what happens to it ------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Cut the power. Saves that returned are kept, unless the disk lies; there are no halves."""
        self._now = self._durable
        self._failed = False
        self._damaged = set()

    def flip_chunk(self, name: bytes, bit: int) -> None:
        """Turn over one bit of a stored chunk."""
        data = bytearray(self._now.chunks[name])
        data[bit // 8] ^= 1 << bit % 8
        self._now = self._durable = attrs.evolve(self._now, chunks={**self._now.chunks, name: bytes(data)})

    def flip_manifest(self, slot: int, bit: int) -> None:
        """Turn over one bit of a stored manifest."""
        kept = self._now.checkpoints[slot]
        data = bytearray(kept.manifest)
        data[bit // 8] ^= 1 << bit % 8
        checkpoints = {**self._now.checkpoints, slot: attrs.evolve(kept, manifest=bytes(data))}
        self._now = self._durable = attrs.evolve(self._now, checkpoints=checkpoints)
