"""A member runs twice under one identity: seed by seed, every way to divide the others between the two."""

from bftkit.sim.faults import Fault, Partition, Twin
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (20,)
NEEDS = ("liar",)


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    rest, who = divmod(setting.seed, group.members)
    member = group.names[who]
    others = [name for name in group.names if name != member]
    left: list[str] = []
    right: list[str] = []
    for name in others:
        rest, place = divmod(rest, 3)  # linked with one copy, with the other, or with both
        if place != 1:
            left.append(name)
        if place != 0:
            right.append(name)
    # Rounds in which the others are divided too, so that leaders fall and views change.
    faults: list[Fault] = [Twin(at=0, who=member, left=tuple(left), right=tuple(right))]
    for at in (500, 1500, 2300):
        alone = setting.random.choice(others)
        rest_of_them = tuple(name for name in others if name != alone)
        faults.append(Partition(at=at, ticks=400, sides=((alone,), rest_of_them)))
    return setting.plan(group=group, faults=tuple(faults))
