"""Half of all packets come twice, some of the copies much later."""

from bftkit.sim.links import Network
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (2,)
NEEDS = ("loss",)


def plan(setting: Setting) -> Plan:
    return setting.plan(network=Network(duplication=0.5, straggling=0.02))
