"""A service with operations that fail in unpleasant ways, half-way through their changes."""

from __future__ import annotations

from bftkit.channel.application import Context
from bftkit.service import StateMachine


class Poison(StateMachine):
    """Counts; every other operation is poison."""

    def __init__(self) -> None:
        self.value = 0
        self.names: list[str] = []

    def apply(self, operation: bytes, context: Context) -> bytes:
        """`add` counts; the rest change the state and then fail."""
        self.value += 1
        self.names.append(operation.decode("latin-1"))
        if operation == b"add":
            return b"%d" % self.value
        if operation == b"deep":
            return self.apply(operation, context)
        if operation == b"none":
            return None  # type: ignore[return-value]
        if operation == b"zero":
            return b"%d" % (1 // 0)
        raise SystemError("poison")

    def read(self, operation: bytes) -> bytes:
        """The count."""
        return b"%d" % self.value
