"""The store of batches when it is full: what the group cannot go on without is taken in all the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from bftkit.channel.batches import NEXT_SLOTS, BatchStore
from bftkit.channel.interface import Limits
from bftkit.core.quorum import Quorum
from bftkit_cks.messages import Rounds

BATCH_BYTES = 1000


def full_store(n: int, f: int) -> BatchStore:
    """A store in which liars, say, have left no room."""
    settings = SimpleNamespace(quorum=Quorum(n, f, 0), limits=Limits(stored_bytes=BATCH_BYTES))
    store = BatchStore(cast("Any", settings))
    store.add_own(bytes(BATCH_BYTES), 0, ())
    assert not store.has_room(10_000, 0)
    return store


@pytest.mark.parametrize(("n", "f"), [(4, 1), (16, 5), (25, 8), (40, 13)])
def test_the_next_round_of_a_protocol_without_a_leader_has_room(n: int, f: int) -> None:
    """Its offers are wanted for its last slot, and none is echoed before its bytes are here."""
    store, rounds = full_store(n, f), Rounds(0, n - f)
    for applied in range(3 * (n - f)):
        assert store.has_room(rounds.last(rounds.of(applied + 1)), applied)


def test_what_lies_far_ahead_waits() -> None:
    store = full_store(4, 1)
    assert store.has_room(7 + NEXT_SLOTS, 7)
    assert not store.has_room(8 + NEXT_SLOTS, 7)
