"""The base of all adversaries, what they have in common, and how several are put around one member.

An adversary stands between a replica and the world. It may change what the replica hears (`incoming`, `from_client`),
what it says (`outgoing`), and say things of its own, now or later (`postponed`). `acted` counts the lies that really
left, by the line of docs/FAULTS.md that they are an instance of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import attrs

from bftkit.channel import frames
from bftkit.channel.frames import (
    CONTROL_CODEC,
    BatchBytes,
    BatchRequest,
    Control,
    pack_control,
    pack_protocol,
    unpack_protocol,
)
from bftkit.channel.replica import Replica, ReplicaOut, ReplicaSettings, ToClient
from bftkit.core.machine import Broadcast, Deliver, MemberId, Out, Send
from bftkit.core.ordering import Setup, SignerProtocol
from bftkit.core.wire import Codec, WireError

Maker: TypeAlias = "Callable[[ReplicaSettings], Honest]"
"""What makes an adversary for a member."""

Postponed: TypeAlias = tuple[int, tuple[MemberId, ...], bytes]
"""Ticks of 1 ms from now, receivers, frame."""

Said: TypeAlias = tuple[Sequence[MemberId], bytes]
"""Receivers and a frame."""


class Honest:
    """Changes nothing; the base of all adversaries."""

    lines: ClassVar[tuple[int, ...]] = ()
    """The lines of docs/FAULTS.md that it can be an instance of."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self.settings = settings
        self.acted: Counter[int] = Counter()
        """Lies that left, by their line; whoever runs the adversary may take them out."""
        self.told: Counter[int] = Counter()
        """The same since it was made."""
        self._later: list[Postponed] = []

    def on_epoch(self, settings: ReplicaSettings) -> None:
        """Its member is in another epoch: it signs with that one's keys, and speaks that one's protocol."""
        self.settings = settings
        self.__dict__.pop("setup", None)  # made from the settings when it is first asked for

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """What the replica hears in place of this frame; None: nothing."""
        return frame

    def from_client(self, client: bytes, frame: bytes) -> bytes | None:
        """What the replica hears in place of this frame of a client; None: nothing."""
        return frame

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """What the world sees in place of these effects."""
        return out

    def postponed(self) -> list[Postponed]:
        """Frames to be sent later or besides; asked for after each round, and each is given once."""
        later, self._later = self._later, []
        return later

    def status(self) -> dict[str, Any]:
        """What it has done, for tests and demonstrations."""
        return {}

    # ------------------------------------------------------------------------------------------ for subclasses

    def act(self, line: int, times: int = 1) -> None:
        """A lie left, or something that matters was not heard."""
        self.acted[line] += times
        self.told[line] += times

    def later(self, ticks: int, to: Sequence[MemberId], frame: bytes) -> None:
        """Say this in so many ticks."""
        if to:
            self._later.append((ticks, tuple(to), frame))

    @property
    def others(self) -> tuple[MemberId, ...]:
        """All other members, in roster order."""
        return tuple(member for member in self.settings.members if member != self.settings.me)

    @property
    def last_half(self) -> tuple[MemberId, ...]:
        """The second half of the others, the smaller one if their number is odd."""
        others = self.others
        return others[(len(others) + 1) // 2 :]

    @cached_property
    def setup(self) -> Setup | None:
        """What the protocol's functions for fault injection want; None of a member that was removed."""
        return self.setup_with(self.settings.keyring)

    def setup_with(self, keyring: SignerProtocol) -> Setup | None:
        """The same, with another keyring."""
        settings = self.settings
        if settings.me not in settings.members:
            return None
        return Setup(
            settings.me,
            settings.members,
            settings.quorum,
            keyring,
            0,
            settings.window,
            settings.parameters,
            settings.coins,
        )

    def resigned(self, message: Any) -> Any:
        """A changed message of the protocol with this member's signatures made anew, as far as it has any."""
        again = self.resigned_by(self.setup, message)
        return message if again is None else again

    def resigned_by(self, setup: Setup | None, message: Any) -> Any:
        """The same with the signatures of this set-up; None if there are none, or whoever was to sign was removed."""
        resign = self.settings.plugin.resign
        return None if setup is None or resign is None else resign(setup, message)

    def message(self, name: str) -> Any:
        """The class of the protocol's messages of this name.; None if there is none."""
        return next((cls for cls in self.settings.plugin.codec.messages.values() if cls.__name__ == name), None)

    def inside(self, data: bytes) -> tuple[Codec[Any], Any] | None:
        """What stands in bytes within the protocol's messages, and its codec; None if no codec knows them."""
        for codec in self.settings.plugin.inside:
            try:
                return codec, codec.decode(data)
            except WireError:
                continue
        return None


def _said_of(line: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in line.split(",")) if part)


def chosen(settings: ReplicaSettings, to: str | Iterable[MemberId] | None, half: Sequence[MemberId]) -> frozenset[str]:
    """Members that an option names: ``all`` (also None), ``half`` or ids with commas between.

    Raises ValueError for an id that is no member's.
    """
    if to is None or to == "all":
        return frozenset(settings.members)
    if to == "half":
        return frozenset(half)
    named = frozenset(_said_of(to) if isinstance(to, str) else to)
    if strangers := sorted(named - {*settings.members}):
        raise ValueError(f"{', '.join(strangers)}: no member of this group; members are {', '.join(settings.members)}")
    return named


def kind_of(settings: ReplicaSettings, frame: bytes) -> str:
    """The name of the message in a frame: its class's, ``Bundle``, ``Reply``, or nothing for what is none."""
    if not frame:
        return ""
    codec: Codec[Any]
    if frame[0] == frames.PROTOCOL:
        try:
            _, message, _ = unpack_protocol(frame)
        except WireError:
            return ""
        codec = settings.plugin.codec
    elif frame[0] == frames.CONTROL:
        codec, message = CONTROL_CODEC, frame[1:]
    elif frame[0] == frames.ANSWER:
        codec, message = frames.ANSWER_CODEC, frame[1:]
    else:
        return {frames.BUNDLE: "Bundle", frames.REPLY: "Reply"}.get(frame[0], "")
    cls = codec.messages.get(message[0]) if message else None
    return cls.__name__ if cls is not None else ""


def protocol_names(settings: ReplicaSettings) -> frozenset[str]:
    """The names of the protocol's messages."""
    return frozenset(cls.__name__ for cls in settings.plugin.codec.messages.values())


class Rewriting(Honest):
    """Rewrites frame by frame: for subclasses, which override `say`, `answer` and `besides`."""

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """What is sent to other members in place of this frame, and to whom."""
        yield to, frame

    def answer(self, client: bytes, frame: bytes) -> bytes | None:
        """What a client gets in place of this frame; None: nothing."""
        return frame

    def besides(self, replica: Replica) -> Iterator[Said]:
        """What is sent in addition, at the end of each round."""
        return iter(())

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """Everything in its place and order; what is said besides comes last."""
        changed: ReplicaOut = Out()
        for effect in out.effects:
            match effect:
                case Broadcast(frame):
                    self._say(replica.others, frame, changed)
                case Send(to, frame):
                    self._say(to, frame, changed)
                case Deliver(ToClient(client, frame)):
                    if (answer := self.answer(client, frame)) is not None:
                        changed.deliver(ToClient(client, answer))
                case _:
                    changed.effects.append(effect)
        for receivers, frame in self.besides(replica):
            changed.send(receivers, frame)
        return changed

    def _say(self, to: tuple[MemberId, ...], frame: bytes, out: ReplicaOut) -> None:
        said: list[Said] = [(to, frame)]
        try:
            said = list(self.say(to, frame)) if frame else said
        except WireError:
            pass  # another adversary's garbage, within this one: there is nothing to change about it
        for receivers, instead in said:
            if receivers:
                out.send(receivers, instead)

    # ------------------------------------------------------------------------------------------ for subclasses

    def unpacked(self, frame: bytes) -> tuple[int, Any, list[bytes]] | None:
        """(epoch, message, carried batches) of a frame of the protocol; None for any other."""
        if frame[:1] != b"\x01":
            return None
        try:
            epoch, packed, carried = unpack_protocol(frame)
            return epoch, self.settings.plugin.codec.decode(packed), carried
        except WireError:
            return None

    def packed(self, message: Any, carried: Sequence[bytes] = (), epoch: int | None = None) -> bytes:
        """A frame of the protocol; by default of this epoch."""
        encoded = self.settings.plugin.codec.encode(message)
        return pack_protocol(self.settings.epoch if epoch is None else epoch, encoded, carried)


class Together(Honest):
    """Several adversaries around one member, the first one innermost: what it says goes through the others.

    ``Together(Equivocate, WrongReplies)`` is a maker, as a class of an adversary is; ``equivocate+wrong-replies`` is
    its name on the shelf.
    """

    def __init__(self, *makers: Maker) -> None:
        """Raises ValueError if there is none."""
        if not makers:
            raise ValueError("at least one adversary is needed")
        self._makers = makers
        self.parts: tuple[Honest, ...] = ()

    def __call__(self, settings: ReplicaSettings) -> Together:
        """The adversary for this member."""
        made = Together(*self._makers)
        Honest.__init__(made, settings)
        made.parts = tuple(make(settings) for make in self._makers)
        for part in made.parts:
            part.acted = made.acted
        return made

    def on_epoch(self, settings: ReplicaSettings) -> None:
        super().on_epoch(settings)
        for part in self.parts:
            part.on_epoch(settings)

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """The outermost hears first."""
        for part in reversed(self.parts):
            heard = part.incoming(sender, frame)
            if heard is None:
                return None
            frame = heard
        return frame

    def from_client(self, client: bytes, frame: bytes) -> bytes | None:
        """The outermost hears first."""
        for part in reversed(self.parts):
            heard = part.from_client(client, frame)
            if heard is None:
                return None
            frame = heard
        return frame

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """The innermost speaks first."""
        for part in self.parts:
            out = part.outgoing(replica, out)
        return out

    def postponed(self) -> list[Postponed]:
        """Whatever any of them postponed."""
        return [frame for part in self.parts for frame in part.postponed()]

    def status(self) -> dict[str, Any]:
        """What each of them says."""
        statuses = [part.status().get("adversary", {}) for part in self.parts]
        return {"adversary": {"kind": "together", "parts": statuses}}


def control_in(frame: bytes) -> Control | None:
    """The message between channels in a frame; None for any other frame."""
    if frame[:1] != bytes((frames.CONTROL,)):
        return None
    try:
        return CONTROL_CODEC.decode(frame[1:])
    except WireError:
        return None


def hand_out(batches: Mapping[bytes, bytes], frame: bytes) -> Iterator[bytes]:
    """What a frame asks for of these batches, which the replica inside does not know; by their digests."""
    request = control_in(frame) if batches else None
    if isinstance(request, BatchRequest):
        for name in request.digests:
            if name in batches:
                yield pack_control(BatchBytes(batches[name]))


def fields_of(message: Any) -> dict[str, Any]:
    """The fields of a message by name; none for what is no message."""
    found: tuple[Any, ...] = getattr(message, "__attrs_attrs__", ())
    return {field.name: getattr(message, field.name) for field in found}


def digests_of(message: Any) -> dict[str, bytes]:
    """The fields of a message that hold a digest, by name."""
    return {name: value for name, value in fields_of(message).items() if type(value) is bytes and len(value) == 32}


def numbers_of(message: Any) -> dict[str, int]:
    """The fields of a message that hold a number, by name."""
    return {name: value for name, value in fields_of(message).items() if type(value) is int}


def replaced(message: Any, changes: dict[bytes, bytes]) -> Any:
    """A message in which some byte strings stand for others, at any depth of messages within it."""
    evolved: dict[str, Any] = {}
    for name, value in fields_of(message).items():
        other = changes.get(value, value) if type(value) is bytes else replaced(value, changes)
        if other is not value:
            evolved[name] = other
    return attrs.evolve(message, **evolved) if evolved else message
