"""Orders out of coins: they are permutations, the same everywhere, and none is likelier than another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import permutations

import pytest

from bftkit.blocks import permutation as module
from bftkit.blocks.permutation import permutation
from bftkit.core.digest import digest


def coin(number: int) -> bytes:
    return digest(number.to_bytes(8, "big"))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 100, 1024])
def test_each_number_stands_in_it_once(n: int) -> None:
    assert sorted(permutation(coin(n), n)) == list(range(n))


def test_it_is_pinned() -> None:
    """Members of two releases in one group must try the candidates in one order."""
    assert permutation(bytes(32), 10) == (9, 0, 5, 1, 3, 7, 4, 8, 2, 6)


def test_all_orders_are_equally_likely() -> None:
    """Chi-square over the 24 orders of four: 23 degrees of freedom, beyond 49.7 once in a thousand."""
    coins = 12_000
    seen = Counter(permutation(coin(number), 4) for number in range(coins))
    expected = coins / 24
    assert set(seen) == set(permutations(range(4)))
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 49.7


def test_numbers_above_the_last_multiple_are_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduced, 2**32 - 1 would be 0 below 3; it must be passed over."""
    words = iter([(1 << 32) - 1, 1, 1])

    def from_words(_: bytes) -> Iterator[int]:
        return words

    monkeypatch.setattr(module, "_words", from_words)
    assert permutation(b"", 3) == (0, 2, 1)
