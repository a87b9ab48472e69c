"""How durable a member's records are, and the mark that says when they were not (SAFETY rules 5 and 16).

A member works at the stricter of two: its own setting (`member.toml`) and what the group needs (`qos.durability` of its
present configuration). That may change from epoch to epoch, and does so where the new epoch's log begins: that segment
and all before it are durable by then, whatever came before.

While a log is kept less durably than by fsync, a mark lies beside it. It is durable before the first record that may be
lost, and goes when the log is whole again; so whatever setting a member starts with, it knows whether its log may lack
what it promised.
"""

from __future__ import annotations

from typing import Final

from bftkit.storage.files import Directory
from bftkit.storage.record_log import Durability, RecordLog, strictest

MARK: Final = "started"
"""Says that a member was at work whose records may be lost with the next power cut, or with its process."""


class DurabilityKeeper:
    """Knows how durable a member's records are to be, and keeps the mark."""

    def __init__(self, own: Durability, directory: Directory) -> None:
        """`own`: the member's setting. `directory`: where the mark is; nobody else creates or removes it there."""
        self.own = own
        self._directory = directory

    def needed(self, asked: str | None) -> Durability:
        """The stricter of the member's own setting and of what the group needs; None: nothing in particular."""
        return self.own if asked is None else strictest(self.own, Durability(asked))

    @property
    def is_marked(self) -> bool:
        """Whether records may be lost, or were."""
        return MARK in self._directory.names()

    def mark(self) -> None:
        """Records may be lost from now on. Durable on return. Raises `DiskFull`, `StorageFailed`."""
        if not self.is_marked:
            self._directory.create(MARK).close()
            self._directory.sync()

    def unmark(self) -> None:
        """All that was ever promised is durable, or known to be forgotten. Durable on return."""
        if self.is_marked:
            self._directory.remove(MARK)
            self._directory.sync()

    def suit(self, log: RecordLog, asked: str | None) -> None:
        """Let the log, of which everything is durable now, work as is needed from its next record on.

        A log that keeps nothing stays as it is, and one on disk is never laxer than `ASYNC`. Raises
        `DiskFull`, `StorageFailed`.
        """
        needed = strictest(self.needed(asked), Durability.ASYNC)
        if log.durability is Durability.MEMORY or needed is log.durability:
            return
        if needed is not Durability.FSYNC:
            self.mark()
            log.work_at(needed)
        else:
            log.work_at(needed)
            self.unmark()


__all__ = ["MARK", "DurabilityKeeper"]
