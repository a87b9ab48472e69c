"""Who the members are, and by which keys the rest of the world knows them.

A member has two kinds of keys. Its *identity* is an Ed25519 key for as long as it is a member: links are
authenticated with it. Votes, replies and hand-overs are signed with a key of the *epoch*, which is erased once the
epoch is over, so that a member that is broken into years later cannot sign an alternative past (SAFETY rule 28). So
that nobody has to believe a member which key it uses when, its entry carries a Merkle root over the keys of all
epochs to come, and the key in use with its path to that root.

A roster is valid by construction: ids and keys are unique, keys are points of the curve, every epoch key is proved.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Final

import attrs
from nacl.bindings import crypto_core_ed25519_is_valid_point

from bftkit.configuration.text import ConfigurationError
from bftkit.core.machine import MemberId
from bftkit.core.wire import U64, Digest32, Key32, Many, Member, Raw, Struct, Text, is_name
from bftkit.crypto.keys import verify_epoch_key
from bftkit.network.addresses import AddressError, parse_address

MEMBERS_MAX: Final = 1024
"""A roster has at most so many members."""

ADDRESSES_MAX: Final = 16
"""A member has at most so many addresses."""

KEY_SUGGESTION: Final = "copy the public key that `bftkit keygen` printed"


@attrs.frozen
class RosterEntry:
    """One member, as all others know it."""

    id: Member
    identity: Key32
    """Ed25519 public key: who the member is on links, for as long as it is a member."""
    epoch_root: Digest32
    """Merkle root over the public keys that the member signs with, epoch by epoch."""
    epoch_count: U64
    """How many epochs the root covers, from epoch 0 on."""
    epoch_key: Key32
    """Ed25519 public key of the roster's epoch."""
    epoch_path: Annotated[tuple[bytes, ...], Many(Raw(32), 64)]
    """The Merkle path from `epoch_key` to `epoch_root`."""
    addresses: Annotated[tuple[str, ...], Many(Text(300), ADDRESSES_MAX)]
    """Where the member can be reached, in the order in which to try; each as `str(parse_address(...))` writes it."""


@attrs.frozen
class Roster:
    """The members of one configuration, in their order. Raises `ConfigurationError` when it is built wrongly."""

    entries: Annotated[tuple[RosterEntry, ...], Many(Struct(RosterEntry), MEMBERS_MAX)]
    epoch: U64 = 0
    """The epoch whose keys the entries name."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= len(self.entries) <= MEMBERS_MAX:
            raise ConfigurationError(
                "members", f"there are {len(self.entries)} members", f"list between 1 and {MEMBERS_MAX}"
            )
        for index, entry in enumerate(self.entries):
            _check_entry(f"members[{index}]", entry, self.epoch)
        _check_unique("id", "id", ((entry.id, entry.id) for entry in self.entries))
        _check_unique("identity", "identity", ((entry.id, entry.identity) for entry in self.entries))
        _check_unique("epoch_root", "commitment", ((entry.id, entry.epoch_root) for entry in self.entries))
        # One key in two roles would let a signature made in one role be shown as if made in the other.
        roles = [(entry.id, entry.identity) for entry in self.entries]
        roles += [(entry.id, entry.epoch_key) for entry in self.entries]
        _check_unique("epoch_key", "key", roles)
        places = ((entry.id, address) for entry in self.entries for address in entry.addresses)
        _check_unique("addresses", "address", places)

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def ids(self) -> tuple[MemberId, ...]:
        """All ids, in roster order."""
        return tuple(entry.id for entry in self.entries)

    @cached_property
    def by_id(self) -> dict[MemberId, RosterEntry]:
        """The entries by id, in roster order. Not to be changed."""
        return {entry.id: entry for entry in self.entries}

    @cached_property
    def _by_identity(self) -> dict[bytes, MemberId]:
        return {entry.identity: entry.id for entry in self.entries}

    def entry(self, member: MemberId) -> RosterEntry:
        """The entry of a member. Raises `KeyError` if there is no such member."""
        return self.by_id[member]

    def identity_of(self, public: bytes) -> MemberId | None:
        """Which member has this identity key; None if none has."""
        return self._by_identity.get(public)


def check_key(where: str, key: bytes, what: str) -> None:
    """Raises `ConfigurationError` unless the bytes are an Ed25519 public key that somebody can hold."""
    # A point of small order would make signatures that hold under any text.
    if len(key) != 32 or not crypto_core_ed25519_is_valid_point(key):
        raise ConfigurationError(where, f"{key.hex()[:16]}... is not {what}: no Ed25519 public key", KEY_SUGGESTION)


def canonical_address(where: str, text: str) -> str:
    """The address in its one spelling. Raises `ConfigurationError`."""
    try:
        address = parse_address(text)
    except AddressError as error:
        raise ConfigurationError(where, str(error), "give tcp://host:port, such as tcp://127.0.0.1:7000") from None
    if address.scheme != "memory" and address.port == 0:
        raise ConfigurationError(where, f"{text!r} has port 0, which nobody can dial", "give a port of 1 to 65535")
    return str(address)


def _check_entry(where: str, entry: RosterEntry, epoch: int) -> None:
    if not is_name(entry.id):
        raise ConfigurationError(
            f"{where}.id", f"{entry.id!r} is no id", "give 1 to 32 of the characters a-z, 0-9, _ - and ."
        )
    check_key(f"{where}.identity", entry.identity, "an identity")
    check_key(f"{where}.epoch_key", entry.epoch_key, "an epoch key")
    if not epoch < entry.epoch_count < 1 << 32:
        raise ConfigurationError(
            f"{where}.epoch_count",
            f"keys for {entry.epoch_count} epochs do not reach epoch {epoch}",
            "make new epoch keys for this member with `bftkit keygen`",
        )
    if not verify_epoch_key(entry.epoch_root, entry.epoch_count, epoch, entry.epoch_key, entry.epoch_path):
        raise ConfigurationError(
            f"{where}.epoch_key",
            f"epoch_path does not prove that this is the key of {entry.id} in epoch {epoch} under its epoch_root",
            "copy epoch_root, epoch_count, epoch_key and epoch_path together, as `bftkit keygen` printed them",
        )
    if not entry.addresses:
        raise ConfigurationError(f"{where}.addresses", "the list is empty", "give at least one, as tcp://host:port")
    for index, address in enumerate(entry.addresses):
        spelt = canonical_address(f"{where}.addresses[{index}]", address)
        if spelt != address:
            raise ConfigurationError(f"{where}.addresses[{index}]", f"{address!r} is spelt oddly", f"write {spelt!r}")


def _check_unique(key: str, what: str, values: Iterable[tuple[MemberId, object]]) -> None:
    seen: dict[object, MemberId] = {}
    for member, value in values:
        if value in seen:
            other = seen[value]
            wrong = f"{member} has the {what} of {other}" if member != other else f"{member} has one {what} twice"
            if what == "id":
                wrong = f"two members have the id {member!r}"
            raise ConfigurationError("members", wrong, f"give every member its own {key}")
        seen[value] = member
