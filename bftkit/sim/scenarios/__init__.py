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
`MESSAGES`
    Names of messages, of which the protocol must have one: without it there is nothing that the scenario is about.
`COINS`
    True: the protocol must toss coins, for the same reason.
`OPERATIONS_MIN`
    So many operations must be acknowledged in every seed, or a campaign fails: who does nothing does nothing wrong.
`watch(world, plan)`
    Called before the first tick: what this scenario checks beyond the checkers that are always on. It may plan looks
    at the world (`world.after`) and say what it misses (`world.fail`).
`FIGURE`, `measure(result, baseline)`, `AT_LEAST` or `AT_MOST`
    What is measured, in words; the measured number; and what it must reach or not exceed in each run.
`baseline(plan)`
    The plan with whose figures the result is compared; usually the same without the faults. Where there is none, the
    result itself is handed to `measure` and `judge` in its place.
`judge(result, baseline)`
    What is wrong with the figures, in words, or None; made of the bounds above if it is not given.

A scenario of your own is a module with the same names: `my_package.my_scenario` or a path, ``./my_scenario.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import traceback
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from random import Random
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs

from bftkit.core.ordering import ProtocolRecord
from bftkit.core.plugin import did_you_mean, load_protocol, protocol_names
from bftkit.sim.faults import Fault, Lie
from bftkit.sim.faults.changes import CHANGES
from bftkit.sim.plan import KEY_VALUE, Group, Load, Plan
from bftkit.sim.running import Result

if TYPE_CHECKING:
    from bftkit.sim.world import World


CHANGE_KINDS: Final = tuple(CHANGES.values())
WINDOW_MOST: Final = 256
SATURATING: Final = Load(clients=24, operations=2000, bursts=1, keys=64, pipeline=16, poison=0.0)
"""More than a group can answer in `SATURATED_TICKS`: what counts is how much it does."""
SATURATED_TICKS: Final = 900
STEADY: Final = Load(clients=4, operations=540, bursts=1, keys=16, pipeline=2, poison=0.0)
"""A few clients that ask for the next thing when they have the last, and never come to an end in five seconds."""


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

    @property
    def messages(self) -> tuple[str, ...]:
        """The names of the protocol's messages."""
        return tuple(message.__name__ for message in load_protocol(self.protocol).codec.messages.values())

    def survives(self, *names: str) -> bool:
        """Whether the protocol claims to survive all of these faults."""
        return all(name in self.record.survives for name in names)

    def smallest(self, faults: int = 1) -> Group:
        """The smallest group under this protocol that survives so many faulty members."""
        if self.record.byzantine:
            return Group(members=3 * faults + 1, f=faults, c=0)
        return Group(members=2 * faults + 1, f=0, c=faults)

    def others(self, group: Group) -> tuple[str, ...]:
        """The protocols that such a group can go over to, its own one included; sorted."""
        records = {name: load_protocol(name).record for name in (*protocol_names(), self.protocol)}
        return tuple(
            name
            for name, record in sorted(records.items())
            if group.members >= record.members_needed(group.f, group.c) and (record.byzantine or not group.f)
        )

    def plan(self, **parts: Any) -> Plan:
        """A plan with these parts and, if nothing is said of it, the smallest group that survives one fault.

        A window that is too small for the protocol is doubled until it is not.
        """
        parts.setdefault("group", self.smallest())
        if any(isinstance(fault, CHANGE_KINDS) for fault in parts.get("faults", ())):
            parts.setdefault("reconfigurable", True)
        plan = Plan(scenario=self.scenario, protocol=self.protocol, seed=self.seed, service=self.service, **parts)
        wider = plan
        while wider.refusal() and wider.window < WINDOW_MOST:
            wider = attrs.evolve(wider, window=2 * wider.window)
        return plan if wider.refusal() else wider


@attrs.frozen
class Scenario:
    """A scenario that was found."""

    name: str
    text: str
    """The first line of its file."""
    lines: Callable[[ProtocolRecord], tuple[int, ...]]
    needs: tuple[str, ...]
    """Faults that the protocol must claim to survive."""
    messages: tuple[str, ...]
    """Names of messages, of which the protocol must have one; none: it need not."""
    coins: bool
    """Whether the protocol must toss coins."""
    make: Callable[[Setting], Plan]
    baseline: Callable[[Plan], Plan] | None = None
    judge: Callable[[Result, Result], str | None] | None = None
    watch: Callable[[World, Plan], None] | None = None
    figure: str = ""
    """What is measured, in words."""
    measure: Callable[[Result, Result], float] | None = None
    at_least: float | None = None
    at_most: float | None = None
    operations_min: int = 0
    """So many operations must be acknowledged in every seed."""

    def suits(self, protocol: str) -> bool:
        """Whether it can be run under this protocol."""
        return not self.misses(protocol)

    def misses(self, protocol: str) -> str:
        """Why it cannot be run under this protocol, in words; nothing if it can."""
        plugin = load_protocol(protocol)
        if unclaimed := [name for name in self.needs if name not in plugin.record.survives]:
            return f"is about faults that {protocol} does not claim to survive: {', '.join(unclaimed)}"
        names = [message.__name__ for message in plugin.codec.messages.values()]
        if self.messages and not set(self.messages) & set(names):
            return f"is about a message {' or '.join(self.messages)}, and {protocol} has none"
        if self.coins and not plugin.record.coins:
            return f"is about coins, and {protocol} tosses none"
        return ""

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
        names = scenario_names()
        raise UnknownScenario(
            f"there is no scenario {name!r}; known are {', '.join(names)}, package.module and ./file.py"
            f"{did_you_mean(name, names)}"
        )
    return _scenario(name, module)


def without_faults(plan: Plan, *kinds: type[Fault]) -> Plan:
    """The plan without faults of these kinds (of any, if none is named): a baseline."""
    return attrs.evolve(plan, faults=tuple(f for f in plan.faults if kinds and not isinstance(f, kinds)))


def acknowledged(world: World, *clients: str) -> int:
    """How many operations and reads these clients (all, if none is named) were told the outcome of."""
    told = [actor.told for name, actor in world.actors.items() if not clients or name in clients]
    return sum(one.executed + one.failed + one.reads for one in told)


def must_go_on(world: World, at: int, ticks: int, what: str) -> None:
    """For `watch`: from `at` on, clients that wait hear of some outcome within so many ticks."""

    def begin() -> None:
        before = acknowledged(world)

        def end() -> None:
            if acknowledged(world) == before and world.outstanding:
                missed(world, f"nothing was answered for {ticks} ms {what}")

        world.after(ticks, end)

    world.after(at, begin)


def must_replace(world: World, plan: Plan) -> None:
    """For `watch`: a first leader that lies leads no more when the plan's ticks are over, while there is load yet.

    Where nobody leads, nobody need be replaced.
    """

    def look() -> None:
        if world.view_changes == 0 and world.is_led:
            missed(world, "the leader stays")

    if any(isinstance(fault, Lie) for fault in plan.faults):
        world.after(plan.ticks - 1, look)


def missed(world: World, what: str) -> NoReturn:
    """For `watch`: this run misses what the scenario demands."""
    world.fail(what, oracle="figure")


def watcher(name: str) -> Callable[[World, Plan], None] | None:
    """What a scenario checks beyond the usual; None if it checks nothing, or nobody knows it here."""
    try:
        return load_scenario(name).watch
    except UnknownScenario:
        return None


def throughput(result: Result, baseline: Result) -> float:
    """The throughput as a share of the baseline's."""
    return result.throughput / baseline.throughput if baseline.throughput else 0.0


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scenario_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise UnknownScenario(f"there is no scenario file {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UnknownScenario(f"the scenario file {str(path)!r} cannot be loaded: {raised(error)}") from error
    return module


def raised(error: Exception) -> str:
    """The error and where it was raised, for whoever wrote the scenario."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if isinstance(error, SyntaxError) else f" ({Path(place.filename).name}, line {place.lineno})"
    return f"{type(error).__name__}: {error}{where}"


def _scenario(name: str, module: ModuleType) -> Scenario:
    names: Mapping[str, Any] = vars(module)
    if not callable(names.get("plan")):
        raise UnknownScenario(f"{name}: a scenario needs a function plan(setting) that returns a Plan")
    text = (module.__doc__ or "").strip().partition("\n")[0]
    figure, measure = names.get("FIGURE", ""), names.get("measure")
    at_least, at_most = names.get("AT_LEAST"), names.get("AT_MOST")
    judge = names.get("judge")
    if judge is None and measure is not None:
        judge = _bounded(figure, measure, at_least, at_most)
    return Scenario(
        name,
        text,
        names.get("lines") or (lambda record: tuple(names.get("LINES", ()))),
        tuple(names.get("NEEDS", ())),
        tuple(names.get("MESSAGES", ())),
        bool(names.get("COINS")),
        names["plan"],
        names.get("baseline"),
        judge,
        names.get("watch"),
        figure,
        measure,
        at_least,
        at_most,
        names.get("OPERATIONS_MIN", 0),
    )


def _bounded(
    figure: str,
    measure: Callable[[Result, Result], float],
    at_least: float | None,
    at_most: float | None,
) -> Callable[[Result, Result], str | None]:
    def judge(result: Result, baseline: Result) -> str | None:
        value = measure(result, baseline)
        if at_least is not None and value < at_least:
            return f"{figure}: {value:.2f}, less than {at_least:g}"
        if at_most is not None and value > at_most:
            return f"{figure}: {value:.2f}, more than {at_most:g}"
        return None

    return judge


__all__ = ["Lie", "Scenario", "Setting", "UnknownScenario", "load_scenario", "scenario_names", "without_faults"]
