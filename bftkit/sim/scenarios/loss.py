"""Three packets in ten are lost."""

from bftkit.sim.links import Network
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (1,)


def plan(setting: Setting) -> Plan:
    return setting.plan(network=Network(loss=0.3))
