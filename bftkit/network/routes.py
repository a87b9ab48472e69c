"""What a hub remembers about a peer: what waits for it (`Outbox`) and where and when to dial it (`Dial`). Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from bftkit.network.addresses import Address
from bftkit.network.hub import Limits

FRAME_COST: Final = 64
"""Bytes counted for each waiting frame besides its content, so that many tiny frames are bounded too."""


class Outbox:
    """Frames that wait for one peer, bounded in bytes by its user."""

    __slots__ = ("_frames", "size")

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self.size = 0
        """Bytes that wait, with `FRAME_COST` for each frame."""

    def __len__(self) -> int:
        return len(self._frames)

    def push(self, frame: bytes) -> None:
        self._frames.append(frame)
        self.size += len(frame) + FRAME_COST

    def take(self, size_max: int) -> list[bytes]:
        """Removes and returns the first frames: as many as fit into `size_max`, but at least one if there is one."""
        frames = self._frames
        if self.size <= size_max:
            self._frames = []
            self.size = 0
            return frames
        taken = 0
        count = 0
        for frame in frames:
            cost = len(frame) + FRAME_COST
            if count and taken + cost > size_max:
                break
            taken += cost
            count += 1
        first = frames[:count]
        del frames[:count]
        self.size -= taken
        return first

    def clear(self) -> int:
        """Drops everything; returns how many frames that were."""
        dropped = len(self._frames)
        self._frames = []
        self.size = 0
        return dropped


class Dial:
    """Where and when to dial one peer: its addresses in turn without a pause, then a pause, then again.

    The pause doubles with each fruitless turn, up to a limit, and a random part of up to half is taken off it.
    """

    __slots__ = ("_addresses", "_index", "_turns", "due", "public_key")

    def __init__(self, public_key: bytes, addresses: Sequence[Address], now: float) -> None:
        self.public_key = public_key
        self._addresses = tuple(addresses)
        self._index = 0
        self._turns = 0
        self.due = now
        """When to dial next; infinite while a link is up or being made."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self._addresses

    def replace_addresses(self, addresses: Sequence[Address], now: float) -> None:
        """Starts over with other addresses, at once if none is being tried."""
        if tuple(addresses) == self._addresses:
            return
        self._addresses = tuple(addresses)
        self._index = 0
        self._turns = 0
        if self.due != math.inf:
            self.due = now

    def start(self) -> Address | None:
        """The address to dial now; None if there is none at all."""
        self.due = math.inf
        if not self._addresses:
            return None
        return self._addresses[self._index % len(self._addresses)]

    def failed(self, now: float, limits: Limits, random: Callable[[], float]) -> None:
        """Nobody (or the wrong one) answered: the next address, or the pause."""
        self._index += 1
        if self._index < len(self._addresses):
            self.due = now
        else:
            self._pause(now, limits, random)

    def lost(self, now: float, lived: float, limits: Limits, random: Callable[[], float]) -> None:
        """A link that was up for `lived` seconds is gone: from the first address, after a pause.

        The pauses start from the shortest only after a link that lived long enough; a peer that lets us in and
        throws us out again is not dialled in a tight loop.
        """
        if lived >= limits.stable_seconds:
            self._turns = 0
        self._pause(now, limits, random)

    def hurry(self, now: float) -> None:
        """The peer showed that it is alive: do not wait for the end of the pause."""
        if self.due != math.inf:
            self.due = min(self.due, now)

    def _pause(self, now: float, limits: Limits, random: Callable[[], float]) -> None:
        self._index = 0
        doubled = limits.backoff_first_seconds * 2 ** min(self._turns, 30)
        self._turns += 1
        self.due = now + min(doubled, limits.backoff_longest_seconds) * (1 - random() / 2)
