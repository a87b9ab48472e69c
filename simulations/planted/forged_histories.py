"""The group leaves its protocol by force under load, twice, and one member reports what was never decided."""

from __future__ import annotations

from bftkit.sim.faults import Lie
from bftkit.sim.faults.changes import Switch
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting

LINES = (36,)
NEEDS = ("liar",)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    others = setting.others(group)
    liar = random.choice(group.names)
    return setting.plan(
        group=group,
        interval=random.choice((8, 16)),
        window=32,
        load=Load(clients=3, operations=200, bursts=4, keys=4, pipeline=2),
        batch_requests=2,
        faults=(
            Lie(at=0, who=liar, kind="false-histories"),
            # It hears of the command first, so that its report is among the first that others have.
            Switch(at=random.randint(20, 200), protocol=random.choice(others), forced=True, to=(liar,)),
            Switch(at=random.randint(600, 800), protocol=random.choice(others), forced=True, to=(liar,)),
        ),
        ticks=1200,
    )
