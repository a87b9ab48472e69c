"""Lists of a member's public keys, one for each epoch, as text: in a genesis and on a member's card.

A list proves itself: the Merkle root in the member's roster entry commits to it. So it may come from anywhere.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final

from bftkit.configuration.text import ConfigurationError, shown
from bftkit.core.machine import MemberId
from bftkit.crypto.keys import PUBLIC_KEY_SIZE, epoch_key_proof

KEYS_MAX: Final = 1 << 12
"""A member has keys for at most so many epochs."""


def keys_text(keys: Sequence[bytes]) -> str:
    """Public keys, one after the other, as base64."""
    return base64.b64encode(b"".join(keys)).decode("ascii")


def keys_from_text(where: str, text: str) -> tuple[bytes, ...]:
    """The public keys of such a text. Raises `ConfigurationError`."""
    advice = "copy what bftkit printed as a whole"
    try:
        joined = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(where, f"{shown(text)} is not base64", advice) from None
    if not joined or len(joined) % PUBLIC_KEY_SIZE:
        raise ConfigurationError(where, f"{len(joined)} bytes are no whole number of public keys", advice)
    return tuple(joined[start : start + PUBLIC_KEY_SIZE] for start in range(0, len(joined), PUBLIC_KEY_SIZE))


def check_epoch_keys(where: str, member: MemberId, root: bytes, count: int, keys: Sequence[bytes]) -> None:
    """Whether these are the keys that the member is committed to. Raises `ConfigurationError`."""
    if not 0 < len(keys) <= KEYS_MAX:
        raise ConfigurationError(
            where, f"{member} has keys for {len(keys)} epochs", f"make between 1 and {KEYS_MAX} with bftkit keygen"
        )
    if len(keys) != count or epoch_key_proof(keys, 0)[0] != root:
        raise ConfigurationError(
            where,
            f"these are not the keys that the epoch_root of {member} commits it to",
            "copy all that bftkit keygen printed for it together",
        )
