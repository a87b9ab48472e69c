"""What each machine's own files say: `member.toml` in a member's folder, `client.toml` in a client's.

The genesis is the same everywhere; these two files are what may differ from machine to machine: where the keys and
the data lie, where to listen, how durable a record must be, how much a peer may make us hold. Paths are relative to
the folder that the file lies in, so that a folder can be copied to another machine as it is.

Nothing here reads a file: text in, checked settings out (see `bftkit.configuration.text` for how mistakes are told).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from bftkit.configuration.qos import DURABILITIES
from bftkit.configuration.text import (
    ConfigurationError,
    Value,
    check_choice,
    check_range,
    hex_bytes,
    parse_toml,
    right,
    structure,
    to_toml,
)
from bftkit.core.digest import DIGEST_SIZE
from bftkit.core.machine import MemberId
from bftkit.core.wire import is_name
from bftkit.membership.chain import TrustedPoint
from bftkit.membership.genesis import Genesis, check_service
from bftkit.membership.roster import canonical_address
from bftkit.network.addresses import Address, AddressError, parse_address

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

FRAME_ROOM: Final = 64 << 10
"""What a peer's queue must hold beside the largest batch (bytes): the messages that go with it."""


@attrs.frozen
class KeyFiles:
    """Where a member's secret keys lie."""

    identity: str = attrs.field(default="keys/identity.key", metadata=right("the path of the identity key's file"))
    epochs: str = attrs.field(default="keys/epochs.key", metadata=right("the path of the epoch keys' file"))
    coin: str = attrs.field(default="keys/coin.key", metadata=right("the path of the coin share's file"))
    """Read only if the genesis has a coin key."""


@attrs.frozen
class LogSettings:
    """What the member writes to its standard error."""

    level: str = attrs.field(default="info", metadata=right(f"one of {', '.join(LOG_LEVELS)}"))


@attrs.frozen
class HoldingLimits:
    """How much others may make this member hold. Beyond it they are slowed down or refused, never this member."""

    connections: int = attrs.field(default=1024, metadata=right("how many connections may be open at a time"))
    queue_bytes: int = attrs.field(default=64 << 20, metadata=right("bytes that may wait for one peer"))


@attrs.frozen
class DnsSettings:
    """A zone of the DNS as a name service."""

    domain: str = attrs.field(metadata=right('the domain that holds the records, such as "shop.example"'))
    resolver: str = attrs.field(metadata=right('the resolver\'s IP address and port, such as "127.0.0.1:53"'))

    @property
    def resolver_address(self) -> Address:
        """Where to ask. Raises `ConfigurationError`."""
        where, advice = "names.dns.resolver", "give IP:port, such as 127.0.0.1:53"
        try:
            address = parse_address(self.resolver if "://" in self.resolver else f"udp://{self.resolver}")
        except AddressError as error:
            raise ConfigurationError(where, str(error), advice) from None
        # A name would have to be looked up, by whom?
        if address.scheme != "udp" or not address.is_numeric or not address.port:
            raise ConfigurationError(where, f"{self.resolver!r} is no IP address with a port", advice)
        return address


@attrs.frozen
class NameSettings:
    """Name services: where else to ask for members' addresses. The file is trusted more than the DNS."""

    file: str | None = attrs.field(default=None, metadata=right("the path of a file that names members' addresses"))
    dns: DnsSettings | None = attrs.field(default=None, metadata=right("a table with domain and resolver"))


@attrs.frozen
class AdminSettings:
    """The HTTP interface for operators and monitoring; without this table there is none."""

    listen: str = attrs.field(metadata=right('where to listen, such as "127.0.0.1:8000"'))
    tokens: str = attrs.field(default="admin.tokens", metadata=right("the path of the file of accepted tokens"))
    certificate: str | None = attrs.field(default=None, metadata=right("the path of a TLS certificate chain (PEM)"))
    key: str | None = attrs.field(default=None, metadata=right("the path of the certificate's secret key (PEM)"))
    hosts: tuple[str, ...] = attrs.field(
        default=(), metadata=right('a list of names by which it is asked for, such as ["m0.example:8000"]')
    )
    """Values of the Host header that are answered, besides the address itself; any other is refused."""
    origins: tuple[str, ...] = attrs.field(
        default=(), metadata=right('a list of web origins, such as ["https://m0.example:8000"]')
    )
    """Web pages of these origins may ask, besides those of the interface itself; any other is refused."""
    plaintext: bool = False
    """Whether tokens may travel readable beyond this machine: for networks that encrypt below."""

    @property
    def address(self) -> Address:
        """Where to listen. Raises `ConfigurationError`."""
        where, advice = "admin.listen", "give IP:port, such as 127.0.0.1:8000"
        try:
            address = parse_address(self.listen if "://" in self.listen else f"tcp://{self.listen}")
        except AddressError as error:
            raise ConfigurationError(where, str(error), advice) from None
        if address.scheme != "tcp" or not address.is_numeric:
            raise ConfigurationError(where, f"{self.listen!r} is no IP address with a port", advice)
        return address

    @property
    def loops_back(self) -> bool:
        """Whether only this machine can reach it."""
        host = self.address.host
        return host == "::1" or host.startswith("127.")

    def check(self) -> None:
        """Raises `ConfigurationError`."""
        address = self.address
        for name, path in (("tokens", self.tokens), ("certificate", self.certificate), ("key", self.key)):
            if path is not None:
                _check_paths({f"admin.{name}": path})
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise ConfigurationError(f"admin.{missing}", "the key is missing", "give certificate and key, or neither")
        if self.certificate is None and not self.loops_back and not self.plaintext:
            raise ConfigurationError(
                "admin.listen",
                f"whoever listens on the way to {address.host} would read the tokens",
                "give certificate and key, or listen on 127.0.0.1, or say plaintext = true",
            )
        if address.host in ("0.0.0.0", "::") and not self.hosts:
            raise ConfigurationError(
                "admin.hosts", f"{address.host} is no name to ask for", 'give the names, such as ["m0.example:8000"]'
            )
        for host in self.hosts:
            if not _is_host(host):
                raise ConfigurationError("admin.hosts", f"{host!r} is no host", "give names such as m0.example:8000")
        for origin in self.origins:
            scheme, separator, host = origin.partition("://")
            if scheme not in ("http", "https") or not separator or not _is_host(host):
                raise ConfigurationError(
                    "admin.origins", f"{origin!r} is no origin", "give such as https://m0.example:8000"
                )


def _is_host(text: str) -> bool:
    """Whether this can stand in a Host header, in lower case."""
    return (
        0 < len(text) <= 260
        and all(c.isascii() and (c.isalnum() or c in "-._:[]") for c in text)
        and (text == text.lower())
    )


@attrs.frozen
class MemberSettings:
    """`member.toml`."""

    id: MemberId = attrs.field(metadata=right('the member\'s id, such as "m0"'))
    service: str = attrs.field(metadata=right('"package.module:Class", as the genesis has it'))
    listen: str = attrs.field(metadata=right('the address to listen on, such as "tcp://127.0.0.1:7000"'))
    genesis: str = attrs.field(default="genesis.toml", metadata=right("the path of the genesis"))
    data: str = attrs.field(default="data", metadata=right("the path of the folder for log and snapshots"))
    durability: str = attrs.field(default="fsync", metadata=right(f"one of {', '.join(DURABILITIES)}"))
    keys: KeyFiles = attrs.field(factory=KeyFiles)
    log: LogSettings = attrs.field(factory=LogSettings)
    limits: HoldingLimits = attrs.field(factory=HoldingLimits)
    names: NameSettings | None = attrs.field(default=None, metadata=right("a table with file or dns"))
    """Name services to ask besides the roster, if any."""
    admin: AdminSettings | None = attrs.field(default=None, metadata=right("a table with at least listen"))
    """The HTTP interface, if there is to be one."""
    joins: bool = False
    """Whether this member came later than the genesis: an operators' command has taken it in, or will."""

    def __attrs_post_init__(self) -> None:
        if not is_name(self.id):
            raise ConfigurationError("id", f"{self.id!r} is no id", "give the member's id, such as m0")
        check_service("service", self.service)
        canonical_address("listen", self.listen)
        check_choice("durability", self.durability, DURABILITIES)
        check_choice("log.level", self.log.level, LOG_LEVELS)
        check_range("limits.connections", self.limits.connections, 8, 1 << 16)
        check_range("limits.queue_bytes", self.limits.queue_bytes, 1 << 20, 1 << 34)
        _check_paths(
            {
                "genesis": self.genesis,
                "data": self.data,
                "keys.identity": self.keys.identity,
                "keys.epochs": self.keys.epochs,
                "keys.coin": self.keys.coin,
            }
        )
        _check_names(self.names)
        if self.admin is not None:
            self.admin.check()

    def check_against(self, genesis: Genesis) -> None:
        """Whether these settings can serve in that group. Raises `ConfigurationError`."""
        if not self.joins and self.id not in genesis.roster.by_id:
            raise ConfigurationError(
                "id",
                f"the group {genesis.name} has no member {self.id!r}",
                f"give one of {', '.join(genesis.roster.ids)}, or the genesis of the right group",
            )
        if self.service != genesis.service:
            # Two services under one order are two states: the group would stop at its first checkpoint (rule 14).
            raise ConfigurationError(
                "service",
                f"this member would run {self.service!r}, and its group runs {genesis.service!r}",
                f"give {genesis.service!r}",
            )
        least = genesis.limits.batch_bytes_max + FRAME_ROOM
        if self.limits.queue_bytes < least:
            raise ConfigurationError(
                "limits.queue_bytes",
                f"{self.limits.queue_bytes} bytes cannot hold one batch of the group's limits.batch_bytes_max",
                f"give at least {least}",
            )

    def to_text(self) -> str:
        """The settings as TOML."""
        head = f"# Settings of member {self.id}. Paths are relative to this folder.\n\n"
        return head + to_toml(_table(self), _MEMBER_COMMENTS)

    @classmethod
    def from_text(cls, text: str) -> MemberSettings:
        """The settings that a TOML text describes. Raises `ConfigurationError`."""
        return structure(parse_toml(text), cls)


@attrs.frozen
class ClientSettings:
    """`client.toml`."""

    genesis: str = attrs.field(default="genesis.toml", metadata=right("the path of the genesis"))
    key: str = attrs.field(default="client.key", metadata=right("the path of the client key's file"))
    names: NameSettings | None = attrs.field(default=None, metadata=right("a table with file or dns"))
    """Name services to ask besides the roster, if any."""
    trusted_epoch: int | None = attrs.field(default=None, metadata=right("an epoch's number, from 1 on"))
    """An epoch whose hand-over is known from somewhere that is trusted: before it, nobody is believed."""
    trusted_digest: str | None = attrs.field(default=None, metadata=right("the digest that `bftkit history` shows"))
    """That hand-over's digest, in hexadecimal digits."""

    def __attrs_post_init__(self) -> None:
        _check_paths({"genesis": self.genesis, "key": self.key})
        _check_names(self.names)
        if (self.trusted_epoch is None) is not (self.trusted_digest is None):
            missing = "trusted_digest" if self.trusted_digest is None else "trusted_epoch"
            raise ConfigurationError(missing, "it is missing", "give trusted_epoch and trusted_digest, or neither")
        if self.trusted_epoch is not None and self.trusted_digest is not None:
            check_range("trusted_epoch", self.trusted_epoch, 1, (1 << 32) - 1)
            hex_bytes("trusted_digest", self.trusted_digest, DIGEST_SIZE, "a hand-over's digest")

    @property
    def trusted(self) -> TrustedPoint | None:
        """The recent hand-over that is trusted, if one is named."""
        if self.trusted_epoch is None or self.trusted_digest is None:
            return None
        return TrustedPoint(self.trusted_epoch, bytes.fromhex(self.trusted_digest))

    def to_text(self) -> str:
        """The settings as TOML."""
        return "# Settings of a client. Paths are relative to this folder.\n\n" + to_toml(_table(self))

    @classmethod
    def from_text(cls, text: str) -> ClientSettings:
        """The settings that a TOML text describes. Raises `ConfigurationError`."""
        return structure(parse_toml(text), cls)


_MEMBER_COMMENTS: Final = {
    "service": "The state machine, as in the genesis.",
    "listen": "Where this member listens; what the others dial stands in the genesis.",
    "durability": '"fsync": survives a power cut. "async", "memory": a restart counts as having forgotten everything.',
    "keys": "Secrets, mode 0600. The coin's share is there only if the genesis has a coin key.",
    "limits": "How much others may make this member hold.",
    "names": "Other sources of members' addresses, besides the roster.",
    "admin": "The HTTP interface. Every request needs one of the tokens; the file holds their digests.",
    "joins": "True for a member that came later than the genesis: an operators' command takes it in.",
}


def _table(settings: MemberSettings | ClientSettings) -> dict[str, Value]:
    # What is not set is left out: TOML has no word for nothing.
    table: dict[str, Value] = attrs.asdict(settings, filter=lambda _, value: value is not None and value is not False)
    return table


def _check_paths(paths: Mapping[str, str]) -> None:
    for where, path in paths.items():
        if not path or "\0" in path:
            raise ConfigurationError(where, f"{path!r} is no path", "give the path of a file, relative to this folder")


def _check_names(names: NameSettings | None) -> None:
    if names is None:
        return
    if names.file is None and names.dns is None:
        raise ConfigurationError("names", "the table names no service", "give file, or a table names.dns, or neither")
    if names.file is not None:
        _check_paths({"names.file": names.file})
    if names.dns is not None:
        domain = names.dns.domain.removesuffix(".")
        try:
            # The longest name that is asked for has a member's id and two more labels in front of the domain.
            good = len(domain) <= 200 and not Address("tcp", domain).is_numeric
        except AddressError:
            good = False
        if not good:
            wrong = f"{names.dns.domain!r} is no domain"
            raise ConfigurationError("names.dns.domain", wrong, "give one such as shop.example")
        _ = names.dns.resolver_address
