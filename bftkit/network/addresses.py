"""Where a member can be reached.

    tcp://127.0.0.1:7000    tcp://[::1]:7000    host.example:7000 (short for tcp://)    memory://m0

An address is read strictly: somebody who mistypes a configuration learns which part is wrong. It is only a place to
dial. Who answers there is settled by the peer's key (`session`), never by its address (SAFETY rule 27); where the
addresses of a member come from, and in which order they are tried, is said in `bftkit.membership.names`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import attrs

STREAM_SCHEMES: Final = ("tcp", "udp")
"""Schemes whose addresses are a host and a port."""

NAMED_SCHEMES: Final = ("memory",)
"""Schemes whose addresses are one name."""

_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class AddressError(ValueError):
    """A text is not an address; the message names the text and the part that is wrong."""


@attrs.frozen(order=True)
class Address:
    """One place to dial or to listen.

    `host` is a host name, an IPv4 address or an IPv6 address without brackets; for `memory` it is the name.
    `port` is 0 to 65535; 0 means "any free one" and is only good for listening; for `memory` it is 0.
    """

    scheme: str
    host: str
    port: int = 0

    def __attrs_post_init__(self) -> None:
        if self.scheme in NAMED_SCHEMES:
            if not _NAME.fullmatch(self.host):
                raise AddressError(f"{self.scheme}:// needs a short name of letters and digits, not {self.host!r}")
            if self.port:
                raise AddressError(f"{self.scheme}:// has no port")
        elif self.scheme in STREAM_SCHEMES:
            if not _is_host(self.host):
                raise AddressError(f"{self.host!r} is neither a host name nor an IP address")
            if not 0 <= self.port <= 65535:
                raise AddressError(f"port {self.port} is not between 0 and 65535")
        else:
            known = ", ".join((*STREAM_SCHEMES, *NAMED_SCHEMES))
            raise AddressError(f"unknown scheme {self.scheme!r} (known: {known})")

    @property
    def is_numeric(self) -> bool:
        """Whether the host is an IP address, so that nobody has to look it up."""
        return _ip(self.host) is not None

    def __str__(self) -> str:
        if self.scheme in NAMED_SCHEMES:
            return f"{self.scheme}://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Reads ``scheme://host:port``, ``host:port`` (tcp) or ``memory://name``. Raises `AddressError`."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "tcp", text
    try:
        if scheme in NAMED_SCHEMES:
            return Address(scheme, rest)
        host, port = _host_and_port(rest)
        return Address(scheme, host, port)
    except AddressError as error:
        raise AddressError(f"{text!r} is not an address: {error}") from None


def _host_and_port(text: str) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise AddressError("the bracket of the IPv6 address is not closed")
        if not isinstance(_ip(host), ipaddress.IPv6Address):
            raise AddressError(f"{host!r} in brackets is not an IPv6 address")
        if not rest.startswith(":"):
            raise AddressError("the port is missing")
        port = rest[1:]
    else:
        host, colon, port = text.rpartition(":")
        if not colon:
            raise AddressError("the port is missing")
        if ":" in host:
            raise AddressError("an IPv6 address must stand in brackets, as in [::1]:7000")
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise AddressError(f"port {port!r} is not a number between 0 and 65535")
    return host, int(port)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_host(host: str) -> bool:
    if _ip(host) is not None:
        return True
    if re.fullmatch(r"[0-9.]+", host):  # meant to be IPv4, but is not: no look-up can make sense of it
        return False
    return len(host) <= 253 and _HOST_NAME.fullmatch(host) is not None
