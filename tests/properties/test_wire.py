"""Wire (FAULTS 9 and 10): bytes are the one encoding of a message, or they are refused as data."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bftkit.core.plugin import load_protocol, protocol_names
from bftkit.core.wire import Codec, WireError, pack_plain, unpack_plain
from simulations.fuzz_wire import EVERY_KIND, STRANGE, accepts, fuzz, mutated, random_message

INPUTS = 100_000

PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=40),
    lambda items: st.lists(items, max_size=20).map(tuple),
    max_leaves=40,
)


def test_a_hundred_thousand_mutated_messages() -> None:
    """No exception but `WireError`, no second encoding. `simulations/fuzz_wire.py` does a million."""
    report = fuzz(EVERY_KIND, INPUTS, seed=1)
    assert report.failed == ()
    assert report.inputs == INPUTS
    # The mutations reach both sides: most break the message, some make another one.
    assert report.refused > INPUTS // 2
    assert report.accepted > INPUTS // 100


@pytest.mark.parametrize("protocol", protocol_names())
def test_the_messages_of_every_protocol_on_the_shelf(protocol: str) -> None:
    report = fuzz(load_protocol(protocol).codec, 20_000, seed=2)
    assert report.failed == ()
    assert report.refused > 10_000
    assert report.accepted > 200


def test_one_seed_gives_the_same_inputs() -> None:
    one, two, other = (mutated(EVERY_KIND, Random(seed)) for seed in (5, 5, 6))
    inputs = [next(one) for _ in range(200)]
    assert inputs == [next(two) for _ in range(200)]
    assert inputs != [next(other) for _ in range(200)]


@given(st.integers(0))
def test_every_message_comes_back_as_it_was(seed: int) -> None:
    message = random_message(EVERY_KIND, Random(seed))
    data = EVERY_KIND.encode(message)
    assert EVERY_KIND.decode(data) == message
    assert EVERY_KIND.decode(memoryview(data)) == message


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x00\x90")
@example(b"\x00\x90\x90")
def test_any_bytes(data: bytes) -> None:
    accepts(EVERY_KIND, data)


@given(st.sampled_from([0, 1, 200]), PLAIN)
def test_any_plain_data_behind_a_tag(tag: int, plain: object) -> None:
    accepts(EVERY_KIND, bytes([tag]) + pack_plain(plain))


@given(st.integers(0), st.integers(0), st.sampled_from(STRANGE))
def test_a_strange_value_anywhere_in_a_message(seed: int, at: int, strange: bytes) -> None:
    data = EVERY_KIND.encode(random_message(EVERY_KIND, Random(seed)))
    at %= len(data)
    accepts(EVERY_KIND, data[:at] + strange + data[at:])
    accepts(EVERY_KIND, data[:at] + strange + data[at + 1 :])


@given(PLAIN)
def test_plain_data_comes_back_as_it_was(plain: object) -> None:
    assert unpack_plain(pack_plain(plain)) == plain


@given(st.binary(max_size=60))
def test_plain_data_has_one_encoding(data: bytes) -> None:
    try:
        plain = unpack_plain(data)
    except WireError:
        return
    assert pack_plain(plain) == data


class Careless(Codec[Any]):
    """A codec with one check taken out: the fuzzer must see it."""

    def __init__(self, without: str) -> None:
        super().__init__("careless", EVERY_KIND.messages)
        self.without = without

    def decode(self, data: bytes | memoryview) -> Any:
        if self.without == "trailing bytes are refused":
            for end in range(len(data), 2, -1):
                try:
                    return super().decode(data[:end])
                except WireError:
                    continue
            return super().decode(data[:2])
        try:
            return super().decode(data)
        except WireError as error:
            raise KeyError(str(error)) from None


@pytest.mark.parametrize("without", ["trailing bytes are refused", "errors are WireErrors"])
def test_the_fuzzer_sees_a_careless_codec(without: str) -> None:
    report = fuzz(Careless(without), 2000, seed=1)
    assert len(report.failed) == 10
