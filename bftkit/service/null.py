"""A service that does nothing, for benchmarks: every operation is counted, and answered with bytes as it asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from bftkit.channel.application import Context
from bftkit.core.digest import digest
from bftkit.core.wire import WireError

REPLY_BYTES_MAX: Final = 1 << 20


@attrs.frozen(eq=False)
class NullView:
    """A count, as one chunk of 8 bytes."""

    data: bytes

    @property
    def count(self) -> int:
        """One chunk."""
        return 1

    def chunk(self, index: int) -> bytes:
        """The count, big-endian."""
        return self.data

    def leaf(self, index: int) -> bytes:
        """Its digest."""
        return digest(self.data)


class NullService:
    """Answers an operation of at least four bytes with as many zero bytes as these four say, others with nothing.

    At most 1 MiB: an operation that asks for more fails.
    """

    def __init__(self) -> None:
        self.count = 0
        self._zeros = bytes(REPLY_BYTES_MAX)

    def apply(self, operation: bytes, context: Context) -> bytes:
        """Count, and answer. Raises `ValueError` if too much is asked for."""
        length = int.from_bytes(operation[:4], "big") if len(operation) >= 4 else 0
        if length > REPLY_BYTES_MAX:
            raise ValueError(f"{length} bytes were asked for, and a reply has at most {REPLY_BYTES_MAX}")
        self.count += 1
        return self._zeros[:length]

    def read(self, operation: bytes) -> bytes:
        """How many operations there were, in 8 bytes."""
        return self.count.to_bytes(8, "big")

    def snapshot(self) -> NullView:
        """The count."""
        return NullView(self.count.to_bytes(8, "big"))

    def restore(self, chunks: Sequence[bytes]) -> None:
        """The count. Raises `WireError`."""
        if len(chunks) != 1 or len(chunks[0]) != 8:
            raise WireError("the null service has one chunk of 8 bytes")
        self.count = int.from_bytes(chunks[0], "big")

    def mark(self) -> int:
        """The count."""
        return self.count

    def undo(self, mark: object) -> None:
        """Back to the count."""
        assert isinstance(mark, int)
        self.count = mark
