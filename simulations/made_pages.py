"""What `metrics_table.py` and `qos_table.py` share: a page of the manual is made from a table, and kept like it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

REFERENCE: Final = Path(__file__).resolve().parents[1] / "docs" / "reference"
"""Where such pages stand."""


def keep(page: Path, made: Callable[[], str], arguments: list[str], command: str, usage: str | None) -> int:
    """Write the page as it is `made`, or say whether it is up to date (exit code 1 if not).

    `command` is the file that writes it, and `usage` is printed for whoever asks for neither (exit code 2).
    """
    if arguments == ["write"]:
        page.write_text(made(), encoding="utf-8")
        return 0
    if arguments == ["check"]:
        alike = page.read_text(encoding="utf-8") == made()
        print("up to date" if alike else f"{page.name} is out of date: python simulations/{command} write")
        return 0 if alike else 1
    print(usage)
    return 2
