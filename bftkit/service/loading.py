"""A service is looked at before it runs: whatever is wrong with the class is said now and not in the middle of work."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, cast

from bftkit.channel.application import Application, Context
from bftkit.service.state_machine import StateMachine

_CALLS: Final[tuple[tuple[str, tuple[object, ...], str], ...]] = (
    ("apply", (b"", Context(b"")), "apply(self, operation, context)"),
    ("read", (b"",), "read(self, operation)"),
    ("snapshot", (), "snapshot(self)"),
    ("restore", ((),), "restore(self, chunks)"),
    ("mark", (), "mark(self)"),
    ("undo", (None,), "undo(self, mark)"),
)


class ServiceError(Exception):
    """A class that cannot be a service, and why, in words for whoever wrote it."""


def checked_service(factory: object, name: str = "") -> Application:
    """An instance of a service's class, if it can be one. Raises `ServiceError`.

    Two instances are made: their states must be equal (all members begin with the same), and the one must be able
    to restore the other's snapshot.
    """
    name = name or getattr(factory, "__qualname__", repr(factory))
    if not callable(factory):
        raise ServiceError(f"{name} is no class but a {type(factory).__name__}")
    make = cast("Callable[[], Any]", factory)
    first = _made(make, name)
    _check_methods(first, name)
    _check_slots(first, name)
    try:
        chunks, leaves = _chunks(first)
    except Exception as error:
        raise ServiceError(f"{name} has no snapshot in the beginning: {type(error).__name__}: {error}") from error
    second = _made(make, name)
    if _chunks(second)[1] != leaves:
        raise ServiceError(
            f"two new instances of {name} differ: __init__ must do the same on every member, so no time, no random "
            "numbers and nothing of this machine"
        )
    try:
        second.restore(chunks)
        again = _chunks(second)[1]
    except Exception as error:
        raise ServiceError(f"{name} does not restore its own snapshot: {type(error).__name__}: {error}") from error
    if again != leaves:
        raise ServiceError(f"{name} does not restore its own snapshot: the state is another one afterwards")
    return first


def _made(make: Callable[[], Any], name: str) -> Application:
    try:
        return cast(Application, make())
    except Exception as error:
        raise ServiceError(
            f"{name}() failed (a service is made without arguments): {type(error).__name__}: {error}"
        ) from error


def _check_methods(service: object, name: str) -> None:
    for method, arguments, wanted in _CALLS:
        found = getattr(service, method, None)
        if not callable(found):
            raise ServiceError(f"{name} has no {wanted}; derive the class from bftkit.service.StateMachine")
        if inspect.iscoroutinefunction(found):
            raise ServiceError(f"{name}.{method} must be an ordinary function, not an async one")
        try:
            inspect.signature(found).bind(*arguments)
        except TypeError as error:
            raise ServiceError(f"{name} must have {wanted}: {error}") from None
    if isinstance(service, StateMachine):
        kind = type(service)
        if (kind.snapshot is StateMachine.snapshot) != (kind.restore is StateMachine.restore):
            raise ServiceError(f"{name} must override both snapshot and restore, or neither")
        if (kind.mark is StateMachine.mark) != (kind.undo is StateMachine.undo):
            raise ServiceError(f"{name} must override both mark and undo, or neither")


def _check_slots(service: object, name: str) -> None:
    """What stands in slots is not among the attributes that a snapshot takes."""
    if not isinstance(service, StateMachine):
        return
    kind = type(service)
    if kind.snapshot is not StateMachine.snapshot and kind.mark is not StateMachine.mark:
        return
    for base in kind.__mro__:
        if base is StateMachine:
            break
        slots: object = base.__dict__.get("__slots__", ())
        names = {slots} if isinstance(slots, str) else set(cast("tuple[str, ...]", slots))
        if names - {"__dict__", "__weakref__"}:
            raise ServiceError(
                f"{name} keeps attributes in __slots__, where snapshots do not find them; with attrs use "
                "@attrs.define(slots=False)"
            )


def _chunks(service: Application) -> tuple[list[bytes], list[bytes]]:
    view = service.snapshot()
    places = range(view.count)
    return [view.chunk(place) for place in places], [view.leaf(place) for place in places]
