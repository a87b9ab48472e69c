"""Trap: a leader keeps one member in the dark and answers reads with the past: reads are answered all the same."""

from bftkit.sim.faults import Lie
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting

NEEDS = ("liar",)


def plan(setting: Setting) -> Plan:
    kind = setting.random.choice(("reads-blocker", "reads-blocker", "stale-reads", "half-silent"))
    return setting.plan(load=Load(clients=5, keys=1), faults=(Lie(at=0, who="m0", kind=kind),))
