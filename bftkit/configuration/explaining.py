"""Why this configuration and not another: the configuration manager's choice in words.

Every need is told with what it led to, and every protocol with why it was taken or left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from bftkit.configuration.fitting import TIMING, Shortfall, deadline_parameters, delays, faults_in_words
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.core.machine import MemberId
from bftkit.core.ordering import ProtocolRecord
from bftkit.membership.epochs import Configuration


@attrs.frozen
class Told:
    """What one field of the needs led to."""

    field: str
    value: str
    led_to: str


@attrs.frozen
class Verdict:
    """A protocol, judged."""

    protocol: str
    fits: bool
    text: str
    """Why it was chosen, or why not."""


def verdicts(
    chosen: ProtocolRecord,
    records: Sequence[ProtocolRecord],
    short: Mapping[str, Sequence[Shortfall]],
    present: Configuration | None,
    steering: Policy,
) -> tuple[Verdict, ...]:
    """Every protocol's verdict: the chosen one's first, then in the order of `records`."""
    steps = f"{chosen.steps} steps from a proposal to its decision; messages a batch: {chosen.messages}"
    why = f"{TIMING[chosen.timing]} is enough" if chosen.timing != "asynchronous" else TIMING["asynchronous"]
    modes = [mode.protocol for mode in steering.modes]
    if present is not None and modes[1:] and chosen.name != modes[0] and chosen.name in modes:
        why = f"the policy {steering.name} has chosen it for the present conditions; {why}"
    found = [Verdict(chosen.name, True, f"{why}, {steps}")]
    for one in records:
        if one.name == chosen.name:
            continue
        if short[one.name]:
            found.append(Verdict(one.name, False, "; ".join(item.text for item in short[one.name])))
            continue
        found.append(Verdict(one.name, True, _compared(one, chosen, present)))
    return tuple(found)


def _compared(one: ProtocolRecord, chosen: ProtocolRecord, present: Configuration | None) -> str:
    more = one.steps - chosen.steps
    times = "1 step" if abs(more) == 1 else f"{abs(more)} steps"
    gives = f"would need {TIMING[one.timing]}"
    if more > 0:
        return f"{gives}{' but' if one.timing != chosen.timing else ' as well, and'} {times} more"
    if more < 0:
        return f"{gives} and {times} fewer, and is the one to go back to"
    if present is not None and chosen.name == present.protocol:
        return f"would take as many steps as {chosen.name}, which runs already"
    if len(one.survives) > len(chosen.survives):
        return f"would take as many steps as {chosen.name}, and do more than is needed"
    return f"would take as many steps as {chosen.name} and give no more"


def led_to(
    qos: QoS, chosen: ProtocolRecord, members: Sequence[MemberId], n: int, tossing: Sequence[str]
) -> tuple[Told, ...]:
    """What each need led to, where this protocol was chosen for n of these members."""
    f, c, known = qos.byzantine, qos.crash, len(members)
    needed = chosen.members_needed(f, c)
    liars = (
        f"only protocols that bear liars; the members need a coin key; {needed} members are needed under {chosen.name}"
        if f
        else "protocols for crashes are enough"
        + (f"; a coin key all the same, for {', '.join(tossing)} among the modes" if tossing else "")
    )
    crashes = (
        f"the leader among them: only protocols that replace it; {needed} members are needed under {chosen.name}"
        if c
        else "none besides the liars"
        if f
        else "no fault is survived: one member that is down may stop the group"
    )
    replicas = (
        f"{n} of the {known} known members take part: {', '.join(members[:n])}"
        if qos.replicas
        else f"all {known} known members take part, and {needed} would do"
    )
    reads = {
        "strong": "reads are linearizable",
        "best-effort": "reads are answered by one member and marked as such: they may be old, and a liar's are lies",
    }
    disks = {
        "fsync": "only protocols that survive a power cut of all members; each round waits for the disk",
        "async": "survives crashes of processes, not of machines; a member that lost power counts as faulty",
        "memory": f"survives {faults_in_words(f, c)} and no more: a member that restarts has forgotten, and is faulty",
    }
    networks = {
        "synchronous": "any protocol may be used; messages are not expected to be lost",
        "partial": "protocols that go on whenever delays are bounded, and those that need no bound",
        "asynchronous": "only protocols that go on whatever the delays are",
    }
    return (
        Told("byzantine", str(f), liars),
        Told("crash", str(c), crashes),
        Told("replicas", str(qos.replicas), replicas),
        Told("consistency", qos.consistency, reads[qos.consistency]),
        Told("order", qos.order, "what every group gives"),
        Told("delivery", qos.delivery, "what every group gives"),
        Told("deadline_ms", str(qos.deadline_ms), _deadline_in_words(qos, chosen)),
        Told("durability", qos.durability, disks[qos.durability]),
        Told("network", qos.network, networks[qos.network]),
    )


def _deadline_in_words(qos: QoS, chosen: ProtocolRecord) -> str:
    if not qos.deadline_ms:
        return "requests may take any time"
    settings = deadline_parameters(chosen, qos)
    set_ = ", ".join(f"{name} = {value}" for name, value in settings.items())
    patience = f"; {set_}, so that a leader that fails is given up in time" if set_ else ""
    return (
        f'what is later is answered "too late" and not executed; {chosen.name} needs {delays(chosen)} message '
        f"delays{patience}"
    )
