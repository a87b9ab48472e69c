"""Every checker of the simulated world fails when it is fed a broken run: a doctored record, service or member."""

from __future__ import annotations

import itertools
import random as chance
from collections.abc import Callable, Sequence

import attrs
import pytest

from bftkit import Context, StateMachine
from bftkit.channel.bundles import FAILED, OK
from bftkit.service.keyvalue import KeyValueStore
from bftkit.sim.bounds import Caps, healing_ticks, survey, view_timeout
from bftkit.sim.checkers import ORACLES, SUCCESS, Execution, Recorder, Violation, Watched
from bftkit.sim.host import Host
from bftkit.sim.witness import Held, check_order, leaves_of
from bftkit.sim.world import World

GROUP = b"g" * 32
CLIENT = b"c" * 32


class Counter(StateMachine):
    """Adds up, and fails on what is no number."""

    def __init__(self) -> None:
        self.value = 0

    def apply(self, operation: bytes, context: Context) -> bytes:
        self.value += int(operation)
        return str(self.value).encode()

    def read(self, operation: bytes) -> bytes:
        return str(self.value).encode()


def counted(slots: int, *, each: int = 2) -> Recorder:
    """What a group records that adds 1 again and again, so many times a slot."""
    recorder = Recorder()
    value = 0
    for slot in range(1, slots + 1):
        for index in range(each):
            value += 1
            recorder.submit(CLIENT, b"1")
            recorder.executed("m0", slot, index, Execution(CLIENT, b"1", slot, b"b"))
            recorder.answered("m0", slot, index, SUCCESS + str(value).encode())
        recorder.batch("m0", slot, b"b")
    return recorder


def found(recorder: Recorder) -> list[str]:
    return [finding.oracle for finding in recorder.violations]


# ------------------------------------------------------------------------------------------------ the recorder


def test_equal_operations_of_one_client_are_counted() -> None:
    recorder = counted(5)
    assert found(recorder) == []
    recorder.executed("m0", 6, 0, Execution(CLIENT, b"1", 6, b"b"))
    assert found(recorder) == ["exactly-once"]
    assert "submitted 10 times" in recorder.violations[0].text


@pytest.mark.parametrize("before", [True, False])
def test_what_was_refused_is_never_executed(before: bool) -> None:
    """Neither earlier nor later, and it makes no difference that equal operations were."""
    recorder = counted(5)
    recorder.submit(CLIENT, b"1")
    if not before:
        recorder.refused(CLIENT, b"1")
        assert found(recorder) == []
    recorder.executed("m0", 6, 0, Execution(CLIENT, b"1", 6, b"b"))
    if before:
        assert found(recorder) == []
        recorder.refused(CLIENT, b"1")
    assert found(recorder) == ["exactly-once"]


def test_an_acknowledgement_claims_a_place_with_its_result() -> None:
    recorder = counted(3)
    recorder.acknowledged(CLIENT, b"1", 2, OK, b"4")
    recorder.acknowledged(CLIENT, b"1", 2, OK, b"3")
    assert [told.place for told in recorder.acknowledgements] == [(2, 1), (2, 0)]
    assert found(recorder) == []
    recorder.acknowledged(CLIENT, b"1", 2, OK, b"3")  # both places of the slot are taken
    recorder.acknowledged(CLIENT, b"1", 3, OK, b"7")  # no such result
    recorder.acknowledged(CLIENT, b"1", 3, FAILED, b"6")  # nothing failed
    recorder.acknowledged(CLIENT, b"2", 3, OK, b"6")  # nobody ran that
    assert found(recorder) == ["durability"] * 4


def test_what_is_asked_later_stands_later() -> None:
    recorder = counted(3)
    recorder.acknowledged(CLIENT, b"1", 2, OK, b"3")
    assert recorder.acknowledged_up_to == 2
    recorder.acknowledged(CLIENT, b"1", 2, OK, b"4", floor=recorder.acknowledged_up_to)
    assert found(recorder) == ["linearizability"]


def test_what_nobody_sent_is_not_executed() -> None:
    recorder = Recorder()
    recorder.executed("m0", 1, 0, Execution(CLIENT, b"1", 1, b"b"))
    assert found(recorder) == ["integrity"]


def test_two_batches_two_places_two_results_two_roots() -> None:
    recorder = counted(1)
    recorder.batch("m1", 1, b"other")
    recorder.executed("m1", 1, 0, Execution(CLIENT, b"1", 999, b"b"))
    recorder.answered("m1", 1, 0, SUCCESS + b"2")
    recorder.root("m0", 1, b"r")
    recorder.root("m1", 1, b"s")
    assert found(recorder) == ["agreement"] * 3 + ["checkpoints"]


def test_time_and_places_do_not_run_back() -> None:
    recorder = Recorder()
    watched = Watched(Counter(), recorder, "m0")
    watched.apply(b"1", Context(GROUP, 2, 0, 50))
    watched.apply(b"1", Context(GROUP, 2, 1, 49))
    watched.apply(b"1", Context(GROUP, 2, 1, 50))
    assert found(recorder) == ["agreed-time", "exactly-once"]


def test_every_finding_has_an_oracle() -> None:
    with pytest.raises(AssertionError):
        Recorder().fail("no such oracle", "text")
    violation = Violation("first\nsecond", "durability")
    assert (violation.oracle, violation.short) == ("durability", "first")
    assert set(ORACLES) >= {"agreement", "durability", "progress", "bounded", "figure"}


# ------------------------------------------------------------------------------------------------ the witness


def held_by(slots: int, value: int) -> Held:
    machine = Counter()
    machine.value = value
    return Held("m1", slots, leaves_of(machine.snapshot()))


def test_the_agreed_order_explains_a_correct_run() -> None:
    recorder = counted(20)
    assert check_order(recorder, Counter, GROUP, [held_by(20, 40), attrs.evolve(held_by(7, 14), live=False)]) == 40
    assert found(recorder) == []


def test_failures_are_replayed_as_failures() -> None:
    recorder = counted(3)
    watched = Watched(Counter(), recorder, "m0")
    watched.inner.value = 6  # type: ignore[attr-defined]
    recorder.submit(CLIENT, b"one")
    point = watched.mark()
    with pytest.raises(ValueError, match="invalid literal"):
        watched.apply(b"one", Context(GROUP, 4, 0, 4, CLIENT, b"b"))
    watched.undo(point)
    for happened in watched.pending:
        happened()
    recorder.acknowledged(CLIENT, b"one", 4, FAILED, b"ValueError: invalid literal for int() with base 10: b'one'")
    check_order(recorder, Counter, GROUP, [held_by(4, 6)])
    assert found(recorder) == []
    assert recorder.undone == {(4, 0)}


def test_a_state_that_lacks_an_acknowledged_operation_is_found() -> None:
    recorder = counted(20)
    check_order(recorder, Counter, GROUP, [held_by(20, 39)])
    assert found(recorder) == ["durability"]
    assert "the state of m1 after slot 20" in recorder.violations[0].text


def test_a_live_member_that_stays_below_an_acknowledged_operation_is_found() -> None:
    recorder = counted(20)
    recorder.acknowledged(CLIENT, b"1", 20, OK, b"40")
    check_order(recorder, Counter, GROUP, [held_by(19, 38)])
    assert found(recorder) == ["durability"]
    assert "m1 ends at slot 19" in recorder.violations[0].text


def test_a_result_that_a_replay_does_not_give_is_found() -> None:
    recorder = counted(20)
    recorder.results[7, 1] = (SUCCESS + b"15", "m0")
    check_order(recorder, Counter, GROUP)
    assert found(recorder) == ["agreement"]
    assert "not deterministic: b'1' at (7, 1) gave b'15'" in recorder.violations[0].text


@pytest.mark.parametrize(
    ("answer", "floor", "ceiling", "fits"),
    [
        (b"0", 0, 0, True),
        (b"6", 3, 3, True),
        (b"6", 1, 5, True),
        (b"8", 1, 5, True),
        (b"4", 3, 5, False),
        (b"12", 1, 5, False),
        (b"7", 1, 5, False),
    ],
)
def test_a_strong_read_sees_a_state_of_its_time(answer: bytes, floor: int, ceiling: int, *, fits: bool) -> None:
    """SAFETY rule 13: not one before what was acknowledged, none that nobody had, none within a batch."""
    recorder = counted(20)
    recorder.executed_up_to = ceiling
    recorder.read(CLIENT, b"?", OK, answer, floor, 100, 200)
    check_order(recorder, Counter, GROUP)
    assert found(recorder) == ([] if fits else ["linearizability"])


def test_reads_never_go_back() -> None:
    recorder = counted(20)
    recorder.executed_up_to = 10
    recorder.read(CLIENT, b"?", OK, b"12", 2, 100, 200)
    recorder.read(CLIENT, b"?", OK, b"8", 2, 150, 300)  # at the same time as the first: may be older
    check_order(recorder, Counter, GROUP)
    assert found(recorder) == []
    recorder.read(CLIENT, b"?", OK, b"8", 2, 250, 400)  # after the first was answered
    check_order(recorder, Counter, GROUP)
    assert found(recorder) == ["linearizability"]


class Hidden(Counter):
    """Keeps something beside its snapshot."""

    _steps: dict[int, int] = {}  # noqa: RUF012

    def apply(self, operation: bytes, context: Context) -> bytes:
        steps = self._steps[id(self)] = self._steps.get(id(self), 0) + 1
        return b"%d" % steps

    def restore(self, chunks: Sequence[bytes]) -> None:
        super().restore(chunks)
        self._steps.pop(id(self), None)

    def snapshot(self):  # type: ignore[no-untyped-def]
        return super().snapshot()


def test_state_outside_the_snapshot_is_found() -> None:
    """No member has to restart for it: the replay goes through a snapshot by itself."""
    world = World(3, application=lambda member: Hidden(), clients=2)
    for actor in world.actors.values():
        for _ in range(20):
            actor.submit(b"1")
    with pytest.raises(Violation, match="keeps state outside its snapshot") as violation:
        world.finish()
    assert violation.value.oracle == "agreement"


class ByProcess(Counter):
    """Answers as the process is, and so the same at all members of this one."""

    step = itertools.count()

    def apply(self, operation: bytes, context: Context) -> bytes:
        return b"%d" % (self.value if self.steady else next(self.step))

    steady = True


def test_a_service_that_differs_in_another_process_is_found() -> None:
    world = World(4, application=lambda member: ByProcess())
    actor = world.actors["c0"]
    for _ in range(10):
        actor.submit(b"1")
    world.run(3_000)
    ByProcess.steady = False
    try:
        with pytest.raises(Violation, match="the service is not deterministic"):
            world.finish()
    finally:
        ByProcess.steady = True


class Lottery(Counter):
    """Draws numbers that members do not agree on."""

    def apply(self, operation: bytes, context: Context) -> bytes:
        return b"%d" % chance.randrange(1 << 60)


def test_a_service_that_draws_by_itself_is_found() -> None:
    world = World(5, application=lambda member: Lottery())
    world.actors["c0"].submit(b"1")
    with pytest.raises(Violation, match="the result at") as violation:
        world.finish()
    assert violation.value.oracle == "agreement"


class Forgetful(KeyValueStore):
    """Loses what it holds when it is restored."""

    def restore(self, chunks: Sequence[bytes]) -> None:
        super().restore(chunks[:0])


def test_a_member_whose_state_is_not_what_the_order_gives_is_found() -> None:
    world = World(6)
    world.load(30)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    watched = world.hosts["m2"].watched
    assert watched is not None
    store = KeyValueStore()
    watched.inner = store
    with pytest.raises(Violation) as violation:
        world.finish()
    assert violation.value.oracle in ("agreement", "durability", "halting")


def test_many_operations_are_checked_in_one_pass(record_property: Callable[[str, object], None]) -> None:
    """Not a bound on time, but a line for whoever wants the figure: ``pytest --junit-xml`` has it."""
    from time import process_time

    recorder = counted(1500, each=4)
    for number in range(1500):
        recorder.executed_up_to = number + 3
        recorder.read(CLIENT, b"?", OK, b"%d" % (4 * (number + 1)), number, 3 * number, 3 * number + 1)
    began = process_time()
    assert check_order(recorder, Counter, GROUP) == 6000
    record_property("microseconds an operation", round((process_time() - began) / 7500 * 1e6, 1))
    assert found(recorder) == []


# ------------------------------------------------------------------------------------------------ bounds


class Leaky:
    """Stands around a machine and never forgets."""

    def __init__(self) -> None:
        self.told: dict[int, list[bytes]] = {}


def test_a_table_that_is_never_emptied_is_found() -> None:
    world = World(7, interval=2, window=8)
    leak = Leaky()
    watch = world.replica("m1").watch
    watch.leak = leak  # type: ignore[attr-defined]
    world.load(40)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    table = Caps.of(world.hosts["m1"].settings, world.segment_bytes).table
    leak.told.update({slot: [b"vote"] for slot in range(table)})
    world.bounds.check(world.hosts["m1"])
    assert found(world.recorder) == []
    leak.told[table] = []
    with pytest.raises(Violation, match=r"bounded: m1: watch.leak.told has \d+ entries") as violation:
        world.finish()
    assert violation.value.oracle == "bounded"


def doctor_pool(world: World) -> None:
    world.replica("m1").pool.size = 1 << 30


def doctor_client(world: World) -> None:
    world.replica("m1").pool.client_sizes[CLIENT] = 1 << 25


def doctor_history(world: World) -> None:
    world.replica("m1").history.update(dict.fromkeys(range(10_000, 11_000), b""))


def doctor_store(world: World) -> None:
    world.replica("m1").batches.stored_bytes = 1 << 40


def doctor_replies(world: World) -> None:
    world.replica("m1").state.sessions.reply_bytes = -1


@pytest.mark.parametrize("doctor", [doctor_pool, doctor_client, doctor_history, doctor_store, doctor_replies])
def test_what_the_settings_promise_is_compared(doctor: Callable[[World], None]) -> None:
    world = World(8)
    world.load(20)
    world.run_until(lambda: world.outstanding == 0, 20_000)
    world.bounds.check(world.hosts["m1"])
    assert found(world.recorder) == []
    doctor(world)
    world.bounds.check(world.hosts["m1"])
    assert "bounded" in found(world.recorder)
    world.exempt("m1")
    world.recorder.violations.clear()
    world.bounds.check(world.hosts["m1"])
    assert found(world.recorder) == []


def test_the_walker_finds_the_largest_of_each_kind() -> None:
    @attrs.define
    class Slot:
        votes: dict[str, bytes]

    slots = {1: Slot({"a": b"12"}), 2: Slot({"a": b"1", "b": b"2", "c": b"3"})}
    root = {"slots": slots, "again": slots, "skipped": Leaky()}
    sizes = survey({"root": root}, skip=(Leaky,)).sizes
    assert sizes["root"] == 3
    assert sizes["root[]"] == 2
    assert sizes["root[][].votes"] == 3
    assert not any("told" in path for path in sizes)


# ------------------------------------------------------------------------------------------------ progress


def test_an_operation_that_waits_for_too_long_after_healing_is_found() -> None:
    world = World(9, parameters={"view_timeout": 300})
    assert view_timeout(world.hosts["m0"]) == 300
    limit = healing_ticks(world)
    assert 3000 < limit < 3000 + 5000
    world.load(10)
    world.finish()
    world.load(4)
    world.run(60)
    for host in world.hosts.values():
        host.arrive = lambda peer, packet, frame: None  # type: ignore[method-assign]
    with pytest.raises(Violation, match="longer than 10 view timeouts") as violation:
        world.finish()
    assert violation.value.oracle == "progress"


def test_the_timeout_that_counts_is_the_one_in_force() -> None:
    world = World(10)
    before = healing_ticks(world)
    world.crash("m2", "m3")
    world.load(3)
    world.run(20_000)
    assert healing_ticks(world) >= before + 10_000


class AnswersBeforeSync(Host):
    """Breaks SAFETY rule 5 after a while: frames leave before the records are on the disk."""

    def must_sync(self, gated: bool) -> bool:
        return gated and self.world.now < 150


def test_an_answer_before_the_sync_is_found() -> None:
    oracles: set[str] = set()
    for seed in range(6):
        world = World(seed, host=AnswersBeforeSync, clients=2, interval=64, window=128)
        try:
            world.load(60)
            world.run(400)
            world.power_cut()
            world.run(50)
            world.restart(*world.members)
            world.load(20)
            world.finish(max_ticks=20_000)
        except Violation as violation:
            oracles.add(violation.oracle)
    assert oracles & {"agreement", "durability", "exactly-once", "linearizability"}, oracles
