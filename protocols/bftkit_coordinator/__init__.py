"""The fixed coordinator: one member orders, the rest follow.

The cheapest protocol on the shelf, for groups whose members may crash but do not lie (f = 0), and the smallest example
of a plug-in: read the files in this order.

1. `messages` says what each message means: ``Append`` "this batch has this slot", ``Ack`` "I hold everything up to
   here", ``Commit`` "everything up to here is decided", ``Status`` "here I stand, what do I miss?".
2. `log` is what a member holds and what it may deliver next.
3. `machine` has the two roles, the `Coordinator` and its `Follower` machines.
4. `history` is how the group leaves this protocol when its coordinator is gone for good.

A batch takes one round trip: the coordinator writes it down and sends it, followers write it down and acknowledge it,
and when c + 1 members hold it (the coordinator included) it is decided (SAFETY rule 24). So every decided batch
outlives any c crashes, even of members that never come back. Progress needs the coordinator and c followers; if the
coordinator stays away, only leaving the epoch by force helps, and that needs n - c members: with c = 0 nothing but the
coordinator itself can say what was decided.

There is no paper of this protocol: it is what remains of primary-backup replication (Budhiraja, Marzullo, Schneider
and Toueg, "The Primary-Backup Approach", in Distributed Systems, 1993) when the change of the primary is left to
somebody else. Here that is the group, between epochs.
"""

from __future__ import annotations

from typing import Final

from bftkit.core.ordering import Plugin
from bftkit_coordinator.forge import resign
from bftkit_coordinator.history import carry, check_history, conflicts, convicts, history, lies
from bftkit_coordinator.machine import create
from bftkit_coordinator.messages import CODEC
from bftkit_coordinator.record import RECORD

__all__ = ["PLUGIN", "conflicts"]

PLUGIN: Final = Plugin(RECORD, CODEC, create, history, check_history, carry, convicts, conflicts=lies, resign=resign)
