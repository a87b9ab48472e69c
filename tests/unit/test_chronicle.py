"""What a member writes down of its group's changes, and how long service paused by its own measure."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest

from bftkit.channel.replica import Replica
from bftkit.cli import main
from bftkit.cli.events import in_order, in_words, newest_of
from bftkit.membership.chain import HandOver
from bftkit.node.chronicle import FILE, Chronicle, read_events
from tests.chains import Group, asks


class FakeReplica(SimpleNamespace):
    """As much of a replica as a chronicle looks at."""


def replica(**changes: Any) -> Any:
    made = FakeReplica(
        settings=SimpleNamespace(epoch=0, plugin=SimpleNamespace(record=SimpleNamespace(name="paxos"))),
        applied=0,
        silent=False,
        observing=False,
        wedged=False,
        catchup=SimpleNamespace(busy=False),
        orders=SimpleNamespace(refused={}),
        succession=SimpleNamespace(active=True),
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def as_replica(fake: Any) -> Replica:
    return cast("Replica", fake)


@attrs.define
class Stage:
    """A chronicle, the member that it is of, and a hand-over of its group at slot 16."""

    chronicle: Chronicle
    member: Any
    link: HandOver
    group: Group

    def round(self, now: float, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.member, name, value)
        self.chronicle.after_round(as_replica(self.member), now)

    def enter(self) -> None:
        self.chronicle.entered(self.group.place, self.link.encode())
        self.member.settings.epoch = 1
        self.member.succession.active = False
        self.member.wedged = False

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = self.chronicle.told()["switch"]
        return told


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    group = Group("m0", "m1", "m2", f=0)
    link = group.go(asks("m0", "m1", "m2", "m3", f=0, protocol="coordinator"))
    chronicle = Chronicle(tmp_path / FILE, wall_clock=lambda: 100.0)
    member = replica()
    chronicle.begin(as_replica(member))
    return Stage(chronicle, member, link, group)


def test_the_pause_is_from_the_last_decision_to_the_first_one(stage: Stage) -> None:
    stage.round(1.0, applied=15)
    stage.round(2.0, applied=16)
    stage.round(2.5)  # the state is being saved
    stage.enter()
    stage.round(2.75)
    assert (stage.told["ready_ms"], stage.told["pause_ms"]) == (None, None)
    stage.member.succession.active = True
    stage.round(3.0)
    assert (stage.told["ready_ms"], stage.told["pause_ms"]) == (1000.0, None)
    stage.round(4.5, applied=17)
    stage.round(9.0, applied=18)
    assert stage.told == {
        "epoch": 1, "from": "paxos", "to": "coordinator", "kind": "planned", "members": 4, "after_slot": 16,
        "ready_ms": 1000.0, "pause_ms": 2500.0,
    }  # fmt: skip


def test_a_forced_switch_counts_what_was_decided_before_the_wedge(stage: Stage) -> None:
    stage.round(1.0, applied=9)
    stage.round(5.0, wedged=True)
    stage.round(6.0, applied=16)  # carried over, not decided
    stage.enter()
    stage.member.succession.active = True
    stage.round(7.0, applied=17)
    assert (stage.told["ready_ms"], stage.told["pause_ms"]) == (2000.0, 6000.0)


@pytest.mark.parametrize("how", ["fetched", "observed", "never seen"])
def test_who_did_not_decide_measures_nothing(stage: Stage, how: str) -> None:
    stage.member.catchup.busy = how == "fetched"
    stage.round(2.0, applied=15 if how == "never seen" else 16, observing=how == "observed")
    stage.enter()
    stage.member.succession.active = True
    stage.round(3.0, applied=17)
    assert (stage.told["ready_ms"], stage.told["pause_ms"]) == (None, None)


def test_events_are_kept_in_order_and_the_newest_are_told(stage: Stage, tmp_path: Path) -> None:
    stage.member.orders.refused = {b"\x07" * 32: "no"}
    stage.round(1.0)
    stage.round(1.5)
    stage.enter()
    stage.chronicle.note("halted", epoch=1, reason="enough")
    found = list(read_events(tmp_path))
    assert [one["event"] for one in found] == ["started", "refused", "entered", "halted"]
    assert found == stage.chronicle.told()["events"]
    assert (found[2]["from"], found[2]["to"], found[2]["members"]) == ("paxos", "coordinator", ["m0", "m1", "m2", "m3"])


def test_the_file_is_bounded_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    chronicle = Chronicle(tmp_path / FILE, file_bytes_max=2000)
    for number in range(120):
        chronicle.note("blamed", member="m1", fault="x" * 20, count=number)
    sizes = [(tmp_path / name).stat().st_size for name in (FILE, f"{FILE}.1")]
    assert max(sizes) <= 2000
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, f"{FILE}.1"]
    found = [one["count"] for one in read_events(tmp_path)]
    assert found == list(range(found[0], 120))
    with (tmp_path / FILE).open("a") as file:
        file.write('{"event": "cut in the mid')
    assert [one["count"] for one in read_events(tmp_path)] == found


def test_a_disk_that_fails_costs_events_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).mkdir()
    chronicle = Chronicle(tmp_path / FILE)
    chronicle.note("halted", reason="x")
    chronicle.note("halted", reason="x")
    assert len(chronicle.newest) == 2
    assert len(caplog.records) == 1


# ------------------------------------------------------------------------------------------------- bftkit events


def test_the_command_shows_a_members_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "shop"
    assert main(["init", str(directory), "--members", "1", "--protocol", "coordinator", "--json"]) == 0
    Chronicle(directory / "m0" / FILE, wall_clock=lambda: 5.0).note("blamed", member="m1", fault="lied", count=2)
    capsys.readouterr()
    assert main(["events", str(directory / "m0"), "--json"]) == 0
    first, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == {
        "event": "happened", "what": "blamed", "member": "m0", "time_ms": 5000, "about": "m1", "fault": "lied",
        "count": 2,
    }  # fmt: skip
    assert last == {"event": "result", "count": 1}
    assert main(["events", str(tmp_path)]) == 3


def test_what_a_liar_says_of_its_events_breaks_nothing() -> None:
    assert newest_of({}) == []
    assert newest_of({"events": "many"}) == []
    assert newest_of({"events": [1, {"event": "x"}]}) == [{"event": "x"}]
    lies: list[dict[str, Any]] = [{"time_ms": "soon"}, {"time_ms": -1}, {"time_ms": 1 << 60}, {}, {"time_ms": True}]
    assert in_order({"m0": lies}) == []
    assert in_order({"m1": [{"time_ms": 2}], "m0": [{"time_ms": 2}, {"time_ms": 1}]}) == [
        (1, "m0", {"time_ms": 1}), (2, "m0", {"time_ms": 2}), (2, "m1", {"time_ms": 2}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"event": "started", "epoch": 1, "protocol": "cks", "applied": 7, "silent": True}, "slot 7, silent"),
        (
            {
                "event": "entered",
                "epoch": 1,
                "from": "a",
                "to": "b",
                "kind": "forced",
                "members": ["m0"],
                "after_slot": 3,
            },
            "entered epoch 1 after slot 3: a to b, forced, m0",
        ),
        (
            {
                "event": "entered",
                "epoch": 2,
                "from": "b",
                "to": "a",
                "kind": "planned",
                "cause": "policy",
                "reason": "calm",
                "members": ["m0"],
                "after_slot": 9,
            },
            "entered epoch 2 after slot 9: b to a, planned by the policy, m0; why: calm",
        ),
        ({"event": "resumed", "epoch": 1, "pause_ms": 3.5}, "first decision of epoch 1, 3.5 ms after"),
        ({"event": "refused", "command": "ab" * 32, "reason": "no"}, "refused command abababababababab: no"),
        (
            {"event": "blamed", "member": "m1", "fault": "lied", "count": 1, "evidence": "0-m1-ab"},
            "blames m1: lied (1 times); proof 0-m1-ab",
        ),
        ({"event": "halted", "reason": "why"}, "halted: why"),
        ({"event": "new", "x": 1, "time_ms": 5}, "event=new x=1"),
        ({"event": "entered", "members": 7}, "event=entered members=7"),
    ],
)
def test_events_in_words(entry: dict[str, Any], text: str) -> None:
    assert text in in_words(entry)
