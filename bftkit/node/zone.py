"""Members' addresses in a zone of the DNS.

For the group in the domain ``shop.example``, member ``m0`` has the service records (RFC 2782)::

    _m0._bftkit._tcp.shop.example.   30  SRV  10 1 7000 machine-a.shop.example.
    machine-a.shop.example.          30  A    10.0.0.5

The targets' addresses (A and AAAA) are asked for at the same resolver. Who could become a member may stand in TXT
records at ``_bftkit._tcp.shop.example.`` (`bftkit.membership.names.proposal_of`)::

    _bftkit._tcp.shop.example.      300  TXT  "id=m4" "identity=…" "address=tcp://10.0.0.9:7000" "note=hall 2"

Each name is asked for again when the shortest life among its records is over, within a floor and a cap; "no such name"
takes a member's addresses away, no answer at all leaves them as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import dns.name
import dns.rdatatype
import trio
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.SRV import SRV

from bftkit.core.machine import MemberId
from bftkit.membership.names import (
    PROPOSALS_MAX,
    Naming,
    Proposal,
    ServiceRecord,
    Sink,
    living,
    proposal_of,
    service_order,
)
from bftkit.membership.roster import ADDRESSES_MAX
from bftkit.network.addresses import Address
from bftkit.node.resolver import Resolver, ResolverError

logger = logging.getLogger("bftkit.node")

SERVICE_LABELS: Final = (b"_bftkit", b"_tcp")
QUESTIONS_AT_ONCE: Final = 8
"""So many questions are under way at a time, whatever the group's size."""
RETRY_FIRST_SECONDS: Final = 1.0
"""After a question without an answer; the pause doubles up to the longest."""
RETRY_LONGEST_SECONDS: Final = 30.0

Pause = Callable[[float], Awaitable[None]]


def member_name(member: MemberId, domain: dns.name.Name) -> dns.name.Name:
    """Where a member's service records stand. A dot in an id does not end the label."""
    return dns.name.Name((b"_" + member.encode(), *SERVICE_LABELS, *domain.labels))


class WatchedZone:
    """The name service of one domain."""

    def __init__(
        self,
        domain: str,
        resolver: Resolver,
        members: Sequence[MemberId],
        *,
        salt: bytes,
        pause: Pause = trio.sleep,
    ) -> None:
        """`members`: whom to ask for. `salt`: random bytes, which order records of one priority."""
        self.name = "names.dns"
        self._domain = dns.name.from_text(domain.removesuffix(".") + ".")
        self._resolver = resolver
        self._members = tuple(sorted(members))
        self._salt = salt
        self._pause = pause
        self._slots = trio.CapacityLimiter(QUESTIONS_AT_ONCE)
        self._found: dict[MemberId, tuple[str, ...]] = {}
        self._proposals: tuple[Proposal, ...] = ()
        self._troubles: dict[str, str] = {}
        self._nursery: trio.Nursery | None = None
        self._sink: Sink | None = None
        self._asking: dict[MemberId, trio.CancelScope] = {}

    async def watch(self, sink: Sink) -> None:
        """See `NameService`."""
        async with trio.open_nursery() as nursery:
            self._nursery, self._sink = nursery, sink
            nursery.start_soon(self._keep_proposals, sink)
            self.follow(self._members)

    def follow(self, members: Sequence[MemberId]) -> None:
        """See `NameService`."""
        self._members = tuple(sorted(members))
        if self._nursery is None or self._sink is None:
            return  # `watch` comes back to this
        gone = sorted(self._asking.keys() - set(self._members))
        for member in gone:
            self._asking.pop(member).cancel()
            self._found.pop(member, None)
            self._troubles.pop(member, None)
        if gone:
            self._pass_on(self._sink)
        for member in self._members:
            if member not in self._asking:
                self._asking[member] = scope = trio.CancelScope()
                self._nursery.start_soon(self._keep, member, scope, self._sink)

    def status(self) -> dict[str, object]:
        """See `NameService`."""
        return {
            "domain": str(self._domain),
            "troubles": dict(sorted(self._troubles.items())),
            "counters": dict(sorted(self._resolver.counters.items())),
        }

    # --- what goes on for each name -----------------------------------------------------------------------------

    async def _keep(self, member: MemberId, scope: trio.CancelScope, sink: Sink) -> None:
        async def look() -> float:
            addresses, ttl = await self._addresses(member)
            if addresses != self._found.get(member, ()):
                self._found[member] = addresses
                self._pass_on(sink)
            return ttl

        with scope:
            await self._again_and_again(member, look)

    async def _keep_proposals(self, sink: Sink) -> None:
        name = dns.name.Name((*SERVICE_LABELS, *self._domain.labels))

        async def look() -> float:
            records, ttl = await self._ask(name, dns.rdatatype.TXT)
            found = (proposal_of(record.strings) for record in records if isinstance(record, TXT))
            # One more than the book takes, so that it is the book that says "too many".
            proposals = tuple(one for one in found if one is not None)[: PROPOSALS_MAX + 1]
            proposals = tuple(sorted(proposals, key=lambda one: (one.id, one.identity)))
            if proposals != self._proposals:
                self._proposals = proposals
                self._pass_on(sink)
            return ttl

        await self._again_and_again("proposals", look)

    async def _again_and_again(self, what: str, look: Callable[[], Awaitable[float]]) -> None:
        retry = RETRY_FIRST_SECONDS
        while True:
            try:
                ttl = await look()
            except ResolverError as error:
                self._tell(what, str(error))
                await self._pause(retry)
                retry = min(2 * retry, RETRY_LONGEST_SECONDS)
            else:
                self._tell(what, "")
                retry = RETRY_FIRST_SECONDS
                await self._pause(living(ttl))

    def _pass_on(self, sink: Sink) -> None:
        sink(Naming(dict(self._found), self._proposals))

    def _tell(self, what: str, trouble: str) -> None:
        """In the log, but only what is news; names are few, and so are the troubles that a resolver can make."""
        if trouble == self._troubles.get(what, ""):
            return
        if trouble:
            self._troubles[what] = trouble
            logger.warning("names.dns: %s in %s: %s; what was found goes on holding", what, self._domain, trouble)
        else:
            del self._troubles[what]
            logger.info("names.dns: %s in %s: answered again", what, self._domain)

    # --- asking -------------------------------------------------------------------------------------------------

    async def _ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> tuple[Sequence[object], float]:
        async with self._slots:
            answer = await self._resolver.ask(name, kind)
        return answer.records, answer.ttl

    async def _addresses(self, member: MemberId) -> tuple[tuple[str, ...], float]:
        """A member's addresses in order, and for how long they hold. Raises `ResolverError`."""
        records, ttl = await self._ask(member_name(member, self._domain), dns.rdatatype.SRV)
        services = [
            ServiceRecord(one.priority, one.weight, one.port, one.target.to_text())
            for one in records
            if isinstance(one, SRV) and one.target != dns.name.root  # the root: there is no such service
        ]
        hosts: dict[str, tuple[str, ...]] = {}
        addresses: dict[str, None] = {}
        for service in service_order(services, self._salt)[: ADDRESSES_MAX + 1]:
            if service.target not in hosts:
                hosts[service.target], lives = await self._hosts(service.target)
                ttl = min(ttl, lives)
            for host in hosts[service.target]:
                if len(addresses) <= ADDRESSES_MAX:  # one more than the book takes, so that it says "too many"
                    addresses[str(Address("tcp", host, service.port))] = None
        return tuple(addresses), ttl

    async def _hosts(self, target: str) -> tuple[tuple[str, ...], float]:
        """The IP addresses of a host; resolvers turn their order round, so they are sorted, IPv4 first."""
        name = dns.name.from_text(target)
        four, lives_four = await self._ask(name, dns.rdatatype.A)
        six, lives_six = await self._ask(name, dns.rdatatype.AAAA)
        found = sorted({one.address for one in four if isinstance(one, A)})
        found += sorted({one.address for one in six if isinstance(one, AAAA)})
        # That there is no IPv6 address is believed for a short time only, and need not be asked again for its own sake.
        lives = [life for life, some in ((lives_four, four), (lives_six, six)) if some or not found]
        return tuple(found), min(lives)
