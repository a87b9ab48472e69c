"""The client for plain synchronous callers: no threads, no event loop; it works while you wait for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from bftkit.client.core import ClientCore, Outcome, Pending
from bftkit.client.errors import ClientError
from bftkit.core.machine import MemberId

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

    def submit(self, operation: bytes, *, timeout: float = TIMEOUT_SECONDS) -> bytes:
        """Order and execute one operation exactly once; its result.

        Raises `OperationFailed` (the application's error), `Refused` (never executed), `OutcomeUnknown` (no result
        within `timeout` seconds; ask again with `wait`), `ValueError` (larger than the group allows).
        """
        return self._result(self._until(self.core.submit([operation], _nothing), timeout))

    def submit_many(self, operations: Sequence[bytes], *, timeout: float = TIMEOUT_SECONDS) -> list[Outcome]:
        """Order and execute several operations; for each its result, or the error that `submit` would raise."""
        pending = self.core.submit(operations, _nothing)
        try:
            self._until(pending, timeout)
        except ClientError as error:
            return [outcome if outcome is not None else error for outcome in pending.outcomes]
        return [outcome for outcome in pending.outcomes if outcome is not None]

    def read(self, operation: bytes, *, timeout: float = TIMEOUT_SECONDS) -> bytes:
        """A strong read: as fresh as any operation that ended before this call. Raises as `submit` does."""
        return self._result(self._until(self.core.read(operation, _nothing), timeout))

    def wait(self, number: int, *, timeout: float = TIMEOUT_SECONDS) -> bytes:
        """Ask again for the operation of an `OutcomeUnknown`, by its number. Raises as `submit` does."""
        return self._result(self._until(self.core.again(number, _nothing), timeout))

    def status(self, *, timeout: float = 2.0) -> Mapping[MemberId, dict[str, Any]]:
        """What every member that answers says of itself; needs no quorum."""
        core = self.core
        core.statuses.clear()
        members = core.machine.settings.members
        asked: set[MemberId] = set()
        end = core.hub.clock() + timeout
        while len(core.statuses) < len(members) and core.hub.clock() < end:
            up = {peer for peer in core.hub.up() if isinstance(peer, str)}
            if up - asked:
                asked = up
                core.ask_status()
                core.hub.flush()  # `turn` waits first and sends then
            core.turn(max(0.0, min(end, core.deadline) - core.hub.clock()))
        return dict(sorted(core.statuses.items()))

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
