"""Validated agreement in random runs: messages lost, doubled and in any order, crashes in the middle of a step, liars.

*Agreement* and *external validity* in every state; *termination* once everybody who is up says again what it said;
*integrity*: one outcome, also through restarts; no correct member is ever blamed, so none contradicts itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.core.machine import MemberId
from bftkit.sim.block_world import BlockWorld, block_setups
from tests.seeds import at_least

ID = b"chaos"
VALUE_MAX = 64
SHAPES = [(4, 1, 0), (4, 1, 0), (4, 0, 1), (5, 1, 0), (7, 1, 1), (7, 2, 0), (1, 0, 0), (3, 0, 0)]
SEEDS = at_least(30)


def valid(value: bytes) -> bool:
    return value.startswith(b"good")


def anything(value: bytes) -> bool:
    return True


class Chaos(BlockWorld[va.Input, va.Part, va.Agreed]):
    """A world that loses, doubles and crashes; see the top of this file."""

    def __init__(self, seed: int) -> None:
        chance = Random(seed)
        n, f, c = chance.choice(SHAPES)
        self.setups = block_setups(n, f, c, seed=seed)
        names = chance.sample(tuple(self.setups), n)
        liars = names[: chance.randint(0, f)]
        self.doomed = set(names[len(liars) : len(liars) + chance.randint(0, c)])
        """Who crashes and stays away."""
        self.loss = chance.choice([0.0, 0.1, 0.3])
        self.deaths = chance.choice([0.0, 0.02, 0.05])
        super().__init__(
            {name: self.make(name, name in liars) for name in self.setups},
            seed=seed,
            create=lambda name: self.make(name, name in liars),
            liars={name: Babbler(self, name) for name in liars},
            codec=va.CODEC,
        )
        for name in self.members:
            if name in liars or chance.random() < 0.9:
                self.input(
                    name, va.Propose(b"bad" if name in liars and chance.random() < 0.5 else b"good " + name.encode())
                )

    def make(self, name: MemberId, liar: bool) -> va.ValidatedAgreement:
        return va.ValidatedAgreement.create(self.setups[name], ID, anything if liar else valid, VALUE_MAX)

    @property
    def correct(self) -> list[MemberId]:
        return [name for name in self.honest if name not in self.doomed]

    def chaos(self) -> None:
        """Until nothing is under way."""
        while self.flights:
            index = self.random.randrange(len(self.flights))
            if self.random.random() < self.loss:
                self.flights.pop(index)
                continue
            flight = self.flights[index]
            if self.random.random() < self.loss / 3:
                self.inject(flight.sender, flight.receiver, flight.message)
            last = max(flight.number for flight in self.flights)
            durable = len(self.records[flight.receiver])
            self.deliver(index)
            if flight.receiver in self.machines and self.random.random() < self.deaths:
                self.die(flight.receiver, last, durable)
            for name in sorted(self.doomed):
                if name in self.machines and self.random.random() < 0.02:
                    self.crash(name, lose=True)
            self.check()

    def die(self, name: MemberId, last: int, durable: int) -> None:
        """It crashes and comes back. All of its last step may have been in vain, what is said and what is durable."""
        self.crash(name, lose=self.random.random() < 0.3)
        if self.random.random() < 0.5:
            self.drop(lambda flight: flight.sender == name and flight.number > last)
            del self.records[name][self.random.randint(durable, len(self.records[name])) :]
        self.restart(name)

    def check(self) -> None:
        values = {result.value for name in self.honest for result in self.outputs[name]}
        assert len(values) <= 1, f"seed {self.seed}: {values}"
        assert all(valid(value) for value in values), f"seed {self.seed}: {values}"
        for name, blame in self.blames:
            assert name in self.liars or blame.member in self.liars, f"seed {self.seed}: {name} blames {blame}"


class Babbler:
    """A liar that leaves out, changes, swaps and invents parts, differently for each receiver."""

    def __init__(self, world: Chaos, me: MemberId) -> None:
        self.world, self.me = world, me
        self.heard: list[va.Part] = []

    def say(self, receiver: MemberId, message: va.Part) -> Iterable[va.Part]:
        chance = self.world.random
        self.heard.append(message)
        self.heard += [flight.message for flight in self.world.flights[-3:]]
        match chance.randrange(8):
            case 0:
                return []
            case 1:
                return [message, va.Part(message.kind, message.index, self.flipped(message.body))]
            case 2:
                return [message, self.moved(chance.choice(self.heard))]
            case 3:
                return [message, va.Part(va.STATEMENT, chance.randint(1, 4), b"")]
            case 4:
                return [message, self.vote()]
            case 5:
                return [message, self.vector()]
            case _:
                return [message]

    def flipped(self, body: bytes) -> bytes:
        at = self.world.random.randrange(len(body)) if body else 0
        return body[:at] + bytes([body[at] ^ 1 << self.world.random.randrange(8)]) + body[at + 1 :] if body else b"?"

    def moved(self, part: va.Part) -> va.Part:
        kind = self.world.random.randint(1, 6)
        return va.Part(kind, self.world.random.randint(0, len(self.world.members)), part.body)

    def vote(self) -> va.Part:
        """A pre-vote for 0, well signed, in an attempt whose candidate it knows or guesses."""
        chance, setup = self.world.random, self.world.setups[self.me]
        attempt, n = chance.randint(1, 2), len(self.world.members)
        machine = self.world.machines.get(self.me)
        order = machine.order if isinstance(machine, va.ValidatedAgreement) else ()
        candidate = order[attempt - 1] if len(order) >= attempt else chance.randrange(n)
        name = va.part_id(ID, va.AGREEMENT, attempt, candidate)
        signed = am.pre_certifier(setup).sign(am.pre_statement(name, 1, False))
        return va.Part(va.AGREEMENT, attempt, am.CODEC.encode(am.PreVote(1, False, False, b"", signed, b"")))

    def vector(self) -> va.Part:
        n = len(self.world.members)
        bits = self.world.random.randrange(1 << n).to_bytes((n + 7) >> 3, "little")
        own = self.world.setups[self.me].members.index(self.me)
        return va.Part(va.COMMITMENT, own, cb.CODEC.encode(cb.Send(bits)))


@pytest.mark.parametrize("seed", SEEDS)
def test_random_runs(seed: int) -> None:
    world = Chaos(seed)
    world.chaos()
    # What was lost is said again, until all have it. Who had not proposed does so now.
    world.deaths = 0
    for name in world.correct:
        if name in world.machines:
            world.input(name, va.Propose(b"good " + name.encode()))
    for _ in range(30):
        if all(world.outputs[name] for name in world.correct):
            break
        world.loss /= 2
        world.repeat()
        world.chaos()
    for name in world.correct:
        assert world.outputs[name], f"seed {seed}: {name} does not agree"


@pytest.mark.parametrize("seed", range(12))
def test_with_links_that_lose_nothing_nobody_repeats_anything(seed: int) -> None:
    """The papers' model: reliable links, crashes of t members that stay away, and no repetition."""
    n, f, c = [(4, 1, 0), (4, 0, 1), (7, 2, 0), (7, 1, 1)][seed % 4]
    setups = block_setups(n, f, c, seed=seed)
    world: BlockWorld[va.Input, va.Part, va.Agreed] = BlockWorld(
        {name: va.ValidatedAgreement.create(setup, ID, valid, VALUE_MAX) for name, setup in setups.items()},
        seed=seed,
        codec=va.CODEC,
    )
    for name in world.members:
        world.input(name, va.Propose(b"good " + name.encode()))
    doomed = world.random.sample(world.members, f + c)
    for name in doomed:
        world.run(lambda: not world.flights or world.random.random() < 0.02)
        if name in world.machines and world.flights:
            world.crash(name)
    world.run()
    values = {result.value for name in world.members for result in world.outputs[name]}
    assert len(values) == 1
    assert all(len(world.outputs[name]) == 1 for name in world.members if name in world.machines)
    assert world.blames == []
