"""The leader is gone, and the group leaves its protocol by force; members die at the steps of it, and all at once."""

from bftkit.sim.faults import LEADER, Crash, PowerCut
from bftkit.sim.faults.changes import FORCED_STEPS, CrashAtStep, Switch
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (34, 36)
NEEDS = ("power-cut",)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    others = setting.others(group)
    step, member = divmod(setting.seed, group.members)
    return setting.plan(
        group=group,
        interval=4,
        window=16,
        faults=(
            Crash(at=300, who=LEADER, ticks=900),
            CrashAtStep(
                at=310,
                who=group.names[member],
                step=FORCED_STEPS[step % len(FORCED_STEPS)],
                ticks=random.randint(20, 600),
                power=random.random() < 0.6,
            ),
            Switch(at=320, protocol=random.choice(others), forced=True),
            Switch(at=1500, protocol=random.choice(others), forced=True),
            CrashAtStep(
                at=1500,
                who=random.choice(group.names),
                step=random.choice(FORCED_STEPS),
                ticks=random.randint(20, 600),
            ),
            PowerCut(at=1500 + random.randint(1, 120), ticks=random.randint(1, 100)),
        ),
        ticks=2600,
    )
