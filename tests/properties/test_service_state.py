"""Any state survives snapshot and restore; whatever an operation did before it failed never happened.

SAFETY rules 10 (a failing operation leaves no trace) and 19 (chunks depend on the state, not on its history).
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bftkit.channel.application import Application, Context
from bftkit.core.wire import WireError, pack_plain
from bftkit.service import StateMachine, Table
from bftkit.service.plain import NotPlain, copied, is_plain, pack_state, plain_of, unpack_state

CONTEXT = Context(b"group")

texts = st.text(alphabet=st.characters(exclude_categories=()), max_size=3)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 70), 1 << 70)
    | st.sampled_from([-(1 << 63), (1 << 63) - 1, 1 << 63, -(1 << 63) - 1, 1 << 64])
    | st.text(max_size=3)
    | st.binary(max_size=3)
)
fixed = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
plain = st.recursive(
    scalars | st.sets(fixed, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(fixed, inner, max_size=4)
        | st.frozensets(fixed, max_size=3)
    ),
    max_leaves=12,
)
anything = st.recursive(
    scalars | texts | st.floats() | st.just(object()) | st.builds(Table) | st.builds(bytearray),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=8,
)


def chunks(machine: Application) -> list[bytes]:
    view = machine.snapshot()
    return [view.chunk(index) for index in range(view.count)]


def kind_of(value: object) -> type[object]:
    return type(value)


def shape(value: Any) -> object:
    """The value with all its types and the order of dictionaries, and without the order of sets."""
    kind = kind_of(value)
    if kind in (list, tuple):
        return kind, [shape(item) for item in value]
    if kind is dict:
        return kind, [(shape(key), shape(item)) for key, item in value.items()]
    if kind in (set, frozenset):
        return kind, sorted(repr(shape(item)) for item in value)
    return kind, value


@given(plain)
def test_plain_data_comes_back_with_types_and_order(value: Any) -> None:
    assert shape(unpack_state(pack_state(value))) == shape(value)
    assert is_plain(value, set())


@given(st.lists(fixed, unique=True, max_size=6), st.randoms(use_true_random=False))
def test_the_bytes_of_a_set_do_not_depend_on_its_history(items: list[Any], random: Any) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)
    with_detours = set(shuffled) | {f"detour {number}" for number in range(50)}
    with_detours -= {f"detour {number}" for number in range(50)}
    assert pack_state(with_detours) == pack_state(set(items))


@given(anything)
def test_the_two_ways_to_look_for_plain_data_agree(value: object) -> None:
    try:
        plain_of(value)
        taken = True
    except NotPlain:
        taken = False
    assert is_plain(value, set()) == taken


@given(st.binary(max_size=12))
def test_bytes_are_read_in_one_way_or_refused(raw: bytes) -> None:
    try:
        value = unpack_state(raw)
    except WireError:
        return
    assert pack_state(value) == raw


def lists_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4)


nested_lists: st.SearchStrategy[Any] = st.recursive(st.integers(-3, 9), lists_of, max_leaves=10)


@given(nested_lists)
def test_any_lists_of_kinds_are_read_in_one_way_or_refused(lists: Any) -> None:
    raw = pack_plain(lists)
    try:
        value = unpack_state(raw)
    except WireError:
        return
    assert pack_state(value) == raw


@given(plain)
def test_a_copy_is_equal_and_shares_nothing_that_changes(value: Any) -> None:
    again = copied(value, {})
    assert shape(again) == shape(value)
    pack_state([value, again])  # refuses whatever can change and stands in both


# ------------------------------------------------------------------------------------------------- state machines

Step = tuple[str, Any, Any]

names = st.sampled_from(["a", "b", "c"])
keys = st.sampled_from([b"k%d" % number for number in range(6)])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), names, plain),
        st.tuples(st.just("delete"), names, st.none()),
        st.tuples(st.just("append"), names, plain),
        st.tuples(st.just("pop"), names, st.none()),
        st.tuples(st.just("put"), keys, st.binary(max_size=4)),
        st.tuples(st.just("drop"), keys, st.none()),
        st.tuples(st.just("new table"), st.none(), st.none()),
        st.tuples(st.just("raise"), st.none(), st.none()),
        st.tuples(st.just("share"), names, names),
    ),
    max_size=8,
)


class Walker(StateMachine):
    """Takes its steps from the test; some of them fail."""

    todo: list[Step]  # of the class, so it is none of the state

    def __init__(self) -> None:
        self.a: Any = [1, {"x": [2]}]
        self.table = Table()

    def apply(self, operation: bytes, context: Context) -> bytes:
        for kind, name, value in type(self).todo:
            self._step(kind, name, value)
        return b""

    def _step(self, kind: str, name: Any, value: Any) -> None:
        match kind:
            case "set":
                setattr(self, name, copied(value, {}))
            case "delete":
                delattr(self, name)
            case "append":
                change_deep_inside(getattr(self, name), copied(value, {}))
            case "pop":
                getattr(self, name).pop()
            case "put":
                self.table.set(name, value)
            case "drop":
                self.table.delete(name)
            case "new table":
                self.table = Table()
            case "share":
                setattr(self, name, getattr(self, value))
            case _:
                raise ValueError("poison")


def change_deep_inside(value: Any, item: Any) -> None:
    """Changes a container as deep as there is one."""
    is_dictionary = kind_of(value) is dict
    inner: Any = next(iter(value.values() if is_dictionary else value), None)
    if kind_of(inner) in (list, dict, tuple):
        change_deep_inside(inner, item)
    elif is_dictionary:
        value["new"] = item
    else:
        value.append(item)


def run(machine: Walker, todo: list[Step]) -> bool:
    Walker.todo = todo
    point = machine.mark()
    try:
        machine.apply(b"", CONTEXT)
        return True
    except Exception:
        machine.undo(point)
        return False


def visible(machine: Walker) -> object:
    table = getattr(machine, "table", Table())
    return [(name, shape(value)) for name, value in vars(machine).items() if type(value) is not Table], [
        (key, table.get(key)) for key in table
    ]


@given(st.lists(steps, max_size=6))
def test_failed_operations_never_happened(operations: list[list[Step]]) -> None:
    machine, without = Walker(), Walker()
    succeeded: list[list[Step]] = []
    for todo in operations:
        before, seen = chunks(machine), visible(machine)
        if run(machine, todo):
            succeeded.append(todo)
        else:
            assert chunks(machine) == before
            assert visible(machine) == seen
    for todo in succeeded:
        assert run(without, todo), "an operation's success depended on one that failed before"
    assert chunks(without) == chunks(machine)


@given(st.lists(steps, max_size=4), st.lists(steps, max_size=4))
def test_who_restores_goes_on_as_who_has_executed(before: list[list[Step]], after: list[list[Step]]) -> None:
    machine, other = Walker(), Walker()
    for todo in before:
        run(machine, todo)
    view = machine.snapshot()
    frozen = chunks(machine)
    leaves = [view.leaf(index) for index in range(view.count)]
    other.restore(frozen)
    assert visible(other) == visible(machine)
    for todo in after:
        assert run(other, todo) == run(machine, todo)
    assert visible(other) == visible(machine)
    assert chunks(other) == chunks(machine)
    assert [view.chunk(index) for index in range(view.count)] == frozen
    assert [view.leaf(index) for index in range(view.count)] == leaves


# ------------------------------------------------------------------------------------------------- tables

writes = st.lists(
    st.tuples(st.sampled_from([b"%d" % number for number in range(8)]), st.none() | st.binary(max_size=3))
)


def write(table: Table, todo: list[tuple[bytes, bytes | None]]) -> None:
    for key, value in todo:
        if value is None:
            table.delete(key)
        else:
            table.set(key, value)


def table_chunks(table: Table) -> list[bytes]:
    view = table.freeze()
    return [view.chunk(index) for index in range(view.count)]


@given(st.lists(st.tuples(writes, st.sampled_from(["keep", "undo", "freeze", "undo frozen", "thaw"]))))
def test_a_table_is_a_dictionary_whatever_happens_to_it(operations: list[tuple[Any, str]]) -> None:
    table, model = Table(), dict[bytes, bytes]()
    views: list[tuple[Any, list[bytes]]] = []
    for todo, then in operations:
        table.mark()
        write(table, todo)
        after = dict(model)
        for key, value in todo:
            if value is None:
                after.pop(key, None)
            else:
                after[key] = value
        if "frozen" in then or then == "freeze":
            views.append((table.freeze(), table_chunks(table)))
        if then.startswith("undo"):
            table.undo()
        else:
            model = after
        if then == "thaw":
            parts = table_chunks(table)
            table = Table()
            table.thaw(parts)
        assert list(table) == sorted(model)
        assert [table.get(key) for key in sorted(model)] == [model[key] for key in sorted(model)]
        assert len(table) == len(model)
    straight = Table()
    write(straight, sorted(model.items()))
    assert table_chunks(table) == table_chunks(straight)
    one, other = table.freeze(), straight.freeze()
    assert [one.leaf(index) for index in range(one.count)] == [other.leaf(index) for index in range(other.count)]
    for view, parts in views:
        assert [view.chunk(index) for index in range(view.count)] == parts
