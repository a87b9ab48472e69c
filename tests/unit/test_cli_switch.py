"""The commands that change a group, against a client that plays the group: what is asked, signed, sent and told."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from rich.console import Console

from bftkit.channel import frames
from bftkit.channel.client import CommandState
from bftkit.cli import change, main, reach
from bftkit.cli.app import create_app
from bftkit.cli.change import median_of, pause_in_words, refusal_of, still_under_way
from bftkit.cli.change_view import FollowView, step_in_words
from bftkit.cli.output import Output, use_output
from bftkit.client import NoAnswer, TooFewAgreed
from bftkit.configuration.text import ConfigurationError
from bftkit.crypto.keys import verify_signature
from bftkit.crypto.signed import Certificate
from bftkit.membership.chain import Ending, HandOver, Place
from bftkit.membership.command_files import command_from_text, command_to_text
from bftkit.membership.commands import CANCEL, FORCED, PLANNED, Command, OperatorSignature, SignedCommand
from bftkit.membership.epochs import Configuration, extended, following
from bftkit.node.folders import read_client, read_genesis, read_key, read_member

FOUNDING = ("--protocol", "coordinator", "--members", "3", "--json")


@attrs.define
class FakeClient:
    """Plays a group that carries out whatever it is sent, or refuses it."""

    configuration: Configuration
    links: tuple[HandOver, ...] = ()
    refuse: str = ""
    pauses: bool = True
    """Whether anything was waiting, so that service was paused for it."""
    silent_after: int | None = None
    """So many states are told; then nobody answers any more."""
    ordered: list[SignedCommand] = attrs.field(factory=list[SignedCommand])
    statuses: dict[str, dict[str, Any]] = attrs.field(factory=dict[str, dict[str, Any]])
    refused_links: Mapping[str, tuple[int, str]] = attrs.field(factory=dict[str, tuple[int, str]])

    async def history(self, *, timeout: float = 10.0) -> tuple[HandOver, ...]:
        return self.links

    async def status(self, *, timeout: float = 2.0) -> Mapping[str, dict[str, Any]]:
        return self.statuses

    def present(self, answers: Mapping[str, object]) -> frozenset[str]:
        return frozenset(answers)

    async def order(self, signed: SignedCommand, *, timeout: float = 60.0) -> AsyncGenerator[CommandState]:
        self.ordered.append(signed)
        members = self.configuration.members

        def said(state: int, text: str, *, final: bool = False) -> CommandState:
            return CommandState(signed.name, state, text, members[:2], dict.fromkeys(members, (state, text)), final)

        if self.silent_after == 0:
            raise NoAnswer(0, "no member answered")
        yield said(frames.TAKEN, "waits to be ordered")
        if self.refuse:
            yield said(frames.REFUSED, self.refuse, final=True)
            return
        yield said(frames.PREPARED, "slot 17")
        if self.silent_after == 2:
            raise TooFewAgreed(0, "m0 answered, but too few agreed")
        yield said(frames.COMMITTED, "epoch 0 ends at slot 128")
        for index, member in enumerate(members):
            self.statuses[member] = {
                "epoch": 1,
                "switch": {
                    "epoch": 1,
                    "kind": "planned",
                    "pause_ms": 20.0 + index if self.pauses else None,
                    "ready_ms": 15.0,
                },
            }
        yield said(frames.DONE, "epoch 1", final=True)


@attrs.frozen
class Told:
    code: int
    events: list[dict[str, Any]]
    out: str
    error: str

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]


@attrs.define
class Stage:
    """A founded group, whose members are played by `client`."""

    directory: Path
    capsys: pytest.CaptureFixture[str]
    client: FakeClient

    def run(self, *words: object, json_lines: bool = True) -> Told:
        code = main([*map(str, words), "--client", str(self.directory / "client"), *(["--json"] if json_lines else [])])
        captured = self.capsys.readouterr()
        assert "Traceback" not in captured.err, captured.err
        events = [json.loads(line) for line in captured.out.splitlines()] if json_lines else []
        return Told(code, events, captured.out, captured.err)

    @property
    def key(self) -> Path:
        return self.directory / "operator" / "operator.key"

    @property
    def sent(self) -> Command:
        """The one command that was sent, after a look at its signatures."""
        (signed,) = self.client.ordered
        genesis = read_genesis(self.directory / "genesis.toml")
        return signed.check(genesis.group_id, 0, genesis.operators, genesis.operator_threshold, verify_signature)


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group's folders, to be copied: to make so many keys takes a while."""
    directory = tmp_path_factory.mktemp("founded") / "shop"
    assert main(["init", str(directory), *FOUNDING]) == 0
    return directory


@pytest.fixture
def stage(founded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Stage:
    shutil.copytree(founded, tmp_path / "shop")
    return make_stage(tmp_path / "shop", capsys, monkeypatch)


def make_stage(directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Stage:
    client = FakeClient(Configuration.first(read_client(directory / "client").genesis))

    @asynccontextmanager
    async def connect(found: object) -> AsyncGenerator[FakeClient]:
        yield client

    monkeypatch.setattr(reach, "connect", connect)
    return Stage(directory, capsys, client)


def card_of(stage: Stage, name: str, port: int) -> Path:
    """A card as a new member's machine makes it."""
    folder = stage.directory.parent / f"joiner-{name}"
    code = main(
        [
            "init",
            str(folder),
            "--join",
            str(stage.directory / "genesis.toml"),
            "--id",
            name,
            "--address",
            f"127.0.0.1:{port}",
            "--json",
        ]
    )
    assert code == 0
    stage.capsys.readouterr()
    return folder / "card.toml"


# ------------------------------------------------------------------------------------------------- switch


def test_a_switch_is_told_signed_sent_followed_and_summed_up(stage: Stage) -> None:
    told = stage.run("switch", "paxos", "--set", "pipeline=8")
    assert told.code == 0
    change_ = stage.sent.change
    assert change_ is not None
    assert (change_.protocol, dict(change_.parameters), change_.c) == ("paxos", {"pipeline": 8}, 1)
    assert [one["event"] for one in told.events] == ["plan", *["command"] * 4, "switch", "result"]
    (plan,) = told.of("plan")
    assert (plan["kind"], plan["epoch"], plan["from"], plan["to"]) == ("planned", 0, "coordinator", "paxos")
    assert {"what": "protocol", "before": "coordinator", "after": "paxos"} in plan["changes"]
    assert [one["state"] for one in told.of("command")] == ["taken", "prepared", "committed", "done"]
    assert told.of("command")[0]["answers"]["m0"] == ["taken", "waits to be ordered"]
    (switch,) = told.of("switch")
    assert switch == {
        "event": "switch", "epoch": 1, "from": "coordinator", "to": "paxos", "kind": "planned", "members": 3,
        "pause_ms": 21.0, "ready_ms": 15.0,
    }  # fmt: skip
    (result,) = told.of("result")
    assert (result["epoch"], result["protocol"], result["members"]) == (1, "paxos", ["m0", "m1", "m2"])
    assert result["command"] == stage.client.ordered[0].name.hex()
    assert result["measured_by"] == ["m0", "m1", "m2"]


def test_whose_median_is_told_where_nothing_was_waiting(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "STATUS_SECONDS", 0.001)
    stage.client.pauses = False
    result = stage.run("switch", "paxos").last
    assert (result["pause_ms"], result["ready_ms"]) == (None, 15.0)
    assert result["measured_by"] == ["m0", "m1", "m2"]


def test_a_dry_run_needs_no_key_and_sends_nothing(stage: Stage) -> None:
    stage.key.unlink()
    told = stage.run("switch", "paxos", "--dry-run")
    assert (told.code, stage.client.ordered) == (0, [])
    assert told.of("plan")[0]["dry_run"] is True
    text = stage.run("switch", "paxos", "--dry-run", json_lines=False).out
    assert "coordinator" in text
    assert "2 of the present 3 members must be up" in text
    assert "Nothing was signed, nothing was sent." in text


def test_a_forced_switch_is_another_kind_of_command(stage: Stage) -> None:
    told = stage.run("switch", "paxos", "--force")
    assert told.code == 0
    assert stage.sent.kind == FORCED
    (switch,) = told.of("switch")
    assert switch["kind"] == "forced", "as it was signed, whatever members say of it, or none of them does"


def test_at_a_slot(stage: Stage) -> None:
    assert stage.run("switch", "paxos", "--at", 1000).code == 0
    assert stage.sent.at == 1000


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("switch", "pbft"), 6, "which need 4 members"),
        (("switch", "paxos", "--byzantine", "1"), 6, "paxos survives crashes only"),
        (("switch", "paxos", "--set", "speed=3"), 2, "paxos has no parameter 'speed'"),
        (("switch", "paxos", "--set", "pipelin=3"), 2, "did you mean 'pipeline'?"),
        (("switch", "paxos", "--set", "speed"), 2, "give name=number"),
        (("switch", "paxos", "--set", "beat=50", "--set", "beat=60"), 2, "beat is there twice"),
        (("switch", "coordinator", "--set", "coordinator=7"), 6, "the members are numbered 0 to 2"),
        (("switch", "paxos", "--set", "window=4000000"), 6, "the window can be"),
        (("switch", "pxos"), 2, "did you mean 'paxos'"),
        (("switch", "paxos", "--accept-loss"), 2, "means nothing without --force"),
        (("switch", "paxos", "--force", "--at", "5"), 2, "means nothing with --force"),
        (("switch", "paxos", "--operator-key", "nowhere.key"), 3, "nowhere.key"),
        (("member", "remove", "m9"), 6, "m9 is no member"),
        (("member", "remove", "m2"), 6, "2 members bear 0 faults under coordinator"),
        (("member", "address", "m1", "tcp://nowhere"), 2, "bftkit: tcp://nowhere: "),
        (("member", "add", "--card", "nowhere.toml"), 3, "nowhere.toml: No such file"),
        (("member", "add", "--card", "nowhere.toml", "--protocol", "pxos"), 2, "did you mean 'paxos'"),
        (("operator", "sign", "nowhere.toml", "--operator-key", "x"), 3, "nowhere.toml: No such file"),
        (("operator", "remove", "00" * 32), 6, "is no operator"),
        (("operator", "add", "zz"), 2, "public key"),
    ],
)
def test_what_is_refused_before_anything_is_sent(stage: Stage, words: tuple[str, ...], code: int, text: str) -> None:
    told = stage.run(*words)
    assert (told.code, stage.client.ordered) == (code, [])
    assert text in told.error


def test_a_refusal_of_the_members_is_exit_code_6_with_their_reason(stage: Stage) -> None:
    stage.client.refuse = "superseded by epoch 1"
    told = stage.run("switch", "paxos")
    assert told.code == 6
    assert "superseded by epoch 1" in told.error
    assert told.of("result") == []


@pytest.mark.parametrize(
    ("states", "code", "text"),
    [(0, 4, "no member answered"), (2, 5, "not carried out within 60 s: prepared (slot 17). It stays under way")],
)
def test_what_is_known_when_the_operators_patience_is_over(stage: Stage, states: int, code: int, text: str) -> None:
    stage.client.silent_after = states
    told = stage.run("switch", "paxos")
    assert told.code == code
    assert text in told.error


def test_links_that_were_refused_are_told_when_the_patience_is_over(stage: Stage) -> None:
    stage.client.silent_after = 2
    stage.client.refused_links = {"m1": (1, "not signed by 2 members")}
    told = stage.run("switch", "paxos")
    assert told.code == 5
    assert "; m1 showed a hand-over that does not hold: not signed by 2 members" in told.error


def test_a_word_after_an_operators_key_file_is_no_second_one(stage: Stage, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    assert main(["keygen", str(other), "--kind", "operator"]) == 0
    stage.capsys.readouterr()
    for words in (("remove", "12345678"), ("add", "ab" * 32)):
        for option in (("--operator-key", stage.key), (f"--operator-key={stage.key}",)):
            told = stage.run("operator", *words, *option, other)
            assert told.code == 2
            assert f"as in --operator-key {stage.key} --operator-key {other}" in told.error
            assert f"if {other} is meant to {words[0]}, put it before the options" in told.error
    told = stage.run("switch", "paxos", "--operator-key", stage.key, other)
    assert told.code == 2
    assert f"as in --operator-key {stage.key} --operator-key {other}" in told.error
    told = stage.run("switch", "--operator-key", stage.key, "paxos", "--nonsense")
    assert (told.code, "stands after" in told.error) == (2, False)
    assert stage.client.ordered == []
    assert stage.run("operator", "add", other, "--operator-key", stage.key).code == 0


def test_the_operator_to_remove_may_stand_after_the_key_that_signs(stage: Stage, tmp_path: Path) -> None:
    """As long as there is no other one, so that nothing can be meant otherwise."""
    other = tmp_path / "other.key"
    assert main(["keygen", str(other), "--kind", "operator"]) == 0
    stage.capsys.readouterr()
    told = stage.run("operator", "add", "--operator-key", stage.key, other, "--dry-run")
    assert told.code == 0


def test_a_key_file_that_signs_and_is_to_go_is_named_as_both(stage: Stage, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    assert main(["keygen", str(other), "--kind", "operator"]) == 0
    stage.capsys.readouterr()
    told = stage.run("operator", "remove", other, "--operator-key", other)
    assert told.code == 6
    assert "is there twice: as KEY, the one to let go, and after --operator-key" in told.error


def test_help_says_that_an_operators_key_takes_one_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["operator", "remove", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "--operator-key PATH " in out
    assert "the option is" in out


@pytest.mark.parametrize(
    ("state", "kind", "text"),
    [
        (frames.PREPARED, PLANNED, "cancel takes back what is not committed"),
        (frames.COMMITTED, PLANNED, "what is committed cannot be cancelled"),
        (frames.TAKEN, FORCED, "a forced change is not taken back"),
    ],
)
def test_a_way_out_is_named_only_where_there_is_one(state: int, kind: int, text: str) -> None:
    told = still_under_way(CommandState(b"n", state, "", ("m0",), {}), kind, 5, {})
    assert text in str(told)
    assert ("cancel takes back" in str(told)) == (state == frames.PREPARED)


def test_a_key_that_is_no_operators_is_refused(stage: Stage) -> None:
    other = stage.directory.parent / "other.key"
    assert main(["keygen", str(other), "--kind", "operator"]) == 0
    stage.capsys.readouterr()
    told = stage.run("switch", "paxos", "--operator-key", other)
    assert (told.code, stage.client.ordered) == (6, [])
    assert "is no operator in epoch 0" in told.error


def test_without_a_terminal_nothing_is_done_unless_yes_is_said(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    told = stage.run("switch", "paxos", json_lines=False)
    assert (told.code, stage.client.ordered) == (2, [])
    assert "nobody can be asked whether to go on; say --yes" in told.error
    told = stage.run("switch", "paxos", "--yes", json_lines=False)
    assert told.code == 0
    assert "Service was paused for 21 ms (median of 3 members)." in told.out
    assert "committed: epoch 0 ends at slot 128 (m0, m1)" in told.out
    assert "Epoch 1 has begun: paxos on m0, m1, m2." in told.out


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("yes\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_on_a_terminal_one_is_asked(stage: Stage, monkeypatch: pytest.MonkeyPatch, answer: str, code: int) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr("bftkit.cli.output.Output.interactive", True)
    told = stage.run("switch", "paxos", json_lines=False)
    assert told.code == code
    assert len(stage.client.ordered) == (code == 0)
    assert "Go on? [y/N]" in told.out


# ------------------------------------------------------------------------------------------------- members


def test_a_member_is_added_by_its_card_together_with_another_protocol(stage: Stage) -> None:
    told = stage.run("member", "add", "--card", card_of(stage, "m3", 7003), "--protocol", "pbft")
    assert told.code == 0
    change_ = stage.sent.change
    assert change_ is not None
    assert (change_.protocol, change_.f, change_.c, change_.coin) == ("pbft", 1, 0, True)
    assert [seat.id for seat in change_.members] == ["m0", "m1", "m2", "m3"]
    assert any("m3 should run by then" in text for text in told.of("plan")[0]["meanwhile"])


def test_a_member_is_replaced_rotated_and_moved(stage: Stage) -> None:
    assert stage.run("member", "replace", "m1", "--card", card_of(stage, "m7", 7007)).code == 0
    assert stage.run("member", "rotate", "m1", "--card", card_of(stage, "m1", 7008)).code == 0
    assert stage.run("member", "address", "m1", "127.0.0.1:7009", "tcp://example.org:7009").code == 0
    changes = [signed.command.change for signed in stage.client.ordered]
    seats = [change_.members for change_ in changes if change_ is not None]
    assert [[seat.id for seat in three] for three in seats] == [
        ["m0", "m7", "m2"], ["m0", "m1", "m2"], ["m0", "m1", "m2"],
    ]  # fmt: skip
    before = stage.client.configuration.seats()
    assert seats[1][1].epoch_root != before[1].epoch_root
    assert seats[2][1].addresses == ("tcp://127.0.0.1:7009", "tcp://example.org:7009")


def test_a_card_of_somebody_else_is_not_taken_for_a_members_new_keys(stage: Stage) -> None:
    card = card_of(stage, "m7", 7007)
    told = stage.run("member", "rotate", "m1", "--card", card)
    assert (told.code, stage.client.ordered) == (2, [])
    assert "use bftkit member replace" in told.error
    told = stage.run("member", "replace", "m7", "--card", card)
    assert told.code == 2


def test_a_card_for_another_group_is_refused(stage: Stage) -> None:
    other = stage.directory.parent / "other"
    assert main(["init", str(other), "--members", "1", "--protocol", "coordinator"]) == 0
    stage.capsys.readouterr()
    card = card_of(Stage(other, stage.capsys, stage.client), "m9", 7009)
    told = stage.run("member", "add", "--card", card)
    assert (told.code, stage.client.ordered) == (3, [])
    assert "the card was made for the group" in told.error


def test_the_members_are_listed_with_who_answers(stage: Stage) -> None:
    stage.client.statuses = {"m0": {"epoch": 0}}
    told = stage.run("member", "list")
    assert [(one["id"], one["answered"]) for one in told.of("member")] == [("m0", True), ("m1", False), ("m2", False)]
    assert told.of("group")[0]["protocol"] == "coordinator"
    assert (
        "coordinator on 3 members; nobody may lie, 1 may crash; 2 decide."
        in stage.run("member", "list", json_lines=False).out
    )


# ------------------------------------------------------------------------------------------------- operators


def test_operators_are_listed_added_and_removed(stage: Stage) -> None:
    mine = stage.client.configuration.operators[0]
    told = stage.run("operator", "list")
    assert [one["public"] for one in told.of("operator")] == [mine.hex()]
    other = stage.directory.parent / "bob.key"
    assert main(["keygen", str(other), "--kind", "operator"]) == 0
    stage.capsys.readouterr()
    assert stage.run("operator", "add", other, "--threshold", 2).code == 0
    change_ = stage.sent.change
    assert change_ is not None
    assert (len(change_.operators), change_.operator_threshold) == (2, 2)
    told = stage.run("operator", "remove", mine.hex()[:16])
    assert told.code == 6
    assert "nobody could ever change this group again" in told.error


def test_what_is_prepared_is_taken_back(stage: Stage) -> None:
    told = stage.run("operator", "cancel")
    assert told.code == 0
    assert stage.sent.kind == CANCEL
    assert told.of("result")[0]["epoch"] == 0


def test_two_of_two_operators_sign_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [tmp_path / "ann.key", tmp_path / "bob.key"]
    for key in keys:
        assert main(["keygen", str(key), "--kind", "operator"]) == 0
    publics = capsys.readouterr().out.split()
    two = ("--operator-key", publics[0], "--operator-key", publics[1], "--operator-threshold", "2")
    assert main(["init", str(tmp_path / "shop"), *FOUNDING, *two]) == 0
    capsys.readouterr()
    stage = make_stage(tmp_path / "shop", capsys, monkeypatch)
    told = stage.run("switch", "paxos", "--operator-key", keys[0])
    assert (told.code, stage.client.ordered) == (6, [])
    assert "1 operator signed, and 2 must" in told.error

    file = tmp_path / "switch.toml"
    told = stage.run("switch", "paxos", "--operator-key", keys[0], "--out", file)
    assert (told.code, told.of("written")[0]["missing"], stage.client.ordered) == (0, 1, [])
    assert stage.run("operator", "send", file).code == 6
    told = stage.run("operator", "show", file)
    assert told.of("plan")[0]["to"] == "paxos"
    assert told.of("signatures")[0]["signed_by"] == [publics[0]]

    told = stage.run("operator", "sign", file, "--operator-key", keys[1])
    assert (told.code, told.of("written")[0]["missing"]) == (0, 0)
    assert len(command_from_text(file.read_text()).signatures) == 2
    told = stage.run("operator", "send", file)
    assert told.code == 0
    change_ = stage.sent.change
    assert change_ is not None
    assert change_.protocol == "paxos"


def test_forged_signatures_in_a_file_are_told_left_out_and_count_for_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the file may write any signature into it; members refuse a command that carries a bad one."""
    keys = [tmp_path / name for name in ("ann.key", "bob.key", "eve.key")]
    for key in keys:
        assert main(["keygen", str(key), "--kind", "operator"]) == 0
    ann, bob, eve = capsys.readouterr().out.split()
    two = ("--operator-key", ann, "--operator-key", bob, "--operator-threshold", "2")
    assert main(["init", str(tmp_path / "shop"), *FOUNDING, *two]) == 0
    capsys.readouterr()
    stage = make_stage(tmp_path / "shop", capsys, monkeypatch)
    file = tmp_path / "switch.toml"
    assert stage.run("switch", "paxos", "--operator-key", keys[0], "--out", file).code == 0
    signed = command_from_text(file.read_text()).signed_by(read_key(keys[2], "operator").signing_key)
    forged = (*signed.signatures, OperatorSignature(bytes.fromhex(bob), bytes(64)))
    file.write_text(command_to_text(attrs.evolve(signed, signatures=forged)))

    shown = stage.run("operator", "show", file).of("signatures")[0]
    assert shown["signed_by"] == [ann]
    assert {one["operator"]: one["reason"] for one in shown["refused"]} == {
        eve: "no operator in epoch 0", bob: "not made with this key under this command",
    }  # fmt: skip
    assert "A signature that is none:" in stage.run("operator", "show", file, json_lines=False).out
    told = stage.run("operator", "send", file)
    assert (told.code, stage.client.ordered) == (6, []), "one good one is not two"
    assert "1 operator signed, and 2 must" in told.error

    told = stage.run("operator", "sign", file, "--operator-key", keys[0])
    assert told.of("written")[0]["missing"] == 1, "what ann signs twice counts once, and bob has not signed"
    assert [item.operator.hex() for item in command_from_text(file.read_text()).signatures] == [ann]
    assert stage.run("operator", "sign", file, "--operator-key", keys[1]).of("written")[0]["missing"] == 0
    good = command_from_text(file.read_text())
    file.write_text(command_to_text(attrs.evolve(good, signatures=(*good.signatures, forged[-1], *signed.signatures))))
    assert stage.run("operator", "send", file).code == 0, "enough are good; what is not is not sent"
    assert stage.sent == good.command


def test_a_command_file_that_was_changed_is_refused(stage: Stage) -> None:
    file = stage.directory.parent / "switch.toml"
    assert stage.run("switch", "paxos", "--out", file).code == 0
    file.write_text(file.read_text().replace('protocol = "paxos"', 'protocol = "coordinator"'))
    told = stage.run("operator", "sign", file, "--operator-key", stage.key)
    assert told.code == 3
    assert "the file says 'coordinator', and the command in it 'paxos'" in told.error


def test_a_command_for_an_epoch_that_is_over_is_not_sent(stage: Stage) -> None:
    file, other = stage.directory.parent / "switch.toml", stage.directory.parent / "other.toml"
    assert stage.run("switch", "paxos", "--out", file).code == 0
    assert stage.run("switch", "paxos", "--out", other).code == 0
    stage.client.links = (link_by(stage, command_from_text(other.read_text())),)
    told = stage.run("operator", "send", file)
    assert (told.code, stage.client.ordered) == (6, [])
    assert "the command is for epoch 0, and this is epoch 1" in told.error


def test_a_command_that_was_carried_out_is_not_sent_again(stage: Stage) -> None:
    file = stage.directory.parent / "switch.toml"
    assert stage.run("switch", "paxos", "--out", file).code == 0
    stage.client.links = (link_by(stage, command_from_text(file.read_text())),)
    for what in ("send", "show"):
        told = stage.run("operator", what, file)
        assert (told.code, stage.client.ordered) == (0, [])
        assert told.of("result")[0]["epoch"] == 1
    assert stage.run("operator", "sign", file, "--operator-key", stage.key).code == 6


def link_by(stage: Stage, signed: SignedCommand) -> HandOver:
    """The hand-over by this command, as a client would have verified it."""
    genesis = read_genesis(stage.directory / "genesis.toml")
    assert genesis.schedule is not None
    here = Configuration.first(genesis)
    there = following(here, signed.command, extended(genesis.schedule, signed.command))
    ending = Ending(0, 128, bytes(32), there.digest, signed.name)
    certificate = Certificate.of(ending.encode(), {"m0": bytes(64), "m2": bytes(64)})
    return HandOver(certificate, there.encode(), signed.encode())


# ------------------------------------------------------------------------------------------------- history


def test_the_history_is_shown_epoch_by_epoch(stage: Stage) -> None:
    file = stage.directory.parent / "switch.toml"
    assert stage.run("switch", "paxos", "--out", file).code == 0
    stage.client.links = (link_by(stage, command_from_text(file.read_text())),)
    stage.client.refused_links = {"m1": (3, "not signed by 2 members")}
    told = stage.run("history")
    first, second = told.of("epoch")
    assert (first["kind"], first["protocol"], first["after_slot"]) == ("founded", "coordinator", 0)
    assert (second["kind"], second["protocol"], second["after_slot"]) == ("planned", "paxos", 128)
    assert second["signed_by"] == ["m0", "m2"]
    assert second["operators"] == [stage.client.configuration.operators[0].hex()]
    assert told.of("history")[0]["epochs"] == 2
    assert "m1 showed 3 links that do not hold" in told.error
    assert [one["epoch"] for one in stage.run("history", "--from", 1).of("epoch")] == [1]


def test_the_history_is_saved_for_a_machine_that_joins(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stage.directory.parent
    file, saved, made = folder / "switch.toml", folder / "history.bin", folder / "m9"
    assert stage.run("switch", "paxos", "--out", file).code == 0
    stage.client.links = (link_by(stage, command_from_text(file.read_text())),)
    assert stage.run("history", "--save", saved).code == 0
    again = stage.run("history", "--save", saved)
    assert (again.code, "is there already; nothing was changed" in again.error) == (1, True)
    words = ["init", str(made), "--join", str(stage.directory / "genesis.toml"), "--id", "m9", "--history", str(saved)]
    assert main(words) == 3
    assert "the group's history cannot be taken from this file" in capsys.readouterr().err  # nobody signed it
    assert not made.exists()
    # What holds is taken over, and read again with the folder.
    here = Place(stage.client.links[0].next, bytes(32))

    def holds(*_: object) -> Place:
        return here

    monkeypatch.setattr("bftkit.membership.history_file.follow", holds)
    assert main(words) == 0
    assert read_member(made).history == stage.client.links
    (made / "history.bin").write_bytes(b"rubbish")
    with pytest.raises(ConfigurationError, match=r"history\.bin: the group's history cannot be taken from this file"):
        read_member(made)
    assert main(["init", str(folder / "g9"), "--history", str(saved)]) == 2
    assert "--history means nothing without --join" in capsys.readouterr().err


def test_the_history_ends_with_what_another_client_may_trust(stage: Stage) -> None:
    """And a client that was told it takes no other history, by whatever way it came (SAFETY rule 28)."""
    assert "trusted_epoch" not in stage.run("history", json_lines=False).out
    assert stage.run("history").last["trusted_digest"] is None
    file = stage.directory.parent / "switch.toml"
    assert stage.run("switch", "paxos", "--out", file).code == 0
    link = link_by(stage, command_from_text(file.read_text()))
    stage.client.links = (link,)
    digest = link.ending.opening.hex()
    text = stage.run("history", json_lines=False).out
    lines = f'trusted_epoch = 1\ntrusted_digest = "{digest}"\n'
    assert text.endswith(lines)
    last = stage.run("history").last
    assert (last["trusted_epoch"], last["trusted_digest"]) == (1, digest)
    settings = stage.directory / "client" / "client.toml"
    before = settings.read_text()
    settings.write_text(before + lines)
    assert stage.run("history").code == 0
    stage.client.links = ()
    told = stage.run("history")
    assert (told.code, "believes nobody before epoch 1 (trusted_epoch)" in told.error) == (5, True)
    stage.client.links = (link,)
    settings.write_text(before + lines.replace(digest, "77" * 32))
    told = stage.run("history")
    assert (told.code, f"the hand-over to epoch 1 has the digest {digest}" in told.error) == (10, True)


def test_no_answer_is_exit_code_4(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(self: FakeClient, *, timeout: float = 10.0) -> tuple[HandOver, ...]:
        raise NoAnswer(0, "no member answered")

    monkeypatch.setattr(FakeClient, "history", silent)
    assert stage.run("history").code == 4


def test_a_group_founded_without_lists_of_keys_is_shown_and_never_changed(stage: Stage) -> None:
    for file in (stage.directory / "client" / "genesis.toml", stage.directory / "genesis.toml"):
        text = file.read_text()
        file.write_text(text[: text.index("[epoch_keys]")])
    assert stage.run("history").last["epochs"] == 1
    assert stage.run("member", "list").code == 0
    told = stage.run("switch", "paxos")
    assert (told.code, stage.client.ordered) == (6, [])
    assert "its configuration never changes" in told.error
    assert stage.run("operator", "cancel").code == 6


# ------------------------------------------------------------------------------------------------- small parts


def test_the_live_view_says_who_is_how_far() -> None:
    view = FollowView(("m0", "m1"))
    view.on_statuses({"m0": {"epoch": 3, "protocol": "cks", "applied": 12345}})
    use_output(Output(json=True, stdout=io.StringIO()))
    view.on_state(state(frames.PREPARED, "slot 17", {"m0": (frames.PREPARED, "slot 17")}))
    console = Console(file=io.StringIO(), width=100)
    console.print(view.render())
    shown = cast("io.StringIO", console.file).getvalue()
    assert "● taken in   ● prepared   ○ committed   ○ done" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith("m")][1:] == [
        ["m0", "prepared", "3", "cks", "12,345", "slot", "17"],
        ["m1", "no", "answer", "-", "-", "0"],
    ]


@pytest.mark.parametrize("said", ["[/x]\x1b]0;title\x07", ["much"], {"a": 1}, None, 1.5])
def test_whatever_a_member_says_of_itself_is_shown_and_not_obeyed(said: object) -> None:
    view = FollowView(("m0",))
    view.on_statuses({"m0": {"epoch": said, "protocol": said, "applied": said}})
    use_output(Output(stdout=io.StringIO()))
    view.on_state(state(frames.PREPARED, "\x1b[2J", {"m0": (frames.PREPARED, "\x1b[2J\x9b2J")}))
    console = Console(file=io.StringIO(), width=200)
    console.print(view.render())
    shown = cast("io.StringIO", console.file).getvalue() + step_in_words(state(frames.PREPARED, "\x1b[2J", {}))
    assert "m0" in shown
    assert "\\x1b[2J" in shown
    assert not {"\x1b", "\x9b", "\x07"} & set(shown)


def state(state_: int, text: str, answers: Mapping[str, tuple[int, str]]) -> CommandState:
    return CommandState(bytes(32), state_, text, (), answers, True)


def test_why_a_command_was_refused() -> None:
    assert refusal_of(state(frames.REFUSED, "no", {})) == "no"
    each = {"m0": (frames.REFUSED, "keys"), "m1": (frames.DONE, "x"), "m2": (frames.REFUSED, "shelf")}
    assert refusal_of(state(frames.REFUSED, "", each)) == "m0: keys; m2: shelf"
    assert refusal_of(state(frames.REFUSED, "", {})) == "refused"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 2.0, 900.0], 2.0), ([None, 4.0], 4.0), ([None], None), ([], None), (["lie", 3], 3.0), ([True], None)],
)
def test_the_median_of_what_members_say(values: Sequence[Any], expected: float | None) -> None:
    told = {f"m{index}": {"pause_ms": value} for index, value in enumerate(values)}
    assert median_of(told, "pause_ms") == expected


def test_the_pause_in_words() -> None:
    assert pause_in_words(3.5, 2.0, 4) == "Service was paused for 3.5 ms (median of 4 members)."
    assert "ready again after 2 ms" in pause_in_words(None, 2.0, 4)
    assert "No member has said" in pause_in_words(None, None, 0)


GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "changing.md"
TYPED = [line[9:] for line in GUIDE.read_text("utf-8").splitlines() if line.startswith("$ bftkit ")]


@pytest.mark.parametrize("line", TYPED)
def test_what_the_guide_says_to_type_is_understood(line: str) -> None:
    """As far as that can be seen without a group: commands, options and arguments exist and fit."""
    words = line.split()
    command, bound, _ = create_app().parse_args(words, exit_on_error=False, print_error=False)
    assert callable(command)
    assert bound.args or bound.kwargs or words[0] in ("history",)


def test_the_guide_shows_every_command_that_changes_a_group() -> None:
    shown = {
        " ".join(line.split()[:2]) if line.split()[0] in ("member", "operator") else line.split()[0] for line in TYPED
    }
    assert shown >= {
        "switch",
        "history",
        *(f"member {name}" for name in ("add", "remove", "replace", "rotate", "list")),
    }
    assert shown >= {f"operator {name}" for name in ("add", "list", "show", "sign", "send")}
