"""Disks that lose, forget, lie, fail, fill up and dawdle."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs

from bftkit.sim.faults.base import OneMember, bring_back, chosen

if TYPE_CHECKING:
    from bftkit.sim.world import World


@attrs.frozen(kw_only=True)
class Wipe(OneMember):
    """A member comes back with an empty disk."""

    lines: ClassVar[tuple[int, ...]] = (18,)
    ticks: int

    def inject(self, world: World) -> None:
        if world.hosts[self.who].up:
            world.crash(self.who)
        world.wipe(self.who)
        world.after(self.ticks, lambda: bring_back(world, self.who))

    def forgetful(self) -> tuple[str, ...]:
        return (self.who,)

    def tell(self) -> str:
        return f"{self.who} loses its disk and is back after {self.ticks} ms with an empty one"


@attrs.frozen(kw_only=True)
class Rollback(OneMember):
    """A member crashes and comes back with the disk that it had at `at`."""

    lines: ClassVar[tuple[int, ...]] = (18,)
    ticks: int

    def inject(self, world: World) -> None:
        old = world.disk_of(self.who)
        world.exempt(self.who)

        def back() -> None:
            if world.hosts[self.who].up:
                world.crash(self.who)
            world.restart(self.who, disk=old)
            world.inject(18)

        world.after(self.ticks, back)

    def lying(self) -> tuple[str, ...]:
        return (self.who,)

    def tell(self) -> str:
        return f"{self.who} will crash after {self.ticks} ms and come back with the disk that it has now"


@attrs.frozen(kw_only=True)
class LyingDisk(OneMember):
    """Syncs of a member's disk do nothing, until its machine loses power."""

    lines: ClassVar[tuple[int, ...]] = (17,)
    ticks: int

    def inject(self, world: World) -> None:
        world.exempt(self.who)
        world.hosts[self.who].disk.directory.lying = True

        def lose() -> None:
            if world.hosts[self.who].up:
                world.crash(self.who)
            world.hosts[self.who].disk.directory.lying = False
            world.inject(17)
            bring_back(world, self.who)

        world.after(self.ticks, lose)

    def lying(self) -> tuple[str, ...]:
        return (self.who,)

    def tell(self) -> str:
        return f"syncs of {self.who}'s disk do nothing, and after {self.ticks} ms its machine loses power"


@attrs.frozen(kw_only=True)
class SyncFails(OneMember):
    """The next sync of a member's disk fails with an input/output error; it stops, and is started again later."""

    lines: ClassVar[tuple[int, ...]] = (16,)
    ticks: int

    def inject(self, world: World) -> None:
        member = chosen(world, self.who)
        if member is None:
            return
        directory = world.hosts[member].disk.directory
        directory.fail_syncs += 1

        def back() -> None:
            directory.fail_syncs = 0
            bring_back(world, member)

        world.after(self.ticks, back)

    def tell(self) -> str:
        return f"the next sync of {self.who}'s disk fails; the member is started again after {self.ticks} ms"


@attrs.frozen(kw_only=True)
class FlipBit(OneMember):
    """A member loses power, a bit of its log turns over, and it is started again."""

    lines: ClassVar[tuple[int, ...]] = (14,)
    place: int
    """Which bit, counted through all of the log's files and from the start again after the last."""
    ticks: int

    def inject(self, world: World) -> None:
        host = world.hosts[self.who]
        if host.up:
            world.crash(self.who)
        directory = host.disk.directory
        sizes = [(name, len(directory.read(name)) * 8) for name in directory.names()]
        total = sum(size for _, size in sizes)
        place = self.place % total if total else 0
        for name, size in sizes:
            if place < size:
                directory.flip(name, place)
                world.exempt(self.who)
                world.inject(14)
                break
            place -= size
        world.after(self.ticks, lambda: bring_back(world, self.who))

    def lying(self) -> tuple[str, ...]:
        return (self.who,)

    def tell(self) -> str:
        return f"{self.who} loses power, bit {self.place} of its log turns over, and it is back after {self.ticks} ms"


@attrs.frozen(kw_only=True)
class DiskFull(OneMember):
    """A member's disk has room for so many more bytes only."""

    lines: ClassVar[tuple[int, ...]] = (15,)
    room: int
    ticks: int

    def inject(self, world: World) -> None:
        member = chosen(world, self.who)
        if member is None:
            return
        directory = world.hosts[member].disk.directory
        directory.capacity = directory.bytes_used + self.room

        def enough() -> None:
            directory.capacity = None

        world.after(self.ticks, enough)

    def tell(self) -> str:
        return f"the disk of {self.who} has room for {self.room} bytes only, for {self.ticks} ms"


@attrs.frozen(kw_only=True)
class SlowDisk(OneMember):
    """Each sync of a member's disk takes so many microseconds longer."""

    lines: ClassVar[tuple[int, ...]] = ()
    us: int
    ticks: int

    def inject(self, world: World) -> None:
        member = chosen(world, self.who)
        if member is not None:
            handle = world.slow_disk(member, self.us)
            world.after(self.ticks, handle.end)

    def tell(self) -> str:
        return f"each sync of {self.who}'s disk takes {self.us} µs longer, for {self.ticks} ms"
