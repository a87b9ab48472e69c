"""A plan: everything that one simulated run is made of, as data.

The group, its network and load, and a list of faults, each with its time and its own end. Together with the seed it
decides the run: whoever has the plan has the run. So a plan can be stored (`to_json`), sent to another process, made
smaller (`shrinking`), told as a story, or drawn by Hypothesis (`strategies`); and any fault may be left out of it,
and what remains is a valid plan still.

    plan = Plan(protocol="pbft", seed=7, faults=(Crash(at=300, who="leader", ticks=500), Partition(at=900, …)))
    result = run(plan)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, cast

import attrs
from cattrs import Converter, ForbiddenExtraKeysError
from cattrs.errors import BaseValidationError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn
from cattrs.v import format_exception, transform_error

from bftkit.configuration.needs import check_policy, check_qos
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.configuration.shelf import BrokenPolicy, UnknownPolicy, check_parameters, load_policy
from bftkit.configuration.text import ConfigurationError
from bftkit.core.ordering import Setup
from bftkit.core.plugin import load_protocol
from bftkit.core.quorum import Quorum, QuorumError
from bftkit.sim.coins import fast_coins
from bftkit.sim.faults import Fault, fault_name, load_fault
from bftkit.sim.keyring import fast_keyrings
from bftkit.sim.links import Network

KEYS: Final = ("fast", "ed25519")
PARTIES_MAX: Final = 1000
"""Members, and clients, of a world: more would take minutes before the first tick."""
BURSTS_MAX: Final = 100_000
OWN: Final = "own"
"""The scenario of plans that come from none."""
KEY_VALUE: Final = "bftkit.service.keyvalue:KeyValueStore"


class PlanError(ValueError):
    """A plan that cannot be run: what is wrong in it, and what would be right."""


@attrs.frozen(kw_only=True)
class Group:
    """How many members there are, and how many of them may be Byzantine (f) or, beyond that, crash (c)."""

    members: int = 4
    f: int = 1
    c: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """``m0``, ``m1`` and so on."""
        return tuple(f"m{index}" for index in range(self.members))


@attrs.frozen(kw_only=True)
class Load:
    """What the clients ask for. They share the operations; each has so many under way and thinks between them."""

    clients: int = 3
    operations: int = 330
    """All clients together, over the whole run."""
    bursts: int = 8
    """The operations come in so many equal parts, spread over the run's ticks, so that load meets every fault."""
    keys: int = 4
    """Of the key-value store: few keys mean that more operations depend on each other."""
    pipeline: int = 4
    poison: float = 0.03
    """This share of the operations raises an exception in the service."""
    together: float = 0.5
    """How often all that a client asks for at a time travels in one bundle."""
    per_second: int = 0
    """Open loop: each client asks so often, whatever comes back. 0: closed loop."""
    deadline_ms: int = 0
    """Operations are executed within so many ms of agreed time, or never; 0: at any time."""
    glances: float = 0.0
    """This share of the operations is best-effort reads."""


@attrs.frozen(kw_only=True)
class Plan:
    """One run. Ticks are milliseconds of the simulated clock."""

    scenario: str = OWN
    """Where it comes from; for people, and for the line that repeats it."""
    protocol: str = "pbft"
    seed: int = 0
    group: Group = attrs.field(factory=Group)
    spares: int = 0
    """Further machines that may become members: ``m4`` and so on behind a group of four."""
    reconfigurable: bool = False
    """Whether the group can go from epoch to epoch; it can, too, if there are spares."""
    qos: QoS | None = None
    """What operators need, as the founding configuration says it."""
    policy: Policy | None = None
    """By what the members change their protocol themselves; the group can then go from epoch to epoch."""
    service: str = KEY_VALUE
    """``package.module:Class``."""
    keys: str = "fast"
    """``fast``: a keyed hash stands for signatures; ``ed25519``: the real ones."""
    costs: bool = True
    """Whether handlers, crypto operations and syncs take the time that was measured for them."""
    network: Network = attrs.field(factory=Network)
    load: Load = attrs.field(factory=Load)
    parameters: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """The protocol's."""
    interval: int = 8
    """Slots between checkpoints; small, so that short runs see some."""
    window: int = 32
    segment_bytes: int = 1 << 20
    batch_requests: int = 1024
    """A batch is closed at so many operations; few of them give many slots."""
    ticks: int = 3000
    """How long load and faults last. Then everything heals and must end well."""
    calm: bool = True
    """Whether the network is good in the end; else it stays as `network` says, and all must end well all the same."""
    faults: tuple[Fault, ...] = ()

    @property
    def machines(self) -> tuple[str, ...]:
        """The members, and the spares."""
        return attrs.evolve(self.group, members=self.group.members + self.spares).names

    def check(self) -> None:
        """Raises `PlanError` unless this run is one that the protocol claims to survive."""
        record = load_protocol(self.protocol).record
        self._check_scenario()
        group = self.group
        try:
            Quorum(group.members, group.f, group.c)
        except QuorumError as error:
            raise PlanError(f"group: {error}") from None
        needed = record.members_needed(group.f, group.c)
        if group.members < needed:
            raise PlanError(
                f"group: {self.protocol} needs {needed} members for {group.f} Byzantine and {group.c} crash faults, "
                f"not {group.members}"
            )
        if group.f and not record.byzantine:
            raise PlanError(f"group: {self.protocol} tolerates no Byzantine members, so f must be 0, not {group.f}")
        if self.keys not in KEYS:
            raise PlanError(f"keys: {self.keys!r} is neither 'fast' nor 'ed25519'")
        if self.window < 2 * self.interval:
            raise PlanError(f"window: {self.window} must be at least twice the interval of {self.interval}")
        self._check_numbers()  # before anything is made of so many
        if text := self.refusal():
            raise PlanError(f"{self.protocol}: {text}")
        self._check_policy()
        if self.load.clients < 1 or self.load.bursts < 1:
            raise PlanError("load: at least one client and one burst")
        lying: set[str] = set()
        forgetful: set[str] = set()
        for place, fault in enumerate(self.faults):
            unknown = [name for name in fault.named() if name.startswith("m") and name not in self.machines]
            if unknown:
                raise PlanError(f"faults[{place}] ({fault.tell()}): there is no member {unknown[0]}")
            lying.update(fault.lying())
            forgetful.update(fault.forgetful())
        forgetful -= lying
        if len(lying) > group.f:
            raise PlanError(f"faults: {len(lying)} members lie ({', '.join(sorted(lying))}), f is {group.f}")
        if len(lying) + len(forgetful) > group.f + group.c:
            raise PlanError(
                f"faults: {', '.join(sorted(lying | forgetful))} lie or forget, more than f + c = {group.f + group.c}"
            )

    @property
    def changes(self) -> bool:
        """Whether the group can go from epoch to epoch."""
        return self.reconfigurable or self.spares > 0 or self.policy is not None or self.qos is not None

    def _check_policy(self) -> None:
        try:
            if self.qos is not None:
                check_qos(self.qos)
            if self.policy is not None:
                check_policy(self.policy)
                check_parameters(load_policy(self.policy.name).record, self.policy)
        except (ConfigurationError, UnknownPolicy, BrokenPolicy) as error:
            raise PlanError(str(error)) from None
        for mode in () if self.policy is None else self.policy.modes:
            there = attrs.evolve(self, protocol=mode.protocol, parameters=mode.parameters)
            record = load_protocol(mode.protocol).record
            needed = record.members_needed(self.group.f, self.group.c)
            if self.group.members < needed or (self.group.f and not record.byzantine):
                raise PlanError(f"policy: {mode.protocol} cannot run in this group")
            if text := there.refusal():
                raise PlanError(f"policy: {mode.protocol}: {text}")

    def refusal(self) -> str:
        """Why the protocol would not run with this group, window and parameters, in its own words; or nothing."""
        plugin, names = load_protocol(self.protocol), self.group.names
        quorum = Quorum(self.group.members, self.group.f, self.group.c)
        some = bytes(32)
        ring = fast_keyrings(some, some, 0, some, names)[names[0]]
        coins = fast_coins(some, some, 0, some, names, quorum.available)[names[0]] if plugin.record.coins else None
        try:
            plugin.create(Setup(names[0], names, quorum, ring, 0, self.window, self.parameters, coins))
        except ValueError as error:
            return str(error)
        return ""

    def _check_scenario(self) -> None:
        """What a scenario demands beyond the checkers is part of the run: without it, the run would say less."""
        from bftkit.sim.scenarios import UnknownScenario, load_scenario  # they are made of plans

        if self.scenario == OWN:
            return
        try:
            load_scenario(self.scenario)
        except UnknownScenario as error:
            raise PlanError(f"scenario: {error} (a plan of none says {OWN!r})") from None

    def _check_numbers(self) -> None:
        network, load = self.network, self.load
        shares = {
            "network.loss": network.loss,
            "network.duplication": network.duplication,
            "network.straggling": network.straggling,
            "load.poison": load.poison,
            "load.together": load.together,
            "load.glances": load.glances,
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise PlanError(f"{name}: {share} is no share between 0 and 1")
        least = {
            "seed": (self.seed, 0),
            "spares": (self.spares, 0),
            "ticks": (self.ticks, 1),
            "batch_requests": (self.batch_requests, 1),
            "segment_bytes": (self.segment_bytes, 1),
            "network.delay_min": (network.delay_min, 0),
            "load.operations": (load.operations, 0),
            "load.keys": (load.keys, 1),
            "load.pipeline": (load.pipeline, 1),
            "load.per_second": (load.per_second, 0),
            "load.deadline_ms": (load.deadline_ms, 0),
        }
        for name, (number, bound) in least.items():
            if number < bound:
                raise PlanError(f"{name}: {number} is less than {bound}")
        most = {
            "seed": (self.seed, (1 << 64) - 1),
            "group.members": (self.group.members + self.spares, PARTIES_MAX),
            "load.clients": (load.clients, PARTIES_MAX),
            "load.bursts": (load.bursts, BURSTS_MAX),
        }
        for name, (number, bound) in most.items():
            if number > bound:
                raise PlanError(f"{name}: {number} is more than {bound}")
        if network.delay_max < network.delay_min:
            raise PlanError(f"network: delay_max {network.delay_max} is less than delay_min {network.delay_min}")

    def to_json(self) -> str:
        """As text; what has its default value is left out."""
        return json.dumps(_converter().unstructure(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Plan:
        """Raises `PlanError` with every place where the text is wrong."""
        try:
            return plan_from_data(json.loads(text))
        except json.JSONDecodeError as error:
            raise PlanError(f"this is no JSON: {error}") from None


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain dictionaries and lists."""
    data: dict[str, Any] = _converter().unstructure(plan)
    return data


def plan_from_data(data: object) -> Plan:
    """The other way round. Raises `PlanError`."""
    if not isinstance(data, dict):
        raise PlanError("a plan is an object")
    try:
        return _converter().structure(data, Plan)
    except (BaseValidationError, ForbiddenExtraKeysError) as error:
        raise PlanError("; ".join(transform_error(error, format_exception=_words))) from None


def _words(error: BaseException, kind: type | None) -> str:
    if isinstance(error, ValueError | TypeError) and not isinstance(error, BaseValidationError):
        return str(error)
    return format_exception(error, kind)


@cache
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, omit_if_default=True)

    def write(fault: Fault) -> dict[str, Any]:
        kind = type(fault)
        plain = make_dict_unstructure_fn(kind, converter, _cattrs_omit_if_default=True)(fault)
        return {"fault": fault_name(kind), **plain}

    def read(data: Any, _: type[Fault]) -> Fault:
        if not isinstance(data, dict) or "fault" not in data:
            raise ValueError("a fault is an object with a key 'fault'")
        fields = cast("dict[str, Any]", data)
        rest = {key: value for key, value in fields.items() if key != "fault"}
        kind = load_fault(fields["fault"])
        fault: Fault = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)(rest, kind)
        return fault

    def as_it_is(data: Any, _: Any) -> Any:
        if not isinstance(data, bool | int | str):
            raise ValueError(f"{data!r} is neither a number nor a text nor true or false")
        return data

    converter.register_unstructure_hook(Fault, write)
    converter.register_structure_hook(Fault, read)
    converter.register_structure_hook(bool | int | str, as_it_is)
    return converter
