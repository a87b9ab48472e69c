"""`bftkit demo --switch`: seven changes of a group of real processes under load, one of them by force."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bftkit.cli.app import ExitCode

CHANGES = [
    (1, "coordinator", "paxos", "planned", 3),
    (2, "paxos", "paxos", "planned", 4),
    (3, "paxos", "pbft", "planned", 4),
    (4, "pbft", "cks", "planned", 4),
    (5, "cks", "pbft", "planned", 4),
    (6, "pbft", "cks", "forced", 4),
    (7, "cks", "pbft", "planned", 4),
]


def test_seven_changes_under_load_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bftkit", "demo", "--switch", "--json", "--seconds", "7"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    switches = [line for line in lines if line["event"] == "switch"]
    assert [(one["epoch"], one["from"], one["to"], one["kind"], one["members"]) for one in switches] == CHANGES
    for one in switches:
        assert one["pause_ms"] > 0
        assert one["client_gap_ms"] > 0
    assert [line["kind"] for line in lines if line["event"] == "fault"] == ["leader-stop", "leader-goes-on"]
    result = lines[-1]
    assert result["event"] == "result"
    assert (result["protocol"], result["members"], result["switches"], result["forced"]) == ("pbft", 4, 7, 1)
    assert (result["lost"], result["duplicated"], result["reordered"], result["errors"]) == (0, 0, 0, [])
    assert result["digests_agree"] is True
    assert result["linearizable"] is True
    assert result["acknowledged"] > 0
    pauses = {kind: [one["pause_ms"] for one in switches if one["kind"] == kind] for kind in ("planned", "forced")}
    assert result["pause_ms_max"] == max(pauses["planned"])
    assert [result["forced_pause_ms_max"]] == pauses["forced"]
    assert result["leader_stops"] == 1
    assert result["delayed"] > 0


def test_the_demo_of_changes_begins_as_it_does() -> None:
    for words in (("--protocol", "pbft"), ("--members", "4")):
        done = subprocess.run(
            [sys.executable, "-m", "bftkit", "demo", "--switch", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == ExitCode.USAGE
        assert "begins with coordinator on 3 members" in done.stderr
