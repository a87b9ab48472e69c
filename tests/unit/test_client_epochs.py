"""The real client from epoch to epoch: links, memory between two lives, operators' commands (SAFETY rule 28)."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import attrs
import pytest
import trio

from bftkit.channel import frames
from bftkit.channel.client import HaltNow
from bftkit.channel.frames import LinkProof, pack_answer
from bftkit.client import AsyncClient, Contradicted, NoAnswer, SyncClient, TooFewAgreed
from bftkit.client.chain_file import CHAIN_FILE, ChainFile, place_after
from bftkit.client.connect import client_settings, connect_sync
from bftkit.client.core import ClientCore, peers_of_roster
from bftkit.client.errors import refused_in_words
from bftkit.client.local import LocalGroup, local_group, local_group_sync
from bftkit.configuration.keyfiles import KeyPair
from bftkit.configuration.settings import ClientSettings as FolderSettings
from bftkit.configuration.text import ConfigurationError
from bftkit.crypto.keys import SigningKey
from bftkit.membership.chain import HandOver
from bftkit.membership.commands import Change
from bftkit.network.addresses import Address
from bftkit.network.hub import Peer
from bftkit.network.memory import MemoryHub, MemoryNetwork
from bftkit.network.session import Identity
from bftkit.node.folders import ClientFolder
from bftkit.service.keyvalue import KeyValueStore, get, parse_value, put
from tests.chains import Group, asks, person

SEED = b"c" * 32


class Hub(MemoryHub):
    """Nobody is there; it remembers whom it was told to dial."""

    def __init__(self, group: Group) -> None:
        self.dialled: dict[Peer, tuple[bytes, tuple[str, ...]]] = {}
        super().__init__(MemoryNetwork(), Identity.from_seed(SEED), group.group)

    def connect(self, peer: Peer, public_key: bytes, addresses: Sequence[Address]) -> None:
        self.dialled[peer] = (public_key, tuple(map(str, addresses)))
        super().connect(peer, public_key, addresses)

    def disconnect(self, peer: Peer) -> None:
        self.dialled.pop(peer, None)
        super().disconnect(peer)


CORES: list[ClientCore] = []


@pytest.fixture(autouse=True)
def closing() -> Generator[None]:
    """Closes the clients of a test."""
    yield
    for core in CORES:
        core.close()
    CORES.clear()


def opened(group: Group, kept: ChainFile | None = None) -> ClientCore:
    settings = client_settings(group.genesis, SigningKey(SEED), kept.read() if kept is not None else ())
    assert settings.place is not None
    peers = peers_of_roster(settings.place.configuration.roster)
    CORES.append(ClientCore(settings, Hub(group), peers, keeper=kept))
    return CORES[-1]


def show(core: ClientCore, links: Sequence[HandOver], member: str = "m2") -> None:
    """A member shows these links."""
    frame = pack_answer(frames.ChainAnswer(tuple(link.encode() for link in links)))
    core._step(lambda out: core.machine.on_message(member, frame, out))  # pyright: ignore[reportPrivateUsage]


def dialled(core: ClientCore) -> dict[Peer, tuple[bytes, tuple[str, ...]]]:
    assert isinstance(core.hub, Hub)
    return core.hub.dialled


# ------------------------------------------------------------------------------------------------ links


def test_links_follow_the_roster_with_its_identities_and_addresses() -> None:
    group = Group()
    core = opened(group)
    assert list(dialled(core)) == ["m0", "m1", "m2", "m3"]
    new = attrs.evolve(person("m1", "new").seat(), id="m1")

    def change(now: Change) -> Change:
        moved = attrs.evolve(now.members[2], addresses=("memory://elsewhere", "memory://m2"))
        return attrs.evolve(now, members=(new, moved, now.members[3], person("m4").seat()))

    show(core, [group.go(change)])
    assert dialled(core) == {
        "m1": (new.identity, ("memory://m1new",)),
        "m2": (person("m2").identity.public_key, ("memory://elsewhere", "memory://m2")),
        "m3": (person("m3").identity.public_key, ("memory://m3",)),
        "m4": (person("m4").identity.public_key, ("memory://m4",)),
    }
    assert core.configuration == group.place.configuration


def test_a_member_that_stays_where_it_is_keeps_its_link() -> None:
    """And an address that a name service gave for it."""
    group = Group()
    core = opened(group)
    dialled(core).clear()
    show(core, [group.go(asks("m1", "m2", "m3", "m4"))])
    assert list(dialled(core)) == ["m4"]


def test_an_address_that_cannot_be_dialled_here_stops_nobody() -> None:
    group = Group()
    core = opened(group)

    def change(now: Change) -> Change:
        gone = attrs.evolve(now.members[0], addresses=("tcp://127.0.0.1:7000",))
        return attrs.evolve(now, members=(gone, *now.members[1:]))

    show(core, [group.go(change)])
    assert core.machine.settings.epoch == 1


def test_refused_links_are_counted_for_people_to_see() -> None:
    group = Group()
    core = opened(group)
    show(core, [Group(nonce=1).go()], "m3")
    count, reason = core.refused_links["m3"]
    assert (count, list(core.refused_links)) == (1, ["m3"])
    assert "not signed by 3 members of epoch 0" in reason


def test_who_gets_no_answer_is_told_of_the_refused_links() -> None:
    """Whoever waits in vain must see that a member lies to this client, and not look for it in the history."""
    group = Group()
    core = opened(group)
    assert str(core.unanswered()) == "no member answered"
    show(core, [Group(nonce=1).go()], "m3")
    waiting = core.submit([b"first"], lambda: None)
    for error in (core.give_up(waiting), core.unanswered()):
        assert isinstance(error, TooFewAgreed)
        assert "m3 showed a hand-over that does not hold: " in str(error)
        assert "not signed by 3 members of epoch 0" in str(error)


def test_of_many_liars_a_few_are_told_in_a_few_words() -> None:
    refused = {"m1": (1, "x" * 1000), "m2": (9, "two"), "m3": (2, "three"), "m4": (1, "four"), "m5": (1, "five")}
    assert refused_in_words(refused) == [
        "m2 showed 9 hand-overs that do not hold, the last: two",
        "m3 showed 2 hand-overs that do not hold, the last: three",
        f"m1 showed a hand-over that does not hold: {'x' * 300}",
        "so did 2 more",
    ]


# ------------------------------------------------------------------------------------------------ memory


def test_the_newest_hand_over_outlives_the_client(tmp_path: Path) -> None:
    group = Group()
    kept = ChainFile(tmp_path, group.genesis)
    assert kept.read() == ()
    core = opened(group, kept)
    for change in (asks(), asks("m1", "m2", "m3", "m4")):
        show(core, [group.go(change)])
    assert kept.read() == tuple(group.links)
    assert [path.name for path in tmp_path.iterdir()] == [CHAIN_FILE]
    again = opened(group, kept)
    assert again.machine.settings.place == group.place
    assert list(dialled(again)) == ["m1", "m2", "m3", "m4"]


def test_an_older_client_of_the_same_folder_changes_nothing(tmp_path: Path) -> None:
    group = Group()
    kept = ChainFile(tmp_path, group.genesis)
    older, newer = opened(group, kept), opened(group, kept)
    links = [group.go(), group.go()]
    show(newer, links)
    show(older, links[:1])
    assert kept.read() == tuple(links)
    assert older.machine.stopped is None


def test_two_clients_of_a_folder_that_are_shown_two_histories_find_out(tmp_path: Path) -> None:
    group = Group()
    kept = ChainFile(tmp_path, group.genesis)
    other = group.copy()
    one, two = opened(group, kept), opened(group, kept)
    show(one, [group.go(), group.go()])
    pending = two.submit([b"operation"], lambda: None)
    show(two, [other.go(asks(protocol="paxos"))])
    assert two.machine.stopped is not None
    assert "epoch 0 has two hand-overs to epoch 1" in two.machine.stopped
    assert isinstance(pending.outcomes[0], Contradicted)
    assert kept.read() == tuple(group.links)


@pytest.mark.parametrize(
    "damage",
    [
        "flipped",
        "flipped signature",
        "cut",
        "empty",
        "other group",
        "other group later",
        "no chain",
        "large",
        "not following",
    ],
)
def test_a_damaged_memory_is_said_and_not_passed_over(tmp_path: Path, damage: str) -> None:
    group = Group()
    kept = ChainFile(tmp_path, group.genesis)
    links = [group.go(), group.go()]
    packed = tuple(link.encode() for link in links)
    kept.keep(packed)
    path = tmp_path / CHAIN_FILE
    data = path.read_bytes()
    match damage:
        case "flipped":
            path.write_bytes(data[:100] + bytes((data[100] ^ 1,)) + data[101:])
        case "cut":
            path.write_bytes(data[:-1])
        case "empty":
            path.write_bytes(b"")
        case "flipped signature":
            kept._write(packed[1:])  # pyright: ignore[reportPrivateUsage]
            signature = links[1].certificate.votes[0].signature
            path.write_bytes(path.read_bytes().replace(signature, bytes(64)))
        case "other group later":
            kept._write(packed[1:])  # pyright: ignore[reportPrivateUsage]
            kept = ChainFile(tmp_path, Group(nonce=1).genesis)
        case "other group":
            kept = ChainFile(tmp_path, Group(nonce=1).genesis)
        case "no chain":
            path.write_bytes(b"")
            kept._write(())  # pyright: ignore[reportPrivateUsage]
        case "large":
            with path.open("ab") as file:
                os.ftruncate(file.fileno(), 64 << 20)
        case _:
            kept._write((packed[1], packed[0]))  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ConfigurationError, match="the client's newest hand-over cannot be read from this file"):
        kept.read()
    with pytest.raises(ConfigurationError):
        kept.keep(packed)
    path.unlink()
    assert kept.read() == ()


def test_a_client_of_a_folder_starts_where_the_folder_says(tmp_path: Path) -> None:
    group = Group()
    folder = ClientFolder(tmp_path, FolderSettings(), group.genesis, KeyPair.of("client", SEED))
    ChainFile(tmp_path, group.genesis).keep([group.go().encode(), group.go(asks("m4", "m5", "m6", "m7")).encode()])
    with connect_sync(folder) as client:
        assert (client.epoch, client.configuration) == (2, group.place.configuration)
    (tmp_path / CHAIN_FILE).write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match=r"chain\.bin"):
        connect_sync(folder)


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    group = Group()
    folder = tmp_path / "gone"
    kept = ChainFile(folder, group.genesis)
    core = opened(group, kept)
    with pytest.raises(ConfigurationError, match="the newest hand-over cannot be kept"):
        show(core, [group.go()])


def test_a_crash_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    kept = ChainFile(tmp_path, group.genesis)
    link = group.go().encode()
    kept.keep((link,))

    def crash(*_: object) -> None:
        raise OSError(5, "power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(ConfigurationError, match="power cut"):
        kept.keep((link, group.go().encode()))
    monkeypatch.undo()
    assert kept.read() == (group.links[0],)
    kept.keep(group.packed)
    assert place_after(kept.read()[-1]) == group.place


# ------------------------------------------------------------------------------------------------ the end


def test_everything_fails_once_the_group_has_shown_two_histories() -> None:
    group = Group()
    core = opened(group)
    show(core, [group.go()])
    client = SyncClient(core)
    pending, read = core.submit([b"a", b"b"], lambda: None), core.read(b"c", lambda: None)
    chain, watch = core.ask_history(lambda: None), core.order(group.command(), lambda: None)
    core._step(lambda out: core.machine.on_input(HaltNow("two histories of epoch 7"), out))  # pyright: ignore[reportPrivateUsage]
    for outcome in (*pending.outcomes, *read.outcomes, chain.error, watch.error):
        assert isinstance(outcome, Contradicted)
    with pytest.raises(Contradicted, match="epoch 7"):
        client.submit(b"d")
    assert [type(outcome) for outcome in client.submit_many([b"e", b"f"])] == [Contradicted, Contradicted]
    with pytest.raises(Contradicted):
        client.read(b"g")
    with pytest.raises(Contradicted):
        next(iter(client.order(group.command())))
    with pytest.raises(Contradicted):
        client.history()
    with pytest.raises(Contradicted):
        client.settle()


def test_nobody_answers() -> None:
    group = Group()
    client = SyncClient(opened(group))
    for call in (
        lambda: client.settle(timeout=0.01),
        lambda: next(iter(client.order(group.command(), timeout=0.01))),
        lambda: client.history(timeout=0.01) or client.settle(timeout=0.01),
    ):
        with pytest.raises(NoAnswer):
            call()
    assert client.epoch == 0


# ------------------------------------------------------------------------------------------------ a whole group


async def ordered(client: AsyncClient, group: LocalGroup, change: Change) -> int:
    """Carry out a change as an operator would; the state that it came to."""
    await client.settle(timeout=30)
    states = [state async for state in client.order(group.command(change))]
    assert states[-1].final
    assert [state.final for state in states[:-1]] == [False] * (len(states) - 1)
    return states[-1].state


def test_plain_callers_order_changes_as_well() -> None:
    with local_group_sync(KeyValueStore, members=3, protocol="paxos") as group, group.client() as client:
        client.settle(timeout=30)
        change = group.group.change("coordinator")
        states = list(client.order(group.group.command(change)))
        assert [state.state for state in states if state.final] == [frames.DONE]
        assert client.epoch == 1
        assert len(client.history(timeout=30)) == 1
        assert client.submit(put(b"key", b"value"), timeout=60)


async def test_operators_bring_a_group_from_epoch_to_epoch_and_clients_follow() -> None:
    async with local_group(KeyValueStore, members=3, protocol="paxos", checkpoint_interval=4) as group:
        client, sleeper = await group.client(), group.client_core()
        CORES.append(sleeper)
        await client.submit(put(b"key", b"0"), timeout=60)
        await group.add_spare("m3")
        changes: tuple[Callable[[], Change], ...] = (
            lambda: group.change("coordinator"),
            lambda: group.change("paxos", members=("m0", "m1", "m2", "m3")),
            lambda: group.change(members=("m1", "m2", "m3")),
        )
        async with trio.open_nursery() as nursery:
            done = trio.Event()

            async def load() -> None:
                number = 0
                while not done.is_set():
                    number += 1
                    await client.submit(put(b"count", b"%d" % number), timeout=60)

            nursery.start_soon(load)
            for epoch, change in enumerate(changes, 1):
                assert await ordered(client, group, change()) == frames.DONE
                assert client.epoch == epoch
            done.set()
        assert client.configuration == group.configuration
        assert [link.ending.epoch for link in await client.history(timeout=30)] == [0, 1, 2]
        assert client.refused_links == {}
        # One that slept through all of it knows the genesis, and finds the group.
        async with trio.open_nursery() as nursery:
            late = AsyncClient(sleeper)
            nursery.start_soon(late.run)
            assert parse_value(await late.read(get(b"key"), timeout=60)) == b"0"
            assert late.epoch == 3
            # A command that came too late for its epoch.
            with pytest.raises(TooFewAgreed):
                _ = [state async for state in late.order(group.command(group.change()), timeout=0.0)]
            nursery.cancel_scope.cancel()


async def test_where_nobody_stayed_who_only_looks_finds_the_group_as_well() -> None:
    """Members that are none any more prove nothing; whoever asks them for the way is told."""
    async with local_group(KeyValueStore, members=1, protocol="paxos", checkpoint_interval=4) as group:
        client, quick = await group.client(), await group.client()
        await client.submit(put(b"key", b"value"), timeout=60)
        before = await quick.read_marked(get(b"key"), timeout=60, consistency="best-effort")
        await group.add_spare("m1")
        await group.switch(members=["m1"])
        after = await quick.read_marked(get(b"key"), timeout=60, consistency="best-effort")
        assert [before.member, after.member] == ["m0", "m1"]
        reader, curious = await group.client(), await group.client()
        found = await reader.read_marked(get(b"key"), timeout=60, consistency="best-effort")
        assert (parse_value(found.result), found.member) == (b"value", "m1")
        assert [link.ending.epoch for link in await curious.history(timeout=60)] == [0]


def test_plain_callers_find_a_group_in_which_nobody_stayed() -> None:
    with local_group_sync(KeyValueStore, members=1, protocol="paxos", checkpoint_interval=4) as group:
        group.client().submit(put(b"key", b"value"), timeout=60)
        group.add_spare("m1")
        group.switch(members=["m1"])
        assert group.client().settle(timeout=60).members == ("m1",)


def test_a_proof_is_small() -> None:
    """What a member shows unasked is a proof of its link; chains are only sent to who asks."""
    assert len(pack_answer(LinkProof(1, b"s" * 64))) < 200
