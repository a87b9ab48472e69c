"""A simulated disk: remembers what a real one would, and forgets in a crash what a real one may forget.

Each file has a content as a process sees it and a content that would survive a power cut. `AppendFile.sync` makes the
second equal to the first; `crash` makes the first what is left of the second. What happens to bytes that were
written and not synced is decided by a function that the caller gives (`Choose`), so that one seed decides everything
and a test can walk through all cases: all lost, a prefix kept, or any subset of their pages kept, the rest zeros. The
same function decides whether a file that was created, renamed or removed without a sync of the directory is there.

Faults can be planted: a flipped bit (`flip`), a disk that is full at some size (`capacity`), a sync that fails
(`fail_syncs`), a sync that lies (`lying`), and a hook before each change (`before`), from which a test cuts the power
by raising `PowerCut`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bftkit.storage.files import AppendFile, Directory, DiskFull, StorageFailed

PAGE_SIZE: Final = 512
"""Bytes that a disk writes or loses as one (a sector)."""

Choose = Callable[[int], int]
"""Picks a number from 0 to its argument minus 1; the only source of chance in a crash."""


class PowerCut(BaseException):
    """Raised by a hook to stop everything at this point; `crash` follows. No code may catch it as an error."""


class _Content:
    """The bytes of one file, apart from its name."""

    __slots__ = ("cached_only", "data", "lied", "old", "synced")

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.synced = len(data)
        """How many bytes at the start survive a power cut."""
        self.old: bytes | None = None
        """What survives, if the file was cut below it and not synced since."""
        self.cached_only: int | None = None
        """After a failed sync: the kernel believes the bytes from here on clean, but the disk has not got them."""
        self.lied = 0
        """So many bytes at the start a lying sync has promised."""

    def sync(self) -> None:
        self.old = None
        self.lied = 0
        self.synced = len(self.data) if self.cached_only is None else min(self.cached_only, len(self.data))

    def truncate(self, size: int) -> None:
        if size < self.synced and self.old is None:
            self.old = bytes(self.data[: self.synced])
        del self.data[size:]
        self.synced = min(self.synced, size)
        self.lied = min(self.lied, size)
        if self.cached_only is not None and self.cached_only >= size:
            self.cached_only = None

    def crash(self, choose: Choose | None) -> bool:
        """Whether bytes are lost that a lying sync had promised."""
        promised = bytes(self.data[: self.lied])
        if self.old is not None and (choose is None or choose(2) == 0):
            self.data = bytearray(self.old)
        elif len(self.data) > self.synced:
            kept = _torn(bytes(self.data[self.synced :]), self.synced, choose)
            del self.data[self.synced :]
            self.data += kept
        self.old = None
        self.cached_only = None
        self.synced = len(self.data)
        self.lied = 0
        return not self.data.startswith(promised)


def _torn(unsynced: bytes, start: int, choose: Choose | None) -> bytes:
    """What a crash leaves of bytes that were written at `start` and not synced."""
    if choose is None:
        return b""
    outcome = choose(4)
    if outcome == 0:
        return b""
    if outcome == 1:
        return unsynced
    if outcome == 2:
        return unsynced[: choose(len(unsynced) + 1)]
    kept = bytearray(unsynced)
    page_start = 0
    while page_start < len(kept):
        page_end = min(len(kept), page_start + PAGE_SIZE - (start + page_start) % PAGE_SIZE)
        if choose(2) == 0:
            kept[page_start:page_end] = bytes(page_end - page_start)
        page_start = page_end
    return bytes(kept)


class MemoryDirectory(Directory):
    """A `Directory` in memory. See the module's text."""

    def __init__(
        self, *, capacity: int | None = None, lying: bool = False, before: Callable[[str], None] | None = None
    ) -> None:
        """An empty disk.

        `capacity`: bytes that all files together may have. `lying`: syncs return without doing anything (FAULTS line
        17). `before`: called with the name of the operation before each one that changes anything.
        """
        self.capacity = capacity
        self.lying = lying
        self.before = before
        self.changed: Callable[[str, bytes], None] | None = None
        """Called with the name of each operation that changed something, and its bytes."""
        self.fail_syncs = 0
        """How many of the next syncs fail with an I/O error (FAULTS line 16)."""
        self.failed_syncs = 0
        """How many did."""
        self.flips = 0
        """How many bits were turned over (FAULTS line 14)."""
        self.losses = 0
        """In how many files a crash took what a lying sync had promised (FAULTS line 17)."""
        self._promised: dict[str, _Content] = {}
        """What a lying sync of the directory has promised."""
        self._entries: dict[str, _Content] = {}
        self._durable_entries: dict[str, _Content] = {}
        self._boots = 0

    # --- the interface -----------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """See `Directory`."""
        return sorted(self._entries)

    def create(self, name: str) -> AppendFile:
        """See `Directory`."""
        self.announce("create")
        if name in self._entries:
            raise FileExistsError(name)
        if self.capacity is not None and self.bytes_used >= self.capacity:
            raise DiskFull("no space left on the simulated disk")
        self._entries[name] = content = _Content()
        self._tell("create", name)
        return MemoryFile(self, content, self._boots)

    def open(self, name: str) -> AppendFile:
        """See `Directory`."""
        return MemoryFile(self, self._content(name), self._boots)

    def read(self, name: str) -> bytes:
        """See `Directory`."""
        return bytes(self._content(name).data)

    def replace(self, name: str, data: bytes) -> None:
        """See `Directory`."""
        self.announce("replace")
        self.take_space(len(data))
        self.take_sync_fault()
        self._entries[name] = content = _Content(data)
        self._tell("replace", name, data)
        if not self.lying:
            self._durable_entries[name] = content
        else:
            self._promised[name] = content

    def rename(self, old: str, new: str) -> None:
        """See `Directory`."""
        self.announce("rename")
        content = self._content(old)
        del self._entries[old]
        self._entries[new] = content
        self._tell("rename", old, new.encode())

    def remove(self, name: str) -> None:
        """See `Directory`."""
        self.announce("remove")
        self._content(name)
        del self._entries[name]
        self._tell("remove", name)

    def sync(self) -> None:
        """See `Directory`."""
        self.announce("sync directory")
        self.take_sync_fault()
        self._tell("sync directory")
        if not self.lying:
            self._durable_entries = dict(self._entries)
            self._promised = {}
        else:
            self._promised = dict(self._entries)

    # --- what those who watch may know -------------------------------------------------------------------------

    def durable_size(self, name: str) -> int:
        """So many bytes at the start of this file are sure to survive a power cut; 0 if its name is not."""
        content = self._entries.get(name)
        if content is None or self._durable_entries.get(name) is not content:
            return 0
        return content.synced

    def durable(self, name: str, start: int = 0) -> bytes:
        """Those bytes, from `start` on."""
        size = self.durable_size(name)
        return bytes(self._content(name).data[start:size]) if size > start else b""

    # --- what happens to it ------------------------------------------------------------------------------------

    @property
    def bytes_used(self) -> int:
        """Bytes in all files."""
        return sum(len(content.data) for content in self._entries.values())

    def crash(self, choose: Choose | None = None) -> None:
        """Cut the power: forget what was not synced, or what `choose` says of it. Open files become useless.

        Without `choose` everything unsynced is lost.
        """
        entries: dict[str, _Content] = {}
        for name in sorted({*self._entries, *self._durable_entries}):
            now, durable = self._entries.get(name), self._durable_entries.get(name)
            kept = durable if now is durable or choose is None or choose(2) == 0 else now
            if kept is not None:
                entries[name] = kept
        for name in sorted(entries):
            self.losses += entries[name].crash(choose)
        self.losses += sum(entries.get(name) is not content for name, content in self._promised.items())
        self._promised = {}
        self._entries = entries
        self._durable_entries = dict(entries)
        self._boots += 1

    def restart_process(self) -> None:
        """Kill the process and not the machine: all that was written stays readable, open files become useless."""
        self._boots += 1

    def flip(self, name: str, bit: int) -> None:
        """Turn over one bit of a file, counted from its start."""
        self.flips += 1
        self._content(name).data[bit // 8] ^= 1 << bit % 8

    def copy(self) -> MemoryDirectory:
        """A disk with the same files, all synced, and no faults planted."""
        other = MemoryDirectory()
        other._entries = {name: _Content(bytes(content.data)) for name, content in self._entries.items()}
        other._durable_entries = dict(other._entries)
        return other

    def write(self, name: str, data: bytes) -> None:
        """Put any bytes into a file, durably, past all faults: for tests that damage things."""
        self._entries[name] = self._durable_entries[name] = _Content(data)

    # --- for the files -----------------------------------------------------------------------------------------

    @property
    def boots(self) -> int:
        """How often the power was cut or the process killed; a file opened before that is useless."""
        return self._boots

    def _content(self, name: str) -> _Content:
        if name not in self._entries:
            raise FileNotFoundError(name)
        return self._entries[name]

    def _tell(self, operation: str, name: str = "", data: bytes = b"") -> None:
        if self.changed is not None:
            self.changed(operation, name.encode() + b"\0" + data)

    def announce(self, operation: str) -> None:
        """Run the hook."""
        if self.before is not None:
            self.before(operation)

    def take_space(self, size: int) -> None:
        """Raise `DiskFull` if this many bytes more do not fit."""
        if self.capacity is not None and self.bytes_used + size > self.capacity:
            raise DiskFull("no space left on the simulated disk")

    def take_sync_fault(self) -> None:
        """Raise `StorageFailed` if this sync is to fail."""
        if self.fail_syncs:
            self.fail_syncs -= 1
            self.failed_syncs += 1
            raise StorageFailed("input/output error on the simulated disk")


class MemoryFile(AppendFile):
    """An `AppendFile` of a `MemoryDirectory`."""

    def __init__(self, directory: MemoryDirectory, content: _Content, boots: int) -> None:
        """For `MemoryDirectory` only."""
        self._directory = directory
        self._content = content
        self._boots = boots
        self._failed = False
        self._closed = False

    @property
    def size(self) -> int:
        """See `AppendFile`."""
        return len(self._content.data)

    def _begin(self, operation: str) -> None:
        if self._boots != self._directory.boots:
            raise StorageFailed("the file was opened before the crash")
        if self._failed:
            raise StorageFailed("an earlier operation on this file failed")
        if self._closed:
            raise ValueError("the file is closed")
        self._directory.announce(operation)

    def append(self, data: bytes) -> None:
        """See `AppendFile`."""
        self._begin("append")
        self._directory.take_space(len(data))
        self._content.data += data
        if self._directory.changed is not None:
            self._directory.changed("append", data)

    def sync(self) -> None:
        """See `AppendFile`."""
        self._begin("sync")
        content = self._content
        try:
            self._directory.take_sync_fault()
        except StorageFailed:
            self._failed = True
            if content.cached_only is None and content.synced < len(content.data):
                content.cached_only = content.synced  # only what waited for this sync is lost to later ones
            raise
        if self._directory.changed is not None:
            self._directory.changed("sync", b"")
        if not self._directory.lying:
            content.sync()
        else:
            content.lied = len(content.data)

    def renew(self, offset: int) -> None:
        """See `AppendFile`."""
        self._begin("renew")
        content = self._content
        if content.cached_only is not None and content.cached_only >= offset:
            content.cached_only = None

    def truncate(self, size: int) -> None:
        """See `AppendFile`."""
        self._begin("truncate")
        assert size <= len(self._content.data)
        self._content.truncate(size)
        if self._directory.changed is not None:
            self._directory.changed("truncate", str(size).encode())

    def close(self) -> None:
        """See `AppendFile`."""
        self._closed = True
