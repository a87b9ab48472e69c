"""A member's process and its disk: what it does when the disk fails or is full, and how it ends."""

from __future__ import annotations

import resource
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from bftkit.channel.replica import FromClient, ReplicaOut, StatusAsked, ToClient
from bftkit.client.aio import driving
from bftkit.client.connect import client_settings
from bftkit.client.core import ClientCore
from bftkit.client.local import LocalGroup, local_group
from bftkit.configuration.text import ConfigurationError
from bftkit.core.machine import Out, TimerKey
from bftkit.crypto.keys import SigningKey
from bftkit.network.addresses import Address
from bftkit.network.hub import DialFailed, Event, HubError
from bftkit.network.memory import MemoryHub
from bftkit.network.session import Identity
from bftkit.node.adversary import Tampering
from bftkit.node.assembly import load_adversary, peers_of, room_for
from bftkit.node.inputs import Inputs
from bftkit.node.node import Node
from bftkit.node.timers import Timers
from bftkit.service import keyvalue
from bftkit.service.keyvalue import KeyValueStore

PATIENCE_SECONDS = 60.0


def lie(node: Node, name: str) -> None:
    """From now on the member lies."""
    node.corrupt(load_adversary(name)(node.replica.settings))


async def _ended(group: LocalGroup, member: str) -> None:
    run = group._members[member].run  # pyright: ignore[reportPrivateUsage]
    if run is not None:
        with trio.fail_after(PATIENCE_SECONDS):
            await run.ended.wait()


async def test_nothing_leaves_a_member_after_its_disk_failed_to_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAFETY rule 5: the hub's queues then hold what depends on records that are not there."""
    async with local_group(KeyValueStore) as group:
        client = await group.client()
        await client.submit(keyvalue.put(b"k", b"1"), timeout=PATIENCE_SECONDS)
        node, disk = group.node("m1"), group.disk("m1")
        group._members["m1"].run.crashed = True  # type: ignore[union-attr]  # the group is to outlive this
        flushed_after: list[bool] = []
        flush = node.hub.flush

        def watched() -> None:
            flushed_after.append(disk.fail_syncs == 0)
            flush()

        disk.fail_syncs = 1
        monkeypatch.setattr(node.hub, "flush", watched)
        await client.submit(keyvalue.put(b"k", b"2"), timeout=PATIENCE_SECONDS)
        await _ended(group, "m1")
        assert disk.fail_syncs == 0
        assert not any(flushed_after)


async def test_a_member_whose_disk_is_full_waits_and_can_still_be_stopped() -> None:
    async with local_group(KeyValueStore) as group:
        client = await group.client()
        await client.submit(keyvalue.put(b"k", b"1"), timeout=PATIENCE_SECONDS)
        node, disk = group.node("m1"), group.disk("m1")
        disk.capacity = disk.bytes_used
        with trio.fail_after(PATIENCE_SECONDS):
            while not node.counters.disk_full:
                await client.submit(keyvalue.put(b"k", b"2"), timeout=PATIENCE_SECONDS)
        rounds = node.counters.sync_rounds
        await client.submit(keyvalue.put(b"k", b"3"), timeout=PATIENCE_SECONDS)
        assert node.counters.sync_rounds == rounds, "it must not go on before there is room"
        disk.capacity = None
        await group.in_step(PATIENCE_SECONDS)

        disk.capacity = disk.bytes_used
        before = node.counters.disk_full
        with trio.fail_after(PATIENCE_SECONDS):
            while node.counters.disk_full == before:
                await client.submit(keyvalue.put(b"k", b"4"), timeout=PATIENCE_SECONDS)
        node.stop()
        await _ended(group, "m1")


async def test_a_member_that_stops_waits_for_the_checkpoint_that_it_is_saving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with local_group(KeyValueStore, checkpoint_interval=2) as group:
        client = await group.client()
        node = group.node("m1")
        began, may_end = threading.Event(), threading.Event()
        order: list[str] = []
        save, close = node.snapshots.save, node.snapshots.close

        def slow_save(*arguments: object) -> None:
            began.set()
            assert may_end.wait(PATIENCE_SECONDS)
            save(*arguments)  # type: ignore[arg-type]
            order.append("saved")

        def watched_close() -> None:
            order.append("closed")
            close()

        monkeypatch.setattr(node.snapshots, "save", slow_save)
        monkeypatch.setattr(node.snapshots, "close", watched_close)
        with trio.fail_after(PATIENCE_SECONDS):
            while not began.is_set():
                await client.submit(keyvalue.put(b"k", b"1"), timeout=PATIENCE_SECONDS)
        node.stop()
        for _ in range(10):  # the others go on meanwhile, and this loop turns many times
            await client.submit(keyvalue.put(b"k", b"2"), timeout=PATIENCE_SECONDS)
        assert order == []
        may_end.set()
        await _ended(group, "m1")
        assert order[-1] == "closed"
        assert order.count("saved") >= 1


async def test_a_member_sends_what_its_adversary_postpones() -> None:
    """The leader's proposals leave late, but they do: however busy this machine is, nobody replaces it."""
    async with local_group(KeyValueStore, parameters={"view_timeout": 30_000, "view_timeout_max": 30_000}) as group:
        client = await group.client()
        await client.submit(keyvalue.put(b"k", b"0"), timeout=PATIENCE_SECONDS)
        node = group.node("m0")
        lie(node, "slow-leader")
        for _ in range(3):
            await client.submit(keyvalue.put(b"k", b"1"), timeout=PATIENCE_SECONDS)
        told = node.status()["adversary"]
        assert told["kind"] == "slow-leader"
        assert told["delayed"] >= 3
        assert all(group.node(member).replica.machine.view == 0 for member in ("m0", "m1", "m2", "m3"))


async def test_a_member_hears_of_clients_what_its_adversary_lets_through() -> None:
    """Questions pass through it: it can give the answer of long ago only if it heard the question."""
    async with local_group(KeyValueStore) as group:
        client = await group.client()
        node = group.node("m2")
        lie(node, "stale-reads")
        with trio.fail_after(PATIENCE_SECONDS):
            while not node.status()["adversary"]["stale"]:
                await client.submit(keyvalue.put(b"k", str(node.counters.rounds).encode()), timeout=PATIENCE_SECONDS)
                await client.read(keyvalue.get(b"k"), timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("name", ["nobody", "bftkit.sim.adversaries:Nobody", "no.such.module:Liar", ":", "silent+"])
def test_an_adversary_that_is_not_there_is_the_callers_mistake(name: str) -> None:
    with pytest.raises(ConfigurationError):
        load_adversary(name)


async def test_a_client_is_answered_in_the_next_epoch_after_another_process_with_its_key_came_and_went() -> None:
    """Members prove to a client, with the next epoch's key, the link that leads to it then, not one that is gone."""
    async with local_group(KeyValueStore) as group:

        def client_with_one_key() -> ClientCore:
            hub = MemoryHub(group.network, Identity.from_seed(bytes(32)), group.genesis.group_id)
            return ClientCore(client_settings(group.genesis, SigningKey(bytes(32))), hub, peers_of(group.genesis, ""))

        def down() -> list[int]:
            return [group.node(member).hub.counters["links_down"] for member in group.members]

        async with driving(client_with_one_key()) as first:
            await first.submit(keyvalue.put(b"k", b"1"), timeout=PATIENCE_SECONDS)
            before = down()
            core = client_with_one_key()
            async with driving(core):
                await group.until(lambda: len(core.machine.proved) == len(group.members), PATIENCE_SECONDS)
            await group.until(
                lambda: all(now > then for now, then in zip(down(), before, strict=True)), PATIENCE_SECONDS
            )
            await group.switch("pbft", timeout=PATIENCE_SECONDS)
            await first.submit(keyvalue.put(b"k", b"2"), timeout=PATIENCE_SECONDS)


async def test_a_peer_is_readdressed_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its link stays up; once that is gone, the peer is dialled at the new addresses and at no other."""
    async with local_group(KeyValueStore) as group:
        client = await group.client()
        await client.submit(keyvalue.put(b"k", b"1"), timeout=PATIENCE_SECONDS)
        node = group.node("m0")
        await group.until(lambda: node.hub.is_up("m1"), PATIENCE_SECONDS)  # others may have served the client
        lost = node.hub.counters["links_down"]
        node.readdress("m1", [Address("memory", "new")])
        await client.submit(keyvalue.put(b"k", b"2"), timeout=PATIENCE_SECONDS)
        assert node.hub.is_up("m1")
        assert node.hub.counters["links_down"] == lost
        with pytest.raises(ValueError, match="'m9' is no peer of m0"):
            node.readdress("m9", [Address("memory", "m9")])
        with pytest.raises(HubError):
            node.readdress("m1", [Address("tcp", "127.0.0.1", 7000)])

        dialled: list[str] = []
        events = node.hub.events

        def watched() -> list[Event]:
            found = events()
            dialled.extend(str(event.address) for event in found if isinstance(event, DialFailed))
            return found

        monkeypatch.setattr(node.hub, "events", watched)
        await group.crash("m1")
        with trio.fail_after(PATIENCE_SECONDS):
            while len(dialled) < 3:
                await client.submit(keyvalue.put(b"k", b"3"), timeout=PATIENCE_SECONDS)
        assert set(dialled) == {"memory://new"}


class _Hears:
    """A replica that asks for a timer's end when it hears something, and takes down which timers fire."""

    def __init__(self) -> None:
        self.fired: list[TimerKey] = []

    def on_message(self, sender: str, frame: bytes, out: ReplicaOut) -> None:
        out.cancel_timer(("cancelled",))
        out.set_timer(("again",), 1000)

    def on_timer(self, key: TimerKey, out: ReplicaOut) -> None:
        self.fired.append(key)
        out.cancel_timer(("by the other",))

    def on_input(self, value: object, out: ReplicaOut) -> None:
        pass


def test_a_timer_that_is_withdrawn_in_the_round_in_which_it_is_due_does_not_fire() -> None:
    """In the simulator it never does; here, all that is ready is taken in before anything is carried out."""
    replica, timers = _Hears(), Timers()
    for at, name in enumerate(("cancelled", "again", "kept", "by the other")):
        timers.set((name,), float(at))
    hub = SimpleNamespace(events=list)
    inputs = Inputs(cast("Any", replica), cast("Any", hub), timers, cast("Any", None), Tampering(None))
    inputs.hand_over([("m1", [b"x"])], 10.0, Out())
    assert replica.fired == [("kept",)]


class _AnswersAtLength:
    """A replica that answers whatever a client asks with a megabyte."""

    def __init__(self) -> None:
        self.asked: Counter[bytes] = Counter()
        self.counters = SimpleNamespace(refused_frames=0)

    def on_input(self, value: object, out: ReplicaOut) -> None:
        if isinstance(value, FromClient):
            self.asked[value.client] += 1
            out.deliver(ToClient(value.client, bytes(1 << 20)))


def test_answers_that_would_be_dropped_are_not_made() -> None:
    """All answers of a round are in memory at once: thousands of small questions must not bring gigabytes there."""
    replica = _AnswersAtLength()
    hub = SimpleNamespace(events=list)
    inputs = Inputs(cast("Any", replica), cast("Any", hub), Timers(), cast("Any", None), Tampering(None))
    many = [b"?"] * 1000
    greedy = [bytes([number]) * 32 for number in range(1, 10)]
    inputs.hand_over([(greedy[0], many), (b"h" * 32, [b"?"]), (greedy[0], many)], 0.0, Out())
    assert replica.asked == {greedy[0]: 33, b"h" * 32: 1}, "one more than its queue holds; others are heard"
    assert replica.counters.refused_frames == 2000 - 33
    replica.asked.clear()
    inputs.hand_over([(client, many) for client in greedy], 0.0, Out())
    assert sum(replica.asked.values()) == 257


async def test_how_a_member_is_is_looked_up_once_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    async with local_group(KeyValueStore) as group:
        node = group.node("m0")
        looked: list[int] = []

        def status() -> dict[str, Any]:
            looked.append(1)
            return {}

        effects = node._effects  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(effects, "status", status)
        out: ReplicaOut = Out()
        for number in range(1000):
            out.deliver(StatusAsked(b"c" * 32, number))
        async with trio.open_nursery() as nursery:
            await effects.carry_out(out, nursery)
            assert len(looked) == 1
            await effects.carry_out(out, nursery)
        assert len(looked) == 2


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "left"),
    [(1024, 4096, 1024, 1408), (1024, 1024, 640, 1024), (200, 200, 8, 200), (9000, 9000, 1024, 9000)],
)
def test_strangers_leave_descriptors_to_the_disk(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, connections: int, left: int
) -> None:
    """A member that finds none to begin a segment with stops: 180 idle clients ended one that had a limit of 200."""
    limit = [soft, hard]

    def set_limit(_: int, limits: tuple[int, int]) -> None:
        limit[:] = limits

    def get_limit(_: int) -> tuple[int, int]:
        return limit[0], limit[1]

    monkeypatch.setattr(resource, "getrlimit", get_limit)
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    assert room_for(1024) == connections
    assert limit == [left, hard]
