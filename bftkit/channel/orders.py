"""Operators' commands at a member's door: which are taken in, and what becomes of them (FAULTS 43 and 44).

A command reaches a member from an operator or from another member; whoever has it passes it on. A planned one is
ordered like a request. A forced one is not: it makes the members leave the protocol (see `wedge`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from bftkit.channel import frames
from bftkit.channel.bundles import COMMAND, Bundle
from bftkit.channel.interface import ReplicaOut
from bftkit.channel.preparing import why_no_coin
from bftkit.core.machine import Digest
from bftkit.membership.commands import STALLED, Command, CommandError, SignedCommand
from bftkit.membership.epochs import Configuration, extended, following
from bftkit.membership.steering import authorized

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica

REFUSALS_MAX: Final = 64
"""So many refused commands are remembered, with the reasons."""


class Orders:
    """The part of a replica that takes operators' commands."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.refused: dict[Digest, str] = {}
        """Commands that were not taken in here, and why; the newest."""

    def on_command(self, payload: bytes, out: ReplicaOut) -> bool:
        """A command came; says whether it is to be ordered. Raises `WireError` if it cannot be read."""
        replica = self._replica
        state = replica.state.reconfiguring
        assert state is not None
        signed = SignedCommand.decode(payload)
        name = signed.name
        if state.is_over(name) or replica.succession_part.lineage.begun_by(name) is not None:
            return False
        here, settings = replica.succession_part.configuration, replica.settings
        keychain = settings.keychain
        assert keychain is not None
        try:
            command = self._checked(signed, here)
            if command.change is not None:
                there = following(here, command, extended(state.schedule, command))
                if command.forced:
                    there = attrs.evolve(there, coin=here.coin)
                reason = keychain.why_not(there)
                if reason is not None and replica.me in there.members:
                    raise CommandError(f"{replica.me}: {reason}")
                keyless = there.coin is None if command.forced else not command.change.coin
                if keyless and replica.me in there.members:
                    self._need_no_coin(there, name, command)
        except CommandError as error:
            self.refuse(name, str(error))
            return False
        if command.forced:
            self.refused.pop(name, None)
            replica.wedge.on_order(signed, out)
            return False
        self.refused.pop(name, None)
        return True

    def _checked(self, signed: SignedCommand, here: Configuration) -> Command:
        """The command, if operators signed it, or members that the protocol has stopped. Raises `CommandError`.

        What a policy plans, the replicated state decides: nobody can order that.
        """
        settings = self._replica.settings
        if signed.command.kind == STALLED:
            return authorized(settings.group, here, signed, settings.keyring, settings.verify)
        return signed.check(settings.group, here.epoch, here.operators, here.operator_threshold, settings.verify)

    def _need_no_coin(self, there: Configuration, name: Digest, command: Command) -> None:
        """Raises `CommandError` if the next epoch would have no coin key, and its protocol tosses coins.

        Or one that its policy may go over to: a decision of the policy keeps what there is.
        """
        settings = self._replica.settings
        modes = () if there.policy is None else there.policy.modes
        may_run = (there, *(attrs.evolve(there, protocol=mode.protocol, parameters=mode.parameters) for mode in modes))
        reason = next(filter(None, (why_no_coin(settings, one, name) for one in may_run)), None)
        if reason is None:
            return
        if command.forced:
            how = "this epoch has no coin key, and a forced change makes none; a planned change does"
        else:
            how = "the command wants no coin key made; make it anew with one"
        raise CommandError(f"{reason}: {how}")

    def refuse(self, name: Digest, text: str) -> None:
        """Remember that this command is not taken in here, and why."""
        self.refused[name] = text[:500]
        while len(self.refused) > REFUSALS_MAX:
            del self.refused[next(iter(self.refused))]

    def is_over(self, bundle: Bundle) -> bool:
        """Whether this command, or commit, need not be ordered any more."""
        state = self._replica.state.reconfiguring
        assert state is not None
        return state.is_over(bundle.client) if bundle.kind == COMMAND else state.commit_is_over(bundle.client)

    def state_of(self, name: Digest) -> tuple[int, str]:
        """(state, text) of a command, as this member knows it."""
        replica = self._replica
        state = replica.state.reconfiguring
        assert state is not None
        epoch = replica.succession_part.lineage.begun_by(name)
        if epoch is not None:
            return frames.DONE, f"epoch {epoch}"
        if state.pending is not None and state.pending.signed.name == name:
            if state.pending.committed:
                return frames.COMMITTED, f"epoch {state.configuration.epoch} ends at slot {state.boundary}"
            why_not = replica.preparing.why_not
            return frames.PREPARED, f"slot {state.pending.slot}" + (f"; {replica.me}: {why_not}" if why_not else "")
        if name in state.outcomes:
            slot, text = state.outcomes[name]
            return (frames.DONE if text == "carried out" else frames.REFUSED), f"{text} (slot {slot})"
        if replica.wedge.command is not None and replica.wedge.command.name == name:
            agreed = replica.wedge.continuation
            text = f"{replica.me} has left the protocol; {len(replica.wedge.reports)} members have reported"
            return frames.TAKEN, text if agreed is None else f"the epoch ends at slot {agreed.end}"
        if (name, 0, 0) in replica.pool:
            return frames.TAKEN, "waits to be ordered"
        if name in self.refused:
            return frames.REFUSED, self.refused[name]
        return frames.UNKNOWN_COMMAND, "unknown here"
