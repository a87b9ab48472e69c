"""A read's answer with the mark of how it came about."""

from __future__ import annotations

import attrs

from bftkit.channel.bundles import FAILED
from bftkit.channel.client import ReadDone
from bftkit.core.machine import MemberId, Slot


@attrs.frozen
class Reading:
    """What `read_marked` gives."""

    result: bytes
    consistency: str
    """``strong``: as fresh as any operation that ended before the call, and enough members agree on it.
    ``best-effort``: one member's word; it may be old, and if the member lies, wrong."""
    member: MemberId | None = None
    """Whose word it is, if one member's alone."""
    applied: Slot | None = None
    """The last slot that this member had executed, as it says; None for a strong read."""

    @classmethod
    def of(cls, done: ReadDone) -> Reading:
        """What the client machine says, for callers."""
        assert done.status != FAILED
        if done.member is None:
            return cls(done.result, "strong")
        return cls(done.result, "best-effort", done.member, done.slot)


__all__ = ["Reading"]
