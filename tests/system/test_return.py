"""A member returns after the log that it needs was cut; see simulations/big_state.py, which this runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

COMMAND = Path(__file__).parents[2] / "simulations" / "big_state.py"


def test_a_returning_member_fetches_a_large_state_under_load_though_one_source_lies() -> None:
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--megabytes", "24"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["event"] == "result"
    assert result["transferred_mb"] >= 20
    assert result["chunks"] >= 40
    assert result["bad_chunks"] >= 1
    assert list(result["blamed"]) == ["m1: chunk that is not the certified one"]
    assert result["operations_meanwhile"] > 0
    assert (result["lost"], result["duplicated"], result["digests_agree"]) == (0, 0, True)
