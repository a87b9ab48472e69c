"""The simulated world: a whole group with its clients, disks, clocks and network, decided by one seed.

What runs is the real thing: `Replica`s with any protocol of the shelf, `ClientMachine`s, the log's own format on a
simulated disk, an application. What is simulated stands around it: time (in ticks of a millisecond, inside in
microseconds), links, disks, wall clocks, crashes, liars, and what work costs. Same seed, same run, byte for byte, in
any process on any machine.

Checkers (`checkers.py`, `guards.py`) look all the time; what they find is raised as a `Violation` that says how to see
the run again. A test reads::

    world = World(seed=7, protocol="pbft", members=4, network=Network(loss=0.3))
    world.load(operations=60, keys=4)
    world.run(2000)
    world.crash("m0")
    world.run(3000)
    world.finish()

`finish` heals everything, waits until every client has its answers and every member is up to date, reads all keys
back and looks for one order of all operations that explains what the clients saw.

Where the parts live::

    scheduler.py  time, chance, the journal       journal.py      everything that happened, as one digest
    traffic.py    frames on their way             links.py        the network
    host.py       a member's process              interpreter.py  what it does with a round's effects
    controls.py   what can be done to a world     disk.py         what survives a crash
    costs.py      what work costs                 keyring.py      signatures, each checked once
    issuing.py    what everybody begins with      operators.py    who orders changes
    epochs.py     keys and chain of all epochs    successions.py  what happens while they change
    finishing.py  the end of a run, and checks    standing.py     how a member stands
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import attrs

from bftkit.channel.application import Application
from bftkit.channel.interface import Limits, ReplicaSettings
from bftkit.channel.replica import Replica
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.core.digest import digest
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.plugin import load_protocol
from bftkit.core.quorum import Quorum, QuorumError
from bftkit.crypto.keys import SigningKey
from bftkit.membership.chain import Place
from bftkit.membership.commands import FORCED, KINDS, PLANNED, Change, Command, sign_command
from bftkit.membership.epochs import Configuration
from bftkit.membership.founding import default_faults
from bftkit.sim import finishing
from bftkit.sim.actors import Actor, Latency
from bftkit.sim.adversaries import Honest
from bftkit.sim.bounds import Bounds
from bftkit.sim.checkers import Recorder, Violation, Watched
from bftkit.sim.controls import Controls
from bftkit.sim.costs import Costs, Meter
from bftkit.sim.epochs import Chain, Era, WorldKeychain, operator_key
from bftkit.sim.guards import Guards
from bftkit.sim.history import History
from bftkit.sim.host import Event, Host
from bftkit.sim.issuing import Issuer
from bftkit.sim.keyring import Notary
from bftkit.sim.links import START_MS, Links, Network, WallClock
from bftkit.sim.lying_clients import LyingClient, lying_client
from bftkit.sim.operators import Operator, Order, changed
from bftkit.sim.register import RegisterOperation
from bftkit.sim.scheduler import US
from bftkit.sim.standing import line_of
from bftkit.sim.successions import Successions
from bftkit.sim.workloads import Closed, KeyValueLoad, Open, PoisonedStore, Rhythm, WorkloadFactory, key_names
from bftkit.storage.log import Durability

__all__ = ["START_MS", "Network", "Violation", "World"]

AnyActor = TypeVar("AnyActor", bound=Actor)


class World(Controls):
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
        keys: str = "fast",
        real_keys: bool = False,
        costs: Costs | None = None,
        segment_bytes: int = 1 << 20,
        reconfigurable: bool = False,
        spares: int = 0,
        operators: int = 1,
        operator_threshold: int = 1,
        qos: QoS | None = None,
        policy: Policy | None = None,
        durability: str = "fsync",
        host: type[Host] = Host,
        trace: bool = False,
        rerun: str | None = None,
    ) -> None:
        """Start a group and its clients.

        `f` and `c` default to what so many members survive under this protocol. `interval` and `window` are small, so
        that short runs see checkpoints. `keys` are ``fast`` (keyed hashes) or ``ed25519`` (`real_keys` is another word
        for these). `costs` says what work costs; without it work takes no time, and chance decides when rounds begin
        and how long syncs take. A `reconfigurable` group goes from epoch to epoch when `operators` say so (`switch`);
        `spares` are further machines that may become members. `qos` and `policy` are what its operators need, and by
        what it changes its protocol itself. `durability` is the members' own setting, ``fsync`` or ``async``.
        `rerun` is put into every violation; by default it names the test that runs.
        """
        super().__init__(seed, trace=trace)
        self._begin_traffic()
        self.protocol = protocol
        self.segment_bytes = segment_bytes
        self.durability = Durability(durability)
        self.costs = costs or Costs.none()
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
        self.tangled = 0
        """Histories whose search for an order was given up."""
        self.bounds = Bounds(self)
        self.inputs: list[Callable[[MemberId, Event], None]] = []
        """Called with everything that goes into a member's replica."""
        self.rounds_watched: list[Callable[[Host], None]] = []
        """Called after each round of a member, before anything of it is carried out."""
        self._rerun = rerun or os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0] or "(not named)"
        self.application: Callable[[MemberId], Application] = application or _key_value_store
        """Makes a fresh application for a member."""
        plugin = load_protocol(protocol)
        f, c = default_faults(plugin.record, members, f, c)
        self.quorum = Quorum(members, f, c)
        needed = plugin.record.members_needed(f, c)
        if members < needed:
            raise QuorumError(
                f"{protocol} needs {needed} members for {f} Byzantine and {c} crash faults, not {members}"
            )
        self.members: tuple[MemberId, ...] = tuple(f"m{index}" for index in range(members))
        for name in self.members:
            self.number_of(name)
        self.links = Links(network or Network(), self.random, self.injected)
        group = digest(b"world", seed.to_bytes(8, "big"))
        self.notary = Notary("ed25519" if real_keys else keys, group, self.members, self.costs)
        self.counters = self.notary.counters
        self.issuer = Issuer(
            plugin, group, self.members, self.quorum, parameters, interval, window, limits, self.notary, self.recorder
        )
        """Gives members and clients their settings."""
        self.spares: tuple[MemberId, ...] = ()
        """Machines that may become members."""
        self._operator: Operator | None = None
        self._commands = 0
        observer = self.issuer.template
        if reconfigurable:
            self.spares = tuple(f"m{index}" for index in range(members, members + spares))
            observer = self.issuer.found(operators, operator_threshold, qos, policy)
        self.chain = Chain(self, observer)
        """What is known of the epochs; one only if the world is not reconfigurable."""
        self.successions = Successions(self)
        self.chain.listeners += [self._on_era, self.successions.on_era]
        self._host = host
        for name in (*self.members, *self.spares):
            make = (adversaries or {}).get(name)
            if make is not None:
                self.recorder.exempt.add(name)
            self.number_of(name)
            self.hosts[name] = self._new_host(name, make)
        self.guards = Guards(self)
        for index in range(clients):
            self.join(f"c{index}")
        for name in (*self.members, *self.spares):
            self._start(self.hosts[name])

    def _new_host(self, member: MemberId, make: Callable[[ReplicaSettings], Honest] | None) -> Host:
        meter = Meter()
        settings = self.issuer.for_member(member, meter)
        clock = WallClock(START_MS, self.random.randint(-300, 300), self.random.randint(-200, 200))
        return self._host(self, settings, clock, make(settings) if make is not None else None, meter)

    def signing_key(self, name: str) -> SigningKey:
        """A client's key, of this world's kind; the same each time."""
        return self.issuer.signing_key(name)

    def join(self, name: str) -> Actor:
        """One more client."""
        return self.join_as(name, Actor)

    def join_as(self, name: str, kind: type[AnyActor]) -> AnyActor:
        """One more client, of this kind."""
        settings = self.issuer.for_client(name, self.members, self.quorum, self.chain.now.settings, self.now)
        actor = kind(self, name, settings)
        self.actors[name] = actor
        self._by_public[actor.public] = actor
        for member in self.members:
            if self.hosts[member].up:
                self.connect(actor, member)
        return actor

    def join_liar(self, name: str, kind: str) -> LyingClient:
        """One more client that lies, of a kind in `LYING_CLIENTS`. Raises `LookupError` if there is none."""
        self.note(name, f"joins, and lies: {kind}")
        liar = self.join_as(name, lying_client(kind))
        own = self.workload(name) if self.workload is not None else None
        if not isinstance(own, KeyValueLoad):
            # On keys of correct clients it would write what the search for an order knows nothing of.
            liar.workload = own
        return liar

    # ------------------------------------------------------------------------------------------ what a test says

    def load(
        self,
        operations: int,
        keys: int = 4,
        *,
        poison: float = 0.05,
        pipeline: int = 4,
        together: float = 0.5,
        per_second: int = 0,
        deadline_ms: int = 0,
        glances: float = 0.0,
        workload: WorkloadFactory | None = None,
    ) -> None:
        """The clients ask for so many operations together, at random.

        By default on so many keys of the key-value store; a `workload` has its own (see `bftkit.sim.workloads`). The
        loop is closed, `pipeline` operations deep; so often as `together` says, what is asked for at a time travels in
        one bundle. With `per_second` the loop is open, and each client asks so often. `deadline_ms`: when operations
        must be executed; `glances`: the share of best-effort reads of the key-value store.
        """
        rhythm: Rhythm = Closed(pipeline, together=together, deadline_ms=deadline_ms)
        if per_second:
            rhythm = Open(per_second, deadline_ms=deadline_ms)
        workload = workload or self.workload
        actors = [actor for actor in self.actors.values() if not (actor.stopped or actor.idle)]
        for index, actor in enumerate(actors):
            share = operations // len(actors) + (index < operations % len(actors))
            if share:
                if workload is not None:
                    own = workload(actor.name)
                else:
                    own = actor.key_value_load(key_names(keys), poison, glances)
                actor.ask_for(share, own, rhythm)

    def run(self, ticks: int) -> None:
        """Let so many ticks pass."""
        end = self.now_us + ticks * US
        self._run_to(end)
        self.now_us = end

    def run_until(self, predicate: Callable[[], bool], max_ticks: int, what: str = "") -> None:
        """Run until the predicate holds; a `Violation` (of progress) if it does not within `max_ticks`.

        It is looked at once a tick.
        """
        end = self.now_us + max_ticks * US
        while not predicate():
            if not self._events or self._events[0][0] > end:
                name = what or getattr(predicate, "__name__", "the predicate")
                self.fail(f"progress: {name} did not come true within {max_ticks} ticks", oracle="progress")
            self._run_to(self._events[0][0] // US * US + US - 1)

    def _run_to(self, end_us: int) -> None:
        events, found, pop = self._events, self.recorder.violations, heapq.heappop
        try:
            while events and events[0][0] <= end_us:
                self.now_us, _, action, given = pop(events)
                action(*given)
                if found:
                    self._raise_findings()
        except Violation:
            raise
        except Exception as error:
            self.fail(f"unhandled {type(error).__name__}: {error}", error)

    def _raise_findings(self) -> None:
        found = self.recorder.violations
        if found:
            self.fail("; ".join(map(str, found[:3])), oracle=found[0].oracle)

    @property
    def view_changes(self) -> int:
        """Views beyond the first that some correct member was the first to enter; none where nobody ever leads."""
        return self.successions.view_changes

    def replica(self, member: MemberId) -> Replica:
        """The replica of a member that is up."""
        replica = self.hosts[member].replica
        assert replica is not None, f"{member} is down"
        return replica

    @property
    def latencies_us(self) -> list[int]:
        """Of every operation that was acknowledged, in microseconds."""
        return [latency.us for latency in self.latencies]

    @property
    def outstanding(self) -> int:
        """Operations of all clients that are not answered."""
        count = 0
        for actor in self.actors.values():
            count += actor.outstanding
        return count

    @property
    def is_led(self) -> bool:
        """Whether the protocol has leaders, as far as members that are up know: else everybody proposes."""
        return any(host.replica is not None and not host.replica.proposer.everybody for host in self.hosts.values())

    @property
    def correct(self) -> tuple[MemberId, ...]:
        """The members that neither lie nor are broken on purpose."""
        return tuple(member for member in self.members if member not in self.recorder.exempt)

    def finish(self, *, without: Sequence[MemberId] = (), max_ticks: int | None = None, calm: bool = True) -> None:
        """Heal, bring everybody back but `without`, wait for all answers, read everything back, check all.

        No operation may wait for more than `max_ticks` then; by default, ten view timeouts (see `bftkit.sim.bounds`).
        Unless it is to be `calm`, the links stay as bad as they were.
        """
        finishing.finish(self, without, max_ticks, calm=calm)
        self._raise_findings()

    def check_order(self, live: Sequence[MemberId]) -> None:
        """The agreed order must explain every result, every strong read and these members' states."""
        finishing.check_order(self, live)

    def check_history(self) -> None:
        """One order of all operations must explain everything that clients saw so far.

        Many operations of unknown outcome on one key can make the search endless. Beyond a bound it is given up: at the
        end of a run the agreed order is at hand (`check_order`), and need not be searched for.
        """
        finishing.check_history(self)

    def _start(self, host: Host) -> None:
        try:
            host.start()
        except Exception as error:
            self.fail(f"{host.me} cannot start: {type(error).__name__}: {error}", error)
        for actor in self.actors.values():
            if host.me in self.members or host.me in actor.machine.settings.members:
                self.connect(actor, host.me)

    # ------------------------------------------------------------------------------------------ epochs

    def switch(
        self,
        protocol: str | None = None,
        *,
        members: Sequence[MemberId] | None = None,
        rotate: Sequence[MemberId] = (),
        f: int | None = None,
        c: int | None = None,
        parameters: Mapping[str, int] | None = None,
        interval: int | None = None,
        window: int | None = None,
        operators: Sequence[int] | None = None,
        threshold: int | None = None,
        qos: QoS | None = None,
        at: Slot = 0,
        forced: bool = False,
        signers: Sequence[int] = (0,),
        to: Sequence[MemberId] | None = None,
    ) -> Digest:
        """Operators order a change of the present configuration; what is not named stays. Returns the command's name.

        `rotate` are members that get new keys. `signers` are the numbers of the operators that sign it, and `to` are
        the members that it is sent to, if not all.
        """
        configuration = self.configuration
        generations: dict[MemberId, int] = {}
        for name in rotate:
            keychain = self.keychain(name)
            generations[name] = keychain.generations[-1] + 1
            keychain.generations.append(generations[name])
        change = changed(
            configuration,
            protocol=protocol,
            members=members,
            generations=generations,
            f=f,
            c=c,
            parameters=parameters,
            interval=interval,
            window=window,
            operators=operators,
            threshold=threshold,
            qos=qos,
        )
        if forced:
            change = attrs.evolve(change, coin=configuration.coin is not None)  # it keeps the key that there is
        return self.order(FORCED if forced else PLANNED, change, at=at, signers=signers, to=to)

    def order(
        self,
        kind: int,
        change: Change | None,
        *,
        at: Slot = 0,
        signers: Sequence[int] = (0,),
        to: Sequence[MemberId] | None = None,
    ) -> Digest:
        """Operators order this in the present epoch. Returns the command's name."""
        self._commands += 1
        self.successions.ordered()
        nonce = digest(self.issuer.group, b"command %d" % self._commands)[:16]
        command = Command(self.issuer.group, self.chain.now.epoch, kind, at, False, change, nonce)
        signed = sign_command(command, *(operator_key(number) for number in signers))
        self.note("operator", f"orders {KINDS[kind]} {'' if change is None else change.protocol}")
        return self.operator.send(signed, to)

    @property
    def operator(self) -> Operator:
        """Who sends the operators' commands."""
        if self._operator is None:
            self._operator = self.join_as("operator", Operator)
        return self._operator

    @property
    def ordered(self) -> tuple[Order, ...]:
        """What operators have ordered so far."""
        return () if self._operator is None else tuple(self._operator.orders.values())

    @property
    def configuration(self) -> Configuration:
        """The newest configuration that is in force anywhere. Only in a reconfigurable world."""
        place = self.chain.now.place
        assert place is not None, "the configuration of this world never changes: World(reconfigurable=True)"
        return place.configuration

    def keychain(self, member: MemberId) -> WorldKeychain:
        """The keys of a member of a reconfigurable world."""
        keychain = self.hosts[member].settings.keychain
        assert isinstance(keychain, WorldKeychain)
        return keychain

    def _on_era(self, era: Era) -> None:
        self.members, self.quorum = era.members, era.quorum
        if self._operator is not None:  # it follows no chain of hand-overs: it has ordered what the group is now
            for member in era.members:
                self.connect(self._operator, member)

    def on_moved(self, actor: Actor, place: Place) -> None:
        """A client has followed the chain of hand-overs to this place: it dials the members that it did not know.

        With whoever is none any more it has no link; should that one be taken in again, it proves a new one.
        """
        for member in self.hosts:
            if member not in place.configuration.members:
                self.drop_connection(actor, member)
        for member in place.configuration.members:
            if self.hosts[member].up:
                self.connect(actor, member)

    # ------------------------------------------------------------------------------------------ watching

    def make_application(self, member: MemberId) -> Watched:
        """A fresh application for a member's process."""
        return Watched(self.application(member), self.recorder, member)

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
        replica = host.replica
        left = host.me not in self.members and replica is not None and replica.removed
        if not (left or host.me in self.recorder.exempt or host.me in self.expected_halts):
            self.recorder.fail("halting", f"the correct {host.me} halts: {reason}")

    def check_step(self, host: Host) -> None:
        """After each round of a member: what it keeps stays within bounds, and no rule is broken that guards watch."""
        replica = host.replica
        assert replica is not None
        if host.me not in self.recorder.exempt:
            self.successions.look(host, replica)
        for watch in self.rounds_watched:
            watch(host)
        self.bounds.look(host)
        self.guards.look(host)

    def send(self, host: Host, receivers: Iterable[MemberId], frame: bytes) -> None:
        """See `Traffic.send`. What correct members say is watched (`bftkit.sim.guards`)."""
        self.guards.said(host, frame)
        super().send(host, receivers, frame)

    def wipe(self, member: MemberId) -> None:
        """See `Controls.wipe`. From now on the member has nothing to say that counts."""
        self.guards.wiped(member)
        super().wipe(member)

    def fail(self, text: str, cause: BaseException | None = None, *, oracle: str = "exception") -> NoReturn:
        """Raise a `Violation` that says what, where and how to see it again."""
        states = "\n".join(f"  {line_of(host)}" for host in self.hosts.values())
        recent = "\n".join(self.journal.recent())
        raise Violation(
            f"{text}\n\nseed {self.seed}, tick {self.now}, {self.protocol}, {self.quorum}; again: {self._rerun}\n"
            f"members:\n{states}\nlying: {sorted(self.recorder.exempt)}\nlast events:\n{recent}",
            oracle,
            text,
        ) from cause


def _key_value_store(member: MemberId) -> Application:
    return PoisonedStore()
