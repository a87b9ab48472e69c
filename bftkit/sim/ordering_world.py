"""A small seeded world for ordering protocols: members, links, disks, and a stand-in for the group channel.

It runs the machines of any `Plugin` as they run in a node, and one seed decides everything: delays, losses,
duplicates, the time a disk needs, the draws. Same seed, same run, line for line.

What stands in for the rest of the house:

- **Links** carry messages in their wire form, with delay, loss, duplication and reordering, and can be cut, also in
  one direction only.
- **Disks** make records durable only when a sync completes. Whatever a machine sends or decides after a `persist`
  waits for that sync (SAFETY rule 5); a crash loses what was not synced.
- **The channel** forms batches from what clients submit, carries and fetches their bytes, answers `Fetch` and
  `BatchWanted`, tells `Waiting`, announces stable checkpoints, helps laggards by `Learned` or by a state transfer, and
  ends the epoch. Where nobody leads, members share the proposing (`ordering_turns`).
- **A restart** is: `create`, `on_restore` with what the disk has, `on_start`, then `on_stable` with the newest stable
  checkpoint that this member has on its disk. The application is back at that checkpoint, so the machine decides the
  slots above it once more.
- **Checkers** watch all the time: one digest per slot, slots in order without a gap, only what was submitted, nobody
  correct is blamed, nothing raises, no correct member sends bytes that cannot be read.

A test reads::

    world = OrderingWorld(plugin, n=4, f=1, c=0, seed=7, network=Network(loss=0.3))
    world.submit(20)
    world.run(500)
    world.crash("m0")
    world.run_until(world.all_delivered, 100_000)
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Final, NoReturn

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import (
    STANDING,
    Blame,
    Broadcast,
    CancelTimer,
    Deliver,
    Digest,
    Draw,
    DrawSecret,
    Effect,
    MemberId,
    Out,
    Persist,
    Record,
    Send,
    SetTimer,
    Slot,
    TimerKey,
)
from bftkit.core.ordering import (
    Available,
    Batch,
    BatchWanted,
    CoinProtocol,
    Decided,
    Fetch,
    LeaderChanged,
    Learned,
    Neglected,
    OrderingInput,
    OrderingMachine,
    Plugin,
    Propose,
    Refused,
    Returned,
    Setup,
    SignerProtocol,
    Waiting,
)
from bftkit.core.quorum import Quorum
from bftkit.core.trace import Trace
from bftkit.core.wire import WireError
from bftkit.sim.coins import fast_coins
from bftkit.sim.keyring import fast_keyrings
from bftkit.sim.ordering_parts import Adversary, Disk, Entry, Network, Node, Violation
from bftkit.sim.ordering_turns import Turns

__all__ = ["Adversary", "Disk", "Network", "OrderingWorld", "Violation"]

_RECENT: Final = 60
_FETCH_RETRY: Final = 60
_STATUS_EVERY: Final = 50
_CLIENT_RETRY: Final = 150


class OrderingWorld:
    """A group of `n` members in a world of its own. See the top of this file."""

    def __init__(
        self,
        plugin: Plugin,
        n: int,
        f: int,
        c: int,
        seed: int,
        *,
        network: Network | None = None,
        disk: Disk | None = None,
        parameters: Mapping[str, int] | None = None,
        window: int = 32,
        interval: int = 8,
        start: Slot = 0,
        adversaries: Mapping[MemberId, Adversary] | None = None,
        twins: Mapping[MemberId, tuple[Iterable[MemberId], Iterable[MemberId]]] | None = None,
        keyrings: Mapping[MemberId, SignerProtocol] | None = None,
        coins: Mapping[MemberId, CoinProtocol] | None = None,
        coin_threshold: int | None = None,
        learned_after: int | None = 600,
        transfer_after: int = 400,
        trace: bool = False,
        rerun: str = "",
    ) -> None:
        """Start a group.

        `interval` is the number of slots between checkpoints, `window` must be at least twice that. A member that
        is behind for `learned_after` ticks gets `Learned` from the channel (None: never, the protocol must help
        itself), and for `transfer_after` ticks below a stable checkpoint, that checkpoint's state. `rerun` is put
        into every failure's text: say there how to see this run again.

        A protocol that tosses coins gets fast ones, of n - t shares each, unless `coin_threshold` says otherwise (with
        t + 1 an adversary may see a coin too early: for experiments) or `coins` has others, such as real ones.

        A liar is made by an object in `adversaries`, or by `twins` (FAULTS 20): two honest machines with one
        identity, each linked with the members of one side only and with other wishes, say two things without a
        line of code that lies. A member may stand on both sides.
        """
        if window < 2 * interval:
            raise ValueError(f"the window ({window}) must hold two checkpoint intervals of {interval}")
        self.plugin = plugin
        self.seed = seed
        self.network = network or Network()
        self.disk = disk or Disk()
        self.quorum = Quorum(n, f, c)
        self.members: tuple[MemberId, ...] = tuple(f"m{index}" for index in range(n))
        self.adversaries = dict(adversaries or {})
        self.liars = frozenset({*self.adversaries, *(twins or {})})
        self.now = 0
        self.start = start
        self.interval = interval
        self.window = window
        self.learned_after = learned_after
        self.transfer_after = transfer_after
        self.chosen: dict[Slot, Digest] = {}
        """The digest that a correct member delivered first, for each slot."""
        self.blames: list[tuple[MemberId, Blame]] = []
        """Who blamed, and for what."""
        self.refused: list[tuple[MemberId, MemberId, str]] = []
        """(receiver, sender, reason) of every message that could not be read."""
        self.leaders: list[tuple[int, MemberId, LeaderChanged]] = []
        """(tick, member, what it said) of every change of leader."""
        self.proposals: Counter[Digest] = Counter()
        """How often each batch was given to a machine to propose."""
        self.observers: list[Callable[[MemberId, Any], None]] = []
        """Called with (sender, message) whenever a message leaves a member."""
        self.trace: Trace | None = Trace() if trace else None
        self.stable = start
        coin_text = "" if coin_threshold is None else f"coin_threshold={coin_threshold}, "
        self._rerun = rerun or (
            f"OrderingWorld(load_protocol({plugin.record.name!r}), n={n}, f={f}, c={c}, seed={seed}, "
            f"network={self.network}, disk={self.disk}, parameters={dict(parameters or {})}, window={window}, "
            f"interval={interval}, start={start}, {coin_text}trace=True)"
        )
        self._random = Random(seed)
        self._recent: deque[tuple[int, MemberId, str, tuple[Any, ...], Out[Any, Any]]] = deque(maxlen=_RECENT)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self._blocked: set[tuple[MemberId, MemberId]] = set()
        self._side_of: dict[str, int] = {}
        self._authentic: dict[Digest, bool] = {}
        self._open: dict[Digest, None] = {}
        self._voters: dict[Slot, set[MemberId]] = {}
        self._stop: tuple[Slot, Slot] | None = None
        self._nodes: dict[MemberId, Node] = {}
        rings = keyrings or fast_keyrings(
            seed.to_bytes(8), digest(b"group"), 0, digest(start.to_bytes(8)), self.members
        )
        if coins is None and plugin.record.coins:
            coins = fast_coins(
                seed.to_bytes(8),
                digest(b"group"),
                0,
                digest(start.to_bytes(8)),
                self.members,
                self.quorum.available if coin_threshold is None else coin_threshold,
            )
        for name in self.members:
            setup = Setup(
                name,
                self.members,
                self.quorum,
                rings[name],
                start,
                window,
                dict(parameters or {}),
                (coins or {}).get(name),
            )
            for twin, side in enumerate((twins or {}).get(name, (self.members,))):
                turns = Turns(self.members.index(name), n)
                node = Node(name, setup, frozenset(side), twin == 1, turns, stable=start, emitted=start, height=start)
                self._nodes[name + "'" * twin] = node
                node.machine = plugin.create(setup)
        for node in self._nodes.values():
            self._step(node, "on_start")
        self._after(_STATUS_EVERY, self._status)
        self._after(_CLIENT_RETRY, self._clients_retry)

    # -------------------------------------------------------------------------------------- what a test says

    def submit(self, count: int = 1, at: Iterable[MemberId] | None = None, *, authentic: bool = True) -> list[Digest]:
        """Clients submit `count` new batches, at all members or at some.

        Clients send again to everybody until they are answered. A batch that is not authentic is held by the
        members `at` (liars) and must never be decided.
        """
        receivers = self.members if at is None else tuple(at)
        batches: list[Digest] = []
        for _ in range(count):
            name = digest(b"batch", self._random.randbytes(16))
            self._authentic[name] = authentic
            batches.append(name)
            if authentic:
                self._open[name] = None
            for receiver in receivers:
                for node in self._copies(receiver):
                    self._after(self._delay(), partial(self._request, node, name))
        return batches

    def run(self, ticks: int) -> None:
        """Let so many ticks pass."""
        end = self.now + ticks
        while self._events and self._events[0][0] <= end:
            self._next_event()
        self.now = end

    def run_until(self, predicate: Callable[[], bool], max_ticks: int) -> None:
        """Run until the predicate holds; a `Violation` (of progress) if it does not within `max_ticks`."""
        end = self.now + max_ticks
        while not predicate():
            if not self._events or self._events[0][0] > end:
                self.fail(f"no progress: {getattr(predicate, '__name__', predicate)} did not come true")
            tick = self._events[0][0]
            while self._events and self._events[0][0] == tick:
                self._next_event()

    def crash(self, *members: MemberId) -> None:
        """The members lose their memory and every record that was not synced."""
        for node in [node for name in members for node in self._copies(name)]:
            assert node.machine is not None, f"{node.name} is down already"
            unsynced = node.written - node.synced
            kept = self._random.randint(0, unsynced) if self.disk.keep_some else 0
            node.written = node.synced = node.synced + kept
            node.log = [entry for entry in node.log if entry.serial <= node.written]
            node.store = {entry.batch for entry in node.log if entry.batch is not None}
            node.machine = None
            node.incarnation += 1
            node.paused = node.syncing = node.told_waiting = node.stop_told = False
            for container in (node.stalled, node.outbox, node.timers, node.inputs, node.arrived, node.wanted):
                container.clear()
            node.demand.clear()
            node.proposed.clear()
            node.turns.forget()
            self._note(node, "crash", (), Out())

    def restart(self, *members: MemberId) -> None:
        """Fresh machines, from what the disks have."""
        for node in [node for name in members for node in self._copies(name)]:
            assert node.machine is None, f"{node.name} is up"
            node.machine = self.plugin.create(node.setup)
            node.emitted = node.height = node.stable
            node.behind_since = self.now
            node.slots = {slot: chosen for slot, chosen in node.slots.items() if slot <= node.stable}
            self._step(node, "on_restore", [entry.record for entry in node.log if entry.batch is None and entry.record])
            self._step(node, "on_start")
            if node.stable > self.start:
                self._step(node, "on_stable", node.stable, self.state_digest(node.stable))
            self._tell_stop(node)

    def pause(self, *members: MemberId) -> None:
        """The members' processes stop for a while; what comes for them waits."""
        for node in [node for name in members for node in self._copies(name)]:
            node.paused = True

    def resume(self, *members: MemberId) -> None:
        """The members go on, with all that has come for them meanwhile."""
        for node in [node for name in members for node in self._copies(name)]:
            node.paused = False
            stalled, node.stalled = node.stalled, []
            for event in stalled:
                self._after(0, event)

    def partition(self, *sides: Iterable[MemberId]) -> None:
        """Cut all links between the sides; members that stand in no side hear nobody."""
        side_of = {name: index for index, side in enumerate(sides) for name in sorted(side)}
        for a in self.members:
            for b in self.members:
                if a != b and (a not in side_of or side_of[a] != side_of.get(b)):
                    self._blocked.add((a, b))

    def block(self, sender: MemberId, receiver: MemberId) -> None:
        """Cut one direction of one link."""
        self._blocked.add((sender, receiver))

    def divide(self, *sides: Iterable[str]) -> None:
        """Cut all links between the sides, in place of an earlier `divide`: for twins, whose copies may be apart.

        A member's second copy is named with an apostrophe: ``world.divide(["m0", "m1"], ["m0'", "m2", "m3"])``.
        """
        self._side_of = {key: index for index, side in enumerate(sides) for key in side}
        assert self._side_of.keys() == self._nodes.keys(), "each copy stands on one side"

    def heal(self) -> None:
        """All links are whole again."""
        self._blocked.clear()
        self._side_of = {}

    def neglect(self) -> None:
        """Everybody hears from its channel that the leader passes over a request, and may want another one."""
        for node in self._nodes.values():
            if node.machine is not None and (leader := node.machine.leader) is not None:
                self._step(node, "on_input", Neglected(leader))

    def input(self, member: MemberId, value: OrderingInput) -> None:
        """Give a member's machine an input, such as `Neglected`."""
        self._step(self._nodes[member], "on_input", value)

    def stop(self, trigger: Slot, boundary: Slot) -> None:
        """Slot `trigger` orders a reconfiguration: whoever delivers it hears that the epoch ends with `boundary`."""
        assert self.start < trigger < boundary
        self._stop = (trigger, boundary)
        for node in self._nodes.values():
            self._tell_stop(node)

    # -------------------------------------------------------------------------------------- what a test asks

    def machine(self, member: MemberId) -> OrderingMachine:
        """The member's machine; it must be up."""
        machine = self._nodes[member].machine
        assert machine is not None, f"{member} is down"
        return machine

    def setup(self, member: MemberId) -> Setup:
        """What the member's machine was made from."""
        return self._nodes[member].setup

    def up(self) -> list[MemberId]:
        """The members that run, liars included."""
        return [name for name in self.members if self._nodes[name].machine is not None]

    def correct(self) -> list[MemberId]:
        """The members that run and are no adversary's."""
        return [name for name in self.up() if name not in self.liars]

    def height(self, member: MemberId) -> Slot:
        """The last slot that the member's application has."""
        return self._nodes[member].height

    def stable_of(self, member: MemberId) -> Slot:
        """The newest stable checkpoint that the member has on its disk."""
        return self._nodes[member].stable

    def delivered(self, member: MemberId) -> tuple[Digest, ...]:
        """What the member's application has, slot by slot from ``start + 1``, transferred state included."""
        node = self._nodes[member]
        return tuple(node.slots[slot] for slot in range(self.start + 1, node.height + 1))

    def records(self, member: MemberId) -> list[Record]:
        """The member's durable records, as a restart would get them."""
        node = self._nodes[member]
        return [
            entry.record for entry in node.log if entry.serial <= node.synced and entry.batch is None and entry.record
        ]

    def all_delivered(self) -> bool:
        """Every submitted batch is decided, and every correct member that is up has every slot."""
        if self._open:
            return False
        newest = max(self.chosen, default=self.start)
        return all(self._nodes[name].height >= newest for name in self.correct())

    def all_stopped(self) -> bool:
        """Every correct member that is up has reached the end of the epoch."""
        assert self._stop is not None
        return all(self._nodes[name].height == self._stop[1] for name in self.correct())

    def state_digest(self, slot: Slot) -> Digest:
        """The stand-in for a checkpoint's state digest."""
        return digest(b"state", *(self.chosen[at] for at in range(self.start + 1, slot + 1)))

    def fail(self, what: str) -> NoReturn:
        """Raise a `Violation` that tells how to see it again."""
        raise Violation(self.failure(what))

    def failure(self, what: str) -> str:
        """The text of a failure: what, where, how to see it again, and the last steps."""
        recent = Trace()
        for at, name, event, values, out in self._recent:
            recent.input(at, name, event, *values)
            recent.effects(out)
        heights = ", ".join(
            f"{name}={'down' if node.machine is None else node.height}" for name, node in self._nodes.items()
        )
        return (
            f"{what}\n  protocol {self.plugin.record.name}, seed {self.seed}, tick {self.now}; heights {heights}\n"
            f"  again: {self._rerun}\n  the last steps:\n{recent.text()}"
        )

    # -------------------------------------------------------------------------------------- time

    def _after(self, ticks: int, event: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (self.now + ticks, self._serial, event))

    def _next_event(self) -> None:
        self.now, _, event = heapq.heappop(self._events)
        event()

    def _delay(self) -> int:
        delay = self._random.randint(self.network.delay_min, self.network.delay_max)
        if self._random.random() < self.network.straggling:
            delay *= self._random.randint(2, 20)
        return delay

    def _for(self, node: Node, event: Callable[[], None]) -> Callable[[], None]:
        """The event, for this incarnation of the member only, and not while it is paused."""
        incarnation = node.incarnation

        def run() -> None:
            if node.incarnation != incarnation:
                return
            if node.paused:
                node.stalled.append(run)
            else:
                event()

        return run

    # -------------------------------------------------------------------------------------- steps and effects

    def _step(self, node: Node, event: str, *values: Any) -> None:
        """One call into the machine, and then all inputs that follow from it at once."""
        self._call(node, event, *values)
        while node.machine is not None:
            value = node.inputs.popleft() if node.inputs else self._next_input(node)
            if value is None:
                return
            self._call(node, "on_input", value)

    def _call(self, node: Node, event: str, *values: Any) -> None:
        out: Out[Any, Any] = Out()
        try:
            getattr(node.machine, event)(*values, out)
        except Exception as error:
            self._note(node, event, values, out)
            try:
                self.fail(f"{node.name}.{event} raised {error!r}")
            except Violation as violation:
                raise violation from error
        self._note(node, event, values, out)
        effects: Sequence[Effect[Any, Any]] = out.effects
        if node.name in self.adversaries:
            effects = self.adversaries[node.name].on_effects(node.name, effects)
        for effect in effects:
            self._interpret(node, effect)
        self._release(node)

    def _note(self, node: Node, event: str, values: tuple[Any, ...], out: Out[Any, Any]) -> None:
        self._recent.append((self.now, node.name, event, values, out))
        if self.trace is not None:
            self.trace.input(self.now, node.name, event, *values)
            self.trace.effects(out)

    def _interpret(self, node: Node, effect: Effect[Any, Any]) -> None:
        match effect:
            case Send(to, message, carry):
                self._leave(node, tuple(to), message, carry)
            case Broadcast(message, carry):
                self._leave(node, tuple(name for name in self.members if name != node.name), message, carry)
            case Deliver(Decided(slot, decided)):
                self._on_decided(node, slot, decided)
            case Deliver(Fetch(wanted, slot, holders)):
                self._on_fetch(node, wanted, slot, holders)
            case Deliver(LeaderChanged() as change):
                self.leaders.append((self.now, node.name, change))
            case Deliver(BatchWanted()):
                node.turns.calls += 1
            case Deliver(Returned(batch)):
                if batch == NO_DIGEST:
                    self.fail(f"{node.name} returned the empty batch")
                node.turns.out.pop(batch, None)
            case Deliver(output):
                self.fail(f"{node.name} delivered {output!r}, which is no output of an ordering protocol")
            case Blame(member):
                self.blames.append((node.name, effect))
                if node.name not in self.liars and member not in self.liars:
                    self.fail(f"{node.name} blamed {member}, which is correct: {effect.fault}")
            case SetTimer(key, ticks):
                self._serial += 1
                node.timers[key] = serial = self._serial
                self._after(ticks, self._for(node, lambda: self._timer(node, key, serial)))
            case CancelTimer(key):
                node.timers.pop(key, None)
            case Draw(key, choices):
                value = self._random.randrange(choices)
                self._after(0, self._for(node, lambda: self._step(node, "on_draw", key, value)))
            case DrawSecret(key):
                secret = int.from_bytes(self._random.randbytes(32))
                self._after(0, self._for(node, lambda: self._step(node, "on_draw", key, secret)))
            case Persist(record, slot):
                self._write(node, record, slot)

    def _timer(self, node: Node, key: TimerKey, serial: int) -> None:
        if node.timers.get(key) == serial:
            del node.timers[key]
            self._step(node, "on_timer", key)

    # -------------------------------------------------------------------------------------- disks

    def _write(
        self, node: Node, record: Record, slot: Slot, batch: Digest | None = None, purge_below: int | None = None
    ) -> None:
        node.written += 1
        node.log.append(Entry(node.written, record, slot, batch, purge_below))
        if not node.syncing:
            # One sync takes what is there when it starts; what comes meanwhile waits for the next one.
            node.syncing = True
            self._after(0, self._for(node, lambda: self._sync(node)))

    def _sync(self, node: Node) -> None:
        reached = node.written
        if self._random.random() < 0.5:
            # A writer may take any prefix of what waits; it is not to be relied on that one step is one sync.
            reached = self._random.randint(node.synced + 1, reached)
        ticks = self._random.randint(self.disk.sync_min, self.disk.sync_max)
        self._after(ticks, self._for(node, lambda: self._synced(node, reached)))

    def _synced(self, node: Node, reached: int) -> None:
        purge_below = 0
        for entry in reversed(node.log):  # what waits is at the end, and a log may be long
            if entry.serial <= node.synced:
                break
            if entry.serial <= reached:
                purge_below = max(purge_below, entry.purge_below or 0)
        node.synced = reached
        node.syncing = reached < node.written
        if node.syncing:
            self._sync(node)
        if purge_below:
            node.log = [
                entry
                for entry in node.log
                if entry.serial >= purge_below or entry.batch is not None or entry.slot > node.stable
            ]
        self._release(node)

    def _gate(self, node: Node, action: Callable[[], None]) -> None:
        """Do it when everything that is written by now is durable (SAFETY rule 5)."""
        node.outbox.append((node.written, action))

    def _release(self, node: Node) -> None:
        while node.outbox and node.outbox[0][0] <= node.synced:
            node.outbox.popleft()[1]()

    # -------------------------------------------------------------------------------------- links

    def _leave(self, node: Node, to: tuple[MemberId, ...], message: Any, carry: tuple[Digest, ...]) -> None:
        assert node.name not in to, f"{node.name} sends to itself"
        data = message if isinstance(message, bytes) else self.plugin.codec.encode(message)
        carried = tuple(name for name in carry if name in node.store)

        def leave() -> None:
            for observer in self.observers:
                observer(node.name, message)
            for receiver in to:
                for target in self._copies(receiver):
                    self._link(node, target, partial(self._arrive, target, node.name, data, carried))

        self._gate(node, leave)

    def _copies(self, member: MemberId) -> list[Node]:
        return [self._nodes[key] for key in (member, member + "'") if key in self._nodes]

    def _link(self, sender: Node, target: Node, event: Callable[[], None]) -> None:
        if target.name not in sender.hears or sender.name not in target.hears:
            return
        copies = 2 if self._random.random() < self.network.duplication else 1
        for _ in range(copies):
            if self._random.random() >= self.network.loss:
                self._after(self._delay(), lambda: self._across(sender, target, event))

    def _across(self, sender: Node, target: Node, event: Callable[[], None]) -> None:
        if self._reaches(sender, target) and target.machine is not None:
            self._for(target, event)()

    def _reaches(self, sender: Node, target: Node) -> bool:
        side_of = self._side_of
        return (sender.name, target.name) not in self._blocked and (
            not side_of or side_of[sender.key] == side_of[target.key]
        )

    def _arrive(self, node: Node, sender: MemberId, data: bytes, carried: tuple[Digest, ...]) -> None:
        try:
            message = self.plugin.codec.decode(data)
        except WireError as error:
            self.refused.append((node.name, sender, str(error)))
            if sender not in self.liars:
                self.fail(f"{sender} is correct and sent what {node.name} cannot read: {error}")
            return
        for batch in carried:
            self._bytes_arrive(node, batch)
        if node.name in self.adversaries:
            message = self.adversaries[node.name].on_message(node.name, sender, message)
            if message is None:
                return
        self._step(node, "on_message", sender, message)

    # -------------------------------------------------------------------------------------- batches

    def _request(self, node: Node, batch: Digest) -> None:
        if node.machine is None or batch in node.slots.values():
            return
        if batch in node.demand:
            if node.machine.leader is not None:
                return
            node.turns.begins = True  # its client asks again, and nobody else would begin a round
        node.demand[batch] = None
        if not node.paused:
            self._settle(node)

    def _settle(self, node: Node) -> None:
        value = self._next_input(node)
        if value is not None:
            self._step(node, "on_input", value)

    def _next_input(self, node: Node) -> OrderingInput | None:
        """What the channel has to tell the machine by now: `Waiting` when it changes, `Propose` while there is room."""
        assert node.machine is not None
        waiting = any(self._authentic[batch] for batch in node.demand)
        if waiting != node.told_waiting:
            node.told_waiting = waiting
            return Waiting(waiting)
        if node.machine.room > 0:
            view = node.machine.view
            wishes = reversed(node.demand) if node.is_twin else iter(node.demand)
            if node.machine.leader is None:
                own = node.turns.propose(wishes, node.height, node.machine.highest_voted)
                if own is None:
                    return None
                if own == NO_DIGEST:
                    return Propose(Batch(NO_DIGEST, 0))
                return self._propose(node, own)
            for batch in wishes:
                if node.proposed.get(batch) != view:
                    # A batch is given again in a new view; the real channel sorts out duplicates at delivery.
                    node.proposed[batch] = view
                    return self._propose(node, batch)
        return None

    def _propose(self, node: Node, batch: Digest) -> Propose:
        self._keep(node, batch)
        self.proposals[batch] += 1
        return Propose(Batch(batch, 100))

    def _keep(self, node: Node, batch: Digest) -> None:
        node.arrived.discard(batch)
        if batch not in node.store:
            node.store.add(batch)
            self._write(node, b"", STANDING, batch)

    def _on_fetch(self, node: Node, batch: Digest, slot: Slot, holders: tuple[MemberId, ...]) -> None:
        if batch == NO_DIGEST:
            self.fail(f"{node.name} fetches the empty batch")
        if batch in node.store or batch in node.arrived:
            self._answer(node, batch)
            return
        known = node.wanted.get(batch, (slot, list[MemberId]()))
        node.wanted[batch] = (max(slot, known[0]), list(dict.fromkeys([*known[1], *holders])))
        if batch not in [*self._authentic]:
            return  # an invented digest: nobody has the bytes, ever
        self._fetch(node, batch)

    def _fetch(self, node: Node, batch: Digest) -> None:
        if batch not in node.wanted:
            return
        for holder in node.wanted[batch][1]:
            if holder != node.name:
                for target in self._copies(holder):
                    self._link(node, target, partial(self._serve, target, node, batch))
        self._after(_FETCH_RETRY, self._for(node, lambda: self._fetch(node, batch)))

    def _serve(self, holder: Node, asker: Node, batch: Digest) -> None:
        if batch in holder.store:
            self._link(holder, asker, lambda: self._bytes_arrive(asker, batch))

    def _bytes_arrive(self, node: Node, batch: Digest) -> None:
        if batch in node.store:
            return
        node.arrived.add(batch)
        if node.wanted.pop(batch, None) is not None:
            self._answer(node, batch)
            if node.inputs:
                self._step(node, "on_input", node.inputs.popleft())

    def _answer(self, node: Node, batch: Digest) -> None:
        if self._authentic[batch]:
            self._keep(node, batch)
            node.inputs.append(Available(batch))
        else:
            node.inputs.append(Refused(batch))

    def _clients_retry(self) -> None:
        for batch in self._open:
            for node in self._nodes.values():
                self._after(self._delay(), partial(self._request, node, batch))
        self._after(_CLIENT_RETRY, self._clients_retry)

    # -------------------------------------------------------------------------------------- decisions

    def _on_decided(self, node: Node, slot: Slot, decided: Digest) -> None:
        if self._stop is not None and slot > self._stop[1]:
            if node.stop_told:
                self.fail(f"{node.name} decided slot {slot} after it was stopped at {self._stop[1]}")
            return  # void: it was decided before the member knew where the epoch ends
        if slot > node.stable:
            if slot != node.emitted + 1:
                self.fail(f"{node.name} decided slot {slot} after slot {node.emitted}")
            node.emitted = slot
        if decided != NO_DIGEST and decided not in node.store and node.name not in self.liars:
            self.fail(f"{node.name} decided slot {slot} and does not hold its bytes")
        self._gate(node, lambda: self._deliver(node, slot, decided))

    def _deliver(self, node: Node, slot: Slot, decided: Digest) -> None:
        if node.name not in self.liars:
            if decided != NO_DIGEST and not self._authentic.get(decided, False):
                self.fail(
                    f"validity: {node.name} decided slot {slot} as {decided.hex()[:8]}, which no client submitted"
                )
            if self.chosen.setdefault(slot, decided) != decided:
                self.fail(
                    f"agreement: slot {slot} is {self.chosen[slot].hex()[:8]}, {node.name} decided {decided.hex()[:8]}"
                )
            self._open.pop(decided, None)
        if slot <= node.height:
            return
        node.height = slot
        node.slots[slot] = decided
        node.demand.pop(decided, None)
        node.turns.delivered(decided, slot)
        node.behind_since = self.now
        if slot % self.interval == 0:
            voters = self._voters.setdefault(slot, set())
            voters.add(node.name)
            if len(voters) >= self.quorum.certificate and slot > self.stable and slot in self.chosen:
                self.stable = slot
                for other in self._nodes.values():
                    self._announce_stable(other)
        self._announce_stable(node)
        self._tell_stop(node)

    def _tell_stop(self, node: Node) -> None:
        if self._stop is not None and node.machine is not None and not node.stop_told and node.height >= self._stop[0]:
            node.stop_told = True
            self._step(node, "on_stop", self._stop[1])

    def _announce_stable(self, node: Node) -> None:
        slot = self.stable
        if node.machine is not None and node.stable < slot <= node.height:
            self._after(self._delay(), self._for(node, lambda: self._tell_stable(node, slot)))

    def _tell_stable(self, node: Node, slot: Slot) -> None:
        if slot <= node.stable:
            return
        node.stable = slot
        node.emitted = max(node.emitted, slot)
        if node.height < slot:  # the state came by a transfer
            node.height = slot
            node.slots.update((at, self.chosen[at]) for at in range(self.start + 1, slot + 1))
            for batch in node.slots.values():
                node.demand.pop(batch, None)
                node.turns.delivered(batch, slot)
            node.behind_since = self.now
        node.wanted = {batch: want for batch, want in node.wanted.items() if want[0] > slot}
        self._step(node, "on_stable", slot, self.state_digest(slot))
        if node.machine is not None and self._random.random() < 0.5:
            # The log starts a new segment: standing records are repeated, what is settled goes.
            first = node.written + 1
            for record in node.machine.standing():
                self._write(node, record, STANDING)
            self._write(node, b"", STANDING, None, first)
        self._tell_stop(node)

    # -------------------------------------------------------------------------------------- laggards

    def _status(self) -> None:
        """What members tell each other now and then, so that whoever fell behind is helped (SAFETY rules 17, 18)."""
        for node in self._nodes.values():
            if node.machine is not None and not node.paused:
                self._help(node)
        self._after(_STATUS_EVERY, self._status)

    def _help(self, node: Node) -> None:
        peers = [
            other
            for other in self._nodes.values()
            if other is not node
            and other.machine is not None
            and not other.paused
            and self._reaches(other, node)
            and self._reaches(node, other)
        ]
        if not any(peer.height > node.height for peer in peers):
            node.behind_since = self.now
            return
        behind = self.now - node.behind_since
        checkpoint = max((peer.stable for peer in peers), default=self.start)
        # One holder will do: what it sends is checked against the certified root.
        if checkpoint > node.height and behind >= self.transfer_after:
            self._after(self._delay(), self._for(node, lambda: self._tell_stable(node, checkpoint)))
        elif self.learned_after is not None and behind >= self.learned_after:
            for slot in range(node.height + 1, node.height + 1 + self.interval):
                claims = [peer for peer in peers if slot in peer.slots]
                if len(claims) >= self.quorum.weak and slot in self.chosen:
                    self._after(self._delay(), self._for(node, partial(self._tell_learned, node, slot)))

    def _tell_learned(self, node: Node, slot: Slot) -> None:
        if slot <= node.height:
            return
        if self.chosen[slot] != NO_DIGEST:
            self._keep(node, self.chosen[slot])
            node.wanted.pop(self.chosen[slot], None)
        self._step(node, "on_input", Learned(slot, self.chosen[slot]))
