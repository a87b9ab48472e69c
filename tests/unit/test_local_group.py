"""A whole group in one process: crashes cut the power, restarts read the disk, and the service goes on."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
import pytest
import trio

from bftkit.channel.application import Context
from bftkit.client import OperationFailed, OutcomeUnknown
from bftkit.client.local import LocalGroup, local_group, local_group_sync
from bftkit.configuration.text import ConfigurationError
from bftkit.node.succession import TIDY_SECONDS
from bftkit.service import ServiceError, StateMachine
from bftkit.service.keyvalue import KeyValueStore, get, parse_value, put

TIMEOUT = 60.0
FAST = {"view_timeout": 100, "status_interval": 20}


class Counter(StateMachine):
    def __init__(self) -> None:
        self.value = 0

    def apply(self, operation: bytes, context: Context) -> bytes:
        self.value += int(operation)
        if self.value < 0:
            raise ValueError("below zero")
        return str(self.value).encode()

    def read(self, operation: bytes) -> bytes:
        return str(self.value).encode()


class Different(Counter):
    """Not deterministic: every copy has its own idea."""

    made = 0

    def apply(self, operation: bytes, context: Context) -> bytes:
        self.value += id(self)
        return b""


def values(group: LocalGroup) -> list[int]:
    found: list[int] = []
    for member in group.running:
        application = group.application(member)
        assert isinstance(application, Counter)
        found.append(application.value)
    return found


@pytest.mark.parametrize(("protocol", "members"), [("pbft", 4), ("coordinator", 3)])
async def test_a_group_counts(protocol: str, members: int) -> None:
    async with local_group(Counter, members=members, protocol=protocol) as group:
        client = await group.client()
        assert await client.submit(b"5", timeout=TIMEOUT) == b"5"
        with pytest.raises(OperationFailed, match="below zero"):
            await client.submit(b"-7", timeout=TIMEOUT)
        other = await group.client()
        assert await other.read(b"", timeout=TIMEOUT) == b"5"
        assert await other.submit(b"1", timeout=TIMEOUT) == b"6"
        await group.in_step(TIMEOUT)
        assert values(group) == [6] * members


async def test_a_pbft_group_loses_its_leader_and_goes_on() -> None:
    async with local_group(Counter, members=4, protocol="pbft", parameters=FAST) as group:
        client = await group.client()
        assert await client.submit(b"1", timeout=TIMEOUT) == b"1"
        leader = group.leader
        assert leader is not None
        await group.crash(leader)
        assert group.running == tuple(member for member in group.members if member != leader)
        assert await client.submit(b"1", timeout=TIMEOUT) == b"2"
        # Who led when it was decided is another; on a busy machine the members may have lost patience again since.
        assert await group.until(lambda: group.leader != leader, TIMEOUT)
        await group.restart(leader)
        assert await client.submit(b"1", timeout=TIMEOUT) == b"3"
        await group.in_step(TIMEOUT)
        assert values(group) == [3] * 4


@pytest.mark.parametrize(("protocol", "members"), [("pbft", 4), ("coordinator", 3)])
async def test_a_power_cut_of_all_members_loses_nothing(protocol: str, members: int) -> None:
    """Restarts are real: with disks that forget, the group would be silent for ever."""
    async with local_group(Counter, members=members, protocol=protocol, checkpoint_interval=4) as group:
        client = await group.client()
        for number in range(1, 11):
            assert await client.submit(b"1", timeout=TIMEOUT) == b"%d" % number
        for member in group.members:
            await group.crash(member)
        assert group.running == ()
        assert group.leader is None
        for member in group.members:
            await group.restart(member)
        assert await client.submit(b"1", timeout=TIMEOUT) == b"11"
        await group.in_step(TIMEOUT)
        assert values(group) == [11] * members
        assert not any(group.node(member).replica.silent for member in group.members)


async def test_a_crash_forgets_what_was_not_synced() -> None:
    async with local_group(Counter) as group:
        disk, log = group.disk("m0"), group.node("m0").log

        def is_there() -> bool:
            return any(b"not yet synced" in disk.read(name) for name in disk.names())

        log.append(b"not yet synced", 1)
        log.flush()
        assert is_there()
        await group.crash("m0")
        assert not is_there()


async def test_a_member_that_was_away_for_long_is_brought_up_to_date() -> None:
    async with local_group(KeyValueStore, checkpoint_interval=4) as group:
        client = await group.client()
        await client.submit(put(b"k", b"v"), timeout=TIMEOUT)
        await group.crash("m3")
        for number in range(40):
            await client.submit(put(b"k%d" % number, b"v"), timeout=TIMEOUT)
        await group.restart("m3")
        await group.in_step(TIMEOUT)
        application = group.application("m3")
        assert parse_value(application.read(get(b"k39"))) == b"v"


async def test_states_that_differ_are_told() -> None:
    async with local_group(Different) as group:
        client = await group.client()
        await client.submit(b"1", timeout=TIMEOUT)
        with pytest.raises(AssertionError, match=r"states differ: m0 at slot \d+: [0-9a-f]{8}, m1"):
            await group.in_step(TIMEOUT)


async def test_members_that_cannot_come_together_are_told() -> None:
    async with local_group(Counter) as group:
        for member in ("m2", "m3"):
            await group.crash(member)
        group.node("m0").replica.state.applied += 1
        with pytest.raises(TimeoutError, match="not in step: m0 at slot 1"):
            await group.in_step(0.0)
        group.node("m0").replica.state.applied -= 1


async def test_whoever_waits_for_a_member_goes_on_with_its_round_and_sleeps_for_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Waiting is woken by members' rounds, by a restart and by a crash; nothing in a group asks every few ms."""
    async with local_group(Counter, members=3, protocol="paxos", checkpoint_interval=8) as group:
        client = await group.client()
        slept: list[float] = []
        sleep = trio.sleep

        async def noted(seconds: float) -> None:
            slept.append(seconds)
            await sleep(seconds)

        monkeypatch.setattr(trio, "sleep", noted)
        assert await group.until(lambda: group.leader, TIMEOUT) in group.members
        assert await client.submit(b"1", timeout=TIMEOUT) == b"1"
        await group.in_step(TIMEOUT)
        assert (await group.switch("coordinator", timeout=TIMEOUT)).epoch == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.crash, "m2")
            assert await group.until(lambda: group.running == ("m0", "m1"), TIMEOUT)
            nursery.start_soon(group.restart, "m2")
            assert await group.until(lambda: "m2" in group.running, TIMEOUT)
        with pytest.raises(TimeoutError, match=r"after 0\.0 s it does not hold"):
            await group.until(lambda: False, 0.0)
        with pytest.raises(ZeroDivisionError):
            await group.until(lambda: 1 / 0)
        assert set(slept) <= {TIDY_SECONDS}, "members sleep so before they put their epochs in order"


async def test_a_command_that_members_refuse_is_told_with_their_reason() -> None:
    async with local_group(Counter, members=3, protocol="paxos") as group:
        signed = group.command(group.change(checkpoint_interval=16))
        forged = attrs.evolve(signed, signatures=(attrs.evolve(signed.signatures[0], signature=bytes(64)),))
        with pytest.raises(ValueError, match="sign"):
            await group.carry_out(forged, TIMEOUT)


async def test_mistakes_are_told() -> None:
    async with local_group(Counter) as group:
        with pytest.raises(ValueError, match="m1 runs already"):
            await group.restart("m1")
        with pytest.raises(KeyError):
            await group.crash("m9")
        await group.crash("m1")
        for ask in (group.node, group.application):
            with pytest.raises(ValueError, match="m1 is crashed"):
                ask("m1")
        with pytest.raises(ValueError, match="m1 is crashed"):
            await group.crash("m1")


@pytest.mark.parametrize(
    ("service", "options", "error"),
    [
        (5, {}, ServiceError),
        (lambda: 1 / 0, {}, ServiceError),
        (Counter, {"parameters": {"no_such": 1}}, ConfigurationError),
    ],
)
async def test_what_cannot_run_is_refused(service: object, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        async with local_group(service, **options):
            pytest.fail("it runs")


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with local_group(Counter):
            raise LookupError("mine")


def test_a_synchronous_caller_has_a_group_too() -> None:
    with local_group_sync(Counter, parameters=FAST) as group:
        client = group.client()
        assert client.submit(b"2", timeout=TIMEOUT) == b"2"
        leader = group.leader
        assert leader is not None
        group.crash(leader)
        assert client.submit(b"2", timeout=TIMEOUT) == b"4"
        group.restart(leader)
        assert client.read(b"", timeout=TIMEOUT) == b"4"
        group.in_step(TIMEOUT)


def test_a_group_changes_for_a_synchronous_caller() -> None:
    with local_group_sync(Counter, members=3, protocol="paxos", checkpoint_interval=8) as group:
        client = group.client()
        assert client.submit(b"2", timeout=TIMEOUT) == b"2"
        group.add_spare("m3")
        configuration = group.switch("pbft", members=("m0", "m1", "m2", "m3"))
        assert (configuration.protocol, configuration.f, len(configuration.members)) == ("pbft", 1, 4)
        assert client.submit(b"2", timeout=TIMEOUT) == b"4"
        group.in_step(TIMEOUT)


async def test_only_spares_with_names_of_their_own_are_added() -> None:
    async with local_group(Counter) as group:
        with pytest.raises(ValueError, match="there is a member m1 already"):
            await group.add_spare("m1")
        with pytest.raises(KeyError):
            group.change(members=("m0", "m9"))


async def test_a_change_that_does_not_come_is_told_with_the_members_whereabouts() -> None:
    async with local_group(Counter, members=3, protocol="paxos") as group:
        for member in ("m1", "m2"):
            await group.crash(member)
        with pytest.raises(TimeoutError, match=r"after 0\.3 s not all members are in epoch 1: m0 in epoch 0 at slot 0"):
            await group.carry_out(group.command(group.change("coordinator")), 0.3)


def test_a_synchronous_caller_gets_failures_as_they_are() -> None:
    with pytest.raises(ServiceError), local_group_sync(5):
        pytest.fail("it runs")
    with pytest.raises(LookupError, match="mine"), local_group_sync(Counter):
        raise LookupError("mine")


async def test_two_groups_do_not_meet() -> None:
    async with local_group(Counter) as one, local_group(Counter) as other:
        clients = [await one.client(), await other.client()]
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(clients, 1):
                nursery.start_soon(partial(client.submit, b"%d" % number, timeout=TIMEOUT))
        assert [await client.read(b"", timeout=TIMEOUT) for client in clients] == [b"1", b"2"]


async def test_an_operation_of_unknown_outcome_is_asked_for_again_and_runs_once() -> None:
    async with local_group(Counter, parameters=FAST) as group:
        client = await group.client()
        assert await client.submit(b"1", timeout=TIMEOUT) == b"1"
        await group.crash("m2")
        await group.crash("m3")
        with pytest.raises(OutcomeUnknown) as unknown:
            await client.submit(b"1", timeout=0.3)
        await group.restart("m2")
        await group.restart("m3")
        assert await client.wait(unknown.value.number, timeout=TIMEOUT) == b"2"
        assert await client.submit(b"1", timeout=TIMEOUT) == b"3"
        with pytest.raises(ValueError, match="unknown outcome"):
            await client.wait(unknown.value.number)
