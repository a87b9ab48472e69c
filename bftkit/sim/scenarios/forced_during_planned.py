"""A planned change is ordered, prepared or committed when the members are told to leave: one of both ends the epoch."""

from bftkit.sim.faults import FOLLOWER, Crash
from bftkit.sim.faults.changes import CrashAtStep, Switch
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (35,)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    others = setting.others(group)
    first = 300 + random.randint(0, 40)
    second = first + random.randint(0, 250)
    told = list(group.names)
    random.shuffle(told)
    return setting.plan(
        group=group,
        interval=random.choice((2, 4, 8)),
        window=16,
        faults=(
            Switch(at=first, protocol=random.choice(others)),
            Switch(
                at=second,
                protocol=random.choice(others),
                forced=True,
                to=tuple(told[: random.randint(1, len(told))]),
            ),
            Switch(at=second, protocol=random.choice(others), forced=True, to=tuple(told[-1:])),
            Crash(at=second + random.randint(0, 60), who=FOLLOWER, ticks=random.randint(20, 800)),
            CrashAtStep(at=1400, who=random.choice(group.names), step="signed", ticks=random.randint(20, 400)),
            Switch(at=1400, protocol=random.choice(others)),
            Switch(at=1400 + random.randint(60, 200), protocol=random.choice(others), forced=True),
        ),
        ticks=2400,
    )
