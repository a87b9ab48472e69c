"""Members killed at random moments under load: nothing acknowledged is lost. More of it: simulations/kill_points.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).parents[2] / "simulations" / "kill_points.py"


@pytest.mark.parametrize(("protocol", "points"), [("pbft", 20), ("coordinator", 5)])
def test_nothing_acknowledged_is_lost_at_random_kill_points(protocol: str, points: int) -> None:
    words = [sys.executable, str(COMMAND), "--points", str(points), "--seed", "1", "--protocol", protocol]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    result = lines[-1]
    assert result["event"] == "result"
    assert sum(line["event"] == "kill" for line in lines) == result["points"] == points
    assert result["acknowledged"] >= points
    assert (result["lost"], result["duplicated"], result["reordered"]) == (0, 0, 0)
    assert result["linearizable"] is True
    assert result["digests_agree"] is True
