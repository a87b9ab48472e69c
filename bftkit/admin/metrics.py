"""A member's numbers in Prometheus' text form."""

from __future__ import annotations

from bftkit.node.node import Node


def metrics_text(node: Node) -> bytes:
    """All metrics of this node, as Prometheus reads them."""
    status = node.status()
    lines: list[str] = []
    for name in ("epoch", "view", "applied", "stable", "waiting", "clients", "log_bytes", "log_segments", "uptime_s"):
        value = status.get(name)
        if type(value) in (int, float):
            lines += [f"# TYPE bftkit_{name} gauge", f"bftkit_{name} {value}"]
    return ("\n".join(lines) + "\n").encode()
