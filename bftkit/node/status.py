"""What a member's process tells of itself: counts of its own, and the whole of its status."""

from __future__ import annotations

import os
from typing import Any

import attrs

from bftkit.channel.replica import Replica
from bftkit.network.hub import Hub
from bftkit.node.blames import Blames
from bftkit.node.chronicle import Chronicle
from bftkit.storage.log import RecordLog


@attrs.define
class NodeCounters:
    """What this process did, for people and metrics."""

    rounds: int = 0
    sync_rounds: int = 0
    """Those that waited for the log before anything left."""
    disk_full: int = 0
    """How often a round found no room on the disk."""
    dropped_frames: int = 0
    """What was sent to a peer whose queue was full, or that was not there."""


def process_status(
    replica: Replica,
    log: RecordLog,
    hub: Hub,
    counters: NodeCounters,
    blames: Blames,
    chronicle: Chronicle,
    uptime: float,
) -> dict[str, Any]:
    """How a member is, for people: what its replica says, and what its process adds. JSON-ready.

    `uptime` is in seconds.
    """
    status = replica.status()
    status |= {
        "pid": os.getpid(),
        "uptime_s": round(uptime, 3),
        "durability": log.durability.value,
        "log_bytes": log.bytes_on_disk,
        "log_segments": log.segments,
        "links": sorted(peer for peer in hub.up() if isinstance(peer, str)),
        "clients": sum(isinstance(peer, bytes) for peer in hub.up()),
        "blamed": blames.told(),
        "node": attrs.asdict(counters),
        "network": dict(sorted(hub.counters.items())),
    }
    status |= chronicle.told()
    status["evidence"] = blames.proofs
    return status
