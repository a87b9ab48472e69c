"""A whole group inside one process, for the tests of your own service::

    async with local_group(Counter, members=4, protocol="pbft") as group:
        client = await group.client()
        assert await client.submit(b"1") == b"1"
        await group.crash("m0")
        assert await client.submit(b"1") == b"2"
        await group.restart("m0")

Members and clients are the real ones, in one trio loop, over links of ``memory://`` and simulated disks: a crash cuts
the power, so what was not synced is gone, and a restart reads what the disk has. Nothing outside the process is
touched. `local_group_sync` is the same for callers without an event loop.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

import attrs
import trio

from bftkit.channel.application import Application
from bftkit.channel.replica import Replica, Restored
from bftkit.client.aio import AsyncClient, driving
from bftkit.client.connect import client_settings
from bftkit.client.core import ClientCore
from bftkit.client.sync import SyncClient
from bftkit.core.machine import MemberId
from bftkit.core.plugin import load_protocol
from bftkit.crypto.keys import EpochKeys, SigningKey
from bftkit.crypto.merkle import root as merkle_root
from bftkit.crypto.threshold import DEAL_SECRET_SIZE
from bftkit.membership.founding import deal_coin, default_faults
from bftkit.membership.genesis import NONCE_SIZE, Genesis
from bftkit.membership.roster import Roster, RosterEntry
from bftkit.network.addresses import Address
from bftkit.network.memory import MemoryHub, MemoryNetwork
from bftkit.network.session import Identity
from bftkit.node.assembly import admission, genesis_settings, peers_of
from bftkit.node.node import Node
from bftkit.node.recovery import newest_checkpoint
from bftkit.service import checked_service
from bftkit.storage.files import StorageFailed
from bftkit.storage.head import SALT_SIZE
from bftkit.storage.log import Log
from bftkit.storage.memory_files import MemoryDirectory
from bftkit.storage.snapshots import MemorySnapshots

SERVICE_NAME: Final = "local:Service"
"""What the genesis says of the service; nobody loads it by this name."""

LOOK_SECONDS: Final = 0.01
IN_STEP_SECONDS: Final = 10.0

T = TypeVar("T")


@attrs.define(eq=False)
class _Run:
    """One life of a member, from a start to a crash."""

    node: Node
    application: Application
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    crashed: bool = False


@attrs.define(eq=False)
class _Member:
    """What outlives a crash."""

    id: MemberId
    identity: bytes
    epochs: EpochKeys
    coin_share: bytes | None = attrs.field(default=None, repr=False)
    directory: MemoryDirectory = attrs.field(factory=MemoryDirectory)
    snapshots: MemorySnapshots = attrs.field(factory=MemorySnapshots)
    run: _Run | None = None


class LocalGroup:
    """A group in this process; made by `local_group`. All methods belong to its trio loop."""

    def __init__(self, service: object, genesis: Genesis, members: list[_Member], nursery: trio.Nursery) -> None:
        """For `local_group` only."""
        self.genesis = genesis
        self.network = MemoryNetwork()
        self._service = service
        self._members = {member.id: member for member in members}
        self._nursery = nursery

    @property
    def members(self) -> tuple[MemberId, ...]:
        """All members, running or not, in roster order."""
        return self.genesis.roster.ids

    @property
    def running(self) -> tuple[MemberId, ...]:
        """The members that are not crashed."""
        return tuple(member for member in self.members if self._members[member].run is not None)

    @property
    def leader(self) -> MemberId | None:
        """Whom the running members that are furthest ahead believe to lead, if the protocol has a leader."""
        machines = [self.node(member).replica.machine for member in self.running]
        newest = max(machines, key=lambda machine: machine.view, default=None)
        return None if newest is None else newest.leader

    def node(self, member: MemberId) -> Node:
        """The running member. Raises `ValueError` if it is crashed, `KeyError` if there is no such member."""
        return self._run_of(member).node

    def application(self, member: MemberId) -> Application:
        """The running member's copy of the service: to be looked at, and not to be changed."""
        return self._run_of(member).application

    def disk(self, member: MemberId) -> MemoryDirectory:
        """The simulated disk that holds a member's log, for planting faults."""
        return self._members[member].directory

    def _run_of(self, member: MemberId) -> _Run:
        run = self._members[member].run
        if run is None:
            raise ValueError(f"{member} is crashed")
        return run

    # ------------------------------------------------------------------------------------------ clients

    def client_core(self) -> ClientCore:
        """A new client's inner part, with a key of its own, for whoever drives it by other means."""
        seed = secrets.token_bytes(32)
        hub = MemoryHub(self.network, Identity.from_seed(seed), self.genesis.group_id)
        return ClientCore(client_settings(self.genesis, SigningKey(seed)), hub, peers_of(self.genesis, ""))

    async def client(self) -> AsyncClient:
        """A new client; it lives as long as the group."""
        client: AsyncClient = await self._nursery.start(self._drive)
        return client

    async def _drive(self, *, task_status: trio.TaskStatus[AsyncClient]) -> None:
        async with driving(self.client_core()) as client:
            task_status.started(client)
            await trio.sleep_forever()

    # ------------------------------------------------------------------------------------------ crashes

    async def crash(self, member: MemberId) -> None:
        """Cut the power of a member: it stops at once, and what it had not synced is gone."""
        run = self._run_of(member)
        run.crashed = True
        self._members[member].directory.crash()
        self._members[member].snapshots.crash()
        run.scope.cancel()
        await run.ended.wait()

    async def restart(self, member: MemberId) -> None:
        """Start a crashed member again, with what its disk has kept. Raises `ValueError` if it runs."""
        if self._members[member].run is not None:
            raise ValueError(f"{member} runs already")
        await self._nursery.start(self._live, self._members[member])

    async def _live(self, member: _Member, *, task_status: trio.TaskStatus[None]) -> None:
        run, restored = self._assembled(member)
        member.run = run
        try:
            with run.scope:
                await run.node.run(restored, task_status=task_status)
        except* StorageFailed:
            # The node closes its log in good order; after a power cut there is none to close.
            if not run.crashed:
                raise
        finally:
            member.run = None
            run.ended.set()

    def _assembled(self, member: _Member) -> tuple[_Run, Restored]:
        genesis, group = self.genesis, self.genesis.group_id
        settings = genesis_settings(genesis, member.id, member.epochs.signing_key(0), member.coin_share)
        identity = Identity.from_seed(member.identity)
        application = checked_service(self._service)
        log, recovered = Log.open(member.directory, group=group, identity=identity.public_key)
        restored = Restored([entry.payload for entry in recovered.records], newest_checkpoint(member.snapshots))
        hub = MemoryHub(self.network, identity, group, accept=admission(genesis, settings))
        hub.listen(Address("memory", member.id))
        node = Node(Replica(settings, application), hub, log, member.snapshots, peers=peers_of(genesis, member.id))
        return _Run(node, application), restored

    # ------------------------------------------------------------------------------------------ comparing

    async def in_step(self, timeout: float = IN_STEP_SECONDS) -> bytes:
        """Waits until all running members have executed the same slots; the digest of the state they share.

        Raises `TimeoutError` if they do not come together in so many seconds, `AssertionError` if their states
        differ after the same slot: then the service is not deterministic.
        """
        with trio.move_on_after(timeout):
            while True:
                roots = self._roots()
                if len({slot for slot, _ in roots.values()}) == 1:
                    found = {root for _, root in roots.values()}
                    if len(found) > 1:
                        raise AssertionError(f"the members' states differ: {_listed(roots)}")
                    return found.pop()
                await trio.sleep(LOOK_SECONDS)
        raise TimeoutError(f"after {timeout} s the members are not in step: {_listed(self._roots())}")

    def _roots(self) -> dict[MemberId, tuple[int, bytes]]:
        roots: dict[MemberId, tuple[int, bytes]] = {}
        for member in self.running:
            state = self.node(member).replica.state
            view = state.view()
            roots[member] = (state.applied, merkle_root([view.leaf(index) for index in range(view.count)]))
        return roots


def _listed(roots: Mapping[MemberId, tuple[int, bytes]]) -> str:
    return ", ".join(f"{member} at slot {slot}: {root.hex()[:8]}" for member, (slot, root) in roots.items())


def _founded(
    members: int, protocol: str, parameters: Mapping[str, int], interval: int
) -> tuple[Genesis, list[_Member]]:
    """A genesis with fresh keys, and every member's disk as `bftkit init` would leave it."""
    record = load_protocol(protocol).record
    f, c = default_faults(record, members, None, None)
    ids = tuple(f"m{index}" for index in range(members))
    coin, shares = deal_coin(record, ids, f, c, secrets.token_bytes(DEAL_SECRET_SIZE))
    found = [
        _Member(
            id=member,
            identity=secrets.token_bytes(32),
            epochs=EpochKeys.generate([secrets.token_bytes(32)]),
            coin_share=shares.get(member),
        )
        for member in ids
    ]
    genesis = Genesis(
        name="local",
        protocol=protocol,
        f=f,
        c=c,
        roster=Roster(tuple(_entry(member) for member in found)),
        operators=(SigningKey(secrets.token_bytes(32)).public,),
        operator_threshold=1,
        service=SERVICE_NAME,
        nonce=secrets.token_bytes(NONCE_SIZE),
        parameters=parameters,
        checkpoint_interval=interval,
        coin=coin,
    )
    genesis.check_protocol(record)
    for member in found:
        identity = Identity.from_seed(member.identity).public_key
        salt = secrets.token_bytes(SALT_SIZE)
        Log.create(member.directory, group=genesis.group_id, identity=identity, salt=salt)
    return genesis, found


def _entry(member: _Member) -> RosterEntry:
    epochs = member.epochs
    return RosterEntry(
        id=member.id,
        identity=Identity.from_seed(member.identity).public_key,
        epoch_root=epochs.root,
        epoch_count=epochs.count,
        epoch_key=epochs.public(0),
        epoch_path=epochs.path(0),
        addresses=(f"memory://{member.id}",),
    )


@asynccontextmanager
async def local_group(
    service: object,
    *,
    members: int = 4,
    protocol: str = "pbft",
    parameters: Mapping[str, int] | None = None,
    checkpoint_interval: int = 128,
) -> AsyncGenerator[LocalGroup]:
    """A group of so many members, m0 and so on, that run this class (or whatever else makes a service when called).

    Use it under trio. Raises `ServiceError` for a class that cannot be a service, `ConfigurationError` for a protocol
    that cannot run so many members or has no such parameters.
    """
    checked_service(service)
    genesis, found = _founded(members, protocol, dict(parameters or {}), checkpoint_interval)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        group = LocalGroup(service, genesis, found, nursery)
        for member in found:
            await nursery.start(group._live, member)  # pyright: ignore[reportPrivateUsage]
        try:
            yield group
        except Exception as error:
            # Kept out of the nursery, so that a failed assertion of a test stays what it is and in no group.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


# ------------------------------------------------------------------------------------------------- without a loop


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

    def in_step(self, timeout: float = IN_STEP_SECONDS) -> bytes:
        """See `LocalGroup.in_step`."""
        return self._run(lambda: self.group.in_step(timeout))

    def close(self) -> None:
        """Close all clients."""
        for client in self._clients:
            client.close()

    def _run(self, call: Callable[[], Awaitable[T]]) -> T:
        return trio.from_thread.run(call, trio_token=self._token)


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
