"""Leaders that equivocate: they propose one thing to some members and another thing to the others."""

from bftkit.sim.faults import Lie
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (20,)
NEEDS = ("liar",)


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = setting.smallest(random.choice((1, 1, 1, 2)))
    # Those that lead first, so that each of them leads.
    liars = group.names[: group.f]
    return setting.plan(group=group, faults=tuple(Lie(at=0, who=who, kind="equivocate") for who in liars))
