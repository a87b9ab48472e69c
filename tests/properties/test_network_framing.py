"""Frames: whatever the cuts, the same frames come out; liars are stopped at the prefix."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftkit.network.framing import (
    HEADER_SIZE,
    EmptyFrame,
    FrameDecoder,
    FrameTooLong,
    encode_frames,
)

frame_lists = st.lists(st.binary(min_size=1, max_size=40), max_size=20)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(frame_lists, st.lists(st.integers(0, 900), max_size=30))
def test_cuts_do_not_matter(frames: list[bytes], cuts: list[int]) -> None:
    decoder = FrameDecoder()
    got: list[bytes] = []
    for piece in pieces(encode_frames(frames), cuts):
        got += decoder.feed(piece)
    assert got == frames
    assert decoder.pending == 0


@given(frame_lists)
def test_single_bytes(frames: list[bytes]) -> None:
    """FAULTS 7: one-byte fragments decode identically, and each frame comes as soon as it is complete."""
    decoder = FrameDecoder()
    stream = encode_frames(frames)
    got: list[bytes] = []
    ends: list[int] = []
    for position in range(len(stream)):
        new = decoder.feed(stream[position : position + 1])
        got += new
        ends += [position + 1] * len(new)
    assert got == frames
    expected = [len(encode_frames(frames[: count + 1])) for count in range(len(frames))]
    assert ends == expected


@given(frame_lists, st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_limit(frames: list[bytes], limit: int, announced: int) -> None:
    """FAULTS 9: a prefix beyond the limit is refused by itself; one within it is waited for."""
    frames = [frame[:limit] for frame in frames]
    decoder = FrameDecoder(limit)
    assert decoder.feed(encode_frames(frames)) == frames
    prefix = announced.to_bytes(HEADER_SIZE, "big")
    if announced > limit:
        with pytest.raises(FrameTooLong, match=str(announced)):
            decoder.feed(prefix)
    elif announced == 0:
        with pytest.raises(EmptyFrame):
            decoder.feed(prefix)
    else:
        assert decoder.feed(prefix) == []
        assert decoder.pending == HEADER_SIZE


def test_a_frame_in_many_pieces_is_not_copied_for_each() -> None:
    """A frame of 8 MiB in pieces of 100 bytes: copying what is pending with each piece would move 350 GB."""
    frame = b"x" * (8 * 1024 * 1024)
    stream = encode_frames([frame, b"y"])
    decoder = FrameDecoder()
    got: list[bytes] = []
    for offset in range(0, len(stream), 100):
        got += decoder.feed(stream[offset : offset + 100])
    assert got == [frame, b"y"]


@pytest.mark.parametrize("limit", [0, -1, 2**32])
def test_limits_that_make_no_sense(limit: int) -> None:
    with pytest.raises(ValueError, match="frame limit"):
        FrameDecoder(limit)
