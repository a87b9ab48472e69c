"""What becomes of decisions in an `OrderingWorld`: the channel's stand-in once a machine has decided.

A decision is delivered when the records below it are durable. Then one digest must stand for the slot everywhere, and
a client must have submitted it. Every so many slots is a checkpoint; once a certificate's worth of members have it, it
is stable, and everybody hears so in time. Whoever fell behind is helped: by the state of a stable checkpoint, or slot
by slot (`Learned`). An epoch ends where `stop` says (SAFETY rules 17, 18).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import partial
from typing import Final

import attrs

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.ordering import Learned
from bftkit.core.quorum import Quorum
from bftkit.sim.ordering.batches import Batches
from bftkit.sim.ordering.links import Links
from bftkit.sim.ordering.parts import Machines, Node
from bftkit.sim.ordering.timeline import Timeline

SEGMENT_BEGUN: Final = 0.5
"""So often a stable checkpoint begins a new segment of a member's log."""
_STATUS_EVERY: Final = 50


@attrs.frozen
class Pace:
    """When checkpoints are made, and when whoever is behind is helped."""

    start: Slot
    interval: int
    """Slots between checkpoints."""
    transfer_after: int
    """Ticks behind a stable checkpoint until its state is transferred."""
    learned_after: int | None
    """Ticks behind until decisions are told one by one; None: never."""


class Decisions:
    """What was decided, what is stable, and who has it."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        liars: Set[MemberId],
        quorum: Quorum,
        pace: Pace,
        links: Links,
        batches: Batches,
        time: Timeline,
        machines: Machines,
    ) -> None:
        self.chosen: dict[Slot, Digest] = {}
        """The digest that a correct member delivered first, for each slot."""
        self.stable = pace.start
        """The newest checkpoint that is stable anywhere."""
        self.end: tuple[Slot, Slot] | None = None
        """The slot that orders the end of the epoch, and its last slot."""
        self._nodes = nodes
        self._liars = liars
        self._quorum = quorum
        self._pace = pace
        self._links = links
        self._batches = batches
        self._time = time
        self._machines = machines
        self._voters: dict[Slot, set[MemberId]] = {}

    def begin(self) -> None:
        """Members tell each other now and then how far they are, for as long as the world lasts."""
        self._time.after(_STATUS_EVERY, self._status)

    def state_digest(self, slot: Slot) -> Digest:
        """The stand-in for a checkpoint's state digest."""
        return digest(b"state", *(self.chosen[at] for at in range(self._pace.start + 1, slot + 1)))

    # -------------------------------------------------------------------------------------- delivery

    def decided(self, node: Node, slot: Slot, batch: Digest) -> None:
        """The member's machine has decided this slot."""
        if self.end is not None and slot > self.end[1]:
            if node.stop_told:
                self._machines.fail(f"{node.name} decided slot {slot} after it was stopped at {self.end[1]}")
            return  # void: it was decided before the member knew where the epoch ends
        if slot > node.disk.stable:
            if slot != node.emitted + 1:
                self._machines.fail(f"{node.name} decided slot {slot} after slot {node.emitted}")
            node.emitted = slot
        if batch != NO_DIGEST and batch not in node.store and node.name not in self._liars:
            self._machines.fail(f"{node.name} decided slot {slot} and does not hold its bytes")
        node.disk.when_durable(lambda: self._deliver(node, slot, batch))

    def _deliver(self, node: Node, slot: Slot, batch: Digest) -> None:
        if node.name not in self._liars:
            self._check(node, slot, batch)
            self._batches.open.pop(batch, None)
        if slot <= node.height:
            return
        node.height = slot
        node.slots[slot] = batch
        node.demand.pop(batch, None)
        node.turns.delivered(batch, slot)
        node.behind_since = self._time.now
        if slot % self._pace.interval == 0:
            self._vote(node, slot)
        self._announce_stable(node)
        self.tell_stop(node)

    def _check(self, node: Node, slot: Slot, batch: Digest) -> None:
        """Validity and Agreement."""
        if batch != NO_DIGEST and not self._batches.is_authentic(batch):
            self._machines.fail(
                f"validity: {node.name} decided slot {slot} as {batch.hex()[:8]}, which no client submitted"
            )
        if self.chosen.setdefault(slot, batch) != batch:
            self._machines.fail(
                f"agreement: slot {slot} is {self.chosen[slot].hex()[:8]}, {node.name} decided {batch.hex()[:8]}"
            )

    # -------------------------------------------------------------------------------------- the end of the epoch

    def stop(self, trigger: Slot, boundary: Slot) -> None:
        """Slot `trigger` orders a reconfiguration: whoever delivers it hears that the epoch ends with `boundary`."""
        assert self._pace.start < trigger < boundary
        self.end = (trigger, boundary)
        for node in self._nodes.values():
            self.tell_stop(node)

    def tell_stop(self, node: Node) -> None:
        """The member hears where the epoch ends, if it has come so far and does not know."""
        if self.end is not None and node.machine is not None and not node.stop_told and node.height >= self.end[0]:
            node.stop_told = True
            self._machines.step(node, "on_stop", self.end[1])

    # -------------------------------------------------------------------------------------- checkpoints

    def _vote(self, node: Node, slot: Slot) -> None:
        voters = self._voters.setdefault(slot, set())
        voters.add(node.name)
        if len(voters) >= self._quorum.certificate and slot > self.stable and slot in self.chosen:
            self.stable = slot
            for other in self._nodes.values():
                self._announce_stable(other)

    def _announce_stable(self, node: Node) -> None:
        slot = self.stable
        if node.machine is not None and node.disk.stable < slot <= node.height:
            self._time.after(self._links.delay(), node.process.bound(lambda: self._tell_stable(node, slot)))

    def _tell_stable(self, node: Node, slot: Slot) -> None:
        if slot <= node.disk.stable:
            return
        node.disk.stable = slot
        node.emitted = max(node.emitted, slot)
        if node.height < slot:  # the state came by a transfer
            node.height = slot
            node.slots.update((at, self.chosen[at]) for at in range(self._pace.start + 1, slot + 1))
            for batch in node.slots.values():
                node.demand.pop(batch, None)
                node.turns.delivered(batch, slot)
            node.behind_since = self._time.now
        node.wanted = {batch: want for batch, want in node.wanted.items() if want[0] > slot}
        self._machines.step(node, "on_stable", slot, self.state_digest(slot))
        if node.machine is not None and self._time.random.random() < SEGMENT_BEGUN:
            node.disk.begin_segment(node.machine.standing())
        self.tell_stop(node)

    # -------------------------------------------------------------------------------------- laggards

    def _status(self) -> None:
        """What members tell each other now and then, so that whoever fell behind is helped."""
        for node in self._nodes.values():
            if node.machine is not None and not node.process.paused:
                self._help(node)
        self._time.after(_STATUS_EVERY, self._status)

    def _help(self, node: Node) -> None:
        peers = [
            other
            for other in self._nodes.values()
            if other is not node
            and other.machine is not None
            and not other.process.paused
            and self._links.reaches(other, node)
            and self._links.reaches(node, other)
        ]
        if not any(peer.height > node.height for peer in peers):
            node.behind_since = self._time.now
            return
        pace, behind = self._pace, self._time.now - node.behind_since
        checkpoint = max((peer.disk.stable for peer in peers), default=pace.start)
        # One holder will do: what it sends is checked against the certified root.
        if checkpoint > node.height and behind >= pace.transfer_after:
            self._time.after(self._links.delay(), node.process.bound(lambda: self._tell_stable(node, checkpoint)))
        elif pace.learned_after is not None and behind >= pace.learned_after:
            for slot in range(node.height + 1, node.height + 1 + pace.interval):
                claims = [peer for peer in peers if slot in peer.slots]
                if len(claims) >= self._quorum.weak and slot in self.chosen:
                    self._time.after(self._links.delay(), node.process.bound(partial(self._tell_learned, node, slot)))

    def _tell_learned(self, node: Node, slot: Slot) -> None:
        if slot <= node.height:
            return
        batch = self.chosen[slot]
        if batch != NO_DIGEST:
            self._batches.keep(node, batch)
            node.wanted.pop(batch, None)
        self._machines.step(node, "on_input", Learned(slot, batch))
