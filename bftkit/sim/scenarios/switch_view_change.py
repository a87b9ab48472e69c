"""A switch is ordered while the leader is away, and the next one as it goes: both come to an end all the same."""

from bftkit.sim.faults import LEADER, Crash
from bftkit.sim.faults.changes import Switch
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

NEEDS = ("leader-crash",)
MESSAGES = ("NewView", "Promise")
"""Of protocols that replace a leader; under others it is a member like all."""
LINES = (36,)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    others = setting.others(group)
    return setting.plan(
        group=group,
        faults=(
            Crash(at=300, who=LEADER, ticks=2500),
            Switch(at=300 + random.randint(1, 500), protocol=setting.protocol),
            Switch(at=2600, protocol=random.choice(others)),
            Crash(at=2600 + random.randint(0, 60), who=LEADER, ticks=1500),
        ),
        ticks=4200,
    )
