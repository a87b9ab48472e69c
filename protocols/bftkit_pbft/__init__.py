"""PBFT: a leader proposes, everybody votes twice, and a leader that fails is replaced.

`bftkit_pbft.messages` says in words what each message means; `docs/protocols/pbft.md` tells the whole story.

The story in three lines. `PrePrepare`, `Prepare`: q members agree that nobody else's proposal is in this (view, slot).
`Commit`: q members know that q members agree, so that the proposal survives every later view. `ViewChange`, `NewView`:
when the leader fails, q members tell the next one, with proofs, what may have been decided, and it starts with that.

Source: M. Castro, "Practical Byzantine Fault Tolerance", PhD thesis, MIT, 2001 (also OSDI 1999 and TOCS 2002), in the
form with signatures where proofs must travel, and with authenticated links elsewhere. Slow leaders: A. Clement et al.,
"Making Byzantine Fault Tolerant Systems Tolerate Byzantine Faults", NSDI 2009.
"""

from __future__ import annotations

from typing import Final

from bftkit.core.ordering import Plugin

from .evidence import convicts, signed_for
from .forge import forge, resign
from .history import carry, check_history, history
from .machine import PbftMachine
from .messages import BODIES, CODEC, PROOFS
from .record import RECORD

PLUGIN: Final = Plugin(
    record=RECORD,
    codec=CODEC,
    create=PbftMachine.create,
    history=history,
    check_history=check_history,
    carry=carry,
    convicts=convicts,
    signed_for=signed_for,
    forge=forge,
    resign=resign,
    inside=(BODIES, PROOFS),
)
