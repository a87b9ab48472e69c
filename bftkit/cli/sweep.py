"""`bftkit sweep`: one scenario under many seeds, on all cores."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from cyclopts import Parameter
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn

from bftkit.cli.app import ExitCode, output
from bftkit.cli.simulate import explained, planned, usage
from bftkit.sim.campaign import SECONDS_PER_SEED, Campaign, seeds_in
from bftkit.sim.campaign import sweep as run_campaign
from bftkit.sim.examining import check_fit
from bftkit.sim.outcomes import NO_PLAN, Outcome
from bftkit.sim.plan import KEY_VALUE
from bftkit.sim.running import replay_line
from bftkit.sim.wording import counted

TOLD_EVERY_SECONDS = 10.0
DRAWN_EVERY_SECONDS = 0.2


def sweep(
    scenario: Annotated[str, Parameter(help="See `bftkit simulate --list`; or package.module, or ./file.py.")],
    /,
    *,
    protocol: Annotated[str, Parameter(help="The ordering protocol.")] = "pbft",
    seeds: Annotated[str, Parameter(help="Which seeds: 7, 0..99 (both included) or 0..9,20..29.")] = "0..99",
    jobs: Annotated[int | None, Parameter(help="How many processes (default: as many as cores).")] = None,
    service: Annotated[str, Parameter(help='The state machine, as "package.module:Class".')] = KEY_VALUE,
    resume: Annotated[
        Path | None, Parameter(help="Keep the outcomes in this file, and take those from it that it has already.")
    ] = None,
    save_failing: Annotated[
        Path | None, Parameter(help="Save the plan of each failing seed in this folder, for bftkit replay.")
    ] = None,
    keep_going: Annotated[bool, Parameter(help="Run every seed, however many fail (the default).", negative="")] = True,
    stop_at: Annotated[int, Parameter(help="Begin no new seed once so many have failed (0: run every seed).")] = 0,
    seconds_per_seed: Annotated[
        float, Parameter(help="A seed that takes more CPU time, or ten times as long by the clock, fails.")
    ] = SECONDS_PER_SEED,
) -> ExitCode:
    """Run a scenario under many seeds. Each failing one is told with the line that repeats it.

    Exit code 10 if any seed broke a promise, else 11 if any made no progress or missed a figure, else 2 if the scenario
    makes no plan for a seed, else 1 if the campaign did not do what it claims (lines of docs/FAULTS.md that hardly
    happened, seeds in which little was done).
    """
    with explained():
        wanted = seeds_in(seeds)
        found = check_fit(scenario, protocol, service)
        if stop_at < 0:
            usage(f"--stop-at {stop_at}: 0 or more")
        if save_failing is not None:
            save_failing.mkdir(parents=True, exist_ok=True)

        # A scenario that can make no plan for this protocol is found out before it is tried many times.
        planned(found, protocol, wanted[0], service).check()

        def failed(outcome: Outcome) -> None:
            if save_failing is not None and outcome.kind != NO_PLAN:
                path = save_failing / f"{Path(scenario).stem}-{protocol}-{outcome.seed}.json"
                path.write_text(found.plan(protocol, outcome.seed, service).to_json() + "\n", encoding="utf-8")

        with _Bar(scenario, protocol, service, len(wanted)) as bar:

            def on_result(outcome: Outcome) -> None:
                if not outcome.ok:
                    failed(outcome)
                bar.take(outcome)

            try:
                campaign = run_campaign(
                    scenario,
                    protocol,
                    wanted,
                    service=service,
                    jobs=jobs,
                    resume=resume,
                    on_result=on_result,
                    seconds_per_seed=seconds_per_seed,
                    stop_at=stop_at,
                )
            except KeyboardInterrupt:
                bar.interrupted(resume)
                raise
    return _tell(campaign)


class _Bar:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, scenario: str, protocol: str, service: str, total: int) -> None:
        self._again = scenario, protocol, service
        self._total = total
        self._done = self._failures = 0
        self._began = self._told = self._drawn = time.monotonic()
        self._progress: Progress | None = None
        if output().interactive:
            # Drawn by hand: a thread that draws would make forking unsafe.
            self._progress = Progress(
                TextColumn(f"{escape(scenario)}, {escape(protocol)}"),
                BarColumn(),
                MofNCompleteColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[text]}"),
                console=output().console,
                auto_refresh=False,
                transient=True,
            )
            self._task = self._progress.add_task("", total=total, text="")

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
            self._progress.refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def take(self, outcome: Outcome) -> None:
        """One more seed has ended."""
        self._done += 1
        out = output()
        if outcome.kind == NO_PLAN:
            self._failures += 1
            out.event("unplanned", seed=outcome.seed, text=outcome.violation, report=outcome.report)
            out.plain(f"seed {outcome.seed}: {outcome.violation}")
        elif not outcome.ok:
            self._failures += 1
            again = replay_line(self._again[0], self._again[1], outcome.seed, self._again[2])
            out.event(
                "violation",
                seed=outcome.seed,
                oracle=outcome.oracle,
                text=outcome.violation,
                again=again,
                report=outcome.report,
            )
            out.plain(f"seed {outcome.seed}: {outcome.oracle}: {outcome.violation}\n  {again} --shrink")
        now = time.monotonic()
        if self._progress is not None and (now - self._drawn > DRAWN_EVERY_SECONDS or not outcome.ok):
            self._drawn = now
            self._progress.update(self._task, completed=self._done, text=self._words())
            self._progress.refresh()
        if self._progress is None and now - self._told > TOLD_EVERY_SECONDS and self._done < self._total:
            self._told = now
            out.event("progress", **self._figures())
            if not out.json:
                out.log(f"{self._done:,} of {counted(self._total, 'seed')}, {self._words()}")

    def interrupted(self, resume: Path | None) -> None:
        """Say what there is, and how to go on."""
        text = f"interrupted after {self._done:,} of {counted(self._total, 'seed')}, {self._failures:,} failed"
        if resume is not None:
            text += f"; the same command goes on where it stopped (--resume {resume})"
        output().log(text)

    def _figures(self) -> dict[str, Any]:
        seconds = max(1e-6, time.monotonic() - self._began)
        rate = self._done / seconds
        return {
            "done": self._done,
            "seeds": self._total,
            "failures": self._failures,
            "seeds_per_second": round(rate, 2),
            "remaining_seconds": math.ceil((self._total - self._done) / rate),
        }

    def _words(self) -> str:
        figures = self._figures()
        minutes, seconds = divmod(figures["remaining_seconds"], 60)
        return f"{self._failures:,} failed, {figures['seeds_per_second']:.1f} a second, {minutes}:{seconds:02} left"


def _tell(campaign: Campaign) -> ExitCode:
    out = output()
    figures = campaign.figures()
    seeds = figures["seeds"]
    minutes = max(1e-6, campaign.seconds) / 60
    lines = ", ".join(f"{line}: {count:,}" for line, count in campaign.injected.items())
    told = [
        f"{campaign.scenario}, {campaign.protocol}: {counted(seeds, 'seed')}, "
        + counted(figures["violations"], "violation")
        + (f" (seed{'s' * (figures['violations'] > 1)} {_some(figures['failing'])})" if figures["failing"] else "")
        + (f", {len(campaign.unplanned):,} without a plan" if campaign.unplanned else ""),
        f"operations acknowledged   {figures['operations']:,}, in each seed {figures['operations_least']:,} or more",
        f"view changes              {figures['view_changes']:,}",
        f"speed                     {figures['messages_per_second']:,.0f} messages a second and core, "
        f"{seeds / minutes:,.0f} seeds a minute; the slowest, {figures['slowest']}, took "
        f"{figures['cpu_seconds_most']:.2f} s of CPU time",
    ]
    if "figure" in figures:
        figure = figures["figure"]
        told.append(f"figure                    {figure['least']:g} to {figure['most']:g}, median {figure['median']:g}")
    if campaign.injected:
        told.append(f"docs/FAULTS.md, line: in how many seeds   {lines}")
    told.append(f"trace digest              {campaign.trace_digest}")
    out.plain("\n".join(told))
    if seeds < campaign.requested:
        out.log(f"stopped: {campaign.requested - seeds:,} of {counted(campaign.requested, 'seed')} not begun")
    for complaint in campaign.complaints:
        out.log(f"too little: {complaint}")
    out.event("result", **figures)
    if campaign.kind == "safety":
        return ExitCode.SAFETY_VIOLATED
    if campaign.kind == "progress":
        return ExitCode.PROGRESS_MISSED
    if campaign.kind == NO_PLAN:
        usage(f"{campaign.scenario} makes no plan for {counted(len(campaign.unplanned), 'seed')}; they were not run")
    return ExitCode.FAILED if campaign.complaints else ExitCode.OK


def _some(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds[:10])) + (" …" if len(seeds) > 10 else "")
