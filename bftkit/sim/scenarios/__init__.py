"""Scenarios: each file of this folder is one, and says in its first lines what it is about.

A scenario turns a seed into a plan::

    \"\"\"Three packets in ten are lost.\"\"\"

    LINES = (1,)

    def plan(setting: Setting) -> Plan:
        return setting.plan(network=Network(loss=0.3))

`LINES` are the lines of docs/FAULTS.md that it injects: a campaign fails when one of them does not really happen.
Optional beside `plan`:

`lines(record)`
    In the place of `LINES`, where they depend on what the protocol survives.

`NEEDS`
    Names of faults (`bftkit.core.ordering.FAULT_NAMES`) that the protocol must claim to survive.
`baseline(plan)`
    The plan with whose figures the result is compared; usually the same without the faults.
`judge(result, baseline)`
    What is wrong with the figures, in words, or None.

A scenario of your own is a module with the same names: `my_package.my_scenario` or a path, ``./my_scenario.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import attrs

from bftkit.core.ordering import ProtocolRecord
from bftkit.core.plugin import load_protocol
from bftkit.sim.faults import Fault, Lie
from bftkit.sim.plan import KEY_VALUE, Group, Plan
from bftkit.sim.running import Result


class UnknownScenario(ValueError):
    """There is no scenario of this name; the text says what there is."""


@attrs.frozen
class Setting:
    """What a scenario is given to make its plan from."""

    scenario: str
    protocol: str
    seed: int
    service: str = KEY_VALUE

    @cached_property
    def random(self) -> Random:
        """The scenario's own source of chance; the same for every protocol."""
        return Random(f"{self.scenario} {self.seed}")

    @cached_property
    def record(self) -> ProtocolRecord:
        """What the protocol says of itself."""
        return load_protocol(self.protocol).record

    def survives(self, *names: str) -> bool:
        """Whether the protocol claims to survive all of these faults."""
        return all(name in self.record.survives for name in names)

    def smallest(self, faults: int = 1) -> Group:
        """The smallest group under this protocol that survives so many faulty members."""
        if self.record.byzantine:
            return Group(members=3 * faults + 1, f=faults, c=0)
        return Group(members=2 * faults + 1, f=0, c=faults)

    def plan(self, **parts: Any) -> Plan:
        """A plan with these parts and, if nothing is said of it, the smallest group that survives one fault."""
        parts.setdefault("group", self.smallest())
        return Plan(scenario=self.scenario, protocol=self.protocol, seed=self.seed, service=self.service, **parts)


@attrs.frozen
class Scenario:
    """A scenario that was found."""

    name: str
    text: str
    """The first line of its file."""
    lines: Callable[[ProtocolRecord], tuple[int, ...]]
    needs: tuple[str, ...]
    make: Callable[[Setting], Plan]
    baseline: Callable[[Plan], Plan] | None = None
    judge: Callable[[Result, Result], str | None] | None = None

    def suits(self, protocol: str) -> bool:
        """Whether the protocol claims to survive what this scenario does."""
        return all(name in load_protocol(protocol).record.survives for name in self.needs)

    def plan(self, protocol: str, seed: int, service: str = KEY_VALUE) -> Plan:
        """The plan of this seed."""
        return self.make(Setting(self.name, protocol, seed, service))


def scenario_names() -> list[str]:
    """The shipped scenarios."""
    return sorted(
        found.name.replace("_", "-") for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")
    )


def load_scenario(name: str) -> Scenario:
    """A shipped scenario, ``package.module``, or a path to a file. Raises `UnknownScenario`."""
    if name in scenario_names():
        module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    elif name.endswith(".py"):
        module = _from_file(Path(name))
    elif "." in name:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UnknownScenario(f"the scenario {name!r} cannot be loaded: {error}") from None
    else:
        raise UnknownScenario(
            f"there is no scenario {name!r}; known are {', '.join(scenario_names())}, package.module and ./file.py"
        )
    return _scenario(name, module)


def without_faults(plan: Plan, *kinds: type[Fault]) -> Plan:
    """The plan without faults of these kinds (of any, if none is named): a baseline."""
    return attrs.evolve(plan, faults=tuple(f for f in plan.faults if kinds and not isinstance(f, kinds)))


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scenario_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise UnknownScenario(f"there is no scenario file {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _scenario(name: str, module: ModuleType) -> Scenario:
    names: Mapping[str, Any] = vars(module)
    if not callable(names.get("plan")):
        raise UnknownScenario(f"{name}: a scenario needs a function plan(setting) that returns a Plan")
    text = (module.__doc__ or "").strip().partition("\n")[0]
    return Scenario(
        name,
        text,
        names.get("lines") or (lambda record: tuple(names.get("LINES", ()))),
        tuple(names.get("NEEDS", ())),
        names["plan"],
        names.get("baseline"),
        names.get("judge"),
    )


__all__ = ["Lie", "Scenario", "Setting", "UnknownScenario", "load_scenario", "scenario_names", "without_faults"]

# Until its plan-made successor is here.
from bftkit.sim.scenarios._old import mixed, plan_power_cut  # noqa: E402, F401
