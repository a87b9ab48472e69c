"""Clients that lie: what a stranger with a connection can do to a group, as the catalogue of faults names it.

Each is an actor like any other client, with a key and connections, but what it sends it makes by hand: bundles under
numbers that it used before, for some members only, with bad signatures, of other groups, too many, or no bundles at
all. It hears what members answer, and makes of it what it likes.

A liar acts every few ticks until the world is healed (`World.finish`) or it is stopped. What it submits is told to the
recorder, wherever a correct group may order it: `Recorder.submit` counts how often. So the checkers hold for liars'
operations too: whatever they send, one operation stands at one place, with one result.

`LYING_CLIENTS` knows them by name: `World.join_liar("evil", "double-number")`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bftkit.channel import frames
from bftkit.channel.bundles import LATE, OPEN, REQUESTS, make_bundle, unpack_lateness, unpack_results
from bftkit.channel.client import ClientSettings
from bftkit.channel.frames import AskStatus, Read, pack_ask, unpack_reply
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.core.wire import WireError
from bftkit.service import keyvalue
from bftkit.sim.actors import Actor
from bftkit.sim.links import START_MS
from bftkit.sim.workloads import Workload

if TYPE_CHECKING:
    from bftkit.sim.world import World

ACT_TICKS_MAX: Final = 120
"""A liar does something every so many ticks at most."""
PATIENCE_TICKS: Final = 400
"""After so long without an answer to its opening, it opens its session again."""

# Lines of docs/FAULTS.md
MALFORMED: Final = 10
REPLAYED: Final = 11
HALF_AUTHENTIC: Final = 30
DOUBLE_NUMBER: Final = 32
FLOOD: Final = 46
BACKLOG: Final = 47


class LyingClient(Actor):
    """The base of all lying clients: it opens a session, and then does `act` again and again.

    A liar of one's own derives from it, writes `act`, and is added to `LYING_CLIENTS` or given to `World.join_as`.
    """

    def __init__(self, world: World, name: str, settings: ClientSettings) -> None:
        super().__init__(world, name, settings)
        self.idle = True
        self.members = settings.members
        self.key = settings.key
        self.group = settings.group
        self.workload: Workload | None = None
        """What it submits, if it is not the key-value store that runs."""
        self.session = 0
        self.number = 0
        """The last sequence number that it used."""
        self.acted: Counter[int] = Counter()
        """Line of docs/FAULTS.md -> how often it was really done."""
        self.refused: Counter[int] = Counter()
        """Reason -> how many refusals it heard."""
        self.results = 0
        """Replies that it heard."""
        self._nonce = 0
        self._opened_at = 0
        world.after(self.random.randint(1, ACT_TICKS_MAX), self._again)

    # ------------------------------------------------------------------------------------------ what a liar says

    def act(self) -> None:
        """Do something. Called while the session is open."""
        raise NotImplementedError

    def did(self, line: int, times: int = 1) -> None:
        """This line of docs/FAULTS.md really happened."""
        self.acted[line] += times
        self.world.inject(line, times)

    def operation(self, text: str) -> bytes:
        """An operation of its own: on a key that no correct client uses, or as its workload has it."""
        if self.workload is not None:
            return self.workload.next(self.random).operation
        return keyvalue.put(b"of " + self.name.encode(), f"{text} {self.number}".encode())

    def bundle(
        self, first: int, operations: Sequence[bytes], *, low: int = 0, legal: bool = True, expires_ms: int = 0
    ) -> bytes:
        """The signed bytes of a bundle in its session. `legal`: a correct group may order it."""
        if legal:
            for operation in operations:
                self.world.recorder.submit(self.public, operation)
        low = low or max(1, first - 64)
        return make_bundle(self.key, self.group, REQUESTS, self.session, first, low, operations, expires_ms)

    def send(self, raw: bytes, to: Sequence[MemberId] = ()) -> None:
        """Send a bundle, to all members by default."""
        self.send_frame(bytes((frames.BUNDLE,)) + raw, to)

    def send_frame(self, frame: bytes, to: Sequence[MemberId] = ()) -> None:
        """Send any bytes."""
        for member in to or self.members:
            self.world.carry_from_client(self, member, frame)

    def some_members(self) -> tuple[list[MemberId], list[MemberId]]:
        """The members in two parts, drawn at random; neither is empty if there is more than one member."""
        drawn = self.random.sample(self.members, len(self.members))
        cut = self.random.randint(1, max(1, len(drawn) - 1))
        return drawn[:cut], drawn[cut:]

    # ------------------------------------------------------------------------------------------ the machinery

    def retire(self) -> None:
        """The world is healed: it says nothing more."""
        self.stop()

    def open(self) -> None:
        """Open a session, another one each time."""
        self._nonce += 1
        self._opened_at = self.world.now
        self.session = 0
        self.number = 0
        nonce = ((self.settings.started_ms << 16) + self._nonce).to_bytes(16, "big")
        self.send(make_bundle(self.key, self.group, OPEN, 0, 0, 0, (nonce,)))

    def _again(self) -> None:
        if self.stopped:
            return
        if self.session:
            self.act()
        elif not self._nonce or self.world.now - self._opened_at > PATIENCE_TICKS:
            self.open()
        self.world.after(self.random.randint(1, ACT_TICKS_MAX), self._again)

    def knows(self, member: MemberId) -> bool:
        """It dials whoever there is, and waits for no proof."""
        return True

    def on_link(self, member: MemberId, binding: bytes) -> None:
        """Nothing that it asked for is missed."""

    def on_frame(self, member: MemberId, frame: bytes) -> None:
        """It believes one member, and does not check who it is."""
        try:
            if frame[:1] == bytes((frames.REPLY,)):
                reply = unpack_reply(frame)
                self.results += 1
                if reply.first == 0 and reply.full and not self.session:
                    self.session = int.from_bytes(unpack_results(reply.results, 1)[0][1], "big")
            elif frame[:1] == bytes((frames.ANSWER,)):
                answer = frames.ANSWER_CODEC.decode(frame[1:])
                if isinstance(answer, frames.Refusal):
                    self.refused[answer.reason] += 1
                    if answer.reason == frames.NO_SESSION and answer.session == self.session:
                        self.open()
        except WireError:
            return


class DoubleNumber(LyingClient):
    """Two different operations under one sequence number, to different members; later both to all (FAULTS 32)."""

    def act(self) -> None:
        """Another number with two operations."""
        self.number += 1
        one = self.bundle(self.number, (self.operation("one"),))
        other = self.bundle(self.number, (self.operation("other"),))
        here, there = self.some_members()
        self.send(one, here)
        self.send(other, there)
        self.did(DOUBLE_NUMBER)
        if self.random.random() < 0.5:
            self.world.after(self.random.randint(1, PATIENCE_TICKS), lambda: self._repeat(one, other))

    def _repeat(self, one: bytes, other: bytes) -> None:
        if not self.stopped:
            self.send(other)
            self.send(one)


class Overlapping(LyingClient):
    """Bundles that overlap, leave out numbers and come out of order, with floors as it pleases (FAULTS 32)."""

    def __init__(self, world: World, name: str, settings: ClientSettings) -> None:
        super().__init__(world, name, settings)
        self._operations: dict[int, bytes] = {}

    def act(self) -> None:
        """Another run of numbers, some of which were sent before."""
        first = self.random.randint(max(1, self.number - 6), self.number + 3)
        count = self.random.randint(1, 4)
        for number in range(first, first + count):
            if number not in self._operations:
                self._operations[number] = self.operation(f"number {number} of")
                self.world.recorder.submit(self.public, self._operations[number])
        operations = [self._operations[number] for number in range(first, first + count)]
        low = self.random.randint(1, first)
        self.number = max(self.number, first + count - 1)
        here, _ = self.some_members()
        self.send(self.bundle(first, operations, low=low, legal=False), here)
        self.did(DOUBLE_NUMBER)

    def open(self) -> None:
        """In a new session the numbers begin anew."""
        self._operations.clear()
        super().open()


class HalfAuthentic(LyingClient):
    """Requests that only some members can authenticate: the others get them with a bad signature, or not at all.

    A signature is good or bad towards everybody (SAFETY rule 4), so this must lead to no change of view (FAULTS 30).
    """

    def act(self) -> None:
        """Another half-authentic request."""
        self.number += 1
        good = self.bundle(self.number, (self.operation("half"),))
        here, there = self.some_members()
        self.send(good, here)
        if self.random.random() < 0.7:
            bad = bytearray(good)
            bad[-1 - self.random.randrange(64)] ^= 1 << self.random.randrange(8)
            self.send(bytes(bad), there)
        self.did(HALF_AUTHENTIC)


class NeverAuthentic(LyingClient):
    """Requests whose signature is bad towards everybody, so that nobody may take them (FAULTS 30)."""

    def act(self) -> None:
        """Another bad signature, under a number that is used again with a good one now and then."""
        self.number += 1
        bad = bytearray(self.bundle(self.number, (self.operation("never"),), legal=False))
        bad[-1 - self.random.randrange(64)] ^= 1 << self.random.randrange(8)
        self.send(bytes(bad), self.some_members()[0])
        self.did(HALF_AUTHENTIC)


class Flood(LyingClient):
    """Far more than its quota, whatever comes back, in large requests and many reads (FAULTS 46)."""

    burst: int = 24
    size: int = 256

    def __init__(self, world: World, name: str, settings: ClientSettings) -> None:
        super().__init__(world, name, settings)
        self._padding = b"." * self.size

    def operation(self, text: str) -> bytes:
        """Large ones, if it may choose."""
        chosen = super().operation(text)
        return chosen if self.workload is not None else chosen + self._padding

    def act(self) -> None:
        """Another burst."""
        for _ in range(self.burst):
            self.number += 1
            self.send(self.bundle(self.number, (self.operation("flood"),)))
            self.send_frame(pack_ask(Read(self.number, keyvalue.get(b"k0"))), (self.random.choice(self.members),))
        self.send_frame(pack_ask(AskStatus(self.number)))
        self.did(FLOOD)


class Garbage(LyingClient):
    """Bytes that are no frames, and frames that are no messages (FAULTS 10)."""

    def act(self) -> None:
        """Another piece of rubbish."""
        random = self.random
        good = bytes((frames.BUNDLE,)) + self.bundle(1, (b"never taken",), legal=False)
        # What it was made from must not be taken either: its signature never survives.
        spoiled = bytearray(good)
        spoiled[-1] ^= 1
        draw = random.randrange(6)
        if draw == 0:
            frame = random.randbytes(random.randint(0, 200))
        elif draw == 1:
            frame = bytes(spoiled[: random.randint(0, len(spoiled) - 1)])
        elif draw == 2:
            place = random.randrange(len(spoiled))
            frame = bytes(spoiled[:place]) + random.randbytes(random.randint(1, 8)) + bytes(spoiled[place:])
        elif draw == 3:
            for _ in range(random.randint(1, 8)):
                spoiled[random.randrange(len(spoiled) - 64)] ^= 1 << random.randrange(8)
            frame = bytes(spoiled)
        elif draw == 4:
            kind = random.choice((frames.PROTOCOL, frames.CONTROL, frames.REPLY, frames.ANSWER, frames.ASK, 0, 255))
            frame = bytes((kind,)) + random.randbytes(random.randint(0, 80))
        else:
            frame = pack_ask(Read(1, b"?")) + random.randbytes(random.randint(1, 20))
        self.send_frame(frame, self.some_members()[0])
        self.did(MALFORMED)


class Replay(LyingClient):
    """Valid bundles where they do not belong: of another group, of other clients, of its own past (FAULTS 11)."""

    KEPT: Final = 64

    def __init__(self, world: World, name: str, settings: ClientSettings) -> None:
        super().__init__(world, name, settings)
        self._heard: list[bytes] = []
        """Bundles of other clients: some member shows it what is forwarded to it."""
        self._past: list[bytes] = []
        self._elsewhere = digest(b"another group", self.group)
        world.observers.append(self._listen)

    def _listen(self, sender: MemberId, receiver: MemberId, frame: bytes) -> None:
        if frame[:1] == bytes((frames.BUNDLE,)) and len(self._heard) < self.KEPT:
            self._heard.append(frame[1:])

    def act(self) -> None:
        """Another bundle out of its place."""
        draw = self.random.random()
        if draw < 0.35:
            self.number += 1
            operation = self.operation("of another group")
            raw = make_bundle(self.key, self._elsewhere, REQUESTS, self.session, self.number, 1, (operation,))
        elif draw < 0.6 and self._heard:
            raw = self.random.choice(self._heard)
        elif draw < 0.8 and self._past:
            raw = self.random.choice(self._past)  # of this session or an ended one: executed once at most
        else:
            self.number += 1
            raw = self.bundle(self.number, (self.operation("to be repeated"),))
            self._past.append(raw)
            del self._past[: -self.KEPT]
            self.send(raw)
            if self.random.random() < 0.2:
                self.open()  # the session of what it has kept ends
            return
        self.send(raw)
        self.did(REPLAYED)


class Mute(LyingClient):
    """Asks all the time, large questions too, and takes no answer; nor does it say that it has one (FAULTS 47)."""

    size: int = 2048

    def act(self) -> None:
        """Some more that will never be heard."""
        key = b"of " + self.name.encode()
        for _ in range(4):
            self.number += 1
            if self.workload is not None:
                operation = self.operation("mute")
            elif self.number % 4 == 1:
                operation = keyvalue.put(key, b"%d" % self.number + bytes(self.size))
            else:
                operation = keyvalue.get(key)
            # The floor is never raised: every member keeps its replies until the session's bound.
            self.send(self.bundle(self.number, (operation,), low=1))
            self.send_frame(pack_ask(Read(self.number, keyvalue.get(key))))
        self.did(BACKLOG)


class MuteAfterOpen(LyingClient):
    """Opens a session and is never heard of again; then the next one of its crowd does (FAULTS 46)."""

    CROWD: Final = 12

    def act(self) -> None:
        """Leave, and let the next one come."""
        self.did(FLOOD)
        self.stop()
        stem, _, number = self.name.rpartition("~")
        following = int(number) + 1 if stem else 2
        if following <= self.CROWD:
            self.world.join_as(f"{stem or self.name}~{following}", type(self))


class SharedKey(LyingClient):
    """Several machines with one key: their sessions end each other, and their numbers collide (FAULTS 32)."""

    def act(self) -> None:
        """One of them submits; now and then another one opens a session, or both use the same number."""
        if self.random.random() < 0.1:
            self.open()
            return
        self.number += 1
        number = self.number
        self.send(self.bundle(number, (self.operation("mine"),)), self.some_members()[0])
        if self.random.random() < 0.5:
            self.send(
                self.bundle(number, (self.operation("yours"), self.operation("and more"))), self.some_members()[0]
            )
            self.did(DOUBLE_NUMBER)


class Accomplice(LyingClient):
    """Helps lying members: they alone get what it submits, and the others something else (FAULTS 30, 32).

    Without a lying member it favours one that it draws.
    """

    def act(self) -> None:
        """Another request for the friends, and another one under the same number for the rest."""
        friends = sorted(self.world.recorder.exempt) or [self.members[self.random.randrange(len(self.members))]]
        rest = [member for member in self.members if member not in friends]
        self.number += 1
        self.send(self.bundle(self.number, (self.operation("for friends"),)), friends)
        self.did(HALF_AUTHENTIC)
        if rest and self.random.random() < 0.5:
            self.send(self.bundle(self.number, (self.operation("for the rest"),)), rest)
            self.did(DOUBLE_NUMBER)


class SecondChance(LyingClient):
    """A request whose deadline is over; once it is told so, the same under the same number without one (FAULTS 32).

    It comes with another one in the bundle, so that no kept reply to the first bundle answers it.
    """

    def __init__(self, world: World, name: str, settings: ClientSettings) -> None:
        super().__init__(world, name, settings)
        self._late: dict[int, bytes] = {}
        """What waits to be refused as late, by its number."""
        self._said: dict[tuple[int, bytes], set[MemberId]] = {}

    def act(self) -> None:
        """Another request that is late from the beginning."""
        self.number += 2
        number = self.number - 1
        operation = self._late[number] = self.operation("late")
        self.world.recorder.submit(self.public, operation, expires_ms=START_MS)
        self.send(self.bundle(number, (operation,), legal=False, expires_ms=START_MS))
        self.did(DOUBLE_NUMBER)

    def on_frame(self, member: MemberId, frame: bytes) -> None:
        """It believes that it is too late when a correct member says so, too."""
        super().on_frame(member, frame)
        try:
            reply = unpack_reply(frame) if frame[:1] == bytes((frames.REPLY,)) else None
            if reply is None or reply.session != self.session or reply.first not in self._late or not reply.full:
                return
            ((status, result),) = unpack_results(reply.results, reply.count)
            voters = self._said.setdefault((reply.first, digest(reply.results)), set())
            voters.add(member)
            if len(voters) > self.world.quorum.f:
                operation = self._late.pop(reply.first)
                if status == LATE:
                    late_ms = unpack_lateness(result)
                    self.world.recorder.refused_late(self.public, operation, START_MS, late_ms)
                    other = self.operation("after the late one")
                    self.world.recorder.submit(self.public, other)
                    self.send(self.bundle(reply.first, (operation, other), legal=False))
        except (WireError, ValueError):
            return

    def open(self) -> None:
        """In a new session the numbers begin anew."""
        self._late, self._said = {}, {}
        super().open()


LYING_CLIENTS: Final[dict[str, type[LyingClient]]] = {
    "accomplice": Accomplice,
    "double-number": DoubleNumber,
    "flood": Flood,
    "garbage": Garbage,
    "half-authentic": HalfAuthentic,
    "mute": Mute,
    "mute-after-open": MuteAfterOpen,
    "never-authentic": NeverAuthentic,
    "overlapping": Overlapping,
    "replay": Replay,
    "second-chance": SecondChance,
    "shared-key": SharedKey,
}


def lying_client(kind: str) -> type[LyingClient]:
    """The class of this name. Raises `LookupError` with the names that there are."""
    found = LYING_CLIENTS.get(kind)
    if found is None:
        raise LookupError(f"there is no lying client {kind!r}; known are {', '.join(sorted(LYING_CLIENTS))}")
    return found
