"""Queues are bounded by their users and keep their order; redialling backs off."""

from __future__ import annotations

import math

from bftkit.network.addresses import Address
from bftkit.network.hub import Limits
from bftkit.network.routes import FRAME_COST, Dial, Outbox

ONE, TWO = Address("tcp", "one", 1), Address("tcp", "two", 2)
LIMITS = Limits(backoff_first_seconds=1.0, backoff_longest_seconds=5.0, stable_seconds=10.0)


def highest() -> float:
    return 0.0  # takes nothing off the pause


def test_outbox_keeps_order_and_counts() -> None:
    outbox = Outbox()
    frames = [bytes([number]) * 100 for number in range(10)]
    for frame in frames:
        outbox.push(frame)
    cost = 100 + FRAME_COST
    assert outbox.size == 10 * cost
    assert outbox.take(1) == frames[:1]
    assert outbox.take(3 * cost) == frames[1:4]
    assert outbox.take(3 * cost - 1) == frames[4:6]
    assert outbox.size == 4 * cost
    assert outbox.take(10 * cost) == frames[6:]
    assert (outbox.size, len(outbox)) == (0, 0)
    outbox.push(b"x")
    assert outbox.clear() == 1
    assert outbox.size == 0


def test_addresses_in_turn_then_a_growing_pause() -> None:
    dial = Dial(b"", [ONE, TWO], 0.0)
    now = 0.0
    pauses: list[float] = []
    for _ in range(5):
        for address in (ONE, TWO):
            assert dial.due <= now
            assert dial.start() == address
            assert dial.due == math.inf
            dial.failed(now, LIMITS, highest)
        pauses.append(dial.due - now)
        now = dial.due
    assert pauses == [1, 2, 4, 5, 5]


def test_pauses_are_shortened_at_random() -> None:
    dial = Dial(b"", [ONE], 0.0)
    dial.start()
    dial.failed(0.0, LIMITS, lambda: 0.5)
    assert dial.due == 0.75


def test_only_a_link_that_lasted_resets_the_pause() -> None:
    dial = Dial(b"", [ONE, TWO], 0.0)
    for pause in (1, 2, 4):
        dial.start()
        dial.lost(0.0, 9.9, LIMITS, highest)
        assert dial.due == pause
    dial.start()
    dial.lost(0.0, 10.0, LIMITS, highest)
    assert dial.due == 1


def test_hurry_and_new_addresses_end_a_pause_but_not_an_attempt() -> None:
    dial = Dial(b"", [ONE], 0.0)
    dial.start()
    dial.hurry(0.0)
    dial.replace_addresses([TWO], 0.0)
    assert dial.due == math.inf
    dial.failed(0.0, LIMITS, highest)
    dial.hurry(0.5)
    assert dial.due == 0.5
    dial.replace_addresses([ONE], 0.25)
    assert dial.due == 0.25
    assert dial.start() == ONE


def test_without_an_address_nothing_is_dialled() -> None:
    dial = Dial(b"", [], 0.0)
    assert dial.start() is None
    assert dial.due == math.inf
