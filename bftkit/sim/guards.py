"""Guards: checkers that watch single rules of docs/SAFETY.md in every run, and believe no code that they watch.

`checkers.py` and `witness.py` see that the group keeps its promises to clients. A guard sees a rule broken that these
promises rest on, at once, and even if luck kept the clients from harm: where only one run in a thousand would end in a
wrong answer, every one of them has the broken rule in it.

=================  ==========  ==================================================================================
guard              rules       what is watched
=================  ==========  ==================================================================================
holding.py         1, 5, 24    what a client was told is held durably by enough members (``durability``)
vouching.py        1, 18, 11   certificates under stable checkpoints (``checkpoints``), agreed time (``agreed-time``)
`Speech`           5, 16       no vote contradicts an earlier one (``agreement``); who forgot is silent (``durability``)
`Outcomes`         9           an operation that was not executed has a cause (``exactly-once``)
=================  ==========  ==================================================================================

Each says why it can give no false alarm. Members that lie are watched by nobody: a guard speaks of members that are
correct at that moment, and a member that lies from some moment on is left alone from then on.

That no view is left for one liar's word alone is not among them: what a member needs to hear before it leaves a view is
each protocol's own affair. Nor is it that a session's number runs once: the recorder counts executions by what was
executed, and correct clients give each operation content of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from bftkit.blocks import bedrock_messages as bed
from bftkit.channel import frames
from bftkit.channel.bundles import CLOCK
from bftkit.core.digest import digest as digest_of
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.wire import WireError
from bftkit.membership.chain import Ending
from bftkit.sim.holding import Holding
from bftkit.sim.lying_clients import LyingClient
from bftkit.sim.vouching import AgreedTimes, StableCheckpoints

if TYPE_CHECKING:
    from bftkit.sim.actors import Actor
    from bftkit.sim.epochs import Era
    from bftkit.sim.host import Host
    from bftkit.sim.world import World

_NUMBERS: Final = ("view", "ballot", "round", "slot")
_CHECKPOINT_VOTE: Final = next(
    bytes((tag,)) for tag, message in frames.CONTROL_CODEC.messages.items() if message is frames.CheckpointVote
)
_WEDGED: Final = next(
    bytes((tag,)) for tag, message in frames.CONTROL_CODEC.messages.items() if message is frames.Wedged
)
_ENDING_VOTE: Final = next(
    bytes((tag,)) for tag, message in frames.CONTROL_CODEC.messages.items() if message is frames.EndingVote
)
_BEDROCK: Final = next(
    bytes((tag,)) for tag, message in frames.CONTROL_CODEC.messages.items() if message is frames.BedrockMessage
)
_PLAIN: Final = frozenset({"U8", "U16", "U32", "U64", "Bool", "Digest32", "Signature64", "Key32", "Member"})
"""Kinds of fields (`bftkit.core.wire`) that hold no other message."""
_CLOCK: Final = bytes((CLOCK,))


class Guards:
    """All guards of one world. They change nothing in it and draw nothing."""

    def __init__(self, world: World) -> None:
        """After the world's members are made, and before they start."""
        self._exempt = world.recorder.exempt
        self.holding = Holding(world)
        self.checkpoints = StableCheckpoints(world)
        self.times = AgreedTimes(world)
        self.speech = Speech(world)
        self.outcomes = Outcomes(world)

    def look(self, host: Host) -> None:
        """After a round of this member, before anything of it leaves."""
        replica = host.replica
        if replica is None or host.me in self._exempt:
            return
        self.checkpoints.look(host, replica)
        self.times.look(host, replica)

    def said(self, host: Host, frame: bytes) -> None:
        """A frame leaves this member for others."""
        if host.me not in self._exempt:
            self.speech.said(host.me, frame)

    def wiped(self, member: MemberId) -> None:
        """This member's disk is empty from now on."""
        self.speech.wiped(member)
        self.holding.wiped(member)

    def told(self, actor: Actor, slot: Slot, result: bytes) -> None:
        """A client accepted that something of its own ran in this slot."""
        self.holding.told(slot)
        self.outcomes.executed(actor, result)

    def not_told(self, actor: Actor, what: str, number: int) -> None:
        """A client was told that an operation of its own was not executed, or perhaps not."""
        if not isinstance(actor, LyingClient):
            self.outcomes.not_executed(actor, what, number)


@attrs.frozen
class _Shape:
    """What a class of messages has that may bind its sender."""

    numbers: tuple[str, ...]
    """The fields that say what of; empty: it names no slot and digest itself."""
    inner: tuple[str, ...]
    """The fields in which there may be more."""

    @classmethod
    def of(cls, kind: type[Any]) -> _Shape:
        """See the fields. What is written in bytes or numbers has nothing inside."""
        fields = {field.name: str(field.type) for field in attrs.fields(kind)}
        binding = "slot" in fields and "digest" in fields
        return cls(
            tuple(name for name in _NUMBERS if name in fields) if binding else (),
            tuple(name for name, text in fields.items() if text not in _PLAIN),
        )


class Speech:
    """What leaves correct members, over all of their lives.

    *No vote contradicts an earlier one* (SAFETY rules 5 and 16; oracle ``agreement``). Wherever a message of the
    protocol names a slot and a digest, its sender binds itself, and for one kind, view and slot it may do so to one
    digest only, however often it restarts. The same for its checkpoint votes. This needs no knowledge of the protocol
    but the names of the fields; a message whose parts are encoded may say by a method `binds` what it binds to.

    *Nobody ends an epoch twice* (rule 21; oracle ``agreement``). It signs one ending of each epoch, and says in the
    agreement on it no two things in one place: one value that it offers, one digest that it accepts in a ballot.

    *No false alarm:* a planned ending is signed once its last slot is executed, and whatever a forced ending carries
    reaches that slot, too. Not so where operators accept a loss, or more members lie than the group is made for.

    *No false alarm:* what a correct member sent is either in its log or was sent in the same life. Statements of others
    that it passes on (a `NewView`, a proof) travel as bytes in which nothing is looked for.

    *Who left the protocol is done with it* (rule 21; oracle ``durability``). A member that has said so of an epoch
    sends no message of its protocol, nor of one before, afterwards, however often it restarts.

    *Who forgot is silent* (SAFETY rule 16; oracle ``durability``: what a member promised must outlive its disk, or the
    member must be known to have lost it). Once its disk was taken away, a member sends no message of the protocol, no
    checkpoint vote, no clock report, and nothing about how the epoch ends, for as long as the epoch lasts, whether it
    knows or has forgotten even that. It may fetch, claim what it learned, and say where it is: nothing of this is
    signed or counted as a vote.

    *No false alarm:* it is told by the world of each disk that goes. Members that got an *older* disk do not know that
    they forgot, and are not meant.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._recorder = world.recorder
        self._chain = world.chain
        self._bound: dict[tuple[object, ...], Digest] = {}
        self._wedged: dict[MemberId, int] = {}
        """Members that said that they have left the protocol of an epoch."""
        self._forgot: dict[MemberId, int] = {}
        """Members whose disks went, and in which epoch of theirs."""
        self._spoke: dict[MemberId, int] = {}
        """The newest epoch in which a member bound itself to anything; it may be behind the group."""
        self._shapes: dict[type, _Shape] = {}

    def wiped(self, member: MemberId) -> None:
        """See `Guards`."""
        self._forgot[member] = self._spoke.get(member, 0)

    def _must_be_silent(self, member: MemberId, epoch: int) -> bool:
        """Whether the member signs with the keys with which it may have said what it forgot (SAFETY rule 16)."""
        forgot = self._forgot.get(member)
        if forgot is None:
            return False
        eras = self._chain.eras
        if epoch <= forgot or epoch >= len(eras):
            return True
        before, after = (_epoch_root(eras[number], member) for number in (forgot, epoch))
        return before == after

    def said(self, member: MemberId, frame: bytes) -> None:
        """A frame leaves a correct member."""
        kind = frame[0] if frame else 0
        if kind == frames.PROTOCOL:
            try:
                epoch, packed, _ = frames.unpack_protocol(frame)
                if epoch >= len(self._chain.eras):
                    raise WireError("a frame of an epoch that nobody has entered")
                message = self._chain.eras[epoch].settings.plugin.codec.decode(packed)
            except WireError:
                return
            if self._must_be_silent(member, epoch):
                self._broke_silence(member, "a message of the protocol")
            self._speaks(member, epoch)
            if self._wedged.get(member, -1) >= epoch:
                self._recorder.fail(
                    "durability",
                    f"{member} has left the protocol of epoch {epoch}, and sends a message of it (SAFETY rule 21)",
                )
            self._walk(member, message, epoch)
        elif kind == frames.CONTROL:
            if frame[1:2] == _CHECKPOINT_VOTE:
                self._voted(member, frame)
            elif frame[1:2] == _WEDGED:
                left = frames.CONTROL_CODEC.decode(frame[1:])
                assert isinstance(left, frames.Wedged)
                if self._must_be_silent(member, left.epoch):
                    self._broke_silence(member, "a report")
                self._wedged[member] = max(left.epoch, self._wedged.get(member, 0))
                self._speaks(member, left.epoch)
            elif frame[1:2] == _ENDING_VOTE:
                self._ends(member, frame)
            elif frame[1:2] == _BEDROCK:
                self._agrees(member, frame)
        elif kind == frames.BUNDLE and frame[1:2] == _CLOCK and self._must_be_silent(member, self._chain.now.epoch):
            self._broke_silence(member, "a clock report")

    def _speaks(self, member: MemberId, epoch: int) -> None:
        self._spoke[member] = max(self._spoke.get(member, 0), epoch)

    def _broke_silence(self, member: MemberId, what: str) -> None:
        self._recorder.fail("durability", f"{member} lost its disk in this epoch and sends {what} (SAFETY rule 16)")

    def _voted(self, member: MemberId, frame: bytes) -> None:
        try:
            vote = frames.CONTROL_CODEC.decode(frame[1:])
        except WireError:
            return  # nobody can take it for anything
        assert isinstance(vote, frames.CheckpointVote)
        if self._must_be_silent(member, vote.epoch):
            self._broke_silence(member, "a checkpoint vote")
        self._speaks(member, vote.epoch)
        self._bind((member, "checkpoint", vote.slot), vote.root)

    def _ends(self, member: MemberId, frame: bytes) -> None:
        vote = frames.CONTROL_CODEC.decode(frame[1:])
        assert isinstance(vote, frames.EndingVote)
        epoch = Ending.decode(vote.body).epoch
        if self._must_be_silent(member, epoch):
            self._broke_silence(member, "a vote for an ending")
        self._speaks(member, epoch)
        if not self._may_end_twice(epoch):
            self._bind((member, "ending", *_in(epoch)), digest_of(vote.body))

    def _may_end_twice(self, epoch: int) -> bool:
        era = self._chain.eras[min(epoch, len(self._chain.eras) - 1)]
        if era.quorum.f == 0 and any(one.signed.command.accept_loss for one in self._world.ordered):
            return True
        return len(self._recorder.exempt & set(era.members)) > era.quorum.f

    def _agrees(self, member: MemberId, frame: bytes) -> None:
        said = frames.CONTROL_CODEC.decode(frame[1:])
        assert isinstance(said, frames.BedrockMessage)
        if self._must_be_silent(member, said.epoch):
            self._broke_silence(member, "a message about the epoch's end")
        self._speaks(member, said.epoch)
        match bed.CODEC.decode(said.message):
            case bed.Offer(value):
                self._bind((member, "offer", *_in(said.epoch)), digest_of(value))
            case bed.Accept(ballot, name):
                self._bind((member, bed.Accept, ballot, *_in(said.epoch)), name)
            case bed.Vote(ballot, name):
                self._bind((member, bed.Vote, ballot, *_in(said.epoch)), name)
            case _:
                pass

    def _walk(self, member: MemberId, message: object, epoch: int) -> None:
        """Bind the sender to whatever the message says."""
        kind = type(message)
        binds = getattr(message, "binds", None)
        if callable(binds):
            for place, said in cast("Iterable[tuple[tuple[object, ...], Digest]]", binds()):
                self._bind((member, kind, *place, *_in(epoch)), said)
            return
        shape = self._shapes.get(kind)
        if shape is None:
            shape = self._shapes[kind] = _Shape.of(kind)
        if shape.numbers:
            digest = getattr(message, "digest", None)
            if type(digest) is bytes:
                self._bind((member, kind, *[getattr(message, name) for name in shape.numbers], *_in(epoch)), digest)
        for name in shape.inner:
            value = getattr(message, name)
            for item in cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,):
                if attrs.has(cast("type[Any]", type(item))):
                    self._walk(member, item, epoch)

    def _bind(self, place: tuple[object, ...], digest: Digest) -> None:
        known = self._bound.setdefault(place, digest)
        if known != digest:
            member, *rest = (part.__name__ if isinstance(part, type) else part for part in place)
            self._recorder.fail(
                "agreement",
                f"{member} contradicts itself: {' '.join(map(str, rest))} was {known.hex()[:12]} and is "
                f"{digest.hex()[:12]} (SAFETY rules 5 and 16)",
            )


def _in(epoch: int) -> tuple[str, ...]:
    return (f"in epoch {epoch}",) if epoch else ()


def _epoch_root(era: Era, member: MemberId) -> bytes | None:
    entry = None if era.place is None else era.place.configuration.roster.by_id.get(member)
    return None if entry is None else entry.epoch_root


class Outcomes:
    """What a correct client is told of operations that were not executed (SAFETY rule 9; oracle ``exactly-once``).

    There is a cause for it: the group ended the client's session, since it has more clients than it keeps sessions
    for; two clients used one key; or what the client asked for, or the results that the group had to keep for it,
    exceeded a limit.

    *No false alarm:* nothing is said unless the limits are so far away that none of these can be the cause: half as
    many clients as sessions, a key of its own, and fewer operations than the session's window is wide. What the group
    keeps of results is bounded from below by what this client was answered in all.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._heard: dict[str, int] = {}
        """Bytes of all results of each client, with what each costs besides."""

    def executed(self, actor: Actor, result: bytes) -> None:
        """The client was told a result."""
        self._heard[actor.name] = self._heard.get(actor.name, 0) + len(result) + 512

    def not_executed(self, actor: Actor, what: str, number: int) -> None:
        """The client was told that an operation was skipped, refused, or is lost without anybody's knowing."""
        world = self._world
        limits = world.chain.now.settings.limits
        others = list(world.actors.values())
        mine = [other for other in others if other.public == actor.public]
        near = (
            len(world.recorder.exempt) > world.quorum.f
            or len(mine) > 1
            or 2 * len(others) > limits.sessions
            or actor.machine.next_number >= limits.session_window
            or 2 * self._heard.get(actor.name, 0) > limits.session_reply_bytes
        )
        if not near:
            world.recorder.fail(
                "exactly-once",
                f"{actor.name} is told that its operation {number} is {what}, and there is no cause for it "
                "(SAFETY rule 9)",
            )
