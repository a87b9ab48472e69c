"""The contract of all ordering protocols, as checks that anybody can run on a plug-in.

The four promises: **total order and agreement** (one digest a slot, slots in order, no gap), **validity** (only what
was submitted), **integrity** (each slot once), **termination** (what was submitted is decided, under the faults that
the protocol's record claims to survive). `OrderingWorld` watches the first three in every run; the checks here make
the runs: loss, duplication, reordering, partitions, crashes that lose whatever was not synced, power cuts, liars, a
stop with a fresh instance after it. Some look at one duty of a plug-in alone: that a restart contradicts no vote, that
a fork is independent, that state stays bounded, that `carry` loses nothing.

For a package with an entry point in ``bftkit.protocols``, a whole test module is::

    import pytest
    from bftkit.core.plugin import BrokenProtocol, UnknownProtocol, load_protocol
    from bftkit.sim import contract

    @pytest.mark.parametrize("case", contract.cases(load_protocol("mine")), ids=str)
    def test_contract(case: contract.Case) -> None:
        contract.run(case)

A failure prints the command that runs it again with a full trace::

    python -m bftkit.sim.contract mine power_cut 4,1,0 17
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import MemberId, Out
from bftkit.core.plugin import BrokenProtocol, UnknownProtocol, load_protocol
from bftkit.core.state import fingerprint
from bftkit.core.wire import WireError
from bftkit.sim.contract_case import (
    CHECKS,
    PATIENCE,
    SLOW_DISK,
    TRACING,
    Case,
    Check,
    Honest,
    Liar,
    Shape,
    cases,
    check,
    leader_of,
    mend,
    run,
    settle,
    shapes,
    some,
    votes,
    watch_votes,
    weight,
)
from bftkit.sim.ordering.world import Disk, Network

__all__ = [
    "CHECKS",
    "PATIENCE",
    "Case",
    "Check",
    "Liar",
    "Shape",
    "cases",
    "check",
    "leader_of",
    "main",
    "mend",
    "run",
    "settle",
    "shapes",
    "votes",
    "watch_votes",
    "weight",
]

# ------------------------------------------------------------------------------------------------- no faults


@check
def fault_free(case: Case) -> None:
    """Everything is decided, each batch once."""
    world = case.world()
    batches = world.submit(100)
    settle(world)
    decided = Counter(digest for digest in world.delivered(world.members[0]) if digest != NO_DIGEST)
    assert sorted(decided) == sorted(batches), world.failure("integrity: not each batch")
    assert decided <= world.proposals, world.failure("integrity: a batch more often than it was proposed")
    if world.machine(world.members[0]).leader is not None:
        assert decided.total() == len(batches), world.failure("integrity: not each batch once")
    assert not world.refused
    assert not world.blames


@check
def idle(case: Case) -> None:
    """An idle group decides nothing, changes no leader, and is there when it is needed."""
    world = case.world()
    world.run(30_000)
    assert not world.chosen, world.failure("validity: decided what nobody submitted")
    changes = len(world.leaders)
    world.submit(1)
    settle(world)
    assert len(world.leaders) == changes, world.failure("an idle group changed its leader")


@check
def one_member_knows(case: Case) -> None:
    """A batch that reached one member only is decided (its client asks the others in time)."""
    world = case.world()
    for name in world.members:
        world.submit(5, at=[name])
        world.run(50)
    settle(world)


# ------------------------------------------------------------------------------------------------- the network


@check
def loss(case: Case) -> None:
    """FAULTS 1: 30 % of all messages are lost; the protocol repeats what is needed by itself."""
    world = case.world(network=Network(loss=0.3), learned_after=None)
    world.submit(60)
    world.run(1_000)
    world.submit(20)
    settle(world)


@check
def duplication_and_reordering(case: Case) -> None:
    """FAULTS 2 and 3: half of all messages come twice, half of them up to twenty times as late."""
    world = case.world(network=Network(delay_max=20, duplication=0.5, straggling=0.5), learned_after=None)
    world.submit(80)
    settle(world)


@check
def partition(case: Case) -> None:
    """FAULTS 4 and 5: the group falls apart again and again, one-way cuts among it, and heals."""
    random = case.random()
    world = case.world()
    for _ in range(4):
        world.submit(10)
        world.run(random.randint(1, 60))
        if random.random() < 0.7:
            inside = some(random, world.members, len(world.members) - 1)
            world.partition(inside, [name for name in world.members if name not in inside])
        else:
            for _ in range(random.randint(1, 2 * len(world.members))):
                world.block(*random.sample(world.members, 2))
        world.submit(10)
        world.run(random.randint(1, 4_000))
        world.heal()
    settle(world)


@check
def minority_is_silent(case: Case) -> None:
    """FAULTS 4: so few that they all may be lost decide nothing on their own."""
    world = case.world()
    world.submit(5)
    world.run(2_000)
    decided = len(world.chosen)
    few = [leader_of(world), *world.members][: world.quorum.durable - 1] or [world.members[0]]
    if world.quorum.durable == 1:
        return  # nothing is to be survived: then one member is no minority
    heights = {name: world.height(name) for name in few}
    world.partition(few, [])
    world.submit(10)
    world.run(10_000)
    assert {name: world.height(name) for name in few} == heights, world.failure("a minority decided")
    assert len(world.chosen) == decided
    world.heal()
    settle(world)


# ------------------------------------------------------------------------------------------------- crashes


@check
def follower_crash(case: Case) -> None:
    """Up to f + c members other than the leader are away; the group goes on, and they catch up."""
    random = case.random()
    world = case.world(disk=SLOW_DISK)
    world.submit(20)
    world.run(random.randint(0, 200))
    leader = leader_of(world)
    away = some(random, [name for name in world.members if name != leader], world.quorum.faulty)
    world.crash(*away)
    world.submit(60)
    if case.claims("follower-crash"):
        world.run_until(world.all_delivered, PATIENCE)
    world.restart(*away)
    settle(world)


@check
def leader_crash(case: Case) -> None:
    """The leader stays away. If the protocol claims to survive that, the others go on without it."""
    random = case.random()
    world = case.world(disk=SLOW_DISK)
    watch_votes(world)
    for _ in range(2):
        world.submit(15)
        world.run(random.randint(0, 300))
        leader = leader_of(world)
        world.crash(leader)
        if case.claims("leader-crash"):
            world.run_until(world.all_delivered, PATIENCE)
        else:
            world.run(5_000)
        world.restart(leader)
    settle(world)


@check
def leader_restart(case: Case) -> None:
    """The leader crashes and comes back, again and again, in the middle of its work."""
    random = case.random()
    world = case.world(disk=SLOW_DISK, network=Network(loss=0.1))
    watch_votes(world)
    for _ in range(6):
        world.submit(8)
        world.run(random.randint(1, 120))
        leader = leader_of(world)
        world.crash(leader)
        world.run(random.randint(0, 300))
        world.restart(leader)
    settle(world)


@check
def power_cut(case: Case) -> None:
    """All members lose their memory, and everything unsynced, at once; nothing that was decided changes."""
    random = case.random()
    world = case.world(disk=SLOW_DISK)
    seen = watch_votes(world)
    for _ in range(8):
        world.submit(6)
        world.run(random.randint(1, 150))
        world.crash(*world.members)
        world.restart(*world.members)
    settle(world)
    assert seen, "no message of this protocol names slot and digest: teach `votes` about it"


@check
def restarts_contradict_no_vote(case: Case) -> None:
    """Any members crash at any moment, on disks that lose much, under loss: no vote is ever taken back."""
    random = case.random()
    world = case.world(disk=Disk(0, 80), network=Network(loss=0.1, straggling=0.1))
    watch_votes(world)
    for _ in range(20):
        world.submit(2)
        world.run(random.randint(1, 90))
        away = some(random, world.members, len(world.members))
        world.crash(*away)
        world.run(random.randint(0, 120))
        world.restart(*away)
    settle(world)


@check
def paused(case: Case) -> None:
    """Members' processes stand still for a while and then find a heap of old messages."""
    random = case.random()
    world = case.world()
    for _ in range(5):
        world.submit(10)
        world.run(random.randint(1, 80))
        asleep = some(random, world.members, len(world.members))
        world.pause(*asleep)
        world.run(random.randint(1, 3_000))
        world.resume(*asleep)
    settle(world)


@check
def laggard(case: Case) -> None:
    """A member that was away for many checkpoints comes back by a state transfer, and counts again."""
    random = case.random()
    world = case.world()
    leader = leader_of(world)
    lost, *others = random.sample([name for name in world.members if name != leader], len(world.members) - 1)
    world.partition([lost], [name for name in world.members if name != lost])
    for _ in range(5):
        world.submit(20)
        world.run(3_000)
    world.heal()
    world.run(3_000)
    settle(world)
    if world.quorum.faulty and case.claims("follower-crash"):
        world.crash(*others[: world.quorum.faulty])  # now the one that lagged is needed
        world.submit(20)
        world.run_until(world.all_delivered, PATIENCE)


@check
def learned(case: Case) -> None:
    """The channel tells laggards what was decided (SAFETY rule 17), and the protocol takes it."""
    random = case.random()
    world = case.world(network=Network(loss=0.4), learned_after=20)
    for _ in range(6):
        world.submit(10)
        world.block(*random.sample(world.members, 2))
        world.run(random.randint(1, 1_000))
    world.heal()
    settle(world)


@check
def chaos(case: Case) -> None:
    """Everything at once."""
    random = case.random()
    world = case.world(
        network=Network(delay_max=15, loss=0.1, duplication=0.1, straggling=0.1),
        disk=Disk(0, 30, keep_some=random.random() < 0.5),
    )
    watch_votes(world)
    for _ in range(40):
        match random.randrange(8):
            case 0 | 1:
                world.submit(random.randint(1, 8), at=some(random, world.members, len(world.members)))
            case 2:
                up = world.up()
                if up:
                    world.crash(*some(random, up, len(up)))
            case 3 | 4:
                down = [name for name in world.members if name not in world.up()]
                world.restart(*(some(random, down, len(down)) if down else []))
            case 5:
                inside = some(random, world.members, len(world.members))
                world.partition(inside, [name for name in world.members if name not in inside])
            case 6:
                world.heal()
            case _:
                world.block(*random.sample(world.members, 2))
        world.run(random.randint(0, 250))
    mend(world)
    settle(world)


# ------------------------------------------------------------------------------------------------- liars


@check
def liars(case: Case) -> None:
    """Up to f members garble, repeat and withhold, the first leader among them."""
    if not case.shape.f or not case.claims("liar"):
        return
    random = case.random()
    members = [f"m{index}" for index in range(case.shape.n)]
    chosen = members[: case.shape.f] if random.random() < 0.7 else random.sample(members, case.shape.f)
    world = case.world(adversaries={name: Liar(case.plugin, random, members) for name in chosen})
    for _ in range(4):
        world.submit(10)
        world.run(random.randint(1, 1_000))
    settle(world)


@check
def twins(case: Case) -> None:
    """FAULTS 20: f members, the first leader among them, run twice and tell two stories."""
    if not case.shape.f or not case.claims("liar"):
        return
    random = case.random()
    members = [f"m{index}" for index in range(case.shape.n)]
    first = some(random, members[case.shape.f :], case.shape.n - case.shape.f - 1)
    second = [name for name in members if name not in first] + some(random, first, len(first))
    sides = ([*members[: case.shape.f], *first], second)
    world = case.world(twins=dict.fromkeys(members[: case.shape.f], sides), network=Network(loss=0.05))
    watch_votes(world)
    for _ in range(4):
        world.submit(10)
        world.run(random.randint(1, 1_500))
    settle(world)


@check
def inauthentic(case: Case) -> None:
    """A lying leader proposes a batch with a forged request: it is never decided, and the rest goes on (FAULTS 30)."""
    if not case.shape.f or not case.claims("liar"):
        return
    world = case.world(adversaries={"m0": Honest()})
    world.submit(10)
    (forged,) = world.submit(1, at=["m0"], authentic=False)
    world.submit(10)
    settle(world)
    assert forged not in world.chosen.values()


# ------------------------------------------------------------------------------------------------- epochs


@check
def stop_and_successor(case: Case) -> None:
    """SAFETY rule 23: the boundary is reached and not passed, and a fresh instance goes on from it."""
    random = case.random()
    network = Network(loss=0.1, straggling=0.1)
    world = case.world(network=network, disk=SLOW_DISK)
    trigger = random.randint(1, 30)
    boundary = (trigger // world.interval + 1) * world.interval
    world.stop(trigger, boundary)
    world.submit(trigger)
    away = some(random, world.members, world.quorum.faulty or 1)
    world.run(random.randint(1, 300))
    world.crash(*away)
    world.run(random.randint(1, 300))
    world.restart(*away)
    world.run_until(world.all_stopped, PATIENCE)
    world.run(5_000)
    assert max(world.chosen) == boundary, world.failure("the boundary was passed")
    for name in world.members:
        assert world.machine(name).room == 0, world.failure(f"{name} would still take proposals")

    successor = case.world(network=network, disk=SLOW_DISK, start=boundary)
    successor.submit(30)
    settle(successor)
    assert min(successor.chosen) == boundary + 1


@check
def histories_lose_nothing(case: Case) -> None:
    """SAFETY rules 22 and 29: whichever n - f - c members report, every delivered slot is carried over.

    The machines are gone and only their disks are asked. Up to f reporters leave out whatever can be left out.
    """
    random = case.random()
    world = case.world(disk=Disk(0, 60), network=Network(loss=0.1))
    plugin, quorum = case.plugin, world.quorum
    for _ in range(random.randint(1, 12)):
        world.submit(2)
        world.run(random.randint(1, 80))
        if random.random() < 0.3:
            leader = leader_of(world)
            world.crash(leader)
            world.run(random.randint(0, 6_000))
            world.restart(leader)
    if random.random() < 0.3:
        settle(world)  # then the newest slot of all is a delivered one
    world.crash(*world.members)
    judge = world.setup(world.members[0])
    honest: dict[MemberId, bytes] = {}
    empty: dict[MemberId, bytes] = {}
    for name in world.members:
        honest[name] = plugin.history(world.setup(name), world.stable_of(name), world.records(name))
        empty[name] = plugin.history(world.setup(name), world.stable_of(name), [])
        for other in world.members:
            assert plugin.check_history(world.setup(other), name, world.stable_of(name), honest[name]), world.failure(
                f"{other} refuses the history of {name}, which is correct"
            )
    for reporters in combinations(world.members, quorum.available):
        lying = set(random.sample(reporters, quorum.f))
        reports = {name: empty[name] if name in lying else honest[name] for name in reporters}
        stable = max(world.stable_of(name) for name in reporters)
        carried = plugin.carry(judge, stable, reports)
        again = plugin.carry(world.setup(world.members[-1]), stable, dict(reversed(reports.items())))
        assert carried == again, world.failure("two members computed two continuations")
        assert [slot for slot, _ in carried.slots] == list(range(stable + 1, stable + 1 + len(carried.slots)))
        slots = dict(carried.slots)
        for slot, digest in sorted(world.chosen.items()):
            assert slot <= stable or slots.get(slot) == digest, world.failure(
                f"slot {slot}, which was delivered, is lost by {reporters}"
            )


@check
def garbage_histories(case: Case) -> None:
    """A reported history may be anything: it is refused, or harmless, and never raises."""
    random = case.random()
    world = case.world()
    world.submit(6)
    settle(world)
    reported = case.plugin.history(world.setup("m0"), world.stable_of("m0"), world.records("m0"))
    for _ in range(200):
        garbled = bytearray(reported or random.randbytes(8))
        for _ in range(random.randint(1, 3)):
            garbled[random.randrange(len(garbled))] = random.randrange(256)
        data = bytes(garbled)[: random.randint(0, len(garbled))] if random.random() < 0.3 else bytes(garbled)
        verdict = case.plugin.check_history(world.setup("m1"), "m0", world.stable_of("m0"), data)
        assert verdict in (True, False)
    if reported:  # where nothing at all is a history, it is a good one
        assert not case.plugin.check_history(world.setup("m1"), "m0", world.stable_of("m0"), b"")


# ------------------------------------------------------------------------------------------------- machines


@check
def same_seed_same_run(case: Case) -> None:
    """Every input, effect and byte is the same in two runs of one seed."""

    def trace() -> str:
        random = case.random()
        world = case.world(network=Network(loss=0.1, duplication=0.1, straggling=0.1), disk=SLOW_DISK, trace=True)
        for _ in range(4):
            world.submit(8)
            world.run(random.randint(1, 200))
            away = some(random, world.members, len(world.members))
            world.crash(*away)
            world.restart(*away)
        settle(world)
        assert world.trace is not None
        return world.trace.text()

    assert trace() == trace()


@check
def forks_are_equal_and_independent(case: Case) -> None:
    """A fork answers every message as the original does, and neither sees the other's steps."""
    world = case.world(network=Network(loss=0.1, straggling=0.2))
    heard: list[tuple[MemberId, Any]] = []
    world.observers.append(lambda sender, message: heard.append((sender, message)))
    compared = 0
    for _ in range(12):
        world.submit(3)
        world.run(25)
        for name in world.members:
            machine = world.machine(name)
            before = machine.fingerprint()
            assert fingerprint(machine) == before
            for sender, message in heard[-8:]:
                if sender == name:
                    continue
                one, two = machine.fork(), machine.fork()
                assert one.fingerprint() == before, world.failure(f"a fork of {name} differs from it")
                first: Out[Any, Any] = Out()
                second: Out[Any, Any] = Out()
                one.on_message(sender, message, first)
                assert two.fingerprint() == before, world.failure(f"a step of one fork of {name} is seen by another")
                two.on_message(sender, message, second)
                assert first.effects == second.effects
                assert one.fingerprint() == two.fingerprint()
                assert machine.fingerprint() == before, world.failure(f"a step of a fork of {name} is seen by it")
                compared += first.effects != []
    assert compared, "no message had an effect: this check saw nothing"
    settle(world)


@check
def state_is_bounded(case: Case) -> None:
    """Neither the machine nor its records grow with the number of slots (SAFETY rule 18)."""
    world = case.world()

    def measure() -> tuple[int, int]:
        """The largest machine and the largest disk, at rest."""
        settle(world)
        world.run(2_000)
        machines = max(weight(world.machine(name)) for name in world.members)
        return machines, max(len(world.records(name)) for name in world.members)

    measured: list[tuple[int, int]] = []
    for _ in range(30):
        world.submit(world.interval * 3)
        measured.append(measure())
    slots = 20 * world.interval * 3
    for kind, sizes in zip(("machine", "records"), zip(*measured, strict=True), strict=True):
        before, after = max(sizes[:10]), max(sizes[20:])
        # Where a run happens to rest makes a difference; one value left behind for each slot makes a larger one.
        assert after - before < slots // 3, world.failure(f"{kind} grew from {before} to {after} in {slots} slots")


@check
def strange_bytes(case: Case) -> None:
    """FAULTS 10: bytes that are no message are refused by the codec, and what it accepts it also writes so."""
    random = case.random()
    world = case.world(network=Network(loss=0.05))
    seen: set[bytes] = set()
    codec = case.plugin.codec
    world.observers.append(lambda _, message: seen.add(codec.encode(message)))
    world.submit(20)
    settle(world)
    samples = sorted(seen)
    for _ in range(2_000):
        data = bytearray(random.choice(samples))
        for _ in range(random.randint(1, 4)):
            data[random.randrange(len(data))] = random.randrange(256)
        try:
            message = codec.decode(bytes(data))
        except WireError:
            continue
        assert codec.encode(message) == data, "two encodings of one message"


# ------------------------------------------------------------------------------------------------- command


def main(arguments: Sequence[str]) -> int:
    """``python -m bftkit.sim.contract PROTOCOL CHECK N,F,C SEED``: one run, with its trace if it fails."""
    if len(arguments) != 4 or arguments[1] not in CHECKS:
        sys.stderr.write(
            f"usage: python -m bftkit.sim.contract PROTOCOL CHECK N,F,C SEED\nchecks: {', '.join(CHECKS)}\n"
        )
        return 2
    protocol, name, shape, seed = arguments
    try:
        plugin = load_protocol(protocol)
        n, f, c = map(int, shape.split(","))
        number = int(seed)
    except (UnknownProtocol, BrokenProtocol, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    record = plugin.record
    if (f and not record.byzantine) or n < record.members_needed(f, c):
        least = f"{record.members_needed(f, c)} members" if record.byzantine or not f else "f = 0"
        sys.stderr.write(f"{protocol} cannot be asked to survive n = {n}, f = {f}, c = {c}: it needs {least}\n")
        return 2
    tracing, TRACING[0] = TRACING[0], True
    try:
        run(Case(plugin, name, Shape(n, f, c), number))
    except AssertionError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    finally:
        TRACING[0] = tracing
    sys.stdout.write("holds\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
