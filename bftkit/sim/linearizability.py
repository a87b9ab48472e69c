"""Is there one order of all operations, respecting real time, that explains every result that clients saw?

That is linearizability (Herlihy and Wing, TOPLAS 1990). The checker searches for the order as Wing and Gong do
("Testing and verifying concurrent objects", 1993), with three ideas that make it fast:

*Just in time* (Lowe, "Testing for linearizability", 2017, section 4). Walk through the returns in the order of
time. An operation is put into the order only when it must be: when it returns, possibly preceded by other
pending operations that make its result possible. Fewest of those first, everything else on backtracking.

*Memory* (Lowe, section 3). A configuration is (return reached, pending operations already in the order, state).
No configuration is explored twice.

*One key at a time* (Horn and Kroening, "Faster linearizability checking via P-compositionality", 2015). A history
over independent keys is linearizable if and only if the history of each key is.

Operations of unknown outcome stay pending for ever and would double the work each. Three sound reductions:

*Fewer used is better.* An open operation never has to be used. A configuration that has used fewer of them can do
whatever one with the same state that has used more can do, so the latter is dropped.

*Equal ones are counted.* Open operations that do the same are a number, not a set.

*What nobody asks for is one value.* See `bftkit.sim.register`: values that no later result can tell apart are replaced
by one `UNASKED` value, so that all open writes of such values fall together into one counter. They may not simply
be dropped: a write that nobody read can still be what made a compare-and-set fail or a delete find something.

To show that there is no order, everything must be tried, and with several counters there are many ways to have
spent the same number of open operations. So when the search takes long, it is first tried with no bound on how
often operations that exist more than once may be used. If even that has no order, the history has none, and that
search is short because it counts nothing. Otherwise the exact search goes on.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final, Generic, Protocol, TypeVar

import attrs

from bftkit.sim.history import Call

State = TypeVar("State", bound=Hashable)
Operation = TypeVar("Operation", bound=Hashable)
Result = TypeVar("Result")

PATIENCE: Final = 20
"""Configurations for each call that the exact search may look at before the one without counters is tried."""

LINES_SHOWN: Final = 40
"""A counterexample's text shows at most about this many operations; its `prefix` holds them all."""


class Reduction(Protocol[State, Operation]):
    """What may be forgotten from which return on. Positions number the returns of one key's history from 0.

    Both views must be sound (equal views cannot be told apart by any return at or after the position) and must
    compose: the view of a view is the view at the later position.
    """

    def changes(self) -> Iterable[int]:
        """The positions at which a view differs from the one before."""
        ...

    def state(self, state: State, position: int) -> State:
        """Stands for this state in all that returns at or after the position."""
        ...

    def operation(self, operation: Operation, position: int) -> Operation | None:
        """Stands for an open operation from the position on; None if using it can never help."""
        ...


@attrs.frozen
class NoReduction(Generic[State, Operation]):
    """Forgets nothing: right for every model."""

    def changes(self) -> Iterable[int]:
        return ()

    def state(self, state: State, position: int) -> State:
        return state

    def operation(self, operation: Operation, position: int) -> Operation | None:
        return operation


class Model(Protocol[State, Operation, Result]):
    """The sequential specification: what one copy, used by one client at a time, would answer."""

    def key(self, operation: Operation) -> Hashable:
        """The independent part of the state that the operation concerns."""
        ...

    def initial(self, key: Hashable) -> State:
        """The state of that part before any operation."""
        ...

    def step(self, state: State, operation: Operation, result: Result) -> Sequence[State]:
        """The possible states after the operation gave this result; empty if it cannot give it here."""
        ...

    def step_open(self, state: State, operation: Operation) -> Sequence[State]:
        """The possible states after the operation took effect with a result that nobody knows."""
        ...

    def only_observes(self, operation: Operation, result: Result) -> bool:
        """True if the operation with this result leaves *every* state as it is.

        Such an operation can be put into the order as soon as its result fits, without a second thought.
        """
        ...

    def mentions(self, operation: Operation, result: Result | None) -> frozenset[Hashable]:
        """The values by which a person finds the other operations that explain this one (None: no result)."""
        ...

    def reduction(
        self, returned: Sequence[Call[Operation, Result]], unknown: Sequence[Call[Operation, Result]]
    ) -> Reduction[State, Operation]:
        """What may be forgotten in this history of one key; `returned` is in the order of positions."""
        ...


@attrs.frozen
class Counterexample(Generic[Operation, Result]):
    """Why a history is not linearizable: the shortest prefix of one key's history that has no order."""

    key: Hashable
    prefix: tuple[Call[Operation, Result], ...]
    """The key's calls invoked up to the return that cannot be explained, by time of invocation."""
    failing: Call[Operation, Result]
    """The call at whose return every attempt ended."""
    possible: tuple[str, ...]
    """The states that the key could be in before the last return, as text."""
    related: frozenset[int]
    """Numbers of the calls in the prefix that mention something that the failing one mentions."""

    def __str__(self) -> str:
        lines = [
            f"key {self.key!r}: no order of its operations explains every result up to time {_end(self.failing)};",
            f"the result marked → fits none of the values that the key could hold by then: {', '.join(self.possible)}.",
        ]
        numbers = [call.number for call in self.prefix]
        shown = {self.failing.number, *numbers}
        if len(numbers) > LINES_SHOWN:
            related = [number for number in numbers if number in self.related]
            shown = {self.failing.number, *numbers[-LINES_SHOWN // 2 :], *related[-LINES_SHOWN // 2 :]}
        left_out = 0
        for call in self.prefix:
            if call.number not in shown:
                left_out += 1
                continue
            if left_out:
                lines.append(f"      … {left_out} operations left out …")
                left_out = 0
            lines.append(f"  {'→' if call is self.failing else ' '} {call}")
        return "\n".join(lines)


@attrs.frozen
class Verdict(Generic[Operation, Result]):
    """The answer of the checker."""

    linearizable: bool
    operations: int
    keys: int
    counterexample: Counterexample[Operation, Result] | None = None

    def __str__(self) -> str:
        if self.counterexample is None:
            return f"linearizable: {self.operations} operations on {self.keys} keys"
        return f"not linearizable\n{self.counterexample}"


class SearchTooLarge(Exception):
    """The search looked at more configurations than it was allowed to: neither answer is known."""


def check(
    model: Model[State, Operation, Result],
    calls: Iterable[Call[Operation, Result]],
    *,
    configurations_max: int | None = None,
) -> Verdict[Operation, Result]:
    """Whether the calls are linearizable under the model, key by key, with a counterexample if not.

    The question is NP-complete, so a history with very many concurrent writes of one key can take very long;
    `configurations_max` bounds the work for each key, and SearchTooLarge is raised beyond it.
    """
    by_key: dict[Hashable, list[Call[Operation, Result]]] = {}
    operations = 0
    for call in calls:
        operations += 1
        by_key.setdefault(model.key(call.operation), []).append(call)
    for key, own in by_key.items():
        found = _check_key(model, key, own, configurations_max)
        if found is not None:
            return Verdict(False, operations, len(by_key), found)
    return Verdict(True, operations, len(by_key))


def _check_key(
    model: Model[State, Operation, Result],
    key: Hashable,
    calls: Sequence[Call[Operation, Result]],
    configurations_max: int | None,
) -> Counterexample[Operation, Result] | None:
    patience = PATIENCE * (len(calls) + PATIENCE)
    if any(call.reply is None for call in calls) and (configurations_max is None or patience < configurations_max):
        try:
            return _Search(model, key, calls, patience).run()
        except SearchTooLarge:
            found = _Search(model, key, calls, configurations_max, counting=False).run()
            if found is not None:
                return found
    return _Search(model, key, calls, configurations_max).run()


# How often each class of open operations has been used: (class, count) sorted by class, counts above 0 only.
_Used = tuple[tuple[int, int], ...]


def _no_more_used(few: _Used, many: _Used) -> bool:
    """True if `few` uses no class of open operations more often than `many` does."""
    if not few:
        return True
    counts = dict(many)
    return all(counts.get(kind, 0) >= count for kind, count in few)


def _use(used: _Used, kind: int) -> _Used:
    counts = dict(used)
    counts[kind] = counts.get(kind, 0) + 1
    return tuple(sorted(counts.items()))


@attrs.frozen
class _Pending(Generic[Operation, Result]):
    """A call that will return, while it is pending; `bit` stands for it in the masks of configurations."""

    bit: int
    operation: Operation
    result: Result


@attrs.frozen
class _Position(Generic[Operation, Result]):
    """All that the search must know about one return."""

    returning: _Pending[Operation, Result]
    writers: tuple[_Pending[Operation, Result], ...]
    """The other pending calls that may change the state."""
    observers: tuple[_Pending[Operation, Result], ...]
    """The pending calls that only observe, the returning one among them if it does."""
    unknown: tuple[tuple[int, Operation, int], ...]
    """Open calls by class: the class, what it does, how many have been invoked."""
    merged: dict[int, int | None] | None
    """How classes of the previous position are renamed here, None where they can be forgotten."""


class _Search(Generic[State, Operation, Result]):
    """The search over one key's history."""

    def __init__(
        self,
        model: Model[State, Operation, Result],
        key: Hashable,
        calls: Sequence[Call[Operation, Result]],
        configurations_max: int | None,
        *,
        counting: bool = True,
    ) -> None:
        self._model = model
        self._key = key
        self._calls = sorted(calls, key=lambda call: (call.invoked, call.number))
        self._returned = sorted(
            (call for call in calls if call.reply is not None), key=lambda call: (_end(call), call.number)
        )
        unknown = [call for call in self._calls if call.reply is None]
        self._reduction = model.reduction(self._returned, unknown)
        # Classes of open operations that are used without being counted.
        self._uncounted: set[int] = set()
        self._positions = self._lay_out(counting)
        self._left = configurations_max
        # For (position, mask, state): the smallest uses of open operations with which it was explored.
        self._seen: dict[tuple[int, int, State], list[_Used]] = {}

    def _lay_out(self, counting: bool) -> list[_Position[Operation, Result]]:
        """Walks once through time and notes, for each return, what is pending then."""
        changes = frozenset(self._reduction.changes())
        classes: dict[Operation, int] = {}
        counts: dict[Operation, int] = {}
        unknown: tuple[tuple[int, Operation, int], ...] = ()
        pending: dict[int, tuple[_Pending[Operation, Result], bool]] = {}
        bits_used = 0
        upcoming = 0
        positions: list[_Position[Operation, Result]] = []
        for position, returning in enumerate(self._returned):
            stale = False
            merged: dict[int, int | None] | None = None
            if position in changes and counts:
                merged = {}
                renamed: dict[Operation, int] = {}
                for operation, count in counts.items():
                    view = self._reduction.operation(operation, position)
                    if view is not None:
                        renamed[view] = renamed.get(view, 0) + count
                    merged[classes[operation]] = None if view is None else classes.setdefault(view, len(classes))
                counts = renamed
                stale = True
            # "Not later than" and not "before": calls at the same time are concurrent.
            while upcoming < len(self._calls) and self._calls[upcoming].invoked <= _end(returning):
                call = self._calls[upcoming]
                upcoming += 1
                if call.reply is None:
                    view = self._reduction.operation(call.operation, position)
                    if view is not None:
                        classes.setdefault(view, len(classes))
                        counts[view] = counts.get(view, 0) + 1
                        stale = True
                else:
                    bit = ~bits_used & (bits_used + 1)  # the lowest bit that is free, so that masks stay small
                    bits_used |= bit
                    observes = self._model.only_observes(call.operation, call.reply.result)
                    pending[call.number] = (_Pending(bit, call.operation, call.reply.result), observes)
            if stale:
                if not counting:
                    self._uncounted.update(classes[operation] for operation, count in counts.items() if count > 1)
                unknown = tuple((classes[operation], operation, count) for operation, count in counts.items())
            own, _ = pending[returning.number]
            positions.append(
                _Position(
                    own,
                    tuple(other for other, observes in pending.values() if not observes and other is not own),
                    tuple(other for other, observes in pending.values() if observes),
                    unknown,
                    merged,
                )
            )
            del pending[returning.number]
            bits_used &= ~own.bit
        return positions

    def run(self) -> Counterexample[Operation, Result] | None:
        """None if the history has an order."""
        positions = self._positions
        furthest = -1
        possible: dict[State, None] = {}
        start = self._reduction.state(self._model.initial(self._key), 0)
        stack: list[Iterator[tuple[int, int, State, _Used]]] = [iter([(0, 0, start, ())])]
        while stack:
            configuration = next(stack[-1], None)
            if configuration is None:
                stack.pop()
                continue
            position, mask, state, used = configuration
            while position < len(positions):
                mask = self._observe(position, mask, state)
                bit = positions[position].returning.bit
                if not mask & bit:
                    break
                position, mask = position + 1, mask & ~bit
                if position < len(positions):
                    state, used = self._enter(position, state, used)
            if position == len(positions):
                return None
            if position > furthest:
                furthest = position
                possible = {}
            if position == furthest:
                possible[state] = None
            if self._is_new(position, mask, state, used):
                stack.append(self._next_returns(position, mask, state, used))
        return self._explain(furthest, possible)

    def _next_returns(
        self, position: int, mask: int, state: State, used: _Used
    ) -> Iterator[tuple[int, int, State, _Used]]:
        """All ways to have the returning call in the order, those that use the fewest other calls first.

        Lazy: the next way is looked for only when all that follows from the previous one has failed.
        """
        here = self._positions[position]
        step = self._model.step
        step_open = self._model.step_open
        view = self._reduction.state
        last = position + 1 == len(self._positions)
        # Configurations before the return that are explored; grows while it is walked.
        queue: list[tuple[int, State, _Used]] = [(mask, state, used)]
        for mask, state, used in queue:
            if mask & here.returning.bit:
                # The returning call only observes, and what was put before it has made it fit.
                yield (position, mask, state, used)
                continue
            for after in step(state, here.returning.operation, here.returning.result):
                if last:
                    yield (position + 1, mask, after, used)
                else:
                    yield (position + 1, mask, *self._enter(position + 1, after, used))
            for other in here.writers:
                if mask & other.bit:
                    continue
                for after in step(state, other.operation, other.result):
                    seen_after = view(after, position)
                    more = self._observe(position, mask | other.bit, seen_after)
                    if more & here.returning.bit or self._is_new(position, more, seen_after, used):
                        queue.append((more, seen_after, used))
            if here.unknown:
                counts = dict(used)
                for kind, operation, available in here.unknown:
                    uncounted = kind in self._uncounted
                    if not uncounted and counts.get(kind, 0) >= available:
                        continue
                    for after in step_open(state, operation):
                        seen_after = view(after, position)
                        if seen_after == state:
                            continue  # used for nothing
                        more = self._observe(position, mask, seen_after)
                        spent = used if uncounted else _use(used, kind)
                        if more & here.returning.bit or self._is_new(position, more, seen_after, spent):
                            queue.append((more, seen_after, spent))

    def _observe(self, position: int, mask: int, state: State) -> int:
        """Puts every pending call that only observes, and fits, into the order: it can do no harm."""
        for observer in self._positions[position].observers:
            if not mask & observer.bit and self._model.step(state, observer.operation, observer.result):
                mask |= observer.bit
        return mask

    def _enter(self, position: int, state: State, used: _Used) -> tuple[State, _Used]:
        """The configuration as it is seen from this position on."""
        merged = self._positions[position].merged
        if merged and used:
            counts: dict[int, int] = {}
            for kind, count in used:
                renamed = merged[kind]
                if renamed is not None and renamed not in self._uncounted:
                    counts[renamed] = counts.get(renamed, 0) + count
            used = tuple(sorted(counts.items()))
        return self._reduction.state(state, position), used

    def _is_new(self, position: int, mask: int, state: State, used: _Used) -> bool:
        """False if this configuration, or one that can do no less, is explored already or will be."""
        key = (position, mask, state)
        known = self._seen.get(key)
        if known is None:
            self._seen[key] = [used]
        else:
            if any(_no_more_used(few, used) for few in known):
                return False
            known[:] = [other for other in known if not _no_more_used(used, other)]
            known.append(used)
        if self._left is not None:
            if self._left == 0:
                raise SearchTooLarge(f"key {self._key!r}: too many configurations of {len(self._calls)} calls")
            self._left -= 1
        return True

    def _explain(self, furthest: int, possible: Iterable[State]) -> Counterexample[Operation, Result]:
        failing = self._returned[furthest]
        prefix = tuple(call for call in self._calls if call.invoked <= _end(failing))
        sought = self._mentions(failing)
        related = frozenset(call.number for call in prefix if sought & self._mentions(call))
        return Counterexample(self._key, prefix, failing, tuple(sorted(map(repr, possible))), related)

    def _mentions(self, call: Call[Operation, Result]) -> frozenset[Hashable]:
        return self._model.mentions(call.operation, None if call.reply is None else call.reply.result)


def _end(call: Call[Operation, Result]) -> int:
    assert call.reply is not None
    return call.reply.time
