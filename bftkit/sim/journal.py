"""The journal: everything that happens in a world, as one digest, and the last of it as lines for people.

Every input, effect, packet and disk operation is an event: its time, its kind, two numbers, and bytes. Writing one
down costs a list and a tuple; hashing is done for thousands at once, and lines are made only when somebody wants to
read them. The same seed gives the same digest in any process, on any version of Python and any machine.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

BLOCK: Final = 4096
"""So many events are hashed at a time."""
RECENT: Final = 60
"""So many lines stand in a violation's report."""

# Kinds of events. The two numbers are given behind them.
NOTE: Final = 0
"""Something in words."""
PACKET: Final = 1
"""A frame leaves: sender, number of receivers."""
HEARD: Final = 2
"""A frame goes into a replica: member, the packet's number."""
DUE: Final = 3
"""A timer goes into a replica: member."""
OTHER: Final = 4
"""Anything else goes into a replica: member."""
TIMER: Final = 5
"""A timer is set or cancelled: member, ticks."""
DRAWN: Final = 6
"""A draw is answered: member."""
DISK: Final = 7
"""Something changes on a disk: member."""
CLIENT: Final = 8
"""A client hears a frame: member, the packet's number."""
ROUND: Final = 9
"""A round begins: member, its wall clock in ms."""
_LINK: Final = b"link "
"""Of `OTHER`: a client's connection is there; its public key follows."""


class Journal:
    """See the top of this file."""

    def __init__(
        self,
        names: Callable[[int], str],
        *,
        keep_lines: bool,
        clients: Callable[[bytes], str | None] = lambda key: None,
    ) -> None:
        """`names` gives the party of a number, `clients` the client whose public key begins so.

        With `keep_lines` all lines are kept.
        """
        self.numbers: list[int] = []
        self.data: list[bytes] = []
        self._names = names
        self._clients = clients
        self._hash = blake2b(digest_size=16)
        self._lines: list[str] | None = [] if keep_lines else None
        self._before: tuple[list[int], list[bytes]] = ([], [])
        self.events = 0
        """Events in blocks that are hashed."""

    def add(self, now_us: int, kind: int, one: int, other: int, data: bytes) -> None:
        """Write an event down."""
        self.numbers += (now_us, kind, one, other)
        self.data.append(data)
        if len(self.data) >= BLOCK:
            self.flush()

    def flush(self) -> None:
        """Hash what was written down."""
        numbers, data = self.numbers, self.data
        if not data:
            return
        words = array("q", numbers)
        words.extend(map(len, data))
        if sys.byteorder == "big":
            words.byteswap()
        self._hash.update(len(data).to_bytes(8, "little"))
        self._hash.update(words.tobytes())
        self._hash.update(b"".join(data))
        if self._lines is not None:
            self._lines.extend(self._formatted(numbers, data))
        self.events += len(data)
        self._before = (numbers, data)
        self.numbers, self.data = [], []

    @property
    def fingerprint(self) -> str:
        """The digest of everything so far. Asking changes nothing: blocks are cut where they would be cut anyway."""
        so_far = self._hash.copy()
        words = array("q", self.numbers)
        words.extend(map(len, self.data))
        if sys.byteorder == "big":
            words.byteswap()
        so_far.update(len(self.data).to_bytes(8, "little"))
        so_far.update(words.tobytes())
        so_far.update(b"".join(self.data))
        return so_far.hexdigest()

    @property
    def lines(self) -> list[str] | None:
        """All lines, if they are kept."""
        if self._lines is None:
            return None
        return [*self._lines, *self._formatted(self.numbers, self.data)]

    def recent(self, count: int = RECENT) -> list[str]:
        """The last lines."""
        lines = self._formatted(self.numbers[-4 * count :], self.data[-count:])
        if len(lines) < count:
            missing = count - len(lines)
            numbers, data = self._before
            lines = [*self._formatted(numbers[-4 * missing :], data[-missing:]), *lines]
        return lines

    def _formatted(self, numbers: list[int], data: list[bytes]) -> list[str]:
        lines: list[str] = []
        for index, event in enumerate(data):
            now_us, kind, one, other = numbers[4 * index : 4 * index + 4]
            lines.append(f"{now_us // 1000:>7}.{now_us % 1000:03} {self._text(kind, one, other, event)}")
        return lines

    def _text(self, kind: int, one: int, other: int, data: bytes) -> str:
        names = self._names
        if kind == NOTE:
            return data.decode("utf-8", "replace")
        if kind == PACKET:
            return f"{names(one)} says {_shown(data)} to {other}"
        if kind == HEARD:
            return f"{names(one)} < {self._named(data)} packet {other}"
        if kind == CLIENT:
            return f"{names(one)} hears packet {other}"
        if kind == DUE:
            return f"{names(one)} due {data.decode('utf-8', 'replace')}"
        if kind == TIMER:
            key = data.decode("utf-8", "replace")
            return f"{names(one)} sets {key} to {other}" if other else f"{names(one)} cancels {key}"
        if kind == ROUND:
            return f"{names(one)} begins a round at {other} ms"
        if kind == DISK:
            return f"{names(one)} disk {data[:20].partition(bytes(1))[0].decode('ascii', 'replace')} {len(data)}"
        if data.startswith(_LINK):
            return f"{names(one)} link {self._named(data[len(_LINK) :])}"
        return f"{names(one)} {data.decode('utf-8', 'replace')}"

    def _named(self, peer: bytes) -> str:
        """A member's name stands there as it is; of a client, the public key or how it begins."""
        client = self._clients(peer)
        if client is not None:
            return client
        return peer.decode("ascii") if peer.isascii() and peer.decode("ascii").isprintable() else peer[:4].hex()


def _shown(frame: bytes) -> str:
    return f"{frame[0] if frame else 0} {len(frame)} {blake2b(frame, digest_size=4).hexdigest()}"
