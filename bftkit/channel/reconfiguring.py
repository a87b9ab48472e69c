"""What the replicated state knows of configurations: the present one, and the one that is being prepared.

A planned change takes two ordered steps (SAFETY rule 26). *Prepare*: an operators' command is executed; it says in
full what the next configuration is. Its members get ready: new ones fetch the state, all find the protocol on their
shelf, and where there is a coin they make its key. *Commit*: n' - t' of them have signed that they are ready, and
these signatures, with the sharings of the coin key, are put into the total order; whoever has them may do that. From
there on the end is fixed: the first checkpoint boundary strictly after it (rule 23).

Of two commands the first prepares; the second is answered "superseded", unless the first is cancelled before it
commits. Everything here is a function of what was executed, the same at every member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Protocol

import attrs

from bftkit.channel.steering import OFTEN, OFTEN_MS, Algorithms, Steering
from bftkit.configuration.policy import Wish
from bftkit.configuration.shelf import load_policy
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.wire import Blob, Codec, Digest32, WireError, pack_plain, unpack_plain
from bftkit.crypto.keys import Keyring
from bftkit.crypto.signed import Certificate
from bftkit.crypto.threshold import CoinPublics
from bftkit.membership.chain import Place
from bftkit.membership.commands import CANCEL, CommandError, SignedCommand
from bftkit.membership.epochs import Configuration, Schedule, extended, following
from bftkit.membership.keymaking import Selection, check_selection
from bftkit.membership.steering import steered

READY_PURPOSE: Final = "ready"
KEPT_PART: Final = 8
"""One part in so many of the members' epochs is kept from the policy's returns to a less robust mode. Each change uses
up a key of every member; whoever makes trouble again and again would soon leave operators, and what must be left by
force, without an epoch to go to."""
OUTCOMES_MAX: Final = 64
"""So many commands' outcomes are remembered; they are all of the present epoch."""


@attrs.frozen
class Commit:
    """What commits a prepared command."""

    command: Digest32
    ready: Certificate
    """n' - t' members of the next roster, under the command's name, with their keys of the next epoch."""
    selection: Annotated[bytes, Blob(1 << 20)]
    """The sharings that the coin key is the sum of; b"" without a coin."""


COMMIT_CODEC: Final = Codec[Commit]("commit", {1: Commit}, bytes_max=2 << 20)


class PreparingVerifier(Protocol):
    """What judges the signatures of members of the next roster while it is prepared."""

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        """Whether that member made this signature."""
        ...


@attrs.frozen
class Judges:
    """What the judging of commands needs of the world: pure functions, the same everywhere."""

    verify: Callable[[bytes, bytes, bytes], bool]
    """Whether (public key, message, signature) fit."""
    preparing: Callable[[Configuration, Digest], Keyring]
    """(next configuration, name of the command) to what its members sign with while it is prepared."""
    algorithms: Algorithms = load_policy
    """The shelf of policies."""

    def coin_of(self, configuration: Configuration, name: Digest, selection: bytes) -> CoinPublics:
        """The coin key that these sharings make for this roster. Raises `ValueError`."""
        keyring, quorum = self.preparing(configuration, name), configuration.quorum
        return check_selection(keyring, quorum, configuration.members, name, Selection.decode(selection))


@attrs.frozen(eq=False)
class Pending:
    """A command that is prepared, or committed."""

    signed: SignedCommand
    slot: Slot
    """Where it was prepared."""
    next: Configuration
    """The next configuration; its coin is known from the commit on."""
    schedule: Schedule
    boundary: Slot = 0
    """The epoch's last slot; 0: not committed."""
    selection: bytes = b""

    @property
    def committed(self) -> bool:
        """Whether the end of the epoch is fixed."""
        return self.boundary > 0


@attrs.define(eq=False)
class Reconfiguring:
    """The part of the replicated state that is about configurations."""

    group: bytes
    place: Place
    schedule: Schedule
    judges: Judges
    pending: Pending | None = None
    outcomes: dict[Digest, tuple[Slot, str]] = attrs.field(factory=dict[Digest, tuple[Slot, str]])
    """Commands of this epoch that are not carried out, and why; the oldest are forgotten."""
    steering: Steering = attrs.field(
        default=attrs.Factory(lambda self: Steering(self.judges.algorithms), takes_self=True)
    )
    """What the epoch's policy knows and decides."""

    @property
    def configuration(self) -> Configuration:
        """The present configuration."""
        return self.place.configuration

    @property
    def boundary(self) -> Slot:
        """The epoch's last slot; 0: not known."""
        return self.pending.boundary if self.pending is not None else 0

    # ------------------------------------------------------------------------------------------ executing

    def on_command(self, payload: bytes, slot: Slot) -> None:
        """An ordered command. What is wrong with it is remembered; one that is not the operators' is nothing."""
        try:
            signed = SignedCommand.decode(payload)
        except WireError:
            return
        name = signed.name
        here = self.configuration
        if (self.pending is not None and self.pending.signed.name == name) or name in self.outcomes:
            return  # the same command once more
        try:
            command = signed.check(self.group, here.epoch, here.operators, here.operator_threshold, self.judges.verify)
        except CommandError:
            return  # a liar with many of these could make everybody forget what operators cancelled
        try:
            if command.kind == CANCEL:
                self._cancel(name, slot)
                return
            if command.forced:
                raise CommandError("a forced change is not ordered: its members leave the protocol")
            if self.pending is not None:
                raise CommandError(self._superseded())
            schedule = extended(self.schedule, command)
            self.pending = Pending(signed, slot, following(here, command, schedule), schedule)
        except CommandError as error:
            self._note(name, slot, str(error))

    def _superseded(self) -> str:
        assert self.pending is not None
        here, protocol = self.configuration.epoch, self.pending.next.protocol
        how = (
            f"{protocol} is committed: epoch {here} ends at slot {self.boundary}"
            if self.pending.committed
            else f"{protocol} is being prepared since slot {self.pending.slot}"
        )
        return f"superseded by epoch {here + 1}, for which {how}"

    def _cancel(self, name: Digest, slot: Slot) -> None:
        if self.pending is None:
            raise CommandError("nothing is being prepared")
        if self.pending.committed:
            raise CommandError(f"it is committed: epoch {self.configuration.epoch} ends at slot {self.boundary}")
        self._note(self.pending.signed.name, slot, "cancelled by the operators")
        if self.pending.signed.command.by_policy:
            self.steering.taken_back(self.configuration, "taken back by operators")
        self._note(name, slot, "carried out")
        self.pending = None

    def _note(self, name: Digest, slot: Slot, text: str) -> None:
        self.outcomes[name] = (slot, text[:500])
        while len(self.outcomes) > OUTCOMES_MAX:
            del self.outcomes[next(iter(self.outcomes))]

    def on_commit(self, payload: bytes, slot: Slot) -> None:
        """An ordered commit. What does not commit the pending command is nothing."""
        try:
            committed = self.committed(payload, slot)
        except (WireError, CommandError):
            return
        self.pending = committed

    def committed(self, payload: bytes, slot: Slot) -> Pending:
        """The pending command, committed by this. Raises `WireError` or `CommandError` if this does not commit it."""
        pending = self.pending
        commit = COMMIT_CODEC.decode(payload)
        if pending is None or pending.committed or commit.command != pending.signed.name:
            raise CommandError("no such command waits for its commit")
        quorum = pending.next.quorum
        keyring = self.judges.preparing(pending.next, commit.command)
        if commit.ready.body != commit.command or not commit.ready.valid(keyring, READY_PURPOSE, quorum.available):
            raise CommandError(f"the commit is not signed by {quorum.available} members of the next epoch")
        change = pending.signed.command.change
        assert change is not None
        following_one = pending.next
        if change.coin:
            try:
                coin = self.judges.coin_of(pending.next, commit.command, commit.selection)
                following_one = attrs.evolve(pending.next, coin=coin)
            except ValueError as error:
                raise CommandError(f"the sharings make no coin key: {error}") from None
        elif commit.selection:
            raise CommandError("a commit without a coin has no sharings")
        interval = self.configuration.checkpoint_interval
        earliest = max(slot + 1, pending.signed.command.at)
        boundary = (earliest + interval - 1) // interval * interval
        return attrs.evolve(pending, next=following_one, boundary=boundary, selection=commit.selection)

    # ------------------------------------------------------------------------------------------ the policy

    @property
    def steers(self) -> bool:
        """Whether the epoch has a policy that may change something."""
        policy = self.configuration.policy
        return policy is not None and bool(policy.modes)

    def on_report(self, member: MemberId, counter: int, payload: bytes, now_ms: int) -> None:
        """An ordered report of what a member measured."""
        if self.steers:
            self.steering.on_report(member, counter, payload, now_ms)

    def steer(self, slot: Slot, now_ms: int) -> None:
        """A slot is executed: does the policy decide that the epoch ends? Then that is prepared as if operators had."""
        here = self.configuration
        self._give_up(slot, now_ms)
        wish = self.steering.look(here, now_ms, pending=self.pending is not None) if self.steers else None
        if wish is None:
            return
        reason = self._why_not_back(here, wish, now_ms)
        if reason is not None:
            self.steering.not_possible(here, reason)
            return
        signed = steered(self.group, here, wish.mode, slot, wish.reason)
        try:
            schedule = extended(self.schedule, signed.command)
            self.pending = Pending(signed, slot, following(here, signed.command, schedule), schedule)
        except CommandError as error:
            self._note(signed.name, slot, str(error))
            self.steering.not_possible(here, str(error))
            return
        self.steering.decided(here, wish, slot, now_ms)

    def _why_not_back(self, here: Configuration, wish: Wish, now_ms: int) -> str | None:
        """Why the policy does not go back to a less robust mode, if so: it has used up many epochs of late, or most."""
        assert here.policy is not None
        mode = here.policy.mode_of(here.protocol, here.parameters)
        if mode is None or wish.mode > mode:
            return None
        back = f"it would go back to {here.policy.modes[wish.mode].protocol}, but"
        member, count = min(((name, len(keys)) for name, keys in sorted(self.schedule.items())), key=lambda one: one[1])
        left = count - 1 - here.epoch
        if left <= count // KEPT_PART:
            return (
                f"{back} the keys of {member} reach for {left} more epochs only, which are kept for worse: "
                "operators should rotate them (bftkit member rotate)"
            )
        if self.steering.is_restless(now_ms):
            return f"{back} there were {OFTEN} decisions within {OFTEN_MS // 3_600_000} hours, and each costs an epoch"
        return None

    def _give_up(self, slot: Slot, now_ms: int) -> None:
        """What the policy has decided, and not enough members get ready for, is in nobody's way for ever."""
        pending = self.pending
        if pending is None or pending.committed or not pending.signed.command.by_policy:
            return
        if self.steering.is_overdue(now_ms):
            text = "given up: not enough members were ready"
            self._note(pending.signed.name, slot, text)
            self.steering.taken_back(self.configuration, text)
            self.pending = None

    def enter(self, place: Place, signed: SignedCommand, slot: Slot, now_ms: int) -> None:
        """The next epoch begins by this command, at this agreed time, after this slot. What was pending is over."""
        schedule = extended(self.schedule, signed.command)
        self.steering.enter(self.configuration, place.configuration, signed.command, slot, now_ms)
        self.place = place
        self.schedule = {member: schedule[member] for member in place.configuration.members}
        self.pending = None
        self.outcomes = {}

    def is_over(self, name: Digest) -> bool:
        """Whether a command with this name need not be ordered any more."""
        pending = self.pending
        return name in self.outcomes or (pending is not None and pending.signed.name == name)

    def commit_is_over(self, name: Digest) -> bool:
        """Whether a commit of this command need not be ordered any more."""
        pending = self.pending
        return pending is None or pending.signed.name != name or pending.committed

    # ------------------------------------------------------------------------------------------ checkpoints

    def chunks(self) -> tuple[bytes, ...]:
        """This part of the state: one chunk for what changes, one for each member's keys, and one of the policy."""
        pending = self.pending
        waiting = None
        if pending is not None:
            coin = pending.next.encode() if pending.committed else b""
            waiting = [pending.signed.encode(), pending.slot, pending.boundary, pending.selection, coin]
        outcomes = [[name, slot, text] for name, (slot, text) in self.outcomes.items()]
        head = [self.configuration.encode(), self.place.opening, waiting, outcomes, len(self.schedule)]
        keys = (pack_plain([member, b"".join(self.schedule[member])]) for member in sorted(self.schedule))
        if self.configuration.policy is None:
            return (pack_plain(head), *keys)
        return (pack_plain([*head, 1]), *keys, self.steering.chunk())

    @staticmethod
    def count(chunk: bytes) -> int:
        """How many chunks there are, as the first one says. Raises `WireError`."""
        plain: Any = unpack_plain(chunk, length_max=1 << 24)
        count: int = 1 + sum(plain[4:])
        return count

    @staticmethod
    def epoch_of(chunk: bytes) -> int:
        """Which epoch the first chunk is of. Raises `WireError`."""
        plain: Any = unpack_plain(chunk, length_max=1 << 24)
        return Configuration.decode(plain[0]).epoch

    def load(self, chunks: tuple[bytes, ...]) -> None:
        """Take over the state that these chunks describe. They are certified, so they are well formed."""
        plain: Any = unpack_plain(chunks[0], length_max=1 << 24)
        configuration, opening, waiting, outcomes, keys, *policy = plain
        self.place = Place(Configuration.decode(configuration), opening)
        self.schedule = dict(_keys_of(part) for part in chunks[1 : 1 + keys])
        if policy:
            self.steering.load(chunks[-1])
        else:
            self.steering.clear()
        self.outcomes = {name: (slot, text) for name, slot, text in outcomes}
        self.pending = None
        if waiting is not None:
            raw, slot, boundary, selection, fixed = waiting
            signed = SignedCommand.decode(raw)
            schedule = extended(self.schedule, signed.command)
            there = Configuration.decode(fixed) if fixed else following(self.configuration, signed.command, schedule)
            self.pending = Pending(signed, slot, there, schedule, boundary, selection)


def _keys_of(chunk: bytes) -> tuple[MemberId, tuple[bytes, ...]]:
    plain: Any = unpack_plain(chunk, length_max=1 << 24)
    member, joined = plain
    return member, tuple(joined[start : start + 32] for start in range(0, len(joined), 32))
