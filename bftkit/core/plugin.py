"""The shelf: protocols are found by name through the entry-point group ``bftkit.protocols``.

Nothing imports a protocol. A third party's algorithm is a package with an entry point and not a patch. While it is
being written it needs no package yet: ``module:ATTRIBUTE`` names a `Plugin` directly, for simulations. (A group's
genesis holds the name that the record says, so members find it on the shelf only.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from bftkit.core.ordering import Plugin

GROUP: Final = "bftkit.protocols"
_DIRECT: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class BrokenProtocol(Exception):
    """A package offers this protocol, and it cannot be loaded. The text says why."""


class UnknownProtocol(LookupError):
    """No installed package offers a protocol of this name. The text lists those that are there."""


def protocol_names() -> tuple[str, ...]:
    """The names of all installed protocols, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


@cache
def load_protocol(name: str) -> Plugin:
    """The protocol of this name. Raises `UnknownProtocol`, and `BrokenProtocol`, also if it is no `Plugin`."""
    direct = [EntryPoint(name, name, GROUP)] if _DIRECT.fullmatch(name) else []
    for entry in (*direct, *entry_points(group=GROUP)):
        if entry.name == name:
            try:
                plugin = entry.load()
            except Exception as error:
                place = f"the protocol {name} ({entry.value})"
                raise BrokenProtocol(f"{place} cannot be loaded: {type(error).__name__}: {error}") from error
            if not isinstance(plugin, Plugin):
                raise BrokenProtocol(f"the entry point {name} = {entry.value} is not a bftkit Plugin")
            return plugin
    names = protocol_names()
    raise UnknownProtocol(
        f"no protocol named {name!r}; installed: {', '.join(names) or 'none'}{did_you_mean(name, names)}"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` with the nearest of the known names; nothing if none is near."""
    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
