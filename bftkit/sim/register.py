"""The sequential specification of the key-value store: independent registers, and what one may forget of them.

The part worth reading is `_RegisterReduction`: it keeps histories with many operations of unknown outcome cheap.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Final

import attrs

from bftkit.sim.history import Call
from bftkit.sim.linearizability import Reduction

Key = Hashable
Value = Hashable


class _Unasked:
    """The one value that stands for all that no later result can tell apart."""

    def __repr__(self) -> str:
        return "(a value that nobody asks for afterwards)"


UNASKED: Final = _Unasked()


@attrs.frozen
class Get:
    """Returns the value, or None where there is none."""

    key: Key

    def __str__(self) -> str:
        return f"get({self.key!r})"


@attrs.frozen
class Put:
    """Sets the value. Its result says nothing."""

    key: Key
    value: Value

    def __str__(self) -> str:
        return f"put({self.key!r}, {self.value!r})"


@attrs.frozen
class Cas:
    """Sets the new value if the present one (None: there is none) is the expected one, and says whether."""

    key: Key
    expected: Value | None
    new: Value

    def __str__(self) -> str:
        return f"cas({self.key!r}, {self.expected!r} → {self.new!r})"


@attrs.frozen
class Delete:
    """Removes the value, and says whether there was one."""

    key: Key

    def __str__(self) -> str:
        return f"delete({self.key!r})"


RegisterOperation = Get | Put | Cas | Delete


@attrs.frozen
class _RegisterReduction:
    """Values are told apart only while a result that depends on them is still to come.

    `asked_until[v]` is the last return that can tell v from other values: a get that returns v, a
    compare-and-set that expects v, whatever its result, and for None (no value) also every delete. Afterwards v
    and any other value that is no longer asked for answer every remaining call alike, so one `UNASKED` stands
    for them. A compare-and-set of unknown outcome asks for what it expects as long as what it would write is
    asked for; after that it either changes an unasked value into an unasked one, which can be forgotten, or an
    asked one into an unasked one, which is kept. Thus open writes of unique values that nobody ever reads are
    equal from the start and cost one counter together.
    """

    asked_until: dict[Value | None, int]

    def changes(self) -> Iterable[int]:
        return (position + 1 for position in self.asked_until.values())

    def state(self, state: Value | None, position: int) -> Value | None:
        return state if self.asked_until.get(state, -1) >= position else UNASKED

    def operation(self, operation: RegisterOperation, position: int) -> RegisterOperation | None:
        if isinstance(operation, Get):
            return None
        if isinstance(operation, Delete):
            # With nobody to hear its result, a delete is a write of "no value".
            return Put(operation.key, self.state(None, position))
        if isinstance(operation, Put):
            return Put(operation.key, self.state(operation.value, position))
        expected = self.state(operation.expected, position)
        new = self.state(operation.new, position)
        return None if expected == new else Cas(operation.key, expected, new)


@attrs.frozen
class RegisterModel:
    """A key-value store: independent registers with get, put, compare-and-set and delete."""

    def key(self, operation: RegisterOperation) -> Hashable:
        return operation.key

    def initial(self, key: Hashable) -> Value | None:
        return None

    def step(self, state: Value | None, operation: RegisterOperation, result: Hashable) -> Sequence[Value | None]:
        if isinstance(operation, Get):
            return (state,) if state == result else ()
        if isinstance(operation, Put):
            return (operation.value,)
        if isinstance(operation, Cas):
            fits = state == operation.expected
            return ((operation.new if fits else state),) if result is fits else ()
        return (None,) if result is (state is not None) else ()

    def step_open(self, state: Value | None, operation: RegisterOperation) -> Sequence[Value | None]:
        if isinstance(operation, Put):
            return (operation.value,)
        if isinstance(operation, Cas):
            return (operation.new,) if state == operation.expected else ()
        return (None,) if isinstance(operation, Delete) else ()

    def mentions(self, operation: RegisterOperation, result: Hashable) -> frozenset[Hashable]:
        if isinstance(operation, Get):
            return frozenset((result,))
        if isinstance(operation, Put):
            return frozenset((operation.value,))
        if isinstance(operation, Cas):
            return frozenset((operation.expected, operation.new))
        return frozenset((None,))

    def only_observes(self, operation: RegisterOperation, result: Hashable) -> bool:
        return isinstance(operation, Get) or (isinstance(operation, Cas | Delete) and result is False)

    def reduction(
        self,
        returned: Sequence[Call[RegisterOperation, Hashable]],
        unknown: Sequence[Call[RegisterOperation, Hashable]],
    ) -> Reduction[Value | None, RegisterOperation]:
        asked_until: dict[Value | None, int] = {}
        for position, call in enumerate(returned):
            assert call.reply is not None
            if isinstance(call.operation, Get):
                asked_until[call.reply.result] = position
            elif isinstance(call.operation, Cas):
                asked_until[call.operation.expected] = position
            elif isinstance(call.operation, Delete):
                asked_until[None] = position
        # An open compare-and-set passes the question on from what it writes to what it expects. Latest first,
        # so that each value is settled when it is reached for the first time.
        expected_for: dict[Value | None, list[Value | None]] = {}
        for call in unknown:
            if isinstance(call.operation, Cas):
                expected_for.setdefault(call.operation.new, []).append(call.operation.expected)
        settled: set[Value | None] = set()
        for value, position in sorted(asked_until.items(), key=lambda item: -item[1]):
            reached = [value]
            while reached:
                current = reached.pop()
                if current not in settled:
                    settled.add(current)
                    asked_until[current] = position
                    reached.extend(expected_for.get(current, ()))
        return _RegisterReduction(asked_until)
