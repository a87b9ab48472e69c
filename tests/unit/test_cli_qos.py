"""`bftkit qos` and `bftkit policy`: what is explained, what becomes a command, which members are believed."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from bftkit.admin.explaining import unmet
from bftkit.cli import main
from bftkit.cli.app import create_app
from bftkit.configuration.manager import STALL_MS, founded_without_disk
from bftkit.configuration.policies.conditions import PARAMETERS
from bftkit.configuration.policy import Mode, Policy
from bftkit.configuration.qos import QoS
from bftkit.crypto.signed import Certificate
from bftkit.membership.chain import Ending, HandOver
from bftkit.membership.commands import Change, SignedCommand
from bftkit.membership.epochs import Configuration, extended, following
from bftkit.membership.steering import steered
from bftkit.node.folders import read_genesis
from tests.policies import all_signed
from tests.unit.test_cli_switch import Stage, make_stage

ROOT: Final = Path(__file__).resolve().parents[2]
MEMBERS: Final = ("m0", "m1", "m2", "m3")
TWO: Final = (Mode("pbft"), Mode("cks"))
DECISION: Final = {
    "epoch": 1, "slot": 300, "time_ms": 1, "from": "pbft", "to": "cks", "reason": "the leader is slow", "forced": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("founded") / "shop"
    assert main(["init", str(directory), "--json"]) == 0
    return directory


@pytest.fixture
def stage(founded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Stage:
    shutil.copytree(founded, tmp_path / "shop")
    return make_stage(tmp_path / "shop", capsys, monkeypatch)


def changed(stage: Stage) -> Change:
    change = stage.sent.change
    assert change is not None
    return change


# ------------------------------------------------------------------------------------------------- qos


def test_what_is_needed_is_shown_also_if_nobody_said_it(stage: Stage) -> None:
    told = stage.run("qos", "show")
    assert told.code == 0
    assert told.of("qos")[0] == {
        "event": "qos",
        "epoch": 0,
        "stated": False,
        "qos": {
            "byzantine": 1, "crash": 0, "replicas": 0, "consistency": "strong", "order": "total",
            "delivery": "exactly-once", "deadline_ms": 0, "durability": "fsync", "network": "partial",
        },
    }  # fmt: skip
    assert told.of("choice")[0]["protocol"] == "pbft"
    text = stage.run("qos", "show", json_lines=False).out
    assert "Nobody has said what is needed of shop; this is what it gives." in text
    assert "cks          fits    would need no timing assumption but 10 steps more" in text


def test_what_a_group_runs_may_give_less_than_it_says_and_is_shown_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["init", str(tmp_path / "shop"), "--protocol", "coordinator", "--members", "3", "--json"]) == 0
    capsys.readouterr()
    stage = make_stage(tmp_path / "shop", capsys, monkeypatch)
    told = stage.run("qos", "show")
    assert told.code == 0
    assert told.of("refusal")[0]["unmet"][0]["field"] == "crash"
    assert "coordinator alone does not give that" in stage.run("qos", "show", json_lines=False).out
    assert stage.run("qos", "set", "--deadline-ms", 500).code == 0
    assert changed(stage).protocol == "paxos"


def test_needs_that_are_explained_change_nothing(stage: Stage) -> None:
    told = stage.run("qos", "explain", "--network", "asynchronous")
    assert (told.code, stage.client.ordered) == (0, [])
    (choice,) = told.of("choice")
    assert choice["protocol"] == "cks"
    assert {one["field"] for one in choice["because"]} >= {"byzantine", "network", "deadline_ms"}
    assert {one["protocol"]: one["fits"] for one in choice["protocols"]}["pbft"] is False


def test_needs_are_explained_for_a_group_that_is_not_founded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qos", "explain", "--members", "6", "--crash", "1", "--policy", "steady"]) == 0
    text = capsys.readouterr().out
    assert "pbft on 6 members, f = 1, c = 1" in text
    assert "No robust mode: 1 Byzantine and 1 crash faults need 7 members under cks" in text
    assert main(["qos", "explain", "--members", "5", "--byzantine", "2"]) == 6
    assert "byzantine: 2 Byzantine faults need 7 members; 5 are known" in capsys.readouterr().err
    assert main(["qos", "explain", "--members", "0"]) == 2


def test_needs_that_are_set_become_a_planned_change(stage: Stage) -> None:
    told = stage.run("qos", "set", "--deadline-ms", 500, "--consistency", "best-effort", "--policy", "steady")
    assert told.code == 0
    assert [one["event"] for one in told.events] == ["choice", "plan", *["command"] * 4, "switch", "result"]
    change = changed(stage)
    assert change.qos == QoS(deadline_ms=500, consistency="best-effort")
    assert (change.protocol, dict(change.parameters)) == ("pbft", {"view_timeout": 250})
    assert change.policy == all_signed(
        Policy("steady", (Mode("pbft", {"view_timeout": 250}), Mode("cks")), 2, STALL_MS)
    )
    assert change.coin
    assert stage.sent.reason == "needs changed: pbft on 4 members, f = 1, c = 0; policy steady (pbft, cks)"


def test_the_reason_and_the_slot_are_the_operators(stage: Stage) -> None:
    assert stage.run("qos", "set", "--deadline-ms", 500, "--reason", "the shop opens", "--at", 700).code == 0
    assert (stage.sent.reason, stage.sent.at) == ("the shop opens", 700)


def test_a_dry_run_sends_nothing(stage: Stage) -> None:
    told = stage.run("qos", "set", "--network", "asynchronous", "--dry-run")
    assert (told.code, stage.client.ordered) == (0, [])
    assert told.of("plan")[0]["to"] == "cks"


def test_fewer_members_than_there_are_leave_the_last_ones_out(stage: Stage) -> None:
    assert stage.run("qos", "set", "--byzantine", 0, "--crash", 1, "--replicas", 3).code == 0
    change = changed(stage)
    assert ([seat.id for seat in change.members], change.protocol) == (["m0", "m1", "m2"], "paxos")
    assert (change.f, change.c, change.coin) == (0, 1, False)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("qos", "set", "--byzantine", 2), 6, "2 Byzantine faults need 7 members; 4 are known"),
        (("qos", "set", "--order", "fifo"), 6, 'ask for order = "total"'),
        (("qos", "set", "--protocol", "paxos"), 6, "paxos survives crashes only"),
        (("qos", "set"), 2, "nothing is named that should change"),
        (("qos", "set", "--byzantine", -1), 2, "qos.byzantine"),
        (("qos", "set", "--policy", "stedy"), 2, "did you mean 'steady'"),
        (("qos", "set", "--protocol", "pbtf"), 2, "did you mean 'pbft'"),
        (("qos", "set", "--deadline-ms", 5, "--reason", "x" * 501), 2, "at most 500"),
        (("qos", "set", "--qos", "nowhere.toml"), 3, "nowhere.toml"),
        (("policy", "set", "stedy"), 2, "did you mean 'steady'"),
        (("policy", "set", "steady", "--set", "period=3"), 2, "did you mean 'period_ms'"),
        (("policy", "set", "steady", "--set", "period_ms=3"), 2, "period_ms"),
    ],
)
def test_what_is_refused_before_anything_is_sent(stage: Stage, words: tuple[object, ...], code: int, text: str) -> None:
    told = stage.run(*words)
    assert (told.code, stage.client.ordered) == (code, [])
    assert text in told.error


@pytest.fixture(scope="module")
def founded_in_memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("founded") / "memory"
    assert main(["init", str(directory), "--durability", "memory", "--json"]) == 0
    return directory


def test_members_without_a_disk_are_asked_for_one_before_anything_is_signed(
    founded_in_memory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(founded_in_memory, capsys, monkeypatch)
    for words in (("qos", "set", "--durability", "fsync"), ("qos", "set", "--durability", "async", "--dry-run")):
        told = stage.run(*words)
        assert (told.code, stage.client.ordered) == (6, [])
        assert [one["field"] for one in told.of("refusal")[0]["unmet"]] == ["durability"]
        assert "m0, m1, m2, m3 keep nothing on disk" in told.error
        assert "bftkit member rotate" in told.error
    assert stage.run("qos", "set", "--deadline-ms", 500).code == 0
    assert changed(stage).qos == QoS(durability="memory", deadline_ms=500)


def test_a_dry_run_through_http_says_so_too(founded_in_memory: Path) -> None:
    genesis = read_genesis(founded_in_memory / "genesis.toml")
    now = Configuration.first(genesis).change()
    (warning,) = unmet(attrs.evolve(now, qos=QoS()), genesis)
    assert "m0, m1, m2, m3 keep nothing on disk" in warning
    assert unmet(attrs.evolve(now, qos=QoS(durability="memory")), genesis) == []


def test_a_founder_with_new_keys_may_have_a_disk_by_now(founded_in_memory: Path, founded: Path) -> None:
    genesis = read_genesis(founded_in_memory / "genesis.toml")
    seats = Configuration.first(genesis).seats()
    assert founded_without_disk(genesis, seats) == MEMBERS
    rotated = (attrs.evolve(seats[0], epoch_root=bytes(32)), *seats[1:])
    assert founded_without_disk(genesis, rotated) == MEMBERS[1:]
    assert founded_without_disk(attrs.evolve(genesis, qos=QoS(durability="async")), seats) == ()
    with_disks = read_genesis(founded / "genesis.toml")
    assert founded_without_disk(with_disks, Configuration.first(with_disks).seats()) == ()


def test_needs_from_a_file_and_options_that_are_stronger(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "needs.toml"
    file.write_text('[qos]\nnetwork = "asynchronous"\ndeadline_ms = 900\n')
    told = stage.run("qos", "explain", "--qos", file, "--deadline-ms", 800)
    assert (told.of("choice")[0]["qos"]["network"], told.of("choice")[0]["qos"]["deadline_ms"]) == ("asynchronous", 800)
    file.write_text("bizantine = 1\n")
    told = stage.run("qos", "explain", "--qos", file)
    assert told.code == 3
    assert "did you mean" in told.error
    file.write_text("network: fast\n")
    assert stage.run("qos", "explain", "--qos", file).code == 3


# ------------------------------------------------------------------------------------------------- policy


def test_a_policy_is_set_with_the_protocols_for_the_needs(stage: Stage) -> None:
    assert stage.run("policy", "set", "steady", "--set", "period_ms=500").code == 0
    change = changed(stage)
    assert change.policy == all_signed(Policy("steady", TWO, 2, STALL_MS, {"period_ms": 500}))
    assert change.qos == QoS()
    assert stage.sent.reason.startswith("policy steady: pbft on 4 members")


def link(here: Configuration, signed: SignedCommand, slot: int, schedule: Any) -> HandOver:
    there = attrs.evolve(following(here, signed.command, schedule), coin=here.coin)
    ending = Ending(here.epoch, slot, bytes(32), there.digest, signed.name)
    return HandOver(
        Certificate.of(ending.encode(), dict.fromkeys(MEMBERS[:3], bytes(64))), there.encode(), signed.encode()
    )


@pytest.fixture
def watched(stage: Stage) -> Stage:
    """A group under `steady` that has changed to cks by itself."""
    assert stage.run("policy", "set", "steady").code == 0
    (signed,) = stage.client.ordered
    genesis = read_genesis(stage.directory / "genesis.toml")
    assert genesis.schedule is not None
    schedule = extended(genesis.schedule, signed.command)
    first = link(Configuration.first(genesis), signed, 128, schedule)
    decided = steered(genesis.group_id, first.next, 1, 300, "the leader is slow")
    stage.client.links = (first, link(first.next, decided, 384, schedule))
    stage.client.ordered.clear()
    policy = {
        "name": "steady", "mode": 1, "modes": ["pbft", "cks"], "conditions": {"waited_us": 400_000}, "streak": 3,
        "wish": {"mode": 0, "reason": "all members are heard"}, "waits": "3 of 10 calm judgements", "stall_ms": 5000,
        "decisions": [DECISION],
    }  # fmt: skip
    stage.client.statuses = {member: {"epoch": 2, "policy": policy} for member in MEMBERS}
    return stage


def test_a_policy_is_shown_with_what_the_members_see(watched: Stage) -> None:
    (told,) = watched.run("policy", "show").of("policy")
    assert (told["policy"]["name"], told["mode"], told["protocol"]) == ("steady", 1, "cks")
    assert told["policy"]["parameters"]["slow_ms"] == 250
    assert told["now"]["waits"] == "3 of 10 calm judgements"
    text = watched.run("policy", "show", json_lines=False).out
    assert "Policy steady: pbft, then cks, from the least robust to the most." in text
    assert "left by force, for cks" in text
    assert "Epoch 2 runs cks, mode 2 of 2." in text
    assert "400,000" in text
    assert "It says: all members are heard." in text


def test_the_history_has_decisions_and_what_came_of_them(watched: Stage) -> None:
    told = watched.run("policy", "history")
    (done,) = told.of("hand-over")
    assert (done["epoch"], done["after_slot"], done["from"], done["to"]) == (2, 384, "pbft", "cks")
    assert (done["reason"], done["kind"]) == ("the leader is slow", "planned")
    assert told.of("decision") == [{"event": "decision", **DECISION}]
    assert told.last == {
        "event": "policy-history", "hand_overs": 1, "decisions": 1, "agreed": True, "verified": True,
    }  # fmt: skip
    text = watched.run("policy", "history", json_lines=False).out
    assert text.count("the leader is slow") == 2
    assert "Decisions, as 2 members and more tell them" in text


def test_one_member_alone_is_not_believed(watched: Stage) -> None:
    """f + 1 must say the same: f liars can then say nothing by themselves (here f = 1)."""
    lie = [{**DECISION, "reason": "[red]send money\x1b[2J"}]
    watched.client.statuses = {"m3": {"epoch": 2, "policy": {"decisions": lie, "waits": "nothing", "mode": 0}}}
    told = watched.run("policy", "history")
    assert told.of("decision") == []
    assert told.last["agreed"] is False
    assert watched.run("policy", "show").of("policy")[0]["now"]["waits"] is None
    assert "not told alike by 2 members" in watched.run("policy", "show", json_lines=False).out
    assert "not told alike by 2 members" in watched.run("policy", "history", json_lines=False).out


def test_members_of_another_epoch_say_nothing_about_this_one(watched: Stage) -> None:
    for status in watched.client.statuses.values():
        status["epoch"] = 1
    assert watched.run("policy", "history").last["agreed"] is False


def test_whatever_members_tell_is_shown_as_plain_characters(watched: Stage) -> None:
    for status in watched.client.statuses.values():
        status["policy"] = {**status["policy"], "waits": "for \x1b[2J[bold]you[/bold]", "conditions": "none", "wish": 3}
    text = watched.run("policy", "show", json_lines=False).out
    assert "for [2J[bold]you[/bold]" in text
    assert "\x1b" not in text


def test_without_a_policy_there_is_nothing_to_see(stage: Stage) -> None:
    assert "manual: the members change nothing" in stage.run("policy", "show", json_lines=False).out
    told = stage.run("policy", "history", json_lines=False).out
    assert "No hand-over was caused by a policy" in told
    assert "not told alike" not in told, "nobody has decisions where there is no policy"


def test_the_installed_policies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "list"]) == 0
    text = capsys.readouterr().out
    assert "steady: Fast while it is calm" in text
    assert "slow_ms = 250" in text


def test_the_new_needs_of_a_steered_group_keep_its_mode(watched: Stage) -> None:
    assert watched.run("qos", "set", "--deadline-ms", 2000).code == 0
    (signed,) = watched.client.ordered
    change = signed.command.change
    assert change is not None
    assert (change.protocol, signed.command.epoch) == ("cks", 2)
    assert change.policy is not None
    assert change.policy.mode_of(change.protocol, change.parameters) == 1


# ------------------------------------------------------------------------------------------------- the guides

GUIDES: Final = ("docs/guide/qos.md", "docs/guide/policies.md")
TYPED: Final = tuple(
    line
    for guide in GUIDES
    for line in re.findall(r"^\$ bftkit (.*)$", (ROOT / guide).read_text(encoding="utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("line", TYPED)
def test_what_the_guides_show_can_be_typed(line: str) -> None:
    words = shlex.split(line)
    command, bound, _ = create_app().parse_args(words, exit_on_error=False, print_error=False)
    assert callable(command)
    assert bound.args or bound.kwargs or words == ["policy", "list"]


def test_the_guides_show_every_command_and_every_field() -> None:
    assert {" ".join(line.split()[:2]) for line in TYPED} == {
        "init shop", "qos show", "qos explain", "qos set", "policy list", "policy set", "policy show", "policy history",
    }  # fmt: skip
    text = (ROOT / GUIDES[0]).read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) != []
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == {field.name for field in attrs.fields(QoS)}


def test_the_guide_of_policies_names_every_parameter_with_its_default() -> None:
    text = (ROOT / GUIDES[1]).read_text(encoding="utf-8")
    for name, parameter in PARAMETERS.items():
        assert f"`{name}` ({parameter.default})" in text, name


def test_the_chain_says_who_decided_and_why(watched: Stage) -> None:
    founded, first, second = watched.run("history").of("epoch")
    assert founded["cause"] == "founders"
    assert first["cause"] == "operators"
    assert first["reason"].startswith("policy steady: pbft on 4 members")
    assert (second["cause"], second["reason"], second["operators"]) == ("policy", "the leader is slow", [])
    assert "the leader is slow" in watched.run("history", json_lines=False).out
