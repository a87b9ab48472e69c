"""Tables: views that stay, digests that are remembered, chunks that are checked (SAFETY rules 10 and 19)."""

from __future__ import annotations

import pytest

from bftkit.core.digest import digest
from bftkit.core.wire import WireError, pack_plain
from bftkit.service import table as table_module
from bftkit.service.table import BUCKETS, PIECE_BYTES, Table, TableView, cut, join


def chunks(view: TableView) -> list[bytes]:
    return [view.chunk(index) for index in range(view.count)]


def leaves(view: TableView) -> list[bytes]:
    return [view.leaf(index) for index in range(view.count)]


def filled(count: int, size: int = 10) -> Table:
    table = Table()
    for number in range(count):
        table.set(b"key %d" % number, bytes([number % 251]) * size)
    return table


def test_it_is_a_mapping() -> None:
    table = Table()
    assert table.get(b"a") is None
    assert not table.delete(b"a")
    table.set(b"b", b"1")
    table.set(b"a", b"2")
    table.set(b"a", b"")
    assert table.get(b"a") == b""
    assert b"a" in table
    assert b"c" not in table
    assert len(table) == 2
    assert list(table) == [b"a", b"b"]
    assert table.delete(b"a")
    assert len(table) == 1
    table.clear()
    assert list(table) == []


@pytest.mark.parametrize(
    ("key", "value"), [("a", b""), (b"", "a"), (bytearray(b"a"), b""), (b"", bytearray()), (1, b"")]
)
def test_only_bytes_go_in(key: object, value: object) -> None:
    with pytest.raises(TypeError, match="a table maps bytes to bytes"):
        Table().set(key, value)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_a_frozen_view_is_not_reached_by_later_writes_and_undos() -> None:
    table = filled(500)
    table.mark()
    table.set(b"key 1", b"before")
    view = table.freeze()
    before = chunks(view)
    table.undo()
    for number in range(500):
        table.set(b"key %d" % number, b"after")
    table.delete(b"key 7")
    assert chunks(view) == before
    # And as late as that, digests are those of the view.
    other = Table()
    other.thaw(before)
    assert leaves(view) == leaves(other.freeze())


def test_only_what_was_written_is_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    table = filled(2000)
    hashed = 0

    def counting(*parts: bytes) -> bytes:
        nonlocal hashed
        hashed += 1
        return digest(*parts)

    monkeypatch.setattr(table_module, "digest", counting)
    first = leaves(table.freeze())
    assert hashed == BUCKETS
    assert leaves(table.freeze()) == first
    assert hashed == BUCKETS
    table.set(b"key 5", b"new")
    second = leaves(table.freeze())
    assert hashed == BUCKETS + 1
    assert sum(one != other for one, other in zip(first, second, strict=True)) == 1
    table.delete(b"key 5")
    table.set(b"key 5", bytes([5]) * 10)
    assert leaves(table.freeze()) == first


def test_a_table_that_was_hashed_and_written_without_a_view_between_forgets_the_digest() -> None:
    table = filled(100)
    restored = Table()
    restored.thaw(chunks(table.freeze()))
    restored.set(b"key 1", b"x")
    table.set(b"key 1", b"x")
    assert leaves(restored.freeze()) == leaves(table.freeze())


def test_large_buckets_are_cut_into_pieces() -> None:
    table = filled(300)
    table.set(b"big", b"\x07" * (3 << 20))
    table.set(b"empty", b"")
    view = table.freeze()
    assert view.count == BUCKETS + 6
    assert max(len(chunk) for chunk in chunks(view)) <= PIECE_BYTES + 1
    other = Table()
    other.thaw(chunks(view))
    assert other.get(b"big") == b"\x07" * (3 << 20)
    assert leaves(other.freeze()) == leaves(view)
    table.set(b"big", b"small")
    assert table.freeze().count == BUCKETS
    assert view.count == BUCKETS + 6


def test_a_large_state_has_many_chunks_and_comes_back() -> None:
    table = filled(64, 1 << 20)
    view = table.freeze()
    parts = chunks(view)
    assert sum(map(len, parts)) > 64 << 20
    assert len(parts) >= 100
    assert max(map(len, parts)) <= 1 << 20
    other = Table()
    other.thaw(parts)
    assert len(other) == 64
    assert all(other.get(b"key %d" % number) == bytes([number]) * (1 << 20) for number in range(64))


def test_pieces_of_a_stream_come_together_again() -> None:
    for data in (b"", b"a", b"abcdefg", bytes(100)):
        for count in (1, 2, 3, 7, 11):
            parts = cut(data, count)
            assert len(parts) == count
            assert join((b"\x00?", *parts, b"\x00!"), 1) == (data, 1 + count)
            if count > 1:
                with pytest.raises(WireError, match="last piece"):
                    join(parts[:-1], 0)


def test_the_journal_holds_what_one_operation_wrote_and_no_more() -> None:
    table = Table()
    for number in range(1000):
        table.set(b"%d" % number, b"")
    assert table._journal is None  # pyright: ignore[reportPrivateUsage]
    for _ in range(3):
        table.mark()
        for number in range(1000):
            table.set(b"the same", b"%d" % number)
        journal = table._journal  # pyright: ignore[reportPrivateUsage]
        assert journal is not None
        assert len(journal) == 1


def test_an_undo_without_a_mark_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="undo without a mark"):
        Table().undo()


def replaced(index: int, pairs: object) -> list[bytes]:
    parts = chunks(filled(300).freeze())
    parts[index] = b"\x00" + pack_plain(pairs)
    return parts


def a_bucket() -> tuple[int, list[bytes]]:
    """A bucket with at least two pairs, as a flat list."""
    table = filled(300)
    for number, bucket in enumerate(table.freeze().buckets):
        if len(bucket.pairs) > 1:
            return number, [item for key in sorted(bucket.pairs) for item in (key, bucket.pairs[key])]
    raise AssertionError


def test_only_chunks_that_a_table_would_make_are_taken() -> None:
    number, flat = a_bucket()
    good = chunks(filled(300).freeze())
    before, after = good[:number], good[number + 1 :]
    assert replaced(number, flat) == good
    bad: dict[str, list[bytes]] = {
        "missing": good[:-1],
        "too many": [*good, b"\x00\x90"],
        "none": [],
        "no list": replaced(number, b"x"),
        "odd": replaced(number, flat[:-1]),
        "no bytes": replaced(number, [*flat[:-1], "text"]),
        "a number": replaced(number, [*flat[:-1], 5]),
        "not sorted": replaced(number, flat[2:] + flat[:2]),
        "twice": replaced(number, flat[:2] + flat),
        "another's key": replaced((number + 1) % BUCKETS, flat),
        "pairs as lists": replaced(number, [flat[:2], flat[2:]]),
        "second encoding": [
            *good[:number],
            b"\x00\xdc\x00" + bytes([len(flat)]) + good[number][2:],
            *good[number + 1 :],
        ],
        "needless piece": [
            *good[:number],
            b"\x01" + good[number][1:5],
            b"\x00" + good[number][5:],
            *good[number + 1 :],
        ],
        "empty chunk": [*before, b"", *after],
        "wrong flag": [*before, b"\x02" + good[number][1:], *after],
    }
    for name, parts in bad.items():
        table = filled(3)
        untouched = chunks(table.freeze())
        try:
            table.thaw(parts)
        except WireError:
            pass
        else:
            pytest.fail(f"taken: {name}")
        assert chunks(table.freeze()) == untouched, name
        assert len(table) == 3, name


def test_pieces_cut_elsewhere_are_refused() -> None:
    table = Table()
    table.set(b"big", bytes(PIECE_BYTES + 100))
    parts = chunks(table.freeze())
    (first,) = [index for index, part in enumerate(parts) if part[:1] == b"\x01"]
    second = parts[first + 1]
    parts[first : first + 2] = [parts[first] + second[1:2], b"\x00" + second[2:]]
    with pytest.raises(WireError, match="not cut as it should be"):
        Table().thaw(parts)
