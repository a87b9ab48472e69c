"""Epochs of a simulated world: its members' keys of all epochs, its operators, and what the world knows of the chain.

Keys of members, operators and the first coin are real and made once a process, since rosters and commands are checked
for what they are; what is signed with them in a world is signed by its notary (`keyring`), a ring for each epoch,
opening and roster. A member can sign with keys that it holds: those of a roster's entry that are its own, and that it
has not erased.

`Chain` is what the world has seen of hand-overs, and holds the members to it: an epoch has one ending, signed by a
quorum of its own members, and nobody executes what lies above it. Guards ask it which members and which quorum a slot
had (`era_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from operator import is_not
from typing import TYPE_CHECKING, Any, Final

import attrs

from bftkit.channel.interface import ReplicaSettings
from bftkit.channel.preparing import trial
from bftkit.channel.replica import Replica
from bftkit.channel.steering import why_no_policy
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.configuration.text import ConfigurationError
from bftkit.core.digest import digest
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.ordering import CoinProtocol, Plugin, ProtocolRecord, SignerProtocol
from bftkit.core.plugin import BrokenProtocol, UnknownProtocol, load_protocol
from bftkit.core.quorum import Quorum
from bftkit.crypto.keys import SIGNATURE_SIZE, Ed25519Keyring, Ed25519Verifier, SigningKey, epoch_key_proof
from bftkit.crypto.threshold import CoinPublics, Coins, deal
from bftkit.membership.chain import HANDOVER_PURPOSE, HandOver, Place
from bftkit.membership.commands import CANCEL, FORCED, PLANNED, Seat
from bftkit.membership.epochs import Configuration, Schedule
from bftkit.membership.roster import Roster, RosterEntry
from bftkit.sim.coins import fast_coins
from bftkit.sim.costs import Meter
from bftkit.sim.keyring import Notary, fast_keyrings
from bftkit.sim.memory import RememberingCodec

if TYPE_CHECKING:
    from bftkit.sim.host import Host
    from bftkit.sim.world import World

EPOCHS: Final = 64
"""A simulated member has keys for so many epochs."""


# ------------------------------------------------------------------------------------------------ keys, once a process


@cache
def epoch_keys(name: MemberId, generation: int = 0) -> tuple[SigningKey, ...]:
    """The member's keys of all epochs; another generation has others."""
    seed = b"%s %d" % (name.encode(), generation)
    return tuple(SigningKey(digest(b"sim epoch key", seed, b"%d" % epoch)) for epoch in range(EPOCHS))


@cache
def identity_key(name: MemberId) -> SigningKey:
    """Who the member is on links."""
    return SigningKey(digest(b"sim identity", name.encode()))


@cache
def operator_key(number: int) -> SigningKey:
    """The key of an operator."""
    return SigningKey(digest(b"sim operator", b"%d" % number))


@cache
def seat(name: MemberId, generation: int = 0, *, keys: bool = False) -> Seat:
    """The member as a command names it; with its `keys` if the group does not know them."""
    publics = tuple(key.public for key in epoch_keys(name, generation))
    joined = b"".join(publics) if keys else b""
    root = epoch_key_proof(publics, 0)[0]
    return Seat(name, identity_key(name).public, root, EPOCHS, (f"memory://{name}",), joined)


@cache
def entry(name: MemberId, generation: int, epoch: int) -> RosterEntry:
    """The member as a roster has it."""
    publics = tuple(key.public for key in epoch_keys(name, generation))
    root, path = epoch_key_proof(publics, epoch)
    address = f"memory://{name}"
    return RosterEntry(name, identity_key(name).public, root, EPOCHS, publics[epoch], path, (address,))


@cache
def first_coin(names: tuple[MemberId, ...], threshold: int) -> tuple[CoinPublics, Mapping[MemberId, bytes]]:
    """A coin key for these members, and their shares."""
    points, shares = deal(names, threshold, digest(b"sim coin"))
    return CoinPublics(threshold, tuple(points.values())), shares


def schedule_of(names: Sequence[MemberId]) -> Schedule:
    """The public keys of these members."""
    return {name: tuple(key.public for key in epoch_keys(name)) for name in names}


def founding(
    record: ProtocolRecord,
    names: tuple[MemberId, ...],
    quorum: Quorum,
    parameters: Mapping[str, int],
    interval: int,
    window: int,
    operators: int = 1,
    operator_threshold: int = 1,
    qos: QoS | None = None,
    policy: Policy | None = None,
) -> Configuration:
    """The configuration of epoch 0."""
    modes = () if policy is None else policy.modes
    tossed = record.coins or any(load_protocol(mode.protocol).record.coins for mode in modes)
    coin = first_coin(names, quorum.available)[0] if tossed or quorum.f else None
    return Configuration(
        0,
        record.name,
        dict(parameters),
        quorum.f,
        quorum.c,
        Roster(tuple(entry(name, 0, 0) for name in names)),
        tuple(sorted(operator_key(number).public for number in range(operators))),
        operator_threshold,
        interval,
        window,
        coin,
        qos,
        policy,
    )


class _VerifiesOnly:
    """The keyring of one that has no key in an epoch, or has erased it."""

    def __init__(self, me: MemberId, epoch: int, ring: Any, broken: Collection[MemberId]) -> None:
        self.me = me
        self._broken = broken
        self._epoch = epoch
        self._ring = ring

    def sign(self, purpose: str, statement: bytes) -> bytes:
        if self.me in self._broken:
            return bytes(SIGNATURE_SIZE)  # given an old disk, it may think that it still has the key
        raise AssertionError(f"{self.me} has no key to sign a {purpose} with in epoch {self._epoch}")

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        verified: bool = self._ring.verify(member, purpose, statement, signature)
        return verified


class Rings:
    """All rings of a world, by what they are bound to."""

    def __init__(self, notary: Notary, group: bytes, broken: Collection[MemberId]) -> None:
        """`broken`: members that may do what correct ones never do."""
        self.notary = notary
        self.broken = broken
        self.group = group
        self._fast: dict[object, Mapping[MemberId, SignerProtocol]] = {}
        self._coins: dict[object, Mapping[MemberId, CoinProtocol]] = {}

    def ring(
        self, me: MemberId, configuration: Configuration, opening: Digest, key: SigningKey | None
    ) -> SignerProtocol:
        """What `me` signs and checks with; without a key it can only check."""
        epoch, publics = configuration.epoch, publics_of(configuration)
        if self.notary.kind != "fast":
            if key is not None:
                return Ed25519Keyring(self.group, epoch, opening, me, key, publics)
            return _VerifiesOnly(me, epoch, Ed25519Verifier(self.group, epoch, opening, publics), self.broken)
        context = context_of(configuration, opening)
        rings = self._fast.get(context)
        if rings is None:
            rings = self._fast[context] = fast_keyrings(self.group, self.group, epoch, opening, publics, publics)
        return rings[me] if key is not None else _VerifiesOnly(me, epoch, next(iter(rings.values())), self.broken)

    def coins(
        self, me: MemberId, configuration: Configuration, opening: Digest, share: bytes | None
    ) -> CoinProtocol | None:
        """The member's part in the coins of an epoch."""
        coin, names = configuration.coin, configuration.members
        if coin is None or share is None:
            return None
        epoch = configuration.epoch
        if self.notary.kind != "fast":
            publics = dict(zip(names, coin.points, strict=True))
            return Coins(self.group, epoch, opening, me, share, publics, coin.threshold)
        context = context_of(configuration, opening)
        known = self._coins.get(context)
        if known is None:
            secret = digest(b"coin", *coin.points)
            known = self._coins[context] = fast_coins(secret, self.group, epoch, opening, names, coin.threshold)
        return known.get(me)


def publics_of(configuration: Configuration) -> dict[MemberId, bytes]:
    """The members' public keys of the epoch."""
    return {entry.id: entry.epoch_key for entry in configuration.roster.entries}


def context_of(configuration: Configuration, opening: Digest) -> object:
    """What signatures of this epoch and roster are bound to."""
    return (configuration.epoch, opening, tuple(publics_of(configuration).items()))


# ------------------------------------------------------------------------------------------------ a member's keychain


class WorldKeychain:
    """What a simulated member goes from epoch to epoch with (`bftkit.channel.interface.Keychain`)."""

    def __init__(self, rings: Rings, me: MemberId, meter: Meter, plugins: Mapping[str, Plugin]) -> None:
        self._rings = rings
        self._plugins = plugins
        self.me = me
        self.meter = meter
        self.generations = [0]
        """Which sets of keys the member holds."""
        self.first = 0
        """The keys of epochs before are erased."""
        self.root = b""
        """The root of the keys in the member's key file, once it has entered an epoch."""

    def key_for(self, configuration: Configuration) -> SigningKey | None:
        """The member's key of the epoch, if it is in the roster with one of its own and has not erased it."""
        return None if configuration.epoch < self.first else self._own(configuration)

    def _own(self, configuration: Configuration) -> SigningKey | None:
        known = configuration.roster.by_id.get(self.me)
        if known is None:
            return None
        for generation in self.generations:
            key = epoch_keys(self.me, generation)[configuration.epoch]
            if key.public == known.epoch_key:
                return key
        return None

    def seen(self, place: Place, share: bytes | None) -> tuple[SignerProtocol, CoinProtocol | None]:
        """What the member has, or had, in that epoch: for those who watch. Erased keys are as good as others."""
        configuration, opening = place.configuration, place.opening
        ring = self._rings.ring(self.me, configuration, opening, self._own(configuration))
        if self._rings.notary.kind == "fast":
            share = share or b"any"
        return ring, self._rings.coins(self.me, configuration, opening, share)

    def enter(self, base: ReplicaSettings, place: Place, coin_share: bytes | None) -> ReplicaSettings:
        """See `Keychain.enter`."""
        configuration, opening = place.configuration, place.opening
        notary = self._rings.notary
        key = self.key_for(configuration)
        if configuration.epoch == 0 and configuration.coin is not None and self.me in configuration.members:
            coin_share = first_coin(configuration.members, configuration.coin.threshold)[1][self.me]
        context = context_of(configuration, opening)
        ring = self._rings.ring(self.me, configuration, opening, key)
        coins = self._rings.coins(self.me, configuration, opening, coin_share) if key is not None else None
        clocks = {self._clock_public(name, public): name for name, public in publics_of(configuration).items()}
        return attrs.evolve(
            base,
            members=configuration.members,
            quorum=configuration.quorum,
            plugin=self._plugin(configuration.protocol),
            keyring=notary.checked(ring, self.me, self.meter, context),
            coins=notary.checked_coins(coins, self.meter, context) if coins is not None else None,
            coin_share=coin_share if coins is not None else None,
            clock_key=self._clock_key(key) if key is not None else base.clock_key,
            member_keys=clocks,
            epoch=configuration.epoch,
            parameters=configuration.parameters,
            checkpoint_interval=configuration.checkpoint_interval,
            window=configuration.window,
            place=place,
            may_sign=key is not None,
        )

    def why_not(self, configuration: Configuration) -> str | None:
        """See `Keychain.why_not`."""
        reason = self._why_not_protocol(configuration)
        if reason is not None:
            return reason
        if self.me in configuration.members and self.key_for(configuration) is None:
            return f"{self.me} has no key of its own for epoch {configuration.epoch}"
        return why_no_policy(configuration, self._why_not_protocol)

    def _why_not_protocol(self, configuration: Configuration) -> str | None:
        try:
            plugin = self._plugin(configuration.protocol)
            record = plugin.record
        except ConfigurationError as error:
            return str(error)
        quorum = configuration.quorum
        if quorum.f and not record.byzantine:
            return f"{record.name} survives crashes only, and f is {quorum.f}"
        needed = record.members_needed(quorum.f, quorum.c)
        if quorum.n < needed:
            return f"{record.name} needs {needed} members for f = {quorum.f} and c = {quorum.c}, not {quorum.n}"
        unknown = sorted(set(configuration.parameters) - set(record.parameters))
        if unknown:
            return f"{record.name} has no parameter {unknown[0]}"
        return trial(plugin, configuration)

    def verifier(self, configuration: Configuration, opening: Digest) -> SignerProtocol:
        """See `Keychain.verifier`."""
        return self._checking(configuration, opening, None)

    def preparing(self, configuration: Configuration, name: Digest) -> SignerProtocol:
        """See `Keychain.preparing`."""
        return self._checking(configuration, name, self.key_for(configuration))

    def _checking(self, configuration: Configuration, opening: Digest, key: SigningKey | None) -> SignerProtocol:
        ring = self._rings.ring(self.me, configuration, opening, key)
        return self._rings.notary.checked(ring, self.me, self.meter, context_of(configuration, opening))

    def _plugin(self, name: str) -> Plugin:
        plugin = self._plugins.get(name)
        if plugin is None:
            try:
                loaded = load_protocol(name)
            except (UnknownProtocol, BrokenProtocol) as error:
                raise ConfigurationError("protocol", str(error), "install the package that has it") from None
            assert isinstance(self._plugins, dict)
            plugin = self._plugins[name] = attrs.evolve(loaded, codec=RememberingCodec(loaded.codec))
        return plugin

    def _stand_in(self, name: MemberId, public: bytes) -> SigningKey:
        """With fast keys, the key of the world that stands for a real one."""
        return self._rings.notary.signing_key(digest(b"clock", self._rings.group, name.encode(), public))

    def _clock_public(self, name: MemberId, public: bytes) -> bytes:
        return self._stand_in(name, public).public if self._rings.notary.kind == "fast" else public

    def _clock_key(self, key: SigningKey) -> SigningKey:
        return self._stand_in(self.me, key.public) if self._rings.notary.kind == "fast" else key


# ------------------------------------------------------------------------------------------------ what the world knows


@attrs.frozen(eq=False)
class Era:
    """One epoch, as the world knows it."""

    settings: ReplicaSettings
    """Of somebody who is no member."""
    start: Slot = 0
    """The last slot of the epoch before."""
    link: HandOver | None = None
    """The hand-over that opened it."""

    @property
    def epoch(self) -> int:
        """Its number."""
        return self.settings.epoch

    @property
    def members(self) -> tuple[MemberId, ...]:
        """Its members."""
        return self.settings.members

    @property
    def quorum(self) -> Quorum:
        """Its quorums."""
        return self.settings.quorum

    @property
    def place(self) -> Place | None:
        """Its place in the chain; None in a world whose configuration never changes."""
        return self.settings.place


class Chain:
    """What a world has seen of its epochs. It believes no member: whatever one shows is checked."""

    def __init__(self, world: World, founding: ReplicaSettings) -> None:
        self._world = world
        self.eras = [Era(founding)]
        self._looked: dict[MemberId, tuple[HandOver, ...]] = {}
        """What each member held when it was looked at last: the very objects."""
        self._begun: set[int] = set()
        self.listeners: list[Callable[[Era], None]] = []
        """Called with every epoch that begins."""

    @property
    def now(self) -> Era:
        """The newest epoch that a correct member is in, or knows of."""
        return self.eras[-1]

    def era_of(self, slot: Slot) -> Era:
        """The epoch that decides this slot, as far as is known now."""
        for era in reversed(self.eras):
            if era.start < slot:
                return era
        return self.eras[0]

    def end_of(self, epoch: int) -> Slot | None:
        """The epoch's last slot, if it is known."""
        return self.eras[epoch + 1].start if epoch + 1 < len(self.eras) else None

    def look(self, host: Host, replica: Replica) -> None:
        """After a round of a correct member: what it holds of the chain must be what everybody holds."""
        succession = replica.succession
        if succession is None:
            return
        epoch = replica.settings.epoch
        seen = (*succession.links.values(), *succession.ahead)
        known = self._looked.get(host.me)
        if known is None or len(known) != len(seen) or any(map(is_not, known, seen)):
            self._looked[host.me] = seen
            for link in (*(succession.links[at] for at in sorted(succession.links)), *succession.ahead):
                self._compare(host.me, link)
        end = self.end_of(epoch)
        state = replica.state.reconfiguring
        fetched = state is not None and state.configuration.epoch > epoch  # it is on its way to that one
        if end is not None and replica.applied > end and succession.crossing is None and not fetched:
            self._world.recorder.fail(
                "agreement",
                f"{host.me} executed slot {replica.applied} in epoch {epoch}, which ended at slot {end} "
                "(SAFETY rule 23)",
            )

        if 0 < epoch < len(self.eras) and epoch not in self._begun and replica.applied > self.eras[epoch].start:
            self._begun.add(epoch)
            self._check_held(host.me, self.eras[epoch])

    def _check_held(self, member: MemberId, era: Era) -> None:
        """The first slot of an epoch is executed: so a quorum of its members holds durably what it began with."""
        world = self._world
        exempt = world.recorder.exempt & set(era.members)
        if len(exempt) > era.quorum.f:
            return
        holders = [
            name
            for name in era.members
            if name not in exempt
            and (
                world.guards.holding.may_have_held(name, era.start)
                or any(slot >= era.start for slot, _ in world.hosts[name].disk.snapshots.checkpoints())
            )
        ]
        needed = era.quorum.certificate - len(exempt)
        if len(holders) < needed:
            world.recorder.fail(
                "durability",
                f"{member} executed the first slot of epoch {era.epoch}, and {', '.join(holders) or 'nobody'} holds "
                f"durably what it began with: {needed} must (SAFETY rule 26)",
            )

    def _compare(self, member: MemberId, link: HandOver) -> None:
        ending, recorder = link.ending, self._world.recorder
        if ending.epoch >= len(self.eras):
            recorder.fail("agreement", f"{member} holds a hand-over of epoch {ending.epoch}, and none of those before")
            return
        if ending.epoch == len(self.eras) - 1:
            self._begin(member, link)
            return
        known = self.eras[ending.epoch + 1].link
        assert known is not None
        if known.ending != ending:
            recorder.fail(
                "agreement",
                f"epoch {ending.epoch} ends at slot {known.ending.slot} with {known.ending.next.hex()[:12]} for "
                f"others, at slot {ending.slot} with {ending.next.hex()[:12]} for {member} (SAFETY rule 21)",
            )

    def _begin(self, member: MemberId, link: HandOver) -> None:
        world, ending, here = self._world, link.ending, self.eras[-1]
        signers = {
            vote.member
            for vote in link.certificate.votes
            if vote.member in here.members
            and here.settings.keyring.verify(vote.member, HANDOVER_PURPOSE, link.certificate.body, vote.signature)
        }
        needed = (here.quorum.n + here.quorum.f) // 2 + 1
        if len(signers) < needed:
            world.recorder.fail(
                "agreement",
                f"{member} holds a hand-over of epoch {ending.epoch} that {', '.join(sorted(signers)) or 'nobody'} "
                f"signed: {needed} of its members must (SAFETY rules 1 and 26)",
            )
            return
        keychain = here.settings.keychain
        assert keychain is not None
        settings = keychain.enter(here.settings, Place(link.next, ending.opening), None)
        era = Era(settings, ending.slot, link)
        self.eras.append(era)
        world.note(
            member,
            f"begins epoch {era.epoch} after slot {era.start}: {settings.plugin.record.name} on "
            f"{', '.join(era.members)}",
        )
        for listener in self.listeners:
            listener(era)


__all__ = [
    "CANCEL",
    "EPOCHS",
    "FORCED",
    "PLANNED",
    "Chain",
    "Era",
    "Rings",
    "WorldKeychain",
    "entry",
    "epoch_keys",
    "first_coin",
    "founding",
    "identity_key",
    "operator_key",
    "schedule_of",
    "seat",
]
