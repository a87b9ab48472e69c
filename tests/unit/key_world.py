"""A world for the making of a coin key: members, undelivered messages in no order, losses, crashes, liars, secrets.

A liar is an honest machine whose words a function changes on their way out. Secrets that a machine wants kept become
kept at some later moment of chance, or never if the member crashes first. Everything that is said is noted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from random import Random
from typing import Final, TypeAlias

import attrs

from bftkit.core.digest import digest
from bftkit.core.machine import Blame, Broadcast, Deliver, DrawSecret, MemberId, Out, Send
from bftkit.core.ordering import Setup, SignerProtocol
from bftkit.core.quorum import Quorum
from bftkit.crypto.threshold import CoinPublics, Coins, lagrange
from bftkit.membership.keymaking import (
    Again,
    Begin,
    Completed,
    KeepSecret,
    KeyMaking,
    Output,
    Ready,
    SecretKept,
    Selected,
)
from bftkit.membership.keymaking_messages import CODEC, Message, Selection
from bftkit.sim.keyring import fast_keyrings

NAME: Final = digest(b"the operator's command")
GROUP: Final = digest(b"group")
OPENING: Final = digest(b"opening")
EPOCH: Final = 3
ROUNDS_MAX: Final = 100
"""So many beats without an end are one that never comes."""

Words: TypeAlias = Callable[[MemberId, Message], Iterable[Message]]
"""What a liar says to a receiver in the place of an honest message."""


@attrs.frozen
class Flight:
    sender: MemberId
    receiver: MemberId
    message: Message


@attrs.frozen
class Keeping:
    member: MemberId
    secret: KeepSecret
    life: int
    """What a member wanted kept in an earlier life is not kept any more."""


def silent(receiver: MemberId, message: Message) -> Iterable[Message]:
    return ()


class KeyWorld:
    """The members of one key making; see the top of this file."""

    def __init__(
        self,
        n: int,
        f: int,
        c: int = 0,
        *,
        seed: int = 0,
        loss: float = 0.0,
        liars: Mapping[MemberId, Words] | None = None,
    ) -> None:
        self.members = tuple(f"m{index}" for index in range(n))
        self.quorum = Quorum(n, f, c)
        self.rings: Mapping[MemberId, SignerProtocol] = fast_keyrings(GROUP, GROUP, EPOCH, OPENING, self.members)
        self.random = Random(seed)
        self.seed = seed
        self.loss = loss
        self.liars = dict(liars or {})
        self.machines = {name: self.create(name) for name in self.members}
        self.waiting: list[Flight | Keeping] = []
        self.kept: dict[MemberId, dict[str, bytes]] = {name: {} for name in self.members}
        self.outputs: dict[MemberId, list[Output]] = {name: [] for name in self.members}
        self.said: list[Flight] = []
        """What honest members said, with the receivers, in order."""
        self.blames: list[tuple[MemberId, Blame]] = []
        self.lives: dict[MemberId, int] = dict.fromkeys(self.members, 0)
        self.draws = 0
        self.selection: Selection | None = None

    @property
    def honest(self) -> tuple[MemberId, ...]:
        return tuple(name for name in self.members if name not in self.liars)

    def create(self, name: MemberId, making: bytes = NAME) -> KeyMaking:
        return KeyMaking.create(Setup(name, self.members, self.quorum, self.rings[name]), making)

    # ------------------------------------------------------------------------------------------- events

    def input(self, member: MemberId, value: Begin | Selected | SecretKept | Again) -> None:
        machine = self.machines[member]
        self.act(member, lambda out: machine.on_input(value, out))

    def begin(self, *members: MemberId) -> None:
        for member in members or tuple(self.machines):
            self.input(member, Begin())

    def select(self, selection: Selection, *members: MemberId) -> None:
        """The total order chose it, and tells these members, or all that are up."""
        self.selection = selection
        for member in members or tuple(self.machines):
            self.input(member, Selected(selection))

    def crash(self, member: MemberId) -> None:
        self.machines.pop(member)
        self.lives[member] += 1

    def restart(self, member: MemberId) -> None:
        self.machines[member] = machine = self.create(member)
        self.act(member, lambda out: machine.restore(dict(self.kept[member]), out))
        self.input(member, Begin())
        if self.selection is not None:
            self.input(member, Selected(self.selection))

    def step(self) -> None:
        index = self.random.randrange(len(self.waiting))
        self.waiting[index], self.waiting[-1] = self.waiting[-1], self.waiting[index]
        event = self.waiting.pop()
        if isinstance(event, Keeping):
            if event.life == self.lives[event.member]:
                self.kept[event.member][event.secret.name] = event.secret.data
                self.input(event.member, SecretKept(event.secret.name))
            return
        machine = self.machines.get(event.receiver)
        if machine is not None and self.random.random() >= self.loss:
            self.act(event.receiver, lambda out: machine.on_message(event.sender, event.message, out))

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Deliver all; without an end by then, beat and go on. Without `until`: no beats, until nothing waits."""
        for _ in range(ROUNDS_MAX):
            while self.waiting:
                if until is not None and until():
                    return
                self.step()
            if until is None or until():
                return
            for member in tuple(self.machines):
                self.input(member, Again())
        raise AssertionError(f"seed {self.seed}: it never comes to an end")

    def act(self, member: MemberId, event: Callable[[Out[Message, Output]], None]) -> None:
        out = Out[Message, Output]()
        event(out)
        for effect in out.effects:
            match effect:
                case Broadcast(message, _):
                    self.send(member, [name for name in self.members if name != member], message)
                case Send(to, message, _):
                    assert member not in to
                    self.send(member, to, message)
                case Deliver(output):
                    self.outputs[member].append(output)
                    if isinstance(output, KeepSecret):
                        self.waiting.append(Keeping(member, output, self.lives[member]))
                case DrawSecret(key):
                    self.draws += 1
                    value = int.from_bytes(digest(self.seed.to_bytes(8, "big"), self.draws.to_bytes(8, "big")), "big")
                    self.act(member, partial(self.machines[member].on_draw, key, value))
                case Blame():
                    self.blames.append((member, effect))
                case _:
                    raise AssertionError(f"{member} asked for {effect}")

    def send(self, sender: MemberId, to: Iterable[MemberId], message: Message) -> None:
        liar = self.liars.get(sender)
        for receiver in to:
            for said in (message,) if liar is None else liar(receiver, message):
                self.inject(sender, receiver, said)

    def inject(self, sender: MemberId, receiver: MemberId, message: Message) -> None:
        flight = Flight(sender, receiver, CODEC.decode(CODEC.encode(message)))
        if sender not in self.liars:
            self.said.append(flight)
        self.waiting.append(flight)

    # ------------------------------------------------------------------------------------------- results

    def completed(self, member: MemberId) -> Selection | None:
        return next((output.selection for output in self.outputs[member] if isinstance(output, Completed)), None)

    def ready(self, member: MemberId) -> Ready | None:
        return next((output for output in reversed(self.outputs[member]) if isinstance(output, Ready)), None)

    def all_completed(self) -> bool:
        return all(self.completed(member) is not None for member in self.machines if member not in self.liars)

    def all_ready(self) -> bool:
        return all(self.ready(member) is not None for member in self.machines if member not in self.liars)

    def selection_of(self, *dealers: MemberId) -> Selection:
        """A selection of these dealers' sharings, which somebody knows to be complete."""
        known = {
            dealer: complete.sharing
            for machine in self.machines.values()
            for dealer, complete in machine.complete.items()
        }
        return Selection(tuple(known[dealer] for dealer in self.members if dealer in dealers))

    def knows(self, *dealers: MemberId) -> bool:
        """Whether these dealers' sharings are all complete."""
        return all(any(dealer in machine.complete for machine in self.machines.values()) for dealer in dealers)

    def make(self, *, early: bool = False) -> None:
        """Everybody who is up begins, a selection is ordered, and all honest members become ready.

        The selection is the first that anybody has, chosen when all dealt what they have to; with `early` at once.
        """
        self.begin()
        self.run(lambda: any(self.completed(member) for member in self.honest))
        selection = next(found for member in self.honest if (found := self.completed(member)) is not None)
        if not early:
            self.run(self.all_completed)
            self.run()
        self.select(selection)
        self.run(self.all_ready)

    def proofs(self, member: MemberId) -> list[bytes]:
        """The proofs with which anybody blamed this member."""
        return [blame.proof for _, blame in self.blames if blame.member == member and blame.proof]


def coins_of_world(world: KeyWorld, members: Iterable[MemberId]) -> tuple[CoinPublics, dict[MemberId, Coins]]:
    """The public key that all of them have, and the coins of each."""
    found = {member: ready for member in members if (ready := world.ready(member)) is not None}
    (publics,) = {ready.publics for ready in found.values()}
    points = dict(zip(world.members, publics.points, strict=True))
    coins = {
        member: Coins(GROUP, EPOCH, OPENING, member, ready.share.value, points, publics.threshold)
        for member, ready in found.items()
    }
    return publics, coins


def check_coins(world: KeyWorld, members: Iterable[MemberId]) -> None:
    """All k-subsets of these members toss the same coin; k - 1 of them have another number in their hands."""
    publics, coins = coins_of_world(world, members)
    names = sorted(coins)
    k = publics.threshold
    assert k == world.quorum.available
    one = coins[names[0]]
    shares = {member: coins[member].share(b"coin") for member in names}
    assert all(one.verify(member, b"coin", share) for member, share in shares.items())
    tossed = {one.combine(b"coin", {name: shares[name] for name in some}) for some in itertools.combinations(names, k)}
    assert len(tossed) == 1
    numbers = {
        name: int.from_bytes(ready.share.value, "little") for name in names if (ready := world.ready(name)) is not None
    }
    places = {name: world.members.index(name) + 1 for name in names}

    def interpolated(some: tuple[MemberId, ...]) -> int:
        factors = lagrange([places[name] for name in some])
        return sum(factor * numbers[name] for factor, name in zip(factors, some, strict=True)) % ORDER

    whole = {interpolated(some) for some in itertools.combinations(names, k)}
    assert len(whole) == 1
    if k > 1:
        assert whole.isdisjoint(interpolated(some) for some in itertools.combinations(names, k - 1))


ORDER: Final = (1 << 252) + 27742317777372353535851937790883648493
