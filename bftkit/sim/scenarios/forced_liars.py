"""Among those that leave the protocol by force one lies: in its report, in the agreement, in its vote on the ending."""

from bftkit.sim.faults import Lie, PowerCut
from bftkit.sim.faults.changes import Switch
from bftkit.sim.plan import Plan
from bftkit.sim.scenarios import Setting

LINES = (35, 36)
NEEDS = ("liar",)
OTHERS = ("thin-reports", "forged-reports", "bedrock-silence", "few-reports", "false-holding", "omit-prepared")


def plan(setting: Setting) -> Plan:
    random, group = setting.random, setting.smallest()
    others = setting.others(group)
    liar = random.choice(group.names)
    kind = random.choice(("two-reports", "two-offers", "two-endings")) + "+" + random.choice(OTHERS)
    options: dict[str, bool | int | str] = {}
    if "thin-reports" in kind:
        options["old"] = random.random() < 0.5
    if "bedrock-silence" in kind:
        options["half"] = True
    return setting.plan(
        group=group,
        interval=4,
        window=16,
        faults=(
            Lie(at=0, who=liar, kind=kind, options=options),
            Switch(at=400 + random.randint(0, 60), protocol=random.choice(others), forced=True),
            PowerCut(at=460 + random.randint(1, 60), ticks=random.randint(1, 60)),
            Switch(at=1600, protocol=random.choice(others), forced=True),
        ),
        ticks=2400,
    )
