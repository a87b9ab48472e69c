"""What can go wrong in a plan: one frozen class for each kind of fault.

Each says when it begins (`at`, in ticks from the start), how long it lasts (`ticks`), and to whom it happens. A member
is named (``m2``), or chosen when the time comes: ``leader`` is whom most correct members follow (where nobody ever
leads, one after the other, as slots are decided), ``follower`` the first member that is up and is not it. Each ends by
itself. Links and slow disks that are broken twice heal when the last of both ends; a member that is down, paused, out
of space or wrong about time is well when the first ends. The numbers in `lines` are those of docs/FAULTS.md.

Where they live::

    base.py     what a fault is          crashes.py  processes       disks.py  what they keep
    network.py  links, and clocks        liars.py    who is Byzantine
    changes.py  what operators order     shelf.py    all of them, by the names that stored plans use

A fault of your own is a frozen attrs class derived from `Fault`; stored plans name it by ``package.module:Class``.
"""

from __future__ import annotations

from bftkit.sim.faults.base import FOLLOWER, LEADER, Fault, chosen
from bftkit.sim.faults.crashes import Crash, CutAtDisk, Pause, PowerCut
from bftkit.sim.faults.disks import DiskFull, FlipBit, LyingDisk, Rollback, SlowDisk, SyncFails, Wipe
from bftkit.sim.faults.liars import ClientDies, Lie, LyingClient, Twin
from bftkit.sim.faults.network import ClockJump, ClockRate, HoldKind, OneWay, Partition, SlowLink, Weather
from bftkit.sim.faults.shelf import FAULTS, fault_name, lines_of, load_fault

__all__ = [
    "FAULTS",
    "FOLLOWER",
    "LEADER",
    "ClientDies",
    "ClockJump",
    "ClockRate",
    "Crash",
    "CutAtDisk",
    "DiskFull",
    "Fault",
    "FlipBit",
    "HoldKind",
    "Lie",
    "LyingClient",
    "LyingDisk",
    "OneWay",
    "Partition",
    "Pause",
    "PowerCut",
    "Rollback",
    "SlowDisk",
    "SlowLink",
    "SyncFails",
    "Twin",
    "Weather",
    "Wipe",
    "chosen",
    "fault_name",
    "lines_of",
    "load_fault",
]
