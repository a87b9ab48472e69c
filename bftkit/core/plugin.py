"""The shelf: protocols are found by name through the entry-point group ``bftkit.protocols``.

Nothing imports a protocol. A third party's algorithm is a package with an entry point and not a patch.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Final

from bftkit.core.ordering import Plugin

GROUP: Final = "bftkit.protocols"


class UnknownProtocol(LookupError):
    """No installed package offers a protocol of this name. The text lists those that are there."""


def protocol_names() -> tuple[str, ...]:
    """The names of all installed protocols, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


@cache
def load_protocol(name: str) -> Plugin:
    """The protocol of this name. Raises `UnknownProtocol`, or `TypeError` if the entry point is no `Plugin`."""
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            plugin = entry.load()
            if not isinstance(plugin, Plugin):
                raise TypeError(f"the entry point {name} = {entry.value} is not a bftkit Plugin")
            return plugin
    raise UnknownProtocol(f"no protocol named {name!r}; installed: {', '.join(protocol_names()) or 'none'}")
