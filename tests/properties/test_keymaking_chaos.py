"""Coin keys made in random runs: losses, crashes at any moment, restarts, and liars whose words are changed and signed.

*Liveness*: all correct members get their share. *Consistency*: all shares are of one key. *Integrity*: no correct
member is blamed, and what is called a proof is one (SAFETY rule 6).
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from bftkit.core.machine import MemberId
from bftkit.core.wire import WireError
from bftkit.membership.keymaking import Again
from bftkit.membership.keymaking_messages import CODEC, Deal, Held, Message, check_evidence
from bftkit.sim.wire_mutation import Mutator
from tests.seeds import at_least
from tests.unit.key_world import NAME, KeyWorld, check_coins
from tests.unit.test_keymaking import second_dealing, signed_again

SHAPES = [(4, 1, 0), (4, 1, 0), (5, 1, 0), (6, 1, 1), (3, 0, 1), (7, 2, 0)]


class Mutating:
    """A liar: withholds, repeats, changes one thing in a message and signs it again, or deals a second sharing."""

    def __init__(self, world: KeyWorld, me: MemberId, random: Random) -> None:
        self.world, self.me, self.random = world, me, random
        self.receiver = ""
        self.mutator = Mutator(CODEC, world.members, resign=self.resign)
        self.rate = random.choice([0.2, 0.5, 1.0])

    def resign(self, message: object) -> object | None:
        return signed_again(self.world, self.me, self.receiver, message) if isinstance(message, Deal) else None

    def __call__(self, receiver: MemberId, message: Message) -> Iterable[Message]:
        data = CODEC.encode(message)
        self.mutator.note(data)
        draw = self.random.random()
        if draw > self.rate:
            return (message,)
        if draw < 0.1:
            return ()
        if draw < 0.15:
            return (message, message)
        if draw < 0.2:
            return (second_dealing(self.world, self.me, receiver), message)
        self.receiver = receiver
        mutated = self.mutator.mutate(data, self.random, "any")
        try:
            return (message,) if mutated is None else (CODEC.decode(mutated.data),)
        except WireError:
            return ()


@pytest.mark.parametrize("seed", at_least(25))
def test_whatever_f_liars_and_c_crashes_do_the_others_make_a_key(seed: int) -> None:
    random = Random(seed)
    n, f, c = random.choice(SHAPES)
    world = KeyWorld(n, f, c, seed=seed, loss=random.choice([0.0, 0.1, 0.3]))
    shuffled = random.sample(world.members, n)
    liars, doomed = shuffled[: random.randint(0, f)], shuffled[n - random.randint(0, c) :]
    correct = sorted(set(world.members) - {*liars, *doomed})
    world.liars = {name: Mutating(world, name, random) for name in liars}
    world.begin()

    def turmoil() -> None:
        for _ in range(random.randrange(8)):
            for _ in range(random.randrange(3 * n)):
                if world.waiting:
                    world.step()
            name = random.choice(correct)
            world.crash(name)
            world.restart(name)
            if doomed and random.random() < 0.3:
                world.crash(doomed.pop())
            if random.random() < 0.3:
                world.input(name, Again())

    turmoil()
    # The order may choose what is known to few, and it chooses the liars' sharings if it can.
    impatient = random.random() < 0.7

    def selectable() -> bool:
        told = any(map(world.completed, correct)) if impatient else world.all_completed()
        return told and sum(map(world.knows, world.members)) > f

    world.run(selectable)
    known = [name for name in world.members if world.knows(name)]
    preferred = sorted(known, key=lambda name: (name not in liars, random.random()))
    selection = world.selection_of(*preferred[: f + 1])
    world.select(selection, *random.sample(sorted(world.machines), random.randint(1, len(world.machines))))
    turmoil()
    world.select(selection)
    world.run(lambda: all(world.ready(name) is not None for name in correct))
    check_coins(world, correct)
    for who, blame in world.blames:
        if who not in liars:
            assert blame.member in liars, (who, blame)
            if blame.proof:
                assert check_evidence(world.rings["m0"], world.quorum, world.members, NAME, blame.member, blame.proof)
    for name in world.honest:
        said = [flight for flight in world.said if flight.sender == name]
        assert len({flight.message.commitment for flight in said if isinstance(flight.message, Deal)}) <= 1
        for dealer in world.members:
            heard = [flight.message for flight in said if flight.receiver == dealer]
            assert len({message for message in heard if isinstance(message, Held)}) <= 1
