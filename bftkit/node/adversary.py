"""A member that lies, for fault injection in a real process: an adversary between the replica and the world.

The replica inside stays correct; what it hears and says passes through the adversary, which changes, withholds or
delays it (`bftkit.sim.adversaries` has a shelf of them, and `bftkit node run --adversary` puts one in). A liar keeps no
rules: what it says late waits for no record.
"""

from __future__ import annotations

import heapq
from typing import Any, Protocol

from bftkit.channel.interface import ReplicaOut
from bftkit.channel.replica import Replica
from bftkit.core.machine import MemberId


class Adversary(Protocol):
    """Changes what a member hears and says, for fault injection: see `bftkit.sim.adversaries`."""

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """What the replica hears in place of this frame; None: nothing."""
        ...

    def from_client(self, client: bytes, frame: bytes) -> bytes | None:
        """What the replica hears in place of this frame of a client; None: nothing."""
        ...

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """What the world sees in place of these effects."""
        ...

    def postponed(self) -> list[tuple[int, tuple[MemberId, ...], bytes]]:
        """Frames to send later or besides: in how many ticks, to whom. Asked for after each round."""
        ...

    def status(self) -> dict[str, Any]:
        """What it has done."""
        ...


class Tampering:
    """What an adversary makes of a member's rounds; of a member that has none, nothing at all."""

    def __init__(self, adversary: Adversary | None) -> None:
        self.adversary = adversary
        """None: the member is honest."""
        self._postponed: list[tuple[float, int, tuple[MemberId, ...], bytes]] = []
        self._count = 0

    def heard(self, sender: MemberId, frames: list[bytes]) -> list[bytes]:
        """What the replica hears in place of a member's frames."""
        if self.adversary is None:
            return frames
        heard = (self.adversary.incoming(sender, frame) for frame in frames)
        return [frame for frame in heard if frame is not None]

    def heard_from(self, client: bytes, frames: list[bytes]) -> list[bytes]:
        """What the replica hears in place of a client's frames."""
        if self.adversary is None:
            return frames
        heard = (self.adversary.from_client(client, frame) for frame in frames)
        return [frame for frame in heard if frame is not None]

    def said(self, replica: Replica, out: ReplicaOut, now: float) -> ReplicaOut:
        """What the world sees in place of a round's effects."""
        if self.adversary is None:
            return out
        out = self.adversary.outgoing(replica, out)
        for ticks, to, frame in self.adversary.postponed():
            self._count += 1
            heapq.heappush(self._postponed, (now + ticks / 1000, self._count, to, frame))
        return out

    def next(self) -> float:
        """When something that was postponed is due; infinity if nothing is."""
        return self._postponed[0][0] if self._postponed else float("inf")

    def pop_due(self, now: float) -> list[tuple[tuple[MemberId, ...], bytes]]:
        """What was postponed until now, and to whom it goes."""
        due: list[tuple[tuple[MemberId, ...], bytes]] = []
        while self.next() <= now:
            _, _, to, frame = heapq.heappop(self._postponed)
            due.append((to, frame))
        return due

    def status(self) -> dict[str, Any]:
        """What the adversary has done, JSON-ready; empty if there is none."""
        return {} if self.adversary is None else self.adversary.status()
