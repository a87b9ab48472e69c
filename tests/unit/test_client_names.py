"""A client with name services: found again where they say, from epoch to epoch, and closed in good order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from bftkit.channel.client import Moved
from bftkit.client.connect import client_settings
from bftkit.client.core import peers_of_roster
from bftkit.client.local import local_group
from bftkit.client.names import NamedClientCore
from bftkit.crypto.keys import SigningKey
from bftkit.membership.chain import Place
from bftkit.membership.genesis import Genesis
from bftkit.membership.verifiers import founding_place
from bftkit.network.addresses import Address
from bftkit.network.hub import Peer
from bftkit.network.memory import MemoryHub, MemoryNetwork
from bftkit.network.session import Identity
from bftkit.node.names import Names, WatchedFile
from bftkit.service.keyvalue import KeyValueStore

PATIENCE_SECONDS = 60.0
SEED = b"c" * 32


class Hub(MemoryHub):
    """Remembers where it was told to dial."""

    def __init__(self, network: MemoryNetwork, group: bytes) -> None:
        self.dialled: dict[Peer, list[str]] = {}
        super().__init__(network, Identity.from_seed(SEED), group)

    def connect(self, peer: Peer, public_key: bytes, addresses: Sequence[Address]) -> None:
        self.dialled[peer] = [str(address) for address in addresses]
        super().connect(peer, public_key, addresses)


@contextmanager
def opened(
    genesis: Genesis, network: MemoryNetwork, path: Path, place: Place | None = None
) -> Generator[tuple[NamedClientCore, Hub]]:
    """A client of this group, in epoch 0 if no other place is given."""
    hub = Hub(network, genesis.group_id)
    names = Names(genesis.roster.entries, [WatchedFile(path)], me=None, schemes=("memory",))
    settings = client_settings(genesis, SigningKey(SEED))
    if place is not None:
        settings = attrs.evolve(settings, place=place)
    assert settings.place is not None
    core = NamedClientCore(settings, hub, peers_of_roster(settings.place.configuration.roster), names)
    try:
        yield core, hub
    finally:
        core.close()


def until(core: NamedClientCore, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        core.turn(0.1)


def moved(genesis: Genesis) -> Place:
    """An epoch whose roster has other addresses."""
    place = founding_place(genesis)
    entries = tuple(attrs.evolve(entry, addresses=(f"memory://new-{entry.id}",)) for entry in genesis.roster.entries)
    roster = attrs.evolve(genesis.roster, entries=entries)
    return attrs.evolve(place, configuration=attrs.evolve(place.configuration, roster=roster))


async def test_a_client_hears_of_news_and_goes_on_to_the_next_roster(tmp_path: Path) -> None:
    path = tmp_path / "names.toml"
    path.write_text('members.m1 = ["memory://other-m1"]')
    async with local_group(KeyValueStore) as group:
        with opened(group.genesis, group.network, path) as (core, hub):
            until(core, lambda: hub.dialled["m1"] == ["memory://m1", "memory://other-m1"])
            assert hub.dialled["m2"] == ["memory://m2"]
            assert any(thread.name == "bftkit-names" for thread in threading.enumerate())
            core._on_moved(Moved(moved(group.genesis), b"", ()))  # pyright: ignore[reportPrivateUsage]
            assert hub.dialled["m1"] == ["memory://new-m1"]
            until(core, lambda: hub.dialled["m1"] == ["memory://new-m1", "memory://other-m1"])
            assert hub.dialled["m2"] == ["memory://new-m2"]
        assert not [thread for thread in threading.enumerate() if thread.name == "bftkit-names"], "it was closed"


async def test_a_client_that_starts_in_a_later_epoch_begins_with_its_roster(tmp_path: Path) -> None:
    path = tmp_path / "names.toml"
    path.write_text('members.m1 = ["memory://other-m1"]')
    async with local_group(KeyValueStore) as group:
        with opened(group.genesis, group.network, path, moved(group.genesis)) as (core, hub):
            until(core, lambda: len(hub.dialled["m1"]) == 2)
            assert hub.dialled["m1"] == ["memory://new-m1", "memory://other-m1"]
