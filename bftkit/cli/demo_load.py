"""The demo's clients: what they do to the key-value service, what they remember, and what must be true afterwards.

Each client works on its own session and key. Most operations go to a few shared keys and are recorded with their
times, for the linearizability checker. The rest append numbered marks to a key of the client's own: a mark that was
acknowledged and is missing was lost, and one that is there twice was executed twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable

import attrs
import trio

from bftkit.client import AsyncClient, ClientError, OutcomeUnknown, Refused
from bftkit.service import keyvalue
from bftkit.sim.history import History
from bftkit.sim.linearizability import Verdict, check
from bftkit.sim.register import Cas, Get, Put, RegisterModel, RegisterOperation

SHARED_KEYS = 50
TIMEOUT_SECONDS = 8.0
READ_BACK_SECONDS = 60.0
MARK_BYTES = 8


@attrs.define(eq=False)
class Audit:
    """What the marks of all clients show."""

    lost: int
    duplicated: int
    reordered: int


@attrs.define(eq=False)
class Load:
    """All clients' work, together."""

    clock: Callable[[], int] = time.monotonic_ns
    history: History[RegisterOperation, Hashable] = attrs.field(factory=History[RegisterOperation, Hashable])
    acknowledged: int = 0
    unknown: int = 0
    refused: int = 0
    failed: list[str] = attrs.field(factory=list[str])
    """Errors of the application, of which there should be none."""
    last_acknowledged: float = 0.0
    longest_gap: float = 0.0
    waits: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])
    """(when it was asked, when it was answered or given up) of all operations."""
    waiting: dict[int, float] = attrs.field(factory=dict[int, float])
    """Since when each client waits that waits for an answer, by its number."""
    marks: dict[int, tuple[list[int], set[int]]] = attrs.field(factory=dict[int, tuple[list[int], set[int]]])
    """By client: marks that were acknowledged, in order, and those whose outcome is unknown."""

    def acknowledge(self) -> None:
        """An operation was answered."""
        now = time.monotonic()
        if self.last_acknowledged:
            self.longest_gap = max(self.longest_gap, now - self.last_acknowledged)
        self.last_acknowledged = now
        self.acknowledged += 1

    def longest_wait(self, begin: float, end: float) -> float:
        """The longest that a client waited for one answer, of all waits that touch this span; in seconds."""
        now = time.monotonic()
        waits = [*self.waits, *((asked, now) for asked in self.waiting.values())]
        return max((answered - asked for asked, answered in waits if asked <= end and answered >= begin), default=0.0)

    async def work(self, number: int, client: AsyncClient, until: trio.Event) -> None:
        """One client's work, until the event is set."""
        draws = random.Random(number)
        worker = _Worker(self, number, client)
        while not until.is_set():
            choice = draws.random()
            key = b"shared-%d" % draws.randrange(SHARED_KEYS)
            if choice < 0.35:
                await worker.read(key)
            elif choice < 0.45:
                await worker.get(key)
            elif choice < 0.65:
                await worker.put(key)
            elif choice < 0.85:
                await worker.compare_and_set(key)
            else:
                await worker.mark()

    async def read_back(self, client: AsyncClient) -> Audit:
        """Read every key once more, as part of the history, and look at the marks."""
        worker = _Worker(self, -1, client)
        for index in range(SHARED_KEYS):
            await worker.get(b"shared-%d" % index)
        audit = Audit(0, 0, 0)
        for number, (acknowledged, unknown) in sorted(self.marks.items()):
            told = await client.submit(keyvalue.get(_mark_key(number)), timeout=READ_BACK_SECONDS)
            value = keyvalue.parse_value(told) or b""
            found = [int.from_bytes(value[at : at + MARK_BYTES], "big") for at in range(0, len(value), MARK_BYTES)]
            counted = set(found)
            audit.lost += len(set(acknowledged) - counted)
            audit.duplicated += len(found) - len(counted)
            audit.duplicated += len(counted - set(acknowledged) - unknown)
            expected = [mark for mark in found if mark in set(acknowledged)]
            audit.reordered += expected != sorted(expected)
        return audit

    def linearizable(self) -> Verdict[RegisterOperation, Hashable]:
        """Whether all that clients saw can be explained by one sequential store."""
        return check(RegisterModel(), self.history.calls())


@attrs.define(eq=False)
class _Worker:
    load: Load
    number: int
    client: AsyncClient
    count: int = 0
    seen: dict[bytes, bytes | None] = attrs.field(factory=dict[bytes, bytes | None])

    async def read(self, key: bytes) -> None:
        result = await self._recorded(Get(key), keyvalue.get(key), strong_read=True)
        if result is not None:
            self.seen[key] = keyvalue.parse_value(result)

    async def get(self, key: bytes) -> None:
        result = await self._recorded(Get(key), keyvalue.get(key))
        if result is not None:
            self.seen[key] = keyvalue.parse_value(result)

    async def put(self, key: bytes) -> None:
        value = self._fresh()
        if await self._recorded(Put(key, value), keyvalue.put(key, value)) is not None:
            self.seen[key] = value

    async def compare_and_set(self, key: bytes) -> None:
        expected, new = self.seen.get(key), self._fresh()
        result = await self._recorded(Cas(key, expected, new), keyvalue.compare_and_set(key, expected, new))
        if result is not None and keyvalue.parse_done(result):
            self.seen[key] = new

    async def mark(self) -> None:
        self.count += 1
        acknowledged, unknown = self.load.marks.setdefault(self.number, ([], set()))
        operation = keyvalue.append(_mark_key(self.number), self.count.to_bytes(MARK_BYTES, "big"))
        unknown.add(self.count)
        result = await self._asked(operation, strong_read=False)
        if isinstance(result, bytes):
            unknown.discard(self.count)
            acknowledged.append(self.count)
        elif isinstance(result, Refused):
            unknown.discard(self.count)

    def _fresh(self) -> bytes:
        self.count += 1
        return b"%d-%d" % (self.number, self.count)

    async def _recorded(self, call: RegisterOperation, operation: bytes, *, strong_read: bool = False) -> bytes | None:
        load = self.load
        number = load.history.invoke(f"client {self.number}", call, load.clock())
        result = await self._asked(operation, strong_read=strong_read)
        if isinstance(result, bytes):
            value: Hashable
            if isinstance(call, Get):
                value = keyvalue.parse_value(result)
            else:
                value = keyvalue.parse_done(result)
            load.history.ok(number, value, load.clock())
            return result
        if isinstance(result, Refused):
            load.history.fail(number)
        else:
            load.history.info(number)
        return None

    async def _asked(self, operation: bytes, *, strong_read: bool) -> bytes | ClientError:
        load = self.load
        asked = load.waiting[self.number] = time.monotonic()
        try:
            if strong_read:
                result = await self.client.read(operation, timeout=TIMEOUT_SECONDS)
            else:
                result = await self.client.submit(operation, timeout=TIMEOUT_SECONDS)
        except OutcomeUnknown as error:
            load.unknown += 1
            return error
        except Refused as error:
            load.refused += 1
            return error
        except ClientError as error:
            load.failed.append(str(error))
            return error
        finally:
            del load.waiting[self.number]
            load.waits.append((asked, time.monotonic()))
        load.acknowledge()
        return result


def _mark_key(number: int) -> bytes:
    return b"marks-%d" % number
