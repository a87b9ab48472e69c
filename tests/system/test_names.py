"""Members that move: each is found again through a name service, by the others and by clients (SAFETY rule 27).

Of four members two come back on other ports. They dial whom the roster names, and reach those that have not moved; but
each other they find only if something says where the other one is. Then a member that has not moved is killed: three
are left, all of them needed, and nothing can be decided until the two have found each other, and the client them.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from bftkit.cli.init import PORTS
from bftkit.client import OutcomeUnknown, SyncClient
from bftkit.client.connect import connect_sync
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue
from tests.name_server import NameServer

MakeGroup = Callable[..., ProcessGroup]

PATIENCE_SECONDS = 60.0
MOVED = ("m2", "m3")


def free_port() -> int:
    """A port on which nobody listens, of those that no system gives to whoever dials and that `bftkit init` leaves."""
    while True:
        port = random.randrange(PORTS.stop, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@attrs.frozen
class Directory:
    """A name service of one kind: what the settings say of it, and how an entry is made."""

    settings: str
    say: Callable[[dict[str, int]], None]
    """By member: the port on loopback where it is now."""


@pytest.fixture(params=["file", "dns"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Directory]:
    if request.param == "file":
        path = tmp_path / "names.toml"
        path.write_text('group = "group"\n')

        def write(ports: dict[str, int]) -> None:
            rows = [f'{member} = ["tcp://127.0.0.1:{port}"]\n' for member, port in sorted(ports.items())]
            path.write_text("[members]\n" + "".join(rows))

        yield Directory(f'\n[names]\nfile = "{path}"\n', write)
        return
    with NameServer("shop.example") as server:
        server.set("machine", "A", "127.0.0.1")

        def publish(ports: dict[str, int]) -> None:
            for member, port in sorted(ports.items()):
                server.set(f"_{member}._bftkit._tcp", "SRV", f"0 0 {port} machine")

        yield Directory(f'\n[names.dns]\ndomain = "shop.example"\nresolver = "127.0.0.1:{server.port}"\n', publish)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def move(group: ProcessGroup, member: str) -> int:
    """The member will listen on another port; which one."""
    port = free_port()
    path = group.directory / member / "member.toml"
    old = group.genesis.roster.entry(member).addresses[0]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, f"tcp://127.0.0.1:{port}"))
    return port


def links(client: SyncClient, member: str) -> list[str]:
    return list(client.status(timeout=0.5).get(member, {}).get("links", []))


def addresses(client: SyncClient) -> dict[str, object]:
    """By member that answers: what its one name service says of the others."""
    found: dict[str, object] = {}
    for member, status in client.status(timeout=0.5).items():
        (source,) = status["names"]["services"]
        found[member] = status["names"]["addresses"].get(source)
    return found


def test_members_that_moved_are_found_again(found: MakeGroup, directory: Directory) -> None:
    group = found()
    for member in group.members:
        append(group.directory / member / "member.toml", directory.settings)
    append(group.directory / "client" / "client.toml", directory.settings)
    group.start_all()
    with connect_sync(group.directory / "client") as client:
        client.submit(keyvalue.put(b"k", b"1"), timeout=PATIENCE_SECONDS)
        group.stop(MOVED)
        ports = {member: move(group, member) for member in MOVED}
        group.start_all(MOVED)
        end = time.monotonic() + PATIENCE_SECONDS
        while not {*MOVED} <= {*links(client, "m1")}:  # they have dialled who has not moved
            assert time.monotonic() < end
        group.kill("m0")
        with pytest.raises(OutcomeUnknown) as lost:
            client.submit(keyvalue.put(b"k", b"2"), timeout=1.0)
        directory.say(ports)
        client.wait(lost.value.number, timeout=PATIENCE_SECONDS)
        assert client.read(keyvalue.get(b"k"), timeout=PATIENCE_SECONDS) == b"+2"
        everywhere = {"m1": {*MOVED}, **{member: {*MOVED} - {member} for member in MOVED}}
        end = time.monotonic() + PATIENCE_SECONDS
        while (told := addresses(client)) != {  # the client finds all of them, and each of them has read what is said
            member: {other: [f"tcp://127.0.0.1:{ports[other]}"] for other in sorted(others)}
            for member, others in everywhere.items()
        }:
            assert time.monotonic() < end, told
