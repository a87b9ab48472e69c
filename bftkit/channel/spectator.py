"""What stands in a protocol's place at a member that takes no part in the epoch: it orders nothing and says nothing.

So is one that is joining and follows the group until the epoch that counts it begins, and one that was removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from bftkit.core.machine import Digest, DrawKey, MemberId, Out, Record, Slot, TimerKey
from bftkit.core.ordering import OrderingInput
from bftkit.core.state import Forkable


@attrs.define(eq=False)
class Spectator(Forkable):
    """An `OrderingMachine` that takes no part."""

    room: int = 0
    leader: MemberId | None = None
    view: int = 0
    highest_voted: Slot = 0

    def standing(self) -> Sequence[Record]:
        """Nothing was ever promised."""
        return ()

    def on_start(self, out: Out[Any, Any]) -> None:
        """Nothing to begin."""

    def on_input(self, value: OrderingInput, out: Out[Any, Any]) -> None:
        """Of no concern."""

    def on_message(self, sender: MemberId, message: Any, out: Out[Any, Any]) -> None:
        """Of no concern."""

    def on_timer(self, key: TimerKey, out: Out[Any, Any]) -> None:
        """It never set one."""

    def on_draw(self, key: DrawKey, value: int, out: Out[Any, Any]) -> None:
        """It never asked for one."""

    def on_restore(self, records: Sequence[Record], out: Out[Any, Any]) -> None:
        """It never wrote any."""

    def on_stable(self, slot: Slot, digest: Digest, out: Out[Any, Any]) -> None:
        """It keeps nothing."""

    def on_stop(self, slot: Slot, out: Out[Any, Any]) -> None:
        """It never began."""
