"""Campaigns: one scenario under many seeds, on all cores, and what to make of the outcomes.

    campaign = sweep("mixed", "pbft", range(10_000), on_result=show)
    assert not campaign.failing, campaign.failing[0].report

Every seed that was asked for is run and counted; a seed that kills its process or never ends is a failing seed and not
a missing one. The figures do not depend on the number of workers, nor on the order in which they end: `trace_digest`
is made of the runs' own digests in the order of the seeds.

A campaign also fails when it did not do what it claims: each line of docs/FAULTS.md that the scenario names must have
happened, and in two seeds of a hundred at least; and a scenario may demand a number of operations in every seed
(`OPERATIONS_MIN`), since a group that does nothing does nothing wrong.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import attrs

from bftkit.core.plugin import load_protocol
from bftkit.sim.crew import Crew, Lost, TooLong, cores, limited
from bftkit.sim.examining import (
    CampaignError,
    ProtocolLike,
    ServiceLike,
    check_fit,
    examined,
    protocol_name,
    service_name,
)
from bftkit.sim.outcomes import NO_PLAN, Header, Outcome, ResultsFile, ResumeError, code_identity, outcome_of
from bftkit.sim.plan import KEY_VALUE, PlanError
from bftkit.sim.scenarios import load_scenario, raised
from bftkit.sim.wording import counted

__all__ = [
    "Campaign",
    "CampaignError",
    "Outcome",
    "ResumeError",
    "seeds_in",
    "sweep",
]

SECONDS_PER_SEED: Final = 60.0
RARE_SHARE: Final = 0.02
"""A line that happens in a smaller share of the seeds is too rare, in a campaign of `RARE_FROM` seeds or more."""
RARE_FROM: Final = 100
NEVER_FROM: Final = 20
"""With so many seeds, a line must have happened in one of them at least, in a scenario of a few lines."""
FEW_LINES: Final = 5
SEEDS_MAX: Final = 100_000_000


# ------------------------------------------------------------------------------------------------ one seed


@attrs.frozen(kw_only=True)
class _Task:
    scenario: str
    protocol: str
    service: str
    seed: int
    seconds: float


def _run_seed(task: _Task) -> Outcome:
    try:
        with limited(task.seconds):
            scenario = load_scenario(task.scenario)
            try:
                plan = scenario.plan(task.protocol, task.seed, task.service)
                plan.check()
            except Exception as error:
                return _unplanned(task, error)
            return outcome_of(*examined(scenario, plan))
    except TooLong as error:
        return Outcome(seed=task.seed, oracle="progress", violation=f"the run did not end within {error}")
    except Exception as error:
        return _raised(task, error)


def _unplanned(task: _Task, error: Exception) -> Outcome:
    what = str(error) if isinstance(error, PlanError) else raised(error)
    report = "".join(traceback.format_exception(error))
    return Outcome(seed=task.seed, oracle=NO_PLAN, violation=f"{task.scenario} makes no plan: {what}", report=report)


def _raised(task: _Task, error: BaseException) -> Outcome:
    if isinstance(error, Lost):
        return Outcome(seed=task.seed, oracle="exception", violation=str(error))
    text = " ".join(f"{type(error).__name__}: {error}".split())
    report = "".join(traceback.format_exception(error))
    return Outcome(seed=task.seed, oracle="exception", violation=f"unhandled {text}", report=report)


# ------------------------------------------------------------------------------------------------ many seeds


@attrs.frozen(kw_only=True)
class Campaign:
    """What came of many seeds."""

    scenario: str
    protocol: str
    service: str
    outcomes: tuple[Outcome, ...]
    """In the order of their seeds."""
    lines: tuple[int, ...] = ()
    """The lines of docs/FAULTS.md that the scenario claims to inject."""
    operations_min: int = 0
    """So many operations must be acknowledged in every seed."""
    requested: int = 0
    """So many seeds were asked for; there are fewer outcomes only if the campaign was told to stop."""
    seconds: float = attrs.field(default=0.0, eq=False)
    """How long it took, by the wall's clock; without what a file of earlier results had."""

    @cached_property
    def failing(self) -> tuple[Outcome, ...]:
        """The seeds in which some checker was not content."""
        return tuple(outcome for outcome in self.outcomes if not outcome.ok)

    @cached_property
    def injected(self) -> Mapping[int, int]:
        """For each line of docs/FAULTS.md in how many *seeds* it really happened, those that were claimed included."""
        counts = dict.fromkeys(self.lines, 0)
        for outcome in self.outcomes:
            for line, times in outcome.injected.items():
                counts[line] = counts.get(line, 0) + (times > 0)
        return {line: counts[line] for line in sorted(counts)}

    @cached_property
    def too_rare(self) -> tuple[int, ...]:
        """The claimed lines that happened in too few seeds for this campaign to say anything of them."""
        seeds = len(self.outcomes)
        if seeds < (NEVER_FROM if len(self.lines) <= FEW_LINES else RARE_FROM):
            return ()  # where many faults are drawn, each is missing in some small campaign
        least = RARE_SHARE * seeds if seeds >= RARE_FROM else 1
        return tuple(sorted(line for line in self.lines if self.injected[line] < least))

    @cached_property
    def too_idle(self) -> tuple[Outcome, ...]:
        """The seeds that were well, and in which too little was done."""
        return tuple(one for one in self.outcomes if one.ok and one.operations < self.operations_min)

    @property
    def complaints(self) -> tuple[str, ...]:
        """Why the campaign says less than it claims to, although no checker found anything; empty: it does not."""
        seeds = len(self.outcomes)
        least = max(1, -(-seeds * 2 // 100)) if seeds >= RARE_FROM else 1
        told = [
            f"line {line} of docs/FAULTS.md happened in {self.injected[line]} of {counted(seeds, 'seed')}; "
            f"{self.scenario} claims it, so it must in {least} or more"
            for line in self.too_rare
        ]
        if self.too_idle:
            idlest = min(self.too_idle, key=lambda one: one.operations)
            told.append(
                f"{len(self.too_idle)} of {counted(seeds, 'seed')} acknowledged fewer than {self.operations_min} "
                f"operations; "
                f"seed {idlest.seed} the fewest, {idlest.operations}"
            )
        return tuple(told)

    @property
    def kind(self) -> str:
        """The worst of the outcomes: ``safety``, ``progress``, ``plan`` (see `Outcome.kind`); empty: none failed."""
        kinds = {outcome.kind for outcome in self.failing}
        return next((kind for kind in ("safety", "progress", NO_PLAN) if kind in kinds), "")

    @cached_property
    def unplanned(self) -> tuple[Outcome, ...]:
        """The failing seeds that were not run, since the scenario made no plan for them."""
        return tuple(outcome for outcome in self.failing if outcome.oracle == NO_PLAN)

    @property
    def ok(self) -> bool:
        """Whether no seed failed, and the campaign did what it claims."""
        return not self.failing and not self.complaints

    @cached_property
    def trace_digest(self) -> str:
        """Of every input, effect, packet and disk operation of all seeds: blake2b-256 over seed and digest of each."""
        made = blake2b(digest_size=32)
        for outcome in self.outcomes:
            made.update(f"{outcome.seed} {outcome.digest}\n".encode())
        return made.hexdigest()

    @property
    def messages_per_second(self) -> float:
        """Simulated messages a second of CPU time, which is: on one core."""
        cpu = sum(outcome.seconds for outcome in self.outcomes)
        return round(sum(outcome.messages for outcome in self.outcomes) / cpu, 1) if cpu else 0.0

    def figures(self) -> dict[str, Any]:
        """All of it as plain data, in the shape of the result of ``bftkit sweep --json``."""
        slowest = max(self.outcomes, key=lambda one: one.seconds, default=None)
        measured = [one.figure for one in self.outcomes if one.figure is not None]
        figures: dict[str, Any] = {
            "scenario": self.scenario,
            "protocol": self.protocol,
            "seeds": len(self.outcomes),
            "violations": len(self.failing) - len(self.unplanned),
            "failing": [outcome.seed for outcome in self.failing if outcome.oracle != NO_PLAN],
            "operations": sum(outcome.operations for outcome in self.outcomes),
            "view_changes": sum(outcome.view_changes for outcome in self.outcomes),
            "injected": {str(line): count for line, count in self.injected.items()},
            "messages_per_second": self.messages_per_second,
            "trace_digest": self.trace_digest,
            "service": self.service,
            "requested": self.requested,
            "complaints": list(self.complaints),
            "unplanned": [outcome.seed for outcome in self.unplanned],
            "operations_least": min((one.operations for one in self.outcomes if one.ok), default=0),
            "cpu_seconds": round(sum(one.seconds for one in self.outcomes), 2),
            "cpu_seconds_most": round(slowest.seconds, 3) if slowest is not None else 0.0,
            "slowest": slowest.seed if slowest is not None else None,
            "seconds": round(self.seconds, 2),
        }
        if measured:
            figures["figure"] = {"least": min(measured), "median": median(measured), "most": max(measured)}
        return figures


def sweep(
    scenario: str,
    protocol: ProtocolLike = "pbft",
    seeds: Iterable[int] = range(100),
    *,
    service: ServiceLike = KEY_VALUE,
    executor: Executor | None = None,
    jobs: int | None = None,
    resume: Path | None = None,
    on_result: Callable[[Outcome], None] | None = None,
    seconds_per_seed: float = SECONDS_PER_SEED,
    stop_at: int = 0,
) -> Campaign:
    """Run the scenario under each of these seeds.

    `executor`: any of `concurrent.futures`, to be closed by whoever made it; by default, `jobs` processes of our own
    (as many as there are cores). `resume` names a file: the outcomes that it has are taken from there, and new ones
    go into it. `on_result` is called in this process with each new outcome, in the order in which the seeds end, and
    with those of the file first. A seed that takes more than `seconds_per_seed` of CPU time (ten times as much by the
    wall's clock) fails with the oracle ``progress``, one whose process dies with ``exception``. `stop_at`: no new seed
    is begun once so many have failed; 0: all are run.

    Raises `UnknownScenario`, `UnknownProtocol`, `ServiceError`, `ResumeError` and `CampaignError`.
    """
    wanted = sorted(set(seeds))
    protocol, service = protocol_name(protocol), service_name(service)
    found = check_fit(scenario, protocol, service)
    if not wanted:
        raise CampaignError("no seeds")
    if wanted[0] < 0:
        raise CampaignError(f"seeds are not negative, and {wanted[0]} is")
    if jobs is not None and jobs < 1:
        raise CampaignError(f"at least one job, not {jobs}")
    if seconds_per_seed <= 0:
        raise CampaignError(f"a seed needs some time, not {seconds_per_seed:g} s")
    began = perf_counter()
    outcomes: dict[int, Outcome] = {}
    failed = 0

    def take(outcome: Outcome) -> None:
        nonlocal failed
        outcomes[outcome.seed] = outcome
        failed += not outcome.ok
        if on_result is not None:
            on_result(outcome)

    results: ResultsFile | None = None
    if resume is not None:
        modules = (found.make.__module__ if not scenario.endswith(".py") else scenario, service.partition(":")[0])
        code = code_identity(protocol, *modules)
        results = ResultsFile(resume, Header(scenario=scenario, protocol=protocol, service=service, code=code))
    try:
        for seed in wanted if results is not None else ():
            if results is not None and seed in results.outcomes:
                take(results.outcomes[seed])

        def done(task: _Task, end: Outcome | BaseException) -> None:
            outcome = end if isinstance(end, Outcome) else _raised(task, end)
            if results is not None:
                results.add(outcome)
            take(outcome)

        tasks = (
            _Task(scenario=scenario, protocol=protocol, service=service, seed=seed, seconds=seconds_per_seed)
            for seed in wanted
            if seed not in outcomes
        )
        crew = Crew(_run_seed, jobs if jobs is not None else cores(), executor)
        crew.do(tuple(tasks), done, lambda: bool(stop_at) and failed >= stop_at)
    finally:
        if results is not None:
            results.close()
    return Campaign(
        scenario=scenario,
        protocol=protocol,
        service=service,
        outcomes=tuple(outcomes[seed] for seed in sorted(outcomes)),
        lines=tuple(sorted(found.lines(load_protocol(protocol).record))),
        operations_min=found.operations_min,
        requested=len(wanted),
        seconds=perf_counter() - began,
    )


def seeds_in(text: str) -> tuple[int, ...]:
    """The seeds that ``7``, ``0..99`` (both ends included) or ``0..9,20..29`` mean. Raises `CampaignError`."""
    seeds: set[int] = set()
    for part in text.split(","):
        first, dots, last = (piece.strip() for piece in part.partition(".."))
        last = last if dots else first
        if not (first.isdecimal() and last.isdecimal()):
            raise CampaignError(f"{part.strip()!r} are no seeds; write 7, 0..99 or 0..9,20..29")
        if int(first) > int(last):
            raise CampaignError(f"{part.strip()!r} are no seeds: {first} is more than {last}")
        if int(last) - int(first) >= SEEDS_MAX:
            raise CampaignError(f"{part.strip()!r} are too many seeds; at most {SEEDS_MAX:,} at a time")
        seeds.update(range(int(first), int(last) + 1))
    return tuple(sorted(seeds))
