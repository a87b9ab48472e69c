"""`bftkit config` and `bftkit log verify`: what is wrong is found, named and leaves with the right exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bftkit.cli import main
from bftkit.node.folders import read_genesis, read_member
from bftkit.storage.disk import DiskDirectory
from bftkit.storage.log import Log

SERVICE = "bftkit.core.machine:Out"  # some class that is always there; nothing runs here


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("founded") / "g"
    assert main(["init", str(folder), "--protocol", "coordinator", "--service", SERVICE]) == 0
    return folder


@pytest.fixture
def group(founded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A group's folder, for the test alone."""
    shutil.copytree(founded, tmp_path / "g")
    capsys.readouterr()
    return tmp_path / "g"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    code = main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, [json.loads(line) for line in captured.out.splitlines()], captured.err


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_good_group_is_good_in_all_its_parts(group: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told, errors = run(capsys, "config", "check", group)
    assert (code, errors) == (0, "")
    kinds = [(Path(line["path"]).name, line["kind"]) for line in told]
    assert kinds == [
        ("genesis.toml", "genesis"),
        ("client", "client"),
        ("m0", "member"),
        ("m1", "member"),
        ("m2", "member"),
        ("m3", "member"),
    ]
    assert all(line["event"] == "checked" and line["notes"] == [] for line in told)
    for part, kind in ((group / "m1", "member"), (group / "client", "client"), (group / "genesis.toml", "genesis")):
        assert main(["config", "check", str(part)]) == 0
        assert f"{part}: this {kind} is good" in capsys.readouterr().out


def replace_all(folder: Path, old: str, new: str) -> None:
    for path in folder.glob("**/*.toml"):
        path.write_text(path.read_text().replace(old, new))


def other_group(folder: Path) -> None:
    assert main(["init", str(folder.parent / "other"), "--protocol", "coordinator", "--service", SERVICE]) == 0
    shutil.copy(folder.parent / "other" / "client" / "genesis.toml", folder / "client" / "genesis.toml")


PROBLEMS: list[tuple[str, Callable[[Path], object], str, str]] = [
    (
        "a misspelt key",
        lambda g: replace(g / "m1/member.toml", "listen = ", "listne = "),
        "m1/member.toml: listne: no such key",
        "did you mean 'listen'?",
    ),
    (
        "another member's name",
        lambda g: replace(g / "m1/member.toml", 'id = "m1"', 'id = "m7"'),
        "m1/member.toml: id: the group g has no member 'm7'",
        "give one of m0, m1, m2, m3",
    ),
    (
        "another service",
        lambda g: replace(g / "m1/member.toml", ":Out", ":Machine"),
        "m1/member.toml: service: this member would run 'bftkit.core.machine:Machine'",
        f"give {SERVICE!r}",
    ),
    (
        "a queue that holds no batch",
        lambda g: replace(g / "m1/member.toml", "queue_bytes = 67108864", "queue_bytes = 1048576"),
        "m1/member.toml: limits.queue_bytes: 1048576 bytes cannot hold one batch",
        "give at least 4259840",
    ),
    (
        "another member's identity",
        lambda g: shutil.copy(g / "m2/keys/identity.key", g / "m1/keys/identity.key"),
        "m1/keys/identity.key: this is the key of member m2, not of m1",
        "put the identity key of m1 there",
    ),
    (
        "another member's epoch keys",
        lambda g: shutil.copy(g / "m2/keys/epochs.key", g / "m1/keys/epochs.key"),
        "m1/keys/epochs.key: these are not the epoch keys that the genesis commits m1 to",
        "put the epoch keys of m1 there",
    ),
    (
        "the operator's key",
        lambda g: shutil.copy(g / "operator/operator.key", g / "m1/keys/identity.key"),
        "m1/keys/identity.key: kind: the file holds a key of kind operator, not identity",
        "give the path of the identity key",
    ),
    (
        "a client's key in place of epoch keys",
        lambda g: shutil.copy(g / "client/client.key", g / "m1/keys/epochs.key"),
        "m1/keys/epochs.key: this is no file of epoch keys",
        "restore the file",
    ),
    (
        "a key that others can read",
        lambda g: (g / "m1/keys/epochs.key").chmod(0o640),
        "m1/keys/epochs.key: others than its owner can reach this secret (mode 0640)",
        "chmod 600",
    ),
    (
        "a missing key",
        lambda g: (g / "m1/keys/identity.key").unlink(),
        "m1/keys/identity.key: there is no such file",
        "give the right path",
    ),
    (
        "a missing genesis",
        lambda g: (g / "m1/genesis.toml").unlink(),
        "m1/genesis.toml: there is no such file",
        "give the right path",
    ),
    (
        "a broken genesis",
        lambda g: replace(g / "m1/genesis.toml", "crash = 1", "crash = 2"),
        "m1/genesis.toml: byzantine, crash: 0 Byzantine and 2 crash faults need 5 members; there are 4",
        "add members",
    ),
    (
        "a genesis that is no text",
        lambda g: (g / "m1/genesis.toml").write_bytes(b"\xff\xfe"),
        "m1/genesis.toml: the file is not UTF-8 text",
        "give the path of the right file",
    ),
    (
        "the genesis of another group",
        lambda g: replace(g / "m1/genesis.toml", "window = 256", "window = 512"),
        "m1: this is another group than",
        "copy one genesis to all members and clients",
    ),
    (
        "a protocol that is not installed",
        lambda g: replace_all(g, '"coordinator"', '"raft"'),
        "genesis.toml: no protocol named 'raft'",
        "or install it",
    ),
    (
        "a service that is not installed",
        lambda g: replace_all(g, SERVICE, "no.such:Service"),
        "m1/member.toml: service: no.such:Service cannot be imported here",
        "install the package that has it",
    ),
    (
        "a client of another group",
        other_group,
        "client: this is another group than",
        "copy one genesis to all members and clients",
    ),
]


@pytest.mark.parametrize(
    ("spoil", "wrong", "suggestion"), [problem[1:] for problem in PROBLEMS], ids=[problem[0] for problem in PROBLEMS]
)
def test_a_problem_is_named_with_its_file_and_with_what_would_be_right(
    spoil: Callable[[Path], object], wrong: str, suggestion: str, group: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(group)
    capsys.readouterr()
    code, told, errors = run(capsys, "config", "check", group)
    assert code == 3
    lines = [line for line in errors.splitlines() if wrong in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"bftkit: {group}/")
    assert suggestion in lines[0]
    problems = [line for line in told if line["event"] == "problem"]
    assert len(problems) == len(errors.splitlines())
    assert any(f"{line['where']}: {line['wrong']}" in lines[0] for line in problems)


def test_a_client_that_is_not_listed_is_told_so(group: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--protocol", "coordinator", "--service", SERVICE, "--clients", "listed"]
    assert main(["init", str(group.parent / "listed"), *options]) == 0
    client = group.parent / "listed" / "client"
    assert main(["config", "check", str(client)]) == 0
    shutil.copy(group / "client" / "client.key", client / "client.key")
    capsys.readouterr()
    assert main(["config", "check", str(client)]) == 3
    assert "the group takes operations from listed clients only" in capsys.readouterr().err


def test_a_member_without_a_log_or_with_a_weak_one_is_noted(group: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SAFETY rule 16. It is no mistake in the configuration, so the check still succeeds."""
    shutil.rmtree(group / "m1/data/log")
    replace(group / "m1/member.toml", 'durability = "fsync"', 'durability = "memory"')
    code, told, _ = run(capsys, "config", "check", group / "m1")
    assert code == 0
    assert "this member has forgotten" in told[0]["notes"][0]
    assert 'durability "memory"' in told[0]["notes"][1]


def test_show_tells_settings_in_force_and_no_secret(group: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace(group / "m1/member.toml", "connections = 1024\n", "")
    code, told, _ = run(capsys, "config", "show", group / "m1")
    assert code == 0
    assert told[0]["settings"]["limits"]["connections"] == 1024
    assert told[0]["member"] == "m1"
    assert told[0]["quorum"] == {"certificate": 3, "available": 3, "weak": 1}
    assert told[0]["genesis"]["members"][1]["id"] == "m1"
    assert main(["config", "show", str(group)]) == 0
    shown = capsys.readouterr().out
    assert "connections = 1024" in shown
    assert f"# Group id: {read_genesis(group / 'genesis.toml').group_id.hex()}" in shown
    for path in group.rglob("*.key"):
        for line in path.read_bytes().splitlines():
            if line.startswith(b"secret"):
                assert line.split(b'"')[1].decode() not in shown


def test_what_is_not_there_is_a_bad_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("check", "show"):
        for target in (tmp_path, tmp_path / "nothing"):
            code, _, errors = run(capsys, "config", command, target)
            assert code == 3
            assert "there is no such file" in errors


# ------------------------------------------------------------------------------------------------- log verify


def write_log(folder: Path, count: int) -> Path:
    member = read_member(folder)
    log, _ = Log.open(DiskDirectory(member.log), group=member.genesis.group_id, identity=member.identity.public)
    for slot in range(1, count + 1):
        log.append(b"vote %d" % slot, slot)
        log.sync()
    log.close()
    return max(member.log.glob("*.seg"))


def test_a_log_that_is_whole_verifies(group: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(group / "m0", 5)
    for target in (group / "m0", group / "m0/data/log"):
        code, told, _ = run(capsys, "log", "verify", target)
        assert code == 0
        assert (told[0]["ok"], told[0]["torn_bytes"], told[0]["problem"]) == (True, 0, None)
        assert told[0]["records"] >= 5
    assert main(["log", "verify", str(group / "m0")]) == 0
    assert "every record is good" in capsys.readouterr().out


def test_a_flipped_bit_is_corruption_and_a_torn_end_is_not(group: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SAFETY rule 15."""
    segment = write_log(group / "m0", 5)
    whole = segment.read_bytes()
    segment.write_bytes(whole + b"\x01\x02\x03")
    code, told, _ = run(capsys, "log", "verify", group / "m0")
    assert (code, told[0]["ok"], told[0]["torn_bytes"]) == (0, True, 3)
    at = whole.index(b"vote 2")
    segment.write_bytes(whole[:at] + b"note 2" + whole[at + 6 :])
    code, told, errors = run(capsys, "log", "verify", group / "m0")
    assert (code, told[0]["ok"]) == (1, False)
    assert told[0]["problem"]["segment"] == 1
    assert "corrupt at segment 1, byte " in errors
    assert told[-1]["event"] == "error"


def test_a_missing_log_is_said_to_be_missing(group: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(group / "m0/data/log")
    code, told, errors = run(capsys, "log", "verify", group / "m0")
    assert (code, told[-1]["event"]) == (1, "error")
    assert errors.count("\n") == 1
