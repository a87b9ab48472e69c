"""A mapping for large states: journaled, chunked, copied only where it is written.

Keys are spread over a fixed number of buckets by their digest. `freeze` takes a view in time that does not depend on
the size of the state: buckets are shared until they are written again. A chunk is one bucket's pairs in ascending
order of their keys, so it depends on the content alone and not on how it came about (SAFETY rule 19), and its digest
is remembered as long as the bucket does not change.

The journal makes `undo` possible (rule 10): every write since the last mark can be taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final

import attrs

from bftkit.core.digest import digest
from bftkit.core.machine import Digest
from bftkit.core.wire import WireError, pack_plain, unpack_plain

BUCKETS: Final = 256


@attrs.define(eq=False)
class _Bucket:
    pairs: dict[bytes, bytes] = attrs.field(factory=dict[bytes, bytes])
    leaf: Digest | None = None
    shared: bool = False
    """A frozen view holds it: copy before writing."""

    def chunk(self) -> bytes:
        return pack_plain([[key, self.pairs[key]] for key in sorted(self.pairs)])


@attrs.frozen(eq=False)
class TableView:
    """A frozen table."""

    buckets: tuple[_Bucket, ...]

    @property
    def count(self) -> int:
        """How many chunks: one for each bucket."""
        return len(self.buckets)

    def chunk(self, index: int) -> bytes:
        """The bucket's pairs."""
        return self.buckets[index].chunk()

    def leaf(self, index: int) -> Digest:
        """The chunk's digest; computed once, as long as the bucket does not change."""
        bucket = self.buckets[index]
        if bucket.leaf is None:
            bucket.leaf = digest(bucket.chunk())
        return bucket.leaf


class Table:
    """Bytes to bytes. Use it as the only attribute of a state machine, or beside plain ones."""

    def __init__(self) -> None:
        self._buckets = [_Bucket() for _ in range(BUCKETS)]
        self._size = 0
        self._journal: list[tuple[bytes, bytes | None]] = []

    def __len__(self) -> int:
        return self._size

    def __contains__(self, key: bytes) -> bool:
        return key in self._buckets[_index(key)].pairs

    def __iter__(self) -> Iterator[bytes]:
        """All keys, in ascending order."""
        return iter(sorted(key for bucket in self._buckets for key in bucket.pairs))

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        return self._buckets[_index(key)].pairs.get(key)

    def set(self, key: bytes, value: bytes) -> None:
        """Store a value."""
        pairs = self._writable(_index(key)).pairs
        before = pairs.get(key)
        self._journal.append((key, before))
        if before is None:
            self._size += 1
        pairs[key] = value

    def delete(self, key: bytes) -> bool:
        """Remove a key; whether it was there."""
        index = _index(key)
        before = self._buckets[index].pairs.get(key)
        if before is None:
            return False
        self._journal.append((key, before))
        del self._writable(index).pairs[key]
        self._size -= 1
        return True

    def mark(self) -> int:
        """A point for `undo`. Only the newest mark can be returned to."""
        self._journal.clear()
        return 0

    def undo(self) -> None:
        """Take back every write since the newest mark."""
        while self._journal:
            key, before = self._journal.pop()
            pairs = self._writable(_index(key)).pairs
            if before is None:
                del pairs[key]
                self._size -= 1
            else:
                self._size += key not in pairs
                pairs[key] = before

    def freeze(self) -> TableView:
        """A view that later writes do not change."""
        for bucket in self._buckets:
            bucket.shared = True
        return TableView(tuple(self._buckets))

    def thaw(self, chunks: Sequence[bytes]) -> None:
        """Replace everything by what these chunks hold. Raises `WireError`."""
        if len(chunks) != BUCKETS:
            raise WireError(f"a table has {BUCKETS} chunks, not {len(chunks)}")
        self._buckets = []
        self._size = 0
        self._journal.clear()
        for chunk in chunks:
            pairs: Any = unpack_plain(chunk)
            self._buckets.append(_Bucket({key: value for key, value in pairs}))
            self._size += len(pairs)

    def _writable(self, index: int) -> _Bucket:
        bucket = self._buckets[index]
        if bucket.shared:
            bucket = self._buckets[index] = _Bucket(dict(bucket.pairs))
        bucket.leaf = None
        return bucket


def _index(key: bytes) -> int:
    return blake2b(key, digest_size=1).digest()[0]
