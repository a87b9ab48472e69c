"""The power is cut before every single operation on a disk, and whatever was not synced by then is gone.

Real members and clients in one process, each member on a simulated disk, so that the cut can be placed exactly and
can take what a killed process would leave in the page cache. All members lose their power at the same moment: then
no other one can make up for what a member promised and did not keep (SAFETY rule 5). The same runs find fault with
members whose disks do not sync.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import attrs
import pytest
import trio

from bftkit.client import AsyncClient, ClientError
from bftkit.client.local import LocalGroup, local_group
from bftkit.service import keyvalue
from bftkit.service.keyvalue import KeyValueStore
from bftkit.storage.files import StorageFailed
from bftkit.storage.log import Log
from bftkit.storage.recovery import LogCorrupt

MARKS = 5
MARKS_MAX = 60
"""So many are made at most where a run goes on until an operation of some kind comes."""
SEGMENT_BYTES = 1500
"""A few slots fill a segment, so that new ones begin whether or not a checkpoint is saved in time."""
AT_ONCE = 16
"""So many runs share the processor: each of them mostly waits for its clients' patience."""


@attrs.define
class Cut:
    """Cuts the power of all members before the disk operation with this number, counted on one member's disk."""

    group: LocalGroup
    watched: str
    at: int
    kind: str = ""
    """Only operations of this kind are counted; empty: all are."""
    count: int = 0
    operation: str | None = None
    """What was about to happen."""
    done: trio.Event = attrs.field(factory=trio.Event)
    ended: list[trio.Event] = attrs.field(factory=list[trio.Event])

    def install(self) -> None:
        """From now on."""
        self.group.disk(self.watched).before = self.before

    def before(self, operation: str) -> None:
        """The disk's hook."""
        if not operation.startswith(self.kind):
            return
        self.count += 1
        if self.count != self.at:
            return
        self.operation = operation
        self.group.disk(self.watched).before = None
        for member in self.group._members.values():  # pyright: ignore[reportPrivateUsage]
            run = member.run
            assert run is not None
            run.crashed = True
            self.ended.append(run.ended)
            member.directory.crash()
            member.snapshots.crash()
            run.scope.cancel()
        self.done.set()
        raise StorageFailed("the power is gone")


async def _marks(client: AsyncClient, acknowledged: list[int], first: int, count: int) -> None:
    for mark in range(first, first + count):
        await client.submit(keyvalue.append(b"marks", bytes((mark,))), timeout=60)
        acknowledged.append(mark)


async def _what_is_left(group: LocalGroup, witness: AsyncClient, acknowledged: list[int]) -> bytes:
    """The answer, or that nothing is there: members that notice what their disks have lost stop, and all with them.

    A group that stands still and does not say why shows nothing, and counts as one that has lost nothing.
    """
    for _ in range(5):
        try:
            return await witness.submit(keyvalue.get(b"marks"), timeout=1)
        except ClientError:
            if any(group.node(member).replica.stopped for member in group.members):
                return b"-"
    return b"+" + bytes(acknowledged)


async def _one_run(
    protocol: str, watched: str, at: int, *, syncing: bool, kind: str = "", marks: int = MARKS
) -> tuple[str | None, list[int], bytes]:
    """(where the power was cut, what was acknowledged by then, what is there after the restart)."""
    async with local_group(KeyValueStore, members=4, protocol=protocol, checkpoint_interval=2) as group:
        for member in group.members:
            group.disk(member).lying = not syncing
        client = await group.client()
        cut = Cut(group, watched, at, kind)
        cut.install()
        acknowledged: list[int] = []
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def stop_at_the_cut() -> None:
                    await cut.done.wait()
                    scope.cancel()

                nursery.start_soon(stop_at_the_cut)
                await _marks(client, acknowledged, 0, marks)
                # A quorum does not need the watched member: on a busy machine its disk may still have all before it.
                await group.in_step(60)
                nursery.cancel_scope.cancel()
        group.disk(watched).before = None
        if cut.operation is not None:
            for ended in cut.ended:
                await ended.wait()
            corrupt = False
            for member in group.members:
                try:
                    await group.restart(member)
                except* LogCorrupt:
                    corrupt = True
            if corrupt:
                assert not syncing, "a log that was synced cannot be read"
                return cut.operation, list(acknowledged), b""
        witness = await group.client()
        if syncing:
            result = await witness.submit(keyvalue.get(b"marks"), timeout=60)
            await witness.submit(keyvalue.put(b"after", b"it"), timeout=60)
            await group.in_step(60)
        else:
            result = await _what_is_left(group, witness, acknowledged)
        return cut.operation, list(acknowledged), keyvalue.parse_value(result) or b""


async def _all_runs(
    judge: Callable[[int, str, list[int], bytes], None], protocol: str, watched: str, *, syncing: bool, step: int = 1
) -> list[str]:
    """A run for every operation that the watched disk sees; what was about to happen at each cut."""
    operations: dict[int, str] = {}
    last = math.inf
    following = 1

    async def runs() -> None:
        nonlocal last, following
        while following < last:
            at = following
            following += step
            operation, acknowledged, found = await _one_run(protocol, watched, at, syncing=syncing)
            if operation is None:
                last = min(last, at)
            else:
                operations[at] = operation
                judge(at, operation, acknowledged, found)

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(runs)
    return [operations[at] for at in sorted(operations)]


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs whose segments are soon full."""
    monkeypatch.setattr(Log, "open", functools.partial(Log.open, segment_bytes=SEGMENT_BYTES))


def _nothing_is_lost(at: int, operation: str, acknowledged: list[int], found: bytes) -> None:
    where = f"power cut before operation {at} ({operation})"
    assert list(found[: len(acknowledged)]) == acknowledged, where
    # One more may have been under way, and nothing runs twice.
    assert list(found) in (acknowledged, [*acknowledged, len(acknowledged)]), where


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize(("protocol", "step"), [("pbft", 1), ("coordinator", 4)])
async def test_nothing_acknowledged_is_lost_wherever_the_power_is_cut(protocol: str, step: int) -> None:
    operations = await _all_runs(_nothing_is_lost, protocol, "m0", syncing=True, step=step)
    assert {"append", "sync"} <= {operation.split()[0] for operation in operations}
    # How many operations share a round depends on the machine; that each mark takes one at least does not.
    assert step * len(operations) >= MARKS


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("protocol", ["pbft", "coordinator"])
@pytest.mark.parametrize("kind", ["create", "replace", "sync directory"])
async def test_nothing_acknowledged_is_lost_where_a_new_segment_begins(protocol: str, kind: str) -> None:
    """However the rounds fell out: the run goes on until the second segment after the first is begun."""

    async def run(at: int) -> None:
        operation, acknowledged, found = await _one_run(protocol, "m0", at, syncing=True, kind=kind, marks=MARKS_MAX)
        assert operation is not None, f"fewer than {at} new segments after {MARKS_MAX} marks"
        _nothing_is_lost(at, operation, acknowledged, found)

    async with trio.open_nursery() as nursery:
        for at in (1, 2):
            nursery.start_soon(run, at)


async def test_the_same_runs_find_fault_with_disks_that_do_not_sync() -> None:
    lost: list[int] = []

    def judge(at: int, operation: str, acknowledged: list[int], found: bytes) -> None:
        if list(found[: len(acknowledged)]) != acknowledged:
            lost.append(at)

    await _all_runs(judge, "coordinator", "m0", syncing=False, step=6)
    assert lost
