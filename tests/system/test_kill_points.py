"""Members killed at random moments under load: nothing acknowledged is lost. More of it: simulations/kill_points.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

COMMAND = Path(__file__).parents[2] / "simulations" / "kill_points.py"


POINTS = 10


def test_nothing_acknowledged_is_lost_at_random_kill_points() -> None:
    words = [sys.executable, str(COMMAND), "--points", str(POINTS), "--seed", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    result = lines[-1]
    assert result["event"] == "result"
    assert sum(line["event"] == "kill" for line in lines) == result["points"] == POINTS
    assert result["acknowledged"] >= POINTS
    assert (result["lost"], result["duplicated"], result["reordered"]) == (0, 0, 0)
    assert result["linearizable"] is True
    assert result["digests_agree"] is True
