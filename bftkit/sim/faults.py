"""What can go wrong in a plan: one frozen class for each kind of fault.

Each says when it begins (`at`, in ticks from the start), how long it lasts (`ticks`), and to whom it happens. A member
is named (``m2``), or chosen when the time comes: ``leader`` is whom most correct members follow (where nobody ever
leads, one after the other, as slots are decided), ``follower`` the first member that is up and is not it. Each ends by
itself. Links and slow disks that are broken twice heal when
the last of both ends; a member that is down, paused, out of space or wrong about time is well when the first ends. The
numbers in `lines` are those of docs/FAULTS.md.

A fault of your own is a frozen attrs class derived from `Fault`; stored plans name it by ``package.module:Class``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

from bftkit.core.plugin import did_you_mean

if TYPE_CHECKING:
    from bftkit.sim.world import World

LEADER: Final = "leader"
FOLLOWER: Final = "follower"


@attrs.frozen(kw_only=True)
class Fault:
    """The base of all faults."""

    lines: ClassVar[tuple[int, ...]] = ()
    """Which lines of docs/FAULTS.md it injects."""

    at: int
    """Ticks from the start of the run."""

    def inject(self, world: World) -> None:
        """Make it happen now, and see to its end."""
        raise NotImplementedError

    def tell(self) -> str:
        """What happens, in words."""
        raise NotImplementedError

    def named(self) -> tuple[str, ...]:
        """The members and clients that it names."""
        return ()

    def lying(self) -> tuple[str, ...]:
        """The members that count as Byzantine from then on."""
        return ()

    def forgetful(self) -> tuple[str, ...]:
        """The members that may lose what they had promised to keep (SAFETY rule 16)."""
        return ()


@attrs.frozen(kw_only=True)
class _OneMember(Fault):
    who: str

    def named(self) -> tuple[str, ...]:
        return (self.who,)


def chosen(world: World, who: str) -> str | None:
    """The member that is meant; None if there is none now."""
    up = [member for member in world.correct if world.hosts[member].up]
    if who not in (LEADER, FOLLOWER):
        return who
    votes: dict[str, int] = {}
    for member in up:
        leader = world.replica(member).machine.leader
        if leader is not None:
            votes[leader] = votes.get(leader, 0) + 1
    leader = max(sorted(votes), key=lambda name: votes[name], default=None)
    if up and not world.is_led:
        leader = up[world.replica(up[0]).applied % len(up)]
    if who == LEADER:
        return leader
    return next((member for member in up if member != leader), None)


# ------------------------------------------------------------------------------------------------ crashes


@attrs.frozen(kw_only=True)
class Crash(_OneMember):
    """A member dies and comes back. With `power` its machine loses power: what was not synced is lost or torn."""

    lines: ClassVar[tuple[int, ...]] = (12, 13)
    ticks: int
    power: bool = True

    def inject(self, world: World) -> None:
        member = chosen(world, self.who)
        if member is not None and world.hosts[member].up:
            world.crash(member, power=self.power)
            world.after(self.ticks, lambda: _back(world, member))

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
            world.after(ticks, partial(_back, world, member))

    def named(self) -> tuple[str, ...]:
        return (self.absent,) if self.absent else ()

    def tell(self) -> str:
        away = f", {self.absent} after {max(self.ticks, self.absent_ticks)} ms" if self.absent else ""
        return f"all members lose power and are back after {self.ticks} ms{away}"


@attrs.frozen(kw_only=True)
class CutAtDisk(_OneMember):
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
                _back(world, name)

        world.after(self.ticks, again)

    def tell(self) -> str:
        return (
            f"all members lose power right before operation {self.operation} on the disk of {self.who}, and are back "
            f"{self.ticks} ms after this was planned"
        )


@attrs.frozen(kw_only=True)
class Pause(_OneMember):
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


# ------------------------------------------------------------------------------------------------ disks


@attrs.frozen(kw_only=True)
class Wipe(_OneMember):
    """A member comes back with an empty disk."""

    lines: ClassVar[tuple[int, ...]] = (18,)
    ticks: int

    def inject(self, world: World) -> None:
        if world.hosts[self.who].up:
            world.crash(self.who)
        world.wipe(self.who)
        world.after(self.ticks, lambda: _back(world, self.who))

    def forgetful(self) -> tuple[str, ...]:
        return (self.who,)

    def tell(self) -> str:
        return f"{self.who} loses its disk and is back after {self.ticks} ms with an empty one"


@attrs.frozen(kw_only=True)
class Rollback(_OneMember):
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
class LyingDisk(_OneMember):
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
            _back(world, self.who)

        world.after(self.ticks, lose)

    def lying(self) -> tuple[str, ...]:
        return (self.who,)

    def tell(self) -> str:
        return f"syncs of {self.who}'s disk do nothing, and after {self.ticks} ms its machine loses power"


@attrs.frozen(kw_only=True)
class SyncFails(_OneMember):
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
            _back(world, member)

        world.after(self.ticks, back)

    def tell(self) -> str:
        return f"the next sync of {self.who}'s disk fails; the member is started again after {self.ticks} ms"


@attrs.frozen(kw_only=True)
class FlipBit(_OneMember):
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
        world.after(self.ticks, lambda: _back(world, self.who))

    def lying(self) -> tuple[str, ...]:
        return (self.who,)

    def tell(self) -> str:
        return f"{self.who} loses power, bit {self.place} of its log turns over, and it is back after {self.ticks} ms"


@attrs.frozen(kw_only=True)
class DiskFull(_OneMember):
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
class SlowDisk(_OneMember):
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


# ------------------------------------------------------------------------------------------------ network


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
class SlowLink(_OneMember):
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
class ClockJump(_OneMember):
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
class ClockRate(_OneMember):
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


# ------------------------------------------------------------------------------------------------ lies


@attrs.frozen(kw_only=True)
class Lie(_OneMember):
    """From now on a member is Byzantine: `kind` is a name of `bftkit.sim.adversaries` or ``package.module:Class``."""

    kind: str
    options: Mapping[str, bool | int | str] = attrs.field(factory=dict[str, bool | int | str], eq=dict)

    def inject(self, world: World) -> None:
        from bftkit.sim.adversaries import load_adversary

        world.lie(self.who, load_adversary(self.kind, **self.options))

    def lying(self) -> tuple[str, ...]:
        return (self.who,)

    def tell(self) -> str:
        options = "".join(f", {name} {value}" for name, value in sorted(self.options.items()))
        return f"{self.who} is Byzantine from now on: {self.kind}{options}"


@attrs.frozen(kw_only=True)
class Twin(_OneMember):
    """A member runs twice, with one identity; each copy is linked with one side only. A member may stand on both."""

    lines: ClassVar[tuple[int, ...]] = (20,)
    left: tuple[str, ...]
    right: tuple[str, ...]

    def inject(self, world: World) -> None:
        world.twin(self.who, self.left, self.right)
        world.inject(20)

    def named(self) -> tuple[str, ...]:
        return (self.who, *self.left, *self.right)

    def lying(self) -> tuple[str, ...]:
        return (self.who,)

    def tell(self) -> str:
        return (
            f"{self.who} runs twice from now on, once linked with {', '.join(self.left) or 'nobody'} and once with "
            f"{', '.join(self.right) or 'nobody'}"
        )


@attrs.frozen(kw_only=True)
class LyingClient(Fault):
    """A Byzantine client appears: `kind` is a name of `bftkit.sim.lying_clients`."""

    name: str
    kind: str

    def inject(self, world: World) -> None:
        world.join_liar(self.name, self.kind)

    def tell(self) -> str:
        return f"a Byzantine client {self.name} appears: {self.kind}"


@attrs.frozen(kw_only=True)
class ClientDies(Fault):
    """A client is killed with its operations under way, and another takes its place."""

    name: str

    def inject(self, world: World) -> None:
        actor = world.actors.get(self.name)
        if actor is not None and not actor.stopped:
            rest = actor.outstanding
            actor.stop()
            world.join(f"{self.name}+")
            world.load(max(1, rest), 2)

    def tell(self) -> str:
        return f"client {self.name} is killed, another one comes"


def _back(world: World, member: str) -> None:
    if not world.hosts[member].up:
        world.restart(member)


# ------------------------------------------------------------------------------------------------ by name

FAULTS: Final[Mapping[str, type[Fault]]] = {
    "crash": Crash,
    "power-cut": PowerCut,
    "cut-at-disk": CutAtDisk,
    "pause": Pause,
    "wipe": Wipe,
    "rollback": Rollback,
    "lying-disk": LyingDisk,
    "sync-fails": SyncFails,
    "flip-bit": FlipBit,
    "disk-full": DiskFull,
    "slow-disk": SlowDisk,
    "partition": Partition,
    "one-way": OneWay,
    "weather": Weather,
    "slow-link": SlowLink,
    "hold-kind": HoldKind,
    "clock-jump": ClockJump,
    "clock-rate": ClockRate,
    "lie": Lie,
    "twin": Twin,
    "lying-client": LyingClient,
    "client-dies": ClientDies,
}


def fault_name(kind: type[Fault]) -> str:
    """The name under which a stored plan has this kind of fault."""
    return next((name for name, known in _shelf().items() if known is kind), f"{kind.__module__}:{kind.__qualname__}")


def _shelf() -> Mapping[str, type[Fault]]:
    from bftkit.sim.changes import CHANGES  # they are made of faults

    return {**FAULTS, **CHANGES}


def load_fault(name: str) -> type[Fault]:
    """The kind of fault of this name. Raises ValueError if there is none."""
    shelf = _shelf()
    if name in shelf:
        return shelf[name]
    module, colon, attribute = name.partition(":")
    if colon:
        try:
            found: Any = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the fault {name!r} cannot be loaded: {error}") from None
        if isinstance(found, type) and issubclass(found, Fault):
            return found
        raise ValueError(f"{name!r} is not derived from bftkit.sim.faults.Fault")
    raise ValueError(
        f"there is no fault {name!r}; known are {', '.join(sorted(shelf))}, or package.module:Class"
        f"{did_you_mean(name, shelf)}"
    )


def lines_of(faults: Iterable[Fault]) -> frozenset[int]:
    """The lines of docs/FAULTS.md that these faults can inject."""
    return frozenset(line for fault in faults for line in fault.lines)
