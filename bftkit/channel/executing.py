"""Executing what is decided, slot by slot (SAFETY rule 7).

What was decided comes from three places: from the protocol, from f + 1 others that say so (`catchup`), and from this
member's own log. Whatever the source, a slot is executed when all slots below it are and its bytes are here; bytes that
are missing are asked for. Slots above an epoch's last one are void, and none is executed before the epoch has begun
(rules 23 and 26).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bftkit.channel.batches import SERVED_AT_ONCE, StoredBatch
from bftkit.channel.bundles import COMMAND, COMMIT, OPEN
from bftkit.channel.interface import Jot, ReplicaOut
from bftkit.channel.records import DECIDED_RECORD
from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Digest, Slot
from bftkit.core.ordering import Learned

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica


class Executing:
    """The part of a replica that executes."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._bytes_since_checkpoint = 0

    def on_decided(self, slot: Slot, name: Digest, out: ReplicaOut) -> None:
        """The protocol decided this batch for this slot."""
        replica = self._replica
        learned = replica.catchup.learned
        if slot <= replica.applied or slot in learned:
            known = replica.history.get(slot, learned.get(slot))
            if known is not None and known != name:
                text = f"slot {slot} was decided twice, as {known.hex()[:16]} and {name.hex()[:16]}"
                replica.halt(text, out)
                return
        if slot <= replica.applied:
            return
        replica.history[slot] = name

    def advance(self, out: ReplicaOut, *, replay: bool = False) -> None:
        """Execute whatever is decided next and here. `replay`: from the log, after a restart; nobody is answered."""
        replica = self._replica
        state, succession = replica.state, replica.succession
        while replica.stopped is None or replica.removed:
            slot = state.applied + 1
            if succession is not None and (succession.at_end or not succession.active):
                break  # slots above the last one are void
            name = replica.history.get(slot)
            learned = name is None
            if name is None:
                name = replica.catchup.learned.get(slot)
                if name is None:
                    break
            if name == NO_DIGEST:
                state.skip(slot)
            else:
                stored = replica.batches.get(name)
                if stored is None:
                    if not replay:
                        self._want_from(slot, out)
                    break
                self._execute(slot, stored, out, replay=replay)
            replica.history[slot] = name
            if not replay:
                out.deliver(Jot(DECIDED_RECORD + slot.to_bytes(8, "big") + name, slot))
            if learned:
                replica.catchup.settle(slot)
                replica.counters.learned += 1
                if not replica.passive:
                    replica.driving.give(Learned(slot, name), out)
            self._after_slot(slot)
            if succession is not None:
                replica.preparing.on_executed(out)
                succession.on_executed(slot, out)
                replica.wedge.look_for_end(out)
        replica.clients.answer_reads(out)

    def _want_from(self, first: Slot, out: ReplicaOut) -> None:
        """Ask for the bytes of the next slots, several at a time: one after the other would take too long."""
        replica = self._replica
        batches, catchup = replica.batches, replica.catchup
        for slot in range(first, first + SERVED_AT_ONCE):
            name = replica.history.get(slot) or catchup.learned.get(slot)
            if name is None:
                break
            if name != NO_DIGEST and batches.get(name) is None:
                batches.want(name, slot, catchup.claimers(slot, name) or replica.others, out)

    def _execute(self, slot: Slot, stored: StoredBatch, out: ReplicaOut, *, replay: bool) -> None:
        replica = self._replica
        stored.slot = max(stored.slot, slot)
        self._bytes_since_checkpoint += len(stored.raw)
        replica.counters.batches += 1
        if stored.own:
            replica.proposer.on_executed()
        entries = replica.state.execute(slot, stored.name, stored.time_ms, stored.bundles)
        if replica.measuring is not None and not replay:
            replica.measuring.on_executed(entries)
        answer = not (replay or replica.passive)
        pool = replica.pool
        for bundle, reply in entries:
            held = pool.holds(bundle)
            if bundle.kind in (COMMAND, COMMIT) and not held:
                continue  # a liar may have ordered one under the name of a client that waits
            if bundle.kind != OPEN or held:
                # Openings of a client have one place, and a liar may order an old one while a new one waits there.
                pool.remove((bundle.client, bundle.session, bundle.first), replica.beat, replica.applied)
            if answer and reply is not None:
                replica.clients.reply(bundle, reply, out)

    def _after_slot(self, slot: Slot) -> None:
        replica = self._replica
        interval = replica.settings.checkpoint_interval
        if slot % interval == 0 or self._bytes_since_checkpoint >= replica.limits.checkpoint_bytes:
            self._bytes_since_checkpoint = 0
            replica.checkpoints.begin(slot, replica.state.view())

    def on_jump(self) -> None:
        """The state was fetched, or an epoch begins: what was proposed and counted below it is over."""
        self._bytes_since_checkpoint = 0

    def hash_now(self, slot: Slot) -> None:
        """The state after this slot is wanted, be it a checkpoint or not."""
        replica = self._replica
        checkpoints = replica.checkpoints
        known = slot in checkpoints.ready or any(item.slot == slot for item in checkpoints.hashing)
        if not known and slot > checkpoints.stable:
            checkpoints.begin(slot, replica.state.view())
