"""A leader that is slow on purpose, always just in time: it is replaced, and half the throughput stays."""

from bftkit.sim.faults import Lie
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import STEADY, Setting, must_replace, throughput, without_faults

LINES = (31,)
NEEDS = ("liar", "slow-leader")
FIGURE = "throughput, as a share of the fault-free"
AT_LEAST = 0.5

baseline = without_faults
measure = throughput
watch = must_replace


def plan(setting: Setting) -> Plan:
    ticks = setting.random.choice((380, 700, 900))
    lie = Lie(at=0, who="m0", kind="slow-leader", options={"ticks": ticks})
    return setting.plan(load=STEADY, ticks=5000, faults=(lie,))
