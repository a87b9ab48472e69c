"""Forced switches in simulated worlds: away from each protocol, under load, with whatever can go wrong meanwhile.

SAFETY rules 21 to 25 and 29. Every run ends with `World.finish`: one order of all operations, no state that differs,
nothing lost that was acknowledged, one ending of each epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from bftkit.channel.frames import CONTROL, CONTROL_CODEC
from bftkit.channel.records import WEDGE_RECORD
from bftkit.core.machine import Out, Slot
from bftkit.core.ordering import OrderingMachine, Setup
from bftkit.membership.commands import FORCED, PLANNED, Command, sign_command
from bftkit.sim.epochs import operator_key
from bftkit.sim.links import Network
from bftkit.sim.world import World
from bftkit.storage.snapshots import MemorySnapshots

GROUPS = {"coordinator": (3, 0, 1), "paxos": (3, 0, 1), "pbft": (4, 1, 0), "cks": (4, 1, 0)}
"""Members, f and c of the group that is left."""
LIMIT = 20_000
STEPS = ("Wedged", "BedrockMessage", "EndingVote", "Holding")
"""What is said on the way from one epoch to the next, in this order."""


def others(protocol: str) -> list[str]:
    """Where a group of this protocol can go without changing members, f or c."""
    n, f, c = GROUPS[protocol]
    able = ["pbft"] if f else ["coordinator", "paxos", "pbft"]
    return able + ["cks"] * (n >= 3 * (f + c) + 1)


WAYS = [(old, new) for old in GROUPS for new in others(old)]
ways = pytest.mark.parametrize(("old", "new"), WAYS)


def group(protocol: str, seed: int = 1, *, members: int = 0, loss: float = 0.0, **more: Any) -> World:
    """A small group that has just decided something."""
    n, f, c = GROUPS[protocol]
    network = more.pop("network", Network(delay_max=3, loss=loss))
    settings: dict[str, Any] = {"clients": 2, "interval": 4, "window": 8, **more}
    world = World(seed, protocol, members or n, f, c, reconfigurable=True, network=network, **settings)
    world.load(8, keys=2, poison=0.0)
    world.run(80)
    return world


def force(world: World, protocol: str, **more: Any) -> bytes:
    """Operators order that the protocol be left."""
    here = world.configuration
    return world.switch(protocol, f=here.f, c=here.c, forced=True, **more)


def arrive(world: World, epoch: int = 1) -> None:
    """Run until somebody is in this epoch."""
    world.run_until(lambda: world.chain.now.epoch >= epoch, LIMIT, f"epoch {epoch} begins")


def quiet(world: World) -> None:
    """Run until the clients wait for nothing."""
    world.run_until(lambda: world.outstanding == 0, LIMIT)


def heard(world: World, said: list[str]) -> None:
    """Run until something was said."""
    world.run_until(lambda: bool(said), LIMIT)


def leader_of(world: World, member: str = "m1") -> str:
    """Whom this member follows."""
    return world.replica(member).machine.leader or "m0"


def kind_of(frame: bytes) -> str:
    """The name of a message between channels."""
    return type(CONTROL_CODEC.decode(frame[1:])).__name__ if frame[0] == CONTROL else ""


def back(world: World) -> None:
    """Everybody is up again."""
    world.restart(*(member for member in world.members if not world.hosts[member].up))


# ------------------------------------------------------------------------------------------------ away from each


@ways
def test_the_leader_is_gone_for_good(old: str, new: str) -> None:
    """Under load: clients go on in the next epoch, and its members never need the one that is gone."""
    world = group(old)
    gone = leader_of(world)
    world.crash(gone)
    force(world, new)
    world.load(12, keys=2)
    arrive(world)
    assert world.configuration.protocol == new
    world.finish(without=[gone] if new != "coordinator" else [])


@pytest.mark.parametrize("old", list(GROUPS))
def test_over_links_that_lose_a_third(old: str) -> None:
    world = group(old, seed=4, loss=0.3)
    world.run(400)
    force(world, others(old)[-1])
    world.load(8, keys=2)
    world.run_until(lambda: world.chain.now.epoch == 1, LIMIT)
    world.finish(calm=False, max_ticks=LIMIT)


@pytest.mark.parametrize("old", list(GROUPS))
def test_who_missed_everything_comes_back(old: str) -> None:
    """It follows the chain, and fetches the state (SAFETY rule 28)."""
    world = group(old)
    last = world.members[-1]
    world.crash(last)
    for epoch, new in enumerate(("pbft", others(old)[0]), 1):
        world.run(60)
        force(world, new)
        world.load(10, keys=2)
        arrive(world, epoch)
    assert world.replica("m1").succession_part.lineage.chain_from(0)
    world.finish()
    assert world.replica(last).settings.epoch == 2


def test_an_epoch_in_which_nothing_was_decided() -> None:
    """Two forced switches, one right after the other: each epoch has a slot of its own (regression)."""
    world = World(3, "pbft", 4, reconfigurable=True, clients=1)
    ends: list[int] = []
    for epoch in (1, 2, 3):
        force(world, "pbft")
        arrive(world, epoch)
        ends.append(world.chain.now.start)
    assert ends == sorted(set(ends))
    world.power_cut()
    world.restart(*world.members)
    world.load(8, keys=2)
    world.finish()


def test_an_ending_on_a_checkpoint_is_proved_by_the_hand_over() -> None:
    """Members restart from it, and show it to others, in the next epoch (regression)."""
    found = 0
    for seed in range(4):
        world = group("paxos", seed)
        quiet(world)
        stop = 4 - world.replica("m1").applied % 4
        for _ in range(stop % 4):
            world.load(1, keys=1, poison=0.0)
            quiet(world)
        world.run(600)
        found += world.replica("m1").checkpoints.stable == world.replica("m1").applied
        force(world, "pbft")
        arrive(world)
        world.run(200)
        if seed % 2:
            force(world, "paxos")  # the reports begin with that state
            arrive(world, 2)
        world.power_cut()
        world.restart(*world.members)
        world.load(4, keys=1)
        world.finish()
    assert found


# ------------------------------------------------------------------------------------------------ crashes


def operations(old: str, new: str, who: str) -> int:
    """How many operations on this member's disk a forced switch takes."""
    count = 0

    def counted(name: str) -> None:
        nonlocal count
        count += 1

    run(old, new, lambda world: world.hosts[who].disk.plan(counted))
    return count


def run(old: str, new: str, spoil: Callable[[World], None]) -> World:
    """The old leader is dead, the members leave by force, `spoil` has something to say to that; all must be well."""
    world = group(old, clients=1)
    world.crash("m0")
    spoil(world)
    force(world, new)
    world.load(2, keys=2, poison=0.0)
    world.run(700)
    for member in world.members:
        world.forget_planned_cut(member)
    back(world)
    arrive(world)
    world.finish()
    return world


@pytest.mark.parametrize(
    ("old", "new", "step"), [("coordinator", "paxos", 1), ("paxos", "pbft", 2), ("pbft", "cks", 47)]
)
@pytest.mark.parametrize("power", [True, False], ids=["all lose power", "a process is killed"])
def test_at_every_operation_of_a_disk(old: str, new: str, step: int, power: bool) -> None:
    """FAULTS 12: before and after the wedge, the report, each vote of the agreement, the end, the save, crossing."""
    count = operations(old, new, "m1")
    assert count > 20
    for operation in range(1, count + 1, step * (1 if power else 4)):

        def spoil(world: World, operation: int = operation) -> None:
            (world.cut_power_before if power else world.kill_before)("m1", operation)

        run(old, new, spoil)


@pytest.mark.parametrize("old", ["coordinator", "pbft"])
@pytest.mark.parametrize("step", STEPS)
def test_any_member_may_be_gone_for_good_from_any_step_on(old: str, step: str) -> None:
    """What was agreed can be carried out without it: also the batches that nobody but it had (SAFETY rule 3)."""
    for victim in ("m0", "m1"):
        world = group(old, seed=2)
        said: list[str] = []

        def watch(sender: str, receiver: str, frame: bytes, world: World = world, said: list[str] = said) -> None:
            if sender == victim and kind_of(frame) == step and not said:  # noqa: B023
                said.append(sender)
                world.after(1, lambda: world.crash(sender))

        world.observers.append(watch)
        force(world, others(old)[-1])
        world.load(6, keys=2)
        arrive(world)
        heard(world, said)
        world.finish(without=[victim])


def test_a_batch_that_only_one_member_holds_is_not_agreed_on_before_others_hold_it() -> None:
    """Regression: its only holder reported it and died, and nobody could execute what was agreed on."""
    world = group("coordinator", seed=5)
    quiet(world)
    world.partition(["m0"], ["m1", "m2"])  # clients reach the coordinator, which writes what it can tell nobody
    world.load(2, keys=2, poison=0.0)
    world.run(120)
    assert max(slot for slot, _ in world.replica("m0").driving.records) > world.replica("m1").applied
    world.heal()
    # m2's report comes too late for a set of reports without m0's, and m0 dies before it gives its batches away.
    world.slow("m2", 3_000, lambda frame: kind_of(frame) == "Wedged")
    handle = world.slow("m0", 100_000, lambda frame: kind_of(frame) == "BatchBytes" or frame[0] == 1)
    lost: list[str] = []

    def watch(sender: str, receiver: str, frame: bytes) -> None:
        if sender == "m0" and kind_of(frame) == "Wedged" and not lost:
            lost.append(sender)
            world.after(8, lambda: world.crash("m0"))

    world.observers.append(watch)
    force(world, "paxos")
    arrive(world)
    handle.end()
    assert lost
    world.finish(without=["m0"])


def test_what_was_written_before_a_restart_stays_in_the_report() -> None:
    """Until a checkpoint covers it, however many checkpoints the present life has seen (regression)."""
    world = group("paxos", seed=6)
    quiet(world)
    while world.replica("m1").applied % 4 != 2:
        world.load(1, keys=1, poison=0.0)
        quiet(world)
        world.run(100)
    world.crash("m1")
    world.restart("m1")
    replica = world.replica("m1")
    stable = replica.checkpoints.stable
    written = {record for slot, record in replica.driving.records if slot > stable}
    assert written
    replica.driving.forget_records(stable)
    assert {record for slot, record in replica.driving.records if slot > stable} == written
    assert all(slot == 0 or slot > stable for slot, _ in replica.driving.records)


@pytest.mark.parametrize("old", list(GROUPS))
def test_reports_reach_as_far_as_the_power_cut_threw_the_checkpoints_back(old: str) -> None:
    """Regression: saving took longer than some windows, and what was written since then was taken for a lie."""
    world = group(old, seed=3, clients=1)
    quiet(world)
    world.run(300)
    for host in world.hosts.values():
        vars(host)["_finish_save"] = lambda: None
    world.load(60, keys=2, poison=0.0, pipeline=1)
    quiet(world)
    world.run(300)
    assert all(world.replica(name).checkpoints.stable >= 40 for name in world.members)
    said = ("Wedged", "BedrockMessage")
    unheard = [world.slow(name, LIMIT, lambda frame: kind_of(frame) in said) for name in world.members]
    force(world, others(old)[-1])
    world.run(400)
    assert all(world.replica(name).wedged for name in world.members)
    for slowness in unheard:
        slowness.end()
    world.power_cut()
    for host in world.hosts.values():
        del vars(host)["_finish_save"]
    world.restart(*world.members)
    assert all(world.replica(name).checkpoints.stable < 16 for name in world.members)
    arrive(world)
    world.finish()


@pytest.mark.parametrize(("old", "forced"), [("paxos", False), ("paxos", True), ("coordinator", True)])
def test_who_lost_its_checkpoints_speaks_for_nobody_until_it_has_fetched_them(old: str, forced: bool) -> None:
    """Regression: its log was cut where they began, so what it said it had done left out what was acknowledged."""
    world = group(old, seed=3, clients=1)
    quiet(world)
    dead, hurt, behind = ("m0", "m1", "m2") if old == "coordinator" else ("m1", "m2", "m0")
    world.crash(behind)
    world.load(40, keys=2, poison=0.0, pipeline=1)
    quiet(world)
    world.run(500)
    done = world.replica(hurt).applied
    assert world.replica(hurt).settling.covered >= 24
    world.crash(dead, hurt)
    world.hosts[hurt].disk.snapshots = MemorySnapshots()
    world.restart(behind, hurt)
    if forced:
        force(world, others(old)[-1])
    world.run(3_000)
    assert world.replica(hurt).lacks_state
    assert world.chain.now.epoch == 0
    world.restart(dead)
    world.load(4, keys=2)
    world.finish()
    assert world.replica(hurt).applied > done
    assert world.chain.now.epoch == forced
    assert not world.replica(hurt).lacks_state


@pytest.mark.parametrize("old", ["paxos", "pbft"])
def test_who_left_the_protocol_and_lost_its_checkpoints_reports_once_it_has_fetched_them(old: str) -> None:
    """Its report may be needed, and which keys the next epochs have it must not judge before (regression)."""
    world = group(old, seed=3, clients=1)
    here = world.configuration
    world.switch(old, f=here.f, c=here.c, rotate=tuple(world.members))
    arrive(world)
    world.load(24, keys=2, poison=0.0, pipeline=1)
    quiet(world)
    world.run(500)
    hurt, gone = world.members[1], world.members[-1]
    said = ("Wedged", "BedrockMessage")
    unheard = [world.slow(name, LIMIT, lambda frame: kind_of(frame) in said) for name in world.members]
    force(world, old)
    world.run(400)
    assert all(world.replica(name).wedged for name in world.members)
    for slowness in unheard:
        slowness.end()
    world.crash(hurt, gone)
    world.hosts[hurt].disk.snapshots = MemorySnapshots()
    world.restart(hurt)
    arrive(world, 2)
    world.finish(without=[gone])


def test_promises_outlive_the_place_in_the_log_where_the_epoch_began() -> None:
    """Regression: once that place was cut, a restart in a later epoch forgot all that the protocol had written."""
    world = group("coordinator", interval=2, window=8, segment_bytes=2048)
    force(world, "paxos")
    arrive(world)
    world.load(40, keys=2, poison=0.0, pipeline=1)
    quiet(world)
    while world.replica("m1").applied % 2 == 0:
        world.load(1, keys=1, poison=0.0)
        quiet(world)
        world.run(600)
    held = {member: _above_stable(world, member) for member in world.members}
    assert any(held.values())
    world.crash(*world.members, power=False)
    world.restart(*world.members)
    assert {member: held[member] <= _above_stable(world, member) for member in world.members} == dict.fromkeys(
        world.members, True
    )
    world.load(6, keys=2)
    world.finish()


def _above_stable(world: World, member: str) -> set[bytes]:
    """What the protocol wrote of slots that no checkpoint covers."""
    replica = world.replica(member)
    return {record for slot, record in replica.driving.records if slot > replica.checkpoints.stable}


# ------------------------------------------------------------------------------------------------ two at once


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("old", ["coordinator", "pbft"])
def test_the_old_protocol_comes_back_to_life(old: str, seed: int) -> None:
    """Some have left it, and the others can decide nothing that these do not know of (SAFETY rules 1 and 21)."""
    world = group(old, seed, network=Network(delay_max=10))
    n = len(world.members)
    cut = world.random.randint(1, n - 1)
    names = sorted(world.members, key=lambda name: world.random.random())
    world.load(20, keys=2)
    world.run(world.random.randint(0, 30))
    away = world.partition(names[:cut], names[cut:])
    force(world, others(old)[-1], to=names[:cut])
    world.run(world.random.randint(50, 400))
    assert any(world.replica(name).wedged for name in names[:cut] if world.replica(name).settings.epoch == 0) or (
        world.chain.now.epoch == 1
    )
    away.end()
    world.load(20, keys=2)
    arrive(world)
    world.finish()


@pytest.mark.parametrize("wait", [0, 20, 45, 80, 200])
@pytest.mark.parametrize("old", ["paxos", "pbft"])
def test_a_planned_change_is_under_way(old: str, wait: int) -> None:
    """Ordered, prepared or committed: if its boundary is in the continuation, it wins, else it is dropped (rule 21)."""
    world = group(old, seed=wait)
    world.load(30, keys=2, pipeline=1)
    planned = world.switch("pbft", parameters={"view_timeout": 777})
    world.run(wait)
    forced = force(world, others(old)[-1], parameters={})
    arrive(world)
    link = world.chain.eras[1].link
    assert link is not None
    assert link.ending.command in (planned, forced)
    world.finish()
    if link.ending.command == forced:
        state = world.replica("m1").state.reconfiguring
        assert state is not None
        assert state.pending is None


def test_of_two_forced_commands_one_is_agreed_on() -> None:
    """Some members have the one first, some the other; all go by the one that the bedrock decides (SAFETY rule 21)."""
    won: set[bytes] = set()
    for seed in range(4):
        world = group("coordinator", seed)
        world.crash("m0")
        commands = {force(world, "paxos", to=["m1"]), force(world, "pbft", to=["m2"])}
        arrive(world)
        link = world.chain.eras[1].link
        assert link is not None
        assert link.ending.command in commands
        won.add(world.configuration.protocol.encode())
        world.finish()
    assert won


# ------------------------------------------------------------------------------------------------ a plug-in's bug


class Broken:
    """A protocol's machine that fails from some slot on, and then whatever it is asked; before, it is the real one."""

    def __init__(self, machine: OrderingMachine, slot: Slot) -> None:
        self._machine = machine
        self._slot = slot
        self._failed = False

    def on_message(self, sender: str, message: Any, out: Out[Any, Any]) -> None:
        if self._machine.highest_voted >= self._slot:
            self._failed = True
            raise KeyError("a bug of the plug-in")
        self._machine.on_message(sender, message, out)

    def __getattr__(self, name: str) -> Any:
        if self._failed or (name == "standing" and self._machine.highest_voted >= self._slot):
            self._failed = True
            raise KeyError(f"another one: {name}")
        return getattr(self._machine, name)


@pytest.mark.parametrize("old", list(GROUPS))
def test_a_protocol_whose_machine_fails_is_left(old: str) -> None:
    """SAFETY rule 29: by its durable records, which functions beside the machine read."""
    n, f, c = GROUPS[old]
    world = World(7, old, n, f, c, reconfigurable=True, interval=4, window=8, clients=1)
    world.crash(*world.members)
    for host in world.hosts.values():
        plugin = host.settings.plugin

        def create(setup: Setup, plugin: Any = plugin) -> Any:
            return Broken(plugin.create(setup), 6)

        host.settings = attrs.evolve(host.settings, plugin=attrs.evolve(plugin, create=create))
    world.restart(*world.members)
    world.load(30, keys=2, poison=0.0, pipeline=1)
    members = world.members
    world.run_until(lambda: all(world.replica(name).driving.failed for name in members), LIMIT, "it fails everywhere")
    force(world, next(new for new in others(old) if new != old))
    arrive(world)
    world.finish()


# ------------------------------------------------------------------------------------------------ what is refused


def answers(world: World, name: bytes) -> str:
    """What the members say of a command."""
    world.run(1_000)
    return " ".join(text for _, text in world.operator.orders[name].states.values())


def test_refusals_have_the_reason() -> None:
    world = World(1, "pbft", 5, 1, 0, reconfigurable=True)
    change = world.configuration.change()
    assert "the members, f or c" in answers(
        world, world.order(FORCED, attrs.evolve(change, members=change.members[:4]))
    )
    assert "the members, f or c" in answers(world, world.order(FORCED, attrs.evolve(change, f=0)))
    small = attrs.evolve(change, protocol="cks", parameters={}, checkpoint_interval=1, window=2)
    assert "would not begin" in answers(world, world.order(FORCED, small))
    assert world.chain.now.epoch == 0
    assert not any(world.replica(name).wedged for name in world.members)


def test_a_forced_change_keeps_the_coin_key_or_goes_without() -> None:
    """What says otherwise is refused: members would end the epoch with a link that nobody believes (regression)."""
    world = World(1, "paxos", 4, 0, 1, reconfigurable=True)
    change = world.configuration.change()
    assert not change.coin
    assert "keeps the coin key" in answers(world, world.order(FORCED, attrs.evolve(change, coin=True)))
    assert "makes none" in answers(world, force(world, "cks"))
    assert world.chain.now.epoch == 0
    world = World(1, "pbft", 4, 1, 0, reconfigurable=True)
    change = attrs.evolve(world.configuration.change(), coin=False)
    assert "coin key" in answers(world, world.order(FORCED, change))
    assert world.chain.now.epoch == 0


def test_too_few_members_for_an_agreement_with_liars() -> None:
    """SAFETY rule 26: n = 6 bears f = 1 and c = 1, and not 3 (f + c) + 1."""
    world = World(1, "pbft", 6, 1, 1, reconfigurable=True)
    assert "needs 7 members" in answers(world, force(world, "pbft"))


def test_without_a_coin_key_no_agreement_with_liars() -> None:
    world = World(1, "coordinator", 4, 0, 1, reconfigurable=True, interval=4)
    change = attrs.evolve(world.configuration.change(), protocol="pbft", f=1, c=0, coin=False)
    world.order(PLANNED, change)
    world.load(20, keys=2)
    world.run(3_000)
    if world.chain.now.epoch == 1:  # as long as such an epoch can begin at all
        assert "no coin key" in answers(world, force(world, "pbft"))


def test_a_coordinator_whose_writings_nobody_else_has() -> None:
    """SAFETY rule 24: refused, unless the operators accept the loss; then those that are left go on."""
    world = World(1, "coordinator", 3, 0, 0, reconfigurable=True, interval=4)
    world.load(20, keys=2)
    world.run(200)
    world.crash("m0")
    assert "accept that loss" in answers(world, force(world, "paxos"))
    change = attrs.evolve(world.configuration.change(), protocol="pbft", parameters={})
    command = Command(world.chain.now.settings.group, 0, FORCED, 0, True, change, bytes(16))
    world.guards.holding.active = False  # with c = 0 one member alone may hold what clients were told of
    world.operator.send(sign_command(command, operator_key(0)))
    world.run_until(lambda: world.replica("m1").settings.epoch == 1, LIMIT)
    assert world.replica("m1").settings.plugin.record.name == "pbft"


def test_operators_may_accept_a_loss_after_all() -> None:
    """More are gone than were thought when the protocol was left: else the group would wait for them for ever."""
    world = World(1, "paxos", 5, 0, 1, reconfigurable=True, interval=4)
    world.load(20, keys=2)
    quiet(world)
    world.run(300)
    world.crash("m0", "m4")
    first = world.switch("pbft", f=0, c=1, forced=True)
    world.run(1_000)
    left = ["m1", "m2", "m3"]
    assert all(world.replica(name).wedged for name in left)
    world.crash("m2")
    world.restart("m2")
    world.run(1_000)
    assert world.chain.now.epoch == 0
    change = attrs.evolve(world.configuration.change(), protocol="coordinator", parameters={"coordinator": 1})
    command = Command(world.chain.now.settings.group, 0, FORCED, 0, True, change, bytes(16))
    world.operator.send(sign_command(command, operator_key(0)), ["m1"])
    world.run(5)
    world.crash("m1")
    world.restart("m1")
    world.run_until(lambda: all(world.replica(name).settings.epoch == 1 for name in left), LIMIT)
    assert world.configuration.protocol == "coordinator"
    world.operator.orders.pop(first)
    world.load(8, keys=2)
    world.finish(without=["m0", "m4"])


def test_the_wedge_is_in_the_log_before_anything_says_so() -> None:
    """SAFETY rule 21."""
    world = group("pbft")
    force(world, "cks")
    early: list[str] = []

    def watch(sender: str, receiver: str, frame: bytes) -> None:
        if kind_of(frame) == "Wedged":
            directory = world.hosts[sender].disk.directory
            segments = (directory.durable(name, 0) for name in directory.names())
            if not any(WEDGE_RECORD + b"\x01" in data for data in segments):
                early.append(sender)

    world.observers.append(watch)
    arrive(world)
    assert not early
    world.finish()
