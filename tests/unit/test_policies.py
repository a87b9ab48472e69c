"""Policies judge conditions: each boundary, the words with their numbers, and what never happens."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any, Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftkit.configuration import shelf
from bftkit.configuration.policies.conditions import PARAMETERS
from bftkit.configuration.policy import (
    COMMON_PARAMETERS,
    REASON_MAX,
    Measurement,
    Mode,
    Outlook,
    Policy,
    PolicyRecord,
    Wish,
)
from bftkit.configuration.qos import QoS
from bftkit.configuration.shelf import (
    BrokenPolicy,
    UnknownPolicy,
    check_parameters,
    filled,
    load_policy,
    policy_names,
)
from bftkit.configuration.text import ConfigurationError

OURS: Final = ("cheapest", "manual", "steady")
TWO: Final = (Mode("pbft"), Mode("cks"))
FOUR: Final = (Mode("coordinator"), Mode("paxos"), Mode("pbft"), Mode("cks"))
GOOD: Final = Measurement(
    window_us=1_000_000, waited_us=4000, waited_most_us=9000, oldest_us=5000, arrived=200, executed=200, batches=100
)
"""A quiet second."""
BURST: Final = attrs.evolve(GOOD, waited_us=900_000, oldest_us=2_000_000, arrived=50_000, executed=20_000)
SLOW: Final = attrs.evolve(GOOD, waited_us=400_000, oldest_us=600_000, arrived=40, executed=40)


def judge(name: str, now: Measurement, mode: int, modes: tuple[Mode, ...] = TWO, qos: QoS | None = None) -> Wish:
    policy = load_policy(name)
    return policy.judge(Outlook(now, mode, modes, filled(policy.record, Policy(name)), qos))


def of(now: Measurement, **changes: int) -> Measurement:
    return attrs.evolve(now, **changes)


# ------------------------------------------------------------------------------------------------- steady


@pytest.mark.parametrize(
    ("now", "mode", "reason"),
    [
        (GOOD, 0, "do well"),
        (of(GOOD, views=1), 0, "do well"),
        (of(GOOD, views=2), 1, "the leader changed 2 times in 1,000 ms; 2 are too many"),
        (of(GOOD, waited_us=250_000), 0, "do well"),
        (of(GOOD, waited_us=250_001), 1, "waited for 250 ms in the median, more than 250 ms, while 200 a second"),
        (SLOW, 1, "requests waited for 400 ms in the median, more than 250 ms, while 40 a second were executed"),
        (of(SLOW, executed=999), 1, "999 a second"),
        (of(SLOW, executed=1000), 0, "do well"),
        (of(SLOW, executed=1999, window_us=2_000_000), 1, "999 a second"),
        (BURST, 0, "do well"),
        (of(GOOD, executed=0, oldest_us=999_999), 0, "do well"),
        (of(GOOD, executed=0, oldest_us=1_000_000), 1, "nothing was executed in 1,000 ms, and a request has waited"),
        (of(GOOD, executed=1, waited_us=0, oldest_us=9_000_000), 0, "do well"),
        (of(GOOD, executed=0, oldest_us=0, arrived=0), 0, "do well"),
    ],
)
def test_steady_turns_to_the_robust_mode_when_the_leader_misbehaves(now: Measurement, mode: int, reason: str) -> None:
    wish = judge("steady", now, 0)
    assert wish.mode == mode
    assert reason in wish.reason


def test_steady_does_not_call_a_slow_network_a_slow_leader() -> None:
    late = of(SLOW, waited_us=400_000, lateness_us=40_000)
    assert judge("steady", late, 0).mode == 0, "four delays of 40 ms more are the network's"
    assert judge("steady", of(late, lateness_us=37_000), 0).mode == 1


def test_steady_turns_before_the_deadline_is_missed() -> None:
    now = of(SLOW, waited_us=90_000)
    assert judge("steady", now, 0).mode == 0
    assert judge("steady", now, 0, qos=QoS(deadline_ms=110)).mode == 1
    assert judge("steady", now, 0, qos=QoS(deadline_ms=120)).mode == 0
    assert judge("steady", SLOW, 0, qos=QoS(deadline_ms=60_000)).mode == 1, "a generous deadline makes nothing well"


@pytest.mark.parametrize(
    ("now", "mode", "reason"),
    [
        (GOOD, 0, "all members are heard, and messages are 0 ms later"),
        (of(GOOD, silent=1), 1, "1 members are not heard"),
        (of(GOOD, lateness_us=20_000), 0, "20 ms later"),
        (of(GOOD, lateness_us=20_001), 1, "messages are 20 ms later than at their best, and 20 ms would be calm"),
        (of(GOOD, views=1), 1, "the leader changed 1 times"),
        (of(GOOD, executed=0, oldest_us=2_000_000), 1, "a request has waited for 2,000 ms, and none was executed"),
        (BURST, 0, "all members are heard"),
    ],
)
def test_steady_goes_back_when_it_is_calm(now: Measurement, mode: int, reason: str) -> None:
    wish = judge("steady", now, 1)
    assert wish.mode == mode
    assert reason in wish.reason


def test_steady_with_a_member_that_is_gone_for_good() -> None:
    policy = load_policy("steady")
    allowed = filled(policy.record, Policy("steady", parameters={"silent": 1}))
    assert policy.judge(Outlook(of(GOOD, silent=1), 1, TWO, allowed, None)).mode == 0
    assert policy.judge(Outlook(of(GOOD, silent=2), 1, TWO, allowed, None)).mode == 1


def test_steady_knows_the_first_mode_and_the_last() -> None:
    assert judge("steady", SLOW, 1, FOUR).mode == 3
    assert judge("steady", GOOD, 2, FOUR).mode == 0


def test_with_one_mode_there_is_nothing_to_wish_for() -> None:
    assert judge("steady", SLOW, 0, TWO[:1]) == Wish(0, "there is no other mode")


# ------------------------------------------------------------------------------------------------- cheapest, manual


@pytest.mark.parametrize(
    ("now", "before", "after", "reason"),
    [
        (GOOD, 0, 0, "the least protocol does"),
        (SLOW, 0, 1, "requests waited for 400 ms"),
        (SLOW, 2, 3, "requests waited for 400 ms"),
        (SLOW, 3, 3, "requests waited for 400 ms"),
        (of(GOOD, blames=1), 1, 2, "members blamed each other 1 times"),
        (of(GOOD, views=2), 0, 1, "the leader changed 2 times"),
        (BURST, 1, 1, "more than half of what is long"),
        (GOOD, 3, 2, "all members are heard"),
        (of(GOOD, silent=1), 2, 2, "1 members are not heard"),
        (of(GOOD, waited_us=125_000), 2, 1, "all members are heard"),
        (of(GOOD, waited_us=125_001), 2, 2, "more than half of what is long"),
    ],
)
def test_cheapest_goes_one_mode_at_a_time(now: Measurement, before: int, after: int, reason: str) -> None:
    wish = judge("cheapest", now, before, FOUR)
    assert wish.mode == after
    assert reason in wish.reason


def test_manual_wishes_for_nothing() -> None:
    for mode in range(4):
        assert judge("manual", of(SLOW, views=99), mode, FOUR).mode == mode


# ------------------------------------------------------------------------------------------------- any conditions

NUMBERS: Final = st.integers(0, (1 << 64) - 1) | st.integers(0, 3) | st.integers(0, 3_000_000)
MEASUREMENTS: Final = st.builds(Measurement, **{field.name: NUMBERS for field in attrs.fields(Measurement)})


@st.composite
def outlooks(draw: st.DrawFn, name: str) -> Outlook:
    modes = FOUR[: draw(st.integers(1, 4))]
    record = load_policy(name).record
    parameters = {
        one: draw(st.integers(parameter.minimum, parameter.maximum))
        for one, parameter in sorted(shelf.parameters_of(record).items())
    }
    qos = draw(st.none() | st.builds(QoS, deadline_ms=st.integers(0, 24 * 3_600_000)))
    return Outlook(draw(MEASUREMENTS), draw(st.integers(0, len(modes) - 1)), modes, parameters, qos)


@pytest.mark.parametrize("name", OURS)
@given(data=st.data())
def test_a_judgement_is_always_an_existing_mode_with_a_reason(name: str, data: st.DataObject) -> None:
    outlook = data.draw(outlooks(name))
    wish = load_policy(name).judge(outlook)
    assert 0 <= wish.mode < len(outlook.modes)
    assert 0 < len(wish.reason) <= REASON_MAX
    assert wish == load_policy(name).judge(outlook), "the same for the same"


# ------------------------------------------------------------------------------------------------- the shelf


@attrs.frozen
class Lazy:
    """A third party's."""

    record: PolicyRecord = attrs.field(factory=lambda: PolicyRecord("lazy", "Lazy", "never"))

    def judge(self, outlook: Outlook) -> Wish:
        return Wish(outlook.mode, "no")


POLICY = Lazy()
NO_POLICY = "a string"


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """The installed entry points, for the length of a test."""
    found: list[EntryPoint] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [entry for entry in found if entry.group == group]

    monkeypatch.setattr(shelf, "entry_points", entry_points)
    load_policy.cache_clear()
    yield found
    load_policy.cache_clear()


def entry(name: str, place: str, group: str = shelf.GROUP) -> EntryPoint:
    return EntryPoint(name, place, group)


def test_the_policies_of_this_distribution_are_on_the_shelf() -> None:
    assert set(policy_names()) >= set(OURS)
    assert [load_policy(name).record.name for name in OURS] == list(OURS)


def test_a_policy_is_found_by_its_name_or_by_its_place(entries: list[EntryPoint]) -> None:
    entries += [entry("other", f"{__name__}:NO_POLICY"), entry("lazy", f"{__name__}:POLICY")]
    assert load_policy("lazy").record == POLICY.record
    assert load_policy(f"{__name__}:POLICY").record == POLICY.record
    assert policy_names() == ("lazy", "other")


def test_an_unknown_name_is_answered_with_the_nearest(entries: list[EntryPoint]) -> None:
    with pytest.raises(UnknownPolicy, match="installed: none"):
        load_policy("lasy")
    entries.append(entry("lazy", f"{__name__}:POLICY"))
    with pytest.raises(UnknownPolicy, match="no policy named 'lasy'; installed: lazy; did you mean 'lazy'"):
        load_policy("lasy")


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (f"{__name__}:NO_POLICY", "is not a bftkit policy: it needs a record and judge"),
        (f"{__name__}:JUDGE_ALONE", "is not a bftkit policy"),
        (f"{__name__}:RECORD_ALONE", "is not a bftkit policy"),
        ("no_such_package:POLICY", "ModuleNotFoundError"),
    ],
)
def test_a_broken_policy_is_named_with_the_reason(entries: list[EntryPoint], place: str, text: str) -> None:
    entries.append(entry("broken", place))
    with pytest.raises(BrokenPolicy, match=text):
        load_policy("broken")


@attrs.frozen
class OnlyRecord:
    record: PolicyRecord = attrs.field(factory=lambda: PolicyRecord("half", "Half", "never"))


@attrs.frozen
class OnlyJudge:
    def judge(self, outlook: Outlook) -> Wish:
        return Wish(outlook.mode, "no")


RECORD_ALONE: Any = OnlyRecord()
JUDGE_ALONE: Any = OnlyJudge()


def test_parameters_have_defaults_names_and_bounds() -> None:
    record = load_policy("steady").record
    assert {name: one.default for name, one in {**COMMON_PARAMETERS, **PARAMETERS}.items()} == filled(
        record, Policy("steady")
    )
    assert filled(record, Policy("steady", parameters={"views": 7}))["views"] == 7
    check_parameters(record, Policy("steady", parameters={"views": 7, "patience": 3}))
    with pytest.raises(ConfigurationError, match="steady has no such parameter; did you mean 'views'"):
        check_parameters(record, Policy("steady", parameters={"view": 7}))
    with pytest.raises(ConfigurationError, match=r"policy\.parameters\.views"):
        check_parameters(record, Policy("steady", parameters={"views": 0}))
