"""Whom a member dials and lets in, as its neighbours change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import attrs
import pytest

from bftkit.crypto.keys import EpochKeys
from bftkit.membership.card import MemberCard
from bftkit.membership.roster import RosterEntry
from bftkit.network.addresses import Address
from bftkit.network.hub import Accept, Admission, refuse_all
from bftkit.network.memory import MemoryHub, MemoryNetwork
from bftkit.network.session import Identity
from bftkit.node.neighbours import MEMBER_PAYLOAD, Door, Neighbours

GROUP = b"g" * 32
PATIENCE_SECONDS = 60.0


def identity_of(name: str) -> Identity:
    """The same each time."""
    return Identity.from_seed(name.encode().ljust(32, b"."))


def entry_of(name: str, *addresses: str) -> RosterEntry:
    """A member's entry."""
    epochs = EpochKeys.generate([name.encode().ljust(32, b"e")])
    card = MemberCard(
        name, identity_of(name).public_key, epochs.root, addresses or (f"memory://{name}",), epochs.publics
    )
    return card.entry


M0, M1, M2, M3 = (entry_of(f"m{index}") for index in range(4))


@attrs.define
class Links:
    """Hubs in one network."""

    network: MemoryNetwork = attrs.field(factory=MemoryNetwork)
    hubs: list[MemoryHub] = attrs.field(factory=list[MemoryHub])

    def hub(self, name: str, accept: Accept) -> MemoryHub:
        """The hub of this name, which listens under it."""
        hub = MemoryHub(self.network, identity_of(name), GROUP, accept=accept)
        hub.listen(Address("memory", name))
        self.hubs.append(hub)
        return hub

    def until(self, condition: Callable[[], bool]) -> bool:
        """Whether this comes true while the hubs do what they have to."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            for hub in self.hubs:
                hub.flush()
                hub.poll(0.005)
            if condition():
                return True
        return False


@pytest.fixture
def links() -> Iterator[Links]:
    """Hubs that are closed with the test."""
    made = Links()
    yield made
    for hub in made.hubs:
        hub.close()


def door_of(*entries: RosterEntry, listed: frozenset[bytes] | None = None) -> Door:
    """The door of a member with these neighbours."""
    return Door({entry.identity: entry.id for entry in entries}, listed, 1000)


def test_who_is_let_in_as_what() -> None:
    door = door_of(M1)
    assert door(M1.identity, MEMBER_PAYLOAD) == Admission("m1", privileged=True)
    assert door(b"c" * 32, b"") == Admission(b"c" * 32, frame_bytes=1000, queue_bytes=32 << 20)
    assert door(M2.identity, MEMBER_PAYLOAD) is None, "a member of nobody here is no client"
    door = door_of(M1, listed=frozenset([b"c" * 32]))
    assert door(b"c" * 32, b"") is not None
    assert door(b"o" * 32, b"") is None
    door.operators = frozenset([b"o" * 32])
    assert door(b"o" * 32, b"") is not None, "operators come in whoever is listed"


def test_members_that_come_and_go(links: Links) -> None:
    door = door_of(M1, M2)
    hub = links.hub("m0", door)
    neighbours = Neighbours(hub, door, "m0", {})
    for name in ("m1", "m2", "m3"):
        links.hub(name, door_of(M0))
    neighbours.follow((M0, M1, M2))
    assert list(neighbours.peers) == ["m1", "m2"]
    assert links.until(lambda: hub.is_up("m1") and hub.is_up("m2"))
    neighbours.follow((M0, M2, M3))
    assert not hub.is_up("m1")
    assert links.until(lambda: hub.is_up("m3"))
    assert door(M1.identity, MEMBER_PAYLOAD) is None
    assert hub.is_up("m2"), "a link of one that stays is left alone"


def test_a_member_that_knocked_before_it_was_known_comes_in_as_a_member(links: Links) -> None:
    """Whether it was turned away, or let in as a client, as one that says nothing of itself is."""
    for payload in (MEMBER_PAYLOAD, b""):
        door = door_of(M1)
        hub = links.hub("m0", door)
        neighbours = Neighbours(hub, door, "m0", {})
        joining = links.hub("m3", refuse_all)
        joining.payload = payload
        joining.connect("m0", M0.identity, (Address("memory", "m0"),))
        if not payload:
            assert links.until(lambda hub=hub: hub.is_up(M3.identity))  # type: ignore[misc]
        neighbours.follow((M0, M1, M3))
        assert links.until(lambda hub=hub: hub.is_up("m3"))  # type: ignore[misc]
        assert not hub.is_up(M3.identity)
        for one in (hub, joining):
            links.hubs.remove(one)
            one.close()


def test_a_client_that_turns_out_to_be_a_neighbour_is_sent_away(links: Links) -> None:
    door = door_of()
    hub = links.hub("m0", door)
    neighbours = Neighbours(hub, door, "m0", {})
    other = links.hub("m3", refuse_all)
    other.connect("m0", M0.identity, (Address("memory", "m0"),))
    assert links.until(lambda: hub.is_up(M3.identity))
    assert not neighbours.as_member(M3.identity)
    door.members = {M3.identity: "m3"}
    assert neighbours.as_member(M3.identity)
    assert not hub.is_up(M3.identity)


def test_a_member_with_a_new_key_is_another(links: Links) -> None:
    door = door_of(M1)
    hub = links.hub("m0", door)
    neighbours = Neighbours(hub, door, "m0", {})
    old = links.hub("m1", door_of(M0))
    neighbours.follow((M0, M1))
    assert links.until(lambda: hub.is_up("m1"))
    renewed = attrs.evolve(M1, identity=identity_of("m9").public_key)
    neighbours.follow((M0, renewed))
    assert not hub.is_up("m1")
    assert door(M1.identity, MEMBER_PAYLOAD) is None
    links.hubs.remove(old)
    old.close()
    again = MemoryHub(links.network, identity_of("m9"), GROUP, accept=door_of(M0))
    again.listen(Address("memory", "m1"))
    links.hubs.append(again)
    assert links.until(lambda: hub.is_up("m1"))


def test_an_address_that_cannot_be_dialled_is_the_operators_mistake(
    links: Links, caplog: pytest.LogCaptureFixture
) -> None:
    door = door_of()
    hub = links.hub("m0", door)
    neighbours = Neighbours(hub, door, "m0", {})
    neighbours.follow((M0, entry_of("m1", "tcp://127.0.0.1:7000"), M2))
    assert list(neighbours.peers) == ["m2"]
    assert "m0 cannot dial m1" in caplog.text
    with pytest.raises(ValueError, match="'m1' is no peer of m0"):
        neighbours.readdress("m1", ())
