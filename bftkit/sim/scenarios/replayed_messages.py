"""Genuine messages of another group, epoch or channel: refused every time."""

from bftkit.sim.faults import Lie
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (11,)
NEEDS = ("liar",)


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = setting.smallest(random.choice((1, 1, 1, 2)))
    liars = random.sample(group.names, group.f)
    return setting.plan(group=group, faults=tuple(Lie(at=0, who=who, kind="replay") for who in liars))
