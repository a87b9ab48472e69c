"""Copying and comparing machines: `fork` and `fingerprint`, for the checker, adversaries and tests.

Both walk a machine's state by its structure. Frozen values are shared, everything mutable is copied; a field whose
attrs metadata says ``shared`` (a set-up, a key ring, a codec: things that no step changes) is neither copied nor
hashed. State is restricted to what can be walked in a defined order: attrs classes, dicts, lists, sets, deques and
plain values. Anything else is refused, so that hidden state cannot creep in: an attribute beside the attrs fields,
a subclass of dict with a life of its own, a bound method that would still point at the machine it was copied from.

An object that walks itself (it has `fork` and `fingerprint` of its own, as a plug-in's machine need not be an attrs
class) is asked to. Values remembered from a computation (`functools.cached_property`, a cached hash) are not state:
a copy computes them anew.

How a class is walked is looked up once a class, in `_WALKS`: one function copies it, one writes it down for the
fingerprint. The types of what is inside are only known by looking, so `Any` stands here as nowhere else in the core.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from functools import cached_property, partial
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Final, Protocol, Self, TypeAlias, TypeVar, cast, runtime_checkable

import attrs

SHARED: Final[Mapping[str, bool]] = {"bftkit.shared": True}
"""Metadata for a field that no step changes: ``attrs.field(metadata=SHARED)``."""

T = TypeVar("T")

_MISSING: Final = object()
"""Stands for a field that has no value yet (``init=False``)."""

_HASH: Final = "_attrs_cached_hash"
"""Where attrs remembers the hash of a class with ``cache_hash=True``."""

Seen: TypeAlias = dict[int, Any]
"""The ids of what was copied, and its copies. All of it is alive meanwhile, so no id is used again."""

Write: TypeAlias = Callable[[bytes], object]
"""Takes the next part of a state that is being written down."""


def is_shared(field: attrs.Attribute[Any]) -> bool:
    """Whether the field is marked `SHARED`."""
    return bool(field.metadata.get("bftkit.shared"))


class Forkable:
    """Gives a machine `fork` and `fingerprint`. The machine is an attrs class of walkable state."""

    # Without this every machine would have a __dict__, in which attributes can hide.
    __slots__ = ()

    def fork(self) -> Self:
        """An independent copy: a step of one is not seen by the other."""
        return fork(self)

    def fingerprint(self) -> bytes:
        """32 bytes that two machines share exactly when their states are equal."""
        return fingerprint(self)


@runtime_checkable
class _Walker(Protocol):
    """What walks itself."""

    def fork(self) -> Any: ...

    def fingerprint(self) -> bytes: ...


def fork(value: T) -> T:
    """A deep copy that shares what cannot change. What was one object twice is one object twice in the copy.

    Raises `TypeError` for state that cannot be walked.
    """
    return cast(T, _copy(value, {}))


def fingerprint(value: object) -> bytes:
    """A digest of the state, independent of the insertion order of dicts and sets and of the hash seed.

    Equal states have equal fingerprints; 1, True, "1" and b"1" are four different states. Raises `TypeError` for
    state that cannot be walked, and `RecursionError` for state that contains itself: it has no end to hash.
    """
    return blake2b(_written(value), digest_size=32).digest()


# ------------------------------------------------------------------------------------------------- the walks


@attrs.frozen
class _Walk:
    """How the values of one class are copied and written."""

    copy: Callable[[Any, Seen], Any]
    write: Callable[[Any, Write], None]


class _Walks(dict[type[Any], _Walk]):
    """The walk of every class that was met so far; a new one is worked out at its first value."""

    def __missing__(self, cls: type[Any]) -> _Walk:
        if issubclass(cls, Enum):
            walk = _Walk(_same, _write_enum)
        elif attrs.has(cls):
            shape = _Shape.of(cls)
            walk = _Walk(partial(_copy_frozen if shape.frozen else _copy_attrs, shape), partial(_write_attrs, shape))
        elif hasattr(cls, "_fields") and issubclass(cls, tuple):
            walk = _Walk(_copy_named_tuple, _write_tuple)
        elif issubclass(cls, _Walker) and not issubclass(cls, type):
            walk = _Walk(_copy_walker, _write_walker)
        else:
            raise TypeError(f"{cls.__qualname__} is not walkable machine state; mark the field shared or change it")
        self[cls] = walk
        return walk


def _copy(value: Any, seen: Seen) -> Any:
    return _WALKS[type(value)].copy(value, seen)


def _write(value: Any, write: Write) -> None:
    """Write the state as bytes that name it: every value says its kind and its length before its content."""
    _WALKS[type(value)].write(value, write)


def _written(value: Any) -> bytes:
    parts: list[bytes] = []
    _write(value, parts.append)
    return b"".join(parts)


# ------------------------------------------------------------------------------------------------- plain values


def _same(value: Any, seen: Seen) -> Any:
    """The copy of what cannot change."""
    return value


def _copy_bytearray(value: bytearray, seen: Seen) -> bytearray:
    if id(value) not in seen:
        seen[id(value)] = bytearray(value)
    return cast(bytearray, seen[id(value)])


def _write_none(value: None, write: Write) -> None:
    write(b"N")


def _write_bool(value: bool, write: Write) -> None:
    write(b"T" if value else b"F")


def _write_int(value: int, write: Write) -> None:
    # In base 16: Python refuses to write very large numbers in base 10, and a bitmap is a very large number.
    write(b"i%x:" % value)


def _write_float(value: float, write: Write) -> None:
    write(b"d%s:" % value.hex().encode())


def _write_str(value: str, write: Write) -> None:
    raw = value.encode("utf-8", "surrogatepass")
    write(b"s%d:" % len(raw))
    write(raw)


def _write_bytes(value: bytes, write: Write) -> None:
    write(b"b%d:" % len(value))
    write(value)


def _write_bytearray(value: bytearray, write: Write) -> None:
    write(b"B%d:" % len(value))
    write(bytes(value))


def _write_enum(value: Enum, write: Write) -> None:
    name = f"{type(value).__module__}.{type(value).__qualname__}.{value.name}".encode()
    write(b"E%d:" % len(name))
    write(name)


# ------------------------------------------------------------------------------------------------- containers


def _copy_immutable(value: Collection[Any], seen: Seen, make: Callable[[list[Any]], Any]) -> Any:
    """The copy of a tuple or frozenset: itself, unless something mutable is inside."""
    key = id(value)
    if key in seen:
        return seen[key]
    items = [_copy(item, seen) for item in value]
    # A list inside may have led back here: then the copy is made already.
    if key not in seen:
        seen[key] = value if all(new is old for new, old in zip(items, value, strict=True)) else make(items)
    return seen[key]


def _copy_tuple(value: tuple[Any, ...], seen: Seen) -> Any:
    return _copy_immutable(value, seen, tuple)


def _copy_frozenset(value: frozenset[Any], seen: Seen) -> Any:
    return _copy_immutable(value, seen, frozenset)


def _copy_named_tuple(value: Any, seen: Seen) -> Any:
    return _copy_immutable(value, seen, value._make)


def _copy_list(value: list[Any], seen: Seen) -> Any:
    if id(value) in seen:
        return seen[id(value)]
    copied: list[Any] = []
    seen[id(value)] = copied
    copied.extend([_copy(item, seen) for item in value])
    return copied


def _copy_deque(value: deque[Any], seen: Seen) -> Any:
    if id(value) in seen:
        return seen[id(value)]
    copied: deque[Any] = deque(maxlen=value.maxlen)
    seen[id(value)] = copied
    copied.extend([_copy(item, seen) for item in value])
    return copied


def _copy_set(value: set[Any], seen: Seen) -> Any:
    if id(value) in seen:
        return seen[id(value)]
    copied: set[Any] = set()
    seen[id(value)] = copied
    # The members too: a set can hold mutable objects that are equal by identity.
    copied.update([_copy(item, seen) for item in value])
    return copied


def _copy_dict(value: dict[Any, Any], seen: Seen) -> Any:
    return _copy_table(value, seen, {})


def _copy_ordered_dict(value: OrderedDict[Any, Any], seen: Seen) -> Any:
    return _copy_table(value, seen, OrderedDict[Any, Any]())


def _copy_counter(value: Counter[Any], seen: Seen) -> Any:
    return _copy_table(value, seen, Counter[Any]())


def _copy_defaultdict(value: defaultdict[Any, Any], seen: Seen) -> Any:
    return _copy_table(value, seen, defaultdict(value.default_factory))


def _copy_table(value: dict[Any, Any], seen: Seen, copied: dict[Any, Any]) -> Any:
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = copied
    for key, item in value.items():
        copied[_copy(key, seen)] = _copy(item, seen)
    return copied


def _write_items(items: Collection[Any], write: Write) -> None:
    write(b"%d:" % len(items))
    for item in items:
        _write(item, write)


def _write_tuple(value: tuple[Any, ...], write: Write) -> None:
    write(b"t")
    _write_items(value, write)


def _write_list(value: list[Any], write: Write) -> None:
    write(b"l")
    _write_items(value, write)


def _write_deque(value: deque[Any], write: Write) -> None:
    write(b"q%d," % (-1 if value.maxlen is None else value.maxlen))
    _write_items(value, write)


def _write_set(value: Collection[Any], write: Write) -> None:
    write(b"S%d:" % len(value))
    for text in sorted([_written(item) for item in value]):
        write(text)


def _write_table(value: dict[Any, Any], write: Write) -> None:
    write(b"D%d:" % len(value))
    # No two keys are written alike, so that the keys alone give the order.
    for text, item in sorted([(_written(key), item) for key, item in value.items()], key=itemgetter(0)):
        write(text)
        _write(item, write)


def _write_ordered_dict(value: OrderedDict[Any, Any], write: Write) -> None:
    write(b"O")
    _write_items(list(value.items()), write)


# ------------------------------------------------------------------------------------------------- objects


@attrs.frozen
class _Shape:
    """What the walk must know of an attrs class."""

    title: bytes
    """The class's name, as it stands in front of its fields in the bytes of a fingerprint."""
    names: tuple[str, ...]
    """All fields, in order."""
    shared: frozenset[str]
    frozen: bool
    remembered: frozenset[str]
    """Attributes beside the fields that are no state: computed from it and remembered."""

    @classmethod
    def of(cls, walked: type[Any]) -> _Shape:
        fields: tuple[attrs.Attribute[Any], ...] = tuple(attrs.fields(walked))
        name = f"{walked.__module__}.{walked.__qualname__}".encode()
        cached = {name for base in walked.__mro__ for name, item in vars(base).items() if type(item) is cached_property}
        return cls(
            title=b"A%d:%s%d:" % (len(name), name, len(fields)),
            names=tuple(field.name for field in fields),
            shared=frozenset(field.name for field in fields if is_shared(field)),
            # attrs gives a frozen class this method. To miss one costs a copy, never a wrong result.
            frozen=getattr(walked.__setattr__, "__name__", "") == "_frozen_setattrs",
            # A generic class leaves its type argument on its instances.
            remembered=frozenset({_HASH, "__orig_class__", *cached}),
        )

    def refuse_hidden(self, value: object) -> None:
        """Raise `TypeError` if the value has attributes beside its fields."""
        hidden: Mapping[str, object] = getattr(value, "__dict__", {})
        for name in sorted(hidden):
            if name not in self.names and name not in self.remembered:
                raise TypeError(f"{type(value).__qualname__}.{name} is hidden state: it is no attrs field")

    def values(self, value: object, seen: Seen) -> list[Any]:
        """The copies of all fields, in order."""
        self.refuse_hidden(value)
        olds = [(name, getattr(value, name, _MISSING)) for name in self.names]
        return [old if old is _MISSING or name in self.shared else _copy(old, seen) for name, old in olds]

    def fill(self, copied: object, value: object, values: Iterable[object]) -> None:
        """Give a bare copy its fields."""
        for name, item in zip(self.names, values, strict=True):
            if item is not _MISSING:
                object.__setattr__(copied, name, item)
        if hasattr(value, _HASH):
            object.__setattr__(copied, _HASH, None)


def _copy_attrs(shape: _Shape, value: object, seen: Seen) -> Any:
    key = id(value)
    if key not in seen:
        copied = seen[key] = object.__new__(type(value))
        shape.fill(copied, value, shape.values(value, seen))
    return seen[key]


def _copy_frozen(shape: _Shape, value: object, seen: Seen) -> Any:
    key = id(value)
    if key in seen:
        return seen[key]
    values = shape.values(value, seen)
    # As for tuples: something mutable inside may have led back here.
    if key in seen:
        return seen[key]
    if all(new is getattr(value, name, _MISSING) for name, new in zip(shape.names, values, strict=True)):
        seen[key] = value
        return value
    copied = seen[key] = object.__new__(type(value))
    shape.fill(copied, value, values)
    return copied


def _write_attrs(shape: _Shape, value: object, write: Write) -> None:
    shape.refuse_hidden(value)
    write(shape.title)
    for name in shape.names:
        if name not in shape.shared:
            item = getattr(value, name, _MISSING)
            if item is _MISSING:
                write(b"U")
            else:
                _write(item, write)


def _copy_walker(value: _Walker, seen: Seen) -> Any:
    if id(value) not in seen:
        seen[id(value)] = value.fork()
    return seen[id(value)]


def _write_walker(value: _Walker, write: Write) -> None:
    text = value.fingerprint()
    write(b"W%d:" % len(text))
    write(text)


_WALKS: Final = _Walks(
    {
        type(None): _Walk(_same, _write_none),
        bool: _Walk(_same, _write_bool),
        int: _Walk(_same, _write_int),
        float: _Walk(_same, _write_float),
        str: _Walk(_same, _write_str),
        bytes: _Walk(_same, _write_bytes),
        bytearray: _Walk(_copy_bytearray, _write_bytearray),
        tuple: _Walk(_copy_tuple, _write_tuple),
        list: _Walk(_copy_list, _write_list),
        deque: _Walk(_copy_deque, _write_deque),
        set: _Walk(_copy_set, _write_set),
        frozenset: _Walk(_copy_frozenset, _write_set),
        dict: _Walk(_copy_dict, _write_table),
        defaultdict: _Walk(_copy_defaultdict, _write_table),
        Counter: _Walk(_copy_counter, _write_table),
        OrderedDict: _Walk(_copy_ordered_dict, _write_ordered_dict),
    }
)
