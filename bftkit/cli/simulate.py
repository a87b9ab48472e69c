"""`bftkit simulate`: one seed of a scenario, told; and what scenarios there are."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

from cyclopts import Parameter

from bftkit.cli.app import CommandFailed, ExitCode, output
from bftkit.core.plugin import BrokenProtocol, UnknownProtocol, load_protocol
from bftkit.service.loading import ServiceError
from bftkit.sim.examining import CampaignError, check_fit, examine
from bftkit.sim.outcomes import ResumeError
from bftkit.sim.plan import KEY_VALUE, Plan, PlanError, plan_data, plan_from_data
from bftkit.sim.running import Result, replay_line
from bftkit.sim.scenarios import Scenario, UnknownScenario, load_scenario, raised, scenario_names
from bftkit.sim.wording import counted


def simulate(
    scenario: Annotated[str | None, Parameter(help="A scenario (see --list), package.module, or ./file.py.")] = None,
    /,
    *,
    seed: Annotated[int, Parameter(help="Which one.")] = 0,
    protocol: Annotated[str, Parameter(help="The ordering protocol.")] = "pbft",
    service: Annotated[str, Parameter(help='The state machine, as "package.module:Class".')] = KEY_VALUE,
    settings: Annotated[
        tuple[str, ...],
        Parameter(
            name="--set",
            negative="",
            help="Change what was drawn, as name=value: ticks=6000, load.operations=50, network.loss=0.2, faults=[].",
        ),
    ] = (),
    save: Annotated[Path | None, Parameter(help="Save the plan of this run in a file, for bftkit replay.")] = None,
    story: Annotated[bool, Parameter(help="Tell what happened, as a story.", negative="")] = False,
    listing: Annotated[bool, Parameter(name="--list", help="List the scenarios that ship.", negative="")] = False,
) -> ExitCode:
    """Run one seed of a scenario: what was drawn, what came of it, and whether all promises were kept."""
    if scenario is None or listing:
        return _list(protocol)
    with explained():
        if seed < 0:
            usage(f"--seed {seed}: seeds are not negative")
        found = check_fit(scenario, protocol, service)
        plan = changed(planned(found, protocol, seed, service), settings)
        plan.check()
        if save is not None:
            save.write_text(plan.to_json() + "\n", encoding="utf-8")
        _tell_plan(plan)
        result = examine(found, plan)
        if story:
            _tell_story(plan)
        return tell_result(result, "" if settings else replay_line(scenario, protocol, seed, service), save)


def planned(scenario: Scenario, protocol: str, seed: int, service: str) -> Plan:
    """The plan of this seed. Raises `PlanError` if a scenario that does not ship fails to make it."""
    try:
        return scenario.plan(protocol, seed, service)
    except Exception as error:
        if isinstance(error, PlanError) or scenario.name in scenario_names():
            raise
        raise PlanError(f"{scenario.name}: plan(setting) fails: {raised(error)}") from error


def changed(plan: Plan, settings: Sequence[str]) -> Plan:
    """The plan with these parts (``name=value``, dots between names) set otherwise. Raises `PlanError`."""
    data: dict[str, Any] = plan_data(plan)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise PlanError(f"--set {setting}: write name=value, such as load.operations=50")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *path, last = name.split(".")
        place = data
        for step in path:
            inner: Any = place.setdefault(step, {})
            if not isinstance(inner, dict):
                raise PlanError(f"--set {setting}: {step} has no parts that can be set by name")
            place = cast("dict[str, Any]", inner)
        place[last] = value
    return plan_from_data(data)


# ------------------------------------------------------------------------------------------------ telling


def _list(protocol: str) -> ExitCode:
    out = output()
    with explained():
        record = load_protocol(protocol).record
        for name in scenario_names():
            found = load_scenario(name)
            lines = tuple(sorted(found.lines(record)))
            suits = found.suits(protocol)
            out.event("scenario", name=name, text=found.text, lines=lines, needs=found.needs, suits=suits)
            text = found.text if suits else f"{found.text} (not for {protocol})"
            numbers = f" [{', '.join(map(str, lines))}]" if lines else ""
            out.plain(f"{name:<26}{text}{numbers}")
        out.plain(
            "\nIn brackets: the lines of docs/FAULTS.md. One seed: bftkit simulate mixed --seed 7; "
            "many: bftkit sweep mixed"
        )
    return ExitCode.OK


def _tell_plan(plan: Plan) -> None:
    out, group, load, network = output(), plan.group, plan.load, plan.network
    out.event("plan", plan=plan_data(plan))
    out.plain(
        f"{plan.scenario}, {plan.protocol}, seed {plan.seed}: {counted(group.members, 'member')}, "
        f"f {group.f}, c {group.c}, for {plan.ticks:,} ms\n"
        f"{counted(load.clients, 'client')} {'asks' if load.clients == 1 else 'ask'} for "
        f"{counted(load.operations, 'operation')} in {counted(load.bursts, 'burst')}, "
        f"{load.pipeline} at a time\n"
        f"links: {network.delay_min} to {network.delay_max} ms, {network.loss:.0%} lost, "
        f"{network.duplication:.0%} doubled, {network.straggling:.0%} held up"
    )
    for fault in sorted(plan.faults, key=lambda one: one.at):
        out.plain(f"{fault.at:>7,} ms  {fault.tell()}")


def _tell_story(plan: Plan) -> None:
    from bftkit.sim.story import tell

    output().plain(f"\n{tell(plan)}\n")


def tell_result(result: Result, again: str, save: Path | None = None) -> ExitCode:
    """Figures and verdict of one run, and the line that repeats it."""
    out = output()
    figures: dict[str, Any] = {
        "scenario": result.plan.scenario,
        "protocol": result.plan.protocol,
        "seed": result.plan.seed,
        "oracle": result.oracle,
        "violation": result.violation,
        "operations": result.operations,
        "reads": result.reads,
        "view_changes": result.view_changes,
        "messages": result.messages,
        "ticks": result.ticks,
        "throughput": round(result.throughput, 1),
        "p50_ms": result.p50_ms,
        "p99_ms": result.p99_ms,
        "injected": {str(line): count for line, count in result.injected.items()},
        "digest": result.digest,
        "seconds": round(result.seconds, 3),
        "lies": result.lies,
        "report": result.report,
        "again": again,
    }
    happened = ", ".join(f"{line} ({count:,}×)" for line, count in result.injected.items())
    out.plain(
        f"{counted(result.operations, 'operation')} and {counted(result.reads, 'read')} answered, "
        f"{counted(result.view_changes, 'view change')}, "
        f"{counted(result.messages, 'message')}, {result.ticks:,} ms simulated in {result.seconds:.2f} s\n"
        f"half of the answers came within {result.p50_ms:.1f} ms, 99 % within {result.p99_ms:.1f} ms; "
        f"{result.throughput:,.1f} operations a second under load\n"
        f"lines of docs/FAULTS.md that happened: {happened or 'none'}\n"
        f"digest {result.digest}"
    )
    if result.ok:
        out.plain("every promise was kept")
    else:
        out.plain(f"\n{result.report or result.violation}\n\n{result.oracle}: {result.violation}")
        if again:
            out.plain(f"  {again} --shrink")
        elif save is not None:
            out.plain(f"  bftkit replay {save} --shrink")
    out.event("result", **figures)
    if result.kind == "safety":
        return ExitCode.SAFETY_VIOLATED
    return ExitCode.PROGRESS_MISSED if result.kind else ExitCode.OK


# ------------------------------------------------------------------------------------------------ usage


def usage(text: str) -> NoReturn:
    """What was asked for cannot be done, and nothing was begun."""
    raise CommandFailed(ExitCode.USAGE, text)


@contextmanager
def explained() -> Generator[None]:
    """Within, what the simulator refuses to run becomes a line about the usage."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # what lies beside where the command is run is found, as with `python -m`
    try:
        yield
    except (UnknownScenario, CampaignError, ResumeError, PlanError, BrokenProtocol, UnknownProtocol) as error:
        usage(str(error))
    except ServiceError as error:
        line, _, example = str(error).partition("\n\n")
        if example:
            output().log(example)
            line = f"{line.removesuffix(':')}, as shown above"
        usage(line)
