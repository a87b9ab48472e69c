"""The members' metrics, as a page: docs/reference/metrics.md, made from the table that they are read by.

    python simulations/metrics_table.py write
    python simulations/metrics_table.py check

A test does the second.
"""

from __future__ import annotations

import sys
from typing import Final

from bftkit.admin.measures import METRICS, Metric
from simulations.made_pages import REFERENCE, keep

PAGE: Final = REFERENCE / "metrics.md"

INTRODUCTION: Final = """# Metrics

Made by `simulations/metrics_table.py` from the table that members are read by, and checked by a test. A member with an
HTTP interface ([guide](../guide/admin.md)) serves them at `/metrics`, in Prometheus' text form, or as OpenMetrics to
whoever names that first. As every route, it needs a token; the role `read` is enough:

```yaml
scrape_configs:
  - job_name: bftkit
    authorization: {credentials_file: /etc/prometheus/bftkit.token}
    static_configs: [{targets: ["10.0.0.1:8000", "10.0.0.2:8000"]}]
```

Units are base units. Where the table names none, it is a number of what the name says, or 1 for yes and 0 for no. What
ends in `_total` only grows, until the process ends. All of it is what a member says of itself and of what it sees: one
that lies may say anything, so compare members. Labels have few values, and no peer chooses any: `member` is one of the
present configuration other than the one that is asked.

| name | type | unit | labels | meaning |
|---|---|---|---|---|
"""

ENDING: Final = """
Besides, there are `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_virtual_memory_bytes`,
`process_open_fds`, `process_max_fds` and `process_start_time_seconds`, as in all of Prometheus' clients, where the
system tells them. They are those of the process, whatever else it holds.

## Alerts worth having

Each is for one group, scraped by the job `bftkit`. Thresholds are where to begin.

| when | what it means |
|---|---|
"""

ALERTS: Final = (
    (
        '`sum(up{job="bftkit"}) < 3`',
        "fewer members answer than it takes to decide; put n - f - c in place of 3",
    ),
    (
        "`bftkit_peer_up == 0` for 1 min",
        "a member has lost a link; if all others miss the same one, that one is down",
    ),
    (
        "`rate(bftkit_operations_executed_total[1m]) == 0 and bftkit_requests_waiting > 0` for 30 s",
        "requests wait, and none is executed: the group stands still",
    ),
    (
        "`bftkit_has_leader == 0 and bftkit_everybody_proposes == 0` for 10 s",
        "no leader, under a protocol that needs one",
    ),
    (
        "`increase(bftkit_leader_changes_total[10m]) > 5`",
        "leaders come and go: a slow network, a slow leader, or a liar",
    ),
    (
        "`scalar(max(bftkit_applied_slot)) - bftkit_applied_slot > 1000` for 1 min",
        "this member lags behind",
    ),
    (
        "`max(bftkit_epoch) - min(bftkit_epoch) > 0` for 1 min",
        "a member has not followed into the newest configuration",
    ),
    (
        '`increase(bftkit_blames_total{kind="proved"}[1h]) > 0`',
        "a member lied, and there is proof: `bftkit evidence list`",
    ),
    (
        "`bftkit_halted == 1 or bftkit_silent == 1`",
        "a member takes no part; see why in `bftkit status`",
    ),
    (
        "`increase(bftkit_disk_full_waits_total[5m]) > 0`",
        "a disk is full: its member acknowledges nothing until there is room",
    ),
    (
        "`histogram_quantile(0.99, rate(bftkit_log_sync_duration_seconds_bucket[5m])) > 0.1`",
        "a slow disk, which makes its member a slow leader",
    ),
    (
        "`abs(bftkit_agreed_clock_offset_seconds) > 5 and rate(bftkit_operations_executed_total[1m]) > 0` for 1 min",
        "this member's clock is wrong",
    ),
    (
        '`increase(bftkit_switches_total{kind="forced"}[1h]) > 0`',
        "members left a protocol that had stopped",
    ),
    (
        '`sum by (instance) (increase(bftkit_switches_total{cause="policy"}[1h])) > 10`',
        "the policy wavers: raise its `patience` or `calm`",
    ),
    (
        '`sum by (instance) (rate(bftkit_admin_requests_total{route="none"}[5m])) > 1`',
        "somebody tries the door of the HTTP interface",
    ),
)
"""When, and what it means."""


def page() -> str:
    """What the page is to hold."""
    alerts = "".join(f"| {when} | {what} |\n" for when, what in ALERTS)
    return INTRODUCTION + "".join(map(_row, METRICS)) + ENDING + alerts


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    kind = "gauge" if metric.kind == "info" else metric.kind
    return f"| `{metric.full_name}` | {kind} | {metric.unit or '-'} | {labels or '-'} | {metric.text} |\n"


def main(arguments: list[str]) -> int:
    """Write the page, or say whether it is up to date."""
    return keep(PAGE, page, arguments, "metrics_table.py", __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
