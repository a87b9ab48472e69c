"""The client for plain synchronous callers: no threads, no event loop; it works while you wait for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from bftkit.channel.client import CommandState
from bftkit.client.core import ClientCore, Outcome, Pending
from bftkit.client.errors import ClientError, Contradicted
from bftkit.client.reading import Reading
from bftkit.core.machine import MemberId
from bftkit.membership.chain import HandOver
from bftkit.membership.commands import SignedCommand
from bftkit.membership.epochs import Configuration

TIMEOUT_SECONDS = 10.0


class SyncClient:
    """Use as a context manager: ``with connect_sync(folder) as client: client.submit(operation)``.

    Belongs to one thread. While no method runs nothing is received, so leave it when you are done.
    """

    def __init__(self, core: ClientCore) -> None:
        self.core = core

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all links."""
        self.core.close()

    def submit(self, operation: bytes, *, timeout: float = TIMEOUT_SECONDS, deadline: float | None = None) -> bytes:
        """Order and execute one operation exactly once; its result.

        It is executed within `deadline` seconds by the group's agreed time, or never; the group's own deadline
        counts if there is none here, or if it is the shorter one.

        Raises `OperationFailed` (the application's error), `Refused` (never executed), of which `TooLate` is one kind
        (its deadline was over), `OutcomeUnknown` (no result within `timeout` seconds; ask again with `wait`),
        `ValueError` (larger than the group allows, a deadline that is not positive).
        """
        return self._result(self._until(self.core.submit([operation], _nothing, deadline), timeout))

    def submit_many(
        self, operations: Sequence[bytes], *, timeout: float = TIMEOUT_SECONDS, deadline: float | None = None
    ) -> list[Outcome]:
        """Order and execute several operations; for each its result, or the error that `submit` would raise."""
        pending = self.core.submit(operations, _nothing, deadline)
        try:
            self._until(pending, timeout)
        except ClientError as error:
            return [outcome if outcome is not None else error for outcome in pending.outcomes]
        return [outcome for outcome in pending.outcomes if outcome is not None]

    def read(self, operation: bytes, *, timeout: float = TIMEOUT_SECONDS, consistency: str | None = None) -> bytes:
        """Ask without ordering. Raises as `submit` does.

        ``strong``: as fresh as any operation that ended before this call. ``best-effort``: what one member has at
        present, which may be old, and wrong if it lies. None: what the group's needs say; strong, unless operators
        said otherwise. `read_marked` tells which it was.
        """
        return self._result(self._until(self.core.read(operation, _nothing, consistency), timeout))

    def read_marked(
        self, operation: bytes, *, timeout: float = TIMEOUT_SECONDS, consistency: str | None = None
    ) -> Reading:
        """As `read`, with the mark of how the answer came about."""
        pending = self._until(self.core.read(operation, _nothing, consistency), timeout)
        self._result(pending)
        assert pending.reading is not None
        return pending.reading

    def wait(self, number: int, *, timeout: float = TIMEOUT_SECONDS) -> bytes:
        """Ask again for the operation of an `OutcomeUnknown`, by its number. Raises as `submit` does."""
        return self._result(self._until(self.core.again(number, _nothing), timeout))

    def status(self, *, timeout: float = 2.0) -> Mapping[MemberId, dict[str, Any]]:
        """What every member that answers says of itself; needs no quorum."""
        core = self.core
        asked: set[MemberId] = set()
        end = core.hub.clock() + timeout
        with core.survey() as survey:
            while survey.lacks(core.machine.settings.members) and core.hub.clock() < end:
                before, asked = asked, {peer for peer in core.hub.up() if isinstance(peer, str)}
                if asked - before:
                    core.ask_status()
                    core.hub.flush()  # `turn` waits first and sends then
                core.turn(max(0.0, min(end, core.deadline) - core.hub.clock()))
        return dict(sorted(survey.answers.items()))

    @property
    def epoch(self) -> int:
        """The epoch that this client is in, as far as it knows: see `settle`."""
        return self.core.machine.settings.epoch

    @property
    def configuration(self) -> Configuration:
        """The newest configuration that this client has verified, from the genesis on."""
        return self.core.configuration

    @property
    def refused_links(self) -> Mapping[MemberId, tuple[int, str]]:
        """Which members showed hand-overs that do not hold: how many, and why the last one was refused."""
        return self.core.refused_links

    def settle(self, *, timeout: float = 2.0) -> Configuration:
        """The present configuration, once f + 1 members have proved that they are in it.

        Raises `NoAnswer` or `TooFewAgreed` if they do not within so many seconds, `Contradicted`.
        """
        core = self.core
        end = core.hub.clock() + timeout
        while not core.machine.is_settled:
            core.seek()
            self._turn(end)
        return self.configuration

    def order(self, signed: SignedCommand, *, timeout: float = 60.0) -> Iterator[CommandState]:
        """Bring an operators' command to all members, and tell what becomes of it until that is final.

        The same command again is harmless: that is how to watch one that was sent before. Raises `NoAnswer` or
        `TooFewAgreed` if there is no final state within so many seconds, `Contradicted`.
        """
        core = self.core
        end = core.hub.clock() + timeout
        watch = core.order(signed, _nothing)
        core.hub.flush()
        try:
            while True:
                while watch.states:
                    state = watch.states.popleft()
                    yield state
                    if state.final:
                        return
                if watch.error is not None:
                    raise watch.error
                self._turn(end)
        finally:
            core.enough(watch)

    def history(self, *, timeout: float = TIMEOUT_SECONDS) -> tuple[HandOver, ...]:
        """All hand-overs since the founding, each checked by this client. Raises as `settle` does."""
        core = self.core
        end = core.hub.clock() + timeout
        self.settle(timeout=timeout)
        chain = core.ask_history(_nothing)
        core.hub.flush()
        while chain.links is None:
            if chain.error is not None:
                raise chain.error
            self._turn(end)
        return chain.links

    def _turn(self, end: float) -> None:
        core = self.core
        now = core.hub.clock()
        if core.machine.stopped is not None:
            raise Contradicted(core.machine.stopped)
        if now >= end:
            raise core.unanswered()
        core.turn(max(0.0, min(end, core.deadline) - now))

    def _until(self, pending: Pending, timeout: float) -> Pending:
        core = self.core
        clock = core.hub.clock
        end = clock() + timeout
        core.turn(0.0)
        while pending.missing:
            now = clock()
            if now >= end:
                raise core.give_up(pending)
            core.turn(max(0.0, min(end, core.deadline) - now))
        return pending

    @staticmethod
    def _result(pending: Pending) -> bytes:
        outcome = pending.outcomes[0]
        assert outcome is not None
        if isinstance(outcome, ClientError):
            raise outcome
        return outcome


def _nothing() -> None:
    """Nobody has to be woken: the caller looks by itself."""
