"""A client sends two operations under one sequence number, each to other members first: one has a result."""

from bftkit.sim.faults import LyingClient
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (32,)


def plan(setting: Setting) -> Plan:
    return setting.plan(faults=(LyingClient(at=0, name="liar0", kind="double-number"),))
