"""The narrow interface between the log and whatever keeps its bytes.

A log needs very little of a disk: append to a file, sync it, cut its end, list, read and remove files, and swap a
small file for another at one stroke. Everything above this interface is pure and runs on the simulated disk of
`memory_files.py` with torn writes, flipped bits and lost syncs, exactly as it runs on the real one of `disk.py`.

What an implementation promises:

- What was appended may be lost in a crash, wholly or in part and page by page in any order, until `AppendFile.sync`
  has returned.
- A file that was created, renamed or removed may still be absent, have its old name or be back after a crash, until
  `Directory.sync` has returned.
- `Directory.replace` is atomic, and durable when it returns: after a crash the file holds all of the old or all of
  the new bytes.
- A sync that failed is never tried again as if it could still succeed: the kernel may have thrown the unwritten pages
  away, and a second call would report success for bytes that are gone (Rebello et al., "Can Applications Recover from
  fsync Failures?", USENIX ATC 2020). `StorageFailed` is final.
"""

from __future__ import annotations

from typing import Protocol


class StorageError(Exception):
    """Something went wrong below the log or the snapshots. The subclasses say what may be done about it."""


class DiskFull(StorageError):
    """No space is left. Nothing was changed; the same call may be made again once space has been freed."""


class StorageFailed(StorageError):
    """The device refused to read, write or sync. Final: the last bytes may be on disk or not (FAULTS line 16)."""


class StorageBusy(StorageError):
    """Another process holds the directory; two members must never write one log."""


class AppendFile(Protocol):
    """A file that only grows at its end, or is cut back."""

    @property
    def size(self) -> int:
        """Length in bytes, with what is appended and not yet synced."""
        ...

    def append(self, data: bytes) -> None:
        """Write the bytes at the end, all or (`DiskFull`) none of them. Not durable before `sync`.

        Raises `DiskFull`, `StorageFailed`.
        """
        ...

    def sync(self) -> None:
        """Return once everything appended or cut so far survives a power cut. Raises `StorageFailed`."""
        ...

    def renew(self, offset: int) -> None:
        """Write the bytes from `offset` to the end again, in place.

        After a failed sync and a restart, the kernel may serve bytes from its cache that it believes clean and that
        never reached the device; a sync alone would skip them. Used on opening, before bytes whose sync is not proved
        are believed. A crash in between harms nothing: the bytes are the same. Raises `StorageFailed`.
        """
        ...

    def truncate(self, size: int) -> None:
        """Cut the file back to `size` bytes. Durable after the next `sync`. Raises `StorageFailed`."""
        ...

    def close(self) -> None:
        """Release the file without syncing it. The object refuses everything but `close` afterwards."""
        ...


class Directory(Protocol):
    """One flat directory of files."""

    def names(self) -> list[str]:
        """The names of the files there, sorted; empty if the directory itself does not exist."""
        ...

    def create(self, name: str) -> AppendFile:
        """A new, empty file. Raises `FileExistsError`, `DiskFull`, `StorageFailed`."""
        ...

    def open(self, name: str) -> AppendFile:
        """An existing file, to go on at its end. Raises `FileNotFoundError`, `StorageFailed`."""
        ...

    def read(self, name: str) -> bytes:
        """The whole content. Raises `FileNotFoundError`, `StorageFailed`."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Give the small file this content, atomically and durably; create it if need be.

        Raises `DiskFull` (the old content stands), `StorageFailed` (either stands).
        """
        ...

    def rename(self, old: str, new: str) -> None:
        """Rename a file, over another one if need be. Durable after `sync`. Raises `FileNotFoundError`."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file. Durable after `sync`. Raises `FileNotFoundError`, `StorageFailed`."""
        ...

    def sync(self) -> None:
        """Return once creations, renames and removals so far survive a power cut. Raises `StorageFailed`."""
        ...
