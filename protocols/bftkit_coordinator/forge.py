"""For fault injection only: what a coordinator that lies could sign."""

from __future__ import annotations

from typing import Any

import attrs

from bftkit.core.ordering import Setup
from bftkit_coordinator.messages import APPEND_PURPOSE, Append, Entry


def resign(setup: Setup, message: Any) -> Append | None:
    """An append whose fields were changed, under this member's signature; None for what has no signature."""
    if not isinstance(message, Append):
        return None
    entry: Entry = message.entry
    signature = setup.keyring.sign(APPEND_PURPOSE, entry.statement)
    return attrs.evolve(message, entry=attrs.evolve(entry, signature=signature))
