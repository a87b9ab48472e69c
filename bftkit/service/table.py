"""A mapping for large states: journaled, chunked, copied only where it is written.

Keys are spread over a fixed number of buckets by their digest. `freeze` takes a view in time that does not depend on
the size of the state: buckets are shared until they are written again. A bucket's bytes are its pairs in ascending
order of their keys, so they depend on the content alone and not on how it came about (SAFETY rule 19), and their
digests are remembered as long as the bucket does not change. A bucket is one chunk, or several pieces if it is large.

The journal makes `undo` possible (rule 10): every write since the last mark can be taken back.

Whoever chooses the keys can aim all of them at one bucket. That makes writes after a checkpoint slower (the bucket is
copied once, whole), and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice, pairwise
from typing import Final, cast

import attrs

from bftkit.core.digest import digest
from bftkit.core.machine import Digest
from bftkit.core.wire import WireError, pack_plain, unpack_plain

BUCKETS: Final = 256

PIECE_BYTES: Final = 512 << 10
"""No chunk has more bytes than this, and a flag."""

PAIR_OVERHEAD: Final = 10
"""What msgpack puts around a key and its value at most. The exact number does not matter, only that all agree."""

MORE: Final = b"\x01"
LAST: Final = b"\x00"


# ------------------------------------------------------------------------------------------------- pieces of a stream


def pieces_of(weight: int) -> int:
    """Into how many pieces bytes of this weight (at least their length) are cut."""
    return max(1, -(-weight // PIECE_BYTES))


def cut(data: bytes, count: int) -> tuple[bytes, ...]:
    """So many chunks of nearly the same length. The first byte of each says whether another follows."""
    size = max(1, -(-len(data) // count))
    starts = range(0, count * size, size)
    return tuple(
        (MORE if number + 1 < count else LAST) + data[start : start + size] for number, start in enumerate(starts)
    )


def join(chunks: Sequence[bytes], start: int) -> tuple[bytes, int]:
    """The bytes whose first piece is `chunks[start]`, and where the next ones begin. Raises `WireError`."""
    end = start
    while end < len(chunks) and chunks[end][:1] == MORE:
        end += 1
    if end >= len(chunks) or chunks[end][:1] != LAST:
        raise WireError("the last piece of a chunk is missing")
    end += 1
    return b"".join([chunk[1:] for chunk in chunks[start:end]]), end


def table_end(chunks: Sequence[bytes], start: int) -> int:
    """Where the table ends whose first chunk is `chunks[start]`. Raises `WireError`."""
    lasts = (place + 1 for place in range(start, len(chunks)) if chunks[place][:1] != MORE)
    end = next(islice(lasts, BUCKETS - 1, None), None)
    if end is None:
        raise WireError("chunks of a table are missing")
    return end


# ------------------------------------------------------------------------------------------------- buckets and views


@attrs.define(eq=False)
class _Bucket:
    pairs: dict[bytes, bytes] = attrs.field(factory=dict[bytes, bytes])
    weight: int = 0
    """The sum over all pairs of their lengths and `PAIR_OVERHEAD`."""
    leaves: tuple[Digest, ...] | None = None
    """Only views ask for them, and what a view holds is never written again: they cannot grow stale."""
    shared: bool = False
    """A frozen view holds it: copy before writing."""

    @property
    def count(self) -> int:
        return pieces_of(self.weight)

    def chunks(self) -> tuple[bytes, ...]:
        pairs = self.pairs
        flat: list[bytes] = []
        for key in sorted(pairs):
            flat += key, pairs[key]
        return cut(pack_plain(flat), self.count)


@attrs.define(eq=False)
class TableView:
    """A frozen table. Its buckets never change again, so other threads may read it.

    Two threads may compute the same digest at the same time: both write the same value.
    """

    buckets: tuple[_Bucket, ...]
    _places: tuple[tuple[int, int], ...]
    """For each chunk its bucket, and its number there."""
    _latest: tuple[int, tuple[bytes, ...]] | None = None
    """The bucket packed last: the pieces of one bucket are asked for one after the other."""

    @property
    def count(self) -> int:
        """How many chunks: one for each bucket, more for large ones."""
        return len(self._places)

    def chunk(self, index: int) -> bytes:
        """A chunk's bytes."""
        number, piece = self._places[index]
        bucket = self.buckets[number]
        if bucket.count == 1:
            return bucket.chunks()[0]
        latest = self._latest
        if latest is None or latest[0] != number:
            latest = self._latest = (number, bucket.chunks())
        return latest[1][piece]

    def leaf(self, index: int) -> Digest:
        """The chunk's digest; computed once, as long as the bucket does not change."""
        number, piece = self._places[index]
        bucket = self.buckets[number]
        if bucket.leaves is None:
            bucket.leaves = tuple([digest(chunk) for chunk in bucket.chunks()])
        return bucket.leaves[piece]


_ONE_CHUNK_EACH: Final = tuple((number, 0) for number in range(BUCKETS))


def _view(buckets: Iterable[_Bucket]) -> TableView:
    frozen = tuple(buckets)
    places = _ONE_CHUNK_EACH
    if any(bucket.weight > PIECE_BYTES for bucket in frozen):
        places = tuple((number, piece) for number, bucket in enumerate(frozen) for piece in range(bucket.count))
    return TableView(frozen, places)


# ------------------------------------------------------------------------------------------------- the table


class Table:
    """Bytes to bytes. Use it as the only attribute of a state machine, or beside plain ones."""

    def __init__(self) -> None:
        self._buckets = [_Bucket() for _ in range(BUCKETS)]
        self._size = 0
        self._journal: dict[bytes, bytes | None] | None = None
        """What the keys written since the mark had before. None as long as there is no mark."""

    def __len__(self) -> int:
        return self._size

    def __contains__(self, key: bytes) -> bool:
        return key in self._buckets[_index(key)].pairs

    def __iter__(self) -> Iterator[bytes]:
        """All keys, in ascending order. Sorts them: not for every operation on a large table."""
        return iter(sorted([key for bucket in self._buckets for key in bucket.pairs]))

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        return self._buckets[_index(key)].pairs.get(key)

    def set(self, key: bytes, value: bytes) -> None:
        """Store a value. Raises `TypeError` for anything but bytes."""
        if type(key) is not bytes or type(value) is not bytes:
            raise TypeError(f"a table maps bytes to bytes, not {type(key).__name__} to {type(value).__name__}")
        index = _index(key)
        bucket = self._buckets[index]
        if bucket.shared:
            bucket = self._writable(index)
        before = bucket.pairs.get(key)
        journal = self._journal
        if journal is not None and key not in journal:
            journal[key] = before
        bucket.pairs[key] = value
        if before is None:
            self._size += 1
            bucket.weight += len(key) + len(value) + PAIR_OVERHEAD
        else:
            bucket.weight += len(value) - len(before)

    def delete(self, key: bytes) -> bool:
        """Remove a key; whether it was there."""
        index = _index(key)
        before = self._buckets[index].pairs.get(key)
        if before is None:
            return False
        journal = self._journal
        if journal is not None and key not in journal:
            journal[key] = before
        bucket = self._writable(index)
        del bucket.pairs[key]
        self._size -= 1
        bucket.weight -= len(key) + len(before) + PAIR_OVERHEAD
        return True

    def clear(self) -> None:
        """Remove everything. Costs as much as there is."""
        for key in self:
            self.delete(key)

    def mark(self) -> None:
        """A point for `undo`, in place of the one before. Without any, no journal is kept."""
        if self._journal:
            self._journal.clear()
        elif self._journal is None:
            self._journal = {}

    def undo(self) -> None:
        """Take back every write since the newest mark, which stays."""
        journal, self._journal = self._journal, None
        if journal is None:
            raise ValueError("undo without a mark")
        for key, before in journal.items():
            if before is None:
                self.delete(key)
            else:
                self.set(key, before)
        self._journal = {}

    def freeze(self) -> TableView:
        """A view that later writes do not change."""
        for bucket in self._buckets:
            bucket.shared = True
        return _view(self._buckets)

    def thaw(self, chunks: Sequence[bytes]) -> None:
        """Replace everything by what these chunks hold; the mark is gone.

        Raises `WireError`, and changes nothing then, if no table has exactly these chunks.
        """
        buckets: list[_Bucket] = []
        position = 0
        for number in range(BUCKETS):
            start = position
            data, position = join(chunks, start)
            bucket = _unpacked(number, data)
            if bucket.count != position - start or (
                bucket.count > 1 and bucket.chunks() != tuple(chunks[start:position])
            ):
                raise WireError(f"bucket {number} of a table is not cut as it should be")
            buckets.append(bucket)
        if position != len(chunks):
            raise WireError(f"a table has {position} chunks, not {len(chunks)}")
        self._buckets = buckets
        self._size = sum([len(bucket.pairs) for bucket in buckets])
        self._journal = None

    def _writable(self, index: int) -> _Bucket:
        bucket = self._buckets[index]
        if bucket.shared:
            bucket = self._buckets[index] = _Bucket(dict(bucket.pairs), bucket.weight)
        return bucket


def _unpacked(number: int, data: bytes) -> _Bucket:
    flat: object = unpack_plain(data, length_max=len(data))
    if type(flat) is not tuple:
        raise WireError(f"bucket {number} of a table is no list")
    items = cast("tuple[object, ...]", flat)
    if len(items) % 2 or any(type(item) is not bytes for item in items):
        raise WireError(f"bucket {number} of a table holds something else than pairs of bytes")
    keys, values = cast("tuple[bytes, ...]", items[::2]), cast("tuple[bytes, ...]", items[1::2])
    if any(before >= after for before, after in pairwise(keys)):
        raise WireError(f"bucket {number} of a table is not sorted")
    if any(_index(key) != number for key in keys):
        raise WireError(f"bucket {number} of a table holds a key of another")
    weight = sum(map(len, keys)) + sum(map(len, values)) + PAIR_OVERHEAD * len(keys)
    return _Bucket(dict(zip(keys, values, strict=True)), weight)


def _index(key: bytes) -> int:
    return blake2b(key, digest_size=1).digest()[0]
