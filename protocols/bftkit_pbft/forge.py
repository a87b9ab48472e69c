"""For fault injection only: what a leader that lies could sign in place of its proposal."""

from __future__ import annotations

from typing import Any

import attrs

from bftkit.core.machine import Digest
from bftkit.core.ordering import Setup

from .messages import VOTE, PrePrepare, vote_statement


def forge(setup: Setup, message: Any, digest: Digest) -> PrePrepare | None:
    """The same pre-prepare for another batch, signed by this member; None for any other message."""
    if not isinstance(message, PrePrepare):
        return None
    statement = vote_statement(message.view, message.slot, digest)
    return attrs.evolve(message, digest=digest, signature=setup.keyring.sign(VOTE, statement))
