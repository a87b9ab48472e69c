"""A whole group inside one process, for the tests of your own service::

    async with local_group(Counter, members=4, protocol="pbft") as group:
        client = await group.client()
        assert await client.submit(b"1") == b"1"
        await group.crash("m0")
        assert await client.submit(b"1") == b"2"
        await group.restart("m0")
        await group.switch("paxos")

Members and clients are the real ones, in one trio loop, over links of ``memory://`` and simulated disks: a crash cuts
the power, so what was not synced is gone, and a restart reads what the disk has. Nothing outside the process is
touched. `local_group_sync` is the same for callers without an event loop.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager

import trio

from bftkit.client.local_founding import SERVICE_NAME as SERVICE_NAME
from bftkit.client.local_founding import founded
from bftkit.client.local_group import IN_STEP_SECONDS as IN_STEP_SECONDS
from bftkit.client.local_group import SWITCH_SECONDS as SWITCH_SECONDS
from bftkit.client.local_group import LocalGroup as LocalGroup
from bftkit.client.local_member import Surroundings
from bftkit.client.local_sync import SyncLocalGroup as SyncLocalGroup
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.service import checked_service


@asynccontextmanager
async def local_group(
    service: object,
    *,
    members: int = 4,
    protocol: str = "pbft",
    parameters: Mapping[str, int] | None = None,
    checkpoint_interval: int = 128,
    qos: QoS | None = None,
    policy: Policy | None = None,
) -> AsyncGenerator[LocalGroup]:
    """A group of so many members, m0 and so on, that run this class (or whatever else makes a service when called).

    Use it under trio. Raises `ServiceError` for a class that cannot be a service, `ConfigurationError` for a protocol
    that cannot run so many members or has no such parameters.
    """
    checked_service(service)
    genesis, found, operator = founded(members, protocol, dict(parameters or {}), checkpoint_interval, qos, policy)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        group = LocalGroup(Surroundings(genesis, service), found, operator, nursery)
        for member in found:
            await group.restart(member.id)
        try:
            yield group
        except Exception as error:
            # Kept out of the nursery, so that a failed assertion of a test stays what it is and in no group.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@contextmanager
def local_group_sync(
    service: object,
    *,
    members: int = 4,
    protocol: str = "pbft",
    parameters: Mapping[str, int] | None = None,
    checkpoint_interval: int = 128,
) -> Generator[SyncLocalGroup]:
    """As `local_group`, for plain synchronous callers; the members run in a thread of their own."""
    ready: queue.SimpleQueue[tuple[LocalGroup, trio.lowlevel.TrioToken, trio.Event] | None] = queue.SimpleQueue()
    failures: list[BaseException] = []

    async def keep() -> None:
        async with local_group(
            service,
            members=members,
            protocol=protocol,
            parameters=parameters,
            checkpoint_interval=checkpoint_interval,
        ) as group:
            stop = trio.Event()
            ready.put((group, trio.lowlevel.current_trio_token(), stop))
            await stop.wait()

    def run() -> None:
        try:
            trio.run(keep)
        except BaseException as error:
            failures.append(error)
        ready.put(None)

    thread = threading.Thread(target=run, name="bftkit-local-group")
    thread.start()
    started = ready.get()
    if started is None:
        thread.join()
        raise failures[0]
    group, token, stop = started
    face = SyncLocalGroup(group, token)
    try:
        yield face
    finally:
        face.close()
        try:
            token.run_sync_soon(stop.set)
        except trio.RunFinishedError:
            pass  # the group ended by a failure, which is raised below
        thread.join()
    if failures:
        raise failures[0]
