"""Sharings that can be checked and restored: the algebra, what is refused, and what r - 1 holders know (nothing).

Cachin, Kursawe, Lysyanskaya, Strobl (CCS 2002), section 4: *consistency* (all that fits is of one polynomial),
*restoring* (r points give a share back), *privacy* (r - 1 rows and columns go with every secret).
"""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add

from bftkit.core.digest import digest
from bftkit.core.state import fingerprint
from bftkit.core.trace import describe
from bftkit.crypto.dkg import (
    Dealing,
    Shape,
    evaluate,
    piece_fits,
    point_fits,
    restored_share,
    row_points,
    row_share,
    summed_publics,
    summed_share,
)
from bftkit.crypto.threshold import GROUP_ORDER, Coins, is_scalar, lagrange, public_point, scalar

SHAPE = Shape(4, 3, 2)
SEED = bytes(range(32))
GROUP = digest(b"group")
TORSION = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
"""A point of order 8."""

shapes = st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(0, 2)).map(
    lambda sizes: Shape(sum(sizes), sizes[0] + sizes[1], sizes[0])
)
seeds = st.binary(min_size=32, max_size=32)
few = settings(max_examples=15, deadline=None)


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def dealt(shape: Shape = SHAPE, seed: bytes = SEED) -> Dealing:
    return Dealing.of(shape, seed, b"context")


def shares_of(dealing: Dealing) -> dict[int, bytes]:
    return {place: row_share(dealing.piece(place)[0]) for place in range(1, dealing.shape.holders + 1)}


def secret(shares: dict[int, bytes], places: tuple[int, ...]) -> int:
    return sum(f * number(shares[p]) for f, p in zip(lagrange(places), places, strict=True)) % GROUP_ORDER


def changed(data: bytes, index: int) -> bytes:
    """The bytes with another number or point at this index: one that is well formed."""
    start = 32 * index
    return data[:start] + scalar(number(data[start : start + 32]) + 1) + data[start + 32 :]


# ------------------------------------------------------------------------------------------------- algebra


@few
@given(shapes, seeds)
def test_every_part_fits_and_any_k_shares_give_one_secret(shape: Shape, seed: bytes) -> None:
    dealing = dealt(shape, seed)
    for place in range(1, shape.holders + 1):
        assert piece_fits(shape, dealing.commitment, place, *dealing.piece(place))
    shares = shares_of(dealing)
    subsets = list(itertools.combinations(shares, shape.threshold))
    assert len({secret(shares, places) for places in subsets}) == 1
    assert public_point(scalar(secret(shares, subsets[0]))) == dealing.commitment[:32]


@few
@given(shapes, seeds)
def test_a_row_and_a_column_meet_in_one_point_and_r_points_restore_the_share(shape: Shape, seed: bytes) -> None:
    dealing = dealt(shape, seed)
    pieces = {place: dealing.piece(place) for place in range(1, shape.holders + 1)}
    for place, (row, _) in pieces.items():
        commitment = row_points(shape, dealing.commitment, place)
        points = {other: evaluate(column, place) for other, (_, column) in pieces.items()}
        for other, point in points.items():
            assert point == evaluate(row, other)
            assert point_fits(commitment, other, point)
        for places in itertools.combinations(points, shape.restoring):
            assert restored_share({other: points[other] for other in places}) == row_share(row)


def test_with_fewer_points_than_r_another_share_comes_out() -> None:
    dealing = dealt(Shape(5, 4, 3))
    points = {place: evaluate(dealing.piece(place)[1], 1) for place in (2, 3, 4)}
    assert restored_share(points) == row_share(dealing.piece(1)[0])
    assert restored_share({2: points[2], 3: points[3]}) != row_share(dealing.piece(1)[0])


@few
@given(shapes, st.lists(seeds, min_size=1, max_size=3, unique=True))
def test_the_sum_of_sharings_is_a_coin_key(shape: Shape, several: list[bytes]) -> None:
    dealings = [dealt(shape, seed) for seed in several]
    publics = summed_publics(shape, [shape.split(dealing.commitment)[0] for dealing in dealings])
    members = [f"m{index}" for index in range(shape.holders)]
    points = dict(zip(members, publics.points, strict=True))
    coins = {
        member: Coins(
            GROUP,
            1,
            GROUP,
            member,
            summed_share([row_share(dealing.piece(place)[0]) for dealing in dealings]),
            points,
            shape.threshold,
        )
        for place, member in enumerate(members, 1)
    }
    shares = {member: coins[member].share(b"coin") for member in members}
    assert all(coins[members[0]].verify(member, b"coin", shares[member]) for member in members)
    tossed = {
        coins[members[0]].combine(b"coin", {member: shares[member] for member in chosen})
        for chosen in itertools.combinations(members, shape.threshold)
    }
    assert len(tossed) == 1


def test_one_holder_less_than_r_can_have_been_dealt_any_secret() -> None:
    """Privacy, as its proof goes: to the rows and columns of r - 1 holders there is a sharing of every secret."""
    shape = Shape(7, 5, 3)
    dealing = dealt(shape)
    curious = (2, 6)
    # The product over these places of (1 - y / i), and a T(x) of degree k - 1 that is 0 at them: lowest power first.
    vanishing, added = [1], [1, 5, 9]
    for place in curious:
        inverse = pow(place, -1, GROUP_ORDER)
        vanishing = [a - b * inverse for a, b in zip([*vanishing, 0], [0, *vanishing], strict=True)]
        added = [b - a * place for a, b in zip([*added, 0], [0, *added], strict=True)]
    assert (len(vanishing), len(added)) == (shape.restoring, shape.threshold)
    parts = [dealing.commitment[start : start + 32] for start in range(0, len(dealing.commitment), 32)]
    own = [[number(value) for value in row] for row in coefficients(dealing)]
    other = tuple(
        tuple(scalar(own[y][x] + vanishing[y] * added[x]) for x in range(shape.threshold))
        for y in range(shape.restoring)
    )
    points = [public_point(value) for row in other for value in row]
    assert points != parts
    second = Dealing(shape, b"".join(points), other)
    for place in curious:
        assert second.piece(place) == dealing.piece(place)
        assert piece_fits(shape, second.commitment, place, *second.piece(place))
    places = (1, 2, 3, 4, 5)
    assert secret(shares_of(second), places) != secret(shares_of(dealing), places)


def coefficients(dealing: Dealing) -> tuple[tuple[bytes, ...], ...]:
    values: tuple[tuple[bytes, ...], ...] = getattr(dealing, "_coefficients")  # noqa: B009 - the secret itself
    return values


# ------------------------------------------------------------------------------------------------- refusals


@few
@given(st.data())
def test_no_part_fits_once_a_single_number_is_another(data: st.DataObject) -> None:
    dealing = dealt()
    place = data.draw(st.integers(1, 4))
    row, column = dealing.piece(place)
    index = data.draw(st.integers(0, SHAPE.restoring + SHAPE.threshold - 1))
    if index < SHAPE.restoring:
        row = changed(row, index)
    else:
        column = changed(column, index - SHAPE.restoring)
    assert not piece_fits(SHAPE, dealing.commitment, place, row, column)


def test_errors_in_a_row_and_a_column_do_not_cancel() -> None:
    dealing = dealt()
    row, column = dealing.piece(2)
    less = column[:32] + scalar(number(column[32:64]) - 1) + column[64:]
    assert not piece_fits(SHAPE, dealing.commitment, 2, changed(row, 1), less)
    first = scalar(number(column[:32]) - 1) + column[32:]
    assert not piece_fits(SHAPE, dealing.commitment, 2, changed(row, 0), first)


def test_a_part_is_of_one_place() -> None:
    dealing = dealt()
    assert not piece_fits(SHAPE, dealing.commitment, 2, *dealing.piece(1))
    for place in (0, 5):
        assert not piece_fits(SHAPE, dealing.commitment, place, *dealing.piece(1))
        with pytest.raises(ValueError, match="places are 1 to 4"):
            dealing.piece(place)


def test_bytes_of_another_length_or_encoding_never_fit() -> None:
    dealing = dealt()
    row, column = dealing.piece(1)
    assert piece_fits(SHAPE, dealing.commitment, 1, row, column)
    assert not piece_fits(SHAPE, dealing.commitment[:-32], 1, row, column)
    assert not piece_fits(SHAPE, dealing.commitment + dealing.commitment[-32:], 1, row, column)
    assert not piece_fits(SHAPE, dealing.commitment, 1, row[:-32], column)
    assert not piece_fits(SHAPE, dealing.commitment, 1, row, column + column[:32])
    # The same number, written in another way.
    more = (number(row[:32]) + GROUP_ORDER).to_bytes(32, "little") + row[32:]
    assert not piece_fits(SHAPE, dealing.commitment, 1, more, column)
    with pytest.raises(ValueError, match="64 bytes, not 192"):
        row_points(SHAPE, dealing.commitment[:64], 1)


@pytest.mark.parametrize("index", range(6))
def test_points_outside_the_group_are_refused(index: int) -> None:
    dealing = dealt()
    start = 32 * index
    for added in (TORSION, crypto_core_ed25519_add(TORSION, TORSION)):
        point = crypto_core_ed25519_add(dealing.commitment[start : start + 32], added)
        commitment = dealing.commitment[:start] + point + dealing.commitment[start + 32 :]
        assert not piece_fits(SHAPE, commitment, 1, *dealing.piece(1))


def test_a_point_of_a_row_is_of_one_holder() -> None:
    dealing = dealt()
    commitment = row_points(SHAPE, dealing.commitment, 1)
    point = evaluate(dealing.piece(2)[1], 1)
    assert point_fits(commitment, 2, point)
    assert not point_fits(commitment, 3, point)
    assert not point_fits(commitment, 2, changed(point, 0))
    assert not point_fits(commitment, 2, bytes(32))
    assert not point_fits(commitment, 2, (number(point) + GROUP_ORDER).to_bytes(32, "little"))


def test_a_sum_of_what_is_no_commitment_is_refused() -> None:
    public = dealt().commitment[: SHAPE.public_bytes]
    for wrong in ([], [public[:-32]], [public, public + public[:32]]):
        with pytest.raises(ValueError, match="the public part"):
            summed_publics(SHAPE, wrong)
    with pytest.raises(ValueError, match="no point"):
        summed_publics(SHAPE, [public, b"\xff" * len(public)])
    # What cancels to a polynomial of a lower degree is no key of this threshold.
    less = Dealing.of(SHAPE, bytes(32), b"x").commitment[: SHAPE.public_bytes]
    highest = scalar(-number(coefficients(dealt())[0][2]))
    with pytest.raises(ValueError, match="no point of the group"):
        summed_publics(SHAPE, [public, less[:64] + public_point(highest)])


def test_shapes_that_make_no_sense_are_refused() -> None:
    for sizes in ((4, 3, 0), (4, 2, 3), (4, 5, 2)):
        with pytest.raises(ValueError, match="do not fit"):
            Shape(*sizes)


# ------------------------------------------------------------------------------------------------- secrets, forms


def test_a_dealing_follows_from_seed_shape_and_context() -> None:
    one = dealt()
    assert dealt().commitment == one.commitment
    assert dealt().piece(3) == one.piece(3)
    others = [dealt(seed=bytes(32)), dealt(Shape(5, 3, 2)), Dealing.of(SHAPE, SEED, b"another context")]
    assert one.commitment not in [other.commitment for other in others]
    assert all(is_scalar(value) for row in coefficients(one) for value in row)
    # Pinned: a member that is updated between its restarts must deal the same.
    assert SHAPE.commitment_digest(one.commitment).hex()[:16] == "15904fa742444049"
    with pytest.raises(ValueError, match="32 secret bytes, not 31"):
        dealt(seed=bytes(31))


def test_a_commitments_name_says_all_of_it() -> None:
    commitment = dealt().commitment
    names = {SHAPE.commitment_digest(changed(commitment, index)) for index in range(6)}
    names |= {
        SHAPE.commitment_digest(commitment),
        SHAPE.commitment_digest(commitment[:-32]),
        SHAPE.commitment_digest(b""),
    }
    names.add(Shape(5, 3, 2).commitment_digest(commitment))
    assert len(names) == 10
    assert SHAPE.digest(*SHAPE.split(commitment)) == SHAPE.commitment_digest(commitment)


def test_a_dealing_shows_no_secret() -> None:
    dealing = dealt()
    shown = repr(dealing) + describe(dealing)
    for value in (value for row in coefficients(dealing) for value in row):
        assert value.hex()[:8] not in shown
        assert repr(value)[2:10] not in shown
    hidden = Dealing(SHAPE, dealing.commitment, ())
    assert fingerprint(dealing) == fingerprint(hidden)
    assert copy.deepcopy(dealing) is dealing
    with pytest.raises(TypeError, match="SAFETY rule 20"):
        pickle.dumps(dealing)
