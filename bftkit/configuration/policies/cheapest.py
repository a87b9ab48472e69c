"""`cheapest`: the least protocol that meets the needs, and one more robust for as long as that is not enough.

One step at a time: up when the deadline is missed (or, without one, waits are long), when the leader changes again and
again, when nothing is executed, or when members blame each other; down when it is calm and there is time to spare.
"""

from __future__ import annotations

from typing import Final

import attrs

from bftkit.configuration.policies.conditions import PARAMETERS, calm, disturbed, long_us, milliseconds, misbehaves
from bftkit.configuration.policy import Outlook, PolicyRecord, Wish

RECORD: Final = PolicyRecord(
    name="cheapest",
    title="The least that meets the needs",
    when="Costs matter most, and a slower start into trouble is acceptable: it goes up one mode at a time.",
    parameters=PARAMETERS,
    modes="all",
)


@attrs.frozen
class Cheapest:
    """One mode up, one mode down, or none."""

    record: PolicyRecord = RECORD

    def judge(self, outlook: Outlook) -> Wish:
        """The next mode up in trouble, the next one down in calm."""
        mode, now = outlook.mode, outlook.conditions
        trouble = misbehaves(outlook)
        if trouble is None and now.blames:
            trouble = f"members blamed each other {now.blames} times"
        if trouble is not None:
            return Wish(min(mode + 1, len(outlook.modes) - 1) if outlook.modes else mode, trouble)
        if mode == 0:
            return Wish(mode, "the least protocol does")
        spare = disturbed(outlook)
        if spare is None and now.waited_us > long_us(outlook) // 2:
            spare = f"requests waited for {milliseconds(now.waited_us)}, more than half of what is long"
        return Wish(mode, spare) if spare is not None else Wish(mode - 1, calm(outlook))


POLICY: Final = Cheapest()
