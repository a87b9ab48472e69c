"""Leaders are cut off with a part of the group, again and again: two at a time, and few know what was chosen.

Short runs in which a leader is lost after three missed beats of 10 ms. What the old leader still proposes on its side,
and what its followers wrote down of it, meets what the new one does; the word of what was chosen is held up.
"""

from __future__ import annotations

from bftkit.sim.faults import FOLLOWER, LEADER, Crash, Fault, HoldKind, OneWay, PowerCut
from bftkit.sim.links import Network
from bftkit.sim.plan import Group, Load, Plan
from bftkit.sim.scenarios import Setting

LINES = (5, 12)
NEEDS = ("partition", "leader-crash")


def plan(setting: Setting) -> Plan:
    random = setting.random
    members, f, c = (3, 0, 1) if random.random() < 0.5 else (5, 0, 2)
    group = Group(members=max(members, setting.record.members_needed(f, c)), f=f, c=c)
    names = list(group.names)
    told = [kind for kind in ("Commit", "Chosen") if kind in setting.messages]
    faults: list[Fault] = []
    at = random.randint(50, 120)
    while at < 900:
        random.shuffle(names)
        if random.random() < 0.7:
            # The leader is alone with some; it does not know it yet.
            fellows = random.randint(0, len(names) // 2 - 1)
            lasting = random.choice((60, 120, 200))
            for name in names[fellows:]:
                faults.append(OneWay(at=at, ticks=lasting, sender=LEADER, receiver=name))
                faults.append(OneWay(at=at, ticks=lasting, sender=name, receiver=LEADER))
        if random.random() < 0.6:
            kind = random.choice((*told, *told, *setting.messages))
            spared = tuple(names[: random.randint(0, 1)])
            faults.append(
                HoldKind(at=at, ticks=random.choice((60, 200)), kind=kind, by=random.choice((0, 0, 40)), spared=spared)
            )
        at += random.choice((5, 30, 60, 100))
        if random.random() < 0.6:
            who = random.choice((LEADER, FOLLOWER, *names))
            faults.append(Crash(at=at, who=who, ticks=random.choice((1, 10, 60, 150)), power=random.random() < 0.7))
        elif random.random() < 0.2:
            faults.append(PowerCut(at=at, ticks=random.randint(1, 40), absent=names[0], absent_ticks=150))
        at += random.choice((10, 40, 80))
    quick = {"beat": 10, "silence": 3, "spread": 20, "patience": 20}
    return setting.plan(
        group=group,
        network=Network(delay_max=random.choice((2, 5)), loss=random.choice((0.0, 0.0, 0.1))),
        load=Load(clients=4, operations=240, bursts=12, keys=2, pipeline=random.choice((4, 8))),
        parameters={name: value for name, value in quick.items() if name in setting.record.parameters},
        interval=random.choice((8, 16)),
        window=32,
        batch_requests=random.choice((1, 1, 4)),
        ticks=1100,
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
    )
