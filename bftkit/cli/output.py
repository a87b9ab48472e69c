"""What a command says, and to whom.

Results go to standard output: as rich text for a person, or with `--json` as one JSON object a line for a program.
Everything else (progress, logs, errors) goes to standard error, so that a program reads results and nothing else.
An error is also told as JSON, since a program that reads lines should not have to guess from an exit code alone.
"""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, TextIO

import attrs

if TYPE_CHECKING:
    from rich.console import Console


def _plain(value: object) -> object:
    """What JSON does not know by itself: bytes as hexadecimal digits, paths and the rest as text, attrs as objects."""
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (set, frozenset)):
        return sorted(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)  # type: ignore[arg-type]
    return str(value)


def harmless(text: str) -> str:
    """A text that may hold what a member said, as it can be shown: a terminal obeys what is not printable."""
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)


class Output:
    """Where one run of the command line writes."""

    def __init__(self, json: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        """`json`: results as JSON lines. The streams default to the process's own."""
        self.json = json
        self._stdout = stdout if stdout is not None else sys.stdout
        self._stderr = stderr if stderr is not None else sys.stderr

    @cached_property
    def console(self) -> Console:
        """Rich on standard output, for text mode only (tables, live views)."""
        assert not self.json, "with --json, standard output is for JSON lines alone"
        from rich.console import Console

        # In a file or a pipe nothing is as narrow as a terminal may be, and tables are not to be cut.
        wide = None if self._stdout.isatty() or "COLUMNS" in os.environ else 120
        return Console(file=self._stdout, highlight=False, width=wide)

    @cached_property
    def log_console(self) -> Console:
        """Rich on standard error, in either mode."""
        from rich.console import Console

        return Console(file=self._stderr, stderr=True, highlight=False)

    @property
    def interactive(self) -> bool:
        """Whether a person sits before standard output."""
        return not self.json and self._stdout.isatty()

    def event(self, event: str, /, **fields: object) -> None:
        """With `--json`, one line with these fields; otherwise nothing. Fields may have any name but ``event``."""
        if self.json:
            told = {"event": event} | fields | {"event": event}
            print(json_module.dumps(told, default=_plain), file=self._stdout, flush=True)

    def show(self, *parts: object) -> None:
        """In text mode, what rich makes of the parts (texts with markup, tables); with `--json`, nothing."""
        if not self.json:
            self.console.print(*parts, soft_wrap=True)

    def plain(self, text: str) -> None:
        """In text mode, the text exactly as it is (a file's content, a value); with `--json`, nothing."""
        if not self.json:
            print(text, file=self._stdout, flush=True)

    def log(self, text: str) -> None:
        """A line on standard error, in either mode; made `harmless`."""
        print(harmless(text), file=self._stderr, flush=True)

    def error(self, code: int, message: str) -> None:
        """The one line that says why the command failed, and with `--json` the same as an event."""
        self.event("error", code=code, message=message)
        self.log(f"bftkit: {message}")


_current: Output | None = None


def output() -> Output:
    """The output of the command that runs now."""
    assert _current is not None, "no command is running"
    return _current


def use_output(chosen: Output) -> None:
    """Make this the output of what runs from now on."""
    global _current
    _current = chosen
