"""The simulated world: a whole group with its clients, disks, clocks and network, decided by one seed.

What runs is the real thing: `Replica`s with any protocol of the shelf, `ClientMachine`s, the log's own format on a
simulated disk, an application. What is simulated stands around it: time (in ticks of a millisecond), links, disks,
wall clocks, crashes, liars. Same seed, same run, byte for byte, in any process on any machine.

Checkers (`checkers.py`) look all the time; what they find is raised as a `Violation` that says how to see the run
again. A test reads::

    world = World(seed=7, protocol="pbft", members=4, network=Network(loss=0.3))
    world.load(operations=60, keys=4)
    world.run(2000)
    world.crash("m0")
    world.run(3000)
    world.finish()

`finish` heals everything, waits until every client has its answers and every member is up to date, reads all keys
back and looks for one order of all operations that explains what the clients saw.
"""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from random import Random
from typing import Any, Final, NoReturn

from bftkit.channel import frames
from bftkit.channel.application import Application
from bftkit.channel.client import ClientSettings
from bftkit.channel.interface import FromClient, Limits, ReplicaSettings
from bftkit.channel.replica import Replica
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.core.plugin import load_protocol
from bftkit.core.quorum import Quorum
from bftkit.core.wire import WireError
from bftkit.crypto.keys import Ed25519Keyring, SigningKey
from bftkit.service.keyvalue import KeyValueStore
from bftkit.sim.actors import Actor, Latency
from bftkit.sim.adversaries import Honest
from bftkit.sim.checkers import Recorder, Violation, Watched
from bftkit.sim.history import History
from bftkit.sim.host import Disk, Event, FromMember, Host
from bftkit.sim.keyring import fast_keyrings
from bftkit.sim.linearizability import check
from bftkit.sim.links import Links, Network, Slow, WallClock
from bftkit.sim.register import Get, RegisterModel, RegisterOperation
from bftkit.sim.workloads import Closed, Open, WorkloadFactory, key_names
from bftkit.storage.memory_files import PowerCut

__all__ = ["Network", "Violation", "World"]

START_MS: Final = 1_700_000_000_000
HEALING_TICKS: Final = 60_000
"""So long may it take, at most, until everything is answered after everything was healed."""
RECENT: Final = 60


class World:
    """A group in a world of its own. See the top of this file."""

    def __init__(
        self,
        seed: int,
        protocol: str = "pbft",
        members: int = 4,
        f: int | None = None,
        c: int | None = None,
        *,
        clients: int = 3,
        network: Network | None = None,
        parameters: Mapping[str, int] | None = None,
        interval: int = 8,
        window: int = 32,
        limits: Limits | None = None,
        application: Callable[[MemberId], Application] | None = None,
        adversaries: Mapping[MemberId, Callable[[ReplicaSettings], Honest]] | None = None,
        real_keys: bool = False,
        segment_bytes: int = 1 << 20,
        host: type[Host] = Host,
        trace: bool = False,
        rerun: str | None = None,
    ) -> None:
        """Start a group and its clients.

        `f` and `c` default to what so many members survive under this protocol. `interval` and `window` are small, so
        that short runs see checkpoints. `real_keys` takes Ed25519 for members too. `rerun` is put into every
        violation; by default it names the test that runs.
        """
        self.seed = seed
        self.protocol = protocol
        self.random = Random(seed)
        self.now = 0
        self.segment_bytes = segment_bytes
        self.recorder = Recorder()
        self.history: History[RegisterOperation, Any] = History()
        self.expected_halts: set[MemberId] = set()
        self.halts: dict[MemberId, str] = {}
        self.blames: list[tuple[MemberId, MemberId, str, bytes]] = []
        """(who, whom, for what, proof)."""
        self.keys: set[bytes] = set()
        self.workload: WorkloadFactory | None = None
        """What `load` asks for if it is not told; None: operations of the key-value store."""
        self.latencies: list[Latency] = []
        """Of every operation that was acknowledged, in that order."""
        self.observers: list[Callable[[MemberId, MemberId, bytes], None]] = []
        """Called with (sender, receiver, frame) whenever a frame leaves one member for another."""
        self.lines: list[str] | None = [] if trace else None
        self._rerun = rerun or os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0] or "(not named)"
        self._recent: deque[str] = deque(maxlen=RECENT)
        self._hash = blake2b(digest_size=16)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self._application: Callable[[MemberId], Application] = application or _key_value_store
        plugin = load_protocol(protocol)
        if f is None:
            f = (members - 1) // 3 if plugin.record.byzantine else 0
        if c is None:
            c = (members - 1 - 3 * f) // 2 if not plugin.record.byzantine else 0
        self.quorum = Quorum(members, f, c)
        self.members: tuple[MemberId, ...] = tuple(f"m{index}" for index in range(members))
        self.links = Links(network or Network(), self.random)
        group = digest(b"world", seed.to_bytes(8, "big"))
        keys = {name: SigningKey(digest(group, name.encode())) for name in self.members}
        publics = {name: key.public for name, key in keys.items()}
        rings: Mapping[MemberId, Any] = (
            {name: Ed25519Keyring(group, 0, group, name, keys[name], publics) for name in self.members}
            if real_keys
            else fast_keyrings(group, group, 0, group, self.members)
        )
        bounds = limits or Limits()
        self.hosts: dict[MemberId, Host] = {}
        for name in self.members:
            settings = ReplicaSettings(
                group=group,
                me=name,
                members=self.members,
                quorum=self.quorum,
                plugin=plugin,
                keyring=rings[name],
                clock_key=keys[name],
                member_keys={public: owner for owner, public in publics.items()},
                parameters=dict(parameters or {}),
                checkpoint_interval=interval,
                window=window,
                limits=bounds,
            )
            make = (adversaries or {}).get(name)
            if make is not None:
                self.recorder.exempt.add(name)
            clock = WallClock(START_MS, self.random.randint(-300, 300), self.random.randint(-200, 200))
            self.hosts[name] = host(self, settings, clock, make(settings) if make is not None else None)
        self.actors: dict[str, Actor] = {}
        self._by_public: dict[bytes, Actor] = {}
        self._connections: dict[tuple[str, MemberId], int] = {}
        for index in range(clients):
            self.join(f"c{index}")
        for name in self.members:
            self._start(name)

    def join(self, name: str) -> Actor:
        """One more client."""
        some = self.hosts[self.members[0]].settings
        limits = some.limits
        settings = ClientSettings(
            group=some.group,
            members=self.members,
            quorum=self.quorum,
            key=SigningKey(digest(some.group, name.encode())),
            keyring=some.keyring,
            started_ms=START_MS + self.now,
            operation_bytes_max=limits.operation_bytes,
            bundle_bytes_max=limits.bundle_bytes,
            session_window=limits.session_window,
        )
        self.actors[name] = actor = Actor(self, name, settings)
        self._by_public[actor.public] = actor
        for member in self.members:
            if self.hosts[member].up:
                self._connect(actor, member)
        return actor

    # ------------------------------------------------------------------------------------------ what a test says

    def load(
        self,
        operations: int,
        keys: int = 4,
        *,
        poison: float = 0.05,
        pipeline: int = 4,
        per_second: int = 0,
        workload: WorkloadFactory | None = None,
    ) -> None:
        """The clients ask for so many operations together, at random.

        By default on so many keys of the key-value store; a `workload` has its own (see `bftkit.sim.workloads`). The
        loop is closed, `pipeline` operations deep; with `per_second` it is open, and each client asks so often.
        """
        rhythm = Open(per_second) if per_second else Closed(pipeline)
        workload = workload or self.workload
        actors = [actor for actor in self.actors.values() if not (actor.stopped or actor.idle)]
        for index, actor in enumerate(actors):
            share = operations // len(actors) + (index < operations % len(actors))
            if share:
                own = workload(actor.name) if workload is not None else actor.key_value_load(key_names(keys), poison)
                actor.ask_for(share, own, rhythm)

    def run(self, ticks: int) -> None:
        """Let so many ticks pass."""
        end = self.now + ticks
        while self._events and self._events[0][0] <= end:
            self._next_event()
        self.now = end

    def run_until(self, predicate: Callable[[], bool], max_ticks: int, what: str = "") -> None:
        """Run until the predicate holds; a `Violation` (of progress) if it does not within `max_ticks`."""
        end = self.now + max_ticks
        while not predicate():
            if not self._events or self._events[0][0] > end:
                name = what or getattr(predicate, "__name__", "the predicate")
                self.fail(f"progress: {name} did not come true within {max_ticks} ticks", oracle="progress")
            tick = self._events[0][0]
            while self._events and self._events[0][0] == tick:
                self._next_event()

    def crash(self, *members: MemberId, power: bool = True) -> None:
        """The members' machines lose power, or (`power` False) only their processes are killed."""
        for member in members:
            self.note(member, "crash" if power else "kill")
            self.hosts[member].stop(power=power)
            for actor in self.actors.values():
                self._connections.pop((actor.name, member), None)

    def restart(self, *members: MemberId, disk: Disk | None = None) -> None:
        """The members come back with what their disks have; with `disk`, with that one in their place."""
        for member in members:
            self.note(member, "restart")
            if disk is not None:
                self.hosts[member].disk = disk
            self._start(member)

    def power_cut(self) -> None:
        """All members lose power at once."""
        self.crash(*(member for member in self.members if self.hosts[member].up))

    def cut_power_before(self, member: MemberId, operation: int) -> None:
        """Cut everybody's power right before the so-and-so-many-th operation on this member's disk from now."""
        left = operation

        def before(name: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.note(member, f"power cut before {name}")
                raise PowerCut

        self.hosts[member].disk.directory.before = before

    def forget_planned_cut(self, member: MemberId) -> None:
        """Undo `cut_power_before`."""
        self.hosts[member].disk.directory.before = None

    def wipe(self, member: MemberId) -> None:
        """A member that is down gets an empty disk."""
        self.note(member, "wipe")
        self.hosts[member].wipe()

    def disk_of(self, member: MemberId) -> Disk:
        """A copy of what the member's disk has now, to be put back later."""
        return self.hosts[member].disk.copy()

    def partition(self, *sides: Iterable[str]) -> None:
        """Cut all links between members or clients of different sides."""
        sides_named = [tuple(side) for side in sides]
        self.note("", f"partition {sides_named}")
        self.links.partition((*self.members, *self.actors), sides_named)

    def cut(self, sender: str, receiver: str) -> None:
        """Cut one direction of one link."""
        self.note("", f"cut {sender} > {receiver}")
        self.links.cut.add((sender, receiver))

    def heal(self) -> None:
        """All links are whole; connections of clients that suffered are made anew."""
        self.note("", "heal")
        broken = [pair for pair in self._connections if self._suffers(*pair)]
        self.links.heal()
        for name, member in broken:
            self._connections.pop((name, member))
            self.hosts[member].clients.discard(self.actors[name].public)
            self._connect(self.actors[name], member)

    def slow(self, sender: str, ticks: int, applies: Callable[[bytes], bool] = lambda frame: True) -> None:
        """Frames of this sender that fit take so many ticks longer."""
        self.links.slow.append(Slow(sender, ticks, applies))

    def jump_clock(self, member: MemberId, ms: int) -> None:
        """The member's wall clock jumps."""
        self.note(member, f"clock jumps by {ms} ms")
        self.hosts[member].clock.offset_ms += ms

    def lie(self, member: MemberId, make: Callable[[ReplicaSettings], Honest]) -> Honest:
        """From now on the member is what `make` makes of it, and nothing that it does counts."""
        self.recorder.exempt.add(member)
        host = self.hosts[member]
        host.adversary = adversary = make(host.settings)
        return adversary

    def exempt(self, *members: MemberId) -> None:
        """These members are broken on purpose: nothing that they do counts."""
        self.recorder.exempt.update(members)

    def replica(self, member: MemberId) -> Replica:
        """The replica of a member that is up."""
        replica = self.hosts[member].replica
        assert replica is not None, f"{member} is down"
        return replica

    @property
    def outstanding(self) -> int:
        """Operations of all clients that are not answered."""
        return sum(actor.outstanding for actor in self.actors.values())

    @property
    def correct(self) -> tuple[MemberId, ...]:
        """The members that neither lie nor are broken on purpose."""
        return tuple(member for member in self.members if member not in self.recorder.exempt)

    @property
    def fingerprint(self) -> str:
        """The digest of everything that happened so far."""
        return self._hash.hexdigest()

    def finish(self, *, without: Sequence[MemberId] = (), max_ticks: int = HEALING_TICKS) -> None:
        """Heal, bring everybody back but `without`, wait for all answers, read everything back, check all."""
        self.heal()
        self.links.network = Network()
        for member, host in self.hosts.items():
            host.disk.directory.capacity = None
            if not host.up and member not in without:
                self.restart(member)
        self.run_until(lambda: self.outstanding == 0, max_ticks, "every client has its answers")
        reader = self.join("reader")
        for key in sorted(self.keys):
            reader.ask(Get(key))
            reader.read(key)
        self.run_until(lambda: self.outstanding == 0, max_ticks, "the last reads are answered")
        live = [member for member in self.correct if member not in without and self.hosts[member].halted is None]
        self.run_until(
            lambda: len({self.replica(member).applied for member in live}) == 1, max_ticks, "all members are up to date"
        )
        self.check_history()

    def check_history(self) -> None:
        """One order of all operations must explain everything that clients saw so far."""
        verdict = check(RegisterModel(), self.history.calls())
        if not verdict.linearizable:
            self.fail(f"linearizability: {verdict}", oracle="linearizability")

    # ------------------------------------------------------------------------------------------ carrying

    def moment(self) -> int:
        """A clock for the clients' history that never shows the same time twice: nothing there is a tie."""
        self._serial += 1
        return self._serial

    @property
    def now_us(self) -> int:
        """The simulated time in microseconds."""
        return self.now * 1000

    def after_us(self, us: int, action: Callable[[], None]) -> None:
        """Run the action so many microseconds from now."""
        self.after(max(1, us // 1000), action)

    def after(self, ticks: int, action: Callable[[], None]) -> None:
        """Run the action so many ticks from now."""
        self._serial += 1
        heapq.heappush(self._events, (self.now + ticks, self._serial, action))

    def _next_event(self) -> None:
        self.now, _, action = heapq.heappop(self._events)
        try:
            action()
        except Violation:
            raise
        except Exception as error:
            self.fail(f"unhandled {type(error).__name__}: {error}", error)
        if self.recorder.violations:
            found = self.recorder.violations
            self.fail("; ".join(map(str, found[:3])), oracle=found[0].oracle)

    def carry(self, sender: MemberId, receiver: MemberId, frame: bytes) -> None:
        """A member sends a frame to another."""
        for observer in self.observers:
            observer(sender, receiver, frame)
        host = self.hosts[receiver]
        for ticks in self.links.arrivals(sender, receiver, frame):
            self.after(ticks, lambda: host.put(FromMember(sender, frame)))

    def carry_to_client(self, member: MemberId, client: bytes, frame: bytes) -> None:
        """A member sends a frame to a client, over the connection that is up now."""
        actor = self._by_public.get(client)
        if actor is None:
            return
        pair = (actor.name, member)
        connection = self._connections.get(pair)
        if connection is None:
            return

        def arrive() -> None:
            if self._connections.get(pair) == connection:
                self.trace(f"{actor.name} hears {member} {frame[0]} {digest(frame)[:4].hex()}")
                actor.on_frame(member, frame)

        if _is_proof(frame) and self.links.reaches(member, actor.name):
            # Part of the connection's coming up: without it there is no connection, and it is tried anew.
            self.after(self.random.randint(1, 10), arrive)
            return
        for ticks in self.links.arrivals(member, actor.name, frame):
            self.after(ticks, arrive)

    def carry_from_client(self, actor: Actor, member: MemberId, frame: bytes) -> None:
        """A client sends a frame to a member, over the connection that is up now."""
        pair = (actor.name, member)
        connection = self._connections.get(pair)
        if connection is None:
            return
        host = self.hosts[member]

        def arrive() -> None:
            if self._connections.get(pair) == connection:
                host.put(FromClient(actor.public, frame))

        for ticks in self.links.arrivals(actor.name, member, frame):
            self.after(ticks, arrive)

    def _connect(self, actor: Actor, member: MemberId) -> None:
        host = self.hosts[member]
        incarnation = host.incarnation

        def come_up() -> None:
            pair = (actor.name, member)
            if host.incarnation != incarnation or not host.up or pair in self._connections or actor.stopped:
                return
            if self._suffers(*pair):
                self.after(200, come_up)
                return
            self._serial += 1
            self._connections[pair] = self._serial
            binding = self.random.randbytes(32)
            host.link(actor.public, binding)
            actor.on_link(member, binding)

        self.after(self.random.randint(1, 30), come_up)

    def _suffers(self, name: str, member: MemberId) -> bool:
        return not (self.links.reaches(name, member) and self.links.reaches(member, name))

    def _start(self, member: MemberId) -> None:
        host = self.hosts[member]
        try:
            host.start()
        except Exception as error:
            self.fail(f"{member} cannot start: {type(error).__name__}: {error}", error)
        for actor in self.actors.values():
            self._connect(actor, member)

    # ------------------------------------------------------------------------------------------ watching

    def make_application(self, member: MemberId) -> Watched:
        """A fresh application for a member's process."""
        return Watched(self._application(member), self.recorder, member)

    def on_blame(self, host: Host, member: MemberId, fault: str, proof: bytes) -> None:
        """A member blames another."""
        self.note(host.me, f"blames {member}: {fault}")
        self.blames.append((host.me, member, fault, proof))
        if host.me not in self.recorder.exempt and member not in self.recorder.exempt:
            self.recorder.fail("blame", f"{host.me} blames the correct {member}: {fault}")

    def on_halted(self, host: Host, reason: str) -> None:
        """A member stops taking part."""
        self.note(host.me, f"halts: {reason}")
        self.halts[host.me] = reason
        if host.me not in self.recorder.exempt and host.me not in self.expected_halts:
            self.recorder.fail("halting", f"the correct {host.me} halts: {reason}")

    def on_power_cut(self, host: Host) -> None:
        """A hook below the disk cut the power, in the middle of an operation: all members lose it."""
        self.power_cut()

    def check_step(self, host: Host) -> None:
        """After each round of a member: what it keeps stays within bounds (oracle B)."""
        replica = host.replica
        assert replica is not None
        settings = host.settings
        if len(replica.history) > 3 * settings.window + 2 * settings.checkpoint_interval + 256:
            self.recorder.fail("bounded", f"{host.me} keeps {len(replica.history)} slots")

    def note(self, member: str, text: str) -> None:
        """Something worth a line."""
        self.trace(f"{member} {text}")

    def trace_input(self, member: MemberId, event: Event) -> None:
        """Something goes into a replica."""
        match event:
            case FromMember(sender, frame):
                text = f"{member} < {sender} {frame[0] if frame else 0} {len(frame)} {digest(frame)[:4].hex()}"
            case FromClient(client, frame):
                actor = self._by_public[client]
                text = f"{member} < {actor.name} {frame[0] if frame else 0} {len(frame)} {digest(frame)[:4].hex()}"
            case _:
                text = f"{member} {type(event).__name__} {getattr(event, 'key', '')}"
        self.trace(text)

    def trace(self, text: str) -> None:
        """One line of what happens."""
        line = f"{self.now:>8} {text}"
        self._hash.update(line.encode())
        self._recent.append(line)
        if self.lines is not None:
            self.lines.append(line)

    def fail(self, text: str, cause: BaseException | None = None, *, oracle: str = "exception") -> NoReturn:
        """Raise a `Violation` that says what, where and how to see it again."""
        states = "\n".join(f"  {self._state(host)}" for host in self.hosts.values())
        recent = "\n".join(self._recent)
        raise Violation(
            f"{text}\n\nseed {self.seed}, tick {self.now}, {self.protocol}, {self.quorum}; again: {self._rerun}\n"
            f"members:\n{states}\nlying: {sorted(self.recorder.exempt)}\nlast events:\n{recent}",
            oracle,
            text,
        ) from cause

    def _state(self, host: Host) -> str:
        replica = host.replica
        if replica is None:
            return f"{host.me} down{f' ({host.broken_disk})' if host.broken_disk else ''}"
        return (
            f"{host.me} applied {replica.applied} stable {replica.checkpoints.stable} view {replica.machine.view} "
            f"leader {replica.machine.leader} waiting {len(replica.pool)} room {replica.machine.room} "
            f"silent {replica.silent} stopped {replica.stopped} transfer {replica.catchup.transfer is not None}"
        )


def _key_value_store(member: MemberId) -> Application:
    return KeyValueStore()


def _is_proof(frame: bytes) -> bool:
    if frame[:1] != bytes((frames.ANSWER,)):
        return False
    try:
        return isinstance(frames.ANSWER_CODEC.decode(frame[1:]), frames.LinkProof)
    except WireError:
        return False
