"""Packets overtake each other: one in five is held up, by as much as a hundred times the usual delay."""

from bftkit.sim.links import Network
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (3,)
NEEDS = ("loss",)


def plan(setting: Setting) -> Plan:
    return setting.plan(network=Network(delay_max=20, straggling=0.2))
