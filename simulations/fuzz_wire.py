"""Throws mutated bytes at a codec: each must be refused with a `WireError`, or be the one encoding of a message.

    python simulations/fuzz_wire.py                                 # a codec with every kind of field
    python simulations/fuzz_wire.py --codec pbft                    # the messages of an installed protocol
    python simulations/fuzz_wire.py --codec package.module:CODEC    # any codec
    python simulations/fuzz_wire.py --inputs 1000000 --seed 7 --json

Inputs come of random valid messages (built from the codec's own field kinds) in three ways: bytes are flipped,
cut, doubled, inserted and spliced; values in the structure are replaced by strange ones (FAULTS 10: depth, extension
types, maps with duplicate keys, wrong types, integers and lengths in a longer form, NaN, text that is not UTF-8,
lengths that promise gigabytes); and some are random from the first byte. One seed gives the same inputs everywhere.

Exit code 0: every input was refused or accepted properly. 1: one was not, and it is printed as hex.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from random import Random
from time import perf_counter
from typing import Annotated, Any, Final, TypeAlias, cast

import attrs

from bftkit.core.plugin import UnknownProtocol, load_protocol
from bftkit.core.wire import (
    U8,
    U16,
    U32,
    U64,
    Blob,
    Bool,
    Codec,
    Digest32,
    Field,
    Flag,
    Many,
    Maybe,
    Member,
    Name,
    Raw,
    Signature64,
    Struct,
    Text,
    Uint,
    WireError,
    pack_plain,
    unpack_plain,
)

# ------------------------------------------------------------------------------------------------- a codec to try


@attrs.frozen
class Empty:
    """No field at all."""


@attrs.frozen
class Flat:
    """What most messages look like."""

    view: U64
    slot: U64
    digest: Digest32
    sender: Member
    signature: Signature64


@attrs.frozen
class Ballot:
    """Part of a `Nested`."""

    member: Member
    round: U32
    final: Bool


@attrs.frozen
class Nested:
    """Every kind of field, and lists in lists."""

    small: U8
    middle: U16
    payload: Annotated[bytes, Blob(300)]
    note: Annotated[str, Text(40)]
    ballots: Annotated[tuple[Ballot, ...], Many(Struct(Ballot), 8)]
    rows: Annotated[tuple[tuple[int, ...], ...], Many(Many(Uint(16), 4), 4)]
    parent: Annotated[bytes | None, Maybe(Raw(32))]
    best: Annotated[Ballot | None, Maybe(Struct(Ballot))]
    own: Ballot


EveryKind: TypeAlias = Empty | Flat | Nested

EVERY_KIND: Final = Codec[EveryKind]("every-kind", {0: Empty, 1: Flat, 200: Nested})


# ------------------------------------------------------------------------------------------------- valid messages


def random_message(codec: Codec[Any], random: Random) -> Any:
    """Any message of the codec, its values drawn towards the ends of their ranges."""
    tag = random.choice(sorted(codec.messages))
    return _value(Struct(codec.messages[tag]), random)


def _value(field: Field, random: Random) -> Any:
    match field:
        case Uint(bits):
            return random.choice((0, 1, (1 << bits) - 1, random.getrandbits(bits), random.getrandbits(bits) % 300))
        case Flag():
            return random.random() < 0.5
        case Raw(size):
            return random.randbytes(size)
        case Blob(maximum):
            return random.randbytes(_length(maximum, random))
        case Text(maximum):
            return "".join(random.choice("az09 \x00é€😀") for _ in range(_length(maximum, random)))
        case Name():
            return "".join(random.choice("abz059_-.") for _ in range(max(1, _length(32, random))))
        case Many(item, maximum):
            return tuple(_value(item, random) for _ in range(min(_length(maximum, random), 20)))
        case Maybe(item):
            return None if random.random() < 0.5 else _value(item, random)
        case Struct():
            return field.cls(*(_value(item, random) for item in field.fields))
        case _:
            raise TypeError(f"no values are known for a field of kind {type(field).__name__}")


def _length(maximum: int, random: Random) -> int:
    return min(maximum, random.choice((0, 1, 5, 31, 32, 255, 256, random.randrange(1000), maximum % 70000)))


# ------------------------------------------------------------------------------------------------- mutations

STRANGE: Final[tuple[bytes, ...]] = (
    b"\xc0",  # nil
    b"\xc1",  # never used in msgpack
    b"\xc2",
    b"\xc3",  # truth values where numbers belong
    b"\xcc\x05",  # 5 in two, three, five and nine bytes
    b"\xcd\x00\x05",
    b"\xce\x00\x00\x00\x05",
    b"\xcf\x00\x00\x00\x00\x00\x00\x00\x05",
    b"\xd0\x05",  # 5 as a signed number
    b"\xd3\x00\x00\x00\x00\x00\x00\x00\x05",
    b"\xff",  # -1
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xca\x7f\xc0\x00\x00",  # NaN in four bytes
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # NaN in eight
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x01",  # another NaN
    b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",  # infinity
    b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00",  # 1.0
    b"\xcb\x80\x00\x00\x00\x00\x00\x00\x00",  # -0.0
    b"\x80",  # maps: empty, of one key, of the same key twice, of another size form
    b"\x81\x01\x02",
    b"\x82\x01\x02\x01\x03",
    b"\x82\xa1a\x02\xa1a\x03",
    b"\xde\x00\x00",
    b"\xdf\xff\xff\xff\xff",
    b"\xd4\x05\x00",  # extension types, a timestamp among them
    b"\xd6\xff\x00\x00\x00\x00",
    b"\xc7\x00\x05",
    b"\xc7\x0c\xff" + bytes(12),
    b"\xc9\xff\xff\xff\xff\x01",
    b"\x90",
    b"\x91\x90",
    b"\xdc\x00\x00",  # an empty list in a longer form
    b"\xdd\x00\x00\x00\x00",
    b"\xdc\xff\xff",  # lengths that promise more than there is
    b"\xdd\xff\xff\xff\xff",
    b"\xdd\x7f\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc6\x7f\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc4\x00",
    b"\xc5\x00\x01a",  # bytes in a longer form
    b"\xc6\x00\x00\x00\x01a",
    b"\xc4\x20" + bytes(32),
    b"\xc4\x21" + bytes(33),
    b"\xa0",
    b"\xa1a",
    b"\xd9\x01a",  # text in a longer form
    b"\xa1\xff",  # text that is not UTF-8: a stray byte, an overlong form, half a surrogate pair
    b"\xa2\xc0\x80",
    b"\xa3\xed\xa0\x80",
    b"\xa4\xf4\x90\x80\x80",
    b"\xa2m0",
    b"\xa2M0",
    b"\xd9\x21" + b"m" * 33,
    b"\x91" * 20 + b"\x90",  # depth
    b"\x91" * 600 + b"\x90",
    b"\x91" * 5000 + b"\x90",
    b"\x81\x01" * 3000,
)
"""Values that a field refuses, or that are another encoding of a value."""


def mutated(codec: Codec[Any], random: Random) -> Iterator[bytes]:
    """Mutated encodings, without end."""
    pool = [codec.encode(random_message(codec, random)) for _ in range(64)]
    while True:
        if random.random() < 0.02:
            pool[random.randrange(len(pool))] = codec.encode(random_message(codec, random))
        data = random.choice(pool)
        way = random.random()
        if way < 0.05:
            yield random.randbytes(_length(400, random))
        elif way < 0.45:
            yield data[:1] + _restructured(unpack_plain(data[1:]), random)
        else:
            for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
                data = random.choice(_ON_BYTES)(data, random.choice(pool), random)
            yield data


def _restructured(plain: object, random: Random) -> bytes:
    """The encoding of a plain value in which one value became strange, or one list lost or won an item."""
    if not isinstance(plain, tuple) or random.random() < 0.1:
        return random.choice(STRANGE)
    plains = cast("tuple[object, ...]", plain)
    items = [pack_plain(item) for item in plains]
    at = random.randrange(len(items) + 1)
    what = random.random()
    if what < 0.1 or at == len(items):
        items.insert(at, random.choice(STRANGE))
    elif what < 0.2:
        del items[at]
    elif what < 0.3:
        items[at] = random.choice(items)
    else:
        items[at] = _restructured(plains[at], random)
    form = random.random()
    if len(items) < 16 and form < 0.95:
        head = bytes([0x90 | len(items)])
    elif form < 0.98:
        head = b"\xdc" + len(items).to_bytes(2, "big")
    else:
        head = b"\xdd" + len(items).to_bytes(4, "big")
    return head + b"".join(items)


def _flip(data: bytes, _: bytes, random: Random) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _overwrite(data: bytes, _: bytes, random: Random) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + random.randbytes(1) + data[at + 1 :]


def _cut(data: bytes, _: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _drop(data: bytes, _: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at + random.choice((1, 1, 2, 9)) :]


def _insert(data: bytes, _: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice((random.randbytes(1), random.choice(STRANGE))) + data[at:]


def _append(data: bytes, other: bytes, random: Random) -> bytes:
    return data + random.choice((b"\x00", b"\xc0", other, random.choice(STRANGE)))


def _double(data: bytes, _: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at : at + random.randrange(1, 40)] + data[at:]


def _splice(data: bytes, other: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


_ON_BYTES: Final[Sequence[Callable[[bytes, bytes, Random], bytes]]] = (
    _flip, _flip, _overwrite, _cut, _drop, _insert, _append, _double, _splice,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------- the check

ERROR_LENGTH_MAX: Final = 300
"""No refusal says more than so many characters, whatever was sent: the log is not the sender's."""


def accepts(codec: Codec[Any], data: bytes) -> bool:
    """Whether the codec takes these bytes. Raises `AssertionError` if it takes or refuses them in a wrong way."""
    try:
        message = codec.decode(data)
    except WireError as error:
        if len(str(error)) > ERROR_LENGTH_MAX:
            raise AssertionError(f"the refusal has {len(str(error))} characters") from error
        return False
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} instead of a WireError: {error!s:.200}") from error
    again = codec.encode(message)
    if again != data:
        raise AssertionError(f"a second encoding was accepted: {again.hex()} is the first")
    return True


@attrs.frozen
class Report:
    """What became of the inputs."""

    codec: str
    inputs: int
    seed: int
    accepted: int
    refused: int
    failed: tuple[str, ...]
    """A line for each of the first ten inputs that went wrong, with its bytes."""
    seconds: float


def fuzz(codec: Codec[Any], inputs: int, seed: int) -> Report:
    """Try so many inputs."""
    began = perf_counter()
    stream = mutated(codec, Random(seed))
    accepted = refused = 0
    failed: list[str] = []
    for _ in range(inputs):
        data = next(stream)
        try:
            if accepts(codec, data):
                accepted += 1
            else:
                refused += 1
        except AssertionError as error:
            failed.append(f"{error}: {data.hex()}")
            if len(failed) == 10:
                break
    seconds = round(perf_counter() - began, 1)
    return Report(codec.name, accepted + refused + len(failed), seed, accepted, refused, tuple(failed), seconds)


def find_codec(name: str) -> Codec[Any]:
    """The codec of an installed protocol, or ``package.module:ATTRIBUTE``. Raises `LookupError` or `ImportError`."""
    module, colon, attribute = name.partition(":")
    if not colon:
        return load_protocol(name).codec
    codec: object = getattr(import_module(module), attribute, None)
    if not isinstance(codec, Codec):
        raise LookupError(f"{name} is not a codec")
    return codec  # pyright: ignore[reportUnknownVariableType]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Throw mutated bytes at a codec.")
    parser.add_argument("--codec", help="an installed protocol, or package.module:ATTRIBUTE (default: every kind)")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    options = parser.parse_args(arguments)
    try:
        codec = find_codec(options.codec) if options.codec else EVERY_KIND
    except (UnknownProtocol, LookupError, ImportError, TypeError) as error:
        parser.error(str(error))
    report = fuzz(codec, options.inputs, options.seed)
    if options.json:
        print(json.dumps({"event": "result", **attrs.asdict(report)}))
    else:
        print(
            f"{report.codec}: {report.inputs} inputs of seed {report.seed} in {report.seconds} s: "
            f"{report.refused} refused, {report.accepted} accepted as the encoding of a message, "
            f"{len(report.failed)} failed"
        )
        for line in report.failed:
            print(f"  {line}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
