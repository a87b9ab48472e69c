"""The power is cut before every single operation on a disk, and whatever was not synced by then is gone.

Real members and clients in one process, each member on a simulated disk, so that the cut can be placed exactly and
can take what a killed process would leave in the page cache. All members lose their power at the same moment: then
no other one can make up for what a member promised and did not keep (SAFETY rule 5). The same runs find fault with
members whose disks do not sync.
"""

from __future__ import annotations

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

MARKS = 5
AT_ONCE = 16
"""So many runs share the processor: each of them mostly waits for its clients' patience."""


@attrs.define
class Cut:
    """Cuts the power of all members before the disk operation with this number, counted on one member's disk."""

    group: LocalGroup
    watched: str
    at: int
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


async def _one_run(protocol: str, watched: str, at: int, *, syncing: bool) -> tuple[str | None, list[int], bytes]:
    """(where the power was cut, what was acknowledged by then, what is there after the restart)."""
    async with local_group(KeyValueStore, members=4, protocol=protocol, checkpoint_interval=2) as group:
        for member in group.members:
            group.disk(member).lying = not syncing
        client = await group.client()
        cut = Cut(group, watched, at)
        cut.install()
        acknowledged: list[int] = []
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def stop_at_the_cut() -> None:
                    await cut.done.wait()
                    scope.cancel()

                nursery.start_soon(stop_at_the_cut)
                await _marks(client, acknowledged, 0, MARKS)
                nursery.cancel_scope.cancel()
        group.disk(watched).before = None
        if cut.operation is not None:
            for ended in cut.ended:
                await ended.wait()
            for member in group.members:
                await group.restart(member)
        witness = await group.client()
        try:
            result = await witness.submit(keyvalue.get(b"marks"), timeout=60)
            if syncing:
                await witness.submit(keyvalue.put(b"after", b"it"), timeout=60)
                await group.in_step(60)
        except ClientError:
            result = b"-"
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


@pytest.mark.parametrize(("protocol", "step"), [("pbft", 1), ("coordinator", 4)])
async def test_nothing_acknowledged_is_lost_wherever_the_power_is_cut(protocol: str, step: int) -> None:
    def judge(at: int, operation: str, acknowledged: list[int], found: bytes) -> None:
        where = f"power cut before operation {at} ({operation})"
        assert list(found[: len(acknowledged)]) == acknowledged, where
        # One more may have been under way, and nothing runs twice.
        assert list(found) in (acknowledged, [*acknowledged, len(acknowledged)]), where

    operations = await _all_runs(judge, protocol, "m0", syncing=True, step=step)
    seen = {operation.split()[0] for operation in operations}
    assert {"append", "sync"} <= seen
    assert step > 1 or "create" in seen, "a new segment was begun as well"
    assert step * len(operations) >= 3 * MARKS


async def test_the_same_runs_find_fault_with_disks_that_do_not_sync() -> None:
    lost: list[int] = []

    def judge(at: int, operation: str, acknowledged: list[int], found: bytes) -> None:
        if list(found[: len(acknowledged)]) != acknowledged:
            lost.append(at)

    await _all_runs(judge, "coordinator", "m0", syncing=False, step=6)
    assert lost
