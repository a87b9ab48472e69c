"""The roles of a member, its timers, and the type of its effects."""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from bftkit.core.machine import Out as AnyOut
from bftkit.core.machine import TimerKey
from bftkit.core.machine import Transition as Row
from bftkit.core.ordering import OrderingOutput

from .messages import Message

Out: TypeAlias = AnyOut[Message, OrderingOutput]

BEAT: Final[TimerKey] = ("beat",)
"""Always: the leader says that it is there, the others count how often they did not hear it."""
ELECTION: Final[TimerKey] = ("election",)
"""The end of the drawn time, of a pre-vote or of a preparation."""


class Role(Enum):
    """What a member is at the moment. Each one is an acceptor and a learner besides, at all times."""

    FOLLOWING = "following"
    """There is a leader, or a candidate that was promised a ballot."""
    SEEKING = "seeking"
    """The leader is lost; a drawn time passes before this member asks the others."""
    ASKING = "asking"
    """Has a quorum lost the leader, too?"""
    PREPARING = "preparing"
    """A quorum has: phase 1 is under way."""
    LEADING = "leading"
    """A quorum has promised: phase 2, slot after slot."""


ROLES: Final = (
    Row("FOLLOWING", "silence, Resign, or the leader was given up", "SEEKING"),
    Row("SEEKING", "the drawn time is over: PreVote", "ASKING"),
    Row("SEEKING", "a sign of the leader", "FOLLOWING"),
    Row("ASKING", "q Grants: Prepare", "PREPARING"),
    Row("ASKING", "timeout", "SEEKING"),
    Row("ASKING", "a sign of the leader", "FOLLOWING"),
    Row("PREPARING", "q Promises", "LEADING"),
    Row("PREPARING", "Refuse, or timeouts", "SEEKING"),
    Row("PREPARING", "Prepare or a leader with a higher ballot", "FOLLOWING"),
    Row("LEADING", "no quorum is heard: Resign", "SEEKING"),
    Row("LEADING", "Refuse: PreVote", "ASKING"),
    Row("LEADING", "Prepare or a leader with a higher ballot", "FOLLOWING"),
)
