"""Frames on their way: between members, and between clients and members.

What a hub promises a real member holds here, too: a frame that is longer than a hub takes does not leave, a client's
frames go over the connection that is up now or not at all, and a member that has a twin hears what its side hears.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import attrs

from bftkit.channel import frames
from bftkit.core.machine import MemberId
from bftkit.core.wire import WireError
from bftkit.network.framing import FRAME_BYTES_MAX
from bftkit.sim.costs import WorldCounters
from bftkit.sim.journal import CLIENT, PACKET
from bftkit.sim.links import Links
from bftkit.sim.scheduler import Scheduler

if TYPE_CHECKING:
    from bftkit.sim.actors import Actor
    from bftkit.sim.host import Host

PROOF_US: Final = 10_000
"""A link's proof comes within so many microseconds."""
KEY_PREFIX: Final = 4
"""So many bytes of a public key stand in the journal where a client is heard."""
RECONNECT_US: Final = 200_000
"""A connection that cannot be made is tried again after so long."""


@attrs.frozen(eq=False)
class TwinOf:
    """The second copy of a member, and who is linked with which."""

    copy: Host
    left: frozenset[str]
    """With the first copy."""
    right: frozenset[str]
    """With the second."""


class Traffic(Scheduler):
    """The part of a `World` that carries frames."""

    members: tuple[MemberId, ...]
    links: Links
    hosts: dict[MemberId, Host]
    actors: dict[str, Actor]
    counters: WorldCounters
    observers: list[Callable[[MemberId, MemberId, bytes], None]]

    def _begin_traffic(self) -> None:
        self.observers = []
        self.hosts = {}
        self.actors = {}
        self.packets = 0
        """Packets so far; each has its number."""
        self._by_public: dict[bytes, Actor] = {}
        self._connections: dict[tuple[str, MemberId], tuple[int, Host]] = {}
        self._twins: dict[MemberId, TwinOf] = {}
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []

    def number_of(self, party: str) -> int:
        """The party's number in the journal."""
        number = self._numbers.get(party)
        if number is None:
            number = self._numbers[party] = len(self._names)
            self._names.append(party)
        return number

    def _party(self, number: int) -> str:
        return self._names[number]

    def _client_of(self, key: bytes) -> str | None:
        known = (actor.name for public, actor in self._by_public.items() if public.startswith(key))
        return next(known, None) if len(key) >= KEY_PREFIX else None

    # ------------------------------------------------------------------------------------------ between members

    def send(self, host: Host, receivers: Iterable[MemberId], frame: bytes) -> None:
        """A member's process sends a frame to others."""
        sender, size, links, events, now = host.me, len(frame), self.links, self._events, self.now_us
        chosen = tuple(receivers)
        if host.neighbours is not None:
            chosen = tuple(receiver for receiver in chosen if host.admits(receiver))
            if not chosen:
                return
        for observer in self.observers:
            for receiver in chosen:
                observer(sender, receiver, frame)
        counters = self.counters
        if size > FRAME_BYTES_MAX:
            counters.oversize += len(chosen)
            return
        self.packets = packet = self.packets + 1
        self.journal.add(now, PACKET, host.number, len(chosen), frame)
        counters.messages += len(chosen)
        counters.bytes += size * len(chosen)
        if links.plain and not self._twins:
            links.carried += len(chosen)
            delay, span, bits, serial = links.delay_us, links.span_us, self.random.getrandbits, self._serial
            for receiver in chosen:
                serial += 1
                heapq.heappush(
                    events,
                    (
                        now + delay + (bits(20) * span >> 20),
                        serial,
                        self.hosts[receiver].arrive,
                        (sender, packet, frame),
                    ),
                )
            self._serial = serial
            return
        for receiver in chosen:
            for to in self._copies(host, receiver) if self._twins else (self.hosts[receiver],):
                for us in links.arrivals(sender, receiver, frame, now):
                    self.after_us(us, to.arrive, sender, packet, frame)

    def _copies(self, sender: Host, receiver: MemberId) -> tuple[Host, ...]:
        """Which copies of the receiver hear this copy of the sender."""
        mine, theirs = self._twins.get(sender.me), self._twins.get(receiver)
        if mine is not None and receiver not in (mine.right if sender is mine.copy else mine.left):
            return ()
        if theirs is None:
            return (self.hosts[receiver],)
        left = (self.hosts[receiver],) if sender.me in theirs.left else ()
        return (*left, theirs.copy) if sender.me in theirs.right else left

    # ------------------------------------------------------------------------------------------ with clients

    def carry_to_client(self, host: Host, client: bytes, frame: bytes) -> None:
        """A member sends a frame to a client, over the connection that is up now."""
        actor = self._by_public.get(client)
        if actor is None:
            return
        member = host.me
        pair = (actor.name, member)
        connection = self._connections.get(pair)
        if connection is None or connection[1] is not host:
            return
        counters = self.counters
        if len(frame) > FRAME_BYTES_MAX:
            counters.oversize += 1
            return
        self.packets = packet = self.packets + 1
        now = self.now_us
        self.journal.add(now, PACKET, host.number, 1, frame)
        counters.messages += 1
        counters.bytes += len(frame)
        links = self.links
        if links.plain:
            links.carried += 1
            us = links.delay_us + (self.random.getrandbits(20) * links.span_us >> 20)
            self._serial += 1
            heapq.heappush(
                self._events,
                (now + us, self._serial, self._arrive_at_client, (pair, connection[0], actor, packet, frame)),
            )
            return
        if _is_proof(frame) and links.reaches(member, actor.name):
            # Part of the connection's coming up: without it there is no connection, and it is tried anew.
            us = self.random.getrandbits(20) * PROOF_US >> 20
            self.after_us(us, self._arrive_at_client, pair, connection[0], actor, packet, frame)
            return
        for us in links.arrivals(member, actor.name, frame, now):
            self.after_us(us, self._arrive_at_client, pair, connection[0], actor, packet, frame)

    def _arrive_at_client(
        self, pair: tuple[str, MemberId], connection: int, actor: Actor, packet: int, frame: bytes
    ) -> None:
        now = self._connections.get(pair)
        if now is not None and now[0] == connection:
            self.journal.add(self.now_us, CLIENT, self.number_of(pair[0]), packet, b"")
            actor.on_frame(pair[1], frame)

    def carry_from_client(self, actor: Actor, member: MemberId, frame: bytes) -> None:
        """A client sends a frame to a member, over the connection that is up now."""
        pair = (actor.name, member)
        connection = self._connections.get(pair)
        if connection is None:
            return
        serial, host = connection
        counters = self.counters
        if len(frame) > host.client_frame_max:
            # A hub ends the link of whoever announces so long a frame; the client comes back.
            counters.oversize += 1
            self.drop_connection(actor, member)
            self.connect(actor, member)
            return
        self.packets = packet = self.packets + 1
        now = self.now_us
        self.journal.add(now, PACKET, self.number_of(actor.name), 1, frame)
        counters.messages += 1
        counters.bytes += len(frame)
        for us in self.links.arrivals(actor.name, member, frame, now):
            self.after_us(us, self._arrive_from_client, pair, serial, host, actor.public, packet, frame)

    def _arrive_from_client(
        self, pair: tuple[str, MemberId], serial: int, host: Host, public: bytes, packet: int, frame: bytes
    ) -> None:
        connection = self._connections.get(pair)
        if connection is not None and connection[0] == serial:
            host.arrive(public, packet, frame)

    # ------------------------------------------------------------------------------------------ connections

    def connect(self, actor: Actor, member: MemberId) -> None:
        """The client dials the member."""
        host = self._host_for_client(actor.name, member)
        us = 1000 + (self.random.getrandbits(20) * 29_000 >> 20)
        self.after_us(us, self._come_up, actor, host, host.incarnation)

    def _host_for_client(self, name: str, member: MemberId) -> Host:
        twin = self._twins.get(member)
        return twin.copy if twin is not None and name in twin.right else self.hosts[member]

    def _come_up(self, actor: Actor, host: Host, incarnation: int) -> None:
        pair = (actor.name, host.me)
        if host.incarnation != incarnation or not host.up or pair in self._connections or actor.stopped:
            return
        if not actor.knows(host.me):
            return  # once it has learned of the member it dials (`World.on_moved`)
        if self.suffers(*pair):
            self.after_us(RECONNECT_US, self._come_up, actor, host, incarnation)
            return
        self._serial += 1
        self._connections[pair] = (self._serial, host)
        binding = self.random.randbytes(32)
        host.link(actor.public, binding)
        actor.on_link(host.me, binding)

    def drop_connection(self, actor: Actor, member: MemberId) -> None:
        """The connection is gone, if there is one."""
        connection = self._connections.pop((actor.name, member), None)
        if connection is not None:
            connection[1].clients.discard(actor.public)

    def drop_connections(self, host: Host) -> None:
        """The member's process is gone, and all of its connections with it."""
        for actor in self.actors.values():
            pair = (actor.name, host.me)
            connection = self._connections.get(pair)
            if connection is not None and connection[1] is host:
                del self._connections[pair]

    def suffers(self, name: str, member: MemberId) -> bool:
        """Whether a direction between this client and this member is cut."""
        return not (self.links.reaches(name, member) and self.links.reaches(member, name))

    def suffering(self) -> list[tuple[str, MemberId]]:
        """The connections of which a direction is cut now."""
        return [pair for pair in self._connections if self.suffers(*pair)]

    def mend(self, broken: Iterable[tuple[str, MemberId]]) -> None:
        """Of these connections, those that can be made anew are: a client does not trust one that lost frames."""
        for name, member in broken:
            if not self.suffers(name, member) and (name, member) in self._connections:
                self.drop_connection(self.actors[name], member)
                self.connect(self.actors[name], member)


def _is_proof(frame: bytes) -> bool:
    if frame[:1] != bytes((frames.ANSWER,)):
        return False
    try:
        return isinstance(frames.ANSWER_CODEC.decode(frame[1:]), frames.LinkProof)
    except WireError:
        return False
