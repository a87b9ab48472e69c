"""Stories of runs without progress, and the words for what travels."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bftkit.channel import frames
from bftkit.core.digest import NO_DIGEST
from bftkit.core.plugin import load_protocol
from bftkit.service import keyvalue
from bftkit.sim.faults import ClockJump, Crash, Partition
from bftkit.sim.faults.changes import Switch
from bftkit.sim.plan import Load, Plan
from bftkit.sim.running import run
from bftkit.sim.story import story_of
from bftkit.sim.watching import STEP
from bftkit.sim.wording import Wording, operation_words, short
from bftkit_pbft.machine import PbftMachine
from bftkit_pbft.messages import CODEC, Commit


def test_watching_changes_nothing() -> None:
    plan = Plan(
        seed=5,
        load=Load(operations=20, bursts=2),
        ticks=400,
        faults=(Crash(at=100, who="m1", ticks=100), ClockJump(at=150, who="m2", ms=500)),
    )
    story = story_of(plan)
    assert story.result.digest == run(plan).digest
    assert "m1 loses power in view 0" in story.text
    assert "m1 is back in view 0" in story.text
    assert "FAULT: the clock of m2 jumps by 500 ms" in story.text


def test_a_story_may_be_about_any_slot() -> None:
    story = story_of(Plan(seed=5, load=Load(operations=6, bursts=1, clients=1), ticks=200), slots=(2,))
    assert "This is about slot 2:" in story.text
    assert (
        "m0, m1, m2, m3 EXECUTE slot 2 = " in story.text.replace("m1, m0", "m0, m1") or "EXECUTE slot 2" in story.text
    )
    assert "c0 asks: Bundle [c0: " in story.text


def test_without_progress_it_is_told_who_waits_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody ever leaves view 0 here, so the crash of the leader behind a cut is the end."""
    usual = PbftMachine.on_message

    def on_message(self: PbftMachine, sender: str, message: Any, out: Any) -> None:
        if not isinstance(message, Commit) or message.slot < 3:
            usual(self, sender, message, out)

    monkeypatch.setattr(PbftMachine, "on_message", on_message)
    plan = Plan(
        seed=1,
        load=Load(operations=12, bursts=1, clients=1, poison=0.0),
        ticks=300,
        faults=(Partition(at=200, ticks=50, sides=(("m0",), ("m1", "m2", "m3"))),),
    )
    story = story_of(plan)
    assert story.result.oracle == "progress"
    assert "Side 1: m0." in story.text
    assert "VIOLATION of progress" in story.text
    assert "c0 waits for " in story.text
    assert "Said in the last 1 s:" in story.text
    for member in plan.group.names:
        assert f"  {member}: view " in story.text


def test_long_stories_are_cut_in_the_middle() -> None:
    plan = Plan(seed=5, load=Load(operations=60, bursts=1), ticks=300)
    whole, short_one = (story_of(plan, lines=lines, slots=(1, 2, 3)).text.splitlines() for lines in (None, 30))
    assert len(short_one) < len(whole)
    assert len(short_one) <= 40
    assert [line for line in whole if "EXECUTE" in line] == [line for line in short_one if "EXECUTE" in line]


def test_a_planned_switch_can_be_followed_from_its_order_to_the_next_epoch() -> None:
    plan = Plan(
        seed=1,
        reconfigurable=True,
        load=Load(operations=60, bursts=3),
        ticks=1500,
        faults=(Switch(at=100, protocol="cks"), Crash(at=1400, who="m3", ticks=50)),
    )
    story = story_of(plan, lines=None)
    assert story.result.ok, story.result.violation
    steps = [one.text for one in story.world.happened if one.kind == STEP and one.who == "m0"]
    wanted = [
        r"PREPARES command [0-9a-f]{6} \(epoch 0, planned: cks on m0, m1, m2, m3, f = 1, c = 0\)",
        r"COMMITS command [0-9a-f]{6}: epoch 0 ends at slot \d+",
        r"signs the end of epoch 0: slot \d+, state [0-9a-f]{6}",
        r"ENTERS epoch 1: cks on m0, m1, m2, m3, f = 1, c = 0$",
        r"takes part in epoch 1",
    ]
    found = [next(at for at, text in enumerate(steps) if re.match(pattern, text)) for pattern in wanted]
    assert found == sorted(found), steps
    assert "makes a coin key with the others" in steps
    assert "holds a share of the coin key of epoch 1" in steps
    assert re.search(r"is back in view \d+, with all slots up to \d+ executed, in epoch 1 of cks", story.text)
    read = [story.world.wording.read(said.frame) for said in story.world.said]
    assert not [message for message in read if message.name == "garbage"], "messages of the next protocol are read, too"
    assert [message for message in read if message.text.startswith("(epoch 1) ")]
    assert [message for message in read if "(epoch 0, planned: cks on" in message.text], "the command as it travels"


def test_a_forced_switch_is_told_with_its_reports_and_what_was_agreed() -> None:
    plan = Plan(
        seed=2,
        reconfigurable=True,
        load=Load(operations=30, bursts=2),
        ticks=1500,
        faults=(Switch(at=300, protocol="cks", forced=True),),
    )
    story = story_of(plan, lines=None)
    assert story.result.ok, story.result.violation
    steps = [one.text for one in story.world.happened if one.kind == STEP and one.who == "m1"]
    wanted = [
        r"LEAVES pbft by force and votes in it no more, by command [0-9a-f]{6} \(epoch 0, forced: cks on ",
        r"has reports of m\d, m\d, m\d",
        r"AGREES by the bedrock: epoch 0 goes on from slot \d+ and ends at \d+",
        r"ENTERS epoch 1: cks",
    ]
    found = [next(at for at, text in enumerate(steps) if re.match(pattern, text)) for pattern in wanted]
    assert found == sorted(found), steps


def test_operations_in_words() -> None:
    assert operation_words(keyvalue.put(b"k1", b"c0/3")) == "put k1 = c0/3"
    assert operation_words(keyvalue.get(b"k1")) == "get k1"
    assert operation_words(keyvalue.delete(b"k1")) == "delete k1"
    assert operation_words(keyvalue.append(b"k1", b"x")) == "append x to k1"
    assert operation_words(keyvalue.compare_and_set(b"k1", None, b"a")) == "set k1 to a if it is absent"
    assert operation_words(keyvalue.compare_and_set(b"k1", b"b", b"a")) == "set k1 to a if it is b"
    assert operation_words(b"transfer 5") == "transfer 5"
    assert operation_words(b"\0\1\2\3\4") == "00010203…5"
    assert short(NO_DIGEST) == "empty"


def test_frames_in_words_and_their_slots() -> None:
    words = Wording(load_protocol("pbft"), {})
    name = bytes(range(32))
    commit = words.read(frames.pack_protocol(0, CODEC.encode(Commit(2, 7, name)), ()))
    assert commit.text == "Commit view 2, slot 7, digest 000102"
    assert commit.slots == {7}
    assert commit.digest == name
    claims = words.read(frames.pack_control(frames.DecidedClaims(0, 4, (name, name))))
    assert claims.slots == {4, 5}
    assert claims.text == "(channel) DecidedClaims epoch 0, first 4, digests 000102, 000102"
    for garbage in (b"", b"\x01", b"\x63abc", b"\x03\xff"):
        assert words.read(garbage).name == "garbage"
