"""How messages become bytes, and how strange bytes are refused.

A message is a frozen attrs class whose annotations say what each field may hold::

    @attrs.frozen
    class Prepare:
        view: U64
        slot: U64
        digest: Digest32

    codec = Codec[Message]("pbft", {1: PrePrepare, 2: Prepare})

Its wire form is one tag byte and then a positional msgpack array of its fields. A message has exactly one encoding:
what was decoded is packed again and compared, so that two members can never hold different bytes for one message.
There are no maps, no floats and no extension types, and every length is checked (FAULTS 9 and 10): each message
knows how long its encoding can be at most, and longer bytes are refused before anything is built from them.

Signatures cover bytes as received: keep the bytes, verify them first, decode after (see `bftkit.crypto.signed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Never,
    Protocol,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import attrs
import msgpack

M = TypeVar("M")

NAME_LENGTH_MAX: Final = 32
"""A member's id is at most so many characters long."""

_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-.")

_UNBOUNDED: Final = 1 << 32
"""The size of what does not say its size: more than any message may have."""

_ITEMS_MAX: Final = 1 << 20
"""The longest list of a field that does not say how long its lists can be."""

_COPY_MAX: Final = 1024
"""Up to so many bytes, copying a slice is cheaper than looking at it through a memoryview."""


class WireError(ValueError):
    """Bytes that are not a message of this codec. The text says what is wrong with them."""


class Field(Protocol):
    """What one field may hold: turns a value into plain msgpack data and back, checking on the way in.

    Plain data is None, bool, int, str, bytes, and tuples of these. A field of one's own may also have ``size_max``
    (the length of its longest encoding in bytes) and ``items_max`` (its longest list): what says neither is bounded
    by the codec alone. `pack` asserts what `unpack` checks: a value of our own that no peer would take is our bug.
    """

    def pack(self, value: Any) -> Any:
        """The plain form of our own value."""

    def unpack(self, plain: Any) -> Any:
        """The value of a plain form that a peer sent; raises `WireError`."""


@attrs.frozen
class Uint:
    """An unsigned integer of so many bits, 1 to 64."""

    bits: int = attrs.field(default=64, validator=attrs.validators.in_(range(1, 65)))

    @property
    def size_max(self) -> int:
        return 1 + self.bits // 8 + (self.bits % 8 > 0)

    def pack(self, value: object) -> object:
        assert type(value) is int, value
        assert 0 <= value < 1 << self.bits, value
        return value

    def unpack(self, plain: object) -> int:
        if type(plain) is not int or not 0 <= plain < 1 << self.bits:
            raise WireError(f"not an unsigned integer of {self.bits} bits: {_shown(plain)}")
        return plain


@attrs.frozen
class Flag:
    """True or false."""

    @property
    def size_max(self) -> int:
        return 1

    def pack(self, value: object) -> object:
        assert type(value) is bool, value
        return value

    def unpack(self, plain: object) -> bool:
        if type(plain) is not bool:
            raise WireError(f"not a truth value: {_shown(plain)}")
        return plain


@attrs.frozen
class Raw:
    """Exactly so many bytes."""

    size: int

    @property
    def size_max(self) -> int:
        return _header(self.size) + self.size

    def pack(self, value: object) -> object:
        assert type(value) is bytes, value
        assert len(value) == self.size, value
        return value

    def unpack(self, plain: object) -> bytes:
        if type(plain) is not bytes or len(plain) != self.size:
            raise WireError(f"not {self.size} bytes: {_shown(plain)}")
        return plain


@attrs.frozen
class Blob:
    """At most so many bytes."""

    maximum: int

    @property
    def size_max(self) -> int:
        return _header(self.maximum) + self.maximum

    def pack(self, value: object) -> object:
        assert type(value) is bytes, value
        assert len(value) <= self.maximum, _shown(value)
        return value

    def unpack(self, plain: object) -> bytes:
        if type(plain) is not bytes or len(plain) > self.maximum:
            raise WireError(f"not at most {self.maximum} bytes: {_shown(plain)}")
        return plain


@attrs.frozen
class Text:
    """At most so many characters."""

    maximum: int

    @property
    def size_max(self) -> int:
        # UTF-8 takes at most four bytes for a character.
        return _header(4 * self.maximum) + 4 * self.maximum

    def pack(self, value: object) -> object:
        assert type(value) is str, value
        assert len(value) <= self.maximum, _shown(value)
        return value

    def unpack(self, plain: object) -> str:
        if type(plain) is not str or len(plain) > self.maximum:
            raise WireError(f"not at most {self.maximum} characters: {_shown(plain)}")
        return plain


@attrs.frozen
class Name:
    """A member's id: 1 to 32 of the characters a-z, 0-9, ``_ - .``"""

    @property
    def size_max(self) -> int:
        return _header(NAME_LENGTH_MAX) + NAME_LENGTH_MAX

    def pack(self, value: object) -> object:
        assert type(value) is str, value
        assert is_name(value), value
        return value

    def unpack(self, plain: object) -> str:
        if type(plain) is not str or not is_name(plain):
            raise WireError(f"not a member's id: {_shown(plain)}")
        return plain


@attrs.frozen
class Many:
    """A tuple of at most so many items of one kind."""

    item: Field
    maximum: int

    @property
    def size_max(self) -> int:
        return _list_header(self.maximum) + self.maximum * _size_max(self.item)

    @property
    def items_max(self) -> int:
        return max(self.maximum, _items_max(self.item))

    def pack(self, value: object) -> object:
        assert type(value) is tuple, value
        items = cast("tuple[object, ...]", value)
        assert len(items) <= self.maximum
        pack = self.item.pack
        return [pack(item) for item in items]

    def unpack(self, plain: object) -> tuple[object, ...]:
        items = _items(plain)
        if items is None or len(items) > self.maximum:
            raise WireError(f"not a list of at most {self.maximum} items: {_shown(plain)}")
        unpack = self.item.unpack
        return tuple([unpack(item) for item in items])


@attrs.frozen
class Pairs:
    """A field of the wire: names with unsigned numbers, as a list in ascending order of the names."""

    size_max: int = 1 << 16
    items_max: int = 256

    def pack(self, value: Mapping[str, int]) -> object:
        return [[name, value[name]] for name in sorted(value)]

    def unpack(self, plain: Any) -> Mapping[str, int]:
        pairs: dict[str, int] = {}
        last = ""
        rows = _items(plain)
        if rows is None or len(rows) > self.items_max:
            raise WireError("not a list of parameters")
        for row in rows:
            match row:
                case (str(name), int(number)) if name > last and type(number) is int and 0 <= number < 1 << 64:
                    pairs[name] = number
                    last = name
                case _:
                    raise WireError("not a parameter in its place")
        return pairs


@attrs.frozen
class Maybe:
    """The item, or nothing."""

    item: Field

    @property
    def size_max(self) -> int:
        return max(1, _size_max(self.item))

    @property
    def items_max(self) -> int:
        return _items_max(self.item)

    def pack(self, value: object) -> object:
        return None if value is None else self.item.pack(value)

    def unpack(self, plain: object) -> object:
        return None if plain is None else self.item.unpack(plain)


class Struct:
    """A frozen attrs class, as a positional array of its fields.

    Whatever more a class demands of its values, its validators may refuse with a `ValueError`; to whoever decodes
    that is a `WireError` like any other. Converters have no place here: the bytes must stay what they were.
    """

    def __init__(self, cls: type[Any]) -> None:
        """Raises `TypeError` if the class cannot be written by position, or an annotation says nothing of the wire."""
        columns: tuple[attrs.Attribute[Any], ...] = tuple(attrs.fields(cls))
        for column in columns:
            if not column.init or column.kw_only:
                raise TypeError(f"{cls.__name__}.{column.name}: a field on the wire is given by its position")
        hints = get_type_hints(cls, include_extras=True)
        names = tuple(column.name for column in columns)
        fields = tuple(_field_of(hints[name], cls, name) for name in names)
        self.size_max = _list_header(len(fields)) + sum(_size_max(field) for field in fields)
        """The length of the longest encoding, in bytes."""
        self.items_max = max((len(fields), *(_items_max(field) for field in fields)))
        """The longest list in any encoding."""
        self.cls = cls
        self.fields = fields
        self._arity = len(fields)
        self._values = _reader(names)
        # Bound methods, looked up once: messages pass here more often than anywhere else.
        self._pack: tuple[Callable[[Any], Any], ...] = tuple(field.pack for field in fields)
        self._unpack: tuple[Callable[[Any], Any], ...] = tuple(field.unpack for field in fields)

    def pack(self, value: object) -> object:
        assert type(value) is self.cls, value
        return [pack(item) for pack, item in zip(self._pack, self._values(value), strict=True)]

    def unpack(self, plain: object) -> object:
        items = _items(plain)
        if items is None or len(items) != self._arity:
            raise WireError(f"{self.cls.__name__} has {self._arity} fields, not {_shown(plain)}")
        values = [unpack(item) for unpack, item in zip(self._unpack, items, strict=True)]
        try:
            return self.cls(*values)
        except ValueError as error:
            raise WireError(f"{self.cls.__name__}: {error!s:.80}") from None


U8: TypeAlias = Annotated[int, Uint(8)]
U16: TypeAlias = Annotated[int, Uint(16)]
U32: TypeAlias = Annotated[int, Uint(32)]
U64: TypeAlias = Annotated[int, Uint(64)]
Digest32: TypeAlias = Annotated[bytes, Raw(32)]
Key32: TypeAlias = Annotated[bytes, Raw(32)]
Signature64: TypeAlias = Annotated[bytes, Raw(64)]
Member: TypeAlias = Annotated[str, Name()]
Bool: TypeAlias = Annotated[bool, Flag()]


def is_name(text: str) -> bool:
    """Whether the text can be a member's id."""
    return 0 < len(text) <= NAME_LENGTH_MAX and _NAME_CHARACTERS.issuperset(text)


def _field_of(hint: Any, cls: type[Any], name: str) -> Field:
    if get_origin(hint) is Annotated:
        for remark in get_args(hint)[1:]:
            if callable(getattr(remark, "pack", None)) and callable(getattr(remark, "unpack", None)):
                return cast(Field, remark)
    if isinstance(hint, type) and attrs.has(hint):
        return Struct(hint)
    raise TypeError(f"{cls.__name__}.{name}: the annotation {hint!r} does not say how the field looks on the wire")


def _reader(names: tuple[str, ...]) -> Callable[[object], tuple[object, ...]]:
    """All these attributes of a value, in one call where Python has one."""
    if len(names) > 1:
        return attrgetter(*names)
    # With one name attrgetter gives the bare value, with none it refuses.
    return lambda value: tuple([getattr(value, name) for name in names])


def _header(length: int) -> int:
    """The most that msgpack puts in front of a string or of bytes of up to this length."""
    return 2 if length < 1 << 8 else 3 if length < 1 << 16 else 5


def _list_header(length: int) -> int:
    """The most that msgpack puts in front of a list of up to this length."""
    return 1 if length < 1 << 4 else 3 if length < 1 << 16 else 5


def _size_max(field: Field) -> int:
    size = getattr(field, "size_max", _UNBOUNDED)
    assert isinstance(size, int)
    return size


def _items_max(field: Field) -> int:
    # A field of the plain kinds above has no list at all; a stranger's field is given room.
    items = getattr(field, "items_max", 0 if isinstance(field, _SCALARS) else _ITEMS_MAX)
    assert isinstance(items, int)
    return items


_SCALARS: Final = (Uint, Flag, Raw, Blob, Text, Name)


def _items(plain: object) -> tuple[object, ...] | None:
    """The items of a plain list; None for what is no list."""
    return cast("tuple[object, ...]", plain) if type(plain) is tuple else None


def _shown(plain: object) -> str:
    """A value of a peer in an error text: short whatever the peer sent, and without walking into it."""
    match plain:
        case bytes():
            return f"{len(plain)} bytes"
        case str():
            return f"a text of {len(plain)} characters"
        case tuple():
            return f"a list of {len(cast('tuple[object, ...]', plain))} items"
        case None | bool() | int() | float():
            return repr(plain)
        case _:
            return f"a {type(plain).__name__}"


# ------------------------------------------------------------------------------------------------- plain data

# A Packer's buffer is what makes it dear, so there is one. It keeps nothing between two calls.
_PACKER: Final = msgpack.Packer(use_bin_type=True)


def _refuse_map(pairs: object) -> Never:
    raise WireError("not msgpack of ours: a map")


def _refuse_extension(code: int, data: bytes) -> Never:
    raise WireError(f"not msgpack of ours: extension type {code}")


def pack_plain(plain: Any) -> bytes:
    """Plain data in msgpack's shortest form."""
    return _PACKER.pack(plain)


def unpack_plain(data: bytes | memoryview, *, length_max: int = 1 << 20) -> Any:
    """Plain data from msgpack, lists as tuples; refuses maps, floats, extension types and any second encoding.

    No list may be longer than `length_max`. Raises `WireError`.
    """
    plain = _unpack(data, length_max)
    if any(type(scalar) is float for scalar in _scalars(plain)):
        raise WireError("not msgpack of ours: a float")
    return plain


def _unpack(data: bytes | memoryview, length_max: int) -> object:
    """As `unpack_plain`, but floats may stand in it: a codec's fields refuse them one by one."""
    try:
        plain = msgpack.unpackb(
            data,
            use_list=False,
            object_pairs_hook=_refuse_map,
            ext_hook=_refuse_extension,
            max_array_len=length_max,
            max_map_len=0,
            max_ext_len=0,
        )
        # Packing refuses what is nested more deeply than it would ever nest itself.
        packed = _PACKER.pack(plain)
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise WireError(f"not msgpack of ours: {error!s:.80}") from None
    if packed != data:
        raise WireError("not the shortest encoding")
    return plain


def _scalars(plain: object) -> Iterator[object]:
    """Everything in it that is no list; without recursion, since a peer chose the depth."""
    waiting = [plain]
    while waiting:
        item = waiting.pop()
        if isinstance(item, tuple):
            waiting.extend(cast("tuple[object, ...]", item))
        else:
            yield item


# ------------------------------------------------------------------------------------------------- messages


class Codec(Generic[M]):
    """The messages of one union, each behind its tag byte."""

    def __init__(self, name: str, messages: Mapping[int, type[Any]], *, bytes_max: int = 16 << 20) -> None:
        """`messages` maps tags (0 to 255) to frozen attrs classes; `bytes_max` bounds one encoded message.

        Raises `ValueError` for a tag out of range or a class that stands under two tags, `TypeError` for a class
        that cannot be written.
        """
        if len(set(messages.values())) != len(messages):
            raise ValueError(f"codec {name}: a class stands under two tags, so its messages had two encodings")
        if any(not 0 <= tag <= 255 for tag in messages):
            raise ValueError(f"codec {name}: a tag is one byte, 0 to 255")
        self.name = name
        self.bytes_max = bytes_max
        self.messages = dict(sorted(messages.items()))
        self._structs = {tag: Struct(cls) for tag, cls in self.messages.items()}
        self._tags = {cls: (bytes([tag]), self._structs[tag]) for tag, cls in self.messages.items()}

    def encode(self, message: M) -> bytes:
        """The message's only encoding. Raises `TypeError` for what is no message of this codec."""
        entry = self._tags.get(type(message))
        if entry is None:
            raise TypeError(f"codec {self.name} has no message {type(message).__name__}")
        tag, struct = entry
        data = tag + _PACKER.pack(struct.pack(message))
        assert len(data) <= self.bytes_max, f"no peer would take a {type(message).__name__} of {len(data)} bytes"
        return data

    def decode(self, data: bytes | memoryview) -> M:
        """The message that these bytes encode. Raises `WireError` for anything else."""
        length = len(data)
        if not 2 <= length <= self.bytes_max:
            raise WireError(f"{self.name}: {length} bytes are not between 2 and {self.bytes_max}")
        struct = self._structs.get(data[0])
        if struct is None:
            raise WireError(f"{self.name}: unknown tag {data[0]}")
        if length > 1 + struct.size_max:
            raise WireError(f"{self.name}: {length} bytes are too many for the message with tag {data[0]}")
        body = data[1:] if length <= _COPY_MAX else memoryview(data)[1:]
        return cast(M, struct.unpack(_unpack(body, struct.items_max)))
