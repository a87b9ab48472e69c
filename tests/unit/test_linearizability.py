"""The linearizability checker on histories made by hand, and on long ones with a lie planted in them."""

from __future__ import annotations

import random
from collections.abc import Hashable

import attrs
import pytest

from bftkit.sim.history import Call, History, Reply
from bftkit.sim.linearizability import SearchTooLarge, Verdict, check
from bftkit.sim.register import Cas, Delete, Get, Put, RegisterModel, RegisterOperation

Register = History[RegisterOperation, Hashable]
RegisterCall = Call[RegisterOperation, Hashable]
UNKNOWN = object()
"""In a row of `judge`: the outcome is not known."""


def judge(*rows: tuple[int, int, RegisterOperation, object]) -> Verdict[RegisterOperation, Hashable]:
    """The verdict on rows of (invoked, returned, operation, result), each by a client of its own."""
    history: Register = History()
    for number, (invoked, returned, operation, result) in enumerate(rows):
        call = history.invoke(f"c{number}", operation, invoked)
        if result is UNKNOWN:
            history.info(call)
        else:
            history.ok(call, result, returned)
    return check(RegisterModel(), history.calls())


def make_history(seed: int, operations: int, keys: int, clients: int, unknown: float = 0.0) -> tuple[RegisterCall, ...]:
    """What clients record at a correct store: each operation takes effect at one moment while it is pending.

    A share of the operations has an unknown outcome: half of those never happened, half did.
    """
    draw = random.Random(seed)
    history: Register = History()
    store: dict[Hashable, Hashable] = {}
    idle = [f"c{number}" for number in range(clients)]
    pending: list[tuple[str, int, RegisterOperation, bool]] = []
    done: list[tuple[str, int, Hashable, bool]] = []
    time = 0
    while operations or pending or done:
        time += 1
        moves = ["invoke"] * bool(operations and idle) + ["effect"] * bool(pending) + ["return"] * bool(done)
        move = draw.choice(moves)
        if move == "invoke":
            operations -= 1
            client = idle.pop(draw.randrange(len(idle)))
            key = f"k{draw.randrange(keys)}"
            operation = draw.choice((Get(key), Get(key), Put(key, time), Cas(key, store.get(key), time), Delete(key)))
            pending.append((client, history.invoke(client, operation, time), operation, draw.random() < unknown))
        elif move == "effect":
            client, call, operation, lost = pending.pop(draw.randrange(len(pending)))
            if lost and draw.random() < 0.5:
                done.append((client, call, None, True))
            else:
                done.append((client, call, apply(store, operation), lost))
        else:
            client, call, result, lost = done.pop(draw.randrange(len(done)))
            if lost:
                history.info(call)
            else:
                history.ok(call, result, time)
            idle.append(client)
    return history.calls()


def apply(store: dict[Hashable, Hashable], operation: RegisterOperation) -> Hashable:
    present = store.get(operation.key)
    if isinstance(operation, Put):
        store[operation.key] = operation.value
        return None
    if isinstance(operation, Cas):
        if present == operation.expected:
            store[operation.key] = operation.new
        return present == operation.expected
    if isinstance(operation, Delete):
        store.pop(operation.key, None)
        return present is not None
    return present


def test_operations_one_after_the_other() -> None:
    verdict = judge(
        (0, 1, Get("x"), None),
        (2, 3, Put("x", "a"), None),
        (4, 5, Get("x"), "a"),
        (6, 7, Cas("x", "a", "b"), True),
        (8, 9, Cas("x", "a", "c"), False),
        (10, 11, Delete("x"), True),
        (12, 13, Delete("x"), False),
        (14, 15, Cas("x", None, "d"), True),
        (16, 17, Get("x"), "d"),
        (18, 19, Get("y"), None),
    )
    assert verdict.linearizable
    assert (verdict.operations, verdict.keys) == (10, 2)


def test_concurrent_writes_may_take_effect_in_either_order() -> None:
    for seen in ("a", "b"):
        assert judge((0, 9, Put("x", "a"), None), (1, 8, Put("x", "b"), None), (10, 11, Get("x"), seen)).linearizable


def test_stale_read() -> None:
    verdict = judge(
        (0, 1, Put("x", "old"), None), (2, 3, Put("x", "new"), None), (4, 5, Get("x"), "old"), (6, 7, Get("x"), "new")
    )
    assert not verdict.linearizable
    found = verdict.counterexample
    assert found is not None
    assert found.key == "x"
    assert found.failing.number == 2
    assert [call.number for call in found.prefix] == [0, 1, 2]


def test_readers_must_agree_on_the_moment_of_a_write() -> None:
    # Both reads lie within the write, but the later one sees the older value.
    rows = ((0, 1, Put("x", "a"), None), (2, 20, Put("x", "b"), None))
    assert judge(*rows, (3, 4, Get("x"), "a"), (5, 6, Get("x"), "b")).linearizable
    assert not judge(*rows, (3, 4, Get("x"), "b"), (5, 6, Get("x"), "a")).linearizable


def test_lost_update() -> None:
    assert not judge((0, 1, Put("x", "a"), None), (2, 3, Get("x"), None)).linearizable
    assert not judge(
        (0, 1, Put("x", 0), None),
        (2, 5, Cas("x", 0, 1), True),
        (3, 6, Cas("x", 1, 2), True),
        (7, 8, Get("x"), 1),
    ).linearizable


def test_both_of_two_compare_and_sets_true() -> None:
    one, two = Cas("x", None, "a"), Cas("x", None, "b")
    assert not judge((0, 9, one, True), (0, 9, two, True)).linearizable
    assert judge((0, 9, one, True), (0, 9, two, False)).linearizable
    assert judge((0, 9, one, True), (0, 9, two, True), (3, 7, Delete("x"), True)).linearizable


def test_split_brain() -> None:
    # Two halves of the group each serve their own clients: each half is right by itself, both together are not.
    left = ((0, 1, Put("x", "l"), None), (4, 5, Get("x"), "l"), (8, 9, Get("x"), "l"))
    right = ((2, 3, Put("x", "r"), None), (6, 7, Get("x"), "r"))
    assert judge(*left).linearizable
    assert judge(*right).linearizable
    assert not judge(*left, *right).linearizable


def test_keys_are_independent() -> None:
    rows = [(0, 1, Put(key, key), None) for key in "abc"]
    assert judge(*rows, (2, 3, Get("b"), "b")).linearizable
    verdict = judge(*rows, (2, 3, Get("b"), "a"))
    assert verdict.counterexample is not None
    assert verdict.counterexample.key == "b"


def test_events_at_the_same_time_are_concurrent() -> None:
    assert judge((0, 5, Put("x", "a"), None), (5, 6, Get("x"), None)).linearizable
    assert not judge((0, 5, Put("x", "a"), None), (6, 6, Get("x"), None)).linearizable


def test_results_that_the_operation_never_gives() -> None:
    assert not judge((0, 1, Cas("x", None, "a"), "yes")).linearizable
    assert not judge((0, 1, Delete("x"), None)).linearizable


class TestUnknownOutcome:
    def test_may_take_effect_late(self) -> None:
        put = (0, 0, Put("x", "a"), UNKNOWN)
        assert judge(put, (10, 11, Get("x"), None), (12, 13, Get("x"), "a")).linearizable

    def test_may_never_take_effect(self) -> None:
        assert judge((0, 0, Put("x", "a"), UNKNOWN), (10, 11, Get("x"), None)).linearizable

    def test_takes_effect_at_most_once(self) -> None:
        put = (0, 0, Put("x", "a"), UNKNOWN)
        again = (put, (2, 3, Get("x"), "a"), (4, 5, Put("x", "b"), None), (6, 7, Get("x"), "a"))
        assert not judge(*again).linearizable
        assert judge(*again, put).linearizable

    def test_not_before_it_was_invoked(self) -> None:
        assert not judge((0, 1, Get("x"), "a"), (2, 2, Put("x", "a"), UNKNOWN)).linearizable

    def test_a_write_that_nobody_read_explains_a_failed_compare_and_set(self) -> None:
        rows = ((0, 1, Put("x", "a"), None), (4, 5, Cas("x", "a", "b"), False))
        assert not judge(*rows).linearizable
        assert judge(*rows, (2, 2, Put("x", "z"), UNKNOWN)).linearizable
        assert judge(*rows, (2, 2, Cas("x", "a", "z"), UNKNOWN)).linearizable
        assert judge(*rows, (2, 2, Delete("x"), UNKNOWN)).linearizable
        assert not judge(*rows, (2, 2, Get("x"), UNKNOWN)).linearizable

    def test_a_write_that_nobody_read_explains_one_delete_only(self) -> None:
        put = (0, 0, Put("x", "z"), UNKNOWN)
        assert judge(put, (2, 3, Delete("x"), True)).linearizable
        assert not judge(put, (2, 3, Delete("x"), True), (4, 5, Delete("x"), True)).linearizable
        assert judge(put, put, (2, 3, Delete("x"), True), (4, 5, Delete("x"), True)).linearizable

    def test_the_weaker_one_must_be_saved_for_where_it_fits(self) -> None:
        # Either explains the first failure, but only the write can explain the second.
        put, cas = (0, 0, Put("x", "z"), UNKNOWN), (0, 0, Cas("x", None, "z"), UNKNOWN)
        rows = (
            (2, 3, Cas("x", None, "q"), False),
            (4, 5, Put("x", "a"), None),
            (6, 7, Cas("x", "a", "q"), False),
        )
        assert judge(put, cas, *rows).linearizable
        assert judge(cas, put, *rows).linearizable
        assert not judge(cas, cas, *rows).linearizable

    def test_once_read_it_is_spent(self) -> None:
        rows = (
            (0, 0, Put("x", "a"), UNKNOWN),
            (2, 3, Get("x"), "a"),
            (4, 5, Put("x", "b"), None),
            (6, 7, Cas("x", "b", "q"), False),
        )
        assert not judge(*rows).linearizable
        assert judge(*rows, (0, 0, Put("x", "z"), UNKNOWN)).linearizable

    def test_a_chain_of_unknown_compare_and_sets(self) -> None:
        # "a" is asked for by nobody but the open compare-and-set whose effect is seen in the end.
        rows = ((0, 1, Put("x", "a"), None), (2, 2, Cas("x", "a", "b"), UNKNOWN), (3, 3, Cas("x", "b", "c"), UNKNOWN))
        assert judge(*rows, (4, 5, Get("x"), "c")).linearizable
        assert not judge(*rows, (4, 5, Get("x"), "c"), (6, 7, Get("x"), "b")).linearizable
        assert not judge(*rows[1:], (4, 5, Get("x"), "c")).linearizable

    def test_hundreds_of_them(self) -> None:
        # Every subset of them would be 2 ** 600 configurations.
        rows: list[tuple[int, int, RegisterOperation, object]] = []
        for number in range(300):
            rows.append((3 * number, 0, Put("x", f"lost{number}"), UNKNOWN))
            rows.append((3 * number, 0, Cas("x", None, f"gone{number}"), UNKNOWN))
            rows.append((3 * number + 1, 3 * number + 2, Cas("x", None, number), False))
        rows += [(1000, 1001, Get("x"), None)]
        # The first compare-and-set failed, so something was there, and nothing removed it.
        assert not judge(*rows).linearizable
        assert judge(*rows, (1, 1, Delete("x"), UNKNOWN)).linearizable


class TestLongHistory:
    @pytest.mark.parametrize("unknown", [0.0, 0.2])
    @pytest.mark.parametrize("keys", [1, 20])
    def test_a_correct_store(self, keys: int, unknown: float) -> None:
        calls = make_history(seed=keys, operations=5000, keys=keys, clients=8, unknown=unknown)
        # The bound on the work stands for "fast": a search that goes back and forth would exceed it.
        verdict = check(RegisterModel(), calls, configurations_max=200 * len(calls))
        assert verdict.linearizable, str(verdict)

    @pytest.mark.parametrize("unknown", [0.0, 0.1])
    def test_a_planted_stale_read_is_found(self, unknown: float) -> None:
        calls = list(make_history(seed=7, operations=4000, keys=10, clients=6, unknown=unknown))
        planted, stale = plant_stale_read(calls)
        calls[planted] = stale
        verdict = check(RegisterModel(), calls)
        found = verdict.counterexample
        assert found is not None
        assert found.key == stale.operation.key
        assert found.failing == stale
        text = str(verdict)
        assert str(stale) in text
        assert len(text.splitlines()) < 60
        assert f", {stale.reply.result})" in text if stale.reply else False

    def test_a_stale_read_among_many_lost_operations_of_one_key(self) -> None:
        # An exact search would try all numbers of lost writes, deletes and compare-and-sets at every return.
        calls = list(make_history(seed=3, operations=2000, keys=1, clients=6, unknown=0.1))
        planted, stale = plant_stale_read(calls)
        calls[planted] = stale
        found = check(RegisterModel(), calls, configurations_max=200 * len(calls)).counterexample
        assert found is not None
        assert found.failing == stale


def plant_stale_read(calls: list[RegisterCall]) -> tuple[int, RegisterCall]:
    """Gives a late read of a long history the result of one that ended a good while before it began."""
    for number in reversed(range(len(calls) * 3 // 4)):
        call = calls[number]
        if isinstance(call.operation, Get) and call.reply is not None:
            older = [
                other.reply.result
                for other in calls[: number - 200]
                if other.operation == call.operation and other.reply is not None and other.reply.result is not None
            ]
            return number, attrs.evolve(call, reply=Reply(call.reply.time, older[-1]))
    raise AssertionError("no read in the history")


def test_the_counterexample_is_readable() -> None:
    history: Register = History()
    history.ok(history.invoke("ann", Put("x", "old"), 10), None, 20)
    history.ok(history.invoke("bob", Put("x", "new"), 30), None, 40)
    history.info(history.invoke("cec", Put("x", "lost"), 35))
    history.ok(history.invoke("dan", Get("x"), 50), "old", 60)
    assert str(check(RegisterModel(), history.calls())).splitlines() == [
        "not linearizable",
        "key 'x': no order of its operations explains every result up to time 60;",
        "the result marked → fits none of the values that the key could hold by then: (a value that nobody asks for"
        " afterwards).",
        "    [10, 20] ann: put('x', 'old') → None",
        "    [30, 40] bob: put('x', 'new') → None",
        "    [35, …] cec: put('x', 'lost') → unknown",
        "  → [50, 60] dan: get('x') → 'old'",
    ]


def test_the_work_can_be_bounded() -> None:
    # Twelve concurrent writes and a read that none of them explains: every subset must be tried.
    history: Register = History()
    for number in range(12):
        history.ok(history.invoke("c", Put("x", number), 0), None, 50)
    history.ok(history.invoke("c", Get("x"), 0), "never written", 50)
    with pytest.raises(SearchTooLarge):
        check(RegisterModel(), history.calls(), configurations_max=1000)


class TestHistory:
    def test_a_failed_call_is_left_out(self) -> None:
        history: Register = History()
        history.fail(history.invoke("a", Put("x", 1), 0))
        open_call = history.invoke("a", Put("x", 2), 1)
        assert [call.number for call in history.calls()] == [open_call]
        assert history.calls()[0].reply is None

    def test_a_call_is_settled_once(self) -> None:
        history: Register = History()
        call = history.invoke("a", Get("x"), 5)
        with pytest.raises(ValueError, match="cannot return at 4"):
            history.ok(call, None, 4)
        history.ok(call, None, 5)
        for again in (history.info, history.fail):
            with pytest.raises(ValueError, match="settled already"):
                again(call)
        with pytest.raises(ValueError, match="never invoked"):
            history.info(call + 1)
