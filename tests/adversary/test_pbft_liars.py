"""Whole groups with a liar among them: agreement holds and requests are ordered, whatever it says (FAULTS 20-24, 27).

The world checks all the time: one digest a slot, no correct member blamed, nothing raised, only submitted batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import attrs
import pytest

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Broadcast, Effect, MemberId, Out, Send
from bftkit.core.ordering import Setup
from bftkit.core.quorum import Quorum
from bftkit.sim.keyring import fast_keyrings
from bftkit.sim.ordering.world import Network, OrderingWorld
from bftkit_pbft import PLUGIN
from bftkit_pbft import messages as m
from bftkit_pbft.evidence import accused
from bftkit_pbft.machine import PbftMachine

Effects = Sequence[Effect[Any, Any]]
MEMBERS = ("m0", "m1", "m2", "m3")
KEYRINGS = fast_keyrings(b"", bytes(32), 0, bytes(32), [f"m{index}" for index in range(7)])


class Honest:
    """An adversary that does not use its power; the base of those below."""

    def __init__(self, me: MemberId, members: Sequence[MemberId] = MEMBERS) -> None:
        self.me = me
        self.others = [member for member in members if member != me]
        self.keyring = KEYRINGS[me]

    def on_message(self, member: MemberId, sender: MemberId, message: Any) -> Any | None:
        return message

    def on_effects(self, member: MemberId, effects: Effects) -> Effects:
        changed: list[Effect[Any, Any]] = []
        for effect in effects:
            match effect:
                case Broadcast(message, carry):
                    for other in self.others:
                        changed.extend(self.lie(other, message, carry))
                case Send(to, message, carry):
                    for other in to:
                        changed.extend(self.lie(other, message, carry))
                case _:
                    changed.append(effect)
        return changed

    def lie(self, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        return [Send((to,), message, carry)]

    def vote(self, view: int, slot: int, name: bytes) -> bytes:
        return self.keyring.sign(m.VOTE, m.vote_statement(view, slot, name))


class Equivocator(Honest):
    """Tells half of the group one thing and half another, with good signatures, and supports both stories."""

    def lie(self, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        if self.others.index(to) % 2:
            return [Send((to,), message, carry)]
        match message:
            case m.PrePrepare(view, slot, _, _):
                return [Send((to,), m.PrePrepare(view, slot, NO_DIGEST, self.vote(view, slot, NO_DIGEST)))]
            case m.Commit(view, slot, _):
                return [Send((to,), m.Commit(view, slot, NO_DIGEST))]
            case _:
                return [Send((to,), message, carry)]


class Withholder(Honest):
    """Sends digests without bytes; invents digests of which there are no bytes."""

    def lie(self, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        if isinstance(message, m.PrePrepare):
            name = digest(b"no such batch", message.slot.to_bytes(8))
            return [
                Send((to,), attrs.evolve(message, digest=name, signature=self.vote(message.view, message.slot, name)))
            ]
        return [Send((to,), message)]


class Silent(Honest):
    """Says nothing at all, or nothing to some (FAULTS 21)."""

    def __init__(self, me: MemberId, deaf: Sequence[MemberId] | None = None) -> None:
        super().__init__(me)
        self.deaf = self.others if deaf is None else deaf

    def lie(self, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        return [] if to in self.deaf else [Send((to,), message, carry)]


class Liar(Honest):
    """Draws one lie after another from a seed; each is as good as its key allows."""

    def __init__(self, me: MemberId, seed: int, members: Sequence[MemberId] = MEMBERS) -> None:
        super().__init__(me, members)
        self.random = Random(seed)
        self.seen: list[Any] = []

    def on_message(self, member: MemberId, sender: MemberId, message: Any) -> Any | None:
        if len(self.seen) < 400:
            self.seen.append(message)
        return message

    def lie(self, to: MemberId, message: Any, carry: tuple[bytes, ...]) -> Effects:
        draw = self.random.random()
        if draw < 0.55:
            return [Send((to,), message, carry)]
        if draw < 0.65:
            return []
        if draw < 0.7 and self.seen:
            return [Send((to,), self.random.choice(self.seen)), Send((to,), message, carry)]
        return [Send((to,), self.forge(message), carry)]

    def forge(self, message: Any) -> Any:
        name = self.random.choice([NO_DIGEST, digest(b"lie", self.random.randbytes(4))])
        far = self.random.choice([0, 1, 1, 3, 1 << 40])
        match message:
            case m.PrePrepare(view, slot, _, _):
                slot += self.random.choice([0, 0, far])
                return m.PrePrepare(view, slot, name, self.vote(view, slot, name))
            case m.Prepare(view, slot, _, leader_signature, _):
                return m.Prepare(view, slot, name, leader_signature, self.vote(view, slot, name))
            case m.Commit(view, slot, _):
                return m.Commit(view + self.random.choice([0, 0, far]), slot, name)
            case m.Stable(slot, _):
                slot += far
                return m.Stable(slot, self.keyring.sign(m.STABLE, m.stable_statement(slot)))
            case m.ViewChange(_, data, _):
                body = m.BODIES.decode(data)
                assert isinstance(body, m.ViewChangeBody)
                kept = tuple(item for item in body.prepared if self.random.random() < 0.5)
                view = body.view + self.random.choice([0, 0, far])
                return self.change(attrs.evolve(body, view=view, prepared=kept))
            case m.NewView(data, _):
                body = m.BODIES.decode(data)
                assert isinstance(body, m.NewViewBody)
                if self.random.random() < 0.5:
                    body = attrs.evolve(body, changes=body.changes[:-1] + body.changes[:1])
                else:
                    body = attrs.evolve(body, votes=body.votes[1:])
                data = m.BODIES.encode(body)
                return m.NewView(data, self.keyring.sign(m.NEW_VIEW, data))
            case m.Status():
                return attrs.evolve(message, delivered=message.delivered + far, phases=bytes([4] * 20))
            case _:
                return message

    def change(self, body: m.ViewChangeBody) -> m.ViewChange:
        data = m.BODIES.encode(body)
        return m.ViewChange(self.me, data, self.keyring.sign(m.VIEW_CHANGE, data))


def lied(world: OrderingWorld, liar: MemberId) -> list[bytes]:
    """The proofs that correct members gave against the liar; each is checked."""
    proofs = [blame.proof for who, blame in world.blames if blame.member == liar and who != liar and blame.proof]
    for proof in proofs:
        assert accused(world.setup("m1" if liar != "m1" else "m2"), proof) == liar
    return proofs


@pytest.mark.parametrize("seed", range(12))
def test_an_equivocating_leader_splits_nobody_and_is_replaced(seed: int) -> None:
    world = OrderingWorld(
        PLUGIN,
        4,
        1,
        0,
        seed,
        keyrings=KEYRINGS,
        adversaries={"m0": Equivocator("m0")},
        network=Network(loss=0.1 * (seed % 3)),
    )
    world.submit(30)
    world.run_until(world.all_delivered, 20_000)
    assert all(world.machine(member).view >= 1 for member in ("m1", "m2", "m3"))


@pytest.mark.parametrize("seed", range(4))
def test_equivocation_is_proved_with_both_headers(seed: int) -> None:
    """SAFETY rule 6: the blame carries bytes that convict the leader before anybody."""
    world = OrderingWorld(PLUGIN, 4, 1, 0, seed, keyrings=KEYRINGS, adversaries={"m0": Equivocator("m0")})
    world.submit(5)
    world.run_until(world.all_delivered, 20_000)
    assert lied(world, "m0")
    # No timeout was needed: the proof itself ended the view.
    assert world.leaders
    assert min(tick for tick, _, change in world.leaders if change.view == 1) < 300


@pytest.mark.parametrize("seed", range(6))
def test_a_withheld_batch_ends_the_view(seed: int) -> None:
    """FAULTS 27: nobody votes for a digest without bytes, and the leader that sends it is replaced."""
    world = OrderingWorld(PLUGIN, 4, 1, 0, seed, keyrings=KEYRINGS, adversaries={"m0": Withholder("m0")})
    voted: list[tuple[MemberId, bytes]] = []

    def watch(sender: MemberId, message: Any) -> None:
        if isinstance(message, m.Prepare) and message.view == 0:
            voted.append((sender, message.digest))

    world.observers.append(watch)
    world.submit(20)
    world.run_until(world.all_delivered, 20_000)
    assert [sender for sender, _ in voted if sender != "m0"] == []
    assert world.machine("m1").view >= 1


@pytest.mark.parametrize("deaf", [None, ["m1"], ["m2", "m3"]])
@pytest.mark.parametrize("seed", range(3))
def test_a_leader_that_is_silent_towards_some_does_not_stop_the_group(seed: int, deaf: list[str] | None) -> None:
    world = OrderingWorld(PLUGIN, 4, 1, 0, seed, keyrings=KEYRINGS, adversaries={"m0": Silent("m0", deaf)})
    world.submit(30)
    world.run_until(world.all_delivered, 20_000)


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_that_is_not_authentic_is_never_decided_and_its_leader_is_blamed(seed: int) -> None:
    world = OrderingWorld(PLUGIN, 4, 1, 0, seed, keyrings=KEYRINGS, adversaries={"m0": Honest("m0")})
    world.submit(1, ["m0"], authentic=False)
    world.run(30)
    world.submit(10)
    world.run_until(world.all_delivered, 20_000)
    assert any("authentic" in blame.fault and blame.proof for _, blame in world.blames)
    assert lied(world, "m0")


@pytest.mark.parametrize("liar", ["m0", "m1", "m3"])
@pytest.mark.parametrize("seed", range(8))
def test_any_lies(seed: int, liar: MemberId) -> None:
    world = OrderingWorld(
        PLUGIN,
        4,
        1,
        0,
        seed,
        keyrings=KEYRINGS,
        adversaries={liar: Liar(liar, seed)},
        network=Network(loss=0.05 * (seed % 4)),
    )
    for _ in range(4):
        world.submit(10)
        world.run(400)
    lied(world, liar)
    world.run_until(world.all_delivered, 60_000)


@pytest.mark.parametrize("seed", range(6))
def test_lies_with_crashes_in_a_hybrid_group(seed: int) -> None:
    """n = 6 survives one liar and one crashed member (SAFETY rule 1)."""
    members = tuple(f"m{index}" for index in range(6))
    world = OrderingWorld(
        PLUGIN,
        6,
        1,
        1,
        seed,
        keyrings=KEYRINGS,
        adversaries={"m0": Liar("m0", seed, members)},
        network=Network(loss=0.1),
    )
    world.submit(15)
    world.run(300)
    world.crash("m1")
    world.submit(15)
    world.run(1_500)
    world.restart("m1")
    world.crash("m2")
    world.submit(10)
    world.run_until(world.all_delivered, 60_000)


# ------------------------------------------------------------------------------------------------- floods


def alone(me: MemberId = "m1") -> PbftMachine:
    setup = Setup(me, MEMBERS, Quorum(4, 1), KEYRINGS[me], window=32)
    machine = PbftMachine.create(setup)
    machine.on_start(Out())
    return machine


def size(machine: PbftMachine) -> int:
    """How many things the machine remembers."""
    tables = (machine.slots, machine.decided, machine.held, machine.here, machine.wanted, machine.changes)
    inner = sum(len(state.prepares) + len(state.commits) + len(state.votes) for state in machine.slots.values())
    return inner + sum(len(table) for table in (*tables, machine.accused, machine.answered, machine.stable_votes))


FLOODS: dict[str, Callable[[Honest, int], Any]] = {
    "pre-prepares": lambda liar, i: m.PrePrepare(0, i, digest(b"%d" % i), liar.vote(0, i, digest(b"%d" % i))),
    "far views": lambda liar, i: m.PrePrepare(4 * i, 1, NO_DIGEST, liar.vote(4 * i, 1, NO_DIGEST)),
    "prepares": lambda liar, i: m.Prepare(0, i, digest(b"%d" % i), bytes(64), liar.vote(0, i, digest(b"%d" % i))),
    "commits": lambda liar, i: m.Commit(i % 7, i, digest(b"%d" % i)),
    "commits in one slot": lambda liar, i: m.Commit(i, 1, digest(b"%d" % i)),
    "stable": lambda liar, i: m.Stable(i, liar.keyring.sign(m.STABLE, m.stable_statement(i))),
    "statuses": lambda liar, i: m.Status(i, True, i, 0, None, bytes(8), b"\0", False),
    "garbage view changes": lambda liar, i: m.ViewChange(liar.me, b"%d" % i, bytes(64)),
    "garbage new views": lambda liar, i: m.NewView(b"%d" % i, bytes(64)),
    "accusations": lambda liar, i: m.Accusation(
        m.equivocation(
            liar.me,
            (m.vote_statement(i, 1, NO_DIGEST), liar.vote(i, 1, NO_DIGEST)),
            (m.vote_statement(i, 1, digest(b"")), liar.vote(i, 1, digest(b""))),
        )
    ),
}


@pytest.mark.parametrize("flood", sorted(FLOODS))
@pytest.mark.parametrize("sender", ["m0", "m3"])
def test_a_flood_of_stale_and_far_messages_fills_no_memory(flood: str, sender: MemberId) -> None:
    """FAULTS 29 and 48: what one member can make another remember is bounded by the windows."""
    machine, liar = alone(), Honest(sender)
    answers = 0
    for i in range(1, 2_001):
        out: Out[Any, Any] = Out()
        machine.on_message(sender, FLOODS[flood](liar, i), out)
        answers += sum(isinstance(effect, (Send, Broadcast)) for effect in out.effects)
    assert size(machine) <= 4 * 2 * 32
    assert answers <= 2 * 2 * 32 + 8


def test_a_far_view_change_of_one_liar_moves_nobody() -> None:
    machine, liar = alone(), Liar("m3", 1)
    out: Out[Any, Any] = Out()
    machine.on_message("m3", liar.change(m.ViewChangeBody(1 << 50, (), ())), out)
    assert machine.view == 0
    assert machine.active
    assert out.effects == []
