"""The group as a test sees it: its members, its clients, crashes, changes, and waiting until something holds."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import trio

from bftkit.channel.application import Application
from bftkit.channel.replica import Replica
from bftkit.client.aio import AsyncClient, driving
from bftkit.client.connect import client_settings
from bftkit.client.core import ClientCore
from bftkit.client.local_commands import changed, has_entered, refusal, saying, whereabouts
from bftkit.client.local_member import Member, Surroundings
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.core.machine import MemberId
from bftkit.crypto.keys import SigningKey
from bftkit.crypto.merkle import root as merkle_root
from bftkit.membership.card import MemberCard
from bftkit.membership.commands import PLANNED, Change, Command, SignedCommand, sign_command
from bftkit.membership.epochs import Configuration
from bftkit.network.memory import MemoryHub
from bftkit.network.session import Identity
from bftkit.node.assembly import peers_of
from bftkit.node.node import Node
from bftkit.storage.memory_files import MemoryDirectory

IN_STEP_SECONDS: Final = 10.0
SWITCH_SECONDS: Final = 30.0

T = TypeVar("T")


class LocalGroup:
    """A group in this process; made by `local_group`. All methods belong to its trio loop."""

    def __init__(
        self, around: Surroundings, members: Sequence[Member], operator: SigningKey, nursery: trio.Nursery
    ) -> None:
        """For `local_group` only, which starts the members. `nursery` ends with the group."""
        self.genesis = around.genesis
        self.operator = operator
        """The key that signs commands to the group."""
        self.network = around.network
        self._around = around
        self._members = {member.id: member for member in members}
        self._nursery = nursery

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
        machines = [replica.machine for replica in self._replicas()]
        newest = max(machines, key=lambda machine: machine.view, default=None)
        return None if newest is None else newest.leader

    def node(self, member: MemberId) -> Node:
        """The running member. Raises `ValueError` if it is crashed, `KeyError` if there is no such member."""
        return self._members[member].present_run.node

    def application(self, member: MemberId) -> Application:
        """The running member's copy of the service: to be looked at, and not to be changed."""
        return self._members[member].present_run.application

    def disk(self, member: MemberId) -> MemoryDirectory:
        """The simulated disk that holds a member's log, for planting faults."""
        return self._members[member].directory

    def _replicas(self) -> list[Replica]:
        return [self.node(member).replica for member in self.running]

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
        run = self._members[member].present_run
        self._members[member].cut_power()
        await run.ended.wait()

    async def restart(self, member: MemberId) -> None:
        """Start a crashed member again, or a new one, with what its disk has. Raises `ValueError` if it runs."""
        if self._members[member].run is not None:
            raise ValueError(f"{member} runs already")
        await self._nursery.start(self._members[member].live, self._around)

    # ------------------------------------------------------------------------------------------ changes

    @property
    def configuration(self) -> Configuration:
        """The newest one that a running member is in."""
        found = (replica.succession_part.configuration for replica in self._replicas())
        return max(found, key=lambda configuration: configuration.epoch)

    async def add_spare(self, name: MemberId) -> MemberCard:
        """Start one more member, which is to join: it follows the group once a command names it. Its card.

        Raises `ValueError` if there is a member of this name.
        """
        if name in self._members:
            raise ValueError(f"there is a member {name} already")
        member = Member.made(name)
        member.begin_log(self.genesis.group_id)
        self._members[name] = member
        await self.restart(name)
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
        return changed(
            self.configuration,
            lambda member: self._members[member].card,
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
        change, epoch = signed.command.change, signed.command.epoch + 1
        wanted = {seat.id for seat in change.members} if change is not None else set[MemberId]()

        def there() -> list[Replica]:
            replicas = self._replicas()
            found = [replica for replica in replicas if has_entered(replica, epoch)]
            if found and wanted.intersection(self.running) <= {replica.me for replica in found}:
                return found
            reason = refusal(replicas, signed)
            if reason is not None:
                raise ValueError(reason)
            return []

        try:
            async with saying(signed, self.network, self._identities):
                return (await self.until(there, timeout))[0].succession_part.configuration
        except TimeoutError:
            told = whereabouts(self._replicas(), signed)
            raise TimeoutError(f"after {timeout} s not all members are in epoch {epoch}: {told}") from None

    def _identities(self) -> dict[MemberId, bytes]:
        return {member: self._members[member].vault.identity for member in self.running}

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
                await self._around.waiting.park()
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
        replicas = {replica.me: replica for replica in self._replicas()}
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
