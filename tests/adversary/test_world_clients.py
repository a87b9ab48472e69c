"""Clients that lie: two operations under one number, overlapping bundles, sessions of the past, floods."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bftkit.channel.bundles import OPEN, REQUESTS, make_bundle, unpack_results
from bftkit.channel.frames import ANSWER_CODEC, REPLY, Refusal, unpack_reply
from bftkit.channel.interface import Limits
from bftkit.service.keyvalue import put
from bftkit.sim.world import World

GROUPS = [("pbft", 4), ("coordinator", 3), ("paxos", 3)]
groups = pytest.mark.parametrize(("protocol", "members"), GROUPS)


class RawClient:
    """A client that says what a test makes it say, and records what it hears."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.actor = world.join(name)
        self.group = world.hosts["m0"].settings.group
        self.key = world.signing_key(name)
        assert self.key.public == self.actor.public
        self.actor.idle = True
        self.heard: list[tuple[str, bytes]] = []
        self.actor.on_frame = lambda member, frame: self.heard.append((member, frame))  # type: ignore[method-assign]
        world.run(100)

    def open(self, nonce: int) -> int:
        """Open a session; its number."""
        raw = make_bundle(self.key, self.group, OPEN, 0, 0, 0, (nonce.to_bytes(16, "big"),))
        self.send(raw)
        self.world.run(2_000)
        reply = next(unpack_reply(frame) for _, frame in reversed(self.heard) if frame[0] == REPLY)
        return int.from_bytes(unpack_results(reply.results, 1)[0][1], "big")

    def bundle(self, session: int, first: int, operations: Sequence[bytes], low: int = 1) -> bytes:
        for operation in operations:
            self.world.recorder.submit(self.key.public, operation)
        return make_bundle(self.key, self.group, REQUESTS, session, first, low, operations)

    def send(self, raw: bytes, to: Sequence[str] = ()) -> None:
        for member in to or self.world.members:
            self.world.carry_from_client(self.actor, member, b"\x02" + raw)

    def executed(self, operation: bytes) -> bool:
        return (self.key.public, operation) in self.world.recorder.first_place

    def refusals(self) -> list[Refusal]:
        found = [ANSWER_CODEC.decode(frame[1:]) for _, frame in self.heard if frame[0] != REPLY]
        return [answer for answer in found if isinstance(answer, Refusal)]


@groups
@pytest.mark.parametrize("seed", range(3))
def test_two_operations_under_one_number_have_one_result(protocol: str, members: int, seed: int) -> None:
    """FAULTS 32: different members hear different ones first."""
    world = World(seed, protocol, members)
    client = RawClient(world, "evil")
    session = client.open(1)
    one, other = put(b"e0", b"one"), put(b"e0", b"other")
    half = len(world.members) // 2
    client.send(client.bundle(session, 1, [one]), world.members[:half])
    client.send(client.bundle(session, 1, [other]), world.members[half:])
    world.load(20, keys=2)
    world.run(3_000)
    client.send(client.bundle(session, 1, [one]))
    client.send(client.bundle(session, 1, [other]))
    world.finish()
    assert client.executed(one) != client.executed(other)
    replies = [unpack_reply(frame) for _, frame in client.heard if frame[0] == REPLY]
    digests = {reply.digest for reply in replies if reply.first}
    assert len(digests) == 1


@groups
@pytest.mark.parametrize("seed", range(3))
def test_overlapping_bundles_run_each_number_once(protocol: str, members: int, seed: int) -> None:
    """SAFETY rule 9. The checkers compare every place and every state digest."""
    world = World(seed, protocol, members, interval=2, window=8)
    client = RawClient(world, "evil")
    session = client.open(1)
    operations = [put(b"e%d" % (number % 3), b"v%d of %d" % (number, seed)) for number in range(1, 31)]
    for number in range(1, 31):
        world.recorder.submit(client.key.public, operations[number - 1])
    random = world.random
    for _ in range(60):
        first = random.randint(1, 28)
        count = random.randint(1, 31 - first)
        part = operations[first - 1 : first - 1 + count]
        raw = make_bundle(client.key, client.group, REQUESTS, session, first, random.randint(1, first), part)
        client.send(raw, random.sample(world.members, random.randint(1, len(world.members))))
        world.run(random.randint(1, 60))
    last = world.members[-1]
    world.crash(last)
    world.load(20, keys=2)
    world.run(3_000)
    world.finish()
    places = [world.recorder.first_place[name] for name in world.recorder.first_place if name[0] == client.key.public]
    assert len(places) == len(set(places)) > 10


@groups
def test_a_member_with_a_fetched_session_table_keeps_the_same_replies(protocol: str, members: int) -> None:
    """Regression: a reply that replaced another was counted twice until the table was loaded again."""
    world = World(2, protocol, members, interval=2, window=8, limits=Limits(session_reply_bytes=400))
    client = RawClient(world, "evil")
    session = client.open(1)
    last = world.members[-1]
    for first in range(1, 12, 2):
        one = put(b"e0", b"a%d" % first)
        two = put(b"e0", b"b%d" % first)
        client.send(client.bundle(session, first, [one]))
        world.run(300)
        client.send(client.bundle(session, first, [one, two]))
        world.run(300)
    world.crash(last)
    world.load(30, keys=2, pipeline=1)
    world.run(4_000)
    world.restart(last)
    world.run(2_000)
    for first in range(13, 90):
        client.send(client.bundle(session, first, [put(b"e1", b"c%d" % first)]))
        world.run(60)
    world.finish()
    assert world.replica(last).checkpoints.stable > 16


@groups
def test_the_past_is_never_executed_again(protocol: str, members: int) -> None:
    """SAFETY rule 9: numbers of an ended session are refused for ever, and an old opening ends nothing."""
    world = World(4, protocol, members)
    client = RawClient(world, "evil")
    first = client.open(1)
    operation = put(b"e0", b"first session")
    request = client.bundle(first, 1, [operation])
    late = client.bundle(first, 2, [put(b"e0", b"too late")])
    client.send(request)
    world.run(1_000)
    assert client.executed(operation)
    second = client.open(2)
    assert second != first
    client.send(request)
    client.send(late)
    client.send(make_bundle(client.key, client.group, OPEN, 0, 0, 0, ((1).to_bytes(16, "big"),)))  # the old opening
    world.run(1_000)
    assert not client.executed(put(b"e0", b"too late"))
    assert {refusal.reason for refusal in client.refusals()} >= {2, 5}
    again = put(b"e0", b"second session")
    client.send(client.bundle(second, 1, [again]))
    world.run(1_000)
    world.finish()
    assert client.executed(again)


@groups
def test_nobody_speaks_for_another_client(protocol: str, members: int) -> None:
    world = World(5, protocol, members)
    client = RawClient(world, "evil")
    victim = world.actors["c0"]
    victim.put(b"k0")
    world.run(1_000)
    before = victim.machine.session
    forged = bytearray(client.bundle(before, 2, [put(b"e0", b"forged")]))
    forged[1:33] = victim.public
    client.send(bytes(forged))
    world.run(1_000)
    assert not any(name[1] == put(b"e0", b"forged") for name in world.recorder.first_place)
    world.finish()


@groups
@pytest.mark.parametrize("seed", range(2))
def test_more_clients_than_sessions(protocol: str, members: int, seed: int) -> None:
    """The one used least recently ends; its client opens another and says which operations it knows nothing of."""
    world = World(seed, protocol, members, clients=5, limits=Limits(sessions=3))
    world.load(100, keys=3, pipeline=2)
    world.run_until(lambda: world.outstanding == 0, 60_000)
    world.finish()


@groups
@pytest.mark.parametrize("seed", range(2))
def test_a_client_that_dies_leaves_nothing_behind(protocol: str, members: int, seed: int) -> None:
    world = World(seed, protocol, members)
    world.load(40, keys=2)
    world.run(120)
    world.actors["c1"].stop()
    world.finish()
    world.run(2_000)
    assert all(len(world.replica(member).pool) == 0 for member in world.members)


@groups
def test_a_client_that_floods_fills_its_own_quota_only(protocol: str, members: int) -> None:
    """FAULTS 46."""
    world = World(6, protocol, members, limits=Limits(client_pool_bytes=4_000, batch_requests=4))
    client = RawClient(world, "evil")
    session = client.open(1)
    for number in range(1, 200):
        client.send(client.bundle(session, number, [put(b"k9", b"%d" % number + b"." * 100)]))
    world.load(20, keys=2)
    world.run_until(lambda: world.outstanding == 0, 30_000, "the others are served")
    assert any(refusal.reason == 1 for refusal in client.refusals())
    assert all(world.replica(m).pool.client_sizes.get(client.key.public, 0) <= 4_000 for m in world.members)
    world.finish()
