"""The links of an `OrderingWorld`: delay, loss, duplication, reordering, and cuts, also in one direction only.

A member may run twice (`Node.is_twin`): then a message to it is one to both copies, as far as they are linked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs

from bftkit.core.machine import MemberId
from bftkit.sim.ordering.parts import Node
from bftkit.sim.ordering.timeline import Timeline


@attrs.frozen
class Network:
    """What the links do. Delays in ticks, both bounds included; the rest are probabilities a message."""

    delay_min: int = 1
    delay_max: int = 10
    loss: float = 0.0
    duplication: float = 0.0
    straggling: float = 0.0
    """This share of the messages takes up to twenty times as long, so that others overtake them."""


class Links:
    """What goes from one copy of a member to another one, and what does not."""

    def __init__(
        self, nodes: Mapping[str, Node], members: Iterable[MemberId], network: Network, time: Timeline
    ) -> None:
        self.hinder: Callable[[Node, Callable[[], None]], bool] | None = None
        """Asked of everything that is to be sent, with the sender and what sends it; true: it keeps that for later."""
        self._nodes = nodes
        self._members = tuple(members)
        self._network = network
        self._time = time
        self._blocked: set[tuple[MemberId, MemberId]] = set()
        self._side_of: dict[str, int] = {}

    # -------------------------------------------------------------------------------------- cuts

    def partition(self, *sides: Iterable[MemberId]) -> None:
        """Cut all links between the sides; members that stand in no side hear nobody."""
        side_of = {name: index for index, side in enumerate(sides) for name in sorted(side)}
        for a in self._members:
            for b in self._members:
                if a != b and (a not in side_of or side_of[a] != side_of.get(b)):
                    self.block(a, b)

    def block(self, sender: MemberId, receiver: MemberId) -> None:
        """Cut one direction of one link."""
        self._blocked.add((sender, receiver))

    def divide(self, *sides: Iterable[str]) -> None:
        """Cut all links between sides of copies, in place of an earlier `divide`."""
        self._side_of = {key: index for index, side in enumerate(sides) for key in side}
        assert self._side_of.keys() == self._nodes.keys(), "each copy stands on one side"

    def heal(self) -> None:
        """All links are whole again."""
        self._blocked.clear()
        self._side_of = {}

    def reaches(self, sender: Node, target: Node) -> bool:
        """Whether this direction is open now."""
        side_of = self._side_of
        return (sender.name, target.name) not in self._blocked and (
            not side_of or side_of[sender.key] == side_of[target.key]
        )

    # -------------------------------------------------------------------------------------- carrying

    def copies(self, member: MemberId) -> list[Node]:
        """The member's copies: one, or two if it is a twin."""
        return [self._nodes[key] for key in (member, member + "'") if key in self._nodes]

    def delay(self) -> int:
        """How long the next message takes, in ticks."""
        random, network = self._time.random, self._network
        delay = random.randint(network.delay_min, network.delay_max)
        if random.random() < network.straggling:
            delay *= random.randint(2, 20)
        return delay

    def carry(self, sender: Node, target: Node, event: Callable[[], None]) -> None:
        """This happens at the target when the message arrives: never, once, or twice."""
        if self.hinder is None or not self.hinder(sender, lambda: self._carry(sender, target, event)):
            self._carry(sender, target, event)

    def _carry(self, sender: Node, target: Node, event: Callable[[], None]) -> None:
        if target.name not in sender.hears or sender.name not in target.hears:
            return
        random, network = self._time.random, self._network
        copies = 2 if random.random() < network.duplication else 1
        for _ in range(copies):
            if random.random() >= network.loss:
                self._time.after(self.delay(), lambda: self._across(sender, target, event))

    def _across(self, sender: Node, target: Node, event: Callable[[], None]) -> None:
        if self.reaches(sender, target) and target.machine is not None:
            target.process.bound(event)()
