"""An authoritative DNS server on loopback, over UDP and TCP: enough of RFC 1034 and 1035 to be asked for real.

It runs in a thread of its own, so that separate processes can ask it too. `lie` lets a test play whoever sends
datagrams in the server's name.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from bftkit.network.addresses import Address

Lie = Callable[[dns.message.Message, bytes], list[bytes]]
"""From a question and the true answer to the datagrams that are sent."""


class NameServer:
    """Use it as a context manager."""

    def __init__(self, domain: str = "shop.example") -> None:
        self.domain = dns.name.from_text(f"{domain}.")
        self.negative_ttl = 1
        self.code = dns.rcode.NOERROR
        """What every question is answered with, if it is not NOERROR."""
        self.silent = False
        self.lie: Lie | None = None
        self.asking: Callable[[tuple[str, int]], None] = lambda source: None
        """Is told where each datagram comes from."""
        self.asked_over: list[str] = []
        """``udp`` or ``tcp``, for each question."""
        self.questions: list[str] = []
        """The names that were asked for, relative to the domain."""
        self._zone: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset] = {}
        self._lock = threading.Lock()
        self._udp, self._tcp = _pair()
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="name-server")

    @property
    def port(self) -> int:
        return int(self._udp.getsockname()[1])

    @property
    def address(self) -> Address:
        return Address("udp", "127.0.0.1", self.port)

    def set(self, name: str, kind: str, *values: str, ttl: int = 1) -> None:
        """The records of one name (relative to the domain) and kind, in place of those that it had."""
        full = dns.name.from_text(name, self.domain)
        with self._lock:
            if values:
                found = dns.rrset.from_text_list(
                    full, ttl, dns.rdataclass.IN, kind, list(values), origin=self.domain, relativize=False
                )
                self._zone[full, dns.rdatatype.from_text(kind)] = found
            else:
                self._zone.pop((full, dns.rdatatype.from_text(kind)), None)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        for sock in (self._udp, self._tcp, self._stopped):
            sock.close()

    # --- serving ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock in (self._udp, self._tcp, self._stopped):
                selector.register(sock, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._stopped in ready:
                    return
                if self._udp in ready:
                    self._on_datagram()
                if self._tcp in ready:
                    self._on_connection()

    def _on_datagram(self) -> None:
        wire, source = self._udp.recvfrom(1 << 16)
        self.asked_over.append("udp")
        self.asking(source)
        query = dns.message.from_wire(wire)
        reply = self._reply(query)
        if reply is None:
            return
        try:
            answer = reply.to_wire(max_size=query.payload or 512)
        except dns.exception.TooBig:
            short = dns.message.make_response(query)
            short.flags |= dns.flags.TC | dns.flags.AA
            answer = short.to_wire()
        for data in [answer] if self.lie is None else self.lie(query, answer):
            self._udp.sendto(data, source)

    def _on_connection(self) -> None:
        sock, _ = self._tcp.accept()
        with sock, contextlib.suppress(OSError, struct.error):
            sock.settimeout(10)
            (size,) = struct.unpack("!H", sock.recv(2, socket.MSG_WAITALL))
            self.asked_over.append("tcp")
            query = dns.message.from_wire(sock.recv(size, socket.MSG_WAITALL))
            reply = self._reply(query)
            if reply is None:
                return
            answer = reply.to_wire(max_size=65535)
            for data in [answer] if self.lie is None else self.lie(query, answer):
                sock.sendall(struct.pack("!H", len(data)) + data)

    def _reply(self, query: dns.message.Message) -> dns.message.Message | None:
        if self.silent:
            return None
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA
        if self.code != dns.rcode.NOERROR:
            reply.set_rcode(self.code)
            return reply
        question = query.question[0]
        self.questions.append(question.name.relativize(self.domain).to_text())
        with self._lock:
            found = list(self._chain(question.name, question.rdtype))
            known = {name for name, _ in self._zone}
        reply.answer.extend(found)
        if not found or found[-1].rdtype != question.rdtype:
            last = question.name if not found else _target(found[-1])
            if last not in known:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            soa = f"ns hostmaster 1 3600 600 86400 {self.negative_ttl}"
            reply.authority.append(
                dns.rrset.from_text_list(
                    self.domain, 3600, dns.rdataclass.IN, "SOA", [soa], origin=self.domain, relativize=False
                )
            )
        return reply

    def _chain(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Iterator[dns.rrset.RRset]:
        while (name, kind) not in self._zone:
            alias = self._zone.get((name, dns.rdatatype.CNAME))
            if alias is None:
                return
            yield alias
            name = _target(alias)
        yield self._zone[name, kind]


def _target(alias: dns.rrset.RRset) -> dns.name.Name:
    return dns.name.from_text(alias.to_text().split()[-1])


def _pair() -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket on one port of loopback."""
    for _ in range(100):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen()
        return udp, tcp
    raise AssertionError("no port is free for both UDP and TCP")
