"""Operators' commands: what changes a group is signed by operators, and by nobody else.

A command is for one group and one epoch and expires with that epoch, never by a clock. It says in full what the next
configuration is to be, so that an operator signs what will be and not a difference to something that may have moved.
Its name is the digest of its body: the same command twice is one command (FAULTS 43). As many operators must sign it
as the group asks for (m of n). Signatures cover the purpose, the group and the body, so a member can neither forge a
command nor change one (FAULTS 44).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Annotated, Final

import attrs

from bftkit.configuration.policy import REASON_MAX, Policy
from bftkit.configuration.qos import QoS
from bftkit.core.digest import digest
from bftkit.core.machine import Digest
from bftkit.core.wire import (
    U8,
    U64,
    Blob,
    Bool,
    Codec,
    Digest32,
    Key32,
    Many,
    Maybe,
    Member,
    Pairs,
    Raw,
    Signature64,
    Struct,
    Text,
)
from bftkit.crypto.keys import SigningKey, framed_statement, purpose_prefix
from bftkit.crypto.signed import Certificate
from bftkit.membership.key_lists import KEYS_MAX
from bftkit.membership.roster import ADDRESSES_MAX, MEMBERS_MAX

PLANNED: Final = 1
"""Goes through the present protocol: prepared, committed, and done at a checkpoint."""
FORCED: Final = 2
"""Leaves a protocol that has stopped: the members wedge, and agree by the bedrock what was decided."""
CANCEL: Final = 3
"""Takes back what was prepared and is not committed."""

POLICY: Final = 4
"""Planned, and decided by the members' policy: no operator signs it, and nobody may order it."""
STALLED: Final = 5
"""Forced, by votes of members that the protocol has stopped, for the one mode that the policy names for that."""

KINDS: Final[Mapping[int, str]] = {
    PLANNED: "planned",
    FORCED: "forced",
    CANCEL: "cancel",
    POLICY: "planned by policy",
    STALLED: "forced by policy",
}

COMMAND_BYTES_MAX: Final = 1 << 20


class CommandError(ValueError):
    """A command that is not to be carried out; the text says why, with the numbers."""


@attrs.frozen
class Seat:
    """A member of the next configuration, as an operator names it."""

    id: Member
    identity: Key32
    epoch_root: Digest32
    epoch_count: U64
    addresses: Annotated[tuple[str, ...], Many(Text(300), ADDRESSES_MAX)]
    keys: Annotated[bytes, Blob(32 * KEYS_MAX)] = b""
    """The public keys of all its epochs, one after the other; b"" for keys that the group knows already."""


@attrs.frozen
class Change:
    """The next configuration, in full."""

    protocol: Annotated[str, Text(32)]
    parameters: Annotated[Mapping[str, int], Pairs()] = attrs.field(hash=False)
    f: U64
    c: U64
    members: Annotated[tuple[Seat, ...], Many(Struct(Seat), MEMBERS_MAX)]
    operators: Annotated[tuple[bytes, ...], Many(Raw(32), 64)]
    operator_threshold: U64
    checkpoint_interval: U64
    window: U64
    coin: Bool
    """Whether the next epoch has a coin key: for protocols that toss coins, and wherever members may lie."""
    qos: Annotated[QoS | None, Maybe(Struct(QoS))] = None
    """What is needed of the group, if operators said it."""
    policy: Annotated[Policy | None, Maybe(Struct(Policy))] = None
    """By what the members change their protocol themselves; None: they never do."""


@attrs.frozen
class Command:
    """What operators sign."""

    group: Digest32
    epoch: U64
    """The epoch that the command ends; in any other one it means nothing."""
    kind: U8
    """One of `KINDS`."""
    at: U64
    """A planned change happens at the first checkpoint from this slot on."""
    accept_loss: Bool
    """Forced, from a coordinator that nobody can replace (c = 0): what it alone has written may be lost."""
    change: Annotated[Change | None, Maybe(Struct(Change))]
    nonce: Annotated[bytes, Raw(16)]
    """Tells two wishes for the same thing apart."""
    reason: Annotated[str, Text(4 * REASON_MAX)] = ""
    """Why, for people; the chain of hand-overs keeps it."""

    def __attrs_post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind} is no kind of command")
        if (self.change is None) != (self.kind == CANCEL):
            raise ValueError("a change belongs to every command but one that cancels")

    @property
    def forced(self) -> bool:
        """Whether the protocol is left without its help."""
        return self.kind in (FORCED, STALLED)

    @property
    def by_policy(self) -> bool:
        """Whether the members' policy decided it, and no operator signed it."""
        return self.kind in (POLICY, STALLED)


@attrs.frozen
class OperatorSignature:
    """One operator's signature under a command."""

    operator: Key32
    signature: Signature64


@attrs.frozen
class SignedCommand:
    """A command and its signatures, in ascending order of the operators' keys."""

    body: Annotated[bytes, Blob(COMMAND_BYTES_MAX)]
    signatures: Annotated[tuple[OperatorSignature, ...], Many(Struct(OperatorSignature), 64)]
    stalled: Annotated[Certificate | None, Maybe(Struct(Certificate))] = None
    """In place of operators' signatures, for `STALLED`: members that the protocol has stopped."""

    @cached_property
    def name(self) -> Digest:
        """The command's name: the digest of its body."""
        return digest(b"bftkit command", self.body)

    @cached_property
    def command(self) -> Command:
        """What it says. Raises `WireError`."""
        return COMMAND_CODEC.decode(self.body)

    def encode(self) -> bytes:
        """Body and signatures as bytes."""
        return SIGNED_CODEC.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> SignedCommand:
        """Raises `WireError`, also if the body is no command."""
        signed = SIGNED_CODEC.decode(data)
        _ = signed.command
        return signed

    def signed_by(self, key: SigningKey) -> SignedCommand:
        """The same with one more operator's signature."""
        mine = OperatorSignature(key.public, key.sign(statement(self.command.group, self.body)))
        others = [item for item in self.signatures if item.operator != key.public]
        return attrs.evolve(self, signatures=tuple(sorted([*others, mine], key=lambda item: item.operator)))

    def check(
        self,
        group: bytes,
        epoch: int,
        operators: Collection[bytes],
        threshold: int,
        verify: Callable[[bytes, bytes, bytes], bool],
    ) -> Command:
        """The command, if enough operators of this epoch signed it for this epoch. Raises `CommandError`.

        What a policy decides is none of theirs: see `bftkit.membership.steering`.
        """
        command = self.command
        self.check_epoch(group, epoch)
        if command.by_policy or self.stalled is not None:
            raise CommandError("only the group's own policy decides that; operators sign planned and forced changes")
        keys = [item.operator for item in self.signatures]
        if keys != sorted(set(keys)):
            raise CommandError("the signatures are not in order, or one is there twice")
        said = statement(group, self.body)
        for item in self.signatures:
            if item.operator not in operators:
                raise CommandError(f"{item.operator.hex()[:16]} is no operator of this epoch")
            if not verify(item.operator, said, item.signature):
                raise CommandError(f"the signature of operator {item.operator.hex()[:16]} is not good")
        if len(keys) < threshold:
            raise CommandError(
                f"{len(keys)} {'operator' if len(keys) == 1 else 'operators'} signed, and {threshold} must"
            )
        return command

    def check_epoch(self, group: bytes, epoch: int) -> None:
        """Raises `CommandError` unless the command is for this group and epoch."""
        command = self.command
        if command.group != group:
            raise CommandError("the command is for another group")
        if command.epoch != epoch:
            raise CommandError(f"the command is for epoch {command.epoch}; this is epoch {epoch}")


def sign_command(command: Command, *keys: SigningKey) -> SignedCommand:
    """The command, signed by these operators."""
    signed = SignedCommand(COMMAND_CODEC.encode(command), ())
    for key in keys:
        signed = signed.signed_by(key)
    return signed


def statement(group: bytes, body: bytes) -> bytes:
    """What an operator signs: purpose, group and the body, which has the epoch in it (SAFETY rule 2)."""
    return purpose_prefix("operator") + group + framed_statement(body)


COMMAND_CODEC: Final = Codec[Command]("command", {1: Command}, bytes_max=COMMAND_BYTES_MAX)
SIGNED_CODEC: Final = Codec[SignedCommand]("signed command", {1: SignedCommand}, bytes_max=COMMAND_BYTES_MAX + 8192)

__all__ = [
    "CANCEL",
    "COMMAND_BYTES_MAX",
    "COMMAND_CODEC",
    "FORCED",
    "KEYS_MAX",
    "KINDS",
    "PLANNED",
    "POLICY",
    "STALLED",
    "Change",
    "Command",
    "CommandError",
    "OperatorSignature",
    "Seat",
    "SignedCommand",
    "sign_command",
    "statement",
]
