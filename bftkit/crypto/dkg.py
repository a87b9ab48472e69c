"""Sharing a secret so that it can be checked, and so that a holder that got nothing can get its share later.

The dealer draws a polynomial S(x, y) over the numbers modulo q, of degree k - 1 in x and of degree r - 1 in y::

    S(x, y) = sum of s_lm y^l x^m          l from 0 to r - 1, m from 0 to k - 1

- *the commitment*: the points C_lm = s_lm B, for everybody (Feldman, FOCS 1987).
- *the row* of holder i: a_i(y) = S(i, y), r numbers. Its share is a_i(0) = S(i, 0), so that the shares are a
  polynomial of degree k - 1, as for every coin key: k of them make the coin of the secret S(0, 0).
- *the column* of holder i: b_i(x) = S(x, i), k numbers. It holds one point of everybody else's row, b_i(j) = a_j(i):
  any r holders can give j its share back, and each point is checked against the commitment.

So there are two thresholds: k make a coin, r restore a share ("dual threshold": Cachin, Kursawe, Lysyanskaya, Strobl,
"Asynchronous Verifiable Secret Sharing and Proactive Cryptosystems", CCS 2002, section 4). With one polynomial in x
alone, k honest holders would have to help to restore a share, and only n - t - f are sure to have one.

*Secrecy.* Whoever has the rows and columns of r - 1 holders knows nothing of S(x, 0) but its values at their places:
to each polynomial of degree k - 1 with these values there is exactly one S with their rows and columns, namely
S + (S'(x, 0) - S(x, 0)) times the product of (1 - y/i) over their places i. So it may learn k - r further shares from
coins, and S(0, 0) is still any number. (The commitment shows S(0, 0) B, from which nobody computes S(0, 0).)

*A row or column that fits* is what the commitment says: its coefficients are checked one by one, all in one equation
whose factors are hashed from what is checked, so that nobody chooses them; a false one passes with probability
(k + r) / q. The dealer's numbers follow from a seed of 32 bytes, so that a dealer that starts again deals the same.

Everything secret goes through libsodium's constant-time scalars; Python's integers are for public factors only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from nacl.bindings import crypto_core_ed25519_add, crypto_core_ed25519_scalar_add, crypto_core_ed25519_scalar_mul

from bftkit.core.digest import digest
from bftkit.core.state import SHARED
from bftkit.crypto.threshold import (
    DEAL_SECRET_SIZE,
    GROUP_ORDER,
    POINT_SIZE,
    SCALAR_SIZE,
    CoinPublics,
    combination,
    hash_scalar,
    is_scalar,
    lagrange,
    public_point,
    scalar,
)


@attrs.frozen
class Shape:
    """The sizes of a sharing. Raises `ValueError` unless 1 <= restoring <= threshold <= holders."""

    holders: int
    """n: their places are 1 to n."""
    threshold: int
    """k: so many shares make a coin."""
    restoring: int
    """r: so many points restore a share, and whoever has fewer rows knows nothing of the others'."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.restoring <= self.threshold <= self.holders:
            raise ValueError(
                f"{self.restoring} points to restore a share and {self.threshold} shares to make a coin do not fit "
                f"{self.holders} holders"
            )

    @property
    def public_bytes(self) -> int:
        """The length of the public part of a commitment: of the points C_0m, to which the shares are committed."""
        return self.threshold * POINT_SIZE

    @property
    def commitment_bytes(self) -> int:
        """The length of a whole commitment: C_00, C_01, …, row after row."""
        return self.restoring * self.public_bytes

    def split(self, commitment: bytes) -> tuple[bytes, bytes]:
        """The public part of a commitment, and the digest of the rest: enough to name it, and to know the key."""
        return commitment[: self.public_bytes], digest(commitment[self.public_bytes :])

    def digest(self, public: bytes, rest: bytes) -> bytes:
        """The name of the commitment with this public part and this digest of the rest, 32 bytes."""
        sizes = b"".join(size.to_bytes(4, "big") for size in (self.holders, self.threshold, self.restoring))
        return digest(b"coin sharing", sizes, public, rest)

    def commitment_digest(self, commitment: bytes) -> bytes:
        """The name of a commitment. Bytes of another length have one, too, so that a dealer can be held to them."""
        return self.digest(*self.split(commitment))


# ------------------------------------------------------------------------------------------------- dealing


@attrs.frozen(eq=False)
class Dealing:
    """One dealer's polynomial; see `of`. It is not shown, and no fingerprint has it: the commitment names it."""

    shape: Shape
    commitment: bytes = attrs.field(repr=False)
    _coefficients: tuple[tuple[bytes, ...], ...] = attrs.field(repr=False, metadata=SHARED)
    """s_lm, as scalars, row after row."""

    @classmethod
    def of(cls, shape: Shape, seed: bytes, context: bytes) -> Dealing:
        """The polynomial that follows from 32 secret bytes, and from what it is for: the same each time.

        Raises `ValueError` for a seed of another length; the text does not show it.
        """
        if len(seed) != DEAL_SECRET_SIZE:
            raise ValueError(f"a sharing is dealt from {DEAL_SECRET_SIZE} secret bytes, not {len(seed)}")
        about = shape.digest(b"", digest(context))
        coefficients = tuple(
            tuple(
                hash_scalar(b"coin sharing", about, power_y.to_bytes(4, "big"), power_x.to_bytes(4, "big"), key=seed)
                for power_x in range(shape.threshold)
            )
            for power_y in range(shape.restoring)
        )
        points = [public_point(coefficient) for row in coefficients for coefficient in row]
        return cls(shape, b"".join(points), coefficients)

    def piece(self, place: int) -> tuple[bytes, bytes]:
        """The row and the column of the holder at this place, for its eyes only: r and k scalars, lowest power first.

        Raises `ValueError` for a place that nobody has: the secret lies at place 0.
        """
        if not 1 <= place <= self.shape.holders:
            raise ValueError(f"the holders' places are 1 to {self.shape.holders}, not {place}")
        row = [_evaluate(coefficients, place) for coefficients in self._coefficients]
        column = [_evaluate(coefficients, place) for coefficients in zip(*self._coefficients, strict=True)]
        return b"".join(row), b"".join(column)

    def __deepcopy__(self, memo: object) -> Dealing:
        return self

    def __reduce__(self) -> str:
        raise TypeError("a dealing is not pickled: secrets leave through key files only (SAFETY rule 20)")


def evaluate(coefficients: bytes, place: int) -> bytes:
    """The value at a place of the polynomial with these scalars as coefficients, lowest power first."""
    return _evaluate(_parts(coefficients), place)


def _evaluate(coefficients: Sequence[bytes], place: int) -> bytes:
    at = scalar(place)
    value = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = crypto_core_ed25519_scalar_add(crypto_core_ed25519_scalar_mul(value, at), coefficient)
    return value


def _parts(data: bytes) -> list[bytes]:
    """Scalars or points that stand one behind the other: both have 32 bytes."""
    assert SCALAR_SIZE == POINT_SIZE
    return [data[start : start + SCALAR_SIZE] for start in range(0, len(data), SCALAR_SIZE)]


# ------------------------------------------------------------------------------------------------- checking


def piece_fits(shape: Shape, commitment: bytes, place: int, row: bytes, column: bytes) -> bool:
    """Whether these are the row and the column of the holder at this place, and the commitment is one of this shape.

    Everybody that judges the same bytes comes to the same result, so that a dealing that its dealer signed and that
    does not fit is evidence. Never raises on a peer's input.
    """
    if len(commitment) != shape.commitment_bytes or not 1 <= place <= shape.holders:
        return False
    if len(row) != shape.restoring * SCALAR_SIZE or len(column) != shape.threshold * SCALAR_SIZE:
        return False
    rows, columns, points = _parts(row), _parts(column), _parts(commitment)
    if not all(is_scalar(number) for number in (*rows, *columns)):
        return False
    # One equation for all: each of the k + r numbers has its own power of one hashed number, so that errors cannot
    # cancel; with the same factors, the same sum over what the commitment says of them, which is
    # a_il B = sum over m of i^m C_lm and b_im B = sum over l of i^l C_lm.
    seed = hash_scalar(b"coin sharing check", place.to_bytes(4, "big"), digest(commitment, row, column))
    factors = _powers(int.from_bytes(seed, "little"), shape.restoring + shape.threshold)
    in_rows, in_columns = factors[: shape.restoring], factors[shape.restoring :]
    left = scalar(0)
    for factor, number in zip(factors, (*rows, *columns), strict=True):
        left = crypto_core_ed25519_scalar_add(left, crypto_core_ed25519_scalar_mul(scalar(factor), number))
    at = _powers(place, shape.threshold)
    right = [
        (in_row * at[power_x] + in_column * at[power_y], points[power_y * shape.threshold + power_x])
        for power_y, in_row in enumerate(in_rows)
        for power_x, in_column in enumerate(in_columns)
    ]
    try:
        # Multiplying refuses what is no point of the group, so all points are checked as well.
        return public_point(left) == combination(right)
    except ValueError:
        return False


def _powers(base: int, count: int) -> list[int]:
    powers = [1]
    while len(powers) < count:
        powers.append(powers[-1] * base % GROUP_ORDER)
    return powers


def row_points(shape: Shape, commitment: bytes, place: int) -> tuple[bytes, ...]:
    """The commitment to the row of the holder at this place: r points. `point_fits` takes them.

    Raises `ValueError` if the commitment is none of this shape.
    """
    if len(commitment) != shape.commitment_bytes:
        raise ValueError(f"a commitment of {len(commitment)} bytes, not {shape.commitment_bytes}")
    points = _parts(commitment)
    width = shape.threshold
    return tuple(_evaluate_points(points[start : start + width], place) for start in range(0, len(points), width))


def _evaluate_points(points: Sequence[bytes], place: int) -> bytes:
    return combination([*zip(_powers(place, len(points)), points, strict=True)])


def point_fits(row: Sequence[bytes], holder: int, value: bytes) -> bool:
    """Whether this is the point that the holder at place `holder` has of the row with this commitment.

    Never raises on a peer's input.
    """
    return is_scalar(value) and public_point(value) == _evaluate_points(row, holder)


# ------------------------------------------------------------------------------------------------- keys


def restored_share(points: Mapping[int, bytes]) -> bytes:
    """The share whose row has these checked points at the holders' places: exactly r of them."""
    places = sorted(points)
    share = scalar(0)
    for factor, place in zip(lagrange(places), places, strict=True):
        share = crypto_core_ed25519_scalar_add(share, crypto_core_ed25519_scalar_mul(scalar(factor), points[place]))
    return share


def row_share(row: bytes) -> bytes:
    """The share of the holder with this row: its value at 0."""
    return row[:SCALAR_SIZE]


def summed_share(shares: Sequence[bytes]) -> bytes:
    """One holder's share of the sum of several sharings, from its shares of each."""
    total = scalar(0)
    for share in shares:
        total = crypto_core_ed25519_scalar_add(total, share)
    return total


def summed_publics(shape: Shape, publics: Sequence[bytes]) -> CoinPublics:
    """What everybody knows of the sum of several sharings, from the public parts of their commitments.

    Raises `ValueError` if they are none of this shape, or the sum can be no coin key.
    """
    if not publics or any(len(public) != shape.public_bytes for public in publics):
        raise ValueError(f"the public part of a commitment has {shape.public_bytes} bytes")
    sums = _parts(publics[0])
    for public in publics[1:]:
        try:
            sums = [crypto_core_ed25519_add(one, other) for one, other in zip(sums, _parts(public), strict=True)]
        except RuntimeError:
            raise ValueError("a commitment has something that is no point of the group") from None
    points = [_evaluate_points(sums, place) for place in range(1, shape.holders + 1)]
    return CoinPublics(shape.threshold, tuple(points))
