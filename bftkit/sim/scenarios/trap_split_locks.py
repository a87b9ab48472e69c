"""Trap: in each view another member alone sees a slot committed, before the leader falls: locks over several views."""

from bftkit.sim.faults import LEADER, Crash, Fault, OneWay
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting

NEEDS = ("partition", "leader-crash")


def plan(setting: Setting) -> Plan:
    random, names = setting.random, setting.smallest().names
    faults: list[Fault] = []
    for number, at in enumerate(range(300, 5000, 900)):
        lucky = names[(number + setting.seed) % len(names)]
        for sender in names:
            for receiver in names:
                # In the middle of some slot, only one member still hears the others.
                if sender != receiver != lucky and random.random() < 0.8:
                    faults.append(OneWay(at=at + 20, ticks=300, sender=sender, receiver=receiver))
        faults.append(Crash(at=at + random.randint(40, 120), who=LEADER, ticks=600, power=random.random() < 0.5))
    return setting.plan(load=Load(operations=330, bursts=32, pipeline=4), ticks=5200, faults=tuple(faults))
