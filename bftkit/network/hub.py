"""What a process needs from its network, whatever carries the bytes: the `Hub` interface and its vocabulary.

One hub serves all links of one process, and is driven by one caller:

    while running:
        await hub.wait(deadline)                 # or: trio.lowlevel.wait_readable(hub.fileno())
        for peer, frames in hub.poll():          # every ready link, once
            ...                                  # decide; hub.send(peer, frame) only queues
        hub.flush()                              # one write and one encryption for each peer

A synchronous caller leaves out `wait` and gives `poll` a timeout. Nothing but `wake` may be called from another
thread.

**Peers.** A peer is named by the handle that the caller chose: the name given to `connect`, or what the `accept`
callback returned for whoever dialled us. The same handle may come from both, and several links may lead to it.

**Who dials whom.** Members dial each other both ways, and each keeps its own link alive. Frames go out on the link
that we dialled while it is up, else on the newest one that the peer dialled; they are received from all. So nobody
has to agree on which of two links to keep, a member that cannot be dialled is reached through the link that it
dialled itself, and whoever notices a dead link first just dials again. A peer that dials us shows that it is alive:
if we were waiting to dial it again, we do so at once. Clients dial members; replies go to the client's newest link.

**What is lost when.** `send` returns False, and counts, when the peer's queue is full (the newest frame is refused:
what was queued first is needed first) or no link leads to it. While a peer that we dial is down, frames wait for
`Limits.grace_seconds`, within `Limits.down_bytes`, and are then dropped: a protocol sends again what is still
needed, and stale votes would only delay it. Frames already given to a link that breaks are lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

import attrs

from bftkit.network.addresses import Address
from bftkit.network.framing import FRAME_BYTES_MAX

Peer: TypeAlias = str | bytes
"""A handle chosen by the caller: by convention a member id (str) or a client's public key (bytes)."""

Received: TypeAlias = list[tuple[Peer, list[bytes]]]
"""Frames by peer, in the order of their arrival on each link."""


class HubError(Exception):
    """The caller asked for what cannot be done, for example to listen where somebody else does."""


@attrs.frozen
class Limits:
    """The bounds of one hub. Sizes are in bytes, times in seconds."""

    frame_bytes: int = FRAME_BYTES_MAX
    """The longest frame, sent or received."""
    queue_bytes: int = 32 * 1024 * 1024
    """What may wait for one peer whose link is up."""
    down_bytes: int = 1024 * 1024
    """What may wait for one peer whose link is down."""
    grace_seconds: float = 1.0
    """How long it may wait there."""
    read_bytes: int = 256 * 1024
    """What is read from one link in one `poll`; the rest comes with the next, so that no peer starves the others."""
    connections: int = 1024
    """Links that others opened, together; `Admission.privileged` ones do not count."""
    connections_per_host: int = 512
    """The same, from one host (one IPv4 address or IPv6 /64)."""
    links_per_peer: int = 4
    """Links that one peer may open; with one more, its oldest is closed."""
    half_open: int = 128
    """Handshakes of strangers in progress; with one more, the oldest of the busiest host is closed."""
    half_open_per_host: int = 64
    """The same, from one host."""
    handshake_seconds: float = 5.0
    """How long dialling and shaking hands may take."""
    stall_seconds: float = 10.0
    """How long a peer may read nothing, or (if it dialled us) leave its queue full, before its link is closed."""
    backoff_first_seconds: float = 0.02
    """The pause before dialling again, the first time; it doubles each time, and is shortened at random by up to
    half so that many do not dial in step."""
    backoff_longest_seconds: float = 1.0
    """The longest such pause."""
    stable_seconds: float = 1.0
    """How long a link must have lived for the pause to start from the beginning."""

    def __attrs_post_init__(self) -> None:
        if not 0 < self.frame_bytes < 1 << 31:
            raise ValueError(f"frame_bytes must be 1 to 2**31 - 1, not {self.frame_bytes}")
        if self.queue_bytes < self.frame_bytes:
            raise ValueError("queue_bytes must have room for one frame of frame_bytes")
        if not 0 < self.backoff_first_seconds <= self.backoff_longest_seconds:
            raise ValueError("backoff_first_seconds must be above 0 and at most backoff_longest_seconds")


@attrs.frozen
class Admission:
    """What the accept callback says about a stranger that it lets in."""

    peer: Peer
    """The handle under which the peer is known from here on."""
    privileged: bool = False
    """Members: not counted against `Limits.connections`, so that clients cannot crowd them out."""
    frame_bytes: int | None = None
    """A smaller (or larger) limit for frames *from* this peer."""
    queue_bytes: int | None = None
    """Another limit for what may wait *for* this peer."""


Accept: TypeAlias = Callable[[bytes, bytes], Admission | None]
"""Called with a stranger's Ed25519 public key and handshake payload; None refuses. It must not change any state:
until `LinkUp` these are claims that anybody could have recorded and sent again. Once the stranger has proved them it is
called again, and must say the same: who is welcome may have changed in between."""


def refuse_all(public_key: bytes, payload: bytes) -> Admission | None:
    """The accept callback of a hub that only dials."""
    return None


@attrs.frozen
class LinkUp:
    """A link to `peer` is open; the peer has proved that it holds `public_key`."""

    peer: Peer
    public_key: bytes
    payload: bytes
    """What its handshake message carried."""
    binding: bytes
    """Names this very link, the same on both sides: what is signed over it cannot be used on another link."""
    dialled: bool
    """Whether we dialled."""
    first: bool
    """Whether it is the only link to this peer now."""


@attrs.frozen
class LinkDown:
    """A link to `peer` that was up is gone."""

    peer: Peer
    reason: str
    dialled: bool
    last: bool
    """Whether no link leads to this peer now."""
    falls_back: bytes | None = None
    """If frames for this peer go out on an older link from now on: that one's binding."""


@attrs.frozen
class DialFailed:
    """`peer` did not answer at `address`, or somebody else did; it will be tried again."""

    peer: Peer
    address: Address
    reason: str


@attrs.frozen
class Refused:
    """A stranger was turned away. `public_key` is what it claimed, if it came so far."""

    source: str
    reason: str
    public_key: bytes | None = None


Event: TypeAlias = LinkUp | LinkDown | DialFailed | Refused


class Hub(Protocol):
    """All links of one process. See the top of this module for how to drive it."""

    @property
    def counters(self) -> Counter[str]:
        """What happened so far, by short fixed names; see `bftkit.network.switchboard.COUNTERS`."""
        ...

    @property
    def public_key(self) -> bytes:
        """Our own Ed25519 public key."""
        ...

    @property
    def limits(self) -> Limits:
        """The bounds of this hub."""
        ...

    @property
    def clock(self) -> Callable[[], float]:
        """The clock in which deadlines are counted."""
        ...

    @property
    def payload(self) -> bytes:
        """What our handshake messages carry for the peer; a change concerns later handshakes."""
        ...

    @payload.setter
    def payload(self, payload: bytes) -> None: ...

    def listen(self, address: Address) -> Address:
        """Lets others dial us there. Returns the bound address (with the real port). Raises `HubError`."""
        ...

    def connect(self, peer: Peer, public_key: bytes, addresses: Sequence[Address]) -> None:
        """Keeps a link to `peer`, whose Ed25519 key must be `public_key`, from now on.

        Calling it again replaces the addresses (a living link is kept) and the key (a link with the old one is not).
        Raises `HubError` for addresses that this hub cannot dial, `ValueError` for bytes that are no key."""
        ...

    def disconnect(self, peer: Peer) -> None:
        """Forgets `peer`: its links are closed, its queue is dropped. Nothing happens if it is not known."""
        ...

    def send(self, peer: Peer, frame: bytes) -> bool:
        """Queues `frame` (1 to `Limits.frame_bytes` bytes, else `ValueError`); False if it was dropped."""
        ...

    def broadcast(self, peers: Iterable[Peer], frame: bytes) -> int:
        """`send` to each, sharing the bytes. Returns for how many it was queued."""
        ...

    def flush(self) -> None:
        """Writes what is queued, as far as the links take it; the rest follows from `poll` by itself."""
        ...

    def poll(self, timeout: float | None = 0.0) -> Received:
        """Handles everything that is ready, and returns the frames received.

        Waits up to `timeout` seconds (None: without end) if nothing is ready. It may return sooner with an empty
        list: after `wake`, or when only the hub's own business was due."""
        ...

    def events(self) -> list[Event]:
        """What happened to links since the last call; at most the newest `EVENTS_KEPT` of them."""
        ...

    def is_up(self, peer: Peer) -> bool:
        """Whether a link to `peer` is open."""
        ...

    def up(self) -> list[Peer]:
        """All peers with an open link, members and clients, in the order in which they became known."""
        ...

    def queued(self, peer: Peer) -> int:
        """Bytes that wait for `peer`, for backpressure."""
        ...

    def wake(self) -> None:
        """Ends the current or next `poll` or `wait` at once. May be called from any thread."""
        ...

    def fileno(self) -> int:
        """A descriptor that is readable when `poll` has something to do (apart from `deadline`)."""
        ...

    def deadline(self) -> float:
        """When `poll` should be called at the latest, by the hub's clock; `math.inf` if it does not matter."""
        ...

    async def wait(self, deadline: float = ...) -> None:
        """Waits, under trio or asyncio, until `poll` has something to do or `deadline` (by the hub's clock)."""
        ...

    def close(self) -> None:
        """Closes all links and listeners at once, without flushing. Further calls do nothing."""
        ...
