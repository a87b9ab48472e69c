"""A new view that leaves out a prepared request: its leader is convicted, and the request is executed."""

from bftkit.sim.faults import Crash, Fault, Lie
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting

LINES = (24,)
NEEDS = ("liar", "leader-crash")
MESSAGES = ("NewView",)


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    # m1 leads the second view. The first leader falls in the middle of its slots, for longer than a view timeout.
    faults: tuple[Fault, ...] = (
        Lie(at=0, who="m1", kind="omit-prepared"),
        Crash(at=300 + setting.random.randint(0, 300), who="m0", ticks=2500, power=False),
    )
    load = Load(clients=4, operations=330, bursts=16, pipeline=8)
    return setting.plan(group=group, load=load, ticks=3600, faults=faults)
