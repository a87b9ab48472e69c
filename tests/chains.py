"""Chains of hand-overs made by hand, with real Ed25519 keys: what members and operators would sign, and forgeries.

`Group` founds a group and goes from epoch to epoch; each of its links is genuine. What a liar would show is made with
`Group.ending` (a certificate by whom and over what you like) and `attrs.evolve`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import attrs

from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.core.quorum import Quorum
from bftkit.crypto.keys import Ed25519Keyring, EpochKeys, SigningKey
from bftkit.crypto.signed import Certificate
from bftkit.crypto.threshold import CoinPublics, deal
from bftkit.membership.chain import HANDOVER_PURPOSE, Ending, HandOver, Place
from bftkit.membership.commands import FORCED, PLANNED, Change, Command, Seat, SignedCommand, sign_command
from bftkit.membership.epochs import Configuration, Schedule, extended, following
from bftkit.membership.genesis import Genesis
from bftkit.membership.roster import Roster, RosterEntry
from bftkit.membership.verifiers import founding_place
from bftkit.network.session import Identity

EPOCHS = 8
"""Everybody has keys for so many epochs."""


def _seed(*words: object) -> bytes:
    return digest(b"test", *(str(word).encode() for word in words))


@attrs.frozen(eq=False)
class Person:
    """A member with all its keys; the same name has the same keys."""

    id: MemberId
    identity: Identity
    epochs: EpochKeys
    addresses: tuple[str, ...]

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The public keys of all epochs."""
        return tuple(self.epochs.public(epoch) for epoch in range(self.epochs.count))

    def entry(self, epoch: int) -> RosterEntry:
        """As a roster of this epoch has it."""
        epochs = self.epochs
        return RosterEntry(
            self.id,
            self.identity.public_key,
            epochs.root,
            epochs.count,
            epochs.public(epoch),
            epochs.path(epoch),
            self.addresses,
        )

    def seat(self) -> Seat:
        """As a command names it that brings its keys along."""
        return Seat(
            self.id,
            self.identity.public_key,
            self.epochs.root,
            self.epochs.count,
            self.addresses,
            b"".join(self.keys),
        )


@cache
def person(name: MemberId, keys: str = "") -> Person:
    """The member of this name; `keys` other than "": with other keys."""
    epochs = EpochKeys.generate([_seed(name, keys, "epoch", epoch) for epoch in range(EPOCHS)])
    return Person(name, Identity.from_seed(_seed(name, keys, "identity")), epochs, (f"memory://{name}{keys}",))


@cache
def operator(number: int) -> SigningKey:
    """An operator's key."""
    return SigningKey(_seed("operator", number))


@cache
def coin_key(names: tuple[MemberId, ...], f: int, c: int, which: int = 0) -> CoinPublics:
    """A coin key for these members; `which` tells several apart."""
    threshold = Quorum(len(names), f, c).available
    points, _ = deal(names, threshold, _seed("coin", which, *names))
    return CoinPublics(threshold, tuple(points.values()))


def asks(*names: MemberId, f: int | None = None, protocol: str | None = None) -> Callable[[Change], Change]:
    """A change to these members (all of them as they are, if none is named)."""

    def changed(change: Change) -> Change:
        seats = {seat.id: seat for seat in change.members}
        members = tuple(seats.get(name) or person(name).seat() for name in names) or change.members
        return attrs.evolve(
            change,
            members=members,
            f=change.f if f is None else f,
            c=change.c if f is None else 0 if f else (len(members) - 1) // 2,
            coin=bool(change.f if f is None else f),
            protocol=change.protocol if protocol is None else protocol,
        )

    return changed


class Group:
    """A group and the chain of its hand-overs so far."""

    def __init__(self, *names: MemberId, f: int = 1, operators: int = 2, threshold: int = 2, nonce: int = 0) -> None:
        names = names or ("m0", "m1", "m2", "m3")
        self.people: dict[MemberId, Person] = {name: person(name) for name in names}
        self.genesis = Genesis(
            name="chains",
            protocol="pbft" if f else "paxos",
            f=f,
            c=0 if f else (len(names) - 1) // 2,
            roster=Roster(tuple(person(name).entry(0) for name in names)),
            operators=tuple(operator(number).public for number in range(operators)),
            operator_threshold=threshold,
            service="test:Service",
            nonce=_seed("nonce", nonce)[:16],
            checkpoint_interval=16,
            coin=coin_key(names, f, 0) if f else None,
        )
        self.group = self.genesis.group_id
        self.places: list[Place] = [founding_place(self.genesis)]
        self.schedule: Schedule = {name: person(name).keys for name in names}
        self.links: list[HandOver] = []

    @property
    def place(self) -> Place:
        """Where the group is."""
        return self.places[-1]

    @property
    def packed(self) -> tuple[bytes, ...]:
        """The chain as a member sends it."""
        return tuple(link.encode() for link in self.links)

    def copy(self) -> Group:
        """The same group, for another history."""
        twin = Group.__new__(Group)
        twin.__dict__ = {
            name: value.copy() if isinstance(value, list | dict) else value for name, value in self.__dict__.items()
        }
        return twin

    def keyring(self, member: MemberId, epoch: int | None = None, key_of: int | None = None) -> Ed25519Keyring:
        """What a member signs with in an epoch; `key_of`: with its key of another epoch, as a thief would."""
        place = self.place if epoch is None else self.places[epoch]
        here = place.configuration
        key = self.people[member].epochs.signing_key(here.epoch if key_of is None else key_of)
        publics = {entry.id: entry.epoch_key for entry in here.roster.entries} | {member: key.public}
        return Ed25519Keyring(self.group, here.epoch, place.opening, member, key, publics)

    # ------------------------------------------------------------------------------------------ going on

    def command(
        self,
        change: Callable[[Change], Change] = lambda change: change,
        *,
        kind: int = PLANNED,
        epoch: int | None = None,
        signers: Iterable[int] = (0, 1),
        nonce: int = 0,
    ) -> SignedCommand:
        """A command of the operators for the present epoch."""
        here = self.place.configuration if epoch is None else self.places[epoch].configuration
        wished = change(here.change())
        command = Command(self.group, here.epoch, kind, 0, False, wished, _seed("command", nonce)[:16])
        return sign_command(command, *(operator(number) for number in signers))

    def after(self, signed: SignedCommand) -> tuple[Configuration, Schedule]:
        """What a command of the present epoch leads to, with a coin key if it asks for one."""
        here, command = self.place.configuration, signed.command
        schedule = extended(self.schedule, command)
        there = following(here, command, schedule)
        if command.kind == FORCED:
            return attrs.evolve(there, coin=here.coin), schedule
        assert command.change is not None
        if command.change.coin:
            there = attrs.evolve(there, coin=coin_key(there.members, there.f, there.c, there.epoch))
        return there, schedule

    def ending(
        self,
        signed: SignedCommand,
        there: Configuration,
        *,
        signers: Iterable[MemberId] | None = None,
        slot: int | None = None,
        root: bytes | None = None,
        key_of: int | None = None,
        epoch: int | None = None,
    ) -> HandOver:
        """A hand-over that ends the present epoch (or an older one); genuine unless you ask for anything else."""
        here = (self.place if epoch is None else self.places[epoch]).configuration
        last = 16 * (here.epoch + 1) if slot is None else slot
        body = Ending(here.epoch, last, root or _seed("root", last), there.digest, signed.name).encode()
        names = here.members[: here.quorum.certificate] if signers is None else tuple(signers)
        signatures = {name: self.keyring(name, here.epoch, key_of).sign(HANDOVER_PURPOSE, body) for name in names}
        return HandOver(Certificate.of(body, signatures), there.encode(), signed.encode())

    def go(self, change: Callable[[Change], Change] = lambda change: change, *, nonce: int = 0) -> HandOver:
        """One epoch further; the genuine hand-over."""
        signed = self.command(change, nonce=nonce)
        there, schedule = self.after(signed)
        link = self.ending(signed, there)
        self.links.append(link)
        self.places.append(Place(there, link.ending.opening))
        self.schedule = schedule
        for name in there.members:
            self.people.setdefault(name, person(name))
        return link
