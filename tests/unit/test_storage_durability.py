"""How durable a log is: the stricter of a member's setting and the group's needs, and the mark of what may be lost."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from bftkit.channel.records import OWN_RECORD
from bftkit.channel.settling import own_record, read_own_record
from bftkit.configuration.qos import QoS
from bftkit.node.folders import MemberFolder
from bftkit.node.keychain import MemberKeychain
from bftkit.node.recovery import durability_keeper, open_storage
from bftkit.storage.disk import DiskDirectory
from bftkit.storage.durability import MARK, DurabilityKeeper
from bftkit.storage.head import HEAD_NAME
from bftkit.storage.log import Durability, Log, MemoryLog
from bftkit.storage.memory_files import MemoryDirectory
from bftkit.storage.record_log import RecordLog, strictest
from tests.unit.test_keychain import FIRST, GENESIS, GROUP, folder, vault_of

__all__ = ["folder"]

FSYNC, ASYNC, MEMORY = Durability.FSYNC, Durability.ASYNC, Durability.MEMORY
OURS, MINE = b"g" * 32, b"i" * 32


def opened(directory: MemoryDirectory, durability: Durability = FSYNC) -> Log:
    if not directory.names():
        Log.create(directory, group=OURS, identity=MINE, salt=bytes(16))
    return Log.open(directory, group=OURS, identity=MINE, durability=durability)[0]


def records(directory: MemoryDirectory) -> list[bytes]:
    return [entry.payload for entry in Log.open(directory, group=OURS, identity=MINE)[1].records]


def test_the_strictest_survives_most() -> None:
    assert strictest(MEMORY, ASYNC) is ASYNC
    assert strictest(ASYNC, FSYNC, MEMORY) is FSYNC
    keeper = DurabilityKeeper(ASYNC, MemoryDirectory())
    assert [keeper.needed(asked) for asked in (None, "fsync", "async", "memory")] == [ASYNC, FSYNC, ASYNC, ASYNC]


def test_a_log_that_becomes_stricter_has_all_before_on_the_disk() -> None:
    directory = MemoryDirectory()
    log = opened(directory, ASYNC)
    log.append(b"before", 1)
    log.sync()
    assert log.dirty
    log.work_at(FSYNC)
    assert not log.dirty
    log.append(b"after", 2)
    log.sync()
    directory.crash(lambda choices: 0)
    assert records(directory) == [b"before", b"after"]


def test_a_log_that_becomes_laxer_says_so_durably_before_its_next_record() -> None:
    directory = MemoryDirectory()
    log, keeper = opened(directory), DurabilityKeeper(ASYNC, directory)
    assert not keeper.is_marked
    keeper.suit(log, "async")
    log.append(b"perhaps", 1)
    log.sync()
    directory.crash(lambda choices: 0)
    assert MARK in directory.names()
    assert records(directory) == []


def test_the_mark_goes_when_the_log_is_whole_again() -> None:
    directory = MemoryDirectory()
    log, keeper = opened(directory), DurabilityKeeper(ASYNC, directory)
    keeper.suit(log, None)
    assert (log.durability, keeper.is_marked) == (ASYNC, True)
    keeper.suit(log, "memory")
    assert log.durability is ASYNC, "a log on disk is never laxer"
    keeper.suit(log, "fsync")
    assert (log.durability, keeper.is_marked) == (FSYNC, False)


def test_a_log_in_memory_stays_what_it_is() -> None:
    keeper = DurabilityKeeper(MEMORY, MemoryDirectory())
    log: RecordLog = MemoryLog()
    log.work_at(FSYNC)
    keeper.suit(log, "fsync")
    assert log.durability is MEMORY


# ------------------------------------------------------------------------------------------------- a real folder


def with_durability(folder: MemberFolder, durability: str, needs: str | None = None) -> MemberFolder:
    genesis = attrs.evolve(GENESIS, qos=None if needs is None else QoS(durability=needs))  # type: ignore[arg-type]
    return attrs.evolve(folder, settings=attrs.evolve(folder.settings, durability=durability), genesis=genesis)


@pytest.fixture
def made(folder: MemberFolder) -> MemberFolder:
    (folder.path / folder.settings.data).mkdir(exist_ok=True)
    return folder


def start(folder: MemberFolder, *, written: bytes = b"") -> tuple[bool, Durability, list[bytes]]:
    """One life of a member: amnesic, how its log works, and what it found there."""
    directory = DiskDirectory(folder.log)
    if not directory.names():
        Log.create(directory, group=folder.genesis.group_id, identity=folder.identity.public, salt=bytes(16))
    log, snapshots, restored = open_storage(folder)
    durability = log.durability
    if written:
        log.append(written, 1)
    log.close()
    snapshots.close()
    if isinstance(log, Log):
        held = log._directory  # pyright: ignore[reportPrivateUsage]
        assert isinstance(held, DiskDirectory)
        held.unlock()  # as the end of a process would
    return restored.amnesic, durability, list(restored.records)


@pytest.mark.parametrize(
    ("own", "needs", "works"),
    [("fsync", "async", FSYNC), ("async", None, ASYNC), ("async", "fsync", FSYNC), ("memory", "fsync", FSYNC)],
)
def test_a_restart_after_fsync_remembers_and_after_less_does_not(
    made: MemberFolder, own: str, needs: str | None, works: Durability
) -> None:
    folder = with_durability(made, own, needs)
    first = start(folder, written=own_record(8, silent=False))
    assert first[:2] == (False, works)
    again = start(folder)
    assert again[:2] == (works is not FSYNC, works)


def test_a_stricter_setting_does_not_hide_what_a_laxer_one_lost(made: MemberFolder) -> None:
    """What a log is worth is a matter of how it was kept, and not of what the settings say now (SAFETY rule 16)."""
    start(with_durability(made, "async"), written=own_record(8, silent=False))
    strict = with_durability(made, "fsync")
    amnesic, durability, _ = start(strict)
    assert (amnesic, durability) == (True, FSYNC)
    assert not durability_keeper(strict).is_marked
    _, _, found = start(strict)
    assert read_own_record(found[-1][len(OWN_RECORD) :]) == (8, True, made.epochs.root), "the log says it itself now"


def test_memory_and_then_a_disk_is_amnesia_too(made: MemberFolder) -> None:
    assert start(with_durability(made, "memory"))[:2] == (False, MEMORY)
    assert start(with_durability(made, "memory"))[:2] == (True, MEMORY)
    assert start(with_durability(made, "fsync"))[:2] == (True, FSYNC)


def test_a_disk_and_then_memory_is_amnesia_too(made: MemberFolder) -> None:
    """SAFETY rule 16: the log is whole, and nobody reads it any more."""
    assert start(with_durability(made, "fsync"), written=own_record(8, silent=False))[:2] == (False, FSYNC)
    assert start(with_durability(made, "memory"))[:2] == (True, MEMORY)


def test_a_damaged_disk_and_then_memory_is_amnesia_too(made: MemberFolder) -> None:
    start(with_durability(made, "fsync"), written=own_record(8, silent=False))
    (made.log / HEAD_NAME).unlink()
    assert start(with_durability(made, "memory"))[:2] == (True, MEMORY)


def test_the_remark_with_which_a_replacement_begins_is_no_promise(made: MemberFolder) -> None:
    names = {"group": made.genesis.group_id, "identity": made.identity.public, "salt": bytes(16)}
    Log.create(DiskDirectory(made.log), **names, standing=[own_record(0, silent=True)])
    assert start(with_durability(made, "memory"))[:2] == (False, MEMORY)


def test_a_member_that_keeps_nothing_is_not_ready_for_needs_that_it_cannot_meet(tmp_path: Path) -> None:
    keychain = MemberKeychain(GROUP, "m0", vault_of(), keeps_nothing=True)
    needing = attrs.evolve(FIRST, qos=QoS(durability="fsync"))
    reason = keychain.why_not(needing)
    assert reason is not None
    assert "keeps nothing on disk" in reason
    assert keychain.why_not(attrs.evolve(FIRST, qos=QoS(durability="memory"))) is None
    assert MemberKeychain(GROUP, "m0", vault_of()).why_not(needing) is None
    assert MemberKeychain(GROUP, "m9", vault_of("m9"), keeps_nothing=True).why_not(needing) is None
