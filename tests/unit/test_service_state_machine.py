"""`StateMachine`: attributes are the state; a failing operation leaves no trace (SAFETY rule 10)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from bftkit import StateMachine as Exported
from bftkit.channel.application import Application, Context
from bftkit.core.wire import WireError, pack_plain
from bftkit.service import ServiceError, StateMachine, Table, checked_service
from bftkit.service import state_machine as state_machine_module

CONTEXT = Context(b"group")


class Counter(StateMachine):
    def __init__(self) -> None:
        self.value = 0

    def apply(self, operation: bytes, context: Context) -> bytes:
        self.value += int(operation)
        return str(self.value).encode()

    def read(self, operation: bytes) -> bytes:
        return str(self.value).encode()


class Scripted(StateMachine):
    """Executes what the test puts into `SCRIPT`."""

    def __init__(self) -> None:
        self.items: Any = [1, [2, 3]]
        self.names: Any = {"b": [1], "a": {"x"}}
        self.table = Table()

    def apply(self, operation: bytes, context: Context) -> bytes:
        SCRIPT[operation](self)
        return b""


SCRIPT: dict[bytes, Callable[[Any], object]] = {}


def chunks(machine: Application) -> list[bytes]:
    view = machine.snapshot()
    return [view.chunk(index) for index in range(view.count)]


def run(machine: Application, operation: bytes) -> bytes | Exception:
    """As the channel does it."""
    point = machine.mark()
    try:
        return machine.apply(operation, CONTEXT)
    except Exception as error:
        machine.undo(point)
        return error


def attributes(*names_and_values: object) -> bytes:
    """The first chunk of a machine with these attributes, as lists that begin with their kind."""
    return b"\x00" + pack_plain(list(names_and_values))


def script(machine: Scripted, *steps: Callable[[Any], object]) -> bytes | Exception:
    def all_of_them(machine: Any) -> None:
        for step in steps:
            step(machine)

    SCRIPT[b"it"] = all_of_them
    return run(machine, b"it")


def fail(machine: object) -> None:
    raise ValueError("poison")


# ------------------------------------------------------------------------------------------------- the counter


def test_a_counter_is_all_that_its_author_wrote() -> None:
    counter = checked_service(Counter)
    assert run(counter, b"5") == b"5"
    assert run(counter, b"-7") == b"-2"
    assert counter.read(b"") == b"-2"
    other = checked_service(Counter)
    other.restore(chunks(counter))
    assert run(other, b"1") == b"-1"
    assert isinstance(run(other, b"no number"), ValueError)
    assert Exported is StateMachine


def test_a_machine_without_read_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Scripted answers no reads: submit the operation instead"):
        Scripted().read(b"")


# ------------------------------------------------------------------------------------------------- failing operations


def replace_table(machine: Any) -> None:
    machine.table.delete(b"k")
    machine.table = Table()


def delete_table(machine: Any) -> None:
    machine.table.set(b"new", b"")
    del machine.table


DAMAGE: dict[str, Callable[[Any], object]] = {
    "in a list": lambda machine: machine.items.append(7),
    "in a nested list": lambda machine: machine.items[1].clear(),
    "in a dictionary": lambda machine: machine.names.__setitem__("c", 3),
    "in a nested set": lambda machine: machine.names["a"].add("y"),
    "order of a dictionary": lambda machine: machine.names.__setitem__("b", machine.names.pop("b")),
    "attribute replaced": lambda machine: machine.__setattr__("items", 5),
    "attribute added": lambda machine: machine.__setattr__("more", [1]),
    "attribute deleted": lambda machine: machine.__delattr__("names"),
    "table written": lambda machine: machine.table.set(b"k", b"other"),
    "table emptied": lambda machine: machine.table.clear(),
    "table replaced": replace_table,
    "table deleted": delete_table,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_failing_operation_leaves_no_trace(damage: Callable[[Any], object]) -> None:
    machine = Scripted()
    assert script(machine, lambda machine: machine.table.set(b"k", b"v")) == b""
    before = chunks(machine)
    names = list(vars(machine))
    error = script(machine, damage, fail)
    assert isinstance(error, ValueError)
    assert chunks(machine) == before
    assert list(vars(machine)) == names
    assert script(machine, damage) == b""
    assert chunks(machine) != before, "the damage is none, so undoing it shows nothing"


def test_one_thing_in_two_attributes_is_one_thing_after_an_undo() -> None:
    class Twice(Scripted):
        def snapshot(self) -> Any:
            return super().snapshot()

        def restore(self, chunks: Any) -> None:
            super().restore(chunks)

    machine = Twice()
    machine.names = machine.items
    script(machine, lambda machine: machine.items.append(4), fail)
    assert machine.items == [1, [2, 3]]
    assert machine.names is machine.items


def test_other_objects_are_copied_for_an_undo_if_the_snapshot_is_the_authors() -> None:
    @attrs.define
    class Account:
        balance: int

    class Bank(StateMachine):
        def __init__(self) -> None:
            self.accounts = [Account(1)]

        def apply(self, operation: bytes, context: Context) -> bytes:
            self.accounts[0].balance += int(operation)
            raise ValueError("poison")

        def snapshot(self) -> Any:
            raise NotImplementedError

        def restore(self, chunks: Any) -> None:
            raise NotImplementedError

    bank = Bank()
    assert isinstance(run(bank, b"3"), ValueError)
    assert bank.accounts == [Account(1)]


NOT_PLAIN: list[tuple[Callable[[Any], object], str]] = [
    (lambda machine: machine.__setattr__("mean", 1.5), r"Scripted\.mean: a value of type float is no plain data"),
    (lambda machine: machine.items[1].append(object()), r"Scripted\.items\[1\]\[2\]: a value of type object"),
    (lambda machine: machine.names.__setitem__("b", 2.5), r"Scripted\.names\['b'\]: a value of type float"),
    (lambda machine: machine.names.__setitem__(1.5, 2), r"a key in Scripted\.names: a value of type float"),
    (lambda machine: machine.names["a"].add(0.5), r"an item in Scripted\.names\['a'\]: a value of type float"),
    (lambda machine: machine.__setattr__("again", machine.items), "the same list stands in Scripted.items"),
    (lambda machine: machine.items.append(machine.items), "the same list stands in Scripted.items"),
    (lambda machine: machine.items.append((machine.items[1],)), r"the same list stands in Scripted.items\[1\]"),
    (lambda machine: machine.__setattr__("text", "\ud800"), r"Scripted\.text: the text holds half of a surrogate"),
    (lambda machine: machine.items.append("\ud800"), r"Scripted\.items\[2\]: the text holds half of a surrogate"),
    (lambda machine: machine.__setattr__("second", machine.table), "the same Table stands in Scripted.table"),
    (lambda machine: machine.items.append(Table()), r"Scripted\.items\[2\]: a value of type Table"),
    (lambda machine: machine.items.append(nested(70)), "nested more than 64 deep"),
    (lambda machine: machine.items.append(nested(100_000)), "nested more than 64 deep"),
]


@pytest.mark.parametrize(("step", "text"), NOT_PLAIN)
def test_an_operation_that_leaves_what_no_snapshot_can_hold_fails_at_once(
    step: Callable[[Any], object], text: str
) -> None:
    """And not all members together at the next checkpoint."""
    machine = Scripted()
    before = chunks(machine)
    error = script(machine, step)
    assert isinstance(error, TypeError)
    with pytest.raises(TypeError, match=text):
        raise error
    assert chunks(machine) == before
    assert script(machine) == b""


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


# ------------------------------------------------------------------------------------------------- snapshots


def test_a_view_stays_what_it_was() -> None:
    machine = Scripted()
    script(machine, lambda machine: machine.table.set(b"k", b"v"))
    view = machine.snapshot()
    before = chunks(machine)
    script(
        machine,
        lambda machine: machine.items[1].append(9),
        lambda machine: machine.table.set(b"k", b"w"),
        lambda machine: machine.table.set(b"l", b""),
    )
    assert [view.chunk(index) for index in range(view.count)] == before
    assert chunks(machine) != before


def test_restoring_keeps_types_and_the_order_of_dictionaries() -> None:
    machine = Scripted()
    machine.items = [True, 1, -(1 << 63), 1 << 63, -(1 << 200), 1 << 64, None, b"", "", (1, [2]), frozenset({(1,), 2})]
    machine.names = {"z": 1, "a": {"deep": [1]}, 5: (), True: {1, 2, 3}, (1, 2): "é"}
    del machine.table
    machine.table = Table()
    machine.table.set(b"k", b"v")
    other = Scripted()
    other.restore(chunks(machine))
    assert repr(other.items) == repr(machine.items)
    assert list(other.names.items()) == list(machine.names.items())
    assert list(map(repr, other.names)) == list(map(repr, machine.names))
    assert other.table.get(b"k") == b"v"
    assert chunks(other) == chunks(machine)


def test_a_restored_machine_goes_on_alone() -> None:
    machine, other = Scripted(), Scripted()
    other.restore(chunks(machine))
    script(other, lambda machine: machine.items[1].append(9), lambda machine: machine.table.set(b"k", b"v"))
    assert machine.items == [1, [2, 3]]
    assert len(machine.table) == 0


def test_plain_attributes_that_grow_are_cut_into_chunks() -> None:
    machine = Scripted()
    machine.items = [bytes([number % 256]) * 1000 for number in range(2000)]
    parts = chunks(machine)
    assert len(parts) - 256 == 4
    assert max(map(len, parts)) < 1 << 20
    other = Scripted()
    other.restore(parts)
    assert other.items == machine.items


def test_digests_of_what_did_not_change_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Scripted()
    machine.items = [bytes(1000) for _ in range(2000)]
    view = machine.snapshot()
    before = [view.leaf(index) for index in range(view.count)]
    hashed: list[bytes] = []

    def counting(*parts: bytes) -> bytes:
        hashed.extend(parts)
        return b"?"

    monkeypatch.setattr(state_machine_module, "digest", counting)
    view = machine.snapshot()
    assert [view.leaf(index) for index in range(view.count)] == before
    assert hashed == []
    machine.items[0] = b""
    view = machine.snapshot()
    assert view.leaf(0) == b"?"


@pytest.mark.parametrize(
    "change",
    [
        "missing",
        "more",
        "flag",
        "bytes",
        "order",
        "other",
        "set not sorted",
        "item twice",
        "name twice",
        "no name",
        "odd",
    ],
)
def test_chunks_that_no_snapshot_has_are_refused_and_change_nothing(change: str) -> None:
    machine = Scripted()
    good = chunks(machine)
    bad = {
        "missing": good[:-1],
        "more": [*good, good[-1]],
        "flag": [b"\x02" + good[0][1:], *good[1:]],
        "bytes": [good[0] + b"\xc0", *good[1:]],
        "order": good[::-1],
        "other": [b"\x00\xc0", *good[1:]],
        "set not sorted": [attributes("a", [3, 2, 1])],
        "item twice": [attributes("a", [3, 1, 1])],
        "name twice": [attributes("a", 1, "a", 2)],
        "no name": [attributes(1, 1)],
        "odd": [attributes("a")],
    }[change]
    other = Scripted()
    other.restore([attributes("a", [3, 1, 2])])
    assert vars(other) == {"a": {1, 2}}
    other.items = ["untouched"]
    before = chunks(other)
    with pytest.raises(WireError):
        other.restore(bad)
    assert chunks(other) == before


def test_the_bytes_do_not_depend_on_the_hash_seed() -> None:
    """Every process has another order of sets; the chunks must be the same."""
    program = (
        "from bftkit import StateMachine, Table\n"
        "class Words(StateMachine):\n"
        "    def __init__(self):\n"
        "        self.words = {'alpha', 'beta', b'gamma', ('delta', 5), frozenset({'x', 'y', 'z'}), None}\n"
        "        self.counts = {'b': {'q', 'w', 'e', 'r'}, 'a': 1}\n"
        "        self.table = Table()\n"
        "        for word in {'alpha', 'beta', 'gamma', 'delta'}: self.table.set(word.encode(), b'1')\n"
        "    def apply(self, operation, context): return b''\n"
        "view = Words().snapshot()\n"
        "from bftkit.core.digest import digest\n"
        "print(digest(*[view.chunk(index) for index in range(view.count)]).hex())\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(printed) == 1


# ------------------------------------------------------------------------------------------------- loading


class NeedsArgument(Counter):
    def __init__(self, start: int) -> None:
        self.value = start


class Raises(Counter):
    def __init__(self) -> None:
        raise RuntimeError("no such thing")


class WrongApply(StateMachine):
    def apply(self, operation: bytes) -> bytes:  # type: ignore[override] # pyright: ignore
        return operation


class AsyncApply(StateMachine):
    async def apply(self, operation: bytes, context: Context) -> bytes:  # type: ignore[override] # pyright: ignore
        return operation


class WrongRead(Counter):
    def read(self) -> bytes:  # type: ignore[override] # pyright: ignore
        return b""


class NoApply(StateMachine):
    pass


class OnlySnapshot(Counter):
    def snapshot(self) -> Any:
        return super().snapshot()


class OnlyMark(Counter):
    def mark(self) -> object:
        return super().mark()


class Float(Counter):
    def __init__(self) -> None:
        self.value = 0
        self.rate = 0.5


@attrs.define
class Slots(StateMachine):
    value: int = 0

    def apply(self, operation: bytes, context: Context) -> bytes:
        return b""


COUNTS: list[int] = []


class Different(Counter):
    def __init__(self) -> None:
        COUNTS.append(1)
        self.value = len(COUNTS)


class Forgetful(Counter):
    def snapshot(self) -> Any:
        return super().snapshot()

    def restore(self, chunks: Any) -> None:
        self.value = 5


class Nothing:
    def apply(self, operation: bytes, context: Context) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        (NeedsArgument, r"NeedsArgument\(\) failed \(a service is made without arguments\): TypeError: .*start"),
        (Raises, r"Raises\(\) failed .*: RuntimeError: no such thing"),
        (WrongApply, r"WrongApply must have apply\(self, operation, context\): too many positional arguments"),
        (AsyncApply, r"AsyncApply\.apply must be an ordinary function"),
        (WrongRead, r"WrongRead must have read\(self, operation\)"),
        (NoApply, r"NoApply\(\) failed .*abstract"),
        (OnlySnapshot, "OnlySnapshot must override both snapshot and restore, or neither"),
        (OnlyMark, "OnlyMark must override both mark and undo, or neither"),
        (Float, r"Float has no snapshot in the beginning: TypeError: Float\.rate: a value of type float"),
        (Slots, r"Slots keeps attributes in __slots__.*slots=False"),
        (Different, "two new instances of Different differ"),
        (Forgetful, "Forgetful does not restore its own snapshot: the state is another one"),
        (Nothing, r"Nothing has no read\(self, operation\); derive the class from bftkit.service.StateMachine"),
        (5, "5 is no class but a int"),
    ],
)
def test_a_class_that_cannot_be_a_service_is_refused_with_the_reason(factory: object, text: str) -> None:
    with pytest.raises(ServiceError, match=text):
        checked_service(factory)


def test_attrs_classes_without_slots_are_services() -> None:
    @attrs.define(slots=False)
    class Plain(StateMachine):
        value: int = 0

        def apply(self, operation: bytes, context: Context) -> bytes:
            self.value += 1
            return b"%d" % self.value

    service = checked_service(Plain)
    assert run(service, b"") == b"1"


def test_apply_may_call_that_of_its_base() -> None:
    class Doubled(Counter):
        def apply(self, operation: bytes, context: Context) -> bytes:
            super().apply(operation, context)
            return super().apply(operation, context)

    assert run(checked_service(Doubled), b"2") == b"4"
