"""What people and strangers get wrong: one clear line and the right exit code, no traceback, and the group goes on."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from bftkit.client import NoAnswer, Refused, SyncClient
from bftkit.client.connect import client_settings, open_core
from bftkit.client.core import ClientCore
from bftkit.configuration.text import ConfigurationError
from bftkit.crypto.keys import SigningKey
from bftkit.network.addresses import parse_address
from bftkit.network.session import Identity
from bftkit.network.tcp import TcpHub
from bftkit.node.processes import ProcessFailed, ProcessGroup
from bftkit.service import keyvalue
from tests.system.conftest import PATIENCE_SECONDS, until

MakeGroup = Callable[..., ProcessGroup]
RunCommand = Callable[..., Any]
OpenClient = Callable[..., SyncClient]
Watch = Callable[[ProcessGroup, str, Callable[[Mapping[str, dict[str, Any]]], object]], Mapping[str, dict[str, Any]]]


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _swap_key(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        shutil.copy(folder.parent / "m1" / "keys" / name, folder / "keys" / name)

    return damage


Damage = Callable[[Path], object]

BAD_FOLDERS: list[tuple[Damage, list[str]]] = [
    (lambda folder: (folder / "member.toml").write_text("id = [broken"), ["member.toml"]),
    (lambda folder: (folder / "member.toml").write_bytes(b"\xff\xfe\0"), ["member.toml", "UTF-8"]),
    (lambda folder: (folder / "member.toml").unlink(), ["member.toml", "no such file"]),
    (lambda folder: _replace(folder / "member.toml", 'id = "m0"', 'id = "m9"'), ["member.toml", "m9"]),
    (lambda folder: _replace(folder / "member.toml", "fsync", "sometimes"), ["durability", "sometimes"]),
    (lambda folder: _replace(folder / "member.toml", "KeyValueStore", "Nothing"), ["service", "Nothing"]),
    (lambda folder: (folder / "genesis.toml").write_text("[group]\nname = 3\n"), ["genesis.toml"]),
    (lambda folder: (folder / "genesis.toml").write_text(""), ["genesis.toml"]),
    (_swap_key("identity.key"), ["identity.key", "m1", "m0"]),
    (_swap_key("epochs.key"), ["epochs.key", "m0"]),
    (lambda folder: (folder / "keys" / "identity.key").unlink(), ["identity.key", "no such file"]),
    (lambda folder: (folder / "keys" / "epochs.key").write_bytes(b"short"), ["epochs.key"]),
    (lambda folder: (folder / "keys" / "identity.key").chmod(0o644), ["identity.key", "chmod 600"]),
]


@pytest.mark.parametrize(("damage", "words"), BAD_FOLDERS)
def test_a_member_with_a_bad_folder_says_what_is_wrong_and_does_not_start(
    found: MakeGroup, command: RunCommand, damage: Damage, words: list[str]
) -> None:
    group = found()
    folder = group.directory / "m0"
    damage(folder)
    told = command("node", "run", folder)
    assert told.code == 3
    assert all(word in told.error for word in words), told.error
    assert len(told.error.splitlines()) == 1
    if (folder / "member.toml").exists():
        assert command("config", "check", folder).code == 3


def test_a_service_that_is_not_installed_is_named(found: MakeGroup, command: RunCommand) -> None:
    group = found("--service", "nowhere.to_be:Found")
    told = command("node", "run", group.directory / "m0")
    assert told.code == 3
    assert "nowhere.to_be" in told.error


def test_unreachable_members_then_too_few_then_enough(found: MakeGroup, command: RunCommand, watch: Watch) -> None:
    group = found()
    folder = group.directory / "client"
    told = command("put", "k", "v", "-c", folder, "--timeout", 0.5)
    assert told.code == 4
    assert "no member answered" in told.error
    assert command("get", "k", "-c", folder, "--timeout", 0.5).code == 4
    assert command("status", "-c", folder, "--timeout", 0.5).code == 4

    group.start_all(["m2"])
    watch(group, "m2", lambda found: "m2" in found)

    def heard(*words: object) -> Any:
        """What a command says that waits for all members, in vain, once m2 was quick enough for it."""
        told = command(*words, "-c", folder, "--timeout", 2)
        return None if told.code == 4 else told

    told = until(partial(heard, "status"), "m2's status")
    assert told.code == 0, "status needs no quorum"
    assert {line["member"]: line["answered"] for line in told.events} == {m: m == "m2" for m in group.members}
    for words in (("put", "k", "v"), ("get", "k")):
        told = until(partial(heard, *words), "an answer of m2")
        assert told.code == 5, told.error
        assert "m2 answered, but too few agreed" in told.error

    group.start_all(["m1", "m3"])
    assert command("put", "k", "v", "-c", folder, "--timeout", PATIENCE_SECONDS).code == 0
    assert command("get", "k", "-c", folder, "--timeout", PATIENCE_SECONDS).last["value"] == "v"


def test_an_oversize_operation_is_refused_before_and_after_it_is_sent(
    shared: ProcessGroup, command: RunCommand, client: OpenClient
) -> None:
    limits = shared.genesis.limits
    folder = shared.directory / "client"
    assert command("put", "", "v", "-c", folder).code == 2, "no key at all"
    for words in (("put", "k", "v" * limits.operation_bytes_max), ("submit", "v" * (limits.operation_bytes_max + 1))):
        told = command(*words, "-c", folder)
        assert told.code == 6
        assert "exceeds the group's limit" in told.error

    # A client that does not keep to the limits itself is told so by the members.
    for size in (limits.operation_bytes_max + 1, limits.bundle_bytes_max + 1):
        seed = os.urandom(32)
        careless = attrs.evolve(
            client_settings(shared.genesis, SigningKey(seed)), operation_bytes_max=1 << 25, bundle_bytes_max=1 << 25
        )
        peers = {
            entry.id: (entry.identity, tuple(map(parse_address, entry.addresses)))
            for entry in shared.genesis.roster.entries
        }
        with SyncClient(ClientCore(careless, TcpHub(Identity.from_seed(seed), shared.genesis.group_id), peers)) as one:
            with pytest.raises(Refused, match="limit"):
                one.submit(bytes(size), timeout=60)
            assert one.submit(keyvalue.put(b"still", b"welcome"), timeout=60) == b"="
    assert client(shared).submit(keyvalue.get(b"still"), timeout=60) == b"+welcome"


def test_a_group_for_listed_clients_serves_nobody_else(
    found: MakeGroup, command: RunCommand, client: OpenClient, watch: Watch, tmp_path: Path
) -> None:
    group = found("--clients", "listed")
    group.start_all()
    stranger = client(group)
    with pytest.raises(NoAnswer):
        stranger.submit(keyvalue.put(b"k", b"v"), timeout=1.0)
    with pytest.raises(NoAnswer):
        stranger.read(keyvalue.get(b"k"), timeout=1.0)
    listed = group.directory / "client"
    assert command("get", "k", "-c", listed, "--timeout", PATIENCE_SECONDS).code == 1, "nothing was stored"
    assert command("put", "k", "v", "-c", listed, "--timeout", PATIENCE_SECONDS).code == 0
    with SyncClient(open_core(group.genesis, group.client.key.seed)) as one:

        def refused_everywhere() -> bool:
            """The stranger knocks at every door in the end, however long each takes."""
            with pytest.raises(NoAnswer):
                stranger.read(keyvalue.get(b"k"), timeout=1.0)
            statuses = one.status(timeout=30)
            return set(statuses) == set(group.members) and all(
                status["network"]["refused"] > 0 for status in statuses.values()
            )

        until(refused_everywhere, "the stranger refused by all")

    other = tmp_path / "other"
    shutil.copytree(listed, other)
    (other / "client.key").unlink()
    assert command("keygen", other / "client.key").code == 0
    told = command("put", "k", "w", "-c", other)
    assert told.code == 3
    assert "listed" in told.error


def test_garbage_on_the_port_is_closed_and_counted_and_disturbs_nobody(
    shared: ProcessGroup, client: OpenClient
) -> None:
    mine = client(shared)
    before = mine.status(timeout=30)
    draws = random.Random(7)
    (address,) = shared.genesis.roster.entry("m1").addresses
    place = parse_address(address)
    rubbish = [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(4096),
        b"\xff" * 64,
        draws.randbytes(100_000),
        (2**31).to_bytes(4, "big") + b"x" * 100,
        *(draws.randbytes(draws.randrange(1, 300)) for _ in range(10)),
    ]
    for data in rubbish:
        with socket.create_connection((place.host, place.port), timeout=60) as link:
            try:
                link.sendall(data)
                link.shutdown(socket.SHUT_WR)
                while link.recv(4096):
                    pass
            except OSError:
                pass  # closed under our hands: just as well
    assert mine.submit(keyvalue.put(b"undisturbed", b"1"), timeout=60) == b"="
    after = before

    def counted(name: str) -> int:
        return int(after["m1"]["network"].get(name, 0)) - int(before["m1"]["network"].get(name, 0))

    def all_counted() -> bool:
        """An answer to a question before the rubbish may come only now."""
        nonlocal after
        after = mine.status(timeout=30)
        return "m1" in after and counted("refused") >= len(rubbish)

    until(all_counted, "all rubbish counted")
    assert counted("refused") == len(rubbish), after["m1"]["network"]
    assert counted("peer_faults") == 0
    assert after["m1"]["stopped"] is None


def test_rubbish_from_a_client_that_is_let_in_is_counted_and_disturbs_nobody(
    shared: ProcessGroup, client: OpenClient
) -> None:
    mine = client(shared)
    before = mine.status(timeout=30)["m1"]["counters"]["refused_frames"]
    draws = random.Random(8)
    hub = mine.core.hub
    # Not in the form of any frame: kinds that clients may not send, and such as they may with nonsense behind.
    frames = [draws.randbytes(draws.randrange(1, 200)) for _ in range(50)]
    frames += [bytes((kind,)) + draws.randbytes(40) for kind in range(20)]
    for frame in frames:
        assert hub.send("m1", frame)
    assert mine.submit(keyvalue.put(b"undisturbed", b"2"), timeout=60) == b"="
    status: dict[str, Any] = {}

    def counted() -> bool:
        """An answer to a question before the rubbish may come only now."""
        nonlocal status
        status = mine.status(timeout=30).get("m1", {})
        return bool(status) and status["counters"]["refused_frames"] >= before + 60

    until(counted, "the rubbish counted")
    assert status["stopped"] is None


def test_a_port_in_use_and_a_data_folder_in_use_are_clear_errors(shared: ProcessGroup, found: MakeGroup) -> None:
    other = found()
    (address,) = shared.genesis.roster.entry("m0").addresses
    settings = other.directory / "m0" / "member.toml"
    (own,) = other.genesis.roster.entry("m0").addresses
    _replace(settings, own, address)
    other.start("m0")
    with pytest.raises(ProcessFailed, match=r"exit code 8: bftkit: cannot listen on .*in use"):
        other.wait_ready("m0")

    second = ProcessGroup(shared.directory)
    second.start("m0")
    with pytest.raises(ProcessFailed, match=r"exit code 8: bftkit: another process uses"):
        second.wait_ready("m0")


def test_a_client_of_another_group_is_not_let_in(shared: ProcessGroup, found: MakeGroup, client: OpenClient) -> None:
    other = found()
    lost = attrs.evolve(other.genesis, roster=shared.genesis.roster, schedule=shared.genesis.schedule)
    with SyncClient(open_core(lost, os.urandom(32))) as one, pytest.raises(NoAnswer):
        one.submit(keyvalue.put(b"k", b"v"), timeout=1.0)
    assert client(shared).submit(keyvalue.put(b"k", b"v"), timeout=60) == b"="


def test_the_log_of_another_member_is_refused(found: MakeGroup) -> None:
    group = found()
    log = group.directory / "m0" / "data" / "log"
    shutil.rmtree(log)
    shutil.copytree(group.directory / "m1" / "data" / "log", log)
    group.start("m0")
    with pytest.raises(ProcessFailed, match="exit code 3: bftkit: the log belongs to member"):
        group.wait_ready("m0")


def test_a_folder_that_is_no_group_is_a_configuration_error(tmp_path: Path, command: RunCommand) -> None:
    assert command("put", "k", "v", "-c", tmp_path).code == 3
    assert command("status", "-c", tmp_path / "nowhere").code == 3
    assert command("node", "run", tmp_path).code == 3
    with pytest.raises(ConfigurationError):
        ProcessGroup(tmp_path)
