"""Trap: a leader falls when later slots are prepared and earlier ones are not; the new view leaves the gaps."""

from bftkit.sim.faults import LEADER, Crash, Fault, Weather
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting

NEEDS = ("loss", "leader-crash")


def plan(setting: Setting) -> Plan:
    faults: list[Fault] = []
    for at in range(200, 3800, 1200):
        # Half of what the leader proposes is lost, and it is gone before it can say it again.
        faults.append(Weather(at=at, ticks=90, loss=0.5, delay_max=3))
        faults.append(Crash(at=at + 60 + setting.random.randint(0, 30), who=LEADER, ticks=700, power=False))
    load = Load(clients=4, operations=330, bursts=16, pipeline=16)
    return setting.plan(load=load, ticks=4000, parameters={"pipeline_depth": 8}, faults=tuple(faults))
