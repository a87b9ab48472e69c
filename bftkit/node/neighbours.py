"""Whom a member has links with, from epoch to epoch: whom it dials, and whom it lets in as what.

The replica says who its neighbours are: the members of the epoch, and those that are joining or leaving. They are known
by their identity keys, and nothing else makes a link a member's. Whoever else comes is a client, if the group's policy
has it; operators always are, since their commands carry their own proof.

A member says in its handshake that it is one. As long as it is no neighbour (it is to join, or was removed), it is not
let in, and not taken for a client either. Should one have come in as a client all the same, its link is closed once it
is a neighbour: it dials again, and comes in as what it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bftkit.core.machine import MemberId
from bftkit.membership.roster import RosterEntry
from bftkit.network.addresses import Address, AddressError, parse_address
from bftkit.network.hub import Admission, Hub, HubError

logger = logging.getLogger("bftkit.node")

CLIENT_QUEUE_BYTES: Final = 32 << 20
MEMBER_PAYLOAD: Final = b"member"
"""What a member's handshake carries."""

Peers = Mapping[MemberId, tuple[bytes, tuple[Address, ...]]]
"""Identity key and addresses of members."""


class Door:
    """The hub's accept callback: whom a member lets in, by who is a neighbour now."""

    def __init__(
        self, identities: Mapping[bytes, MemberId], listed: frozenset[bytes] | None, client_frame_bytes: int
    ) -> None:
        """`listed`: the clients that may come in, None for all. `client_frame_bytes`: their longest frame."""
        self.members = dict(identities)
        """Neighbours, by identity."""
        self.operators: frozenset[bytes] = frozenset()
        self._listed = listed
        self._client_frame_bytes = client_frame_bytes

    def __call__(self, public_key: bytes, payload: bytes) -> Admission | None:
        """See `bftkit.network.hub.Accept`."""
        member = self.members.get(public_key)
        if member is not None:
            return Admission(member, privileged=True)
        if payload == MEMBER_PAYLOAD:
            return None
        if self._listed is not None and public_key not in self._listed and public_key not in self.operators:
            return None
        return Admission(public_key, frame_bytes=self._client_frame_bytes, queue_bytes=CLIENT_QUEUE_BYTES)


class Neighbours:
    """The links of one member."""

    def __init__(self, hub: Hub, door: Door | None, me: MemberId, peers: Peers) -> None:
        """`peers`: whom to dial until the replica says otherwise."""
        self._hub = hub
        self._door = door
        self._me = me
        self._peers = dict(peers)
        if door is not None:
            hub.payload = MEMBER_PAYLOAD

    @property
    def peers(self) -> Peers:
        """Whom this member dials now."""
        return self._peers

    def dial(self) -> None:
        """Begin with the peers that were given."""
        for member in sorted(self._peers):
            self._hub.connect(member, *self._peers[member])

    def readdress(self, member: MemberId, addresses: Sequence[Address]) -> None:
        """See `Node.readdress`."""
        if member not in self._peers:
            raise ValueError(f"{member!r} is no peer of {self._me}")
        key, _ = self._peers[member]
        self._hub.connect(member, key, addresses)
        self._peers[member] = (key, tuple(addresses))

    def follow(self, entries: Iterable[RosterEntry]) -> None:
        """These are the neighbours now, this member perhaps among them."""
        others = [entry for entry in entries if entry.id != self._me]
        if self._door is not None:
            self._door.members = {entry.identity: entry.id for entry in others}
        names = {entry.id for entry in others}
        for member in sorted(self._peers):
            if member not in names:
                del self._peers[member]
                self._hub.disconnect(member)
        for entry in others:
            self.as_member(entry.identity)
            self._connect(entry)

    def as_member(self, identity: bytes) -> bool:
        """Close this neighbour's link, if it was let in as a client; says whether it is a neighbour's identity."""
        if self._door is None or identity not in self._door.members:
            return False
        self._hub.disconnect(identity)
        return True

    def let_in(self, operators: Iterable[bytes]) -> None:
        """These are the operators now."""
        if self._door is not None:
            self._door.operators = frozenset(operators)

    def _connect(self, entry: RosterEntry) -> None:
        try:
            addresses = tuple(parse_address(address) for address in entry.addresses)
            known = self._peers.get(entry.id)
            if known is not None and known == (entry.identity, addresses):
                return
            self._hub.connect(entry.id, entry.identity, addresses)
        except (AddressError, HubError, ValueError) as error:
            # The operators' mistake must not end this member; the other one may dial us.
            logger.error("%s cannot dial %s: %s", self._me, entry.id, error)
            return
        self._peers[entry.id] = (entry.identity, addresses)
