"""The group changes under so much load that the protocol has decided more than the epoch's last slot when it ends."""

from __future__ import annotations

from bftkit.sim.faults.changes import Switch
from bftkit.sim.links import Network
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting

LINES = (35,)


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    others = setting.others(group)
    deep = {"pipeline_depth": 16} if "pipeline_depth" in setting.record.parameters else {}
    return setting.plan(
        group=group,
        interval=random.choice((1, 2, 4)),
        window=32,
        network=Network(delay_max=random.choice((3, 10, 30))),
        load=Load(clients=8, operations=600, bursts=4, keys=4, pipeline=8, together=0.0),
        batch_requests=random.choice((1, 2)),
        parameters=deep,
        faults=(
            Switch(at=random.randint(20, 200), protocol=setting.protocol),
            Switch(at=random.choice((350, 650)), protocol=random.choice(others)),
        ),
        ticks=1200,
    )
