"""Before an operator decides: who of the next members is there, and what the group bears without the others."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
import trio

from bftkit.cli import main, presence
from bftkit.cli.presence import Presence, dial
from bftkit.core.quorum import Quorum
from bftkit.membership.commands import Seat
from bftkit.membership.epochs import Configuration
from bftkit.network.addresses import Address, parse_address
from bftkit.network.hub import Admission
from bftkit.network.session import Identity
from bftkit.network.tcp import TcpHub
from bftkit.node.folders import read_client

GROUP = b"g" * 32


def admit(public_key: bytes, payload: bytes) -> Admission:
    return Admission(public_key)


def seat(member: str, identity: bytes, address: Address | str) -> Seat:
    return Seat(member, identity, bytes(32), 8, (str(address),))


async def test_who_joins_is_heard_of_if_it_listens_with_the_key_on_its_card() -> None:
    hubs = [TcpHub(Identity.from_seed(secrets.token_bytes(32)), group, accept=admit) for group in (GROUP, b"o" * 32)]
    mine, other = (hub.listen(parse_address("tcp://127.0.0.1:0")) for hub in hubs)
    impostor = Identity.from_seed(secrets.token_bytes(32)).public_key

    async def serve(hub: TcpHub) -> None:
        while True:
            await hub.wait(hub.deadline())
            hub.poll()
            hub.events()

    seats = [
        seat("there", hubs[0].public_key, mine),
        seat("impostor", impostor, mine),
        seat("of-another-group", hubs[1].public_key, other),
        seat("nowhere", impostor, "tcp://127.0.0.1:1"),
        seat("in-memory", impostor, "memory://m9"),
    ]
    async with trio.open_nursery() as nursery:
        for hub in hubs:
            nursery.start_soon(serve, hub)
        assert await dial(secrets.token_bytes(32), GROUP, seats[:1], 60.0) == {"there"}, "as soon as all are heard of"
        found, seconds = frozenset[str](), 0.5
        while not found:  # a busy machine may need longer for the one that is there; nobody else is ever heard of
            found, seconds = await dial(secrets.token_bytes(32), GROUP, seats, seconds), 2 * seconds
        assert found == {"there"}
        nursery.cancel_scope.cancel()
    for hub in hubs:
        hub.close()
    assert await dial(bytes(32), GROUP, []) == frozenset()


@pytest.mark.parametrize(
    ("n", "f", "c", "absent", "unheard", "told"),
    [
        (4, 1, 0, (), {}, []),
        (
            4, 0, 1, (), {"m3": ("tcp://h:7",)},
            [
                "m3 has not been heard of at tcp://h:7. Start it first, on its own machine: bftkit node run FOLDER.",
                "With m3 counted as absent, 3 of the next 4 members are there, and 3 must be: one more that goes down "
                "stops the group.",
            ],
        ),
        (
            7, 2, 0, ("m1",), {},
            [
                "m1 does not answer.",
                "With m1 counted as absent, 6 of the next 7 members are there, and 5 must be: the group bears 1 more "
                "that go down, not 2.",
            ],
        ),
        (
            4, 1, 0, ("m0", "m1"), {"m3": ("tcp://h:7", "tcp://h:8")},
            [
                "m3 has not been heard of at tcp://h:7 or tcp://h:8. Start it first, on its own machine: bftkit node "
                "run FOLDER.",
                "m0, m1 do not answer.",
                "With m0, m1, m3 counted as absent, 1 of the next 4 members are there, and 3 must be: the change waits "
                "until 2 more are up.",
            ],
        ),
    ],
)  # fmt: skip
def test_the_numbers_count_who_is_away_as_absent(
    n: int, f: int, c: int, absent: tuple[str, ...], unheard: Mapping[str, tuple[str, ...]], told: list[str]
) -> None:
    found = Presence(Quorum(n, f, c), absent, unheard)
    assert list(found.in_words()) == told
    assert found.bears == f + c - len(absent) - len(unheard)


async def test_a_member_with_a_new_identity_joins_and_one_with_new_keys_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "shop"
    assert main(["init", str(directory), "--members", "4", "--json"]) == 0
    folder = read_client(directory / "client")
    capsys.readouterr()
    dialled: list[list[str]] = []

    async def noted(seed: bytes, group: bytes, seats: list[Seat], seconds: float = 0.0) -> frozenset[str]:
        dialled.append([one.id for one in seats])
        return frozenset()

    class Group:
        async def status(self, *, timeout: float) -> Mapping[str, dict[str, object]]:
            return {"m0": {}, "m1": {}}

        def present(self, answers: Mapping[str, object]) -> frozenset[str]:
            return frozenset(answers)

    monkeypatch.setattr(presence, "dial", noted)
    here = Configuration.first(folder.genesis)
    m0, m1, m2, m3 = here.seats()
    changed = (m0, attrs.evolve(m1, epoch_root=b"r" * 32), attrs.evolve(m2, identity=b"i" * 32), m3)
    change = attrs.evolve(here.change(), members=changed)
    found = await presence.look(Group(), folder, here, change)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert dialled == [["m2"]]
    assert (found.absent, tuple(found.unheard), found.bears) == (("m3",), ("m2",), -1)
