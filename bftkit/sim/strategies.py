"""Hypothesis strategies for plans and their faults: Hypothesis looks for what breaks something, and shrinks it.

    from hypothesis import given
    from bftkit.sim import run
    from bftkit.sim.strategies import plans

    @given(plans(protocol="pbft", service="shop:Shop"))
    def test_no_schedule_breaks_the_shop(plan):
        run(plan).raise_for_violation()

Only plans are drawn that the protocol claims to survive. They shrink towards few faults of a plain kind, early, short,
to the first member; and each plan is the whole run, so that what Hypothesis prints can be run again.

Hypothesis is not among bftkit's own requirements: ``pip install bftkit[test]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from bftkit.core.plugin import load_protocol
from bftkit.sim import faults as fault
from bftkit.sim.examining import ProtocolLike, ServiceLike, protocol_name, service_name
from bftkit.sim.faults import FOLLOWER, LEADER, Fault
from bftkit.sim.links import Network
from bftkit.sim.plan import KEY_VALUE, Group, Load, Plan

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import DrawFn, SearchStrategy
except ImportError as error:
    raise ImportError(
        "bftkit.sim.strategies needs Hypothesis, which is not installed; install bftkit with its extra: bftkit[test]"
    ) from error


TICKS: Final = 1500
OPERATIONS: Final = 60
FAULTS_MAX: Final = 5
LASTING: Final = 1000
"""No fault lasts longer than so many ticks."""
LIES: Final = (
    "silent",
    "half-silent",
    "equivocate",
    "wrong-digests",
    "forged-certificates",
    "forged-checkpoints",
    "omit-prepared",
    "withhold",
    "replay",
    "stale-reads",
    "liar",
)
"""Simple ones first: Hypothesis shrinks towards them."""


def plans(
    protocol: ProtocolLike = "pbft",
    *,
    service: ServiceLike = KEY_VALUE,
    group: Group | None = None,
    ticks: int = TICKS,
    operations: int = OPERATIONS,
    faults_max: int = FAULTS_MAX,
) -> SearchStrategy[Plan]:
    """Plans for this protocol and service, with up to so many faults at any time of the ticks.

    By default in the smallest group that survives one faulty member.
    """
    name, kind = protocol_name(protocol), service_name(service)
    record = load_protocol(name).record
    chosen = group or (Group(members=4, f=1) if record.byzantine else Group(members=3, f=0, c=1))

    return st.builds(
        Plan,
        protocol=st.just(name),
        service=st.just(kind),
        seed=st.integers(0, 1 << 32),
        group=st.just(chosen),
        network=networks(),
        load=st.builds(Load, clients=st.integers(1, 3), operations=st.just(operations), bursts=st.just(4)),
        ticks=st.just(ticks),
        faults=faults(chosen, ticks, leader_may_forget="leader-crash" in record.survives, at_most=faults_max),
    )


def networks() -> SearchStrategy[Network]:
    """Links from good to bad."""
    return st.builds(
        Network,
        delay_max=st.sampled_from((10, 3, 40)),
        loss=st.sampled_from((0.0, 0.05, 0.3)),
        duplication=st.sampled_from((0.0, 0.1, 0.5)),
        straggling=st.sampled_from((0.0, 0.05)),
    )


@st.composite
def faults(
    draw: DrawFn, group: Group, ticks: int, *, leader_may_forget: bool = True, at_most: int = FAULTS_MAX
) -> tuple[Fault, ...]:
    """Faults that a group of this size survives, in the order of their time.

    No more than f members lie, and no more than f + c lie or forget. Without `leader_may_forget`, the first member
    never loses its disk (a protocol whose leader is always the same needs it).
    """
    names = group.names
    able = names if leader_may_forget else names[1:]
    lying = draw(st.lists(st.sampled_from(names), max_size=group.f, unique=True)) if group.f else []
    room = group.f + group.c - len(lying)
    rest = [name for name in able if name not in lying]
    forgetful = (
        draw(st.lists(st.sampled_from(rest), max_size=min(room, len(rest)), unique=True)) if room and rest else []
    )
    drawn: list[Fault] = [draw(_lie(name, names, ticks)) for name in sorted(lying)]
    drawn += [draw(_wipe(name, ticks)) for name in sorted(forgetful)]
    drawn += draw(st.lists(_trouble(names, ticks), max_size=max(0, at_most - len(drawn))))
    return tuple(sorted(drawn, key=lambda one: one.at))


def _trouble(names: Sequence[str], ticks: int) -> SearchStrategy[Fault]:
    """Anything that is over some day and for which nobody counts as faulty."""
    at = st.integers(0, ticks)
    lasting = st.integers(1, LASTING)
    who = st.sampled_from((*names, LEADER, FOLLOWER))
    cut = st.integers(0, max(0, len(names) - 1))
    return _one_of(
        (
            st.builds(fault.Crash, at=at, who=who, ticks=lasting, power=st.booleans()),
            st.builds(fault.PowerCut, at=at, ticks=st.integers(1, 300)),
            st.builds(fault.Pause, at=at, who=who, ticks=lasting),
            st.builds(_split, at, lasting, st.permutations(names), cut),
            st.builds(fault.OneWay, at=at, ticks=lasting, sender=who, receiver=st.sampled_from(names)),
            st.builds(fault.CutAtDisk, at=at, who=who, operation=st.integers(1, 20), ticks=st.integers(50, 800)),
            st.builds(fault.SyncFails, at=at, who=who, ticks=lasting),
            st.builds(fault.DiskFull, at=at, who=who, room=st.integers(0, 2000), ticks=lasting),
            st.builds(fault.SlowDisk, at=at, who=who, us=st.sampled_from((2_000, 20_000, 100_000)), ticks=lasting),
            st.builds(fault.ClockJump, at=at, who=who, ms=st.sampled_from((100, -100, 60_000, -60_000))),
            st.builds(fault.SlowLink, at=at, who=who, bits_per_second=st.just(256_000), ticks=lasting),
            st.builds(
                fault.Weather,
                at=at,
                ticks=lasting,
                loss=st.sampled_from((0.0, 0.3, 0.6)),
                duplication=st.sampled_from((0.0, 0.5)),
                delay_max=st.sampled_from((10, 40, 200)),
            ),
        )
    )


def _split(at: int, ticks: int, names: Sequence[str], cut: int) -> Fault:
    return fault.Partition(at=at, ticks=ticks, sides=(tuple(names[:cut]), tuple(names[cut:])))


def _lie(name: str, names: Sequence[str], ticks: int) -> SearchStrategy[Fault]:
    at = st.integers(0, ticks)
    others = [other for other in names if other != name]
    lies: list[SearchStrategy[Fault]] = [
        st.builds(fault.Lie, at=at, who=st.just(name), kind=st.sampled_from(LIES)),
        st.builds(fault.Rollback, at=at, who=st.just(name), ticks=st.integers(100, LASTING)),
        st.builds(fault.LyingDisk, at=at, who=st.just(name), ticks=st.integers(100, LASTING)),
    ]
    if len(others) > 1:
        lies.append(st.builds(_twin, at, st.just(name), st.permutations(others), st.integers(1, len(others) - 1)))
    return _one_of(lies)


def _twin(at: int, name: str, others: Sequence[str], cut: int) -> Fault:
    return fault.Twin(at=at, who=name, left=tuple(others[:cut]), right=tuple(others[cut:]))


def _wipe(name: str, ticks: int) -> SearchStrategy[Fault]:
    return st.builds(fault.Wipe, at=st.integers(0, ticks), who=st.just(name), ticks=st.integers(1, LASTING))


def _one_of(strategies: Iterable[SearchStrategy[Fault]]) -> SearchStrategy[Fault]:
    return st.one_of(list(strategies))


__all__ = ["faults", "networks", "plans"]
