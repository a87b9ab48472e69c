"""One seed of a scenario, run as the scenario wants it: its figures judged too, by those of a baseline if it has one.

For third parties, in their own tests::

    from bftkit.sim import run

    run("mixed", protocol="pbft", seed=7, service=Shop).raise_for_violation()

Protocols and services are named, so that other processes find them too: a protocol by its entry point or as
``package.module:PLUGIN``, a service as ``package.module:Class``. Where a name is asked for, the object itself will do
as well if it stands at the top level of a module.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import attrs

from bftkit.core.ordering import Plugin
from bftkit.service.loading import ServiceError
from bftkit.sim.plan import KEY_VALUE, Plan
from bftkit.sim.running import Result, again
from bftkit.sim.running import run as run_plan
from bftkit.sim.scenarios import Scenario, UnknownScenario, load_scenario
from bftkit.sim.workloads import application_of, service_class, workload_of

ProtocolLike: TypeAlias = "str | Plugin"
ServiceLike: TypeAlias = "str | type[Any]"


class CampaignError(ValueError):
    """What was asked for cannot be run. The text says why."""


def run(
    plan: Plan | str, *, protocol: ProtocolLike = "pbft", seed: int = 0, service: ServiceLike = KEY_VALUE
) -> Result:
    """Run a plan, or one seed of the scenario of this name, and say what came of it.

    A plan that names a shipped scenario is judged as that scenario judges. Whatever is found is in the result;
    `Result.raise_for_violation` raises it. Raises `PlanError`, `UnknownScenario`, `UnknownProtocol`, `ServiceError` and
    `CampaignError` for what cannot be run.
    """
    if isinstance(plan, Plan):
        return examine_plan(plan)
    name, kind = protocol_name(protocol), service_name(service)
    scenario = check_fit(plan, name, kind)
    return examine(scenario, scenario.plan(name, seed, kind))


def examine_plan(plan: Plan) -> Result:
    """As `examine`, by the scenario that the plan names; if there is none of that name, the checkers alone judge."""
    try:
        scenario = load_scenario(plan.scenario)
    except UnknownScenario:
        return run_plan(plan)
    return examine(scenario, plan)


def examine(scenario: Scenario, plan: Plan) -> Result:
    """Run a plan as this scenario wants it. A figure that is missed is a violation of the oracle ``figure``.

    Raises `PlanError`.
    """
    return examined(scenario, plan)[0]


def examined(scenario: Scenario, plan: Plan) -> tuple[Result, float | None, Result | None]:
    """The result, what was measured, and the result of the baseline."""
    result = run_plan(plan)
    if not result.ok or (scenario.judge is None and scenario.measure is None):
        return result, None, None
    baseline = run_plan(scenario.baseline(plan)) if scenario.baseline is not None else None
    if baseline is not None and not baseline.ok:
        text = f"without the faults: {baseline.violation}"
        return attrs.evolve(result, oracle=baseline.oracle, violation=text, report=baseline.report), None, baseline
    compared = baseline if baseline is not None else result
    figure = scenario.measure(result, compared) if scenario.measure is not None else None
    verdict = scenario.judge(result, compared) if scenario.judge is not None else None
    if verdict:
        report = f"{verdict}\n\nseed {plan.seed}, {plan.protocol}; again: {again(plan)}"
        result = attrs.evolve(result, oracle="figure", violation=verdict, report=report)
    return result, figure, baseline


def check_fit(scenario: str, protocol: str, service: str = KEY_VALUE) -> Scenario:
    """The scenario, if it can be run under this protocol and with this service.

    Raises `UnknownScenario`, `UnknownProtocol`, `ServiceError` and `CampaignError`.
    """
    found = load_scenario(scenario)
    if missing := found.misses(protocol):
        raise CampaignError(f"{scenario} {missing}")
    application_of(service)
    workload_of(service)
    return found


def protocol_name(protocol: ProtocolLike) -> str:
    """The name by which every process finds this protocol. Raises `CampaignError` if there is none."""
    if isinstance(protocol, str):
        return protocol
    for module, names in [
        (name, vars(found)) for name, found in sorted(sys.modules.items()) if hasattr(found, "__dict__")
    ]:
        for name, value in list(names.items()):
            if value is protocol:
                return f"{module}:{name}"
    raise CampaignError(
        f"the plug-in {protocol.record.name} has no name that other processes find it by: assign it at the top level "
        "of a module, PLUGIN = Plugin(...)"
    )


def service_name(service: ServiceLike) -> str:
    """``package.module:Class`` of a service. Raises `ServiceError` if other processes would not find it so."""
    if isinstance(service, str):
        return service
    name = f"{service.__module__}:{service.__qualname__}"
    try:
        found: object = service_class(name)
    except ServiceError:
        found = None
    if found is not service:
        raise ServiceError(f"{service.__qualname__} is not found as {name}: define it at the top level of a module")
    return name
