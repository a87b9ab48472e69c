"""What is written for operators is synced, in order, and no round of the member waits for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from bftkit.cli import main
from bftkit.node.assembly import assemble
from bftkit.node.chronicle import FILE, LINES_MAX, Chronicle, read_events
from bftkit.node.evidence import FOLDER, EvidenceStore, evidence_files, read_all
from bftkit.node.folders import read_member
from bftkit.node.scribe import Scribe
from tests.chains import Group


@attrs.define
class Disk:
    """A disk that can be made to stand still; what was synced, in order."""

    go_on: threading.Event = attrs.field(factory=threading.Event)
    asked: threading.Event = attrs.field(factory=threading.Event)
    """Somebody has wanted something synced."""
    synced: list[str] = attrs.field(factory=list[str])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    found.go_on.set()
    fsync: Callable[[int], None] = os.fsync

    def noted(descriptor: int) -> None:
        found.asked.set()
        assert found.go_on.wait(60)
        found.synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return found


@pytest.fixture
def scribe(disk: Disk) -> Iterator[Scribe]:
    found = Scribe(waiting_max=4)
    yield found
    disk.go_on.set()
    found.close()


def test_evidence_and_events_are_synced_in_their_order(tmp_path: Path, scribe: Scribe, disk: Disk) -> None:
    """The proof before the event that names it: who reads of a proof finds it, whenever the power is cut."""
    group = Group()
    store = EvidenceStore(tmp_path / FOLDER, group.group, "m0", group.place, write=scribe.write)
    chronicle = Chronicle(tmp_path / FILE, write=scribe.write)
    name = store.keep("m1", "equivocation", b"proof")
    chronicle.note("blamed", member="m1", evidence=name)
    chronicle.note("halted", reason="enough")
    scribe.close()
    folder = tmp_path.name
    assert disk.synced[:5] == [folder, f".{name}.new", FOLDER, FILE, folder]
    assert [one.proof for _, one in read_all(tmp_path / FOLDER)] == [b"proof"]
    assert [one["event"] for one in read_events(tmp_path)] == ["blamed", "halted"]


def test_a_disk_that_stands_still_holds_nobody_up_and_what_waits_is_bounded(
    tmp_path: Path, scribe: Scribe, disk: Disk
) -> None:
    group = Group()
    store = EvidenceStore(tmp_path / FOLDER, group.group, "m0", group.place, write=scribe.write)
    chronicle = Chronicle(tmp_path / FILE, write=scribe.write)
    disk.go_on.clear()
    first = store.keep("m1", "equivocation", b"first")
    assert first is not None
    assert disk.asked.wait(60)
    more = (store.keep("m1", "equivocation", b"%d" % number) for number in range(50))
    kept = [first, *(name for name in more if name is not None)]
    for number in range(LINES_MAX + 50):
        chronicle.note("blamed", member="m1", count=number)
    assert len(kept) == 5, "one is being written, four wait"
    assert store.count == len(kept)
    assert evidence_files(tmp_path / FOLDER) == []
    disk.go_on.set()
    scribe.close()
    assert [path.stem for path in evidence_files(tmp_path / FOLDER)] == sorted(kept)
    chronicle.note("blamed", member="m1", count=-1)
    scribe.close()
    counts = [one["count"] for one in read_events(tmp_path)]
    assert len(counts) == LINES_MAX, "the oldest of too many are lost"
    assert counts[-2:] == [LINES_MAX + 49, -1]
    again = store.keep("m1", "equivocation", b"49")
    scribe.close()
    assert again is not None, "what was not taken is taken when there is room"


def test_a_proof_that_the_disk_refused_is_taken_again(
    tmp_path: Path, scribe: Scribe, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group()
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    store = EvidenceStore(tmp_path / FOLDER, group.group, "m0", group.place, write=scribe.write)
    store.keep("m1", "equivocation", b"one")
    scribe.close()
    assert "evidence against m1 cannot be kept" in caplog.text
    assert store.count == 0
    (tmp_path / FOLDER).unlink()
    assert store.keep("m1", "equivocation", b"one") is not None
    scribe.close()
    assert len(evidence_files(tmp_path / FOLDER)) == 1


async def test_a_member_that_stops_has_written_everything(tmp_path: Path, disk: Disk) -> None:
    directory = tmp_path / "shop"
    assert main(["init", str(directory), "--members", "1", "--protocol", "coordinator", "--json"]) == 0
    member = assemble(read_member(directory / "m0"))
    member.node.stop()
    await member.node.run(member.restored)
    assert [one["event"] for one in read_events(directory / "m0")] == ["started"]
    assert FILE in disk.synced
