"""A client asks all the time and takes no answer: nothing piles up for it."""

from bftkit.sim.faults import LyingClient
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (47,)


def plan(setting: Setting) -> Plan:
    return setting.plan(faults=(LyingClient(at=0, name="liar0", kind="mute"),))
