"""Members lose power while they make the state durable that the next epoch begins with, and are away for a while.

Of four members that bear one crash, two: more than the group bears for ever, so the epoch waits until they are back.
"""

from __future__ import annotations

from bftkit.sim.faults.changes import CrashAtStep, Switch
from bftkit.sim.plan import Group, Load, Plan
from bftkit.sim.scenarios import Setting

LINES = (34,)
NEEDS = ("power-cut",)


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = setting.smallest() if setting.record.byzantine else Group(members=4, f=0, c=1)
    others = setting.others(group)
    two = random.sample(group.names[1:], 2)
    crashes = [CrashAtStep(at=200, who=who, step="crossing", ticks=random.randint(200, 500)) for who in two]
    return setting.plan(
        group=group,
        interval=4,
        window=16,
        load=Load(clients=3, operations=150, bursts=6, keys=4),
        faults=(*crashes, Switch(at=250, protocol=random.choice(others))),
        ticks=1200,
    )
