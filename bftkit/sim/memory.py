"""What a world needs to work out once only, although every member does it for itself.

Decoding is a function of the bytes, and messages never change, so a broadcast is decoded by the first member that
hears it, and the others get the same message. Bytes that are refused are refused each time anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bftkit.channel.frames import unpack_protocol
from bftkit.core.wire import Codec

DECODED_MAX: Final = 1 << 13
"""So many messages are remembered."""
SHORT_MAX: Final = 1 << 16
"""Longer ones are not."""


class RememberingCodec(Codec[Any]):
    """A codec that decodes the same bytes once only."""

    def __init__(self, inner: Codec[Any]) -> None:
        """The messages of another codec."""
        super().__init__(inner.name, inner.messages, bytes_max=inner.bytes_max)
        self._decoded: dict[bytes, Any] = {}

    def decode(self, data: bytes | memoryview) -> Any:
        """See `Codec.decode`."""
        if type(data) is not bytes:
            return super().decode(data)
        message = self._decoded.get(data)
        if message is None:
            message = super().decode(data)
            if len(self._decoded) >= DECODED_MAX:
                self._decoded.clear()
            if len(data) <= SHORT_MAX:
                self._decoded[data] = message
        return message


class RememberingUnpacker:
    """Takes the same PROTOCOL frame apart once only. The message in it is then the same object for all who hear it."""

    def __init__(self) -> None:
        self._parts: dict[bytes, tuple[int, bytes, Sequence[bytes]]] = {}

    def __call__(self, frame: bytes) -> tuple[int, bytes, Sequence[bytes]]:
        """See `bftkit.channel.frames.unpack_protocol`."""
        parts = self._parts.get(frame)
        if parts is None:
            parts = unpack_protocol(frame)
            if len(self._parts) >= DECODED_MAX:
                self._parts.clear()
            if len(frame) <= SHORT_MAX:
                self._parts[frame] = parts
        return parts
