"""A client floods the group: its quota holds, and the others keep seven tenths of their throughput."""

from bftkit.sim.faults import LyingClient
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import SATURATED_TICKS, SATURATING, Setting, throughput, without_faults

LINES = (46,)
FIGURE = "throughput of the other clients, as a share of the fault-free"
AT_LEAST = 0.7

measure = throughput
baseline = without_faults


def plan(setting: Setting) -> Plan:
    return setting.plan(load=SATURATING, ticks=SATURATED_TICKS, faults=(LyingClient(at=0, name="liar0", kind="flood"),))
