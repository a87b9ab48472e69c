"""Trap: members with different stable checkpoints change the view, and the low mark is counted over the wrong ones."""

from bftkit.sim.faults import LEADER, Crash, Fault, OneWay
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting

NEEDS = ("partition", "leader-crash")


def plan(setting: Setting) -> Plan:
    random, names = setting.random, setting.smallest().names
    faults: list[Fault] = []
    for at in range(200, 5000, 1200):
        # One member hears less than a quorum, so its checkpoints lag by up to a window when the leader falls.
        deaf, *others = random.sample(names, len(names))
        faults += [OneWay(at=at, ticks=500, sender=sender, receiver=deaf) for sender in others[:2]]
        faults.append(Crash(at=at + random.randint(200, 450), who=LEADER, ticks=800, power=False))
    load = Load(operations=400, bursts=24, pipeline=8)
    return setting.plan(load=load, interval=2, window=4, ticks=5200, faults=tuple(faults))
