"""A client that was told a recent hand-over believes nobody before it, and stops if the chain has another (rule 28)."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import attrs
import pytest

from bftkit.channel import frames
from bftkit.channel.bundles import OK
from bftkit.channel.client import AskHistory, AskRead, ClientMachine, CommandState, History, Moved, Order, Stopped
from bftkit.channel.frames import CommandAnswer
from bftkit.client import Contradicted, SyncClient, TooFewAgreed
from bftkit.client.chain_file import ChainFile
from bftkit.client.connect import client_settings, connect_sync
from bftkit.client.core import ClientCore, peers_of_roster
from bftkit.configuration.keyfiles import KeyPair
from bftkit.configuration.settings import ClientSettings as FolderSettings
from bftkit.crypto.keys import SigningKey
from bftkit.membership.chain import TrustedPoint
from bftkit.node.folders import ClientFolder
from tests.chains import Group, asks
from tests.unit.following_client import SESSION, Client, settings_at
from tests.unit.test_client_epochs import Hub, show

SEED = b"c" * 32
WRONG = b"w" * 32


def trusted(group: Group, epoch: int) -> TrustedPoint:
    """The hand-over that began this epoch of the group, as its operators would tell it."""
    return TrustedPoint(epoch, group.links[epoch - 1].ending.opening)


def told(group: Group, point: TrustedPoint, epoch: int = 0) -> Client:
    """A client in this epoch that was told a point."""
    client = Client(group, epoch)
    client.machine = ClientMachine(attrs.evolve(settings_at(group, group.places[epoch]), trusted=point))
    for member in client.members:
        client.link(member, epoch)
    client.sent.clear()
    return client


@pytest.fixture
def cores() -> Generator[list[ClientCore]]:
    found: list[ClientCore] = []
    yield found
    for core in found:
        core.close()


def opened(
    cores: list[ClientCore], group: Group, point: TrustedPoint | None, kept: ChainFile | None = None
) -> ClientCore:
    settings = client_settings(group.genesis, SigningKey(SEED), kept.read() if kept is not None else (), point)
    assert settings.place is not None
    peers = peers_of_roster(settings.place.configuration.roster)
    cores.append(ClientCore(settings, Hub(group), peers, keeper=kept))
    return cores[-1]


# ------------------------------------------------------------------------------------------------ before


def test_nobody_is_believed_before_the_epoch_that_is_trusted() -> None:
    """Whoever has the keys of an epoch long past has all that it takes to answer, and is none to be believed."""
    group = Group()
    links = [group.go(), group.go(asks("m1", "m2", "m3", "m4"))]
    client = told(group, trusted(group, 2))
    client.submit(b"operation")
    client.step("on_input", AskRead(7, b"question", "strong"))
    client.step("on_input", AskRead(8, b"question", "best-effort"))
    for member in client.members:
        client.reply(member, 0, [(OK, SESSION.to_bytes(8, "big"))], session=0)
    assert not client.machine.is_open
    assert (client.machine.proved, client.machine.is_settled, client.machine.waits_for) == (set(), False, 2)
    client.links("m2", links[:1])
    for member in client.members:
        client.prove(member, 1)
    assert (client.epoch, client.machine.proved, client.machine.waits_for) == (1, set(), 2)
    client.links("m2", links[1:])
    client.link("m4")
    for member in client.members:
        client.prove(member, 2)
    assert (client.epoch, client.machine.is_settled, client.machine.waits_for) == (2, True, None)
    assert client.machine.proved == {"m1", "m2", "m3", "m4"}


def test_a_proof_that_came_before_the_client_did_counts_when_it_is_there() -> None:
    group = Group()
    links = [group.go()]
    client = told(group, trusted(group, 1))
    client.prove("m1", 1)
    client.links("m1", links)
    assert client.machine.proved == {"m1"}


def test_what_may_have_led_astray_says_nothing_of_commands_and_of_history() -> None:
    group = Group()
    signed = group.command()
    links = [group.go(), group.go()]
    client = told(group, trusted(group, 2))
    client.step("on_input", Order(signed))
    client.step("on_input", AskHistory())
    client.links("m0", links[:1])
    for member in client.members:
        client.prove(member, 1)
        client.tell(member, CommandAnswer(1, signed.name, frames.DONE, "epoch 1"))
    client.tick(300)
    client.step("on_input", Order(signed))
    assert (client.outputs(CommandState), client.outputs(History)) == ([], [])
    client.links("m0", links[1:])
    assert [state.state for state in client.outputs(CommandState)] == [frames.DONE]
    for _ in range(8):  # whoever is asked shows all that it has
        client.tick(100)
        for member, epoch in client.asked_chain():
            client.links(member, links[epoch:])
    assert client.outputs(History) == [History(tuple(links))]


def test_where_it_may_have_been_led_astray_is_not_remembered(tmp_path: Path, cores: list[ClientCore]) -> None:
    """So it does not begin there the next time."""
    group = Group()
    thieves = group.copy()
    kept = ChainFile(tmp_path, group.genesis)
    group.go()
    group.go()
    core = opened(cores, group, trusted(group, 2), kept)
    show(core, [thieves.go(asks(protocol="paxos"))])
    assert core.machine.settings.epoch == 1
    assert kept.read() == ()
    again = opened(cores, group, trusted(group, 2), kept)
    show(again, group.links)
    assert again.machine.settings.place == group.place
    assert kept.read() == tuple(group.links)
    later = opened(cores, group, trusted(group, 2), kept)
    assert (later.machine.settings.epoch, later.machine.stopped, later.machine.waits_for) == (2, None, None)


def test_its_caller_is_told_what_it_waits_for(cores: list[ClientCore]) -> None:
    group = Group()
    group.go()
    core = opened(cores, group, trusted(group, 1))
    core.machine.heard_from.add("m0")
    with pytest.raises(TooFewAgreed, match=r"believes nobody before epoch 1 \(trusted_epoch\), and was led to epoch 0"):
        SyncClient(core).settle(timeout=0.01)


# ------------------------------------------------------------------------------------------------ another one


@pytest.mark.parametrize("together", [False, True])
def test_a_genuine_chain_with_another_hand_over_in_its_place_stops_the_client(together: bool) -> None:
    group = Group()
    links = [group.go(), group.go(), group.go()]
    client = told(group, TrustedPoint(2, WRONG))
    client.submit(b"operation")
    for shown in [links] if together else [links[:1], links[1:]]:
        client.links("m3", shown)
    reason = client.machine.stopped
    assert reason is not None
    assert client.outputs(Stopped) == [Stopped(reason)]
    assert reason.startswith(f"the hand-over to epoch 2 has the digest {links[1].ending.opening.hex()}")
    assert WRONG.hex() in reason
    assert client.epoch == 1
    assert all(moved.chain == () for moved in client.outputs(Moved))
    assert client.refused() == []


def test_what_is_not_genuine_is_no_reason_to_stop() -> None:
    """Else one liar could stop whoever is careful."""
    group, other = Group(), Group(nonce=1)
    links = [group.go()]
    client = told(group, trusted(group, 1))
    client.links("m3", [other.go()])
    assert (client.machine.stopped, client.refused(), client.epoch) == (None, ["m3"], 0)
    client.links("m2", links)
    assert client.epoch == 1


def test_a_memory_with_another_hand_over_in_its_place_stops_the_client(tmp_path: Path) -> None:
    group = Group()
    links = [group.go(), group.go()]
    ChainFile(tmp_path, group.genesis).keep([link.encode() for link in links])
    right = trusted(group, 1)
    folder = ClientFolder(tmp_path, FolderSettings(), group.genesis, KeyPair.of("client", SEED))
    for digest, stops in ((right.opening, False), (WRONG, True)):
        named = attrs.evolve(folder, settings=FolderSettings(trusted_epoch=1, trusted_digest=digest.hex()))
        with connect_sync(named) as client:
            assert client.epoch == 2
            assert (client.core.machine.stopped is not None) == stops
            if stops:
                with pytest.raises(Contradicted, match="the hand-over to epoch 1 has the digest"):
                    client.submit(b"operation", timeout=1)


def test_where_the_memory_does_not_reach_back_the_whole_chain_tells() -> None:
    group = Group()
    links = [group.go(), group.go()]
    client = told(group, TrustedPoint(1, WRONG), epoch=2)
    assert client.machine.stopped is None
    client.step("on_input", AskHistory())
    ((member, epoch),) = client.asked_chain()
    assert epoch == 0
    client.links(member, links)
    assert client.machine.stopped is not None
    assert "the hand-over to epoch 1 has the digest" in client.machine.stopped
    assert client.outputs(History) == []
