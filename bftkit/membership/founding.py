"""What it takes to found a group, beside everybody's own keys: how many faults it bears, and the key of its coin.

A protocol that tosses coins, and a group that can leave any protocol while some members lie, need a key that is
shared among the members. At a group's beginning whoever founds it
deals that key: a *trusted dealer*, which knows the secret until it forgets it, and could tell. Later keys the members
make themselves. What everybody may know of the key stands in the genesis, each share in a file of its member alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from bftkit.configuration.text import ConfigurationError, Value, hex_bytes, right
from bftkit.core.machine import MemberId
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.quorum import Quorum
from bftkit.crypto.threshold import POINT_SIZE, CoinPublics, deal, is_point

COIN_SCHEME: Final = "cks-ed25519-1"
"""The one scheme there is so far: see `bftkit.crypto.threshold`."""


def default_faults(record: ProtocolRecord, n: int, byzantine: int | None, crash: int | None) -> tuple[int, int]:
    """f and c: what was asked for, and for what was not, as much as n members bear under this protocol."""
    if record.byzantine:
        c = crash or 0
        return _most(n, lambda f: record.members_needed(f, c)) if byzantine is None else byzantine, c
    f = byzantine or 0
    return f, _most(n, lambda c: record.members_needed(f, c)) if crash is None else crash


def deal_coin(
    record: ProtocolRecord, members: tuple[MemberId, ...], f: int, c: int, secret_bytes: bytes
) -> tuple[CoinPublics | None, dict[MemberId, bytes]]:
    """The coin key that these members need: what goes into the genesis, and everybody's share.

    It is there for a protocol that tosses coins, and wherever members may lie: the agreement by which a group leaves a
    protocol that has stopped tosses them (SAFETY rule 26). `secret_bytes` are 32 bytes to be forgotten. Nothing is
    dealt if the protocol cannot bear such faults with so few members: `Genesis.check_protocol` says so.
    """
    if not (record.coins or f > 0) or f < 0 or c < 0 or len(members) < record.members_needed(f, c):
        return None, {}
    threshold = Quorum(len(members), f, c).available
    points, shares = deal(members, threshold, secret_bytes)
    return CoinPublics(threshold, tuple(points.values())), shares


def check_coin(coin: CoinPublics, quorum: Quorum) -> None:
    """Whether this can be the group's coin key. Raises `ConfigurationError`."""
    if len(coin.points) != quorum.n:
        raise ConfigurationError(
            "coin.points",
            f"there are {len(coin.points)} points for {quorum.n} members",
            "list one for each member, in the members' order",
        )
    if coin.threshold != quorum.available:
        # With less, an adversary sees coins while it can still choose; with more, silent members stop them all.
        raise ConfigurationError(
            "coin.threshold",
            f"{coin.threshold} shares would make a coin, and agreement needs coins of n - f - c = {quorum.available}",
            "found the group with bftkit init, which deals the right key",
        )


@attrs.frozen
class CoinTable:
    """The table ``[coin]`` of a genesis."""

    scheme: str = attrs.field(metadata=right(f'"{COIN_SCHEME}"'))
    threshold: int = attrs.field(metadata=right("how many shares make a coin, as a whole number"))
    points: tuple[str, ...] = attrs.field(metadata=right("a list of points, one for each member"))


def coin_table(coin: CoinPublics) -> dict[str, Value]:
    """A coin key as a table of the genesis."""
    return {
        "scheme": COIN_SCHEME,
        "threshold": coin.threshold,
        "points": [point.hex() for point in coin.points],
    }


def coin_from_table(table: CoinTable) -> CoinPublics:
    """What the table means. Raises `ConfigurationError`."""
    if table.scheme != COIN_SCHEME:
        raise ConfigurationError("coin.scheme", f"{table.scheme!r} is not known", f"give {COIN_SCHEME!r}")
    points: list[bytes] = []
    for index, text in enumerate(table.points):
        where = f"coin.points[{index}]"
        point = hex_bytes(where, text, POINT_SIZE, "a member's point of the coin key")
        if not is_point(point):
            raise ConfigurationError(where, "this is no point of the coin's group", "restore the genesis from a copy")
        points.append(point)
    try:
        return CoinPublics(table.threshold, tuple(points))
    except ValueError as error:
        raise ConfigurationError("coin", str(error), "restore the genesis from a copy") from None


def _most(n: int, needed: Callable[[int], int]) -> int:
    """The largest number of faults for which n members are enough; 0 if none is."""
    most = 0
    while needed(most + 1) <= n:
        most += 1
    return most
