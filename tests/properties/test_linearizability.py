"""The checker against the definition: every order of every choice of open operations, tried one by one."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import combinations, permutations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bftkit.sim import linearizability
from bftkit.sim.history import Call, History
from bftkit.sim.linearizability import NoReduction, Reduction, check
from bftkit.sim.register import Cas, Delete, Get, Put, RegisterModel, RegisterOperation, Value

RegisterCall = Call[RegisterOperation, Hashable]


class PlainModel(RegisterModel):
    """The same store without anything forgotten: tells errors of the search from errors of the reduction."""

    def reduction(self, returned: object, unknown: object) -> Reduction[Value | None, RegisterOperation]:
        return NoReduction()


def explains(order: tuple[RegisterCall, ...]) -> bool:
    store: dict[Hashable, Hashable] = {}
    for call in order:
        operation = call.operation
        present = store.get(operation.key)
        expected: Hashable = None
        match operation:
            case Get():
                expected = present
            case Put():
                store[operation.key] = operation.value
            case Cas():
                expected = present == operation.expected
                if expected:
                    store[operation.key] = operation.new
            case Delete():
                expected = store.pop(operation.key, None) is not None
        if call.reply is not None and not isinstance(operation, Put) and call.reply.result != expected:
            return False
    return True


def respects_time(order: tuple[RegisterCall, ...]) -> bool:
    return not any(
        later.reply is not None and later.reply.time < earlier.invoked
        for place, earlier in enumerate(order)
        for later in order[place + 1 :]
    )


def linearizable_by_definition(calls: tuple[RegisterCall, ...]) -> bool:
    returned = [call for call in calls if call.reply is not None]
    unknown = [call for call in calls if call.reply is None]
    return any(
        respects_time(order) and explains(order)
        for size in range(len(unknown) + 1)
        for chosen in combinations(unknown, size)
        for order in permutations([*returned, *chosen])
    )


def operations(keys: str, values: list[str]) -> st.SearchStrategy[RegisterOperation]:
    key = st.sampled_from(keys)
    value = st.sampled_from(values)
    return st.one_of(
        st.builds(Get, key),
        st.builds(Put, key, value),
        st.builds(Cas, key, st.none() | value, value),
        st.builds(Delete, key),
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[RegisterCall, ...]:
    """Up to six operations; results are either guessed or those of some order, so that both verdicts occur."""
    values = ["a", "b", "c"][: draw(st.integers(1, 3))]
    chosen = draw(st.lists(operations(draw(st.sampled_from(["x", "x", "xy"])), values), min_size=1, max_size=6))
    history: History[RegisterOperation, Hashable] = History()
    store: dict[Hashable, Hashable] = {}
    for place, operation in enumerate(chosen):
        invoked = draw(st.integers(max(0, 2 * place - 5), 2 * place))
        returned = draw(st.integers(2 * place, 2 * place + 5))
        present = store.get(operation.key)
        call = history.invoke(f"c{place}", operation, invoked)
        outcome = draw(st.sampled_from(["right", "right", "right", "guessed", "happened", "never"]))
        if outcome == "never":
            history.info(call)
            continue
        result: Hashable = None
        match operation:
            case Get():
                result = present
            case Put():
                store[operation.key] = operation.value
            case Cas():
                result = present == operation.expected
                if result:
                    store[operation.key] = operation.new
            case Delete():
                result = store.pop(operation.key, None) is not None
        if outcome == "happened":
            history.info(call)
            continue
        if outcome == "guessed" and isinstance(operation, Get):
            result = draw(st.none() | st.sampled_from(values))
        elif outcome == "guessed" and isinstance(operation, Cas | Delete):
            result = draw(st.booleans())
        history.ok(call, result, returned)
    return history.calls()


@settings(max_examples=200, deadline=None)
@given(histories())
def test_the_checker_agrees_with_the_definition(calls: tuple[RegisterCall, ...]) -> None:
    expected = linearizable_by_definition(calls)
    event(f"linearizable: {expected}, open: {sum(call.reply is None for call in calls)}")
    verdict = check(RegisterModel(), calls)
    assert verdict.linearizable == expected, str(verdict)
    assert check(PlainModel(), calls).linearizable == expected
    with pytest.MonkeyPatch.context() as patch:
        # Without patience the search without counters comes first; it must never see more errors than there are.
        patch.setattr(linearizability, "PATIENCE", 0)
        assert check(RegisterModel(), calls).linearizable == expected


@settings(max_examples=100, deadline=None)
@given(histories())
def test_a_counterexample_is_one_by_itself(calls: tuple[RegisterCall, ...]) -> None:
    found = check(RegisterModel(), calls).counterexample
    if found is not None:
        assert not linearizable_by_definition(found.prefix)
        assert found.failing in found.prefix
        assert {call.operation.key for call in found.prefix} == {found.key}


@settings(max_examples=100, deadline=None)
@given(histories(), st.integers(0, 5))
def test_less_knowledge_never_makes_a_history_wrong(calls: tuple[RegisterCall, ...], forgotten: int) -> None:
    # If a client had not heard the result, whatever explained it would still explain the rest.
    if check(RegisterModel(), calls).linearizable:
        weaker = tuple(
            Call(call.number, call.client, call.operation, call.invoked) if call.number == forgotten else call
            for call in calls
        )
        assert check(RegisterModel(), weaker).linearizable
