"""What all drivers of the `Hub` interface share: routes, queues, redialling, events, counters, waiting.

A driver adds its own `Link` and says how to listen, how to dial and how to write; it reports what happens to links
through `_link_opened`, `_link_closed`, `_dial_failed` and `_refuse`. What a peer's queue may hold, which link is used
and what is lost when are decided here, once, so that a group in one process behaves as one on real sockets.

Time is passed in as `clock` (seconds, monotonic). Deadlines are not kept in a heap: `_sweep_at` is the earliest, and
the sweep that is due then walks all routes. There are few deadlines, and the hot path only compares one number.
"""

from __future__ import annotations

import math
import random as random_module
import selectors
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import trio

from bftkit.network.addresses import Address
from bftkit.network.hub import (
    Accept,
    Admission,
    DialFailed,
    Event,
    Limits,
    LinkDown,
    LinkUp,
    Peer,
    Received,
    Refused,
)
from bftkit.network.routes import FRAME_COST, Dial, Outbox
from bftkit.network.session import PAYLOAD_SIZE_MAX, Identity, group_prologue, static_public_key
from bftkit.network.waker import Waker

COUNTERS: Final = {
    "links_up": "links opened",
    "links_down": "links lost",
    "frames_in": "frames received",
    "frames_out": "frames given to a link",
    "bytes_in": "bytes received by open links",
    "bytes_out": "bytes given to links",
    "dropped_full": "frames dropped by send: the peer's queue was full",
    "dropped_down": "frames dropped: no link for longer than the grace, or too many waiting for one",
    "dropped_unknown": "frames dropped by send: no such peer",
    "dial_failed": "fruitless attempts to dial",
    "accepted": "strangers that knocked",
    "refused": "strangers turned away, for any reason",
    "evicted_half_open": "handshakes cut off because too many were in progress",
    "slow_readers": "links closed because the peer did not read",
    "peer_faults": "open links closed because the peer broke the format or the encryption",
}
"""The names in `Hub.counters` and what they count."""

EVENTS_KEPT: Final = 4096
"""Events kept for a caller that does not fetch them; older ones are forgotten."""

WRITE_BYTES: Final = 256 * 1024
"""What is encrypted and written at once. More would only wait, encrypted, in our own memory."""

STRANGERS_PER_POLL: Final = 8
"""Handshake messages of strangers handled in one round. Each may cost two to four scalar multiplications (some tenths
of a millisecond), and frames of peers must not wait for hundreds of them; the others keep for the next round."""

PollCallback: TypeAlias = Callable[[int], None]


class Link:
    """One connection, in either direction. Drivers extend it."""

    __slots__ = ("binding", "blocked_since", "closed", "dialled", "peer", "public_key", "source", "unsent", "up_since")

    def __init__(self, peer: Peer | None, source: str, *, dialled: bool) -> None:
        self.peer = peer
        """Whose it is: known from the start if we dialled, else from the admission on."""
        self.source = source
        """The other end's address, to attribute faults to."""
        self.dialled = dialled
        self.public_key: bytes | None = None
        self.binding = b""
        """What names this very link, once it is open."""
        self.up_since: float | None = None
        """When it opened; None before."""
        self.closed = False
        self.unsent = 0
        """Bytes handed over that the transport has not taken yet; while there are any, no more are handed over."""
        self.blocked_since = math.inf
        """Since when the transport took nothing."""


AnyLink = TypeVar("AnyLink", bound=Link)


class Route(Generic[AnyLink]):
    """All that concerns one peer."""

    __slots__ = (
        "current",
        "dial",
        "dialled",
        "dirty",
        "down_since",
        "full_since",
        "incoming",
        "outbox",
        "peer",
        "queue_bytes",
    )

    def __init__(self, peer: Peer, queue_bytes: int, now: float) -> None:
        self.peer = peer
        self.outbox = Outbox()
        self.queue_bytes = queue_bytes
        self.dial: Dial | None = None
        self.dialled: AnyLink | None = None
        """The link that we dialled, open or not yet."""
        self.incoming: list[AnyLink] = []
        """Open links that the peer dialled, the newest last."""
        self.current: AnyLink | None = None
        """The open link on which frames go out."""
        self.dirty = False
        """Whether `flush` has something to do here."""
        self.down_since = now
        self.full_since = math.inf
        """Since when the queue was never less than half full, once a frame was dropped."""


class Switchboard(ABC, Generic[AnyLink]):
    """See `bftkit.network.hub.Hub`, whose methods these are."""

    def __init__(
        self,
        identity: Identity,
        group: bytes,
        *,
        accept: Accept,
        payload: bytes,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._identity = identity
        self._prologue = group_prologue(group)
        self._accept = accept
        self._limits = limits
        self._clock = clock
        self._random = random
        self._payload = b""
        self.payload = payload
        self._counters: Counter[str] = Counter()
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._routes: dict[Peer, Route[AnyLink]] = {}
        self._dirty: list[Route[AnyLink]] = []
        self._received: Received = []
        self._strangers_left = 0
        self._sweep_at = math.inf
        self._closed = False
        self._admitted = 0
        self._admitted_by_host: Counter[str] = Counter()
        self._selector = selectors.DefaultSelector()
        self._waker = Waker()
        self._selector.register(self._waker.fileno(), selectors.EVENT_READ, self._on_wake)

    # --- what a driver adds -------------------------------------------------------------------------------------

    @abstractmethod
    def listen(self, address: Address) -> Address: ...

    @abstractmethod
    def _check_dialable(self, address: Address) -> None:
        """Raises `HubError` if this driver cannot dial such an address."""

    @abstractmethod
    def _dial(self, route: Route[AnyLink], dial: Dial, address: Address, now: float) -> None:
        """Begins to dial; sets `route.dialled`, or reports through `_dial_failed`."""

    @abstractmethod
    def _write(self, link: AnyLink, frames: list[bytes], now: float) -> None:
        """Hands frames to the transport; closes the link if that fails."""

    @abstractmethod
    def _release(self, link: AnyLink) -> None:
        """Frees what the transport holds for the link. Called once for every link."""

    @abstractmethod
    def _sweep_links(self, now: float) -> float:
        """Closes handshakes that took too long; returns the next deadline."""

    @abstractmethod
    def _close_transport(self) -> None:
        """Frees listeners and all links that are not on a route."""

    # --- the caller's side --------------------------------------------------------------------------------------

    @property
    def public_key(self) -> bytes:
        """Our own Ed25519 public key."""
        return self._identity.public_key

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def clock(self) -> Callable[[], float]:
        """The clock in which deadlines are counted."""
        return self._clock

    @property
    def counters(self) -> Counter[str]:
        return self._counters

    @property
    def payload(self) -> bytes:
        """What our handshake messages carry for the peer; a change concerns later handshakes."""
        return self._payload

    @payload.setter
    def payload(self, payload: bytes) -> None:
        if len(payload) > PAYLOAD_SIZE_MAX:
            raise ValueError(f"a handshake payload has at most {PAYLOAD_SIZE_MAX} bytes, not {len(payload)}")
        self._payload = payload

    def connect(self, peer: Peer, public_key: bytes, addresses: Sequence[Address]) -> None:
        static_public_key(public_key)  # refuses bytes that are no key while the caller can still be told
        for address in addresses:
            self._check_dialable(address)
        now = self._clock()
        route = self._routes.get(peer)
        if route is None:
            route = self._routes[peer] = Route[AnyLink](peer, self._limits.queue_bytes, now)
        dial = route.dial
        if dial is not None and dial.public_key == public_key:
            dial.replace_addresses(addresses, now)
        else:
            links = self._links(route)
            if any(link.public_key != public_key for link in links):  # also those that we were dialled on, and only so
                for link in links:
                    self._link_closed(link, "the peer's key was replaced", now)
                route = self._routes.setdefault(peer, route)
            route.dial = Dial(public_key, addresses, now)
        self._sweep_at = min(self._sweep_at, route.dial.due if route.dial is not None else math.inf)

    def disconnect(self, peer: Peer) -> None:
        route = self._routes.get(peer)
        if route is None:
            return
        route.dial = None
        self._counters["dropped_down"] += route.outbox.clear()
        now = self._clock()
        for link in self._links(route):
            self._link_closed(link, "disconnected", now)
        self._routes.pop(peer, None)

    def send(self, peer: Peer, frame: bytes) -> bool:
        size = len(frame)
        if not 0 < size <= self._limits.frame_bytes:
            raise ValueError(f"a frame has 1 to {self._limits.frame_bytes} bytes, not {size}")
        route = self._routes.get(peer)
        if route is None:
            self._counters["dropped_unknown"] += 1
            return False
        link = route.current
        outbox = route.outbox
        if link is None:
            late = self._clock() - route.down_since > self._limits.grace_seconds
            if late or outbox.size + size + FRAME_COST > self._limits.down_bytes:
                self._counters["dropped_down"] += 1
                return False
            if not outbox.size:
                self._soon(route.down_since + self._limits.grace_seconds)
        elif outbox.size + link.unsent + size > route.queue_bytes:
            self._counters["dropped_full"] += 1
            if route.full_since == math.inf:
                route.full_since = self._clock()
                self._soon(route.full_since + self._limits.stall_seconds)
            return False
        outbox.push(frame)
        if not route.dirty:
            route.dirty = True
            self._dirty.append(route)
        return True

    def broadcast(self, peers: Iterable[Peer], frame: bytes) -> int:
        send = self.send
        return sum(send(peer, frame) for peer in peers)

    def flush(self) -> None:
        dirty = self._dirty
        if not dirty:
            return
        self._dirty = []
        now = self._clock()
        for route in dirty:
            route.dirty = False
            self._drain(route, now)

    def poll(self, timeout: float | None = 0.0) -> Received:
        clock = self._clock
        now = clock()
        if self._sweep_at <= now:
            self._sweep(now)
        if timeout is None:
            timeout = math.inf
        timeout = max(0.0, min(timeout, self._sweep_at - now))
        received: Received = []
        self._received = received
        self._strangers_left = STRANGERS_PER_POLL
        for key, mask in self._selector.select(None if timeout == math.inf else timeout):
            callback: PollCallback = key.data
            callback(mask)
        if timeout and self._sweep_at <= clock():
            self._sweep(clock())
        return received

    def events(self) -> list[Event]:
        if not self._events:
            return []
        events = list(self._events)
        self._events.clear()
        return events

    def is_up(self, peer: Peer) -> bool:
        route = self._routes.get(peer)
        return route is not None and route.current is not None

    def up(self) -> list[Peer]:
        return [peer for peer, route in self._routes.items() if route.current is not None]

    def queued(self, peer: Peer) -> int:
        route = self._routes.get(peer)
        if route is None:
            return 0
        return route.outbox.size + (route.current.unsent if route.current is not None else 0)

    def wake(self) -> None:
        self._waker.wake()

    def fileno(self) -> int:
        return self._selector.fileno()

    def deadline(self) -> float:
        return self._sweep_at

    async def wait(self, deadline: float = math.inf) -> None:
        delay = min(deadline, self._sweep_at) - self._clock()
        if delay <= 0:
            await anyio.lowlevel.checkpoint()
        elif trio.lowlevel.in_trio_run():  # what anyio would do, at half its cost: this is a member's main loop
            with trio.move_on_after(delay):
                await trio.lowlevel.wait_readable(self.fileno())
        else:
            with anyio.move_on_after(None if delay == math.inf else delay):
                await anyio.wait_readable(self.fileno())

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for route in list(self._routes.values()):
            route.dial = None
            for link in self._links(route):
                self._link_closed(link, "this hub was closed", self._clock())
        self._routes.clear()
        self._close_transport()
        self._selector.close()
        self._waker.close()

    # --- what happens to links (for drivers) --------------------------------------------------------------------

    def _soon(self, deadline: float) -> None:
        """A sweep is wanted at `deadline`."""
        if deadline < self._sweep_at:
            self._sweep_at = deadline

    def _link_opened(
        self, link: AnyLink, admission: Admission | None, payload: bytes, binding: bytes, now: float
    ) -> None:
        """The peer of `link` has proved who it is."""
        peer, key = link.peer, link.public_key
        assert peer is not None
        assert key is not None
        route = self._routes.get(peer)
        if route is None:
            route = self._routes[peer] = Route[AnyLink](peer, self._limits.queue_bytes, now)
        if admission is not None and admission.queue_bytes is not None:
            route.queue_bytes = admission.queue_bytes
        link.binding = binding
        link.up_since = now
        first = route.current is None
        if link.dialled:
            assert route.dialled is link
        else:
            route.incoming.append(link)
            if len(route.incoming) > self._limits.links_per_peer:
                self._link_closed(route.incoming[0], "the peer opened newer links", now)
            if route.dial is not None:
                route.dial.hurry(now)
                self._soon(route.dial.due)
        self._counters["links_up"] += 1
        self._events.append(LinkUp(peer, key, payload, binding, link.dialled, first))
        self._choose(route)
        self._drain(route, now)

    def _link_closed(self, link: AnyLink, reason: str, now: float) -> None:
        """Frees a link and, if it was open, reports that it is gone. Nothing happens the second time."""
        if link.closed:
            return
        link.closed = True
        self._release(link)
        route = self._routes.get(link.peer) if link.peer is not None else None
        if route is None:
            return
        if link is route.dialled:
            route.dialled = None
            if link.up_since is not None and route.dial is not None:
                route.dial.lost(now, now - link.up_since, self._limits, self._random)
                self._soon(route.dial.due)
        elif link in route.incoming:
            route.incoming.remove(link)
        if link.up_since is None:
            return
        had = route.current
        self._choose(route)
        last = route.current is None
        if last and had is not None:
            route.down_since = now
            route.full_since = math.inf
            if len(route.outbox):
                self._soon(now + self._limits.grace_seconds)
        self._counters["links_down"] += 1
        falls_back = route.current.binding if had is link and route.current is not None else None
        self._events.append(LinkDown(route.peer, reason, link.dialled, last, falls_back))
        if last and route.dial is None:
            self._counters["dropped_down"] += route.outbox.clear()
            self._routes.pop(route.peer, None)
        elif route.current is not had:
            self._drain(route, now)

    def _dial_failed(self, route: Route[AnyLink], address: Address, reason: str, now: float) -> None:
        """What `_dial` began came to nothing. If there was a link, it is closed already."""
        self._counters["dial_failed"] += 1
        self._events.append(DialFailed(route.peer, address, reason))
        if route.dial is not None:
            route.dial.failed(now, self._limits, self._random)
            self._soon(route.dial.due)

    def _refuse(self, source: str, reason: str, public_key: bytes | None = None) -> None:
        """A stranger was turned away; its link, if any, is closed already."""
        self._counters["refused"] += 1
        self._events.append(Refused(source, reason, public_key))

    def _has_room(self, admission: Admission, host: str) -> bool:
        """Whether one more link of strangers may be kept."""
        limits = self._limits
        return admission.privileged or (
            self._admitted < limits.connections and self._admitted_by_host[host] < limits.connections_per_host
        )

    def _still_welcome(self, admission: Admission, public_key: bytes, payload: bytes) -> bool:
        """Whether a stranger that has now proved who it is comes in as what its opening was admitted as.

        It chooses how long that takes, and whoever was a member when it knocked may have been replaced since.
        """
        return self._accept(public_key, payload) == admission

    def _count_admitted(self, host: str, change: int) -> None:
        """A link that is not privileged was opened (1) or closed (-1)."""
        self._admitted += change
        self._admitted_by_host[host] += change
        if not self._admitted_by_host[host]:
            del self._admitted_by_host[host]

    def _deliver(self, peer: Peer, frames: list[bytes], size: int) -> None:
        """Frames have come; the `poll` that is going on returns them."""
        self._counters["bytes_in"] += size
        if frames:
            self._counters["frames_in"] += len(frames)
            self._received.append((peer, frames))

    def _drain(self, route: Route[AnyLink], now: float) -> None:
        """Writes what waits for a peer until its link is full."""
        link = route.current
        outbox = route.outbox
        if link is None:
            return
        while outbox.size and not link.unsent and not link.closed:
            frames = outbox.take(WRITE_BYTES)
            self._counters["frames_out"] += len(frames)
            self._write(link, frames, now)
        if outbox.size * 2 < route.queue_bytes:
            route.full_since = math.inf

    def _unblocked(self, link: AnyLink, now: float) -> None:
        """The transport has taken everything that was handed over on `link`."""
        link.blocked_since = math.inf
        route = self._routes.get(link.peer) if link.peer is not None else None
        if route is not None and route.current is link:
            self._drain(route, now)

    # --- inside -------------------------------------------------------------------------------------------------

    @staticmethod
    def _links(route: Route[AnyLink]) -> list[AnyLink]:
        return [*route.incoming, *([route.dialled] if route.dialled is not None else [])]

    @staticmethod
    def _choose(route: Route[AnyLink]) -> None:
        if route.dialled is not None and route.dialled.up_since is not None:
            route.current = route.dialled
        else:
            route.current = route.incoming[-1] if route.incoming else None

    def _on_wake(self, mask: int) -> None:
        self._waker.drain()

    def _sweep(self, now: float) -> None:
        """Everything that is due by the clock."""
        self._sweep_at = math.inf  # lowered again by whatever the steps below still wait for
        self._soon(self._sweep_links(now))
        for route in list(self._routes.values()):
            self._sweep_route(route, now)

    def _sweep_route(self, route: Route[AnyLink], now: float) -> None:
        limits = self._limits
        dial = route.dial
        if dial is not None and route.dialled is None:
            # No address is left untried for longer than its turn, and a turn has at most as many steps as addresses.
            for _ in range(len(dial.addresses) + 1):
                if dial.due > now or route.dialled is not None:
                    break
                address = dial.start()
                if address is None:
                    break
                self._dial(route, dial, address, now)
            self._soon(dial.due)
        if route.current is None and len(route.outbox):
            if now - route.down_since >= limits.grace_seconds:
                self._counters["dropped_down"] += route.outbox.clear()
            else:
                self._soon(route.down_since + limits.grace_seconds)
        for link in self._links(route):
            stalled_at = link.blocked_since + limits.stall_seconds
            if link is route.current and not link.dialled:
                stalled_at = min(stalled_at, route.full_since + limits.stall_seconds)
            if stalled_at <= now:
                self._counters["slow_readers"] += 1
                self._link_closed(link, "the peer does not read", now)
            else:
                self._soon(stalled_at)
