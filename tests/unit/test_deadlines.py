"""Deadlines: what comes too late is a no-op everywhere, and its client is told so; and how clients stamp (rule 11)."""

from __future__ import annotations

from random import Random

import pytest
import trio

from bftkit.channel.agreed_time import SPREAD_MS, AgreedClock
from bftkit.channel.bundles import (
    CLOCK,
    LATE,
    OK,
    REQUESTS,
    SKIPPED,
    Bundle,
    make_bundle,
    parse_bundle,
    unpack_lateness,
    unpack_results,
)
from bftkit.channel.client import ClientSettings, Executed, SendNow, Submit
from bftkit.channel.deadlines import SHARED_MS, Deadlines
from bftkit.channel.state import ReplicatedState
from bftkit.client import TooLate
from bftkit.client.core import ClientCore
from bftkit.client.local import local_group
from bftkit.configuration.qos import QoS
from bftkit.core.wire import WireError
from bftkit.service.keyvalue import KeyValueStore, get, parse_value, put
from tests.unit.test_client_machine import Client
from tests.unit.test_sessions import GROUP, KEYS, Counting, open_session, table

NOW_MS = 1_700_000_000_000
TIMEOUT = 60.0
MEMBERS = ("m0", "m1", "m2", "m3")
CLOCKS = {key.public: member for key, member in zip(KEYS, MEMBERS, strict=False)}


def state(*, times: dict[str, int] | None = None) -> ReplicatedState:
    """A state whose members' clocks have been reported as NOW_MS, or as `times` say."""
    made = ReplicatedState(GROUP, Counting(), table(), AgreedClock(3), CLOCKS)
    for member in MEMBERS:
        made.clock.report(member, 1, (times or {}).get(member, NOW_MS))
    return made


def bundle(session: int, first: int, expires_ms: int, *operations: bytes, low: int = 1) -> Bundle:
    raw = make_bundle(KEYS[4], GROUP, REQUESTS, session, first, low, operations, expires_ms)
    return parse_bundle(raw, bytes_max=1 << 20)


def run(state: ReplicatedState, proposed_ms: int, *bundles: Bundle) -> list[list[tuple[int, bytes]] | None]:
    entries = state.execute(state.applied + 1, bytes(32), proposed_ms, bundles)
    return [unpack_results(done.results, done.count) if done is not None else None for _, done in entries]


# ------------------------------------------------------------------------------------------------- members


def test_a_bundle_carries_its_deadline_and_other_kinds_have_none() -> None:
    assert bundle(1, 1, 77, b"x").expires_ms == 77
    assert bundle(1, 1, 77, b"x").authentic(GROUP)
    raw = make_bundle(KEYS[0], GROUP, CLOCK, 1, 5, 0, (), 77)
    with pytest.raises(WireError, match="only requests have a deadline"):
        parse_bundle(raw, bytes_max=1000)


def test_what_comes_too_late_is_not_executed_and_its_numbers_are_used_up() -> None:
    member = state()
    session = open_session(member, KEYS[4])
    operations = (put(b"k", b"1"), put(b"k", b"2"))
    late = bundle(session, 1, NOW_MS - 1, *operations)
    (answers,) = run(member, NOW_MS + 6, late)
    assert answers is not None
    assert [(status, unpack_lateness(result)) for status, result in answers] == [(LATE, 7)] * 2
    assert isinstance(member.application, Counting)
    assert member.application.runs == {}
    # Neither the same bytes nor the same operations under the same numbers, in time now, do anything.
    assert run(member, NOW_MS + 6, late) == [None]
    assert run(member, NOW_MS + 6, bundle(session, 1, 0, *operations)) == [None]
    assert member.application.runs == {}
    kept = member.sessions.by_client[KEYS[4].public].replies[1]
    assert unpack_results(kept.results, kept.count) == answers, "the reply is kept like any other"


def test_a_request_that_is_just_in_time_is_executed() -> None:
    member = state()
    session = open_session(member, KEYS[4])
    (answers,) = run(member, NOW_MS + 6, bundle(session, 1, NOW_MS + 6, put(b"k", b"v")))
    assert answers == [(OK, b"=")]


def test_of_a_late_bundle_only_new_numbers_are_answered_as_late() -> None:
    member = state()
    session = open_session(member, KEYS[4])
    run(member, NOW_MS, bundle(session, 1, 0, put(b"k", b"v")))
    (answers,) = run(member, NOW_MS + 9, bundle(session, 1, NOW_MS, put(b"k", b"v"), put(b"k", b"w")))
    assert answers is not None
    assert [status for status, _ in answers] == [SKIPPED, LATE]


def test_before_members_have_reported_their_clocks_nothing_is_late() -> None:
    member = ReplicatedState(GROUP, Counting(), table(), AgreedClock(3), CLOCKS)
    session = open_session(member, KEYS[4])
    assert run(member, NOW_MS, bundle(session, 1, 5, put(b"k", b"v"))) == [[(OK, b"=")]]


@pytest.mark.parametrize("seed", range(30))
def test_rule_11_nothing_is_refused_early_by_more_than_the_clocks_accuracy(seed: int) -> None:
    """Whatever the leader proposes and f liars report: who is refused had a correct clock within D of the deadline."""
    random = Random(seed)
    honest = {member: NOW_MS + random.randint(-200, 200) for member in MEMBERS[:3]}
    member = state(times={**honest, "m3": random.choice((0, NOW_MS + (1 << 40)))})
    session = open_session(member, KEYS[4])
    expires_ms = NOW_MS + random.randint(-2000, 3000)
    proposed_ms = random.choice((0, NOW_MS + random.randint(-3000, 3000), 1 << 60))
    (answers,) = run(member, proposed_ms, bundle(session, 1, expires_ms, put(b"k", b"v")))
    assert answers is not None
    if expires_ms >= max(honest.values()) + SPREAD_MS:
        assert answers[0][0] == OK
    if expires_ms < min(honest.values()):
        assert answers[0][0] == LATE


# ------------------------------------------------------------------------------------------------- the client's machine


def test_operations_whose_deadlines_are_close_share_the_earliest_and_others_do_not() -> None:
    deadlines, far = Deadlines(), 1001 + SHARED_MS
    for count, expires_ms in ((2, 0), (1, 0), (3, 1000), (4, far - 1), (5, far), (6, 900), (7, 0)):
        deadlines.add(count, expires_ms)
    deadlines.add(0, 5)
    found: list[tuple[int, int]] = []
    for _ in range(5):
        found.append(deadlines.next())
        deadlines.take(found[-1][0])
    assert found == [(3, 0), (7, 1000), (5, far), (6, 900), (7, 0)]


def test_the_client_stamps_bundles_from_its_own_clock() -> None:
    client = Client()
    client.open()
    client.reply("m0", 1, [(OK, b"")])
    client.reply("m1", 1, [(OK, b"")])
    client.sent.clear()
    client.step("on_input", Submit((b"one", b"two"), NOW_MS, 500))
    client.step("on_input", Submit((b"three",), NOW_MS, 0))
    client.step("on_input", Submit((b"four",), 0, 500))
    client.step("on_input", SendNow())
    assert [(one.first, one.count, one.expires_ms) for _, one in client.bundles()] == [
        (2, 2, NOW_MS + 500),
        (4, 2, 0),
    ], "who has no clock has no deadlines"


def test_a_late_answer_settles_the_operation_and_nothing_is_sent_again() -> None:
    client = Client()
    client.open()
    client.reply("m0", 1, [(OK, b"")])
    client.reply("m1", 1, [(OK, b"")])
    client.step("on_input", Submit((b"one",), NOW_MS, 500))
    client.step("on_input", SendNow())
    client.reply("m2", 2, [(LATE, bytes(8))])
    assert client.machine.outstanding == 1, "one member may lie"
    client.reply("m3", 2, [(LATE, bytes(8))])
    assert client.executed()[-1] == Executed(2, 9, [(LATE, bytes(8))])
    assert client.machine.outstanding == 0
    client.sent.clear()
    client.tick(10_000)
    assert client.bundles() == []


# ------------------------------------------------------------------------------------------------- members and clients


async def test_the_groups_deadline_holds_for_every_client_and_a_shorter_one_for_one_call() -> None:
    async with local_group(KeyValueStore, qos=QoS(deadline_ms=300_000)) as group:
        client = await group.client()
        assert await client.submit(put(b"k", b"v"), timeout=TIMEOUT) == b"="

        def reported() -> bool:
            return all(group.node(member).replica.state.clock.now_ms > 0 for member in group.members)

        with trio.fail_after(TIMEOUT):
            while not reported():  # clock reports travel in batches, and an idle group has none
                await client.submit(put(b"k", b"v"), timeout=TIMEOUT)
        core = client.core
        assert isinstance(core, ClientCore)
        right = core._wall_clock  # pyright: ignore[reportPrivateUsage]
        core._wall_clock = lambda: right() - 600.0  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(TooLate, match="not executed") as caught:
            await client.submit(put(b"k", b"late"), timeout=TIMEOUT, deadline=3600.0)
        assert caught.value.late_ms > 600_000 - 300_000 - SPREAD_MS - 5_000
        core._wall_clock = lambda: right() - 200.0  # pyright: ignore[reportPrivateUsage]
        assert await client.submit(put(b"k", b"in time"), timeout=TIMEOUT) == b"="
        with pytest.raises(TooLate):
            await client.submit(put(b"k", b"later"), timeout=TIMEOUT, deadline=2.0)
        core._wall_clock = right  # pyright: ignore[reportPrivateUsage]
        outcomes = await client.submit_many([put(b"k2", b"v")] * 3, timeout=TIMEOUT, deadline=200.0)
        assert outcomes == [b"="] * 3
        assert parse_value(await client.read(get(b"k"), timeout=TIMEOUT)) == b"in time"
        with pytest.raises(ValueError, match="positive"):
            await client.submit(put(b"k", b"v"), deadline=0.0)


def test_settings_without_a_place_have_no_needs() -> None:
    client = Client()
    assert isinstance(client.machine.settings, ClientSettings)
    assert client.machine.expiry(NOW_MS, 0) == 0
    assert client.machine.expiry(NOW_MS, 9) == NOW_MS + 9
    assert client.machine.consistency() == "strong"
