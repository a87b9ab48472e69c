"""The log on a real file system, and the system's errors told apart."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from bftkit.storage.disk import DiskDirectory
from bftkit.storage.files import DiskFull, StorageBusy, StorageFailed
from bftkit.storage.log import Entry, Log, LogCorrupt, LogMissing, Recovered, verify

GROUP, MEMBER, SALT = b"group", b"member", bytes(range(16))


def reopen(path: Path) -> tuple[Log, Recovered]:
    return Log.open(DiskDirectory(path), group=GROUP, identity=MEMBER)


def make(path: Path) -> Log:
    Log.create(DiskDirectory(path), group=GROUP, identity=MEMBER, salt=SALT)
    return reopen(path)[0]


def raising(number: int) -> Callable[..., int]:
    def system_call(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return system_call


def test_a_log_on_disk_from_beginning_to_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log"
    with pytest.raises(LogMissing):
        reopen(path)
    assert not path.exists()
    log = make(path)
    for slot in range(1, 11):
        log.append(b"%d" % slot * 1000, slot)
        log.sync()
        if slot == 5:
            log.rotate([b"standing"])
    assert log.cut(5) > 5000
    log.close()
    log, recovered = reopen(path)
    assert recovered.standing == (b"standing",)
    assert [entry.slot for entry in recovered.slotted] == [6, 7, 8, 9, 10]
    log.append(b"torn", 11)
    log.flush()
    log.close()
    segment = path / "log-0000000002.seg"
    os.truncate(segment, segment.stat().st_size - 80)
    report = verify(DiskDirectory(path))
    assert report.problem is None
    assert report.torn_bytes > 0
    log, recovered = reopen(path)
    assert [entry.slot for entry in recovered.slotted] == [6, 7, 8, 9, 10]
    assert recovered.torn_bytes == report.torn_bytes
    log.append(b"eleven", 11)
    log.close()
    assert reopen(path)[1].records[-1] == Entry(11, b"eleven")
    assert sorted(file.name for file in path.iterdir()) == ["log-0000000002.seg", "log.head"]


def test_a_flipped_bit_on_disk_is_found(tmp_path: Path) -> None:
    log = make(tmp_path)
    log.append(b"acknowledged", 1)
    log.close()
    segment = tmp_path / "log-0000000001.seg"
    data = bytearray(segment.read_bytes())
    data[200] ^= 4
    segment.write_bytes(data)
    with pytest.raises(LogCorrupt):
        reopen(tmp_path)
    assert segment.read_bytes() == bytes(data)


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = make(path)
    log.rotate([b"s"])
    log.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for file in path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    directory = DiskDirectory(tmp_path)
    directory.lock()
    with pytest.raises(StorageBusy):
        DiskDirectory(tmp_path).lock()
    program = f"from bftkit.storage.disk import DiskDirectory\nDiskDirectory({str(tmp_path)!r}).lock()"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "StorageBusy" in other.stderr
    directory.unlock()
    directory.lock()
    directory.unlock()


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_a_disk_that_fails_already_at_the_lock_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A file system that was made read-only after an error fails there, at the next start."""

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    for name in ("bftkit.storage.disk.os.open", "bftkit.storage.disk.fcntl.flock"):
        with monkeypatch.context() as patched:
            patched.setattr(name, fail)
            with pytest.raises(StorageFailed, match="locking"):
                DiskDirectory(tmp_path).lock()


def test_a_partial_write_on_a_full_disk_is_cut_back(tmp_path: Path) -> None:
    """`RLIMIT_FSIZE` makes the kernel write a part and then refuse, as a full disk does."""
    program = f"""
import resource, signal
from bftkit.storage.disk import DiskDirectory
from bftkit.storage.files import DiskFull
from bftkit.storage.log import Entry, Log
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
directory = DiskDirectory({str(tmp_path)!r})
names = dict(group=b"group", identity=b"member")
Log.create(directory, salt=bytes(16), **names)
log, _ = Log.open(directory, **names)
log.append(b"one", 1)
log.sync()
size = log.bytes_on_disk
file = directory.path / "log-0000000001.seg"
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
log.append(b"x" * 20000, 2)
for _ in range(3):
    try:
        log.sync()
    except DiskFull:
        assert file.stat().st_size == size, "the part that was written is still there"
    else:
        raise SystemExit("the disk was not full")
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
log.sync()
_, recovered = Log.open(directory, **names)
assert recovered.records == (Entry(1, b"one"), Entry(2, b"x" * 20000))
print("as it should be")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "as it should be\n", done.stderr


def test_no_space_can_be_tried_again_and_anything_else_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make(tmp_path)
    log.append(b"a", 1)
    for number in (errno.ENOSPC, errno.EDQUOT):
        with monkeypatch.context() as patch:
            patch.setattr("os.write", raising(number))
            with pytest.raises(DiskFull):
                log.sync()
    log.sync()
    log.append(b"b", 2)
    with monkeypatch.context() as patch:
        patch.setattr("os.write", raising(errno.EIO))
        with pytest.raises(StorageFailed):
            log.sync()
    with pytest.raises(StorageFailed):
        log.sync()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_any_error_of_a_sync_is_final(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DiskDirectory(tmp_path).create("file")
    file.append(b"data")
    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", raising(number))
        with pytest.raises(StorageFailed):
            file.sync()
    for refused in (file.sync, lambda: file.append(b"x"), lambda: file.truncate(0), lambda: file.renew(0)):
        with pytest.raises(StorageFailed):
            refused()
    file.close()


def test_a_cut_back_that_fails_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DiskDirectory(tmp_path).create("file")
    with monkeypatch.context() as patch:
        patch.setattr("os.write", raising(errno.ENOSPC))
        patch.setattr("os.ftruncate", raising(errno.EIO))
        with pytest.raises(StorageFailed):
            file.append(b"data")
    with pytest.raises(StorageFailed):
        file.append(b"data")
    file.close()


def test_every_sync_of_a_round_reaches_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen failing with the call to `fdatasync` taken out of `DiskFile.sync`."""
    calls: list[str] = []
    write, fdatasync, fsync = os.write, os.fdatasync, os.fsync

    def noted(name: str, call: Callable[..., int | None]) -> Callable[..., int | None]:
        def system_call(*arguments: object) -> int | None:
            calls.append(name)
            return call(*arguments)

        return system_call

    log = make(tmp_path)
    monkeypatch.setattr("os.write", noted("write", write))
    monkeypatch.setattr("os.fdatasync", noted("fdatasync", fdatasync))
    monkeypatch.setattr("os.fsync", noted("fsync", fsync))
    for slot in (1, 2):
        log.append(b"x", slot)
        log.append(b"y", slot)
        log.sync()
    assert calls == ["write", "fdatasync"] * 2
    calls.clear()
    log.rotate([b"s"])
    assert calls == ["write", "fdatasync", "fsync", "write", "fdatasync", "fsync"]
    log.close()


def test_renew_writes_the_same_bytes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed: list[tuple[int, int]] = []
    pwrite = os.pwrite

    def noted(descriptor: int, data: bytes, offset: int) -> int:
        renewed.append((offset, offset + len(data)))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr("os.pwrite", noted)
    directory = DiskDirectory(tmp_path)
    file = directory.create("file")
    data = bytes(range(256)) * 9000
    file.append(data)
    file.renew(1000)
    assert (renewed[0][0], renewed[-1][1]) == (1000, len(data))
    assert all(before[1] == after[0] for before, after in pairwise(renewed))
    file.append(b"end")
    file.close()
    assert directory.read("file") == data + b"end"
    file = directory.open("file")
    file.truncate(5)
    file.append(b"!")
    file.close()
    assert directory.read("file") == data[:5] + b"!"
    with pytest.raises(ValueError, match="closed"):
        file.append(b"x")


def test_replace_and_the_rest_of_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = DiskDirectory(tmp_path)
    directory.replace("small", b"old")
    with monkeypatch.context() as patch:
        patch.setattr("os.write", raising(errno.ENOSPC))
        with pytest.raises(DiskFull):
            directory.replace("small", b"new")
    assert directory.names() == ["small"]
    assert directory.read("small") == b"old"
    directory.replace("small", b"new")
    assert directory.read("small") == b"new"
    with pytest.raises(FileExistsError):
        directory.create("small")
    directory.rename("small", "other")
    with pytest.raises(FileNotFoundError):
        directory.open("small")
    with pytest.raises(FileNotFoundError):
        directory.read("small")
    directory.remove("other")
    with pytest.raises(FileNotFoundError):
        directory.remove("other")
    directory.sync()
    assert directory.names() == []
