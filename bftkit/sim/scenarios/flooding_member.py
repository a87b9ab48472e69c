"""A member floods the others with a hundred times its share: seven tenths of the throughput stay."""

import attrs

from bftkit.sim.faults import Lie
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import SATURATED_TICKS, SATURATING, Setting, throughput, without_faults

LINES = (45,)
NEEDS = ("liar",)
FIGURE = "throughput, as a share of the fault-free"
AT_LEAST = 0.7
USUAL_STEPS = 4

measure = throughput
baseline = without_faults


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    who = setting.random.choice(group.names[1:])
    # A hundred frames for each of its own, until it has sent as much as a simulation can bear.
    flood = Lie(at=0, who=who, kind="flood", options={"times": 100, "most": 10_000})
    # Where a decision takes more steps, as many of them as elsewhere take longer.
    times = max(1, setting.record.steps // USUAL_STEPS)
    load = attrs.evolve(SATURATING, operations=times * SATURATING.operations)
    return setting.plan(group=group, load=load, ticks=times * SATURATED_TICKS, faults=(flood,))
