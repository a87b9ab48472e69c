"""Agreed time: one clock that no clock alone decides (SAFETY rule 11)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftkit.channel.agreed_time import SPREAD_MS, AgreedClock


def clock(*times: int, needed: int = 3) -> AgreedClock:
    made = AgreedClock(needed)
    for index, time_ms in enumerate(times):
        made.report(f"m{index}", 1, time_ms)
    return made


def test_time_stands_still_until_enough_members_have_reported() -> None:
    made = clock(1000, 2000)
    assert made.settle(5000) == 0
    made.report("m2", 1, 1500)
    assert made.settle(1600) == 1600


@pytest.mark.parametrize(
    ("times", "median"), [((10, 20, 30), 20), ((10, 20, 30, 40), 20), ((10, 20, 30, 40, 50), 30), ((7, 7, 7, 1), 7)]
)
def test_a_proposal_is_clamped_to_the_lower_median_and_the_spread(times: tuple[int, ...], median: int) -> None:
    assert clock(*times).settle(0) == median
    assert clock(*times).settle(median + 3) == median + 3
    assert clock(*times).settle(1 << 62) == median + SPREAD_MS


def test_newer_counters_replace_older_ones_wherever_the_clock_jumps() -> None:
    made = clock(1000, 1000, 1000)
    assert made.report("m0", 2, 5)
    assert not made.report("m0", 2, 9)
    assert not made.report("m0", 1, 9)
    assert made.reports["m0"].time_ms == 5


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 1 << 62), st.integers(0, 1 << 63)), max_size=60
    )
)
def test_time_never_runs_back(steps: list[tuple[int, int, int, int]]) -> None:
    made = AgreedClock(3)
    before = 0
    for member, counter, time_ms, proposal in steps:
        made.report(f"m{member}", counter, time_ms)
        now = made.settle(proposal)
        assert now >= before
        before = now


@given(st.lists(st.integers(1000, 2000), min_size=3, max_size=3), st.integers(0, 1 << 63), st.integers(0, 1 << 63))
def test_one_liar_of_four_cannot_leave_what_the_honest_reported(honest: list[int], lie: int, proposal: int) -> None:
    """The lower median of 3f + 1 reports lies within what honest members reported; the leader adds D at most."""
    made = clock(*honest, lie)
    assert min(honest) <= made.settle(proposal) <= max(honest) + SPREAD_MS
