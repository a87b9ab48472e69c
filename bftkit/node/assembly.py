"""From a member's folder to a running member: everything is opened, checked and put together here."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import attrs

from bftkit.channel.application import Application
from bftkit.channel.replica import Limits, Replica, ReplicaSettings, Restored
from bftkit.configuration.text import ConfigurationError
from bftkit.core.machine import MemberId
from bftkit.core.plugin import load_protocol
from bftkit.crypto.keys import Ed25519Keyring, SigningKey
from bftkit.crypto.threshold import Coins
from bftkit.membership.genesis import Genesis
from bftkit.network.addresses import Address, parse_address
from bftkit.network.hub import Accept, Admission
from bftkit.network.hub import Limits as HubLimits
from bftkit.network.session import Identity
from bftkit.network.tcp import TcpHub
from bftkit.node.folders import MemberFolder
from bftkit.node.names import open_names
from bftkit.node.node import Adversary, Node
from bftkit.node.recovery import open_storage
from bftkit.service import ServiceError, checked_service
from bftkit.storage.files import StorageError

logger = logging.getLogger("bftkit.node")

SNAPSHOTS_FILE = "checkpoints.db"


def load_service(name: str) -> Application:
    """An instance of the class that ``package.module:Class`` names. Raises `ConfigurationError`."""
    module_name, _, class_name = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a service beside where the command is run is found, as with `python -m`
    try:
        found: Any = importlib.import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            "service", f"{name!r} cannot be loaded: {error}", "install the package that has it"
        ) from None
    try:
        return checked_service(found, name)
    except ServiceError as error:
        raise ConfigurationError("service", str(error), "correct the class, or name another one") from None


def load_adversary(name: str) -> Callable[[ReplicaSettings], Adversary]:
    """The adversary of this name: of the simulator's shelf, or ``package.module:Class``.

    Raises `ConfigurationError`.
    """
    from bftkit.sim import adversaries  # a member that does not lie need not load what a simulation needs

    try:
        return adversaries.load_adversary(name)
    except adversaries.UnknownAdversary as error:
        raise ConfigurationError(
            "--adversary", str(error), "give one of these names, or package.module:Class"
        ) from None


def genesis_settings(
    genesis: Genesis, me: MemberId, key: SigningKey, coin_share: bytes | None = None
) -> ReplicaSettings:
    """What a replica of epoch 0 is given. `coin_share` is this member's share, if the genesis has a coin key.

    Raises `ConfigurationError` if the protocol cannot run this group.
    """
    plugin = load_protocol(genesis.protocol)
    genesis.check_protocol(plugin.record)
    publics = {entry.id: entry.epoch_key for entry in genesis.roster.entries}
    group = genesis.group_id
    limits = genesis.limits
    return ReplicaSettings(
        group=group,
        me=me,
        members=genesis.roster.ids,
        quorum=genesis.quorum,
        plugin=plugin,
        keyring=Ed25519Keyring(group, 0, group, me, key, publics),
        clock_key=key,
        member_keys={public: member for member, public in publics.items()},
        parameters=dict(genesis.parameters),
        checkpoint_interval=genesis.checkpoint_interval,
        window=genesis.window,
        limits=Limits(
            operation_bytes=limits.operation_bytes_max,
            bundle_bytes=limits.bundle_bytes_max,
            batch_bytes=limits.batch_bytes_max - limits.bundle_bytes_max,
            sessions=limits.sessions_max,
            session_window=limits.session_window,
        ),
        listed_clients=frozenset(genesis.clients) if genesis.client_policy == "listed" else None,
        coins=_coins(genesis, me, coin_share),
    )


def _coins(genesis: Genesis, me: MemberId, share: bytes | None) -> Coins | None:
    if genesis.coin is None:
        return None
    if share is None:
        raise ConfigurationError("keys.coin", f"{me} has no share of the coin key", f"put the share of {me} there")
    group = genesis.group_id
    publics = dict(zip(genesis.roster.ids, genesis.coin.points, strict=True))
    # As for signatures, it is the genesis that opens epoch 0.
    return Coins(group, 0, group, me, share, publics, genesis.coin.threshold)


@attrs.define(eq=False)
class Member:
    """A member that is ready to run: `await member.node.run(member.restored)`."""

    node: Node
    restored: Restored
    address: Address


def assemble(
    folder: MemberFolder,
    *,
    application: Application | None = None,
    adversary: Callable[[ReplicaSettings], Adversary] | None = None,
) -> Member:
    """Open everything that a member needs. Raises `ConfigurationError`, `StorageError`, `HubError`."""
    key = folder.epochs.signing_key(0)
    coin_share = folder.coin.secret if folder.coin is not None else None
    settings = genesis_settings(folder.genesis, folder.settings.id, key, coin_share)
    service = application if application is not None else load_service(folder.settings.service)
    log, snapshots, restored = open_storage(folder)
    try:
        hub = open_hub(folder, settings)
    except BaseException:
        log.close()
        snapshots.close()
        raise
    address = hub.listen(parse_address(folder.settings.listen))
    node = Node(
        Replica(settings, service),
        hub,
        log,
        snapshots,
        peers=peers_of(folder.genesis, settings.me),
        adversary=adversary(settings) if adversary is not None else None,
        names=open_names(folder.settings.names, folder.path, folder.genesis, settings.me),
    )
    return Member(node, restored, address)


def open_hub(folder: MemberFolder, settings: ReplicaSettings) -> TcpHub:
    """The hub of a member."""
    held = folder.settings.limits
    return TcpHub(
        Identity.from_seed(folder.identity.seed),
        settings.group,
        accept=admission(folder.genesis, settings),
        limits=HubLimits(connections=held.connections, queue_bytes=held.queue_bytes),
    )


def admission(genesis: Genesis, settings: ReplicaSettings) -> Accept:
    """Whom a member lets in: members by their identity, clients by the group's policy."""
    roster = genesis.roster
    listed = settings.listed_clients
    client_frame = settings.limits.bundle_bytes + (64 << 10)

    def accept(public_key: bytes, payload: bytes) -> Admission | None:
        member = roster.identity_of(public_key)
        if member is not None:
            return Admission(member, privileged=True)
        if listed is not None and public_key not in listed:
            return None
        return Admission(public_key, frame_bytes=client_frame, queue_bytes=32 << 20)

    return accept


def peers_of(genesis: Genesis, me: MemberId) -> dict[MemberId, tuple[bytes, tuple[Address, ...]]]:
    """Identity key and addresses of every member but `me`."""
    return {
        entry.id: (entry.identity, tuple(parse_address(address) for address in entry.addresses))
        for entry in genesis.roster.entries
        if entry.id != me
    }


__all__ = ["Member", "StorageError", "assemble", "genesis_settings", "load_service", "open_hub", "open_storage"]
