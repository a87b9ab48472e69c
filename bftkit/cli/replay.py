"""`bftkit replay`: run a failing plan again, make it smaller, and tell what happened."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators

from bftkit.cli.app import ExitCode, output
from bftkit.cli.simulate import explained, planned, usage
from bftkit.sim.examining import check_fit, examine_plan
from bftkit.sim.plan import KEY_VALUE, Plan, plan_data
from bftkit.sim.running import Result
from bftkit.sim.shrinking import BUDGET_RUNS, Shrunk, Trial, shrink
from bftkit.sim.story import LINES_MAX, tell
from bftkit.sim.trace_files import Trace, TraceError, load_trace, save_trace
from bftkit.sim.wording import counted

PROGRESS_SECONDS = 0.25


def replay(
    trace: Annotated[
        Path | None, Parameter(help="A trace, as a campaign saves it, or a plan; without it, a scenario's seed.")
    ] = None,
    /,
    *,
    seed: Annotated[int | None, Parameter(help="Which seed of the scenario.")] = None,
    scenario: Annotated[str, Parameter(help="Of which scenario.")] = "mixed",
    protocol: Annotated[str, Parameter(help="Under which protocol.")] = "pbft",
    service: Annotated[str, Parameter(help='The state machine, as "package.module:Class".')] = KEY_VALUE,
    shrinking: Annotated[
        bool, Parameter(name="--shrink", help="First find the smallest plan that still fails.", negative="")
    ] = False,
    seconds: Annotated[float, Parameter(help="For how long to shrink.", validator=validators.Number(gt=0))] = 120.0,
    runs: Annotated[
        int, Parameter(help="How many runs to shrink with, at most.", validator=validators.Number(gt=0))
    ] = BUDGET_RUNS,
    any_oracle: Annotated[
        bool, Parameter(help="Shrink to whatever fails, and not only in the same way.", negative="")
    ] = False,
    save: Annotated[Path | None, Parameter(help="Save the (shrunk) run as a trace in this file.")] = None,
    full: Annotated[
        bool, Parameter(help="Tell everything that concerns the violation, however long.", negative="")
    ] = False,
) -> ExitCode:
    """Run a plan again, say whether the same came of it, and tell the violation as a story.

    The exit code is 10 if safety is violated, 11 if only progress is missed, 0 if every checker is content.
    """
    with explained():
        known = recorded(trace, seed, scenario, protocol, service)
        known.plan.check()
        result = examine_plan(known.plan)
        _tell_run(known, result)
        if result.ok:
            if save is not None:
                save_trace(save, result)
            output().event("result", ok=True, oracle="", violation="", digest=result.digest, same=_same(known, result))
            return ExitCode.OK
        shrunk: Shrunk | None = None
        if shrinking:
            shrunk = _shrink(known.plan, result, seconds, runs, any_oracle)
            result = shrunk.result
        if save is not None:
            save_trace(save, result)
            output().plain(f"saved: bftkit replay {save}")
        story = tell(result.plan, lines=None if full else LINES_MAX)
    out = output()
    for line in story.splitlines():
        out.event("story", line=line)
    out.plain(f"\n{story}")
    fields: dict[str, Any] = {
        "ok": False,
        "oracle": result.oracle,
        "violation": result.violation,
        "digest": result.digest,
        "same": _same(known, result) if shrunk is None else None,
        "plan": plan_data(result.plan),
        "saved": save,
    }
    if shrunk is not None:
        fields |= {"runs": shrunk.tried, "finished": shrunk.finished, "smaller": _sizes(known.plan, shrunk.plan)}
    out.event("result", **fields)
    return ExitCode.SAFETY_VIOLATED if result.kind == "safety" else ExitCode.PROGRESS_MISSED


def recorded(path: Path | None, seed: int | None, scenario: str, protocol: str, service: str) -> Trace:
    """The trace in the file, or the plan of the scenario's seed."""
    if path is not None:
        if seed is not None:
            usage("give a trace or --seed, not both")
        try:
            return load_trace(path)
        except TraceError as error:
            usage(str(error))
        except OSError as error:  # in the simulated world there are no configurations: see the guide's table
            usage(f"{path}: {error.strerror or error}")
    if seed is None:
        usage("give a trace, or the --seed of a scenario")
    if seed < 0:
        usage(f"--seed {seed}: seeds are not negative")
    return Trace(plan=planned(check_fit(scenario, protocol, service), protocol, seed, service))


def _same(known: Trace, result: Result) -> bool | None:
    return result.digest == known.digest if known.digest else None


def _tell_run(known: Trace, result: Result) -> None:
    out, plan, same = output(), known.plan, _same(known, result)
    out.event(
        "run",
        scenario=plan.scenario,
        protocol=plan.protocol,
        seed=plan.seed,
        oracle=result.oracle,
        violation=result.violation,
        digest=result.digest,
        same=same,
    )
    out.plain(
        f"{plan.scenario}, {plan.protocol}, seed {plan.seed}: {result.ticks:,} ms simulated, digest {result.digest}"
    )
    if same:
        out.plain("the same run as the recorded one, byte for byte")
    elif same is False:
        text = f"not the run that was recorded (digest {known.digest}, bftkit {known.version}, Python {known.python})"
        out.plain(f"{text}: the code has changed since, or hangs on more than the seed")
    if result.ok:
        out.plain(
            "every promise was kept" + (f"; recorded was: {known.oracle}: {known.violation}" if known.oracle else "")
        )
    else:
        out.plain(f"violated: {result.oracle}")


def _shrink(plan: Plan, result: Result, seconds: float, runs: int, any_oracle: bool) -> Shrunk:
    out = output()
    last = 0.0
    interactive = out.interactive

    def progress(trial: Trial) -> None:
        nonlocal last
        now = time.monotonic()
        if interactive and now - last >= PROGRESS_SECONDS:
            last = now
            print(f"\r\x1b[Kshrinking, run {trial.tried}: {trial.step[:60]}", end="", flush=True)

    shrunk = shrink(
        plan,
        budget_seconds=seconds,
        budget_runs=runs,
        any_oracle=any_oracle,
        runner=examine_plan if result.oracle == "figure" else None,
        progress=progress,
    )
    if interactive:
        print("\r\x1b[K", end="", flush=True)
    sizes = _sizes(plan, shrunk.plan)
    out.event("shrunk", runs=shrunk.tried, finished=shrunk.finished, smaller=sizes, steps=shrunk.steps)
    words = ", ".join(f"{name} {before:,} → {after:,}" for name, (before, after) in sizes.items() if before != after)
    rest = "" if shrunk.finished else "; the budget is spent, more may be possible"
    out.plain(f"shrunk in {counted(shrunk.tried, 'run')}: {words or 'nothing can be left out'}{rest}")
    return shrunk


def _sizes(before: Plan, after: Plan) -> dict[str, tuple[int, int]]:
    """What a person asks first: how much smaller it is."""
    return {
        "faults": (len(before.faults), len(after.faults)),
        "members": (before.group.members, after.group.members),
        "clients": (before.load.clients, after.load.clients),
        "operations": (before.load.operations, after.load.operations),
        "ms": (before.ticks, after.ticks),
    }
