"""From a client's folder to a client."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bftkit.channel.client import ClientSettings, Executed
from bftkit.client.aio import AsyncClient, driving
from bftkit.client.core import ClientCore
from bftkit.client.sync import SyncClient
from bftkit.crypto.keys import Ed25519Verifier, SigningKey
from bftkit.membership.genesis import Genesis
from bftkit.network.addresses import parse_address
from bftkit.network.session import Identity
from bftkit.network.tcp import TcpHub
from bftkit.node.folders import ClientFolder, read_client


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


def open_core(genesis: Genesis, seed: bytes, *, on_executed: Callable[[Executed], None] | None = None) -> ClientCore:
    """A client of this group with the key of this seed, over TCP."""
    peers = {
        entry.id: (entry.identity, tuple(parse_address(address) for address in entry.addresses))
        for entry in genesis.roster.entries
    }
    hub = TcpHub(Identity.from_seed(seed), genesis.group_id)
    return ClientCore(client_settings(genesis, SigningKey(seed)), hub, peers, on_executed=on_executed)


def connect_sync(folder: Path | str | ClientFolder) -> SyncClient:
    """A synchronous client from a client's folder (as `bftkit init` makes it). Raises `ConfigurationError`."""
    found = folder if isinstance(folder, ClientFolder) else read_client(Path(folder))
    return SyncClient(open_core(found.genesis, found.key.seed))


@asynccontextmanager
async def connect(folder: Path | str | ClientFolder) -> AsyncGenerator[AsyncClient]:
    """A client for trio or asyncio from a client's folder. Raises `ConfigurationError`."""
    found = folder if isinstance(folder, ClientFolder) else read_client(Path(folder))
    async with driving(open_core(found.genesis, found.key.seed)) as client:
        yield client
