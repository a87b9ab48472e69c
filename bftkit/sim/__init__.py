"""Simulated worlds: a whole group, its clients, disks, clocks and network, decided by one seed.

What a tester needs is here::

    from bftkit.sim import Crash, Plan, run, sweep

    run("mixed", protocol="pbft", seed=7).raise_for_violation()
    run(Plan(protocol="pbft", faults=(Crash(at=300, who="leader", ticks=500),))).raise_for_violation()
    assert sweep("mixed", "pbft", range(100)).ok

`faults` has all that can go wrong in a plan, `strategies` draws plans for Hypothesis, and the pytest plug-in brings the
fixture `simulate`. docs/guide/simulating.md goes through all of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bftkit.sim import faults as faults
    from bftkit.sim.campaign import Campaign, sweep
    from bftkit.sim.checkers import Violation
    from bftkit.sim.examining import run
    from bftkit.sim.faults import Crash, Fault, Lie, Partition, PowerCut, Weather, Wipe
    from bftkit.sim.links import Network
    from bftkit.sim.plan import Group, Load, Plan, PlanError
    from bftkit.sim.running import Result
    from bftkit.sim.world import World

__all__ = [
    "Campaign",
    "Crash",
    "Fault",
    "Group",
    "Lie",
    "Load",
    "Network",
    "Partition",
    "Plan",
    "PlanError",
    "PowerCut",
    "Result",
    "Violation",
    "Weather",
    "Wipe",
    "World",
    "faults",
    "run",
    "sweep",
]

_PLACES: Final = {
    "campaign": ("Campaign", "sweep"),
    "checkers": ("Violation",),
    "examining": ("run",),
    "faults": ("Crash", "Fault", "Lie", "Partition", "PowerCut", "Weather", "Wipe"),
    "links": ("Network",),
    "plan": ("Group", "Load", "Plan", "PlanError"),
    "running": ("Result",),
    "world": ("World",),
}


def __getattr__(name: str) -> object:
    # Late: a real member that lies loads its adversary from here, and no simulator with it.
    if name == "faults":
        return import_module("bftkit.sim.faults")
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"bftkit.sim.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
