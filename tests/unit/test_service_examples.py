"""The key-value store and the null service."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bftkit.channel.application import Context
from bftkit.core.wire import WireError
from bftkit.service import Application, checked_service
from bftkit.service.keyvalue import (
    ABSENT,
    DONE,
    NOT_DONE,
    KeyValueStore,
    compare_and_set,
    count,
    delete,
    get,
    parse_done,
    parse_value,
    put,
)
from bftkit.service.null import REPLY_BYTES_MAX, NullService

CONTEXT = Context(b"group")


def chunks(service: Application) -> list[bytes]:
    view = service.snapshot()
    return [view.chunk(index) for index in range(view.count)]


def test_the_store_does_what_its_operations_say() -> None:
    store = checked_service(KeyValueStore)

    def run(operation: bytes) -> bytes:
        return store.apply(operation, CONTEXT)

    assert run(get(b"k")) == ABSENT
    assert run(put(b"k", b"")) == DONE
    assert parse_value(run(get(b"k"))) == b""
    assert run(compare_and_set(b"k", None, b"x")) == NOT_DONE
    assert run(compare_and_set(b"k", b"", b"x")) == DONE
    assert run(compare_and_set(b"k", b"y", b"z")) == NOT_DONE
    assert parse_value(store.read(get(b"k"))) == b"x"
    assert run(compare_and_set(b"new", None, b"n")) == DONE
    assert parse_value(store.read(count())) == b"2"
    assert run(delete(b"k")) == DONE
    assert not parse_done(run(delete(b"k")))
    assert parse_value(run(get(b"k"))) is None
    assert parse_value(run(count())) == b"1"


def test_the_store_comes_back_from_its_chunks() -> None:
    store, other = KeyValueStore(), KeyValueStore()
    for number in range(100):
        store.apply(put(b"k%d" % number, b"v%d" % number), CONTEXT)
    other.apply(put(b"old", b""), CONTEXT)
    other.restore(chunks(store))
    assert chunks(other) == chunks(store)
    assert other.read(get(b"old")) == ABSENT
    assert other.read(get(b"k7")) == b"+v7"


@pytest.mark.parametrize(
    "operation",
    [
        b"",
        b"G",
        b"G\x00",
        b"G\x00\x00",
        b"G\x00\x02k",
        b"G\x00\x01k+",
        b"D\x00\x01k+",
        b"N\x00",
        b"N\x00\x01k",
        b"X\x00\x01k",
        b"C\x00\x01k",
        b"C\x00\x01k\x00\x00\x00",
        b"C\x00\x01k\x00\x00\x00\x05abcd",
        b"\xff" * 20,
    ],
)
def test_malformed_operations_are_refused_and_change_nothing(operation: bytes) -> None:
    store = KeyValueStore()
    store.apply(put(b"k", b"v"), CONTEXT)
    before = chunks(store)
    with pytest.raises(ValueError):
        store.apply(operation, CONTEXT)
    with pytest.raises(ValueError):
        store.read(operation)
    assert chunks(store) == before


@pytest.mark.parametrize("operation", [put(b"k", b"v"), delete(b"k"), compare_and_set(b"k", None, b"")])
def test_what_changes_something_is_no_question(operation: bytes) -> None:
    store = KeyValueStore()
    with pytest.raises(ValueError):
        store.read(operation)
    assert store.read(count()) == b"+0"


def put_nothing(key: bytes) -> bytes:
    return put(key, b"")


def set_if_absent(key: bytes) -> bytes:
    return compare_and_set(key, None, b"")


@pytest.mark.parametrize("make", [get, delete, put_nothing, set_if_absent])
def test_keys_have_a_length(make: Callable[[bytes], bytes]) -> None:
    for key in (b"", bytes(1 << 16)):
        with pytest.raises(ValueError, match="a key has 1 to 65535 bytes"):
            make(key)
    assert make(bytes(65535))


def test_the_store_undoes_what_came_after_the_mark() -> None:
    store = KeyValueStore()
    store.apply(put(b"k", b"v"), CONTEXT)
    before = chunks(store)
    store.mark()
    store.apply(delete(b"k"), CONTEXT)
    store.apply(put(b"l", b"v"), CONTEXT)
    store.undo(None)
    assert chunks(store) == before


def test_the_null_service_counts_and_answers_as_asked() -> None:
    service = checked_service(NullService)
    answers = [b"", b"\x00\x00\x04", (5).to_bytes(4, "big"), (7).to_bytes(4, "big") + bytes(90), bytes(100)]
    assert [len(service.apply(operation, CONTEXT)) for operation in answers] == [0, 0, 5, 7, 0]
    assert service.read(b"") == (5).to_bytes(8, "big")
    assert len(service.apply(REPLY_BYTES_MAX.to_bytes(4, "big"), CONTEXT)) == REPLY_BYTES_MAX
    mark = service.mark()
    with pytest.raises(ValueError, match="at most"):
        service.apply(b"\xff\xff\xff\xff", CONTEXT)
    service.undo(mark)
    assert service.read(b"") == (6).to_bytes(8, "big")
    other = NullService()
    other.restore(chunks(service))
    assert other.count == 6
    for bad in ([], [b""], [bytes(8), bytes(8)]):
        with pytest.raises(WireError):
            other.restore(bad)
