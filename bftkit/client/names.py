"""A client that asks name services where the members are, besides the roster (SAFETY rule 27).

A client is driven by whoever waits for it, under trio, asyncio or nothing at all, and files and resolvers have to be
watched meanwhile. So the services run in a thread of their own, and what they find is taken up between two rounds.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial

import trio

from bftkit.channel.client import ClientSettings, Executed, Moved
from bftkit.client.core import ClientCore, Keeper
from bftkit.core.machine import MemberId
from bftkit.network.addresses import Address
from bftkit.network.hub import Hub
from bftkit.node.names import Names


class NamedClientCore(ClientCore):
    """A `ClientCore` that learns of members' newer addresses while it lives. It has to be closed."""

    def __init__(
        self,
        settings: ClientSettings,
        hub: Hub,
        peers: Mapping[MemberId, tuple[bytes, tuple[Address, ...]]],
        names: Names,
        *,
        on_executed: Callable[[Executed], None] | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._keys = {member: key for member, (key, _) in peers.items()}
        self._news: queue.SimpleQueue[tuple[MemberId, tuple[Address, ...]]] = queue.SimpleQueue()
        self._names = names
        self._over = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._started = threading.Event()
        super().__init__(settings, hub, peers, on_executed=on_executed, keeper=keeper)
        if self._roster is not None:  # the services were opened with the genesis, and this may be a later epoch
            names.follow(self._roster.entries, self._found)
        self._thread = threading.Thread(target=trio.run, args=(self._ask,), daemon=True, name="bftkit-names")
        self._thread.start()

    def turn(self, timeout: float = 0.0) -> None:
        """See `ClientCore`."""
        super().turn(timeout)
        with contextlib.suppress(queue.Empty):
            while True:
                member, addresses = self._news.get_nowait()
                if member in self._keys:
                    super().link(member, self._keys[member], addresses)

    def link(self, member: MemberId, identity: bytes, addresses: tuple[Address, ...]) -> None:
        """See `ClientCore`."""
        self._keys[member] = identity
        super().link(member, identity, addresses)

    def unlink(self, member: MemberId) -> None:
        """See `ClientCore`."""
        self._keys.pop(member, None)
        super().unlink(member)

    def close(self) -> None:
        """See `ClientCore`; the services are left as well."""
        self._in_thread(self._over.cancel)
        self._thread.join()
        super().close()

    def _on_moved(self, moved: Moved) -> None:
        super()._on_moved(moved)
        assert self._roster is not None
        self._in_thread(partial(self._names.follow, self._roster.entries, self._found))

    def _in_thread(self, call: Callable[[], object]) -> None:
        self._started.wait()
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call)

    async def _ask(self) -> None:
        """Runs in the thread: touches nothing but the queue and the hub's waker."""
        self._token = trio.lowlevel.current_trio_token()
        self._started.set()
        with self._over:
            await self._names.run(self._found)

    def _found(self, member: MemberId, addresses: tuple[Address, ...]) -> None:
        self._news.put((member, addresses))
        self.hub.wake()
