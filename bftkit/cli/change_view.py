"""What a person sees while a change is carried out: who is how far, live on a terminal, a line a step elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import attrs
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bftkit.channel import frames
from bftkit.channel.client import CommandState
from bftkit.cli.app import output
from bftkit.cli.output import harmless
from bftkit.core.machine import MemberId

STEPS: Final = (frames.TAKEN, frames.PREPARED, frames.COMMITTED, frames.DONE)
IN_WORDS: Final[Mapping[int, str]] = {
    frames.UNKNOWN_COMMAND: "sent",
    frames.TAKEN: "taken in",
    frames.PREPARED: "prepared; the next epoch's members get ready",
    frames.COMMITTED: "committed",
    frames.DONE: "done",
    frames.REFUSED: "refused",
}
SAID_MAX: Final = 40
"""So many characters of a word of a member's status are shown."""


class FollowView:
    """Live on a terminal; elsewhere a line for each step; nothing with `--json`."""

    def __init__(self, members: tuple[MemberId, ...]) -> None:
        self._members = members
        self._state: CommandState | None = None
        self._step = ""
        self._furthest = frames.UNKNOWN_COMMAND
        self._statuses: dict[MemberId, dict[str, Any]] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if output().interactive:
            self._live = Live(
                console=output().console, get_renderable=self.render, refresh_per_second=8, transient=True
            )
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, traceback)
            self._live = None

    def on_state(self, state: CommandState) -> None:
        """What is known of the command changed."""
        self._state = state
        line, step = step_in_words(state), step_in_words(attrs.evolve(state, by=()))
        # Members that are a step behind are no news: what one of f + 1 correct members said goes on being true.
        if step != self._step and state.state >= self._furthest:
            self._step, self._furthest = step, state.state
            if self._live is not None:
                self._live.console.print(line, markup=False)
            else:
                output().plain(line)

    def on_statuses(self, statuses: Mapping[MemberId, dict[str, Any]]) -> None:
        """What the members say of themselves."""
        self._statuses.update(statuses)

    def render(self) -> RenderableType:
        """What stands on the terminal now."""
        table = Table(box=None, pad_edge=False)
        for title in ("member", "command", "epoch", "protocol", "applied", ""):
            table.add_column(title)
        answers: Mapping[MemberId, tuple[int, str]] = self._state.answers if self._state is not None else {}
        for member in sorted({*self._members, *self._statuses, *answers}):
            one = self._statuses.get(member, {})
            state, text = answers.get(member, (frames.UNKNOWN_COMMAND, ""))
            table.add_row(
                member,
                Text(IN_WORDS[state].partition(";")[0] if member in answers else "no answer"),
                _said(one, "epoch"),
                _said(one, "protocol"),
                _said(one, "applied", 0),
                Text(harmless(text), style="dim"),
            )
        steps = Text("   ")
        reached = self._state.state if self._state is not None else frames.UNKNOWN_COMMAND
        for step in STEPS:
            done = reached != frames.REFUSED and reached >= step
            name = IN_WORDS[step].partition(";")[0]
            steps.append(f"{'●' if done else '○'} {name}   ", style="green" if done else "dim")
        return Group(steps, Text(), table)


def _said(status: Mapping[str, Any], name: str, otherwise: int | str = "-") -> Text:
    """What a member says of itself, which may be anything."""
    value = status.get(name, otherwise)
    text = f"{value:,}" if type(value) is int else value if type(value) is str else "?"
    return Text(harmless(text[:SAID_MAX]))


def step_in_words(state: CommandState) -> str:
    """One line for where the command is now."""
    line, text = IN_WORDS[state.state], state.text
    if text and text not in line:
        line = f"{line}: {harmless(text)}"
    return f"{line} ({', '.join(state.by)})" if state.by else line
