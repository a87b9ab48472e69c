"""Leaving a protocol that has stopped without operators: members vote that it has (SAFETY rule 25).

A policy decides by what is ordered, and a protocol that has stopped orders nothing. So a member whose pool has held
requests for `stall_ms` of its own time, in which nothing was executed here, signs "stalled" with its last slot, and
says so again and again until something is executed. n - f - c votes for *one* slot, each of the last few seconds, make
a certificate. In the place of operators' signatures it stands under the one forced command that the policy names for
that, which whoever has it passes on, as with operators' commands (`orders`, `wedge`).

With f + 1 votes one liar and one slow member could make a group switch for ever. Votes for different slots say that
somebody decides, so they never mix. The time doubles with each such change (`Configuration.stalls`), so a group whose
network is at fault and not its protocol does not switch for ever either.

A vote is no promise, so it need not be durable: who has voted may go on executing, and vote for a later slot. All that
a certificate gives is the right to leave, and leaving is safe whether the protocol has stopped or not: the members
wedge and report first, and what may have been decided is carried over (rules 21 and 22). So votes that come true too
late, or are told twice after a restart, can cost a useless change, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from bftkit.channel.frames import StalledVote, pack_control
from bftkit.channel.interface import ReplicaOut
from bftkit.channel.succession import REPEAT_BEATS
from bftkit.core.machine import MemberId, Slot
from bftkit.core.wire import WireError
from bftkit.crypto.signed import Certificate
from bftkit.membership.commands import CommandError
from bftkit.membership.epochs import Configuration, extended, following
from bftkit.membership.steering import STALLED_PURPOSE, leaving, stall_ms, stalled_body

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica

BEAT_MS: Final = 100
VOTE_LASTS: Final = 4 * REPEAT_BEATS
"""A vote that was not repeated for so many beats counts no more: its member has seen progress, or is gone."""


@attrs.frozen
class _Vote:
    slot: Slot
    signature: bytes
    beat: int


class Stalling:
    """The part of a replica that notices that the protocol has stopped."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        place = replica.settings.place
        self._beats = _beats(place.configuration) if place is not None else 0
        """After so many beats without progress the protocol has stopped; 0: it is never left by votes."""
        self._in_vain = False
        """Whether there were enough votes, and the epoch cannot end like this. Others may not know yet, and vote."""
        self._votes: dict[MemberId, _Vote] = {}
        self._progress = (-1, 0)
        """The last slot here, and the beat from which on requests wait and nothing is executed."""

    @property
    def stalled(self) -> bool:
        """Whether, as far as this member sees, the protocol has stopped."""
        return self._beats > 0 and self._replica.beat - self._progress[1] >= self._beats

    def on_beat(self, out: ReplicaOut) -> None:
        """Is there progress? If there has been none for long, say so."""
        replica = self._replica
        if not self._beats or self._in_vain or replica.passive or replica.stopped is not None or replica.wedged:
            return
        succession = replica.succession_part
        idle = len(replica.pool) == 0 or succession.at_end or not succession.active
        if idle or replica.applied != self._progress[0]:
            self._progress = (replica.applied, replica.beat)
            self._votes.pop(replica.me, None)
        elif self.stalled and (replica.beat - self._progress[1] - self._beats) % REPEAT_BEATS == 0:
            self._vote(out)

    def _vote(self, out: ReplicaOut) -> None:
        replica = self._replica
        epoch, slot = replica.settings.epoch, replica.applied
        known = self._votes.get(replica.me)
        signature = (
            known.signature
            if known is not None and known.slot == slot
            else replica.settings.keyring.sign(STALLED_PURPOSE, stalled_body(epoch, slot))
        )
        self._votes[replica.me] = _Vote(slot, signature, replica.beat)
        out.broadcast(pack_control(StalledVote(epoch, slot, signature)))
        self._try(slot, out)

    def on_control(self, sender: MemberId, message: object, out: ReplicaOut) -> bool:
        """Somebody votes; says whether it was that. Raises `WireError`."""
        if not isinstance(message, StalledVote):
            return False
        replica = self._replica
        if message.epoch != replica.settings.epoch or sender not in replica.indices or replica.observing:
            return True
        if not self._beats:
            raise WireError("a vote to leave a protocol that no policy leaves")
        known = self._votes.get(sender)
        if known is None or (known.slot, known.signature) != (message.slot, message.signature):
            body = stalled_body(message.epoch, message.slot)
            if not replica.settings.keyring.verify(sender, STALLED_PURPOSE, body, message.signature):
                raise WireError("a vote that the protocol has stopped with a bad signature")
        self._votes[sender] = _Vote(message.slot, message.signature, replica.beat)
        self._try(message.slot, out)
        return True

    def _try(self, slot: Slot, out: ReplicaOut) -> None:
        """With enough votes for this slot the protocol is left."""
        replica = self._replica
        votes = {
            member: vote.signature
            for member, vote in sorted(self._votes.items())
            if vote.slot == slot and replica.beat - vote.beat <= VOTE_LASTS
        }
        if len(votes) < replica.quorum.available or self._in_vain or replica.wedged or replica.passive:
            return
        state = replica.state.reconfiguring
        assert state is not None
        here = replica.succession_part.configuration
        signed = leaving(replica.settings.group, here)
        try:
            following(here, signed.command, extended(state.schedule, signed.command))
        except CommandError as error:
            self._in_vain = True  # it can never be left like this, in the whole epoch
            replica.orders.refuse(signed.name, str(error))
            return
        certificate = Certificate.of(stalled_body(here.epoch, slot), votes)
        replica.orders.on_command(attrs.evolve(signed, stalled=certificate).encode(), out)

    def told(self) -> dict[MemberId, Slot]:
        """Who votes that the protocol has stopped, and since which slot; for people."""
        beat = self._replica.beat
        return {member: vote.slot for member, vote in sorted(self._votes.items()) if beat - vote.beat <= VOTE_LASTS}


def _beats(here: Configuration) -> int:
    policy = here.policy
    if policy is None or not policy.forced or not policy.stall_ms:
        return 0
    mode = policy.mode_of(here.protocol, here.parameters)
    if mode is None or mode == policy.forced - 1:
        return 0  # the policy rests; or there is nothing better
    return max(1, -(-stall_ms(here) // BEAT_MS))
