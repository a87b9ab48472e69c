"""The one place below the drivers that reads the operating system's randomness."""

from __future__ import annotations

import os


def secret(size: int = 32) -> bytes:
    """Unpredictable bytes, good enough for keys."""
    return os.urandom(size)
