"""What clients did and what they were told: the raw material of the linearizability checker.

A client *invokes* an operation and one of four things follows.

`ok(result)`
    The reply came. The operation took effect exactly once, somewhere between invocation and reply.
`info`
    The outcome is unknown (a timeout, a killed client). The operation may take effect at any moment after its
    invocation, for ever, or never. An operation that simply never completes counts the same.
`fail`
    It certainly did not take effect and never will. It is left out of the history.

Times are integers of any one monotone clock that all recorders share. Two events at the same time count as
concurrent: a tie never orders anything, so that a coarse clock cannot make a correct service look wrong.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import attrs

Operation = TypeVar("Operation")
Result = TypeVar("Result")


@attrs.frozen
class Reply(Generic[Result]):
    """What came back, and when."""

    time: int
    result: Result


@attrs.frozen
class Call(Generic[Operation, Result]):
    """One operation of one client. Without a reply its outcome is unknown: it stays open for ever."""

    number: int
    """Its place in the order of recording; names the call."""
    client: str
    operation: Operation
    invoked: int
    reply: Reply[Result] | None = None

    def __str__(self) -> str:
        if self.reply is None:
            return f"[{self.invoked}, …] {self.client}: {self.operation} → unknown"
        return f"[{self.invoked}, {self.reply.time}] {self.client}: {self.operation} → {self.reply.result!r}"


class History(Generic[Operation, Result]):
    """Records calls as they happen, in any order, for any number of clients.

    A client may have many calls outstanding; each is named by the number that `invoke` returns.
    """

    def __init__(self) -> None:
        self._open: dict[int, Call[Operation, Result]] = {}
        self._settled: dict[int, Call[Operation, Result] | None] = {}
        self._next = 0

    def invoke(self, client: str, operation: Operation, time: int) -> int:
        """The client sends the operation for the first time. Returns the number of the call."""
        number = self._next
        self._next += 1
        self._open[number] = Call(number, client, operation, time)
        return number

    def ok(self, call: int, result: Result, time: int) -> None:
        """The client accepted this result. Raises ValueError if the call is settled or the time runs back."""
        pending = self._pending(call)
        if time < pending.invoked:
            raise ValueError(f"call {call} was invoked at {pending.invoked} and cannot return at {time}")
        del self._open[call]
        self._settled[call] = attrs.evolve(pending, reply=Reply(time, result))

    def info(self, call: int) -> None:
        """The client gave up waiting: the outcome is unknown. Raises ValueError if the call is settled."""
        self._settled[call] = self._pending(call)
        del self._open[call]

    def fail(self, call: int) -> None:
        """The operation certainly never takes effect. Raises ValueError if the call is settled."""
        self._pending(call)
        del self._open[call]
        self._settled[call] = None

    def calls(self) -> tuple[Call[Operation, Result], ...]:
        """Every call that may have taken effect, in the order of recording; still pending ones are open."""
        found = [*self._open.values(), *(call for call in self._settled.values() if call is not None)]
        return tuple(sorted(found, key=lambda call: call.number))

    def __len__(self) -> int:
        return self._next

    def _pending(self, call: int) -> Call[Operation, Result]:
        pending = self._open.get(call)
        if pending is None:
            known = "has been settled already" if call in self._settled else "was never invoked"
            raise ValueError(f"call {call} {known}")
        return pending
