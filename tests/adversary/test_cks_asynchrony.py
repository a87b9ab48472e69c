"""What cks is for: a schedule of the network under which pbft stands still and cks goes on.

`simulations/asynchrony.py` runs longer, and prints what it saw.
"""

from __future__ import annotations

import json

import pytest

from simulations import asynchrony

MINUTE = 60_000


def test_under_one_schedule_pbft_stands_still_and_cks_goes_on() -> None:
    """With default timeouts; every message arrives in the end, and no member is faulty."""
    pbft, cks, other = asynchrony.compare(4, 1, MINUTE)
    assert pbft["decided"] == 0
    assert pbft["views"] >= 5, "it was not idle: it looked for a better leader all the time"
    assert pbft["decided_after_all"] == pbft["submitted"] + 5, "nothing is lost: once it is let go, all is decided"
    for run in (cks, other):
        assert run["decided"] == run["submitted"]
    assert cks["longest_hold_ms"] == pbft["longest_hold_ms"] > 20_000


def test_the_adversary_only_delays() -> None:
    """Without it both protocols decide the same load."""
    for protocol in ("pbft", "cks"):
        world = asynchrony.HinderedWorld(protocol, 4, 1, asynchrony.Schedule([]))
        assert asynchrony.play(world, 5_000)["decided"] == 5


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["asynchrony.py", "--seconds", "8", "--json"])
    assert asynchrony.main() == 0
    assert [row["protocol"] for row in json.loads(capsys.readouterr().out)] == ["pbft", "cks", "cks"]
    monkeypatch.setattr("sys.argv", ["asynchrony.py", "--seconds", "8"])
    assert asynchrony.main() == 0
    assert "holds back whoever leads" in capsys.readouterr().out
