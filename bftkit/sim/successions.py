"""What really happens to a world while operators change its group: views that change, orders that meet.

A plan asks for such coincidences, and only here is seen whether they came about (`World.inject`; the numbers are lines
of docs/FAULTS.md): a change of epoch with a change of view in it, two orders at once, members that change under an
order, a member that is removed and speaks on, keys that are rotated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bftkit.channel.replica import Replica
from bftkit.core.machine import Digest, MemberId
from bftkit.sim.epochs import Era

if TYPE_CHECKING:
    from bftkit.sim.host import Host
    from bftkit.sim.world import World

# Lines of docs/FAULTS.md.
_AT_ONCE: Final = 35
_IN_A_VIEW_CHANGE: Final = 36
_MEMBERS_DURING: Final = 37
_REMOVED: Final = 38
_ROTATED: Final = 39


class Successions:
    """Watches how a world's epochs follow each other."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._views: dict[int, int] = {}
        """By epoch: the highest view of a protocol with leaders that a correct member entered."""
        self._views_at_order = 0
        self._removed: set[MemberId] = set()
        self._told: set[Digest] = set()
        """Commands whose outcome was looked at."""

    @property
    def view_changes(self) -> int:
        """Views beyond the first that some correct member was the first to enter."""
        return sum(self._views.values())

    def ordered(self) -> None:
        """Operators order something now."""
        self._views_at_order = self._views.get(self._world.chain.now.epoch, 0)

    def look(self, host: Host, replica: Replica) -> None:
        """After a round of a correct member."""
        view, epoch = replica.machine.view, replica.settings.epoch
        if view > self._views.get(epoch, 0) and replica.proposer.led:
            self._views[epoch] = view
        if host.settings.place is not None:
            self._world.chain.look(host, replica)
            self._look_at_outcomes(replica)

    def on_stranger(self, member: MemberId) -> None:
        """A frame of somebody who is no member reached one."""
        if member in self._removed:
            self._world.inject(_REMOVED)

    def on_era(self, era: Era) -> None:
        """An epoch begins."""
        world = self._world
        before = world.chain.eras[era.epoch - 1]
        self._removed.update(member for member in before.members if member not in era.members)
        self._removed.difference_update(era.members)
        link = era.link
        forced = link is not None and link.signed.command.forced
        if forced or self._views.get(before.epoch, 0) > self._views_at_order:
            world.inject(_IN_A_VIEW_CHANGE)
        if link is not None:
            rivals = [one.signed for one in world.ordered if one.signed.name != link.signed.name]
            if any(one.command.epoch == before.epoch and (forced or one.command.forced) for one in rivals):
                world.inject(_AT_ONCE)
        roots = [
            {entry.id: entry.epoch_root for entry in known.place.configuration.roster.entries}
            for known in (before, era)
            if known.place is not None
        ]
        for member in era.members:
            if member in roots[0] and roots[0][member] != roots[1][member]:
                world.inject(_ROTATED)

    def _look_at_outcomes(self, replica: Replica) -> None:
        state = replica.state.reconfiguring
        assert state is not None
        for name, (_, text) in state.outcomes.items():
            if name not in self._told:
                self._told.add(name)
                if text.startswith("superseded"):
                    self._world.inject(_AT_ONCE)
                    order = self._world.operator.orders.get(name)
                    change = None if order is None else order.signed.command.change
                    if change is not None and {seat.id for seat in change.members} != set(state.configuration.members):
                        self._world.inject(_MEMBERS_DURING)
