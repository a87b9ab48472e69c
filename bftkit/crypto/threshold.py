"""The group's coin: random bytes that nobody knows before enough members want them, and that nobody can choose.

A coin has a name C. The secret x is shared by a polynomial of degree k - 1, so that member i (counted from 1 in
roster order) holds x_i and everybody knows the points X_i = x_i B. In words:

- *the coin's point* U = H(C): nobody knows its discrete logarithm.
- *a share* S_i = x_i U, with a proof by Chaum and Pedersen that log_B X_i = log_U S_i: without the proof a liar's
  share would turn the coin into another one, and nobody could say whose fault it was.
- *the coin*: any k valid shares give x U by Lagrange interpolation in the exponent, always the same point; its hash
  with the name is the coin. Whoever has k - 1 shares knows nothing: every value is as likely as before.

Cachin, Kursawe, Shoup, "Random Oracles in Constantinople", PODC 2000, section 4.3, the Diffie-Hellman construction.
The threshold k is a parameter ("dual threshold", section 4.2): agreement needs k = n - t, since with k = t + 1 one
early share of a correct member shows the coin to an adversary that can still choose what the others vote. Both kinds
are here; `Setup.quorum.available` is the one that protocols use. docs/adr/0010 gives the reasons.

The group is the subgroup of prime order of Ed25519, by libsodium. Whatever a peer sends is checked to lie in it:
to a point outside a small multiple of the share would cling. Proofs are deterministic: the nonce is a keyed hash of all
that is proved, under the share, since a machine draws no randomness and two answers with one nonce reveal the share.

Exactly, with the framing of `bftkit.crypto.keys` (SAFETY rule 2)::

    name       "bftkit/1/coin" | 0 | group 32 | epoch 8 | opening 32 | 0 | name      (longer ones: 1 | digest)
    U          E(digest("coin point 1" | name)) + E(digest("coin point 2" | name))   E: Elligator 2, cofactor cleared
    challenge  hash512("coin challenge" | place 4 | X | U | S | wB | wU | name) mod q
    nonce w    hash512 keyed with x_i ("coin nonce" | place 4 | X | U | S | name) mod q
    a share    S 32 | challenge 32 | response 32                                     response = w + challenge x_i
    the coin   digest("coin value" | xU | name)

E maps to only about half of the group; the sum of two such points is as good as uniform (RFC 9380, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, Final

import attrs
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_from_uniform,
    crypto_core_ed25519_is_valid_point,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_core_ed25519_sub,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)

from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.core.wire import U64, Many, Raw
from bftkit.crypto.keys import framed_statement, purpose_prefix, signing_context

POINT_SIZE: Final = 32
SCALAR_SIZE: Final = 32
SHARE_SIZE: Final = POINT_SIZE + 2 * SCALAR_SIZE
"""A share on the wire: point, challenge, response."""
COIN_SIZE: Final = 32
DEAL_SECRET_SIZE: Final = 32

GROUP_ORDER: Final = (1 << 252) + 27742317777372353535851937790883648493
"""q: how many points the group has, a prime."""

_IDENTITY: Final = (1).to_bytes(POINT_SIZE, "little")
_NAMES_KEPT: Final = 64
_HOLDERS_MAX: Final = 1024


def is_scalar(data: bytes) -> bool:
    """Whether these are 32 bytes that encode a number from 1 to q - 1: other encodings of it are refused."""
    return len(data) == SCALAR_SIZE and 0 < int.from_bytes(data, "little") < GROUP_ORDER


def is_point(data: bytes) -> bool:
    """Whether these are 32 bytes that encode a point of the group of prime order, other than zero, in its one way."""
    return len(data) == POINT_SIZE and crypto_core_ed25519_is_valid_point(data)


def scalar(number: int) -> bytes:
    """A number, modulo q, as 32 bytes."""
    return (number % GROUP_ORDER).to_bytes(SCALAR_SIZE, "little")


def lagrange(places: Sequence[int], at: int = 0) -> list[int]:
    """The factors by which the values at these places, all different, give the polynomial's value `at` another."""
    factors: list[int] = []
    for place in places:
        above = below = 1
        for other in places:
            if other != place:
                above = above * (at - other) % GROUP_ORDER
                below = below * (place - other) % GROUP_ORDER
        factors.append(above * pow(below, -1, GROUP_ORDER) % GROUP_ORDER)
    return factors


def interpolate(points: Mapping[int, bytes], at: int = 0) -> bytes:
    """The point `at` a place from those at others, for a polynomial of a lower degree than there are points.

    `at` is none of the given places. Raises `ValueError` if something is no point of the group.
    """
    places = sorted(points)
    return combination([(factor, points[place]) for factor, place in zip(lagrange(places, at), places, strict=True)])


def combination(terms: Sequence[tuple[int, bytes]]) -> bytes:
    """The sum of multiples of points of the group; factors that are 0 modulo q count for nothing.

    Raises `ValueError` if something is no point of the group.
    """
    total = _IDENTITY
    for factor, point in terms:
        if factor % GROUP_ORDER:
            total = crypto_core_ed25519_add(total, _times(scalar(factor), point))
    return total


def _times(factor: bytes, point: bytes) -> bytes:
    try:
        return crypto_scalarmult_ed25519_noclamp(factor, point)
    except RuntimeError:
        raise ValueError("this is no point of the group, or the factor is 0") from None


def hash_scalar(*parts: bytes, key: bytes = b"") -> bytes:
    """A number below q, as good as uniform, from the concatenated parts; a secret one if the key is secret."""
    hasher = blake2b(key=key)
    for part in parts:
        hasher.update(part)
    return crypto_core_ed25519_scalar_reduce(hasher.digest())


# ------------------------------------------------------------------------------------------------- keys


@attrs.frozen
class CoinPublics:
    """What everybody knows of a coin key: how many shares make a coin, and the holders' points in roster order.

    Valid by construction: the points are those of one polynomial, whose degree is exactly threshold - 1. With a
    higher degree, two sets of shares would give two coins; with a lower one, fewer members could toss it.
    Raises `ValueError`.
    """

    threshold: U64
    points: Annotated[tuple[bytes, ...], Many(Raw(POINT_SIZE), _HOLDERS_MAX)]

    def __attrs_post_init__(self) -> None:
        holders = len(self.points)
        if not 1 <= self.threshold <= holders:
            raise ValueError(f"{self.threshold} shares of {holders} can never make a coin")
        for place, point in enumerate(self.points, 1):
            if not is_point(point):
                raise ValueError(f"what stands at place {place} is no point of the group")
        if not self._one_polynomial():
            raise ValueError(f"the points are not those of one polynomial of degree {self.threshold - 1}")

    def _one_polynomial(self) -> bool:
        first = range(1, self.threshold + 1)
        # The coefficient of the highest power, over the first k points.
        if combination([(_weight(place, first), self.points[place - 1]) for place in first]) == _IDENTITY:
            return False
        # A word is of the code of polynomials of degree k - 1 exactly if it is orthogonal to the dual code: tried
        # with one word of that, which nobody can choose since it is hashed from the points (Cascudo, David, "SCRAPE:
        # Scalable Randomness Attested by Public Entities", ACNS 2017, section 2.1).
        holders = range(1, len(self.points) + 1)
        seed = digest(b"coin points", self.threshold.to_bytes(8), *self.points)
        coefficients = [
            int.from_bytes(hash_scalar(b"coin dual", seed, power.to_bytes(4)), "little")
            for power in range(len(holders) - self.threshold)
        ]
        terms: list[tuple[int, bytes]] = []
        for place in holders:
            value = 0
            for coefficient in reversed(coefficients):
                value = (value * place + coefficient) % GROUP_ORDER
            terms.append((value * _weight(place, holders), self.points[place - 1]))
        return combination(terms) == _IDENTITY


def _weight(place: int, places: Sequence[int]) -> int:
    below = 1
    for other in places:
        if other != place:
            below = below * (place - other) % GROUP_ORDER
    return pow(below, -1, GROUP_ORDER)


def deal(
    members: Sequence[MemberId], threshold: int, secret_bytes: bytes
) -> tuple[dict[MemberId, bytes], dict[MemberId, bytes]]:
    """A coin key from a trusted dealer: every member's public point, and every member's secret share.

    All of it follows from 32 secret bytes, which the dealer must forget together with the shares. Raises `ValueError`
    for another length, a member named twice, or a threshold that is not between 1 and the number of members.
    """
    if len(secret_bytes) != DEAL_SECRET_SIZE:
        raise ValueError(f"a key is dealt from {DEAL_SECRET_SIZE} secret bytes, not {len(secret_bytes)}")
    if len(set(members)) != len(members):
        raise ValueError("a member is named twice")
    if not 1 <= threshold <= len(members):
        raise ValueError(f"{threshold} shares of {len(members)} can never make a coin")
    sizes = len(members).to_bytes(4) + threshold.to_bytes(4)
    coefficients = [hash_scalar(b"coin deal", sizes, power.to_bytes(4), key=secret_bytes) for power in range(threshold)]
    shares: dict[MemberId, bytes] = {}
    for place, member in enumerate(members, 1):
        value = coefficients[-1]
        for coefficient in reversed(coefficients[:-1]):
            value = crypto_core_ed25519_scalar_add(crypto_core_ed25519_scalar_mul(value, scalar(place)), coefficient)
        shares[member] = value
    return {member: public_point(share) for member, share in shares.items()}, shares


def public_point(share: bytes) -> bytes:
    """The point by which the others know the holder of this share. Raises `ValueError` if it can be no share."""
    if not is_scalar(share):
        raise ValueError("this is no share of a coin key")
    return crypto_scalarmult_ed25519_base_noclamp(share)


# ------------------------------------------------------------------------------------------------- coins


@attrs.frozen(eq=False)
class Coins:
    """One member's part in the coins of one epoch; see `CoinProtocol`. Raises `ValueError` if its parts do not fit.

    The key is whatever the members know each other by, be it dealt or made by themselves. What it costs on one
    machine is in `bftkit.sim.costs`.
    """

    group: bytes
    """The group's id, 32 bytes."""
    epoch: int
    opening: bytes
    """Digest of the hand-over (or genesis) that opened the epoch, 32 bytes."""
    me: MemberId
    _share: bytes = attrs.field(repr=False)
    """This member's secret scalar (SAFETY rule 20)."""
    publics: Mapping[MemberId, bytes] = attrs.field(repr=False)
    """All members' points, in roster order: a member's place is its number in it, from 1 on."""
    threshold: int
    _prefix: bytes = attrs.field(init=False, repr=False)
    _places: Mapping[MemberId, int] = attrs.field(init=False, repr=False)
    _points: dict[bytes, bytes] = attrs.field(init=False, repr=False, factory=dict[bytes, bytes])

    def __attrs_post_init__(self) -> None:
        prefix = purpose_prefix("coin") + signing_context(self.group, self.epoch, self.opening)
        if not 1 <= self.threshold <= len(self.publics):
            raise ValueError(f"{self.threshold} shares of {len(self.publics)} can never make a coin")
        for member, point in self.publics.items():
            if not is_point(point):
                raise ValueError(f"the public point of {member} is no point of the group")
        if self.publics.get(self.me) != public_point(self._share):
            raise ValueError(f"the share is not the one that the members know {self.me} by in epoch {self.epoch}")
        object.__setattr__(self, "_prefix", prefix)
        object.__setattr__(self, "_places", {member: place for place, member in enumerate(self.publics, 1)})

    def share(self, name: bytes) -> bytes:
        """See `CoinProtocol.share`: 96 bytes."""
        full = self._name(name)
        base = self._point(full)
        share = crypto_scalarmult_ed25519_noclamp(self._share, base)
        known = self._known(self.me, base, share)
        nonce = hash_scalar(b"coin nonce", known, full, key=self._share)
        challenge = hash_scalar(
            b"coin challenge",
            known,
            crypto_scalarmult_ed25519_base_noclamp(nonce),
            crypto_scalarmult_ed25519_noclamp(nonce, base),
            full,
        )
        response = crypto_core_ed25519_scalar_add(nonce, crypto_core_ed25519_scalar_mul(challenge, self._share))
        return share + challenge + response

    def verify(self, member: MemberId, name: bytes, share: bytes) -> bool:
        """See `CoinProtocol.verify`."""
        public = self.publics.get(member)
        if public is None or len(share) != SHARE_SIZE:
            return False
        point, challenge, response = share[:32], share[32:64], share[64:]
        # A response has one encoding, or else a share could be changed and still be good; and a point outside the
        # group would carry a small part along, which proves nothing and changes the coin.
        if not (is_scalar(challenge) and is_scalar(response) and is_point(point)):
            return False
        full = self._name(name)
        base = self._point(full)
        times = crypto_scalarmult_ed25519_noclamp
        first = crypto_core_ed25519_sub(crypto_scalarmult_ed25519_base_noclamp(response), times(challenge, public))
        second = crypto_core_ed25519_sub(times(response, base), times(challenge, point))
        return challenge == hash_scalar(b"coin challenge", self._known(member, base, point), first, second, full)

    def combine(self, name: bytes, shares: Mapping[MemberId, bytes]) -> bytes:
        """See `CoinProtocol.combine`: 32 bytes. Raises `ValueError` also for a stranger or what can be no share."""
        if len(shares) < self.threshold:
            raise ValueError(f"{len(shares)} shares make no coin; {self.threshold} do")
        points: dict[int, bytes] = {}
        for member, share in shares.items():
            if member not in self._places or len(share) != SHARE_SIZE:
                raise ValueError(f"this is no verified share of {member}")
            points[self._places[member]] = share[:POINT_SIZE]
        # Any of them will do; those of the first places are taken so that every run does the same.
        chosen = {place: points[place] for place in sorted(points)[: self.threshold]}
        return digest(b"coin value", interpolate(chosen), self._name(name))

    def _name(self, name: bytes) -> bytes:
        return self._prefix + framed_statement(name)

    def _point(self, full: bytes) -> bytes:
        """The coin's point. The newest ones are remembered: share and checks of one coin come close together."""
        point = self._points.get(full)
        if point is None:
            point = crypto_core_ed25519_add(
                crypto_core_ed25519_from_uniform(digest(b"coin point 1", full)),
                crypto_core_ed25519_from_uniform(digest(b"coin point 2", full)),
            )
            if len(self._points) >= _NAMES_KEPT:
                del self._points[next(iter(self._points))]
            self._points[full] = point
        return point

    def _known(self, member: MemberId, base: bytes, share: bytes) -> bytes:
        """What a proof is about, besides the name: the holder's place and all points."""
        return self._places[member].to_bytes(4) + self.publics[member] + base + share

    def __deepcopy__(self, memo: object) -> Coins:
        return self

    def __reduce__(self) -> str:
        raise TypeError("a share of the coin key is not pickled: secrets leave through key files only (SAFETY rule 20)")
