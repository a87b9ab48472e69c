"""A group in one process, for callers without an event loop: its loop runs in a thread of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import trio

from bftkit.client.local_group import IN_STEP_SECONDS, LocalGroup
from bftkit.client.sync import SyncClient
from bftkit.core.machine import MemberId
from bftkit.membership.epochs import Configuration

T = TypeVar("T")


class SyncLocalGroup:
    """A `LocalGroup` whose loop runs in another thread; made by `local_group_sync`."""

    def __init__(self, group: LocalGroup, token: trio.lowlevel.TrioToken) -> None:
        """For `local_group_sync` only."""
        self.group = group
        self._token = token
        self._clients: list[SyncClient] = []

    def client(self) -> SyncClient:
        """A new client for the calling thread; it lives as long as the group."""
        client = SyncClient(self.group.client_core())
        self._clients.append(client)
        return client

    @property
    def leader(self) -> MemberId | None:
        """See `LocalGroup.leader`."""
        return trio.from_thread.run_sync(lambda: self.group.leader, trio_token=self._token)

    def crash(self, member: MemberId) -> None:
        """See `LocalGroup.crash`."""
        self._run(lambda: self.group.crash(member))

    def restart(self, member: MemberId) -> None:
        """See `LocalGroup.restart`."""
        self._run(lambda: self.group.restart(member))

    def add_spare(self, name: MemberId) -> None:
        """See `LocalGroup.add_spare`."""
        self._run(lambda: self.group.add_spare(name))

    def switch(
        self,
        protocol: str | None = None,
        *,
        members: Sequence[MemberId] | None = None,
        f: int | None = None,
        c: int | None = None,
        parameters: Mapping[str, int] | None = None,
    ) -> Configuration:
        """See `LocalGroup.switch`."""
        return self._run(lambda: self.group.switch(protocol, members=members, f=f, c=c, parameters=parameters))

    def in_step(self, timeout: float = IN_STEP_SECONDS) -> bytes:
        """See `LocalGroup.in_step`."""
        return self._run(lambda: self.group.in_step(timeout))

    def close(self) -> None:
        """Close all clients."""
        for client in self._clients:
            client.close()

    def _run(self, call: Callable[[], Awaitable[T]]) -> T:
        return trio.from_thread.run(call, trio_token=self._token)
