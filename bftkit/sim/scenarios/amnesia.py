"""Members come back with empty disks: they promise nothing any more, follow in silence, and A holds."""

from bftkit.sim.faults import Crash, Wipe
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (18,)
NEEDS = ("follower-crash",)


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = setting.smallest(random.choice((1, 1, 2)))
    able = group.names if setting.survives("leader-crash") else group.names[1:]
    forgetful = random.sample(able, group.f + group.c)
    wipes = [Wipe(at=random.randint(200, 1500), who=who, ticks=random.randint(10, 800)) for who in forgetful]
    # Once more, with what the new disk has: that the first was lost must stand there.
    again = Crash(at=2400, who=forgetful[0], ticks=100)
    return setting.plan(group=group, interval=4, window=16, faults=(*wipes, again))
