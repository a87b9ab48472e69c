"""Does a protocol meet the needs? Judged by nothing but what it says of itself, whoever wrote it.

A protocol that does not fit falls short of certain needs. `shortfalls` names them, with the numbers, so that whoever
asked knows which need to lower, or which members to add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from bftkit.configuration.qos import NETWORKS, QoS
from bftkit.core.ordering import FAULT_NAMES, ProtocolRecord

DELAY_MS: Final = 1
"""A message takes at least so long (ms): what a deadline is compared with, before anything was measured."""

TIMING: Final[Mapping[str, str]] = {
    "synchronous": "bounds on delays that always hold",
    "partial": "partial synchrony",
    "asynchronous": "no timing assumption",
}

LEADER_MS_LEAST: Final = 100
"""No leader is given up sooner than this because of a deadline: a busy machine is not a faulty one."""


@attrs.frozen
class Shortfall:
    """A need that is not met, by a protocol or by anything that is built."""

    field: str
    """The field of the `QoS`."""
    text: str
    """Why, with the numbers."""
    members: int = 0
    """How many members it would take, if more members are all that is missing."""


def delays(record: ProtocolRecord) -> int:
    """Messages' delays from a request to its execution: one to a member, and the protocol's."""
    return 1 + record.steps


def faults_in_words(f: int, c: int) -> str:
    """``2 Byzantine faults``, ``1 crash fault``, or both."""
    parts = [f"{count} {kind}" for count, kind in ((f, "Byzantine"), (c, "crash")) if count]
    return f"{' and '.join(parts) or 'no'} fault{'' if f + c == 1 else 's'}"


def shortfalls(record: ProtocolRecord, qos: QoS, n: int, known: int) -> tuple[Shortfall, ...]:
    """Which needs the protocol does not meet with n of the known members; none if it fits."""
    return (
        *_of_the_network(record, qos),
        *_of_the_faults(record, qos),
        *_of_the_members(record, qos, n, known),
        *_of_the_disks(record, qos),
        *_of_the_time(record, qos),
    )


def deadline_parameters(record: ProtocolRecord, qos: QoS) -> dict[str, int]:
    """How patient members are with a leader, so that half of the deadline is left after one has failed.

    Of a protocol with a parameter ``view_timeout`` (ticks of a millisecond), or with ``patience`` counted in ``beat``
    ticks: these names mean the same in every record. Never longer than by default.
    """
    if not qos.deadline_ms:
        return {}
    most = max(LEADER_MS_LEAST, qos.deadline_ms // 2)
    known = record.parameters
    if "view_timeout" in known:
        name, wanted = "view_timeout", most
    elif "patience" in known and "beat" in known:
        name, wanted = "patience", most // known["beat"].default
    else:
        return {}
    wanted = min(max(wanted, known[name].minimum), known[name].maximum)
    return {name: wanted} if wanted < known[name].default else {}


def _of_the_network(record: ProtocolRecord, qos: QoS) -> list[Shortfall]:
    if NETWORKS.index(record.timing) < NETWORKS.index(qos.network):
        text = f"{record.name} needs {TIMING[record.timing]}, and {qos.network} is all that may be assumed"
        return [Shortfall("network", text)]
    troubles = () if qos.network == "synchronous" else ("loss", "partition")
    unborne = [one for one in troubles if one not in record.survives]
    return [Shortfall("network", f"{record.name} does not survive {_faults(unborne)}")] if unborne else []


def _of_the_faults(record: ProtocolRecord, qos: QoS) -> list[Shortfall]:
    f, c = qos.byzantine, qos.crash
    found: list[Shortfall] = []
    if f and not (record.byzantine and "liar" in record.survives):
        text = f"{record.name} survives crashes only, and {f} member{'' if f == 1 else 's'} may lie"
        found.append(Shortfall("byzantine", text))
    unborne = [one for one in ("follower-crash", "leader-crash") if one not in record.survives] if f + c else []
    for field, count in (("byzantine", f), ("crash", c)):
        if unborne and count and not any(one.field == field for one in found):
            found.append(Shortfall(field, f"{record.name} does not go on by itself after this: {_faults(unborne)}"))
    return found


def _of_the_members(record: ProtocolRecord, qos: QoS, n: int, known: int) -> list[Shortfall]:
    # Of a protocol that bears no liars, it was said above.
    f, c = (qos.byzantine if record.byzantine else 0), qos.crash
    needed = record.members_needed(f, c)
    if needed <= n:
        return []
    cost = f" under {record.name}, for which a crash costs as much as a lie" if record.crash_as_lie and c else ""
    need = "needs" if f + c == 1 else "need"
    if n < known and needed <= known:
        text = f"{faults_in_words(f, c)} {need} {needed} members{cost}; {n} are asked for, and {known} are known"
        return [Shortfall("replicas", text, needed)]
    there = f"{known} are known" if n == known else f"{n} are asked for, and {known} are known"
    text = f"{faults_in_words(f, c)} {need} {needed} members{cost}; {there}"
    if record.members_needed(f, 0) <= n:
        return [Shortfall("crash", text, needed)]
    if record.members_needed(0, c) <= n:
        return [Shortfall("byzantine", text, needed)]
    return [Shortfall(field, text, needed) for field, count in (("byzantine", f), ("crash", c)) if count]


def _of_the_disks(record: ProtocolRecord, qos: QoS) -> list[Shortfall]:
    if qos.durability != "fsync" or "power-cut" in record.survives:
        return []
    return [Shortfall("durability", f"{record.name} does not survive this: {_faults(['power-cut'])}")]


def _of_the_time(record: ProtocolRecord, qos: QoS) -> list[Shortfall]:
    least = delays(record) * DELAY_MS
    if not qos.deadline_ms or least <= qos.deadline_ms:
        return []
    text = (
        f"{record.name} executes a request {delays(record)} message delays after it was made, which are {least} ms at "
        f"{DELAY_MS} ms each, and the deadline is {qos.deadline_ms} ms"
    )
    return [Shortfall("deadline_ms", text)]


def _faults(names: list[str]) -> str:
    return "; ".join(FAULT_NAMES[name] for name in names)
