"""A member that is honest except in some protocol rounds, in which some members get something else than it said.

A round is (view, slot, kind of message), as the fields of its messages say: ``view 3 slot 17 Prepare``. One seed
decides in which rounds it lies, to whom, and what it changes there; the changes themselves are those of
`bftkit.sim.wire_mutation`. All that it changed stands in `mutations`, in words, for the story of a run::

    world.lie("m0", lambda settings: Mutate(settings, seed=7, rate=20))

What is changed: messages of the protocol (of any plug-in, by their wire annotations), the frames that they travel in
(epoch, batches that go with them), all messages between the channels, and what it answers to clients.

After ByzzFuzz; see `bftkit.sim.wire_mutation` for the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

import attrs

from bftkit.channel import frames
from bftkit.channel.frames import (
    ANSWER_CODEC,
    CHECKPOINT_PURPOSE,
    CONTROL_CODEC,
    CheckpointVote,
    checkpoint_body,
    pack_protocol,
    pack_reply,
    unpack_protocol,
    unpack_reply,
)
from bftkit.channel.interface import ReplicaOut, ReplicaSettings, ToClient
from bftkit.channel.replica import Replica
from bftkit.core.digest import digest
from bftkit.core.machine import Broadcast, Deliver, MemberId, Out, Send
from bftkit.core.ordering import Setup
from bftkit.core.wire import WireError
from bftkit.sim.adversaries.honest import Honest
from bftkit.sim.wire_mutation import Mutated, Mutator, Round, Scope

TOLD_MAX: Final = 10_000
"""So many mutations are told in words; after that they are only counted."""

KEPT_MAX: Final = 256
"""So many changed messages are kept, so that what is said again is changed in the same way again."""

OMITTED: Final = 0.1
"""This share of the chosen rounds is simply not spoken of to the chosen members."""

FRAME: Final = 0.1
"""This share of the changes concerns the frame around a protocol's message."""


@attrs.frozen
class _Lie:
    """What some members get in place of a frame."""

    to: frozenset[MemberId]
    frame: bytes | None
    what: str
    lines: frozenset[int]


class Mutate(Honest):
    """See the top of this file."""

    lines = (10, 11, 21, 22, 23, 24, 25, 26, 27, 29, 33)

    def __init__(
        self,
        settings: ReplicaSettings,
        seed: int = 0,
        rounds: int | None = None,
        rate: int = 10,
        scope: Scope = "small",
        receivers: Sequence[MemberId] | str | int | None = None,
        clients: bool = True,
        kinds: Sequence[str] | str | None = None,
    ) -> None:
        """Lie in `rate` per cent of the rounds.

        `rounds`: in so many at most (None: without an end). `receivers`: to these only (a text names them with commas
        between), or to so many, drawn for each round; None: to any number. `clients`: lie to them as well. `kinds`:
        about messages of these names only, such as ``ViewChange``. Raises `ValueError` for an unknown scope.
        """
        super().__init__(settings)
        if scope not in ("small", "any"):
            raise ValueError(f"the scope is small or any, not {scope!r}")
        self.mutations: list[str] = []
        """What it changed, in words, in order; what was said again and changed in the same way stands here once."""
        self._told: set[str] = set()
        self.changed = 0
        """How many frames it changed or left out, each counted once for all of its receivers."""
        self._seed = seed
        self._rounds = rounds
        self._rate = (rate << 32) // 100
        self._scope: Scope = scope
        self._receivers = receivers if receivers is None or isinstance(receivers, int) else _names(receivers)
        self._clients = clients
        self._kinds = None if kinds is None else _names(kinds)
        self._lied: dict[str, None] = {}
        self._kept: dict[bytes, _Lie | None] = {}
        self._protocol = self._mutator_of(settings)
        self._control = Mutator(CONTROL_CODEC, settings.members, (), self._resign_control)
        self._answers = Mutator(ANSWER_CODEC, settings.members)
        self._batches: list[bytes] = []

    @staticmethod
    def _mutator_of(settings: ReplicaSettings) -> Mutator:
        """Changes messages of the epoch's protocol."""
        plugin = settings.plugin
        if settings.me not in settings.members:
            return Mutator(plugin.codec, settings.members, plugin.inside)  # removed: there is nothing to sign anew
        setup = Setup(
            settings.me,
            settings.members,
            settings.quorum,
            settings.keyring,
            0,
            settings.window,
            settings.parameters,
            settings.coins,
        )
        resign = plugin.resign
        return Mutator(
            plugin.codec,
            settings.members,
            plugin.inside,
            None if resign is None else lambda message: resign(setup, message),
        )

    def on_epoch(self, settings: ReplicaSettings) -> None:
        """Another epoch: its protocol's messages are changed from now on."""
        super().on_epoch(settings)
        self._protocol = self._mutator_of(settings)

    def status(self) -> dict[str, Any]:
        """How often it lied, and how at last."""
        return {"adversary": {"kind": "mutate", "changed": self.changed, "last": self.mutations[-3:]}}

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """Hears all, and remembers some of it: what it puts into messages was really said."""
        self._note(frame)
        return frame

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """Frames of chosen rounds leave changed, to chosen members; everything else as it is."""
        changed: ReplicaOut = Out()
        for effect in out.effects:
            match effect:
                case Broadcast(frame):
                    self._send(replica.others, frame, changed)
                case Send(to, frame):
                    self._send(to, frame, changed)
                case Deliver(ToClient(client, frame)) if self._clients:
                    if (answer := self._answer(frame)) is not None:
                        changed.deliver(ToClient(client, answer))
                case _:
                    changed.effects.append(effect)
        return changed

    # ------------------------------------------------------------------------------------------ to members

    def _send(self, to: Sequence[MemberId], frame: bytes, out: ReplicaOut) -> None:
        lie = self._lie(frame)
        deceived = [member for member in to if lie is not None and member in lie.to]
        if lie is None or not deceived:
            out.send(list(to), frame)
        else:
            if truthful := [member for member in to if member not in lie.to]:
                out.send(truthful, frame)
            if lie.frame is not None:
                out.send(deceived, lie.frame)
            self._tell(f"{lie.what} to {', '.join(deceived)}", lie.lines)
        self._note(frame)

    def _lie(self, frame: bytes) -> _Lie | None:
        """What is said in place of a frame, and to whom; None if it is said as it is."""
        kind = frame[0]
        if kind not in (frames.PROTOCOL, frames.CONTROL):
            return None
        mutator = self._control if kind == frames.CONTROL else self._protocol
        epoch, message, carried = unpack_protocol(frame) if kind == frames.PROTOCOL else (0, frame[1:], [])
        if kind == frames.PROTOCOL and epoch != self.settings.epoch:
            return None  # said by the protocol of the epoch before, in the round in which this one began
        spoken = mutator.round_of(message)
        if not self._chosen(str(spoken), spoken.kind):
            return None
        name = digest(frame)
        if name not in self._kept:
            if len(self._kept) >= KEPT_MAX:
                del self._kept[next(iter(self._kept))]
            random = Random(f"{self._seed} {self.settings.me} {spoken}")
            to = self._draw_receivers(random)
            self._kept[name] = self._change(frame, mutator, spoken, epoch, message, carried, to, random)
        return self._kept[name]

    def _chosen(self, spoken: str, kind: str) -> bool:
        if spoken in self._lied:
            return True
        if self._kinds is not None and kind not in self._kinds:
            return False
        drawn = digest(self._seed.to_bytes(16, signed=True), self.settings.me.encode(), spoken.encode())
        if int.from_bytes(drawn[:4]) >= self._rate:
            return False
        if self._rounds is not None:
            if len(self._lied) >= self._rounds:
                return False
            self._lied[spoken] = None
        return True

    def _draw_receivers(self, random: Random) -> frozenset[MemberId]:
        others = [member for member in self.settings.members if member != self.settings.me]
        if isinstance(self._receivers, frozenset):
            return self._receivers
        count = random.randint(1, len(others)) if self._receivers is None else min(self._receivers, len(others))
        return frozenset(random.sample(others, count))

    def _change(
        self,
        frame: bytes,
        mutator: Mutator,
        spoken: Round,
        epoch: int,
        message: bytes,
        carried: list[bytes],
        to: frozenset[MemberId],
        random: Random,
    ) -> _Lie | None:
        draw = random.random()
        if draw < OMITTED:
            return _Lie(to, None, f"{spoken}: not sent", frozenset({21}))
        if draw < OMITTED + FRAME and frame[0] == frames.PROTOCOL:
            return self._change_frame(spoken, epoch, message, carried, to, random)
        mutated: Mutated | None = None
        for _ in range(4):  # what chance chooses first may be a list without items, or a value that has no other
            mutated = mutator.mutate(message, random, self._scope)
            if mutated is not None:
                break
        if mutated is None:
            return None
        data = mutated.data
        whole = frame[:1] + data if frame[0] == frames.CONTROL else pack_protocol(epoch, data, carried)
        return _Lie(to, whole, f"{spoken}: {mutated.what}", mutated.lines)

    def _change_frame(
        self,
        spoken: Round,
        epoch: int,
        message: bytes,
        carried: list[bytes],
        to: frozenset[MemberId],
        random: Random,
    ) -> _Lie | None:
        way = random.choice(("epoch", "without", "other", "bit") if carried else ("epoch", "other"))
        if way == "epoch":
            other = epoch + 1 if epoch == 0 else epoch + random.choice((-1, 1))
            return _Lie(to, pack_protocol(other, message, carried), f"{spoken}: as of epoch {other}", frozenset({11}))
        if way == "without":
            return _Lie(to, pack_protocol(epoch, message, []), f"{spoken}: without its batch", frozenset({27}))
        if way == "bit":
            batch = bytearray(carried[0])
            batch[random.randrange(len(batch))] ^= 1 << random.randrange(8)
            return _Lie(
                to,
                pack_protocol(epoch, message, [bytes(batch), *carried[1:]]),
                f"{spoken}: a bit of its batch is wrong",
                frozenset({22}),
            )
        if not self._batches:
            return None
        other_batch = random.choice(self._batches)
        return _Lie(
            to, pack_protocol(epoch, message, [other_batch]), f"{spoken}: with another batch", frozenset({22, 27})
        )

    def _resign_control(self, message: Any) -> Any | None:
        """Of the channel's messages, only checkpoint votes carry a signature of their sender."""
        if not isinstance(message, CheckpointVote):
            return None
        statement = checkpoint_body(message.slot, message.root)
        return attrs.evolve(message, signature=self.settings.keyring.sign(CHECKPOINT_PURPOSE, statement))

    def _note(self, frame: bytes) -> None:
        if frame[0] == frames.CONTROL:
            self._control.note(frame[1:])
        elif frame[0] == frames.PROTOCOL:
            try:
                _, message, carried = unpack_protocol(frame)
            except WireError:
                return
            self._protocol.note(message)
            self._batches = [*self._batches, *carried][-8:]

    def _tell(self, what: str, lines: frozenset[int]) -> None:
        self.changed += 1
        for line in sorted(lines):
            self.act(line)
        if what not in self._told and len(self.mutations) < TOLD_MAX:
            self._told.add(what)
            self.mutations.append(what)

    # ------------------------------------------------------------------------------------------ to clients

    def _answer(self, frame: bytes) -> bytes | None:
        """What a client gets in place of a reply or an answer; None: nothing."""
        if frame[0] == frames.REPLY:
            reply = unpack_reply(frame)
            spoken, kind = f"Reply of slot {reply.slot} session {reply.session} from {reply.first}", "Reply"
        elif frame[0] == frames.ANSWER:
            answer = self._answers.round_of(frame[1:])
            spoken, kind = str(answer), answer.kind
        else:
            return frame
        if not self._chosen(spoken, kind):
            return frame
        random = Random(f"{self._seed} {self.settings.me} {spoken}")
        if random.random() < OMITTED:
            self._tell(f"{spoken}: not sent", frozenset({21}))
            return None
        if frame[0] == frames.REPLY:
            self._tell(f"{spoken}: changed", frozenset({33}))
            return _other_reply(frame, random)
        mutated = self._answers.mutate(frame[1:], random, self._scope)
        self._answers.note(frame[1:])
        if mutated is None:
            return frame
        self._tell(f"{spoken}: {mutated.what}", frozenset({33}))
        return frame[:1] + mutated.data


def _names(several: Sequence[str] | str) -> frozenset[str]:
    return frozenset(several.split(",") if isinstance(several, str) else several)


def _other_reply(frame: bytes, random: Random) -> bytes:
    """A reply with one thing changed: other results with the digest that fits them, or one number one off."""
    reply = unpack_reply(frame)
    numbers = [reply.epoch, reply.slot, reply.session, reply.first, reply.count]
    name, results, full = reply.digest, reply.results, reply.full
    way = random.randrange(8)
    if way < len(numbers):
        numbers[way] = max(0, numbers[way] + random.choice((-1, 1)))
    elif way == 5 or not results:
        name = digest(name)
    else:
        at = random.randrange(len(results))
        results = results[:at] + bytes((results[at] ^ 1 << random.randrange(8),)) + results[at + 1 :]
        if way == 6:
            name = digest(results)
    epoch, slot, session, first, count = numbers
    return pack_reply(epoch, slot, session, first, count, name, reply.leader, results if full else None)
