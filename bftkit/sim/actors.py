"""A client in the simulated world: the real client machine, something to ask for, and a record of what it was told."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from bftkit.channel.bundles import FAILED, OK
from bftkit.channel.client import (
    AskRead,
    ClientMachine,
    ClientOut,
    ClientSettings,
    Executed,
    MemberStatus,
    NotExecuted,
    ReadDone,
    SendNow,
    Submit,
)
from bftkit.core.machine import Deliver, Draw, MemberId, Out, Send, SetTimer
from bftkit.service import keyvalue
from bftkit.sim.register import Cas, Delete, Get, Put, RegisterOperation

if TYPE_CHECKING:
    from bftkit.sim.world import World

THINK_TICKS_MAX: Final = 40


@attrs.frozen
class Asked:
    """An operation that waits for its answer."""

    call: int | None
    """Its number in the history; None for operations that are not part of the model."""
    operation: bytes
    model: RegisterOperation | None


@attrs.define
class Told:
    """What a client heard, for tests."""

    executed: int = 0
    failed: int = 0
    skipped: int = 0
    unknown: int = 0
    refused: int = 0
    reads: int = 0


class Actor:
    """One client. It keeps up to `pipeline` operations under way until its load is done."""

    def __init__(self, world: World, name: str, settings: ClientSettings) -> None:
        self.world = world
        self.name = name
        self.public = settings.key.public
        self.machine = ClientMachine(settings)
        self.told = Told()
        self.answers: dict[int, tuple[int, bytes]] = {}
        """(status, result) of every operation by its number."""
        self.reads: dict[int, tuple[int, bytes]] = {}
        self.statuses: dict[MemberId, str] = {}
        self.pending: dict[int, Asked] = {}
        self.reading: dict[int, Asked] = {}
        self.stopped = False
        self.idle = False
        """Left out of every load: a test speaks for this client."""
        self._todo = 0
        self._keys: tuple[bytes, ...] = ()
        self._poison = 0.0
        self._pipeline = 4
        self._values = 0
        self._tokens = 0
        self._timer_serial = 0
        self._last_values: dict[bytes, bytes] = {}
        self._step(self.machine.on_start)

    @property
    def outstanding(self) -> int:
        """Operations that are not answered yet, those still to be asked included."""
        return 0 if self.stopped or self.idle else self._todo + len(self.pending) + len(self.reading)

    # ------------------------------------------------------------------------------------------ asking

    def load(self, operations: int, keys: tuple[bytes, ...], *, poison: float, pipeline: int) -> None:
        """Ask for so many random operations on these keys."""
        self._todo += operations
        self._keys, self._poison, self._pipeline = keys, poison, pipeline
        self.world.after(self.world.random.randint(0, THINK_TICKS_MAX), self._ask_more)

    def _ask_more(self) -> None:
        random = self.world.random
        if self.stopped:
            return
        while self._todo > 0 and len(self.pending) + len(self.reading) < self._pipeline:
            self._todo -= 1
            self._ask_something()
            if random.random() < 0.3:
                break
        if self._todo > 0:
            self.world.after(random.randint(1, THINK_TICKS_MAX), self._ask_more)

    def _ask_something(self) -> None:
        random = self.world.random
        key = random.choice(self._keys)
        draw = random.random()
        if draw < self._poison:
            self.submit(b"X poison %d of " % self._next_value() + self.name.encode())
        elif draw < 0.4:
            self.put(key)
        elif draw < 0.6:
            self.read(key)
        elif draw < 0.75:
            self.ask(Get(key))
        elif draw < 0.93:
            expected = self._last_values.get(key) if random.random() < 0.8 else None
            self.ask(Cas(key, expected, self._new_value()))
        else:
            self.ask(Delete(key))

    def _next_value(self) -> int:
        self._values += 1
        return self._values

    def _new_value(self) -> bytes:
        return b"%s/%d" % (self.name.encode(), self._next_value())

    def put(self, key: bytes) -> int:
        """Store a new value, different from all others in the world. Returns the operation's number."""
        return self.ask(Put(key, self._new_value()))

    def ask(self, model: RegisterOperation) -> int:
        """Order one operation of the key-value store. Returns its number."""
        return self._submit(encode(model), model)

    def submit(self, operation: bytes) -> int:
        """Order any operation; the history knows nothing of it. Returns its number."""
        return self._submit(operation, None)

    def _submit(self, operation: bytes, model: RegisterOperation | None) -> int:
        number = self.machine.next_number
        call = self.world.history.invoke(self.name, model, self.world.moment()) if model is not None else None
        self.pending[number] = Asked(call, operation, model)
        self.world.recorder.submit(self.public, operation)

        def step(out: ClientOut) -> None:
            self.machine.on_input(Submit((operation,)), out)
            if self.world.random.random() < 0.7:
                self.machine.on_input(SendNow(), out)
            else:
                self.world.after(self.world.random.randint(1, 5), self.send_now)

        self._step(step)
        return number

    def send_now(self) -> None:
        """Everything that was submitted leaves."""
        self._step(lambda out: self.machine.on_input(SendNow(), out))

    def read(self, key: bytes) -> int:
        """A strong read. Returns its token."""
        self._tokens += 1
        token = self._tokens
        model = Get(key)
        operation = encode(model)
        call = self.world.history.invoke(self.name, model, self.world.moment())
        self.reading[token] = Asked(call, operation, model)
        self.world.recorder.submit(self.public, operation)  # it may be ordered in the end
        self.world.recorder.submit(self.public, operation)
        self._step(lambda out: self.machine.on_input(AskRead(token, operation), out))
        return token

    def stop(self) -> None:
        """The client is killed: what it asked for may or may not take effect, for ever."""
        self.stopped = True
        for asked in (*self.pending.values(), *self.reading.values()):
            if asked.call is not None:
                self.world.history.info(asked.call)
        self.pending.clear()
        self.reading.clear()

    # ------------------------------------------------------------------------------------------ hearing

    def on_link(self, member: MemberId, binding: bytes) -> None:
        """A connection to this member came up."""
        self._step(lambda out: self.machine.on_link(member, binding, out))

    def on_frame(self, member: MemberId, frame: bytes) -> None:
        """A frame from this member."""

        def step(out: ClientOut) -> None:
            self.machine.on_message(member, frame, out)
            self.machine.on_input(SendNow(), out)

        self._step(step)

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
                        case ReadDone(token, status, result):
                            self._on_read(token, status, result)
                        case MemberStatus(member, text):
                            self.statuses[member] = text
                case SetTimer(key, ticks):
                    self._timer_serial += 1
                    serial = self._timer_serial
                    world.after(ticks, partial(self._on_timer, key, serial))
                case Draw(key, choices):
                    inner: ClientOut = Out()
                    self.machine.on_draw(key, world.random.randrange(choices), inner)
                    self._carry_out(inner)
                case _:
                    raise AssertionError(f"a client machine has no use for {type(effect).__name__}")

    def _on_timer(self, key: tuple[str | int | bytes, ...], serial: int) -> None:
        if serial == self._timer_serial:
            self._step(lambda out: self.machine.on_timer(key, out))

    def _on_result(self, number: int, slot: int, status: int, result: bytes) -> None:
        asked = self.pending.pop(number, None)
        if asked is None:
            return  # a read that was ordered
        self.answers[number] = (status, result)
        world = self.world
        if status == OK:
            self.told.executed += 1
            world.recorder.acknowledged(self.public, asked.operation, slot, b"\0" + result)
        elif status == FAILED:
            self.told.failed += 1
        else:
            self.told.skipped += 1
        if asked.call is None or asked.model is None:
            return
        if status == OK:
            world.history.ok(asked.call, self._decode(asked.model, result), world.moment())
        else:
            world.history.info(asked.call)

    def _on_no_result(self, number: int, *, unknown: bool) -> None:
        asked = self.pending.pop(number, None)
        if asked is None:
            return
        if unknown:
            self.told.unknown += 1
        else:
            self.told.refused += 1
        if asked.call is not None:
            (self.world.history.info if unknown else self.world.history.fail)(asked.call)

    def _on_read(self, token: int, status: int, result: bytes) -> None:
        asked = self.reading.pop(token)
        self.told.reads += 1
        self.reads[token] = (status, result)
        assert asked.call is not None
        assert asked.model is not None
        if status == OK:
            self.world.history.ok(asked.call, self._decode(asked.model, result), self.world.moment())
        else:
            self.world.history.info(asked.call)

    def _decode(self, model: RegisterOperation, result: bytes) -> Hashable:
        if isinstance(model, Get):
            value = keyvalue.parse_value(result)
            if value is not None:
                self._last_values[model.key] = value  # type: ignore[index]
            return value
        if isinstance(model, Put):
            self._last_values[model.key] = model.value  # type: ignore[index,assignment]
            return None
        return keyvalue.parse_done(result)


def encode(model: RegisterOperation) -> bytes:
    """The operation's bytes for the key-value store. Keys and values of the model are bytes."""
    key = model.key
    assert isinstance(key, bytes)
    match model:
        case Get():
            return keyvalue.get(key)
        case Put(_, value):
            assert isinstance(value, bytes)
            return keyvalue.put(key, value)
        case Cas(_, expected, new):
            assert isinstance(new, bytes)
            assert expected is None or isinstance(expected, bytes)
            return keyvalue.compare_and_set(key, expected, new)
        case Delete():
            return keyvalue.delete(key)
