"""The tables ``[qos]`` and ``[policy]`` of a genesis, and of files that operators write.

Here only what a table says is checked. Whether a group can meet the needs is for the manager to say
(`bftkit.configuration.manager`), and whether the policy's protocols are on the shelf, for the members.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from bftkit.configuration.policy import MODES_MAX, Mode, Policy
from bftkit.configuration.qos import CONSISTENCIES, DELIVERIES, DURABILITIES, NETWORKS, ORDERS, QoS
from bftkit.configuration.text import ConfigurationError, Value, check_choice, check_range, right
from bftkit.core.wire import is_name

DEADLINE_MS_MAX: Final = 24 * 3600 * 1000
REPLICAS_MAX: Final = 1024


@attrs.frozen
class QoSTable:
    """The table ``[qos]``."""

    byzantine: int = attrs.field(default=1, metadata=right("how many members may lie, as a whole number"))
    crash: int = attrs.field(default=0, metadata=right("how many more may crash, as a whole number"))
    replicas: int = attrs.field(default=0, metadata=right("how many members there must be; 0: as many as needed"))
    consistency: str = attrs.field(default="strong", metadata=right(f"one of {', '.join(CONSISTENCIES)}"))
    order: str = attrs.field(default="total", metadata=right(f"one of {', '.join(ORDERS)}"))
    delivery: str = attrs.field(default="exactly-once", metadata=right(f"one of {', '.join(DELIVERIES)}"))
    deadline_ms: int = attrs.field(default=0, metadata=right("a whole number of milliseconds; 0: none"))
    durability: str = attrs.field(default="fsync", metadata=right(f"one of {', '.join(DURABILITIES)}"))
    network: str = attrs.field(default="partial", metadata=right(f"one of {', '.join(NETWORKS)}"))


@attrs.frozen
class ModeTable:
    """One of ``[[policy.modes]]``."""

    protocol: str = attrs.field(metadata=right('the name of an installed protocol, such as "pbft"'))
    parameters: dict[str, int] = attrs.field(factory=dict[str, int])


@attrs.frozen
class PolicyTable:
    """The table ``[policy]``."""

    name: str = attrs.field(metadata=right('the name of an installed policy, such as "steady"'))
    modes: tuple[ModeTable, ...] = attrs.field(
        default=(), metadata=right("one [[policy.modes]] table for each mode, from the least robust to the most")
    )
    forced: int = attrs.field(default=0, metadata=right("the number of a mode, counted from 1; 0: none"))
    stall_ms: int = attrs.field(default=0, metadata=right("a whole number of milliseconds; 0: never"))
    parameters: dict[str, int] = attrs.field(factory=dict[str, int])


def qos_table(qos: QoS) -> dict[str, Value]:
    """The needs as a table."""
    table: dict[str, Value] = attrs.asdict(qos)
    return table


def qos_from_table(table: QoSTable) -> QoS:
    """What the table means. Raises `ConfigurationError`."""
    found: Any = attrs.asdict(table)
    return check_qos(QoS(**found))


def check_qos(qos: QoS) -> QoS:
    """Whether every value is one that exists. Raises `ConfigurationError`."""
    for name in ("byzantine", "crash", "replicas"):
        check_range(f"qos.{name}", getattr(qos, name), 0, REPLICAS_MAX)
    check_range("qos.deadline_ms", qos.deadline_ms, 0, DEADLINE_MS_MAX)
    check_choice("qos.consistency", qos.consistency, CONSISTENCIES)
    check_choice("qos.order", qos.order, ORDERS)
    check_choice("qos.delivery", qos.delivery, DELIVERIES)
    check_choice("qos.durability", qos.durability, DURABILITIES)
    check_choice("qos.network", qos.network, NETWORKS)
    return qos


def policy_table(policy: Policy) -> dict[str, Value]:
    """The policy as a table."""
    modes: list[dict[str, Value]] = [
        {"protocol": mode.protocol, "parameters": dict(mode.parameters)} for mode in policy.modes
    ]
    return {
        "name": policy.name,
        "forced": policy.forced,
        "stall_ms": policy.stall_ms,
        "parameters": dict(policy.parameters),
        "modes": modes,
    }


def policy_from_table(table: PolicyTable) -> Policy:
    """What the table means. Raises `ConfigurationError`."""
    modes = tuple(Mode(mode.protocol, mode.parameters) for mode in table.modes)
    return check_policy(Policy(table.name, modes, table.forced, table.stall_ms, table.parameters))


def check_policy(policy: Policy) -> Policy:
    """Whether the policy makes sense by itself. Raises `ConfigurationError`."""
    if not is_name(policy.name):
        raise ConfigurationError("policy.name", f"{policy.name!r} is no name", "give that of an installed policy")
    if len(policy.modes) > MODES_MAX:
        raise ConfigurationError("policy.modes", f"there are {len(policy.modes)}", f"give at most {MODES_MAX}")
    for index, mode in enumerate(policy.modes):
        where = f"policy.modes[{index}]"
        if not is_name(mode.protocol):
            raise ConfigurationError(f"{where}.protocol", f"{mode.protocol!r} is no name", "give a protocol's name")
        if policy.mode_of(mode.protocol, mode.parameters) != index:
            raise ConfigurationError(where, "the mode is listed twice", "list every mode once")
    check_range("policy.forced", policy.forced, 0, len(policy.modes))
    if (policy.forced > 0) != (policy.stall_ms > 0):
        raise ConfigurationError(
            "policy.stall_ms",
            "leaving a protocol by force needs both a mode for that (forced) and a time (stall_ms)",
            "give both, or neither",
        )
    if policy.stall_ms:
        check_range("policy.stall_ms", policy.stall_ms, 100, DEADLINE_MS_MAX)
    return policy
