"""Checkpoints: both stores keep the same promises."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bftkit.core.digest import digest
from bftkit.storage.files import DiskFull, StorageFailed
from bftkit.storage.memory_files import PowerCut
from bftkit.storage.snapshots import ChunkCorrupt, MemorySnapshots, SnapshotCorrupt, SnapshotStore
from bftkit.storage.sqlite_snapshots import SqliteSnapshots, set_database_aside


def named(*chunks: bytes) -> list[tuple[bytes, bytes | None]]:
    return [(digest(chunk), chunk) for chunk in chunks]


A, B, C, D = (letter * 5000 for letter in (b"a", b"b", b"c", b"d"))


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SnapshotStore]:
    made: SnapshotStore
    made = MemorySnapshots() if request.param == "memory" else SqliteSnapshots(tmp_path / "new" / "snapshots")
    yield made
    made.close()


def test_an_empty_store(store: SnapshotStore) -> None:
    assert store.checkpoints() == []
    assert store.latest() is None
    assert store.damaged_slots() == []
    assert store.chunk(digest(A)) is None
    assert not store.has(digest(A))
    store.drop_below(5)


def test_what_is_saved_comes_back(store: SnapshotStore) -> None:
    store.save(10, b"ten", named(A, B, b""))
    assert store.checkpoints() == [(10, b"ten")]
    assert store.latest() == (10, b"ten")
    assert [store.chunk(digest(chunk)) for chunk in (A, B, b"", C)] == [A, B, b"", None]
    assert store.has(digest(A))
    assert not store.has(digest(C))


def test_the_last_two_are_kept_with_the_chunks_that_they_need(store: SnapshotStore) -> None:
    store.save(10, b"ten", named(A, B))
    store.save(20, b"twenty", [(digest(B), None), *named(C)])
    assert store.checkpoints() == [(10, b"ten"), (20, b"twenty")]
    assert store.has(digest(A))
    store.save(30, b"thirty", named(C, D))
    assert store.checkpoints() == [(20, b"twenty"), (30, b"thirty")]
    assert [store.has(digest(chunk)) for chunk in (A, B, C, D)] == [False, True, True, True]
    store.drop_below(30)
    assert store.checkpoints() == [(30, b"thirty")]
    assert [store.has(digest(chunk)) for chunk in (A, B, C, D)] == [False, False, True, True]


def test_a_checkpoint_can_be_saved_again(store: SnapshotStore) -> None:
    store.save(10, b"ten", named(A, B))
    store.save(10, b"ten, certified", named(B, C))
    assert store.checkpoints() == [(10, b"ten, certified")]
    assert [store.has(digest(chunk)) for chunk in (A, B, C)] == [False, True, True]


def test_who_goes_back_forgets_what_is_above(store: SnapshotStore) -> None:
    """A state of a later epoch, whose hand-overs are lost, is of no use; the next restart must not find it newest."""
    store.save(10, b"ten", named(A, B))
    store.save(20, b"twenty", named(B, C))
    store.save(9, b"nine", named(B, D))
    assert store.checkpoints() == [(9, b"nine")]
    assert [store.has(digest(chunk)) for chunk in (A, B, C, D)] == [False, True, False, True]
    store.save(10, b"ten again", named(A))
    assert store.checkpoints() == [(9, b"nine"), (10, b"ten again")]


def test_wrong_checkpoints_are_refused_and_change_nothing(store: SnapshotStore) -> None:
    store.save(10, b"ten", named(A))
    with pytest.raises(ValueError, match="match"):
        store.save(11, b"eleven", [*named(B), (digest(C), D)])
    with pytest.raises(ValueError, match="without its bytes"):
        store.save(11, b"eleven", [*named(B), (digest(C), None)])
    assert store.checkpoints() == [(10, b"ten")]
    assert not store.has(digest(B))


def test_other_names_for_chunks_can_be_chosen(tmp_path: Path) -> None:
    def leaf(data: bytes) -> bytes:
        return digest(b"leaf", data)

    for chosen in (MemorySnapshots(digest_of=leaf), SqliteSnapshots(tmp_path / "s", digest_of=leaf)):
        chosen.save(1, b"m", [(leaf(A), A)])
        assert chosen.chunk(leaf(A)) == A
        chosen.close()


# --- memory --------------------------------------------------------------------------------------------------------


def test_memory_a_save_is_whole_or_not_at_all() -> None:
    store = MemorySnapshots()
    store.save(1, b"one", named(A))

    def cut(operation: str) -> None:
        raise PowerCut

    store.before = cut
    with pytest.raises(PowerCut):
        store.save(2, b"two", named(B))
    store.before = None
    store.crash()
    assert store.checkpoints() == [(1, b"one")]
    assert not store.has(digest(B))
    store.save(2, b"two", named(B))
    store.crash()
    assert store.checkpoints() == [(1, b"one"), (2, b"two")]
    store.lying = True
    store.save(3, b"three", named(C))
    store.crash()
    assert store.checkpoints() == [(1, b"one"), (2, b"two")]


def test_memory_faults() -> None:
    store = MemorySnapshots(capacity=6000)
    store.save(1, b"one", named(A))
    with pytest.raises(DiskFull):
        store.save(2, b"two", named(B))
    assert store.checkpoints() == [(1, b"one")]
    store.capacity = None
    store.save(2, b"two", named(B))
    store.flip_chunk(digest(B), 77)
    with pytest.raises(ChunkCorrupt):
        store.chunk(digest(B))
    assert not store.has(digest(B))
    with pytest.raises(ValueError, match="without its bytes"):
        store.save(3, b"three", [(digest(B), None)])
    store.save(3, b"three", named(B))
    assert store.chunk(digest(B)) == B
    store.flip_manifest(3, 0)
    assert store.checkpoints() == [(2, b"two")]
    assert store.damaged_slots() == [3]
    store.fail_saves = 1
    for _ in range(2):
        with pytest.raises(StorageFailed):
            store.save(4, b"four", named(D))


# --- SQLite --------------------------------------------------------------------------------------------------------


def test_sqlite_keeps_across_reopening_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "snapshots"
    store = SqliteSnapshots(path)
    store.save(10, b"ten", named(A, B))
    store.close()
    assert path.stat().st_mode & 0o777 == 0o600
    store = SqliteSnapshots(path)
    assert store.latest() == (10, b"ten")
    assert store.chunk(digest(B)) == B
    store.close()


def test_sqlite_writes_only_what_is_new(tmp_path: Path) -> None:
    store = SqliteSnapshots(tmp_path / "s")
    state = [b"%6d" % number * 10_000 for number in range(50)]
    store.save(1, b"one", named(*state))
    watcher = sqlite3.connect(tmp_path / "s")
    rows = "select digest, rowid from chunks"
    before = dict(watcher.execute(rows).fetchall())
    state[7] = b"changed"
    store.save(2, b"two", named(*state))
    after = dict(watcher.execute(rows).fetchall())
    watcher.close()
    store.close()
    assert {name for name in after if after[name] != before.get(name)} == {digest(b"changed")}
    assert len(after) == 51


def test_sqlite_moves_each_save_out_of_the_write_ahead_log(tmp_path: Path) -> None:
    """There a flipped bit would silently drop the save; in the database it is found (SAFETY rule 15)."""
    store = SqliteSnapshots(tmp_path / "s")
    store.save(1, b"one", named(A, B))
    assert (tmp_path / "s-wal").stat().st_size == 0
    assert A[:1000] in (tmp_path / "s").read_bytes()
    store.close()


def test_sqlite_never_hands_out_a_damaged_chunk_or_manifest(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = SqliteSnapshots(path)
    store.save(1, b"older manifest", named(A))
    store.save(2, b"newer manifest", named(A, B))
    store.close()
    intact = path.read_bytes()
    places = {b"b" * 100: intact.index(b"b" * 100), b"newer manifest": intact.index(b"newer manifest")}
    for what, at in places.items():
        data = bytearray(intact)
        data[at] ^= 1
        path.write_bytes(data)
        store = SqliteSnapshots(path)
        if what == b"newer manifest":
            assert store.latest() == (1, b"older manifest")
            assert store.damaged_slots() == [2]
        else:
            with pytest.raises(ChunkCorrupt) as caught:
                store.chunk(digest(B))
            assert caught.value.digest == digest(B)
            assert not store.has(digest(B))
            store.save(2, b"newer manifest", named(A, B))
            assert store.chunk(digest(B)) == B
        store.close()


def test_sqlite_a_damaged_index_is_refused_before_a_save_is_lost_in_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = SqliteSnapshots(path)
    store.save(1, b"one", named(A, B))
    store.close()
    intact = path.read_bytes()
    found = 0
    at = intact.find(digest(A))
    while at >= 0:  # in the table, in its index, and in the list of what the checkpoint needs
        data = bytearray(intact)
        data[at + 3] ^= 1
        path.write_bytes(data)
        with pytest.raises(SnapshotCorrupt):
            SqliteSnapshots(path)
        found += 1
        at = intact.find(digest(A), at + 1)
    assert found >= 3


def test_sqlite_flips_anywhere_never_yield_wrong_bytes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = SqliteSnapshots(path)
    store.save(1, b"older manifest", named(A))
    store.save(2, b"newer manifest", named(A, B))
    store.close()
    intact = path.read_bytes()
    wrong = found = 0
    for bit in range(3, len(intact) * 8, len(intact) * 8 // 400):
        data = bytearray(intact)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            store = SqliteSnapshots(path)
        except (SnapshotCorrupt, StorageFailed):
            found += 1
            continue
        try:
            wrong += store.chunk(digest(A)) not in (A, None) or store.chunk(digest(B)) not in (B, None)
            wrong += any(pair not in ((1, b"older manifest"), (2, b"newer manifest")) for pair in store.checkpoints())
        except (SnapshotCorrupt, StorageFailed):
            found += 1
        finally:
            store.close()
    assert wrong == 0
    assert found > 0


def test_sqlite_garbage_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(SnapshotCorrupt):
        SqliteSnapshots(path)
    set_database_aside(path)
    store = SqliteSnapshots(path)
    assert store.checkpoints() == []
    store.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s", "s.aside"]
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("pragma user_version = 99")
    database.close()
    with pytest.raises(SnapshotCorrupt, match="format 99"):
        SqliteSnapshots(path)


def test_sqlite_full_disk_changes_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = SqliteSnapshots(path)
    store.save(1, b"one", named(A))
    store.limit_pages(8)
    big = b"z" * 1_000_000
    with pytest.raises(DiskFull):
        store.save(2, b"two", named(A, big))
    assert store.checkpoints() == [(1, b"one")]
    assert not store.has(digest(big))
    store.limit_pages(1 << 30)
    store.save(2, b"two", named(A, big))
    assert store.chunk(digest(big)) == big
    store.close()


def test_sqlite_reads_do_not_wait_for_a_save(tmp_path: Path) -> None:
    store = SqliteSnapshots(tmp_path / "s")
    store.save(1, b"one", named(A))
    reads: list[object] = []

    def slow_chunks() -> Iterator[tuple[bytes, bytes | None]]:
        yield digest(B), B
        reader = threading.Thread(
            target=lambda: reads.extend([store.chunk(digest(A)), store.latest(), store.has(digest(B))])
        )
        reader.start()
        reader.join()
        yield digest(C), C

    store.save(2, b"two", slow_chunks())
    assert reads == [A, (1, b"one"), False]
    assert store.has(digest(B))
    store.close()


def test_hand_overs_are_kept_whatever_becomes_of_checkpoints(store: SnapshotStore) -> None:
    assert store.links() == []
    store.keep_link(1, b"second")
    store.keep_link(0, b"first")
    for slot in (10, 20, 30):
        store.save(slot, b"manifest", named(A))
    store.drop_below(30)
    store.keep_link(1, b"second, again")
    assert store.links() == [b"first", b"second, again"]


def test_a_hand_over_that_was_damaged_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "snapshots"
    store = SqliteSnapshots(path)
    for epoch in range(3):
        store.keep_link(epoch, b"link %d" % epoch)
    store.close()
    with sqlite3.connect(path) as database:
        database.execute("update links set bytes = x'00' where epoch = 1")
        database.execute("update links set epoch = 9 where epoch = 2")
    database.close()
    store = SqliteSnapshots(path)
    assert store.links() == [b"link 0"]
    store.close()


def test_a_database_from_before_there_were_epochs_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "snapshots"
    store = SqliteSnapshots(path)
    store.save(10, b"ten", named(A))
    store.close()
    with sqlite3.connect(path) as database:
        database.execute("drop table links")
    database.close()
    store = SqliteSnapshots(path)
    store.keep_link(0, b"first")
    assert (store.checkpoints(), store.links()) == ([(10, b"ten")], [b"first"])
    store.close()


def test_links_of_a_simulated_disk_survive_a_power_cut() -> None:
    store = MemorySnapshots()
    store.keep_link(0, b"first")
    store.lying = True
    store.keep_link(1, b"second")
    store.crash()
    assert store.links() == [b"first"]
