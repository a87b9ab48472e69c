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
from collections.abc import Sequence
from typing import Any, Final, Self, cast

import attrs

from bftkit.channel.application import Context, StateView
from bftkit.core.digest import digest
from bftkit.core.machine import Digest
from bftkit.core.wire import WireError, pack_plain, unpack_plain
from bftkit.service.plain import SCALARS, NotPlain, copied, plain_of, value_of
from bftkit.service.table import Table, TableView, cut, join, pieces_of

_TABLE: Final = -1
"""Stands for the kind of an attribute that is a table: none of the kinds of plain data."""


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

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        """As usual; also prepares what the base class remembers for itself."""
        machine = super().__new__(cls)
        machine._last_pieces = None
        return machine

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
        plain: list[object] = []
        tables: list[TableView] = []
        at: dict[int, str] = {}
        scalars: dict[str, object] = {}
        for name, value in _attributes(self).items():
            if type(value) is Table:
                first = at.setdefault(id(value), name)
                if first is not name:
                    raise NotPlain(f"{type(self).__name__}.{name}", f"is the same Table as {first}")
                tables.append(value.freeze())
                plain += name, [_TABLE]
            else:
                scalars[name] = value
                plain += name, None
        # All at once: what stands in two attributes is found out.
        packed = _named(self, scalars)
        for place in range(0, len(plain), 2):
            if plain[place + 1] is None:
                plain[place + 1] = packed[cast(str, plain[place])]
        data = pack_plain(plain)
        pieces = self._last_pieces
        if pieces is None or pieces.data != data:
            # The prefix of each piece says whether more follow, so no chunk has to tell how many there are.
            pieces = self._last_pieces = _Pieces(data, cut(data, pieces_of(len(data))))
        return AttributesView(pieces, tuple(tables))

    def restore(self, chunks: Sequence[bytes]) -> None:
        """Replace all attributes by those that these chunks describe.

        Raises `WireError`, and changes nothing then, if no snapshot has these chunks.
        """
        data, position = join(chunks, 0)
        flat: object = unpack_plain(data, length_max=len(data))
        if type(flat) is not tuple or len(cast("tuple[object, ...]", flat)) % 2:
            raise WireError("the first chunks of a state machine are no list of attributes")
        parts = cast("tuple[object, ...]", flat)
        found: dict[str, object] = {}
        for name, plain in zip(parts[::2], parts[1::2], strict=True):
            if type(name) is not str or name in found:
                raise WireError("an attribute of a state machine has no name of its own")
            if plain == (_TABLE,):
                table = found[name] = Table()
                end = _end_of_table(chunks, position)
                table.thaw(chunks[position:end])
                position = end
            else:
                found[name] = value_of(plain)
        if position != len(chunks):
            raise WireError(f"{len(chunks) - position} chunks too many for this state machine")
        _set_attributes(self, found)

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
            kind = type(value)
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


def _attributes(machine: StateMachine) -> dict[str, object]:
    return vars(machine)


def _set_attributes(machine: StateMachine, values: dict[str, object]) -> None:
    attributes = vars(machine)
    attributes.clear()
    attributes.update(values)


def _named(machine: StateMachine, values: dict[str, object]) -> dict[str, object]:
    """Every attribute as plain lists; errors name the attribute."""
    try:
        flat = cast("list[object]", plain_of(values))
    except NotPlain as error:
        # The whole is a dictionary by name, so a path begins with ['name'].
        where = type(machine).__name__ + error.path.replace("['", ".", 1).replace("']", "", 1)
        raise TypeError(
            f"{where}: {error.problem}. Attributes hold plain data and Tables; for anything else override "
            "snapshot and restore"
        ) from None
    return dict(zip(cast("list[str]", flat[1::2]), flat[2::2], strict=True))


def _end_of_table(chunks: Sequence[bytes], position: int) -> int:
    from bftkit.service.table import BUCKETS

    for _ in range(BUCKETS):
        _, position = join(chunks, position)
    return position
