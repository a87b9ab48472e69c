"""A chosen value never changes, whatever the schedule: who crashes, what is lost, who wants to lead, and when.

The first part lets hypothesis be the scheduler of bare machines: it picks which message arrives next, at whom, or
never, whose timers run, who crashes at which record of its disk. No world stands between, so no assumption about time
or order of links does. What q members hold durably is looked up from outside, after every step.
The second part are long seeded runs in the world of the contract suite, which must also make progress when healed.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bftkit.core.digest import digest
from bftkit.core.machine import Blame, Broadcast, Deliver, Digest, Draw, MemberId, Out, Persist, Record, Send, Slot
from bftkit.core.ordering import Available, Batch, Decided, Fetch, Learned, Neglected, Propose, Setup
from bftkit.core.quorum import Quorum
from bftkit.sim.keyring import fast_keyrings
from bftkit.sim.ordering.world import Disk, Network, OrderingWorld
from bftkit_paxos import PLUGIN
from bftkit_paxos import messages as m
from bftkit_paxos.machine import PaxosMachine
from bftkit_paxos.roles import BEAT, ELECTION
from tests.seeds import at_least

# ------------------------------------------------------------------------------------------------- bare machines


@attrs.define
class Schedule:
    """A group of bare machines in the hands of a scheduler."""

    n: int
    machines: dict[MemberId, PaxosMachine] = attrs.field(factory=dict[MemberId, PaxosMachine])
    disks: dict[MemberId, list[Record]] = attrs.field(factory=dict[MemberId, list[Record]])
    flying: list[tuple[MemberId, MemberId, m.Message]] = attrs.field(factory=list[tuple[MemberId, MemberId, m.Message]])
    chosen: dict[Slot, Digest] = attrs.field(factory=dict[Slot, Digest])
    """What q disks held in one ballot at some time."""
    delivered: dict[tuple[MemberId, Slot], Digest] = attrs.field(factory=dict[tuple[MemberId, Slot], Digest])
    proposals: int = 0
    elected: int = 0
    apart: MemberId | None = None
    """Nothing goes to this member or comes from it at present: so leaders grow old without knowing it."""

    @classmethod
    def begin(cls, n: int) -> Schedule:
        schedule = cls(n)
        rings = fast_keyrings(b"schedule", bytes(32), 0, bytes(32), schedule.names)
        for name in schedule.names:
            setup = Setup(name, schedule.names, Quorum(n, 0, (n - 1) // 2), rings[name], window=64)
            schedule.machines[name] = PaxosMachine.create(setup)
            schedule.disks[name] = []
        for name in schedule.names:
            schedule.step(name, "on_start")
        return schedule

    @property
    def names(self) -> tuple[MemberId, ...]:
        return tuple(f"m{index}" for index in range(self.n))

    def step(self, name: MemberId, event: str, *values: Any, torn: int | None = None) -> None:
        """One call. With `torn`, the member dies when it has written so many of its records: what follows is not."""
        out: Out[Any, Any] = Out()
        getattr(self.machines[name], event)(*values, out)
        for effect in out.effects:
            match effect:
                case Persist(record):
                    if torn is not None:
                        if torn == 0:
                            self.restart(name)
                            return
                        torn -= 1
                    self.disks[name].append(record)
                    self.look()
                case Send(to, message):
                    self.flying.extend((name, receiver, message) for receiver in to)
                case Broadcast(message):
                    self.elected += isinstance(message, m.Heartbeat) and message.ballot > 0
                    self.flying.extend((name, receiver, message) for receiver in self.names if receiver != name)
                case Deliver(Decided(slot, chosen)):
                    assert self.delivered.setdefault((name, slot), chosen) == chosen, "a member changed its mind"
                    assert self.chosen.get(slot) == chosen, f"{name} delivered in slot {slot} what is not chosen"
                case Deliver(Fetch(batch)):
                    self.step(name, "on_input", Available(batch))
                case Draw(key):
                    self.step(name, "on_draw", key, 0)
                case Blame(member, fault):
                    raise AssertionError(f"{name} blames {member}: {fault}")
                case _:
                    pass

    def look(self) -> None:
        """Agreement, from outside: of what q disks hold in one ballot, a slot has one value for ever."""
        holders: dict[tuple[Slot, int, Digest], set[MemberId]] = {}
        for name, disk in self.disks.items():
            for record in disk[-40:]:
                entry = m.RECORDS.decode(record)
                if isinstance(entry, m.Entry):
                    holders.setdefault((entry.slot, entry.ballot, entry.digest), set()).add(name)
        for (slot, _, value), members in holders.items():
            if len(members) > self.n // 2:
                assert self.chosen.setdefault(slot, value) == value, f"two values were chosen in slot {slot}"

    def restart(self, name: MemberId) -> None:
        """It comes back with its disk, and delivers again from the start."""
        self.machines[name] = PaxosMachine.create(self.machines[name].setup)
        self.step(name, "on_restore", list(self.disks[name]))
        self.step(name, "on_start")

    def propose(self, name: MemberId, torn: int | None = None) -> None:
        """A batch of its own, if there is room."""
        if self.machines[name].room > 0 and self.proposals < 200:
            self.proposals += 1
            self.step(name, "on_input", Propose(Batch(digest(b"%d" % self.proposals), 1)), torn=torn)

    def lose_leader(self, name: MemberId, *, at_once: bool) -> None:
        """Beats without a sign of anybody; and the drawn time is over, too."""
        for _ in range(4):
            self.step(name, "on_timer", BEAT)
        if at_once:
            self.step(name, "on_timer", ELECTION)

    def act(self, pick: Callable[[int], int]) -> None:
        """One thing of the scheduler's choice: `pick(k)` is a number below k."""
        kind = pick(40)
        name = self.names[pick(self.n)]
        torn = (None, None, None, None, None, None, 0, 1)[pick(8)]
        if kind < 26:
            there = [index for index, (*ends, _) in enumerate(self.flying) if self.apart not in ends]
            if there:
                index = there[pick(len(there))]
                sender, receiver, message = self.flying[index]
                if pick(10):  # else it comes once more, some time
                    del self.flying[index]
                if kind:  # else it is lost
                    self.step(receiver, "on_message", sender, message, torn=torn)
        elif kind == 26:
            leaders = [each for each in self.names if self.machines[each].room > 0]
            self.apart = None if self.apart or not leaders else leaders[pick(len(leaders))]
            if self.apart:
                self.propose(self.apart)
                for other in self.names:
                    self.lose_leader(other, at_once=other != self.apart and pick(2) == 0)
        elif kind < 35:
            leading = [each for each in self.names if self.machines[each].room > 0]
            if leading:
                self.propose(leading[pick(len(leading))], torn)
        elif kind == 35 and self.chosen:
            # The channel tells somebody what was decided (SAFETY rule 17), be it a leader that is none any more.
            slot = sorted(self.chosen)[pick(len(self.chosen))]
            self.step(name, "on_input", Learned(slot, self.chosen[slot]))
        elif kind < 37:
            self.step(name, "on_timer", BEAT)
        elif kind == 37:
            self.lose_leader(name, at_once=True)
        elif kind == 38:
            self.step(name, "on_timer", ELECTION, torn=torn)
        else:
            self.restart(name)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data(), st.sampled_from([3, 3, 5]))
def test_a_chosen_value_never_changes(data: st.DataObject, n: int) -> None:
    schedule = Schedule.begin(n)
    for _ in range(100):
        schedule.act(lambda count: data.draw(st.integers(0, count - 1)))


@pytest.mark.parametrize("block", range(4))
def test_a_chosen_value_never_changes_in_long_schedules(block: int) -> None:
    """The same with seeded chance: longer runs, and more of them a second."""
    elected = chosen = conflicting = 0
    for seed in range(12 * block, 12 * block + 12):
        schedule = Schedule.begin(3 if seed % 3 else 5)
        random = Random(seed)
        for _ in range(800):
            schedule.act(random.randrange)
        elected += schedule.elected
        chosen += len(schedule.chosen)
        values: dict[Slot, set[Digest]] = {}
        for record in (each for disk in schedule.disks.values() for each in disk):
            entry = m.RECORDS.decode(record)
            if isinstance(entry, m.Entry):
                values.setdefault(entry.slot, set()).add(entry.digest)
        conflicting += sum(len(several) > 1 for several in values.values())
    # Or else these schedules tried nothing.
    assert elected >= 50
    assert chosen >= 100
    assert conflicting >= 10


# ------------------------------------------------------------------------------------------------- worlds


SHAPES = [(3, 1), (3, 1), (4, 1), (5, 2), (7, 3), (2, 0), (1, 0)]


def chaos(seed: int) -> OrderingWorld:
    random = Random(seed)
    n, c = random.choice(SHAPES)
    loss = random.choice([0.0, 0.05, 0.3])
    world = OrderingWorld(
        PLUGIN,
        n,
        0,
        c,
        seed,
        network=Network(loss=loss, duplication=loss, straggling=loss / 2),
        disk=Disk(0, random.choice([5, 40]), keep_some=random.random() < 0.5),
        parameters={"pipeline": random.choice([1, 4, 32]), "spread": random.choice([1, 80])},
        learned_after=random.choice([None, 600]),
    )
    for _ in range(random.randint(2, 8)):
        world.submit(random.randint(1, 25))
        world.run(random.randint(1, 1_200))
        down = [member for member in world.members if member not in world.up()]
        match random.choice(["crash", "crash", "restart", "restart", "partition", "heal", "block", "neglect"]):
            case "crash" if world.up():
                world.crash(*random.sample(world.up(), random.randint(1, len(world.up()))))
            case "restart" if down:
                world.restart(*random.sample(down, random.randint(1, len(down))))
            case "partition":
                members = random.sample(world.members, n)
                cut = random.randint(1, n)
                world.partition(members[:cut], members[cut:])
            case "heal":
                world.heal()
            case "block":
                world.block(random.choice(world.members), random.choice(world.members))
            case _:
                for member in world.up():
                    leader = world.machine(member).leader
                    if leader is not None and random.random() < 0.7:
                        world.input(member, Neglected(leader))
    world.heal()
    world.restart(*[member for member in world.members if member not in world.up()])
    return world


@pytest.mark.parametrize("seed", at_least(30))
def test_chaos(seed: int) -> None:
    world = chaos(seed)
    world.run_until(world.all_delivered, 60_000)
    assert world.blames == []
    assert world.refused == []
