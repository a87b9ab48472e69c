"""From a member's folder to a running member: everything is opened, checked and put together here."""

from __future__ import annotations

import contextlib
import importlib
import logging
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from bftkit.channel.application import Application
from bftkit.channel.interface import Keychain
from bftkit.channel.records import OWN_RECORD
from bftkit.channel.replica import Limits, Replica, ReplicaSettings, Restored
from bftkit.channel.settling import read_own_record
from bftkit.configuration.text import ConfigurationError
from bftkit.core.machine import MemberId
from bftkit.core.plugin import load_protocol
from bftkit.crypto.keys import SigningKey
from bftkit.crypto.threshold import Coins
from bftkit.membership.chain import Place
from bftkit.membership.epochs import Configuration
from bftkit.membership.genesis import Genesis
from bftkit.membership.verifiers import founding_place
from bftkit.network.addresses import Address, parse_address
from bftkit.network.hub import Limits as HubLimits
from bftkit.network.session import Identity
from bftkit.network.tcp import TcpHub
from bftkit.node.adversary import Adversary
from bftkit.node.chronicle import FILE as EVENTS_FILE
from bftkit.node.chronicle import Chronicle
from bftkit.node.evidence import FOLDER as EVIDENCE_FOLDER
from bftkit.node.evidence import EvidenceStore
from bftkit.node.folders import MemberFolder
from bftkit.node.keychain import MemberKeychain, NoKey, check_algorithm, keyring_of, taking_no_part
from bftkit.node.names import open_names
from bftkit.node.neighbours import Door
from bftkit.node.node import Node
from bftkit.node.recovery import durability_keeper, keeps_nothing, newest_link, open_storage
from bftkit.node.scribe import Scribe
from bftkit.node.vault import FolderVault
from bftkit.service import ServiceError, checked_service
from bftkit.storage.files import StorageError

logger = logging.getLogger("bftkit.node")

SNAPSHOTS_FILE = "checkpoints.db"
DESCRIPTORS_KEPT: Final = 384
"""For handshakes (128) and the HTTP interface (64), whatever strangers do; the rest for the disk and the members."""
CONNECTIONS_LEAST: Final = 8


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
    genesis: Genesis,
    me: MemberId,
    key: SigningKey | None,
    coin_share: bytes | None = None,
    keychain: Keychain | None = None,
) -> ReplicaSettings:
    """What a replica of epoch 0 is given. `coin_share` is this member's share, if the genesis has a coin key.

    `key` is None for one that is no member yet, and for a member whose key of epoch 0 is erased: it can follow the
    group, and sign nothing. With a `keychain`, and a genesis that lists all keys, the configuration can change. Raises
    `ConfigurationError` if the protocol cannot run this group, or this member does not have its policy.
    """
    plugin = load_protocol(genesis.protocol)
    genesis.check_protocol(plugin.record)
    publics = {entry.id: entry.epoch_key for entry in genesis.roster.entries}
    group = genesis.group_id
    limits = genesis.limits
    schedule = genesis.schedule
    changes = keychain is not None and schedule is not None
    if changes:
        check_algorithm(Configuration.first(genesis))
    return ReplicaSettings(
        group=group,
        me=me,
        members=genesis.roster.ids,
        quorum=genesis.quorum,
        plugin=plugin if key is not None else taking_no_part(plugin),
        # As for the coins, it is the genesis that opens epoch 0.
        keyring=keyring_of(group, 0, group, me, key, publics),
        clock_key=key if key is not None else NoKey(),
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
        coins=_coins(genesis, me, coin_share) if key is not None else None,
        coin_share=coin_share if key is not None and genesis.coin is not None else None,
        place=Place(Configuration.first(genesis), group) if changes else None,
        schedule=schedule if changes and schedule is not None else {},
        keychain=keychain if changes else None,
    )


def _coins(genesis: Genesis, me: MemberId, share: bytes | None) -> Coins | None:
    if genesis.coin is None:
        return None
    if share is None:
        raise ConfigurationError("keys.coin", f"{me} has no share of the coin key", f"put the share of {me} there")
    group = genesis.group_id
    publics = dict(zip(genesis.roster.ids, genesis.coin.points, strict=True))
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
    genesis, me = folder.genesis, folder.settings.id
    vault = FolderVault(folder)
    keychain = MemberKeychain(genesis.group_id, me, vault, keeps_nothing=keeps_nothing(folder))
    settings = genesis_settings(genesis, me, keychain.key(Configuration.first(genesis)), vault.coin, keychain)
    service = application if application is not None else load_service(folder.settings.service)
    log, snapshots, restored = open_storage(folder)
    door = admission(genesis, settings)
    try:
        # Who keeps no log has a mark that says whether it spoke before.
        root = b"" if keeps_nothing(folder) else folder.epochs.root
        restored = checked(restored, keychain, genesis, root)
        restored = attrs.evolve(restored, secrets=vault.secrets())
        hub = open_hub(folder, settings, door)
    except BaseException:
        log.close()
        snapshots.close()
        raise
    address = hub.listen(parse_address(folder.settings.listen))
    scribe = Scribe()
    node = Node(
        Replica(settings, service),
        hub,
        log,
        snapshots,
        peers={} if settings.place is not None else peers_of(genesis, me),
        adversary=adversary(settings) if adversary is not None else None,
        names=open_names(folder.settings.names, folder.path, genesis, me),
        door=door,
        vault=vault,
        durability=durability_keeper(folder),
        chronicle=Chronicle(folder.path / EVENTS_FILE, write=scribe.write),
        evidence=EvidenceStore(
            folder.path / EVIDENCE_FOLDER, genesis.group_id, me, founding_place(genesis), write=scribe.write
        ),
        scribe=scribe,
    )
    return Member(node, restored, address)


def checked(restored: Restored, keychain: MemberKeychain, genesis: Genesis, root: bytes) -> Restored:
    """What the disk holds, compared with this member's keys, which are those under `root` (b"": it keeps no log).

    Keys are erased after the log has entered the next epoch, and never before. A log of an epoch whose key is erased
    is an older one that came back: its member has forgotten what it promised since (SAFETY rule 16), and with the keys
    that it has it may have promised anything. Who has other keys than the epoch's roster says, since it is to replace
    a member of the same id, is silent in this epoch as well; but it has never spoken with them, as its log says from
    the first record on (`bftkit init --join`).
    """
    newest, me = newest_link(restored.records), keychain.me
    here = newest.next if newest is not None else Configuration.first(genesis)
    reason = keychain.why_no_key(here)
    if restored.amnesic:
        return restored
    if reason is None:
        if not keychain.is_in(here):
            logger.info(
                "%s is no member in epoch %d, as far as it knows: it follows the group as an observer, and takes part "
                "once a command takes it in (bftkit member add)",
                me,
                here.epoch,
            )
        return restored
    replaces = _replaces(restored.records)
    # A log that is kept nowhere and has no mark was never begun.
    if replaces or (not root and not restored.records):
        logger.warning(
            "%s: this member takes no part in this epoch, and waits for a command that gives it its place "
            "(bftkit member rotate %s, with the card of this folder)",
            reason,
            me,
        )
    else:
        logger.error("%s: this member takes no part in this epoch", reason)
    return attrs.evolve(restored, amnesic=True, forgotten=b"" if replaces else root)


def _replaces(records: Sequence[bytes]) -> bool:
    """Whether a log is that of a folder made to replace a member: silent, and nothing is forgotten."""
    own = [record for record in records if record.startswith(OWN_RECORD)]
    if not own:
        return False
    _, silent, forgotten = read_own_record(own[-1][len(OWN_RECORD) :])
    return silent and not forgotten


def open_hub(folder: MemberFolder, settings: ReplicaSettings, door: Door | None = None) -> TcpHub:
    """The hub of a member."""
    held = folder.settings.limits
    connections = room_for(held.connections)
    if connections < held.connections:
        logger.warning(
            "%s: this process may open too few files for %d connections: %d are let in (ulimit -n, LimitNOFILE)",
            folder.settings.id,
            held.connections,
            connections,
        )
    return TcpHub(
        Identity.from_seed(folder.identity.seed),
        settings.group,
        accept=door if door is not None else admission(folder.genesis, settings),
        limits=HubLimits(connections=connections, queue_bytes=held.queue_bytes),
    )


def room_for(connections: int) -> int:
    """How many connections of strangers leave descriptors for the disk and the members: so many, or fewer.

    A member whose log cannot open a file stops, so strangers must never hold the last descriptor. The process's limit
    is raised for them as far as the system lets us.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + DESCRIPTORS_KEPT
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(CONNECTIONS_LEAST, min(connections, soft - DESCRIPTORS_KEPT))


def admission(genesis: Genesis, settings: ReplicaSettings) -> Door:
    """Whom a member lets in: members by their identity, clients by the group's policy, operators always."""
    identities = {entry.identity: entry.id for entry in genesis.roster.entries}
    door = Door(identities, settings.listed_clients, settings.limits.bundle_bytes + (64 << 10))
    door.operators = frozenset(genesis.operators)
    return door


def peers_of(genesis: Genesis, me: MemberId) -> dict[MemberId, tuple[bytes, tuple[Address, ...]]]:
    """Identity key and addresses of every member but `me`."""
    return {
        entry.id: (entry.identity, tuple(parse_address(address) for address in entry.addresses))
        for entry in genesis.roster.entries
        if entry.id != me
    }


__all__ = ["Member", "StorageError", "assemble", "genesis_settings", "load_service", "open_hub", "open_storage"]
