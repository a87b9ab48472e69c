"""Everything at once: liars, crashes, bad disks, partitions, wrong clocks and lying clients, drawn by the seed.

What goes wrong is what the protocol claims to survive, and no more of it at a time than f and c allow. Each run meets
a few faults that belong together rarely, so that in ten thousand runs most pairs and triples of faults meet.
"""

from __future__ import annotations

from random import Random
from typing import Final

from bftkit.core.ordering import ProtocolRecord
from bftkit.sim import faults as fault
from bftkit.sim.faults import FOLLOWER, LEADER, Fault
from bftkit.sim.links import Network
from bftkit.sim.plan import Group, Load, Plan
from bftkit.sim.scenarios import Setting

OPERATIONS_MIN: Final = 300

NETWORK: Final = (1, 2, 3, 4, 5, 6)
DISKS: Final = (12, 13, 15, 16, 18, 19)
CLIENTS: Final = (32, 46)
BYZANTINE: Final = (11, 14, 17, 20, 21, 22, 23, 24, 25, 27, 29, 31, 33, 45)

LIES: Final = (
    "equivocate",
    "equivocate",
    "liar",
    "silent",
    "half-silent",
    "slow-leader",
    "unfair-leader",
    "wrong-digests",
    "forged-certificates",
    "omit-prepared",
    "forged-checkpoints",
    "bad-chunks",
    "withhold",
    "replay",
    "far-future",
    "flood",
    "garbage",
    "stale-reads",
    "mutate",
    "mutate",
)


def lines(record: ProtocolRecord) -> tuple[int, ...]:
    """What a campaign over this scenario must really inject."""
    return tuple(sorted((*NETWORK, *DISKS, *CLIENTS, *(BYZANTINE if "liar" in record.survives else ()))))


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = _group(setting)
    interval = random.choice((2, 4, 8))
    ticks = random.choice((1500, 3000, 6000))
    faults: list[Fault] = []
    names = list(group.names)
    random.shuffle(names)
    faulty = random.randint(0, group.f) if random.random() < 0.7 else 0
    broken, rest = names[:faulty], names[faulty:]
    for member in broken:
        faults += _broken_member(random, member, group, ticks)
    able = [name for name in rest if name != "m0" or setting.survives("leader-crash")]
    for member in able[: group.f + group.c - faulty]:
        if random.random() < 0.25:
            faults.append(fault.Wipe(at=random.randint(0, ticks), who=member, ticks=random.randint(1, 800)))
    for _ in range(random.randint(1, 7)):
        faults += _trouble(random, group, ticks)
    if random.random() < 0.3:
        faults.append(fault.ClientDies(at=random.randint(0, ticks), name="c0"))
    if random.random() < 0.4:
        kind = random.choice(("double-number", "half-authentic", "flood", "garbage", "replay", "mute"))
        faults.append(fault.LyingClient(at=random.randint(0, ticks // 2), name="liar0", kind=kind))
    return setting.plan(
        group=group,
        network=_network(random),
        load=Load(
            clients=random.randint(1, 5),
            operations=420,
            bursts=random.choice((4, 8, 16)),
            keys=random.randint(1, 6),
            pipeline=random.choice((1, 4, 8, 16)),
        ),
        interval=interval,
        window=2 * interval * random.choice((1, 2)),
        segment_bytes=random.choice((4 << 10, 1 << 20)),
        ticks=ticks,
        faults=tuple(sorted(faults, key=lambda one: one.at)),
    )


def _group(setting: Setting) -> Group:
    sizes: tuple[tuple[int, int, int], ...]
    if setting.record.byzantine:
        sizes = ((4, 1, 0),) * 6 + ((6, 1, 1), (7, 2, 0), (5, 1, 0), (3, 0, 1), (1, 0, 0))
    else:
        sizes = ((3, 0, 1),) * 4 + ((5, 0, 2), (4, 0, 1), (2, 0, 0), (1, 0, 0))
    members, f, c = setting.random.choice(sizes)
    return Group(members=members, f=f, c=c)


def _network(random: Random) -> Network:
    return Network(
        delay_max=random.choice((3, 10, 10, 40)),
        loss=random.choice((0.0, 0.0, 0.0, 0.05, 0.3)),
        duplication=random.choice((0.0, 0.0, 0.1, 0.5)),
        straggling=random.choice((0.0, 0.0, 0.0, 0.05)),
    )


def _broken_member(random: Random, member: str, group: Group, ticks: int) -> list[Fault]:
    """A member that counts as Byzantine: it lies, runs twice, or has a disk that cannot be trusted."""
    at = random.choice((0, 0, random.randint(0, ticks)))
    draw = random.random()
    if draw < 0.10:
        others = [name for name in group.names if name != member]
        random.shuffle(others)
        cut = random.randint(1, len(others) - 1)
        both = others[: random.randint(0, 1)]
        return [fault.Twin(at=at, who=member, left=tuple(others[:cut]), right=(*others[cut:], *both))]
    if draw < 0.16:
        return [fault.Rollback(at=at, who=member, ticks=random.randint(100, ticks))]
    if draw < 0.22:
        return [fault.LyingDisk(at=at, who=member, ticks=random.randint(100, ticks))]
    if draw < 0.28:
        return [fault.FlipBit(at=random.randint(200, ticks), who=member, place=random.getrandbits(40), ticks=300)]
    kind = random.choice(LIES)
    options: dict[str, bool | int | str] = {}
    if kind == "mutate":
        options = {"seed": random.getrandbits(32), "scope": random.choice(("small", "small", "any"))}
    if kind == "slow-leader":
        options = {"ticks": random.choice((100, 300, 900))}
    return [fault.Lie(at=at, who=member, kind=kind, options=options)]


def _trouble(random: Random, group: Group, ticks: int) -> list[Fault]:
    at = random.randint(0, ticks)
    long = random.choice((50, 300, 1000, 3000))
    lasting = random.randint(1, long)
    who = random.choice((LEADER, LEADER, FOLLOWER, *group.names))
    draw = random.random()
    if draw < 0.18:
        return [fault.Crash(at=at, who=who, ticks=lasting, power=random.random() < 0.7)]
    if draw < 0.22:
        # the next leader falls as well
        return [fault.Crash(at=at + step * 400, who=LEADER, ticks=lasting) for step in range(random.randint(2, 4))]
    if draw < 0.30:
        return [fault.PowerCut(at=at, ticks=random.randint(1, 300))]
    if draw < 0.38:
        return [fault.CutAtDisk(at=at, who=who, operation=random.randint(1, 20), ticks=random.randint(50, 800))]
    if draw < 0.50:
        names = [*group.names, *(f"c{index}" for index in range(3) if random.random() < 0.3)]
        random.shuffle(names)
        cut = random.randint(0, len(names))
        return [fault.Partition(at=at, ticks=lasting, sides=(tuple(names[:cut]), tuple(names[cut:])))]
    if draw < 0.60:
        others = [name for name in group.names if name != who]
        other = random.choice(others) if others else who
        one_way = fault.OneWay(at=at, ticks=lasting, sender=who, receiver=other)
        if random.random() < 0.5:
            return [one_way]
        back = fault.OneWay(at=at, ticks=lasting, sender=other, receiver=who)
        return [one_way, back]  # these two need a third to reach each other: a bridge
    if draw < 0.66:
        return [fault.Pause(at=at, who=who, ticks=lasting)]
    if draw < 0.72:
        far = random.choice((100, 60_000, 2_592_000_000))
        return [fault.ClockJump(at=at, who=who, ms=random.choice((-far, far)))]
    if draw < 0.75:
        return [fault.ClockRate(at=at, who=who, ppm=random.choice((100_000, 10_000_000)), ticks=lasting)]
    if draw < 0.81:
        return [fault.DiskFull(at=at, who=who, room=random.randint(0, 2000), ticks=lasting)]
    if draw < 0.86:
        return [fault.SyncFails(at=at, who=who, ticks=random.randint(50, 1000))]
    if draw < 0.90:
        return [fault.SlowDisk(at=at, who=who, us=random.choice((2_000, 20_000, 100_000)), ticks=lasting)]
    if draw < 0.95:
        return [fault.SlowLink(at=at, who=who, bits_per_second=256_000, ticks=lasting)]
    return [
        fault.Weather(
            at=at,
            ticks=lasting,
            loss=random.choice((0.0, 0.1, 0.3, 0.6)),
            duplication=random.choice((0.0, 0.5)),
            straggling=random.choice((0.0, 0.05)),
            delay_max=random.choice((3, 40, 200)),
        )
    ]
