"""The pool of waiting bundles: bounded, in order, each proposed once."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from bftkit.channel.bundles import REQUESTS, Bundle
from bftkit.channel.pool import Pool


def bundle(client: int, first: int, size: int = 100, count: int = 1) -> Bundle:
    return Bundle(bytes(size), REQUESTS, bytes((client,)) * 32, 1, first, 1, count)


def key(item: Bundle) -> tuple[bytes, int, int]:
    return item.client, item.session, item.first


def filled(*items: Bundle, bytes_max: int = 10_000, client_bytes_max: int = 5_000) -> Pool:
    pool = Pool(bytes_max, client_bytes_max)
    for beat, item in enumerate(items):
        pool.add(item, beat, 0)
    return pool


def test_there_is_room_for_each_client_and_for_all() -> None:
    pool = filled(bundle(1, 1, 400), bytes_max=1000, client_bytes_max=500)
    assert pool.fits(bundle(1, 2, 100))
    assert not pool.fits(bundle(1, 2, 101))
    assert pool.fits(bundle(2, 1, 500))
    pool.add(bundle(2, 1, 500), 0, 0)
    assert pool.fits(bundle(3, 1, 100))
    assert not pool.fits(bundle(3, 1, 101))
    pool.remove(key(bundle(1, 1)), 0, 0)
    assert pool.fits(bundle(3, 1, 500))


def test_bundles_are_taken_in_order_and_once() -> None:
    items = [bundle(1, 1), bundle(2, 1), bundle(1, 2)]
    pool = filled(*items)
    assert pool.take(250, 100) == items[:2]
    assert pool.take(250, 100) == items[2:]
    assert pool.take(250, 100) == []
    assert len(pool) == 3, "they wait until they are executed"


def test_clients_take_turns_and_whoever_floods_waits_for_itself() -> None:
    flood = [bundle(1, number) for number in range(1, 6)]
    others = [bundle(2, 1), bundle(3, 1), bundle(2, 2)]
    pool = filled(*flood, *others)
    assert pool.take(300, 100) == [flood[0], others[0], others[1]]
    assert pool.take(200, 100) == [flood[1], others[2]]
    assert pool.take(300, 100) == flood[2:]


def test_a_client_waits_since_its_last_turn() -> None:
    pool = filled(bundle(1, 1), bundle(2, 1), bundle(1, 2))
    assert pool.longest_wait() == (0, 0)
    pool.remove(key(bundle(1, 1)), 7, 70)
    assert pool.longest_wait() == (1, 0), "the second client, since its bundle came"
    pool.remove(key(bundle(2, 1)), 8, 80)
    assert pool.longest_wait() == (7, 70), "the first one, since it had its turn"
    pool.remove(key(bundle(1, 2)), 9, 90)
    assert pool.longest_wait() is None


def test_bounds_of_a_batch_never_leave_a_large_bundle_behind() -> None:
    pool = filled(bundle(1, 1, 900), bundle(1, 2, 10, count=7), bundle(1, 9, 10))
    assert [item.first for item in pool.take(100, 100)] == [1]
    assert [item.first for item in pool.take(100, 7)] == [2]
    assert [item.first for item in pool.take(100, 7)] == [9]


def test_after_a_change_of_leader_everything_may_be_proposed_again_in_order() -> None:
    items = [bundle(1, number) for number in range(1, 5)]
    pool = filled(*items)
    pool.take(250, 100)
    pool.remove(key(items[0]), 0, 0)
    pool.land()
    assert pool.take(10_000, 100) == items[1:]


def test_what_is_aside_is_not_taken_before_it_is_promoted() -> None:
    pool = Pool(10_000, 5_000)
    early, late, own = bundle(1, 1), bundle(1, 2), bundle(2, 1)
    pool.add(early, 0, 0, 1, 1, due=8)
    pool.add(late, 0, 0, 3, 2, due=16)
    pool.add(own, 0, 0)
    assert (len(pool), pool.fresh_requests) == (3, 1)
    assert pool.take(10_000, 100) == [own]
    assert not pool.is_due(7)
    pool.promote(7, 10_000, 100)
    assert pool.take(10_000, 100) == []
    assert pool.is_due(8)
    pool.promote(8, 10_000, 100)
    assert pool.take(10_000, 100) == [early]
    pool.promote(16, 10_000, 100)
    assert pool.take(10_000, 100) == [late]


def test_what_is_promoted_is_bounded_and_comes_first() -> None:
    pool = Pool(10_000, 5_000)
    own = [bundle(1, number) for number in range(10, 13)]
    for item in own:
        pool.add(item, 0, 0)
    for number in range(1, 4):
        pool.add(bundle(1, number), 0, 0, 1, 1, due=number)
    pool.promote(9, 200, 100)
    assert [item.first for item in pool.take(10_000, 100)] == [1, 2, 10, 11, 12]
    pool.promote(9, 10, 100)
    assert [item.first for item in pool.take(10_000, 100)] == [3], "at least one"


def test_what_is_given_back_comes_first_in_its_old_order() -> None:
    items = [bundle(1, 1), bundle(1, 2), bundle(2, 1), bundle(1, 3), bundle(3, 1)]
    pool = filled(*items)
    taken = pool.take(300, 100)
    assert taken == [items[0], items[2], items[4]]
    pool.remove(key(items[2]), 0, 0)
    pool.give_back([key(item) for item in taken])
    pool.give_back([key(item) for item in taken])
    assert pool.take(10_000, 100) == [items[0], items[4], items[1], items[3]]


def test_what_is_aside_stays_there_unless_everything_lands() -> None:
    pool = Pool(10_000, 5_000)
    mine, theirs = bundle(1, 1), bundle(2, 1)
    pool.add(mine, 0, 0)
    pool.add(theirs, 0, 0, 1, 1, due=9)
    pool.take(10_000, 100)
    pool.land(everything=False)
    assert pool.take(10_000, 100) == [mine]
    pool.land()
    assert pool.take(10_000, 100) == [mine, theirs]
    pool.remove(key(theirs), 0, 0)
    assert len(pool) == 1


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(1, 6), st.integers(1, 900)), max_size=60))
def test_the_sums_are_right(steps: list[tuple[int, int, int, int]]) -> None:
    pool = Pool(3000, 1500)
    for action, client, first, size in steps:
        item = bundle(client, first, size, count=first)
        if action == 0:
            pool.remove(key(item), 0, 0)
        elif action == 1:
            pool.take(size, 5)
        elif action == 2 and size > 600:
            pool.land(everything=size > 750)
        elif action == 3:
            pool.promote(size, size, 5)
        elif action == 4:
            pool.give_back([key(item)])
        elif action == 5 and key(item) not in pool and pool.fits(item):
            pool.add(item, 0, 0, 1, 1 + first % 2, size)
        elif key(item) not in pool and pool.fits(item):
            pool.add(item, 0, 0)
        waiting = list(all_of(pool))
        assert pool.size == sum(len(one.raw) for one in waiting) <= 3000
        assert pool.fresh_requests == sum(
            pool.entries[name].bundle.count for queue in pool.fresh.values() for name in queue
        )
        fresh = [name for queue in pool.fresh.values() for name in queue]
        aside = [name for queue in pool.aside.values() for name in queue]
        flying = [name for name, entry in pool.entries.items() if entry.in_flight]
        assert sorted(fresh + aside + flying) == sorted(pool.entries)
        assert all(pool.fresh.values())
        for one in waiting:
            of_client = [other for other in waiting if other.client == one.client]
            assert pool.client_sizes[one.client] == sum(len(other.raw) for other in of_client) <= 1500
            assert pool.of_client(one.client) == of_client
        assert set(pool.client_sizes) == {one.client for one in waiting}


def all_of(pool: Pool) -> Iterator[Bundle]:
    return (entry.bundle for entry in pool.oldest())
