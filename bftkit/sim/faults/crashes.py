"""Processes that die, stand still and come back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

import attrs

from bftkit.sim.faults.base import Fault, OneMember, bring_back, chosen

if TYPE_CHECKING:
    from bftkit.sim.world import World


@attrs.frozen(kw_only=True)
class Crash(OneMember):
    """A member dies and comes back. With `power` its machine loses power: what was not synced is lost or torn."""

    lines: ClassVar[tuple[int, ...]] = (12, 13)
    ticks: int
    power: bool = True

    def inject(self, world: World) -> None:
        member = chosen(world, self.who)
        if member is not None and world.hosts[member].up:
            world.crash(member, power=self.power)
            world.after(self.ticks, lambda: bring_back(world, member))

    def tell(self) -> str:
        return f"{self.who} {'loses power' if self.power else 'is killed'} and is back after {self.ticks} ms"


@attrs.frozen(kw_only=True)
class PowerCut(Fault):
    """All members lose power at once. The `absent` one stays away for longer than the others."""

    lines: ClassVar[tuple[int, ...]] = (12, 13)
    ticks: int
    absent: str = ""
    absent_ticks: int = 0

    def inject(self, world: World) -> None:
        absent = chosen(world, self.absent) if self.absent else None
        world.power_cut()
        for member in world.hosts:
            ticks = max(self.ticks, self.absent_ticks) if member == absent else self.ticks
            world.after(ticks, partial(bring_back, world, member))

    def named(self) -> tuple[str, ...]:
        return (self.absent,) if self.absent else ()

    def tell(self) -> str:
        away = f", {self.absent} after {max(self.ticks, self.absent_ticks)} ms" if self.absent else ""
        return f"all members lose power and are back after {self.ticks} ms{away}"


@attrs.frozen(kw_only=True)
class CutAtDisk(OneMember):
    """Everybody loses power right before the so-and-so-many-th operation on one member's disk from now."""

    lines: ClassVar[tuple[int, ...]] = (12,)
    operation: int
    ticks: int

    def inject(self, world: World) -> None:
        member = chosen(world, self.who)
        if member is None or not world.hosts[member].up:
            return
        world.cut_power_before(member, self.operation)

        def again() -> None:
            world.forget_planned_cut(member)
            for name in world.hosts:
                bring_back(world, name)

        world.after(self.ticks, again)

    def tell(self) -> str:
        return (
            f"all members lose power right before operation {self.operation} on the disk of {self.who}, and are back "
            f"{self.ticks} ms after this was planned"
        )


@attrs.frozen(kw_only=True)
class Pause(OneMember):
    """A member's process stands still and goes on later, with all that came meanwhile."""

    lines: ClassVar[tuple[int, ...]] = ()
    ticks: int

    def inject(self, world: World) -> None:
        member = chosen(world, self.who)
        if member is not None and world.hosts[member].up:
            world.pause(member)
            world.after(self.ticks, lambda: world.resume(member))

    def tell(self) -> str:
        return f"the process of {self.who} stands still for {self.ticks} ms"
