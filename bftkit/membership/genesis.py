"""The genesis: everything that a group agrees on before its first slot, in one small file.

Every member and every client holds the same genesis. Its digest is the *group id*, which stands in front of whatever
members sign (SAFETY rule 2): two members with different files do not merely misbehave, they are in different groups
and refuse each other. Sixteen random bytes in it keep two groups apart whose settings are the same.

There are two forms. `encode` gives the canonical bytes that are hashed, sent and kept; `to_text` gives the TOML that
a person reads. Both ways lead back to an equal genesis. A genesis is valid by construction: whoever holds one holds a
group that can run; every mistake is a `ConfigurationError` that says where, what, and what would be right. The bytes
of a genesis without a coin key are what they were before there were coins, so that no group's id has changed.

The text may have an *annex*, the table ``[epoch_keys]`` with all members' public keys of all epochs. It is no part of
the group's id, and of no genesis's bytes: it proves itself against the roster (see ADR 0018). A group whose members
found none can never be changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Final, Literal, cast

import attrs

from bftkit.configuration.needs import (
    PolicyTable,
    QoSTable,
    check_policy,
    check_qos,
    policy_from_table,
    policy_table,
    qos_from_table,
    qos_table,
)
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import DURABILITIES, QoS
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
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.quorum import Quorum, QuorumError
from bftkit.core.wire import U64, Codec, Many, Maybe, Pairs, Raw, Struct, Text, WireError, is_name
from bftkit.crypto.threshold import CoinPublics
from bftkit.membership.founding import CoinTable, check_coin, coin_from_table, coin_table
from bftkit.membership.key_lists import check_epoch_keys, keys_from_text, keys_text
from bftkit.membership.roster import (
    MEMBERS_MAX,
    Roster,
    RosterEntry,
    canonical_address,
    check_key,
)

CLIENT_POLICIES: Final = ("open", "listed")
"""Who may submit operations: whoever holds a key, or the listed keys alone."""

NONCE_SIZE: Final = 16
OVERHEAD: Final = 1024
"""Room (bytes) that a bundle leaves around an operation and a batch around a bundle."""

BATCH_BYTES_MAX: Final = 15 << 20
"""No batch may be larger: with a proposal around it, it must fit into one frame of the network."""

_SERVICE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_PARAMETER: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


def _two_checkpoints(genesis: Genesis) -> int:
    return 2 * genesis.checkpoint_interval


def _sorted_copy(pairs: Mapping[str, int]) -> Mapping[str, int]:
    return dict(sorted(pairs.items()))


@attrs.frozen
class Limits:
    """Bounds that every member must draw alike, since a request that one takes and another refuses splits the group."""

    operation_bytes_max: U64 = 1 << 20
    """The longest operation (bytes)."""
    bundle_bytes_max: U64 = 2 << 20
    """The longest bundle of requests (bytes)."""
    batch_bytes_max: U64 = 4 << 20
    """The longest batch (bytes)."""
    sessions_max: U64 = 4096
    """How many client sessions are kept; beyond them the one unused for longest is expired."""
    session_window: U64 = 8192
    """How many sequence numbers of one client may be open at a time (SAFETY rule 9)."""

    def __attrs_post_init__(self) -> None:
        for name, lowest, highest in (
            ("operation_bytes_max", 1, BATCH_BYTES_MAX),
            ("bundle_bytes_max", 1, BATCH_BYTES_MAX),
            ("batch_bytes_max", 1, BATCH_BYTES_MAX),
            ("sessions_max", 1, 1 << 20),
            ("session_window", 1, 1 << 20),
        ):
            check_range(f"limits.{name}", getattr(self, name), lowest, highest)
        for inner, outer in (
            ("operation_bytes_max", "bundle_bytes_max"),
            ("bundle_bytes_max", "batch_bytes_max"),
        ):
            least = getattr(self, inner) + OVERHEAD
            if getattr(self, outer) < least:
                raise ConfigurationError(
                    f"limits.{outer}",
                    f"{getattr(self, outer)} bytes are too few for {inner} = {getattr(self, inner)}",
                    f"give at least {least}",
                )


@attrs.frozen
class _Founding:
    """What every genesis has: the wire form of one without a coin key. `Genesis` checks it."""

    name: Annotated[str, Text(32)]
    """For people: 1 to 32 of the characters of an id."""
    protocol: Annotated[str, Text(32)]
    """The ordering protocol of epoch 0, by its entry point's name."""
    f: U64
    """How many members may be Byzantine."""
    c: U64
    """How many more may only crash."""
    roster: Roster
    operators: Annotated[tuple[bytes, ...], Many(Raw(32), 64)]
    """Ed25519 public keys of those who may sign commands to the group."""
    operator_threshold: U64
    """So many operators must sign a command."""
    service: Annotated[str, Text(256)]
    """The state machine that all members run, as ``package.module:Class``."""
    nonce: Annotated[bytes, Raw(NONCE_SIZE)]
    """Random bytes, so that two groups never share an id."""
    client_policy: Annotated[Literal["open", "listed"], Text(16)] = "open"
    clients: Annotated[tuple[bytes, ...], Many(Raw(32), 65536)] = ()
    """Ed25519 public keys of the clients, when the policy is ``listed``."""
    parameters: Annotated[Mapping[str, int], Pairs()] = attrs.field(
        factory=dict[str, int], converter=_sorted_copy, hash=False
    )
    """Settings of the protocol; what is absent has its default. Not to be changed."""
    durability: Annotated[Literal["fsync", "async", "memory"], Text(16)] = "fsync"
    checkpoint_interval: U64 = 128
    """K: slots from one checkpoint to the next."""
    window: U64 = attrs.field(default=attrs.Factory(_two_checkpoints, takes_self=True))
    """How far above the last stable checkpoint slots are opened; at least 2K (SAFETY rule 18)."""
    limits: Limits = attrs.field(factory=Limits)


@attrs.frozen
class _WithCoin:
    """The wire form of a genesis with a coin key."""

    founding: _Founding
    coin: CoinPublics


@attrs.frozen
class _WithWishes:
    """The wire form of a genesis that says what is needed of the group, or how it changes by itself."""

    founding: _Founding
    coin: Annotated[CoinPublics | None, Maybe(Struct(CoinPublics))]
    qos: Annotated[QoS | None, Maybe(Struct(QoS))]
    policy: Annotated[Policy | None, Maybe(Struct(Policy))]


@attrs.frozen
class Genesis(_Founding):
    """All that a group agrees on before its first slot. See the top of this file."""

    coin: CoinPublics | None = None
    """What everybody may know of the coin key of epoch 0, for protocols that toss coins."""
    qos: QoS | None = None
    """What is needed of the group, if its founder said so."""
    policy: Policy | None = None
    """By what the members change their protocol themselves; None: they never do."""
    schedule: Mapping[MemberId, tuple[bytes, ...]] | None = attrs.field(default=None, eq=False, hash=False, repr=False)
    """The annex: every member's public keys, from epoch 0 on. Not to be changed."""

    def __attrs_post_init__(self) -> None:
        _check_words(self)
        _check_faults(self)
        _check_operators(self)
        _check_clients(self)
        if self.coin is not None:
            check_coin(self.coin, self.quorum)
        if self.qos is not None:
            check_qos(self.qos)
        if self.policy is not None:
            check_policy(self.policy)
        check_range("checkpoint_interval", self.checkpoint_interval, 1, 1 << 20)
        if not 2 * self.checkpoint_interval <= self.window <= 1 << 24:
            raise ConfigurationError(
                "window",
                f"{self.window} slots are not between two checkpoint intervals ({self.checkpoint_interval} each) "
                f"and {1 << 24}",
                f"give {2 * self.checkpoint_interval} or a little more",
            )
        if self.schedule is not None:
            _check_schedule(self.roster, self.schedule)

    @cached_property
    def quorum(self) -> Quorum:
        """The quorum sizes of epoch 0."""
        return Quorum(len(self.roster), self.f, self.c)

    @cached_property
    def _encoded(self) -> bytes:
        founding = _Founding(*[getattr(self, field.name) for field in attrs.fields(_Founding)])
        if self.qos is not None or self.policy is not None:
            return _CODEC.encode(_WithWishes(founding, self.coin, self.qos, self.policy))
        return _CODEC.encode(founding if self.coin is None else _WithCoin(founding, self.coin))

    def encode(self) -> bytes:
        """The genesis as bytes; equal genesis, equal bytes."""
        return self._encoded

    @classmethod
    def decode(cls, data: bytes) -> Genesis:
        """The genesis that these bytes encode. Raises `WireError`."""
        found = _CODEC.decode(data)
        founding = found if isinstance(found, _Founding) else found.founding
        coin = None if isinstance(found, _Founding) else found.coin
        qos, policy = (found.qos, found.policy) if isinstance(found, _WithWishes) else (None, None)
        fields = {field.name: getattr(founding, field.name) for field in attrs.fields(_Founding)}
        try:
            return cls(**fields, coin=coin, qos=qos, policy=policy)
        except ConfigurationError as error:
            raise WireError(f"Genesis: {error!s:.80}") from None

    @cached_property
    def group_id(self) -> bytes:
        """The group's id: 32 bytes that no other group has."""
        return digest(b"bftkit genesis", self.encode())

    def check_protocol(self, record: ProtocolRecord) -> None:
        """Whether the protocol, by what it says of itself, can run this group. Raises `ConfigurationError`."""
        check_protocol(record, self.protocol, self.parameters, self.quorum)
        check_tossed(record, self.coin)

    def to_text(self) -> str:
        """The genesis as TOML, with comments."""
        return _HEADER + f"# Group id: {self.group_id.hex()}\n\n" + to_toml(genesis_table(self), _COMMENTS)

    @classmethod
    def from_text(cls, text: str) -> Genesis:
        """The genesis that a TOML text describes. Raises `ConfigurationError`."""
        return _from_table(structure(parse_toml(text), _GenesisTable))


_CODEC: Final = Codec["_Founding | _WithCoin | _WithWishes"]("genesis", {1: _Founding, 2: _WithCoin, 3: _WithWishes})


# ------------------------------------------------------------------------------------------------- checks


def check_protocol(record: ProtocolRecord, protocol: str, parameters: Mapping[str, int], quorum: Quorum) -> None:
    """Whether the protocol of this record can run so many members with so many faults, and has these parameters.

    Of its coins nothing is said: see `check_tossed`. Raises `ConfigurationError`.
    """
    if record.name != protocol:
        raise ConfigurationError(
            "protocol", f"{protocol!r} was asked for, {record.name!r} found", "install the right package"
        )
    f, c = quorum.f, quorum.c
    if f and not record.byzantine:
        raise ConfigurationError(
            "byzantine",
            f"the protocol {protocol} survives crashes only, and {f} Byzantine members are allowed for",
            "give 0, or choose a protocol that survives liars, such as pbft",
        )
    needed = record.members_needed(f, c)
    if quorum.n < needed:
        raise ConfigurationError(
            "byzantine, crash",
            f"{f} Byzantine and {c} crash faults need {needed} members under {protocol}, "
            f"for which a crash costs as much as a lie (n >= 3 (f + c) + 1); there are {quorum.n}",
            "add members, or lower them",
        )
    for name, value in parameters.items():
        parameter = record.parameters.get(name)
        if parameter is None:
            known = ", ".join(sorted(record.parameters)) or "none"
            raise ConfigurationError(f"parameters.{name}", f"{protocol} has no such parameter", f"known here: {known}")
        check_range(f"parameters.{name}", value, parameter.minimum, parameter.maximum)


def check_tossed(record: ProtocolRecord, coin: CoinPublics | None) -> None:
    """Whether there is a coin key if the protocol tosses coins. Raises `ConfigurationError`."""
    if record.coins and coin is None:
        raise ConfigurationError(
            "coin",
            f"the protocol {record.name} tosses coins, and this group has no coin key",
            "found the group with bftkit init, which deals one",
        )


def _check_schedule(roster: Roster, schedule: Mapping[MemberId, tuple[bytes, ...]]) -> None:
    for member in sorted(schedule):
        if member not in roster.by_id:
            raise ConfigurationError(f"epoch_keys.{member}", "there is no such member", "remove the line")
    for entry in roster.entries:
        where = f"epoch_keys.{entry.id}"
        if entry.id not in schedule:
            raise ConfigurationError(
                where, "the member's keys are missing", "list those of all members, or leave the table out"
            )
        check_epoch_keys(where, entry.id, entry.epoch_root, entry.epoch_count, schedule[entry.id])


def check_service(where: str, name: str) -> None:
    """Raises `ConfigurationError` unless the text has the form of a service's name. Whether it exists is not asked."""
    if not _SERVICE.fullmatch(name):
        raise ConfigurationError(
            where, f"{name!r} does not name a service", 'give "package.module:Class", such as "shop.orders:Orders"'
        )


def _check_words(genesis: Genesis) -> None:
    for where, word in (("name", genesis.name), ("protocol", genesis.protocol)):
        if not is_name(word):
            raise ConfigurationError(
                where, f"{word!r} is no name", "give 1 to 32 of the characters a-z, 0-9, _ - and ."
            )
    check_service("service", genesis.service)
    check_choice("durability", genesis.durability, DURABILITIES)
    check_choice("clients.policy", genesis.client_policy, CLIENT_POLICIES)
    for name, value in genesis.parameters.items():
        if not _PARAMETER.fullmatch(name):
            raise ConfigurationError(f"parameters.{name}", "this is no parameter's name", "use a-z, 0-9 and _")
        check_range(f"parameters.{name}", value, 0, (1 << 63) - 1)
    if len(genesis.nonce) != NONCE_SIZE:
        raise ConfigurationError("nonce", f"it has {len(genesis.nonce)} bytes", f"give {NONCE_SIZE} random bytes")


def _check_faults(genesis: Genesis) -> None:
    check_range("byzantine", genesis.f, 0, MEMBERS_MAX)
    check_range("crash", genesis.c, 0, MEMBERS_MAX)
    n = len(genesis.roster)
    try:
        Quorum(n, genesis.f, genesis.c)
    except QuorumError as error:
        # SAFETY rule 1: what would be right is told both ways, more members or fewer faults.
        f = min(genesis.f, (n - 1) // 3)
        c = min(genesis.c, (n - 1 - 3 * f) // 2)
        raise ConfigurationError(
            "byzantine, crash",
            f"{error} (n >= 3f + 2c + 1)",
            f"add members, or lower them to byzantine = {f}, crash = {c}",
        ) from None


def _check_operators(genesis: Genesis) -> None:
    if not 1 <= len(genesis.operators) <= 64:
        raise ConfigurationError(
            "operators.keys",
            f"there are {len(genesis.operators)} operators, and only an operator can ever change the group",
            "list 1 to 64 public keys",
        )
    identities = {entry.identity: entry.id for entry in genesis.roster.entries}
    for index, key in enumerate(genesis.operators):
        where = f"operators.keys[{index}]"
        check_key(where, key, "an operator's key")
        if key in genesis.operators[:index]:
            raise ConfigurationError(where, "the key is listed twice", "list every operator once")
        if key in identities:
            # Or else one member that is broken into could reconfigure the group.
            raise ConfigurationError(
                where, f"this is the identity of member {identities[key]}", "give operators keys of their own"
            )
    if not 1 <= genesis.operator_threshold <= len(genesis.operators):
        raise ConfigurationError(
            "operators.threshold",
            f"{genesis.operator_threshold} of {len(genesis.operators)} operators can never sign",
            f"give a number between 1 and {len(genesis.operators)}",
        )


def _check_clients(genesis: Genesis) -> None:
    if genesis.client_policy == "open" and genesis.clients:
        raise ConfigurationError(
            "clients",
            f"the policy is open, so the {len(genesis.clients)} listed keys would mean nothing",
            'give policy = "listed", or remove the keys',
        )
    if genesis.client_policy == "listed" and not genesis.clients:
        raise ConfigurationError(
            "clients", "the policy is listed, and no key is listed: nobody could use the group", "list a public key"
        )
    seen: set[bytes] = set()
    for index, key in enumerate(genesis.clients):
        where = f"clients.keys[{index}]"
        check_key(where, key, "a client's key")
        if key in seen:
            raise ConfigurationError(where, "the key is listed twice", "list every client once")
        seen.add(key)


# ------------------------------------------------------------------------------------------------- as text

_HEADER: Final = """\
# The genesis of a bftkit group: the same file at every member and every client.
# Whoever changes anything in it, be it one digit, has founded another group.
"""

_COMMENTS: Final = {
    "byzantine": "How many members may lie, and how many more may only crash: members >= 3 byzantine + 2 crash + 1.",
    "checkpoint_interval": "Slots from one checkpoint to the next; the window is at least twice that.",
    "parameters": "Settings of the protocol; what is not here has its default.",
    "limits": "Sizes in bytes. Every member must draw the same line, so it is drawn here.",
    "clients": 'Who may submit operations: "open" to all, or the "listed" keys.',
    "coin": "The key of the group's coins: how many shares make one, and each member's point, in the members' order.",
    "operators": "Who may sign commands that change the group, and how many of them must.",
    "members": "The members in their order. epoch_path proves that epoch_key is the key of epoch 0 under epoch_root.",
    "epoch_keys": "All public keys that the members will sign with, epoch by epoch. No part of the group's id:\n"
    "each list proves itself by the member's epoch_root. Without them the group can never be changed.",
}


@attrs.frozen
class _MemberTable:
    id: str
    identity: str
    epoch_root: str
    epoch_count: int
    epoch_key: str
    epoch_path: tuple[str, ...]
    addresses: tuple[str, ...] = attrs.field(metadata=right('a list of addresses, such as ["tcp://127.0.0.1:7000"]'))


@attrs.frozen
class _ClientsTable:
    policy: str = attrs.field(default="open", metadata=right('"open" or "listed"'))
    keys: tuple[str, ...] = attrs.field(default=(), metadata=right("a list of public keys"))


@attrs.frozen
class _OperatorsTable:
    keys: tuple[str, ...] = attrs.field(metadata=right("a list of public keys"))
    threshold: int = attrs.field(default=1, metadata=right("how many operators must sign, as a whole number"))


@attrs.frozen
class _LimitsTable:
    operation_bytes_max: int = Limits().operation_bytes_max
    bundle_bytes_max: int = Limits().bundle_bytes_max
    batch_bytes_max: int = Limits().batch_bytes_max
    sessions_max: int = Limits().sessions_max
    session_window: int = Limits().session_window


@attrs.frozen
class _GenesisTable:
    """The shape of the file; `_from_table` checks what it means."""

    name: str
    protocol: str = attrs.field(metadata=right('the name of an installed protocol, such as "pbft"'))
    byzantine: int = attrs.field(metadata=right("how many members may be Byzantine, as a whole number"))
    crash: int = attrs.field(metadata=right("how many more members may crash, as a whole number"))
    service: str = attrs.field(metadata=right('"package.module:Class"'))
    nonce: str = attrs.field(metadata=right(f"{NONCE_SIZE} random bytes as {2 * NONCE_SIZE} hexadecimal digits"))
    members: tuple[_MemberTable, ...] = attrs.field(metadata=right("one [[members]] table for each member"))
    operators: _OperatorsTable = attrs.field(metadata=right("a table [operators] with keys and threshold"))
    durability: str = "fsync"
    checkpoint_interval: int = 128
    window: int | None = None
    parameters: dict[str, int] = attrs.field(factory=dict[str, int])
    limits: _LimitsTable = attrs.field(factory=_LimitsTable)
    clients: _ClientsTable = attrs.field(factory=_ClientsTable)
    coin: CoinTable | None = attrs.field(
        default=None, metadata=right("a table [coin] with scheme, threshold and points")
    )
    qos: QoSTable | None = attrs.field(default=None, metadata=right("a table [qos] of what is needed"))
    policy: PolicyTable | None = attrs.field(default=None, metadata=right("a table [policy] with name and modes"))
    epoch_keys: dict[str, str] | None = attrs.field(
        default=None, metadata=right("a table [epoch_keys] with a text in base64 for each member")
    )


def entry_table(entry: RosterEntry) -> dict[str, Value]:
    """A member as a table of the genesis."""
    return {
        "id": entry.id,
        "addresses": list(entry.addresses),
        "identity": entry.identity.hex(),
        "epoch_root": entry.epoch_root.hex(),
        "epoch_count": entry.epoch_count,
        "epoch_key": entry.epoch_key.hex(),
        "epoch_path": [node.hex() for node in entry.epoch_path],
    }


def genesis_table(genesis: Genesis) -> dict[str, Value]:
    """The genesis as plain tables, as its text has them."""
    limits: dict[str, Value] = attrs.asdict(genesis.limits)
    coin: dict[str, Value] = {} if genesis.coin is None else {"coin": coin_table(genesis.coin)}
    wishes: dict[str, Value] = {}
    if genesis.qos is not None:
        wishes["qos"] = qos_table(genesis.qos)
    if genesis.policy is not None:
        wishes["policy"] = policy_table(genesis.policy)
    schedule = genesis.schedule
    annex: dict[str, Value] = {}
    if schedule is not None:
        annex = {"epoch_keys": {member: keys_text(schedule[member]) for member in genesis.roster.ids}}
    return {
        "name": genesis.name,
        "protocol": genesis.protocol,
        "byzantine": genesis.f,
        "crash": genesis.c,
        "service": genesis.service,
        "durability": genesis.durability,
        "checkpoint_interval": genesis.checkpoint_interval,
        "window": genesis.window,
        "nonce": genesis.nonce.hex(),
        "parameters": dict(genesis.parameters),
        "limits": limits,
        "clients": {"policy": genesis.client_policy, "keys": [key.hex() for key in genesis.clients]},
        "operators": {"threshold": genesis.operator_threshold, "keys": [key.hex() for key in genesis.operators]},
        **coin,
        **wishes,
        "members": [entry_table(entry) for entry in genesis.roster.entries],
        **annex,
    }


def _entry_from_table(where: str, table: _MemberTable) -> RosterEntry:
    return RosterEntry(
        id=table.id,
        identity=hex_bytes(f"{where}.identity", table.identity, 32, "an identity key"),
        epoch_root=hex_bytes(f"{where}.epoch_root", table.epoch_root, 32, "a Merkle root"),
        epoch_count=table.epoch_count,
        epoch_key=hex_bytes(f"{where}.epoch_key", table.epoch_key, 32, "an epoch key"),
        epoch_path=tuple(
            hex_bytes(f"{where}.epoch_path[{index}]", node, 32, "a node of a Merkle path")
            for index, node in enumerate(table.epoch_path)
        ),
        addresses=tuple(
            canonical_address(f"{where}.addresses[{index}]", address) for index, address in enumerate(table.addresses)
        ),
    )


def _keys(where: str, texts: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(hex_bytes(f"{where}[{index}]", text, 32, "a public key") for index, text in enumerate(texts))


def _from_table(table: _GenesisTable) -> Genesis:
    check_choice("durability", table.durability, DURABILITIES)
    check_choice("clients.policy", table.clients.policy, CLIENT_POLICIES)
    interval = table.checkpoint_interval
    check_range("checkpoint_interval", interval, 1, 1 << 20)
    entries = tuple(_entry_from_table(f"members[{index}]", member) for index, member in enumerate(table.members))
    return Genesis(
        name=table.name,
        protocol=table.protocol,
        f=table.byzantine,
        c=table.crash,
        roster=Roster(entries),
        operators=_keys("operators.keys", table.operators.keys),
        operator_threshold=table.operators.threshold,
        service=table.service,
        nonce=hex_bytes("nonce", table.nonce, NONCE_SIZE, "a nonce"),
        client_policy=cast('Literal["open", "listed"]', table.clients.policy),
        clients=_keys("clients.keys", table.clients.keys),
        parameters=table.parameters,
        durability=cast('Literal["fsync", "async", "memory"]', table.durability),
        checkpoint_interval=interval,
        window=2 * interval if table.window is None else table.window,
        limits=Limits(**attrs.asdict(table.limits)),
        coin=None if table.coin is None else coin_from_table(table.coin),
        qos=None if table.qos is None else qos_from_table(table.qos),
        policy=None if table.policy is None else policy_from_table(table.policy),
        schedule=None
        if table.epoch_keys is None
        else {member: keys_from_text(f"epoch_keys.{member}", text) for member, text in table.epoch_keys.items()},
    )
