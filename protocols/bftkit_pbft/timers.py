"""The machine's four timers, and the type of its effects."""

from __future__ import annotations

from typing import Final, TypeAlias

from bftkit.core.machine import Out as AnyOut
from bftkit.core.machine import TimerKey
from bftkit.core.ordering import OrderingOutput

from .messages import Message

Out: TypeAlias = AnyOut[Message, OrderingOutput]

REQUEST: Final[TimerKey] = ("request",)
"""Every quarter of the timeout, while requests wait in an active view."""
NEW_VIEW: Final[TimerKey] = ("new-view",)
"""Once, after q members came to a view: its leader must open it by then."""
STATUS: Final[TimerKey] = ("status",)
"""Always: is something stuck?"""
PACE: Final[TimerKey] = ("pace",)
"""While requests wait: does the leader propose?"""
