"""SAFETY rule 1, at every group size up to 40 and for every f and c that it allows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from bftkit.core.quorum import Quorum, QuorumError, largest_tolerance, members_needed

N_MAX = 40

GROUPS = [
    (n, f, c)
    for n in range(1, N_MAX + 1)
    for f in range(n)
    for c in range(n)
    if n >= 3 * f + 2 * c + 1
]  # fmt: skip


def smallest_intersection(n: int, a: int, b: int) -> int:
    """How many members two sets of these sizes have in common at least."""
    return max(0, a + b - n)


def test_the_groups_are_all_there() -> None:
    assert len(GROUPS) == 2128
    assert {n for n, _, _ in GROUPS} == set(range(1, N_MAX + 1))
    assert (4, 1, 0) in GROUPS
    assert (6, 1, 1) in GROUPS
    assert (3, 1, 0) not in GROUPS


@pytest.mark.parametrize("n", range(1, N_MAX + 1))
def test_any_two_quorums_share_a_correct_member(n: int) -> None:
    """SAFETY rule 1: any two sets of size q or n - f - c have at least f + 1 members in common."""
    for _, f, c in (group for group in GROUPS if group[0] == n):
        quorum = Quorum(n, f, c)
        for a, b in itertools.product((quorum.certificate, quorum.available), repeat=2):
            assert smallest_intersection(n, a, b) >= f + 1, (n, f, c, a, b)


@pytest.mark.parametrize("n", range(1, N_MAX + 1))
def test_a_quorum_can_be_reached_without_the_faulty(n: int) -> None:
    for _, f, c in (group for group in GROUPS if group[0] == n):
        quorum = Quorum(n, f, c)
        assert quorum.certificate <= quorum.available == n - f - c
        assert quorum.weak == f + 1 <= quorum.certificate
        assert quorum.durable == f + c + 1 <= quorum.available
        assert quorum.faulty == f + c


@pytest.mark.parametrize("n", range(1, N_MAX + 1))
def test_no_smaller_certificate_would_do(n: int) -> None:
    """q is the least size whose intersections hold: nobody waits for a vote more than safety needs."""
    for _, f, c in (group for group in GROUPS if group[0] == n):
        less = Quorum(n, f, c).certificate - 1
        assert smallest_intersection(n, less, less) < f + 1, (n, f, c)


def test_the_classical_size_is_right_at_the_minimum_and_too_small_above() -> None:
    """2f + c + 1 equals q at n = 3f + 2c + 1; a few members more, and two such sets meet in liars only."""
    for n, f, c in GROUPS:
        classical = 2 * f + c + 1
        if n == members_needed(f, c):
            assert Quorum(n, f, c).certificate == classical
            assert smallest_intersection(n, classical, classical) == f + 1
        else:
            assert smallest_intersection(n, classical, classical) < f + 1


def test_the_intersections_counted_out_on_small_groups() -> None:
    """The arithmetic above against every pair of sets, where there are few enough of them."""
    for n, f, c in (group for group in GROUPS if group[0] <= 8):
        quorum = Quorum(n, f, c)
        sets = [set(chosen) for chosen in itertools.combinations(range(n), quorum.certificate)]
        assert min(len(a & b) for a, b in itertools.product(sets, repeat=2)) >= f + 1


def refused() -> Iterator[tuple[int, int, int]]:
    for n in range(-1, N_MAX + 1):
        for f, c in itertools.product(range(-1, 15), repeat=2):
            if f < 0 or c < 0 or n < 3 * f + 2 * c + 1:
                yield n, f, c


def test_a_group_that_is_too_small_is_refused_with_the_numbers() -> None:
    for n, f, c in refused():
        with pytest.raises(QuorumError):
            Quorum(n, f, c)
    with pytest.raises(QuorumError, match="2 Byzantine and 0 crash faults need 7 members; there are 5"):
        Quorum(5, 2)
    with pytest.raises(QuorumError, match="must not be negative"):
        Quorum(4, -1)


def test_below_the_minimum_no_size_works() -> None:
    """The bound is tight: one member fewer, and what intersects cannot be reached (or the other way round)."""
    for f, c in itertools.product(range(12), range(12)):
        n = members_needed(f, c) - 1
        assert not any(smallest_intersection(n, q, q) >= f + 1 and q <= n - f - c for q in range(n + 1))


def test_largest_tolerance() -> None:
    for n in range(1, N_MAX + 1):
        f = largest_tolerance(n)
        assert n >= members_needed(f)
        assert n < members_needed(f + 1)


def test_the_crash_model_is_a_majority() -> None:
    for n, f, c in GROUPS:
        if f == 0:
            assert Quorum(n, 0, c).certificate == n // 2 + 1
