"""`StateMachine`: the class to derive from for a service of your own.

The smallest one has a state in ordinary attributes and one method::

    class Counter(StateMachine):
        def __init__(self):
            self.value = 0

        def apply(self, operation, context):
            self.value += int(operation)
            return str(self.value).encode()

It must be deterministic: the same operations in the same order give the same results and the same state on every
member. Time and chance come from the `Context` alone. No clock, no random numbers, no files, no network, no threads;
no floats where members may run different machines; no order of a set, no `hash()` and no `id()`.

The state is the attributes. They hold plain data (see `bftkit.service.plain`: numbers, texts, bytes, and lists,
dictionaries, sets and tuples of them) and `Table`s. Nothing else is needed for snapshots, restarts and failing
operations. All of it may change in place, except that every operation costs time for what lies in lists and
dictionaries (they are copied, in case it fails), and every checkpoint costs time for all plain attributes. So plain
attributes are for small states, up to some hundreds of items; whatever grows belongs into a `Table`, which costs only
what is written.

A state of another kind overrides `snapshot` and `restore`, and `mark` and `undo` if copies of its attributes are too
slow or impossible.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from inspect import iscoroutinefunction, isfunction
from typing import Any, ClassVar, Final, Self, cast

import attrs

from bftkit.channel.application import Context, StateView
from bftkit.core.digest import digest
from bftkit.core.machine import Digest
from bftkit.core.wire import WireError, pack_plain, unpack_plain
from bftkit.service.plain import SCALARS, NotPlain, copied, is_plain, plain_of, value_of
from bftkit.service.table import Table, TableView, cut, join, pieces_of, table_end

_TABLE: Final = -1
"""Stands for the kind of an attribute that is a table: none of the kinds of plain data."""

_ALWAYS_PLAIN: Final = SCALARS - {str}
"""Types all of whose values have canonical bytes."""

ADVICE: Final = "Attributes hold plain data and Tables; for anything else override snapshot and restore"


@attrs.define(eq=False)
class _Pieces:
    """The bytes of the plain attributes at one time, cut into chunks; digests come when they are asked for."""

    data: bytes
    chunks: tuple[bytes, ...]
    leaves: tuple[Digest, ...] | None = None


@attrs.frozen(eq=False)
class AttributesView:
    """A frozen view of a state machine: the chunks of its plain attributes, then those of each table."""

    pieces: _Pieces
    tables: tuple[TableView, ...]

    @property
    def count(self) -> int:
        """How many chunks."""
        return len(self.pieces.chunks) + sum([table.count for table in self.tables])

    def chunk(self, index: int) -> bytes:
        """A chunk's bytes."""
        if index < len(self.pieces.chunks):
            return self.pieces.chunks[index]
        table, number = self._place(index)
        return table.chunk(number)

    def leaf(self, index: int) -> Digest:
        """A chunk's digest."""
        pieces = self.pieces
        if index < len(pieces.chunks):
            if pieces.leaves is None:
                pieces.leaves = tuple([digest(chunk) for chunk in pieces.chunks])
            return pieces.leaves[index]
        table, number = self._place(index)
        return table.leaf(number)

    def _place(self, index: int) -> tuple[TableView, int]:
        index -= len(self.pieces.chunks)
        for table in self.tables:
            if index < table.count:
                return table, index
            index -= table.count
        raise IndexError("the view has fewer chunks")


class StateMachine(ABC):
    """Derive from it and write `apply`. See the module's text for what may stand in attributes.

    An attribute whose name you delete or add later is part of the state like any other; the order in which
    attributes were first set counts as the order of a dictionary does.
    """

    # A slot, so that it is none of the attributes; set in __new__, so that nobody has to call super().__init__().
    __slots__ = ("_last_pieces",)
    _last_pieces: _Pieces | None
    _keeps_attributes: ClassVar[bool] = True
    """Whether snapshots are the default ones."""

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        """As usual; also prepares what the base class remembers for itself."""
        machine = super().__new__(cls)
        machine._last_pieces = None
        return machine

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Every `apply` also refuses results that a snapshot could not hold: see `_check`."""
        super().__init_subclass__(**keywords)
        cls._keeps_attributes = cls.snapshot is StateMachine.snapshot
        own = cls.__dict__.get("apply")
        # What is no ordinary method is left as it is, for `checked_service` to refuse with a clear text.
        if isfunction(own) and not iscoroutinefunction(own):
            setattr(cls, "apply", _checking(own))  # noqa: B010 - mypy takes no other method for it

    @abstractmethod
    def apply(self, operation: bytes, context: Context) -> bytes:
        """Execute one operation, and return its result.

        Whatever it raises becomes the error that the client gets (the exception's type and text, so let no address
        or id of this process be in it), and all changes of attributes are taken back.
        """

    def read(self, operation: bytes) -> bytes:
        """Answer a question without changing anything; must be quick, and needs no ordering.

        If members disagree for too long, the question is *ordered like any other operation*: `apply` must understand
        it too, and answer it in the same way. Without this method, reads are refused with the error that it raises.
        """
        raise NotImplementedError(f"{type(self).__name__} answers no reads: submit the operation instead")

    def snapshot(self) -> StateView:
        """A frozen view of all attributes. Raises `TypeError` if one of them is neither plain data nor a `Table`."""
        data, tables = _packed(type(self).__name__, vars(self))
        pieces = self._last_pieces
        if pieces is None or pieces.data != data:
            pieces = self._last_pieces = _Pieces(data, cut(data, pieces_of(len(data))))
        return AttributesView(pieces, tuple([table.freeze() for table in tables]))

    def restore(self, chunks: Sequence[bytes]) -> None:
        """Replace all attributes by those that these chunks describe.

        Raises `WireError`, and changes nothing then, if no snapshot has these chunks.
        """
        data, position = join(chunks, 0)
        attributes: dict[str, object] = {}
        for name, plain in _pairs(data):
            if plain == (_TABLE,):
                end = table_end(chunks, position)
                table = attributes[name] = Table()
                table.thaw(chunks[position:end])
                position = end
            else:
                attributes[name] = value_of(plain)
        if position != len(chunks):
            raise WireError(f"{len(chunks) - position} chunks too many for this state machine")
        pieces = _Pieces(data, cut(data, pieces_of(len(data))))
        if _packed("", attributes)[0] != data or pieces.chunks != tuple(chunks[: len(pieces.chunks)]):
            raise WireError("not the canonical chunks of a state machine")
        _set_attributes(self, attributes)
        self._last_pieces = pieces

    def mark(self) -> object:
        """A point for `undo`, in place of the one before: a copy of the attributes, tables excepted.

        Numbers, texts and bytes cost next to nothing; a list or dictionary costs time for each of its items; any
        object that is no plain data costs a `copy.deepcopy`, and `TypeError` if it cannot be copied.
        """
        attributes = vars(self)
        for value in attributes.values():
            if type(value) not in SCALARS:
                return self._mark_containers(attributes)
        return attributes.copy()

    def _mark_containers(self, attributes: dict[str, Any]) -> dict[str, Any]:
        saved = attributes.copy()
        memo: dict[int, Any] = {}
        for name, value in attributes.items():
            kind = cast("type[object]", type(value))
            if kind is Table:
                value.mark()
            elif kind not in SCALARS:
                try:
                    saved[name] = copied(value, memo)
                except Exception as error:
                    raise TypeError(
                        f"{type(self).__name__}.{name} cannot be copied before an operation ({error}): "
                        "keep it out of the state, or override mark and undo"
                    ) from error
        return saved

    def undo(self, mark: object) -> None:
        """Take back all changes of attributes since the mark (SAFETY rule 10). A mark is good for one return."""
        saved = cast("dict[str, object]", mark)
        for value in saved.values():
            if type(value) is Table:
                value.undo()
        _set_attributes(self, saved)


def _set_attributes(machine: StateMachine, values: dict[str, object]) -> None:
    attributes = vars(machine)
    attributes.clear()
    attributes.update(values)


def _packed(owner: str, attributes: Mapping[str, object]) -> tuple[bytes, list[Table]]:
    """The canonical bytes of all attributes but tables, and the tables. Raises `TypeError`."""
    flat: list[object] = []
    tables: list[Table] = []
    seen: dict[int, str] = {}
    for name, value in attributes.items():
        path = f"{owner}.{name}"
        try:
            if type(value) is Table:
                first = seen.setdefault(id(value), path)
                if first is not path:
                    raise NotPlain(path, f"the same Table stands in {first}")
                tables.append(value)
                flat += name, [_TABLE]
            else:
                flat += name, plain_of(value, path, seen)
        except NotPlain as error:
            raise TypeError(f"{error}. {ADVICE}") from None
    return pack_plain(flat), tables


def _pairs(data: bytes) -> Iterator[tuple[str, object]]:
    """The attributes' names and plain lists. Raises `WireError`."""
    flat: object = unpack_plain(data, length_max=len(data))
    parts = cast("tuple[object, ...]", flat) if type(flat) is tuple else (None,)
    if len(parts) % 2:
        raise WireError("the first chunks of a state machine are no list of attributes")
    for name, plain in zip(parts[::2], parts[1::2], strict=True):
        if type(name) is not str:
            raise WireError("an attribute of a state machine has no name")
        yield name, plain


def _check(machine: StateMachine) -> None:
    """Refuse what an operation has left in the attributes while it can still be taken back.

    Found at the next checkpoint only, it would stop all members at once: one bad operation, one dead group.
    """
    seen: set[int] = set()
    for value in vars(machine).values():
        kind = cast("type[object]", type(value))
        if kind in _ALWAYS_PLAIN:
            continue
        if kind is Table and id(value) not in seen:
            seen.add(id(value))
        elif not is_plain(value, seen):
            break
    else:
        return
    # Only now the slow way, which says what is wrong.
    _packed(type(machine).__name__, vars(machine))
    raise AssertionError("the two ways to look for plain data differ")


def _checking(apply: Callable[[Any, bytes, Context], bytes]) -> Callable[[Any, bytes, Context], bytes]:
    @wraps(apply)
    def checked(self: Any, operation: bytes, context: Context) -> bytes:
        result = apply(self, operation, context)
        if self._keeps_attributes:
            _check(self)
        return result

    return checked
