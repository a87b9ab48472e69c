"""The algebra of threshold coins, over drawn sizes, thresholds, secrets and names.

With real keys, so few examples each; tests/unit/test_threshold.py has the single cases.
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult_ed25519_noclamp

from bftkit.core.digest import digest
from bftkit.crypto.threshold import (
    GROUP_ORDER,
    CoinPublics,
    deal,
    interpolate,
    is_point,
    lagrange,
    public_point,
    scalar,
)
from bftkit.sim.coins import coins_of

GROUP, OPENING = digest(b"group"), digest(b"opening")

secrets = st.binary(min_size=32, max_size=32)
names = st.binary(max_size=200)
numbers = st.integers(1, GROUP_ORDER - 1)


@st.composite
def sizes(draw: st.DrawFn) -> tuple[tuple[str, ...], int]:
    """Members in some order, and a threshold."""
    n = draw(st.integers(1, 7))
    return tuple(draw(st.permutations([f"m{index}" for index in range(n)]))), draw(st.integers(1, n))


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
@given(sizes(), secrets, names, st.data())
@settings(max_examples=25, deadline=None)
def test_any_k_of_n_give_the_same_coin(
    kind: str, size: tuple[tuple[str, ...], int], secret: bytes, name: bytes, data: st.DataObject
) -> None:
    members, threshold = size
    parts = coins_of(kind, secret, GROUP, 3, OPENING, members, threshold)
    shares = {member: parts[member].share(name) for member in members}
    some, others = (data.draw(st.lists(st.sampled_from(members), min_size=threshold, unique=True)) for _ in range(2))
    me = data.draw(st.sampled_from(members))
    assert all(parts[me].verify(member, name, shares[member]) for member in members)
    coin = parts[me].combine(name, {member: shares[member] for member in some})
    assert coin == parts[members[0]].combine(name, {member: shares[member] for member in others})
    few = {member: shares[member] for member in some[: threshold - 1]}
    with pytest.raises(ValueError, match="make no coin"):
        parts[me].combine(name, few)


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
@given(secrets, names, st.integers(0, 95), st.integers(1, 255))
@settings(max_examples=40, deadline=None)
def test_no_changed_byte_passes(kind: str, secret: bytes, name: bytes, place: int, change: int) -> None:
    parts = coins_of(kind, secret, GROUP, 0, OPENING, ("m0", "m1"), 2)
    share = bytearray(parts["m0"].share(name))
    share[place] ^= change
    assert not parts["m1"].verify("m0", name, bytes(share))


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
@given(secrets, st.one_of(st.binary(max_size=200), st.binary(min_size=96, max_size=96)))
@settings(max_examples=60, deadline=None)
def test_no_bytes_raise(kind: str, secret: bytes, share: bytes) -> None:
    parts = coins_of(kind, secret, GROUP, 0, OPENING, ("m0", "m1"), 2)
    assert not parts["m1"].verify("m0", b"coin", share)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8, unique=True), st.lists(numbers, min_size=1, max_size=8))
def test_lagrange_is_interpolation(places: list[int], coefficients: list[int]) -> None:
    """Whatever the places, a polynomial of a lower degree than there are places is found again, anywhere."""
    assume(len(coefficients) <= len(places))

    def value(at: int) -> int:
        return sum(c * pow(at, power, GROUP_ORDER) for power, c in enumerate(coefficients)) % GROUP_ORDER

    for at in (0, 41, 99):
        found = sum(f * value(place) for f, place in zip(lagrange(places, at), places, strict=True))
        assert found % GROUP_ORDER == value(at)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4, unique=True), st.lists(numbers, min_size=4, max_size=4))
@settings(max_examples=25, deadline=None)
def test_interpolation_in_the_exponent_is_that_of_the_numbers(places: list[int], values: list[int]) -> None:
    known = dict(zip(places, values, strict=False))
    ordered = sorted(known)
    number = sum(f * known[place] for f, place in zip(lagrange(ordered), ordered, strict=True)) % GROUP_ORDER
    assume(number)
    base = public_point(scalar(12345))
    points = {place: crypto_scalarmult_ed25519_noclamp(scalar(known[place]), base) for place in places}
    assert interpolate(points) == crypto_scalarmult_ed25519_noclamp(scalar(number), base)


@given(sizes(), secrets, st.integers(0, 6), numbers)
@settings(max_examples=25, deadline=None)
def test_public_points_are_those_of_one_polynomial(
    size: tuple[tuple[str, ...], int], secret: bytes, place: int, by: int
) -> None:
    """Every dealt key passes; with one point changed none does, unless no other point could tell (k = n)."""
    members, threshold = size
    publics, shares = deal(members, threshold, secret)
    points = list(publics.values())
    assert all(map(is_point, points))
    CoinPublics(threshold, tuple(points))
    index = place % len(members)
    changed = (int.from_bytes(shares[members[index]], "little") + by) % GROUP_ORDER
    assume(changed)
    points[index] = public_point(scalar(changed))
    if threshold < len(members):
        with pytest.raises(ValueError, match="not those of one polynomial"):
            CoinPublics(threshold, tuple(points))
    for fewer in range(1, threshold):
        with pytest.raises(ValueError, match="not those of one polynomial"):
            CoinPublics(fewer, tuple(publics.values()))
