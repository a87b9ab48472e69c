"""Client sessions: what makes every request execute exactly once (SAFETY rule 9).

A session is opened by an ordered request, and its number is the place of that request in the order, so numbers are
never used again. A client has one session; opening another ends the one before. When there are too many, the one
that was used least recently ends. A request that names an ended session is refused for ever, whatever its sequence
number, so it can never run a second time.

Within a session, sequence numbers count from 1. The session remembers a *floor* (everything below is over and its
replies are forgotten; the client says how far with each bundle) and a bitmap of what was executed above it, over a
fixed window. Lower numbers may arrive after higher ones. The table is part of the checkpointed state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, cast

import attrs

from bftkit.core.machine import Slot
from bftkit.core.wire import U32, U64, Blob, Digest32, Key32, Many, Raw, Struct, WireError, pack_plain, unpack_plain

NONCE_SIZE: Final = 16

REPLY_OVERHEAD: Final = 256
"""What keeping one reply costs besides its results (bytes): many small replies must not be free."""


@attrs.frozen
class Reply:
    """The results of one executed bundle, kept until the client no longer waits for them."""

    first: U64
    count: U32
    slot: U64
    digest: Digest32
    """The digest of `results`; what members are compared by."""
    results: Annotated[bytes, Blob(1 << 30)]

    @property
    def cost(self) -> int:
        """What keeping it counts for."""
        return len(self.results) + REPLY_OVERHEAD


@attrs.define
class Session:
    """One client's session. `executed` is a bitmap: bit i stands for sequence number ``floor + i``."""

    client: bytes
    number: int
    nonce: bytes
    floor: int = 1
    executed: int = 0
    used: Slot = 0
    replies: dict[int, Reply] = attrs.field(factory=dict[int, Reply])
    reply_bytes: int = 0
    """The cost of all kept replies."""

    @property
    def is_unused(self) -> bool:
        """Whether nothing was executed in it yet: such a session makes room before others do."""
        return self.floor == 1 and not self.executed

    def is_done(self, first: int, count: int) -> bool:
        """Whether all of these numbers were executed, or lie below the floor."""
        if first < self.floor:
            count -= self.floor - first
            first = self.floor
        if count <= 0:
            return True
        mask = (1 << count) - 1
        return (self.executed >> (first - self.floor)) & mask == mask

    def is_new(self, first: int, count: int) -> bool:
        """Whether none of these numbers was executed or abandoned."""
        return first >= self.floor and not (self.executed >> (first - self.floor)) & ((1 << count) - 1)

    def in_window(self, low: int, end: int, window: int) -> bool:
        """Whether numbers below `end` fit the fixed window, once the floor is raised to `low`."""
        return end <= max(self.floor, low) + window

    def execute(self, first: int, count: int) -> None:
        """Remember that these numbers (none below the floor) are executed."""
        assert first >= self.floor
        self.executed |= ((1 << count) - 1) << (first - self.floor)

    def raise_floor(self, low: int) -> None:
        """The client waits for nothing below `low` any more: forget those replies and numbers."""
        if low <= self.floor:
            return
        self.executed >>= low - self.floor
        self.floor = low
        # Bundles are answered roughly in order, so the ones to forget stand in front.
        for first in [first for first, reply in self.replies.items() if first + reply.count <= low]:
            self.reply_bytes -= self.replies.pop(first).cost

    def keep(self, reply: Reply, bytes_max: int) -> None:
        """Keep a reply for retries; the oldest make room when the client lets too many pile up."""
        known = self.replies.get(reply.first)
        if known is not None:
            # Overlapping bundles. The sum must be that of what is kept: a member that loads the table computes it anew.
            self.reply_bytes -= known.cost
        self.replies[reply.first] = reply
        self.reply_bytes += reply.cost
        while self.reply_bytes > bytes_max and len(self.replies) > 1:
            self.forget_oldest()

    def forget_oldest(self) -> None:
        """Drop the oldest kept reply."""
        self.reply_bytes -= self.replies.pop(next(iter(self.replies))).cost


@attrs.frozen
class _Row:
    client: Key32
    number: U64
    nonce: Annotated[bytes, Raw(NONCE_SIZE)]
    floor: U64
    executed: Annotated[bytes, Blob(1 << 20)]
    used: U64
    replies: Annotated[tuple[Reply, ...], Many(Struct(Reply), 1 << 20)]


_ROW = Struct(_Row)


@attrs.define
class SessionTable:
    """All open sessions, in the order in which they were last used."""

    sessions_max: int
    window: int
    reply_bytes_max: int
    """What one session's kept replies may cost."""
    table_bytes_max: int = 1 << 28
    """What all kept replies together may cost."""
    by_client: dict[bytes, Session] = attrs.field(factory=dict[bytes, Session])
    reply_bytes: int = 0

    def get(self, client: bytes, number: int) -> Session | None:
        """The client's session, if it is the one of this number."""
        session = self.by_client.get(client)
        return session if session is not None and session.number == number else None

    def open(self, client: bytes, nonce: bytes, number: int, slot: Slot) -> Session | None:
        """Open a session, or find the one that the same nonce opened.

        Nonces of one client grow. None for a smaller one than that of the open session: somebody sent an old opening
        again, which must not end the newer session.
        """
        session = self.by_client.get(client)
        if session is not None and nonce < session.nonce:
            return None
        self.by_client.pop(client, None)
        if session is None or session.nonce != nonce:
            self.reply_bytes -= session.reply_bytes if session is not None else 0
            session = Session(client, number, nonce)
            if len(self.by_client) >= self.sessions_max:
                self._end_one()
        session.used = slot
        self.by_client[client] = session
        return session

    def keep(self, session: Session, reply: Reply) -> None:
        """Keep a reply; the least recently used sessions' replies make room if all together are too many."""
        self.reply_bytes -= session.reply_bytes
        session.keep(reply, self.reply_bytes_max)
        self.reply_bytes += session.reply_bytes
        if self.reply_bytes <= self.table_bytes_max:
            return
        for other in self.by_client.values():
            while other is not session and other.replies and self.reply_bytes > self.table_bytes_max:
                self.reply_bytes -= other.reply_bytes
                other.forget_oldest()
                self.reply_bytes += other.reply_bytes

    def raise_floor(self, session: Session, low: int) -> None:
        """The client waits for nothing below `low` any more."""
        self.reply_bytes -= session.reply_bytes
        session.raise_floor(low)
        self.reply_bytes += session.reply_bytes

    def _end_one(self) -> None:
        """End the least recently used session, one that was never used before all others."""
        unused = (client for client, session in self.by_client.items() if session.is_unused)
        client = next(unused, None) or next(iter(self.by_client))
        self.reply_bytes -= self.by_client.pop(client).reply_bytes

    def clear(self) -> None:
        """Forget all sessions, for `load`."""
        self.by_client.clear()
        self.reply_bytes = 0

    def touch(self, session: Session, slot: Slot) -> None:
        """The session was used in this slot; keeps the table in order of last use."""
        if session.used != slot:
            session.used = slot
            self.by_client[session.client] = self.by_client.pop(session.client)

    def chunks(self, chunk_bytes: int) -> Iterator[bytes]:
        """The table as canonical bytes: rows in order of last use, cut into chunks of about this size."""
        rows: list[bytes] = []
        size = 0
        for session in self.by_client.values():
            row = pack_plain(
                _ROW.pack(
                    _Row(
                        session.client,
                        session.number,
                        session.nonce,
                        session.floor,
                        session.executed.to_bytes((session.executed.bit_length() + 7) // 8, "big"),
                        session.used,
                        tuple(session.replies.values()),
                    )
                )
            )
            rows.append(row)
            size += len(row)
            if size >= chunk_bytes:
                yield pack_plain(rows)
                rows, size = [], 0
        if rows:
            yield pack_plain(rows)

    def load(self, chunk: bytes) -> None:
        """Add the rows of one chunk. Raises `WireError`; the chunk's digest was certified before."""
        for packed in unpack_plain(chunk):
            if type(packed) is not bytes:
                raise WireError("a row of the session table is not bytes")
            row = cast(_Row, _ROW.unpack(unpack_plain(packed)))
            session = Session(
                row.client, row.number, row.nonce, row.floor, int.from_bytes(row.executed, "big"), row.used
            )
            for reply in row.replies:
                session.replies[reply.first] = reply
                session.reply_bytes += reply.cost
            self.by_client[row.client] = session
            self.reply_bytes += session.reply_bytes
