"""A member dies at a step of a switch: seed by seed each member at each step, and then all of them lose power."""

from bftkit.sim.faults import PowerCut
from bftkit.sim.faults.changes import PLANNED_STEPS, CrashAtStep, Switch
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (34,)
NEEDS = ("power-cut",)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    others = setting.others(group)
    step, member = divmod(setting.seed, group.members)
    who = group.names[member]
    return setting.plan(
        group=group,
        interval=4,
        window=16,
        faults=(
            CrashAtStep(
                at=300,
                who=who,
                step=PLANNED_STEPS[step % len(PLANNED_STEPS)],
                ticks=random.randint(20, 600),
                power=random.random() < 0.6,
            ),
            Switch(at=400, protocol=random.choice(others)),
            CrashAtStep(
                at=1300,
                who=random.choice(group.names),
                step=random.choice(PLANNED_STEPS),
                ticks=random.randint(20, 600),
            ),
            Switch(at=1400, protocol=random.choice(others)),
            PowerCut(at=1400 + random.randint(1, 150), ticks=random.randint(1, 100)),
        ),
    )
