"""From a client's folder to a client."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bftkit.channel.client import ClientSettings, Executed
from bftkit.client.aio import AsyncClient, driving
from bftkit.client.core import ClientCore
from bftkit.client.names import NamedClientCore
from bftkit.client.sync import SyncClient
from bftkit.crypto.keys import Ed25519Verifier, SigningKey
from bftkit.membership.genesis import Genesis
from bftkit.network.addresses import parse_address
from bftkit.network.session import Identity
from bftkit.network.tcp import TcpHub
from bftkit.node.folders import ClientFolder, read_client
from bftkit.node.names import Names, open_names


def client_settings(genesis: Genesis, key: SigningKey) -> ClientSettings:
    """What a client knows of the group: its genesis, which it trusts."""
    group = genesis.group_id
    publics = {entry.id: entry.epoch_key for entry in genesis.roster.entries}
    limits = genesis.limits
    return ClientSettings(
        group=group,
        members=genesis.roster.ids,
        quorum=genesis.quorum,
        key=key,
        keyring=Ed25519Verifier(group, 0, group, publics),
        started_ms=int(time.time() * 1000),
        operation_bytes_max=limits.operation_bytes_max,
        bundle_bytes_max=limits.bundle_bytes_max,
        session_window=limits.session_window,
    )


def open_core(
    genesis: Genesis,
    seed: bytes,
    *,
    on_executed: Callable[[Executed], None] | None = None,
    names: Names | None = None,
) -> ClientCore:
    """A client of this group with the key of this seed, over TCP. `names`: where to learn of newer addresses."""
    peers = {
        entry.id: (entry.identity, tuple(parse_address(address) for address in entry.addresses))
        for entry in genesis.roster.entries
    }
    hub = TcpHub(Identity.from_seed(seed), genesis.group_id)
    settings = client_settings(genesis, SigningKey(seed))
    if names is not None:
        return NamedClientCore(settings, hub, peers, names, on_executed=on_executed)
    return ClientCore(settings, hub, peers, on_executed=on_executed)


def open_folder_core(
    found: ClientFolder, seed: bytes | None = None, *, on_executed: Callable[[Executed], None] | None = None
) -> ClientCore:
    """The client of a client's folder, with the name services of its settings. `seed`: for another key than its own."""
    names = open_names(found.settings.names, found.path, found.genesis, None)
    return open_core(found.genesis, seed or found.key.seed, on_executed=on_executed, names=names)


def connect_sync(folder: Path | str | ClientFolder) -> SyncClient:
    """A synchronous client from a client's folder (as `bftkit init` makes it). Raises `ConfigurationError`."""
    found = folder if isinstance(folder, ClientFolder) else read_client(Path(folder))
    return SyncClient(open_folder_core(found))


@asynccontextmanager
async def connect(folder: Path | str | ClientFolder) -> AsyncGenerator[AsyncClient]:
    """A client for trio or asyncio from a client's folder. Raises `ConfigurationError`."""
    found = folder if isinstance(folder, ClientFolder) else read_client(Path(folder))
    async with driving(open_folder_core(found)) as client:
        yield client
