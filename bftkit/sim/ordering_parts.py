"""What an `OrderingWorld` is made of: the settings of links and disks, adversaries, and a member's place in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs

from bftkit.core.machine import Digest, Effect, MemberId, Record, Slot, TimerKey
from bftkit.core.ordering import OrderingInput, OrderingMachine, Setup
from bftkit.sim.ordering_turns import Turns


class Violation(AssertionError):
    """A property of the protocol does not hold in this run. The text says which, and how to see it again."""


@attrs.frozen
class Network:
    """What the links do. Delays in ticks, both bounds included; the rest are probabilities a message."""

    delay_min: int = 1
    delay_max: int = 10
    loss: float = 0.0
    duplication: float = 0.0
    straggling: float = 0.0
    """This share of the messages takes up to twenty times as long, so that others overtake them."""


@attrs.frozen
class Disk:
    """How long a sync takes, in ticks, and what a crash does to records that were not synced."""

    sync_min: int = 0
    sync_max: int = 5
    keep_some: bool = False
    """False: a crash loses every unsynced record. True: a prefix of them, drawn from the seed, survives."""


class Adversary(Protocol):
    """Stands between a member's machine and the world. Its member is exempt from the checkers."""

    def on_message(self, member: MemberId, sender: MemberId, message: Any) -> Any | None:
        """What the machine is to receive instead; None: nothing."""

    def on_effects(self, member: MemberId, effects: Sequence[Effect[Any, Any]]) -> Sequence[Effect[Any, Any]]:
        """What leaves instead. A message that is `bytes` goes out as it stands, undecodable or not."""
        ...


@attrs.frozen
class Entry:
    """One record on a member's disk."""

    serial: int
    record: Record
    slot: Slot
    batch: Digest | None = None
    purge_below: int | None = None
    """When this entry is durable, standing and settled records with a lower serial are forgotten."""


@attrs.define(eq=False)
class Node:
    """A member's place in the world: its machine, its disk, and what its channel knows."""

    name: MemberId
    setup: Setup
    hears: frozenset[MemberId]
    is_twin: bool
    turns: Turns
    machine: OrderingMachine | None = None
    incarnation: int = 0
    paused: bool = False
    stalled: list[Callable[[], None]] = attrs.field(factory=list[Callable[[], None]])
    # the disk
    log: list[Entry] = attrs.field(factory=list[Entry])
    written: int = 0
    synced: int = 0
    syncing: bool = False
    outbox: deque[tuple[int, Callable[[], None]]] = attrs.field(factory=deque[tuple[int, Callable[[], None]]])
    # the channel
    timers: dict[TimerKey, int] = attrs.field(factory=dict[TimerKey, int])
    inputs: deque[OrderingInput] = attrs.field(factory=deque[OrderingInput])
    store: set[Digest] = attrs.field(factory=set[Digest])
    arrived: set[Digest] = attrs.field(factory=set[Digest])
    wanted: dict[Digest, tuple[Slot, list[MemberId]]] = attrs.field(factory=dict[Digest, tuple[Slot, list[MemberId]]])
    demand: dict[Digest, None] = attrs.field(factory=dict[Digest, None])
    proposed: dict[Digest, int] = attrs.field(factory=dict[Digest, int])
    told_waiting: bool = False
    stable: Slot = 0
    emitted: Slot = 0
    height: Slot = 0
    slots: dict[Slot, Digest] = attrs.field(factory=dict[Slot, Digest])
    stop_told: bool = False
    behind_since: int = 0

    @property
    def key(self) -> str:
        """The name of this copy: of two twins, the second one has an apostrophe."""
        return self.name + "'" * self.is_twin
