"""`fork` and `fingerprint` over random state."""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from bftkit.core.state import fingerprint, fork


@attrs.frozen
class Frozen:
    content: Any


@attrs.define
class Mutable:
    content: Any


SCALARS: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.binary(max_size=8) | st.text(max_size=8) | st.floats(allow_nan=False)
)
KEYS: st.SearchStrategy[Any] = st.integers() | st.binary(max_size=4) | st.text(max_size=4)


def _containers(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(items, max_size=5)
    return (
        lists
        | lists.map(tuple)
        | lists.map(deque)
        | st.dictionaries(KEYS, items, max_size=5)
        | st.sets(KEYS, max_size=5)
        | st.frozensets(KEYS, max_size=5)
        | items.map(Frozen)
        | items.map(Mutable)
    )


STATES: st.SearchStrategy[Any] = st.recursive(SCALARS, _containers, max_leaves=30)


def mutables(value: Any) -> list[Any]:
    """Every mutable object within."""
    match value:
        case dict():
            inner: list[Any] = list(value.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        case list() | tuple() | deque():
            inner = list(value)  # pyright: ignore[reportUnknownArgumentType]
        case Frozen(content) | Mutable(content):
            inner = [content]
        case _:
            inner = []
    own: list[Any] = [value] if isinstance(value, dict | list | deque | set | Mutable) else []
    return own + [found for item in inner for found in mutables(item)]


def exactly(value: Any) -> str:
    """As text in which 1, 1.0 and True differ, and in which dicts and sets have one order."""
    match value:
        case dict():
            pairs: list[tuple[Any, Any]] = list(value.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
            return "{" + ",".join(sorted(f"{exactly(key)}:{exactly(item)}" for key, item in pairs)) + "}"
        case set() | frozenset():
            members: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
            return "S{" + ",".join(sorted(exactly(item) for item in members)) + "}"
        case list() | tuple() | deque():
            items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
            return f"{type(items).__name__}{type(value).__name__}[" + ",".join(exactly(item) for item in items) + "]"  # pyright: ignore[reportUnknownArgumentType]
        case Frozen(content) | Mutable(content):
            return f"{type(value).__name__}({exactly(content)})"
        case _:
            return f"{type(value).__name__} {value!r}"


@given(STATES)
def test_a_copy_is_equal_and_shares_nothing_mutable(state: Any) -> None:
    copy = fork(state)
    assert exactly(copy) == exactly(state)
    assert fingerprint(copy) == fingerprint(state)
    assert not {id(each) for each in mutables(copy)} & {id(each) for each in mutables(state)}


@given(STATES)
def test_what_is_frozen_throughout_is_not_copied(state: Any) -> None:
    if not mutables(state):
        assert fork(state) is state


@given(STATES, STATES)
def test_fingerprints_are_equal_exactly_for_equal_states(one: Any, two: Any) -> None:
    assert (fingerprint(one) == fingerprint(two)) == (exactly(one) == exactly(two))


@given(st.dictionaries(KEYS, STATES, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_insertion_does_not_matter(table: dict[Any, Any], random: Any) -> None:
    pairs = list(table.items())
    random.shuffle(pairs)
    assert fingerprint(dict(pairs)) == fingerprint(table)
