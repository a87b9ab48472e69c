"""The store of batches: when it is full, what the group cannot go on without is taken in all the same.

And when batches are asked for that nobody has, the others are asked for all the same.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from bftkit.channel.batches import NEXT_SLOTS, WAIT_MAX, BatchStore
from bftkit.channel.frames import CONTROL_CODEC, BatchRequest
from bftkit.channel.interface import Limits, ReplicaOut
from bftkit.core.digest import digest
from bftkit.core.machine import Digest, Out, Send
from bftkit.core.quorum import Quorum
from bftkit_cks.messages import Rounds

BATCH_BYTES = 1000


def store_of(n: int, f: int, limits: Limits) -> BatchStore:
    return BatchStore(cast("Any", SimpleNamespace(quorum=Quorum(n, f, 0), limits=limits)))


def full_store(n: int, f: int) -> BatchStore:
    """A store in which liars, say, have left no room."""
    store = store_of(n, f, Limits(stored_bytes=BATCH_BYTES))
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


def asked_for(store: BatchStore) -> list[Digest]:
    """What is asked for when a beat has passed."""
    out: ReplicaOut = Out()
    store.retry(0, out)
    names: list[Digest] = []
    for effect in out.effects:
        assert isinstance(effect, Send)
        request = CONTROL_CODEC.decode(effect.message[1:])
        assert isinstance(request, BatchRequest)
        names += request.digests
    return names


def test_batches_that_nobody_has_do_not_keep_others_from_being_asked_for() -> None:
    """A liar names as many as it likes. Nothing comes, so few are asked for, and never the last ones."""
    store = full_store(4, 1)
    names = [digest(bytes((number,))) for number in range(6 * WAIT_MAX)]
    out: ReplicaOut = Out()
    for name in names[:-1]:
        store.want(name, NEXT_SLOTS + 1, ["m1", "m2"], out, at_once=name != names[0])
    store.want(names[-1], 1, ["m1", "m2"], out)
    asked = [asked_for(store) for _ in range(3 * len(names))]
    assert len(asked[-1]) == 1
    assert set(names[1:]) <= {name for beat in asked[len(names) :] for name in beat}


def test_what_is_needed_next_is_asked_for_first() -> None:
    store = store_of(4, 1, Limits())
    far = [digest(bytes((number,))) for number in range(6 * WAIT_MAX)]
    out: ReplicaOut = Out()
    for name in far:
        store.want(name, NEXT_SLOTS + 1, ["m1", "m2"], out)
    for _ in range(WAIT_MAX):
        asked_for(store)
    near = digest(b"the next slot's")
    store.want(near, 1, ["m1", "m2"], out)
    assert asked_for(store) == [near]
