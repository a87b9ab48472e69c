"""The populations of a simulated world: closed and open loops, clients that come and die, workloads of any service."""

from __future__ import annotations

from random import Random

import pytest

from bftkit import Context, StateMachine
from bftkit.service.keyvalue import KeyValueStore
from bftkit.service.loading import ServiceError
from bftkit.sim.actors import per_second, quantile_us
from bftkit.sim.workloads import (
    NULL,
    Closed,
    EmptyLoad,
    Open,
    Population,
    ServiceLoad,
    application_of,
    service_class,
    workload_of,
)
from bftkit.sim.world import World


class Counter(StateMachine):
    """The service of the guide, with the two methods that the simulator asks for."""

    def __init__(self) -> None:
        self.value = 0

    def apply(self, operation: bytes, context: Context) -> bytes:
        if operation == b"?":
            return self.read(operation)
        self.value += int(operation)
        return str(self.value).encode()

    def read(self, operation: bytes) -> bytes:
        return str(self.value).encode()

    @staticmethod
    def sample_operation(random: Random) -> bytes:
        return str(random.randint(1, 9)).encode()

    @staticmethod
    def sample_read(random: Random) -> bytes:
        return b"?"


class Unsaid(StateMachine):
    """Does not say how its operations look."""

    def apply(self, operation: bytes, context: Context) -> bytes:
        return b""


class Misplaced(Unsaid):
    def sample_operation(self, random: Random) -> bytes:
        return b""


class Texts(Unsaid):
    @staticmethod
    def sample_operation(random: Random) -> str:
        return "1"


COUNTER = f"{__name__}:Counter"


@pytest.mark.parametrize(("protocol", "members"), [("pbft", 4), ("coordinator", 3)])
def test_a_service_of_a_third_party_takes_part_by_name(protocol: str, members: int) -> None:
    world = World(5, protocol, members, application=application_of(Counter), clients=3)
    world.workload = workload_of(Counter)
    world.load(90)
    world.run(300)
    world.crash("m1")
    world.run(400)
    world.finish()
    told = [actor.told for actor in world.actors.values()]
    assert sum(one.executed for one in told) > 50
    assert sum(one.reads for one in told) > 5
    assert sum(one.executed + one.reads for one in told) == 90
    assert len(world.recorder.acknowledgements) + len(world.recorder.strong_reads) == 90


def test_a_closed_loop_keeps_no_more_than_its_pipeline() -> None:
    world = World(1, clients=1)
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, len(world.actors["c0"].pending) + len(world.actors["c0"].reading))
        world.after(1, look)

    look()
    world.load(60, pipeline=3)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    assert most == 3


def test_an_open_loop_asks_at_its_rate_whatever_comes_back() -> None:
    world = World(2, clients=2)
    world.partition(world.members, list(world.actors))
    world.load(2000, per_second=100)
    world.run(1000)
    asked = [len(actor.pending) + len(actor.reading) for actor in world.actors.values()]
    assert all(85 <= count <= 115 for count in asked), asked
    assert sum(actor.told.executed for actor in world.actors.values()) == 0


def test_an_open_loop_keeps_a_bounded_number() -> None:
    world = World(2, clients=1)
    world.partition(world.members, list(world.actors))
    actor = world.actors["c0"]
    actor.ask_for(500, EmptyLoad("c0", 8), Open(1000, outstanding_max=40))
    world.run(2000)
    assert len(actor.pending) == 40
    assert actor.outstanding == 500


def test_latencies_are_measured_in_simulated_time() -> None:
    world = World(3, clients=2)
    world.load(80, pipeline=2)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    assert len(world.latencies) == sum(
        actor.told.executed + actor.told.failed + actor.told.reads for actor in world.actors.values()
    )
    assert quantile_us(world.latencies, 99) >= quantile_us(world.latencies, 50) >= 1000  # more than one link's delay
    first, last = world.latencies[0].answered_us, world.latencies[-1].answered_us
    assert per_second(world.latencies, first, last + 1) == pytest.approx(80_000_000 / (last + 1 - first))
    assert quantile_us([], 50) == 0


def test_the_latency_of_a_slow_network_is_that_of_its_links() -> None:
    figures: list[int] = []
    for ticks in (0, 400):
        world = World(4, clients=1)
        for member in world.members:
            world.slow(member, ticks)
        world.load(10, pipeline=1)
        world.run_until(lambda world=world: world.outstanding == 0, 60_000)  # type: ignore[misc]
        figures.append(quantile_us(world.latencies, 50))
    assert figures[1] > figures[0] + 400_000


def test_populations_come_later_and_are_killed() -> None:
    world = World(6, clients=0)
    load = workload_of(KeyValueStore, keys=3)
    Population(name="early", clients=2, operations=20, workload=load).enter(world)
    Population(name="late", operations=20, workload=load, rhythm=Closed(2), comes=500).enter(world)
    Population(name="doomed", operations=10_000, workload=load, rhythm=Open(500), comes=100, killed=400).enter(world)
    world.run(200)
    assert sorted(world.actors) == ["doomed.0", "early.0", "early.1"]
    world.run(1500)
    assert sorted(world.actors) == ["doomed.0", "early.0", "early.1", "late.0"]
    assert world.actors["doomed.0"].stopped
    assert 0 < world.actors["doomed.0"].told.executed < 10_000
    world.finish()
    assert [world.actors[name].told.executed + world.actors[name].told.reads for name in ("early.0", "late.0")] == [
        20,
        20,
    ]


def test_what_a_client_asks_for_depends_on_nothing_else() -> None:
    def operations(clients: int) -> dict[bytes, int]:
        world = World(7, clients=clients, application=application_of(Counter))
        world.workload = workload_of(Counter)
        world.load(30 * clients)
        if clients > 1:
            world.crash("m0")
            world.run(100)
        world.finish()
        public = world.actors["c0"].public
        return {name[1]: count for name, count in world.recorder.submitted.items() if name[0] == public}

    alone = operations(1)
    assert sum(alone.values()) == 30
    assert operations(4) == alone


def test_the_empty_load_costs_the_group_alone() -> None:
    world = World(8, application=application_of(NULL), clients=2)
    world.workload = workload_of(NULL)
    world.load(60)
    world.finish()
    assert sum(actor.told.executed for actor in world.actors.values()) == 60


def test_values_are_never_used_twice() -> None:
    load = workload_of(KeyValueStore)
    random = Random(1)
    seen = [load(client).next(random).operation for _ in range(100) for client in ("a", "b")]
    writes = [operation for operation in seen if operation[:1] in b"PC"]
    assert len(writes) == len(set(writes)) > 100


def test_a_service_that_says_nothing_is_told_what_to_add() -> None:
    with pytest.raises(ServiceError) as error:
        workload_of(Unsaid)
    assert "Unsaid has no sample_operation" in str(error.value)
    assert "    @staticmethod\n    def sample_operation(random: Random) -> bytes:\n" in str(error.value)
    with pytest.raises(ServiceError, match="as an ordinary method, and needs as a static one"):
        workload_of(Misplaced)
    with pytest.raises(ServiceError, match="sample_operation returned str, not bytes"):
        ServiceLoad(Texts).next(Random(1))


def test_what_cannot_be_loaded_is_named() -> None:
    assert service_class("bftkit.service.keyvalue:KeyValueStore") is KeyValueStore
    with pytest.raises(ServiceError, match=r"write package.module:Class"):
        service_class("bftkit.service.keyvalue")
    with pytest.raises(ServiceError, match=r"'no\.such\.place:Thing' cannot be loaded: No module named 'no'"):
        service_class("no.such.place:Thing")
    with pytest.raises(ServiceError, match="is no class but a function"):
        service_class("bftkit.service.keyvalue:get")
    with pytest.raises(ServiceError, match="has no apply"):
        application_of(Random)
