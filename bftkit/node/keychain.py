"""What a member needs of its surroundings to go from epoch to epoch: its keys, and the shelf of protocols.

The configuration of an epoch says under which Merkle roots its members' keys lie, and which protocol runs. Here the
rest is added that this member alone has: the secret half of its key, its share of the coin key, the plug-in. Where it
has no key (it is no member, or the key is erased), it can check what others sign and take no part itself.
"""

from __future__ import annotations

from typing import NoReturn

import attrs

from bftkit.channel.interface import Keychain, ReplicaSettings
from bftkit.channel.preparing import trial
from bftkit.channel.spectator import Spectator
from bftkit.channel.steering import why_no_algorithm, why_no_policy
from bftkit.configuration.text import ConfigurationError
from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Digest, MemberId
from bftkit.core.ordering import OrderingMachine, Plugin, ProtocolRecord, Setup
from bftkit.core.plugin import BrokenProtocol, UnknownProtocol, load_protocol
from bftkit.crypto.keys import Ed25519Keyring, Ed25519Verifier, EpochKeys, Keyring, SigningKey
from bftkit.crypto.threshold import Coins, public_point
from bftkit.membership.chain import Place, Verifier
from bftkit.membership.epochs import Configuration
from bftkit.membership.genesis import check_protocol, check_tossed
from bftkit.membership.roster import RosterEntry
from bftkit.membership.verifiers import roster_verifier
from bftkit.node.vault import Vault


class MemberKeychain(Keychain):
    """The keychain of a real member; see `Keychain`."""

    def __init__(self, group: bytes, me: MemberId, vault: Vault, *, keeps_nothing: bool = False) -> None:
        """`vault`: where this member's secrets are. `keeps_nothing`: it has no log on disk (durability ``memory``)."""
        self._keeps_nothing = keeps_nothing
        self._group = group
        self._me = me
        self._vault = vault

    def enter(self, base: ReplicaSettings, place: Place, coin_share: bytes | None) -> ReplicaSettings:
        """See `Keychain`. A share that was dealt at the founding is found by its point."""
        here = place.configuration
        plugin = _plugin(here.protocol)
        _check(plugin.record, here)
        check_tossed(plugin.record, here.coin)
        check_algorithm(here)
        key = self.key(here)
        publics = {entry.id: entry.epoch_key for entry in here.roster.entries}
        coins = self._coins(plugin.record, place, coin_share) if key is not None else None
        return attrs.evolve(
            base,
            members=here.members,
            quorum=here.quorum,
            plugin=plugin if key is not None else taking_no_part(plugin),
            keyring=keyring_of(self._group, here.epoch, place.opening, self._me, key, publics),
            clock_key=key if key is not None else NoKey(),
            member_keys={public: member for member, public in publics.items()},
            epoch=here.epoch,
            parameters=dict(here.parameters),
            checkpoint_interval=here.checkpoint_interval,
            window=here.window,
            coins=coins[0] if coins is not None else None,
            coin_share=coins[1] if coins is not None else None,
            place=place,
            may_sign=key is not None,
        )

    def why_not(self, configuration: Configuration) -> str | None:
        """See `Keychain`. Of coins nothing is said: their key is made after this was asked."""
        reason = self._why_not_durable(configuration) or _why_not_protocol(configuration)
        reason = reason or self.why_no_key(configuration)
        return reason or why_no_policy(configuration, _why_not_protocol)

    def _why_not_durable(self, configuration: Configuration) -> str | None:
        """A member without a log cannot begin one in the middle (SAFETY rule 16)."""
        needs = configuration.qos
        if not self._keeps_nothing or needs is None or needs.durability == "memory" or not self.is_in(configuration):
            return None
        return (
            'this member keeps nothing on disk (durability = "memory" in its member.toml), and durability '
            f'"{needs.durability}" is needed: write that there, start it again, and then give it new keys '
            "(bftkit member rotate) or replace it"
        )

    @property
    def me(self) -> MemberId:
        """Whose keys these are."""
        return self._me

    def is_in(self, configuration: Configuration) -> bool:
        """Whether its member is one of this epoch."""
        return self._me in configuration.roster.by_id

    def verifier(self, configuration: Configuration, opening: Digest) -> Verifier:
        """See `Keychain`."""
        return roster_verifier(self._group)(configuration, opening)

    def preparing(self, configuration: Configuration, name: Digest) -> Keyring:
        """See `Keychain`."""
        publics = {entry.id: entry.epoch_key for entry in configuration.roster.entries}
        return keyring_of(self._group, configuration.epoch, name, self._me, self.key(configuration), publics)

    def why_no_key(self, configuration: Configuration) -> str | None:
        """Why this member cannot sign in that epoch, if it is a member of it and cannot."""
        entry = configuration.roster.by_id.get(self._me)
        return None if entry is None else self._why_no_key(entry, configuration.epoch)

    def key(self, configuration: Configuration) -> SigningKey | None:
        """This member's key of that epoch, if it is a member and has it."""
        entry = configuration.roster.by_id.get(self._me)
        if entry is None or self._why_no_key(entry, configuration.epoch) is not None:
            return None
        keys = self._keys(entry)
        assert keys is not None
        return keys.signing_key(configuration.epoch)

    def _keys(self, entry: RosterEntry) -> EpochKeys | None:
        return self._vault.keys(entry.epoch_root)

    def _why_no_key(self, entry: RosterEntry, epoch: int) -> str | None:
        if entry.identity != self._vault.identity:
            return f"the identity that the roster names for {entry.id} is not the one of this member's folder"
        try:
            keys = self._keys(entry)
        except ConfigurationError as error:
            return str(error)
        if keys is None:
            return f"the epoch keys that the roster commits {entry.id} to are not in this member's folder"
        if epoch < keys.first:
            return f"the key of epoch {epoch} is erased; the first that is left is that of epoch {keys.first}"
        if epoch >= keys.count:
            return f"the epoch keys reach to epoch {keys.count - 1}, and this is epoch {epoch}"
        return None

    def _coins(self, record: ProtocolRecord, place: Place, given: bytes | None) -> tuple[Coins, bytes] | None:
        """The coins of an epoch, and this member's share, which a forced change takes along."""
        here = place.configuration
        if here.coin is None:
            return None
        publics = dict(zip(here.members, here.coin.points, strict=True))
        point = publics[self._me]
        for share in (given, self._vault.coin):
            if share is not None and public_point(share) == point:
                opening, threshold = place.opening, here.coin.threshold
                return Coins(self._group, here.epoch, opening, self._me, share, publics, threshold), share
        if record.coins:
            raise ConfigurationError(
                "keys.coin",
                f"{self._me} has no share of the coin key of epoch {here.epoch}",
                f"put the share of {self._me} there, or replace the member",
            )
        return None


class NoKey(SigningKey):
    """Stands where a member has no key: nothing is ever signed with it, and nobody would believe it."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(NO_DIGEST)

    def sign(self, message: bytes) -> NoReturn:
        """Raises `AssertionError`."""
        raise AssertionError("this member has no key in this epoch, and signs nothing")


class OnlyVerifying(Ed25519Verifier):
    """A keyring without a key: it checks what others sign."""

    def sign(self, purpose: str, statement: bytes) -> NoReturn:
        """Raises `AssertionError`."""
        raise AssertionError(f"this member has no key in epoch {self.epoch}, and signs nothing")


def keyring_of(
    group: bytes, epoch: int, opening: bytes, me: MemberId, key: SigningKey | None, publics: dict[MemberId, bytes]
) -> Ed25519Keyring | OnlyVerifying:
    """What a member signs and verifies with in an epoch; without a key, it only verifies."""
    if key is None:
        return OnlyVerifying(group, epoch, opening, publics)
    return Ed25519Keyring(group, epoch, opening, me, key, publics)


def taking_no_part(plugin: Plugin) -> Plugin:
    """The plug-in, for a member without a key: it knows the messages and runs nothing."""
    return attrs.evolve(plugin, create=_spectator)


def _spectator(setup: Setup) -> OrderingMachine:
    return Spectator()


def check_algorithm(configuration: Configuration) -> None:
    """Whether the epoch's policy is here, and knows its parameters. Raises `ConfigurationError`.

    Who executes without it comes to another state than the others, and would sign that.
    """
    reason = why_no_algorithm(configuration)
    if reason is not None:
        raise ConfigurationError("policy", reason, "install the package that has it, as the other members have it")


def _plugin(name: str) -> Plugin:
    try:
        return load_protocol(name)
    except (UnknownProtocol, BrokenProtocol) as error:
        raise ConfigurationError("protocol", str(error), "install the package that has it") from None


def _why_not_protocol(configuration: Configuration) -> str | None:
    try:
        plugin = _plugin(configuration.protocol)
        _check(plugin.record, configuration)
    except ConfigurationError as error:
        return str(error)
    return trial(plugin, configuration)


def _check(record: ProtocolRecord, configuration: Configuration) -> None:
    check_protocol(record, configuration.protocol, configuration.parameters, configuration.quorum)
