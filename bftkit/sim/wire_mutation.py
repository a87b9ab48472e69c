"""Changing one thing in a message: mutations that know the structure of what they change.

A `Mutator` serves one codec. It walks down a message by its fields, as `bftkit.core.wire` describes them, stops
somewhere, and changes what it finds there in a way that fits its kind. What lies in bytes, such as the signed body of a
view change, is opened if the mutator is given the codec of it. Then, from the inside out, everything that the liar
itself had signed is signed again, so that the receiver's checks of signatures do not stop what its other checks should.

*Small* changes are those that a protocol's programmer could have overlooked: a number one off, a digest that is a real
one but of another slot, a list with one item less or twice the same, a vote or a certificate of another slot or view,
another member's name, a whole message of an earlier round. *Any* change may also give a field a value at the ends of
its range or beyond them, or one of another type.

After L. N. Winter, F. Buse, D. de Graaf, K. von Gleissenthall and B. Kulahcioglu Ozkan, "Randomized Testing of
Byzantine Fault Tolerant Algorithms" (ByzzFuzz), OOPSLA 2023, which found its bugs with a few small changes a run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from bftkit.core.machine import MemberId
from bftkit.core.wire import (
    Blob,
    Codec,
    Field,
    Flag,
    Many,
    Maybe,
    Name,
    Raw,
    Struct,
    Text,
    Uint,
    WireError,
    pack_plain,
    unpack_plain,
)

Scope: TypeAlias = Literal["small", "any"]

SEEN_MAX: Final = 48
"""So many messages of each kind are remembered, to take values from."""

SEEN_BYTES_MAX: Final = 1 << 16
"""Longer messages are not remembered."""

VIEW_NAMES: Final = ("view", "ballot", "round", "term")
SLOT_NAMES: Final = ("slot", "sequence", "height", "first", "applied", "held", "committed", "stable", "number")

_DIGEST: Final = Raw(32)
_SIGNATURE: Final = Raw(64)
_WORD: Final = 8

_STRANGE: Final[tuple[object, ...]] = (None, True, -1, (1 << 64) - 1, "", "m0", b"", bytes(33), (), ((((),),),), 1.5)
"""Values of every type, for fields of every other type."""


@attrs.frozen
class Round:
    """The protocol round that a message belongs to: the numbers that it carries, and its kind."""

    view: int
    slot: int
    kind: str

    def __str__(self) -> str:
        return f"view {self.view} slot {self.slot} {self.kind}"


@attrs.frozen
class Mutated:
    """What became of a message."""

    data: bytes
    what: str
    """For people: what was changed into what."""
    lines: frozenset[int]
    """The lines of FAULTS that this is an instance of."""


@attrs.define
class _Change:
    """One walk down a message."""

    random: Random
    scope: Scope
    what: str = ""
    where: list[str] = attrs.field(factory=list[str])
    """Names of the fields on the way."""
    owners: list[str] = attrs.field(factory=list[str])
    """Names of the classes on the way."""
    lines: set[int] = attrs.field(factory=set[int])
    signature: bool = False
    """A signature was changed: at that level nothing is signed again, or the change would be undone."""


class Mutator:
    """Changes messages of one codec. See the top of this file."""

    def __init__(
        self,
        codec: Codec[Any],
        members: Sequence[MemberId],
        inside: Sequence[Codec[Any]] = (),
        resign: Callable[[Any], Any | None] | None = None,
    ) -> None:
        """`inside` are codecs of bytes within messages; `resign` signs a message, or such bytes' content, again."""
        self._codec = codec
        self._inside = tuple(inside)
        self._members = tuple(members)
        self._resign = resign
        self._structs = {tag: Struct(cls) for tag, cls in codec.messages.items()}
        self._inner_structs = [{tag: Struct(cls) for tag, cls in each.messages.items()} for each in self._inside]
        self._seen: dict[int, deque[bytes]] = {tag: deque(maxlen=SEEN_MAX) for tag in codec.messages}

    # ------------------------------------------------------------------------------------------ what is known

    def note(self, data: bytes) -> None:
        """A message that was really said in this run; its parts may be put into others later."""
        seen = self._seen.get(data[0]) if 0 < len(data) <= SEEN_BYTES_MAX else None
        if seen is not None and (not seen or seen[-1] != data):
            seen.append(data)

    def round_of(self, data: bytes) -> Round:
        """The round of a message. Raises `WireError` for bytes that are none."""
        struct, plain = self._read(data)
        numbers: dict[str, int] = {}
        self._numbers(struct, plain, numbers)
        view = next((numbers[name] for name in VIEW_NAMES if name in numbers), 0)
        slot = next((numbers[name] for name in SLOT_NAMES if name in numbers), 0)
        return Round(view, slot, struct.cls.__name__)

    def _read(self, data: bytes) -> tuple[Struct, object]:
        struct = self._structs.get(data[0]) if data else None
        if struct is None:
            raise WireError("not a message of this codec")
        return struct, unpack_plain(data[1:])

    def _numbers(self, struct: Struct, plain: object, found: dict[str, int]) -> None:
        # Breadth first: a message's own view counts before one within its parts.
        parts = _columns(struct, plain)
        for name, field, value in parts:
            if isinstance(field, Uint) and isinstance(value, int):
                found.setdefault(name, value)
        for _, field, value in parts:
            if isinstance(field, Struct):
                self._numbers(field, value, found)
            elif isinstance(field, Blob) and isinstance(value, bytes) and (opened := self._open(value)) is not None:
                self._numbers(opened.struct, opened.plain, found)

    def _open(self, value: bytes) -> _Opened | None:
        """What stands in these bytes, if they are a message of a codec that is known."""
        for codec, structs in zip(self._inside, self._inner_structs, strict=True):
            if value and value[0] in structs:
                try:
                    codec.decode(value)
                except WireError:
                    continue
                return _Opened(codec, value[0], structs[value[0]], unpack_plain(value[1:]))
        return None

    def _everything(self, name: str, field: Field, value: object) -> Iterator[tuple[str, Field, object]]:
        """The value and all that lies in it, with the names of the fields."""
        yield name, field, value
        match field:
            case Struct():
                for column in _columns(field, value):
                    yield from self._everything(*column)
            case Many(item):
                for each in cast("tuple[object, ...]", value):
                    yield from self._everything(name, item, each)
            case Maybe(item) if value is not None:
                yield from self._everything(name, item, value)
            case Blob() if (opened := self._open(cast(bytes, value))) is not None:
                yield from self._everything(name, opened.struct, opened.plain)
            case _:
                pass

    def _value_seen(self, name: str, field: Field, but: object, random: Random) -> tuple[object, Round] | None:
        """Another value for this field that was really seen, and where; None if chance finds none."""
        tags = [tag for tag, seen in self._seen.items() if seen]
        for _ in range(6 if tags else 0):
            data = random.choice(self._seen[random.choice(tags)])
            struct, plain = self._read(data)
            values = [
                (other == name, value)
                for other, kind, value in self._everything("", struct, plain)
                if _alike(field, name, kind, other) and value != but
            ]
            if values:
                named = [value for same, value in values if same]
                return random.choice(named or [value for _, value in values]), self.round_of(data)
        return None

    # ------------------------------------------------------------------------------------------ changing

    def mutate(self, data: bytes, random: Random, scope: Scope) -> Mutated | None:
        """The message with one thing changed; None if what chance chose cannot be changed."""
        change = _Change(random, scope)
        struct, plain = self._read(data)
        others = [other for other in self._seen[data[0]] if other != data]
        draw = random.random()
        if others and draw < 0.1:
            stale = random.choice(others)
            return Mutated(stale, f"→ the one of {self.round_of(stale)}", frozenset({29}))
        change.owners.append(struct.cls.__name__)
        if others and draw < 0.2:
            other = random.choice(others)
            changed = self._crossed(struct, plain, self._read(other)[1], change)
            change.what += f" → those of {self.round_of(other)}"
        else:
            changed = self._in_columns(struct, plain, change)
        sealed = self._seal(self._codec, data[0], changed, change)
        if sealed == data:
            return None
        return Mutated(sealed, " ".join((".".join(change.where), change.what)).strip(), self._lines(sealed, change))

    def _lines(self, sealed: bytes, change: _Change) -> frozenset[int]:
        for owner in reversed(change.owners):
            line = next((line for part, line in _OWNERS if part in owner), None)
            if line is not None:
                change.lines.add(line)
                break
        try:
            self._codec.decode(sealed)
        except WireError:
            change.lines.add(10)
        return frozenset(change.lines)

    def _seal(self, codec: Codec[Any], tag: int, plain: object, change: _Change) -> bytes:
        """The bytes of a changed message, with the liar's signatures in it made anew where that can be."""
        data = bytes((tag,)) + pack_plain(plain)
        touched, change.signature = change.signature, False
        if self._resign is None or touched or change.random.random() < 0.05:
            return data
        try:
            message = codec.decode(data)
        except WireError:
            return data
        signed = self._resign(message)
        return data if signed is None else codec.encode(signed)

    def _crossed(self, struct: Struct, plain: object, other: object, change: _Change) -> object:
        """Some of the fields from another message of this kind."""
        values: list[object] = []
        for (name, field, mine), (_, _, theirs) in zip(_columns(struct, plain), _columns(struct, other), strict=True):
            taken = mine != theirs and change.random.random() < 0.5
            if taken:
                change.where.append(name)
                _remark(name, field, change)
            values.append(theirs if taken else mine)
        return tuple(values)

    def _in_columns(self, struct: Struct, plain: object, change: _Change) -> object:
        columns = _columns(struct, plain)
        if not columns:
            return plain
        values = [value for _, _, value in columns]
        # A signature that is wrong is refused at once; what lies deep is checked by more than one line.
        weights = [
            1 if field == _SIGNATURE else 6 if isinstance(field, (Many, Blob, Struct)) else 3 for _, field, _ in columns
        ]
        (at,) = change.random.choices(range(len(columns)), weights)
        if change.scope == "any" and change.random.random() < 0.05:
            change.what = "left out"
            change.where.append(columns[at][0])
            return (*values[:at], *values[at + 1 :])
        name, field, value = columns[at]
        change.where.append(name)
        values[at] = self._in_field(name, field, value, change)
        return tuple(values)

    def _in_field(self, name: str, field: Field, value: object, change: _Change) -> object:
        random = change.random
        if change.scope == "any" and random.random() < 0.4:
            return self._set(name, field, value, _anything(field, random), change)
        match field:
            case Uint(bits):
                step = random.choice((-1, 1))
                number = cast(int, value) + step
                if not 0 <= number < 1 << bits:
                    number = cast(int, value) - step
                return self._set(name, field, value, number, change)
            case Flag():
                return self._set(name, field, value, not value, change)
            case Name():
                others = [member for member in self._members if member != value]
                return self._set(name, field, value, random.choice(others) if others else value, change)
            case Text():
                return self._set(name, field, value, cast(str, value)[:-1], change)
            case Raw():
                if random.random() < 0.9 and (found := self._value_seen(name, field, value, random)) is not None:
                    return self._set(name, field, value, found[0], change, found[1])
                return self._set(name, field, value, _near(cast(bytes, value), random), change)
            case Blob():
                return self._in_blob(name, field, cast(bytes, value), change)
            case Maybe(item):
                if value is None:
                    found = self._value_seen(name, item, None, random)
                    return value if found is None else self._set(name, item, value, found[0], change, found[1])
                if random.random() < 0.4:
                    return self._set(name, item, value, None, change)
                return self._in_field(name, item, value, change)
            case Many(item, maximum):
                return self._in_list(name, item, maximum, cast("tuple[object, ...]", value), change)
            case Struct():
                change.owners.append(field.cls.__name__)
                if random.random() < 0.3 and (found := self._value_seen(name, field, value, random)) is not None:
                    return self._set(name, field, value, found[0], change, found[1])
                return self._in_columns(field, value, change)
            case _:
                return value  # a field of a stranger's own kind: nothing is known of its values

    def _in_blob(self, name: str, field: Field, value: bytes, change: _Change) -> object:
        random = change.random
        opened = self._open(value)
        if opened is not None and random.random() < 0.85:
            change.owners.append(opened.struct.cls.__name__)
            return self._seal(opened.codec, opened.tag, self._in_columns(opened.struct, opened.plain, change), change)
        if random.random() < 0.4 and (found := self._value_seen(name, field, value, random)) is not None:
            return self._set(name, field, value, found[0], change, found[1])
        return self._set(name, field, value, _near(value, random), change)

    def _in_list(self, name: str, item: Field, maximum: int, values: tuple[object, ...], change: _Change) -> object:
        random = change.random
        ways = ["in", "in", "in", "drop", "double", "swap", "replace"] if values else []
        if len(values) < maximum:
            ways.append("add")
        if not ways:
            return values
        way = random.choice(ways)
        at = random.randrange(len(values) + (way == "add"))
        if way == "in":
            change.where[-1] = f"{name}[{at}]"
            return (*values[:at], self._in_field(name, item, values[at], change), *values[at + 1 :])
        before, after = values[:at], values[at + 1 :]
        if isinstance(item, Struct):
            change.owners.append(item.cls.__name__)
        _remark(name, item, change)
        change.what = f"item {at} {way}"
        match way:
            case "drop":
                return before + after
            case "double" if len(values) < maximum:
                return (*before, values[at], values[at], *after)
            case "swap":
                other = random.randrange(len(values))
                swapped = list(values)
                swapped[at], swapped[other] = swapped[other], swapped[at]
                return tuple(swapped)
            case _:
                found = self._value_seen(name, item, values[at] if values and way == "replace" else None, random)
                if found is None:
                    return values
                change.what += f" by that of {found[1]}"
                return (*before, found[0], *(values[at:] if way == "add" else after))

    def _set(
        self, name: str, field: Field, old: object, new: object, change: _Change, source: Round | None = None
    ) -> object:
        after = _shown(new) if source is None else f"that of {source}"
        change.what = f"{_shown(old)} → {'almost the same' if after == _shown(old) else after}"
        _remark(name, field, change)
        return new


@attrs.frozen(eq=False)
class _Opened:
    """A message that stood in bytes."""

    codec: Codec[Any]
    tag: int
    struct: Struct
    plain: object


_OWNERS: Final[tuple[tuple[str, int], ...]] = (
    ("ViewChange", 23),
    ("NewView", 24),
    ("Checkpoint", 25),
    ("Stable", 25),
    ("Manifest", 25),
    ("Chunk", 26),
    ("BatchBytes", 26),
)
"""Which line of FAULTS a change in a message of such a name is an instance of."""


def _columns(struct: Struct, plain: object) -> list[tuple[str, Field, object]]:
    names = [column.name for column in attrs.fields(struct.cls)]
    return list(zip(names, struct.fields, cast("tuple[object, ...]", plain), strict=True))


def _alike(field: Field, name: str, other: Field, other_name: str) -> bool:
    """Whether a value of the other field could stand in this one and be mistaken for a true one."""
    match field:
        case Struct():
            return isinstance(other, Struct) and other.cls is field.cls
        case Raw():
            return other == field
        case Blob():
            # Bytes of one name may hold very different things; those of one length at most are the same field.
            return other == field and name == other_name
        case _:
            return name == other_name and type(other) is type(field)


def _remark(name: str, field: Field, change: _Change) -> None:
    """Which lines of FAULTS a change of this field is, and whether it undoes a signature on purpose."""
    if field == _DIGEST:
        change.lines.add(22)
    elif field == _SIGNATURE:
        change.signature = True
    elif isinstance(field, Uint) and name in (*VIEW_NAMES, *SLOT_NAMES, "epoch"):
        change.lines.add(29)


def _near(value: bytes, random: Random) -> bytes:
    """Bytes with one number in them one off, or one bit wrong."""
    if not value:
        return b"\0"
    if len(value) % _WORD == 0 and random.random() < 0.5:
        # Statements are packed by hand, and begin with their numbers.
        at = _WORD * random.randrange(min(2, len(value) // _WORD))
        number = int.from_bytes(value[at : at + _WORD]) + random.choice((-1, 1))
        return value[:at] + (number % (1 << 64)).to_bytes(_WORD) + value[at + _WORD :]
    at = random.randrange(len(value))
    return value[:at] + bytes((value[at] ^ 1 << random.randrange(8),)) + value[at + 1 :]


def _anything(field: Field, random: Random) -> object:
    """A value at the ends of the field's range, beyond them, or of another type."""
    if random.random() < 0.3:
        return random.choice(_STRANGE)
    match field:
        case Uint(bits):
            top = 1 << bits
            return random.choice((0, 1, top - 1, top >> 1, random.getrandbits(bits), min(top, (1 << 64) - 1), -1))
        case Raw(size):
            return random.randbytes(random.choice((size, size, size, max(0, size - 1), size + 1)))
        case Blob(maximum):
            return random.randbytes(min(maximum, random.choice((0, 1, 31, 48, 300, 5000))))
        case Name():
            return random.choice(("stranger", "", "A B", "m" * 33, "m0"))
        case Text():
            return random.choice(("", "\0", "a" * 300))
        case Many(item):
            return tuple(_anything(item, random) for _ in range(random.choice((0, 1, 2, 30))))
        case Maybe(item):
            return None if random.random() < 0.3 else _anything(item, random)
        case Struct():
            return tuple(_anything(each, random) for each in field.fields)
        case _:
            return random.choice(_STRANGE)


def _shown(value: object) -> str:
    match value:
        case bytes():
            return value[:4].hex() if value else "nothing"
        case tuple():
            return f"{len(cast('tuple[object, ...]', value))} items"
        case _:
            return str(value)[:40]
