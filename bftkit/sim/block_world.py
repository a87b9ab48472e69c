"""A world for blocks: the machines of one broadcast or agreement, and a scheduler that owns all undelivered messages.

There is no clock. What was sent and has not arrived is a list of `Flight`; one step takes one of them and gives it to
its receiver. Which one is the schedule's choice: a seeded random one by default, or any function that looks at the
world and picks, which is an adversary that sees everything and delays and reorders as it likes. Nothing is lost unless
a test drops it, so "everything is delivered in the end" means `run` until no flight is left.

A liar is an honest machine with a `Liar` between it and the world: that one is shown each message with its receiver
and says what goes out instead, so it lies to each receiver as it likes; what it makes up besides, `inject` sends.
A crash forgets the machine and keeps its records; a restart makes a new one and gives them back, then repeats what the
others' `said()` holds only if the test asks for it with `repeat`.

A test reads::

    setups = block_setups(4, 1, seed=7)
    world = BlockWorld({name: CommonCoin.create(setups[name], b"coin") for name in setups}, seed=7, codec=CODEC)
    for name in world.members:
        world.input(name, Release())
    world.run()
    assert world.outputs["m0"] == [CoinTossed(...)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import attrs

from bftkit.core.digest import digest
from bftkit.core.machine import Blame, Broadcast, Deliver, Digest, Machine, MemberId, Out, Persist, Record, Send
from bftkit.core.ordering import Setup
from bftkit.core.quorum import Quorum
from bftkit.core.wire import Codec
from bftkit.sim.coins import coins_of
from bftkit.sim.keyring import fast_keyrings

I = TypeVar("I")  # noqa: E741 - the letters are the interface's own
M = TypeVar("M")
O = TypeVar("O")  # noqa: E741

STEPS_MAX: Final = 200_000
"""No test of a block takes so many deliveries; a run that does goes round in circles."""


@attrs.frozen(eq=False)
class Flight(Generic[M]):
    """One message on its way to one receiver."""

    number: int
    """Counted from 1, in the order of sending."""
    sender: MemberId
    receiver: MemberId
    message: M
    carry: tuple[Digest, ...] = ()


class Liar(Protocol[M]):
    """What stands between a liar's machine and the world."""

    def say(self, receiver: MemberId, message: M) -> Iterable[M]:
        """What goes out to `receiver` in the place of an honest message: nothing, it, or others."""
        ...


@attrs.frozen
class Silent:
    """Says nothing at all, like one that crashed at the start."""

    def say(self, receiver: MemberId, message: Any) -> Iterable[Any]:
        """Nothing."""
        return ()


@attrs.frozen
class Lying(Generic[M]):
    """Says what a function makes of each message."""

    change: Callable[[MemberId, M], Iterable[M]]

    def say(self, receiver: MemberId, message: M) -> Iterable[M]:
        """What the function says."""
        return self.change(receiver, message)


class BlockWorld(Generic[I, M, O]):
    """The members of one block and the messages between them. See the top of this file."""

    def __init__(
        self,
        machines: Mapping[MemberId, Machine[I, M, O]],
        *,
        seed: int = 0,
        create: Callable[[MemberId], Machine[I, M, O]] | None = None,
        choose: Callable[[BlockWorld[I, M, O]], int] | None = None,
        liars: Mapping[MemberId, Liar[M]] | None = None,
        codec: Codec[M] | None = None,
    ) -> None:
        """Start all machines, in the mapping's order.

        `create` makes a member's machine anew for `restart`. `choose` picks the index in `flights` of the message
        that arrives next; without it, chance does. With `codec` messages pass through their wire form.
        """
        self.members = tuple(machines)
        self.machines: dict[MemberId, Machine[I, M, O]] = {}
        """Those that are up."""
        self.random = Random(seed)
        self.seed = seed
        self.flights: list[Flight[M]] = []
        """What is on its way, in no particular order."""
        self.records: dict[MemberId, list[Record]] = {name: [] for name in machines}
        """What each member made durable, in order."""
        self.outputs: dict[MemberId, list[O]] = {name: [] for name in machines}
        """What each member's machine delivered, in order, through restarts."""
        self.sent: dict[MemberId, list[M]] = {name: [] for name in machines}
        """What each member's machine said, one entry for a broadcast, before any liar changed it."""
        self.blames: list[tuple[MemberId, Blame]] = []
        """(who blamed, whom and for what)."""
        self.observers: list[Callable[[MemberId, M], None]] = []
        """Called with (sender, message) for everything that a member that is no liar says."""
        self.steps = 0
        self.liars = dict(liars or {})
        self._create = create
        self._choose = choose
        self._codec = codec
        self._number = 0
        for name, machine in machines.items():
            self.machines[name] = machine
            self._act(name, machine.on_start)

    @property
    def honest(self) -> tuple[MemberId, ...]:
        """The members that are no liars."""
        return tuple(name for name in self.members if name not in self.liars)

    def input(self, member: MemberId, value: I) -> None:
        """Give a member that is up an input."""
        machine = self.machines[member]
        self._act(member, lambda out: machine.on_input(value, out))

    def inject(self, sender: MemberId, receiver: MemberId, message: M) -> None:
        """Put a message on its way as if `sender` had sent it: a liar's own, or an old one again."""
        self._launch(sender, receiver, message)

    def drop(self, match: Callable[[Flight[M]], bool]) -> int:
        """Lose the flights that match; how many were lost."""
        before = len(self.flights)
        self.flights = [flight for flight in self.flights if not match(flight)]
        return before - len(self.flights)

    def crash(self, member: MemberId, *, lose: bool = False) -> None:
        """Stop a member's machine; with `lose`, what it had under way is lost, too."""
        del self.machines[member]
        if lose:
            self.drop(lambda flight: flight.sender == member)

    def restart(self, member: MemberId, machine: Machine[I, M, O] | None = None) -> None:
        """Start a crashed member again, with its records."""
        if machine is None:
            assert self._create is not None, "this world was not told how to make machines"
            machine = self._create(member)
        self.machines[member] = restarted = machine
        self._act(member, lambda out: restarted.on_restore(tuple(self.records[member]), out))
        self._act(member, restarted.on_start)

    def repeat(self) -> None:
        """Everybody who is up says again what its machine's `said()` holds."""
        for name in self.members:
            said = getattr(self.machines.get(name), "said", None)
            for message in cast("tuple[M, ...]", said()) if said is not None else ():
                self._broadcast(name, message, ())

    def step(self) -> bool:
        """Deliver one message; False if there is none."""
        if not self.flights:
            return False
        index = self._choose(self) if self._choose is not None else self.random.randrange(len(self.flights))
        self.deliver(index)
        return True

    def deliver(self, index: int) -> None:
        """Deliver this flight now. A receiver that is down loses it."""
        last = self.flights.pop()
        flight = last
        if index < len(self.flights):
            flight, self.flights[index] = self.flights[index], last
        self.steps += 1
        machine = self.machines.get(flight.receiver)
        if machine is not None:
            self._act(flight.receiver, lambda out: machine.on_message(flight.sender, flight.message, out))

    def run(self, until: Callable[[], bool] | None = None, steps: int = STEPS_MAX) -> None:
        """Deliver until `until` holds; without it, until nothing is under way.

        Raises `AssertionError` if that is not reached: nothing is left to deliver, or `steps` messages were.
        """
        for _ in range(steps):
            if until is not None and until():
                return
            if not self.step():
                break
        reached = not self.flights if until is None else until()
        assert reached, f"seed {self.seed}: not reached after {self.steps} messages, {len(self.flights)} under way"

    def _act(self, member: MemberId, event: Callable[[Out[M, O]], None]) -> None:
        out = Out[M, O]()
        event(out)
        for effect in out.effects:
            match effect:
                case Broadcast(message, carry):
                    self._saw(member, message)
                    self._broadcast(member, message, carry)
                case Send(to, message, carry):
                    self._saw(member, message)
                    for receiver in to:
                        self._send(member, receiver, message, carry)
                case Deliver(output):
                    self.outputs[member].append(output)
                case Persist(record, _):
                    self.records[member].append(record)
                case Blame():
                    self.blames.append((member, effect))
                case _:
                    raise AssertionError(f"{member}: a block has neither timers nor draws, but asked for {effect}")

    def _saw(self, member: MemberId, message: M) -> None:
        self.sent[member].append(message)
        if member not in self.liars:
            for observer in self.observers:
                observer(member, message)

    def _broadcast(self, sender: MemberId, message: M, carry: tuple[Digest, ...]) -> None:
        for receiver in self.members:
            if receiver != sender:
                self._send(sender, receiver, message, carry)

    def _send(self, sender: MemberId, receiver: MemberId, message: M, carry: tuple[Digest, ...]) -> None:
        liar = self.liars.get(sender)
        for said in (message,) if liar is None else liar.say(receiver, message):
            self._launch(sender, receiver, said, carry)

    def _launch(self, sender: MemberId, receiver: MemberId, message: M, carry: tuple[Digest, ...] = ()) -> None:
        if self._codec is not None:
            message = self._codec.decode(self._codec.encode(message))
        self._number += 1
        self.flights.append(Flight(self._number, sender, receiver, message, carry))


def block_setups(
    n: int, f: int, c: int = 0, *, seed: int = 0, coin_threshold: int | None = None, kind: str = "fast"
) -> dict[MemberId, Setup]:
    """The set-ups of n members m0, m1, … with fast signatures and with coins of n - f - c shares, by member.

    `coin_threshold` asks for coins of another threshold; `kind` is ``fast`` or ``ed25519``, of the coins.
    """
    members = tuple(f"m{index}" for index in range(n))
    group = digest(b"block world", seed.to_bytes(8, "big"))
    quorum = Quorum(n, f, c)
    rings = fast_keyrings(group, group, 0, group, members)
    coins = coins_of(kind, group, group, 0, group, members, coin_threshold or quorum.available)
    return {name: Setup(name, members, quorum, rings[name], coins=coins[name]) for name in members}
