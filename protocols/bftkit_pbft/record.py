"""What PBFT says of itself, and its parameters."""

from __future__ import annotations

from typing import Final

from bftkit.core.ordering import FAULT_NAMES, Parameter, ProtocolRecord

RECORD: Final = ProtocolRecord(
    name="pbft",
    title="Practical Byzantine Fault Tolerance",
    paper="M. Castro, Practical Byzantine Fault Tolerance, PhD thesis, MIT, 2001; OSDI 1999; TOCS 20(4), 2002",
    byzantine=True,
    timing="partial",
    steps=3,
    messages="(n − 1) + (n − 1)² + n(n − 1), of which n signed",
    survives=frozenset(FAULT_NAMES),
    when="Members may lie, and the network delivers within some bound most of the time.",
    parameters={
        "view_timeout": Parameter(
            1000, 10, 3_600_000, "ticks that a request may wait without any decision before the leader is given up"
        ),
        "view_timeout_max": Parameter(60_000, 10, 86_400_000, "ticks beyond which the timeout does not double"),
        "shrink_after": Parameter(
            128, 1, 1 << 20, "slots after which a grown timeout is halved, if each was decided within half of it"
        ),
        "status_interval": Parameter(
            100, 5, 3_600_000, "ticks between looks whether something is stuck and has to be asked for"
        ),
        "pipeline_depth": Parameter(8, 1, 1 << 16, "slots that the leader keeps undecided at once"),
        "pace_gap": Parameter(
            100, 0, 3_600_000, "ticks in which an idle leader must propose while requests wait; 0: slow leaders stay"
        ),
        "pace_percent": Parameter(
            5, 0, 100, "share of the best rate of late that a leader must reach under demand, in per cent"
        ),
    },
)
