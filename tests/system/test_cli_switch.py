"""The operator's command line against real processes: a group changes its protocol, its members and their keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from bftkit.node.folders import read_genesis
from bftkit.node.processes import ProcessGroup
from tests.system.conftest import PATIENCE_SECONDS, MakeGroup, RunCommand, Told, Watch, until


class Operator:
    """What an operator types, for one group."""

    def __init__(self, command: RunCommand, group: ProcessGroup) -> None:
        self.command = command
        self.group = group

    def __call__(self, *words: object, code: int = 0) -> Told:
        timeout = ("--timeout", PATIENCE_SECONDS) if words[0] in ("put", "get", "history") else ()
        told = self.command(*words, *timeout, "--client", self.group.directory / "client")
        assert told.code == code, (words, told.events, told.error)
        return told

    def join(self, member: str, folder: str | None = None) -> Path:
        """A new member's folder, made from the genesis alone, and its process; gives its card."""
        path = self.group.directory / (folder or member)
        told = self.command("init", path, "--join", self.group.directory / "genesis.toml", "--id", member)
        assert told.code == 0, told.error
        self.group.members = (*self.group.members, path.name)
        self.group.start(path.name)
        self.group.wait_ready(path.name)
        return path / "card.toml"


@pytest.fixture
def operator(command: RunCommand, found: MakeGroup) -> Operator:
    group = found("--protocol", "coordinator", "--members", 3, "--checkpoint-interval", 8)
    group.start_all()
    return Operator(command, group)


def switched(told: Told) -> tuple[object, ...]:
    (switch,) = [one for one in told.events if one["event"] == "switch"]
    return tuple(switch[name] for name in ("epoch", "from", "to", "kind", "members"))


def test_from_a_coordinator_on_three_to_the_randomized_protocol_on_four(operator: Operator, watch: Watch) -> None:
    """Planned, with a member more, by force: what was stored is there, and the history says what happened."""
    group = operator.group
    operator("put", "greeting", "hello")

    assert operator("switch", "paxos", "--dry-run").last["event"] == "plan"
    assert operator("history").last["epochs"] == 1, "a dry run changes nothing"
    told = operator("switch", "paxos", "--set", "beat=50")
    assert switched(told) == (1, "coordinator", "paxos", "planned", 3)
    assert [one["state"] for one in told.events if one["event"] == "command"][-1] == "done"

    card = operator.join("m3")
    told = operator("member", "add", "--card", card, "--protocol", "pbft")
    assert switched(told) == (2, "paxos", "pbft", "planned", 4)
    assert (told.last["byzantine"], told.last["members"]) == (1, ["m0", "m1", "m2", "m3"])

    told = operator("member", "remove", "m3", code=6)
    assert "3 members bear 0 liars under pbft, and the group bears 1 now, which need 4 members" in told.error

    group.kill("m0")
    told = operator("switch", "cks", "--force")
    assert switched(told) == (3, "pbft", "cks", "forced", 4)
    assert operator("get", "greeting").last["value"] == "hello"
    group.start("m0")
    group.wait_ready("m0")

    told = operator("history")
    chain = [(one["epoch"], one["kind"], one["protocol"]) for one in told.events if one["event"] == "epoch"]
    assert chain == [
        (0, "founded", "coordinator"), (1, "planned", "paxos"), (2, "planned", "pbft"), (3, "forced", "cks"),
    ]  # fmt: skip
    watch(group, "everybody in epoch 3", lambda found: [one["epoch"] for one in found.values()] == [3] * 4)

    def answered() -> list[str]:
        told = operator("member", "list")
        return [one["id"] for one in told.events if one["event"] == "member" and one["answered"]]

    until(lambda: answered() == ["m0", "m1", "m2", "m3"], "answers of all within the time that the command gives them")
    group.stop(("m1",))  # events are written by a thread of their own, and all of them before the end
    told = operator.command("events", group.directory / "m1")
    entered = [(one["epoch"], one["kind"]) for one in told.events if one.get("what") == "entered"]
    assert entered == [(1, "planned"), (2, "planned"), (3, "forced")]
    assert operator.command("evidence", "list", group.directory / "m1").last == {"event": "result", "count": 0}


def test_two_operators_rotate_a_members_keys(operator: Operator, command: RunCommand, watch: Watch) -> None:
    """An operator more, a threshold of two, a command that travels as a file, and a member with new keys and disk."""
    group = operator.group
    operator("put", "greeting", "hello")
    second = group.directory / "second.key"
    assert command("keygen", second, "--kind", "operator").code == 0
    operator("operator", "add", second, "--threshold", 2)
    assert operator("operator", "list").last == {"event": "operators", "epoch": 1, "count": 2, "threshold": 2}

    group.stop(("m2",))
    card = operator.join("m2", "m2-again")
    old = read_genesis(group.directory / "genesis.toml").roster.entry("m2")
    told = operator("member", "rotate", "m2", "--card", card, code=6)
    assert "1 operator signed, and 2 must" in told.error
    file = group.directory / "rotate.toml"
    told = operator("member", "rotate", "m2", "--card", card, "--out", file)
    assert told.last["missing"] == 1
    told = operator("operator", "sign", file, "--operator-key", second)
    assert told.last["missing"] == 0
    told = operator("operator", "send", file)
    assert switched(told) == (2, "coordinator", "coordinator", "planned", 3)
    assert operator("operator", "send", file).last["epoch"] == 2, "sent twice, it is one command"

    watch(
        group, "m2 with its new keys", lambda found: found.get("m2", {}).get("epoch") == 2 and not found["m2"]["silent"]
    )
    (row,) = [one for one in operator("member", "list").events if one["event"] == "member" and one["id"] == "m2"]
    assert row["epoch_root"] != old.epoch_root.hex()
    group.kill("m1")
    assert operator("get", "greeting").last["value"] == "hello", "m2 counts again"


def test_a_member_that_is_removed_ends_by_itself(found: MakeGroup, command: RunCommand) -> None:
    """With exit code 0, so that what keeps processes running need not start it again."""
    group = found("--protocol", "paxos", "--members", 4, "--checkpoint-interval", 8)
    group.start_all()
    operator = Operator(command, group)
    operator("put", "greeting", "hello")
    operator("member", "remove", "m3")
    assert group.wait_end("m3") == 0
    assert "no part of the group since epoch 1" in group.log_text("m3")
    assert "ERROR" not in group.log_text("m3")
    assert operator("get", "greeting").last["value"] == "hello"
