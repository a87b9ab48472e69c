"""Make a failing plan smaller: fewer faults, members, clients, operations, less time; as long as it still fails.

Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002) over the faults, and
then one small step after the other over everything else that a plan says, again and again until nothing more can be
taken away. A step is kept if the run that it leaves fails in the same way: the same oracle, and for an exception the
same kind of exception. So what comes out is always a plan that was seen to fail.

Most failures need some luck besides: the frame that is late, the sync that a crash cuts in two. A plan with one fault
less is another run, in which the luck is another, too. So when no fault and no member can be taken away under one seed,
those steps are tried under some neighbouring seeds before they are given up.

    shrunk = shrink(plan, budget_runs=300)
    print(shrunk.plan.to_json(), shrunk.result.violation)

The same plan and the same budget of runs give the same minimal plan. (A budget of seconds ends it wherever it is.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final

import attrs

from bftkit.sim import reductions
from bftkit.sim.host import Host
from bftkit.sim.plan import Plan, PlanError
from bftkit.sim.running import Result, run_world
from bftkit.sim.world import World

BUDGET_SECONDS: Final = 120.0
BUDGET_RUNS: Final = 600
PATIENCE: Final = (1, 4, 16)
"""Under so many seeds the steps that matter most are tried; the next number when the one before leads nowhere."""
LONGER: Final = 4
"""A run that takes more than so many times the work of the smallest that fails is given up, as one that holds."""
ROUNDS_LEAST: Final = 500
"""But not before so many rounds of all members together."""


class NothingToShrink(ValueError):
    """The plan does not fail when it is run. The text says so in one line."""


@attrs.frozen
class Trial:
    """How far a reduction is; for whoever waits for it."""

    tried: int
    """Runs so far."""
    plan: Plan
    """The smallest plan so far that fails."""
    step: str
    """What is being tried, in words."""


@attrs.frozen
class Shrunk:
    """What a plan was reduced to."""

    plan: Plan
    result: Result
    """Of a run of `plan`: it fails."""
    tried: int
    """How many runs it took."""
    steps: tuple[str, ...]
    """What was taken away, in order, in words."""
    finished: bool
    """Whether nothing more can be taken away; False: the budget was spent."""


def shrink(
    plan: Plan,
    *,
    budget_seconds: float = BUDGET_SECONDS,
    budget_runs: int = BUDGET_RUNS,
    any_oracle: bool = False,
    runner: Callable[[Plan], Result] | None = None,
    progress: Callable[[Trial], None] | None = None,
) -> Shrunk:
    """The smallest plan that still fails as this one does, as far as the budget goes.

    With `any_oracle` a plan counts whatever fails in it. `runner` runs a plan in the place of
    `bftkit.sim.running.run`, for scenarios that judge figures and the like. Raises `NothingToShrink` if the plan does
    not fail; `PlanError` if it cannot be run.
    """
    return _Shrinking(budget_seconds, budget_runs, any_oracle, runner, progress).shrink(plan)


def failure(result: Result) -> str:
    """In which way a run failed: the oracle, and which exception if it was one. Empty if it did not."""
    if result.oracle != "exception":
        return result.oracle
    # "unhandled KeyError: 7" and "m1 cannot start: KeyError: 7".
    words = result.violation.replace(":", " ").split()
    kinds = [word for word in words if word.endswith(("Error", "Exception")) and word[:1].isupper()]
    return f"exception {kinds[0] if kinds else ''}"


class _Spent(Exception):
    """The budget."""


class _TooLong(BaseException):
    """A run. No `Exception`, since a world takes those for findings."""


def _hurried(rounds: int) -> type[World]:
    class Hurried(World):
        def check_step(self, host: Host) -> None:
            super().check_step(host)
            if self.counters.rounds > rounds:
                raise _TooLong

    return Hurried


class _Shrinking:
    def __init__(
        self,
        budget_seconds: float,
        budget_runs: int,
        any_oracle: bool,
        runner: Callable[[Plan], Result] | None,
        progress: Callable[[Trial], None] | None,
    ) -> None:
        self._end = monotonic() + budget_seconds
        self._runs = budget_runs
        self._any = any_oracle
        self._runner = runner or self._run
        self._rounds = 0
        self._progress = progress
        self._tried = 0
        self._known: set[str] = set()
        """Plans that were run, as text: none is run twice."""
        self._steps: list[str] = []
        self._wanted = ""
        self._plan: Plan
        self._result: Result
        self._seeds = 1

    def shrink(self, plan: Plan) -> Shrunk:
        # Run once more in any case: what is shrunk must be seen to fail here.
        result = self._runner(plan)
        self._tried += 1
        self._wanted = failure(result)
        if not self._wanted:
            raise NothingToShrink(f"seed {plan.seed} of {plan.scenario} with {plan.protocol} violates nothing")
        self._plan, self._result = plan, result
        self._known.add(plan.to_json())
        finished = True
        try:
            self._reduce()
        except _Spent:
            finished = False
        return Shrunk(self._plan, self._result, self._tried, tuple(self._steps), finished)

    def _run(self, plan: Plan) -> Result:
        """As `run`, but not for ever: what takes much longer than the failing run is of no use here."""
        try:
            result, world = run_world(plan, kind=_hurried(self._rounds or 1 << 60))
        except _TooLong:
            return Result(plan=plan, digest="")
        if not result.ok:
            rounds = max(ROUNDS_LEAST, LONGER * world.counters.rounds)
            self._rounds = min(self._rounds or rounds, rounds)
        return result

    def _reduce(self) -> None:
        self._after_the_end()
        # Every run costs what its load costs: the less of it, the more can be tried.
        self._repeat(reductions.operations)
        for seeds in PATIENCE:
            smaller = True
            while smaller:
                # What goes wrong and who takes part, with patience: what is gone needs no finer detail.
                self._seeds = seeds
                while self._without_faults() or self._repeat(reductions.members):
                    pass
                self._seeds = 1
                smaller = False
                for reduction in reductions.DETAILS:
                    smaller = self._repeat(reduction) or smaller

    def _repeat(self, reduction: reductions.Reduction) -> bool:
        """Make it smaller in this way, as often as it goes. Whether it did."""
        smaller = False
        while self._first(reduction(self._plan)):
            smaller = True
        return smaller

    def _after_the_end(self) -> None:
        """What would have come after the violation is of no interest, and makes every other run long."""
        plan, end = self._plan, self._result.ticks
        if end >= plan.ticks:
            return
        early = tuple(fault for fault in plan.faults if fault.at <= end)
        if len(early) < len(plan.faults):
            self._try("faults after the violation", attrs.evolve(plan, faults=early))
        for ticks in (end + 1, end + 200):
            if ticks < self._plan.ticks and self._try(
                f"{self._plan.ticks} → {ticks} ms", attrs.evolve(self._plan, ticks=ticks)
            ):
                return

    def _without_faults(self) -> bool:
        """Take away half of the faults, then a quarter, and so on: at each size wherever it works."""
        smaller = False
        size = len(self._plan.faults)
        while size:
            at = 0
            while at < len(self._plan.faults):
                faults = self._plan.faults
                gone, rest = faults[at : at + size], (*faults[:at], *faults[at + size :])
                words = "no " + "; no ".join(fault.tell() for fault in gone)
                if self._try(words, attrs.evolve(self._plan, faults=rest)):
                    smaller = True
                else:
                    at += size
            size = min(size // 2, max(1, len(self._plan.faults))) if size > 1 else 0
        return smaller

    def _first(self, candidates: Iterable[tuple[str, Plan]]) -> bool:
        """Keep the first that fails."""
        return any(self._try(words, plan) for words, plan in candidates)

    def _try(self, words: str, plan: Plan) -> bool:
        """Whether this smaller plan fails as well; then it is kept."""
        try:
            plan.check()
        except PlanError:
            return False
        for offset in range(self._seeds):
            candidate = attrs.evolve(plan, seed=plan.seed + offset)
            text = candidate.to_json()
            if text in self._known:
                continue
            if self._tried >= self._runs or monotonic() > self._end:
                raise _Spent
            self._known.add(text)
            if self._progress is not None:
                self._progress(Trial(self._tried, self._plan, words))
            self._tried += 1
            result = self._runner(candidate)
            found = failure(result)
            if found and (self._any or found == self._wanted):
                self._plan, self._result = candidate, result
                self._steps.append(words if not offset else f"{words} (seed {candidate.seed})")
                return True
        return False
