"""Asking one DNS resolver: UDP first, TCP for what does not fit, and nothing believed that was not asked for.

The resolver that the settings name is trusted as far as a name service is (SAFETY rule 27), which is not far; whoever
sends datagrams in its name is not trusted at all. Each question has a random id and leaves from a fresh port, and an
answer counts only if it comes from the resolver's address and port, and repeats the id and the question. What does not
is counted, and after `STRANGE_MAX` such datagrams the question is given up and asked anew, with another id and port.
What is read is bounded in size and time. The DNS messages themselves are written and read by dnspython.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Final, cast

import attrs
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import trio

from bftkit.network.addresses import Address

UDP_PAYLOAD: Final = 1232
"""Bytes of an answer that we offer to take in one datagram: what no path should have to cut into fragments."""

STRANGE_MAX: Final = 64
"""So many datagrams that are no answer to it end a question: somebody is guessing."""

NEGATIVE_CAP_SECONDS: Final = 15.0
"""An answer that there is no such name is believed no longer, so that a name that is new is found soon."""

TEMPORARY: Final = "the resolver did not answer in time"

COUNTERS: Final = {
    "asked": "questions sent",
    "answered": "questions that were answered, also by no such name",
    "timeouts": "attempts without an answer in time",
    "strange": "datagrams from elsewhere, or that answer something else",
    "malformed": "messages that are not DNS",
    "refused": "questions that the resolver refused or failed at",
    "over_tcp": "questions whose answer did not fit into a datagram",
}
"""The names in `Resolver.counters` and what they count."""


class ResolverError(Exception):
    """There is no answer; the text says why."""


@attrs.frozen
class Answer:
    """What the resolver says: the records that were asked for, perhaps none."""

    records: tuple[dns.rdata.Rdata, ...]
    ttl: float
    """Seconds for which this may be used."""


class Resolver:
    """One resolver, at one address."""

    def __init__(self, address: Address, *, timeout: float = 2.0, attempts: int = 2) -> None:
        """`address`: IP address and port. `timeout`: seconds for each of so many `attempts`."""
        assert address.is_numeric
        self._host = str(ipaddress.ip_address(address.host))  # as the kernel will spell it
        self._port = address.port
        self._family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._timeout = timeout
        self._attempts = attempts
        self.counters: Counter[str] = Counter()

    async def ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Answer:
        """The records of one kind that `name` has, aliases followed. Raises `ResolverError`."""
        reason = TEMPORARY
        for _ in range(self._attempts):
            self.counters["asked"] += 1
            query = dns.message.make_query(name, kind, use_edns=0, payload=UDP_PAYLOAD, id=secrets.randbelow(1 << 16))
            with trio.move_on_after(self._timeout):
                try:
                    reply = await self._over_udp(query)
                    if reply.flags & dns.flags.TC:
                        self.counters["over_tcp"] += 1
                        reply = await self._over_tcp(query)
                    return self._read(reply)
                except OSError as error:
                    reason = f"the resolver cannot be reached: {error.strerror or error}"
                    continue
                except trio.BrokenResourceError:
                    reason = "the resolver closed the connection"
                    continue
                except ResolverError as error:
                    reason = str(error)
                    continue
            self.counters["timeouts"] += 1
            reason = TEMPORARY
        raise ResolverError(reason)

    # --- carrying -----------------------------------------------------------------------------------------------

    async def _over_udp(self, query: dns.message.Message) -> dns.message.Message:
        with trio.socket.socket(self._family, socket.SOCK_DGRAM) as sock:
            # Not connected: then the kernel would drop what comes from elsewhere, and nobody would count it. The port
            # is one that the kernel draws at random.
            await sock.sendto(query.to_wire(), (self._host, self._port))
            for _ in range(STRANGE_MAX):
                wire, source = await sock.recvfrom(1 << 16)
                if source[:2] != (self._host, self._port):
                    self.counters["strange"] += 1
                    continue
                reply = self._parsed(wire)
                if reply is not None and self._answers(query, reply):
                    return reply
        raise ResolverError("somebody sends answers to what was not asked")

    async def _over_tcp(self, query: dns.message.Message) -> dns.message.Message:
        with trio.socket.socket(self._family, socket.SOCK_STREAM) as sock:
            await sock.connect((self._host, self._port))
            stream = trio.SocketStream(sock)
            wire = query.to_wire()
            await stream.send_all(struct.pack("!H", len(wire)) + wire)
            (size,) = struct.unpack("!H", await _exactly(stream, 2))
            reply = self._parsed(await _exactly(stream, size))
        if reply is None:
            raise ResolverError("the resolver's answer is no DNS message")
        if not self._answers(query, reply) or reply.flags & dns.flags.TC:
            raise ResolverError("the resolver answered another question")
        return reply

    # --- reading ------------------------------------------------------------------------------------------------

    def _parsed(self, wire: bytes) -> dns.message.Message | None:
        try:
            return dns.message.from_wire(wire, raise_on_truncation=True)
        except dns.message.Truncated as error:
            return cast("dns.message.Message", error.message())  # type: ignore[no-untyped-call]  # dnspython's own
        except (dns.exception.DNSException, ValueError, struct.error):
            self.counters["malformed"] += 1
            return None

    def _answers(self, query: dns.message.Message, reply: dns.message.Message) -> bool:
        # `is_response` lets a refusal pass that repeats no question; for that, the id and the source must do.
        if query.is_response(reply):
            return True
        self.counters["strange"] += 1
        return False

    def _read(self, reply: dns.message.Message) -> Answer:
        """The records in a reply. Raises `ResolverError`."""
        code = reply.rcode()
        if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            self.counters["refused"] += 1
            raise ResolverError(f"the resolver answered {dns.rcode.to_text(code)}")
        if not isinstance(reply, dns.message.QueryMessage):
            self.counters["malformed"] += 1
            raise ResolverError("the resolver's answer is no answer")
        try:
            chain = reply.resolve_chaining()
        except dns.exception.DNSException as error:
            self.counters["malformed"] += 1
            raise ResolverError(f"the resolver's answer makes no sense: {type(error).__name__}") from None
        self.counters["answered"] += 1
        if chain.answer is None:
            return Answer((), min(float(chain.minimum_ttl), NEGATIVE_CAP_SECONDS))
        return Answer(tuple(cast("Iterable[dns.rdata.Rdata]", chain.answer)), float(chain.minimum_ttl))


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    """So many bytes. Raises `ResolverError` if the stream ends before."""
    found = bytearray()
    while len(found) < size:
        try:
            data = await stream.receive_some(size - len(found))
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise ResolverError("the resolver closed the connection")
        found += data
    return bytes(found)
