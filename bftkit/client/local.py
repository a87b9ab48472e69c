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
import secrets
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

import attrs
import trio

from bftkit.channel.application import Application
from bftkit.channel.bundles import COMMAND, make_proved_bundle
from bftkit.channel.frames import BUNDLE, REFUSED
from bftkit.channel.replica import Replica, Restored
from bftkit.client.aio import AsyncClient, driving
from bftkit.client.connect import client_settings
from bftkit.client.core import ClientCore
from bftkit.client.sync import SyncClient
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.core.machine import MemberId
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.plugin import load_protocol
from bftkit.crypto.keys import EpochKeys, SigningKey
from bftkit.crypto.merkle import root as merkle_root
from bftkit.crypto.threshold import DEAL_SECRET_SIZE
from bftkit.membership.card import MemberCard
from bftkit.membership.commands import PLANNED, Change, Command, SignedCommand, sign_command
from bftkit.membership.epochs import Configuration
from bftkit.membership.founding import deal_coin, default_faults
from bftkit.membership.genesis import NONCE_SIZE, Genesis
from bftkit.membership.roster import Roster
from bftkit.network.addresses import Address
from bftkit.network.hub import LinkUp
from bftkit.network.memory import MemoryHub, MemoryNetwork
from bftkit.network.session import Identity
from bftkit.node.assembly import admission, checked, genesis_settings, peers_of
from bftkit.node.chronicle import Chronicle
from bftkit.node.keychain import MemberKeychain
from bftkit.node.node import Node
from bftkit.node.recovery import newest_checkpoint
from bftkit.node.vault import MemoryVault
from bftkit.service import checked_service
from bftkit.storage.files import StorageFailed
from bftkit.storage.head import SALT_SIZE
from bftkit.storage.log import Log
from bftkit.storage.memory_files import MemoryDirectory
from bftkit.storage.snapshots import MemorySnapshots

SERVICE_NAME: Final = "local:Service"
"""What the genesis says of the service; nobody loads it by this name."""

IN_STEP_SECONDS: Final = 10.0
SWITCH_SECONDS: Final = 30.0
SAY_AGAIN_SECONDS: Final = 0.5
EPOCHS: Final = 64
"""Members have keys for so many epochs."""

T = TypeVar("T")


class _Rounds(Chronicle):
    """Of a member in a test nothing is written down, but whoever waits for it goes on after each of its rounds."""

    def __init__(self, waiting: trio.lowlevel.ParkingLot) -> None:
        super().__init__(None)
        self._waiting = waiting

    def after_round(self, replica: Replica, now: float) -> None:
        super().after_round(replica, now)
        self._waiting.unpark_all()


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
    identity: bytes = attrs.field(repr=False)
    vault: MemoryVault
    directory: MemoryDirectory = attrs.field(factory=MemoryDirectory)
    snapshots: MemorySnapshots = attrs.field(factory=MemorySnapshots)
    run: _Run | None = None

    @classmethod
    def made(cls, member: MemberId) -> _Member:
        """A member with fresh keys."""
        identity = secrets.token_bytes(32)
        epochs = EpochKeys.generate([secrets.token_bytes(32) for _ in range(EPOCHS)])
        return cls(member, identity, MemoryVault(Identity.from_seed(identity).public_key, epochs))

    @property
    def card(self) -> MemberCard:
        """What the others must know of it."""
        epochs = self.vault.epochs
        return MemberCard(self.id, self.vault.identity, epochs.root, (f"memory://{self.id}",), epochs.publics)

    def begin_log(self, group: bytes) -> None:
        """As `bftkit init` does."""
        salt = secrets.token_bytes(SALT_SIZE)
        Log.create(self.directory, group=group, identity=self.vault.identity, salt=salt)


class LocalGroup:
    """A group in this process; made by `local_group`. All methods belong to its trio loop."""

    def __init__(
        self, service: object, genesis: Genesis, members: list[_Member], operator: SigningKey, nursery: trio.Nursery
    ) -> None:
        """For `local_group` only."""
        self.genesis = genesis
        self.operator = operator
        """The key that signs commands to the group."""
        self.network = MemoryNetwork()
        self._service = service
        self._members = {member.id: member for member in members}
        self._nursery = nursery
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def members(self) -> tuple[MemberId, ...]:
        """All members, running or not, in roster order; then those that were added, whether or not they have joined."""
        return tuple(self._members)

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
        self._waiting.unpark_all()
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
            self._waiting.unpark_all()

    def _assembled(self, member: _Member) -> tuple[_Run, Restored]:
        genesis, group = self.genesis, self.genesis.group_id
        vault = member.vault
        vault.restart()
        keychain = MemberKeychain(group, member.id, vault)
        settings = genesis_settings(
            genesis, member.id, keychain.key(Configuration.first(genesis)), vault.coin, keychain=keychain
        )
        identity = Identity.from_seed(member.identity)
        application = checked_service(self._service)
        log, recovered = Log.open(member.directory, group=group, identity=identity.public_key)
        restored = Restored(
            [entry.payload for entry in recovered.records],
            newest_checkpoint(member.snapshots),
            links=member.snapshots.links(),
            secrets=vault.secrets(),
            slots=[entry.slot for entry in recovered.records],
        )
        door = admission(genesis, settings)
        hub = MemoryHub(self.network, identity, group, accept=door)
        hub.listen(Address("memory", member.id))
        replica = Replica(settings, application)
        rounds = _Rounds(self._waiting)
        node = Node(replica, hub, log, member.snapshots, peers={}, door=door, vault=vault, chronicle=rounds)
        return _Run(node, application), checked(restored, keychain, genesis, vault.epochs.root)

    # ------------------------------------------------------------------------------------------ changes

    @property
    def configuration(self) -> Configuration:
        """The newest one that a running member is in."""
        return max((self._configuration_of(member) for member in self.running), key=lambda found: found.epoch)

    def _configuration_of(self, member: MemberId) -> Configuration:
        return self.node(member).replica.succession_part.configuration

    async def add_spare(self, name: MemberId) -> MemberCard:
        """Start one more member, which is to join: it follows the group once a command names it. Its card.

        Raises `ValueError` if there is a member of this name.
        """
        if name in self._members:
            raise ValueError(f"there is a member {name} already")
        member = _Member.made(name)
        member.begin_log(self.genesis.group_id)
        self._members[name] = member
        await self._nursery.start(self._live, member)
        return member.card

    def change(
        self,
        protocol: str | None = None,
        *,
        members: Sequence[MemberId] | None = None,
        f: int | None = None,
        c: int | None = None,
        parameters: Mapping[str, int] | None = None,
        checkpoint_interval: int | None = None,
        coin: bool | None = None,
        qos: QoS | None = None,
        policy: Policy | None = None,
    ) -> Change:
        """The present configuration with this changed; whatever is not named stays as it is.

        With another protocol or number of members, `f` and `c` are as large as can be, and with another protocol the
        parameters are its defaults. `members` may name spares. `coin`: whether the members make a coin key; by default
        they do where the protocol, or one of the policy's, tosses coins, and where members may lie (SAFETY rule 26).
        """
        here = self.configuration
        name = protocol if protocol is not None else here.protocol
        record = load_protocol(name).record
        names = tuple(members) if members is not None else here.members
        if name != here.protocol or len(names) != len(here.members):
            f, c = default_faults(record, len(names), f, c)
        f, c = here.f if f is None else f, here.c if c is None else c
        interval = checkpoint_interval if checkpoint_interval is not None else here.checkpoint_interval
        seats = {seat.id: seat for seat in here.seats()}
        return Change(
            name,
            dict(parameters) if parameters is not None else dict(here.parameters) if name == here.protocol else {},
            f,
            c,
            tuple(seats[one] if one in seats else self._members[one].card.seat() for one in names),
            here.operators,
            here.operator_threshold,
            interval,
            max(2 * interval, here.window),
            (_coined(record, policy or here.policy) or f > 0) if coin is None else coin,
            qos or here.qos,
            policy or here.policy,
        )

    def command(self, change: Change, *, kind: int = PLANNED, at: int = 0) -> SignedCommand:
        """The operator's command to make this change in the present epoch."""
        nonce = secrets.token_bytes(16)
        return sign_command(
            Command(self.genesis.group_id, self.configuration.epoch, kind, at, False, change, nonce), self.operator
        )

    async def switch(
        self,
        protocol: str | None = None,
        *,
        members: Sequence[MemberId] | None = None,
        f: int | None = None,
        c: int | None = None,
        parameters: Mapping[str, int] | None = None,
        checkpoint_interval: int | None = None,
        coin: bool | None = None,
        qos: QoS | None = None,
        policy: Policy | None = None,
        timeout: float = SWITCH_SECONDS,
    ) -> Configuration:
        """Change the group, by an operator's command, and wait until all running members are in the new epoch.

        For the arguments see `change`. Raises `ValueError` with the members' reason if they refuse, `TimeoutError`
        after so many seconds.
        """
        change = self.change(
            protocol,
            members=members,
            f=f,
            c=c,
            parameters=parameters,
            checkpoint_interval=checkpoint_interval,
            coin=coin,
            qos=qos,
            policy=policy,
        )
        return await self.carry_out(self.command(change), timeout)

    async def carry_out(self, signed: SignedCommand, timeout: float = SWITCH_SECONDS) -> Configuration:
        """Give a command to the group, and wait until all running members are in the epoch that it begins.

        Raises as `switch` does.
        """
        frame = bytes((BUNDLE,)) + make_proved_bundle(COMMAND, signed.name, signed.encode())
        change, epoch = signed.command.change, signed.command.epoch + 1
        wanted = {seat.id for seat in change.members} if change is not None else set[MemberId]()

        def there() -> list[MemberId]:
            found = [member for member in self.running if self._has_entered(member, epoch)]
            if found and wanted.intersection(self.running) <= set(found):
                return found
            self._raise_refusal(signed)
            return []

        try:
            async with self._saying(frame):
                return self._configuration_of((await self.until(there, timeout))[0])
        except TimeoutError:
            told = self._whereabouts(signed)
            raise TimeoutError(f"after {timeout} s not all members are in epoch {epoch}: {told}") from None

    @asynccontextmanager
    async def _saying(self, frame: bytes) -> AsyncGenerator[None]:
        """Meanwhile every running member is told this, at once and again from time to time."""
        hub = MemoryHub(self.network, Identity.from_seed(secrets.token_bytes(32)), self.genesis.group_id)

        async def say() -> None:
            again = 0.0
            while True:
                now = hub.clock()
                if now >= again:
                    again = now + SAY_AGAIN_SECONDS
                    for member in self.running:  # those that are there already keep their links
                        hub.connect(member, self._members[member].vault.identity, (Address("memory", member),))
                    hub.broadcast(self.running, frame)
                hub.flush()
                hub.poll()
                for event in hub.events():
                    if isinstance(event, LinkUp) and event.peer in self._members:
                        hub.send(event.peer, frame)  # what was said before it was up may be lost
                await hub.wait(min(again, hub.deadline()))

        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say)
                try:
                    yield
                except Exception as error:
                    failure = error  # the members' refusal is raised as it is, and in no group
                nursery.cancel_scope.cancel()
        finally:
            hub.close()
        if failure is not None:
            raise failure

    def _has_entered(self, member: MemberId, epoch: int) -> bool:
        succession = self.node(member).replica.succession_part
        return succession.configuration.epoch > epoch or (succession.configuration.epoch == epoch and succession.active)

    def _raise_refusal(self, signed: SignedCommand) -> None:
        here = [self.node(member).replica for member in self.running]
        states = {
            replica.me: replica.orders.state_of(signed.name)
            for replica in here
            if not replica.observing and replica.settings.epoch == signed.command.epoch
        }
        if states and all(state == REFUSED for state, _ in states.values()):
            raise ValueError("; ".join(sorted({text for _, text in states.values()})))

    def _whereabouts(self, signed: SignedCommand) -> str:
        told: list[str] = []
        for member in self.running:
            replica = self.node(member).replica
            state, text = replica.orders.state_of(signed.name)
            stopped = f", stopped: {replica.stopped}" if replica.stopped else ""
            told.append(
                f"{member} in epoch {replica.settings.epoch} at slot {replica.applied} "
                f"(command: {state} {text}{stopped})"
            )
        return "; ".join(told)

    # ------------------------------------------------------------------------------------------ waiting, comparing

    async def until(self, condition: Callable[[], T], timeout: float = IN_STEP_SECONDS) -> T:
        """Wait until something holds of the members: what `condition` says then, which is anything that is true.

        It is asked at once, and again after every round of a member; each has one several times in a second, also when
        nothing comes. So ``await group.until(lambda: group.leader == "m1")`` misses nothing that lasts a round and
        sleeps for no time of its own. Raises `TimeoutError` after so many seconds, and whatever `condition` raises.
        """
        with trio.move_on_after(timeout):
            while True:
                found = condition()
                if found:
                    return found
                await self._waiting.park()
        raise TimeoutError(f"after {timeout} s it does not hold")

    async def in_step(self, timeout: float = IN_STEP_SECONDS) -> bytes:
        """Waits until all running members have executed the same slots; the digest of the state they share.

        Raises `TimeoutError` if they do not come together in so many seconds, `AssertionError` if their states
        differ after the same slot: then the service is not deterministic.
        """
        try:
            await self.until(lambda: len(set(self._positions().values())) == 1, timeout)
        except TimeoutError:
            raise TimeoutError(f"after {timeout} s the members are not in step: {_listed(self._roots())}") from None
        roots = self._roots()
        found = {root for _, root in roots.values()}
        if len(found) > 1:
            raise AssertionError(f"the members' states differ: {_listed(roots)}")
        return found.pop()

    def _positions(self) -> dict[MemberId, tuple[int, int]]:
        """Epoch and slot of those that take part."""
        replicas = {member: self.node(member).replica for member in self.running}
        return {
            member: (replica.settings.epoch, replica.state.applied)
            for member, replica in replicas.items()
            if not replica.observing
        }

    def _roots(self) -> dict[MemberId, tuple[tuple[int, int], bytes]]:
        """Epoch and slot, and the digest of the state, of those that take part."""
        roots: dict[MemberId, tuple[tuple[int, int], bytes]] = {}
        for member, position in self._positions().items():
            view = self.node(member).replica.state.view()
            roots[member] = (position, merkle_root([view.leaf(index) for index in range(view.count)]))
        return roots


def _listed(roots: Mapping[MemberId, tuple[tuple[int, int], bytes]]) -> str:
    return ", ".join(
        f"{member} at slot {slot}{f' of epoch {epoch}' if epoch else ''}: {root.hex()[:8]}"
        for member, ((epoch, slot), root) in roots.items()
    )


def _coined(record: ProtocolRecord, policy: Policy | None) -> bool:
    """Whether this protocol, or one that the policy may change to, tosses coins."""
    modes = () if policy is None else policy.modes
    return record.coins or any(load_protocol(mode.protocol).record.coins for mode in modes)


def _founded(
    members: int,
    protocol: str,
    parameters: Mapping[str, int],
    interval: int,
    qos: QoS | None,
    policy: Policy | None,
) -> tuple[Genesis, list[_Member], SigningKey]:
    """A genesis with fresh keys, every member's disk as `bftkit init` would leave it, and the operator's key."""
    record = load_protocol(protocol).record
    f, c = default_faults(record, members, None, None)
    ids = tuple(f"m{index}" for index in range(members))
    needs_coin = attrs.evolve(record, coins=_coined(record, policy))
    coin, shares = deal_coin(needs_coin, ids, f, c, secrets.token_bytes(DEAL_SECRET_SIZE))
    found = [_Member.made(member) for member in ids]
    operator = SigningKey(secrets.token_bytes(32))
    genesis = Genesis(
        name="local",
        protocol=protocol,
        f=f,
        c=c,
        roster=Roster(tuple(member.card.entry for member in found)),
        operators=(operator.public,),
        operator_threshold=1,
        service=SERVICE_NAME,
        nonce=secrets.token_bytes(NONCE_SIZE),
        parameters=parameters,
        checkpoint_interval=interval,
        coin=coin,
        schedule={member.id: member.vault.epochs.publics for member in found},
        qos=qos,
        policy=policy,
    )
    genesis.check_protocol(record)
    for member in found:
        member.vault.coin = shares.get(member.id)
        member.begin_log(genesis.group_id)
    return genesis, found, operator


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
    genesis, found, operator = _founded(members, protocol, dict(parameters or {}), checkpoint_interval, qos, policy)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        group = LocalGroup(service, genesis, found, operator, nursery)
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
