"""A source of the state serves corrupt chunks to members that come back under load: others are asked instead."""

from bftkit.sim.faults import Fault, Lie, Wipe
from bftkit.sim.plan import Group, Load, Plan
from bftkit.sim.scenarios import Setting

LINES = (26,)
NEEDS = ("liar",)


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = Group(members=setting.record.members_needed(1, 1), f=1, c=1)
    liar, late = random.sample(group.names, 2)
    faults: list[Fault] = [Lie(at=0, who=liar, kind="bad-chunks")]
    # It is away until the others have cut the log that it would need.
    faults.append(Wipe(at=random.randint(100, 300), who=late, ticks=1200))
    load = Load(operations=330, pipeline=1, bursts=16)
    return setting.plan(group=group, load=load, interval=2, window=4, faults=tuple(faults))
