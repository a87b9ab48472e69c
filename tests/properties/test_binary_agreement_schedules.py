"""Binary agreement under schedules that hypothesis draws: liars, loss with words said again, crashes with records.

Whatever happens: nobody decides two values, no two decide differently, nobody correct is blamed or contradicts itself.
And once everybody is up and nothing more is lost, everybody decides.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from bftkit.blocks.agreement_messages import (
    CODEC,
    Abstention,
    Decision,
    MainVote,
    Message,
    PreVote,
    Wish,
    check_decision,
    check_proof,
)
from bftkit.blocks.binary_agreement import BinaryAgreement, Decided, Input, Propose
from bftkit.core.machine import MemberId
from bftkit.sim.adversaries.agreement import Forger
from bftkit.sim.block_world import BlockWorld, Silent, block_setups

ID = b"schedules"
EVIDENCE = b"good"
FORMS = [(False, False), (False, True), (True, True)]
SHAPES = [(4, 1, 0), (4, 0, 1), (5, 1, 0), (7, 1, 1), (1, 0, 0), (2, 0, 0)]


def valid(evidence: bytes) -> bool:
    return evidence == EVIDENCE


def word(message: Message) -> tuple[tuple[str, int], int] | None:
    """What a message commits its sender to."""
    match message:
        case Wish(value):
            return ("wish", 0), int(value)
        case PreVote(number, value):
            return ("pre", number), int(value)
        case MainVote(number, value):
            return ("main", number), int(value)
        case Abstention(number):
            return ("main", number), 2
        case Decision(_, value):
            return ("decision", 0), int(value)
        case _:
            return None


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    shape=st.sampled_from(SHAPES),
    form=st.sampled_from(FORMS),
    inputs=st.lists(st.booleans(), min_size=7, max_size=7),
    lies=st.sampled_from([0.0, 0.1, 0.5]),
    loss=st.sampled_from([0.0, 0.1, 0.5]),
    crashes=st.sampled_from([0.0, 0.02, 0.1]),
    trouble=st.integers(0, 600),
)
def test_any_schedule(
    seed: int,
    shape: tuple[int, int, int],
    form: tuple[bool, bool],
    inputs: list[bool],
    lies: float,
    loss: float,
    crashes: float,
    trouble: int,
) -> None:
    n, f, c = shape
    biased, validated = form
    setups = block_setups(n, f, c, seed=seed)
    random = Random(seed)
    evidence = EVIDENCE if validated else b""
    liars = sorted(random.sample(sorted(setups), f))

    def create(name: MemberId) -> BinaryAgreement:
        return BinaryAgreement.create(setups[name], ID, biased=biased, valid=valid if validated else None)

    world: BlockWorld[Input, Message, Decided] = BlockWorld(
        {name: create(name) for name in setups},
        seed=seed,
        create=create,
        liars=dict.fromkeys(liars, Silent()),
        codec=CODEC,
    )
    forger = Forger({name: setups[name] for name in liars}, ID, evidence, biased=biased) if liars else None
    top = 1
    words: dict[tuple[MemberId, tuple[str, int]], int] = {}

    def watch(name: MemberId, message: Message) -> None:
        nonlocal top
        if isinstance(message, PreVote | MainVote | Abstention):
            top = max(top, message.round)
        said = word(message)
        if said is not None:
            assert words.setdefault((name, said[0]), said[1]) == said[1], f"{name} contradicts itself: {message}"

    world.observers.append(watch)
    if forger is not None:
        world.observers.append(forger.hear)
    wishes = dict(zip(world.honest, inputs, strict=False))

    def propose(name: MemberId) -> None:
        world.input(name, Propose(wishes[name], evidence if wishes[name] else b""))

    def come_back(name: MemberId) -> None:
        world.restart(name)
        # Whoever runs it asks again, and not always for the same.
        wishes[name] = wishes[name] != (random.random() < 0.3)
        propose(name)

    def lie() -> None:
        if forger is not None:
            liar = random.choice(liars)
            message = forger.anything(liar, max(1, top + random.randint(-2, 2)), random)
            if message is not None:
                world.inject(liar, random.choice(world.honest), message)

    for name in world.honest:
        propose(name)
    for _ in range(trouble):
        up = [name for name in world.honest if name in world.machines]
        down = [name for name in world.honest if name not in world.machines]
        if random.random() < lies:
            lie()
        if random.random() < loss and world.flights:
            world.flights.pop(random.randrange(len(world.flights)))
        if random.random() < crashes and up:
            world.crash(random.choice(up), lose=random.random() < 0.5)
        elif random.random() < 0.05 and down:
            come_back(random.choice(down))
        if not world.step():
            world.repeat()
    for name in world.honest:
        if name not in world.machines:
            come_back(name)
    for _ in range(50):
        if all(world.outputs[name] for name in world.honest):
            break
        world.repeat()
        world.run()
    decided = {output for name in world.honest for output in world.outputs[name]}
    assert all(world.outputs[name] for name in world.honest), f"seed {seed}: not everybody decides"
    assert len({output.value for output in decided}) == 1
    for output in decided:
        assert check_decision(setups["m0"], ID, output.proof, valid if validated else None) is output.value
    for who, blame in world.blames:
        if who in world.honest:
            assert blame.member in liars, blame
            assert not blame.proof or check_proof(setups["m0"], blame.proof) == blame.member
