"""A client whose requests only some members can authenticate: half the throughput stays, and every view."""

from bftkit.sim.faults import LyingClient
from bftkit.sim.plan import Plan
from bftkit.sim.running import Result
from bftkit.sim.scenarios import SATURATED_TICKS, SATURATING, Setting, throughput, without_faults

LINES = (30,)
FIGURE = "throughput, as a share of the fault-free; 0 after any view change"
AT_LEAST = 0.5

baseline = without_faults


def plan(setting: Setting) -> Plan:
    return setting.plan(
        load=SATURATING, ticks=SATURATED_TICKS, faults=(LyingClient(at=0, name="liar0", kind="half-authentic"),)
    )


def measure(result: Result, baseline: Result) -> float:
    return throughput(result, baseline) if result.view_changes == 0 else 0.0
