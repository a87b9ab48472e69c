"""The power is cut before every single operation on the disk, again and again (FAULTS line 12, SAFETY rule 5).

One script uses every part of the log. It is run once for each operation that it makes, and cut short there; then the
disk forgets what was not synced, in several ways; then the log is opened, with the power cut at each operation of the
opening too. What must hold every time: everything acknowledged is there, nothing is there that was not appended,
nothing changes its place, and the log is never taken for corrupt.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import pytest

from bftkit.storage.files import StorageError, StorageFailed
from bftkit.storage.log import Entry, Log, LogCorrupt, LogMissing, Recovered
from bftkit.storage.memory_files import MemoryDirectory, PowerCut

GROUP, MEMBER, SALT = b"group", b"member", bytes(range(16))


@attrs.define
class Story:
    """What the user of the log did, and what the log has promised."""

    created: bool = False
    appended: list[Entry] = attrs.field(factory=list[Entry])
    acknowledged: int = 0
    """How many of the slotted records appended so far must be there."""
    cut_slot: int = 0
    standing: list[tuple[bytes, ...]] = attrs.field(factory=lambda: [()])
    """The standing records that may be in force; more than one while an operation is under way."""

    def check(self, recovered: Recovered) -> None:
        found = [entry for entry in recovered.slotted if entry.slot > self.cut_slot]
        possible = [entry for entry in self.appended if entry.slot > self.cut_slot]
        needed = [entry for entry in self.appended[: self.acknowledged] if entry.slot > self.cut_slot]
        assert found == possible[: len(found)], "something invented or out of order"
        assert len(found) >= len(needed), "an acknowledged record is lost"
        covered = [entry for entry in recovered.slotted if entry.slot <= self.cut_slot]
        assert covered == [entry for entry in self.appended if entry in covered]
        assert recovered.standing in self.standing, "standing records of no moment"


class Writer:
    """Uses a log and keeps the story up to date: promises are noted only after the call has returned."""

    def __init__(self, directory: MemoryDirectory, story: Story) -> None:
        self.directory, self.story = directory, story
        self.slot = 0
        self.log: Log

    def create(self) -> None:
        Log.create(self.directory, group=GROUP, identity=MEMBER, salt=SALT)
        self.story.created = True

    def open(self) -> None:
        self.log, recovered = Log.open(self.directory, group=GROUP, identity=MEMBER)
        self.story.check(recovered)
        # What was read counts from now on: it must be there after any later crash.
        self.story.standing = [recovered.standing]
        self.story.appended = list(recovered.slotted)
        self.story.acknowledged = len(self.story.appended)

    def append(self, size: int) -> None:
        self.slot += 1
        entry = Entry(self.slot, b"%d" % self.slot * size)
        self.story.appended.append(entry)
        self.log.append(entry.payload, entry.slot)

    def append_standing(self, payload: bytes) -> None:
        self.story.standing.append((*self.story.standing[-1], payload))
        self.log.append(payload, 0)

    def settled(self) -> None:
        self.story.acknowledged = len(self.story.appended)
        self.story.standing = self.story.standing[-1:]

    def sync(self) -> None:
        self.log.sync()
        self.settled()

    def rotate(self, *standing: bytes) -> None:
        self.story.standing.append(standing)
        self.log.rotate(standing)
        self.settled()

    def cut(self, slot: int) -> None:
        self.story.cut_slot = slot
        self.log.cut(slot)

    def close(self) -> None:
        self.log.close()
        self.settled()


def script(writer: Writer) -> None:
    writer.create()
    writer.open()
    writer.append(3)
    writer.append(700)
    writer.append_standing(b"view 1")
    writer.sync()
    writer.append(5)
    writer.log.flush()
    writer.append(900)
    writer.sync()
    writer.log.seal()
    writer.append(2)
    writer.rotate(b"view 1", b"key")
    writer.append(400)
    writer.append_standing(b"view 2")
    writer.log.flush()
    writer.append(10)
    writer.sync()
    writer.rotate(b"view 2")
    writer.cut(5)
    writer.append(600)
    writer.sync()
    writer.close()
    writer.open()
    writer.append(1)
    writer.log.flush()
    writer.append(1200)
    writer.sync()
    writer.rotate()
    writer.cut(7)
    writer.append(4)
    writer.sync()
    writer.log.seal()
    writer.rotate(b"view 3")
    writer.append(2)
    writer.sync()


def counting(limit: int | None) -> tuple[Callable[[str], None], list[str]]:
    """A hook that notes the operations and cuts the power before the one with this number."""
    operations: list[str] = []

    def before(operation: str) -> None:
        if limit is not None and len(operations) == limit:
            raise PowerCut
        operations.append(operation)

    return before, operations


def run_until(limit: int | None, lying: bool = False) -> tuple[MemoryDirectory, Story, int]:
    """The script, cut short before its operation number `limit`."""
    before, operations = counting(limit)
    directory = MemoryDirectory(before=before, lying=lying)
    story = Story()
    if limit is None:
        script(Writer(directory, story))
    else:
        with pytest.raises(PowerCut):
            script(Writer(directory, story))
    directory.before = None
    return directory, story, len(operations)


def check_recovery(directory: MemoryDirectory, story: Story) -> None:
    writer = Writer(directory, story)
    writer.slot = 1000
    try:
        writer.open()
    except LogMissing:
        assert not story.created
        return
    except StorageError:
        assert not story.created, "only an interrupted creation may leave a log that cannot be opened"
        return
    writer.append(3)
    writer.sync()
    directory.crash()
    log, recovered = Log.open(directory, group=GROUP, identity=MEMBER)
    assert recovered.slotted[-1].slot == 1001
    log.close()


TOTAL = run_until(None)[2]
CHOICES = [None, *range(12)]


def chooser(seed: int | None) -> Callable[[int], int] | None:
    return None if seed is None else random.Random(seed).randrange


def test_the_script_makes_enough_operations() -> None:
    assert TOTAL > 50


@pytest.mark.parametrize("seed", CHOICES)
def test_power_cut_before_every_operation(seed: int | None) -> None:
    for limit in range(TOTAL):
        directory, story, _ = run_until(limit)
        directory.crash(chooser(seed))
        check_recovery(directory, story)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_power_cut_before_every_operation_of_the_recovery_too(seed: int | None) -> None:
    choose = chooser(seed)
    for limit in range(0, TOTAL, 2):
        second = 0
        while True:
            directory, story, _ = run_until(limit)
            directory.crash(choose)
            directory.before, operations = counting(second)
            try:
                check_recovery(directory, story)
            except PowerCut:
                assert len(operations) == second
            else:
                break
            directory.before = None
            directory.crash(choose)
            check_recovery(directory, story)
            second += 1


def test_the_process_killed_before_every_operation() -> None:
    """SIGKILL: what was written stays readable."""
    for limit in range(TOTAL):
        directory, story, _ = run_until(limit)
        directory.restart_process()
        check_recovery(directory, story)


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_disk_that_begins_to_lie_is_noticed_or_gives_an_older_state(seed: int | None) -> None:
    """FAULTS line 17. What such a disk lost may be lost; nothing may be invented, and nothing else may happen."""
    noticed = older = 0
    for begins in range(TOTAL):
        directory = MemoryDirectory()
        count = 0

        def lie(operation: str, directory: MemoryDirectory = directory, begins: int = begins) -> None:
            nonlocal count
            directory.lying = count >= begins
            count += 1

        directory.before = lie
        story = Story()
        script(Writer(directory, story))
        directory.before = None
        directory.crash(chooser(seed))
        directory.lying = False
        try:
            _, recovered = Log.open(directory, group=GROUP, identity=MEMBER)
        except (LogCorrupt, LogMissing):
            noticed += 1
            continue
        older += 1
        slots = [entry.slot for entry in recovered.slotted]
        assert slots == list(range(slots[0], slots[0] + len(slots))) if slots else True
    assert noticed > 0
    assert older > 0


def test_these_checks_fail_on_a_disk_whose_syncs_do_nothing() -> None:
    """The same checks, with syncing off, must find loss; else they would prove nothing."""
    failures = 0
    for limit in range(TOTAL):
        directory, story, _ = run_until(limit, lying=True)
        directory.crash()
        if not story.created:
            continue
        with pytest.raises((AssertionError, StorageError)):
            Writer(directory, story).open()
        failures += 1
    assert failures > TOTAL // 2


def test_a_failed_sync_with_nothing_to_write_spoils_no_later_one() -> None:
    """Found by the guard of acknowledged slots: the fault was the simulated disk's."""
    directory = MemoryDirectory()
    file = directory.create("a")
    directory.sync()
    file.append(b"old")
    file.sync()
    directory.fail_syncs = 1
    with pytest.raises(StorageFailed):
        file.sync()
    directory.restart_process()
    again = directory.open("a")
    again.append(b"new")
    again.sync()
    directory.crash()
    assert directory.read("a") == b"oldnew"
