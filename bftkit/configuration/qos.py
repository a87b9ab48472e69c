"""Quality of service: what an application needs, said without naming a protocol.

Operators state needs; the configuration manager (`bftkit.configuration.manager`) turns them into a configuration, or
says which of them cannot be met. A group's needs are part of its configuration, so everybody who follows the chain of
hand-overs knows them: clients stamp requests by the deadline and read as the consistency says.

Source: Reiser et al., the configuration manager that accepts QoS requirements.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import attrs

from bftkit.core.wire import U64, Text

CONSISTENCIES: Final = ("strong", "best-effort")
ORDERS: Final = ("total", "causal", "fifo", "none")
DELIVERIES: Final = ("exactly-once", "at-least-once", "best-effort")
DurabilityName: TypeAlias = Literal["fsync", "async", "memory"]
DURABILITIES: Final[tuple[DurabilityName, ...]] = ("fsync", "async", "memory")
"""When a record counts as durable: after fdatasync; once the kernel has it; at once (and a restart forgets all)."""
NetworkName: TypeAlias = Literal["synchronous", "partial", "asynchronous"]
NETWORKS: Final[tuple[NetworkName, ...]] = ("synchronous", "partial", "asynchronous")
"""What is assumed of the network, from the most to the least."""


@attrs.frozen
class QoS:
    """What is needed of a group. Whether it can be had is for the manager to say."""

    byzantine: U64 = 1
    """How many members may lie (f)."""
    crash: U64 = 0
    """How many more may only crash (c)."""
    replicas: U64 = 0
    """How many members there must be; 0: as many as the faults need, or as there are."""
    consistency: Annotated[Literal["strong", "best-effort"], Text(16)] = "strong"
    """Reads: ``strong`` are linearizable; ``best-effort`` come from one member, and are marked as such."""
    order: Annotated[Literal["total", "causal", "fifo", "none"], Text(16)] = "total"
    delivery: Annotated[Literal["exactly-once", "at-least-once", "best-effort"], Text(16)] = "exactly-once"
    deadline_ms: U64 = 0
    """A request that cannot be executed so soon after it was made is answered "too late"; 0: it may take any time."""
    durability: Annotated[DurabilityName, Text(16)] = "fsync"
    """What an acknowledged request survives: ``fsync`` a power cut of all members."""
    network: Annotated[NetworkName, Text(16)] = "partial"
    """The most that may be assumed of the network for progress; safety assumes nothing."""
