"""View changes whose certificates miss votes, repeat them or take them from another view."""

from bftkit.sim.faults import Lie
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (23,)
NEEDS = ("liar",)
MESSAGES = ("ViewChange", "NewView")


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = setting.smallest(random.choice((1, 1, 1, 2)))
    liars = random.sample(group.names, group.f)
    return setting.plan(group=group, faults=tuple(Lie(at=0, who=who, kind="forged-certificates") for who in liars))
