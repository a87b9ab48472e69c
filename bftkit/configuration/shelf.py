"""The shelf of policies: found by name through the entry-point group ``bftkit.policies``, as protocols are.

A third party's policy is a package with an entry point. ``module:ATTRIBUTE`` names one directly, for simulations of a
policy that has no package yet.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from bftkit.configuration.policy import COMMON_PARAMETERS, Policy, PolicyAlgorithm, PolicyRecord
from bftkit.configuration.text import ConfigurationError, check_range
from bftkit.core.ordering import Parameter
from bftkit.core.plugin import did_you_mean

GROUP: Final = "bftkit.policies"
_DIRECT: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class BrokenPolicy(Exception):
    """A package offers this policy, and it cannot be loaded. The text says why."""


class UnknownPolicy(LookupError):
    """No installed package offers a policy of this name. The text lists those that are there."""


def policy_names() -> tuple[str, ...]:
    """The names of all installed policies, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


@cache
def load_policy(name: str) -> PolicyAlgorithm:
    """The policy of this name. Raises `UnknownPolicy`, and `BrokenPolicy`, also if it is no policy."""
    direct = [EntryPoint(name, name, GROUP)] if _DIRECT.fullmatch(name) else []
    for entry in (*direct, *entry_points(group=GROUP)):
        if entry.name == name:
            try:
                found: object = entry.load()
            except Exception as error:
                place = f"the policy {name} ({entry.value})"
                raise BrokenPolicy(f"{place} cannot be loaded: {type(error).__name__}: {error}") from error
            if not isinstance(getattr(found, "record", None), PolicyRecord) or not callable(
                getattr(found, "judge", None)
            ):
                raise BrokenPolicy(
                    f"the entry point {name} = {entry.value} is not a bftkit policy: it needs a record and judge()"
                )
            return cast("PolicyAlgorithm", found)
    names = policy_names()
    raise UnknownPolicy(f"no policy named {name!r}; installed: {', '.join(names) or 'none'}{did_you_mean(name, names)}")


def parameters_of(record: PolicyRecord) -> dict[str, Parameter]:
    """All parameters that the policy has: its own, and those of every policy."""
    return {**COMMON_PARAMETERS, **record.parameters}


def filled(record: PolicyRecord, policy: Policy) -> dict[str, int]:
    """The policy's parameters with the defaults filled in: what an `Outlook` has."""
    return {name: policy.parameters.get(name, one.default) for name, one in sorted(parameters_of(record).items())}


def check_parameters(record: PolicyRecord, policy: Policy) -> None:
    """Whether the policy has these parameters, within their bounds. Raises `ConfigurationError`."""
    known = parameters_of(record)
    for name, value in sorted(policy.parameters.items()):
        if name not in known:
            raise ConfigurationError(
                f"policy.parameters.{name}",
                f"{record.name} has no such parameter{did_you_mean(name, known)}",
                f"known here: {', '.join(sorted(known))}",
            )
        check_range(f"policy.parameters.{name}", value, known[name].minimum, known[name].maximum)
