"""Name services: other sources of addresses, beside the roster, and of proposals for members.

A *name service* is a directory that somebody else keeps: a file, a zone of the DNS. It says where members can be
reached now, without an ordered command, and may propose who could become a member. It never decides anything (SAFETY
rule 27). What it says is a `Naming`, plain text that nobody has checked. An `AddressBook` checks it and says what it
refused and why; and the worst that an accepted entry can do is to cost time, since who answers at an address is settled
by the identity key in the roster (`bftkit.network.session`) and by nothing else.

**Order of trust.** A member is dialled at the addresses of its roster entry first: those were ordered, and signed by an
operator. Then come the name services in the order in which the settings list them. So a directory that lies cannot even
delay a link while the roster's addresses work, and one that tells the truth finds a member that has moved. No source
can push another one's addresses out: each has room of its own.

**Proposals** are shown to operators (`bftkit status`). The roster and the keys in it change by an ordered
command that operators have signed, whatever a name service says.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import attrs

from bftkit.configuration.text import ConfigurationError, parse_toml, right, shown, structure
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.core.wire import is_name
from bftkit.membership.roster import ADDRESSES_MAX, MEMBERS_MAX, RosterEntry, canonical_address, check_key
from bftkit.network.addresses import Address, parse_address

PROPOSALS_MAX: Final = 64
"""So many proposals of one source are kept."""

REFUSALS_MAX: Final = 32
"""So many refusals of one naming are told in words; the rest are only counted."""

TEXT_MAX: Final = 200
"""A proposal's note is cut to so many characters."""

TTL_FLOOR_SECONDS: Final = 1.0
"""A name that lives shorter is still asked for no more often: nobody's zone may make us busy."""
TTL_CAP_SECONDS: Final = 300.0
"""A name that lives longer is asked for again all the same: a mistake in a zone must not hide a move for days."""


@attrs.frozen
class Proposal:
    """Somebody who could become a member, as a source describes it: unchecked."""

    id: str
    identity: str
    """The Ed25519 public key, as hexadecimal digits."""
    addresses: tuple[str, ...] = ()
    note: str = ""
    """For the operator who reads it."""


@attrs.frozen
class Naming:
    """All that one source says now: unchecked."""

    members: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict[str, tuple[str, ...]])
    """Addresses by member id, in the order in which to try."""
    proposals: tuple[Proposal, ...] = ()
    group: str = ""
    """The name of the group that this is about; empty if the source does not say."""


@attrs.frozen
class Candidate:
    """A proposal that is well-formed. It is still no more than a wish."""

    id: MemberId
    identity: bytes
    addresses: tuple[Address, ...]
    note: str
    source: str


Sink = Callable[[Naming], None]
"""Takes each new naming of a source."""


class NameService(Protocol):
    """One source of namings."""

    @property
    def name(self) -> str:
        """What messages call it; it is the key of the settings that configures it, such as ``names.file``."""
        ...

    async def watch(self, sink: Sink) -> None:
        """Hands every new naming to `sink`, until cancelled. While the source cannot be reached or understood, nothing
        is handed over, so that what it said last goes on holding."""
        ...

    def follow(self, members: Sequence[MemberId]) -> None:
        """From now on, these are the members to ask for."""
        ...

    def status(self) -> dict[str, object]:
        """How the source is, for people: JSON-ready."""
        ...


class AddressBook:
    """Where the members of one group can be reached, according to its roster and any number of name services."""

    def __init__(
        self,
        entries: Iterable[RosterEntry],
        sources: Sequence[str] = (),
        *,
        me: MemberId | None = None,
        group: str = "",
        schemes: Iterable[str] = ("tcp",),
    ) -> None:
        """`entries`: the roster's. `sources`: names of the name services, the most trusted first. `me`: who need not be
        dialled (None: a client). `group`: the name that a naming must have if it has one. `schemes`: what the hub can
        dial. Raises `ValueError` for a source that is listed twice."""
        if len(set(sources)) != len(sources):
            raise ValueError(f"a source is listed twice: {', '.join(sources)}")
        self._me = me
        self._group = group
        self._schemes = frozenset(schemes)
        self._told: dict[str, dict[MemberId, tuple[Address, ...]]] = {source: {} for source in sources}
        self._raw: dict[str, Naming] = {}
        self._candidates: dict[str, tuple[Candidate, ...]] = dict.fromkeys(sources, ())
        self._refusals: dict[str, tuple[str, ...]] = dict.fromkeys(sources, ())
        self.refused: dict[str, int] = dict.fromkeys(sources, 0)
        """By source: how many entries were refused so far. One that is said again in the next naming counts again."""
        self._ids: dict[MemberId, None] = {}
        self._identities: dict[bytes, MemberId] = {}
        self._ordered: dict[MemberId, tuple[Address, ...]] = {}
        self._take(entries)
        self._shown = self.all_addresses()

    # --- what comes in ------------------------------------------------------------------------------------------

    def follow(self, entries: Iterable[RosterEntry]) -> None:
        """The roster was changed by an ordered command. What the sources said is judged anew."""
        self._take(entries)
        for source, naming in sorted(self._raw.items()):
            self.learn(source, naming)

    def learn(self, source: str, naming: Naming) -> tuple[str, ...]:
        """`source` says this now, and nothing else any more.

        Returns what was refused and why, as far as it was not refused the last time already. Entries are refused one by
        one; only a naming for another group is refused whole, and then what the source said before goes on holding.
        Raises `ValueError` for a source that the book was not made with.
        """
        if source not in self._told:
            raise ValueError(f"this book knows no source {source!r}")
        refusals: list[str] = []
        if naming.group and self._group and naming.group != self._group:
            refusals.append(f"this is about the group {shown(naming.group)}, and we are in {shown(self._group)}")
        else:
            self._raw[source] = naming
            self._told[source] = self._judged(naming.members, refusals)
            self._candidates[source] = tuple(self._judged_proposals(source, naming.proposals, refusals))
        self.refused[source] += len(refusals)
        if len(refusals) > REFUSALS_MAX:
            refusals[REFUSALS_MAX:] = [f"{len(refusals) - REFUSALS_MAX} more entries were refused"]
        before = frozenset(self._refusals[source])
        self._refusals[source] = tuple(refusals)
        return tuple(text for text in refusals if text not in before)

    # --- what goes out ------------------------------------------------------------------------------------------

    def addresses(self, member: MemberId) -> tuple[Address, ...]:
        """Where to dial a member, in order; empty if there is no such member. Repeated ones stand once.

        What the hub cannot dial is left out, so that one such address in the roster does not cost the others."""
        found = dict.fromkeys(self._ordered.get(member, ()))
        for told in self._told.values():
            found.update(dict.fromkeys(told.get(member, ())))
        return tuple(found)

    def all_addresses(self) -> dict[MemberId, tuple[Address, ...]]:
        """Where to dial each member, by id."""
        return {member: self.addresses(member) for member in sorted(self._ordered)}

    def changes(self) -> dict[MemberId, tuple[Address, ...]]:
        """The members whose addresses are others than at the last call (or at the start), with the new ones.

        Members that have joined are among them; who has left is not, as nobody dials it any more.
        """
        now = self.all_addresses()
        changed = {member: addresses for member, addresses in now.items() if self._shown.get(member) != addresses}
        self._shown = now
        return changed

    def candidates(self) -> tuple[Candidate, ...]:
        """All well-formed proposals: of the most trusted source first, by id."""
        return tuple(candidate for source in self._told for candidate in self._candidates[source])

    def refusals(self, source: str) -> tuple[str, ...]:
        """What the newest naming of a source says in vain."""
        return self._refusals[source]

    def status(self) -> dict[str, object]:
        """What the book holds, for people: JSON-ready. The roster's own addresses stand in the genesis."""
        return {
            "addresses": {
                source: {member: [str(address) for address in told[member]] for member in sorted(told)}
                for source, told in self._told.items()
            },
            "proposals": [
                {
                    "id": candidate.id,
                    "identity": candidate.identity.hex(),
                    "addresses": [str(address) for address in candidate.addresses],
                    "note": candidate.note,
                    "source": candidate.source,
                }
                for candidate in self.candidates()
            ],
            "refused": dict(self.refused),
            "refusals": {source: list(texts) for source, texts in self._refusals.items() if texts},
        }

    # --- judging ------------------------------------------------------------------------------------------------

    def _take(self, entries: Iterable[RosterEntry]) -> None:
        entries = tuple(entries)
        self._ids = dict.fromkeys(entry.id for entry in entries)
        self._identities = {entry.identity: entry.id for entry in entries}
        self._ordered = {
            entry.id: tuple(
                address for address in map(parse_address, entry.addresses) if address.scheme in self._schemes
            )
            for entry in entries
            if entry.id != self._me
        }

    def _judged(
        self, members: Mapping[str, tuple[str, ...]], refusals: list[str]
    ) -> dict[MemberId, tuple[Address, ...]]:
        known: dict[MemberId, tuple[Address, ...]] = {}
        unknown: list[str] = []
        for member in sorted(members):
            if member == self._me:
                continue  # one file serves all members
            if member not in self._ordered:
                unknown.append(member)
                continue
            known[member] = self._judged_addresses(member, members[member], refusals)
        for member in unknown:
            refusals.append(f"{shown(member)} is no member of this group; a name service cannot make it one")
        return known

    def _judged_addresses(self, whose: str, texts: Sequence[str], refusals: list[str]) -> tuple[Address, ...]:
        good: dict[Address, None] = {}
        for text in texts[:ADDRESSES_MAX]:
            try:
                good[self._judged_address(whose, text)] = None
            except ConfigurationError as error:
                refusals.append(str(error))
        if len(texts) > ADDRESSES_MAX:
            refusals.append(
                f"{whose}: {len(texts)} addresses are too many; those after the first {ADDRESSES_MAX} are ignored"
            )
        return tuple(good)

    def _judged_address(self, whose: str, text: str) -> Address:
        address = parse_address(canonical_address(whose, text))
        if address.scheme not in self._schemes:
            wrong = f"{shown(text)} cannot be dialled here"
            raise ConfigurationError(whose, wrong, f"give {' or '.join(f'{one}://' for one in sorted(self._schemes))}")
        if address.is_numeric:
            ip = ipaddress.ip_address(address.host)
            if ip.is_unspecified or ip.is_multicast:
                raise ConfigurationError(whose, f"{shown(text)} is nobody's address", "give the address of one machine")
        return address

    def _judged_proposals(self, source: str, proposals: Sequence[Proposal], refusals: list[str]) -> Iterable[Candidate]:
        seen: dict[str, None] = {}
        for proposal in sorted(proposals, key=lambda one: one.id)[:PROPOSALS_MAX]:
            where = f"proposal {shown(proposal.id)}"
            try:
                if proposal.id in seen:
                    raise ConfigurationError(where, "it is made twice", "propose each member once")
                seen[proposal.id] = None
                identity = self._judged_identity(where, proposal)
            except ConfigurationError as error:
                refusals.append(str(error))
                continue
            addresses = self._judged_addresses(where, proposal.addresses, refusals)
            note = "".join(c for c in proposal.note[:TEXT_MAX] if c.isprintable())
            yield Candidate(proposal.id, identity, addresses, note, source)
        if len(proposals) > PROPOSALS_MAX:
            refusals.append(f"{len(proposals)} proposals are too many; {PROPOSALS_MAX} are looked at")

    def _judged_identity(self, where: str, proposal: Proposal) -> bytes:
        """The key of somebody who is no member yet. Raises `ConfigurationError`."""
        if not is_name(proposal.id):
            raise ConfigurationError(where, "this is no id", "give 1 to 32 of the characters a-z, 0-9, _ - and .")
        if proposal.id in self._ids:
            raise ConfigurationError(
                where,
                f"{proposal.id} is a member, and no name service changes its key",
                "take another id, or replace the member by a command that operators have signed",
            )
        try:
            identity = bytes.fromhex(proposal.identity) if len(proposal.identity) == 64 else b""
        except ValueError:
            identity = b""
        check_key(where, identity, "an identity")
        member = self._identities.get(identity)
        if member is not None:
            raise ConfigurationError(where, f"this is the key of {member}", "make a key of its own with bftkit keygen")
        return identity


# ----------------------------------------------------------------------------------------------------- a file


@attrs.frozen
class _ProposalTable:
    identity: str = attrs.field(metadata=right("the identity key that `bftkit keygen` printed"))
    addresses: tuple[str, ...] = attrs.field(default=(), metadata=right('a list such as ["tcp://host:7000"]'))
    note: str = ""


@attrs.frozen
class _NamingTable:
    group: str = ""
    members: dict[str, tuple[str, ...]] = attrs.field(
        factory=dict[str, tuple[str, ...]], metadata=right('a table such as m0 = ["tcp://host:7000"]')
    )
    proposals: dict[str, _ProposalTable] = attrs.field(factory=dict[str, _ProposalTable])


def parse_naming(text: str) -> Naming:
    """The naming that a TOML file describes. Raises `ConfigurationError` if it has another form::

    group = "shop"                                  # optional: the group's name, against mix-ups

    [members]
    m0 = ["tcp://10.0.0.5:7000"]
    m1 = ["tcp://10.0.0.6:7000", "tcp://shop-1.example:7000"]

    [proposals.m4]                                  # optional: shown to operators
    identity = "…64 hexadecimal digits…"
    addresses = ["tcp://10.0.0.9:7000"]
    note = "the new machine in hall 2"
    """
    table = structure(parse_toml(text), _NamingTable)
    if len(table.members) > MEMBERS_MAX:
        raise ConfigurationError("members", f"there are {len(table.members)}", f"give at most {MEMBERS_MAX}")
    proposals = tuple(
        Proposal(member, one.identity, one.addresses, one.note) for member, one in sorted(table.proposals.items())
    )
    return Naming(table.members, proposals, table.group)


# ----------------------------------------------------------------------------------------------------- the DNS


@attrs.frozen
class ServiceRecord:
    """An SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str
    """A host's name, with or without the final dot; ``.`` alone says that there is no such service."""


def service_order(records: Iterable[ServiceRecord], salt: bytes) -> list[ServiceRecord]:
    """The records in the order in which to try them: lower priorities first; within one, at random by weight.

    RFC 2782 draws one record after the other, each with a chance in proportion to its weight. Sorting by
    −ln(u)/weight, with u uniform in (0, 1), gives every order the same chance as that does (Efraimidis and Spirakis,
    "Weighted random sampling with a reservoir", 2006); and with u taken from a digest over `salt`, the order stays as
    it is until the records change, so that asking again does not look like news.
    """

    def key(record: ServiceRecord) -> tuple[int, float, str, int]:
        place = f"{record.priority} {record.port} {record.target}"
        uniform = (int.from_bytes(digest(salt, place.encode())[:8], "big") + 1) / ((1 << 64) + 1)
        # Weight 0 is for "very small chances" beside others.
        return record.priority, -math.log(uniform) / max(record.weight, 0.001), record.target, record.port

    return sorted(records, key=key)


def proposal_of(words: Iterable[bytes]) -> Proposal | None:
    """The proposal in a TXT record's strings, as ``id=m9``, ``identity=…``, ``address=…`` and ``note=…`` in any order.

    None if it has no ``id``: a zone has TXT records for many purposes. As in RFC 6763, section 6, keys that are not
    known are passed over, and of a repeated key the first counts, ``address`` apart.
    """
    found: dict[str, str] = {}
    addresses: list[str] = []
    for word in words:
        key, _, value = word.decode("utf-8", "replace").partition("=")
        if key == "address":
            addresses.append(value)
        else:
            found.setdefault(key, value)
    if "id" not in found:
        return None
    return Proposal(found["id"], found.get("identity", ""), tuple(addresses), found.get("note", ""))


def living(ttl: float) -> float:
    """So many seconds an answer with this time to live is used before it is asked for again."""
    return min(max(ttl, TTL_FLOOR_SECONDS), TTL_CAP_SECONDS)
