"""For fault injection only: what a leader that lies could sign. No other part of the protocol uses this."""

from __future__ import annotations

from typing import Any

import attrs

from bftkit.core.machine import Digest
from bftkit.core.ordering import Setup

from .messages import ACCEPT_PURPOSE, Accept, Entry


def forge(setup: Setup, message: Any, digest: Digest) -> Accept | None:
    """The same proposal for another batch, signed by this member; None for any other message."""
    if not isinstance(message, Accept):
        return None
    return resign(setup, attrs.evolve(message, entry=attrs.evolve(message.entry, digest=digest)))


def resign(setup: Setup, message: Any) -> Accept | None:
    """A proposal whose fields were changed, under this member's signature; None for what has no signature."""
    if not isinstance(message, Accept):
        return None
    entry: Entry = message.entry
    signature = setup.keyring.sign(ACCEPT_PURPOSE, entry.statement)
    return attrs.evolve(message, entry=attrs.evolve(entry, signature=signature))
