"""Rounds without a leader in the smallest group: one member that lies or runs twice, and all of them come and go.

Short runs, since a round costs much more than a slot that somebody leads.
"""

from __future__ import annotations

from bftkit.sim.faults import Crash, Fault, HoldKind, Lie, OneWay, Partition, PowerCut, Twin
from bftkit.sim.links import Network
from bftkit.sim.plan import Group, Load, Plan
from bftkit.sim.scenarios import Setting

LINES = (12, 20)
NEEDS = ("leader-crash",)
KINDS = ("twin", "none", "equivocate", "withhold", "twin", "none", "echo", "mutate", "collude", "half-silent")


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = Group(members=4, f=1, c=0) if setting.record.byzantine else Group(members=3, f=0, c=1)
    names = list(group.names)
    random.shuffle(names)
    faults: list[Fault] = []
    kind = KINDS[setting.seed % len(KINDS)] if group.f else "none"
    liar, rest = names[0], names[1:]
    if kind == "twin":
        cut = random.randint(1, len(rest) - 1)
        both = rest[: random.randint(0, 1)]
        faults.append(Twin(at=0, who=liar, left=tuple(rest[:cut]), right=(*rest[cut:], *both)))
    elif kind != "none":
        options: dict[str, bool | int | str] = {"seed": random.getrandbits(32)} if kind == "mutate" else {}
        options |= {"fellows": liar} if kind == "collude" else {}
        options |= {"to": "half"} if kind == "withhold" else {}
        faults.append(Lie(at=0, who=liar, kind=kind, options=options))
    at = random.randint(30, 120)
    while at < 900:
        draw = random.random()
        who = random.choice(rest)
        lasting = random.choice((1, 10, 60, 300))
        if draw < 0.55:
            faults.append(Crash(at=at, who=who, ticks=lasting, power=random.random() < 0.7))
        elif draw < 0.65:
            faults.append(PowerCut(at=at, ticks=random.randint(1, 50), absent=who, absent_ticks=lasting))
        elif draw < 0.8:
            sides = (tuple(names[:2]), tuple(names[2:]))
            faults.append(Partition(at=at, ticks=lasting, sides=sides))
        elif draw < 0.9:
            faults.append(OneWay(at=at, ticks=lasting, sender=random.choice(names), receiver=who))
        else:
            kinds = random.choice(setting.messages)
            faults.append(
                HoldKind(at=at, ticks=min(lasting, 100), kind=kinds, by=random.choice((0, 40)), spared=(who,))
            )
        at += random.choice((10, 30, 60, 150))
        random.shuffle(names)
    return setting.plan(
        group=group,
        network=Network(delay_max=random.choice((3, 10, 30)), loss=random.choice((0.0, 0.0, 0.1))),
        load=Load(clients=2, operations=40, bursts=8, keys=2, pipeline=random.choice((2, 8))),
        parameters={"status_ticks": 50} if "status_ticks" in setting.record.parameters else {},
        interval=random.choice((3, 9)),
        window=18,
        batch_requests=random.choice((1, 4)),
        ticks=1200,
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
    )
