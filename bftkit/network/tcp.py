"""The `Hub` over TCP: every connection of one process on one selector, encrypted by `session`.

What makes it fast (each measured): one wait covers all sockets, so one wake-up serves many peers; each peer gets one
join, one encryption and one direct `send` a flush; a socket is watched for writing only while it is full; what
arrives is read into one shared buffer and each frame is cut out once.

What keeps strangers cheap: at most `Limits.half_open` of them, each with a deadline and a kilobyte of buffer; when
there are too many, the oldest of the busiest host goes, so that a flood from one host cannot keep out another, and an
honest handshake (milliseconds) gets through even a flood from its own. Dead machines behind a living link are noticed
by TCP's keep-alive and user timeout.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import math
import os
import random as random_module
import selectors
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

import attrs

from bftkit.network.addresses import Address
from bftkit.network.hub import Accept, Admission, HubError, Limits, refuse_all
from bftkit.network.routes import Dial
from bftkit.network.session import Identity, Phase, Session, SessionError
from bftkit.network.switchboard import Link, Route, Switchboard

ACCEPTS_PER_POLL: Final = 64
"""Connections taken from one listener in one round, so that a flood of them cannot hold up the frames."""

BACKLOG: Final = 256
LISTENER_PAUSE_SECONDS: Final = 0.2
"""How long a listener rests when the process has no descriptor left."""

_READ: Final = selectors.EVENT_READ
_BOTH: Final = selectors.EVENT_READ | selectors.EVENT_WRITE
_Target: TypeAlias = tuple[int, tuple[str | int | bytes, ...]]
"""An address family and what `connect` takes for it."""


class TcpLink(Link):
    """A socket with its session."""

    __slots__ = ("address", "admission", "connecting", "deadline", "host", "others", "output", "session", "socket")

    def __init__(
        self, sock: socket.socket, session: Session, source: str, host: str, deadline: float, address: Address | None
    ) -> None:
        super().__init__(None, source, dialled=address is not None)
        self.socket = sock
        self.session = session
        self.host = host
        """What per-host limits count: an IPv4 address, or the /64 of an IPv6 address."""
        self.deadline = deadline
        """When the handshake must be over."""
        self.address = address
        """Where we dialled; None if we were dialled."""
        self.admission: Admission | None = None
        self.connecting = address is not None
        self.others: list[_Target] = []
        """What else the host's name stands for, to be tried if nobody answers here."""
        self.output: memoryview = memoryview(b"")
        """Encrypted bytes that the socket did not take yet."""


@attrs.define(eq=False)
class _Listener:
    socket: socket.socket
    paused_until: float = math.inf


class TcpHub(Switchboard[TcpLink]):
    """All TCP links of one process. See `bftkit.network.hub` for its use."""

    def __init__(
        self,
        identity: Identity,
        group: bytes,
        *,
        accept: Accept = refuse_all,
        payload: bytes = b"",
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`group`: the 32-byte group id, which peers must share. `payload`: up to 1024 bytes that our handshakes
        carry. `random` (0 to 1) spreads redialling; `entropy` (n bytes, unpredictable) makes ephemeral keys."""
        super().__init__(
            identity,
            group,
            accept=accept,
            payload=payload,
            limits=limits if limits is not None else Limits(),
            clock=clock,
            random=random,
        )
        self._entropy = entropy
        self._buffer = bytearray(self._limits.read_bytes)
        self._view = memoryview(self._buffer)
        self._listeners: list[_Listener] = []
        self._half_open: dict[str, dict[TcpLink, None]] = {}
        self._half_open_count = 0
        self._dialling: dict[TcpLink, None] = {}
        self._looked_up: SimpleQueue[Callable[[], None]] = SimpleQueue()

    # --- listening ----------------------------------------------------------------------------------------------

    def listen(self, address: Address) -> Address:
        self._check_dialable(address)
        try:
            family, target = _look_up(address)[0]
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(target)
                sock.listen(BACKLOG)
                sock.setblocking(False)
            except OSError:
                sock.close()
                raise
        except OSError as error:
            raise HubError(f"cannot listen on {address}: {error.strerror or error}") from error
        listener = _Listener(sock)
        self._listeners.append(listener)
        self._selector.register(sock, _READ, partial(self._on_knock, listener))
        return attrs.evolve(address, port=sock.getsockname()[1])

    def _on_knock(self, listener: _Listener, mask: int) -> None:
        now = self._clock()
        for _ in range(ACCEPTS_PER_POLL):
            try:
                sock, (host, port, *_rest) = listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # It stays readable: without a pause every wait would end at once.
                    self._selector.unregister(listener.socket)
                    listener.paused_until = now + LISTENER_PAUSE_SECONDS
                    self._soon(listener.paused_until)
                    self._refuse("", "no descriptor is left")
                    return
                continue  # the stranger was gone before we looked
            self._counters["accepted"] += 1
            self._welcome(sock, str(host), int(port), now)

    def _welcome(self, sock: socket.socket, host: str, port: int, now: float) -> None:
        _prepare(sock)
        session = Session.responder(self._identity, self._prologue, self._entropy(32), self._limits.frame_bytes)
        deadline = now + self._limits.handshake_seconds
        link = TcpLink(sock, session, f"{host}:{port}", _counted_host(host), deadline, None)
        same = self._half_open.setdefault(link.host, {})
        if len(same) >= self._limits.half_open_per_host:
            self._evict(same, now)
        elif self._half_open_count >= self._limits.half_open:
            self._evict(max(self._half_open.values(), key=len), now)
        self._half_open.setdefault(link.host, {})[link] = None
        self._half_open_count += 1
        self._soon(deadline)
        self._selector.register(sock, _READ, partial(self._on_ready, link))

    def _evict(self, links: dict[TcpLink, None], now: float) -> None:
        self._counters["evicted_half_open"] += 1
        self._fail(next(iter(links)), "too many handshakes at once", now)

    def _settled(self, link: TcpLink) -> None:
        """Its handshake is over, one way or the other."""
        same = self._half_open.get(link.host)
        if same is not None and link in same:
            del same[link]
            self._half_open_count -= 1
            if not same:
                del self._half_open[link.host]

    # --- dialling -----------------------------------------------------------------------------------------------

    def _check_dialable(self, address: Address) -> None:
        if address.scheme != "tcp":
            raise HubError(f"this hub speaks tcp:// only, not {address}")

    def _dial(self, route: Route[TcpLink], dial: Dial, address: Address, now: float) -> None:
        if address.is_numeric:
            try:
                targets = _look_up(address)
            except OSError as error:  # an IPv6 scope that this machine does not have
                self._dial_failed(route, address, error.strerror or str(error), now)
                return
            self._dial_first(route, dial, address, targets, now)
        else:
            # A look-up may block for many seconds: it gets a thread of its own, and `_on_looked_up` its result.
            threading.Thread(
                target=self._look_up_elsewhere, args=(route, dial, address), daemon=True, name="bftkit-look-up"
            ).start()

    def _look_up_elsewhere(self, route: Route[TcpLink], dial: Dial, address: Address) -> None:
        """Runs in its own thread: touches nothing but the queue and the waker."""
        found: list[_Target] = []
        reason = ""
        try:
            found = _look_up(address)
        except OSError as error:
            reason = error.strerror or str(error)
        self._looked_up.put(partial(self._on_looked_up, route, dial, address, found, reason))
        self.wake()

    def _on_looked_up(
        self, route: Route[TcpLink], dial: Dial, address: Address, found: list[_Target], reason: str
    ) -> None:
        if route.dial is not dial or route.dialled is not None or dial.due != math.inf:
            return  # disconnected, or dialled otherwise, meanwhile
        if found:
            self._dial_first(route, dial, address, found, self._clock())
        else:
            self._dial_failed(route, address, reason, self._clock())

    def _on_wake(self, mask: int) -> None:
        super()._on_wake(mask)
        with contextlib.suppress(Empty):
            while True:
                self._looked_up.get_nowait()()

    def _dial_first(
        self, route: Route[TcpLink], dial: Dial, address: Address, targets: list[_Target], now: float
    ) -> None:
        """Dials the first target that can be dialled at all."""
        reason = "the host has no address"
        for position, (family, target) in enumerate(targets):
            try:
                sock = _begin_connect(family, target)
            except OSError as error:
                reason = error.strerror or str(error)
                continue
            session = Session.initiator(
                self._identity,
                dial.public_key,
                self._prologue,
                self._entropy(32),
                self._payload,
                self._limits.frame_bytes,
            )
            deadline = now + self._limits.handshake_seconds
            link = TcpLink(sock, session, str(address), address.host, deadline, address)
            link.peer = route.peer
            link.public_key = dial.public_key
            link.others = targets[position + 1 :]
            route.dialled = link
            self._dialling[link] = None
            self._soon(deadline)
            self._selector.register(sock, _BOTH, partial(self._on_ready, link))
            return
        self._dial_failed(route, address, reason, now)

    # --- a ready socket -----------------------------------------------------------------------------------------

    def _on_ready(self, link: TcpLink, mask: int) -> None:
        if link.closed:  # by what another socket brought in the same round
            return
        if mask & selectors.EVENT_WRITE:
            self._on_writable(link)
            if link.closed:
                return
        if mask & selectors.EVENT_READ:
            self._on_readable(link)

    def _on_readable(self, link: TcpLink) -> None:
        if link.connecting:
            return  # the writable side tells whether it worked
        if link.up_since is None and not link.dialled:
            if not self._strangers_left:
                return  # stays readable: the next round
            self._strangers_left -= 1
        try:
            size = link.socket.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(link, f"the connection broke: {error.strerror or error}", self._clock())
            return
        if not size:
            self._fail(link, "the peer closed the connection", self._clock())
            return
        session = link.session
        try:
            if link.up_since is not None:
                frames = session.receive(self._view[:size])
            else:
                frames = self._shake_hands(link, self._view[:size])
        except SessionError as error:
            if link.up_since is not None:
                self._counters["peer_faults"] += 1
            self._fail(link, str(error), self._clock())
            return
        if link.up_since is not None and not link.closed:
            assert link.peer is not None
            self._deliver(link.peer, frames, size)

    def _shake_hands(self, link: TcpLink, data: memoryview) -> list[bytes]:
        session = link.session
        frames = session.receive(data)
        now = self._clock()
        if session.phase is Phase.OFFERED:
            assert session.peer_key is not None
            admission = self._accept(session.peer_key, session.peer_payload)
            if admission is None:
                raise SessionError("refused", "this key is not welcome here")
            if not self._has_room(admission, link.host):
                raise SessionError("refused", "too many links are open")
            link.admission = admission
            session.accept(self._payload, admission.frame_bytes)
        output = session.take_output()
        if output:
            self._send_early(link, output, now)
        if session.is_open and not link.closed:
            self._open(link, now)
        return frames

    def _open(self, link: TcpLink, now: float) -> None:
        session, admission = link.session, link.admission
        if link.dialled:
            del self._dialling[link]
        else:
            assert admission is not None
            assert session.peer_key is not None
            if not self._still_welcome(admission, session.peer_key, session.peer_payload):
                raise SessionError("refused", "this key is not welcome here any more")
            if not self._has_room(admission, link.host):
                raise SessionError("refused", "too many links are open")
            self._settled(link)
            link.peer = admission.peer
            link.public_key = session.peer_key
            if not admission.privileged:
                self._count_admitted(link.host, 1)
        self._link_opened(link, admission, session.peer_payload, session.handshake_hash, now)

    def _on_writable(self, link: TcpLink) -> None:
        now = self._clock()
        if link.connecting:
            code = link.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._fail(link, os.strerror(code), now)
                return
            link.connecting = False
            self._watch(link, _READ)
            self._send_early(link, link.session.take_output(), now)
            return
        if link.unsent:
            self._push(link, link.output, now)
            if not link.unsent and not link.closed:
                self._watch(link, _READ)
                self._unblocked(link, now)

    def _send_early(self, link: TcpLink, data: bytes, now: float) -> None:
        """Handshake messages: a fresh socket has room for them, or the link is not worth keeping."""
        try:
            sent = link.socket.send(data)
        except OSError as error:
            self._fail(link, f"the connection broke: {error.strerror or error}", now)
            return
        if sent < len(data):
            self._fail(link, "the socket did not take a handshake message", now)

    def _write(self, link: TcpLink, frames: list[bytes], now: float) -> None:
        data = link.session.send(frames)
        self._counters["bytes_out"] += len(data)
        self._push(link, memoryview(data), now)
        if link.unsent and not link.closed:
            self._watch(link, _BOTH)

    def _push(self, link: TcpLink, data: memoryview, now: float) -> None:
        try:
            sent = link.socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            link.unsent = 0
            self._fail(link, f"the connection broke: {error.strerror or error}", now)
            return
        link.output = data[sent:]
        link.unsent = len(data) - sent
        if link.unsent and (sent or link.blocked_since == math.inf):
            link.blocked_since = now
            self._soon(now + self._limits.stall_seconds)

    def _watch(self, link: TcpLink, mask: int) -> None:
        self._selector.modify(link.socket, mask, partial(self._on_ready, link))

    # --- the end of links ---------------------------------------------------------------------------------------

    def _fail(self, link: TcpLink, reason: str, now: float) -> None:
        """Closes a link in whatever state it is, and reports it to whom it concerns."""
        if link.closed:
            return
        was_up = link.up_since is not None
        address = link.address
        self._link_closed(link, reason, now)
        if was_up:
            return
        if address is None:
            self._refuse(link.source, reason, link.session.peer_key)
        else:
            assert link.peer is not None
            route = self._routes.get(link.peer)
            if route is None:
                return
            if link.connecting and link.others and route.dial is not None:
                self._dial_first(route, route.dial, address, link.others, now)
            else:
                self._dial_failed(route, address, reason, now)

    def _release(self, link: TcpLink) -> None:
        self._selector.unregister(link.socket)
        link.socket.close()
        link.session.close()
        link.output = memoryview(b"")
        link.unsent = 0
        self._settled(link)
        self._dialling.pop(link, None)
        if link.up_since is not None and link.admission is not None and not link.admission.privileged:
            self._count_admitted(link.host, -1)

    def _sweep_links(self, now: float) -> float:
        following = math.inf
        for link in [*self._dialling, *(link for same in self._half_open.values() for link in same)]:
            if link.deadline <= now:
                self._fail(link, "the handshake took too long", now)
            else:
                following = min(following, link.deadline)
        for listener in self._listeners:
            if listener.paused_until <= now:
                listener.paused_until = math.inf
                self._selector.register(listener.socket, _READ, partial(self._on_knock, listener))
            following = min(following, listener.paused_until)
        return following

    def _close_transport(self) -> None:
        now = self._clock()
        for link in [*self._dialling, *(link for same in self._half_open.values() for link in same)]:
            self._link_closed(link, "this hub was closed", now)
        for listener in self._listeners:
            listener.socket.close()
        self._listeners.clear()


def _look_up(address: Address) -> list[_Target]:
    """What the host stands for. Raises `OSError`; not for a numeric host."""
    flags = socket.AI_NUMERICHOST if address.is_numeric else 0
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, target) for family, _type, _protocol, _name, target in found]


def _begin_connect(family: int, target: tuple[str | int | bytes, ...]) -> socket.socket:
    """A socket on its way to `target`. Raises `OSError`."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        _prepare(sock)
        code = sock.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
    except OSError:
        sock.close()
        raise
    return sock


def _counted_host(host: str) -> str:
    """Whom per-host limits count together: one IPv6 subscriber has a whole /64."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if ip.version == 4:
        return host
    mapped = getattr(ip, "ipv4_mapped", None)
    return str(mapped) if mapped is not None else str(ipaddress.ip_network((ip, 64), strict=False))


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 5),  # seconds
        ("TCP_KEEPINTVL", 2),  # seconds
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 15_000),  # milliseconds
    ):
        option: int | None = getattr(socket, name, None)  # not every system has them all
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
