"""How many seeds a test runs through: few here, so that the whole suite takes minutes, and more for whoever asks.

``BFTKIT_SEEDS=400 pytest tests/properties/test_broadcast_chaos.py`` tries four hundred of each kind. Where a test is
content with fewer by itself, it says so by `at_least`; the variable never makes them fewer.
"""

from __future__ import annotations

import os

ASKED = int(os.environ.get("BFTKIT_SEEDS", "0"))


def at_least(usual: int) -> range:
    """The seeds from 0 on: so many, or as many as the environment variable `BFTKIT_SEEDS` asks for."""
    return range(max(usual, ASKED))
