"""The sharper kinds of liars in turn, each where it does most harm, in a small group that loses its leader twice.

Short runs: one round through all kinds takes ten seconds.
"""

from __future__ import annotations

from typing import Final

from bftkit.sim.faults import FOLLOWER, LEADER, Crash, Fault, Lie, OneWay
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import Setting

LINES = ()
FIRST_LEADERS: Final = (
    "echo",
    "withhold",
    "equivocate",
    "wrong-digests",
    "stale-reads+wrong-replies",
)
"""They lie while they lead, so they lead from the start."""
NEXT_LEADERS: Final = (
    "bad-new-leader",
    "forge-requests",
    "repeated-votes",
    "forgetful-change",
    "echo+bad-new-leader",
    "echo+forgetful-change",
    "repeated-votes+echo",
    "omit-prepared",
    "forged-certificates",
    "high-stable",
    "framer",
    "false-claims",
    "bad-votes",
    "forged-checkpoints",
    "bad-chunks",
)
"""They lie when a view ends, or at any time, so they follow the first leader."""
KINDS: Final = (*NEXT_LEADERS, *FIRST_LEADERS)
WAYS: Final = ("two", "other", "other", "unsigned", "nothing", "gaps")
"""Of opening a view that is none."""


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = setting.smallest()
    kind = KINDS[setting.seed % len(KINDS)]
    liar = "m0" if kind in FIRST_LEADERS else "m1"
    others = [name for name in group.names if name != liar]
    first = random.randint(250, 500)
    faults: list[Fault] = [
        Crash(at=first, who="m0" if liar == "m1" else FOLLOWER, ticks=random.randint(300, 1200)),
        Crash(at=random.randint(700, 1400), who=random.choice((LEADER, FOLLOWER)), ticks=random.randint(50, 500)),
        OneWay(at=random.randint(0, first), ticks=500, sender=random.choice(others), receiver=random.choice(others)),
    ]
    if group.f:
        options: dict[str, bool | int | str] = {"way": random.choice(WAYS)} if "bad-new-leader" in kind else {}
        faults.append(Lie(at=random.choice((0, 0, 300)), who=liar, kind=kind, options=options))
    return setting.plan(
        group=group,
        load=Load(clients=3, operations=150, bursts=6, keys=2, pipeline=random.choice((2, 8))),
        parameters={"view_timeout": 200} if "view_timeout" in setting.record.parameters else {},
        interval=random.choice((2, 8)),
        window=16,
        batch_requests=random.choice((1, 4)),
        ticks=1800,
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
    )
