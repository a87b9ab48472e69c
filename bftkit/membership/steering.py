"""What a group's policy decides, as commands that no operator signs.

A policy's decision is a command like any other, so that all that follows it is the same: preparing, committing, the
hand-over that chains, what clients check. In place of operators' signatures there is:

- for a planned change (`POLICY`), the quorum under the hand-over: correct members sign the end of an epoch only as
  their replicated state has decided it, so nobody can order such a command;
- for a forced one (`STALLED`), n - f - c members' votes that the protocol has stopped (SAFETY rule 25).

And always the policy itself, which operators signed into the configuration: it lists all the modes that its decisions
can lead to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import attrs

from bftkit.configuration.policy import REASON_MAX
from bftkit.core.digest import digest
from bftkit.core.machine import Slot
from bftkit.core.wire import WireError
from bftkit.crypto.keys import Keyring
from bftkit.crypto.signed import Certificate
from bftkit.membership.commands import (
    COMMAND_CODEC,
    POLICY,
    STALLED,
    Change,
    Command,
    CommandError,
    SignedCommand,
)
from bftkit.membership.epochs import Configuration

STALLED_PURPOSE: Final = "stalled"
_STALLED: Final = struct.Struct(">QQ")


def steered(group: bytes, here: Configuration, mode: int, slot: Slot, reason: str) -> SignedCommand:
    """The planned change to this mode of the policy, decided at this slot."""
    nonce = digest(b"bftkit policy", here.epoch.to_bytes(8, "big"), slot.to_bytes(8, "big"))[:16]
    command = Command(group, here.epoch, POLICY, 0, False, _change(here, mode), nonce, reason[:REASON_MAX])
    return SignedCommand(COMMAND_CODEC.encode(command), ())


def leaving(group: bytes, here: Configuration) -> SignedCommand:
    """The forced change of this epoch, without the votes: the same command whatever was decided before."""
    policy = here.policy
    assert policy is not None
    assert policy.forced
    nonce = digest(b"bftkit stalled", here.epoch.to_bytes(8, "big"))[:16]
    reason = f"{here.protocol} has stopped: nothing was decided for {stall_ms(here)} ms while requests waited"
    command = Command(group, here.epoch, STALLED, 0, False, _change(here, policy.forced - 1), nonce, reason)
    return SignedCommand(COMMAND_CODEC.encode(command), ())


def stall_ms(here: Configuration) -> int:
    """After how long without a decision the epoch's protocol has stopped: it doubles with each such change."""
    policy = here.policy
    assert policy is not None
    return policy.stall_ms << min(here.stalls, 16)


def stalled_body(epoch: int, slot: Slot) -> bytes:
    """What a member signs whose protocol has decided nothing since this slot."""
    return _STALLED.pack(epoch, slot)


def read_stalled(body: bytes) -> tuple[int, Slot]:
    """(epoch, slot) of such a vote. Raises `WireError`."""
    if len(body) != _STALLED.size:
        raise WireError("not the statement that a protocol has stopped")
    epoch, slot = _STALLED.unpack(body)
    return epoch, slot


def _change(here: Configuration, mode: int) -> Change:
    assert here.policy is not None
    wanted = here.policy.modes[mode]
    return attrs.evolve(here.change(), protocol=wanted.protocol, parameters=dict(wanted.parameters))


def authorized(
    group: bytes,
    here: Configuration,
    signed: SignedCommand,
    keyring: Keyring,
    verify: Callable[[bytes, bytes, bytes], bool],
) -> Command:
    """The command, if operators or the policy of this epoch stand behind it. Raises `CommandError`.

    `keyring` verifies signatures of the epoch's members. For `POLICY` this says that the policy may decide so; that it
    did is said by the quorum under the hand-over.
    """
    command = signed.command
    if not command.by_policy:
        return signed.check(group, here.epoch, here.operators, here.operator_threshold, verify)
    signed.check_epoch(group, here.epoch)
    if signed.signatures:
        raise CommandError("operators do not sign what a policy decides")
    policy = here.policy
    if policy is None:
        raise CommandError(f"epoch {here.epoch} has no policy")
    if command.kind == STALLED:
        if not policy.forced:
            raise CommandError("the policy never leaves a protocol by force")
        if command != leaving(group, here).command:
            raise CommandError("this is not the forced change that the policy names")
        _check_stalled(here, signed.stalled, keyring)
    elif signed.stalled is not None:
        raise CommandError("votes that a protocol has stopped belong to a forced change")
    elif not any(command.change == _change(here, mode) for mode in range(len(policy.modes))):
        raise CommandError("the policy has no such mode")
    elif command.accept_loss or command.at:
        raise CommandError("a policy accepts no loss, and names no slot")
    return command


def _check_stalled(here: Configuration, certificate: Certificate | None, keyring: Keyring) -> None:
    needed = here.quorum.available
    if certificate is None or not certificate.valid(keyring, STALLED_PURPOSE, needed):
        raise CommandError(f"it is not signed by {needed} members that the protocol has stopped")
    try:
        epoch, _ = read_stalled(certificate.body)
    except WireError as error:
        raise CommandError(str(error)) from None
    if epoch != here.epoch:
        raise CommandError(f"the votes are of epoch {epoch}")
