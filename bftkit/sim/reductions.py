"""Single steps that make a plan smaller or simpler: what `bftkit.sim.shrinking` tries, one after the other.

Each function yields pairs of words and a plan that is simpler in one respect, the boldest first. None makes anything
larger or brings back what another one takes away, so whoever repeats them comes to an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, Final, TypeVar, cast

import attrs

from bftkit.core.plugin import load_protocol
from bftkit.sim.faults import FOLLOWER, LEADER, Crash, Fault, Lie, OneWay, Partition, PowerCut
from bftkit.sim.links import Network
from bftkit.sim.plan import Group, Load, Plan

Step = tuple[str, Plan]
Reduction = Callable[[Plan], Iterator[Step]]

Changed = TypeVar("Changed", Load, Network, Fault)

_SMALL: Final = 8
"""Up to here a number is worth being made smaller by one."""


def _changed(value: Changed, **parts: Any) -> Changed:
    """As `attrs.evolve`, with parts whose names are found out here."""
    changed: Changed = attrs.evolve(cast("Any", value), **parts)
    return changed


def _smaller(value: int, least: int) -> Iterator[int]:
    """Smaller numbers, the least first, then ever nearer."""
    last = None
    near = (value - 1,) if value <= _SMALL else ()
    for candidate in (least, value // 8, value // 4, value // 2, value * 3 // 4, *near):
        if least <= candidate < value and candidate != last:
            last = candidate
            yield candidate


# ------------------------------------------------------------------------------------------------ load


def load(plan: Plan) -> Iterator[Step]:
    """Fewer clients, operations, bursts, keys; less at a time; nothing that fails."""
    now = plan.load
    plain = Load(clients=now.clients, operations=now.operations, bursts=now.bursts, keys=1, pipeline=1, poison=0.0)
    if plain != now:
        yield "simple load", attrs.evolve(plan, load=plain)
    for name, least in (("operations", 1), ("clients", 1), ("bursts", 1), ("keys", 1), ("pipeline", 1)):
        value: int = getattr(now, name)
        for candidate in _smaller(value, least):
            yield f"{name} {value} → {candidate}", attrs.evolve(plan, load=_changed(now, **{name: candidate}))
    if now.poison:
        yield "no failing operations", attrs.evolve(plan, load=attrs.evolve(now, poison=0.0))
    if now.per_second:
        yield "closed loop", attrs.evolve(plan, load=attrs.evolve(now, per_second=0))


def operations(plan: Plan) -> Iterator[Step]:
    """Fewer operations, and nothing else."""
    now = plan.load
    for candidate in _smaller(now.operations, 1):
        words = f"operations {now.operations} → {candidate}"
        yield words, attrs.evolve(plan, load=attrs.evolve(now, operations=candidate))


# ------------------------------------------------------------------------------------------------ network


def network(plan: Plan) -> Iterator[Step]:
    """Links that lose, double and reorder nothing."""
    now = plan.network
    for calm in (Network(1, 1), Network()):
        if now not in (calm, Network(1, 1)):
            yield "calm network", attrs.evolve(plan, network=calm)
    for name in ("loss", "duplication", "straggling"):
        if getattr(now, name):
            yield f"no {name}", attrs.evolve(plan, network=_changed(now, **{name: 0.0}))
    for candidate in _smaller(now.delay_max, now.delay_min):
        changed = attrs.evolve(now, delay_max=candidate)
        yield f"delays up to {now.delay_max} → {candidate} ms", attrs.evolve(plan, network=changed)


def cuts_for_loss(plan: Plan) -> Iterator[Step]:
    """Where chance loses frames, cuts that say which frames are lost."""
    now = plan.network
    if now.loss:
        whole = attrs.evolve(now, loss=0.0)
        names = plan.group.names
        for name in names:
            rest = tuple(other for other in names if other != name)
            split = Partition(at=0, ticks=plan.ticks, sides=((name,), rest))
            yield f"{name} cut off for loss", attrs.evolve(plan, network=whole, faults=(split, *plan.faults))
        for one, other in combinations(names, 2):
            for sender, receiver in ((one, other), (other, one)):
                cut = OneWay(at=0, ticks=plan.ticks, sender=sender, receiver=receiver)
                yield (
                    f"{sender} → {receiver} cut for loss",
                    attrs.evolve(plan, network=whole, faults=(cut, *plan.faults)),
                )


# ------------------------------------------------------------------------------------------------ members


def members(plan: Plan) -> Iterator[Step]:
    """A smaller group: for fewer faults, or without members beyond the least."""
    now = plan.group
    members_needed = load_protocol(plan.protocol).record.members_needed
    sizes = [
        Group(members=members_needed(f, c), f=f, c=c)
        for f in range(now.f + 1)
        for c in range(now.c + 1)
        if members_needed(f, c) < now.members
    ]
    if members_needed(now.f, now.c) < now.members - 1:
        sizes.append(attrs.evolve(now, members=now.members - 1))
    for group in sorted(sizes, key=lambda size: (size.members, size.f)):
        words = f"members {now.members} → {group.members}"
        for keep in _kept(plan, group.members):
            renamed = {old: new for old, new in zip(keep, group.names, strict=True) if old != new}
            gone = {name for name in now.names if name not in keep}
            faults = tuple(changed for fault in plan.faults if (changed := _renamed(fault, renamed, gone)) is not None)
            yield words, attrs.evolve(plan, group=group, faults=faults)


def _kept(plan: Plan, size: int) -> Iterator[tuple[str, ...]]:
    """Which members to keep: those that the faults name, the first ones, the last ones."""
    names = plan.group.names
    counts: dict[str, int] = dict.fromkeys(names, 0)
    for fault in plan.faults:
        for name in fault.named():
            if name in counts:
                counts[name] += 1 + 10 * (name in fault.lying())
    by_count = sorted(names, key=lambda name: (-counts[name], names.index(name)))[:size]
    seen: set[tuple[str, ...]] = set()
    for keep in (tuple(sorted(by_count, key=names.index)), names[:size], names[-size:]):
        if keep not in seen:
            seen.add(keep)
            yield keep


def _renamed(fault: Fault, renamed: Mapping[str, str], gone: set[str]) -> Fault | None:
    """The fault in the smaller group; None if it was about a member that is gone."""
    changes: dict[str, Any] = {}
    for field in attrs.fields(type(fault)):
        value: object = getattr(fault, field.name)
        if isinstance(value, str):
            if value in gone:
                return None
            changes[field.name] = renamed.get(value, value)
        elif isinstance(value, tuple):
            changes[field.name] = _renamed_tuple(cast("tuple[object, ...]", value), renamed, gone)
    return _changed(fault, **changes)


def _renamed_tuple(value: tuple[object, ...], renamed: Mapping[str, str], gone: set[str]) -> tuple[object, ...]:
    parts: list[object] = []
    for part in value:
        if isinstance(part, tuple):
            parts.append(_renamed_tuple(cast("tuple[object, ...]", part), renamed, gone))
        elif part not in gone:
            parts.append(renamed.get(part, part) if isinstance(part, str) else part)
    return tuple(parts)


# ------------------------------------------------------------------------------------------------ time


def time(plan: Plan) -> Iterator[Step]:
    """A shorter run; everything earlier."""
    for part in (4, 2):
        if plan.ticks >= 10 * part:
            faults = tuple(_faster(fault, part) for fault in plan.faults)
            yield f"all {part} times as fast", attrs.evolve(plan, ticks=plan.ticks // part, faults=faults)
    least = max((fault.at for fault in plan.faults), default=0) + 1
    for candidate in _smaller(plan.ticks, least):
        yield f"{plan.ticks} → {candidate} ms", attrs.evolve(plan, ticks=candidate)


def _faster(fault: Fault, part: int) -> Fault:
    changes: dict[str, Any] = {"at": fault.at // part}
    if "ticks" in attrs.fields_dict(type(fault)):
        changes["ticks"] = max(1, cast("int", getattr(fault, "ticks")) // part)  # noqa: B009 - not all have it
    return _changed(fault, **changes)


# ------------------------------------------------------------------------------------------------ faults


def faults(plan: Plan) -> Iterator[Step]:
    """Each fault simpler, shorter, earlier."""
    for place, fault in enumerate(plan.faults):
        for words, simpler in _simpler(fault, plan.group):
            changed = (*plan.faults[:place], simpler, *plan.faults[place + 1 :])
            yield words, attrs.evolve(plan, faults=changed)


def _simpler(fault: Fault, group: Group) -> Iterator[tuple[str, Fault]]:
    if isinstance(fault, Crash) and fault.power:
        yield "a kill in place of a power cut", attrs.evolve(fault, power=False)
    if isinstance(fault, PowerCut):
        for name in group.names:
            yield f"{name} alone loses power", Crash(at=fault.at, who=name, ticks=fault.ticks)
    for name in ("who", "sender", "receiver"):
        if getattr(fault, name, None) in (LEADER, FOLLOWER):
            for member in group.names:
                yield f"{getattr(fault, name)} → {member}", _changed(fault, **{name: member})
    if isinstance(fault, Lie):
        yield from _plainer_lie(fault)
    if isinstance(fault, Partition):
        yield from _plainer_partition(fault)
    for field in attrs.fields(type(fault)):
        value: object = getattr(fault, field.name)
        if type(value) is not int:
            continue
        least = 1 if field.name in ("ticks", "operation", "bits_per_second", "ppm") else 0
        sign = -1 if value < 0 else 1
        for candidate in _smaller(abs(value), least):
            words = f"{fault.tell()}: {field.name} {value} → {sign * candidate}"
            yield words, _changed(fault, **{field.name: sign * candidate})


def _plainer_lie(fault: Lie) -> Iterator[tuple[str, Fault]]:
    if fault.options:
        yield "a lie without options", attrs.evolve(fault, options={})
    for name, value in sorted(fault.options.items()):
        rest = {other: kept for other, kept in fault.options.items() if other != name}
        yield f"a lie without {name}", attrs.evolve(fault, options=rest)
        if type(value) is int:
            for candidate in _smaller(value, 1):
                yield f"{name} {value} → {candidate}", attrs.evolve(fault, options={**rest, name: candidate})


def _plainer_partition(fault: Partition) -> Iterator[tuple[str, Fault]]:
    for number, side in enumerate(fault.sides):
        for name in side:
            less = tuple(other for other in side if other != name)
            sides = tuple(less if place == number else kept for place, kept in enumerate(fault.sides))
            sides = tuple(kept for kept in sides if kept)
            if len(sides) > 1:
                yield f"a split without {name}", attrs.evolve(fault, sides=sides)


# ------------------------------------------------------------------------------------------------ settings


def settings(plan: Plan) -> Iterator[Step]:
    """What can be as it usually is: no costs, fast keys, the protocol's own parameters, few checkpoints."""
    if plan.costs:
        yield "work costs nothing", attrs.evolve(plan, costs=False)
    if plan.keys != "fast":
        yield "fast keys", attrs.evolve(plan, keys="fast")
    if plan.parameters:
        yield "the protocol's own parameters", attrs.evolve(plan, parameters={})
    for name in sorted(plan.parameters):
        rest = {other: value for other, value in plan.parameters.items() if other != name}
        yield f"{name} as it usually is", attrs.evolve(plan, parameters=rest)
    usual = Plan()
    if plan.batch_requests != usual.batch_requests:
        yield "batches as large as they usually are", attrs.evolve(plan, batch_requests=usual.batch_requests)
    if plan.calm != usual.calm:
        yield "a network that heals as it usually does", attrs.evolve(plan, calm=usual.calm)
    if plan.segment_bytes != 1 << 20:
        yield "large log segments", attrs.evolve(plan, segment_bytes=1 << 20)
    for interval in (64, 16, 8):
        if plan.interval < interval:
            yield f"a checkpoint every {interval} slots", attrs.evolve(plan, interval=interval, window=4 * interval)
    if plan.window < 4 * plan.interval:
        yield "a larger window", attrs.evolve(plan, window=4 * plan.interval)


DETAILS: Final[tuple[Reduction, ...]] = (load, settings, network, time, faults, cuts_for_loss)
"""Everything but who takes part and what goes wrong."""
