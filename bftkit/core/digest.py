"""The one hash function: BLAKE2b with 32 bytes of output.

Everything that is named by its content (a batch, a chunk, a state, a certificate) is named by this digest, so
that two places that speak of the same bytes agree on the name without asking each other.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

DIGEST_SIZE: Final = 32
"""Length of a digest in bytes."""

NO_DIGEST: Final = bytes(DIGEST_SIZE)
"""Stands for "no bytes at all"; no known input hashes to it."""


def digest(*parts: bytes | memoryview) -> bytes:
    """The digest of the concatenated parts. Callers whose parts vary in length must frame them themselves."""
    hasher = blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        hasher.update(part)
    return hasher.digest()
