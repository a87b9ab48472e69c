"""The simulated network: links between members, and between clients and members.

A link authenticates its sender, and that is all it promises. Frames are lost, doubled, delayed and overtake each
other; links are cut, in both directions or in one. Everything is drawn from the world's one source of chance.

A link between a client and a member is a connection with a life of its own: it comes up, is named by a binding that
both ends know, and dies with the member's process. Its first frame, the member's proof of the link, comes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

import attrs

Party = str
"""A member (``m0``) or a client (``c0``)."""


@attrs.frozen
class Network:
    """What the links do. Delays in ticks, both bounds included; the rest are probabilities a frame."""

    delay_min: int = 1
    delay_max: int = 10
    loss: float = 0.0
    duplication: float = 0.0
    straggling: float = 0.0
    """This share of the frames takes up to a hundred times as long, so that others overtake them."""


@attrs.frozen
class Slow:
    """Frames from one party that fit the predicate take longer."""

    sender: Party
    ticks: int
    applies: Callable[[bytes], bool]


@attrs.define(eq=False)
class Links:
    """Who can reach whom, and when a frame arrives."""

    network: Network
    random: Random
    cut: set[tuple[Party, Party]] = attrs.field(factory=set[tuple[Party, Party]])
    """Directions in which nothing gets through."""
    slow: list[Slow] = attrs.field(factory=list[Slow])
    lost: int = 0
    carried: int = 0

    def arrivals(self, sender: Party, receiver: Party, frame: bytes) -> list[int]:
        """After how many ticks each copy of the frame arrives; empty if it is lost."""
        self.carried += 1
        network, random = self.network, self.random
        if (sender, receiver) in self.cut or (network.loss and random.random() < network.loss):
            self.lost += 1
            return []
        copies = 2 if network.duplication and random.random() < network.duplication else 1
        return [self._delay(sender, frame) for _ in range(copies)]

    def _delay(self, sender: Party, frame: bytes) -> int:
        network, random = self.network, self.random
        ticks = random.randint(network.delay_min, network.delay_max)
        if network.straggling and random.random() < network.straggling:
            ticks *= random.randint(2, 100)
        for slow in self.slow:
            if slow.sender == sender and slow.applies(frame):
                ticks += slow.ticks
        return ticks

    def reaches(self, sender: Party, receiver: Party) -> bool:
        """Whether this direction is open."""
        return (sender, receiver) not in self.cut

    def partition(self, parties: Iterable[Party], sides: Iterable[Iterable[Party]]) -> None:
        """Cut every link between parties of different sides; who is named in no side keeps all of its links."""
        side_of = {name: index for index, side in enumerate(sides) for name in side}
        named = [party for party in parties if party in side_of]
        for one in named:
            for other in named:
                if side_of[one] != side_of[other]:
                    self.cut.add((one, other))

    def heal(self) -> None:
        """All links are whole again, and nobody is slow."""
        self.cut.clear()
        self.slow.clear()


@attrs.define
class WallClock:
    """A member's own clock in milliseconds since 1970: wrong by an offset, and by a rate in parts per million."""

    start_ms: int
    offset_ms: int = 0
    drift_ppm: int = 0

    def read(self, now: int) -> int:
        """What it shows at this tick."""
        return max(0, self.start_ms + self.offset_ms + now + now * self.drift_ppm // 1_000_000)
