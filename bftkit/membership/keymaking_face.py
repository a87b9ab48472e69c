"""What goes into the making of a coin key and comes out of it, and what a member holds meanwhile: see `keymaking`."""

from __future__ import annotations

from typing import Final, TypeAlias

import attrs

from bftkit.core.machine import MemberId, Transition
from bftkit.core.state import SHARED
from bftkit.crypto.threshold import CoinPublics
from bftkit.membership.keymaking_messages import Selection

SEED: Final = "seed"
"""The name of the secret that this member's own sharing follows from."""

PART: Final = "part-"
"""The names of the others begin so; the dealer's place follows."""

# ------------------------------------------------------------------------------------------------- inputs, outputs


@attrs.frozen
class Begin:
    """Deal a sharing, unless there is one already."""


@attrs.frozen
class SecretKept:
    """The answer to `KeepSecret`: it is durable."""

    name: str


@attrs.frozen
class Selected:
    """The total order chose this selection. Given again after a restart."""

    selection: Selection


@attrs.frozen
class Again:
    """Some time has passed, a second perhaps: say again what nobody has answered."""


@attrs.frozen
class KeepSecret:
    """Make this durable where it can be overwritten, never in the log, and say `SecretKept` (SAFETY rule 20)."""

    name: str
    """Says what it is within this key making: small letters, digits, ``-``."""
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Completed:
    """Enough sharings are complete: this may be selected. Said once in a machine's life."""

    selection: Selection


@attrs.frozen
class Secret:
    """A secret number that no trace and no fingerprint shows."""

    value: bytes = attrs.field(repr=False, metadata=SHARED)


@attrs.frozen
class Ready:
    """The key's public part, and this member's share of it; said once in a machine's life."""

    publics: CoinPublics
    share: Secret


Input: TypeAlias = Begin | SecretKept | Selected | Again
Output: TypeAlias = KeepSecret | Completed | Ready

PHASES: Final = (
    Transition("idle", "Begin: draw a seed, have it kept", "dealing"),
    Transition("dealing", "a part that fits: have it kept, then vote", "dealing"),
    Transition("dealing", "n - t votes for the own sharing: tell all", "dealing"),
    Transition("dealing", "f + 1 complete sharings: Completed", "completed"),
    Transition("completed", "Selected: ask for what is missing", "sharing"),
    Transition("dealing", "Selected: ask for what is missing", "sharing"),
    Transition("idle", "Selected: ask for what is missing", "sharing"),
    Transition("sharing", "a share of each selected sharing: Ready", "ready"),
)
"""The phases, for the documentation."""


# ------------------------------------------------------------------------------------------------- what is held


@attrs.frozen
class Holding:
    """This member's part of one sharing. The commitment says which: what is secret is neither shown nor hashed."""

    digest: bytes
    """The commitment's."""
    commitment: bytes = attrs.field(repr=False)
    promise: bytes
    row: bytes = attrs.field(repr=False, metadata=SHARED)
    column: bytes = attrs.field(repr=False, metadata=SHARED)
    kept: bool
    """Whether it is durable."""


@attrs.define
class Recovery:
    """How far this member has got with restoring its share of one selected sharing."""

    digest: bytes
    """The commitment's."""
    holders: tuple[MemberId, ...]
    """Who voted that it holds a part, without this member."""
    row: tuple[bytes, ...] = ()
    """The commitment to this member's row, once a holder sent the whole commitment."""
    points: dict[MemberId, Secret] = attrs.field(factory=dict[MemberId, Secret])
    """Points that fit, by who sent them."""
    liars: set[MemberId] = attrs.field(factory=set[MemberId])
    """Who sent something that did not fit: it is not asked again, and costs no second check."""
    share: Secret | None = None
