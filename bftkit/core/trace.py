"""Readable traces: every input and effect of a machine as one line of text.

A trace is for people and for golden tests. Long byte strings are shown by their first bytes, secrets never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

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


def describe(value: object) -> str:
    """A value in one short line: bytes by their first four, attrs objects by their fields."""
    match value:
        case bytes():
            return value.hex() if len(value) <= 4 else f"{value[:4].hex()}…{len(value)}"
        case tuple() | list():
            return "(" + ", ".join(describe(item) for item in cast("Sequence[object]", value)) + ")"
        case dict():
            table = cast("dict[object, object]", value)
            return "{" + ", ".join(f"{describe(key)}: {describe(item)}" for key, item in table.items()) + "}"
        case str():
            return value
        case _ if attrs.has(type(value)):
            fields = attrs.fields(type(value))
            inner = ", ".join(f"{field.name}={describe(getattr(value, field.name))}" for field in fields)
            return f"{type(value).__name__}({inner})"
        case _:
            return repr(value)


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
