"""A replicated key-value store: the service of the demo, and an example of a service that is all its own.

It does not derive from `StateMachine`: its state is one `Table`, and so is every method of the interface. (There is
no operation that lists keys: a table has no order, and listing it would cost every member time for all of it.)

An operation is one byte that says what to do, the key behind its length, and what else it needs::

    get G key | put P key value | compare-and-set C key expected? new | delete D key | append A key more | count N

Results begin with a byte too: ``+`` value, ``-`` absent or not done, ``=`` done.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from bftkit.channel.application import Context
from bftkit.service.table import Table, TableView

_KEY: Final = struct.Struct(">cH")
_EXPECTED: Final = struct.Struct(">I")
_ABSENT: Final = 0xFFFFFFFF

DONE: Final = b"="
NOT_DONE: Final = b"-"
ABSENT: Final = b"-"


def _head(code: bytes, key: bytes) -> bytes:
    if not 0 < len(key) < 1 << 16:
        raise ValueError(f"a key has 1 to 65535 bytes, not {len(key)}")
    return _KEY.pack(code, len(key)) + key


def get(key: bytes) -> bytes:
    """The operation that answers the value under a key; also good for strong reads."""
    return _head(b"G", key)


def put(key: bytes, value: bytes) -> bytes:
    """The operation that stores a value under a key."""
    return _head(b"P", key) + value


def compare_and_set(key: bytes, expected: bytes | None, new: bytes) -> bytes:
    """The operation that stores `new` if the value is `expected` (None: if there is none)."""
    length = _ABSENT if expected is None else len(expected)
    return _head(b"C", key) + _EXPECTED.pack(length) + (expected or b"") + new


def append(key: bytes, more: bytes) -> bytes:
    """The operation that puts bytes behind the value under a key; the only one that shows if it runs twice."""
    return _head(b"A", key) + more


def delete(key: bytes) -> bytes:
    """The operation that removes a key."""
    return _head(b"D", key)


def count() -> bytes:
    """The operation that answers how many keys there are."""
    return b"N"


def parse_value(result: bytes) -> bytes | None:
    """What `get` answered: the value, or None."""
    return result[1:] if result[:1] == b"+" else None


def parse_done(result: bytes) -> bool:
    """What `put`, `compare_and_set` or `delete` answered: whether it was done."""
    return result == DONE


class KeyValueStore:
    """Bytes to bytes."""

    def __init__(self) -> None:
        self._table = Table()

    def apply(self, operation: bytes, context: Context) -> bytes:
        """Execute one of the operations above. Raises `ValueError` for anything else."""
        code, key, rest = _parse(operation)
        table = self._table
        if code == b"P":
            table.set(key, rest)
            return DONE
        if code == b"C":
            expected, new = _parse_expected(rest)
            if table.get(key) != expected:
                return NOT_DONE
            table.set(key, new)
            return DONE
        if code == b"A":
            table.set(key, (table.get(key) or b"") + rest)
            return DONE
        if code == b"D" and not rest:
            return DONE if table.delete(key) else NOT_DONE
        return self.read(operation)

    def read(self, operation: bytes) -> bytes:
        """Answer `get` or `count`. Raises `ValueError` for anything else."""
        code, key, rest = _parse(operation)
        if code == b"N" and not key:
            return b"+%d" % len(self._table)
        if code == b"G" and not rest:
            value = self._table.get(key)
            return ABSENT if value is None else b"+" + value
        if code in b"GDN":
            raise ValueError("bytes after the end of the operation")
        raise ValueError(f"{code!r} is no operation" if code not in b"PC" else f"{code!r} is no question")

    def snapshot(self) -> TableView:
        """A frozen view."""
        return self._table.freeze()

    def restore(self, chunks: Sequence[bytes]) -> None:
        """Replace everything."""
        self._table.thaw(chunks)

    def mark(self) -> None:
        """A point for `undo`; the table remembers it."""
        self._table.mark()

    def undo(self, mark: object) -> None:
        """Back to the mark."""
        self._table.undo()


def _parse(operation: bytes) -> tuple[bytes, bytes, bytes]:
    if operation == b"N":
        return b"N", b"", b""
    if len(operation) < _KEY.size:
        raise ValueError(f"an operation of {len(operation)} bytes is too short")
    code, length = _KEY.unpack_from(operation)
    end = _KEY.size + length
    if length == 0 or len(operation) < end:
        raise ValueError("the key does not fit the operation")
    return code, operation[_KEY.size : end], operation[end:]


def _parse_expected(rest: bytes) -> tuple[bytes | None, bytes]:
    if len(rest) < _EXPECTED.size:
        raise ValueError("a compare-and-set needs what it expects")
    (length,) = _EXPECTED.unpack_from(rest)
    if length == _ABSENT:
        return None, rest[_EXPECTED.size :]
    end = _EXPECTED.size + length
    if len(rest) < end:
        raise ValueError("the expected value does not fit the operation")
    return rest[_EXPECTED.size : end], rest[end:]
