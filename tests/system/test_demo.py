"""`bftkit demo` in short form, for each protocol: every fault that it claims to survive is injected and survived."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bftkit.cli.app import ExitCode

FIELDS = {
    *("event", "protocol", "members", "acknowledged", "lost", "duplicated", "digests_agree", "linearizable"),
    *("leader_kills", "liars", "equivocations", "wrong_replies", "power_cuts", "recovery_ms", "ops_per_second"),
}


SECONDS_MAX = 64


def _demo(seconds: int, *words: str) -> dict[str, Any]:
    """On a busy machine a fault may find no time in a short run; then a longer one must have it."""
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "bftkit", "demo", "--json", "--seconds", str(seconds), *words],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode != ExitCode.PROGRESS_MISSED or "not injected" not in done.stderr or seconds >= SECONDS_MAX:
            break
        seconds *= 2
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["event"] == "result"
    assert set(result) >= FIELDS
    assert result["acknowledged"] > 0
    assert (result["lost"], result["duplicated"]) == (0, 0)
    assert result["digests_agree"] is True
    assert result["linearizable"] is True
    assert result["power_cuts"] == 1
    assert result["recovery_ms"] > 0
    assert result["leader_kills"] >= 1
    return result


def test_pbft_survives_a_killed_leader_a_liar_and_a_power_cut() -> None:
    result = _demo(6)
    assert (result["protocol"], result["members"], result["liars"]) == ("pbft", 4, 1)
    assert result["equivocations"] >= 1
    assert result["wrong_replies"] >= 1


def test_the_coordinator_runs_with_the_faults_that_it_claims() -> None:
    result = _demo(4, "--protocol", "coordinator")
    assert (result["protocol"], result["members"]) == ("coordinator", 3)
    assert not result["liars"]
    assert not result["equivocations"]


def test_paxos_survives_a_killed_leader_and_a_power_cut() -> None:
    result = _demo(4, "--protocol", "paxos")
    assert (result["protocol"], result["members"], result["liars"]) == ("paxos", 3, 0)


def test_where_nobody_leads_some_member_is_killed_and_one_lies_all_the_time() -> None:
    result = _demo(6, "--protocol", "cks")
    assert (result["protocol"], result["members"], result["liars"]) == ("cks", 4, 1)
    assert result["everybody_proposes"] is True
    assert result["equivocations"] >= 1
    assert result["wrong_replies"] >= 1
