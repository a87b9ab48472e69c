"""Operators of a simulated group: who signs commands, and how a command reaches the members.

A command travels in the frames of any client, over links that lose frames and to members that crash; so its operator
sends it again and again, to those it was told to use, until the epoch that it is for is over or it is refused. It
asks the members what became of it; what they say is kept for tests (`Operator.states`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from bftkit.channel import frames
from bftkit.channel.bundles import COMMAND, make_proved_bundle
from bftkit.channel.client import ClientSettings
from bftkit.channel.frames import ANSWER_CODEC, REFUSED, AskCommand, CommandAnswer, pack_ask
from bftkit.configuration.qos import QoS
from bftkit.core.machine import Digest, MemberId
from bftkit.core.plugin import load_protocol
from bftkit.core.wire import WireError
from bftkit.membership.commands import CANCEL, FORCED, PLANNED, Change, Command, SignedCommand, sign_command
from bftkit.membership.epochs import Configuration
from bftkit.membership.founding import default_faults
from bftkit.sim.actors import Actor
from bftkit.sim.epochs import operator_key, seat

if TYPE_CHECKING:
    from bftkit.sim.world import World

AGAIN_TICKS: Final = 250
"""An operator that has no good answer sends its command again after so long."""


@attrs.define(eq=False)
class Order:
    """A command that an operator has sent."""

    signed: SignedCommand
    to: tuple[MemberId, ...] | None
    """Whom it is sent to; None: the members of its epoch."""
    states: dict[MemberId, tuple[int, str]] = attrs.field(factory=dict[MemberId, tuple[int, str]])
    """What members last said of it."""
    given_up: bool = False


class Operator(Actor):
    """One who sends commands."""

    def __init__(self, world: World, name: str, settings: ClientSettings) -> None:
        super().__init__(world, name, settings)
        self.idle = True
        self.orders: dict[Digest, Order] = {}
        self._number = 0

    def send(self, signed: SignedCommand, to: Sequence[MemberId] | None = None) -> Digest:
        """Send the command, to these members or to all, until it is over. Returns its name."""
        order = self.orders[signed.name] = Order(signed, tuple(to) if to is not None else None)
        self._say(order)
        return signed.name

    def give_up(self) -> None:
        """Send nothing more."""
        for order in self.orders.values():
            order.given_up = True

    def is_over(self, order: Order) -> bool:
        """Whether there is no use in sending it again."""
        world = self.world
        if order.given_up or world.chain.now.epoch > order.signed.command.epoch:
            return True
        refused = [member for member, (state, _) in order.states.items() if state == REFUSED]
        return len(refused) > world.quorum.f and len(refused) == len(order.states)

    def _say(self, order: Order) -> None:
        if self.stopped or self.is_over(order):
            return
        world, signed = self.world, order.signed
        frame = b"\x02" + make_proved_bundle(COMMAND, signed.name, signed.encode())
        for member in order.to or world.members:
            world.carry_from_client(self, member, frame)
            self._number += 1
            world.carry_from_client(self, member, pack_ask(AskCommand(self._number, signed.name)))
        world.after(AGAIN_TICKS, partial(self._say, order))

    def knows(self, member: MemberId) -> bool:
        """Operators know whom they have made a member."""
        return True

    def on_link(self, member: MemberId, binding: bytes) -> None:
        """A connection came up: what was sent before may have been lost."""
        for order in self.orders.values():
            if not self.is_over(order) and (order.to is None or member in order.to):
                signed = order.signed
                frame = b"\x02" + make_proved_bundle(COMMAND, signed.name, signed.encode())
                self.world.carry_from_client(self, member, frame)

    def on_frame(self, member: MemberId, frame: bytes) -> None:
        """What a member says of a command."""
        try:
            answer = ANSWER_CODEC.decode(frame[1:]) if frame[:1] == bytes((frames.ANSWER,)) else None
        except WireError:
            return
        if isinstance(answer, CommandAnswer) and answer.command in self.orders:
            self.orders[answer.command].states[member] = (answer.state, answer.text)


def changed(
    here: Configuration,
    *,
    protocol: str | None = None,
    members: Sequence[MemberId] | None = None,
    generations: Mapping[MemberId, int] | None = None,
    f: int | None = None,
    c: int | None = None,
    parameters: Mapping[str, int] | None = None,
    interval: int | None = None,
    window: int | None = None,
    operators: Sequence[int] | None = None,
    threshold: int | None = None,
    qos: QoS | None = None,
) -> Change:
    """The change from this configuration to another one; what is not named stays.

    `generations` says which set of keys a member is to have from then on. Unless f and c are given, they stay if
    protocol and number of members do; else they are as much as these bear. A coin key is made where liars are borne,
    and where the protocol tosses coins, or one that the policy may go over to.
    """
    change = here.change()
    wanted: Mapping[MemberId, int] = {} if generations is None else generations
    known = {known.id: known for known in here.seats()}
    names = here.members if members is None else tuple(members)
    seats = tuple(
        known[name] if name in known and name not in wanted else seat(name, wanted.get(name, 0), keys=True)
        for name in names
    )
    chosen = protocol or here.protocol
    if f is None and c is None and chosen == here.protocol and len(names) == len(known):
        f, c = here.f, here.c
    f, c = default_faults(load_protocol(chosen).record, len(names), f, c)
    if parameters is None:
        parameters = here.parameters if chosen == here.protocol else {}
    may_run = (chosen, *(() if here.policy is None else (mode.protocol for mode in here.policy.modes)))
    keys = here.operators if operators is None else tuple(sorted(operator_key(number).public for number in operators))
    return attrs.evolve(
        change,
        protocol=chosen,
        parameters=dict(parameters),
        f=f,
        c=c,
        members=seats,
        operators=keys,
        operator_threshold=here.operator_threshold if threshold is None else threshold,
        checkpoint_interval=interval or here.checkpoint_interval,
        window=window or here.window,
        coin=f > 0 or any(load_protocol(name).record.coins for name in may_run),
        qos=qos or here.qos,
    )


__all__ = ["CANCEL", "FORCED", "PLANNED", "Command", "Operator", "Order", "changed", "sign_command"]
