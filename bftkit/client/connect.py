"""From a client's folder to a client."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bftkit.channel.client import ClientSettings, Executed
from bftkit.channel.client_face import NUMBERS
from bftkit.client.aio import AsyncClient, driving
from bftkit.client.chain_file import ChainFile, place_after
from bftkit.client.core import ClientCore, peers_of_roster
from bftkit.client.names import NamedClientCore
from bftkit.client.sync import SyncClient
from bftkit.crypto.keys import SigningKey
from bftkit.membership.chain import HandOver, TrustedPoint
from bftkit.membership.genesis import Genesis
from bftkit.membership.verifiers import founding_place, roster_verifier
from bftkit.network.session import Identity
from bftkit.network.tcp import TcpHub
from bftkit.node.folders import ClientFolder, read_client
from bftkit.node.names import Names, open_names


def client_settings(
    genesis: Genesis, key: SigningKey, chain: Sequence[HandOver] = (), trusted: TrustedPoint | None = None
) -> ClientSettings:
    """What a client knows of the group: its genesis, which it trusts, and the newest hand-overs that it followed.

    `trusted`: a recent hand-over that it knows from elsewhere.
    """
    group = genesis.group_id
    founding = founding_place(genesis)
    place = place_after(chain[-1]) if chain else founding
    verifiers = roster_verifier(group)
    limits = genesis.limits
    started_ms = int(time.time() * 1000)
    return ClientSettings(
        group=group,
        members=place.configuration.members,
        quorum=place.configuration.quorum,
        key=key,
        keyring=verifiers(place.configuration, place.opening),
        epoch=place.configuration.epoch,
        place=place,
        founding=founding,
        chain=tuple(chain),
        trusted=trusted,
        verifiers=verifiers,
        started_ms=started_ms,
        asked_before=started_ms * NUMBERS,
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
    kept: ChainFile | None = None,
    trusted: TrustedPoint | None = None,
) -> ClientCore:
    """A client of this group with the key of this seed, over TCP.

    `names`: where to learn of newer addresses. `kept`: the hand-overs of an earlier life. `trusted`: as in
    `client_settings`. Raises `ConfigurationError`.
    """
    settings = client_settings(genesis, SigningKey(seed), kept.read() if kept is not None else (), trusted)
    assert settings.place is not None
    peers = peers_of_roster(settings.place.configuration.roster)
    hub = TcpHub(Identity.from_seed(seed), genesis.group_id)
    if names is not None:
        return NamedClientCore(settings, hub, peers, names, on_executed=on_executed, keeper=kept)
    return ClientCore(settings, hub, peers, on_executed=on_executed, keeper=kept)


def open_folder_core(
    found: ClientFolder, seed: bytes | None = None, *, on_executed: Callable[[Executed], None] | None = None
) -> ClientCore:
    """The client of a client's folder, with the name services of its settings. `seed`: for another key than its own."""
    names = open_names(found.settings.names, found.path, found.genesis, None)
    kept, trusted = ChainFile(found.path, found.genesis), found.settings.trusted
    return open_core(
        found.genesis, seed or found.key.seed, on_executed=on_executed, names=names, kept=kept, trusted=trusted
    )


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
