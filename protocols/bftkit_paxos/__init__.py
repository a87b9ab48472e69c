"""Paxos: a leader proposes, a majority accepts, and a leader that falls silent is replaced.

The story in three lines. `Accept`, `Accepted`: the leader of a ballot proposes a batch for a slot; what q members have
accepted in one ballot is *chosen*, for ever. `Prepare`, `Promise`: a new leader first has q members promise to ignore
lower ballots and tell what they accepted, for all slots at once, and starts with that. `PreVote`, `Grant`: before it
disturbs anybody it asks whether a quorum has lost the leader, too.

Read the files in this order:

1. `messages` says in words what each message means, and what is written down.
2. `machine` has the state and the acceptor's and learner's parts: promising, accepting, delivering.
3. `leading` is the leader's part: proposing, counting, heartbeats, sending again what was lost.
4. `election` is how a leader is lost and a new one made.
5. `history` is how the group leaves this protocol without its machine.

Source: L. Lamport, "The Part-Time Parliament", ACM TOCS 16(2), 1998, and "Paxos Made Simple", ACM SIGACT News 32(4),
2001 (the multi-decree form of section 3). Pre-votes: D. Ongaro, "Consensus: Bridging Theory and Practice", PhD thesis,
Stanford, 2014, section 9.6. Leaders that must be connected to a quorum: H. Ng, S. Haridi and P. Carbone, "Omni-Paxos:
Breaking the Barriers of Partial Connectivity", EuroSys 2023.
"""

from __future__ import annotations

from typing import Final

from bftkit.core.ordering import Plugin

from .forge import forge, resign
from .history import carry, check_history, conflicts, convicts, history, lies
from .machine import PaxosMachine
from .messages import CODEC
from .record import RECORD

__all__ = ["PLUGIN", "conflicts"]

PLUGIN: Final = Plugin(
    record=RECORD,
    codec=CODEC,
    create=PaxosMachine.create,
    history=history,
    check_history=check_history,
    carry=carry,
    convicts=convicts,
    conflicts=lies,
    forge=forge,
    resign=resign,
)
