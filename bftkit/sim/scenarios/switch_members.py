"""Members join and leave while a switch is under way, and the protocol changes with the roster: 3 to 4 to 3, 4 to 5."""

from bftkit.sim.faults import Crash, Fault
from bftkit.sim.faults.changes import Join, Leave, Replace, Switch
from bftkit.sim.plan import Group, Plan
from bftkit.sim.scenarios import Setting

LINES = (37,)


def plan(setting: Setting) -> Plan:
    random = setting.random
    smallest = setting.smallest()
    group = Group(members=smallest.members, f=smallest.f, c=smallest.c)
    larger = Group(members=group.members + 1, f=group.f, c=group.c)
    spare, other = f"m{group.members}", f"m{group.members + 1}"
    faults: list[Fault] = [
        Join(at=300, who=spare, protocol=random.choice(setting.others(larger))),
        Switch(at=300 + random.randint(0, 20), protocol=random.choice(setting.others(group))),
        Join(at=300 + random.randint(0, 40), who=other),
        Replace(at=1200, who=random.choice(group.names), by=other),
        Leave(at=1200 + random.randint(0, 30), who=random.choice(group.names)),
        Leave(at=2100, who=random.choice(group.names), protocol=random.choice(setting.others(group))),
        Join(at=2100 + random.randint(0, 30), who=other),
    ]
    if setting.survives("power-cut"):
        who = random.choice((spare, other, *group.names))
        faults.append(Crash(at=300 + random.randint(0, 1900), who=who, ticks=random.randint(50, 600)))
    return setting.plan(group=group, spares=2, faults=tuple(faults))
