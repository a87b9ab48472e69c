"""A client in the simulated world: the real client machine, something to ask for, and a record of what it was told.

What clients ask for and how fast stands in `bftkit.sim.workloads`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

import attrs

from bftkit.channel.bundles import FAILED, LATE, OK, unpack_lateness
from bftkit.channel.client import (
    AskRead,
    ClientMachine,
    ClientOut,
    ClientSettings,
    Executed,
    MemberStatus,
    Moved,
    NotExecuted,
    ReadDone,
    SendNow,
    Stopped,
    Submit,
)
from bftkit.core.machine import Deliver, Draw, MemberId, Out, Send, SetTimer, Slot
from bftkit.service import keyvalue
from bftkit.sim.links import START_MS, WallClock
from bftkit.sim.register import Get, Put, RegisterOperation
from bftkit.sim.workloads import Ask, Closed, KeyValueLoad, Open, Rhythm, Workload, encode

if TYPE_CHECKING:
    from bftkit.sim.world import World

AT_EASE: Final = Closed()


@attrs.frozen
class Asked:
    """An operation that waits for its answer."""

    ask: Ask
    call: int | None
    """Its number in the history; None for operations that are not part of the model."""
    moment: int
    """When it was asked, by `World.moment`."""
    at_us: int
    """The same in simulated time."""
    floor: Slot
    """What had been acknowledged to anybody by then."""
    workload: Workload | None = None
    """Whose it is, if not a test's."""
    expires_ms: int = 0
    """When it must have been executed, by the client's clock; 0: at any time."""


@attrs.frozen
class Latency:
    """How long one operation took: asked and acknowledged, in microseconds of simulated time."""

    client: str
    asked_us: int
    answered_us: int
    read: bool
    """A strong read that was not ordered."""

    @property
    def us(self) -> int:
        """Microseconds."""
        return self.answered_us - self.asked_us


@attrs.define
class Told:
    """What a client heard, for tests."""

    executed: int = 0
    failed: int = 0
    skipped: int = 0
    unknown: int = 0
    refused: int = 0
    late: int = 0
    reads: int = 0
    glances: int = 0
    """Best-effort reads that one member answered."""


_SEND_NOW: Final = SendNow()


class Actor:
    """One client."""

    def __init__(self, world: World, name: str, settings: ClientSettings) -> None:
        self.world = world
        self.name = name
        self.settings = settings
        self.public = settings.key.public
        self.machine = ClientMachine(settings)
        self.random = Random(f"{world.seed} {name}")
        """Chance of its own, for its rhythm."""
        self._content = Random(f"{world.seed} {name} asks")
        """What this client asks for does not depend on what else happens in the world."""
        self.told = Told()
        self.answers: dict[int, tuple[int, bytes]] = {}
        """(status, result) of every operation by its number."""
        self.reads: dict[int, tuple[int, bytes]] = {}
        self.statuses: dict[MemberId, str] = {}
        self.pending: dict[int, Asked] = {}
        self.reading: dict[int, Asked] = {}
        self.clock = WallClock(START_MS)
        """Its own wall clock, from which deadlines are counted."""
        self.stopped = False
        self.idle = False
        """Left out of every load: a test speaks for this client."""
        self._own = KeyValueLoad(name)
        self._load: dict[int, _Load] = {}
        self._loads = 0
        self._tokens = 0
        self._together = False
        """What is asked for now shall travel in one bundle."""
        self._timer_serial = 0
        self._step(self.machine.on_start)

    @property
    def outstanding(self) -> int:
        """Operations that are not answered yet, those still to be asked included."""
        if self.stopped or self.idle:
            return 0
        count = len(self.pending) + len(self.reading)
        for load in self._load.values():
            count += load.todo
        return count

    @property
    def waits_since_us(self) -> int | None:
        """When the oldest operation that is not answered yet was asked; None: there is none."""
        if self.stopped or self.idle:
            return None
        oldest = [next(iter(waiting.values())).at_us for waiting in (self.pending, self.reading) if waiting]
        return min(oldest, default=None)

    # ------------------------------------------------------------------------------------------ asking

    def ask_for(self, operations: int, workload: Workload, rhythm: Rhythm = AT_EASE) -> None:
        """Ask for so many operations of this workload. Several loads may be under way at once."""
        if isinstance(workload, KeyValueLoad):
            self.world.keys.update(workload.keys)
        self._loads += 1
        number = self._loads
        self._load[number] = _Load(operations, workload, rhythm)
        if isinstance(rhythm, Closed):
            self.world.after(self.random.randint(0, rhythm.think), partial(self._ask_more, number))
        else:
            self._wait(number)

    def key_value_load(self, keys: tuple[bytes, ...], poison: float, glances: float = 0.0) -> KeyValueLoad:
        """This client's own load of the key-value store, on these keys from now on; its values are never used again."""
        self._own.keys, self._own.poison, self._own.glances = keys, poison, glances
        return self._own

    def rest(self) -> None:
        """Ask for nothing more; what is under way is waited for."""
        self._load.clear()

    def retire(self) -> None:
        """The world is healed. A correct client goes on until it has all its answers."""

    def _ask_more(self, number: int) -> None:
        load = self._load.get(number)
        if self.stopped or load is None:
            return
        random, rhythm = self.random, load.rhythm
        if isinstance(rhythm, Open):
            if self._under_way < rhythm.outstanding_max:
                load.todo -= 1
                self._ask(load.workload.next(self._content), load.workload, rhythm.deadline_ms)
            if load.todo > 0:
                self._wait(number)
            else:
                self._load.pop(number, None)
            return
        self._together = random.random() < rhythm.together
        while load.todo > 0 and self._under_way < rhythm.pipeline:
            load.todo -= 1
            self._ask(load.workload.next(self._content), load.workload, rhythm.deadline_ms)
            if random.random() < (0.1 if self._together else 0.3):
                break
        if self._together:
            self._together = False
            self._send_soon()
        if load.todo > 0:
            self.world.after(random.randint(1, max(1, rhythm.think)), partial(self._ask_more, number))
        else:
            self._load.pop(number, None)

    def _wait(self, number: int) -> None:
        """Until the next operation of an open loop: evenly spread with some chance, the mean being exact."""
        load = self._load[number]
        assert isinstance(load.rhythm, Open)
        gap = 1_000_000 // load.rhythm.per_second
        # Uniform between half and one and a half gaps. (No logarithm: every machine must draw the same.)
        self.world.after_us(gap // 2 + self.random.randrange(gap + 1), partial(self._ask_more, number))

    @property
    def _under_way(self) -> int:
        return len(self.pending) + len(self.reading)

    def put(self, key: bytes) -> int:
        """Store a new value, different from all others in the world. Returns the operation's number."""
        return self.ask(Put(key, self._own.new_value()))

    def ask(self, model: RegisterOperation) -> int:
        """Order one operation of the key-value store. Returns its number."""
        return self._submit(Ask(encode(model), False, model), None)

    def submit(self, operation: bytes, deadline_ms: int = 0) -> int:
        """Order any operation; the history knows nothing of it. Returns its number."""
        return self._submit(Ask(operation), None, deadline_ms)

    def read(self, key: bytes) -> int:
        """A strong read of a key of the key-value store. Returns its token."""
        return self._read(Ask(keyvalue.get(key), True, Get(key)), None)

    def read_operation(self, operation: bytes) -> int:
        """A strong read of any service. Returns its token."""
        return self._read(Ask(operation, True), None)

    def glance(self, operation: bytes) -> int:
        """A best-effort read of any service. Returns its token."""
        return self._read(Ask(operation, True, glance=True), None)

    def _ask(self, ask: Ask, workload: Workload, deadline_ms: int) -> None:
        if ask.read:
            self._read(ask, workload)
        else:
            self._submit(ask, workload, deadline_ms)

    def _asked(self, ask: Ask, workload: Workload | None) -> Asked:
        world = self.world
        moment = world.moment()
        call = world.history.invoke(self.name, ask.model, moment) if ask.model is not None else None
        return Asked(ask, call, moment, world.now_us, world.recorder.acknowledged_up_to, workload)

    def _submit(self, ask: Ask, workload: Workload | None, deadline_ms: int = 0) -> int:
        number = self.machine.next_number
        now_ms = self.clock.read(self.world.now_us)
        expires_ms = self.machine.expiry(now_ms, deadline_ms)
        self.pending[number] = attrs.evolve(self._asked(ask, workload), expires_ms=expires_ms)
        self.world.recorder.submit(self.public, ask.operation, expires_ms=expires_ms)

        def step(out: ClientOut) -> None:
            self.machine.on_input(Submit((ask.operation,), now_ms, deadline_ms), out)

        self._step(step)
        if not self._together:
            self._send_soon()
        return number

    def _send_soon(self) -> None:
        if self.random.random() < 0.7:
            self.send_now()
        else:
            self.world.after(self.random.randint(1, 5), self.send_now)

    def send_now(self) -> None:
        """Everything that was submitted leaves."""
        self._step(lambda out: self.machine.on_input(SendNow(), out))

    def _read(self, ask: Ask, workload: Workload | None) -> int:
        self._tokens += 1
        token = self._tokens
        self.reading[token] = self._asked(ask, workload)
        consistency = "best-effort" if ask.glance else "strong"
        # It may be ordered in the end, and under another number again if the session ends meanwhile.
        self.world.recorder.submit(self.public, ask.operation, repeatable=True)
        self._step(lambda out: self.machine.on_input(AskRead(token, ask.operation, consistency), out))
        return token

    def stop(self) -> None:
        """The client is killed: what it asked for may or may not take effect, for ever."""
        self.stopped = True
        for asked in (*self.pending.values(), *self.reading.values()):
            if asked.call is not None:
                self.world.history.info(asked.call)
        self.pending.clear()
        self.reading.clear()
        self._load.clear()

    # ------------------------------------------------------------------------------------------ hearing

    def knows(self, member: MemberId) -> bool:
        """Whether the client has reason to dial this member: it is one in the newest epoch that the client knows."""
        return member in self.machine.settings.members

    def on_link(self, member: MemberId, binding: bytes) -> None:
        """A connection to this member came up."""
        self._step(lambda out: self.machine.on_link(member, binding, out))

    def on_frame(self, member: MemberId, frame: bytes) -> None:
        """A frame from this member."""
        if self.stopped:
            return
        out: ClientOut = Out()
        self.machine.on_message(member, frame, out)
        self.machine.on_input(_SEND_NOW, out)
        if out.effects:
            self._carry_out(out)

    def _step(self, call: Callable[[ClientOut], None]) -> None:
        if self.stopped:
            return
        out: ClientOut = Out()
        call(out)
        self._carry_out(out)

    def _carry_out(self, out: ClientOut) -> None:
        world = self.world
        for effect in out.effects:
            match effect:
                case Send(to, frame):
                    for member in to:
                        world.carry_from_client(self, member, frame)
                case Deliver(output):
                    match output:
                        case Executed(first, slot, results):
                            for number, (status, result) in enumerate(results, first):
                                self._on_result(number, slot, status, result)
                        case NotExecuted(first, count, _, unknown):
                            for number in range(first, first + count):
                                self._on_no_result(number, unknown=unknown)
                        case ReadDone(token, status, result, str(member), read_slot):
                            self._on_glance(token, status, result, member, read_slot)
                        case ReadDone(token, status, result):
                            self._on_read(token, status, result, _slot_of(out))
                        case MemberStatus(member, text):
                            self.statuses[member] = text
                        case Moved(place):
                            world.on_moved(self, place)
                        case Stopped(reason):
                            world.recorder.fail("agreement", f"{self.name} stops: {reason}")
                        case _:
                            pass
                case SetTimer(key, ticks):
                    self._timer_serial += 1
                    serial = self._timer_serial
                    world.after(ticks, partial(self._on_timer, key, serial))
                case Draw(key, choices):
                    inner: ClientOut = Out()
                    self.machine.on_draw(key, self.random.randrange(choices), inner)
                    self._carry_out(inner)
                case _:
                    raise AssertionError(f"a client machine has no use for {type(effect).__name__}")

    def _on_timer(self, key: tuple[str | int | bytes, ...], serial: int) -> None:
        if serial == self._timer_serial:
            self._step(lambda out: self.machine.on_timer(key, out))

    def _on_result(self, number: int, slot: Slot, status: int, result: bytes) -> None:
        asked = self.pending.pop(number, None)
        if asked is None:
            return  # a read that was ordered
        self.answers[number] = (status, result)
        world = self.world
        if status == OK:
            self.told.executed += 1
        elif status == FAILED:
            self.told.failed += 1
        elif status == LATE:
            self.told.late += 1
            late_ms = unpack_lateness(result)
            world.recorder.refused_late(self.public, asked.ask.operation, asked.expires_ms, late_ms)
            if asked.call is not None:
                world.history.fail(asked.call)
            return
        else:
            self.told.skipped += 1
            world.guards.not_told(self, "skipped", number)
        if status in (OK, FAILED):
            world.recorder.acknowledged(self.public, asked.ask.operation, slot, status, result, asked.floor)
            world.guards.told(self, slot, result)
            world.latencies.append(Latency(self.name, asked.at_us, world.now_us, read=False))
        self._settle(asked, status, result)

    def _on_no_result(self, number: int, *, unknown: bool) -> None:
        asked = self.pending.pop(number, None)
        if asked is None:
            return
        if unknown:
            self.told.unknown += 1
        else:
            self.told.refused += 1
            if len(self.world.recorder.exempt) <= self.world.quorum.f:  # else f + 1 members may say what they like
                self.world.recorder.refused(self.public, asked.ask.operation)
        self.world.guards.not_told(self, "unknown" if unknown else "refused", number)
        if asked.call is not None:
            (self.world.history.info if unknown else self.world.history.fail)(asked.call)

    def _on_glance(self, token: int, status: int, result: bytes, member: MemberId, slot: Slot) -> None:
        asked = self.reading.pop(token)
        self.told.glances += 1
        self.reads[token] = (status, result)
        self.world.recorder.glance(member, asked.ask.operation, status, result, slot)
        self._settle(asked, status, result)

    def _on_read(self, token: int, status: int, result: bytes, slot: Slot | None) -> None:
        asked = self.reading.pop(token)
        self.told.reads += 1
        self.reads[token] = (status, result)
        world, ask = self.world, asked.ask
        if status in (OK, FAILED):
            if slot is None:
                world.recorder.read(
                    self.public, ask.operation, status, result, asked.floor, asked.moment, world.moment()
                )
            elif slot:
                world.recorder.acknowledged(self.public, ask.operation, slot, status, result, asked.floor)
                world.guards.told(self, slot, result)
            world.latencies.append(Latency(self.name, asked.at_us, world.now_us, read=slot is None))
        self._settle(asked, status, result)

    def _settle(self, asked: Asked, status: int, result: bytes) -> None:
        ask = asked.ask
        if asked.workload is not None:
            asked.workload.answered(ask, status, result)
        if asked.call is None or ask.model is None:
            return
        if status == OK:
            self.world.history.ok(asked.call, _decode(ask.model, result), self.world.moment())
        else:
            self.world.history.info(asked.call)


@attrs.define
class _Load:
    """Operations that are still to be asked for."""

    todo: int
    workload: Workload
    rhythm: Rhythm


def _slot_of(out: ClientOut) -> Slot | None:
    """Where the read that this step answers was ordered; None: it was not, 0: it was refused."""
    for effect in out.effects:
        if isinstance(effect, Deliver):
            if isinstance(effect.output, Executed):
                return effect.output.slot
            if isinstance(effect.output, NotExecuted):
                return 0
    return None


def _decode(model: RegisterOperation, result: bytes) -> Hashable:
    if isinstance(model, Get):
        return keyvalue.parse_value(result)
    return None if isinstance(model, Put) else keyvalue.parse_done(result)


def quantile_us(latencies: Iterable[Latency], percent: int) -> int:
    """The latency that so many per cent of the operations did not exceed, in microseconds; 0 if there are none."""
    ordered = sorted(latency.us for latency in latencies)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0


def per_second(latencies: Iterable[Latency], begin_us: int, end_us: int) -> float:
    """Operations acknowledged in this span of simulated time, a second."""
    count = sum(begin_us <= latency.answered_us < end_us for latency in latencies)
    return count * 1_000_000 / max(1, end_us - begin_us)
