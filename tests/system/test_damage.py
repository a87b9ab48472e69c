"""What a member does with a disk that lost or changed its bytes while it was off (SAFETY rules 15 and 16).

A torn end is what a crash leaves behind: it is cut, and the member takes part as before. Damage to what was synced
means that promises may be forgotten: the member says so, follows the group and casts no vote. A damaged checkpoint is
no promise: its state is fetched from the group.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bftkit.channel.settling import own_record
from bftkit.client import SyncClient, TooFewAgreed
from bftkit.node.folders import read_member
from bftkit.node.processes import ProcessGroup
from bftkit.service import keyvalue
from bftkit.storage.disk import DiskDirectory
from bftkit.storage.head import HEAD_NAME, SALT_SIZE, Head, segment_name, segment_number
from bftkit.storage.log import Log

MakeGroup = Callable[..., ProcessGroup]
RunCommand = Callable[..., Any]
OpenClient = Callable[..., SyncClient]
Watch = Callable[[ProcessGroup, str, Callable[[Mapping[str, dict[str, Any]]], object]], Mapping[str, dict[str, Any]]]

HURT = "m3"


def _work(client: SyncClient, count: int = 40) -> None:
    for index in range(count):
        assert client.submit(keyvalue.put(b"key-%d" % index, b"value"), timeout=60) == b"="


def _segments(group: ProcessGroup) -> list[Path]:
    folder = group.directory / HURT / "data" / "log"
    return sorted(path for path in folder.iterdir() if segment_number(path.name) is not None)


def _newest_segment(group: ProcessGroup) -> Path:
    """The last one that is part of the log: whoever is killed may have begun another one."""
    folder = group.directory / HURT / "data" / "log"
    return folder / segment_name(Head.decode((folder / HEAD_NAME).read_bytes()).newest)


def _has_caught_up(found: Mapping[str, dict[str, Any]]) -> bool:
    return len(found) == 4 and found[HURT]["applied"] >= max(status["applied"] for status in found.values())


def _has_checkpoints(found: Mapping[str, dict[str, Any]]) -> bool:
    return len(found) == 4 and all(status["stable"] >= 32 for status in found.values())


def _flip_a_bit(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << (offset % 8)
    path.write_bytes(data)


def _flip_in_the_middle(group: ProcessGroup) -> None:
    largest = max(_segments(group), key=lambda path: path.stat().st_size)
    _flip_a_bit(largest, largest.stat().st_size // 2)


def _lose_everything(group: ProcessGroup) -> None:
    shutil.rmtree(group.directory / HURT / "data")


@pytest.mark.parametrize("damage", [_flip_in_the_middle, _lose_everything])
def test_a_member_that_may_have_forgotten_says_so_and_follows_in_silence(
    found: MakeGroup, client: OpenClient, watch: Watch, command: RunCommand, damage: Callable[[ProcessGroup], None]
) -> None:
    group = found("--checkpoint-interval", 16)
    group.start_all()
    mine = client(group)
    _work(mine)
    assert group.stop([HURT]) == {HURT: 0}
    damage(group)
    assert command("log", "verify", group.directory / HURT).code == 1
    group.start_all([HURT])
    assert "forgotten what it promised" in group.log_text(HURT)
    _work(mine)
    status = watch(group, f"{HURT} catching up", _has_caught_up)[HURT]
    assert (status["silent"], status["stopped"]) == (True, None)

    # It casts no vote: with one more member gone the group waits, though three processes run.
    group.kill("m2")
    with pytest.raises(TooFewAgreed):
        mine.submit(keyvalue.put(b"late", b"1"), timeout=1.5)
    # Nor does another restart make it forget that it has forgotten.
    assert group.stop([HURT]) == {HURT: 0}
    group.start_all([HURT])
    assert watch(group, HURT, lambda found: HURT in found)[HURT]["silent"] is True
    group.start_all(["m2"])
    _work(mine, 3)
    assert mine.submit(keyvalue.get(b"late"), timeout=60) == b"+1", "it stayed under way, and is executed once"


def test_a_torn_end_is_cut_and_the_member_takes_part(
    found: MakeGroup, client: OpenClient, watch: Watch, command: RunCommand
) -> None:
    group = found("--checkpoint-interval", 16)
    group.start_all()
    mine = client(group)
    _work(mine)
    group.kill(HURT)
    torn = command("log", "verify", group.directory / HURT).last["torn_bytes"]  # the kill alone may have torn the end
    with _newest_segment(group).open("ab") as file:
        file.write(random.Random(1).randbytes(333))
    told = command("log", "verify", group.directory / HURT)
    assert (told.code, told.last["torn_bytes"]) == (0, torn + 333)
    group.start_all([HURT])
    assert f"cut a torn tail of {torn + 333} bytes" in group.log_text(HURT)
    status = watch(group, f"{HURT} catching up", _has_caught_up)[HURT]
    assert (status["silent"], status["stopped"]) == (False, None)
    group.kill("m2")
    _work(mine, 5)  # its votes count


def test_a_damaged_checkpoint_is_fetched_from_the_group(found: MakeGroup, client: OpenClient, watch: Watch) -> None:
    group = found("--checkpoint-interval", 16)
    group.start_all()
    mine = client(group)
    _work(mine)
    watch(group, "a stable checkpoint everywhere", _has_checkpoints)
    assert group.stop([HURT]) == {HURT: 0}
    database = group.directory / HURT / "data" / "snapshots" / "checkpoints.db"
    for offset in range(0, database.stat().st_size, 997):
        _flip_a_bit(database, offset)
    group.start_all([HURT])
    assert "checkpoint" in group.log_text(HURT)
    _work(mine)
    status = watch(group, f"{HURT} catching up", _has_caught_up)[HURT]
    assert (status["silent"], status["stopped"]) == (False, None)
    group.kill("m2")
    _work(mine, 5)


def test_a_group_that_has_lost_its_only_state_says_so(found: MakeGroup, client: OpenClient, watch: Watch) -> None:
    """Nobody can give it what its log was cut for: it says what is the matter, and makes nothing up (rule 16)."""
    group = found("--members", 1, "--protocol", "coordinator")
    folder = read_member(group.directory / "m0")
    shutil.rmtree(folder.log)
    folder.log.mkdir()
    Log.create(
        DiskDirectory(folder.log),
        group=folder.genesis.group_id,
        identity=folder.identity.public,
        salt=bytes(SALT_SIZE),
        standing=[own_record(4, silent=False, covered=4)],
    )
    group.start_all()
    assert "m0 has lost the state for which its log was cut at slot 4" in group.log_text("m0")
    status = watch(group, "m0", lambda found: "m0" in found)["m0"]
    assert (status["catching_up"], status["silent"], status["stopped"]) == (True, False, None)
    with pytest.raises(TooFewAgreed):
        client(group).submit(keyvalue.get(b"key"), timeout=1.0)
