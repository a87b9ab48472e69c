"""Links that are cut, bad, narrow, or late with what matters; and clocks that are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs

from bftkit.sim.faults.base import Fault, OneMember, chosen

if TYPE_CHECKING:
    from bftkit.sim.world import World


@attrs.frozen(kw_only=True)
class Partition(Fault):
    """No frame passes between members or clients of different sides. Who stands in no side reaches everybody."""

    lines: ClassVar[tuple[int, ...]] = (4,)
    ticks: int
    sides: tuple[tuple[str, ...], ...]

    def inject(self, world: World) -> None:
        handle = world.partition(*self.sides)
        world.after(self.ticks, handle.end)

    def named(self) -> tuple[str, ...]:
        return tuple(name for side in self.sides for name in side)

    def tell(self) -> str:
        sides = " | ".join(", ".join(side) or "nobody" for side in self.sides)
        return f"the network is split for {self.ticks} ms: {sides}"


@attrs.frozen(kw_only=True)
class OneWay(Fault):
    """Nothing that one says reaches the other; the other direction is whole."""

    lines: ClassVar[tuple[int, ...]] = (5,)
    ticks: int
    sender: str
    receiver: str

    def inject(self, world: World) -> None:
        sender, receiver = chosen(world, self.sender), chosen(world, self.receiver)
        if sender is None or receiver is None or sender == receiver:
            return
        handle = world.cut(sender, receiver)
        world.after(self.ticks, handle.end)

    def named(self) -> tuple[str, ...]:
        return (self.sender, self.receiver)

    def tell(self) -> str:
        return f"{self.receiver} does not hear {self.sender} for {self.ticks} ms"


@attrs.frozen(kw_only=True)
class Weather(Fault):
    """For a while the links do this and nothing else, whatever the plan's network says."""

    lines: ClassVar[tuple[int, ...]] = (1, 2, 3)
    ticks: int
    loss: float = 0.0
    duplication: float = 0.0
    straggling: float = 0.0
    delay_max: int = 10

    def inject(self, world: World) -> None:
        network = attrs.evolve(
            world.links.network,
            loss=self.loss,
            duplication=self.duplication,
            straggling=self.straggling,
            delay_max=max(self.delay_max, world.links.network.delay_min),
        )
        handle = world.weather(network)
        world.after(self.ticks, handle.end)

    def tell(self) -> str:
        return (
            f"for {self.ticks} ms the links lose {self.loss:.0%}, double {self.duplication:.0%} and hold up "
            f"{self.straggling:.0%} of the frames; delays reach {self.delay_max} ms"
        )


@attrs.frozen(kw_only=True)
class SlowLink(OneMember):
    """A member's links carry so many bits a second, in both directions."""

    lines: ClassVar[tuple[int, ...]] = (6,)
    bits_per_second: int
    ticks: int

    def inject(self, world: World) -> None:
        member = chosen(world, self.who)
        if member is not None:
            handle = world.limit_bandwidth(member, self.bits_per_second)
            world.after(self.ticks, handle.end)

    def tell(self) -> str:
        return f"the links of {self.who} carry {self.bits_per_second} bit/s, for {self.ticks} ms"


@attrs.frozen(kw_only=True)
class HoldKind(Fault):
    """Frames of one kind do not arrive in time: they take `by` ms longer, or are lost if it is 0.

    So a vote reaches only some, a new view comes late, or a checkpoint is known to few: what chance alone hardly
    ever does to the right frame.
    """

    ticks: int
    kind: str
    """The class name of a message of the protocol or of the channel: `NewView`, `CheckpointVote`."""
    by: int = 0
    spared: tuple[str, ...] = ()
    """Members that get these frames in time."""

    def inject(self, world: World) -> None:
        handle = world.hold(self.kind, self.by, self.spared)
        world.after(self.ticks, handle.end)

    def named(self) -> tuple[str, ...]:
        return self.spared

    def tell(self) -> str:
        what = f"come {self.by} ms late" if self.by else "are lost"
        but = f", but not those for {', '.join(self.spared)}" if self.spared else ""
        return f"for {self.ticks} ms all {self.kind} messages {what}{but}"


# ------------------------------------------------------------------------------------------------ clocks


@attrs.frozen(kw_only=True)
class ClockJump(OneMember):
    """A member's wall clock jumps."""

    lines: ClassVar[tuple[int, ...]] = (19,)
    ms: int

    def inject(self, world: World) -> None:
        member = chosen(world, self.who)
        if member is not None:
            world.jump_clock(member, self.ms)
            world.inject(19)

    def tell(self) -> str:
        return f"the clock of {self.who} jumps by {self.ms} ms"


@attrs.frozen(kw_only=True)
class ClockRate(OneMember):
    """A member's clock and timers run at another speed: 10,000,000 is ten times too fast."""

    lines: ClassVar[tuple[int, ...]] = (19,)
    ppm: int
    ticks: int

    def inject(self, world: World) -> None:
        member = chosen(world, self.who)
        if member is not None:
            world.set_clock_rate(member, self.ppm)
            world.inject(19)
            world.after(self.ticks, lambda: world.set_clock_rate(member, 1_000_000))

    def tell(self) -> str:
        return f"the clock of {self.who} runs {self.ppm / 1_000_000:g} times as fast, for {self.ticks} ms"
