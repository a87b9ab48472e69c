"""Who proposes what, and when: with a leader it does; without one all members do, each for its share of the requests.

**With a leader** it proposes whatever waits with it. While a batch of its own is under way, it lets a small one grow.

**Without a leader** (`everybody`) a protocol runs in rounds to which each member offers a batch. If each offered all
that waits with it, everything would be ordered n times. So each bundle has one member whose turn it is at once: the
digest of its name says which. The members after that one in the roster get their turns when so many slots were applied
that it should have been decided long since, the last ones together (`TURN_SLOTS`). What counts is slots and never
time, so that a slow network makes no copies. A member that is gone, or passes a request over, delays it by some rounds.
From then on, and for `LATE_SLOTS` of them for each member, whoever had to step in does not wait for that member again:
its share is proposed by the next one at once, and perhaps by itself as well.

Somebody has to begin a round. Whoever has the turn for a request does. Others that hold it wait for a beat of their
own; if nothing was applied meanwhile, they begin rounds with empty batches, one after the other, until the request is
decided or the turn is theirs. And if the protocol wants a batch of this member, because a round began elsewhere, it
gets one, empty if there is nothing to put into it. A batch that the protocol gives back is offered again.

docs/adr/0014 tells what else was thought of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bftkit.channel.bundles import Bundle, make_batch
from bftkit.channel.interface import ReplicaOut
from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.ordering import Batch, Propose

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica

TURN_SLOTS: Final = 2
"""A turn lasts so many slots for each member of the group: some rounds, so that one that was left out, or began too
late, is not yet taken for an absent one's."""

LATE_SLOTS: Final = 32
"""A member that let its turn pass is not waited for during so many slots for each member of the group."""


class Proposer:
    """The part of a replica that forms batches and gives them to the protocol."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.in_flight = 0
        """Batches of this member with requests in them that are proposed, and neither executed nor returned."""
        self.led = False
        """Whether anybody was ever named as a leader here. Between two leaders nobody proposes."""
        self._promoted = False
        """Whether the last batch began with what had been aside."""
        self._wanted = 0
        self._highest: Slot = -1
        """The highest slot that was under way, or applied, when this member proposed last."""
        self._beginning = False
        """Whether this member begins rounds for requests that are not its turn."""
        self._applied_at_beat: Slot = -1
        self._late: dict[int, Slot] = {}
        """Members that let their turns pass, by their place in the roster, and the slot until which that counts."""

    @property
    def everybody(self) -> bool:
        """Whether nobody leads, so that all members propose."""
        return not self.led and self._replica.machine.leader is None

    # ------------------------------------------------------------------------------------------ what comes

    def first(self, bundle: Bundle) -> int:
        """The place in the roster of the member whose turn it is at once."""
        name = digest(bundle.client, bundle.session.to_bytes(8, "big"), bundle.first.to_bytes(8, "big"))
        return int.from_bytes(name[:8], "big") % self._replica.quorum.n

    def take_in(self, bundle: Bundle) -> None:
        """A bundle came that was not known: it waits until it is decided."""
        replica = self._replica
        if replica.measuring is not None:
            replica.measuring.on_arrival(bundle)
        applied, n = replica.applied, replica.quorum.n
        if self.led or replica.machine.leader is not None:
            replica.pool.add(bundle, replica.beat, applied)
            return
        first = self.first(bundle)
        rank = (replica.indices[replica.me] - first) % n
        late = self._late
        before = rank if not late else sum(self._is_awaited((first + step) % n) for step in range(rank))
        turn = min(before, replica.quorum.faulty + 1)
        # Rounds that are under way cannot hold it any more.
        due = max(applied, replica.machine.highest_voted) + turn * TURN_SLOTS * n
        replica.pool.add(bundle, replica.beat, applied, rank, turn, due)

    def _is_awaited(self, place: int) -> bool:
        return self._late.get(place, -1) < self._replica.applied

    def _note_late(self, bundle: Bundle, turns: int) -> None:
        """So many members had their turns at this bundle, and it still waits."""
        n = self._replica.quorum.n
        first = self.first(bundle)
        # Meanwhile others may have been found late: there need not be as many left as had their turns.
        for place in ((first + step) % n for step in range(n)):
            if turns and self._is_awaited(place):
                turns -= 1
                self._late[place] = self._replica.applied + LATE_SLOTS * n

    def on_leader(self, leader: MemberId | None) -> None:
        """The protocol says who leads from now on."""
        self.led = self.led or leader is not None
        if self.led:
            self.in_flight = 0
            self._replica.pool.land()

    def on_wanted(self) -> None:
        """The protocol wants a batch of this member; it gets one when the round ends."""
        self._wanted += 1

    def on_returned(self, name: Digest) -> None:
        """A batch of this member will not be decided by its proposal."""
        replica = self._replica
        self.in_flight = max(0, self.in_flight - 1)
        stored = replica.batches.get(name)
        if stored is not None:
            replica.pool.give_back((bundle.client, bundle.session, bundle.first) for bundle in stored.bundles)

    def on_executed(self) -> None:
        """A batch of this member was executed."""
        self.in_flight = max(0, self.in_flight - 1)

    def on_jump(self) -> None:
        """The state was fetched: what was proposed below it is over.

        What is wanted stays so: it may be for a round above, and the protocol says it once. One too many does no harm.
        """
        self.in_flight = 0
        self._highest = -1
        self._replica.pool.land(everything=self.led)

    def on_beat(self) -> None:
        """Something waits that is not our turn, and nothing was applied for a beat: rounds should go on for it."""
        replica = self._replica
        waits = len(replica.pool) > 0
        self._beginning = waits and (self._beginning or self._applied_at_beat == replica.applied)
        self._applied_at_beat = replica.applied if waits else -1
        if self.everybody and self.in_flight and replica.applied > self._highest + TURN_SLOTS * replica.quorum.n:
            # Its round was over long since, and of the end nothing was heard, as after a state transfer.
            self.in_flight = 0
            replica.pool.land(everything=False)

    # ------------------------------------------------------------------------------------------ proposing

    def on_round_end(self, out: ReplicaOut) -> None:
        """All that was ready has been handed in: propose what came together."""
        replica = self._replica
        pool, machine = replica.pool, replica.machine
        if self.led or machine.leader is not None:
            while pool.fresh and machine.room > 0 and self._worth_proposing():
                self._propose(out)
        elif len(pool) or self._wanted:
            while machine.room > 0 and self._is_called_for():
                self._propose_share(out)

    def _worth_proposing(self) -> bool:
        # While a batch is under way, a small one would only cost its members' time: let it grow meanwhile.
        return self.in_flight == 0 or self._replica.pool.fresh_requests * 2 >= self._replica.limits.batch_requests

    def _is_called_for(self) -> bool:
        pool, applied = self._replica.pool, self._replica.applied
        if self._wanted:
            return True
        if pool.fresh and self._worth_proposing():
            return True
        if self.in_flight or applied <= self._highest:
            return False  # a round that this member takes part in is under way
        return pool.is_due(applied) or (self._beginning and len(pool) > 0)

    def _propose_share(self, out: ReplicaOut) -> None:
        replica = self._replica
        pool, limits, n = replica.pool, replica.limits, replica.quorum.n
        # Under overload every request waits for many rounds; then, too, most of a batch is the member's own share.
        parts = n if pool.fresh else 1
        overloaded = pool.fresh_requests * 2 >= limits.batch_requests
        promoted: list[tuple[Bundle, int]] = []
        # Where a batch has no room for both, every other one is the member's own share, or that would never come.
        if limits.batch_requests >= parts or not self._promoted:
            promoted = pool.promote(replica.applied, limits.batch_bytes // parts, limits.batch_requests // parts)
        self._promoted = bool(promoted)
        if not overloaded:
            for bundle, turn in promoted:
                self._note_late(bundle, turn)
        self._wanted = max(0, self._wanted - 1)
        self._highest = max(replica.applied, replica.machine.highest_voted)
        if pool.fresh:
            self._propose(out)
        else:
            replica.driving.give(Propose(Batch(NO_DIGEST, 0)), out)

    def _propose(self, out: ReplicaOut) -> None:
        replica = self._replica
        limits = replica.limits
        bundles = replica.pool.take(limits.batch_bytes, limits.batch_requests)
        reports = replica.watch.reports_due()
        if replica.measuring is not None:
            reports += replica.measuring.due()
        raw = make_batch(replica.clock_ms, [bundle.raw for bundle in (*reports, *bundles)])
        stored = replica.batches.add_own(raw, replica.clock_ms, [*reports, *bundles])
        replica.driving.keep_durable(stored, replica.applied + replica.settings.window, out)
        self.in_flight += 1
        replica.counters.proposed += 1
        replica.driving.give(Propose(Batch(stored.name, len(raw))), out)
