"""`bftkit demo --policy steady`: the members notice a slow leader, change the protocol by themselves, and go back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from bftkit.cli.app import ExitCode

PATIENCE_SECONDS = 240.0

SLOW = ("the leader changed", "nothing was executed in", "requests waited for")
"""What members say of a leader whose proposals come late: which of it, is up to the machine."""


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bftkit", "demo", "--policy", "steady", *words],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_group_leaves_a_slow_leader_by_itself_and_comes_back() -> None:
    done = demo("--json", "--seconds", "4")
    end = time.monotonic() + PATIENCE_SECONDS
    # On a busy machine the members may find their leader slow, and leave it, before it is slow on purpose.
    while done.returncode == ExitCode.PROGRESS_MISSED and "slow leader" in done.stderr and time.monotonic() < end:
        done = demo("--json", "--seconds", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    switches = [line for line in lines if line["event"] == "switch"]
    assert [(one["epoch"], one["from"], one["to"], one["kind"], one["cause"], one["members"]) for one in switches] == [
        (1, "pbft", "cks", "planned", "policy", 4),
        (2, "cks", "pbft", "planned", "policy", 4),
    ]
    assert any(words in switches[0]["reason"] for words in SLOW)
    assert "all members are heard" in switches[1]["reason"]
    for one in switches:
        assert one["pause_ms"] > 0
    result = lines[-1]
    assert result["event"] == "result"
    assert (result["lost"], result["duplicated"], result["reordered"], result["errors"]) == (0, 0, 0, [])
    assert result["digests_agree"] is True
    assert result["linearizable"] is True
    assert result["delayed"] > 0


def test_the_demo_of_a_policy_begins_as_it_does() -> None:
    done = demo("--members", "4")
    assert done.returncode == ExitCode.USAGE
    assert "begins with pbft on 4 members" in done.stderr
