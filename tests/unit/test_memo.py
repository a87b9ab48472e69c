"""A memo remembers what was found, and never more than it was given room for."""

from __future__ import annotations

from copy import deepcopy

import attrs
import pytest

from bftkit.core.memo import ENTRY_BYTES, Memo
from bftkit.core.ordering import Setup
from bftkit.core.quorum import Quorum
from bftkit.sim.keyring import fast_keyrings

MEMBERS = ("m0", "m1", "m2", "m3")


def setup() -> Setup:
    return Setup("m0", MEMBERS, Quorum(4, 1), fast_keyrings(b"", bytes(32), 0, bytes(32), MEMBERS)["m0"])


def test_what_was_kept_is_recalled_and_nothing_else() -> None:
    memo = Memo()
    memo.keep(("vote", "m0", b"s"))
    memo.keep(("proof", 1), b"value")
    assert memo.recall(("vote", "m0", b"s")) == b""
    assert memo.recall(("proof", 1)) == b"value"
    assert memo.recall(("vote", "m1", b"s")) is None


@pytest.mark.parametrize("length", [1, 1000])
def test_room_is_bounded_in_bytes(length: int) -> None:
    memo = Memo(bytes_max=20 * (ENTRY_BYTES + 1000))
    for number in range(1000):
        memo.keep((number,), bytes(length))
        assert len(memo) * (ENTRY_BYTES + length) <= 40 * (ENTRY_BYTES + 1000)
    assert memo.recall((999,)) == bytes(length)
    assert memo.recall((0,)) is None


def test_what_is_asked_for_stays() -> None:
    memo = Memo(bytes_max=10 * ENTRY_BYTES)
    memo.keep((0,), b"")
    for number in range(1, 200):
        assert memo.recall((0,)) is not None
        memo.keep((number,))


def test_a_changed_set_up_begins_with_nothing_known() -> None:
    one = setup()
    one.memo.keep(("fact",))
    # Another keyring may come with the change: under other keys nothing of it need be true (SAFETY rule 2).
    assert attrs.evolve(one, window=512).memo.recall(("fact",)) is None
    assert "fact" not in repr(one)


def test_a_deep_copy_shares_it() -> None:
    memo = Memo()
    assert deepcopy(memo) is memo
