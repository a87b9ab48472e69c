"""The log against a model, over random sequences of calls, crashes, kills, full disks and reopenings.

The model is a list of what was appended and a mark of how much of it is promised. Whatever hypothesis does, a
reopened log holds a prefix of the list that reaches the mark at least, and standing records of a moment that existed.
"""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bftkit.storage.files import DiskFull, StorageFailed
from bftkit.storage.head import Head
from bftkit.storage.log import Entry, Log, Recovered, verify
from bftkit.storage.memory_files import MemoryDirectory
from bftkit.storage.records import Codec

GROUP, MEMBER, SALT = b"group", b"member", bytes(range(16))

MARKER = Codec(Head(GROUP, MEMBER, SALT, 1, 1, 0).key()).marker

payloads = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 3000).map(lambda size: MARKER * (size // 4) + b"x" * (size % 4)),
)


class LogAgainstModel(RuleBasedStateMachine):
    """See the module's text."""

    directory: MemoryDirectory
    log: Log

    @initialize()
    def create(self) -> None:
        self.directory = MemoryDirectory()
        Log.create(self.directory, group=GROUP, identity=MEMBER, salt=SALT)
        self.appended: list[Entry] = []
        self.flushed = 0
        self.promised = 0
        self.cut_slot = 0
        self.slot = 0
        self.standing: list[tuple[bytes, ...]] = [()]
        self.flushed_standing = 1
        self.failed = False
        self.open(self.promised, len(self.standing))

    def open(self, least: int, standing_most: int) -> None:
        assert verify(self.directory).problem is None
        self.log, recovered = Log.open(self.directory, group=GROUP, identity=MEMBER, segment_bytes=3000)
        self.check(recovered, least, standing_most)
        self.appended = list(recovered.slotted)
        self.promised = self.flushed = len(self.appended)
        self.standing = [recovered.standing]
        self.flushed_standing = 1
        self.failed = False

    def check(self, recovered: Recovered, least: int, standing_most: int) -> None:
        found = [entry for entry in recovered.slotted if entry.slot > self.cut_slot]
        possible = [entry for entry in self.appended if entry.slot > self.cut_slot]
        needed = [entry for entry in self.appended[:least] if entry.slot > self.cut_slot]
        assert found == possible[: len(found)]
        assert len(found) >= len(needed)
        assert recovered.standing in self.standing[:standing_most]

    def settled(self) -> None:
        self.promised = self.flushed = len(self.appended)
        self.standing = self.standing[-1:]
        self.flushed_standing = 1

    @precondition(lambda self: not self.failed)
    @rule(payload=payloads, gap=st.integers(-3, 3))
    def append(self, payload: bytes, gap: int) -> None:
        self.slot = max(1, self.slot + gap, self.cut_slot)
        self.appended.append(Entry(self.slot, payload))
        self.log.append(payload, self.slot)
        assert self.log.dirty

    @precondition(lambda self: not self.failed)
    @rule(payload=st.binary(max_size=10))
    def append_standing(self, payload: bytes) -> None:
        self.standing.append((*self.standing[-1], payload))
        self.log.append(payload, 0)

    @precondition(lambda self: not self.failed)
    @rule()
    def flush(self) -> None:
        try:
            self.log.flush()
        except DiskFull:
            return
        self.flushed = len(self.appended)
        self.flushed_standing = len(self.standing)

    @precondition(lambda self: not self.failed)
    @rule()
    def sync(self) -> None:
        try:
            self.log.sync()
        except DiskFull:
            return
        self.settled()
        assert not self.log.dirty

    @precondition(lambda self: not self.failed)
    @rule()
    def seal(self) -> None:
        sealed = self.log.seal()
        assert not (sealed and self.log.dirty)
        if not self.log.dirty:  # there may have been room for the records and none for the seal
            self.settled()

    @precondition(lambda self: not self.failed)
    @rule(standing=st.lists(st.binary(max_size=10), max_size=3))
    def rotate(self, standing: list[bytes]) -> None:
        try:
            self.log.rotate(standing)
        except DiskFull:
            # What came before it may have been synced; it was not said so, and need not be.
            if not self.log.dirty:
                self.settled()
            return
        self.standing.append(tuple(standing))
        self.settled()

    @precondition(lambda self: not self.failed)
    @rule(back=st.integers(0, 5))
    def cut(self, back: int) -> None:
        slot = max(self.cut_slot, self.slot - back)
        # A record at or below an agreed cut may go; one that is appended later with such a slot may, too.
        self.cut_slot = slot
        before = self.log.bytes_on_disk
        freed = self.log.cut(slot)
        assert self.log.bytes_on_disk == before - freed

    @rule(space=st.integers(0, 2000))
    def fill_the_disk(self, space: int) -> None:
        self.directory.capacity = self.directory.bytes_used + space

    @rule()
    def free_the_disk(self) -> None:
        self.directory.capacity = None

    @precondition(lambda self: not self.failed and self.log.dirty)
    @rule()
    def fail_the_sync(self) -> None:
        self.directory.capacity = None
        self.directory.fail_syncs = 1
        with pytest.raises(StorageFailed):
            self.log.sync()
        with pytest.raises(StorageFailed):
            self.log.sync()
        self.flushed = len(self.appended)
        self.flushed_standing = len(self.standing)
        self.failed = True

    @rule(seed=st.one_of(st.none(), st.integers(0, 1 << 32)))
    def crash(self, seed: int | None) -> None:
        self.directory.crash(None if seed is None else random.Random(seed).randrange)
        self.directory.capacity = None
        self.open(self.promised, len(self.standing))

    @rule()
    def kill(self) -> None:
        self.directory.restart_process()
        self.open(self.flushed, self.flushed_standing)

    @precondition(lambda self: not self.failed)
    @rule()
    def stop(self) -> None:
        self.directory.capacity = None
        self.log.close()
        self.settled()
        self.open(len(self.appended), 1)

    @invariant()
    def the_log_knows_its_size(self) -> None:
        if hasattr(self, "log") and not self.log.dirty and not self.failed:
            segments = [name for name in self.directory.names() if name.endswith(".seg")]
            assert self.log.segments == len(segments)


LogAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLogAgainstModel = LogAgainstModel.TestCase
