"""Who delays proposals: the successors' of a stopped leader for `bftkit demo --switch`, the leader's for `--policy`."""

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


LATE_TICKS: Final = 450
"""So late (in ms) come proposals: not late enough for a view change, and a nuisance to every client."""
LATE_BEATS: Final = 80
"""Since a member's start (in beats of 100 ms): until then the leader is quick."""


class LateLeader(SlowLeader):
    """In epoch 0, some seconds after the start, whoever leads becomes slow, and stays so; in later epochs nothing is.

    As if the machine of the leader were busy with something else; in time, whatever it was is over.
    """

    def __init__(self, settings: ReplicaSettings, ticks: int = LATE_TICKS, beats: int = LATE_BEATS) -> None:
        super().__init__(settings, ticks)
        self._beats = beats

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """Everything, as it is, before its time and after its epoch."""
        if replica.settings.epoch or replica.beat < self._beats:
            return out
        return super().outgoing(replica, out)
