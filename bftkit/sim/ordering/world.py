"""A small seeded world for ordering protocols: members, links, disks, and a stand-in for the group channel.

It runs the machines of any `Plugin` as they run in a node, and one seed decides everything: delays, losses,
duplicates, the time a disk needs, the draws. Same seed, same run, line for line.

What stands in for the rest of the house:

- **Links** (`links.py`) carry messages in their wire form, with delay, loss, duplication and reordering, and can be
  cut, also in one direction only.
- **Disks** (`disk.py`) make records durable only when a sync completes. Whatever a machine sends or decides after a
  `persist` waits for that sync (SAFETY rule 5); a crash loses what was not synced.
- **The channel** forms batches from what clients submit, carries and fetches their bytes, answers `Fetch` and
  `BatchWanted`, tells `Waiting` (`batches.py`; where nobody leads, members share the proposing: `turns.py`). Once a
  machine has decided, it announces stable checkpoints, helps laggards by `Learned` or by a state transfer, and ends
  the epoch (`decisions.py`).
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

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import (
    Blame,
    Broadcast,
    CancelTimer,
    Deliver,
    Digest,
    Draw,
    DrawKey,
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
    BatchWanted,
    CoinProtocol,
    Decided,
    Fetch,
    LeaderChanged,
    Neglected,
    OrderingInput,
    OrderingMachine,
    Plugin,
    Returned,
    Setup,
    SignerProtocol,
)
from bftkit.core.quorum import Quorum
from bftkit.core.trace import Trace
from bftkit.core.wire import WireError
from bftkit.sim.coins import fast_coins
from bftkit.sim.keyring import fast_keyrings
from bftkit.sim.ordering.batches import Batches
from bftkit.sim.ordering.decisions import Decisions, Pace
from bftkit.sim.ordering.disk import Disk, MemberDisk
from bftkit.sim.ordering.links import Links, Network
from bftkit.sim.ordering.parts import Adversary, Node, Violation
from bftkit.sim.ordering.process import Process
from bftkit.sim.ordering.timeline import Timeline
from bftkit.sim.ordering.turns import Turns

__all__ = ["Adversary", "Disk", "Network", "OrderingWorld", "Violation"]

_RECENT: Final = 60


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
        self.liars: frozenset[MemberId] = frozenset({*self.adversaries, *(twins or {})})
        self.start = start
        self.interval = interval
        self.window = window
        self.blames: list[tuple[MemberId, Blame]] = []
        """Who blamed, and for what."""
        self.refused: list[tuple[MemberId, MemberId, str]] = []
        """(receiver, sender, reason) of every message that could not be read."""
        self.leaders: list[tuple[int, MemberId, LeaderChanged]] = []
        """(tick, member, what it said) of every change of leader."""
        self.observers: list[Callable[[MemberId, Any], None]] = []
        """Called with (sender, message) whenever a message leaves a member."""
        self.trace: Trace | None = Trace() if trace else None
        coin_text = "" if coin_threshold is None else f"coin_threshold={coin_threshold}, "
        self._rerun = rerun or (
            f"OrderingWorld(load_protocol({plugin.record.name!r}), n={n}, f={f}, c={c}, seed={seed}, "
            f"network={self.network}, disk={self.disk}, parameters={dict(parameters or {})}, window={window}, "
            f"interval={interval}, start={start}, {coin_text}trace=True)"
        )
        self._recent: deque[tuple[int, MemberId, str, tuple[Any, ...], Out[Any, Any]]] = deque(maxlen=_RECENT)
        self._nodes: dict[MemberId, Node] = {}
        self._time = Timeline(seed)
        self.links = Links(self._nodes, self.members, self.network, self._time)
        """What lies between the members."""
        self._batches = Batches(self._nodes, self.links, self._time, self)
        pace = Pace(start, interval, transfer_after, learned_after)
        self._decisions = Decisions(
            self._nodes, self.liars, self.quorum, pace, self.links, self._batches, self._time, self
        )
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
                turns, process = Turns(self.members.index(name), n), Process()
                own = MemberDisk(self.disk, self._time, process, start)
                node = Node(name, setup, frozenset(side), twin == 1, turns, process, own, emitted=start, height=start)
                self._nodes[node.key] = node
                node.machine = plugin.create(setup)
        for node in self._nodes.values():
            self.step(node, "on_start")
        self._decisions.begin()
        self._batches.begin()

    # -------------------------------------------------------------------------------------- what a test says

    def submit(self, count: int = 1, at: Iterable[MemberId] | None = None, *, authentic: bool = True) -> list[Digest]:
        """Clients submit `count` new batches, at all members or at some.

        Clients send again to everybody until they are answered. A batch that is not authentic is held by the
        members `at` (liars) and must never be decided.
        """
        return self._batches.submit(count, self.members if at is None else at, authentic=authentic)

    def run(self, ticks: int) -> None:
        """Let so many ticks pass."""
        end = self.now + ticks
        self._time.run_to(end)
        self._time.now = end

    def run_until(self, predicate: Callable[[], bool], max_ticks: int) -> None:
        """Run until the predicate holds; a `Violation` (of progress) if it does not within `max_ticks`."""
        end = self.now + max_ticks
        while not predicate():
            tick = self._time.next_tick
            if tick is None or tick > end:
                self.fail(f"no progress: {getattr(predicate, '__name__', predicate)} did not come true")
            self._time.run_to(tick)

    def crash(self, *members: MemberId) -> None:
        """The members lose their memory and every record that was not synced."""
        for node in self._all_copies(members):
            assert node.machine is not None, f"{node.name} is down already"
            node.crash()
            self._note(node, "crash", (), Out())

    def restart(self, *members: MemberId) -> None:
        """Fresh machines, from what the disks have."""
        for node in self._all_copies(members):
            assert node.machine is None, f"{node.name} is up"
            node.machine = self.plugin.create(node.setup)
            stable = node.emitted = node.height = node.disk.stable
            node.behind_since = self.now
            node.slots = {slot: chosen for slot, chosen in node.slots.items() if slot <= stable}
            self.step(node, "on_restore", node.disk.records())
            self.step(node, "on_start")
            if stable > self.start:
                self.step(node, "on_stable", stable, self.state_digest(stable))
            self._decisions.tell_stop(node)

    def pause(self, *members: MemberId) -> None:
        """The members' processes stop for a while; what comes for them waits."""
        for node in self._all_copies(members):
            node.process.paused = True

    def resume(self, *members: MemberId) -> None:
        """The members go on, with all that has come for them meanwhile."""
        for node in self._all_copies(members):
            for event in node.process.resume():
                self._time.after(0, event)

    def partition(self, *sides: Iterable[MemberId]) -> None:
        """Cut all links between the sides; members that stand in no side hear nobody."""
        self.links.partition(*sides)

    def block(self, sender: MemberId, receiver: MemberId) -> None:
        """Cut one direction of one link."""
        self.links.block(sender, receiver)

    def divide(self, *sides: Iterable[str]) -> None:
        """Cut all links between the sides, in place of an earlier `divide`: for twins, whose copies may be apart.

        A member's second copy is named with an apostrophe: ``world.divide(["m0", "m1"], ["m0'", "m2", "m3"])``.
        """
        self.links.divide(*sides)

    def heal(self) -> None:
        """All links are whole again."""
        self.links.heal()

    def neglect(self) -> None:
        """Everybody hears from its channel that the leader passes over a request, and may want another one."""
        for node in self._nodes.values():
            if node.machine is not None and (leader := node.machine.leader) is not None:
                self.step(node, "on_input", Neglected(leader))

    def input(self, member: MemberId, value: OrderingInput) -> None:
        """Give a member's machine an input, such as `Neglected`."""
        self.step(self._nodes[member], "on_input", value)

    def stop(self, trigger: Slot, boundary: Slot) -> None:
        """Slot `trigger` orders a reconfiguration: whoever delivers it hears that the epoch ends with `boundary`."""
        self._decisions.stop(trigger, boundary)

    # -------------------------------------------------------------------------------------- what a test asks

    @property
    def now(self) -> int:
        """Ticks since the start."""
        return self._time.now

    @property
    def chosen(self) -> dict[Slot, Digest]:
        """The digest that a correct member delivered first, for each slot."""
        return self._decisions.chosen

    @property
    def proposals(self) -> Counter[Digest]:
        """How often each batch was given to a machine to propose."""
        return self._batches.proposals

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
        return self._nodes[member].disk.stable

    def delivered(self, member: MemberId) -> tuple[Digest, ...]:
        """What the member's application has, slot by slot from ``start + 1``, transferred state included."""
        node = self._nodes[member]
        return tuple(node.slots[slot] for slot in range(self.start + 1, node.height + 1))

    def records(self, member: MemberId) -> list[Record]:
        """The member's durable records, as a restart would get them."""
        return self._nodes[member].disk.records()

    def all_delivered(self) -> bool:
        """Every submitted batch is decided, and every correct member that is up has every slot."""
        if self._batches.open:
            return False
        newest = max(self.chosen, default=self.start)
        return all(self._nodes[name].height >= newest for name in self.correct())

    def all_stopped(self) -> bool:
        """Every correct member that is up has reached the end of the epoch."""
        end = self._decisions.end
        assert end is not None
        return all(self._nodes[name].height == end[1] for name in self.correct())

    def state_digest(self, slot: Slot) -> Digest:
        """The stand-in for a checkpoint's state digest."""
        return self._decisions.state_digest(slot)

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

    # -------------------------------------------------------------------------------------- steps and effects

    def step(self, node: Node, event: str, *values: Any) -> None:
        """One call into the member's machine, and then all inputs that follow from it at once."""
        self._call(node, event, *values)
        while node.machine is not None:
            value = node.inputs.popleft() if node.inputs else self._batches.next_input(node)
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
        node.disk.release()

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
                self._decisions.decided(node, slot, decided)
            case Deliver(Fetch(wanted, slot, holders)):
                self._batches.fetch(node, wanted, slot, holders)
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
                node.timers[key] = serial = self._time.number()
                self._time.after(ticks, node.process.bound(lambda: self._timer(node, key, serial)))
            case CancelTimer(key):
                node.timers.pop(key, None)
            case Draw(key, choices):
                self._answer_draw(node, key, self._time.random.randrange(choices))
            case DrawSecret(key):
                self._answer_draw(node, key, int.from_bytes(self._time.random.randbytes(32)))
            case Persist(record, slot):
                node.disk.write(record, slot)

    def _answer_draw(self, node: Node, key: DrawKey, value: int) -> None:
        self._time.after(0, node.process.bound(lambda: self.step(node, "on_draw", key, value)))

    def _timer(self, node: Node, key: TimerKey, serial: int) -> None:
        if node.timers.get(key) == serial:
            del node.timers[key]
            self.step(node, "on_timer", key)

    # -------------------------------------------------------------------------------------- messages

    def _leave(self, node: Node, to: tuple[MemberId, ...], message: Any, carry: tuple[Digest, ...]) -> None:
        assert node.name not in to, f"{node.name} sends to itself"
        data = message if isinstance(message, bytes) else self.plugin.codec.encode(message)
        carried = tuple(name for name in carry if name in node.store)

        def leave() -> None:
            for observer in self.observers:
                observer(node.name, message)
            for receiver in to:
                for target in self.links.copies(receiver):
                    self.links.carry(node, target, partial(self._arrive, target, node.name, data, carried))

        node.disk.when_durable(leave)

    def _all_copies(self, members: Iterable[MemberId]) -> list[Node]:
        return [node for name in members for node in self.links.copies(name)]

    def _arrive(self, node: Node, sender: MemberId, data: bytes, carried: tuple[Digest, ...]) -> None:
        try:
            message = self.plugin.codec.decode(data)
        except WireError as error:
            self.refused.append((node.name, sender, str(error)))
            if sender not in self.liars:
                self.fail(f"{sender} is correct and sent what {node.name} cannot read: {error}")
            return
        for batch in carried:
            self._batches.arrive(node, batch)
        if node.name in self.adversaries:
            message = self.adversaries[node.name].on_message(node.name, sender, message)
            if message is None:
                return
        self.step(node, "on_message", sender, message)
