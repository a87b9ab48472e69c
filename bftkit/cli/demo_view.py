"""What a person sees of the demo: a calm live view on a terminal, and a summary at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import attrs
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bftkit.cli.app import output
from bftkit.cli.demo_load import Load
from bftkit.core.machine import MemberId

NEWS_KEPT = 8


@attrs.define(eq=False)
class ModelOfView:
    """What the view shows."""

    members: tuple[MemberId, ...]
    liar: MemberId | None
    title: str
    seconds: float
    load: Load
    statuses: Callable[[], Mapping[MemberId, dict[str, Any]]]


class DemoView:
    """Live on a terminal; elsewhere a line for each thing that happens; nothing with `--json`."""

    def __init__(self, model: ModelOfView) -> None:
        self.model = model
        self._news: deque[str] = deque(maxlen=NEWS_KEPT)
        self._began: float | None = None
        self._created = time.monotonic()
        self._live: Live | None = None
        self._rates: deque[tuple[float, int]] = deque(maxlen=20)

    def __enter__(self) -> Self:
        if output().interactive:
            self._live = Live(
                console=output().console, get_renderable=self._render, refresh_per_second=4, transient=True
            )
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, traceback)
            self._live = None

    def begin(self) -> None:
        """The load begins."""
        self._began = time.monotonic()
        self.say(f"{self.model.title}: load begins")

    def say(self, text: str) -> None:
        """Something happened."""
        line = f"{time.monotonic() - (self._began or self._created):6.1f} s  {text}"
        self._news.append(line)
        if self._live is None:
            output().plain(line)

    def _render(self) -> RenderableType:
        model = self.model
        elapsed = 0.0 if self._began is None else time.monotonic() - self._began
        now = time.monotonic()
        self._rates.append((now, model.load.acknowledged))
        (then, before) = self._rates[0]
        rate = (model.load.acknowledged - before) / (now - then) if now > then else 0.0
        head = Table.grid(padding=(0, 2))
        head.add_row(
            f"{min(elapsed, model.seconds):4.0f} / {model.seconds:.0f} s",
            ProgressBar(total=model.seconds, completed=min(elapsed, model.seconds), width=40),
            f"{model.load.acknowledged:,} acknowledged",
            f"{rate:,.0f} a second",
        )
        return Panel(
            Group(head, Text(), self._members(), Text(), Text("\n".join(self._news))),
            title=f"bftkit demo: {model.title}",
            title_align="left",
        )

    def _members(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("member", "", "epoch", "protocol", "view", "leader", "applied", "checkpoint", "blamed"):
            table.add_column(title)
        statuses = self.model.statuses()
        for member in self.model.members:
            one = statuses.get(member)
            role = "[yellow]liar[/yellow]" if member == self.model.liar else ""
            if one is None:
                table.add_row(member, "[red]down[/red] " + role)
                continue
            state = "[red]stopped[/red]" if one.get("stopped") else "[green]up[/green]"
            if one.get("catching_up"):
                state = "[cyan]catching up[/cyan]"
            leads = " leads" if one.get("leader") == member else ""
            table.add_row(
                member,
                f"{state} {role}{leads}",
                str(one.get("epoch")),
                str(one.get("protocol")),
                str(one.get("view")),
                "everybody" if one.get("everybody_proposes") else one.get("leader") or "-",
                f"{one.get('applied', 0):,}",
                f"{one.get('stable', 0):,}",
                str(sum(one.get("blamed", {}).values())),
            )
        return table

    def result(self, result: Mapping[str, Any], safe: bool, missing: list[str]) -> None:
        """The summary."""
        table = Table.grid(padding=(0, 2))
        rows = (
            ("acknowledged", f"{result['acknowledged']:,} operations, {result['ops_per_second']:,} a second"),
            ("lost / duplicated", f"{result['lost']} / {result['duplicated']}"),
            ("linearizable", "yes" if result["linearizable"] else "NO"),
            ("digests", f"{'agree' if result['digests_agree'] else 'DIFFER'} at slot {result['digest_slot']}"),
        )
        for name, text in (*rows, *(_changes(result) if "switches" in result else _faults(result))):
            table.add_row(name, text)
        colour = "green" if safe and not missing else "red"
        verdict = "nothing lost" if safe else "A PROMISE WAS BROKEN"
        if missing:
            verdict += f"; not injected: {', '.join(missing)}"
        output().show(Panel(table, title=f"[{colour}]{verdict}[/{colour}]", title_align="left", expand=False))


def _faults(result: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return (
        (
            "member killed" if result["everybody_proposes"] else "leader killed",
            f"{result['leader_kills']} time{'s' * (result['leader_kills'] != 1)}",
        ),
        (
            "liars",
            f"{result['liars']} ({result['equivocations']} equivocations, {result['wrong_replies']} wrong replies)",
        ),
        ("power cuts", f"{result['power_cuts']}, served again after {result['recovery_ms']} ms"),
    )


def _changes(result: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    planned = result["switches"] - result["forced"]
    pauses = ["-" if result[n] is None else f"{result[n]:.0f} ms" for n in ("pause_ms_max", "forced_pause_ms_max")]
    return (
        ("changes", f"{result['switches']}: {planned} planned, {result['forced']} forced; now {result['protocol']}"),
        ("members", f"{result['members']}"),
        ("longest pause of a planned change", pauses[0]),
        *([("longest pause of a forced change", pauses[1])] if result["forced"] else []),
        ("leaders", f"{result.get('leader_stops', 0)} stopped; {result['delayed']} proposals came late"),
    )
