"""Tries a member's HTTP interface for longer than the suite does: everything in its description, and sequences.

    python -m simulations.try_admin [examples]

Each operation gets so many good and as many bad requests (default 100), and there are as many sequences. It is the
suite's own test (`tests/system/test_admin.py`) with another number.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]


def main() -> int:
    """Run it; the exit code is pytest's."""
    examples = sys.argv[1] if len(sys.argv) > 1 else "100"
    words = [sys.executable, "-m", "pytest", "-q", "tests/system/test_admin.py", "-k", "real_member"]
    return subprocess.run(words, cwd=ROOT, env={**os.environ, "BFTKIT_EXAMPLES": examples}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
