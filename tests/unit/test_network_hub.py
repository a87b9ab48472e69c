"""What every hub must do, over real sockets and in memory: the same test bodies for both."""

from __future__ import annotations

import gc
import math
import os
import threading
import time
from collections.abc import Callable, Iterator

import anyio
import pytest

from bftkit.network.addresses import Address
from bftkit.network.hub import (
    Accept,
    Admission,
    DialFailed,
    Event,
    Hub,
    HubError,
    Limits,
    LinkDown,
    LinkUp,
    Peer,
    Refused,
)
from bftkit.network.memory import MemoryHub, MemoryNetwork
from bftkit.network.session import Identity
from bftkit.network.switchboard import EVENTS_KEPT
from bftkit.network.tcp import TcpHub

GROUP = b"g" * 32
NAMES = ("ann", "bob", "cat", "eve")
PATIENCE_SECONDS = 60.0
"""How long nothing may happen before a test gives up: far more than anything takes on a busy machine."""
IDENTITIES = {name: Identity.from_seed(name.encode().ljust(32)) for name in NAMES}
BY_KEY = {identity.public_key: name for name, identity in IDENTITIES.items()}


def key(name: str) -> bytes:
    return IDENTITIES[name].public_key


def accept_known(public_key: bytes, payload: bytes) -> Admission | None:
    name = BY_KEY.get(public_key)
    return None if name is None else Admission(name, privileged=True)


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """Some hubs on one network, driven in turn by the test; what each receives is kept here."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.clock = Clock()
        self.network = MemoryNetwork()
        self.hubs: list[Hub] = []
        self.got: dict[Hub, list[tuple[Peer, bytes]]] = {}
        self.seen: dict[Hub, list[Event]] = {}

    def hub(
        self,
        name: str,
        *,
        accept: Accept = accept_known,
        limits: Limits | None = None,
        payload: bytes = b"",
        group: bytes = GROUP,
    ) -> Hub:
        limits = limits if limits is not None else Limits()
        hub: Hub
        if self.kind == "tcp":
            hub = TcpHub(IDENTITIES[name], group, accept=accept, payload=payload, limits=limits, clock=self.clock)
        else:
            hub = MemoryHub(
                self.network,
                IDENTITIES[name],
                group,
                accept=accept,
                payload=payload,
                limits=limits,
                clock=self.clock,
            )
        self.hubs.append(hub)
        self.got[hub] = []
        self.seen[hub] = []
        return hub

    def any_address(self, name: str) -> Address:
        return Address("tcp", "127.0.0.1", 0) if self.kind == "tcp" else Address("memory", name)

    def own_address(self, name: str) -> Address:
        """Where nobody else on this machine listens or dials from, so that a port can be given up and taken again."""
        pid = os.getpid()
        host = f"127.{1 + (pid >> 16) % 200}.{pid >> 8 & 255}.{1 + pid % 254}"
        return Address("tcp", host, 0) if self.kind == "tcp" else Address("memory", name)

    def nowhere(self) -> Address:
        return Address("tcp", "127.0.0.1", 1) if self.kind == "tcp" else Address("memory", "nowhere")

    def step(self, patience: float = 0.0) -> bool:
        """Polls every hub once, waiting up to `patience` seconds for each; whether anything came."""
        busy = False
        for hub in self.hubs:
            hub.flush()
            for peer, frames in hub.poll(patience):
                self.got[hub] += [(peer, frame) for frame in frames]
                busy = True
            events = hub.events()
            self.seen[hub] += events
            busy = busy or bool(events)
        return busy

    def until(self, condition: Callable[[], bool]) -> None:
        """Drives all hubs until the condition holds; fails if nothing has happened for long."""
        idle, end = 0, time.monotonic() + PATIENCE_SECONDS
        while not condition():
            # The kernel may take its time, even on loopback: after some empty rounds, wait in them.
            if self.step(0.0 if idle < 20 else 0.002):
                idle, end = 0, time.monotonic() + PATIENCE_SECONDS
            idle += 1
            assert time.monotonic() < end, f"not happened: {[(hub.counters, self.seen[hub]) for hub in self.hubs]}"

    def until_counted(self, hub: Hub, counter: str, number: int) -> None:
        """Drives all hubs until a counter of one has reached `number`."""
        self.until(lambda: hub.counters[counter] >= number)

    def settle(self) -> None:
        """Drives all hubs until nothing has happened for a while."""
        idle = 0
        while idle < 20:
            idle = 0 if self.step(0.0 if idle < 5 else 0.001) else idle + 1

    def fill(self, hub: Hub, peer: Peer) -> None:
        """The hub's queue for a peer, and whatever else lies on the way to it, is full."""
        while hub.send(peer, bytes(50_000)):
            hub.flush()

    def stand_still(self, hub: Hub, peer: Peer) -> None:
        """Drives all hubs until the kernel takes no more of what waits for a peer that reads nothing."""
        before = -1
        while hub.queued(peer) != before:
            before = hub.queued(peer)
            self.settle()

    def close(self, hub: Hub) -> None:
        hub.close()
        self.hubs.remove(hub)

    def pair(self, limits: Limits | None = None) -> tuple[Hub, Hub]:
        """Ann, who has a link to Bob."""
        ann, bob = self.hub("ann", limits=limits), self.hub("bob", limits=limits)
        ann.connect("bob", key("bob"), [bob.listen(self.any_address("bob"))])
        self.until(lambda: ann.is_up("bob") and bob.is_up("ann"))
        return ann, bob

    def frames(self, hub: Hub) -> list[bytes]:
        return [frame for _, frame in self.got[hub]]


@pytest.fixture(params=["tcp", "memory"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(str(request.param))
    yield made
    for hub in made.hubs:
        hub.close()
        hub.close()
    gc.collect()  # an unclosed socket would warn here, and warnings are errors


def test_frames_pass_both_ways_in_order(world: World) -> None:
    ann, bob = world.pair()
    there = [b"%d" % number for number in range(1000)]
    back = [b"x" * 3_000_000, b"y", b"z" * 70_000]
    for frame in there:
        assert ann.send("bob", frame)
    for frame in back:
        assert bob.send("ann", frame)
    world.until(lambda: len(world.got[ann]) == len(back) and len(world.got[bob]) == len(there))
    assert world.got[bob] == [("ann", frame) for frame in there]
    assert world.got[ann] == [("bob", frame) for frame in back]
    assert bob.counters["frames_in"] == ann.counters["frames_out"] == len(there)
    assert ann.queued("bob") == 0


def test_both_learn_who_the_other_is(world: World) -> None:
    ann, bob = world.hub("ann", payload=b"from ann"), world.hub("bob", payload=b"from bob")
    ann.connect("my bob", key("bob"), [bob.listen(world.any_address("bob"))])
    world.until(lambda: ann.is_up("my bob") and bob.is_up("ann"))
    (at_ann,), (at_bob,) = world.seen[ann], world.seen[bob]
    assert isinstance(at_ann, LinkUp)
    assert isinstance(at_bob, LinkUp)
    assert (at_ann.peer, at_ann.public_key, at_ann.payload) == ("my bob", key("bob"), b"from bob")
    assert (at_bob.peer, at_bob.public_key, at_bob.payload) == ("ann", key("ann"), b"from ann")
    assert at_ann.binding == at_bob.binding != b""
    assert (at_ann.dialled, at_bob.dialled) == (True, False)
    assert (ann.up(), bob.up()) == (["my bob"], ["ann"])


def test_members_dial_each_other_and_nothing_comes_twice(world: World) -> None:
    hubs = {name: world.hub(name) for name in ("ann", "bob", "cat")}
    addresses = {name: hub.listen(world.any_address(name)) for name, hub in hubs.items()}
    for name, hub in hubs.items():
        for other in hubs:
            if other != name:
                hub.connect(other, key(other), [addresses[other]])
    world.until(lambda: all(hub.counters["links_up"] == 4 for hub in hubs.values()))
    for name, hub in hubs.items():
        others = [other for other in hubs if other != name]
        assert hub.broadcast(others, name.encode()) == 2
    world.until(lambda: all(len(world.got[hub]) >= 2 for hub in hubs.values()))
    world.settle()
    for name, hub in hubs.items():
        assert sorted(world.got[hub]) == [(other, other.encode()) for other in sorted(hubs) if other != name]


def test_a_peer_that_restarts_is_found_again(world: World) -> None:
    ann, bob = world.hub("ann"), world.hub("bob")
    address = bob.listen(world.own_address("bob"))
    ann.connect("bob", key("bob"), [address])
    world.until(lambda: ann.is_up("bob") and bob.is_up("ann"))
    world.close(bob)
    world.until(lambda: not ann.is_up("bob"))
    for _ in range(5):  # nobody is there: some fruitless attempts
        world.clock.now += 2
        failures = ann.counters["dial_failed"]
        world.until_counted(ann, "dial_failed", failures + 1)
    again = world.hub("bob")
    again.listen(address)
    world.clock.now += 2
    world.until(lambda: ann.is_up("bob") and again.is_up("ann"))
    ann.send("bob", b"welcome back")
    world.until(lambda: bool(world.got[again]))
    kinds = [type(event) for event in world.seen[ann]]
    assert kinds[:2] == [LinkUp, LinkDown]
    assert kinds[-1] is LinkUp
    assert kinds[2:-1] == [DialFailed] * (len(kinds) - 3)


def test_a_peer_that_dials_us_is_dialled_at_once(world: World) -> None:
    """Without waiting for the end of the pause: the clock stands still here."""
    ann, bob = world.hub("ann"), world.hub("bob")
    at_ann = ann.listen(world.any_address("ann"))
    ann.connect("bob", key("bob"), [world.nowhere()])
    world.until(lambda: ann.counters["dial_failed"] == 1)
    bob.connect("ann", key("ann"), [at_ann])
    world.until(lambda: ann.counters["dial_failed"] == 2)
    assert ann.is_up("bob")


def test_a_peer_that_cannot_be_dialled_is_reached_through_its_own_link(world: World) -> None:
    ann, bob = world.hub("ann"), world.hub("bob")
    ann.connect("bob", key("bob"), [world.nowhere()])
    bob.connect("ann", key("ann"), [ann.listen(world.any_address("ann"))])
    world.until(lambda: ann.is_up("bob") and bob.is_up("ann"))
    ann.send("bob", b"hello")
    world.until(lambda: world.got[bob] == [("ann", b"hello")])


def test_addresses_are_tried_in_order_and_can_be_changed(world: World) -> None:
    ann, bob = world.hub("ann"), world.hub("bob")
    address = bob.listen(world.any_address("bob"))
    ann.connect("bob", key("bob"), [world.nowhere(), address])
    world.until(lambda: ann.is_up("bob"))
    assert [type(event) for event in world.seen[ann]] == [DialFailed, LinkUp]
    ann.disconnect("bob")
    ann.connect("bob", key("bob"), [world.nowhere()])
    failures = ann.counters["dial_failed"]
    world.until(lambda: ann.counters["dial_failed"] > failures)
    ann.connect("bob", key("bob"), [address])
    world.until(lambda: ann.is_up("bob"))


def test_new_addresses_leave_a_living_link_alone_and_count_once_it_is_gone(world: World) -> None:
    ann, bob = world.pair()
    moved = world.hub("bob")
    address = moved.listen(world.any_address("bob-moved"))
    world.seen[ann].clear()
    for addresses in ([], [world.nowhere()], [world.nowhere(), address]):
        ann.connect("bob", key("bob"), addresses)
        world.settle()
    ann.send("bob", b"on the old link")
    world.until(lambda: world.got[bob] == [("ann", b"on the old link")])
    assert world.seen[ann] == []
    world.close(bob)
    world.until(lambda: not ann.is_up("bob"))
    world.clock.now += 1.0  # the pause after a lost link
    world.until(lambda: moved.is_up("ann"))
    ann.send("bob", b"on the new link")
    world.until(lambda: world.got[moved] == [("ann", b"on the new link")])


def test_the_wrong_key_or_group_does_not_get_in(world: World) -> None:
    """Nobody can answer in another's place, and a link never joins two groups (FAULTS 11)."""
    ann, bob, cat = world.hub("ann"), world.hub("bob"), world.hub("cat", group=b"h" * 32)
    address = bob.listen(world.any_address("bob"))
    ann.connect("eve", key("eve"), [address])
    cat.connect("bob", key("bob"), [address])
    world.until(lambda: ann.counters["dial_failed"] > 0 and cat.counters["dial_failed"] > 0)
    world.until(lambda: bob.counters["refused"] == 2)
    assert (ann.up(), bob.up(), cat.up()) == ([], [], [])
    assert all(isinstance(event, Refused) and "bad handshake" in event.reason for event in world.seen[bob])


def test_the_accept_callback_decides(world: World) -> None:
    asked: list[tuple[bytes, bytes]] = []

    def only_ann(public_key: bytes, payload: bytes) -> Admission | None:
        asked.append((public_key, payload))
        return Admission("ann") if public_key == key("ann") else None

    bob = world.hub("bob", accept=only_ann)
    address = bob.listen(world.any_address("bob"))
    ann, eve = world.hub("ann", payload=b"a"), world.hub("eve", payload=b"e")
    ann.connect("bob", key("bob"), [address])
    eve.connect("bob", key("bob"), [address])
    world.until(lambda: ann.is_up("bob") and bob.is_up("ann") and eve.counters["dial_failed"] > 0)
    assert bob.up() == ["ann"]
    assert not eve.is_up("bob")
    assert set(asked) == {(key("ann"), b"a"), (key("eve"), b"e")}
    assert [event for event in world.seen[bob] if isinstance(event, Refused) and event.public_key == key("eve")]


def test_who_is_replaced_between_knocking_and_proving_does_not_come_in(world: World) -> None:
    """Whoever dials chooses when it confirms: an old key must not get in as the member that has a new one by then."""
    members = {key("eve"): "ann"}
    asked: list[bytes] = []

    def accept(public_key: bytes, payload: bytes) -> Admission | None:
        asked.append(public_key)
        name = members.get(public_key)
        return None if name is None else Admission(name, privileged=True)

    bob = world.hub("bob", accept=accept)
    eve = world.hub("eve")
    eve.connect("bob", key("bob"), [bob.listen(world.any_address("bob"))])
    world.until(lambda: bool(asked))
    assert bob.up() == [], "it has knocked, and not proved yet who it is"
    del members[key("eve")]
    members[key("ann")] = "ann"
    world.until(lambda: bob.counters["refused"] > 0)
    assert bob.up() == []
    assert bob.counters["links_up"] == 0


def test_a_peer_that_is_dialled_from_now_on_keeps_no_link_of_another_key(world: World) -> None:
    """It was only dialled by that peer before: such a link is no better than one that we dialled."""
    bob = world.hub("bob", accept=lambda public_key, payload: Admission("ann") if public_key == key("eve") else None)
    eve, ann = world.hub("eve"), world.hub("ann")
    eve.connect("bob", key("bob"), [bob.listen(world.any_address("bob"))])
    world.until(lambda: bob.is_up("ann"))
    bob.connect("ann", key("ann"), [ann.listen(world.any_address("ann"))])
    assert not bob.is_up("ann")


def test_a_full_queue_drops_the_newest_and_loses_nothing_else(world: World) -> None:
    """FAULTS 47: the bound holds while Bob reads nothing; what was queued still arrives, in order."""
    limits = Limits(frame_bytes=100_000, queue_bytes=500_000)
    ann, bob = world.pair(limits=limits)
    accepted = 0
    refused = False
    for _ in range(1000):
        if ann.send("bob", accepted.to_bytes(4, "big") * 10_000):
            accepted += 1
        else:
            refused = True
        ann.flush()
        ann.poll(0.0)
        assert ann.queued("bob") <= limits.queue_bytes + 40_100
    assert refused
    assert ann.counters["dropped_full"] == 1000 - accepted
    world.until(lambda: len(world.got[bob]) == accepted)
    assert [int.from_bytes(frame[:4], "big") for frame in world.frames(bob)] == list(range(accepted))
    assert ann.queued("bob") == 0
    assert ann.send("bob", b"room again")


def test_one_full_queue_does_not_hold_up_the_others(world: World) -> None:
    limits = Limits(frame_bytes=100_000, queue_bytes=500_000)
    ann, bob = world.pair(limits=limits)
    cat = world.hub("cat")
    ann.connect("cat", key("cat"), [cat.listen(world.any_address("cat"))])
    world.until(lambda: ann.is_up("cat"))
    world.hubs.remove(bob)  # reads nothing
    world.fill(ann, "bob")
    ann.send("cat", b"urgent")
    world.until(lambda: world.got[cat] == [("ann", b"urgent")])
    world.hubs.append(bob)


def test_frames_wait_for_a_link_during_the_grace_only(world: World) -> None:
    limits = Limits(down_bytes=1000, grace_seconds=1.0)
    ann, bob = world.hub("ann", limits=limits), world.hub("bob")
    address = bob.listen(world.any_address("bob"))
    ann.connect("bob", key("bob"), [world.nowhere()])
    assert ann.send("bob", b"early")
    assert not ann.send("bob", bytes(1000))
    ann.connect("bob", key("bob"), [address])
    world.until(lambda: world.got[bob] == [("ann", b"early")])
    assert ann.counters["dropped_down"] == 1
    world.close(bob)
    world.until(lambda: not ann.is_up("bob"))
    assert ann.send("bob", b"stale")
    world.clock.now += 1.01
    assert not ann.send("bob", b"too late")
    world.until(lambda: ann.counters["dropped_down"] == 3)
    assert ann.queued("bob") == 0


def test_unknown_peers_and_senseless_frames(world: World) -> None:
    ann = world.hub("ann")
    assert not ann.send("nobody", b"x")
    assert ann.counters["dropped_unknown"] == 1
    with pytest.raises(ValueError, match="a frame has 1 to"):
        ann.send("nobody", b"")
    with pytest.raises(ValueError, match="a frame has 1 to"):
        ann.send("nobody", bytes(ann.limits.frame_bytes + 1))
    with pytest.raises(ValueError, match="not an Ed25519"):
        ann.connect("bob", b"\xff" * 32, [])
    with pytest.raises(HubError, match="speaks"):
        ann.connect("bob", key("bob"), [Address("udp", "127.0.0.1", 1)])
    assert not ann.send("bob", b"x")
    ann.disconnect("nobody")


def test_an_address_in_use_is_a_clear_error(world: World) -> None:
    address = world.hub("ann").listen(world.any_address("ann"))
    with pytest.raises(HubError, match="cannot listen on"):
        world.hub("bob").listen(address)


def test_disconnect_forgets_the_peer(world: World) -> None:
    ann, bob = world.pair()
    ann.disconnect("bob")
    assert not ann.is_up("bob")
    assert not ann.send("bob", b"x")
    world.until(lambda: not bob.is_up("ann"))
    assert [type(event) for event in world.seen[bob]] == [LinkUp, LinkDown]
    assert not bob.send("ann", b"x")  # Bob never dialled her: nothing is kept for her
    world.clock.now += 10
    world.settle()
    assert ann.up() == []


def test_replies_go_to_the_newest_link_and_links_are_bounded(world: World) -> None:
    """The same client from several places; with one link too many, the oldest is closed."""
    bob = world.hub("bob", limits=Limits(links_per_peer=2))
    address = bob.listen(world.any_address("bob"))
    clients: list[Hub] = []
    for number in range(3):
        client = world.hub("ann")
        client.connect("bob", key("bob"), [address])
        world.until_counted(bob, "links_up", number + 1)
        client.send("bob", b"%d" % number)
        clients.append(client)
        world.until_counted(bob, "frames_in", number + 1)
        bob.send("ann", b"for %d" % number)
        world.until_counted(client, "frames_in", 1)
        assert world.frames(client) == [b"for %d" % number]
    world.until(lambda: not clients[0].is_up("bob"))
    assert bob.is_up("ann")
    world.close(clients[2])
    world.until(lambda: bob.counters["links_down"] == 2)
    (fall_back,) = [event.falls_back for event in world.seen[bob] if isinstance(event, LinkDown) and event.falls_back]
    (known,) = [event.binding for event in world.seen[clients[1]] if isinstance(event, LinkUp)]
    assert fall_back == known  # so that it can be proved again which link it is
    bob.send("ann", b"fall-back")
    world.until(lambda: world.frames(clients[1])[-1] == b"fall-back")


def test_a_frame_beyond_the_peers_limit_closes_the_link(world: World) -> None:
    """FAULTS 9."""

    def small(public_key: bytes, payload: bytes) -> Admission | None:
        return Admission("ann", frame_bytes=1000)

    ann, bob = world.hub("ann"), world.hub("bob", accept=small)
    ann.connect("bob", key("bob"), [bob.listen(world.any_address("bob"))])
    world.until(lambda: bob.is_up("ann"))
    ann.send("bob", bytes(1000))
    world.until(lambda: len(world.got[bob]) == 1)
    ann.send("bob", bytes(1001))
    world.until(lambda: not bob.is_up("ann"))
    (down,) = [event for event in world.seen[bob] if isinstance(event, LinkDown)]
    assert (down.peer, down.reason.split(":")[0]) == ("ann", "frame too long")
    assert bob.counters["peer_faults"] == 1
    assert len(world.got[bob]) == 1


def test_a_slow_reader_is_let_go(world: World) -> None:
    """FAULTS 47: a client that reads nothing is disconnected after the limit, and not before."""
    limits = Limits(frame_bytes=100_000, queue_bytes=500_000, stall_seconds=10.0)
    ann, bob = world.pair(limits=limits)
    world.hubs.remove(ann)  # reads nothing
    world.fill(bob, "ann")
    world.stand_still(bob, "ann")
    world.fill(bob, "ann")
    world.clock.now += 9.9
    world.settle()
    assert bob.is_up("ann")
    world.clock.now += 0.2
    world.until(lambda: not bob.is_up("ann"))
    assert bob.counters["slow_readers"] == 1
    assert bob.queued("ann") == 0
    world.hubs.append(ann)


def test_a_member_that_reads_nothing_is_dialled_anew(world: World) -> None:
    """Its process hangs, or its machine is gone while the connection seems to live. Much waits for it, but the queue
    is not full."""
    limits = Limits(frame_bytes=1_000_000, queue_bytes=100_000_000, stall_seconds=10.0)
    ann, bob = world.pair(limits=limits)
    world.hubs.remove(bob)
    for _ in range(20):
        assert ann.send("bob", bytes(1_000_000))
        ann.flush()
    world.stand_still(ann, "bob")
    world.clock.now += 9.9
    world.settle()
    assert ann.is_up("bob")
    world.clock.now += 0.2
    world.until(lambda: not ann.is_up("bob"))
    assert ann.counters["slow_readers"] == 1
    world.hubs.append(bob)
    world.clock.now += 1
    world.until(lambda: ann.is_up("bob"))


def test_a_trickling_reader_is_let_go_too(world: World) -> None:
    """It takes something all the time, but its queue stays full."""
    limits = Limits(frame_bytes=100_000, queue_bytes=8_000_000, stall_seconds=10.0)
    ann, bob = world.pair(limits=limits)
    began = world.clock.now
    while bob.is_up("ann"):
        assert world.clock.now < began + 100
        world.fill(bob, "ann")
        ann.poll(0.0)
        bob.poll(0.0)
        world.clock.now += 1
    # Not before. It may be later: how much one look takes out of the kernel's buffers is up to the machine.
    assert world.clock.now >= began + 10
    assert bob.counters["slow_readers"] == 1


def test_links_of_strangers_are_bounded_but_not_those_of_members(world: World) -> None:
    def classify(public_key: bytes, payload: bytes) -> Admission | None:
        return Admission(public_key, privileged=public_key == key("ann"))

    bob = world.hub("bob", accept=classify, limits=Limits(connections=1))
    address = bob.listen(world.any_address("bob"))
    cat, eve, ann = world.hub("cat"), world.hub("eve"), world.hub("ann")
    cat.connect("bob", key("bob"), [address])
    world.until(lambda: bob.is_up(key("cat")))
    eve.connect("bob", key("bob"), [address])
    world.until(lambda: bob.counters["refused"] == 1)
    ann.connect("bob", key("bob"), [address])
    world.until(lambda: bob.is_up(key("ann")))
    assert not bob.is_up(key("eve"))
    cat.disconnect("bob")
    world.until(lambda: not bob.is_up(key("cat")))
    world.clock.now += 2
    world.until(lambda: bob.is_up(key("eve")))  # a closed link makes room


def test_a_new_key_replaces_the_link(world: World) -> None:
    ann, bob = world.pair()
    cat = world.hub("cat")
    at_cat = cat.listen(world.any_address("cat"))
    ann.connect("bob", key("cat"), [at_cat])
    assert not ann.is_up("bob")
    world.until(lambda: ann.is_up("bob"))
    ann.send("bob", b"new machine")
    world.until(lambda: world.frames(cat) == [b"new machine"])
    assert world.frames(bob) == []


def test_closing_a_hub_tells_the_others(world: World) -> None:
    ann, bob = world.pair()
    world.close(bob)
    world.until(lambda: not ann.is_up("bob"))
    ann.send("bob", b"x")
    world.settle()


def test_events_are_bounded() -> None:
    world = World("memory")  # shared code, and the faster driver
    ann = world.hub("ann")
    for _ in range(5000):
        ann.connect("bob", key("bob"), [world.nowhere()])
        ann.poll(0.0)
        ann.disconnect("bob")
    assert len(ann.events()) == EVENTS_KEPT
    assert ann.events() == []
    ann.close()


def real_hub(kind: str) -> Hub:
    """On the real clock."""
    if kind == "tcp":
        return TcpHub(IDENTITIES["ann"], GROUP)
    return MemoryHub(MemoryNetwork(), IDENTITIES["ann"], GROUP)


@pytest.mark.parametrize("kind", ["tcp", "memory"])
def test_wake_from_another_thread_ends_a_poll(kind: str) -> None:
    hub = real_hub(kind)
    for _ in range(3):
        thread = threading.Thread(target=hub.wake)
        thread.start()
        assert hub.poll(None) == []  # would wait for ever
        thread.join()
        hub.poll(0.0)
    hub.close()
    hub.wake()  # by a thread that has not heard of the end: harmless


@pytest.mark.parametrize("kind", ["tcp", "memory"])
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_wait_ends_by_wake_and_by_deadline(kind: str, backend: str) -> None:
    hub = real_hub(kind)

    async def run() -> None:
        await hub.wait(-math.inf)
        before = hub.clock()
        await hub.wait(before + 0.01)
        assert hub.clock() >= before + 0.01
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.wait)
            await anyio.lowlevel.checkpoint()
            hub.wake()
        hub.poll(0.0)

    anyio.run(run, backend=backend)
    hub.close()


@pytest.mark.parametrize("kind", ["tcp", "memory"])
def test_a_trio_server_and_a_synchronous_client_in_another_thread(kind: str) -> None:
    network = MemoryNetwork()

    def make(name: str) -> Hub:
        if kind == "tcp":
            return TcpHub(IDENTITIES[name], GROUP, accept=accept_known)
        return MemoryHub(network, IDENTITIES[name], GROUP, accept=accept_known)

    bob = make("bob")
    address = bob.listen(World(kind).any_address("bob"))
    answers: list[bytes] = []

    def client() -> None:
        ann = make("ann")
        ann.connect("bob", key("bob"), [address])
        for number in range(200):
            ann.send("bob", b"%d" % number)
            ann.flush()
            while len(answers) == number:
                for _, frames in ann.poll(None):
                    answers.extend(frames)
        ann.close()

    async def server() -> None:
        while len(answers) < 200:
            await bob.wait(bob.clock() + 0.1)
            for peer, frames in bob.poll():
                for frame in frames:
                    bob.send(peer, b"re " + frame)
            bob.flush()

    thread = threading.Thread(target=client)
    thread.start()
    anyio.run(server, backend="trio")
    thread.join()
    bob.close()
    assert answers == [b"re %d" % number for number in range(200)]
