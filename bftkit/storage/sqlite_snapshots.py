"""Checkpoints in an SQLite database, through the standard library.

One transaction a checkpoint, with `synchronous=FULL`; the write-ahead log lets chunks be read (a member that fetches
the state must not wait) while a worker thread saves the next checkpoint. After each save the write-ahead log is
moved into the database itself: SQLite takes a flipped bit in that log for its torn end and silently drops what
follows, which is why no vote is ever kept here (SAFETY rule 15). In the database a flipped bit is found by the
digests of chunks and manifests, which SQLite does not check by itself.

Any thread may call any method. Saves exclude each other, and so do reads, but a read does not wait for a save.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bftkit.core.digest import digest
from bftkit.storage.files import DiskFull, StorageBusy, StorageError, StorageFailed
from bftkit.storage.snapshots import (
    KEPT_DEFAULT,
    Checkpoint,
    ChunkCorrupt,
    Chunks,
    SnapshotCorrupt,
    SnapshotStore,
)

_FORMAT: Final = 1
_SCHEMA: Final = f"""
begin immediate;
create table if not exists chunks (digest blob primary key, bytes blob not null);
create table if not exists checkpoints (slot integer primary key, manifest blob not null, digest blob not null);
create table if not exists contents (
    slot integer not null, digest blob not null, primary key (slot, digest)
) without rowid;
create index if not exists contents_by_digest on contents (digest);
pragma user_version = {_FORMAT};
commit;
"""
_LINKS: Final = (
    "create table if not exists links (epoch integer primary key, bytes blob not null, digest blob not null)"
)
"""Came later; who does not know it leaves it alone."""
_UNNEEDED: Final = "delete from chunks where digest not in (select digest from contents)"
_WAIT_MS: Final = 5000


def _translated(what: str, error: sqlite3.Error) -> StorageError:
    """Our exception for one of SQLite's (by its primary result code)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    text = f"{what}: {error}"
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(text)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageBusy(text)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return SnapshotCorrupt(text)
    return StorageFailed(text)


def set_database_aside(path: str | os.PathLike[str]) -> None:
    """Put a damaged database out of the way, under its name with `.aside`, so that a new one can be made.

    The member has then no checkpoint and fetches one from the group; its votes are in the log. Raises `StorageFailed`.
    """
    path = Path(path)
    try:
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.replace(path.with_name(path.name + ".aside"))
    except OSError as error:
        raise StorageFailed(f"setting {path} aside: {error.strerror}") from error


def _seal(slot: int, manifest: bytes) -> bytes:
    """Digest by which damage to a row of `checkpoints` or `links` is found, its number included."""
    return digest(slot.to_bytes(8, "big", signed=True), manifest)


def _is_link(epoch: object, link: object) -> bool:
    """Whether damage has left the types as they were."""
    return isinstance(epoch, int) and isinstance(link, bytes)


class SqliteSnapshots(SnapshotStore):
    """See the module's text and `SnapshotStore`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kept: int = KEPT_DEFAULT,
        digest_of: Callable[[bytes], bytes] = digest,
    ) -> None:
        """Open the database at `path`, or make it (with its folder, mode 0700; the file has mode 0600).

        Reads all of an existing one to see that its structure is sound (a second for some gigabytes in the cache).
        `kept`: how many checkpoints to keep. `digest_of`: how chunks are named. Raises `SnapshotCorrupt`,
        `StorageFailed`, `DiskFull`.
        """
        self._path = Path(path)
        self._kept = kept
        self._digest_of = digest_of
        self._failure: StorageFailed | None = None
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._damaged: set[bytes] = set()
        self._make_file()
        opened: list[sqlite3.Connection] = []
        try:
            with self._translating("opening"):
                opened.append(self._connect())
                opened.append(self._connect())
                writer, reader = opened
                (version,) = writer.execute("pragma user_version").fetchone()
                if version not in (0, _FORMAT):
                    raise SnapshotCorrupt(f"{self._path} has format {version}; this program reads {_FORMAT}")
                if version == 0:
                    writer.executescript(_SCHEMA)
                writer.execute(_LINKS)
                # A damaged tree can take a save and then not find it, so nothing is built on one.
                (found,) = writer.execute("pragma integrity_check(1)").fetchone()
                if found != "ok":
                    raise SnapshotCorrupt(f"{self._path} is damaged: {found}")
                reader.execute("pragma query_only = on")
        except StorageError:
            for connection in opened:
                connection.close()
            raise
        self._writer, self._reader = writer, reader

    def _make_file(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                return
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StorageFailed(f"making {self._path}: {error.strerror}") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"pragma busy_timeout = {_WAIT_MS}")
            connection.execute("pragma page_size = 16384")
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _translating(self, what: str) -> Generator[None]:
        if self._failure is not None:
            raise StorageFailed(f"the store has stopped: {self._failure}") from self._failure
        try:
            yield
        except sqlite3.Error as error:
            translated = _translated(f"{what} {self._path}", error)
            if isinstance(translated, StorageFailed):
                self._failure = translated
            raise translated from error
        except UnicodeDecodeError as error:  # a message of SQLite's that quotes damaged bytes
            raise SnapshotCorrupt(f"{what} {self._path}: the database is damaged") from error

    @contextmanager
    def _transaction(self, what: str) -> Generator[sqlite3.Connection]:
        with self._write_lock, self._translating(what):
            self._writer.execute("begin immediate")
            try:
                yield self._writer
                self._writer.execute("commit")
            except BaseException:
                if self._writer.in_transaction:  # SQLite itself rolls back after some errors
                    self._writer.execute("rollback")
                raise
            self._writer.execute("pragma wal_checkpoint(truncate)").fetchall()

    def save(self, slot: int, manifest: bytes, chunks: Chunks) -> None:
        """See `SnapshotStore`."""
        with self._transaction("saving to") as database:
            database.execute("delete from contents where slot >= ?", (slot,))
            database.execute("delete from checkpoints where slot > ?", (slot,))
            row = (slot, manifest, _seal(slot, manifest))
            database.execute("insert or replace into checkpoints values (?, ?, ?)", row)
            brought: set[bytes] = set()
            for name, data in chunks:
                if data is not None:
                    brought.add(name)
                self._save_chunk(database, name, data)
                database.execute("insert or ignore into contents values (?, ?)", (slot, name))
            slots = [row[0] for row in database.execute("select slot from checkpoints order by slot")]
            self._forget(database, slots[: -self._kept])
        self._damaged -= brought

    def _save_chunk(self, database: sqlite3.Connection, name: bytes, data: bytes | None) -> None:
        there = database.execute("select 1 from chunks where digest = ?", (name,)).fetchone() is not None
        if data is None:
            if not there or name in self._damaged:
                raise ValueError(f"chunk {name.hex()} was given without its bytes and is not kept")
        elif self._digest_of(data) != name:
            raise ValueError(f"the bytes of chunk {name.hex()} do not match its digest")
        elif not there or name in self._damaged:
            database.execute("insert or replace into chunks values (?, ?)", (name, data))

    @staticmethod
    def _forget(database: sqlite3.Connection, slots: list[int]) -> None:
        for slot in slots:
            database.execute("delete from checkpoints where slot = ?", (slot,))
            database.execute("delete from contents where slot = ?", (slot,))
        database.execute(_UNNEEDED)

    def _manifests(self) -> list[tuple[int, bytes, bool]]:
        with self._read_lock, self._translating("reading"):
            query = "select slot, manifest, digest from checkpoints order by slot"
            rows = self._reader.execute(query).fetchall()
        if not all(isinstance(slot, int) for slot, _, _ in rows):
            raise SnapshotCorrupt(f"{self._path}: the table of checkpoints is damaged")
        good = [isinstance(manifest, bytes) and _seal(slot, manifest) == name for slot, manifest, name in rows]
        return [(slot, manifest, fine) for (slot, manifest, _), fine in zip(rows, good, strict=True)]

    def checkpoints(self) -> list[Checkpoint]:
        """See `SnapshotStore`."""
        return [(slot, manifest) for slot, manifest, good in self._manifests() if good]

    def latest(self) -> Checkpoint | None:
        """See `SnapshotStore`."""
        return next(reversed(self.checkpoints()), None)

    def damaged_slots(self) -> list[int]:
        """See `SnapshotStore`."""
        return [slot for slot, _, good in self._manifests() if not good]

    def chunk(self, name: bytes) -> bytes | None:
        """See `SnapshotStore`."""
        with self._read_lock, self._translating("reading"):
            row = self._reader.execute("select bytes from chunks where digest = ?", (name,)).fetchone()
        if row is None:
            return None
        data: object = row[0]
        if not isinstance(data, bytes) or self._digest_of(data) != name:  # damage may have changed the type too
            self._damaged.add(name)
            raise ChunkCorrupt(name)
        return data

    def has(self, name: bytes) -> bool:
        """See `SnapshotStore`."""
        with self._read_lock, self._translating("reading"):
            row = self._reader.execute("select 1 from chunks where digest = ?", (name,)).fetchone()
        return row is not None and name not in self._damaged

    def drop_below(self, slot: int) -> None:
        """See `SnapshotStore`."""
        with self._transaction("writing to") as database:
            rows = database.execute("select slot from checkpoints where slot < ?", (slot,))
            self._forget(database, [row[0] for row in rows])

    def keep_link(self, epoch: int, link: bytes) -> None:
        """See `SnapshotStore`."""
        with self._transaction("writing to") as database:
            database.execute("insert or replace into links values (?, ?, ?)", (epoch, link, _seal(epoch, link)))

    def links(self) -> list[bytes]:
        """See `SnapshotStore`."""
        with self._read_lock, self._translating("reading"):
            rows = self._reader.execute("select epoch, bytes, digest from links order by epoch").fetchall()
        return [link for epoch, link, name in rows if _is_link(epoch, link) and _seal(epoch, link) == name]

    def limit_pages(self, pages: int) -> None:
        """Let the database have at most this many pages of 16 KiB; a save that needs more raises `DiskFull`.

        It never shrinks below its present size.
        """
        with self._write_lock, self._translating("limiting"):
            self._writer.execute(f"pragma max_page_count = {pages:d}").fetchall()

    def close(self) -> None:
        """See `SnapshotStore`."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()
