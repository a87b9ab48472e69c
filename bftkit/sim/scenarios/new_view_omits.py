"""A new view that leaves out a prepared request: its leader is convicted, and the request is executed."""

from bftkit.sim.faults import Crash, Fault, Lie
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (24,)
NEEDS = ("liar", "leader-crash")


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    # m1 leads the second view, and every view change ends with one of its own new views.
    faults: list[Fault] = [Lie(at=0, who="m1", kind="omit-prepared")]
    for at in range(200, 2900, 900):
        faults.append(Crash(at=at + setting.random.randint(0, 300), who="leader", ticks=600, power=False))
    return setting.plan(group=group, faults=tuple(faults))
