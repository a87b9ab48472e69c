"""A service that does nothing, for benchmarks: every operation is counted, and answered with bytes as it asks."""

from __future__ import annotations

from collections.abc import Sequence

from bftkit.channel.application import Context
from bftkit.core.digest import digest


class _View:
    count = 1

    def __init__(self, data: bytes) -> None:
        self._data = data

    def chunk(self, index: int) -> bytes:
        return self._data

    def leaf(self, index: int) -> bytes:
        return digest(self._data)


class NullService:
    """Answers an operation with as many zero bytes as its first four bytes say; an empty one with nothing."""

    def __init__(self) -> None:
        self.count = 0
        self._zeros = bytes(1 << 20)

    def apply(self, operation: bytes, context: Context) -> bytes:
        """Count, and answer."""
        self.count += 1
        return self._zeros[: int.from_bytes(operation[:4], "big")] if operation else b""

    def read(self, operation: bytes) -> bytes:
        """How many operations there were."""
        return self.count.to_bytes(8, "big")

    def snapshot(self) -> _View:
        """The count."""
        return _View(self.count.to_bytes(8, "big"))

    def restore(self, chunks: Sequence[bytes]) -> None:
        """The count."""
        self.count = int.from_bytes(chunks[0], "big")

    def mark(self) -> int:
        """The count."""
        return self.count

    def undo(self, mark: object) -> None:
        """Back to the count."""
        assert isinstance(mark, int)
        self.count = mark
