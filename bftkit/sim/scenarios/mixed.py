"""Everything at once: liars, crashes, disks, partitions, clocks, lying clients, switches and new members, by the seed.

What goes wrong is what the protocol claims to survive, and no more of it at a time than f and c allow. Half of the
faults come close together, within a view timeout or so: one alone is survived by any protocol, and what breaks one is
the second that comes before the first is over. Small batches, small windows and short timeouts make slots, checkpoints
and views plentiful. In two seeds of five operators change the group meanwhile: its protocol, planned or by force, its
members and their keys; in one of ten its policy does.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import attrs

from bftkit.configuration.policy import Mode, Policy
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.plugin import load_protocol
from bftkit.sim import faults as fault
from bftkit.sim.faults import FOLLOWER, LEADER, Fault
from bftkit.sim.faults.changes import PLANNED_STEPS, CrashAtStep, Join, Leave, Replace, RotateKeys, Switch
from bftkit.sim.links import Network
from bftkit.sim.plan import Group, Load, Plan
from bftkit.sim.scenarios import Setting

OPERATIONS_MIN: Final = 300
"""So many operations at least are acknowledged in every seed."""
ORDERED: Final = 440
"""So many operations are asked for. A fifth of them are strong reads, which take no slot and are not counted: some 350
remain, with a deviation of 8, and those that a client has under way when it dies are lost."""
ORDERED_AND_MORE: Final = 480
"""The same where a twentieth are best-effort reads, or where clients that do not wait for answers may die with many."""

NETWORK: Final = (1, 2, 3, 4, 5, 6)
DISKS: Final = (12, 13, 15, 16, 18, 19)
CLIENTS: Final = (32, 46)
CHANGES: Final = (34, 35, 36, 37, 38, 39)
BAD_SHARES: Final = 28
"""Of protocols that toss coins."""
SHARES: Final = 0.15
"""So many of their liars lie about their shares, too."""
CHANGING: Final = 0.4
"""In so many of all seeds, operators change the group."""
POLICIES: Final = 0.1
"""In so many, the group's policy does."""
BYZANTINE: Final = (11, 14, 17, 20, 21, 22, 23, 24, 25, 27, 29, 31, 33, 45)

LIES: Final = (
    *("echo", "stale-reads", "bad-votes+framer", "high-stable+forgetful-change", "false-claims+framer") * 3,
    *("echo+forgetful-change", "bad-new-leader+false-claims", "forge-requests+false-claims") * 4,
    *("repeated-votes+echo", "echo+bad-new-leader") * 3,
    *("forgetful-change", "bad-new-leader", "bad-votes", "high-stable", "framer", "far-views"),
    *("forged-certificates", "omit-prepared", "wrong-digests", "mutate", "withhold", "forge-requests") * 2,
    *("omit-prepared", "slow-leader", "flood") * 2,
    "equivocate",
    "liar",
    "silent",
    "half-silent",
    "unfair-leader",
    "forged-checkpoints",
    "bad-chunks",
    "replay",
    "far-future",
    "garbage",
    "reads-blocker",
)
"""Names of `bftkit.sim.adversaries`; the sharper, the more often."""


BESIDES: Final = (
    *("slow-leader",) * 4,
    "unfair-leader",
    *("flood",) * 3,
    *("withhold",) * 4,
    "replay",
    "forged-certificates",
    "forged-certificates",
    *("omit-prepared",) * 4,
    "forged-checkpoints",
    *("wrong-replies",) * 3,
    "far-future",
    "half-silent",
)
"""Lies that others are told together with."""

LYING_CLIENTS: Final = (
    *("double-number", "half-authentic", "flood", "garbage", "replay", "mute", "accomplice") * 2,
    "flood",
    "mute-after-open",
    "never-authentic",
    "overlapping",
    "second-chance",
    "shared-key",
)
"""Names of `bftkit.sim.lying_clients`."""


VIEW_CHANGES: Final = {23: "ViewChange", 24: "NewView"}
"""Lines about one message, which not every protocol has."""


def lines(record: ProtocolRecord) -> tuple[int, ...]:
    """What a campaign over this scenario must really inject."""
    messages = {message.__name__ for message in load_protocol(record.name).codec.messages.values()}
    byzantine = BYZANTINE if "liar" in record.survives else ()
    told = [line for line in byzantine if VIEW_CHANGES.get(line) in (None, *messages)]
    shares = (BAD_SHARES,) if byzantine and record.coins else ()
    return tuple(sorted((*NETWORK, *DISKS, *CLIENTS, *CHANGES, *told, *shares)))


def plan(setting: Setting) -> Plan:
    random = setting.random
    group = _group(setting)
    interval = random.choice((2, 4, 8))
    ticks = random.choice((1000, 2000, 3000))
    faults: list[Fault] = []
    names = list(group.names)
    random.shuffle(names)
    if random.random() < 0.3:
        names.sort(key=lambda name: name != "m0")  # the first leader is the one that is broken
    faulty = random.randint(1, group.f) if group.f and random.random() < 0.7 else 0
    broken, rest = names[:faulty], names[faulty:]
    if len(broken) == 2 and random.random() < 0.4:
        faults += _fellows(random, broken, group, ticks)
    else:
        for member in broken:
            faults += _broken_member(setting, random, member, group, ticks)
    able = [name for name in rest if name != "m0" or setting.survives("leader-crash")]
    for member in able[: group.f + group.c - faulty]:
        if random.random() < 0.25:
            faults += _forgetful_member(random, member, random.randint(0, ticks))
    moment = random.randint(0, ticks)
    for _ in range(random.randint(2, 7)):
        at = min(ticks, moment + random.randint(0, 600)) if random.random() < 0.5 else random.randint(0, ticks)
        faults += _trouble(random, setting, group, at)
    changing = Random(f"{setting.scenario} {setting.seed} changes")
    changes = _changes(changing, setting, group, ticks) if changing.random() < CHANGING else []
    faults += changes
    if random.random() < 0.3:
        faults.append(fault.ClientDies(at=random.randint(0, ticks), name="c0"))
    if random.random() < 0.4:
        kind = random.choice(LYING_CLIENTS)
        faults.append(fault.LyingClient(at=random.randint(0, ticks // 2), name="liar0", kind=kind))
    clients, pipeline = random.choice(((1, 8), (1, 24), (2, 8), (2, 16), (3, 8), (4, 6), (5, 8)))
    network = _network(random)
    timeouts = {"view_timeout": random.choice((150, 300, 1000))} if "view_timeout" in setting.record.parameters else {}
    policy = _policy(setting, group, timeouts)
    plan = setting.plan(
        group=group,
        spares=1 if changes else 0,
        policy=policy,
        network=network,
        load=_load(setting, random, clients, pipeline),
        parameters=timeouts,
        interval=interval,
        window=2 * interval * random.choice((1, 2)),
        segment_bytes=random.choice((4 << 10, 1 << 20)),
        batch_requests=random.choice((2, 8, 16, 1024)),
        ticks=ticks,
        calm=network.loss > 0.1 or random.random() < 0.85,  # where a third is lost for ever, time is not promised
        faults=tuple(sorted(faults, key=lambda one: one.at)),
    )
    modes = () if policy is None else policy.modes
    runs = (attrs.evolve(plan, protocol=mode.protocol, parameters=mode.parameters) for mode in modes)
    return attrs.evolve(plan, policy=None) if any(one.refusal() for one in runs) else plan


def _changes(random: Random, setting: Setting, group: Group, ticks: int) -> list[Fault]:
    """What operators order meanwhile. Only protocols come in that survive what the plan's own one does."""
    survives = set(setting.record.survives)
    others = [name for name in setting.others(group) if survives <= set(load_protocol(name).record.survives)]
    if not others:
        return []
    spare, who = f"m{group.members}", random.choice(group.names)
    changes: list[Fault] = []
    at = random.randint(0, ticks)
    for _ in range(random.choice((1, 1, 2, 2, 3, 3))):
        protocol = random.choice(others)
        offered: tuple[tuple[int, Fault], ...] = (
            (6, Switch(at=at, protocol=protocol)),
            (4, Switch(at=at, protocol=protocol, forced=True)),
            (3, RotateKeys(at=at, who=who, protocol=protocol)),
            (6, Join(at=at, who=spare, protocol=protocol)),
            (3, Leave(at=at, who=random.choice((who, spare)))),
            (4, Replace(at=at, who=who, by=spare)),
        )
        changes += random.choices([change for _, change in offered], [weight for weight, _ in offered])
        if random.random() < 0.4:
            step = random.choice(PLANNED_STEPS)
            lasting = random.randint(1, 1000)
            changes.append(CrashAtStep(at=at, who=random.choice(group.names), step=step, ticks=lasting))
        # Half of them come while the one before is under way.
        at = min(ticks, at + random.randint(0, 60)) if random.random() < 0.5 else random.randint(0, ticks)
    return changes


def _load(setting: Setting, random: Random, clients: int, pipeline: int) -> Load:
    """Mostly clients that wait for what they asked for; some ask on whatever comes, or take one member's answer."""
    apart = Random(f"{setting.scenario} {setting.seed} load")
    per_second = apart.choice((50, 200)) if apart.random() < 0.1 else 0
    glances = 0.05 if apart.random() < 0.1 else 0.0
    return Load(
        clients=clients,
        operations=ORDERED_AND_MORE if per_second or glances else ORDERED,
        bursts=random.choice((4, 8, 16)),
        keys=random.randint(1, 4),
        pipeline=pipeline,
        together=random.choice((0.3, 1.0, 1.0, 1.0)),
        per_second=per_second,
        glances=glances,
    )


def _policy(setting: Setting, group: Group, parameters: dict[str, int]) -> Policy | None:
    """One that changes its mind as soon as it may; all of its protocols survive what the plan's own one does."""
    random = Random(f"{setting.scenario} {setting.seed} policy")
    survives = set(setting.record.survives)
    others = [
        name
        for name in setting.others(group)
        if name != setting.protocol and survives <= set(load_protocol(name).record.survives)
    ]
    # A plug-in that is given as module:NAME is on no shelf, and a policy can name none that is not.
    if random.random() >= POLICIES or not others or ":" in setting.protocol:
        return None
    hasty = {"period_ms": 200, "patience": 1, "calm": 2, "cooldown": 1, "slow_ms": 30, "late_ms": 100, "silent": 9}
    modes = (Mode(setting.protocol, parameters), Mode(random.choice(others)))
    return Policy("steady", modes, forced=2, stall_ms=random.choice((300, 600, 2000)), parameters=hasty)


def _group(setting: Setting) -> Group:
    sizes: tuple[tuple[int, int, int], ...]
    if setting.record.byzantine:
        sizes = ((4, 1, 0),) * 12 + ((3, 0, 1),) * 4 + ((6, 1, 1),) * 2 + ((7, 2, 0), (5, 1, 0), (1, 0, 0))
    else:
        sizes = ((3, 0, 1),) * 4 + ((5, 0, 2), (4, 0, 1), (2, 0, 0), (1, 0, 0))
    members, f, c = setting.random.choice(sizes)
    return Group(members=max(members, setting.record.members_needed(f, c)), f=f, c=c)


def _network(random: Random) -> Network:
    return Network(
        delay_max=random.choice((3, 10, 10, 40)),
        loss=random.choice((0.0, 0.0, 0.0, 0.05, 0.3)),
        duplication=random.choice((0.0, 0.0, 0.1, 0.5)),
        straggling=random.choice((0.0, 0.0, 0.0, 0.05)),
    )


def _broken_member(setting: Setting, random: Random, member: str, group: Group, ticks: int) -> list[Fault]:
    """A member that counts as Byzantine: it lies, runs twice, or has a disk that cannot be trusted."""
    at = random.choice((0, 0, random.randint(0, ticks)))
    draw = random.random()
    if draw < 0.14:
        others = [name for name in group.names if name != member]
        random.shuffle(others)
        cut = random.randint(1, len(others) - 1)
        both = others[: random.randint(0, 1)]
        return [fault.Twin(at=at, who=member, left=tuple(others[:cut]), right=(*others[cut:], *both))]
    if draw < 0.21:
        return [fault.Rollback(at=at, who=member, ticks=random.randint(100, ticks))]
    if draw < 0.30:
        return [fault.LyingDisk(at=at, who=member, ticks=random.randint(100, ticks))]
    if draw < 0.40:
        return [fault.FlipBit(at=random.randint(200, ticks), who=member, place=random.getrandbits(40), ticks=300)]
    kind = _joined(random, random.choice(LIES))
    if setting.record.coins and random.random() < SHARES:
        kind += "+bad-shares"
    offered: dict[str, dict[str, bool | int | str]] = {
        "mutate": {"seed": random.getrandbits(32), "scope": random.choice(("small", "small", "any"))},
        "slow-leader": {"ticks": random.choice((100, 300, 900))},
        "flood": {"most": 600},
        "withhold": {"to": random.choice(("all", "half", "half"))},
        "stale-reads": {"previous": random.random() < 0.7},
        "bad-chunks": {"lists": random.random() < 0.7},
    }
    options = {name: value for part in kind.split("+") for name, value in offered.get(part, {}).items()}
    if kind != "withhold":
        options.pop("to", None)  # other lies know the word, and mean another thing
    lie = fault.Lie(at=at, who=member, kind=kind, options=options)
    return [lie, *_change_of_view(random, group, at)] if random.random() < 0.35 else [lie]


def _joined(random: Random, kind: str) -> str:
    """The lie, and perhaps others that it is told together with."""
    others = [other for other in random.sample(BESIDES, random.choice((0, 1, 1, 2))) if other not in kind]
    return "+".join((kind, *others))


def _fellows(random: Random, liars: list[str], group: Group, ticks: int) -> list[Fault]:
    """Two that lie together, to two sides that do not hear of each other for a while."""
    at = random.choice((0, random.randint(0, ticks)))
    options: dict[str, bool | int | str] = {"fellows": ",".join(sorted(liars))}
    lies: list[Fault] = [fault.Lie(at=at, who=member, kind="collude", options=options) for member in sorted(liars)]
    honest = [name for name in group.names if name not in liars]
    middle = (len(honest) + 1) // 2
    sides = (tuple(honest[:middle]), tuple(honest[middle:]))
    return [*lies, fault.Partition(at=at, ticks=random.randint(100, 1500), sides=sides)]


def _change_of_view(random: Random, group: Group, at: int) -> list[Fault]:
    """The leader is gone, perhaps twice: most lies matter in the view change that comes of it."""
    faults: list[Fault] = []
    at += random.randint(20, 400)
    for _ in range(random.randint(1, 2)):
        away = random.choice((300, 1500, 3000))
        if random.random() < 0.6:
            faults.append(fault.Crash(at=at, who=LEADER, ticks=away, power=random.random() < 0.5))
        else:
            alone = random.choice(group.names)
            others = tuple(name for name in group.names if name != alone)
            faults.append(fault.Partition(at=at, ticks=away, sides=((alone,), others)))
        at += random.randint(300, 2000)
    return faults


def _forgetful_member(random: Random, member: str, at: int) -> list[Fault]:
    """A member that loses its disk, and perhaps starts once more: it must not take its memory for whole then."""
    wipe = fault.Wipe(at=at, who=member, ticks=random.randint(1, 800))
    if random.random() < 0.5:
        return [wipe]
    return [wipe, fault.Crash(at=at + 1000 + random.randint(0, 500), who=member, ticks=200)]


def _trouble(random: Random, setting: Setting, group: Group, at: int) -> list[Fault]:
    lasting = random.randint(1, random.choice((50, 300, 1000, 3000)))
    who = random.choice((LEADER, LEADER, FOLLOWER, *group.names))
    other = random.choice(group.names)
    far = random.choice((100, 60_000, 2_592_000_000))
    kinds: tuple[tuple[int, Callable[[], list[Fault]]], ...] = (
        (12, lambda: [fault.Crash(at=at, who=who, ticks=lasting, power=random.random() < 0.7)]),
        (5, lambda: [fault.Crash(at=at + step * 400, who=LEADER, ticks=lasting) for step in range(3)]),
        (6, lambda: [fault.PowerCut(at=at, ticks=random.randint(1, 300))]),
        (6, lambda: [fault.PowerCut(at=at, ticks=random.randint(1, 50), absent=who, absent_ticks=3000)]),
        (8, lambda: [fault.CutAtDisk(at=at, who=who, operation=random.randint(1, 20), ticks=300)]),
        (6, lambda: _informed_few(random, setting, group, at)),
        (6, lambda: [_held(random, setting, group, at, lasting)]),
        (9, lambda: [_split(random, group, at, lasting)]),
        (5, lambda: [fault.OneWay(at=at, ticks=lasting, sender=who, receiver=other)]),
        (4, lambda: [_bridge(group, at, lasting, other)]),
        (4, lambda: [fault.Pause(at=at, who=who, ticks=lasting)]),
        (5, lambda: [fault.ClockJump(at=at, who=who, ms=random.choice((-far, far)))]),
        (4, lambda: [fault.ClockRate(at=at, who=who, ppm=random.choice((100_000, 10_000_000)), ticks=lasting)]),
        (6, lambda: [fault.DiskFull(at=at, who=who, room=random.randint(0, 2000), ticks=lasting)]),
        (6, lambda: [fault.SyncFails(at=at, who=who, ticks=random.randint(50, 1000))]),
        (4, lambda: [fault.SlowDisk(at=at, who=who, us=random.choice((2_000, 20_000, 100_000)), ticks=lasting)]),
        (6, lambda: [fault.SlowLink(at=at, who=who, bits_per_second=256_000, ticks=lasting)]),
        (6, lambda: [_storm(random, at, lasting)]),
    )
    (make,) = random.choices([make for _, make in kinds], [weight for weight, _ in kinds])
    return make()


def _kind(random: Random, setting: Setting) -> str:
    """A message of the protocol, or one of the channel's."""
    return random.choice((*setting.messages, *setting.messages, "CheckpointVote", "DecidedClaims"))


def _held(random: Random, setting: Setting, group: Group, at: int, lasting: int) -> Fault:
    spared = tuple(random.sample(group.names, random.randint(0, min(2, group.members - 1))))
    by = random.choice((0, 0, 100, 500, 2000))
    return fault.HoldKind(at=at, ticks=min(lasting, 800), kind=_kind(random, setting), by=by, spared=spared)


def _informed_few(random: Random, setting: Setting, group: Group, at: int) -> list[Fault]:
    """What was decided is known to some only, and just these go away, so that the others must find out."""
    some = tuple(random.sample(group.names, min(group.members, random.randint(1, 2))))
    long = random.randint(20, 400)
    hold = fault.HoldKind(at=at, ticks=long, kind=_kind(random, setting), spared=some)
    away = random.choice((300, 1500, 3000))
    return [hold, *(fault.Crash(at=at + long, who=member, ticks=away) for member in some)]


def _split(random: Random, group: Group, at: int, lasting: int) -> Fault:
    names = [*group.names, *(f"c{index}" for index in range(3) if random.random() < 0.3)]
    random.shuffle(names)
    cut = random.randint(0, len(names))
    return fault.Partition(at=at, ticks=lasting, sides=(tuple(names[:cut]), tuple(names[cut:])))


def _bridge(group: Group, at: int, lasting: int, bridge: str) -> Fault:
    """Two sides that reach each other through one member only."""
    names = [name for name in group.names if name != bridge]
    middle = (len(names) + 1) // 2
    return fault.Partition(at=at, ticks=lasting, sides=(tuple(names[:middle]), tuple(names[middle:])))


def _storm(random: Random, at: int, lasting: int) -> Fault:
    return fault.Weather(
        at=at,
        ticks=lasting,
        loss=random.choice((0.0, 0.1, 0.3, 0.6)),
        duplication=random.choice((0.0, 0.5)),
        straggling=random.choice((0.0, 0.05)),
        delay_max=random.choice((3, 40, 200)),
    )
