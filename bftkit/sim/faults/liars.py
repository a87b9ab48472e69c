"""Members and clients that are Byzantine, run twice, or are killed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import attrs

from bftkit.sim.faults.base import Fault, OneMember

if TYPE_CHECKING:
    from bftkit.sim.world import World


@attrs.frozen(kw_only=True)
class Lie(OneMember):
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
class Twin(OneMember):
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
