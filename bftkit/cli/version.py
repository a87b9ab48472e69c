"""`bftkit version`."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

from bftkit.cli.app import output
from bftkit.core.plugin import protocol_names


def version() -> None:
    """Say which bftkit this is, which Python runs it, and which protocols are installed."""
    out = output()
    number, names = version_of("bftkit"), protocol_names()
    out.event("version", version=number, python=platform.python_version(), protocols=names)
    out.plain(f"bftkit {number} (Python {platform.python_version()}; protocols: {', '.join(names) or 'none'})")
