"""Configurations: what one epoch of a group runs under, and what the next one will.

Epoch 0 runs under the genesis. Every further configuration follows from the one before it and an operators' command;
everybody computes the same. What a group as a whole never changes (its id, the service, the limits, who may be a
client, the durability) stays in the genesis.

A *schedule* has the public keys that every member signs with, epoch by epoch. The roster commits to it by Merkle roots;
with the schedule at hand, anybody can write the roster of any epoch. It is part of the replicated state.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.configuration.needs import check_policy, check_qos
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.configuration.text import ConfigurationError
from bftkit.core.digest import digest
from bftkit.core.machine import Digest, MemberId
from bftkit.core.quorum import Quorum, QuorumError
from bftkit.core.wire import U64, Codec, Many, Maybe, Pairs, Raw, Struct, Text, WireError
from bftkit.crypto.keys import epoch_key_proof
from bftkit.crypto.threshold import CoinPublics
from bftkit.membership.commands import KEYS_MAX, STALLED, Change, Command, CommandError, Seat
from bftkit.membership.founding import check_coin
from bftkit.membership.genesis import Genesis
from bftkit.membership.roster import Roster, RosterEntry, check_key

Schedule: TypeAlias = Mapping[MemberId, tuple[bytes, ...]]
"""Every member's public keys, from epoch 0 on."""

SLOTS_MAX: Final = 1 << 62
"""No group gets there; what is counted from such a slot on is written in 64 bits."""


@attrs.frozen
class Configuration:
    """What one epoch runs under. Valid by construction: raises `ConfigurationError`."""

    epoch: U64
    protocol: Annotated[str, Text(32)]
    parameters: Annotated[Mapping[str, int], Pairs()] = attrs.field(hash=False)
    f: U64
    c: U64
    roster: Roster
    operators: Annotated[tuple[bytes, ...], Many(Raw(32), 64)]
    operator_threshold: U64
    checkpoint_interval: U64
    window: U64
    coin: Annotated[CoinPublics | None, Maybe(Struct(CoinPublics))] = None
    """The public part of the epoch's coin key; None: there is none, so no protocol that tosses coins, and, with
    liars allowed for, no way to leave a protocol by force."""
    qos: Annotated[QoS | None, Maybe(Struct(QoS))] = None
    """What operators said they need, if they did."""
    policy: Annotated[Policy | None, Maybe(Struct(Policy))] = None
    """By what the members change their protocol themselves, if they do."""
    stalls: U64 = 0
    """So many times in a row, with no operators' command between, members left a protocol by votes that it stopped."""

    def __attrs_post_init__(self) -> None:
        if self.roster.epoch != self.epoch:
            raise ConfigurationError("roster", f"it is that of epoch {self.roster.epoch}", "give that of the epoch")
        if self.coin is not None:
            check_coin(self.coin, self.quorum)

    @classmethod
    def first(cls, genesis: Genesis) -> Configuration:
        """The configuration of epoch 0."""
        return cls(
            0,
            genesis.protocol,
            dict(genesis.parameters),
            genesis.f,
            genesis.c,
            genesis.roster,
            genesis.operators,
            genesis.operator_threshold,
            genesis.checkpoint_interval,
            genesis.window,
            genesis.coin,
            genesis.qos,
            genesis.policy,
        )

    @cached_property
    def quorum(self) -> Quorum:
        """The quorum sizes of the epoch."""
        return Quorum(len(self.roster), self.f, self.c)

    @property
    def members(self) -> tuple[MemberId, ...]:
        """The members' ids, in roster order."""
        return self.roster.ids

    @cached_property
    def digest(self) -> Digest:
        """The digest of the encoding, which hand-overs sign."""
        return digest(b"bftkit configuration", self.encode())

    def encode(self) -> bytes:
        """The configuration's only encoding."""
        return CONFIGURATION_CODEC.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Configuration:
        """Raises `WireError`."""
        try:
            return CONFIGURATION_CODEC.decode(data)
        except ConfigurationError as error:
            raise WireError(f"Configuration: {error!s:.200}") from None

    def seats(self) -> tuple[Seat, ...]:
        """The members as a command names them."""
        return tuple(
            Seat(entry.id, entry.identity, entry.epoch_root, entry.epoch_count, entry.addresses)
            for entry in self.roster.entries
        )

    def change(self) -> Change:
        """A change to exactly this configuration, to be evolved into the wished one."""
        return Change(
            self.protocol,
            dict(self.parameters),
            self.f,
            self.c,
            self.seats(),
            self.operators,
            self.operator_threshold,
            self.checkpoint_interval,
            self.window,
            self.coin is not None,
            self.qos,
            self.policy,
        )

    @property
    def bears_liars(self) -> bool:
        """Whether the members' number is enough for agreement by coins: n >= 3 (f + c) + 1 (SAFETY rule 26)."""
        return len(self.roster) >= 3 * (self.f + self.c) + 1

    def why_not_forced(self) -> str | None:
        """Why this epoch could not be left by force, if so (SAFETY rule 26)."""
        if self.f == 0:
            return None
        if not self.bears_liars:
            needed = 3 * (self.f + self.c) + 1
            return (
                f"with f = {self.f} and c = {self.c} the agreement on a forced change needs {needed} members, "
                f"and there are {len(self.roster)}"
            )
        if self.coin is None:
            return "the epoch has no coin key, which the agreement on a forced change tosses"
        return None


CONFIGURATION_CODEC: Final = Codec[Configuration]("configuration", {1: Configuration}, bytes_max=8 << 20)


# ------------------------------------------------------------------------------------------------- the next one


def extended(schedule: Schedule, command: Command) -> Schedule:
    """The schedule with the keys that the command brings along. Raises `CommandError` if they are not the committed."""
    change = command.change
    assert change is not None
    result: dict[MemberId, tuple[bytes, ...]] = {}
    for seat in change.members:
        if seat.keys:
            if len(seat.keys) % 32 or len(seat.keys) != 32 * seat.epoch_count:
                raise CommandError(f"the keys of {seat.id} are not {seat.epoch_count} public keys")
            keys = tuple(seat.keys[start : start + 32] for start in range(0, len(seat.keys), 32))
        elif seat.id in schedule:
            keys = schedule[seat.id]
        else:
            raise CommandError(f"{seat.id} is new, and the command does not bring the keys of its epochs along")
        if not 0 < len(keys) <= KEYS_MAX or epoch_key_proof(keys, 0)[0] != seat.epoch_root:
            raise CommandError(f"the keys of {seat.id} are not those that its epoch_root commits to")
        result[seat.id] = keys
    return result


def following(configuration: Configuration, command: Command, schedule: Schedule) -> Configuration:
    """The configuration after `configuration` by this command, without a coin key.

    `schedule` is the one that `extended` made. A pure function: everybody comes to the same, or to the same refusal.
    Raises `CommandError`, which has the numbers.
    """
    change = check_change(configuration, command)
    epoch = configuration.epoch + 1
    entries: list[RosterEntry] = []
    for seat in change.members:
        keys = schedule[seat.id]
        if epoch >= len(keys):
            way_out = "make them for more epochs (--epochs)" if seat.keys else "rotate its keys in the same step"
            raise CommandError(
                f"the keys of {seat.id} reach to epoch {len(keys) - 1}, and this would be epoch {epoch}: {way_out}"
            )
        path = epoch_key_proof(keys, epoch)[1]
        entries.append(
            RosterEntry(seat.id, seat.identity, seat.epoch_root, seat.epoch_count, keys[epoch], path, seat.addresses)
        )
    try:
        return Configuration(
            epoch,
            change.protocol,
            dict(change.parameters),
            change.f,
            change.c,
            Roster(tuple(entries), epoch),
            change.operators,
            change.operator_threshold,
            change.checkpoint_interval,
            change.window,
            qos=change.qos,
            policy=change.policy,
            stalls=stalls_after(configuration, command),
        )
    except ConfigurationError as error:
        raise CommandError(str(error)) from None


def stalls_after(configuration: Configuration, command: Command) -> int:
    """`Configuration.stalls` of the epoch after this command: operators begin anew."""
    if command.kind == STALLED:
        return configuration.stalls + 1
    return configuration.stalls if command.by_policy else 0


def check_change(configuration: Configuration, command: Command) -> Change:
    """All of `following`'s checks that need no schedule: for operators, who do not hold one. Raises `CommandError`."""
    change = command.change
    if change is None:
        raise CommandError("the command changes nothing")
    if command.at >= SLOTS_MAX:
        raise CommandError(f"slot {command.at} is never reached")
    _check_numbers(change)
    try:
        _check_operators(change)
        if change.qos is not None:
            check_qos(change.qos)
        if change.policy is not None:
            check_policy(change.policy)
    except ConfigurationError as error:
        raise CommandError(str(error)) from None
    if command.forced:
        _check_forced(configuration, change, accept_loss=command.accept_loss)
    return change


def _check_numbers(change: Change) -> None:
    n = len(change.members)
    try:
        Quorum(n, change.f, change.c)
    except QuorumError as error:
        raise CommandError(f"{error} (n >= 3f + 2c + 1)") from None
    if change.f and not change.coin:
        # SAFETY rule 26: without one, nobody could ever leave a protocol that has stopped.
        raise CommandError(f"an epoch that bears {change.f} Byzantine members needs a coin key, and this has none")
    interval, window = change.checkpoint_interval, change.window
    if not 1 <= interval <= 1 << 20 or not 2 * interval <= window <= 1 << 24:
        raise CommandError(f"a window of {window} slots is not at least twice the checkpoint interval of {interval}")


def _check_operators(change: Change) -> None:
    keys = change.operators
    if not 1 <= len(keys) <= 64 or len(set(keys)) != len(keys):
        raise CommandError(f"{len(set(keys))} different operators are listed; there must be 1 to 64, each once")
    if not 1 <= change.operator_threshold <= len(keys):
        raise CommandError(f"{change.operator_threshold} of {len(keys)} operators can never sign")
    identities = {seat.identity: seat.id for seat in change.members}
    for key in keys:
        check_key("operators", key, "an operator's key")
        if key in identities:
            raise CommandError(f"an operator's key is the identity of member {identities[key]}")


def _check_forced(configuration: Configuration, change: Change, *, accept_loss: bool) -> None:
    if configuration.f == 0 and configuration.c == 0 and not accept_loss:
        # SAFETY rule 24: what one member alone has written, and answered, nobody else knows.
        raise CommandError(
            "with c = 0 a member that is gone may have acknowledged what nobody else has; "
            "only operators who accept that loss can leave the protocol by force"
        )
    reason = configuration.why_not_forced()
    if reason is not None:
        raise CommandError(reason)
    if change.members != configuration.seats() or (change.f, change.c) != (configuration.f, configuration.c):
        raise CommandError("a forced change never changes the members, f or c: the present ones must agree on it")
    if (change.operators, change.operator_threshold) != (configuration.operators, configuration.operator_threshold):
        raise CommandError("a forced change never changes the operators")
    if (change.qos, change.policy) != (configuration.qos, configuration.policy):
        raise CommandError("a forced change never changes the needs (QoS) or the policy")
    if change.coin != (configuration.coin is not None):
        # Whoever follows the chain compares: who let this pass would end the epoch with a link that nobody believes.
        raise CommandError(
            "a forced change keeps the coin key that there is: the command must say "
            f"coin = {str(configuration.coin is not None).lower()}"
        )
