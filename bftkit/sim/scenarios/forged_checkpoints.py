"""Checkpoints that are forged, or that a minority signed: none becomes stable."""

from bftkit.sim.faults import Lie
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (25,)
NEEDS = ("liar",)


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = setting.smallest(random.choice((1, 1, 1, 2)))
    liars = random.sample(group.names, group.f)
    return setting.plan(group=group, faults=tuple(Lie(at=0, who=who, kind="forged-checkpoints") for who in liars))
