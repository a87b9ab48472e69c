"""A random order out of a coin: the same for everybody who knows the coin, and every order equally likely.

Fisher and Yates' shuffle wants numbers that are uniform below 2, 3, ..., n. They are cut from a long string that the
coin is stretched to; a number that lies above the last multiple of its bound is thrown away, because reducing it would
favour the small remainders.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bftkit.core.digest import digest

_WORD_BYTES: Final = 4
_WORDS: Final = 1 << 8 * _WORD_BYTES


def permutation(coin: bytes, n: int) -> tuple[int, ...]:
    """The numbers below `n` (at most 2**32) in the order that the coin, any bytes, says."""
    words = _words(coin)
    order = list(range(n))
    for last in range(n - 1, 0, -1):
        other = _below(last + 1, words)
        order[last], order[other] = order[other], order[last]
    return tuple(order)


def _below(bound: int, words: Iterator[int]) -> int:
    """A number below the bound; each is as likely as any other."""
    limit = _WORDS - _WORDS % bound
    return next(word for word in words if word < limit) % bound


def _words(coin: bytes) -> Iterator[int]:
    """The coin, stretched without end: block k is the digest of k and the coin."""
    block = 0
    while True:
        stretched = digest(block.to_bytes(8, "big"), coin)
        for start in range(0, len(stretched), _WORD_BYTES):
            yield int.from_bytes(stretched[start : start + _WORD_BYTES], "big")
        block += 1
