"""`steady`: a fast protocol with a leader while all goes well, and one that needs no timing while it does not.

Leaders make agreement fast, and are what an adversary goes for: a leader that is slow on purpose, or cut off, or
changed again and again, holds everybody up. A protocol that waits for no clock has no such point, and costs more
message delays all the time. So: the first mode normally, the last one (it is also the one for which a protocol that
has stopped is left by force) as soon as the leader or the network misbehaves, and back when it is calm.

In the last mode nobody can see whether the leader would be fast again; one has to try. The channel sees to it that
tries become rarer if they fail (`calm` doubles).
"""

from __future__ import annotations

from typing import Final

import attrs

from bftkit.configuration.policies.conditions import PARAMETERS, calm, disturbed, misbehaves
from bftkit.configuration.policy import Outlook, PolicyRecord, Wish

RECORD: Final = PolicyRecord(
    name="steady",
    title="Fast while it is calm, robust while it is not",
    when="The network is good most of the time, and service must go on when the leader or the network is not.",
    parameters=PARAMETERS,
    modes="two",
)


@attrs.frozen
class Steady:
    """The first mode or the last."""

    record: PolicyRecord = RECORD

    def judge(self, outlook: Outlook) -> Wish:
        """The last mode if something misbehaves, the first if it is calm."""
        last = len(outlook.modes) - 1
        if last < 1:
            return Wish(outlook.mode, "there is no other mode")
        if outlook.mode < last:
            trouble = misbehaves(outlook)
            if trouble is not None:
                return Wish(last, trouble)
        if outlook.mode > 0:
            trouble = disturbed(outlook)
            return Wish(outlook.mode, trouble) if trouble is not None else Wish(0, calm(outlook))
        return Wish(outlook.mode, "the leader and the network do well")


POLICY: Final = Steady()
