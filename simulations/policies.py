"""Policies under changing conditions: `steady` against each fixed protocol, over one trace, in the simulated world.

    python simulations/policies.py [--contest liars|crashes|reports] [--seeds 1..3] [--seconds 30] [--json] [--write]
    python simulations/policies.py --only NAME --json ...
    python simulations/policies.py --read FILE... [--write]

`--contest liars` (the default) is among protocols for one liar of four: `pbft`, `cks`, and `steady` with both.
`crashes` is among those for one crash of four: `coordinator`, `paxos`, `cks`, and `steady` with `paxos` and `cks`.
A run takes a minute of processor time. `--json` tells each run in a line, and `--read` takes such lines in place of
runs, so that runs can be made at different times. `--write` puts the table into docs/BENCHMARKS.md.

All contestants meet the same: four members with what work costs (`bftkit.sim.costs`), links that take 4 to 12 ms, and
phases of `--seconds` each:

- *calm*: nothing else;
- *slow leader*: frames with batches leave whoever leads 200 ms late, just below what gets a leader of PBFT deposed.
  Where nobody leads it is m0;
- *partitions and long delays*: delays reach 30 ms, and again and again whoever leads is cut off from the other members,
  for 2 s, and 0.5 s later whoever leads then; where nobody leads, one member after the other;
- *bursts*: four times in the phase five times as many clients ask, for an eighth of it.

Clients are closed loops, a population of six: each asks for its next operation (64 bytes, an empty service) soon after
the answer, at most 20 ms. So what is acknowledged follows both latency and capacity; with open loops below capacity all
contestants would acknowledge the same, and what they miss would stand in the latencies only. The price: latencies are
those of operations that were asked for, and a stall of a second is as many late operations as there are clients.

Told of each phase and of the whole: acknowledged operations (counted when they are acknowledged), the median and the
99th percentile of their latency, the share of the best fixed protocol's operations, and when the policy changed what,
and why. Of several seeds: the mean, and the least and the most.

`--contest reports`: the same trace under `steady`, with nobody lying, and with one member (m3) that reports extremes
of what it measures (to some the most that can be said, to others the least), or nothing but zeros. Lower medians lie
between honest extremes, so the policy decides the same for the same reasons, at about the same times. (Not at the very
same ones: a member that lies also frames its reports otherwise, and the worlds diverge by chance.)

The aims, and the exit code (0 if they are met, 1 if not): with every seed, in every phase 0.9 of the best fixed
protocol's operations, and over the whole more than any of them. Of `reports`: the first change of each phase leads to
the same protocol in all runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from time import process_time
from typing import Any, Final

import attrs

from bftkit.channel.frames import PROTOCOL
from bftkit.channel.interface import ReplicaSettings
from bftkit.configuration.policy import Measurement, Mode, Policy
from bftkit.core.machine import MemberId
from bftkit.sim.adversaries.honest import Honest
from bftkit.sim.adversaries.policies import FalseReports
from bftkit.sim.costs import Costs
from bftkit.sim.links import START_MS, Handle, Network, Slow
from bftkit.sim.workloads import NULL, Closed, EmptyLoad, application_of
from bftkit.sim.world import World

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "BENCHMARKS.md"
BEGIN: Final = "<!-- {0}: begin, written by simulations/policies.py -->\n"
END: Final = "<!-- {0}: end -->\n"

CLIENTS: Final = 6
GUESTS: Final = 24
"""More clients in a burst."""
BYTES: Final = 64
RHYTHM: Final = Closed(pipeline=1, think=20, together=0.0)
FOR_EVER: Final = 1 << 40
USUAL: Final = Network(delay_min=4, delay_max=12)
LONG: Final = Network(delay_min=4, delay_max=30)
LATE_MS: Final = 200
CUT_MS: Final = 2000
REST_MS: Final = 500
BURSTS: Final = 4
STALL_MS: Final = 3000
SHARE: Final = 0.9
"""The aim for every phase."""

CALM: Final = "calm"
SLOW: Final = "slow leader"
CUTS: Final = "partitions and long delays"
LOAD: Final = "bursts"
TRACE: Final = (CALM, SLOW, CALM, CUTS, CALM, LOAD, CALM)


# ------------------------------------------------------------------------------------------------ the trace


def leader_of(world: World) -> MemberId | None:
    """Whom most members follow; None if nobody leads."""
    votes: dict[MemberId, int] = {}
    for member in world.correct:
        leader = world.replica(member).machine.leader
        if leader is not None:
            votes[leader] = votes.get(leader, 0) + 1
    return max(sorted(votes), key=lambda name: votes[name], default=None)


def slow_leader(world: World) -> Callable[[], None]:
    """From now on whoever leads is slow. Returns what ends it."""

    def applies(member: MemberId, frame: bytes) -> bool:
        if frame[0] != PROTOCOL or frame[9:10] == b"\0":
            return False
        return member == (world.members[0] if not world.is_led else world.replica(member).machine.leader)

    slowed = [world.links.slow_down(Slow(member, LATE_MS, partial(applies, member))) for member in world.members]
    return partial(_end, slowed)


def _end(handles: Sequence[Handle]) -> None:
    for handle in handles:
        handle.end()


def cuts(world: World) -> Callable[[], None]:
    """From now on delays are long, and leaders are cut off, one after the other. Returns what ends it."""
    weather = world.weather(LONG)
    cut: list[Handle] = []
    over = False

    def go_on() -> None:
        if over:
            return
        who = leader_of(world) or world.members[len(cut) % len(world.members)]
        cut.append(world.partition((who,), tuple(member for member in world.members if member != who)))
        world.after(CUT_MS, cut[-1].end)
        world.after(CUT_MS + REST_MS, go_on)

    def end() -> None:
        nonlocal over
        over = True
        weather.end()
        _end(cut)

    go_on()
    return end


def bursts(world: World, ticks: int) -> Callable[[], None]:
    """More clients ask, again and again."""

    def come() -> None:
        for actor in guests:
            actor.ask_for(FOR_EVER, EmptyLoad(actor.name, BYTES), RHYTHM)

    def go() -> None:
        for actor in guests:
            actor.rest()

    guests = list(world.actors.values())[CLIENTS:]
    for number in range(BURSTS):
        world.after(1 + ticks * number // BURSTS, come)
        world.after(1 + ticks * (2 * number + 1) // (2 * BURSTS), go)
    return go


def begin(world: World, phase: str, ticks: int) -> Callable[[], None]:
    """Let the phase begin. Returns what ends it."""
    if phase == SLOW:
        return slow_leader(world)
    if phase == CUTS:
        return cuts(world)
    if phase == LOAD:
        return bursts(world, ticks)
    return lambda: None


# ------------------------------------------------------------------------------------------------ who runs


class Zeros(FalseReports):
    """Reports that nothing ever happened."""

    def _report(self, counter: int, measurement: Measurement) -> bytes:
        return super()._report(counter, Measurement())


@attrs.frozen
class Contestant:
    """A protocol, or a policy that begins with it."""

    name: str
    protocol: str
    f: int = 1
    c: int = 0
    policy: Policy | None = None
    liar: Callable[[ReplicaSettings], Honest] | None = None
    """What m3 is."""


def steady(fast: str, parameters: Mapping[str, int] | None = None) -> Policy:
    """The policy as the configuration manager would give it: all else is at its defaults."""
    return Policy("steady", (Mode(fast), Mode("cks")), forced=2, stall_ms=STALL_MS, parameters=dict(parameters or {}))


def contestants(contest: str, parameters: Mapping[str, int] | None = None) -> list[Contestant]:
    """The fixed ones, and last the policy; or the policy with nobody lying, and with liars."""
    if contest == "reports":
        policy = steady("pbft", parameters)
        return [
            Contestant("honest", "pbft", policy=policy),
            Contestant("extremes", "pbft", policy=policy, liar=FalseReports),
            Contestant("zeros", "pbft", policy=policy, liar=Zeros),
        ]
    if contest == "liars":
        fixed = [Contestant(name, name) for name in ("pbft", "cks")]
        return [*fixed, Contestant("steady", "pbft", policy=steady("pbft", parameters))]
    fixed = [Contestant(name, name, 0, 1) for name in ("coordinator", "paxos", "cks")]
    return [*fixed, Contestant("steady", "paxos", 0, 1, steady("paxos", parameters))]


@attrs.frozen
class Phase:
    """What came of a phase, or of the whole."""

    name: str
    operations: int
    p50_ms: float
    p99_ms: float


@attrs.frozen
class Decided:
    """A change of protocol by the policy."""

    at_s: float
    """When it was decided, in seconds from the start."""
    began_s: float
    """When the first member was in the next epoch; if none was, the end of the run."""
    before: str
    after: str
    reason: str
    forced: bool


@attrs.frozen
class Outcome:
    """What came of a run."""

    contestant: str
    seed: int
    phases: tuple[Phase, ...]
    whole: Phase
    decisions: tuple[Decided, ...]
    seconds: float
    """Simulated ones."""
    cpu_s: float
    digest: str
    contest: str = ""


def run(
    contestant: Contestant, seed: int, ticks: int, interval: int, trace: Sequence[str] = TRACE, *, contest: str = ""
) -> Outcome:
    """One contestant through the whole trace; all checkers look on. Raises `Violation`."""
    began = process_time()
    world = World(
        seed,
        contestant.protocol,
        4,
        contestant.f,
        contestant.c,
        clients=CLIENTS + GUESTS,
        network=USUAL,
        interval=interval,
        window=2 * interval,
        application=application_of(NULL),
        costs=Costs.measured(),
        reconfigurable=True,
        policy=contestant.policy,
        adversaries={"m3": contestant.liar} if contestant.liar is not None else None,
        rerun="python simulations/policies.py",
    )
    entered: list[int] = []
    world.chain.listeners.append(lambda era: entered.append(world.now))
    for actor in list(world.actors.values())[:CLIENTS]:
        actor.ask_for(FOR_EVER, EmptyLoad(actor.name, BYTES), RHYTHM)
    phases: list[Phase] = []
    for phase in trace:
        before = len(world.latencies)
        end = begin(world, phase, ticks)
        world.run(ticks)
        end()
        phases.append(_phase(phase, [one.us for one in world.latencies[before:]]))
    whole = _phase("the whole", [one.us for one in world.latencies])
    decisions = _decisions(world, entered)
    for actor in world.actors.values():
        actor.rest()
    world.finish()
    return Outcome(
        contestant.name,
        seed,
        tuple(phases),
        whole,
        tuple(decisions),
        len(trace) * ticks / 1000,
        process_time() - began,
        world.fingerprint,
        contest,
    )


def _phase(name: str, latencies: list[int]) -> Phase:
    latencies.sort()

    def quantile(percent: int) -> float:
        return latencies[min(len(latencies) - 1, len(latencies) * percent // 100)] / 1000 if latencies else 0.0

    return Phase(name, len(latencies), quantile(50), quantile(99))


def _decisions(world: World, entered: Sequence[int]) -> Iterator[Decided]:
    told: dict[str, Any] | None = world.replica(world.members[0]).status()["policy"]
    for one in told["decisions"] if told is not None else ():
        epoch = int(one["epoch"])
        began = entered[epoch] / 1000 if epoch < len(entered) else world.now / 1000
        at = (one["time_ms"] - START_MS) / 1000
        yield Decided(at, began, one["from"], one["to"], one["reason"], one["forced"])


# ------------------------------------------------------------------------------------------------ telling


def outcome_of(line: str) -> Outcome:
    """A run from what `--json` said of it. Raises ValueError for anything else."""
    told: dict[str, Any] = json.loads(line)
    try:
        told["phases"] = tuple(Phase(**phase) for phase in told["phases"])
        told["whole"] = Phase(**told["whole"])
        told["decisions"] = tuple(Decided(**one) for one in told["decisions"])
        return Outcome(**told)
    except (KeyError, TypeError) as error:
        raise ValueError(f"this line tells of no run: {error}") from None


def parts_of(outcome: Outcome) -> tuple[Phase, ...]:
    """The phases and, last, the whole."""
    return (*outcome.phases, outcome.whole)


def ratios(outcomes: Sequence[Outcome], seed: int) -> list[float]:
    """Of each phase and the whole: the policy's operations by those of the best fixed protocol, with this seed."""
    mine = [one for one in outcomes if one.seed == seed]
    fixed = [parts_of(one) for one in mine if one.contestant != "steady"]
    (policy,) = (parts_of(one) for one in mine if one.contestant == "steady")
    return [
        part.operations / max(1, max(other[index].operations for other in fixed)) for index, part in enumerate(policy)
    ]


def complete(outcomes: Sequence[Outcome]) -> list[int]:
    """The seeds with which everybody ran."""
    names = {one.contestant for one in outcomes}
    seeds = sorted({one.seed for one in outcomes})
    return [seed for seed in seeds if {one.contestant for one in outcomes if one.seed == seed} == names]


def is_met(outcomes: Sequence[Outcome]) -> bool:
    """Whether the aims are met."""
    if outcomes[0].contest == "reports":
        return len({(one.seed, first) for one in outcomes for first in [firsts(one)]}) == len(complete(outcomes))
    found = [ratios(outcomes, seed) for seed in complete(outcomes)]
    return all(min(one[:-1]) >= SHARE and one[-1] > 1 for one in found)


def firsts(outcome: Outcome) -> tuple[tuple[int, str], ...]:
    """To which protocol the first change of each phase led, for the phases with changes."""
    length = max(1, round(outcome.seconds / len(outcome.phases)))
    found: dict[int, str] = {}
    for one in outcome.decisions:
        found.setdefault(int(one.at_s) // length, one.after)
    return tuple(found.items())


def table(outcomes: Sequence[Outcome], *, brief: bool = False) -> str:
    """What came of it, to be read. In `brief`, changes are told of the first seed only."""
    names = list(dict.fromkeys(one.contestant for one in outcomes))
    seeds = complete(outcomes)
    outcomes = [one for one in outcomes if one.seed in seeds]
    contest = outcomes[0].contest
    head = ["phase", *(f"{name}: operations, p50 / p99 ms" for name in names)]
    if contest != "reports":
        head.append("steady / best fixed (least)")
    lines = [head, ["---"] * len(head)]
    shares = [ratios(outcomes, seed) for seed in seeds] if contest != "reports" else []
    for index, part in enumerate(parts_of(outcomes[0])):
        cells = [part.name]
        for name in names:
            cells.append(_cell([parts_of(one)[index] for one in outcomes if one.contestant == name]))
        if shares:
            column = [share[index] for share in shares]
            cells.append(f"**{mean(column):.2f}** ({min(column):.2f})")
        lines.append(cells)
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{_changes([one for one in outcomes if not brief or one.seed == seeds[0]])}"


def _cell(parts: Sequence[Phase]) -> str:
    counts = [part.operations for part in parts]
    spread = f" ({min(counts):,}–{max(counts):,})" if len(counts) > 1 else ""
    p50, p99 = mean(part.p50_ms for part in parts), mean(part.p99_ms for part in parts)
    return f"{mean(counts):,.0f}{spread}, {p50:.0f} / {p99:,.0f}"


def _changes(outcomes: Sequence[Outcome]) -> str:
    lines: list[str] = []
    for outcome in outcomes:
        if not outcome.decisions:
            continue
        lines.append(f"Changes of `{outcome.contestant}` with seed {outcome.seed} (seconds; decided, then in force):\n")
        for one in outcome.decisions:
            how = " by force" if one.forced else ""
            when = f"{one.at_s:.1f}, {one.began_s:.1f}"
            lines.append(f"- {when}: {one.before} → {one.after}{how}: {one.reason}")
        lines.append("")
    return "\n".join(lines).rstrip("\n")


def write(contest: str, text: str, page: Path = PAGE) -> None:
    """Put the table between its marks. Raises ValueError if the page has none."""
    begin_mark, end_mark = BEGIN.format(f"policies {contest}"), END.format(f"policies {contest}")
    before, found, rest = page.read_text(encoding="utf-8").partition(begin_mark)
    _, ended, after = rest.partition(end_mark)
    if not found or not ended:
        raise ValueError(f"{page.name} has no place for it: {begin_mark.strip()}")
    page.write_text(f"{before}{begin_mark}\n{text}\n\n{end_mark}{after}", encoding="utf-8")


# ------------------------------------------------------------------------------------------------ command


def seeds_of(text: str) -> list[int]:
    """``3`` or ``1..5``."""
    first, dots, last = text.partition("..")
    return list(range(int(first), int(last if dots else first) + 1))


def trace_of(text: str) -> tuple[str, ...]:
    """The phases of these names. Raises ArgumentTypeError for a name that no phase has."""
    names = tuple(part.strip() for part in text.split(","))
    if strangers := [name for name in names if name not in TRACE]:
        raise argparse.ArgumentTypeError(
            f"{', '.join(strangers)}: no phase; phases are {', '.join(dict.fromkeys(TRACE))}"
        )
    return names


def parameter(text: str) -> tuple[str, int]:
    """``name=number``."""
    name, _, number = text.partition("=")
    return name, int(number)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contest", choices=("liars", "crashes", "reports"), default="liars")
    parser.add_argument("--seeds", type=seeds_of, default=[1, 2, 3])
    parser.add_argument("--seconds", type=int, default=30, help="how long each phase is")
    parser.add_argument("--trace", type=trace_of, default=TRACE, help="phases with commas between them")
    parser.add_argument("--interval", type=int, default=32, help="slots from one checkpoint to the next")
    parser.add_argument("--only", help="one contestant, to be told with --json")
    parser.add_argument("--set", type=parameter, action="append", default=[], help="a parameter of the policy")
    parser.add_argument("--read", type=Path, nargs="+", help="files with lines of --json, in place of runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    if options.read:
        for path in options.read:
            outcomes += [outcome_of(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    else:
        for seed in options.seeds:
            for contestant in contestants(options.contest, dict(options.set)):
                if options.only in (None, contestant.name):
                    ticks, interval, trace = 1000 * options.seconds, options.interval, options.trace
                    outcome = run(contestant, seed, ticks, interval, trace, contest=options.contest)
                    outcomes.append(outcome)
                    print(f"{contestant.name}, seed {seed}: {outcome.cpu_s:.0f} s", file=sys.stderr)
    if options.json:
        print("\n".join(json.dumps(attrs.asdict(outcome)) for outcome in outcomes))
    if options.only is not None:
        return 0
    if not options.json:
        print(table(outcomes))
    if options.write:
        write(outcomes[0].contest, table(outcomes, brief=True))
    return 0 if is_met(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
