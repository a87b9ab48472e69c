"""Members that say too much: what was said before, what is far ahead, the same a hundred times, and rubbish."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Any, ClassVar, Final

import attrs

from bftkit.channel import frames
from bftkit.channel.frames import (
    CHECKPOINT_PURPOSE,
    BatchRequest,
    CheckpointVote,
    ChunkRequest,
    DecidedClaims,
    ManifestRequest,
    Status,
    checkpoint_body,
    pack_control,
    pack_protocol,
    unpack_protocol,
)
from bftkit.channel.replica import Replica, ReplicaSettings
from bftkit.core.digest import digest
from bftkit.core.wire import WireError
from bftkit.crypto.keys import Ed25519Keyring
from bftkit.sim.adversaries.honest import Rewriting, Said, fields_of, numbers_of
from bftkit.sim.wire_mutation import SLOT_NAMES, VIEW_NAMES

KEPT: Final = 200
"""So many frames are kept to be said again."""


def _checked(every: int) -> int:
    if every < 1:
        raise ValueError(f"every {every}th round makes no sense")
    return every


def _seeded(settings: ReplicaSettings, name: str, seed: int) -> Random:
    return Random(f"{name} {settings.group.hex()} {settings.me} {seed}")


class Replay(Rewriting):
    """Says again what was said before: its own old messages and others', and such as another group or epoch heard.

    Old frames as they were (FAULTS 29); the protocol's messages with another epoch's number, and what this member
    signed in another group (FAULTS 11): the same key under the same words, as a link to a second group of its would
    show them. The defence: everything that is signed is bound to purpose, group and epoch (SAFETY rule 2), and a
    message that is heard twice counts once.
    """

    lines: ClassVar[tuple[int, ...]] = (11, 29)

    def __init__(self, settings: ReplicaSettings, every: int = 4, seed: int = 0) -> None:
        """`every`: at the end of each so-manyth round. Raises ValueError if that is not positive."""
        super().__init__(settings)
        self._every = _checked(every)
        self._random = _seeded(settings, "replay", seed)
        self._rounds = 0
        self._old: deque[bytes] = deque(maxlen=KEPT)
        self._own: deque[bytes] = deque(maxlen=KEPT)
        group = digest(b"another group of the same member", settings.group)
        publics = {member: public for public, member in settings.member_keys.items()}
        self._elsewhere = Ed25519Keyring(group, settings.epoch, group, settings.me, settings.clock_key, publics)
        self.replayed = 0

    def status(self) -> dict[str, Any]:
        """How many frames it said again."""
        return {"adversary": {"kind": "replay", "replayed": self.replayed}}

    def incoming(self, sender: str, frame: bytes) -> bytes | None:
        """Keeps what it hears."""
        self._old.append(frame)
        return frame

    def say(self, to: tuple[str, ...], frame: bytes) -> Iterator[Said]:
        """Keeps what it says."""
        self._old.append(frame)
        if frame[0] == frames.PROTOCOL:
            self._own.append(frame)
        yield to, frame

    def besides(self, replica: Replica) -> Iterator[Said]:
        """Something old, something of another epoch, something of another group."""
        self._rounds += 1
        if self._rounds % self._every or not self._old:
            return
        way = self._rounds // self._every % 4
        if way == 0 and self._own:
            frame = self._random.choice(self._own)
            try:
                epoch, message, carried = unpack_protocol(frame)
            except WireError:
                return  # another adversary's garbage, within this one
            yield self._again(replica, 11, pack_protocol(epoch + self._random.choice((1, 7)), message, carried))
        elif way == 1 and (other := self._of_another_group(replica)) is not None:
            yield self._again(replica, 11, other)
        else:
            yield self._again(replica, 29, self._random.choice(self._old))

    def _again(self, replica: Replica, line: int, frame: bytes) -> Said:
        self.replayed += 1
        self.act(line)
        return replica.others, frame

    def _of_another_group(self, replica: Replica) -> bytes | None:
        found = self.unpacked(self._random.choice(self._own)) if self._own else None
        if found is not None:
            again = self.resigned_by(self.setup_with(self._elsewhere), found[1])
            if again is not None:
                return self.packed(again, found[2], found[0])
        if (stable := replica.checkpoints.stable) > 0:
            slot, root = stable + self.settings.checkpoint_interval, replica.checkpoints.kept[-1].root
            signature = self._elsewhere.sign(CHECKPOINT_PURPOSE, checkpoint_body(slot, root))
            return pack_control(CheckpointVote(self.settings.epoch, slot, root, signature))
        return None


class FarFuture(Rewriting):
    """Beside what it says it says the same of views and slots far ahead, and of epochs to come.

    Signed, as far as it can sign. FAULTS 29. The defence: nothing is kept beyond the window (SAFETY rule 18), of each
    member at most so much, and one member alone draws nobody into a later view.
    """

    lines: ClassVar[tuple[int, ...]] = (29,)

    def __init__(self, settings: ReplicaSettings, every: int = 3, far: int = 0) -> None:
        """`every`: about each so-manyth message. `far`: how far; 0: now near the window's end, now beyond all reach.

        Raises ValueError for a number below that.
        """
        super().__init__(settings)
        if far < 0:
            raise ValueError("the far future lies ahead")
        self._every = _checked(every)
        self._fars = (far,) if far else (settings.window, 3 * settings.window + 1, 1 << 32, (1 << 63) - 1)
        self._count = 0
        self.said = 0

    def status(self) -> dict[str, Any]:
        """How many such messages it sent."""
        return {"adversary": {"kind": "far-future", "said": self.said}}

    def say(self, to: tuple[str, ...], frame: bytes) -> Iterator[Said]:
        """The truth, and then the future."""
        yield to, frame
        self._count += 1
        if self._count % self._every:
            return
        turn = self._count // self._every
        for other in self._far(frame, self._fars[turn % len(self._fars)], turn):
            self.said += 1
            self.act(29)
            yield to, other

    def _far(self, frame: bytes, far: int, turn: int) -> Iterator[bytes]:
        epoch = self.settings.epoch
        if frame[0] == frames.CONTROL:
            slot = min(far, 1 << 40) + turn  # ever new ones, or those that come first would be the only ones kept
            lie = digest(slot.to_bytes(8, "big"))
            signature = self.settings.keyring.sign(CHECKPOINT_PURPOSE, checkpoint_body(slot, lie))
            yield pack_control(CheckpointVote(epoch, slot, lie, signature))
            yield pack_control(Status(epoch, slot, slot, far))
            yield pack_control(DecidedClaims(epoch, slot, (lie,) * 20))
            return
        found = self.unpacked(frame)
        if found is None:
            return
        _, message, carried = found
        yield self.packed(message, carried, epoch + 1 + turn % 1000)
        for names in (VIEW_NAMES, SLOT_NAMES):
            if (other := self._moved(message, names, far)) is not None:
                yield self.packed(self.resigned(other), carried)

    def _moved(self, message: Any, names: tuple[str, ...], far: int) -> Any | None:
        numbers = numbers_of(message)
        found = {name: min(numbers[name] + far, (1 << 64) - 1) for name in names if name in numbers}
        if found:
            return attrs.evolve(message, **found)
        for name, value in fields_of(message).items():
            if type(value) is not bytes:
                inner = self._moved(value, names, far)
            elif (within := self.inside(value)) is not None:
                codec, body = within
                moved = self._moved(body, names, far)
                inner = None if moved is None else codec.encode(self.resigned(moved))
            else:
                continue
            if inner is not None:
                return attrs.evolve(message, **{name: inner})
        return None


class Flood(Rewriting):
    """Sends a hundred times as much as its share: questions, messages said again, ever new slots, and rubbish.

    FAULTS 45 and 48. The defence: of each peer only so much is read at a time, queues are bounded and refuse, and what
    a member is served in a beat is bounded.
    """

    lines: ClassVar[tuple[int, ...]] = (45, 48)

    def __init__(
        self,
        settings: ReplicaSettings,
        times: int = 100,
        to: str = "all",
        seed: int = 0,
        most: int = 3000,
        a_round: int = 400,
    ) -> None:
        """`times`: so many frames for each of its own. `to`: ``all`` or a member's id. `most`: it ends after so many
        frames in all, so that a simulation of it does; 0: never. `a_round`: in one round no more than so many.

        Raises ValueError for an id that is no member's, or if it is to flood less than once.
        """
        super().__init__(settings)
        if times < 1:
            raise ValueError("a flood is at least as much as the share")
        if to != "all" and to not in settings.members:
            raise ValueError(f"{to}: no member of this group")
        self._times = times
        self._to = to
        self._random = _seeded(settings, "flood", seed)
        self._left = most or 1 << 62
        self._a_round = a_round
        self._own: deque[bytes] = deque(maxlen=KEPT)
        self._due = 0
        self.flooded = 0

    def status(self) -> dict[str, Any]:
        """How many frames it sent beyond its share."""
        return {"adversary": {"kind": "flood", "flooded": self.flooded}}

    def say(self, to: tuple[str, ...], frame: bytes) -> Iterator[Said]:
        """Its share."""
        self._own.append(frame)
        self._due += self._times
        yield to, frame

    def besides(self, replica: Replica) -> Iterator[Said]:
        """The flood."""
        to = replica.others if self._to == "all" else (self._to,)
        count = min(self._due, self._a_round, self._left) if self.settings.me not in to else 0
        self._due = 0
        self._left -= count
        for number in range(count):
            line, frame = self._frame(replica, number)
            self.flooded += 1
            self.act(line)
            yield to, frame

    def _frame(self, replica: Replica, number: int) -> tuple[int, bytes]:
        random = self._random
        match number % 8:
            case 0:
                return 45, bytes((random.choice((1, 2, 3, 99)),)) + random.randbytes(random.randrange(300))
            case 1:
                names = tuple(replica.history.get(slot, random.randbytes(32)) for slot in sorted(replica.history)[-8:])
                return 45, pack_control(BatchRequest(names or (random.randbytes(32),)))
            case 2:
                return 45, pack_control(ManifestRequest(replica.checkpoints.stable))
            case 3:
                return 45, pack_control(ChunkRequest(replica.checkpoints.stable, 0))
            case 4:
                return 45, pack_control(Status(self.settings.epoch, 0, 0, 0))
            case 5 if (new := self._new_instance()) is not None:
                return 48, new
            case _:
                return 45, random.choice(self._own)

    def _new_instance(self) -> bytes | None:
        found = self.unpacked(self._random.choice(self._own))
        if found is None:
            return None
        numbers = numbers_of(found[1])
        moved = {name: numbers[name] + self._random.randrange(1 << 20) for name in SLOT_NAMES if name in numbers}
        return self.packed(attrs.evolve(found[1], **moved)) if moved else None


class Garbage(Rewriting):
    """Sends bytes that are no message: noise of every kind of frame, true frames cut off, or with a byte changed.

    FAULTS 10. The defence: strict decoding with bounds; what cannot be read is refused, counted and attributed.
    """

    lines: ClassVar[tuple[int, ...]] = (10,)

    def __init__(self, settings: ReplicaSettings, every: int = 2, seed: int = 0) -> None:
        """`every`: at the end of each so-manyth round. Raises ValueError if that is not positive."""
        super().__init__(settings)
        self._every = _checked(every)
        self._random = _seeded(settings, "garbage", seed)
        self._rounds = 0
        self._own: deque[bytes] = deque(maxlen=KEPT)
        self.sent = 0

    def status(self) -> dict[str, Any]:
        """How much rubbish it sent."""
        return {"adversary": {"kind": "garbage", "sent": self.sent}}

    def say(self, to: tuple[str, ...], frame: bytes) -> Iterator[Said]:
        """Sense."""
        self._own.append(frame)
        yield to, frame

    def besides(self, replica: Replica) -> Iterator[Said]:
        """Nonsense."""
        self._rounds += 1
        if self._rounds % self._every == 0:
            self.sent += 1
            self.act(10)
            yield replica.others, self._nonsense()

    def _nonsense(self) -> bytes:
        random = self._random
        way = random.randrange(4)
        if way == 0 or not self._own:
            kind = random.choice((0, 1, 2, 3, 16, 17, 18, 255))
            return bytes((kind,)) + random.randbytes(random.randrange(200))
        frame = bytearray(random.choice(self._own))
        if way == 1:
            return bytes(frame[: random.randrange(len(frame))])
        if way == 2:
            return bytes(frame) + random.randbytes(random.randint(1, 9))
        frame[random.randrange(len(frame))] ^= 1 << random.randrange(8)
        return bytes(frame)
