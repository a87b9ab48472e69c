"""Randomized atomic broadcast: no leader, no timeout, and progress under whatever the network does.

`bftkit_cks.messages` says in words what each message means; `docs/protocols/cks.md` tells the whole story. The files,
in the order to read them: `messages`, `lists` (what a round agrees on), `rounds` (one round), `machine` (rounds side
by side), `exchange` (what is done about loss), `restart`, `history` (the way out without the machine).

The story in three lines. *Offer*: everybody sends the digest of its batch, and whoever holds the batch signs that it
does. *Agreement*: all agree on one list of n - f - c offers that are so signed. *Delivery*: the batches of the list, in
the order of the roster, are the next n - f - c slots.

Source: C. Cachin, K. Kursawe, F. Petzold, V. Shoup, "Secure and Efficient Asynchronous Broadcast Protocols", CRYPTO
2001, section 6 (atomic broadcast), on the agreement of its section 4 and on C. Cachin, K. Kursawe, V. Shoup, "Random
Oracles in Constantinople", PODC 2000 (binary agreement and coins), all of which are in `bftkit.blocks`.
"""

from __future__ import annotations

from typing import Final

from bftkit.blocks import agreement_messages, consistent_broadcast, validated_messages
from bftkit.core.ordering import Plugin

from .forge import forge, resign
from .history import carry, check_history, convicts, history
from .lists import LISTS
from .machine import CksMachine
from .messages import CODEC
from .record import RECORD

PLUGIN: Final = Plugin(
    record=RECORD,
    codec=CODEC,
    create=CksMachine.create,
    history=history,
    check_history=check_history,
    carry=carry,
    convicts=convicts,
    forge=forge,
    resign=resign,
    inside=(consistent_broadcast.CODEC, agreement_messages.CODEC, validated_messages.PROOFS, LISTS),
)
