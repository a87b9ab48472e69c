"""The one place in `crypto` that reads the operating system's randomness: seeds for new keys.

A driver, not a part of any machine: machines draw through `out.draw` and `out.draw_secret`.
"""

from __future__ import annotations

import os

from bftkit.crypto.keys import SEED_SIZE, EpochKeys, SigningKey


def fresh_seed() -> bytes:
    """32 unpredictable bytes. Blocks only while the system has not gathered enough randomness after boot."""
    return os.urandom(SEED_SIZE)


def fresh_signing_key() -> SigningKey:
    """A new key that nobody else has. Its seed is not kept: take `fresh_seed` for a key that goes to a file."""
    return SigningKey(fresh_seed())


def fresh_epoch_keys(count: int) -> EpochKeys:
    """New keys for epochs 0 to count - 1."""
    return EpochKeys.generate([fresh_seed() for _ in range(count)])
