"""bftkit keeps a replicated service correct when machines crash, lie or are broken into.

A service derives from `StateMachine`::

    from bftkit import StateMachine

Everything else is imported from the packages below: `bftkit.client` to use a group, `bftkit.node` to run a member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bftkit.service import Context, StateMachine, Table

__all__ = ["Context", "StateMachine", "Table"]


def __getattr__(name: str) -> object:
    # Late, so that `import bftkit.core` does not load what lies above it.
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("bftkit.service"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
