"""What the parts of an `OrderingWorld` share: a member's place, who runs its machine, adversaries."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

import attrs

from bftkit.core.machine import Digest, Effect, MemberId, Slot, TimerKey
from bftkit.core.ordering import OrderingInput, OrderingMachine, Setup
from bftkit.sim.ordering.disk import MemberDisk
from bftkit.sim.ordering.process import Process
from bftkit.sim.ordering.turns import Turns


class Violation(AssertionError):
    """A property of the protocol does not hold in this run. The text says which, and how to see it again."""


class Adversary(Protocol):
    """Stands between a member's machine and the world. Its member is exempt from the checkers."""

    def on_message(self, member: MemberId, sender: MemberId, message: Any) -> Any | None:
        """What the machine is to receive instead; None: nothing."""

    def on_effects(self, member: MemberId, effects: Sequence[Effect[Any, Any]]) -> Sequence[Effect[Any, Any]]:
        """What leaves instead. A message that is `bytes` goes out as it stands, undecodable or not."""
        ...


@attrs.define(eq=False)
class Node:
    """A member's place in the world: its machine, its disk, and what its channel knows."""

    name: MemberId
    setup: Setup
    hears: frozenset[MemberId]
    is_twin: bool
    turns: Turns
    process: Process
    disk: MemberDisk
    machine: OrderingMachine | None = None
    """None while the member is down."""
    # the channel
    timers: dict[TimerKey, int] = attrs.field(factory=dict[TimerKey, int])
    inputs: deque[OrderingInput] = attrs.field(factory=deque[OrderingInput])
    store: set[Digest] = attrs.field(factory=set[Digest])
    """Batches whose bytes it holds, durable or about to be."""
    arrived: set[Digest] = attrs.field(factory=set[Digest])
    """Batches whose bytes came unasked, and are not kept."""
    wanted: dict[Digest, tuple[Slot, list[MemberId]]] = attrs.field(factory=dict[Digest, tuple[Slot, list[MemberId]]])
    """Batches that it fetches: for which slot, and from whom."""
    demand: dict[Digest, None] = attrs.field(factory=dict[Digest, None])
    """Batches that clients asked for here and that are not delivered."""
    proposed: dict[Digest, int] = attrs.field(factory=dict[Digest, int])
    """Batches that the machine was given to propose, and in which view."""
    told_waiting: bool = False
    emitted: Slot = 0
    """The last slot that the machine decided."""
    height: Slot = 0
    """The last slot that the application has."""
    slots: dict[Slot, Digest] = attrs.field(factory=dict[Slot, Digest])
    stop_told: bool = False
    behind_since: int = 0

    @property
    def key(self) -> str:
        """The name of this copy: of two twins, the second one has an apostrophe."""
        return self.name + "'" * self.is_twin

    def crash(self) -> None:
        """The memory is gone, and whatever the disk did not sync."""
        self.disk.crash()
        self.process.die()
        self.store = self.disk.batches()
        self.machine = None
        self.told_waiting = self.stop_told = False
        for container in (self.timers, self.inputs, self.arrived, self.wanted, self.demand, self.proposed):
            container.clear()
        self.turns.forget()


class Machines(Protocol):
    """Who runs the machines: the world, as its parts see it."""

    def step(self, node: Node, event: str, *values: Any) -> None:
        """One call into the member's machine, and then all inputs that follow from it at once."""

    def fail(self, what: str) -> NoReturn:
        """A property does not hold."""
        ...
