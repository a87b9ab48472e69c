"""What the checks of `bftkit.sim.contract` are made with: cases, common steps, what counts as a vote, liars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, Final, TypeAlias, cast

import attrs

from bftkit.core.machine import Broadcast, Digest, Effect, MemberId, Send
from bftkit.core.ordering import Plugin
from bftkit.sim.ordering.world import Disk, OrderingWorld

PATIENCE: Final = 600_000
"""So many ticks after the last fault everything must be decided."""

SLOW_DISK: Final = Disk(0, 40)
"""Slower than the links, so that a crash nearly always finds something that is not synced."""


@attrs.frozen
class Shape:
    """How large a group is and what it is to survive."""

    n: int
    f: int
    c: int

    def __str__(self) -> str:
        return f"{self.n},{self.f},{self.c}"


@attrs.frozen
class Case:
    """One run: a check, a group and a seed."""

    plugin: Plugin
    check: str
    shape: Shape
    seed: int

    def __str__(self) -> str:
        return f"{self.plugin.record.name} {self.check} {self.shape} {self.seed}"

    def claims(self, fault: str) -> bool:
        """Whether the protocol's record says that the group survives this fault."""
        return fault in self.plugin.record.survives

    def world(self, **more: Any) -> OrderingWorld:
        """The group of this case."""
        more.setdefault("trace", TRACING[0])
        return OrderingWorld(
            self.plugin,
            self.shape.n,
            self.shape.f,
            self.shape.c,
            self.seed,
            rerun=f"python -m bftkit.sim.contract {self}",
            **more,
        )

    def random(self) -> Random:
        """Chance for the check's own decisions, apart from the world's."""
        return Random(f"{self.check} {self.seed}")


TRACING: Final = [False]

Check: TypeAlias = Callable[[Case], None]

CHECKS: Final[dict[str, Check]] = {}
"""All checks by name. A check returns if the contract holds, and raises AssertionError if not."""


def check(function: Check) -> Check:
    """Enter a check into `CHECKS` under its name."""
    CHECKS[function.__name__] = function
    return function


def shapes(plugin: Plugin) -> tuple[Shape, ...]:
    """Groups to try: the smallest, one above the minimum, and one that is to survive more."""
    if plugin.record.crash_as_lie:
        return Shape(4, 1, 0), Shape(7, 1, 1), Shape(5, 1, 0), Shape(4, 0, 1)
    if plugin.record.byzantine:
        return Shape(4, 1, 0), Shape(6, 1, 1), Shape(5, 1, 0), Shape(3, 0, 1)
    return Shape(3, 0, 1), Shape(4, 0, 1), Shape(5, 0, 2)


def cases(plugin: Plugin, seeds: Sequence[int] = (1, 2, 3), checks: Iterable[str] | None = None) -> list[Case]:
    """Every check with every seed; the shapes take turns, so that each check meets each shape with enough seeds."""
    groups = shapes(plugin)
    return [
        Case(plugin, name, groups[(index + seed) % len(groups)], seed)
        for index, name in enumerate(sorted(CHECKS) if checks is None else checks)
        for seed in seeds
    ]


def run(case: Case) -> None:
    """Run one check. Raises AssertionError with the way to run it again."""
    CHECKS[case.check](case)


# ------------------------------------------------------------------------------------------------- helpers


def leader_of(world: OrderingWorld) -> MemberId:
    """Whom most correct members expect proposals from; the first member if nobody leads."""
    leaders = [world.machine(name).leader for name in world.correct()]
    known = [leader for leader in leaders if leader is not None]
    return max(sorted(set(known)), key=known.count) if known else world.members[0]


def settle(world: OrderingWorld) -> None:
    """Everything that was submitted gets decided, everywhere, and everywhere the same."""
    world.run_until(world.all_delivered, PATIENCE)
    histories = {name: world.delivered(name) for name in world.correct()}
    assert len(set(histories.values())) == 1, world.failure(f"total order: {histories}")


def mend(world: OrderingWorld) -> None:
    """The end of all faults: links whole, everybody up."""
    world.heal()
    world.resume(*world.members)
    world.restart(*[name for name in world.members if name not in world.up()])


def votes(message: Any) -> Iterator[tuple[tuple[Any, ...], Digest]]:
    """What a message binds its sender to: (kind, view, slot, …) and the digest, wherever it names slot and digest.

    A message whose parts are encoded may say it itself, by a method `binds` that yields the same.
    """
    binds = getattr(message, "binds", None)
    if callable(binds):
        yield from cast("Iterable[tuple[tuple[Any, ...], Digest]]", binds())
    values = {name: getattr(message, name) for name in _fields(message)}
    if isinstance(values.get("slot"), int) and isinstance(values.get("digest"), bytes):
        numbers = [values[name] for name in ("view", "ballot", "round", "slot") if isinstance(values.get(name), int)]
        yield (type(message).__name__, *numbers), values["digest"]
    for value in values.values():
        for item in cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,):
            yield from votes(item)


def _fields(value: Any) -> list[str]:
    """The names of an attrs object's fields that are its state; none for any other value."""
    cls = cast("type[Any]", type(value))
    return [at.name for at in attrs.fields(cls) if not at.metadata.get("bftkit.shared")] if attrs.has(cls) else []


def watch_votes(world: OrderingWorld) -> dict[tuple[Any, ...], Digest]:
    """From now on no correct member may bind itself to two digests, however often it is restarted."""
    seen: dict[tuple[Any, ...], Digest] = {}

    def watch(sender: MemberId, message: Any) -> None:
        if sender not in world.liars:
            for place, digest in votes(message):
                if seen.setdefault((sender, *place), digest) != digest:
                    world.fail(f"{sender} contradicts its own vote {place}")

    world.observers.append(watch)
    return seen


def some(random: Random, members: Sequence[MemberId], most: int) -> list[MemberId]:
    """At least one and at most so many of the members, in their order."""
    chosen = set(random.sample(list(members), random.randint(1, min(most, len(members)))))
    return [name for name in members if name in chosen]


def weight(value: Any) -> int:
    """How many plain values a machine's state holds."""
    names = _fields(value)
    if names:
        return sum(weight(getattr(value, name)) for name in names)
    if isinstance(value, Mapping):
        table = cast("Mapping[Any, Any]", value)
        return sum(weight(key) + weight(item) for key, item in table.items())
    if isinstance(value, str | bytes | bytearray):
        return 1 + len(value) // 32
    if isinstance(value, Iterable):
        return sum(weight(item) for item in cast("Iterable[Any]", value))
    return 1


# ------------------------------------------------------------------------------------------------- liars


class Liar:
    """Lies without knowing the protocol: is silent to some, repeats itself, garbles what it says."""

    def __init__(self, plugin: Plugin, random: Random, members: Sequence[MemberId]) -> None:
        self._codec = plugin.codec
        self._random = random
        self._heard = frozenset(some(random, members, len(members)))
        self._said: list[bytes] = []

    def on_message(self, member: MemberId, sender: MemberId, message: Any) -> Any | None:
        return message if self._random.random() < 0.9 else None

    def on_effects(self, member: MemberId, effects: Sequence[Effect[Any, Any]]) -> Sequence[Effect[Any, Any]]:
        told: list[Effect[Any, Any]] = []
        for effect in effects:
            match effect:
                case Broadcast(message, carry):
                    told.extend(self._lie(sorted(self._heard - {member}), message, carry))
                case Send(to, message, carry):
                    told.extend(self._lie(to, message, carry))
                case _:
                    told.append(effect)
        return told

    def _lie(self, to: Iterable[MemberId], message: Any, carry: tuple[Digest, ...]) -> Iterator[Effect[Any, Any]]:
        data = self._codec.encode(message)
        self._said = [*self._said[-50:], data]
        for receiver in to:
            match self._random.randrange(6):
                case 0:
                    pass
                case 1:
                    yield Send((receiver,), cast(Any, self._garbled(data)), carry)
                case 2:
                    yield Send((receiver,), message)  # the bytes withheld (FAULTS 27)
                case 3:
                    yield Send((receiver,), message, carry)
                    yield Send((receiver,), cast(Any, self._random.choice(self._said)))
                case _:
                    yield Send((receiver,), message, carry)

    def _garbled(self, data: bytes) -> bytes:
        where = self._random.randrange(len(data))
        return data[:where] + bytes([data[where] ^ 1 << self._random.randrange(8)]) + data[where + 1 :]


class Honest:
    """Lies by nothing but what it proposes."""

    def on_message(self, member: MemberId, sender: MemberId, message: Any) -> Any | None:
        return message

    def on_effects(self, member: MemberId, effects: Sequence[Effect[Any, Any]]) -> Sequence[Effect[Any, Any]]:
        return effects
