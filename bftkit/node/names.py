"""Name services that do I/O, and what runs them beside a member: a watched file, and a zone of the DNS.

`Names` holds the `AddressBook` (`bftkit.membership.names`, where the rules stand), starts the services, and hands every
change of a peer's addresses to the node. A service that fails costs its own news and nothing else: what it said last
goes on holding, the member goes on, and the log says so once.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from bftkit.configuration.settings import NameSettings
from bftkit.configuration.text import ConfigurationError
from bftkit.core.machine import MemberId
from bftkit.membership.genesis import Genesis
from bftkit.membership.names import AddressBook, NameService, Naming, Sink, parse_naming
from bftkit.membership.roster import RosterEntry
from bftkit.network.addresses import Address
from bftkit.network.hub import HubError

logger = logging.getLogger("bftkit.node")

FILE_SECONDS: Final = 1.0
"""So often a watched file is looked at."""
FILE_BYTES_MAX: Final = 1 << 20
"""A larger one is refused."""
TOLD_FIRST: Final = 20
"""So often the log tells what a source says in vain; after that, at every doubling of the count."""

Pause = Callable[[float], Awaitable[None]]
Readdress = Callable[[MemberId, tuple[Address, ...]], None]


class WatchedFile:
    """A TOML file that somebody else writes: see `bftkit.membership.names.parse_naming` for its form."""

    def __init__(self, path: Path, *, pause: Pause = trio.sleep) -> None:
        """`pause` waits for so many seconds: between two looks at the file, that is."""
        self.name = "names.file"
        self.trouble = ""
        """Why the file cannot be used at present; empty if it can."""
        self._path = path
        self._pause = pause

    async def watch(self, sink: Sink) -> None:
        """See `NameService`. The content is compared and not the time of the last change, which may stand still."""
        used: bytes | None = None
        seen: bytes | None = None
        while True:
            try:
                data = await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)
            except OSError as error:
                self._tell(f"cannot be read: {error.strerror or error}")
            else:
                # A change is used once it was seen twice: somebody may be in the middle of writing it.
                settled = used is None or data == seen
                if settled and data != used:
                    used = data
                    self._use(data, sink)
                elif settled and self.trouble.startswith("cannot be read"):
                    self._use(data, sink)  # it is back, as it was
                seen = data
            await self._pause(FILE_SECONDS)

    def follow(self, members: Sequence[MemberId]) -> None:
        """See `NameService`. The file is read whole in any case."""

    def status(self) -> dict[str, object]:
        """See `NameService`."""
        return {"path": str(self._path), "trouble": self.trouble}

    def _use(self, data: bytes, sink: Sink) -> None:
        try:
            naming = parse_naming(data.decode())
        except ConfigurationError as error:
            self._tell(f"is not used: {error}")
        except UnicodeDecodeError:
            self._tell("is not used: it is not UTF-8 text")
        else:
            self._tell("")
            sink(naming)

    def _tell(self, trouble: str) -> None:
        """In the log, but only what is news."""
        if trouble == self.trouble:
            return
        if trouble:
            logger.warning("names.file: %s %s; what it said before goes on holding", self._path, trouble)
        else:
            logger.info("names.file: %s can be used again", self._path)
        self.trouble = trouble

    def _read(self) -> bytes:
        """Runs in a thread of its own: the file may lie on another machine."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(0, "it is not an ordinary file")
            data = bytearray()
            while piece := os.read(descriptor, 1 << 16):
                data += piece
                if len(data) > FILE_BYTES_MAX:
                    raise OSError(0, f"it is larger than {FILE_BYTES_MAX} bytes")
            return bytes(data)
        finally:
            os.close(descriptor)


class Names:
    """The name services of one process, and the address book that they write."""

    def __init__(
        self,
        entries: Iterable[RosterEntry],
        services: Sequence[NameService],
        *,
        me: MemberId | None,
        group: str = "",
        schemes: Sequence[str] = ("tcp",),
    ) -> None:
        """`entries`: the roster's. `services`: the more trusted ones first. `me`: this member, or None for a client."""
        self.book = AddressBook(entries, [one.name for one in services], me=me, group=group, schemes=schemes)
        self._services = tuple(services)
        self._me = me or "client"
        self._tellings = 0

    async def run(self, readdress: Readdress) -> None:
        """Ask all services until cancelled. `readdress` gets every peer whose addresses have changed, at once."""
        async with trio.open_nursery() as nursery:
            for service in self._services:
                nursery.start_soon(self._watch, service, partial(self._learn, service.name, readdress))

    def follow(self, entries: Iterable[RosterEntry], readdress: Readdress) -> None:
        """The roster was changed by an ordered command: these are its entries now. Every peer is readdressed."""
        self.book.follow(entries)
        members = tuple(self.book.all_addresses())
        for service in self._services:
            service.follow(members)
        self.book.changes()  # told below, with the rest
        for member, addresses in self.book.all_addresses().items():
            self._readdress(readdress, member, addresses)

    def status(self) -> dict[str, object]:
        """For people: JSON-ready."""
        services = {service.name: service.status() for service in self._services}
        return {"services": services, **self.book.status()}

    async def _watch(self, service: NameService, sink: Sink) -> None:
        try:
            await service.watch(sink)
        except Exception:  # a mistake of ours in a name service must not end the member (SAFETY rule 27)
            logger.exception("%s: the name service %s failed and is used no more", self._me, service.name)

    def _learn(self, source: str, readdress: Readdress, naming: Naming) -> None:
        refused = self.book.learn(source, naming)
        if refused:
            self._tellings += 1
            count = self._tellings
            if count <= TOLD_FIRST or count & (count - 1) == 0:  # a source must not fill our disk with words
                for text in refused:
                    logger.warning("%s: %s says in vain: %s", self._me, source, text)
        self._pass_on(readdress)

    def _pass_on(self, readdress: Readdress) -> None:
        for member, addresses in self.book.changes().items():
            logger.info("%s: %s is now tried at %s", self._me, member, ", ".join(map(str, addresses)))
            self._readdress(readdress, member, addresses)

    def _readdress(self, readdress: Readdress, member: MemberId, addresses: tuple[Address, ...]) -> None:
        try:
            readdress(member, addresses)
        except (ValueError, HubError) as error:  # what a roster says wrongly must not end this member
            logger.warning("%s: %s cannot be readdressed: %s", self._me, member, error)


def open_names(settings: NameSettings | None, folder: Path, genesis: Genesis, me: MemberId | None) -> Names | None:
    """The name services that a member's or a client's settings ask for; None if there are none."""
    if settings is None:
        return None
    members = tuple(member for member in genesis.roster.ids if member != me)
    return Names(genesis.roster.entries, open_services(settings, folder, members), me=me, group=genesis.name)


def open_services(settings: NameSettings, folder: Path, members: Sequence[MemberId]) -> list[NameService]:
    """The services alone, the most trusted first. `folder`: what paths are relative to."""
    services: list[NameService] = []
    if settings.file is not None:
        services.append(WatchedFile(folder / settings.file))
    if settings.dns is not None:
        from bftkit.node.resolver import Resolver  # whoever does not use the DNS need not load it
        from bftkit.node.zone import WatchedZone

        resolver = Resolver(settings.dns.resolver_address)
        services.append(WatchedZone(settings.dns.domain, resolver, members, salt=secrets.token_bytes(16)))
    return services
