"""The bedrock agreement in random runs: messages lost, doubled, in any order, crashes in the middle of a step, liars.

*Agreement* and *external validity* in every state; *termination* although a third is lost for ever, for all that are
up; *integrity*: one outcome, also through restarts; no correct member is ever blamed, so none contradicts itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from bftkit.blocks import bedrock_messages as m
from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.blocks.bedrock import CODEC, Message, Propose, check_agreed
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from tests.unit.bedrock_world import ID, BedrockWorld, valid, value_of

SHAPES = [(3, 0, 1), (5, 0, 2), (4, 0, 1), (2, 0, 0), (4, 1, 0), (4, 1, 0), (5, 1, 0), (7, 1, 1)]
SEEDS = range(60)


class Babbler:
    """A liar that leaves out, changes, swaps and invents, differently for each receiver."""

    def __init__(self, chance: Random, me: MemberId) -> None:
        self.chance, self.me = chance, me
        self.heard: list[Message] = []

    def say(self, receiver: MemberId, message: Message) -> Iterable[Message]:
        chance = self.chance
        self.heard = [*self.heard[-30:], message]
        match chance.randrange(9):
            case 0:
                return []
            case 1:
                return [message, chance.choice(self.heard)]
            case 2:
                return [m.Offer(b"good " + bytes([chance.randrange(3)])), message]
            case 3:
                return [m.Offer(b"bad"), message]
            case 4:
                return [message, m.Bytes(b"good or not"), m.Want(digest(value_of(receiver)))]
            case 5:
                send = cb.Send(digest(b"good " + bytes([chance.randrange(3)])))
                return [message, m.Dispersal(chance.randrange(5), cb.CODEC.encode(send)), m.Ask(b"")]
            case 6:
                body = CODEC.encode(chance.choice(self.heard))
                return [message, va.Part(chance.randint(1, 6), chance.randint(0, 4), body)]
            case _:
                return [message]


class Chaos(BedrockWorld):
    """A world that loses, doubles and crashes; see the top of this file."""

    def __init__(self, seed: int) -> None:
        chance = Random(seed)
        n, f, c = chance.choice(SHAPES)
        names = chance.sample([f"m{index}" for index in range(n)], n)
        lying = names[: chance.randint(0, f)]
        super().__init__(
            n,
            f,
            c,
            seed=seed,
            loss=chance.choice([0.0, 0.1, 0.3]),
            liars={name: Babbler(chance, name) for name in lying},
            absent=tuple(names[-1:]) if chance.random() < 0.2 and n - len(lying) - 1 >= n - f - c else (),
        )
        self.doomed = set(names[len(lying) : len(lying) + chance.randint(0, c)]) - {names[-1]}
        """Who crashes and stays away."""
        self.late = [name for name in names if name not in self.machines]
        self.deaths = chance.choice([0.0, 0.02, 0.2])
        for name in tuple(self.machines):
            if name in lying and chance.random() < 0.5:
                self.input(name, Propose(b"bad"))
            elif name in lying or chance.random() < 0.9:
                self.input(name, Propose(value_of(name)))

    def chaos(self) -> None:
        """Some hundred steps with crashes."""
        for _ in range(300):
            if self.flights and self.random.random() < self.loss / 3:
                flight = self.random.choice(self.flights)
                self.inject(flight.sender, flight.receiver, flight.message)
            last = max((flight.number for flight in self.flights), default=0)
            durable = {name: len(self.records[name]) for name in self.members}
            self.move()
            for name in self.members:
                if name in self.machines and self.random.random() < self.deaths / len(self.members):
                    self.die(name, last, durable[name])
                elif name in self.machines and name in self.doomed and self.random.random() < 0.01:
                    self.crash(name, lose=True)
            self.check()

    def die(self, name: MemberId, last: int, durable: int) -> None:
        """It crashes and comes back. All of its last step may have been in vain, what is said and what is durable."""
        whole = self.machine(name).standing()
        self.crash(name, lose=self.random.random() < 0.3)
        if self.random.random() < 0.5 and name not in self.liars:
            self.drop(lambda flight: flight.sender == name and flight.number > last)
            del self.records[name][self.random.randint(durable, len(self.records[name])) :]
        elif self.random.random() < 0.5:
            self.records[name] = list(whole)  # a new segment of its log had begun
        self.restart(name)
        self.check()

    def check(self) -> None:
        values = {result.value for name in self.honest for result in self.outputs[name]}
        assert len(values) <= 1, f"seed {self.seed}: {values}"
        assert all(valid(value) for value in values), f"seed {self.seed}: {values}"
        for name, blame in self.blames:
            assert name in self.liars or blame.member in self.liars, f"seed {self.seed}: {name} blames {blame}"


@pytest.mark.parametrize("seed", SEEDS)
def test_random_runs(seed: int) -> None:
    world = Chaos(seed)
    world.chaos()
    for name in world.late:
        world.restart(name)
    # Who had not proposed does so now; all that are to stay are up.
    for name in world.honest:
        if name in world.machines:
            world.input(name, Propose(value_of(name)))
    world.go()
    world.check()
    world.outcome()
    for name in world.honest:
        for result in world.outputs[name]:
            assert check_agreed(world.setups[name], ID, result.proof) == result.value
