"""The configuration manager: from what is needed to a configuration that gives it, in words; or to a refusal.

It is given the needs (`QoS`), the members that are known, and the records of all protocols that are installed. A
protocol fits if it meets every need (`fitting`); of those that fit, the one with the fewest message delays is taken.
Nothing here knows a protocol by name: a third party's is judged by its record alone, as ours are.

A policy is given its modes here, too: protocols that all meet the same needs, with the same members, f and c. So
whatever it later changes to, it changes nothing that was asked for.

What cannot be had is refused with the needs that stand in the way and what to ask for instead. The *nearest* protocols
are asked for that: those that fall short of the fewest needs.

Source: Reiser et al., the configuration manager, section 3.2.5.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import attrs

from bftkit.configuration.explaining import Told, Verdict, led_to, verdicts
from bftkit.configuration.fitting import Shortfall, deadline_parameters, shortfalls
from bftkit.configuration.needs import check_qos
from bftkit.configuration.policy import MODES_MAX, Mode, Policy
from bftkit.configuration.qos import DurabilityName, NetworkName, QoS
from bftkit.configuration.shelf import check_parameters, filled, load_policy
from bftkit.core.machine import MemberId
from bftkit.core.ordering import ProtocolRecord
from bftkit.membership.commands import Seat
from bftkit.membership.epochs import Configuration
from bftkit.membership.genesis import Genesis
from bftkit.membership.roster import RosterEntry
from bftkit.membership.wishes import Wish

MANUAL: Final = "manual"
MEMORY: Final = "memory"
STALL_MS: Final = 5000
"""A protocol that decides nothing for so long, while requests wait, has stopped, unless the operators say otherwise."""


@attrs.frozen
class Choice:
    """A configuration that meets the needs, and why it is this one."""

    qos: QoS
    protocol: str
    parameters: Mapping[str, int]
    members: tuple[MemberId, ...]
    """Those of the known members that take part, in their order."""
    f: int
    c: int
    coin: bool
    """Whether there must be a coin key: members may lie, or a mode of the policy tosses coins."""
    checkpoint_interval: int | None
    """None: as it is. No need asks for another one: a change does not wait for its slots to fill."""
    policy: Policy
    because: tuple[Told, ...]
    protocols: tuple[Verdict, ...]
    """All that are installed: the chosen one first, then by costs."""
    notes: tuple[str, ...]
    """What an operator should know besides, such as modes that were left out."""

    @property
    def summary(self) -> str:
        """The choice in one line."""
        modes = ", ".join(mode.protocol for mode in self.policy.modes)
        policy = f"; policy {self.policy.name} ({modes})" if modes else ""
        return f"{self.protocol} on {len(self.members)} members, f = {self.f}, c = {self.c}{policy}"


@attrs.frozen
class Refusal:
    """The needs cannot be met, because of these."""

    qos: QoS
    unmet: tuple[Shortfall, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The needs that stand in the way, each once."""
        return tuple(dict.fromkeys(one.field for one in self.unmet))

    @property
    def text(self) -> str:
        """All of it in one line."""
        return "; ".join(f"{one.field}: {one.text}" for one in self.unmet)


def choose(
    qos: QoS,
    members: Sequence[MemberId],
    records: Sequence[ProtocolRecord],
    present: Configuration | None = None,
    policy: str | None = None,
    *,
    protocol: str | None = None,
    parameters: Mapping[str, int] | None = None,
    without_disk: Collection[MemberId] = (),
) -> Choice | Refusal:
    """A configuration of these members that meets the needs, or why there is none.

    `members` are all that are known, in their order; `records` those of all installed protocols; `present` is what the
    group runs under now, if there is a group; `policy` is a policy's name (None: the present one's, else ``manual``),
    and `parameters` are its own; `protocol` one that the operator insists on; `without_disk` are members that keep
    nothing on disk (see `founded_without_disk`). Raises `ConfigurationError` for values that do not exist,
    `UnknownPolicy` and `BrokenPolicy`.
    """
    check_qos(qos)
    n = min(qos.replicas or len(members), len(members))
    short = {one.name: shortfalls(one, qos, n, len(members)) for one in records}
    fitting = [one for one in by_cost(records) if not short[one.name]]
    unmet = [
        *_not_built(qos),
        *_too_many_asked_for(qos, len(members)),
        *_kept_nowhere(qos, members[:n], without_disk),
    ]
    if protocol is not None:
        unmet += short.get(protocol, (Shortfall("protocol", f"{protocol} is not installed"),))
    elif not fitting:
        unmet += nearest(records, short, qos)
    if unmet:
        return Refusal(qos, tuple(unmet))
    had = present.policy if present is not None else None
    policy = (had.name if had is not None else MANUAL) if policy is None else policy
    best = next(one for one in fitting if one.name == protocol) if protocol is not None else _best(fitting, present)
    steering, notes = modes_for(policy, qos, n, records, present, best=best, parameters=parameters)
    chosen = _kept(steering, best, fitting, present, insisted=protocol is not None)
    tossing = [one.name for one in fitting if one.coins and one.name in {mode.protocol for mode in steering.modes}]
    judged = verdicts(chosen, by_cost(records), short, present, steering)
    return Choice(
        qos,
        chosen.name,
        parameters_for(chosen, qos, present),
        tuple(members[:n]),
        qos.byzantine,
        qos.crash,
        qos.byzantine > 0 or chosen.coins or bool(tossing),
        None,
        steering,
        led_to(qos, chosen, members, n, tossing),
        judged,
        notes,
    )


def nearest(
    records: Sequence[ProtocolRecord], short: Mapping[str, Sequence[Shortfall]], qos: QoS
) -> tuple[Shortfall, ...]:
    """The shortfalls of the protocols that fall short of the fewest needs."""
    if not records:
        return (Shortfall("protocol", "no protocol is installed"),)
    count = {one.name: len({item.field for item in short[one.name]}) for one in records}
    near = [one for one in by_cost(records) if count[one.name] == min(count.values())]
    if any(one.byzantine for one in near):
        # Whoever asked for protection from liars is not helped by hearing which protocols give none.
        near = [one for one in near if one.byzantine or not qos.byzantine]
    found = [item for one in near for item in short[one.name]]
    # Where more members would do, that has the numbers; that some protocol bears no liars at all is no news then.
    fewest = {
        field: min(item.members for item in found if item.field == field and item.members)
        for field in {item.field for item in found if item.members}
    }
    told = {item: None for item in found if item.members == fewest.get(item.field, 0)}
    return tuple(told)


def by_cost(records: Sequence[ProtocolRecord]) -> list[ProtocolRecord]:
    """From the least costly up: message delays; coins, which cost more than signatures; what it survives besides."""
    return sorted(records, key=lambda one: (one.steps, one.coins, len(one.survives), one.name))


def _best(fitting: Sequence[ProtocolRecord], present: Configuration | None) -> ProtocolRecord:
    """The least costly; among equals the one that runs already."""
    first = fitting[0]
    for one in fitting:
        if (
            present is not None
            and one.name == present.protocol
            and (one.steps, one.coins) == (first.steps, first.coins)
        ):
            return one
    return first


def _not_built(qos: QoS) -> list[Shortfall]:
    found: list[Shortfall] = []
    if qos.order != "total":
        found.append(
            Shortfall(
                "order",
                f'order = "{qos.order}" is not built: every group puts all requests into one total order, in '
                'which each client\'s stay in their order; ask for order = "total", which gives that and more',
            )
        )
    if qos.delivery != "exactly-once":
        found.append(
            Shortfall(
                "delivery",
                f'delivery = "{qos.delivery}" is not built: sessions make every request execute once, however often '
                'it is sent; ask for delivery = "exactly-once"',
            )
        )
    return found


def _too_many_asked_for(qos: QoS, known: int) -> list[Shortfall]:
    if known == 0:
        return [Shortfall("replicas", "a group needs a member, and 0 are known")]
    if qos.replicas <= known:
        return []
    return [Shortfall("replicas", f"{qos.replicas} members are asked for, and {known} are known")]


def founded_without_disk(genesis: Genesis, seats: Iterable[RosterEntry | Seat]) -> tuple[MemberId, ...]:
    """Those of these members that keep nothing on disk, as far as the founding and the chain know, in their order.

    Where a group was founded with durability ``memory``, each founder began without a log, and a log that begins in
    the middle makes it silent until it has new keys (SAFETY rule 16). So it is known by its keys of then.
    """
    if genesis.durability != MEMORY or (genesis.qos is not None and genesis.qos.durability != MEMORY):
        return ()
    founders = {entry.id: entry.epoch_root for entry in genesis.roster.entries}
    return tuple(seat.id for seat in seats if founders.get(seat.id) == seat.epoch_root)


def _kept_nowhere(qos: QoS, members: Sequence[MemberId], without_disk: Collection[MemberId]) -> list[Shortfall]:
    """Members without a log are not ready for more than ``memory``; f + c of them hold up no change."""
    found = [one for one in members if one in without_disk]
    few = qos.byzantine + qos.crash
    if qos.durability == MEMORY or len(found) <= few:
        return []
    return [
        Shortfall(
            "durability",
            f'"{qos.durability}" needs {len(members) - few} of {len(members)} members that keep a log, and '
            f"{', '.join(found)} {'keeps' if len(found) == 1 else 'keep'} nothing on disk: the group was founded with "
            f'durability = "memory"; write durability = "{qos.durability}" into member.toml, start the member again '
            "and give it new keys (bftkit member rotate), one member after the other",
        )
    ]


# ------------------------------------------------------------------------------------------------- parameters


def parameters_for(record: ProtocolRecord, qos: QoS, present: Configuration | None = None) -> dict[str, int]:
    """The protocol's parameters: those that operators set, and those that follow from the deadline."""
    base: dict[str, int] = {}
    if present is not None and present.protocol == record.name:
        base = dict(present.parameters)
    elif present is not None and present.policy is not None:
        for mode in present.policy.modes:
            base = dict(mode.parameters) if mode.protocol == record.name else base
    if present is not None and present.qos is not None:
        for name, value in deadline_parameters(record, present.qos).items():
            if base.get(name) == value:
                # It was not the operator who set it. It must be named, for what is not named stays.
                base[name] = record.parameters[name].default
    return dict(sorted((base | deadline_parameters(record, qos)).items()))


# ------------------------------------------------------------------------------------------------- policies


def modes_for(
    policy: str,
    qos: QoS,
    n: int,
    records: Sequence[ProtocolRecord],
    present: Configuration | None = None,
    *,
    best: ProtocolRecord | None = None,
    parameters: Mapping[str, int] | None = None,
) -> tuple[Policy, tuple[str, ...]]:
    """The policy with its modes for n members, and what is to be said of those that it does not have.

    Every mode meets the needs, so each bears the same f and c. `best` is the protocol that is chosen without a policy.
    Raises as `choose` does.
    """
    record = load_policy(policy).record
    had = present.policy if present is not None and present.policy is not None else None
    if parameters is None:
        parameters = dict(had.parameters) if had is not None and had.name == record.name else {}
    bare = Policy(record.name, parameters=dict(sorted(parameters.items())))
    check_parameters(record, bare)
    if record.modes == "none":
        return bare, ()
    # All of them are signed: members of two releases, with other defaults, must not come to two decisions.
    bare = attrs.evolve(bare, parameters=filled(record, bare))
    fitting = [one for one in by_cost(records) if not shortfalls(one, qos, n, n)]
    notes: list[str] = []
    if record.modes == "two":
        chosen = _two(fitting, records, qos, n, best, notes)
    else:
        chosen = fitting
        if len(chosen) > MODES_MAX:
            left = ", ".join(one.name for one in chosen[MODES_MAX - 1 : -1])
            chosen = [*chosen[: MODES_MAX - 1], chosen[-1]]
            notes.append(f"A policy has at most {MODES_MAX} modes: {left} left out.")
    modes = tuple(Mode(one.name, parameters_for(one, qos, present)) for one in chosen)
    if len(modes) < 2:
        notes.append(f"The policy {record.name} has {'one mode' if modes else 'no mode'}: it will change nothing.")
        return attrs.evolve(bare, modes=modes), tuple(notes)
    why_not = _never_by_force(qos, n)
    if why_not is not None:
        notes.append(why_not)
        return attrs.evolve(bare, modes=modes), tuple(notes)
    stall_ms = had.stall_ms if had is not None and had.stall_ms else STALL_MS
    return attrs.evolve(bare, modes=modes, forced=len(modes), stall_ms=stall_ms), tuple(notes)


def _two(
    fitting: Sequence[ProtocolRecord],
    records: Sequence[ProtocolRecord],
    qos: QoS,
    n: int,
    best: ProtocolRecord | None,
    notes: list[str],
) -> list[ProtocolRecord]:
    """One that is fast while the network is good, and the least that needs no timing."""
    fast = [one for one in fitting if one.timing != "asynchronous" and "leader-crash" in one.survives]
    normal = best if best in fast else next(iter(fast), None)
    robust = next((one for one in fitting if one.timing == "asynchronous"), None)
    if normal is None:
        notes.append(f"No normal mode: {_left_out(records, qos, n, asynchronous=False)}.")
    if robust is None:
        notes.append(f"No robust mode: {_left_out(records, qos, n, asynchronous=True)}.")
    return [one for one in (normal, robust) if one is not None]


def _left_out(records: Sequence[ProtocolRecord], qos: QoS, n: int, *, asynchronous: bool) -> str:
    told = [
        item.text
        for one in by_cost(records)
        if (one.timing == "asynchronous") == asynchronous
        for item in shortfalls(one, qos, n, n)[:1]
    ]
    return "; ".join(told) or "no such protocol is installed"


def _never_by_force(qos: QoS, n: int) -> str | None:
    """Why the policy never leaves a protocol by force, if so: then `Configuration` refuses it, too."""
    f, c = qos.byzantine, qos.crash
    if f == c == 0:
        return (
            "With f = c = 0 no protocol is left by force: what one member alone has acknowledged would be lost "
            "(SAFETY rule 24)."
        )
    if f and n < 3 * (f + c) + 1:
        return (
            f"A protocol that has stopped is not left by force: with f = {f} and c = {c} that needs {3 * (f + c) + 1} "
            f"members, and there are {n} (SAFETY rule 26)."
        )
    return None


def _kept(
    steering: Policy,
    best: ProtocolRecord,
    fitting: Sequence[ProtocolRecord],
    present: Configuration | None,
    *,
    insisted: bool,
) -> ProtocolRecord:
    """The protocol to begin with: the policy's first mode, or the one that a policy has changed to already."""
    if insisted or not steering.modes:
        return best
    names = [mode.protocol for mode in steering.modes]
    steered = present is not None and present.policy is not None and len(present.policy.modes) > 1
    name = present.protocol if present is not None and steered and present.protocol in names else names[0]
    return next(one for one in fitting if one.name == name)


# ------------------------------------------------------------------------------------------------- as a wish


def present_needs(here: Configuration, durability: DurabilityName, timing: NetworkName = "partial") -> QoS:
    """The needs that a group's configuration states; of one that states none, what it gives.

    `durability` is the genesis's, `timing` that of the present protocol's record.
    """
    if here.qos is not None:
        return here.qos
    return QoS(byzantine=here.f, crash=here.c, durability=durability, network=timing)


def wish_for(choice: Choice, here: Configuration, reason: str = "", at: int = 0) -> Wish:
    """What an operator must want so that the group gets this configuration."""
    steering: Policy | None = choice.policy
    if here.policy is None and not choice.policy.modes and choice.policy.name == MANUAL:
        steering = None  # nothing to say, and nothing said so far
    return Wish(
        protocol=choice.protocol,
        settings=dict(choice.parameters),
        byzantine=choice.f,
        crash=choice.c,
        remove=tuple(member for member in here.members if member not in choice.members),
        coin=choice.coin,
        qos=choice.qos,
        policy=steering,
        reason=reason or f"needs changed: {choice.summary}",
        at=at,
    )


__all__ = [
    "MANUAL",
    "STALL_MS",
    "Choice",
    "Refusal",
    "Told",
    "Verdict",
    "by_cost",
    "choose",
    "founded_without_disk",
    "modes_for",
    "parameters_for",
    "present_needs",
    "wish_for",
]
