"""Copying and comparing machines: `fork` and `fingerprint`, for the checker, adversaries and tests.

Both walk a machine's state by its structure. Frozen values are shared, everything mutable is copied; a field whose
attrs metadata says ``shared`` (a set-up, a key ring, a codec: things that no step changes) is neither copied nor
hashed. State is restricted to what can be walked in a defined order: attrs classes, dicts, lists, sets, deques and
plain values. Anything else is refused, so that hidden state cannot creep in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from hashlib import blake2b
from typing import Any, Final, TypeVar, cast

import attrs

SHARED: Final[Mapping[str, bool]] = {"bftkit.shared": True}
"""Metadata for a field that no step changes: ``attrs.field(metadata=SHARED)``."""

T = TypeVar("T")

_PLAIN: Final = (int, str, bytes, bool, type(None), float)


class Forkable:
    """Gives a machine `fork` and `fingerprint`. The machine is an attrs class of walkable state."""

    def fork(self: T) -> T:
        """An independent copy: a step of one is not seen by the other."""
        return fork(self)

    def fingerprint(self) -> bytes:
        """32 bytes that two machines share exactly when their states are equal."""
        return fingerprint(self)


def fork(value: T) -> T:
    """A deep copy that shares what cannot change."""
    return cast(T, _copy(value, {}))


def fingerprint(value: object) -> bytes:
    """A digest of the state, independent of the insertion order of dicts and sets and of the hash seed."""
    hasher = blake2b(digest_size=32)
    _feed(value, hasher.update)
    return hasher.digest()


def _is_shared(field: attrs.Attribute[Any]) -> bool:
    return bool(field.metadata.get("bftkit.shared"))


def _copy(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, _PLAIN) or isinstance(value, Enum):
        return value
    known = seen.get(id(value))
    if known is not None:
        return known
    copied: Any
    if isinstance(value, tuple):
        items = cast("tuple[Any, ...]", value)
        copied_items = tuple(_copy(item, seen) for item in items)
        same = all(a is b for a, b in zip(items, copied_items, strict=True))
        return items if same else copied_items
    if isinstance(value, frozenset):
        return cast("frozenset[Any]", value)
    if isinstance(value, dict):
        copied = seen[id(value)] = type(value)()
        for key, item in cast("dict[Any, Any]", value).items():
            copied[key] = _copy(item, seen)
        return copied
    if isinstance(value, list):
        copied = seen[id(value)] = []
        copied.extend(_copy(item, seen) for item in cast("list[Any]", value))
        return copied
    if isinstance(value, deque):
        old = cast("deque[Any]", value)
        copied = seen[id(value)] = deque(maxlen=old.maxlen)
        copied.extend(_copy(item, seen) for item in old)
        return copied
    if isinstance(value, set):
        return set(cast("set[Any]", value))
    if isinstance(value, bytearray):
        return bytearray(value)
    if attrs.has(type(value)):
        fields = attrs.fields(type(value))
        copied = seen[id(value)] = object.__new__(type(value))
        changed = False
        for field in fields:
            old_item = getattr(value, field.name)
            new_item = old_item if _is_shared(field) else _copy(old_item, seen)
            changed = changed or new_item is not old_item
            object.__setattr__(copied, field.name, new_item)
        if not changed and _is_frozen(type(value)):
            seen[id(value)] = value
            return value
        return copied
    raise TypeError(f"{type(value).__qualname__} is not walkable machine state; mark the field shared or change it")


def _is_frozen(cls: type[Any]) -> bool:
    return cls.__setattr__ is not object.__setattr__ and "frozen" in getattr(cls.__setattr__, "__name__", "")


def _feed(value: Any, update: Callable[[bytes], object]) -> None:
    match value:
        case None:
            update(b"N")
        case bool():
            update(b"T" if value else b"F")
        case Enum():
            _feed((type(value).__qualname__, value.name), update)
        case int():
            text = b"%d" % value
            update(b"i%d:" % len(text) + text)
        case float():
            update(b"d" + value.hex().encode())
        case str():
            raw = value.encode()
            update(b"s%d:" % len(raw) + raw)
        case bytes() | bytearray():
            update(b"b%d:" % len(value) + bytes(value))
        case tuple() | list() | deque():
            items = cast("list[Any]", value)
            update(b"l%d:" % len(items))
            for item in items:
                _feed(item, update)
        case set() | frozenset():
            members = cast("set[Any]", value)
            update(b"S%d:" % len(members))
            for print_ in sorted(fingerprint(item) for item in members):
                update(print_)
        case dict():
            table = cast("dict[Any, Any]", value)
            update(b"D%d:" % len(table))
            values = list(table.values())
            for print_, index in sorted((fingerprint(key), index) for index, key in enumerate(table)):
                update(print_)
                _feed(values[index], update)
        case _ if attrs.has(type(value)):
            name = type(value).__qualname__.encode()
            update(b"A%d:" % len(name) + name)
            for field in attrs.fields(type(value)):
                if not _is_shared(field):
                    _feed(getattr(value, field.name), update)
        case _:
            raise TypeError(f"{type(value).__qualname__} is not walkable machine state")
