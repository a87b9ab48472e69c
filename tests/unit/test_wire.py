"""Messages and their bytes: one encoding each, and everything else refused (FAULTS 9 and 10)."""

from __future__ import annotations

import tracemalloc
from typing import Annotated, Any

import attrs
import pytest

from bftkit.core.wire import (
    U8,
    U16,
    U64,
    Blob,
    Bool,
    Codec,
    Digest32,
    Flag,
    Many,
    Maybe,
    Member,
    Name,
    Raw,
    Struct,
    Text,
    Uint,
    WireError,
    is_name,
    pack_plain,
    unpack_plain,
)


@attrs.frozen
class Ask:
    view: U64
    final: Bool
    digest: Digest32


@attrs.frozen
class Item:
    name: Member
    count: U16


@attrs.frozen
class Tell:
    items: Annotated[tuple[Item, ...], Many(Struct(Item), 3)]
    note: Annotated[str, Text(5)]
    body: Annotated[bytes, Blob(300)]
    best: Annotated[Item | None, Maybe(Struct(Item))]
    own: Item


@attrs.frozen
class Stop:
    pass


@attrs.frozen
class Even:
    number: U8

    def __attrs_post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


CODEC = Codec[Ask | Tell | Stop | Even]("test", {1: Ask, 2: Tell, 3: Stop, 255: Even})
ASK = Ask(3, True, b"d" * 32)
TELL = Tell((Item("m0", 1), Item("m1", 65535)), "é€", b"x" * 256, None, Item("a-b_c.9", 0))


def plain_ask(view: object = 3, final: object = True, digest: object = b"d" * 32) -> bytes:
    return b"\x01" + pack_plain([view, final, digest])


def refuse(data: bytes, match: str) -> None:
    with pytest.raises(WireError, match=match):
        CODEC.decode(data)


# ------------------------------------------------------------------------------------------------- what is accepted


def test_the_wire_form_is_a_tag_and_a_positional_array() -> None:
    assert CODEC.encode(ASK) == b"\x01\x93\x03\xc3\xc4\x20" + b"d" * 32
    assert CODEC.encode(Stop()) == b"\x03\x90"
    assert CODEC.encode(Even(2)) == b"\xff\x91\x02"


@pytest.mark.parametrize(
    "message", [ASK, TELL, Stop(), Even(4), Ask(2**64 - 1, False, bytes(32)), attrs.evolve(TELL, best=Item("x", 7))]
)
def test_what_is_encoded_is_decoded(message: Any) -> None:
    data = CODEC.encode(message)
    assert CODEC.decode(data) == message
    assert CODEC.decode(memoryview(data)) == message
    assert type(CODEC.decode(memoryview(data))) is type(message)


def test_a_decoded_message_holds_no_view_of_the_buffer() -> None:
    buffer = bytearray(CODEC.encode(TELL))
    message = CODEC.decode(memoryview(buffer).toreadonly())
    buffer[:] = bytes(len(buffer))
    assert message == TELL


@pytest.mark.parametrize("size", [1000, 1 << 16, 1 << 20])
def test_large_messages_pass_both_ways(size: int) -> None:
    @attrs.frozen
    class Large:
        body: Annotated[bytes, Blob(1 << 20)]
        view: U64

    codec = Codec[Any]("large", {1: Large})
    assert codec.decode(codec.encode(Large(b"z" * size, 5))) == Large(b"z" * size, 5)


# ------------------------------------------------------------------------------------------------- what is refused


def test_no_bytes_and_too_many_bytes() -> None:
    refuse(b"", "0 bytes are not between")
    refuse(b"\x03", "1 bytes are not between")
    small = Codec[Any]("small", {1: Ask}, bytes_max=20)
    with pytest.raises(WireError, match="38 bytes are not between 2 and 20"):
        small.decode(CODEC.encode(ASK))


def test_an_unknown_tag() -> None:
    refuse(b"\x00\x90", "unknown tag 0")
    refuse(b"\x04\x90", "unknown tag 4")


def test_more_bytes_than_the_message_can_have_are_refused_before_they_are_read() -> None:
    """FAULTS 9: what a small message cannot need is refused by its length alone."""
    refuse(b"\x01" + b"\x91" * 1000, "1001 bytes are too many for the message with tag 1")
    refuse(CODEC.encode(Stop()) + b"\x90", "3 bytes are too many for the message with tag 3")


@pytest.mark.parametrize("cut", range(1, 38))
def test_a_cut_message(cut: int) -> None:
    refuse(CODEC.encode(ASK)[:-cut], "bytes|msgpack")


@pytest.mark.parametrize("more", [b"\x00", b"\xc0", b"\x90"])
def test_trailing_bytes(more: bytes) -> None:
    refuse(b"\xff\x91\x02" + more, "not msgpack of ours|too many")
    refuse(CODEC.encode(TELL) + more, "not msgpack of ours")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (plain_ask(view=-1), "not an unsigned integer of 64 bits: -1"),
        (plain_ask(view=True), "not an unsigned integer of 64 bits: True"),
        (plain_ask(view=None), "not an unsigned integer of 64 bits: None"),
        (plain_ask(view="3"), "not an unsigned integer of 64 bits: a text of 1 characters"),
        (plain_ask(view=3.0), "not an unsigned integer of 64 bits: 3.0"),
        (plain_ask(view=float("nan")), "not an unsigned integer of 64 bits: nan"),
        (plain_ask(view=()), "not an unsigned integer of 64 bits: a list of 0 items"),
        (plain_ask(final=1), "not a truth value: 1"),
        (plain_ask(final=None), "not a truth value: None"),
        (plain_ask(digest=b"d" * 31), "not 32 bytes: 31 bytes"),
        (plain_ask(digest="d" * 32), "not 32 bytes: a text of 32 characters"),
        (b"\x01" + pack_plain([3, True]), "Ask has 3 fields, not a list of 2 items"),
        (b"\x01" + pack_plain([3, True, b"", b""]), "exceeds max_array_len|Ask has 3 fields"),
        (b"\x01" + pack_plain(b"abc"), "Ask has 3 fields, not 3 bytes"),
        (b"\xff" + pack_plain([256]), "not an unsigned integer of 8 bits: 256|too many"),
        (b"\xff" + pack_plain([3]), "Even: 3 is odd"),
    ],
)
def test_wrong_types_ranges_and_numbers_of_fields(data: bytes, match: str) -> None:
    refuse(data, match)


TELL_PLAIN: list[object] = [[["m0", 1]], "note", b"", None, ["m1", 2]]


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (0, [["m0", 1]] * 4, "not a list of at most 3 items: a list of 4 items"),
        (0, b"", "not a list of at most 3 items: 0 bytes"),
        (0, [["m0"]], "Item has 2 fields"),
        (0, [["M0", 1]], "not a member's id: a text of 2 characters"),
        (0, [["", 1]], "not a member's id"),
        (0, [["m" * 33, 1]], "not a member's id"),
        (0, [["m0\n", 1]], "not a member's id"),
        (0, [[b"m0", 1]], "not a member's id: 2 bytes"),
        (0, [["m0", 65536]], "not an unsigned integer of 16 bits"),
        (1, "123456", "not at most 5 characters"),
        (1, b"12", "not at most 5 characters: 2 bytes"),
        (2, bytes(301), "not at most 300 bytes"),
        (2, "12", "not at most 300 bytes: a text"),
        (3, False, "Item has 2 fields, not False"),
        (4, None, "Item has 2 fields, not None"),
    ],
)
def test_wrong_values_within(at: int, value: object, match: str) -> None:
    plain = list(TELL_PLAIN)
    assert isinstance(CODEC.decode(b"\x02" + pack_plain(plain)), Tell)
    plain[at] = value
    refuse(b"\x02" + pack_plain(plain), match)


@pytest.mark.parametrize(
    "number", [b"\xcc\x03", b"\xcd\x00\x03", b"\xce\x00\x00\x00\x03", b"\xcf" + bytes(7) + b"\x03", b"\xd0\x03"]
)
def test_integers_in_a_longer_form(number: bytes) -> None:
    """FAULTS 10: 3 has one encoding."""
    good = CODEC.encode(ASK)
    assert good[2:3] == b"\x03"
    data = good[:2] + number + good[3:]
    refuse(data, "not the shortest encoding|too many")
    assert unpack_plain(b"\x03") == 3
    with pytest.raises(WireError, match="not the shortest encoding"):
        unpack_plain(number)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc5\x00\x01a",  # bytes
        b"\xd9\x01a",  # text
        b"\xdc\x00\x00",  # a list
        b"\xdd\x00\x00\x00\x01\x05",
        b"\xd3\x00\x00\x00\x00\x00\x00\x00\x05",
    ],
)
def test_lengths_in_a_longer_form(data: bytes) -> None:
    with pytest.raises(WireError, match="not the shortest encoding"):
        unpack_plain(data)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\x80", "a map"),
        (b"\x81\x01\x02", "map"),
        (b"\x82\x01\x02\x01\x03", "map"),
        (b"\xdf\xff\xff\xff\xff", "map"),
        (b"\xc7\x00\x05", "extension type 5"),
        (b"\xc7\x00\xff", "not msgpack of ours"),
        (b"\xd4\x05\x00", "not msgpack of ours"),
        (b"\xd6\xff\x00\x00\x00\x00", "not msgpack of ours"),
        (b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", "a float"),
        (b"\x91\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00", "a float"),
        (b"\xca\x7f\xc0\x00\x00", "not the shortest|a float"),
        (b"\xc1", "not msgpack of ours"),
        (b"", "not msgpack of ours"),
        (b"\xa1\xff", "not msgpack of ours"),
        (b"\xa2\xc0\x80", "not msgpack of ours"),
        (b"\xa3\xed\xa0\x80", "not msgpack of ours"),
        (b"\x01\x02", "not msgpack of ours"),
    ],
)
def test_plain_data_has_no_maps_floats_extensions_nor_bad_text(data: bytes, match: str) -> None:
    with pytest.raises(WireError, match=match):
        unpack_plain(data)


@pytest.mark.parametrize("depth", [20, 510, 511, 512, 600, 1023, 1024, 5000, 1_000_000])
def test_depth_bombs(depth: int) -> None:
    """FAULTS 10: whatever its depth, it is refused as data, by a codec too that lets long messages in."""
    codec = Codec[Any]("roomy", {1: Roomy})
    with pytest.raises(WireError) as caught:
        codec.decode(b"\x01" + b"\x91" * depth + b"\x90")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("depth", [2000, 5000, 1_000_000])
def test_plain_data_has_a_greatest_depth(depth: int) -> None:
    assert unpack_plain(b"\x91" * 400 + b"\x90")
    with pytest.raises(WireError, match="not msgpack of ours"):
        unpack_plain(b"\x91" * depth + b"\x90")


@attrs.frozen
class Roomy:
    body: Annotated[bytes, Blob(4 << 20)]


@pytest.mark.parametrize("head", [b"\xdd", b"\xc6", b"\xdb", b"\xdf", b"\xc9"])
@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x10\x00\x00\x00"])
def test_a_promised_length_allocates_nothing(head: bytes, length: bytes) -> None:
    """FAULTS 9: five bytes that promise gigabytes."""
    codec = Codec[Any]("roomy", {1: Roomy})
    data = b"\x01\x91" + head + length + b"abc"
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            codec.decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_a_long_list_is_refused_where_no_list_is_wanted() -> None:
    """A list of a million nothings takes a byte each on the wire and eight in memory."""
    codec = Codec[Any]("roomy", {1: Roomy})
    data = b"\x01\x91\xdd" + (1 << 20).to_bytes(4, "big") + b"\xc0" * (1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            codec.decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_a_refusal_is_short_whatever_was_sent() -> None:
    """Nobody fills our log, nor our memory, through the text of an error."""
    codec = Codec[Any]("deep", {1: Roomy})
    for plain in ([b"x" * (4 << 20) + b"y"], ["x" * (4 << 20)], [[b"x" * 100] * 100], ["\n" * 1000]):
        with pytest.raises(WireError) as caught:
            codec.decode(b"\x01" + pack_plain(plain))
        assert len(str(caught.value)) < 200
        assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------- our own mistakes


@pytest.mark.parametrize(
    "message",
    [
        Ask(-1, True, bytes(32)),
        Ask(2**64, True, bytes(32)),
        Ask(True, True, bytes(32)),
        Ask(1, 1, bytes(32)),  # type: ignore[arg-type]
        Ask(1, True, bytes(31)),
        Ask(1, True, bytearray(32)),  # type: ignore[arg-type]
        attrs.evolve(TELL, note="123456"),
        attrs.evolve(TELL, body=bytes(301)),
        attrs.evolve(TELL, items=(Item("m0", 1),) * 4),
        attrs.evolve(TELL, items=[Item("m0", 1)]),  # type: ignore[arg-type]
        attrs.evolve(TELL, own=Item("M0", 1)),
        attrs.evolve(TELL, own=ASK),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_no_peer_would_take_is_not_encoded(message: Any) -> None:
    with pytest.raises(AssertionError):
        CODEC.encode(message)


def test_a_message_longer_than_the_codec_takes_is_not_encoded() -> None:
    with pytest.raises(AssertionError, match="no peer would take a Ask of 38 bytes"):
        Codec[Any]("small", {1: Ask}, bytes_max=20).encode(ASK)


def test_a_message_of_another_codec_is_not_encoded() -> None:
    with pytest.raises(TypeError, match="codec test has no message Item"):
        CODEC.encode(Item("m0", 1))  # type: ignore[arg-type]


def test_a_codec_refuses_classes_that_it_could_not_write() -> None:
    @attrs.frozen
    class Unmarked:
        number: int

    @attrs.frozen(kw_only=True)
    class Named:
        number: U8

    @attrs.frozen
    class Computed:
        number: U8 = attrs.field(init=False, default=3)

    with pytest.raises(TypeError, match=r"Unmarked\.number: the annotation .* does not say how"):
        Codec[Any]("bad", {1: Unmarked})
    for cls in (Named, Computed):
        with pytest.raises(TypeError, match="is given by its position"):
            Codec[Any]("bad", {1: cls})
    with pytest.raises(ValueError, match="under two tags"):
        Codec[Any]("bad", {1: Ask, 2: Ask})
    for tag in (-1, 256):
        with pytest.raises(ValueError, match="a tag is one byte"):
            Codec[Any]("bad", {tag: Ask})
    for bits in (0, 65):
        with pytest.raises(ValueError):
            Uint(bits)


# ------------------------------------------------------------------------------------------------- lengths


@pytest.mark.parametrize(
    ("field", "longest"),
    [
        *((Uint(bits), (1 << bits) - 1) for bits in (8, 16, 32, 64)),
        (Flag(), True),
        *((Raw(size), bytes(size)) for size in (0, 255, 256, 65535, 65536)),
        *((Blob(size), bytes(size)) for size in (0, 255, 256, 65535, 65536)),
        *((Text(size), "😀" * size) for size in (0, 7, 8, 63, 64, 16384)),
        (Name(), "m" * 32),
        *((Many(Uint(64), size), (2**64 - 1,) * size) for size in (0, 15, 16, 65535, 65536)),
        (Maybe(Raw(32)), bytes(32)),
        (Maybe(Raw(0)), None),
        (Struct(Ask), Ask(2**64 - 1, True, bytes(32))),
        (Struct(Stop), Stop()),
    ],
)
def test_the_stated_length_is_enough_for_the_longest_value(field: Any, longest: object) -> None:
    assert len(pack_plain(field.pack(longest))) <= field.size_max


def test_names() -> None:
    assert is_name("m0")
    assert is_name("a-b_c.9")
    assert is_name("m" * 32)
    for text in ("", "m" * 33, "M0", "m 0", "m/0", "é", "m0\n", "\x00"):
        assert not is_name(text)


@attrs.frozen
class Backwards:
    """A field of someone else's making: text, turned around."""

    def pack(self, value: str) -> str:
        return value[::-1]

    def unpack(self, plain: object) -> str:
        if not isinstance(plain, str):
            raise WireError("no text")
        return plain[::-1]


@attrs.frozen
class Foreign:
    text: Annotated[str, "a remark", Backwards()]
    numbers: Annotated[tuple[int, ...], Many(Uint(8), 200)]


def test_a_field_kind_of_ones_own() -> None:
    codec = Codec[Foreign]("foreign", {1: Foreign})
    message = Foreign("abc" * 1000, (1,) * 200)
    assert codec.decode(codec.encode(message)) == message
    with pytest.raises(WireError, match="no text"):
        codec.decode(b"\x01" + pack_plain([1, []]))
