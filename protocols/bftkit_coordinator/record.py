"""What the protocol says of itself."""

from __future__ import annotations

from typing import Final

from bftkit.core.ordering import Parameter, ProtocolRecord

RECORD: Final = ProtocolRecord(
    name="coordinator",
    title="Fixed coordinator",
    paper="folklore; the hold-before-answer rule is that of primary-backup replication (Budhiraja et al., 1993)",
    byzantine=False,
    timing="partial",
    steps=2,
    messages="3 (n - 1)",
    survives=frozenset({"loss", "partition", "follower-crash", "leader-restart", "power-cut"}),
    when="All members are trusted, one of them stays up or comes back soon, and the lowest cost matters.",
    parameters={
        "coordinator": Parameter(0, 0, 1023, "index in the roster of the member that orders"),
        "pipeline": Parameter(32, 1, 1024, "slots that may be open (sent, not decided) at a time"),
        "status_ticks": Parameter(200, 5, 60_000, "ticks (ms) between two status messages of a follower"),
    },
)
