"""What comes into a round: everything that is ready is taken in at once, in one order, and handed to the replica.

First the links of clients that came or fell, then frames, due timers, and work for the replica that other tasks have
finished. So what arrived together is decided together, and the disk and the peers are asked once for all of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import trio

from bftkit.channel.interface import SecretKept
from bftkit.channel.replica import ClientLink, FromClient, Replica, ReplicaOut, RoundEnd, Saved, ToClient
from bftkit.core.machine import Deliver, MemberId
from bftkit.network.hub import Hub, LinkDown, LinkUp, Received
from bftkit.node.adversary import Tampering
from bftkit.node.neighbours import CLIENT_QUEUE_BYTES, Neighbours
from bftkit.node.timers import Timers, is_withdrawn

LINGER_SECONDS: Final = 0.001
"""So long a round waits for more in the hub itself, before it lets other tasks wait with it."""
YIELD_SECONDS: Final = 0.01
"""Other tasks of the process get a turn at least this often."""
ANSWERS_BYTES_MAX: Final = 256 << 20
"""Once the answers of one round are larger together, what clients say is not heard in this round any more."""
NOBODY: Final = bytes(32)
"""In place of the client of a frame that came by another way; no link has it, so nothing is sent back."""


class Inputs:
    """What is ready for one member."""

    def __init__(
        self, replica: Replica, hub: Hub, timers: Timers, neighbours: Neighbours, tampering: Tampering
    ) -> None:
        self.heard: dict[MemberId, float] = {}
        """When each other member was last heard, by the hub's clock."""
        self._replica = replica
        self._hub = hub
        self._timers = timers
        self._neighbours = neighbours
        self._tampering = tampering
        self._finished: list[Saved | SecretKept] = []
        self._taken: list[tuple[bytes, trio.Event]] = []
        self._yield_at = 0.0
        self._answered = 0
        """How long the answers to clients are in this round, together."""

    async def take(self, frame: bytes) -> None:
        """See `Node.take`."""
        seen = trio.Event()
        self._taken.append((frame, seen))
        self._hub.wake()
        await seen.wait()

    def finished(self, work: Saved | SecretKept) -> None:
        """Work that the replica asked for is done. To be called in the member's own thread."""
        self._finished.append(work)
        self._hub.wake()

    async def receive(self, due: float) -> Received:
        """The frames that are ready, once anything is, or the hub's clock reaches `due`.

        The answer to what was just sent is often there within a millisecond; waiting for it in the selector itself
        costs a third of what waiting through trio does. Other tasks get their turn between.
        """
        hub = self._hub
        now = hub.clock()
        due = min(due, self._timers.next(), hub.deadline())
        if self._replica.checkpoints.hashing:
            due = now  # a large state is hashed a little in every round, also when nothing comes
        if now < self._yield_at and not self._finished:
            received = hub.poll(max(0.0, min(LINGER_SECONDS, due - now)))
            if received or due <= now:
                return received
        self._yield_at = hub.clock() + YIELD_SECONDS
        await hub.wait(due)
        return hub.poll()

    def hand_over(self, received: Received, now: float, out: ReplicaOut) -> None:
        """Give these frames, and whatever else is ready at this time, to the replica."""
        replica, tampering = self._replica, self._tampering
        answered: Counter[bytes] = Counter()
        self._answered = 0
        self._tell_links(out)
        for peer, frames in received:
            if isinstance(peer, str):
                self.heard[peer] = now
                for frame in tampering.heard(peer, frames):
                    replica.on_message(peer, frame, out)
            else:
                self._hear_client(peer, tampering.heard_from(peer, frames), answered, out)
        while self._taken:
            taken, seen = self._taken.pop(0)
            seen.set()  # nobody else runs before the replica has seen it, just below
            for frame in tampering.heard_from(NOBODY, [taken]):
                replica.on_input(FromClient(NOBODY, frame), out)
        while (key := self._timers.pop_due(now)) is not None:
            if not is_withdrawn(key, out.effects):
                replica.on_timer(key, out)
        while self._finished:
            replica.on_input(self._finished.pop(0), out)
        replica.on_input(RoundEnd(), out)

    def _hear_client(self, client: bytes, frames: list[bytes], answered: Counter[bytes], out: ReplicaOut) -> None:
        """What a client says, as far as the answers of this round to it, and to all, leave room (`answered`).

        A question of some bytes may be answered with a megabyte, and a client can ask thousands of them at once. All
        answers of a round wait together until its records are durable. More than the client's queue would be dropped
        then; it is not made in the first place, and an honest client asks again.
        """
        replica, effects = self._replica, out.effects
        for heard, frame in enumerate(frames):
            if answered[client] > CLIENT_QUEUE_BYTES or self._answered > ANSWERS_BYTES_MAX:
                replica.counters.refused_frames += len(frames) - heard
                return
            before = len(effects)
            replica.on_input(FromClient(client, frame), out)
            for index in range(before, len(effects)):
                effect = effects[index]
                if isinstance(effect, Deliver) and isinstance(effect.output, ToClient):
                    size = len(effect.output.frame)
                    answered[effect.output.client] += size
                    self._answered += size

    def _tell_links(self, out: ReplicaOut) -> None:
        """Which links the clients have: what a client is told in the next epoch is bound to its newest one."""
        for event in self._hub.events():
            if not isinstance(event, (LinkUp, LinkDown)) or not isinstance(event.peer, bytes):
                continue
            # A second process with the client's key may have come and gone: then the older link is the client's again,
            # and that one's binding is what has to be proved in the next epoch.
            binding = event.binding if isinstance(event, LinkUp) else event.falls_back
            if binding is not None and not self._neighbours.as_member(event.peer):
                # (A member that is a neighbour now was let in as a client just before.)
                self._replica.on_input(ClientLink(event.peer, binding), out)
