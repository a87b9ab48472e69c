"""Bundles and batches: exact bytes, and malformed ones refused."""

from __future__ import annotations

from random import Random

import pytest

from bftkit.channel.bundles import (
    CLOCK,
    OPEN,
    OVERHEAD,
    REQUESTS,
    make_batch,
    make_bundle,
    pack_results,
    parse_batch,
    parse_bundle,
    statement,
    unpack_results,
)
from bftkit.core.wire import WireError
from bftkit.crypto.keys import SigningKey

KEY = SigningKey(b"k" * 32)
OTHER = SigningKey(b"o" * 32)
GROUP = b"g" * 32
NONCE = b"n" * 16


def requests(first: int = 1, low: int = 1, *operations: bytes) -> bytes:
    return make_bundle(KEY, GROUP, REQUESTS, 7, first, low, operations or (b"one", b"", b"three"))


def parse(raw: bytes) -> None:
    parse_bundle(raw, bytes_max=1 << 20)


def test_what_is_made_is_parsed() -> None:
    bundle = parse_bundle(requests(5, 3), bytes_max=1000)
    assert (bundle.kind, bundle.client, bundle.session) == (REQUESTS, KEY.public, 7)
    assert (bundle.first, bundle.low, bundle.count, bundle.end) == (5, 3, 3, 8)
    assert bundle.payloads() == [b"one", b"", b"three"]
    assert bundle.authentic(GROUP)
    assert not bundle.authentic(b"h" * 32), "another group (SAFETY rule 2)"


def test_the_overhead_is_exact() -> None:
    assert len(requests(1, 1, b"abc", b"de")) == OVERHEAD + 4 + 3 + 4 + 2


def test_every_bit_is_signed() -> None:
    raw = requests()
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1
        try:
            bundle = parse_bundle(bytes(changed), bytes_max=1000)
        except WireError:
            continue
        assert not bundle.authentic(GROUP), f"byte {position}"


def test_a_clock_report_is_no_request() -> None:
    assert statement(GROUP, CLOCK, b"x") != statement(GROUP, REQUESTS, b"x")
    report = make_bundle(KEY, GROUP, CLOCK, 3, 1_700_000_000_000, 0, ())
    bundle = parse_bundle(report, bytes_max=1000)
    assert (bundle.session, bundle.first, bundle.payloads()) == (3, 1_700_000_000_000, [])
    assert bundle.authentic(GROUP)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "between"),
        (requests()[:-1], "add up"),
        (requests() + b"!", "add up"),
        (b"\x09" + requests()[1:], "unknown kind"),
        (make_bundle(KEY, GROUP, REQUESTS, 7, 1, 1, ()), "at least one"),
        (make_bundle(KEY, GROUP, REQUESTS, 7, 0, 0, (b"x",)), "1 <= low"),
        (make_bundle(KEY, GROUP, REQUESTS, 7, 1, 0, (b"x",)), "1 <= low"),
        (make_bundle(KEY, GROUP, REQUESTS, 7, 3, 4, (b"x",)), "1 <= low"),
        (make_bundle(KEY, GROUP, REQUESTS, 7, (1 << 63) - 1, 1, (b"x",)), "2\\^63"),
        (make_bundle(KEY, GROUP, OPEN, 0, 0, 0, (b"short",)), "nonce"),
        (make_bundle(KEY, GROUP, OPEN, 0, 0, 0, (NONCE, b"")), "nonce"),
        (make_bundle(KEY, GROUP, OPEN, 1, 0, 0, (NONCE,)), "nonce"),
        (make_bundle(KEY, GROUP, CLOCK, 1, 5, 0, (b"x",)), "no request"),
        (make_bundle(KEY, GROUP, CLOCK, 1, 5, 5, ()), "no request"),
    ],
)
def test_malformed_bundles_are_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse(raw)


def test_a_bundle_larger_than_the_limit_is_refused_by_its_length() -> None:
    with pytest.raises(WireError, match="not between"):
        parse_bundle(requests(), bytes_max=len(requests()) - 1)


def test_counts_that_promise_more_than_there_is_are_refused() -> None:
    raw = bytearray(requests())
    raw[65:69] = b"\xff\xff\xff\xff"
    with pytest.raises(WireError, match="cannot hold"):
        parse(bytes(raw))


def test_a_batch_holds_its_bundles() -> None:
    one, two = requests(1), requests(4)
    time_ms, bundles = parse_batch(make_batch(99, [one, two]), bundle_bytes_max=1000)
    assert time_ms == 99
    assert [bundle.raw for bundle in bundles] == [one, two]
    assert parse_batch(make_batch(1, []), bundle_bytes_max=1000) == (1, [])


def test_mutated_batches_raise_nothing_but_wire_errors() -> None:
    random = Random(5)
    good = make_batch(99, [requests(1), requests(4)])
    refused = 0
    for _ in range(3000):
        raw = bytearray(good)
        for _ in range(random.randint(1, 4)):
            choice = random.randrange(3)
            position = random.randrange(len(raw))
            if choice == 0:
                raw[position] = random.randrange(256)
            elif choice == 1:
                del raw[position : position + random.randint(1, 9)]
            else:
                raw[position:position] = random.randbytes(random.randint(1, 9))
        try:
            _, bundles = parse_batch(bytes(raw), bundle_bytes_max=1000)
            for bundle in bundles:
                assert len(bundle.payloads()) == bundle.count
        except WireError:
            refused += 1
    assert refused > 1000


def test_results_go_there_and_back() -> None:
    blob = pack_results(bytes((0, 1, 2)), [b"fine", b"error", b""])
    assert unpack_results(blob, 3) == [(0, b"fine"), (1, b"error"), (2, b"")]


@pytest.mark.parametrize("blob", [b"", b"\0\0\0\0", b"\0\0\0\0\5abcd", b"\0\0\0\0\1ab"])
def test_malformed_results_are_refused(blob: bytes) -> None:
    with pytest.raises(WireError):
        unpack_results(blob, 1)
