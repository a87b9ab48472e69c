"""A member of a group in one process: what outlives a crash, and its lives between crashes.

It is the real member, over a network in memory and disks that lose what was not synced when the power is cut. What a
restart finds is read as from any other disk.
"""

from __future__ import annotations

import secrets
from typing import Final

import attrs
import trio

from bftkit.channel.application import Application
from bftkit.channel.replica import Replica, Restored
from bftkit.core.machine import MemberId
from bftkit.crypto.keys import EpochKeys
from bftkit.membership.card import MemberCard
from bftkit.membership.epochs import Configuration
from bftkit.membership.genesis import Genesis
from bftkit.network.addresses import Address
from bftkit.network.memory import MemoryHub, MemoryNetwork
from bftkit.network.session import Identity
from bftkit.node.assembly import admission, checked, genesis_settings
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

EPOCHS: Final = 64
"""Members have keys for so many epochs."""


@attrs.frozen(eq=False)
class Surroundings:
    """What all members of a group share."""

    genesis: Genesis
    service: object
    """What makes a member's copy of the service when it is called."""
    network: MemoryNetwork = attrs.field(factory=MemoryNetwork)
    waiting: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    """Whoever waits here goes on after each round, start and end of a member."""


class Rounds(Chronicle):
    """Of a member in a test nothing is written down, but whoever waits for it goes on after each of its rounds."""

    def __init__(self, waiting: trio.lowlevel.ParkingLot) -> None:
        super().__init__(None)
        self._waiting = waiting

    def after_round(self, replica: Replica, now: float) -> None:
        super().after_round(replica, now)
        self._waiting.unpark_all()


@attrs.define(eq=False)
class Run:
    """One life of a member, from a start to a crash."""

    node: Node
    application: Application
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    crashed: bool = False


@attrs.define(eq=False)
class Member:
    """What outlives a crash, and the life under way."""

    id: MemberId
    identity: bytes = attrs.field(repr=False)
    vault: MemoryVault
    directory: MemoryDirectory = attrs.field(factory=MemoryDirectory)
    snapshots: MemorySnapshots = attrs.field(factory=MemorySnapshots)
    run: Run | None = None
    """None: it is crashed."""

    @classmethod
    def made(cls, member: MemberId) -> Member:
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

    def cut_power(self) -> None:
        """It stops at once, and what it had not synced is gone. Raises `ValueError` if it is crashed already."""
        run = self.present_run
        run.crashed = True
        self.directory.crash()
        self.snapshots.crash()
        run.scope.cancel()

    @property
    def present_run(self) -> Run:
        """Its present life. Raises `ValueError` if it is crashed."""
        if self.run is None:
            raise ValueError(f"{self.id} is crashed")
        return self.run

    async def live(self, around: Surroundings, *, task_status: trio.TaskStatus[None]) -> None:
        """One life, with what the disk has kept from the one before."""
        run, restored = self._assembled(around)
        self.run = run
        around.waiting.unpark_all()
        try:
            with run.scope:
                await run.node.run(restored, task_status=task_status)
        except* StorageFailed:
            # The node closes its log in good order; after a power cut there is none to close.
            if not run.crashed:
                raise
        finally:
            self.run = None
            run.ended.set()
            around.waiting.unpark_all()

    def _assembled(self, around: Surroundings) -> tuple[Run, Restored]:
        genesis, group = around.genesis, around.genesis.group_id
        vault = self.vault
        vault.restart()
        keychain = MemberKeychain(group, self.id, vault)
        settings = genesis_settings(
            genesis, self.id, keychain.key(Configuration.first(genesis)), vault.coin, keychain=keychain
        )
        identity = Identity.from_seed(self.identity)
        application = checked_service(around.service)
        log, recovered = Log.open(self.directory, group=group, identity=identity.public_key)
        restored = Restored(
            [entry.payload for entry in recovered.records],
            newest_checkpoint(self.snapshots),
            links=self.snapshots.links(),
            secrets=vault.secrets(),
            slots=[entry.slot for entry in recovered.records],
        )
        door = admission(genesis, settings)
        hub = MemoryHub(around.network, identity, group, accept=door)
        hub.listen(Address("memory", self.id))
        replica = Replica(settings, application)
        rounds = Rounds(around.waiting)
        node = Node(replica, hub, log, self.snapshots, peers={}, door=door, vault=vault, chronicle=rounds)
        return Run(node, application), checked(restored, keychain, genesis, vault.epochs.root)
