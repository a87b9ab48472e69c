"""`bftkit init` and `keygen`: what is on disk afterwards, and what is refused before anything is."""

from __future__ import annotations

import itertools
import json
import socket
import stat
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from bftkit.channel.settling import own_record
from bftkit.cli import main
from bftkit.cli.app import CommandFailed, ExitCode
from bftkit.cli.init import PORTS
from bftkit.core.ordering import ProtocolRecord
from bftkit.crypto.keys import EpochKeys, SigningKey
from bftkit.membership.card import MemberCard
from bftkit.membership.founding import default_faults
from bftkit.membership.genesis import Genesis
from bftkit.network.addresses import parse_address
from bftkit.node.folders import read_client, read_genesis, read_key, read_member
from bftkit.storage.disk import DiskDirectory
from bftkit.storage.log import Log, LogMismatch


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, last JSON line and standard error of one command."""
    code = main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    return code, json.loads(lines[-1]) if lines else {}, captured.err


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    code, _, _ = run(capsys, "init", tmp_path / "shop", "--protocol", "coordinator", "--service", "shop:Orders")
    assert code == 0
    return tmp_path / "shop"


def test_init_makes_one_folder_a_member_with_the_same_genesis_everywhere(group: Path) -> None:
    genesis = read_genesis(group / "genesis.toml")
    assert (genesis.name, genesis.protocol, genesis.f, genesis.c) == ("shop", "coordinator", 0, 1)
    assert (genesis.service, genesis.durability, genesis.client_policy) == ("shop:Orders", "fsync", "open")
    for member in ("m0", "m1", "m2", "m3"):
        folder = read_member(group / member)
        assert folder.genesis == genesis
        assert (folder.settings.id, folder.settings.durability) == (member, "fsync")
        assert folder.settings.listen == folder.entry.addresses[0]
        assert folder.epochs.count == folder.entry.epoch_count == 256
    assert read_client(group / "client").genesis == genesis
    operator = read_key(group / "operator" / "operator.key", "operator")
    assert genesis.operators == (operator.public,)


def test_secrets_can_be_reached_by_their_owner_only(group: Path) -> None:
    secrets = sorted(path for path in group.rglob("*.key"))
    assert len(secrets) == 2 * 4 + 2
    assert {mode(path) for path in secrets} == {0o600}
    folders = [group, *(path for path in group.rglob("*") if path.is_dir())]
    assert {mode(path) for path in folders} == {0o700}


def test_no_secret_is_in_a_file_that_is_copied_to_others(group: Path) -> None:
    """SAFETY rule 20."""
    secret = tomllib.loads((group / "m0/keys/identity.key").read_text())["secret"]
    for path in group.rglob("*"):
        if path.is_file() and path.suffix != ".key":
            data = path.read_bytes()
            assert secret.encode() not in data
            assert bytes.fromhex(secret) not in data


def test_every_member_has_its_own_empty_log_from_the_start(group: Path) -> None:
    """SAFETY rule 16: a log that is missing later means that the member has forgotten."""
    m0, m1 = read_member(group / "m0"), read_member(group / "m1")
    log, recovered = Log.open(DiskDirectory(m0.log), group=m0.genesis.group_id, identity=m0.identity.public)
    log.close()
    assert recovered.records == ()
    with pytest.raises(LogMismatch):
        Log.open(DiskDirectory(m0.log), group=m0.genesis.group_id, identity=m1.identity.public)


def test_a_member_folder_works_wherever_it_is_copied_to(group: Path, tmp_path: Path) -> None:
    moved = (group / "m2").rename(tmp_path / "elsewhere")
    assert read_member(moved).settings.id == "m2"
    assert read_member(moved).log.is_dir()


def test_two_groups_with_the_same_arguments_have_nothing_in_common(
    group: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / "shop"
    code, told, _ = run(capsys, "init", other, "--protocol", "coordinator", "--service", "shop:Orders")
    assert code == 0
    one, two = read_genesis(group / "genesis.toml"), read_genesis(other / "genesis.toml")
    assert told["group"] == two.group_id.hex() != one.group_id.hex()
    assert {entry.identity for entry in one.roster.entries}.isdisjoint(entry.identity for entry in two.roster.entries)


def test_init_tells_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "g"
    code, told, _ = run(capsys, "init", target, "--protocol", "coordinator", "--members", 3, "--base-port", 7100)
    assert code == 0
    assert told["event"] == "group"
    assert (told["byzantine"], told["crash"], told["quorum"]) == (0, 1, 2)
    assert told["members"][2] == {
        "id": "m2",
        "addresses": ["tcp://127.0.0.1:7102"],
        "folder": str(target / "m2"),
    }
    assert main(["init", str(tmp_path / "h"), "--protocol", "coordinator"]) == 0
    assert f"bftkit node run {tmp_path / 'h' / 'm3'}\n" in capsys.readouterr().out


def test_addresses_may_be_given_one_by_one_or_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--address", "m0=a.example:1", "m1=[::1]:2", "--address", "m0=10.0.0.1:3", "--base-port", "50"]
    code, _, _ = run(capsys, "init", tmp_path / "g", "--protocol", "coordinator", "--members", 3, *given)
    assert code == 0
    roster = read_genesis(tmp_path / "g" / "genesis.toml").roster
    assert [entry.addresses for entry in roster.entries] == [
        ("tcp://a.example:1", "tcp://10.0.0.1:3"),
        ("tcp://[::1]:2",),
        ("tcp://127.0.0.1:52",),
    ]
    listens = [read_member(tmp_path / "g" / member).settings.listen for member in roster.ids]
    assert listens == ["tcp://0.0.0.0:1", "tcp://[::1]:2", "tcp://127.0.0.1:52"]


def test_without_addresses_the_ports_are_free_and_below_those_of_outgoing_connections(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        tried = itertools.count(port - PORTS.start)  # the taken port first, then its neighbours

        def choose(_: int) -> int:
            return next(tried)

        monkeypatch.setattr("bftkit.cli.init.secrets.randbelow", choose)
        code, told, _ = run(capsys, "init", tmp_path / "g", "--protocol", "coordinator", "--members", 1)
    assert code == 0
    assert parse_address(told["members"][0]["addresses"][0]).port > port
    assert PORTS.stop <= 32768


def test_the_ports_that_are_drawn_are_none_of_those_for_the_http_interfaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = itertools.count(25_000 - PORTS.start - 1)

    def choose(_: int) -> int:
        return next(tried)

    monkeypatch.setattr("bftkit.cli.init.secrets.randbelow", choose)
    options = ("--protocol", "coordinator", "--members", 2, "--admin-base-port", 25_000)
    code, told, _ = run(capsys, "init", tmp_path / "g", *options)
    assert code == 0
    assert parse_address(told["members"][0]["addresses"][0]).port >= 25_002


def test_listed_clients_are_the_one_made_here_and_those_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, key, _ = run(capsys, "keygen", tmp_path / "other.key", "--kind", "client")
    arguments = ("--protocol", "coordinator", "--clients", "listed", "--client-key", key["public"])
    code, _, _ = run(capsys, "init", tmp_path / "g", *arguments)
    assert code == 0
    client = read_client(tmp_path / "g" / "client")
    assert client.genesis.client_policy == "listed"
    assert client.genesis.clients == (client.key.public, bytes.fromhex(key["public"]))


def test_operators_may_bring_their_own_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publics = [run(capsys, "keygen", tmp_path / f"{i}.key", "--kind", "operator")[1]["public"] for i in range(2)]
    options = ["--operator-key", publics[0], "--operator-key", publics[1], "--operator-threshold", "2"]
    code, told, _ = run(capsys, "init", tmp_path / "g", "--protocol", "coordinator", *options)
    assert (code, told["operator"]) == (0, None)
    genesis = read_genesis(tmp_path / "g" / "genesis.toml")
    assert [key.hex() for key in genesis.operators] == publics
    assert genesis.operator_threshold == 2
    assert not (tmp_path / "g" / "operator").exists()


RECORD = ProtocolRecord("p", "", "", True, "partial", 3, "", frozenset(), "")


@pytest.mark.parametrize(
    ("byzantine_protocol", "n", "given", "expected"),
    [
        (True, 1, (None, None), (0, 0)),
        (True, 4, (None, None), (1, 0)),
        (True, 6, (None, None), (1, 0)),
        (True, 7, (None, None), (2, 0)),
        (True, 6, (1, 1), (1, 1)),
        (True, 6, (None, 1), (1, 1)),
        (True, 7, (1, None), (1, 0)),
        (True, 3, (0, 1), (0, 1)),
        (False, 1, (None, None), (0, 0)),
        (False, 3, (None, None), (0, 1)),
        (False, 4, (None, None), (0, 1)),
        (False, 5, (None, None), (0, 2)),
        (False, 5, (None, 1), (0, 1)),
        (False, 5, (None, 0), (0, 0)),
    ],
)
def test_faults_default_to_what_the_group_can_bear(
    byzantine_protocol: bool, n: int, given: tuple[int | None, int | None], expected: tuple[int, int]
) -> None:
    record = attrs.evolve(RECORD, byzantine=byzantine_protocol)
    assert default_faults(record, n, *given) == expected


REFUSALS = [
    (["--members", "0"], 2, "--members 0: a group has 1 to 1024 members"),
    (["--members", "3", "--crash", "2"], 2, "0 Byzantine and 2 crash faults need 5 members; there are 3"),
    (["--byzantine", "1"], 2, "the protocol coordinator survives crashes only"),
    (["--address", "m9=host:1"], 2, "--address m9=host:1: give member=host:port, for m0 to m3"),
    (["--address", "m0=host"], 2, "--address m0=host: 'host' is not an address: the port is missing"),
    (["--base-port", "65534"], 2, "--base-port 65534: 4 ports from there on must be 1 to 65535"),
    (["--service", "shop"], 2, "service: 'shop' does not name a service"),
    (["--name", "A Shop"], 2, "name: 'A Shop' is no name"),
    (["--client-key", "00" * 32], 2, "--client-key means nothing without --clients listed"),
    (["--client-key", "0g"], 2, "--client-key: '0g' is not a public key"),
    (["--clients", "listed", "--client-key", "00" * 32], 2, "clients.keys[1]: 0000000000000000... is not a client's"),
    (["--operator-threshold", "2"], 2, "operators.threshold: 2 of 1 operators can never sign"),
    (["--parameter", "speed"], 2, "--parameter speed: give name=number"),
    (["--parameter", "no_such_thing=1"], 2, "parameters.no_such_thing: coordinator has no such parameter"),
    (["--checkpoint-interval", "0"], 2, "checkpoint_interval: 0 is out of range"),
    (["--protocol", "raft"], 2, "no protocol named 'raft'; installed: "),
]


@pytest.mark.parametrize(("arguments", "code", "message"), REFUSALS, ids=lambda value: str(value)[:40])
def test_what_cannot_be_founded_is_refused_and_leaves_nothing_behind(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = [] if "--protocol" in arguments else ["--protocol", "coordinator"]
    assert run(capsys, "init", tmp_path / "g", *protocol, *arguments)[0] == code
    assert main(["init", str(tmp_path / "g"), *protocol, *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_never_touched(
    group: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in group.rglob("*") if path.is_file()}
    code, _, errors = run(capsys, "init", group, "--protocol", "coordinator")
    assert code == 1
    assert "is there already and not empty; nothing was changed" in errors
    assert {path: path.read_bytes() for path in group.rglob("*") if path.is_file()} == before
    (tmp_path / "file").write_text("mine")
    assert run(capsys, "init", tmp_path / "file", "--protocol", "coordinator")[0] == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g").mkdir()
    assert run(capsys, "init", tmp_path / "g", "--protocol", "coordinator")[0] == 0
    assert isinstance(read_genesis(tmp_path / "g" / "genesis.toml"), Genesis)


def test_a_failure_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def create(directory: DiskDirectory, **_: object) -> None:
        made.append(str(directory))
        if len(made) == 3:
            raise CommandFailed(ExitCode.FAILED, "the disk is full")

    monkeypatch.setattr(Log, "create", create)
    code, _, errors = run(capsys, "init", tmp_path / "g", "--protocol", "coordinator")
    assert (code, errors, len(made)) == (1, "bftkit: the disk is full\n", 3)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- keygen


@pytest.mark.parametrize("kind", ["client", "operator"])
def test_keygen_writes_a_secret_and_prints_its_public_half(
    kind: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.key"
    code, told, _ = run(capsys, "keygen", path, "--kind", kind)
    key = read_key(path, kind)
    assert (code, told["kind"], told["public"]) == (0, kind, key.public.hex())
    assert mode(path) == 0o600
    assert SigningKey(key.seed).public == key.public
    assert main(["keygen", str(tmp_path / "2.key"), "--kind", kind]) == 0
    assert bytes.fromhex(capsys.readouterr().out) == read_key(tmp_path / "2.key", kind).public


def test_keygen_never_overwrites_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.key"
    path.write_text("precious")
    code, _, errors = run(capsys, "keygen", path)
    assert (code, errors) == (1, f"bftkit: {path}: File exists\n")
    assert path.read_text() == "precious"


def test_what_keygen_prints_for_a_member_fits_into_a_genesis(
    group: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A member's secrets need never leave its machine."""
    keys = tmp_path / "m3-keys"
    assert main(["keygen", str(keys), "--kind", "member", "--id", "m3", "--address", "h:1", "--epochs", "8"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("[[members]]\n")
    text = (group / "genesis.toml").read_text()
    table, _, line = printed.partition("\n[epoch_keys]\n")
    others = text[text.index("m0 = ", text.index("[epoch_keys]")) : text.rindex("m3 = ")]
    mixed = f"{text[: text.rindex('[[members]]')]}{table}\n[epoch_keys]\n{others}{line}"
    genesis = Genesis.from_text(mixed)
    entry = genesis.roster.entry("m3")
    assert genesis.schedule is not None
    assert genesis.schedule["m3"] == EpochKeys.from_bytes((keys / "epochs.key").read_bytes()).publics
    assert entry.identity == read_key(keys / "identity.key", "identity").public
    assert entry.epoch_root == EpochKeys.from_bytes((keys / "epochs.key").read_bytes()).root
    assert {mode(path) for path in keys.iterdir()} == {0o600}


def test_init_join_makes_the_folder_of_one_more_member_and_its_card(
    group: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("init", tmp_path / "m4", "--join", group / "genesis.toml", "--id", "m4", "--address", "new.example:7004")
    code, event, _ = run(capsys, *words)
    assert code == 0
    found = read_member(tmp_path / "m4")
    assert (found.settings.joins, found.settings.listen) == (True, "tcp://0.0.0.0:7004")
    assert found.genesis.schedule is not None
    card = MemberCard.from_text((tmp_path / "m4" / "card.toml").read_text())
    assert (card.id, card.group, card.addresses) == ("m4", found.genesis.group_id, ("tcp://new.example:7004",))
    assert (card.identity, card.keys) == (found.identity.public, found.epochs.publics)
    assert event["card"] == str(tmp_path / "m4" / "card.toml")
    assert {mode(path) for path in (tmp_path / "m4" / "keys").iterdir()} == {0o600}
    _, recovered = Log.open(DiskDirectory(found.log), group=card.group or b"", identity=card.identity)
    assert recovered.records == ()


def test_a_member_joins_a_group_that_is_older_than_the_usual_keys_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "init", tmp_path / "g", "--epochs", 3)[0] == 0
    genesis = read_genesis(tmp_path / "g" / "genesis.toml")
    assert [entry.epoch_count for entry in genesis.roster.entries] == [3] * 4
    words = ("init", tmp_path / "m4", "--join", tmp_path / "g" / "genesis.toml", "--id", "m4", "--epochs", 300)
    code, event, _ = run(capsys, *words)
    assert (code, event["epoch_count"]) == (0, 300)
    card = MemberCard.from_text((tmp_path / "m4" / "card.toml").read_text())
    assert len(card.keys) == read_member(tmp_path / "m4").epochs.count == 300


def test_a_folder_that_replaces_a_member_starts_silent(
    group: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the member of this id has promised is not known to it (SAFETY rule 16)."""
    assert run(capsys, "init", tmp_path / "m1", "--join", group / "genesis.toml", "--id", "m1")[0] == 0
    found = read_member(tmp_path / "m1")
    directory = DiskDirectory(found.log)
    _, recovered = Log.open(directory, group=found.genesis.group_id, identity=found.identity.public)
    assert recovered.standing == (own_record(0, silent=True),)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--join", "GENESIS"], "--join needs --id"),
        (["--join", "GENESIS", "--id", "No good"], "--id No good: give 1 to 32"),
        (["--join", "GENESIS", "--id", "m4", "--protocol", "cks"], "--protocol means nothing with --join"),
        (["--join", "GENESIS", "--id", "m4", "--members", "5"], "--members means nothing with --join"),
        (["--join", "GENESIS", "--id", "m4", "--address", "h:0"], "has port 0"),
        (["--join", "nowhere.toml", "--id", "m4"], "there is no such file"),
        (["--join", "GENESIS", "--id", "m4", "--epochs", "4097"], "--epochs 4097: give a number between 1 and 4096"),
        (["--epochs", "0"], "--epochs 0: give a number between 1 and 4096"),
        (["--id", "m4"], "--id means nothing without --join"),
    ],
)
def test_what_makes_no_member_that_joins(
    group: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    words = [str(group / "genesis.toml") if word == "GENESIS" else word for word in words]
    code, _, error = run(capsys, "init", tmp_path / "m4", *words)
    assert code in (2, 3)
    assert reason in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop"]


def test_new_epoch_keys_reach_further_than_the_group_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys are counted from epoch 0 on: those of epochs that are over, and erased, count for nothing."""
    assert main(["init", str(tmp_path / "g"), "--base-port", "7000"]) == 0
    file = tmp_path / "g/m1/keys/epochs.key"
    keys = EpochKeys.from_bytes(file.read_bytes())
    keys.erase_before(5)
    file.write_bytes(keys.to_bytes())
    capsys.readouterr()
    assert main(["keygen", str(tmp_path / "g/m1"), "--kind", "next", "--epochs", "5"]) == 2
    assert "5 are over" in capsys.readouterr().err
    assert main(["keygen", str(tmp_path / "g/m1"), "--kind", "next"]) == 0
    assert "epoch_count = 261" in capsys.readouterr().out
