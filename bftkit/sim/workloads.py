"""What clients ask for, and in which rhythm: the load of a simulated world.

A *workload* says what the next operation is. There is one for the key-value store, whose histories the
linearizability checker understands, one of operations that say nothing, and one for any service of a third party that
says itself how its operations look: a static method on its class ::

    class Counter(StateMachine):
        ...
        @staticmethod
        def sample_operation(random: Random) -> bytes:
            return str(random.randint(1, 9)).encode()

        @staticmethod
        def sample_read(random: Random) -> bytes:  # may be left out: then nobody asks without ordering
            return b"?"

What is the same for all workloads is checked for all of them: see `bftkit.sim.witness`.

A *rhythm* says when: a closed loop waits for answers, as people do; an open loop does not, as the world does. A
`Population` puts both together: some clients that come, ask, and perhaps are killed.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import attrs

from bftkit.channel.application import Application, Context
from bftkit.channel.bundles import OK
from bftkit.core.machine import MemberId
from bftkit.service import keyvalue
from bftkit.service.keyvalue import KeyValueStore
from bftkit.service.loading import ServiceError, checked_service
from bftkit.service.null import NullService
from bftkit.sim.register import Cas, Delete, Get, Put, RegisterOperation

if TYPE_CHECKING:
    from bftkit.sim.actors import Actor
    from bftkit.sim.world import World

THINK_TICKS_MAX: Final = 40
READ_SHARE: Final = 0.2
"""So many of a service's operations are strong reads, if it answers any."""
KEY_VALUE: Final = "bftkit.service.keyvalue:KeyValueStore"
POISON: Final = b"X"
NULL: Final = "bftkit.service.null:NullService"


@attrs.frozen
class Ask:
    """One thing to ask for."""

    operation: bytes
    read: bool = False
    """A strong read, which is not ordered if the members agree."""
    model: RegisterOperation | None = None
    """What it means to a key-value store; None for anything else."""
    glance: bool = False
    """A read, and what one member knows is enough (``best-effort``)."""


class Workload(Protocol):
    """One client's operations."""

    def next(self, random: Random) -> Ask:
        """What to ask for now. All chance comes from `random`."""
        ...

    def answered(self, ask: Ask, status: int, result: bytes) -> None:
        """What came of it, for operations that depend on earlier ones."""
        ...


WorkloadFactory = Callable[[str], Workload]
"""Makes the workload of the client of this name."""


# ------------------------------------------------------------------------------------------ the key-value store


class PoisonedStore(KeyValueStore):
    """The key-value store as simulations run it: with an operation that stores a value and raises then.

    If what it stored is not taken back, by all members alike (SAFETY rule 10), somebody reads a value that nobody put
    there, and the replay of the order (`bftkit.sim.witness`) ends in another state. To a real store it is an operation
    that it does not know.
    """

    def apply(self, operation: bytes, context: Context) -> bytes:
        """As the store, but for poison. Raises `ValueError` for it."""
        if operation[:1] == POISON:
            super().apply(b"P" + operation[1:], context)
            raise ValueError("poison")
        return super().apply(operation, context)


def poison(key: bytes, value: bytes) -> bytes:
    """The operation that stores a value and raises."""
    return POISON + keyvalue.put(key, value)[1:]


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


class KeyValueLoad:
    """Puts, compare-and-sets, deletes, ordered gets and strong reads on a few keys.

    Every value is written once only in the whole world, so that whoever reads one knows where it comes from.
    """

    def __init__(self, client: str, keys: tuple[bytes, ...] = (), poison: float = 0.0, glances: float = 0.0) -> None:
        self.keys = keys
        self.poison = poison
        """This share of the operations fails, after it has changed something."""
        self.glances = glances
        """This share of the operations is best-effort reads."""
        self._client = client.encode()
        self._values = 0
        self._last: dict[bytes, bytes] = {}
        """The newest value of each key that this client knows of."""

    def next(self, random: Random) -> Ask:
        key = random.choice(self.keys)
        if self.glances and random.random() < self.glances:
            return Ask(keyvalue.get(key), True, glance=True)
        draw = random.random()
        if draw < self.poison:
            return Ask(poison(key, b"poison of " + self.new_value()))
        if draw < 0.4:
            return _ask(Put(key, self.new_value()))
        if draw < 0.6:
            return Ask(keyvalue.get(key), True, Get(key))
        if draw < 0.75:
            return _ask(Get(key))
        if draw < 0.93:
            expected = self._last.get(key) if random.random() < 0.8 else None
            return _ask(Cas(key, expected, self.new_value()))
        return _ask(Delete(key))

    def new_value(self) -> bytes:
        """A value that nobody else writes."""
        self._values += 1
        return b"%s/%d" % (self._client, self._values)

    def answered(self, ask: Ask, status: int, result: bytes) -> None:
        model = ask.model
        if status != OK or model is None:
            return
        value = keyvalue.parse_value(result) if isinstance(model, Get) else None
        if isinstance(model, Put):
            assert isinstance(model.value, bytes)
            value = model.value
        if value is not None:
            assert isinstance(model.key, bytes)
            self._last[model.key] = value


def _ask(model: RegisterOperation) -> Ask:
    return Ask(encode(model), False, model)


# ------------------------------------------------------------------------------------------ any service


class EmptyLoad:
    """Operations that say nothing, of so many bytes: what the group itself costs, and nothing else."""

    def __init__(self, client: str, size: int = 0) -> None:
        self._operation = bytes(size)

    def next(self, random: Random) -> Ask:
        return Ask(self._operation)

    def answered(self, ask: Ask, status: int, result: bytes) -> None:
        """Nothing depends on it."""


class ServiceLoad:
    """The operations of a service that says itself how they look. See the top of this file."""

    def __init__(self, service: type[Any], reads: float = READ_SHARE) -> None:
        self._operation = cast("Callable[[Random], bytes]", _sampler(service, "sample_operation"))
        self._read = _sampler(service, "sample_read", needed=False)
        self._reads = reads if self._read is not None else 0.0

    def next(self, random: Random) -> Ask:
        if self._read is not None and random.random() < self._reads:
            return Ask(self._bytes(self._read(random), "sample_read"), True)
        return Ask(self._bytes(self._operation(random), "sample_operation"))

    def answered(self, ask: Ask, status: int, result: bytes) -> None:
        """Nothing depends on it."""

    def _bytes(self, drawn: object, method: str) -> bytes:
        if type(drawn) is not bytes:
            raise ServiceError(f"{method} returned {type(drawn).__name__}, not bytes")
        return drawn


def _sampler(service: type[Any], method: str, *, needed: bool = True) -> Callable[[Random], bytes] | None:
    """The static method of this name. Raises `ServiceError` with the text that has to be added."""
    found = service.__dict__.get(method) or next(
        (base.__dict__[method] for base in service.__mro__ if method in base.__dict__), None
    )
    if found is None and not needed:
        return None
    if not isinstance(found, staticmethod | classmethod):
        what = "has no" if found is None else "has as an ordinary method, and needs as a static one,"
        raise ServiceError(
            f"{service.__qualname__} {what} {method}: the simulator does not know what to ask it for. "
            f"Add this to the class (with `from random import Random` at the top of its file):\n\n"
            "    @staticmethod\n"
            f"    def {method}(random: Random) -> bytes:\n"
            "        # one operation as a client would send it, drawn with `random` and with nothing else\n"
            "        return str(random.randint(1, 9)).encode()\n"
        )
    return cast("Callable[[Random], bytes]", getattr(service, method))


def service_class(name: str) -> type[Any]:
    """The class that ``package.module:Class`` names. Raises `ServiceError`.

    As for a member, a service may lie in the folder that one stands in.
    """
    module, colon, path = name.partition(":")
    if not colon or not module or not path:
        raise ServiceError(f"{name!r} names no service: write package.module:Class")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ServiceError(f"the service {name!r} cannot be loaded: {error}") from None
    if not isinstance(found, type):
        raise ServiceError(f"the service {name!r} is no class but a {type(found).__name__}")
    return cast("type[Any]", found)


def application_of(service: type[Any] | str) -> Callable[[MemberId], Application]:
    """What `World` takes as its `application`: a new instance for each member's process. Raises `ServiceError`."""
    kind = service_class(service) if isinstance(service, str) else service
    checked_service(kind, kind.__qualname__)
    if kind is KeyValueStore:
        kind = PoisonedStore
    return lambda member: cast(Application, kind())


def workload_of(
    service: type[Any] | str, *, keys: int = 4, poison: float = 0.0, reads: float = READ_SHARE
) -> WorkloadFactory:
    """The workload that suits the service: its own, if it has one, else one that ships with bftkit.

    `keys` and `poison` are for the key-value store, `reads` (the share of strong reads) for services with
    `sample_read`. Raises `ServiceError`.
    """
    kind = service_class(service) if isinstance(service, str) else service
    if not hasattr(kind, "sample_operation"):
        if issubclass(kind, KeyValueStore):
            return _KeyValueLoads(key_names(keys), poison)
        if issubclass(kind, NullService):
            return EmptyLoad
    load = ServiceLoad(kind, reads)
    return lambda client: load


@attrs.define
class _KeyValueLoads:
    """One load for each client, however often it is asked for: no value is ever used twice."""

    keys: tuple[bytes, ...]
    poison: float
    loads: dict[str, KeyValueLoad] = attrs.field(factory=dict[str, KeyValueLoad])

    def __call__(self, client: str) -> KeyValueLoad:
        if client not in self.loads:
            self.loads[client] = KeyValueLoad(client, self.keys, self.poison)
        return self.loads[client]


def key_names(keys: int) -> tuple[bytes, ...]:
    """The keys of a key-value load: ``k0``, ``k1`` and so on."""
    return tuple(b"k%d" % index for index in range(keys))


# ------------------------------------------------------------------------------------------ rhythms


@attrs.frozen
class Closed:
    """Ask, wait for the answer, think, ask again; up to `pipeline` operations at a time."""

    pipeline: int = 4
    think: int = THINK_TICKS_MAX
    """At most so many ticks pass between two looks whether there is room for more."""
    together: float = 0.5
    """How often all that is asked for at a time travels in one bundle."""
    deadline_ms: int = 0
    """Each operation is executed within so many ms of agreed time, or never; 0: at any time."""


@attrs.frozen
class Open:
    """So many operations a second and client, whatever comes back.

    More than `outstanding_max` unanswered ones are not kept: what would exceed it is put off, as by a client library
    whose queue is full. (So the load stays bounded when the group stands still.)
    """

    per_second: int
    outstanding_max: int = 256
    deadline_ms: int = 0
    """As of `Closed`."""


Rhythm = Closed | Open


@attrs.frozen(kw_only=True)
class Population:
    """Some clients that behave alike. Times are ticks of the world's clock, from now on."""

    name: str
    clients: int = 1
    operations: int = 100
    """Each client asks for so many."""
    workload: WorkloadFactory
    rhythm: Rhythm = attrs.field(factory=Closed)
    comes: int = 0
    """After so many ticks."""
    killed: int = 0
    """After so many ticks, with whatever is under way; 0: never."""

    def enter(self, world: World) -> None:
        """Let them come, each with a name of its own: ``name.0``, ``name.1`` and so on."""
        for index in range(self.clients):
            self._enter(world, f"{self.name}.{index}")

    def _enter(self, world: World, name: str) -> None:
        def come() -> None:
            actor: Actor = world.join(name)
            actor.ask_for(self.operations, self.workload(name), self.rhythm)
            if self.killed:
                world.after(max(1, self.killed - self.comes), actor.stop)

        if self.comes:
            world.after(self.comes, come)
        else:
            come()
