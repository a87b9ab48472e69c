"""Who of the next configuration's members is there, before an operator decides: those that answer, and who joins.

A change is carried out as soon as enough of the next members are ready, whether or not those that join are among them;
a member that is not there is then one of the faults that the group is to bear. So it is told, with the numbers as they
are while it is away. Present members are asked how they are. One that joins is nobody's neighbour yet: it is dialled at
the addresses on its card, and has been heard of if whoever listens there has the key on the card.

It is what can be seen from the operator's machine, and binds nobody: a member may come up in the next moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import trio

from bftkit.cli.reach import Connection
from bftkit.core.machine import MemberId
from bftkit.core.quorum import Quorum
from bftkit.membership.commands import Change, Seat
from bftkit.membership.epochs import Configuration
from bftkit.network.addresses import parse_address
from bftkit.network.hub import Hub, HubError, LinkUp
from bftkit.network.session import Identity
from bftkit.network.tcp import TcpHub
from bftkit.node.folders import ClientFolder

LOOK_SECONDS = 2.0


@attrs.frozen
class Presence:
    """Who is there."""

    quorum: Quorum
    """Of the next configuration."""
    absent: tuple[MemberId, ...]
    """Present members that stay and do not answer."""
    unheard: Mapping[MemberId, tuple[str, ...]]
    """Members that join and were not heard of, with the addresses where they were looked for."""

    @property
    def missing(self) -> tuple[MemberId, ...]:
        """All that count as absent."""
        return (*self.absent, *self.unheard)

    @property
    def bears(self) -> int:
        """How many more members may be down, once the next epoch has begun; negative: so many are too few for it."""
        return self.quorum.n - len(self.missing) - self.quorum.available

    def in_words(self) -> tuple[str, ...]:
        """What an operator should know; nothing if all are there."""
        if not self.missing:
            return ()
        told = [
            f"{member} has not been heard of at {' or '.join(places)}. Start it first, on its own machine: bftkit node "
            "run FOLDER."
            for member, places in self.unheard.items()
        ]
        if self.absent:
            told.append(f"{', '.join(self.absent)} {'does' if len(self.absent) == 1 else 'do'} not answer.")
        n, needed, there = self.quorum.n, self.quorum.available, self.quorum.n - len(self.missing)
        so_far = f"With {', '.join(self.missing)} counted as absent, {there} of the next {n} members are there, and "
        if self.bears < 0:
            told.append(f"{so_far}{needed} must be: the change waits until {-self.bears} more are up.")
        elif self.bears == 0:
            told.append(f"{so_far}{needed} must be: one more that goes down stops the group.")
        else:
            told.append(f"{so_far}{needed} must be: the group bears {self.bears} more that go down, not {n - needed}.")
        return tuple(told)


async def look(client: Connection, folder: ClientFolder, here: Configuration, change: Change) -> Presence:
    """Ask the present members and dial those that join, for some seconds at most."""
    before = {entry.id: entry.identity for entry in here.roster.entries}
    joining = [seat for seat in change.members if before.get(seat.id) != seat.identity]
    there: set[MemberId] = set()

    async def ask() -> None:
        there.update(client.present(await client.status(timeout=LOOK_SECONDS)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        heard = await dial(folder.key.seed, folder.genesis.group_id, joining)
    names = {seat.id for seat in joining}
    return Presence(
        Quorum(len(change.members), change.f, change.c),
        tuple(seat.id for seat in change.members if seat.id not in there and seat.id not in names),
        {seat.id: seat.addresses for seat in joining if seat.id not in heard},
    )


async def dial(seed: bytes, group: bytes, seats: Sequence[Seat], seconds: float = LOOK_SECONDS) -> frozenset[MemberId]:
    """Which of these are there: at one of its addresses somebody listens for this group who has its key."""
    if not seats:
        return frozenset()
    heard: set[MemberId] = set()
    hub: Hub = TcpHub(Identity.from_seed(seed), group)
    try:
        for seat in seats:
            try:
                hub.connect(seat.id, seat.identity, tuple(parse_address(address) for address in seat.addresses))
            except (HubError, ValueError):
                continue  # of another transport, which this machine cannot dial
        with trio.move_on_after(seconds):
            while len(heard) < len(seats):
                await hub.wait(hub.deadline())
                hub.poll()
                heard.update(str(event.peer) for event in hub.events() if isinstance(event, LinkUp))
    finally:
        hub.close()
    return frozenset(heard)
