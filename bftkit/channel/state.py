"""The replicated state and what a batch does to it: the one place where requests are executed.

The state that members agree on is the application's, the client sessions (SAFETY rule 9), the agreed clock (rule 11)
and the configurations (`reconfiguring`). `execute` is a function of this state and a batch, the same on every member; a
checkpoint is the Merkle root over the state's chunks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from bftkit.channel.agreed_time import AgreedClock, Report
from bftkit.channel.application import Application, Context, StateView
from bftkit.channel.bundles import (
    CLOCK,
    COMMAND,
    COMMIT,
    FAILED,
    LATE,
    OK,
    OPEN,
    REPORT,
    SKIPPED,
    Bundle,
    pack_lateness,
    pack_results,
)
from bftkit.channel.reconfiguring import Reconfiguring
from bftkit.channel.sessions import Reply, Session, SessionTable
from bftkit.core.digest import digest
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.wire import WireError, pack_plain, unpack_plain

SESSION_CHUNK_BYTES: Final = 256 << 10
RESULT_BYTES_MAX: Final = 8 << 20
"""What the results of one bundle may have together, so that they fit into a frame. What exceeds it fails."""
ERROR_TEXT_MAX: Final = 300
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{6,}")

Entry = tuple[Bundle, Reply | None]
"""A bundle of an executed batch and its reply (None: nothing to say to the client)."""


@attrs.frozen(eq=False)
class FullView:
    """A frozen view of the whole state: first the channel's chunks, then the application's."""

    own: tuple[bytes, ...]
    application: StateView

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return len(self.own) + self.application.count

    def chunk(self, index: int) -> bytes:
        """A chunk's bytes."""
        return self.own[index] if index < len(self.own) else self.application.chunk(index - len(self.own))

    def leaf(self, index: int) -> Digest:
        """A chunk's digest."""
        if index < len(self.own):
            return digest(self.own[index])
        return self.application.leaf(index - len(self.own))


@attrs.define
class ReplicatedState:
    """Everything that a checkpoint covers."""

    group: bytes
    application: Application
    sessions: SessionTable
    clock: AgreedClock
    member_keys: Mapping[bytes, MemberId]
    """Whose clock reports count: the epoch's public keys."""
    applied: Slot = 0
    executed: int = 0
    """Operations executed by this process; for people, not part of the state."""
    failed: int = 0
    late: int = 0
    """Operations that were refused since they came too late; as `executed`."""
    reconfiguring: Reconfiguring | None = None
    """The configurations; None in a group whose configuration never changes."""

    def execute(self, slot: Slot, name: Digest, proposed_ms: int, bundles: Sequence[Bundle]) -> list[Entry]:
        """Execute a decided batch. Never raises on what a batch holds: what is wrong is a no-op everywhere."""
        assert slot == self.applied + 1
        self.applied = slot
        entries: list[Entry] = []
        for bundle in bundles:
            if bundle.kind == CLOCK:
                member = self.member_keys.get(bundle.client)
                if member is not None:
                    self.clock.report(member, bundle.session, bundle.first)
        context = Context(self.group, slot, 0, self.clock.settle(proposed_ms), b"", name)
        for position, bundle in enumerate(bundles):
            if bundle.kind == CLOCK:
                continue
            if bundle.kind == REPORT:
                self._report(bundle)
                continue
            context.client = bundle.client
            if bundle.kind == COMMAND or bundle.kind == COMMIT:
                self._reconfigure(bundle, slot)
                entries.append((bundle, None))
            elif bundle.kind == OPEN:
                entries.append((bundle, self._open(bundle, slot, position)))
            else:
                entries.append((bundle, self._requests(bundle, slot, context)))
        if self.reconfiguring is not None:
            self.reconfiguring.steer(slot, self.clock.now_ms)
        return entries

    def skip(self, slot: Slot) -> None:
        """The slot holds the empty batch."""
        assert slot == self.applied + 1
        self.applied = slot

    def _reconfigure(self, bundle: Bundle, slot: Slot) -> None:
        if self.reconfiguring is None:
            return
        (payload,) = bundle.payloads()
        if bundle.kind == COMMAND:
            self.reconfiguring.on_command(payload, slot)
        else:
            self.reconfiguring.on_commit(payload, slot)

    def _report(self, bundle: Bundle) -> None:
        member = self.member_keys.get(bundle.client)
        if member is not None and self.reconfiguring is not None:
            (payload,) = bundle.payloads()
            self.reconfiguring.on_report(member, bundle.session, payload, self.clock.now_ms)

    def _open(self, bundle: Bundle, slot: Slot, position: int) -> Reply | None:
        (nonce,) = bundle.payloads()
        # The place in the order names the session: no two sessions ever share a number.
        session = self.sessions.open(bundle.client, nonce, (slot << 20) + position, slot)
        return opening_reply(session) if session is not None else None

    def _requests(self, bundle: Bundle, slot: Slot, context: Context) -> Reply | None:
        session = self.sessions.get(bundle.client, bundle.session)
        if session is None or not session.in_window(bundle.low, bundle.end, self.sessions.window):
            return None
        self.sessions.touch(session, slot)
        self.sessions.raise_floor(session, bundle.low)
        operations = bundle.payloads()
        statuses: bytes | bytearray
        if bundle.expires_ms and context.time_ms > bundle.expires_ms:
            statuses, results = self._refuse_late(session, bundle, context.time_ms - bundle.expires_ms)
            if not any(status != SKIPPED for status in statuses):
                return None
        elif session.is_new(bundle.first, bundle.count):
            statuses, results = self._apply_all(operations, context)
            session.execute(bundle.first, bundle.count)
        else:
            statuses, results = self._apply_some(session, bundle.first, operations, context)
            if not any(status != SKIPPED for status in statuses):
                return None
        blob = pack_results(bytes(statuses), results)
        reply = Reply(bundle.first, bundle.count, slot, digest(blob), blob)
        self.sessions.keep(session, reply)
        return reply

    def _apply_all(self, operations: Sequence[bytes], context: Context) -> tuple[bytes | bytearray, list[bytes]]:
        """The usual case, without a look at sequence numbers for each operation.

        A result that exceeds the bundle's bound is a failure like any other. Lack of memory is not: it is this
        member's own trouble, and it stops rather than answer what the others do not (SAFETY rule 10).
        """
        application = self.application
        apply, mark = application.apply, application.mark
        results: list[bytes] = []
        statuses = bytearray(len(operations))
        index = context.index
        room = RESULT_BYTES_MAX
        for position, operation in enumerate(operations):
            context.index = index
            index += 1
            point = mark()
            try:
                result = apply(operation, context)
                if type(result) is not bytes:
                    raise TypeError(f"apply returned {type(result).__name__}, not bytes")
                room -= len(result)
                if room < 0:
                    raise ValueError(f"the results of this bundle exceed {RESULT_BYTES_MAX} bytes")
                results.append(result)
            except MemoryError:
                raise
            except Exception as error:
                application.undo(point)
                statuses[position] = FAILED
                results.append(error_text(error))
                self.failed += 1
        context.index = index
        self.executed += len(operations)
        return statuses, results

    def _apply_some(
        self, session: Session, first: int, operations: Sequence[bytes], context: Context
    ) -> tuple[bytearray, list[bytes]]:
        """The bundle overlaps with numbers that ran before (only a faulty client makes such): run the new ones."""
        fresh = [session.is_new(number, 1) for number in range(first, first + len(operations))]
        chosen = [operation for operation, new in zip(operations, fresh, strict=True) if new]
        done, answers = self._apply_all(chosen, context)
        statuses = bytearray()
        results: list[bytes] = []
        executed = iter(zip(done, answers, strict=True))
        for number, new in enumerate(fresh, first):
            status, result = next(executed) if new else (SKIPPED, b"")
            if new:
                session.execute(number, 1)
            statuses.append(status)
            results.append(result)
        return statuses, results

    def _refuse_late(self, session: Session, bundle: Bundle, late_ms: int) -> tuple[bytearray, list[bytes]]:
        """The deadline is over: nothing is executed. The numbers are used up, so nothing ever executes under them.

        All members judge alike: agreed time and deadline are the same bytes everywhere (SAFETY rules 9 and 11).
        """
        said = pack_lateness(late_ms)
        statuses = bytearray()
        results: list[bytes] = []
        for number in range(bundle.first, bundle.end):
            new = session.is_new(number, 1)
            statuses.append(LATE if new else SKIPPED)
            results.append(said if new else b"")
            if new:
                session.execute(number, 1)
                self.late += 1
        return statuses, results

    # ------------------------------------------------------------------------------------- checkpoints

    def view(self) -> FullView:
        """A frozen view of everything."""
        sessions = tuple(self.sessions.chunks(SESSION_CHUNK_BYTES))
        reports = [[member, report.counter, report.time_ms] for member, report in sorted(self.clock.reports.items())]
        configurations = () if self.reconfiguring is None else self.reconfiguring.chunks()
        head = pack_plain([self.applied, self.clock.now_ms, reports, len(sessions)])
        return FullView((head, *sessions, *configurations), self.application.snapshot())

    def restore(self, slot: Slot, chunks: Sequence[bytes]) -> None:
        """Replace everything by the state that these chunks (of a certified root) describe."""
        head: Any = unpack_plain(chunks[0])
        applied, now_ms, reports, count = head
        if applied != slot or not 0 <= count < len(chunks):
            raise WireError("the state's first chunk does not fit its checkpoint")
        self.sessions.clear()
        for chunk in chunks[1 : 1 + count]:
            self.sessions.load(chunk)
        following: int = 1 + count
        if self.reconfiguring is not None:
            ours = self.reconfiguring.count(chunks[following])
            self.reconfiguring.load(tuple(chunks[following : following + ours]))
            following += ours
        self.clock.now_ms = now_ms
        self.clock.reports = {member: Report(counter, time_ms) for member, counter, time_ms in reports}
        self.application.restore(chunks[following:])
        self.applied = slot

    def epoch_of(self, chunks: Sequence[bytes]) -> int:
        """The epoch that the state is of which these chunks describe, as they say. Raises `WireError`."""
        head: Any = unpack_plain(chunks[0])
        count: int = head[3]
        if self.reconfiguring is None:
            return 0
        return self.reconfiguring.epoch_of(chunks[1 + count])


def opening_reply(session: Session) -> Reply:
    """What opening a session answers, the first time and ever after: its number."""
    blob = pack_results(bytes((OK,)), (session.number.to_bytes(8, "big"),))
    return Reply(0, 1, session.number >> 20, digest(blob), blob)


def error_text(error: BaseException) -> bytes:
    """The same text on every member: the exception's type and message, nothing of this process.

    Error texts are part of the replicated state. Addresses of objects are taken out, and how deep a recursion went
    depends on who called, so that one has a fixed text. An exception may fail to say what it is: then its type must do.
    """
    if isinstance(error, RecursionError):
        return b"RecursionError: too deep"
    try:
        said = str(error)
    except MemoryError:
        raise
    except Exception:
        said = "it cannot say what it is"
    text = _ADDRESS.sub("0x…", f"{type(error).__name__}: {said}")
    return text[:ERROR_TEXT_MAX].encode("utf-8", "replace")
