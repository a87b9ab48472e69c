"""The log as its user sees it: what is appended comes back, in order, and the rules of segments hold."""

from __future__ import annotations

import contextlib

import pytest

from bftkit.storage.files import DiskFull, StorageFailed
from bftkit.storage.log import (
    Durability,
    Entry,
    Log,
    LogCorrupt,
    LogMismatch,
    LogMissing,
    MemoryLog,
    RecordLog,
    Recovered,
    set_aside,
    verify,
)
from bftkit.storage.memory_files import MemoryDirectory, PowerCut

GROUP, MEMBER, SALT = b"group", b"member", bytes(range(16))


def make() -> MemoryDirectory:
    directory = MemoryDirectory()
    Log.create(directory, group=GROUP, identity=MEMBER, salt=SALT)
    return directory


def reopen(
    directory: MemoryDirectory, *, segment_bytes: int = 1 << 20, durability: Durability = Durability.FSYNC
) -> tuple[Log, Recovered]:
    return Log.open(directory, group=GROUP, identity=MEMBER, segment_bytes=segment_bytes, durability=durability)


def test_synced_records_come_back_in_order_after_a_power_cut() -> None:
    directory = make()
    log, recovered = reopen(directory)
    assert recovered.records == ()
    for slot in range(1, 6):
        log.append(b"vote %d" % slot, slot)
    log.append(b"", 6)
    log.sync()
    directory.crash()
    _, recovered = reopen(directory)
    assert recovered.records == (*(Entry(slot, b"vote %d" % slot) for slot in range(1, 6)), Entry(6, b""))
    assert recovered.torn_bytes == 0


def test_what_was_only_flushed_survives_the_process_and_not_the_machine() -> None:
    directory = make()
    log, _ = reopen(directory)
    log.append(b"buffered", 1)
    directory.restart_process()
    log, recovered = reopen(directory)
    assert recovered.records == ()
    log.append(b"flushed", 1)
    log.flush()
    directory.restart_process()
    log, recovered = reopen(directory)
    assert recovered.records == (Entry(1, b"flushed"),)
    log.append(b"flushed again", 2)
    log.flush()
    directory.crash()
    _, recovered = reopen(directory)
    assert recovered.records == (Entry(1, b"flushed"),)  # believed once, so made durable when it was


def test_one_flush_is_one_write_and_a_sync_with_nothing_new_costs_nothing() -> None:
    operations: list[str] = []
    directory = make()
    log, _ = reopen(directory)
    directory.before = operations.append
    for slot in range(1, 10):
        log.append(b"x" * 100, slot)
    assert log.dirty
    log.sync()
    assert operations == ["append", "sync"]
    assert not log.dirty
    log.sync()
    log.flush()
    assert operations == ["append", "sync"]
    assert (log.counters.records, log.counters.record_bytes, log.counters.syncs) == (9, 900, 1)


def test_seal_writes_once_and_does_not_wait_for_the_disk() -> None:
    operations: list[str] = []
    directory = make()
    log, _ = reopen(directory)
    directory.before = operations.append
    log.append(b"x", 1)
    assert log.seal()
    assert log.seal()
    assert operations == ["append", "sync", "append"]
    assert not log.dirty
    log.append(b"y", 2)
    log.sync()
    assert log.seal()
    assert operations[3:] == ["append", "sync", "append"]


def test_opening_again_and_again_does_not_let_the_log_grow() -> None:
    directory = make()
    log, _ = reopen(directory)
    log.append(b"x", 1)
    log.close()
    size = directory.bytes_used
    for _ in range(3):
        log, recovered = reopen(directory)
        assert recovered.records == (Entry(1, b"x"),)
        log.close()
    assert directory.bytes_used == size


def test_standing_records_of_the_newest_segment_replace_earlier_ones() -> None:
    directory = make()
    log, _ = reopen(directory)
    log.append(b"view 0", 0)
    log.append(b"a", 1)
    log.rotate([b"view 1", b"key 1"])
    log.append(b"b", 2)
    log.append(b"view 2", 0)
    log.sync()
    _, recovered = reopen(directory)
    assert recovered.records == (
        Entry(1, b"a"),
        Entry(0, b"view 1"),
        Entry(0, b"key 1"),
        Entry(2, b"b"),
        Entry(0, b"view 2"),
    )
    assert recovered.standing == (b"view 1", b"key 1", b"view 2")
    assert recovered.slotted == (Entry(1, b"a"), Entry(2, b"b"))
    log, _ = reopen(directory)
    log.rotate([])
    _, recovered = reopen(directory)
    assert recovered.standing == ()


def test_rotate_is_durable_when_it_returns() -> None:
    directory = make()
    log, _ = reopen(directory)
    log.append(b"a", 1)
    log.rotate([b"standing"])
    directory.crash()
    _, recovered = reopen(directory)
    assert recovered.records == (Entry(1, b"a"), Entry(0, b"standing"))


def test_full_says_when_a_rotation_is_due() -> None:
    directory = make()
    log, _ = reopen(directory, segment_bytes=1000)
    assert not log.full
    log.append(b"x" * 1000, 1)
    assert log.full
    log.rotate([b"s"])
    assert not log.full


def test_cut_removes_leading_segments_whose_slots_are_all_covered() -> None:
    directory = make()
    log, _ = reopen(directory)
    for segment in range(4):
        for slot in range(1, 4):
            log.append(b"x" * 50, segment * 3 + slot)
        log.rotate([b"standing %d" % segment])
    assert log.segments == 5
    before = log.bytes_on_disk
    assert log.cut(2) == 0  # slot 3 lies in the first segment too
    freed = log.cut(8)
    assert freed > 0
    assert (log.segments, log.bytes_on_disk) == (3, before - freed)
    directory.crash()
    log, recovered = reopen(directory)
    assert [entry.slot for entry in recovered.slotted] == [7, 8, 9, 10, 11, 12]
    assert recovered.standing == (b"standing 3",)
    log.cut(1 << 60)
    assert log.segments == 1  # the newest stays
    directory.crash()
    _, recovered = reopen(directory)
    assert recovered.records == (Entry(0, b"standing 3"),)


def test_cut_stops_at_the_first_segment_that_is_still_needed() -> None:
    directory = make()
    log, _ = reopen(directory)
    for slot in (1, 9, 2, 3):
        log.append(b"x", slot)
        log.rotate([])
    log.cut(5)
    _, recovered = reopen(directory)
    assert [entry.slot for entry in recovered.slotted] == [9, 2, 3]


def test_an_empty_folder_is_amnesia_and_a_log_is_not_made_twice() -> None:
    """SAFETY rule 16."""
    directory = MemoryDirectory()
    with pytest.raises(LogMissing):
        reopen(directory)
    with pytest.raises(LogMissing):
        verify(directory)
    Log.create(directory, group=GROUP, identity=MEMBER, salt=SALT)
    with pytest.raises(FileExistsError):
        Log.create(directory, group=GROUP, identity=MEMBER, salt=SALT)
    directory.crash()
    reopen(directory)


def test_a_log_begun_anew_says_so_from_its_first_moment() -> None:
    """SAFETY rule 16: at no point of the creation does a crash leave a log without the remark."""
    outcomes: list[tuple[bytes, ...]] = []
    for limit in range(20):
        directory = MemoryDirectory()
        operations: list[str] = []

        def cut(operation: str, limit: int = limit, operations: list[str] = operations) -> None:
            if len(operations) == limit:
                raise PowerCut
            operations.append(operation)

        directory.before = cut
        with contextlib.suppress(PowerCut):
            Log.create(directory, group=GROUP, identity=MEMBER, salt=SALT, standing=[b"amnesic"])
        directory.before = None
        directory.restart_process()
        try:
            outcomes.append(reopen(directory)[1].standing)
        except (LogMissing, LogCorrupt):
            assert limit < 6
    assert set(outcomes) == {(b"amnesic",)}


def test_a_log_of_another_group_or_member_is_refused() -> None:
    directory = make()
    with pytest.raises(LogMismatch, match="group"):
        Log.open(directory, group=b"other", identity=MEMBER)
    with pytest.raises(LogMismatch, match="member"):
        Log.open(directory, group=GROUP, identity=b"other")


def test_wrong_arguments_are_refused_with_a_reason() -> None:
    directory = make()
    log, _ = reopen(directory)
    with pytest.raises(ValueError, match="slot"):
        log.append(b"x", -1)
    with pytest.raises(ValueError, match="slot"):
        log.append(b"x", 1 << 64)
    with pytest.raises(ValueError, match="salt"):
        Log.create(MemoryDirectory(), group=GROUP, identity=MEMBER, salt=b"short")
    with pytest.raises(ValueError, match="group"):
        Log.create(MemoryDirectory(), group=b"", identity=MEMBER, salt=SALT)
    with pytest.raises(ValueError, match="MemoryLog"):
        reopen(directory, durability=Durability.MEMORY)
    log.close()
    log.close()
    with pytest.raises(RuntimeError, match="closed"):
        log.append(b"x", 1)


def test_a_corrupt_log_can_be_set_aside_and_begun_anew() -> None:
    directory = make()
    log, _ = reopen(directory)
    log.append(b"x", 1)
    log.close()
    for _ in range(2):
        directory.flip("log-0000000001.seg", 100)
        with pytest.raises(LogCorrupt):
            reopen(directory)
        assert set_aside(directory) == 2
        with pytest.raises(LogMissing):
            reopen(directory)
        Log.create(directory, group=GROUP, identity=MEMBER, salt=SALT)
        log, recovered = reopen(directory)
        assert recovered.records == ()
        log.close()
    assert directory.names() == [
        "aside-log-0000000001.seg",
        "aside-log.head",
        "log-0000000001.seg",
        "log.head",
    ]


def test_verify_counts_and_changes_nothing() -> None:
    directory = make()
    log, _ = reopen(directory)
    log.append(b"a", 1)
    log.rotate([b"s"])
    log.append(b"b", 2)
    log.append(b"c" * 100, 3)
    log.flush()
    name = "log-0000000002.seg"
    directory.write(name, directory.read(name)[:-5])
    operations: list[str] = []
    directory.before = operations.append
    report = verify(directory)
    assert operations == []
    assert (report.segments, report.records, report.problem) == (2, 3, None)
    assert 100 < report.torn_bytes < 200
    assert report.bytes + report.torn_bytes == directory.bytes_used - len(directory.read("log.head"))


def test_async_writes_each_round_and_waits_for_the_disk_only_when_told() -> None:
    operations: list[str] = []
    directory = make()
    log, _ = reopen(directory, durability=Durability.ASYNC)
    directory.before = operations.append
    for slot in range(1, 4):
        log.append(b"x", slot)
        log.sync()
    assert operations == ["append"] * 3
    assert log.dirty
    log.settle()
    assert operations == ["append"] * 3 + ["sync"]
    assert not log.dirty
    log.append(b"lost", 4)
    log.sync()
    directory.crash()
    _, recovered = reopen(directory, durability=Durability.ASYNC)
    assert [entry.slot for entry in recovered.records] == [1, 2, 3]


def test_the_log_of_durability_memory_counts_and_keeps_nothing() -> None:
    log: RecordLog = MemoryLog()
    log.append(b"abc", 1)
    log.sync()
    log.rotate([b"s"])
    assert log.seal()
    assert (log.dirty, log.full, log.bytes_on_disk, log.segments, log.cut(9)) == (False, False, 0, 0, 0)
    assert (log.counters.records, log.counters.record_bytes) == (1, 3)
    log.close()


# --- a full disk and a broken one (FAULTS lines 15 and 16) ---------------------------------------------------------


def test_a_full_disk_loses_nothing_and_the_same_sync_succeeds_once_there_is_space() -> None:
    directory = make()
    log, _ = reopen(directory)
    log.append(b"a", 1)
    log.sync()
    directory.capacity = directory.bytes_used + 50
    log.append(b"b" * 100, 2)
    for _ in range(3):
        with pytest.raises(DiskFull):
            log.sync()
    assert log.dirty
    assert not log.seal()
    log.append(b"c", 3)
    directory.capacity = None
    log.sync()
    assert not log.dirty
    directory.crash()
    _, recovered = reopen(directory)
    assert recovered.records == (Entry(1, b"a"), Entry(2, b"b" * 100), Entry(3, b"c"))


def test_a_full_disk_during_rotate_or_cut_leaves_the_log_as_it_was() -> None:
    for space in range(0, 400, 7):
        directory = make()
        log, _ = reopen(directory)
        log.append(b"a", 1)
        log.sync()
        directory.capacity = directory.bytes_used + space
        try:
            log.rotate([b"standing" * 10])
        except DiskFull:
            assert log.segments == 1
        else:
            assert space > 200
        directory.capacity = None
        log.append(b"b", 2)
        log.sync()
        log.rotate([b"later"])
        log.append(b"c", 3)
        log.sync()
        directory.capacity = directory.bytes_used
        assert log.cut(2) == 0
        directory.capacity = None
        assert log.cut(2) > 0
        directory.crash()
        _, recovered = reopen(directory)
        assert recovered.records == (Entry(0, b"later"), Entry(3, b"c"))


def test_a_failed_sync_is_final_and_never_retried_as_success() -> None:
    directory = make()
    log, _ = reopen(directory)
    log.append(b"a", 1)
    directory.fail_syncs = 1
    with pytest.raises(StorageFailed):
        log.sync()
    for refused in (log.sync, log.flush, log.settle, log.seal, lambda: log.rotate([]), lambda: log.cut(1)):
        with pytest.raises(StorageFailed):
            refused()
    with pytest.raises(StorageFailed):
        log.append(b"b", 2)
    log.close()


def test_bytes_whose_sync_failed_are_written_again_before_they_are_believed() -> None:
    """After a failed sync the kernel serves bytes that the disk never got; a restart must not build on them."""
    directory = make()
    log, _ = reopen(directory)
    log.append(b"a", 1)
    log.sync()
    log.append(b"b", 2)
    directory.fail_syncs = 1
    with pytest.raises(StorageFailed):
        log.sync()
    directory.restart_process()
    _, recovered = reopen(directory)
    assert recovered.records == (Entry(1, b"a"), Entry(2, b"b"))
    directory.crash()
    _, recovered = reopen(directory)
    assert recovered.records == (Entry(1, b"a"), Entry(2, b"b"))


def rotate_and_cut(log: Log) -> None:
    log.rotate([b"s"])
    log.cut(1)


def test_any_sync_of_rotate_or_cut_that_fails_stops_the_log() -> None:
    for failing in range(1, 6):
        directory = make()
        syncs: list[str] = []

        def fail_at(
            operation: str,
            directory: MemoryDirectory = directory,
            failing: int = failing,
            syncs: list[str] = syncs,
        ) -> None:
            if operation in ("sync", "sync directory", "replace"):
                syncs.append(operation)
                directory.fail_syncs = int(len(syncs) == failing)

        log, _ = reopen(directory)
        log.append(b"a", 1)
        log.sync()
        directory.before = fail_at
        with pytest.raises(StorageFailed):
            rotate_and_cut(log)
        with pytest.raises(StorageFailed):
            log.append(b"b", 2)
        directory.before = None
        directory.fail_syncs = 0
        directory.restart_process()
        _, recovered = reopen(directory)
        assert recovered.slotted in ((Entry(1, b"a"),), ())
        assert len(syncs) == failing


def test_standing_records_larger_than_a_segment_are_not_written_with_each_record() -> None:
    """Seen failing: without the bound, every record rotates, and a log of 100 small records takes a megabyte."""
    directory = MemoryDirectory()
    Log.create(directory, group=GROUP, identity=MEMBER, salt=SALT)
    log, _ = Log.open(directory, group=GROUP, identity=MEMBER, segment_bytes=4096)
    standing = [bytes(10_000)]
    for slot in range(1, 101):
        log.append(bytes(100), slot)
        log.sync()
        if log.full:
            log.rotate(standing)
    assert log.bytes_on_disk < 40_000
