"""Leaders fall one after the other, some right after they opened their view, and the power fails in between.

Short runs with short timeouts: what a member wrote down is read again and again, in the middle of view changes.
"""

from __future__ import annotations

from bftkit.sim.faults import LEADER, Crash, Fault, PowerCut
from bftkit.sim.links import Network
from bftkit.sim.plan import Group, Load, Plan
from bftkit.sim.scenarios import Setting

LINES = (12, 13)
NEEDS = ("leader-crash",)


def plan(setting: Setting) -> Plan:
    random = setting.random
    sizes = ((4, 1, 0), (4, 1, 0), (6, 1, 1), (3, 0, 1)) if setting.record.byzantine else ((3, 0, 1), (5, 0, 2))
    members, f, c = random.choice(sizes)
    group = Group(members=max(members, setting.record.members_needed(f, c)), f=f, c=c)
    faults: list[Fault] = []
    at = 0
    while at < 2000:
        at += random.randint(150, 500)
        if random.random() < 0.3:
            absent = random.choice(group.names)
            absence = random.choice((100, 700))
            faults.append(PowerCut(at=at, ticks=random.randint(1, 80), absent=absent, absent_ticks=absence))
            continue
        faults.append(Crash(at=at, who=LEADER, ticks=random.randint(50, 900)))
        # About now the next one has opened its view; its first slots are under way.
        at += random.randint(150, 350)
        faults.append(Crash(at=at, who=LEADER, ticks=random.randint(1, 60), power=random.random() < 0.5))
    return setting.plan(
        group=group,
        network=Network(delay_max=random.choice((3, 10, 30)), loss=random.choice((0.0, 0.05, 0.2))),
        load=Load(clients=3, operations=180, bursts=9, keys=2, pipeline=random.choice((4, 8))),
        parameters={"view_timeout": 150} if "view_timeout" in setting.record.parameters else {},
        interval=random.choice((2, 8)),
        window=16,
        segment_bytes=random.choice((4 << 10, 1 << 20)),
        batch_requests=random.choice((1, 2)),
        ticks=2400,
        faults=tuple(faults),
    )
