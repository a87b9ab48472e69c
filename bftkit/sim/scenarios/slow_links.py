"""f members sit behind 256 kbit/s: the others keep at least four fifths of the throughput."""

from bftkit.sim.faults import SlowLink
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting, throughput, without_faults

LINES = (6,)
NEEDS = ("slow-leader",)
FIGURE = "throughput, as a share of the fault-free"
AT_LEAST = 0.8

measure = throughput
baseline = without_faults


def plan(setting: Setting) -> Plan:
    group = setting.smallest()
    slow = setting.random.sample(group.names, group.f + group.c)
    ticks = 3000
    # Ten times what such a link carries, at a pace: a leader behind it has to be replaced first.
    load = Load(clients=8, operations=1200, bursts=1, keys=64, poison=0.0, per_second=50)
    faults = tuple(SlowLink(at=0, ticks=ticks, who=who, bits_per_second=256_000) for who in slow)
    return setting.plan(group=group, load=load, ticks=ticks, faults=faults)
