"""The simulated network: links between members, and between clients and members.

A link authenticates its sender, and that is all it promises. Frames are lost, doubled, delayed and overtake each
other; links are cut, in both directions or in one; a party stands behind a thin line, where frames queue as they do
in front of a real one. Everything is drawn from the world's one source of chance, as integers, so that the same seed
gives the same delays on every machine.

A link between a client and a member is a connection with a life of its own: it comes up, is named by a binding that
both ends know, and dies with the member's process. Its first frame, the member's proof of the link, comes with it.

What can be switched on here gives a `Handle`, and its end does not end another's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

import attrs

Party = str
"""A member (``m0``) or a client (``c0``)."""

TICK_US: Final = 1000
"""Microseconds in a tick."""
_DELAY_BITS: Final = 20
# Lines of docs/FAULTS.md.
LOSS: Final = 1
DUPLICATES: Final = 2
REORDERING: Final = 3
PARTITION: Final = 4
ONE_WAY: Final = 5
THIN_LINE: Final = 6


@attrs.frozen
class Network:
    """What the links do. Delays in ticks, both bounds included; the rest are probabilities a frame."""

    delay_min: int = 1
    delay_max: int = 10
    loss: float = 0.0
    duplication: float = 0.0
    straggling: float = 0.0
    """This share of the frames takes up to a hundred times as long, so that others overtake them."""


class Handle:
    """Something that was switched on. `end` switches it off, once; what others switched on stays."""

    __slots__ = ("_action", "ended")

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self.ended = False

    def end(self) -> None:
        """Switch it off. A second call does nothing."""
        if not self.ended:
            self.ended = True
            self._action()


@attrs.frozen(eq=False)
class Slow:
    """Frames from one party that fit the predicate take longer."""

    sender: Party
    ticks: int
    applies: Callable[[bytes], bool]


@attrs.frozen(eq=False)
class Hold:
    """Frames that fit come later, or are lost; but not those for parties that are spared."""

    applies: Callable[[bytes], bool]
    us: int
    """How much later; 0: they are lost."""
    spared: frozenset[Party]


@attrs.define(eq=False)
class Line:
    """One direction of a party's thin line: frames leave one after the other, and wait for each other."""

    bits_per_second: int
    queue_bytes: int
    free_at_us: int = 0
    """When the last bit of all that was taken has left."""
    refused: int = 0
    """Frames for which the queue had no room: the newest are refused, as by a real member's hub."""

    def take(self, at_us: int, size: int) -> int | None:
        """When a frame that comes at this time has left, in µs; None if there is no room for it."""
        start = max(at_us, self.free_at_us)
        waiting_bytes = (start - at_us) * self.bits_per_second // 8_000_000
        if waiting_bytes + size > self.queue_bytes:
            self.refused += 1
            return None
        self.free_at_us = start + size * 8_000_000 // self.bits_per_second
        return self.free_at_us


class _Cut:
    """One cause for which a direction is cut."""

    __slots__ = ("line",)

    def __init__(self, line: int) -> None:
        self.line = line


class Links:
    """Who can reach whom, and when a frame arrives."""

    def __init__(self, network: Network, random: Random, injected: Counter[int]) -> None:
        """`injected` counts what really happened, by line of docs/FAULTS.md."""
        self.random = random
        self.lost = 0
        self.carried = 0
        self.refused = 0
        """Frames that a full queue before a thin line refused."""
        self.injected = injected
        self._bits = random.getrandbits
        self._cuts: dict[tuple[Party, Party], list[_Cut]] = {}
        self._slow: list[Slow] = []
        self._holds: list[Hold] = []
        self._thin: dict[Party, list[tuple[Line, Line]]] = {}
        self._weathers: list[Network] = []
        self._straggler: dict[tuple[Party, Party], int] = {}
        self._base = network
        self._set(network)

    # ------------------------------------------------------------------------------------------ weather

    @property
    def network(self) -> Network:
        """What the links do now."""
        return self._network

    @network.setter
    def network(self, network: Network) -> None:
        """From now on the links do this; all weather is over."""
        self._base = network
        self._weathers.clear()
        self._set(network)

    def weather(self, network: Network) -> Handle:
        """The links do this until it ends; then what was before, or what came since."""
        self._weathers.append(network)
        self._set(network)

        def end() -> None:
            # By identity: another may say the same.
            self._weathers[:] = [other for other in self._weathers if other is not network]
            self._set(self._weathers[-1] if self._weathers else self._base)

        return Handle(end)

    def _set(self, network: Network) -> None:
        self._network = network
        self.delay_us = network.delay_min * TICK_US
        self.span_us = (network.delay_max - network.delay_min) * TICK_US
        self._mark()

    def _mark(self) -> None:
        network = self._network
        self.plain = not (
            self._cuts
            or self._slow
            or self._holds
            or self._thin
            or self._straggler
            or network.loss
            or network.duplication
            or network.straggling
        )
        """Whether each frame arrives once, after `delay_us` and up to `span_us` more: most of the time."""

    # ------------------------------------------------------------------------------------------ carrying

    def arrivals(self, sender: Party, receiver: Party, frame: bytes, now_us: int) -> list[int]:
        """After how many µs each copy of the frame arrives; empty if it is lost."""
        self.carried += 1
        network, bits, injected = self._network, self._bits, self.injected
        cut = self._cuts.get((sender, receiver))
        if cut is not None:
            self.lost += 1
            injected[cut[0].line] += 1
            return []
        if network.loss and self.random.random() < network.loss:
            self.lost += 1
            if network.loss >= 0.25:
                injected[LOSS] += 1
            return []
        held = self._held(receiver, frame) if self._holds else 0
        if held is None:
            self.lost += 1
            return []
        delays = [held + self.delay_us + (bits(_DELAY_BITS) * self.span_us >> _DELAY_BITS)]
        if network.duplication and self.random.random() < network.duplication:
            delays.append(self.delay_us + (bits(_DELAY_BITS) * self.span_us >> _DELAY_BITS))
            if network.duplication >= 0.4:
                injected[DUPLICATES] += 1
        if network.straggling or self._straggler:
            delays = [self._straggle(sender, receiver, delay, now_us) for delay in delays]
        if self._slow:
            for slow in self._slow:
                if slow.sender == sender and slow.applies(frame):
                    delays = [delay + slow.ticks * TICK_US for delay in delays]
        if self._thin and (sender in self._thin or receiver in self._thin):
            return [at for delay in delays for at in self._squeezed(sender, receiver, len(frame), delay, now_us)]
        return delays

    def _held(self, receiver: Party, frame: bytes) -> int | None:
        """How many µs later the frame comes; None if it is lost."""
        held = 0
        for hold in self._holds:
            if receiver not in hold.spared and hold.applies(frame):
                if not hold.us:
                    return None
                held = max(held, hold.us)
        return held

    def _straggle(self, sender: Party, receiver: Party, delay: int, now_us: int) -> int:
        pair = (sender, receiver)
        straggling = self._network.straggling
        if straggling and self.random.random() < straggling:
            delay *= 2 + self._bits(_DELAY_BITS) * 99 // (1 << _DELAY_BITS)
            self._straggler[pair] = max(self._straggler.get(pair, 0), now_us + delay)
            return delay
        late = self._straggler.get(pair)
        if late is not None:
            if now_us + delay < late:
                self.injected[REORDERING] += 1
            del self._straggler[pair]
            self._mark()
        return delay

    def _squeezed(self, sender: Party, receiver: Party, size: int, delay: int, now_us: int) -> list[int]:
        """Through the sender's line, then over the network, then through the receiver's."""
        at = now_us
        for out, _ in self._thin.get(sender, ()):
            left = self._through(out, at, size)
            if left is None:
                return []
            at = left
        at += delay
        for _, into in self._thin.get(receiver, ()):
            left = self._through(into, at, size)
            if left is None:
                return []
            at = left
        return [at - now_us]

    def _through(self, line: Line, at: int, size: int) -> int | None:
        if line.free_at_us > at:
            self.injected[THIN_LINE] += 1
        left = line.take(at, size)
        if left is None:
            self.refused += 1
            self.lost += 1
        return left

    # ------------------------------------------------------------------------------------------ cutting

    def reaches(self, sender: Party, receiver: Party) -> bool:
        """Whether this direction is open."""
        return (sender, receiver) not in self._cuts

    @property
    def cut(self) -> tuple[tuple[Party, Party], ...]:
        """The directions in which nothing gets through."""
        return tuple(sorted(self._cuts))

    def cut_pairs(self, pairs: Iterable[tuple[Party, Party]], line: int = ONE_WAY) -> Handle:
        """Cut these directions. `line` of docs/FAULTS.md is what a frame that is lost there counts for."""
        cut = _Cut(line)
        chosen = tuple(pairs)
        for pair in chosen:
            self._cuts.setdefault(pair, []).append(cut)
        self._mark()

        def end() -> None:
            for pair in chosen:
                causes = self._cuts.get(pair, [])
                if cut in causes:
                    causes.remove(cut)
                    if not causes:
                        del self._cuts[pair]
            self._mark()

        return Handle(end)

    def uncut(self, sender: Party, receiver: Party) -> None:
        """Open this direction, whoever cut it."""
        self._cuts.pop((sender, receiver), None)
        self._mark()

    def partition(self, parties: Iterable[Party], sides: Iterable[Iterable[Party]], line: int = PARTITION) -> Handle:
        """Cut every link between parties of different sides; who is named in no side keeps all of its links."""
        side_of = {name: index for index, side in enumerate(sides) for name in side}
        named = [party for party in parties if party in side_of]
        return self.cut_pairs(
            ((one, other) for one in named for other in named if side_of[one] != side_of[other]), line
        )

    def slow_down(self, slow: Slow) -> Handle:
        """Frames that fit take longer."""
        self._slow.append(slow)
        self._mark()

        def end() -> None:
            self._slow[:] = [other for other in self._slow if other is not slow]
            self._mark()

        return Handle(end)

    def hold(self, hold: Hold) -> Handle:
        """Frames that fit come later, or are lost."""
        self._holds.append(hold)
        self._mark()

        def end() -> None:
            self._holds[:] = [other for other in self._holds if other is not hold]
            self._mark()

        return Handle(end)

    def limit(self, party: Party, bits_per_second: int, queue_bytes: int) -> Handle:
        """All that the party says, and all that it is told, goes through a line of so many bits a second each way."""
        if bits_per_second <= 0:
            raise ValueError(f"a line takes at least one bit a second, not {bits_per_second}")
        lines = (Line(bits_per_second, queue_bytes), Line(bits_per_second, queue_bytes))
        self._thin.setdefault(party, []).append(lines)
        self._mark()

        def end() -> None:
            rest = [other for other in self._thin.get(party, []) if other is not lines]
            if rest:
                self._thin[party] = rest
            else:
                self._thin.pop(party, None)
            self._mark()

        return Handle(end)

    def heal(self) -> None:
        """All links are whole again, and nobody is slow or behind a thin line. The weather stays."""
        self._cuts.clear()
        self._slow.clear()
        self._holds.clear()
        self._thin.clear()
        self._mark()


START_MS: Final = 1_700_000_000_000
"""What a right clock shows when a world begins, in ms since 1970."""


@attrs.define
class WallClock:
    """A member's own clock in milliseconds since 1970: wrong by an offset, and by a rate in parts per million."""

    start_ms: int
    offset_ms: int = 0
    drift_ppm: int = 0
    factor_ppm: int = 1_000_000
    """How fast it runs now, apart from its drift; a million is as it should be."""
    _since_us: int = 0
    _ran_us: int = 0
    """What it had run at `_since_us`, without drift."""

    def read(self, now_us: int) -> int:
        """What it shows at this time of the world, in ms."""
        run_us = self._ran_us + (now_us - self._since_us) * self.factor_ppm // 1_000_000
        return max(0, self.start_ms + self.offset_ms + (run_us + run_us * self.drift_ppm // 1_000_000) // 1000)

    def set_factor(self, now_us: int, factor_ppm: int) -> None:
        """From now on it runs so fast."""
        self._ran_us += (now_us - self._since_us) * self.factor_ppm // 1_000_000
        self._since_us, self.factor_ppm = now_us, factor_ppm
