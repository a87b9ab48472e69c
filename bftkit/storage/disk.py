"""The real disk below the log: plain system calls, each with its error told apart.

`fdatasync` on Linux; where it is missing (macOS), `F_FULLFSYNC` or `fsync`. Files have mode 0600 and the directory
0700: the log holds requests of clients. This is a driver, the only part of the log that imports `os`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bftkit.storage.files import AppendFile, Directory, DiskFull, StorageBusy, StorageFailed

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
_CLOSE_ON_EXEC: Final = getattr(os, "O_CLOEXEC", 0)
_LOCK_NAME: Final = ".lock"
_TEMPORARY: Final = ".new"


def _sync_data(descriptor: int) -> None:
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:  # pragma: no cover
        fcntl.fcntl(descriptor, full_sync)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:  # pragma: no cover
        os.fsync(descriptor)


@contextmanager
def _failing(what: str) -> Generator[None]:
    """Turns an error of the system into one of ours. A missing or existing file stays what it is."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFull(f"{what}: {error.strerror}") from error
        raise StorageFailed(f"{what}: {error.strerror}") from error


def _write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    if written < len(data):
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


class DiskDirectory(Directory):
    """A `Directory` of the file system. Made on disk, with mode 0700, when the first file is."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """`path`: the folder; it need not exist."""
        self._path = Path(path)
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    def lock(self) -> None:
        """Keep every other process out until `unlock` or the end of this one.

        Two processes that write one log would make the member contradict itself. Raises `StorageBusy`, `DiskFull`,
        `StorageFailed`.
        """
        assert self._lock is None, "the directory is locked already"
        self._make()
        with _failing(f"locking {self._path}"):
            descriptor = os.open(self._path / _LOCK_NAME, os.O_RDWR | os.O_CREAT | _CLOSE_ON_EXEC, _FILE_MODE)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    raise StorageBusy(f"another process uses {self._path}") from None
                raise
        self._lock = descriptor

    def unlock(self) -> None:
        """Let others in. Does nothing if there is no lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make(self) -> None:
        if self._path.is_dir():
            return
        with _failing(f"making {self._path}"):
            missing = [self._path]
            while not missing[-1].parent.exists():
                missing.append(missing[-1].parent)
            for folder in reversed(missing):
                folder.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
                self._sync_folder(folder.parent)

    @staticmethod
    def _sync_folder(folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | _CLOSE_ON_EXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def names(self) -> list[str]:
        """See `Directory`."""
        with _failing(f"listing {self._path}"):
            try:
                with os.scandir(self._path) as found:
                    return sorted(entry.name for entry in found if entry.is_file(follow_symlinks=False))
            except FileNotFoundError:
                return []

    def create(self, name: str) -> AppendFile:
        """See `Directory`."""
        self._make()
        path = self._path / name
        with _failing(f"creating {path}"):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOSE_ON_EXEC
            return DiskFile(path, os.open(path, flags, _FILE_MODE), 0)

    def open(self, name: str) -> AppendFile:
        """See `Directory`."""
        path = self._path / name
        with _failing(f"opening {path}"):
            descriptor = os.open(path, os.O_RDWR | _CLOSE_ON_EXEC)
            return DiskFile(path, descriptor, os.lseek(descriptor, 0, os.SEEK_END))

    def read(self, name: str) -> bytes:
        """See `Directory`."""
        path = self._path / name
        with _failing(f"reading {path}"):
            return path.read_bytes()

    def replace(self, name: str, data: bytes) -> None:
        """See `Directory`: a new file, synced, renamed over the old one, the directory synced."""
        self._make()
        path = self._path / name
        temporary = self._path / (name + _TEMPORARY)
        with _failing(f"replacing {path}"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _CLOSE_ON_EXEC
            try:
                descriptor = os.open(temporary, flags, _FILE_MODE)
                try:
                    _write_all(descriptor, data)
                    _sync_data(descriptor)
                finally:
                    os.close(descriptor)
                os.replace(temporary, path)
            except OSError as error:
                if error.errno in _NO_SPACE:
                    temporary.unlink(missing_ok=True)
                raise
        self.sync()

    def rename(self, old: str, new: str) -> None:
        """See `Directory`."""
        with _failing(f"renaming {self._path / old}"):
            os.replace(self._path / old, self._path / new)

    def remove(self, name: str) -> None:
        """See `Directory`."""
        with _failing(f"removing {self._path / name}"):
            os.unlink(self._path / name)

    def sync(self) -> None:
        """See `Directory`."""
        try:
            self._sync_folder(self._path)
        except OSError as error:
            raise StorageFailed(f"syncing {self._path}: {error.strerror}") from error


class DiskFile(AppendFile):
    """An `AppendFile` of the file system."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        """For `DiskDirectory` only. `size`: where the file ends and the descriptor stands."""
        self._path = path
        self._descriptor = descriptor
        self._size = size
        self._failure: str | None = None

    @property
    def size(self) -> int:
        """See `AppendFile`."""
        return self._size

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise StorageFailed(f"an earlier operation failed: {self._failure}")
        if self._descriptor < 0:
            raise ValueError(f"{self._path} is closed")

    def _fail(self, doing: str, error: OSError) -> StorageFailed:
        self._failure = f"{doing} {self._path}: {error.strerror}"
        return StorageFailed(self._failure)

    def append(self, data: bytes) -> None:
        """See `AppendFile`. What was written of the bytes before the disk was full is cut off again."""
        self._check_usable()
        try:
            _write_all(self._descriptor, data)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise self._fail("writing", error) from error
            try:
                os.ftruncate(self._descriptor, self._size)
                os.lseek(self._descriptor, self._size, os.SEEK_SET)
            except OSError as second:
                raise self._fail("cutting", second) from second
            raise DiskFull(f"writing {self._path}: {error.strerror}") from error
        self._size += len(data)

    def sync(self) -> None:
        """See `AppendFile`. Any error is final, a full disk too: its pages may be gone."""
        self._check_usable()
        try:
            _sync_data(self._descriptor)
        except OSError as error:
            raise self._fail("syncing", error) from error

    def renew(self, offset: int) -> None:
        """See `AppendFile`."""
        self._check_usable()
        try:
            while offset < self._size:
                chunk = os.pread(self._descriptor, min(1 << 20, self._size - offset), offset)
                if not chunk:
                    raise OSError(errno.EIO, "the file is shorter than it was")
                offset += os.pwrite(self._descriptor, chunk, offset)
        except OSError as error:
            raise self._fail("writing again", error) from error

    def truncate(self, size: int) -> None:
        """See `AppendFile`."""
        self._check_usable()
        assert size <= self._size
        try:
            os.ftruncate(self._descriptor, size)
            os.lseek(self._descriptor, size, os.SEEK_SET)
        except OSError as error:
            raise self._fail("cutting", error) from error
        self._size = size

    def close(self) -> None:
        """See `AppendFile`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
