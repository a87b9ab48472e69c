"""The broadcasts in random runs: messages lost, doubled, in any order; crashes in the middle of a step; liars.

*Consistency*: correct members that deliver, deliver the same. *Validity*: a correct sender's value is delivered.
*Integrity*: of a correct sender nothing else is delivered, and no correct member is blamed. *Totality* (reliable
only): if one correct member delivers, all do. Members say all again when nothing more is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import reliable_broadcast as rb
from bftkit.core.digest import digest
from bftkit.core.machine import Blame, Broadcast, Deliver, MemberId, Out, Persist, Send
from bftkit.core.ordering import Setup
from bftkit.core.quorum import Quorum
from bftkit.sim.keyring import fast_keyrings
from tests.seeds import at_least

ID = b"id"
SHAPES = [(4, 1, 0), (4, 1, 0), (6, 1, 1), (7, 2, 0), (5, 1, 0), (8, 1, 2), (3, 0, 1), (1, 0, 0)]
VALUES = (b"", b"one", b"two" * 20)
KEYRINGS = fast_keyrings(b"", bytes(32), 0, bytes(32), [f"m{index}" for index in range(8)])

Lie = Callable[["Net", MemberId, MemberId, Any], None]


class Net:
    """Some members' machines, and what is under way between all; see the top of this file."""

    def __init__(self, kind: Any, codec: Any, seed: int, lie: Lie) -> None:
        self.kind, self.codec, self.lie = kind, codec, lie
        self.random = random = Random(seed)
        n, f, c = random.choice(SHAPES)
        members = self.members = tuple(f"m{index}" for index in range(n))
        shuffled = random.sample(members, n)
        self.liars = frozenset(shuffled[: random.randint(0, f)])
        honest = [member for member in shuffled if member not in self.liars]
        self.doomed = frozenset(random.sample(honest, random.randint(0, c)))
        """Who will crash and stay away."""
        self.correct = sorted(set(honest) - self.doomed)
        self.sender = random.choice(members)
        self.value = random.choice(VALUES)
        self.loss = random.choice([0.0, 0.1, 0.4])
        self.setups = {member: Setup(member, members, Quorum(n, f, c), KEYRINGS[member]) for member in members}
        self.records: dict[MemberId, list[bytes]] = {member: [] for member in members}
        self.delivered: dict[MemberId, set[bytes]] = {member: set() for member in members}
        self.proofs: list[bytes] = []
        self.flying: list[tuple[MemberId, MemberId, bytes]] = []
        self.machines: dict[MemberId, Any] = {}
        self.seen: list[tuple[MemberId, Any]] = []
        """What liars heard, to say again when it hurts."""
        for member in honest:
            self.create(member)

    def create(self, member: MemberId) -> None:
        self.machines[member] = self.kind.create(self.setups[member], ID, self.sender, 100)
        if self.records[member]:
            self.do(member, "on_restore", tuple(self.records[member]))

    def post(self, sender: MemberId, receiver: MemberId, message: Any) -> None:
        self.flying.append((sender, receiver, self.codec.encode(message)))

    def do(self, member: MemberId, event: str, *values: Any) -> None:
        """One step of an honest member; sometimes it crashes in its middle and comes back."""
        out: Out[Any, Any] = Out()
        getattr(self.machines[member], event)(*values, out)
        effects = out.effects
        crash = bool(effects) and self.random.random() < 0.05
        for effect in effects[: self.random.randint(0, len(effects))] if crash else effects:
            match effect:
                case Persist(record):
                    self.records[member].append(record)
                case Broadcast(message):
                    for other in self.members:
                        if other != member:
                            self.post(member, other, message)
                case Send(to, message):
                    for other in to:
                        self.post(member, other, message)
                case Deliver(cb.Offered()):
                    if not crash:
                        self.do(member, "on_input", cb.Approve())
                        return
                case Deliver(output):
                    self.delivered[member].add(output.value)
                    if isinstance(output, cb.Delivered):
                        self.proofs.append(output.proof)
                case Blame(blamed, fault):
                    assert blamed in self.liars, f"{member} blames {blamed}: {fault}"
                case _:
                    raise AssertionError(effect)
        if crash:
            self.create(member)

    def run(self) -> None:
        """Until nothing is under way."""
        while self.flying:
            sender, receiver, data = self.flying.pop(self.random.randrange(len(self.flying)))
            if self.random.random() < self.loss and receiver not in self.liars:
                continue
            if self.random.random() < 0.05:
                self.flying.append((sender, receiver, data))
            message = self.codec.decode(data)
            if receiver in self.machines:
                self.do(receiver, "on_message", sender, message)
            elif receiver in self.liars:
                self.seen.append((sender, message))
                self.lie(self, receiver, sender, message)
            for member in sorted(self.doomed & self.machines.keys()):
                if self.random.random() < 0.05:
                    del self.machines[member]

    def start(self) -> None:
        if self.sender in self.machines:
            self.give()
        else:
            self.lie(self, self.sender, self.sender, None)
        self.run()

    def give(self) -> None:
        """The parent of a correct sender starts it, and starts it again if it crashed before it had said anything."""
        if not self.records[self.sender]:
            self.do(
                self.sender, "on_input", (cb.Start if self.kind is cb.ConsistentBroadcast else rb.Start)(self.value)
            )

    def say_again(self) -> None:
        """Everybody says again what it said; late, nothing is lost."""
        for member in sorted(self.machines):
            if member == self.sender:
                self.give()
            for message in self.machines[member].said():
                for other in self.members:
                    if other != member:
                        self.post(member, other, message)
        self.run()

    def results(self) -> set[bytes]:
        """What honest members delivered, those that crashed later included."""
        return {value for member, values in self.delivered.items() if member not in self.liars for value in values}


# ------------------------------------------------------------------------------------------- liars


def lie_consistently(net: Net, me: MemberId, sender: MemberId, message: Any) -> None:
    """As sender: two values, a certificate for whichever gets one. As receiver: echo everything."""
    certifier = cb.ConsistentBroadcast.create(net.setups[me], ID, net.sender, 100).certifier
    statements = {value: cb.statement(ID, net.sender, value) for value in VALUES}
    votes = {value: certifier.sign(statement) for value, statement in statements.items()}
    match message:
        case None:
            first, second = net.random.sample(VALUES, 2)
            for other in net.members:
                for value in net.random.choice([(first,), (second,), (first, second), ()]):
                    net.post(me, other, cb.Send(value))
        case cb.Send():
            for value in VALUES:
                net.post(me, sender, cb.Echo(votes[value]))
            net.post(me, net.random.choice(net.members), message)
        case cb.Echo() if net.sender == me:
            collected: dict[bytes, dict[MemberId, bytes]] = {
                value: {liar: KEYRINGS[liar].sign(cb.PURPOSE, statement) for liar in net.liars}
                for value, statement in statements.items()
            }
            for who, heard in net.seen:
                for value, statement in statements.items():
                    if isinstance(heard, cb.Echo) and certifier.verify_vote(who, statement, heard.vote):
                        collected[value][who] = heard.vote
            for value, found in sorted(collected.items()):
                other = net.random.choice(net.members)
                if len(found) >= certifier.size:
                    net.post(me, other, cb.Final(value, certifier.combine(statements[value], found)))
                elif net.random.random() < 0.1:
                    padded = b"".join([bytes([7]), *found.values()]).ljust(1 + 64 * certifier.size, b"x")
                    net.post(me, other, cb.Final(value, padded))
        case _:
            pass


def lie_reliably(net: Net, me: MemberId, sender: MemberId, message: Any) -> None:
    """Anything for any value to some, and what was heard from one to another."""
    lies: list[Any] = [
        kind(digest(value)) for value in net.random.sample(VALUES, 2) for kind in (rb.Echo, rb.Ready, rb.Ask)
    ]
    lies.append(rb.Answer(net.random.choice(VALUES)))
    if me == net.sender:
        lies.append(rb.Send(net.random.choice(VALUES)))
    # At first to everybody, so that something may come of it; later little, so that runs end.
    receivers = net.members if message is None else net.random.sample(net.members, 1)
    for receiver in receivers:
        if message is None or net.random.random() < 0.3:
            for lie in net.random.sample(lies, 2) if message is not None else [*lies[-1:], *net.random.sample(lies, 2)]:
                net.post(me, receiver, lie)


# ------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("seed", at_least(150))
def test_consistent_broadcast(seed: int) -> None:
    net = Net(cb.ConsistentBroadcast, cb.CODEC, seed, lie_consistently)
    net.start()
    for _ in range(3):
        net.say_again()
    net.loss = 0.0
    for _ in range(30):
        net.say_again()
    results = net.results()
    assert len(results) <= 1, f"consistency: {results}"
    if net.sender in net.correct:
        for member in net.correct:
            assert net.delivered[member] == {net.value}, f"validity: {member} of seed {seed}"
    for member in net.correct:
        # Verifiability: whoever is given a proof delivers what its owner delivered.
        for proof in net.proofs:
            assert {cb.check_proof(net.setups[member], ID, net.sender, proof)} == results
            out: Out[Any, Any] = Out()
            net.machines[member].on_message(net.random.choice(net.members), cb.CODEC.decode(proof), out)
            assert {net.machines[member].final.value} == results


@pytest.mark.parametrize("seed", at_least(150))
def test_reliable_broadcast(seed: int) -> None:
    net = Net(rb.ReliableBroadcast, rb.CODEC, seed, lie_reliably)
    net.start()
    for _ in range(3):
        net.say_again()
    net.loss = 0.0
    for _ in range(30):
        net.say_again()
    results = net.results()
    assert len(results) <= 1, f"agreement: {results}"
    for member in net.correct:
        assert net.delivered[member] == results, f"totality: {member} of seed {seed}"
    if net.sender in net.correct:
        assert results == {net.value}, f"validity of seed {seed}"
