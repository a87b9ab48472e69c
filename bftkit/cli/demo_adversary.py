"""Who delays the successors of a stopped leader, for `bftkit demo --switch`."""

from __future__ import annotations

from typing import Final

from bftkit.channel.replica import Replica, ReplicaOut, ReplicaSettings
from bftkit.sim.adversaries import SlowLeader

EPOCH: Final = 5
"""The epoch in which the leader is stopped: pbft for the second time."""
TICKS: Final = 5000
"""Longer (in ms) than the first timeouts: a proposal comes when its view has been given up."""


class SlowSuccessor(SlowLeader):
    """In one epoch, and in all its views but the first, the leader's proposals come late; else nothing happens.

    As a network would do it that an adversary controls: PBFT promises no progress then, and loses nothing.
    """

    def __init__(self, settings: ReplicaSettings, ticks: int = TICKS, epoch: int = EPOCH) -> None:
        super().__init__(settings, ticks)
        self._epoch = epoch

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """Everything, as it is, unless this is a successor's turn."""
        if replica.settings.epoch != self._epoch or not replica.machine.view:
            return out
        return super().outgoing(replica, out)
