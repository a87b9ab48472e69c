"""A member's card: what a group must know of a member that is to join it, in a file that one can mail.

Whoever sets a machine up makes its keys there (`bftkit init --join`) and hands the card to an operator, who puts it
into a command. Nothing in it is secret, and it proves itself: the list of public keys is the one that the Merkle root
commits to. Whether the card came from the right machine, the operator must know.
"""

from __future__ import annotations

import attrs

from bftkit.configuration.text import ConfigurationError, Value, hex_bytes, parse_toml, right, structure, to_toml
from bftkit.core.machine import MemberId
from bftkit.crypto.keys import epoch_key_proof
from bftkit.membership.commands import Seat
from bftkit.membership.key_lists import check_epoch_keys, keys_from_text, keys_text
from bftkit.membership.roster import ADDRESSES_MAX, RosterEntry, canonical_address, check_key

_HEADER = "# What a bftkit group must know of a member that is to join it. Nothing in it is secret.\n"


@attrs.frozen
class MemberCard:
    """What others must know of a member. Valid by construction: raises `ConfigurationError`."""

    id: MemberId
    identity: bytes
    """Ed25519 public key, 32 bytes."""
    epoch_root: bytes
    addresses: tuple[str, ...]
    keys: tuple[bytes, ...] = attrs.field(repr=False)
    """The public keys of all its epochs, from epoch 0 on."""
    group: bytes | None = None
    """The id of the group that its folder was made for; None: of any."""

    def __attrs_post_init__(self) -> None:
        check_key("identity", self.identity, "an identity")
        check_epoch_keys("epoch_keys", self.id, self.epoch_root, len(self.keys), self.keys)
        if not 1 <= len(self.addresses) <= ADDRESSES_MAX:
            raise ConfigurationError(
                "addresses", f"there are {len(self.addresses)}", f"give 1 to {ADDRESSES_MAX}, as tcp://host:port"
            )
        # The rest is what a roster asks of its entries.
        _ = self.entry

    @property
    def epoch_count(self) -> int:
        """For how many epochs it has keys."""
        return len(self.keys)

    @property
    def entry(self) -> RosterEntry:
        """The member as a roster of epoch 0 would have it."""
        root, path = epoch_key_proof(self.keys, 0)
        return RosterEntry(self.id, self.identity, root, len(self.keys), self.keys[0], path, self.addresses)

    def seat(self) -> Seat:
        """The member as a command names it, with the keys that the group does not know yet."""
        return Seat(self.id, self.identity, self.epoch_root, len(self.keys), self.addresses, b"".join(self.keys))

    def to_text(self) -> str:
        """The card as TOML."""
        group: dict[str, Value] = {} if self.group is None else {"group": self.group.hex()}
        return _HEADER + to_toml(
            {
                "id": self.id,
                **group,
                "identity": self.identity.hex(),
                "epoch_root": self.epoch_root.hex(),
                "epoch_count": len(self.keys),
                "addresses": list(self.addresses),
                "epoch_keys": keys_text(self.keys),
            }
        )

    @classmethod
    def from_text(cls, text: str) -> MemberCard:
        """The card that a TOML text is. Raises `ConfigurationError`."""
        table = structure(parse_toml(text), _CardTable)
        keys = keys_from_text("epoch_keys", table.epoch_keys)
        if len(keys) != table.epoch_count:
            raise ConfigurationError(
                "epoch_count", f"the card has {len(keys)} epoch keys, not {table.epoch_count}", "copy the whole card"
            )
        return cls(
            table.id,
            hex_bytes("identity", table.identity, 32, "an identity key"),
            hex_bytes("epoch_root", table.epoch_root, 32, "a Merkle root"),
            tuple(canonical_address(f"addresses[{index}]", one) for index, one in enumerate(table.addresses)),
            keys,
            None if table.group is None else hex_bytes("group", table.group, 32, "a group's id"),
        )


@attrs.frozen
class _CardTable:
    id: str = attrs.field(metadata=right('the member\'s id, such as "m4"'))
    identity: str = attrs.field(metadata=right("a public key as 64 hexadecimal digits"))
    epoch_root: str = attrs.field(metadata=right("a Merkle root as 64 hexadecimal digits"))
    epoch_count: int = attrs.field(metadata=right("how many epoch keys there are, as a whole number"))
    addresses: tuple[str, ...] = attrs.field(metadata=right('a list of addresses, such as ["tcp://127.0.0.1:7000"]'))
    epoch_keys: str = attrs.field(metadata=right("all public keys, one after the other, in base64"))
    group: str | None = attrs.field(default=None, metadata=right("a group's id as 64 hexadecimal digits"))
