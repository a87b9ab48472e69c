"""What Paxos says of itself, and its parameters."""

from __future__ import annotations

from typing import Final

from bftkit.core.ordering import Parameter, ProtocolRecord

RECORD: Final = ProtocolRecord(
    name="paxos",
    title="Multi-decree Paxos",
    paper="L. Lamport, The Part-Time Parliament, ACM TOCS 16(2), 1998; Paxos Made Simple, ACM SIGACT News 32(4), 2001",
    byzantine=False,
    timing="partial",
    steps=2,
    messages="3 (n − 1)",
    survives=frozenset({"loss", "partition", "follower-crash", "leader-crash", "leader-restart", "power-cut"}),
    when="Members may crash, the leader among them, but do not lie, and requests should wait for one round trip only.",
    parameters={
        "pipeline": Parameter(32, 1, 1024, "slots that may be open (proposed, not chosen) at a time"),
        "beat": Parameter(40, 5, 60_000, "ticks (ms) between two heartbeats of a leader"),
        "silence": Parameter(4, 2, 1000, "beats without a sign of the leader, or of a quorum, before it is given up"),
        "spread": Parameter(80, 1, 3_600_000, "most ticks that a candidate waits (a drawn time) before it asks"),
        "grow": Parameter(5, 0, 16, "failed elections double all waits, at most so many times"),
        "patience": Parameter(
            25, 2, 1 << 20, "beats in which requests wait and nothing is chosen: then the leader is given up"
        ),
    },
)
