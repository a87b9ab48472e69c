"""Getting ready for the next epoch, and putting into the total order that enough members are (SAFETY rule 26).

When a command is prepared, every member of the next roster that has executed it, and so holds the state, and finds
itself able (the protocol on its shelf, the parameters in range, its keys at hand) signs that it is ready, with its key
of the next epoch. Whoever holds n' - t' such signatures, and the sharings of a coin key where one is needed, proposes
the commit. It proves itself, so it does not matter who does; all do, and the first in the order counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import attrs

from bftkit.channel.bundles import COMMIT, make_proved_bundle, parse_bundle
from bftkit.channel.coin_keys import CoinKeys
from bftkit.channel.frames import MakingMessage, ReadyFor, pack_control
from bftkit.channel.interface import ReplicaOut, ReplicaSettings
from bftkit.channel.reconfiguring import COMMIT_CODEC, READY_PURPOSE, Commit, Pending
from bftkit.channel.state import error_text
from bftkit.channel.succession import REPEAT_BEATS
from bftkit.configuration.text import ConfigurationError
from bftkit.core.machine import Digest, MemberId
from bftkit.core.ordering import Plugin, Setup
from bftkit.core.wire import WireError
from bftkit.crypto.signed import Certificate
from bftkit.membership.chain import HandOver, Place
from bftkit.membership.epochs import Configuration

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica

UNABLE_BEATS: Final = 10
"""Who could not take part in what is prepared looks every so many beats whether it can by now."""


class _TrialKeys:
    """Stands for keys where a machine is made to see whether it can be, and is never run."""

    def sign(self, purpose: str, statement: bytes) -> bytes:
        raise AssertionError("nothing is signed in a trial")

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        raise AssertionError("nothing is verified in a trial")


class _TrialCoins:
    """The same for coins."""

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold

    def share(self, name: bytes) -> bytes:
        raise AssertionError("no coin is tossed in a trial")

    def combine(self, name: bytes, shares: Mapping[MemberId, bytes]) -> bytes:
        raise AssertionError("no coin is tossed in a trial")

    def verify(self, member: MemberId, name: bytes, share: bytes) -> bool:
        raise AssertionError("no coin is tossed in a trial")


def trial(plugin: Plugin, configuration: Configuration) -> str | None:
    """Why the protocol's machine would not begin under this configuration, in its own words; None if it would.

    Parameters and a window of the wrong size show here, before members wait for an epoch in which nothing runs.
    """
    quorum, members = configuration.quorum, configuration.members
    window, parameters = configuration.window, configuration.parameters
    try:
        coins = _TrialCoins(quorum.available)
        plugin.create(Setup(members[0], members, quorum, _TrialKeys(), 0, window, parameters, coins))
    except Exception as error:  # whatever a plug-in raises (SAFETY rule 29)
        return f"{configuration.protocol} would not begin: {error_text(error).decode()}"
    return None


def why_no_coin(settings: ReplicaSettings, there: Configuration, name: Digest) -> str | None:
    """Why an epoch of this configuration cannot go without a coin key, if so: its protocol tosses coins.

    A command asks for a key, or does not; the protocol's machine would find out when it is too late, at the crossing.
    """
    assert settings.keychain is not None
    try:
        record = settings.keychain.enter(settings, Place(attrs.evolve(there, coin=None), name), None).plugin.record
    except (ConfigurationError, ValueError) as error:
        return str(error)
    return f"{there.protocol} tosses coins" if record.coins else None


class Preparing:
    """The part of a replica that gets it, and the group, ready for the next epoch."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.coin_keys = CoinKeys(replica)
        self._pending: Pending | None = None
        self.ready: dict[MemberId, bytes] = {}
        self.why_not: str | None = None
        """Why this member could not take part in what is prepared, if so."""
        self._early: dict[MemberId, ReadyFor] = {}
        self._proposed = False
        self._ends = False
        """Whether the protocol was told of the epoch's end."""

    def on_executed(self, out: ReplicaOut) -> None:
        """Slots were executed: is something prepared, committed or cancelled, or the epoch's end near?"""
        replica, state = self._replica, self._replica.state.reconfiguring
        if state is None:
            return
        if state.pending is not self._pending:
            self._on_pending(state.pending, out)
        # An end that operators put far away is not filled up to: the protocol works on until it is near.
        near = replica.applied + replica.settings.checkpoint_interval
        # A protocol that has not begun here, since this member lacks its state, would not hear of it.
        if not self._ends and 0 < state.boundary <= near and not replica.lacks_state:
            self._ends = True
            replica.driving.end_at(state.boundary, out)

    def _on_pending(self, pending: Pending | None, out: ReplicaOut) -> None:
        before = self._pending
        self._pending = pending
        if before is None or pending is None or pending.signed.name != before.signed.name:
            self.ready = {}
            self._proposed = False
            if before is not None:
                self.coin_keys.drop(before.signed.name)
            self._replica.succession_part.tell_neighbours(out)
        if pending is None:
            return
        if pending.committed:
            if pending.selection and self._replica.me in pending.next.members:
                self.coin_keys.select(pending.next, pending.signed.name, pending.selection, out)
        else:
            self._begin(pending, out)

    def _begin(self, pending: Pending, out: ReplicaOut) -> None:
        replica = self._replica
        keychain = replica.settings.keychain
        assert keychain is not None
        name, here = pending.signed.name, replica.succession_part.configuration
        change = pending.signed.command.change
        assert change is not None
        self.why_not = keychain.why_not(pending.next)
        if self.why_not is None and not change.coin and replica.me in pending.next.members:
            self.why_not = why_no_coin(replica.settings, pending.next, name)
        silent = replica.entering.stays_silent(here, pending.next)
        able = self.why_not is None and replica.me in pending.next.members and not silent
        if able:
            self.ready[replica.me] = keychain.preparing(pending.next, name).sign(READY_PURPOSE, name)
            self._tell(out)
            if change.coin:
                self.coin_keys.begin(pending.next, name, out)
        early, self._early = self._early, {}
        for sender in sorted(early):
            try:
                self._on_ready(sender, early[sender], out)
            except WireError as error:  # its own fault, and not that of whoever's frame let this member execute so far
                replica.refuse(sender, str(error), out)
        self._try_commit(out)

    def _tell(self, out: ReplicaOut) -> None:
        replica, pending = self._replica, self._pending
        assert pending is not None
        frame = pack_control(ReadyFor(pending.signed.name, self.ready[replica.me]))
        replica.succession_part.everyone(frame, out)

    def on_control(self, sender: MemberId, message: object, out: ReplicaOut) -> bool:
        """A message of the preparation; says whether it was one."""
        if isinstance(message, ReadyFor):
            self._on_ready(sender, message, out)
            return True
        if isinstance(message, MakingMessage):
            self.coin_keys.on_message(sender, message, out)
            self._try_commit(out)
            return True
        return False

    def _on_ready(self, sender: MemberId, message: ReadyFor, out: ReplicaOut) -> None:
        replica, pending = self._replica, self._pending
        if pending is None or pending.signed.name != message.command:
            self._early[sender] = message  # this member has not executed the command yet; or never will
            return
        if pending.committed or sender in self.ready or sender not in pending.next.members:
            return
        keychain = replica.settings.keychain
        assert keychain is not None
        keyring = keychain.preparing(pending.next, message.command)
        if not keyring.verify(sender, READY_PURPOSE, message.command, message.signature):
            raise WireError("a bad signature under what a member is ready for")
        self.ready[sender] = message.signature
        self._try_commit(out)

    def _try_commit(self, out: ReplicaOut) -> None:
        pending = self._pending
        if pending is None or pending.committed or self._proposed:
            return
        if len(self.ready) < pending.next.quorum.available:
            return
        selection = self._selection(pending)
        if selection is None:
            return
        self._proposed = True
        self._propose(pending, selection, out)

    def _selection(self, pending: Pending) -> bytes | None:
        """The sharings that make the coin key; None: not yet."""
        change = pending.signed.command.change
        assert change is not None
        return self.coin_keys.selection_for(pending.signed.name) if change.coin else b""

    def _propose(self, pending: Pending, selection: bytes, out: ReplicaOut) -> None:
        replica = self._replica
        name = pending.signed.name
        commit = Commit(name, Certificate.of(name, self.ready), selection)
        raw = make_proved_bundle(COMMIT, name, COMMIT_CODEC.encode(commit))
        try:
            bundle = parse_bundle(raw, bytes_max=replica.limits.bundle_bytes)
        except WireError as error:
            # Nobody would take it in, and a batch with it would be its proposer's fault.
            self.why_not = f"the commit cannot be ordered: {error}"
            return
        if not replica.passive and (bundle.client, 0, 0) not in replica.pool:
            replica.proposer.take_in(bundle)
        # One that joins proposes nothing itself; but if nobody stays, only those who join have made the coin key.
        out.broadcast(b"\x02" + raw)

    def judge_commit(self, name: Digest, payload: bytes) -> bool:
        """Whether this commit, as far as this member can see, commits what is pending."""
        replica = self._replica
        state = replica.state.reconfiguring
        if state is None or state.commit_is_over(name):
            return False
        try:
            state.committed(payload, replica.applied)
        except ValueError:
            return False
        return True

    def may_enter(self, link: HandOver, out: ReplicaOut) -> bool:
        """Whether what this member needs in the next epoch, beside the state, is here."""
        return self.coin_keys.has_share(link, out)

    def on_kept(self, name: bytes, out: ReplicaOut) -> None:
        """A secret is durable."""
        self.coin_keys.on_kept(name, out)
        self._try_commit(out)
        self._replica.succession_part.try_enter(out)

    def resume(self, out: ReplicaOut) -> None:
        """After a restart: members that were away may still need this one to come by their shares of the key."""
        replica = self._replica
        made = replica.succession_part.lineage.made_coin(replica.settings.epoch)
        if made is not None and replica.me in made.next.members:
            self.coin_keys.select(made.next, made.signed.name, made.selection, out)

    def share_for(self, epoch: int) -> bytes | None:
        """This member's share of the coin key of the epoch, if it has one."""
        made, shares = self._replica.succession_part.lineage.made_coin(epoch), self.coin_keys.shares
        return shares.get(epoch) or (shares.get(made.next.epoch) if made is not None else None)

    def on_beat(self, out: ReplicaOut) -> None:
        """Say again what may have been lost."""
        self.on_executed(out)  # what is prepared may have come with a state that was fetched
        replica, pending = self._replica, self._pending
        self.coin_keys.on_beat(out)
        if pending is None or pending.committed:
            return
        if self.why_not is not None and replica.me not in self.ready and replica.beat % UNABLE_BEATS == 0:
            self._begin(pending, out)  # somebody may have put the keys there that were missing
        if replica.beat % REPEAT_BEATS:
            return
        if replica.me in self.ready:
            self._tell(out)
        if self._proposed:
            self._proposed = False
            self._try_commit(out)

    def enter(self, out: ReplicaOut) -> None:
        """A new epoch: nothing is prepared."""
        replica = self._replica
        epoch = replica.settings.epoch
        self.coin_keys.enter(epoch, replica.succession_part.lineage.made_coin(epoch))
        self.resume(out)  # its making is not here if this member came by its share before a restart
        self._pending = None
        self.ready, self._early = {}, {}
        self._proposed = self._ends = False
        self.why_not = None
