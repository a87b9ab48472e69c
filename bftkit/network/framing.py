"""Frames inside a byte stream.

    frame = [length: u32 big-endian][length bytes]

The length is checked against the limit as soon as its four bytes are here, so that a liar's prefix makes nobody
allocate anything; afterwards memory grows only with bytes that really arrived. A frame of length zero is refused:
it says nothing, and a stream of them would be work for nothing (256 KiB would hold 65,536 of them).
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

HEADER_SIZE: Final = 4
"""Bytes before each frame's content."""

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""Default limit for the content of one frame."""

_HEADER: Final = Struct(">I")


class FramingError(Exception):
    """The peer's stream is not a sequence of frames; it cannot be continued."""


class FrameTooLong(FramingError):
    """A length prefix exceeds the limit. Raised before anything is allocated for the frame."""


class EmptyFrame(FramingError):
    """A length prefix is zero."""


def encode_frames(frames: Iterable[bytes]) -> bytes:
    """All frames with their headers as one byte string: one join, whatever their number."""
    parts: list[bytes] = []
    for frame in frames:
        parts.append(_HEADER.pack(len(frame)))
        parts.append(frame)
    return b"".join(parts)


class FrameDecoder:
    """Cuts a stream, which arrives in pieces of any size, into frames.

    Whole frames are sliced directly out of the piece in which they arrive; only an incomplete one is kept, in one
    buffer that grows by the bytes that arrive (so no copying that is quadratic in the number of pieces).
    """

    __slots__ = ("_limit", "_needed", "_pending")

    def __init__(self, limit: int = FRAME_BYTES_MAX) -> None:
        if not 0 < limit < 1 << 32:
            raise ValueError(f"a frame limit is 1 to 2**32 - 1 bytes, not {limit}")
        self._limit = limit
        self._pending = bytearray()
        self._needed: int = HEADER_SIZE

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame that wait for the rest."""
        return len(self._pending)

    @property
    def limit(self) -> int:
        """The longest frame accepted, in bytes."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        if not 0 < limit < 1 << 32:
            raise ValueError(f"a frame limit is 1 to 2**32 - 1 bytes, not {limit}")
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes, in order. Raises `FramingError`; the stream is then unusable."""
        pending = self._pending
        frames: list[bytes] = []
        offset = 0
        while pending:  # a frame of which a part came earlier: completed by itself, so that the rest is not copied
            end = offset + self._needed - len(pending)
            pending += data[offset:end]
            offset = end
            if len(pending) < self._needed:
                return frames
            if self._needed == HEADER_SIZE:
                self._needed += self._checked_length(pending, 0)
                continue
            self._needed = HEADER_SIZE
            del pending[:HEADER_SIZE]
            frames.append(bytes(pending))
            pending.clear()
        size = len(data)
        while size - offset >= HEADER_SIZE:
            start = offset + HEADER_SIZE
            end = start + self._checked_length(data, offset)
            if end > size:
                self._needed = end - offset
                break
            frames.append(data[start:end])
            offset = end
        if offset < size:
            pending += memoryview(data)[offset:]
        return frames

    def _checked_length(self, data: bytes | bytearray, offset: int) -> int:
        length: int = _HEADER.unpack_from(data, offset)[0]
        if length > self._limit:
            raise FrameTooLong(f"a frame of {length} bytes was announced, the limit is {self._limit}")
        if length == 0:
            raise EmptyFrame("a frame of no bytes was announced")
        return length
