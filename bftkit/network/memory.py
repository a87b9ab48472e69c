"""The `Hub` inside one process: no sockets and no encryption, the same behaviour.

A `MemoryNetwork` connects hubs that listen at ``memory://name``. Who may talk to whom is checked as on real links:
the dialler names the key that it expects, both must be of one group, the accept callback decides. Frames pass by
reference through a bounded window, like a socket's buffers. Each hub still belongs to one thread; what another hub
wants from it waits in its mailbox until its next `poll`. So a whole group can run in one trio loop, with synchronous
clients in other threads.
"""

from __future__ import annotations

import math
import random as random_module
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from bftkit.core.digest import digest
from bftkit.network.addresses import Address
from bftkit.network.hub import Accept, Admission, HubError, Limits, refuse_all
from bftkit.network.routes import Dial
from bftkit.network.session import Identity
from bftkit.network.switchboard import Link, Route, Switchboard

WINDOW_BYTES: Final = 256 * 1024
"""What may be on its way on one link before the receiver has polled; then its sender waits."""


class MemoryNetwork:
    """The listening hubs by name. May be shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hubs: dict[str, MemoryHub] = {}
        self._links = 0

    def find(self, name: str) -> MemoryHub | None:
        """The hub that listens there."""
        with self._lock:
            return self._hubs.get(name)

    def register(self, name: str, hub: MemoryHub) -> None:
        """`hub` listens there from now on. Raises `HubError` if another one does."""
        with self._lock:
            if name in self._hubs:
                raise HubError(f"cannot listen on memory://{name}: somebody does already")
            self._hubs[name] = hub

    def unregister(self, hub: MemoryHub) -> None:
        """`hub` listens nowhere any more."""
        with self._lock:
            for name in [name for name, known in self._hubs.items() if known is hub]:
                del self._hubs[name]

    def next_binding(self) -> bytes:
        """A fresh name for one link."""
        with self._lock:
            self._links += 1
            return digest(b"memory link", self._links.to_bytes(8, "big"))


class MemoryLink(Link):
    """One end of a link; `other` is the far end, which belongs to `far` and is only passed back to it."""

    __slots__ = ("address", "admission", "deadline", "far", "frame_bytes", "on_its_way", "other")

    def __init__(self, far: MemoryHub, source: str, deadline: float, address: Address | None) -> None:
        super().__init__(None, source, dialled=address is not None)
        self.far = far
        self.other: MemoryLink | None = None
        self.deadline = deadline
        self.address = address
        self.admission: Admission | None = None
        self.frame_bytes = 0
        """The longest frame that we take from the peer."""
        self.on_its_way = 0
        """Bytes sent since the receiver last told that it has taken them."""


class MemoryHub(Switchboard[MemoryLink]):
    """All in-process links of one participant. See `bftkit.network.hub` for its use."""

    def __init__(
        self,
        network: MemoryNetwork,
        identity: Identity,
        group: bytes,
        *,
        accept: Accept = refuse_all,
        payload: bytes = b"",
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        super().__init__(
            identity,
            group,
            accept=accept,
            payload=payload,
            limits=limits if limits is not None else Limits(),
            clock=clock,
            random=random,
        )
        self._network = network
        self._mailbox: deque[Callable[[], None]] = deque()
        self._shaking: dict[MemoryLink, None] = {}
        self._gone = False

    def listen(self, address: Address) -> Address:
        self._check_dialable(address)
        self._network.register(address.host, self)
        return address

    def _post(self, action: Callable[[], None]) -> bool:
        """For other hubs, in any thread: `action` runs in our next `poll`. False if this hub is closed."""
        if self._gone:
            return False
        self._mailbox.append(action)
        self.wake()
        return True

    def _on_wake(self, mask: int) -> None:
        super()._on_wake(mask)
        # Only what is there now: a neighbour that answers at once must not keep us here for ever.
        for _ in range(len(self._mailbox)):
            self._mailbox.popleft()()
        if self._mailbox:
            self.wake()

    # --- the handshake: opening, answer, confirmation, as in `session` -------------------------------------------

    def _check_dialable(self, address: Address) -> None:
        if address.scheme != "memory":
            raise HubError(f"this hub speaks memory:// only, not {address}")

    def _dial(self, route: Route[MemoryLink], dial: Dial, address: Address, now: float) -> None:
        far = self._network.find(address.host)
        if far is None:
            self._dial_failed(route, address, "nobody listens there", now)
            return
        link = MemoryLink(far, str(address), now + self._limits.handshake_seconds, address)
        opening = partial(far._on_opening, self, link, self.public_key, self._prologue, dial.public_key, self._payload)
        if not far._post(opening):
            self._dial_failed(route, address, "nobody listens there", now)
            return
        link.peer = route.peer
        link.public_key = dial.public_key
        link.frame_bytes = self._limits.frame_bytes
        route.dialled = link
        self._shaking[link] = None
        self._soon(link.deadline)

    def _on_opening(
        self,
        dialler: MemoryHub,
        theirs: MemoryLink,
        public_key: bytes,
        prologue: bytes,
        expected_key: bytes,
        payload: bytes,
    ) -> None:
        now = self._clock()
        self._counters["accepted"] += 1
        source = f"memory:{public_key.hex()[:16]}"
        admission: Admission | None = None
        if expected_key != self.public_key or prologue != self._prologue:
            reason = "bad handshake: meant for another key or group"
        else:
            admission = self._accept(public_key, payload)
            reason = "refused: this key is not welcome here"
            if admission is not None and not self._has_room(admission, source):
                admission, reason = None, "refused: too many links are open"
        if admission is None:
            self._refuse(source, reason, public_key)
            dialler._post(partial(dialler._on_closed, theirs))
            return
        link = MemoryLink(dialler, source, now + self._limits.handshake_seconds, None)
        link.other = theirs
        link.public_key = public_key
        link.admission = admission
        link.frame_bytes = admission.frame_bytes or self._limits.frame_bytes
        self._shaking[link] = None
        self._soon(link.deadline)
        binding = self._network.next_binding()
        answer = partial(dialler._on_answer, theirs, link, self._payload, payload, binding)
        if not dialler._post(answer):
            self._link_closed(link, "the peer closed the connection", now)

    def _on_answer(
        self, link: MemoryLink, other: MemoryLink, payload: bytes, our_payload: bytes, binding: bytes
    ) -> None:
        if link.closed:
            return
        link.other = other
        link.far._post(partial(link.far._on_confirmation, other, our_payload, binding))
        del self._shaking[link]
        self._link_opened(link, None, payload, binding, self._clock())

    def _on_confirmation(self, link: MemoryLink, payload: bytes, binding: bytes) -> None:
        if link.closed:
            return
        admission = link.admission
        assert admission is not None, "only links that were dialled by others are confirmed"
        assert link.public_key is not None
        if not self._still_welcome(admission, link.public_key, payload):
            self._fail(link, "refused: this key is not welcome here any more")
            return
        if not self._has_room(admission, link.source):
            self._fail(link, "refused: too many links are open")
            return
        del self._shaking[link]
        link.peer = admission.peer
        if not admission.privileged:
            self._count_admitted(link.source, 1)
        self._link_opened(link, admission, payload, binding, self._clock())

    # --- frames -------------------------------------------------------------------------------------------------

    def _write(self, link: MemoryLink, frames: list[bytes], now: float) -> None:
        size = sum(map(len, frames))
        self._counters["bytes_out"] += size
        link.on_its_way += size
        full = link.on_its_way >= WINDOW_BYTES
        if full:
            link.unsent = link.on_its_way
            link.blocked_since = now
            self._soon(now + self._limits.stall_seconds)
        assert link.other is not None
        if not link.far._post(partial(link.far._on_frames, link.other, frames, size, full)):
            self._fail(link, "the peer closed the connection")

    def _on_frames(self, link: MemoryLink, frames: list[bytes], size: int, full: bool) -> None:
        if link.closed:
            return
        assert link.peer is not None, "frames come only after the confirmation"
        if max(map(len, frames)) > link.frame_bytes:
            self._counters["peer_faults"] += 1
            self._fail(link, f"frame too long: the limit is {link.frame_bytes}")
            return
        if full and link.other is not None:
            link.far._post(partial(link.far._on_taken, link.other))
        self._deliver(link.peer, frames, size)

    def _on_taken(self, link: MemoryLink) -> None:
        if link.closed:
            return
        link.on_its_way = 0
        link.unsent = 0
        self._unblocked(link, self._clock())

    # --- the end of links ---------------------------------------------------------------------------------------

    def _on_closed(self, link: MemoryLink) -> None:
        self._fail(link, "the peer closed the connection")

    def _fail(self, link: MemoryLink, reason: str) -> None:
        if link.closed:
            return
        now = self._clock()
        self._link_closed(link, reason, now)
        if link.up_since is not None:
            return
        if link.address is None:
            self._refuse(link.source, reason, link.public_key)
        elif link.peer in self._routes:
            self._dial_failed(self._routes[link.peer], link.address, reason, now)

    def _release(self, link: MemoryLink) -> None:
        self._shaking.pop(link, None)
        link.unsent = 0
        if link.other is not None:
            link.far._post(partial(link.far._on_closed, link.other))
        if link.up_since is not None and link.admission is not None and not link.admission.privileged:
            self._count_admitted(link.source, -1)

    def _sweep_links(self, now: float) -> float:
        following = math.inf
        for link in list(self._shaking):
            if link.deadline <= now:
                self._fail(link, "the handshake took too long")
            else:
                following = min(following, link.deadline)
        return following

    def _close_transport(self) -> None:
        self._gone = True
        self._network.unregister(self)
        now = self._clock()
        for link in list(self._shaking):
            self._link_closed(link, "this hub was closed", now)
        self._mailbox.clear()
