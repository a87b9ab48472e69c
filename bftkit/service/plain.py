"""Plain data as canonical bytes, and copies of it: what a `StateMachine` keeps in ordinary attributes.

Plain are None, bool, int, str and bytes, and tuples, lists, dictionaries, sets and frozen sets of them. The same
values give the same bytes on every member and in every process:

- the order of a dictionary is part of its value. It is visible to whoever walks through it, so a member that restored
  a snapshot must walk in the same order as one that has executed everything;
- the order of a set is not: it differs from process to process. Sort a set before you walk through it;
- types are kept apart (True is not 1, a tuple is no list), and integers may be of any size;
- nothing mutable may stand in two places. A restored member would have two copies where the others have one thing.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from typing import Any, Final, cast

from bftkit.core.wire import WireError, pack_plain, unpack_plain

DEPTH_MAX: Final = 64
"""How deep containers may be nested: the same bound everywhere, however deep the stack already is."""

_SMALL: Final = 1 << 63
_LIST, _TUPLE, _DICT, _SET, _FROZENSET, _BIG = range(6)

SCALARS: Final[frozenset[type]] = frozenset((type(None), bool, int, str, bytes))
"""The types that nothing can change and that hold nothing else."""

_FIXED: Final[frozenset[type]] = frozenset((tuple, frozenset))
_CONTAINERS: Final[frozenset[type]] = _FIXED | {list, dict, set}


class NotPlain(TypeError):
    """A value that has no canonical bytes; `path` says where it stands in the whole, e.g. ``['a'][3]``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


def pack_state(value: object) -> bytes:
    """The value's canonical bytes. Raises `NotPlain`."""
    return pack_plain(plain_of(value))


def unpack_state(data: bytes) -> object:
    """The value of these bytes. Raises `WireError` for anything that `pack_state` would not have made."""
    value = value_of(unpack_plain(data, length_max=len(data)))
    if pack_state(value) != data:
        raise WireError("not the canonical bytes of plain data")
    return value


# ------------------------------------------------------------------------------------------------- to plain lists


def plain_of(value: object, path: str = "", seen: dict[int, str] | None = None) -> object:
    """The value as what `pack_plain` takes: a container becomes a list that begins with its kind.

    `path` names the value in errors. `seen` is shared by calls whose values together must hold nothing mutable twice.
    Raises `NotPlain`.
    """
    return _plain(value, path, {} if seen is None else seen, 0)


def _plain(value: Any, path: str, seen: dict[int, str], depth: int) -> object:
    kind = cast("type[object]", type(value))
    if kind in SCALARS:
        if kind is int and not -_SMALL <= value < _SMALL:
            return [_BIG, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)]
        if kind is str and not _has_bytes(value):
            raise NotPlain(path, "the text holds half of a surrogate pair, which has no bytes")
        return value
    if kind not in _CONTAINERS:
        raise NotPlain(path, f"a value of type {kind.__name__} is no plain data")
    if depth == DEPTH_MAX:
        raise NotPlain(path[:40], f"nested more than {DEPTH_MAX} deep")
    if kind not in _FIXED:
        first = seen.setdefault(id(value), path)
        if first is not path:
            raise NotPlain(
                path, f"the same {kind.__name__} stands in {first or 'the whole'}: keep a copy in one of them"
            )
    depth += 1
    if kind is list or kind is tuple:
        tag = _LIST if kind is list else _TUPLE
        return [tag, *[_plain(item, f"{path}[{number}]", seen, depth) for number, item in enumerate(value)]]
    if kind is dict:
        flat: list[object] = [_DICT]
        for key, item in value.items():
            flat.append(_plain(key, f"a key in {path}", seen, depth))
            flat.append(_plain(item, f"{path}[{key!r}]", seen, depth))
        return flat
    items = [_plain(item, f"an item in {path}", seen, depth) for item in value]
    return [_SET if kind is set else _FROZENSET, *sorted(items, key=pack_plain)]


def is_plain(value: object, seen: set[int], depth: int = 0) -> bool:
    """Whether `plain_of` would take the value, without making anything: for every operation.

    `seen` is shared as there.
    """
    kind = type(value)
    if kind in SCALARS:
        return kind is not str or _has_bytes(cast(str, value))
    if kind not in _CONTAINERS or depth == DEPTH_MAX:
        return False
    if kind not in _FIXED:
        if id(value) in seen:
            return False
        seen.add(id(value))
    items = cast("Collection[object]", value)
    if not _all_plain(items, seen, depth):
        return False
    return kind is not dict or _all_plain(cast("dict[object, object]", value).values(), seen, depth)


def _all_plain(items: Collection[object], seen: set[int], depth: int) -> bool:
    kinds = set(map(type, items))
    if kinds <= SCALARS:
        return str not in kinds or all(_has_bytes(item) for item in items if type(item) is str)
    return all(is_plain(item, seen, depth + 1) for item in items)


def _has_bytes(text: str) -> bool:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


# ------------------------------------------------------------------------------------------------- and back


def value_of(plain: object) -> object:
    """The value that such lists (as tuples) stand for. Raises `WireError`."""
    return _value(plain, 0)


def _value(plain: object, depth: int) -> object:
    if type(plain) is not tuple:
        return plain
    if depth == DEPTH_MAX:
        raise WireError(f"plain data nested more than {DEPTH_MAX} deep")
    parts = cast("tuple[object, ...]", plain)
    if not parts or type(parts[0]) is not int:
        raise WireError("plain data without a kind")
    kind = parts[0]
    items = [_value(part, depth + 1) for part in parts[1:]]
    try:
        if kind == _LIST:
            return items
        if kind == _TUPLE:
            return tuple(items)
        if kind == _DICT:
            return dict(zip(items[::2], items[1::2], strict=True))
        if kind == _SET:
            return set(items)
        if kind == _FROZENSET:
            return frozenset(items)
    except (TypeError, ValueError) as error:
        raise WireError(f"plain data that cannot be: {error}") from None
    if kind == _BIG and len(items) == 1 and type(items[0]) is bytes:
        return int.from_bytes(items[0], "big", signed=True)
    raise WireError(f"plain data of the unknown kind {kind}")


# ------------------------------------------------------------------------------------------------- copies


def copied(value: object, memo: dict[int, Any]) -> Any:
    """A copy that no change of the value reaches. What nothing can change is not copied.

    `memo` is that of one whole copy (as `copy.deepcopy` uses it): what stands in two places stands there once again.
    Costs time for everything in plain containers, and much more for other objects.
    """
    kind = type(value)
    if _is_fixed(value):
        return value
    if kind is list or kind is dict or kind is set:
        known = memo.get(id(value))
        if known is not None:
            return known
    if kind is list:
        memo[id(value)] = items = list(cast("list[object]", value))
        if not _all_scalars(items):
            items[:] = [copied(item, memo) for item in items]
        return items
    if kind is dict:
        pairs = cast("dict[object, object]", value)
        if _all_scalars(pairs) or all(map(_is_fixed, pairs)):
            memo[id(value)] = fresh = dict(pairs)
            if not _all_scalars(fresh.values()):
                for key, item in pairs.items():
                    fresh[key] = copied(item, memo)
            return fresh
    elif kind is set:
        members = cast("set[object]", value)
        if _all_scalars(members) or all(map(_is_fixed, members)):
            memo[id(value)] = again = set(members)
            return again
    return copy.deepcopy(value, memo)


def _all_scalars(items: Iterable[object]) -> bool:
    return SCALARS.issuperset(map(type, items))


def _is_fixed(value: object) -> bool:
    """Whether nothing in the value can ever change."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(_is_fixed, cast("Iterable[object]", value)))
    return kind in SCALARS
