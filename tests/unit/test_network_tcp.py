"""What strangers do to an open port, and what it costs: `TcpHub` against raw sockets."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from bftkit.network.addresses import Address
from bftkit.network.hub import Admission, DialFailed, HubError, Limits, LinkDown, LinkUp, Refused
from bftkit.network.session import OPENING_SIZE_MAX, Identity, Session, group_prologue
from bftkit.network.tcp import TcpHub

GROUP = b"g" * 32
ANN, BOB = Identity.from_seed(b"a" * 32), Identity.from_seed(b"b" * 32)
LOOPBACK = Address("tcp", "127.0.0.1", 0)
PATIENCE_SECONDS = 60.0
"""How long anything may take before a test gives up: far more than it takes on a busy machine."""


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """One hub with an open port, an honest client on demand, and raw connections."""

    def __init__(self, limits: Limits) -> None:
        self.clock = Clock()
        self.welcome = True
        self.asked: list[bytes] = []
        self.hub = TcpHub(BOB, GROUP, accept=self.accept, limits=limits, clock=self.clock)
        self.address = self.hub.listen(LOOPBACK)
        self.got: list[bytes] = []
        self.sockets: list[socket.socket] = []
        self.clients: list[TcpHub] = []

    def accept(self, public_key: bytes, payload: bytes) -> Admission | None:
        self.asked.append(public_key)
        return Admission(public_key) if self.welcome else None

    def raw(self, data: bytes = b"") -> socket.socket:
        sock = socket.create_connection((self.address.host, self.address.port))
        sock.settimeout(10)
        self.sockets.append(sock)
        if data:
            sock.sendall(data)
        return sock

    def honest(self) -> TcpHub:
        client = TcpHub(ANN, GROUP, clock=self.clock)
        self.clients.append(client)
        client.connect("bob", BOB.public_key, [self.address])
        return client

    def until(self, condition: Callable[[], bool]) -> None:
        end, rounds = time.monotonic() + PATIENCE_SECONDS, 0
        while not condition():
            assert time.monotonic() < end, f"it did not happen: {self.hub.counters}"
            # The kernel may take its time, even on loopback: after some rounds, wait in them.
            rounds += 1
            patience = 0.0 if rounds < 100 else 0.002
            for client in self.clients:
                client.poll(0.0)
            for _, frames in self.hub.poll(patience):
                self.got += frames

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        for client in self.clients:
            client.close()
        self.hub.close()
        gc.collect()


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(limits: Limits | None = None) -> Site:
        site = Site(limits if limits is not None else Limits())
        sites.append(site)
        return site

    yield make
    for site in sites:
        site.close()


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a TLS client
        b"\x00\x00",
        b"\x00\x60" + bytes(96),
        b"\xff\xff" + bytes(65535),
        (OPENING_SIZE_MAX + 1).to_bytes(2, "big"),
        bytes(100_000),
    ],
    ids=["http", "tls", "empty", "zeros", "longest", "too long by one", "many zeros"],
)
def test_garbage_on_the_port(make_site: Callable[..., Site], garbage: bytes) -> None:
    """Closed at once, counted, attributed to its source; others notice nothing."""
    site = make_site()
    client = site.honest()
    site.until(lambda: client.is_up("bob"))
    sock = site.raw(garbage)
    site.until(lambda: site.hub.counters["refused"] == 1)
    assert is_closed(sock)
    (refused,) = [event for event in site.hub.events() if isinstance(event, Refused)]
    assert refused.source == "{}:{}".format(*sock.getsockname())
    assert refused.reason.startswith("bad handshake")
    assert refused.public_key is None
    client.send("bob", b"still here")
    client.flush()
    site.until(lambda: site.got == [b"still here"])


def test_garbage_after_a_good_handshake(make_site: Callable[..., Site]) -> None:
    """An authenticated peer whose bytes do not decrypt loses its link; the fault is attributed to it."""
    site = make_site()
    sock = site.raw()
    session = Session.initiator(ANN, BOB.public_key, group_prologue(GROUP), b"e" * 32)
    sock.sendall(session.take_output())
    sock.settimeout(0.01)
    while not session.is_open:
        site.hub.poll(0.0)
        with contextlib.suppress(TimeoutError):
            session.receive(sock.recv(4096))
    sock.sendall(session.take_output())
    site.until(lambda: site.hub.is_up(ANN.public_key))
    sock.sendall(b"\x00\x20" + bytes(32))
    site.until(lambda: not site.hub.is_up(ANN.public_key))
    down = site.hub.events()[-1]
    assert isinstance(down, LinkDown)
    assert down.peer == ANN.public_key
    assert down.reason.startswith("bad message")
    assert site.hub.counters["peer_faults"] == 1


def test_a_replayed_conversation_does_not_become_a_link(make_site: Callable[..., Site]) -> None:
    """FAULTS 11: somebody who recorded Ann's bytes sends them again; replies keep going to the real Ann."""
    site = make_site()
    recorder = socket.create_server(("127.0.0.1", 0))
    site.sockets.append(recorder)
    client = TcpHub(ANN, GROUP, clock=site.clock)
    site.clients.append(client)
    client.connect("bob", BOB.public_key, [Address("tcp", "127.0.0.1", recorder.getsockname()[1])])
    client.poll(0.0)
    middle, _ = recorder.accept()
    recorder.close()
    site.sockets.append(middle)
    far = site.raw()
    recorded: list[bytes] = []
    middle.setblocking(False)
    far.setblocking(False)

    def relay() -> bool:
        with contextlib.suppress(BlockingIOError):
            recorded.append(middle.recv(65536))
            far.sendall(recorded[-1])
        with contextlib.suppress(BlockingIOError):
            middle.sendall(far.recv(65536))
        return site.hub.is_up(ANN.public_key) and client.is_up("bob")

    site.until(relay)
    client.send("bob", b"pay 1")
    client.flush()
    site.until(lambda: relay() and site.got == [b"pay 1"])
    replay = site.raw(recorded[0])
    site.until(lambda: site.hub.counters["accepted"] == 2)
    replay.settimeout(0.01)
    answer = b""
    while not answer:
        site.hub.poll(0.0)
        with contextlib.suppress(TimeoutError):
            answer = replay.recv(4096)  # of no use without Ann's keys
    replay.settimeout(10)
    assert site.hub.counters["refused"] == 0
    replay.sendall(b"".join(recorded[1:]))
    site.until(lambda: site.hub.counters["refused"] == 1)
    assert is_closed(replay)
    assert site.got == [b"pay 1"]
    assert site.hub.counters["links_up"] == 1
    site.hub.send(ANN.public_key, b"done")
    site.hub.flush()
    answers: list[bytes] = []

    def answered() -> bool:
        relay()
        for _, frames in client.poll(0.0):
            answers.extend(frames)
        return bool(answers)

    while not answered():
        site.hub.poll(0.0)
    assert answers == [b"done"]


def test_a_flood_of_half_open_connections_is_bounded(make_site: Callable[..., Site]) -> None:
    """FAULTS 8: a thousand connections that trickle; few are kept, an honest handshake still gets through."""
    site = make_site(Limits(half_open=16, half_open_per_host=8, handshake_seconds=5.0))
    for _ in range(1000):
        sock = site.raw()
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"\x04")
        site.hub.poll(0.0)
        sock.close()
        site.sockets.remove(sock)
    sockets = [site.raw(b"\x04") for _ in range(60)]
    site.until(lambda: site.hub.counters["accepted"] == 1060)
    descriptors = len(os.listdir("/proc/self/fd"))
    client = site.honest()
    site.until(lambda: client.is_up("bob") and site.hub.is_up(ANN.public_key))
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 10
    assert site.hub.counters["evicted_half_open"] >= 60 - 16
    half_open = 1060 - site.hub.counters["refused"]
    assert half_open <= 8
    site.clock.now += 5.1
    site.until(lambda: site.hub.counters["refused"] == 1060)
    assert all(is_closed(sock) for sock in sockets)
    assert site.hub.is_up(ANN.public_key)


def test_the_busiest_host_pays_for_a_flood(make_site: Callable[..., Site]) -> None:
    """A handshake that another host has begun survives."""
    site = make_site(Limits(half_open=4, half_open_per_host=100))

    def knock(source: str) -> socket.socket:
        sock = socket.create_connection((site.address.host, site.address.port), source_address=(source, 0))
        sock.settimeout(10)
        site.sockets.append(sock)
        return sock

    quiet = knock("127.0.0.2")
    site.until(lambda: site.hub.counters["accepted"] == 1)
    for _ in range(50):
        knock("127.0.0.3")
    site.until(lambda: site.hub.counters["accepted"] == 51)
    assert site.hub.counters["evicted_half_open"] == 47
    quiet.setblocking(False)
    with pytest.raises(BlockingIOError):  # open, with nothing to read
        quiet.recv(1)


def test_links_per_host_are_bounded(make_site: Callable[..., Site]) -> None:
    site = make_site(Limits(connections_per_host=3, links_per_peer=100))
    clients = [site.honest() for _ in range(5)]
    site.until(lambda: site.hub.counters["links_up"] + site.hub.counters["refused"] == 5)
    assert site.hub.counters["links_up"] == 3
    site.until(lambda: sum(client.is_up("bob") for client in clients) == 3)


def test_a_handshake_byte_by_byte(make_site: Callable[..., Site]) -> None:
    """FAULTS 7: an honest peer behind a link that delivers single bytes."""
    site = make_site()
    sock = site.raw()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    session = Session.initiator(ANN, BOB.public_key, group_prologue(GROUP), b"e" * 32, b"hello")
    for byte in session.take_output():
        sock.send(bytes([byte]))
        site.hub.poll(0.0)
    sock.settimeout(0.01)
    while not session.is_open:
        site.hub.poll(0.0)
        with contextlib.suppress(TimeoutError):
            session.receive(sock.recv(1))
    for byte in session.take_output() + session.send([b"one", b"two"]):
        sock.send(bytes([byte]))
        for _, frames in site.hub.poll(0.0):
            site.got += frames
    site.until(lambda: site.got == [b"one", b"two"])


def test_a_silent_listener_does_not_hold_us(make_site: Callable[..., Site]) -> None:
    """It accepts and says nothing: after the handshake's time the next address is tried."""
    site = make_site()
    silent = socket.create_server(("127.0.0.1", 0))
    site.sockets.append(silent)
    client = TcpHub(ANN, GROUP, clock=site.clock)
    site.clients.append(client)
    client.connect("bob", BOB.public_key, [Address("tcp", "127.0.0.1", silent.getsockname()[1]), site.address])
    for _ in range(50):
        client.poll(0.0)
    assert client.events() == []
    site.clock.now += client.limits.handshake_seconds + 0.1
    site.until(lambda: client.is_up("bob"))
    silent.close()
    failed, up = client.events()
    assert isinstance(failed, DialFailed)
    assert "too long" in failed.reason
    assert isinstance(up, LinkUp)


def test_host_names_are_looked_up(make_site: Callable[..., Site]) -> None:
    site = make_site()
    client = TcpHub(ANN, GROUP)
    site.clients.append(client)
    client.connect("bob", BOB.public_key, [Address("tcp", "localhost", site.address.port)])
    client.connect("nobody", BOB.public_key, [Address("tcp", "no-such-host.invalid", 1)])
    failed = False
    while not (client.is_up("bob") and failed):
        site.hub.poll(0.0)
        client.poll(0.001)
        failed = failed or client.counters["dial_failed"] > 0


def test_all_addresses_of_a_name_are_tried(make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    """As where localhost is first an IPv6 address, on which nobody listens."""
    site = make_site()
    port = site.address.port
    target = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    answer = [(*target, ("127.0.0.9", port)), (*target, ("127.0.0.8", port)), (*target, ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_settings: answer)  # pyright: ignore
    client = TcpHub(ANN, GROUP, clock=site.clock)
    site.clients.append(client)
    client.connect("bob", BOB.public_key, [Address("tcp", "member.example", port)])
    site.until(lambda: client.is_up("bob"))
    assert client.counters["dial_failed"] == 0


def test_many_handshakes_do_not_hold_up_frames(make_site: Callable[..., Site]) -> None:
    """A hundred strangers knock at once: a round handles a few, so that the frames of peers come soon."""
    site = make_site()
    client = site.honest()
    site.until(lambda: client.is_up("bob") and site.hub.is_up(ANN.public_key))
    site.welcome = False
    site.asked.clear()
    for number in range(40):
        stranger = Identity.from_seed(bytes([number]) * 32)
        session = Session.initiator(stranger, BOB.public_key, group_prologue(GROUP), b"e" * 32)
        site.raw(session.take_output())
    before = rounds = 0  # all of them wait by now, and no round was before the first that is counted
    while len(site.asked) < 40:
        site.hub.poll(0.1)
        assert len(site.asked) - before <= 8
        before = len(site.asked)
        rounds += 1
    assert rounds >= 4
    assert site.hub.counters["accepted"] == 41


def test_ipv6(make_site: Callable[..., Site]) -> None:
    site = make_site()
    try:
        address = site.hub.listen(Address("tcp", "::1", 0))
    except HubError as error:
        pytest.skip(f"no IPv6 here: {error}")
    client = TcpHub(ANN, GROUP)
    site.clients.append(client)
    client.connect("bob", BOB.public_key, [address])
    site.until(lambda: client.is_up("bob"))


def test_no_descriptor_left(make_site: Callable[..., Site]) -> None:
    """The port rests instead of spinning, living links go on, and strangers get in again afterwards."""
    site = make_site()
    client = site.honest()
    site.until(lambda: client.is_up("bob") and site.hub.is_up(ANN.public_key))
    late = site.raw()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        site.until(lambda: site.hub.counters["refused"] == 1)
        assert site.hub.poll(0.0) == []
        assert site.hub.counters["refused"] == 1
        client.send("bob", b"hello")
        client.flush()
        site.until(lambda: site.got == [b"hello"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    site.clock.now += 1
    site.until(lambda: site.hub.counters["accepted"] == 2)
    late.sendall(b"\xff\xff")
    site.until(lambda: site.hub.counters["refused"] == 2)


def test_one_peer_cannot_fill_a_round(make_site: Callable[..., Site]) -> None:
    """What one `poll` reads from one link is bounded; the rest comes with the next."""
    site = make_site(Limits(read_bytes=10_000))
    client = site.honest()
    site.until(lambda: client.is_up("bob") and site.hub.is_up(ANN.public_key))
    for _ in range(100):
        client.send("bob", bytes(1000))
    client.flush()
    rounds = 0
    while len(site.got) < 100:
        client.poll(0.0)  # should the kernel not have taken all of it at once
        new = [frame for _, frames in site.hub.poll(1.0) for frame in frames]
        site.got += new
        size = sum(map(len, new))
        assert size <= 65_536 + 10_000
        rounds += 1
    assert rounds >= 10
