"""Randomized groups with liars among them: agreement holds and requests are ordered, whatever they say (FAULTS 20-30).

The world checks all the time: one digest a slot, no correct member blamed, nothing raised, only submitted batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeAlias

import attrs
import pytest

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import coin as co
from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.blocks import validated_messages as vm
from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Broadcast, Effect, MemberId, Send
from bftkit.core.plugin import load_protocol
from bftkit.sim.ordering.world import Network, OrderingWorld
from bftkit_cks import lists
from bftkit_cks import messages as m
from bftkit_cks.forge import forge, resign

PLUGIN = load_protocol("cks")
Effects: TypeAlias = Sequence[Effect[Any, Any]]


class Liar:
    """An adversary that does not use its power; the base of those below."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world: OrderingWorld | None = None

    def on_message(self, member: MemberId, sender: MemberId, message: Any) -> Any | None:
        return message

    def on_effects(self, member: MemberId, effects: Effects) -> Effects:
        if self.world is None:
            return effects  # the group is being made
        changed: list[Effect[Any, Any]] = []
        others = [name for name in self.world.members if name != member]
        for effect in effects:
            match effect:
                case Broadcast(message, carry):
                    for other in others:
                        changed.extend(self.lie(member, other, message, carry))
                case Send(to, message, carry):
                    for other in to:
                        changed.extend(self.lie(member, other, message, carry))
                case _:
                    changed.append(effect)
        return changed

    def lie(self, me: MemberId, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        return [Send((to,), message, carry)]

    def is_second(self, me: MemberId, to: MemberId) -> bool:
        """Whether this receiver is told the second story: every other member is."""
        assert self.world is not None
        return [name for name in self.world.members if name != me].index(to) % 2 == 1


class TwoOffers(Liar):
    """Offers different batches to different members, the bytes of both at hand."""

    def lie(self, me: MemberId, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        assert self.world is not None
        forged = forge(self.world.setup(me), message, self.random.choice([NO_DIGEST, digest(b"another")]))
        if forged is not None and self.is_second(me, to):
            return [Send((to,), forged)]
        return [Send((to,), message, carry)]


class NoBytes(Liar):
    """Names batches of which nobody has the bytes, or keeps the bytes to itself."""

    def lie(self, me: MemberId, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        assert self.world is not None
        invented = forge(self.world.setup(me), message, digest(self.random.randbytes(8)))
        if invented is not None and self.random.random() < 0.5:
            return [Send((to,), invented)]
        return [Send((to,), message)]


class ShortLists(Liar):
    """Proposes lists that leave offers out, hold one twice, or none at all."""

    def lie(self, me: MemberId, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        match message:
            case m.Part(number, va.PROPOSAL, index, body):
                send = cb.CODEC.decode(body)
                if isinstance(send, cb.Send):
                    offers = lists.LISTS.decode(send.value).offers
                    changed = self.random.choice([offers[:-1], (offers[0], *offers[:-1]), offers[::-1], ()])
                    value = lists.LISTS.encode(lists.OfferList(changed))
                    return [Send((to,), m.Part(number, va.PROPOSAL, index, cb.CODEC.encode(cb.Send(value))))]
            case _:
                pass
        return [Send((to,), message, carry)]


class TwoVotes(Liar):
    """Votes one way to some and the other way to others in every binary agreement, and signs both; now and then, both
    ways to one."""

    def lie(self, me: MemberId, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        assert self.world is not None
        match message:
            case m.Part(_, va.AGREEMENT, _, body) if self.is_second(me, to):
                vote = am.CODEC.decode(body)
                if isinstance(vote, am.PreVote | am.MainVote):
                    evidence = b"" if vote.value else vote.evidence
                    other = attrs.evolve(vote, value=not vote.value, evidence=evidence)
                    changed = attrs.evolve(message, body=am.CODEC.encode(other))
                    told: list[Effect[Any, Any]] = [Send((to,), resign(self.world.setup(me), changed) or changed)]
                    return [*told, Send((to,), message)] if self.random.random() < 0.3 else told
            case _:
                pass
        return [Send((to,), message, carry)]


class Denier(Liar):
    """Denies to hold any proposal, whatever it committed to, and gives bad shares of the coin."""

    def lie(self, me: MemberId, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        match message:
            case m.Part(number, va.STATEMENT, attempt, _):
                return [Send((to,), m.Part(number, va.STATEMENT, attempt, b""))]
            case m.Part(number, va.ORDER, _, body):
                share = co.CODEC.decode(body)
                bad = attrs.evolve(share, share=share.share[::-1])
                return [Send((to,), m.Part(number, va.ORDER, 0, co.CODEC.encode(bad)))]
            case _:
                return [Send((to,), message, carry)]


class Misleader(Liar):
    """Proves what was never agreed on, with the pieces of what was."""

    def lie(self, me: MemberId, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        match message:
            case m.Part(number, va.OUTCOME, _, body):
                said = vm.PROOFS.decode(body)
                false = [
                    attrs.evolve(said, candidate=(said.candidate + 1) % 4),
                    attrs.evolve(said, attempt=said.attempt + 1),
                    attrs.evolve(said, decision=said.decision[:-1]),
                ]
                return [
                    Send((to,), m.Part(number, va.OUTCOME, 0, vm.PROOFS.encode(self.random.choice(false)))),
                    Send((to,), m.Part(number + 1, va.OUTCOME, 0, body)),
                ]
            case _:
                return [Send((to,), message, carry)]


class Beginner(Liar):
    """Begins every round that others would look at, and asks for everything all the time."""

    def lie(self, me: MemberId, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        if isinstance(message, m.Part) and self.random.random() < 0.2:
            assert self.world is not None
            index = self.world.members.index(me)
            far = message.round + self.random.randint(1, 40)
            offer = m.Part(far, m.OFFER, index, cb.CODEC.encode(cb.Send(NO_DIGEST)))
            status = m.Status(0, (1 << 64) - 1, self.random.random() < 0.5)
            return [Send((to,), offer), Send((to,), status), Send((to,), message, carry)]
        return [Send((to,), message, carry)]


class Mute(Liar):
    """Says nothing to some, and drops a part of what it says to the others."""

    def lie(self, me: MemberId, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        return [] if self.is_second(me, to) or self.random.random() < 0.3 else [Send((to,), message, carry)]


LIARS: list[Callable[[int], Liar]] = [
    TwoOffers,
    NoBytes,
    ShortLists,
    TwoVotes,
    Denier,
    Misleader,
    Beginner,
    Mute,
]
BLAMED = (TwoVotes, Denier, Misleader, ShortLists)
"""Those whose lies show by themselves, so that they are blamed."""


def group(shape: tuple[int, int, int], seed: int, make: Callable[[int], Liar], **more: Any) -> OrderingWorld:
    n, f, c = shape
    liars = {f"m{index}": make(seed + index) for index in Random(seed).sample(range(n), f)}
    world = OrderingWorld(PLUGIN, n, f, c, seed, adversaries=liars, **more)
    for liar in liars.values():
        liar.world = world
    return world


@pytest.mark.parametrize("make", LIARS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("shape", [(4, 1, 0), (7, 2, 0)], ids=str)
def test_f_liars_change_nothing(make: Callable[[int], Liar], shape: tuple[int, int, int]) -> None:
    """Agreement, total order, integrity (the world looks); and validity: all that correct members hold is decided."""
    world = group(shape, 11, make, learned_after=None)
    for _ in range(3):
        world.submit(10)
        world.run(400)
    world.run_until(world.all_delivered, 200_000)
    if make in BLAMED:
        blamed = {blame.member for name, blame in world.blames if name not in world.liars}
        assert blamed == world.liars, "a lie that shows by itself was passed over in silence"


@pytest.mark.parametrize("make", LIARS, ids=lambda make: make.__name__)
def test_liars_and_a_bad_network(make: Callable[[int], Liar]) -> None:
    world = group((4, 1, 0), 23, make, network=Network(delay_max=20, loss=0.1, duplication=0.2, straggling=0.2))
    for _ in range(3):
        world.submit(6)
        world.run(700)
    world.run_until(world.all_delivered, 400_000)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_votes_leave_a_proof(seed: int) -> None:
    """SAFETY rule 6: two signed votes of one round convict whoever cast them, to anybody."""
    world = group((4, 1, 0), seed, TwoVotes)
    world.submit(20)
    world.run_until(world.all_delivered, 200_000)
    proofs = [blame.proof for name, blame in world.blames if blame.proof and name not in world.liars]
    convicted = {am.check_proof(world.setup(world.correct()[0]), proof) for proof in proofs}
    assert convicted == world.liars


def test_a_forged_request_is_never_decided() -> None:
    """FAULTS 30: a member offers a batch with a request that is not authentic; the others never echo it."""
    world = group((4, 1, 0), 5, Liar)
    liar = next(name for name in world.members if name in world.liars)
    world.submit(5)
    (forged,) = world.submit(1, at=[liar], authentic=False)
    world.submit(5)
    world.run_until(world.all_delivered, 100_000)
    assert forged not in world.chosen.values()
    assert any(blame.member == liar and "not authentic" in blame.fault for _, blame in world.blames)


def test_a_liar_that_begins_rounds_for_nothing_keeps_nobody_from_anything() -> None:
    """It costs rounds of empty batches, and not more of them than the pipeline has room for."""
    world = group((4, 1, 0), 7, Beginner, parameters={"pipeline": 2})
    world.submit(20)
    world.run_until(world.all_delivered, 100_000)
    for name in world.correct():
        machine = world.machine(name)
        assert len(machine.rounds) <= machine.limit - machine.slots.complete(machine.stable)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------- forging


def test_what_can_be_forged_and_signed_again() -> None:
    """The simulator's liars rely on it: only what is this member's own to say."""
    world = OrderingWorld(PLUGIN, 4, 1, 0, 1)
    heard: list[tuple[MemberId, Any]] = []
    world.observers.append(lambda sender, message: heard.append((sender, message)))
    world.submit(4)
    world.run_until(world.all_delivered, 10_000)
    offers = votes = 0
    for sender, message in heard:
        setup = world.setup(sender)
        forged = forge(setup, message, digest(b"other"))
        if forged is not None:
            offers += 1
            assert cb.CODEC.decode(forged.body) == cb.Send(digest(b"other"))
            assert (
                forge(world.setup(next(name for name in world.members if name != sender)), message, bytes(32)) is None
            )
        again = resign(setup, message)
        if again is not None:
            votes += 1
            assert again == message, "a correct member signs the same again"
    assert offers
    assert votes
