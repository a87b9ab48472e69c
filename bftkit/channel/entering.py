"""Entering an epoch: what belongs to one epoch only is made anew, and what the state pends on becomes the present.

`succession` says when: the hand-over is here and its state durable. From then on the log begins with the hand-over.
What waited in the pool is taken in anew, since the new epoch's protocol has heard of none of it; operators' commands
are not, for they were about the epoch before.

A member that has forgotten what it promised is silent, and stays so into epochs in which it has the same keys: what it
signed with them may still be under way (SAFETY rule 16).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bftkit.channel.bundles import COMMAND, COMMIT
from bftkit.channel.interface import ReplicaOut, ReplicaSettings, Rotate
from bftkit.channel.pool import Pool
from bftkit.channel.records import entered_record
from bftkit.configuration.text import ConfigurationError
from bftkit.core.machine import Slot
from bftkit.membership.chain import HandOver, Place
from bftkit.membership.epochs import Configuration

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica


class Entering:
    """The part of a replica that goes into epochs."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.marked = False
        """Whether the log says where the present epoch begins."""

    def enter(self, before: Configuration, place: Place, link: HandOver, out: ReplicaOut) -> bool:
        """Go into the epoch that this hand-over opens; its state is here, and durable. False: this member cannot."""
        replica = self._replica
        keychain = replica.settings.keychain
        assert keychain is not None
        silent = self.stays_silent(before, place.configuration)
        share = replica.preparing.share_for(place.configuration.epoch)
        try:
            settings = keychain.enter(replica.settings, place, share)
            self._begin(settings, link)
        except (ConfigurationError, ValueError) as error:
            replica.halt(f"this member cannot take part in epoch {place.configuration.epoch}: {error}", out)
            return False
        replica.silent = silent
        if not silent:
            replica.forgotten = b""
        self._enter_state(link)
        replica.preparing.enter(out)
        replica.clients.enter()
        waiting = [entry.bundle for entry in replica.pool.oldest()]
        replica.pool = Pool(replica.limits.pool_bytes, replica.limits.client_pool_bytes)
        out.deliver(Rotate(replica.standing()))
        self.mark(link, out)
        if not replica.passive:
            replica.driving.start(out)
        for bundle in waiting:
            if bundle.kind not in (COMMAND, COMMIT) and not replica.passive:
                replica.proposer.take_in(bundle)
        replica.tell_status(out)
        return True

    def restore(self, newest: HandOver) -> None:
        """After a restart: this member was in the epoch that this hand-over opened. Its state is yet to come."""
        replica = self._replica
        place, keychain = replica.succession_part.place, replica.settings.keychain
        assert keychain is not None
        settings = keychain.enter(replica.settings, place, replica.preparing.share_for(newest.next.epoch))
        self._begin(settings, newest)
        self._judge_clocks()
        assert replica.state.reconfiguring is not None
        replica.state.reconfiguring.place = place

    def _begin(self, settings: ReplicaSettings, link: HandOver) -> None:
        """Everything that belongs to one epoch only is made anew."""
        self.marked = False
        self._replica.take_epoch(settings, link.ending)

    def enter_fetched(self, slot: Slot) -> None:
        """The state after this slot was fetched: if the epoch began with it, what was pending in it is over."""
        opened_by = self._replica.opened_by
        if opened_by is not None and slot == opened_by.ending.slot:
            self._enter_state(opened_by)

    def _enter_state(self, link: HandOver) -> None:
        """The state that the epoch ended with becomes the one that the next begins with."""
        replica = self._replica
        state = replica.state.reconfiguring
        assert state is not None
        if state.configuration.epoch == link.ending.epoch:
            place = Place(link.next, link.ending.opening)
            state.enter(place, link.signed, link.ending.slot, replica.state.clock.now_ms)
        self._judge_clocks()
        clock, here = replica.state.clock, replica.indices
        # Reports are signed with keys of the epoch, so that the counters may begin anew. They must: one that a liar has
        # driven to its end would silence whoever takes the liar's place under its name. But a state that was fetched
        # may be of a later slot, with counters of this epoch in it, which all others count on from.
        begins = replica.applied == link.ending.slot
        clock.reports = {
            member: attrs.evolve(report, counter=0) if begins else report
            for member, report in sorted(clock.reports.items())
            if member in here
        }

    def _judge_clocks(self) -> None:
        """From now on the clock reports of this epoch's members count."""
        state, settings = self._replica.state, self._replica.settings
        state.member_keys = settings.member_keys
        state.clock.needed = settings.quorum.available

    def mark(self, link: HandOver, out: ReplicaOut) -> None:
        """Write down where in the log this epoch begins."""
        out.persist(entered_record(link), link.ending.slot)
        self.marked = True

    def stays_silent(self, here: Configuration, there: Configuration) -> bool:
        """Whether this member, having forgotten what it promised, must stay silent in the next epoch too.

        Only new keys end that: what it signed with the old ones may still be under way (SAFETY rule 16).
        """
        replica = self._replica
        if not replica.silent:
            return False
        mine = there.roster.by_id.get(replica.me)
        if mine is not None and mine.epoch_root == replica.forgotten:
            return True  # its log may not know the epoch that it was in
        before, after = (
            {entry.id: entry.epoch_root for entry in roster.entries}.get(replica.me)
            for roster in (here.roster, there.roster)
        )
        return before is None or before == after
