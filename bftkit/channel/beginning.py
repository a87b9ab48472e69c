"""The beginning of an epoch: nothing is executed before enough members hold the state that it begins with.

The protocol of the new epoch starts at once, and each member that has crossed signs that it holds the state durably.
With the signatures of q' of the new members the epoch has *begun* (SAFETY rule 26): its slots are executed, and who is
no member any more is needed no more, if enough of the members before stay to show others the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from bftkit.channel.frames import Holding, Status, pack_control
from bftkit.channel.interface import ReplicaOut
from bftkit.core.machine import MemberId
from bftkit.core.wire import WireError
from bftkit.membership.epochs import Configuration
from bftkit.membership.roster import RosterEntry

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica
    from bftkit.channel.succession import Succession

HOLDING_PURPOSE: Final = "holding"
NO_SIGNATURE: Final = bytes(64)
"""In place of one by who holds nothing that counts, and only asks: it is no member, or has forgotten what it said."""


class Beginning:
    """The part of a replica that knows whether the present epoch has begun."""

    def __init__(self, replica: Replica, succession: Succession) -> None:
        self._replica = replica
        self._succession = succession
        self.active = True
        """Whether slots of this epoch may be executed: q' members hold the state that it begins with."""
        self.holders: dict[MemberId, bytes] = {}
        """The signatures of those that hold it."""
        self.leaving: tuple[RosterEntry, ...] = ()
        """Members of the epoch before that are none any more, and may still need its end."""
        self.staying = 0
        """How many members of the epoch before are members of this one."""

    def enter(self, before: Configuration, here: Configuration) -> None:
        """A new epoch, in which nobody holds its first state yet: who of the members before stays, and who leaves."""
        members = set(here.members)
        self.leaving = tuple(entry for entry in before.roster.entries if entry.id not in members)
        self.staying = len(before.members) - len(self.leaving)
        self.holders = {}

    def begin(self, out: ReplicaOut) -> None:
        """In a new epoch, or up again in one: say that the state that it begins with is held here."""
        replica, opened_by = self._replica, self._replica.opened_by
        self.active = opened_by is None or replica.applied > opened_by.ending.slot
        here = opened_by is None or replica.applied >= opened_by.ending.slot  # or the disk has lost that state
        if here and not replica.passive and not self.active:
            signature = replica.settings.keyring.sign(HOLDING_PURPOSE, self._succession.place.opening)
            self.holders[replica.me] = signature
            holding = Holding(self._succession.configuration.epoch, signature, answer=False)
            self._succession.everyone(pack_control(holding), out)
            self._count_holders(out)

    def on_holding(self, sender: MemberId, message: Holding, out: ReplicaOut) -> None:
        """Another member holds the first state of its epoch, or asks who does. Raises `WireError`."""
        replica, succession = self._replica, self._succession
        if message.epoch > succession.configuration.epoch:
            succession.lineage.ask(sender, out)
            return
        if message.epoch < succession.configuration.epoch:
            succession.lineage.send(sender, message.epoch, out)
            return
        mine = self.holders.get(replica.me)
        if message.answer and mine is not None:
            out.send(sender, pack_control(Holding(message.epoch, mine, answer=False)))
        if sender not in replica.indices or message.signature == NO_SIGNATURE:
            return  # it only asks: whether it is needed, if it leaves, or whether the epoch has begun, if it is silent
        if not replica.settings.keyring.verify(sender, HOLDING_PURPOSE, succession.place.opening, message.signature):
            raise WireError("a bad signature under the state that an epoch begins with")
        self.holders[sender] = message.signature
        self._count_holders(out)

    def _count_holders(self, out: ReplicaOut) -> None:
        replica = self._replica
        if len(self.holders) >= replica.quorum.certificate:
            self._activate(out)

    def _activate(self, out: ReplicaOut) -> None:
        """The new epoch has begun: whoever left is needed no more, if enough stay.

        Clients and members that were away since before the change know the old members only. One that is correct and
        runs must be among them, to show the way: so more than f + c of those that are members now.
        """
        replica = self._replica
        self.active = True
        if not replica.observing or all(entry.id != replica.me for entry in self.leaving):
            return
        reason = f"this member is no part of the group since epoch {self._succession.configuration.epoch}"
        needed = self.staying <= replica.quorum.faulty
        if needed:
            reason += f"; only {self.staying} of the members before stayed, so it goes on to show others the way"
        replica.leave(reason, out, needed=needed)

    def look_for_progress(self, peers: Mapping[MemberId, Status], out: ReplicaOut) -> None:
        """f + 1 members have executed slots of this epoch: so q' held the state that it begins with."""
        if self.active:
            return
        replica, opened_by = self._replica, self._replica.opened_by
        start = opened_by.ending.slot if opened_by is not None else 0
        ahead = sum(status.applied > start for member, status in peers.items() if member in replica.indices)
        if ahead >= replica.quorum.weak:
            self._activate(out)

    def on_beat(self, out: ReplicaOut) -> None:
        """Say again what may have been lost."""
        replica, epoch = self._replica, self._succession.configuration.epoch
        if self.active:
            return
        held = self.holders.get(replica.me)
        if held is not None:
            out.broadcast(pack_control(Holding(epoch, held, answer=True)))
        elif not replica.passive:
            self._succession.begin(out)  # the state that was lost may be here again
        elif replica.stopped is None:
            # Nobody waits for this member, so what the others held when it was on its way is not said again by itself.
            out.broadcast(pack_control(Holding(epoch, NO_SIGNATURE, answer=True)))
