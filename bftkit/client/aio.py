"""The client for trio and, through anyio, asyncio: many tasks may use one client at the same time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from bftkit.channel.client import CommandState
from bftkit.client.core import ClientCore, Outcome, Pending
from bftkit.client.errors import ClientError, Contradicted
from bftkit.client.reading import Reading
from bftkit.core.machine import MemberId
from bftkit.membership.chain import HandOver
from bftkit.membership.commands import SignedCommand
from bftkit.membership.epochs import Configuration

TIMEOUT_SECONDS = 10.0
LOOK_SECONDS = 0.02


class AsyncClient:
    """Made by `connect`: ``async with connect(folder) as client: await client.submit(operation)``."""

    def __init__(self, core: ClientCore) -> None:
        self.core = core

    async def submit(
        self, operation: bytes, *, timeout: float = TIMEOUT_SECONDS, deadline: float | None = None
    ) -> bytes:
        """As `SyncClient.submit`. Operations that tasks submit together travel together."""
        event = anyio.Event()
        return _result(await self._until(self.core.submit([operation], event.set, deadline), event, timeout))

    async def submit_many(
        self, operations: Sequence[bytes], *, timeout: float = TIMEOUT_SECONDS, deadline: float | None = None
    ) -> list[Outcome]:
        """As `SyncClient.submit_many`."""
        event = anyio.Event()
        pending = self.core.submit(operations, event.set, deadline)
        try:
            await self._until(pending, event, timeout)
        except ClientError as error:
            return [outcome if outcome is not None else error for outcome in pending.outcomes]
        return [outcome for outcome in pending.outcomes if outcome is not None]

    async def read(
        self, operation: bytes, *, timeout: float = TIMEOUT_SECONDS, consistency: str | None = None
    ) -> bytes:
        """As `SyncClient.read`."""
        event = anyio.Event()
        return _result(await self._until(self.core.read(operation, event.set, consistency), event, timeout))

    async def read_marked(
        self, operation: bytes, *, timeout: float = TIMEOUT_SECONDS, consistency: str | None = None
    ) -> Reading:
        """As `SyncClient.read_marked`."""
        event = anyio.Event()
        pending = await self._until(self.core.read(operation, event.set, consistency), event, timeout)
        _result(pending)
        assert pending.reading is not None
        return pending.reading

    async def wait(self, number: int, *, timeout: float = TIMEOUT_SECONDS) -> bytes:
        """As `SyncClient.wait`."""
        event = anyio.Event()
        return _result(await self._until(self.core.again(number, event.set), event, timeout))

    async def status(self, *, timeout: float = 2.0) -> Mapping[MemberId, dict[str, Any]]:
        """As `SyncClient.status`."""
        core = self.core
        with core.survey() as survey, anyio.move_on_after(timeout):
            while survey.lacks(core.machine.settings.members):
                core.ask_status()
                core.hub.wake()
                await anyio.sleep(0.05)
        return dict(sorted(survey.answers.items()))

    @property
    def epoch(self) -> int:
        """As `SyncClient.epoch`."""
        return self.core.machine.settings.epoch

    @property
    def configuration(self) -> Configuration:
        """As `SyncClient.configuration`."""
        return self.core.configuration

    @property
    def refused_links(self) -> Mapping[MemberId, tuple[int, str]]:
        """As `SyncClient.refused_links`."""
        return self.core.refused_links

    def asked(self, answers: Mapping[MemberId, object]) -> tuple[MemberId, ...]:
        """The members that were asked for these answers."""
        return self.core.machine.settings.members

    def present(self, answers: Mapping[MemberId, Mapping[str, Any]]) -> frozenset[MemberId]:
        """Which members are there, as far as these answers show it."""
        return frozenset(answers)

    async def settle(self, *, timeout: float = 2.0) -> Configuration:
        """As `SyncClient.settle`."""
        machine = self.core.machine
        with anyio.move_on_after(timeout):
            while not machine.is_settled:
                if machine.stopped is not None:
                    raise Contradicted(machine.stopped)
                self.core.seek()
                self.core.hub.wake()  # its loop waits for the timer that was set before
                await anyio.sleep(LOOK_SECONDS)
        if not machine.is_settled:
            raise self.core.unanswered()
        return self.configuration

    async def order(self, signed: SignedCommand, *, timeout: float = 60.0) -> AsyncGenerator[CommandState]:
        """As `SyncClient.order`: ``async for state in client.order(signed)``.

        Whoever leaves the loop before its end does so within ``async with contextlib.aclosing(...)``.
        """
        core = self.core
        end = anyio.current_time() + timeout
        news = anyio.Event()

        def wake() -> None:
            news.set()

        watch = core.order(signed, wake)
        core.hub.wake()
        try:
            while True:
                while watch.states:
                    state = watch.states.popleft()
                    yield state
                    if state.final:
                        return
                if watch.error is not None:
                    raise watch.error
                if anyio.current_time() >= end:
                    raise core.unanswered()
                with anyio.move_on_after(end - anyio.current_time()):
                    await news.wait()
                news = anyio.Event()
        finally:
            core.enough(watch)

    async def history(self, *, timeout: float = TIMEOUT_SECONDS) -> tuple[HandOver, ...]:
        """As `SyncClient.history`."""
        end = anyio.current_time() + timeout
        await self.settle(timeout=timeout)
        done = anyio.Event()
        chain = self.core.ask_history(done.set)
        self.core.hub.wake()
        with anyio.move_on_after(end - anyio.current_time()):
            await done.wait()
        if chain.error is not None:
            raise chain.error
        if chain.links is None:
            raise self.core.unanswered()
        return chain.links

    async def _until(self, pending: Pending, event: anyio.Event, timeout: float) -> Pending:
        self.core.hub.wake()  # the loop below sends what all tasks have submitted by then, in one bundle
        with anyio.move_on_after(timeout):
            await event.wait()
        if pending.missing:
            raise self.core.give_up(pending)
        return pending

    async def run(self) -> None:
        """The loop that drives the client; `connect` starts it."""
        core = self.core
        while True:
            await core.hub.wait(core.deadline)
            core.turn()


@asynccontextmanager
async def driving(core: ClientCore) -> AsyncGenerator[AsyncClient]:
    """Runs the client's loop in the background of the block."""
    client = AsyncClient(core)
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(client.run)
            try:
                yield client
            except Exception as error:
                # Kept out of the group, so that the caller's `except Refused` sees what was raised.
                failure = error
            group.cancel_scope.cancel()
    finally:
        core.close()
    if failure is not None:
        raise failure


def _result(pending: Pending) -> bytes:
    outcome = pending.outcomes[0]
    assert outcome is not None
    if isinstance(outcome, ClientError):
        raise outcome
    return outcome
