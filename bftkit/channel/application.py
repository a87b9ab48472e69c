"""What the channel asks of a replicated application; `bftkit.service` has the classes that people derive from.

An application is deterministic: the same operations in the same order give the same results and the same chunks on
every member. Time and randomness come from the `Context`, where all members agree on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from bftkit.core.digest import digest
from bftkit.core.machine import Digest, Slot


@attrs.define
class Context:
    """What an operation may know besides its bytes. One object serves a whole batch; do not keep it.

    `time_ms` is agreed time in milliseconds since 1970, never running backwards (SAFETY rule 11). A leader can place
    it anywhere between the lower median M of the members' latest clock reports and M + 1 s, and no further.
    """

    group: bytes
    slot: Slot = 0
    index: int = 0
    """Position of the operation within its slot, from 0."""
    time_ms: int = 0
    client: bytes = b""
    """The client's public key."""
    batch: Digest = b""

    def seed(self) -> bytes:
        """32 bytes that all members agree on, different for every operation (SAFETY rule 12).

        Whoever proposes a batch can try several and choose: do not use it for lotteries.
        """
        place = self.slot.to_bytes(8, "big") + self.index.to_bytes(4, "big")
        return digest(b"bftkit/seed\0", self.group, place, self.batch)


class StateView(Protocol):
    """The application's state as it was when `snapshot` was called; later operations do not change it.

    It is a sequence of chunks that depend on the state alone and not on how it came about (SAFETY rule 19). The
    digest of a chunk that did not change since the last view should be remembered and not computed again.
    """

    @property
    def count(self) -> int:
        """How many chunks there are."""
        ...

    def chunk(self, index: int) -> bytes:
        """A chunk's bytes, at most 1 MiB or so. May be called from another thread."""
        ...

    def leaf(self, index: int) -> Digest:
        """The digest of that chunk."""
        ...


class Application(Protocol):
    """A replicated state machine as the channel runs it."""

    def apply(self, operation: bytes, context: Context) -> bytes:
        """Execute one operation. If it raises, the client gets the error and the state is as if it never ran."""
        ...

    def read(self, operation: bytes) -> bytes:
        """Answer a question without changing anything."""
        ...

    def snapshot(self) -> StateView:
        """A frozen view of the state; must be quick, since operations wait for it."""
        ...

    def restore(self, chunks: Sequence[bytes]) -> None:
        """Replace the state by the one that these chunks describe."""
        ...

    def mark(self) -> object:
        """A point to which `undo` can return; taken before every operation, so it must be cheap."""
        ...

    def undo(self, mark: object) -> None:
        """Take back all changes since the mark (SAFETY rule 10)."""
        ...
