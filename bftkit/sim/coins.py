"""Threshold coins for simulated worlds: a keyed hash in the place of the group of points, a hundred times as fast.

As with `FastKeyring`, the world must be trusted not to look: no share is made but through a member's own `FastCoins`,
and the coin itself is a hash under the world's secret, so nobody can know it who does not hold `threshold` *valid*
shares of it. The name that is bound is that of `bftkit.crypto.threshold.Coins` (SAFETY rule 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

import attrs

from bftkit.core.machine import MemberId
from bftkit.core.ordering import CoinProtocol
from bftkit.crypto.keys import framed_statement, purpose_prefix, signing_context
from bftkit.crypto.threshold import COIN_SIZE, SHARE_SIZE, Coins, deal

_HALF: Final = SHARE_SIZE // 2


class _Secrets:
    """What a world knows of its coins: the members' secrets, and its own."""

    def __init__(self, seed: bytes, prefix: bytes, members: Iterable[MemberId]) -> None:
        self._prefix = prefix
        root = blake2b(seed, digest_size=64, person=b"bftkit sim coins").digest()
        self._coin = blake2b(b"coin", digest_size=64, key=root).digest()
        self._members = {
            member: blake2b(b"member " + member.encode(), digest_size=64, key=root).digest() for member in members
        }

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def __len__(self) -> int:
        return len(self._members)

    def share(self, member: MemberId, name: bytes) -> bytes:
        full, key = self._prefix + framed_statement(name), self._members[member]
        return b"".join(
            blake2b(full, digest_size=_HALF, key=key, person=person).digest() for person in (b"point", b"proof")
        )

    def coin(self, name: bytes) -> bytes:
        return blake2b(self._prefix + framed_statement(name), digest_size=COIN_SIZE, key=self._coin).digest()


@attrs.frozen(eq=False)
class FastCoins:
    """One member's part in the coins of a simulated group; see `fast_coins`."""

    me: MemberId
    threshold: int
    _secrets: _Secrets = attrs.field(repr=False)

    def share(self, name: bytes) -> bytes:
        """See `CoinProtocol.share`."""
        return self._secrets.share(self.me, name)

    def verify(self, member: MemberId, name: bytes, share: bytes) -> bool:
        """See `CoinProtocol.verify`."""
        return member in self._secrets and self._secrets.share(member, name) == share

    def combine(self, name: bytes, shares: Mapping[MemberId, bytes]) -> bytes:
        """See `CoinProtocol.combine`. Raises `ValueError` also if too few of the shares are valid."""
        valid = sum(self.verify(member, name, share) for member, share in shares.items())
        if valid < self.threshold:
            raise ValueError(f"{len(shares)} shares, {valid} of them valid, make no coin; {self.threshold} do")
        return self._secrets.coin(name)

    def __deepcopy__(self, memo: object) -> FastCoins:
        return self


def fast_coins(
    seed: bytes, group: bytes, epoch: int, opening: bytes, members: Iterable[MemberId], threshold: int
) -> dict[MemberId, FastCoins]:
    """The coins of all members of a simulated group, by member.

    `group` and `opening` have 32 bytes, as in `Coins`; the seed has any length. Raises `ValueError` for other lengths
    and for a threshold that is not between 1 and the number of members.
    """
    names = tuple(members)
    _check_threshold(threshold, len(names))
    secrets = _Secrets(seed, purpose_prefix("coin") + signing_context(group, epoch, opening), names)
    return {name: FastCoins(name, threshold, secrets) for name in names}


def real_coins(
    secret_bytes: bytes, group: bytes, epoch: int, opening: bytes, members: Iterable[MemberId], threshold: int
) -> dict[MemberId, Coins]:
    """The same with the real thing, dealt from 32 secret bytes."""
    names = tuple(members)
    publics, shares = deal(names, threshold, secret_bytes)
    return {name: Coins(group, epoch, opening, name, shares[name], publics, threshold) for name in names}


def coins_of(
    kind: str,
    secret_bytes: bytes,
    group: bytes,
    epoch: int,
    opening: bytes,
    members: Iterable[MemberId],
    threshold: int,
) -> Mapping[MemberId, CoinProtocol]:
    """Coins of a world's kind, ``fast`` or ``ed25519``."""
    make = real_coins if kind == "ed25519" else fast_coins
    return make(secret_bytes, group, epoch, opening, members, threshold)


def _check_threshold(threshold: int, members: int) -> None:
    if not 1 <= threshold <= members:
        raise ValueError(f"{threshold} shares of {members} can never make a coin")
