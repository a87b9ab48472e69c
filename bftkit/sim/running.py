"""Run a plan from its beginning to its end, and say what came of it.

`run` builds the world that the plan describes, lets every fault happen at its time, heals everything when the plan's
ticks are over, and waits until all is well again. It never raises for what it finds: a violation is part of the result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from time import process_time
from typing import TYPE_CHECKING, Any

import attrs

from bftkit.channel.interface import Limits
from bftkit.sim.checkers import Violation
from bftkit.sim.costs import Costs
from bftkit.sim.plan import KEY_VALUE, OWN, Plan, plan_data
from bftkit.sim.workloads import application_of, workload_of
from bftkit.sim.world import World

if TYPE_CHECKING:
    from bftkit.channel.application import Application
    from bftkit.core.machine import MemberId

SAFETY_MISSED = "safety"
PROGRESS_MISSED = "progress"


@attrs.frozen(kw_only=True)
class Result:
    """What came of a run."""

    plan: Plan
    digest: str
    """Of every input, effect, packet and disk operation: equal runs have equal digests."""
    oracle: str = ""
    """Which checker was not content: ``agreement``, ``progress`` and so on (docs/guide/simulating.md). Empty: none."""
    violation: str = ""
    """What it said, in one line."""
    report: str = ""
    """The same with the state of all members and the last events."""
    operations: int = 0
    """Operations that were ordered and acknowledged to their clients."""
    reads: int = 0
    """Strong reads that were answered."""
    view_changes: int = 0
    """Views beyond the first that some correct member entered."""
    messages: int = 0
    """Frames that were sent, over all links."""
    ticks: int = 0
    """How long the run took, in milliseconds of simulated time, healing included."""
    throughput: float = 0.0
    """Acknowledged operations a simulated second, until the plan's ticks were over."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    """Latency of the acknowledged operations."""
    injected: Mapping[int, int] = attrs.field(factory=dict[int, int])
    """How often each line of docs/FAULTS.md really happened."""
    lies: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """What lying members say that they did."""
    seconds: float = attrs.field(default=0.0, eq=False)
    """CPU time of this process."""

    @property
    def ok(self) -> bool:
        """Whether every checker was content."""
        return not self.oracle

    @property
    def kind(self) -> str:
        """``safety`` or ``progress``; empty if all is well."""
        if not self.oracle:
            return ""
        return PROGRESS_MISSED if self.oracle in ("progress", "figure") else SAFETY_MISSED

    def raise_for_violation(self) -> None:
        """Raises `Violation` unless all is well. Its text says how to see the run again."""
        if self.oracle:
            raise Violation(self.report or self.violation, self.oracle, self.violation)


def again(plan: Plan) -> str:
    """How to run this plan again: a command, or for a plan of nobody's scenario what to write into a file."""
    if plan.scenario == OWN:
        return f"bftkit replay FILE, where FILE holds {json.dumps(plan_data(plan), separators=(',', ':'))}"
    return replay_line(plan.scenario, plan.protocol, plan.seed, plan.service)


def replay_line(scenario: str, protocol: str, seed: int, service: str = KEY_VALUE) -> str:
    """The command that runs this seed of a scenario again."""
    line = f"bftkit replay --seed {seed} --scenario {scenario} --protocol {protocol}"
    return line if service == KEY_VALUE else f"{line} --service {service}"


def build(
    plan: Plan,
    *,
    application: Callable[[MemberId], Application] | None = None,
    trace: bool = False,
    kind: type[World] = World,
) -> World:
    """The plan's world before its first tick, with the load and the faults waiting for their time.

    `kind` is a `World` that watches itself.
    """
    plan.check()
    group, load = plan.group, plan.load
    world = kind(
        plan.seed,
        plan.protocol,
        group.members,
        group.f,
        group.c,
        clients=load.clients,
        network=plan.network,
        parameters=plan.parameters,
        interval=plan.interval,
        window=plan.window,
        segment_bytes=plan.segment_bytes,
        limits=Limits(batch_requests=plan.batch_requests),
        reconfigurable=plan.changes,
        qos=plan.qos,
        policy=plan.policy,
        spares=plan.spares,
        keys=plan.keys,
        costs=Costs.measured() if plan.costs else None,
        application=application or application_of(plan.service),
        trace=trace,
        rerun=again(plan),
    )
    if plan.service != KEY_VALUE:
        world.workload = workload_of(plan.service)
    for burst in range(load.bursts):
        share = load.operations * (burst + 1) // load.bursts - load.operations * burst // load.bursts
        if share:
            world.after(plan.ticks * burst // load.bursts, _more(world, plan, share))
    for fault in plan.faults:
        world.after(fault.at, _inject(world, plan, fault.inject))
    watch = _watcher(plan.scenario)
    if watch is not None:
        watch(world, plan)
    return world


def run(plan: Plan, *, application: Callable[[MemberId], Application] | None = None, trace: bool = False) -> Result:
    """Run the plan. Raises `PlanError` if it asks for more than its protocol claims to survive."""
    return run_world(plan, application=application, trace=trace)[0]


def run_world(
    plan: Plan,
    *,
    application: Callable[[MemberId], Application] | None = None,
    trace: bool = False,
    kind: type[World] = World,
) -> tuple[Result, World]:
    """As `run`; the world as it was at the end comes with it. `kind`: see `build`."""
    began = process_time()
    world = build(plan, application=application, trace=trace, kind=kind)
    oracle = violation = report = ""
    executed = 0
    try:
        world.run(plan.ticks)
        executed = _executed(world)
        world.finish(calm=plan.calm)
    except Violation as error:
        oracle, violation, report = error.oracle, error.short, str(error)
    latencies = sorted(world.latencies_us)
    result = Result(
        plan=plan,
        digest=world.fingerprint,
        oracle=oracle,
        violation=violation,
        report=report,
        operations=_executed(world),
        reads=sum(actor.told.reads for actor in world.actors.values()),
        view_changes=world.view_changes,
        messages=world.links.carried,
        ticks=world.now,
        throughput=executed * 1000 / max(1, min(plan.ticks, world.now)),
        p50_ms=_quantile(latencies, 50) / 1000,
        p99_ms=_quantile(latencies, 99) / 1000,
        injected={line: world.injected[line] for line in sorted(world.injected)},
        lies={name: host.adversary.status() for name, host in world.hosts.items() if host.adversary is not None},
        seconds=process_time() - began,
    )
    return result, world


def _watcher(scenario: str) -> Callable[[World, Plan], None] | None:
    """The plan's scenario may have a check of its own: it is part of every run of the plan, shrunk or stored."""
    from bftkit.sim.scenarios import watcher  # they are made of plans, and speak of results

    return watcher(scenario)


def _more(world: World, plan: Plan, share: int) -> Callable[[], None]:
    load = plan.load

    def ask() -> None:
        world.load(
            share,
            load.keys,
            poison=load.poison,
            pipeline=load.pipeline,
            together=load.together,
            per_second=load.per_second,
            deadline_ms=load.deadline_ms,
            glances=load.glances,
        )

    return ask


def _inject(world: World, plan: Plan, inject: Callable[[World], None]) -> Callable[[], None]:
    def act() -> None:
        if world.now <= plan.ticks:
            inject(world)

    return act


def _executed(world: World) -> int:
    return sum(actor.told.executed + actor.told.failed for actor in world.actors.values())


def _quantile(ordered: list[int], percent: int) -> int:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0
