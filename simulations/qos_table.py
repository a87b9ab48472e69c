"""What each need leads to, as a table: docs/reference/qos_choices.md, made by asking the configuration manager.

    python simulations/qos_table.py write
    python simulations/qos_table.py check

Each row changes one field of the needs and leaves the others as the row says. Only the protocols that ship are asked
for, so that the page is the same wherever it is made. `check` says whether the page is up to date (exit code 1 if
not); a test does the same.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import attrs

from bftkit.configuration.manager import Choice, Refusal, choose
from bftkit.configuration.qos import CONSISTENCIES, DELIVERIES, DURABILITIES, NETWORKS, ORDERS, QoS
from bftkit.core.plugin import load_protocol
from simulations.made_pages import REFERENCE, keep

PAGE: Final = REFERENCE / "qos_choices.md"
OURS: Final = ("cks", "coordinator", "paxos", "pbft")
RECORDS: Final = tuple(load_protocol(name).record for name in OURS)
HEAD: Final = """\
# What each need leads to

Made by `simulations/qos_table.py` from the answers of the configuration manager, and checked by a test: what stands
here is what `bftkit qos explain --members N` says of the protocols that ship. "Besides" are the needs that are not at
their defaults (`byzantine = 1`, `crash = 0`, `replicas = 0`, `consistency = "strong"`, `order = "total"`,
`delivery = "exactly-once"`, `deadline_ms = 0`, `durability = "fsync"`, `network = "partial"`). The
[guide](../guide/qos.md) says what each field means.
"""


@attrs.frozen
class Row:
    """One question."""

    value: Any
    members: int = 4
    besides: dict[str, Any] = attrs.field(factory=dict[str, Any])
    policy: str = "manual"


NO_LIARS: Final = {"byzantine": 0}
CRASHES: Final = {"byzantine": 0, "crash": 1}
QUESTIONS: Final[dict[str, list[Row]]] = {
    "byzantine": [Row(0), Row(0, 4, {"crash": 1}), Row(1), Row(2), Row(2, 7), Row(1, 3)],
    "crash": [Row(0, 4, NO_LIARS), Row(1, 3, NO_LIARS), Row(2, 4, NO_LIARS), Row(1, 5), Row(1, 6)],
    "replicas": [Row(0, 7), Row(4, 7), Row(3, 7), Row(7, 4)],
    "network": [
        *(Row(value) for value in NETWORKS),
        Row("asynchronous", 4, {"crash": 1}),
        Row("asynchronous", 7, {"crash": 1}),
        Row("asynchronous", 3, CRASHES),
    ],
    "deadline_ms": [
        Row(0),
        Row(500),
        Row(500, 3, CRASHES),
        Row(50),
        Row(3),
        Row(500, 4, {"network": "asynchronous"}),
        Row(13, 4, {"network": "asynchronous"}),
    ],
    "durability": [Row(value) for value in DURABILITIES],
    "consistency": [Row(value) for value in CONSISTENCIES],
    "order": [Row(value) for value in ORDERS],
    "delivery": [Row(value) for value in DELIVERIES],
}
POLICIES: Final = [
    Row("manual"),
    Row("steady", 4, {}, "steady"),
    Row("steady", 4, CRASHES, "steady"),
    Row("steady", 3, CRASHES, "steady"),
    Row("steady", 6, {"crash": 1}, "steady"),
    Row("steady", 4, {"network": "asynchronous"}, "steady"),
    Row("steady", 4, {"deadline_ms": 10}, "steady"),
    Row("steady", 4, {"byzantine": 0}, "steady"),
    Row("cheapest", 4, {}, "cheapest"),
    Row("cheapest", 4, CRASHES, "cheapest"),
    Row("cheapest", 4, {"byzantine": 0}, "cheapest"),
]


def answer(row: Row, field: str | None) -> Choice | Refusal:
    """What the manager says."""
    named = row.besides if field is None else {**row.besides, field: row.value}
    return choose(QoS(**named), tuple(f"m{index}" for index in range(row.members)), RECORDS, None, row.policy)


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for field, rows in QUESTIONS.items():
        parts += [f"## {field}\n", "| value | members | besides | what was chosen | why |", "|---|---|---|---|---|"]
        parts += [_line(row, answer(row, field), field) for row in rows] + [""]
    parts += ["## Policies\n", "| policy | members | besides | modes | said besides |", "|---|---|---|---|---|"]
    parts += [_policy_line(row, answer(row, None)) for row in POLICIES]
    return "\n".join(parts) + "\n"


def _line(row: Row, found: Choice | Refusal, field: str) -> str:
    if isinstance(found, Refusal):
        return _cells(row, "**refused**", found.text)
    told = next(one.led_to for one in found.because if one.field == field)
    others = "; ".join(
        one.text if one.text.startswith(one.protocol) else f"{one.protocol} {one.text}" for one in found.protocols[1:]
    )
    settings = ", ".join(f"{name} = {value}" for name, value in found.parameters.items())
    chosen = f"`{found.protocol}` on {len(found.members)} members" + (f", {settings}" if settings else "")
    return _cells(row, chosen, f"{told}. {found.protocols[0].protocol}: {found.protocols[0].text}. {others}.")


def _policy_line(row: Row, found: Choice | Refusal) -> str:
    assert isinstance(found, Choice), found.text
    modes = ", ".join(f"`{mode.protocol}`" for mode in found.policy.modes) or "none"
    forced = f"; by force to `{found.policy.modes[found.policy.forced - 1].protocol}`" if found.policy.forced else ""
    return _cells(row, modes + forced, " ".join(found.notes) or "nothing")


def _cells(row: Row, *cells: str) -> str:
    besides = ", ".join(f"{name} = {value}" for name, value in row.besides.items()) or "-"
    return "| " + " | ".join((f"`{row.value}`", str(row.members), besides, *(_plain(cell) for cell in cells))) + " |"


def _plain(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def main(arguments: list[str]) -> int:
    """Write the page, or say whether it is up to date."""
    return keep(PAGE, page, arguments, "qos_table.py", __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
