"""Faults by the names under which stored plans have them, and how one of your own is found."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bftkit.core.plugin import did_you_mean
from bftkit.sim.faults.base import Fault
from bftkit.sim.faults.changes import CHANGES
from bftkit.sim.faults.crashes import Crash, CutAtDisk, Pause, PowerCut
from bftkit.sim.faults.disks import DiskFull, FlipBit, LyingDisk, Rollback, SlowDisk, SyncFails, Wipe
from bftkit.sim.faults.liars import ClientDies, Lie, LyingClient, Twin
from bftkit.sim.faults.network import ClockJump, ClockRate, HoldKind, OneWay, Partition, SlowLink, Weather

FAULTS: Final[Mapping[str, type[Fault]]] = {
    "crash": Crash,
    "power-cut": PowerCut,
    "cut-at-disk": CutAtDisk,
    "pause": Pause,
    "wipe": Wipe,
    "rollback": Rollback,
    "lying-disk": LyingDisk,
    "sync-fails": SyncFails,
    "flip-bit": FlipBit,
    "disk-full": DiskFull,
    "slow-disk": SlowDisk,
    "partition": Partition,
    "one-way": OneWay,
    "weather": Weather,
    "slow-link": SlowLink,
    "hold-kind": HoldKind,
    "clock-jump": ClockJump,
    "clock-rate": ClockRate,
    "lie": Lie,
    "twin": Twin,
    "lying-client": LyingClient,
    "client-dies": ClientDies,
}
_SHELF: Final[Mapping[str, type[Fault]]] = {**FAULTS, **CHANGES}


def fault_name(kind: type[Fault]) -> str:
    """The name under which a stored plan has this kind of fault."""
    return next((name for name, known in _SHELF.items() if known is kind), f"{kind.__module__}:{kind.__qualname__}")


def load_fault(name: str) -> type[Fault]:
    """The kind of fault of this name. Raises ValueError if there is none."""
    if name in _SHELF:
        return _SHELF[name]
    module, colon, attribute = name.partition(":")
    if colon:
        try:
            found: Any = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the fault {name!r} cannot be loaded: {error}") from None
        if isinstance(found, type) and issubclass(found, Fault):
            return found
        raise ValueError(f"{name!r} is not derived from bftkit.sim.faults.Fault")
    raise ValueError(
        f"there is no fault {name!r}; known are {', '.join(sorted(_SHELF))}, or package.module:Class"
        f"{did_you_mean(name, _SHELF)}"
    )


def lines_of(faults: Iterable[Fault]) -> frozenset[int]:
    """The lines of docs/FAULTS.md that these faults can inject."""
    return frozenset(line for fault in faults for line in fault.lines)
