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
There are no maps, no floats and no extension types, and every length is checked (FAULTS 9 and 10).

Signatures cover bytes as received: keep the bytes, verify them first, decode after (see `bftkit.crypto.signed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
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


class WireError(ValueError):
    """Bytes that are not a message of this codec. The text says what is wrong with them."""


class Field(Protocol):
    """What one field may hold: turns a value into plain msgpack data and back, checking on the way in."""

    def pack(self, value: Any) -> Any:
        """The plain form of our own value."""

    def unpack(self, plain: Any) -> Any:
        """The value of a plain form that a peer sent; raises `WireError`."""


@attrs.frozen
class Uint:
    """An unsigned integer of so many bits."""

    bits: int = 64

    def pack(self, value: Any) -> Any:
        assert 0 <= value < 1 << self.bits
        return value

    def unpack(self, plain: Any) -> Any:
        if type(plain) is not int or not 0 <= plain < 1 << self.bits:
            raise WireError(f"not an unsigned integer of {self.bits} bits: {plain!r:.40}")
        return plain


@attrs.frozen
class Flag:
    """True or false."""

    def pack(self, value: Any) -> Any:
        return value

    def unpack(self, plain: Any) -> Any:
        if type(plain) is not bool:
            raise WireError(f"not a truth value: {plain!r:.40}")
        return plain


@attrs.frozen
class Raw:
    """Exactly so many bytes."""

    size: int

    def pack(self, value: Any) -> Any:
        assert len(value) == self.size
        return value

    def unpack(self, plain: Any) -> Any:
        if type(plain) is not bytes or len(plain) != self.size:
            raise WireError(f"not {self.size} bytes: {plain!r:.40}")
        return plain


@attrs.frozen
class Blob:
    """At most so many bytes."""

    maximum: int

    def pack(self, value: Any) -> Any:
        assert len(value) <= self.maximum
        return value

    def unpack(self, plain: Any) -> Any:
        if type(plain) is not bytes or len(plain) > self.maximum:
            raise WireError(f"not at most {self.maximum} bytes: {plain!r:.40}")
        return plain


@attrs.frozen
class Text:
    """At most so many characters."""

    maximum: int

    def pack(self, value: Any) -> Any:
        assert len(value) <= self.maximum
        return value

    def unpack(self, plain: Any) -> Any:
        if type(plain) is not str or len(plain) > self.maximum:
            raise WireError(f"not at most {self.maximum} characters: {plain!r:.40}")
        return plain


@attrs.frozen
class Name:
    """A member's id: 1 to 32 of the characters a-z, 0-9, ``_ - .``"""

    def pack(self, value: Any) -> Any:
        return value

    def unpack(self, plain: Any) -> Any:
        if type(plain) is not str or not is_name(plain):
            raise WireError(f"not a member's id: {plain!r:.40}")
        return plain


@attrs.frozen
class Many:
    """A tuple of at most so many items of one kind."""

    item: Field
    maximum: int

    def pack(self, value: Any) -> Any:
        assert len(value) <= self.maximum
        pack = self.item.pack
        return [pack(item) for item in value]

    def unpack(self, plain: Any) -> Any:
        if type(plain) is not tuple or len(cast("tuple[Any, ...]", plain)) > self.maximum:
            raise WireError(f"not a list of at most {self.maximum} items: {plain!r:.40}")
        unpack = self.item.unpack
        return tuple(unpack(item) for item in cast("tuple[Any, ...]", plain))


@attrs.frozen
class Maybe:
    """The item, or nothing."""

    item: Field

    def pack(self, value: Any) -> Any:
        return None if value is None else self.item.pack(value)

    def unpack(self, plain: Any) -> Any:
        return None if plain is None else self.item.unpack(plain)


class Struct:
    """A frozen attrs class, as a positional array of its fields."""

    def __init__(self, cls: type[Any]) -> None:
        self._cls = cls
        self._names = tuple(field.name for field in attrs.fields(cls))
        hints = get_type_hints(cls, include_extras=True)
        self._fields: tuple[Field, ...] = tuple(_field_of(hints[name], cls, name) for name in self._names)
        self._columns = tuple(zip(self._names, self._fields, strict=True))

    def pack(self, value: Any) -> Any:
        return [field.pack(getattr(value, name)) for name, field in self._columns]

    def unpack(self, plain: Any) -> Any:
        if type(plain) is not tuple or len(cast("tuple[Any, ...]", plain)) != len(self._fields):
            raise WireError(f"{self._cls.__name__} has {len(self._fields)} fields, not {plain!r:.40}")
        items = zip(self._fields, cast("tuple[Any, ...]", plain), strict=True)
        return self._cls(*[field.unpack(item) for field, item in items])


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
        field = get_args(hint)[1]
        return cast(Field, field)
    if isinstance(hint, type) and attrs.has(hint):
        return Struct(hint)
    raise TypeError(f"{cls.__name__}.{name}: the annotation {hint!r} does not say how the field looks on the wire")


def pack_plain(plain: Any) -> bytes:
    """Plain data in msgpack's shortest form."""
    return cast(bytes, msgpack.packb(plain, use_bin_type=True))


def unpack_plain(data: bytes | memoryview, *, length_max: int = 1 << 20) -> Any:
    """Plain data from msgpack, lists as tuples; refuses maps, extension types and any second encoding."""
    try:
        plain: Any = msgpack.unpackb(
            data, use_list=False, raw=False, max_map_len=0, max_ext_len=0, max_array_len=length_max
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError(f"not msgpack: {error!s:.80}") from None
    if pack_plain(plain) != data:
        raise WireError("not the shortest encoding")
    return plain


class Codec(Generic[M]):
    """The messages of one union, each behind its tag byte."""

    def __init__(self, name: str, messages: Mapping[int, type[Any]], *, bytes_max: int = 16 << 20) -> None:
        """`messages` maps tags (0 to 255) to frozen attrs classes; `bytes_max` bounds one encoded message."""
        self.name = name
        self.bytes_max = bytes_max
        self._structs = {tag: Struct(cls) for tag, cls in sorted(messages.items())}
        self._tags = {cls: (bytes([tag]), self._structs[tag]) for tag, cls in sorted(messages.items())}

    def encode(self, message: M) -> bytes:
        """The message's only encoding."""
        tag, struct = self._tags[type(message)]
        return tag + pack_plain(struct.pack(message))

    def decode(self, data: bytes | memoryview) -> M:
        """The message that these bytes encode. Raises `WireError` for anything else."""
        if not 2 <= len(data) <= self.bytes_max:
            raise WireError(f"{self.name}: {len(data)} bytes are not between 2 and {self.bytes_max}")
        struct = self._structs.get(data[0])
        if struct is None:
            raise WireError(f"{self.name}: unknown tag {data[0]}")
        return cast(M, struct.unpack(unpack_plain(data[1:])))
