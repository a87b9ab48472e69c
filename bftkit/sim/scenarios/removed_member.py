"""A member is away while it is removed, and comes back with its old disk and keys: nobody takes it for a member."""

from bftkit.sim.faults import Crash
from bftkit.sim.faults.changes import Replace, Switch
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (38,)
NEEDS = ("power-cut",)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    others = setting.others(group)
    removed = group.names[-1]
    return setting.plan(
        group=group,
        spares=1,
        faults=(
            Crash(at=300, who=removed, ticks=random.choice((1000, 2000)), power=False),
            Replace(at=320, who=removed, by=f"m{group.members}", protocol=random.choice(others)),
            Switch(at=1500, protocol=random.choice(others)),
        ),
        ticks=3500,
    )
