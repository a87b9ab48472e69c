"""Readable traces: every input and effect of a machine as one line of text.

A trace is for people and for golden tests: it is the same in every run, on every machine. Long byte strings are
shown by their first bytes, secrets never (SAFETY rule 20): `DrawSecret` shows its key alone, what was drawn does not
pass here, and a field that holds a secret says ``attrs.field(repr=False)``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from enum import Enum
from typing import Any, Final, cast

import attrs

from bftkit.core.machine import (
    Blame,
    Broadcast,
    CancelTimer,
    Deliver,
    Draw,
    DrawSecret,
    Effect,
    MemberId,
    Out,
    Persist,
    Send,
    SetTimer,
)
from bftkit.core.state import is_shared

_TEXT_MAX: Final = 64
"""So many characters of a text are shown."""


def describe(value: object) -> str:
    """A value in one short line, the same in every run.

    Bytes are shown by their first four, texts by their first 64 characters with anything unprintable escaped (a
    peer's text cannot forge a line), attrs objects by their fields. Fields that are `SHARED` or have ``repr=False``
    (keys, secrets) are left out, and so is the inside of an object that says nothing of itself.
    """
    match value:
        case bytes() | bytearray():
            return bytes(value).hex() if len(value) <= 4 else f"{bytes(value[:4]).hex()}…{len(value)}"
        case str():
            text = value if len(value) <= _TEXT_MAX else f"{value[:_TEXT_MAX]}…{len(value)}"
            return text if text.isprintable() else ascii(text)[1:-1]
        case Enum():
            return value.name
        case tuple() | list() | deque():
            return "(" + ", ".join(describe(item) for item in cast("Collection[object]", value)) + ")"
        case set() | frozenset():
            return "{" + ", ".join(sorted(describe(item) for item in cast("Collection[object]", value))) + "}"
        case dict():
            table = cast("dict[object, object]", value)
            return "{" + ", ".join(f"{describe(key)}: {describe(item)}" for key, item in table.items()) + "}"
        case None | bool() | int() | float():
            return repr(value)
        case _:
            return _describe_object(value)


def _describe_object(value: object) -> str:
    cls: type[Any] = type(value)
    # An unknown object's repr may hold anything, an address in memory among it: its class must do.
    if not attrs.has(cls):
        return f"<{cls.__name__}>"
    columns: tuple[attrs.Attribute[Any], ...] = tuple(attrs.fields(cls))
    shown = [column.name for column in columns if column.repr is not False and not is_shared(column)]
    return f"{cls.__name__}({', '.join(f'{name}={describe(getattr(value, name))}' for name in shown)})"


def describe_effect(effect: Effect[Any, Any]) -> str:
    """An effect in one line."""
    match effect:
        case Send(to, message, carry):
            return f"send {','.join(to)} {describe(message)}{_carry(carry)}"
        case Broadcast(message, carry):
            return f"broadcast {describe(message)}{_carry(carry)}"
        case Deliver(output):
            return f"deliver {describe(output)}"
        case Blame(member, fault, proof):
            return f"blame {member} {fault} proof={describe(proof)}"
        case SetTimer(key, ticks):
            return f"timer {describe(key)} in {ticks}"
        case CancelTimer(key):
            return f"cancel {describe(key)}"
        case Draw(key, choices):
            return f"draw {describe(key)} of {choices}"
        case DrawSecret(key):
            return f"draw secret {describe(key)}"
        case Persist(record, slot):
            return f"persist slot={slot} {describe(record)}"


def _carry(carry: Sequence[bytes]) -> str:
    return f" carrying {', '.join(item[:4].hex() for item in carry)}" if carry else ""


@attrs.define
class Trace:
    """Lines of text, one for each input and each effect, in the order in which they happened."""

    lines: list[str] = attrs.field(factory=list[str])

    def input(self, at: int, member: MemberId, event: str, *values: object) -> None:
        """Something came in: at tick `at`, to `member`."""
        text = " ".join(describe(value) for value in values)
        self.lines.append(f"{at:>8} {member:<4} {event} {text}".rstrip())

    def effects(self, out: Out[Any, Any]) -> None:
        """What the machine asked for in answer."""
        self.lines.extend(f"{'':>8} {'':<4}   → {describe_effect(effect)}" for effect in out.effects)

    def text(self) -> str:
        """The whole trace."""
        return "\n".join(self.lines) + "\n"
