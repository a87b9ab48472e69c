"""State transfer: from several sources, every chunk checked, whoever lies dropped."""

from __future__ import annotations

from random import Random

import pytest

from bftkit.channel.frames import checkpoint_body
from bftkit.channel.transfer import OUTSTANDING_PER_SOURCE, Transfer
from bftkit.core.digest import digest
from bftkit.crypto.merkle import root
from bftkit.crypto.signed import Certificate

CHUNKS = [b"chunk %d" % (number % 17) for number in range(20)]  # the last three repeat the first
LEAVES = tuple(digest(chunk) for chunk in CHUNKS)
ROOT = root(LEAVES)
CERTIFICATE = Certificate.of(checkpoint_body(8, ROOT), {})


def transfer(*sources: str) -> Transfer:
    return Transfer(8, ROOT, CERTIFICATE, list(sources or ("m0", "m1", "m2")))


def test_only_the_certified_list_is_taken() -> None:
    made = transfer()
    assert not made.take_manifest(LEAVES[:-1], {})
    assert not made.take_manifest((*LEAVES[:-1], bytes(32)), {})
    assert made.take_manifest(LEAVES, {})


def test_requests_are_spread_and_bounded() -> None:
    made = transfer()
    assert made.requests() == []
    made.take_manifest(LEAVES, {})
    asked = made.requests()
    assert len(asked) == 3 * OUTSTANDING_PER_SOURCE
    assert {source for source, _ in asked} == {"m0", "m1", "m2"}
    assert sorted(index for _, index in asked) == list(range(12))
    assert made.requests() == []
    assert made.take_chunk("m1", 1, CHUNKS[1])
    assert made.requests() == [("m1", 12)]


def test_chunks_that_are_here_or_come_twice_are_not_fetched() -> None:
    made = transfer()
    own = {digest(chunk): chunk for chunk in CHUNKS[:10]}
    made.take_manifest(LEAVES, own)
    assert sorted(index for _, index in made.requests()) == list(range(10, 17))


@pytest.mark.parametrize("seed", range(20))
def test_liars_dying_sources_and_retries_end_with_the_certified_state(seed: int) -> None:
    random = Random(seed)
    made = transfer("m0", "m1", "m2", "m3")
    made.take_manifest(LEAVES, {})
    caught: set[str] = set()
    flight: list[tuple[str, int]] = []
    for _ in range(2000):
        flight += made.requests()
        if made.complete:
            break
        if not flight or random.random() < 0.1:
            made.retry()
            continue
        source, index = flight.pop(random.randrange(len(flight)))
        if source == "m3" or random.random() < 0.2:
            continue  # never answers, or the frame is lost
        data = CHUNKS[index] if source != "m1" else b"a lie"
        if not made.take_chunk(source, index, data):
            caught.add(source)
            assert source not in made.sources
    assert made.complete
    assert made.chunks() == CHUNKS
    assert caught <= {"m1"}


def test_what_was_not_asked_is_neither_taken_nor_held_against_anybody() -> None:
    made = transfer()
    assert made.take_chunk("m0", 0, b"early")
    made.take_manifest(LEAVES, {})
    made.requests()
    assert made.take_chunk("m2", 0, b"asked of m0")
    assert "m2" in made.sources
    assert not made.have


def test_a_newer_checkpoint_keeps_what_is_here() -> None:
    made = transfer()
    made.take_manifest(LEAVES, {})
    made.requests()
    made.take_chunk("m0", 0, CHUNKS[0])
    newer = [*CHUNKS[:16], b"new"]
    leaves = tuple(digest(chunk) for chunk in newer)
    moved = Transfer(16, root(leaves), CERTIFICATE, ["m0"], made.have)
    moved.take_manifest(leaves, {})
    assert 0 not in moved.missing
    assert len(moved.missing) == 16


def test_without_sources_nothing_is_asked() -> None:
    made = transfer("m0")
    made.take_manifest(LEAVES, {})
    made.requests()
    made.drop("m0")
    assert made.requests() == []
    assert not made.complete
    made.retry()


def test_who_shows_the_certificate_is_a_source_and_who_lied_is_none_any_more() -> None:
    made = transfer("m0")
    made.take_manifest(LEAVES, {})
    index = dict(made.requests()[0:1])["m0"]
    made.add("m1")
    assert not made.take_chunk("m0", index, b"rubbish")
    made.add("m0")
    made.add("m1")
    assert made.sources == ["m1"]
    made.drop("m1")
    made.add("m1")  # it has fetched the state meanwhile
    assert made.sources == ["m1"]


def test_over_a_link_that_is_slower_than_our_patience_the_state_comes_all_the_same() -> None:
    """What was asked of two members in turn, and comes from each when it is the other one's turn again."""
    made = transfer("m0", "m1")
    made.take_manifest(LEAVES, {})
    under_way: list[tuple[str, int]] = []
    for _ in range(2 * len(CHUNKS)):
        late, under_way = under_way, made.requests()
        for source, index in late:
            assert made.take_chunk(source, index, CHUNKS[index])
        made.retry()
    assert made.complete
    assert made.chunks() == CHUNKS
    assert made.received_bytes == sum(map(len, set(CHUNKS)))
    assert made.take_chunk("m0", len(CHUNKS), b"of another state")


def test_a_transfer_is_vain_when_all_its_sources_were_asked_first_in_vain() -> None:
    made = transfer("m0", "m1")
    for _ in range(2):
        made.retry()
        assert not made.is_vain
    made.retry()
    assert made.is_vain


def test_what_is_under_way_counts_although_the_group_has_a_newer_checkpoint_by_then() -> None:
    """Regression: over a slow link every chunk came when the next checkpoint was being fetched, and none counted."""
    made = transfer("m0", "m1")
    made.take_manifest(LEAVES, {})
    under_way = made.requests()
    rounds = 1 + len(CHUNKS) // (2 * OUTSTANDING_PER_SOURCE)
    for slot in range(16, 16 + 8 * rounds, 8):
        newer = Transfer(slot, ROOT, CERTIFICATE, ["m0", "m1"])
        newer.go_on_from(made)
        assert newer.take_manifest(LEAVES, {})
        for source, index in under_way:
            assert newer.take_owed(source, made.slot, index, CHUNKS[index])
        made, under_way = newer, newer.requests()
    assert made.chunks() == CHUNKS


def test_what_is_owed_is_asked_for_last_and_taken_from_who_owes_it_only() -> None:
    made = transfer("m0")
    made.take_manifest(LEAVES, {})
    asked = [index for _, index in made.requests()]
    newer = Transfer(16, ROOT, CERTIFICATE, ["m0"])
    newer.go_on_from(made)
    newer.take_manifest(LEAVES, {})
    again = newer.requests()
    assert not {index for _, index in again} & set(asked)
    assert newer.take_owed("m1", 8, asked[0], CHUNKS[asked[0]])
    assert newer.take_owed("m0", 8, 19, CHUNKS[19])
    assert newer.received_bytes == 0
    assert not newer.take_owed("m0", 8, asked[0], b"rubbish")
    assert newer.sources == []


def test_a_chunk_that_repeats_is_taken_at_the_place_where_it_was_asked_for_only() -> None:
    """A liar that shows it under its other place would keep the transfer from ever being complete."""
    made = transfer("m0")
    made.take_manifest(LEAVES, {})
    asked = made.requests()
    assert LEAVES[17] == LEAVES[0]
    assert made.take_chunk("m1", 17, CHUNKS[17])
    while asked:
        for source, index in asked:
            assert made.take_chunk(source, index, CHUNKS[index])
        asked = made.requests()
    assert made.complete
    assert made.chunks() == CHUNKS


def test_what_was_given_up_does_not_interrupt_the_older_state_that_is_fetched_instead() -> None:
    """A liar may be the only one with the newer one's certificate: it shows that again and again, and sends nothing."""
    newer = Transfer(16, ROOT, CERTIFICATE, ["m0"])
    assert newer.gives_way_to(24)
    assert not newer.gives_way_to(16)
    assert not newer.gives_way_to(8)
    newer.retry()
    newer.retry()
    assert newer.is_vain
    assert newer.gives_way_to(8)
    older = transfer("m1")
    older.go_on_from(newer)
    assert not older.gives_way_to(12)
    assert not older.gives_way_to(16)
    assert older.gives_way_to(24)
    older.retry()
    older.retry()
    assert older.gives_way_to(16)
    again = Transfer(16, ROOT, CERTIFICATE, ["m0"])
    again.go_on_from(older)
    assert again.gives_way_to(17)
