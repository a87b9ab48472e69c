"""The command line. Open `app.py` first: the commands, the exit codes, and how errors become one line.

One file a family of commands. A command's module is imported only when the command runs, so that `bftkit version`
does not wait for trio.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (default: the process's own arguments) and return its exit code. Never raises for bad input."""
    from bftkit.cli.app import run

    return run(arguments)
