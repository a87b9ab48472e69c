"""Client sessions: every number executes at most once, and the table is the same wherever it is loaded (rule 9)."""

from __future__ import annotations

from random import Random

import pytest

from bftkit.channel.agreed_time import AgreedClock
from bftkit.channel.application import Context
from bftkit.channel.bundles import OPEN, REQUESTS, SKIPPED, Bundle, make_bundle, parse_bundle, unpack_results
from bftkit.channel.sessions import NONCE_SIZE, REPLY_OVERHEAD, Reply, Session, SessionTable
from bftkit.channel.state import ReplicatedState
from bftkit.core.wire import WireError, pack_plain
from bftkit.crypto.keys import SigningKey
from bftkit.crypto.merkle import root
from bftkit.service.keyvalue import KeyValueStore, get, put

GROUP = b"g" * 32
KEYS = [SigningKey(bytes((number,)) * 32) for number in range(5)]


def nonce(number: int) -> bytes:
    return number.to_bytes(NONCE_SIZE, "big")


def table(sessions_max: int = 3, window: int = 8, reply_bytes_max: int = 1000) -> SessionTable:
    return SessionTable(sessions_max, window, reply_bytes_max)


def reply(first: int, count: int = 1, size: int = 10) -> Reply:
    return Reply(first, count, 1, bytes(32), bytes(size))


class Counting(KeyValueStore):
    """Counts how often each operation ran."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[bytes, int] = {}

    def apply(self, operation: bytes, context: Context) -> bytes:
        self.runs[operation] = self.runs.get(operation, 0) + 1
        return super().apply(operation, context)


def state(reply_bytes_max: int = 1000, window: int = 8) -> ReplicatedState:
    return ReplicatedState(GROUP, Counting(), table(3, window, reply_bytes_max), AgreedClock(3), {})


def bundle(key: SigningKey, session: int, first: int, low: int, operations: list[bytes]) -> Bundle:
    return parse_bundle(make_bundle(key, GROUP, REQUESTS, session, first, low, operations), bytes_max=1 << 20)


def opening(key: SigningKey, number: int) -> Bundle:
    return parse_bundle(make_bundle(key, GROUP, OPEN, 0, 0, 0, (nonce(number),)), bytes_max=1000)


def run(state: ReplicatedState, *bundles: Bundle) -> list[list[tuple[int, bytes]] | None]:
    entries = state.execute(state.applied + 1, bytes(32), 0, bundles)
    return [unpack_results(done.results, done.count) if done is not None else None for _, done in entries]


def open_session(state: ReplicatedState, key: SigningKey, number: int = 1) -> int:
    (results,) = run(state, opening(key, number))
    assert results is not None
    return int.from_bytes(results[0][1], "big")


def test_the_bitmap_knows_what_ran() -> None:
    session = Session(b"c", 1, nonce(1))
    session.execute(3, 2)
    assert session.is_done(3, 2)
    assert not session.is_done(2, 2)
    assert session.is_new(1, 2)
    assert not session.is_new(4, 3)
    session.raise_floor(4)
    assert session.is_done(1, 3), "below the floor all is over"
    assert session.is_done(4, 1)
    assert not session.is_new(3, 1)
    assert session.is_new(5, 10)


def test_the_window_is_fixed() -> None:
    session = Session(b"c", 1, nonce(1))
    assert session.in_window(1, 9, 8)
    assert not session.in_window(1, 10, 8)
    assert session.in_window(5, 13, 8)


def test_replies_are_forgotten_below_the_floor_and_beyond_the_bytes() -> None:
    session = Session(b"c", 1, nonce(1))
    for first in range(1, 6):
        session.keep(reply(first), 35 + 3 * REPLY_OVERHEAD)
    assert sorted(session.replies) == [3, 4, 5]
    session.raise_floor(5)
    assert sorted(session.replies) == [5]
    assert session.reply_bytes == 10 + REPLY_OVERHEAD


def test_a_reply_that_replaces_another_counts_once() -> None:
    """Or a member that loaded the table would forget replies at other times than the rest (regression)."""
    session = Session(b"c", 1, nonce(1))
    session.keep(reply(1, 1, 10), 1000)
    session.keep(reply(1, 2, 20), 1000)
    assert session.reply_bytes == 20 + REPLY_OVERHEAD


def test_an_old_opening_ends_nothing() -> None:
    sessions = table()
    assert sessions.open(b"c", nonce(1), 100, 1) is not None
    newer = sessions.open(b"c", nonce(2), 200, 2)
    assert newer is not None
    assert sessions.open(b"c", nonce(1), 300, 3) is None
    again = sessions.open(b"c", nonce(2), 400, 4)
    assert again is newer
    assert newer.number == 200
    assert sessions.get(b"c", 100) is None


def test_the_session_used_least_recently_makes_room() -> None:
    sessions = table(2)
    for client, slot in ((b"a", 1), (b"b", 2)):
        sessions.open(client, nonce(1), slot, slot)
    first = sessions.get(b"a", 1)
    assert first is not None
    sessions.touch(first, 3)
    sessions.open(b"c", nonce(1), 4, 4)
    assert sorted(sessions.by_client) == [b"a", b"c"]


def test_a_table_that_is_loaded_is_the_same_table() -> None:
    sessions = table(5)
    for index, client in enumerate(KEYS):
        session = sessions.open(client.public, nonce(1), index, index)
        assert session is not None
        session.execute(2, 3)
        session.keep(reply(2, 3, index), 1000)
    loaded = table(5)
    for chunk in sessions.chunks(100):
        loaded.load(chunk)
    assert loaded.by_client == sessions.by_client
    assert list(loaded.by_client) == list(sessions.by_client)
    assert list(loaded.chunks(100)) == list(sessions.chunks(100))


@pytest.mark.parametrize("chunk", [pack_plain([5]), pack_plain([pack_plain([b"x"])]), b"\xc1"])
def test_a_chunk_that_is_no_table_is_refused(chunk: bytes) -> None:
    with pytest.raises(WireError):
        table().load(chunk)


def test_an_overlap_runs_the_new_numbers_only() -> None:
    group = state()
    key = KEYS[0]
    session = open_session(group, key)
    one, two, three = put(b"a", b"1"), put(b"b", b"2"), put(b"c", b"3")
    assert run(group, bundle(key, session, 1, 1, [one, two])) == [[(0, b"="), (0, b"=")]]
    assert run(group, bundle(key, session, 2, 1, [put(b"b", b"other"), three])) == [[(SKIPPED, b""), (0, b"=")]]
    assert run(group, bundle(key, session, 1, 1, [one, two])) == [None]
    assert isinstance(group.application, Counting)
    assert group.application.runs == {one: 1, two: 1, three: 1}


def test_numbers_outside_the_session_are_no_ops() -> None:
    group = state()
    key = KEYS[0]
    first = open_session(group, key, 1)
    operation = put(b"a", b"1")
    assert run(group, bundle(key, first, 9, 1, [operation])) == [None], "beyond the window"
    assert run(group, bundle(KEYS[1], first, 1, 1, [operation])) == [None], "of another client"
    second = open_session(group, key, 2)
    assert second != first
    assert run(group, bundle(key, first, 1, 1, [operation])) == [None], "of an ended session"
    assert run(group, opening(key, 1)) == [None]
    assert run(group, bundle(key, second, 1, 1, [operation, get(b"a")])) == [[(0, b"="), (0, b"+1")]]


@pytest.mark.parametrize("seed", range(10))
def test_whatever_a_client_sends_a_loaded_state_goes_on_alike(seed: int) -> None:
    """Random overlapping bundles; at any moment the state can be moved to another member, and both stay equal."""
    random = Random(seed)
    here = state(reply_bytes_max=60, window=30)
    sessions = {key: open_session(here, key) for key in KEYS[:3]}
    there: ReplicatedState | None = None
    for _ in range(80):
        key = random.choice(KEYS[:3])
        first = random.randint(1, 40)
        count = random.randint(1, 5)
        operations = [put(b"k", b"%d" % number) for number in range(first, first + count)]
        sent = bundle(key, sessions[key], first, random.randint(1, first), operations)
        answers = run(here, sent)
        if there is not None:
            assert run(there, sent) == answers
        if there is None or random.random() < 0.1:
            view = here.view()
            there = state(reply_bytes_max=60, window=30)
            there.restore(here.applied, [view.chunk(index) for index in range(view.count)])
        ours, theirs = here.view(), there.view()
        assert root([ours.leaf(i) for i in range(ours.count)]) == root([theirs.leaf(i) for i in range(theirs.count)])
    assert isinstance(here.application, Counting)
