"""One encrypted, mutually authenticated connection, as an object without I/O: bytes in, frames and bytes out.

The two sides are the *initiator*, who dialled and knows whom it expects, and the *responder*. What passes, each Noise
message behind its length ([u16 big-endian][message]):

    opening       initiator -> responder   Noise_IK message 1; inside: initiator's Ed25519 key, its payload
    answer        responder -> initiator   Noise_IK message 2; inside: responder's payload
    confirmation  initiator -> responder   an empty transport message
    frames        both ways                transport messages; their contents, joined, are a stream of frames

The pattern is Noise_IK_25519_ChaChaPoly_BLAKE2b. The prologue binds the version of this format and the group, so
that an opening for another group, or for another version, fails to decrypt (FAULTS 11). Identities are Ed25519 keys;
the Noise static keys are derived from them by libsodium's birational map, and the responder checks that the
Ed25519 key inside the opening maps to the static key that the handshake has proved.

Why the confirmation: an opening can be recorded and sent again by anybody (section 7.7 of the Noise specification).
The responder therefore believes that the peer is there, and sends to it, only when a first transport message has
proved that the peer holds the keys of *this* handshake. Until then the payload is only a claim: use it to refuse
early, not to change any state.

Errors of the peer are `SessionError` with a reason; the session is then closed for good, since a stream cipher cannot
find its place again. What a stranger can make us keep is bounded: one opening of at most `OPENING_SIZE_MAX` bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from struct import Struct
from typing import Final, Literal

import attrs
from nacl.bindings import (
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import CryptoError

from bftkit.network.framing import FRAME_BYTES_MAX, FrameDecoder, FrameTooLong, FramingError, encode_frames
from bftkit.network.noise import (
    KEY_SIZE,
    MESSAGE_SIZE_MAX,
    TAG_SIZE,
    CipherState,
    HandshakeState,
    NoiseError,
)

PATTERN: Final = "IK"
VERSION: Final = b"bftkit link 1"
"""Names this wire format in the prologue; a change of the format changes it."""

GROUP_SIZE: Final = 32
"""Bytes of a group id."""

IDENTITY_SIZE: Final = 32
"""Bytes of an Ed25519 public key."""

PAYLOAD_SIZE_MAX: Final = 1024
"""The longest application payload in a handshake message."""

OPENING_SIZE_MAX: Final = KEY_SIZE + (KEY_SIZE + TAG_SIZE) + IDENTITY_SIZE + PAYLOAD_SIZE_MAX + TAG_SIZE
ANSWER_SIZE_MAX: Final = KEY_SIZE + PAYLOAD_SIZE_MAX + TAG_SIZE
CONTENT_SIZE_MAX: Final = MESSAGE_SIZE_MAX - TAG_SIZE
"""Bytes of the frame stream that fit into one transport message."""

_LENGTH: Final = Struct(">H")
_LENGTH_SIZE: Final = 2

Reason = Literal["bad handshake", "bad message", "frame too long", "bad frame", "unexpected peer", "refused", "closed"]
"""Why a session ended; short and fixed, so that it can be counted."""


class SessionError(Exception):
    """The peer broke the session; `reason` says how in one of a few fixed words, the text says more."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason


class Phase(enum.Enum):
    """Where a session stands.

    initiator: OPENING_SENT -> OPEN; responder: AWAITING_OPENING -> OFFERED -> CONFIRMING -> OPEN; any -> CLOSED.
    """

    OPENING_SENT = "opening sent"
    AWAITING_OPENING = "awaiting the opening"
    OFFERED = "offered: accept or refuse"
    CONFIRMING = "awaiting the confirmation"
    OPEN = "open"
    CLOSED = "closed"


@attrs.frozen
class Identity:
    """An Ed25519 key pair and the X25519 key derived from it."""

    public_key: bytes
    """32 bytes: who we are, for others."""
    static_key: bytes = attrs.field(repr=False)
    """32 bytes: the private X25519 key for Noise."""

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """From the 32-byte Ed25519 seed (the private signing key)."""
        if len(seed) != 32:
            raise ValueError(f"an Ed25519 seed has 32 bytes, not {len(seed)}")
        public, secret = crypto_sign_seed_keypair(seed)
        return cls(public, crypto_sign_ed25519_sk_to_curve25519(secret))


def static_public_key(identity_key: bytes) -> bytes:
    """The X25519 public key of an Ed25519 public key. Raises `ValueError` for bytes that are no such key.

    libsodium refuses points of small order and points outside the prime-order subgroup. One ambiguity remains: a key
    and its negative map to the same result. Whoever holds one private key holds the other too, so this lets nobody
    speak for somebody else.
    """
    if len(identity_key) != IDENTITY_SIZE:
        raise ValueError(f"an Ed25519 public key has {IDENTITY_SIZE} bytes, not {len(identity_key)}")
    try:
        return crypto_sign_ed25519_pk_to_curve25519(identity_key)
    except (CryptoError, RuntimeError):
        raise ValueError("these 32 bytes are not an Ed25519 public key") from None


def group_prologue(group: bytes) -> bytes:
    """What both sides of a handshake must agree on beforehand: this format and the group (32 bytes)."""
    if len(group) != GROUP_SIZE:
        raise ValueError(f"a group id has {GROUP_SIZE} bytes, not {len(group)}")
    return VERSION + b"\0" + group


class Session:
    """One side of one connection. Make it with `initiator` or `responder`.

    Feed what arrives to `receive`; send what `take_output` returns, after making it and after every `receive` and
    `accept`; when `is_open`, turn frames into bytes with `send`.
    """

    def __init__(
        self, identity: Identity, noise: HandshakeState, phase: Phase, payload: bytes, frame_limit: int
    ) -> None:
        _check_payload(payload)
        self._identity = identity
        self._noise = noise
        self._payload = payload
        self._phase = phase
        self._output = bytearray()
        self._pending = bytearray()
        self._needed: int = _LENGTH_SIZE
        self._decoder = FrameDecoder(frame_limit)
        self._sender = self._receiver = CipherState()
        self.peer_key: bytes | None = None
        """The peer's Ed25519 public key; for a responder a mere claim until `is_open`."""
        self.peer_payload: bytes = b""
        """What the peer's handshake message carried; a claim until `is_open`."""
        self.handshake_hash: bytes = b""
        """64 bytes that name this very connection, the same on both sides, once the answer has passed: sign it to
        bind something to this connection (channel binding)."""

    @classmethod
    def initiator(
        cls,
        identity: Identity,
        peer_key: bytes,
        prologue: bytes,
        ephemeral: bytes,
        payload: bytes = b"",
        frame_limit: int = FRAME_BYTES_MAX,
    ) -> Session:
        """The dialling side. `ephemeral`: 32 fresh random bytes, never used for another handshake."""
        noise = HandshakeState(
            PATTERN,
            initiator=True,
            prologue=prologue,
            static=identity.static_key,
            ephemeral=ephemeral,
            remote_static=static_public_key(peer_key),
        )
        session = cls(identity, noise, Phase.OPENING_SENT, payload, frame_limit)
        session.peer_key = peer_key
        session._put(noise.write_message(identity.public_key + payload))
        return session

    @classmethod
    def responder(
        cls, identity: Identity, prologue: bytes, ephemeral: bytes, frame_limit: int = FRAME_BYTES_MAX
    ) -> Session:
        """The side that was dialled. `ephemeral`: 32 fresh random bytes, never used for another handshake."""
        noise = HandshakeState(
            PATTERN, initiator=False, prologue=prologue, static=identity.static_key, ephemeral=ephemeral
        )
        return cls(identity, noise, Phase.AWAITING_OPENING, b"", frame_limit)

    @property
    def phase(self) -> Phase:
        """Where the session stands."""
        return self._phase

    @property
    def is_open(self) -> bool:
        """Whether the peer has proved who it is and frames may pass both ways."""
        return self._phase is Phase.OPEN

    @property
    def buffered(self) -> int:
        """Bytes kept for incomplete messages and frames."""
        return len(self._pending) + self._decoder.pending

    def take_output(self) -> bytes:
        """Handshake bytes that are to be sent now; empty if there are none."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def accept(self, payload: bytes = b"", frame_limit: int | None = None) -> None:
        """The responder's decision after it saw `peer_key` and `peer_payload` in phase OFFERED: go on.

        `payload` is for the peer; `frame_limit` replaces the limit for what this peer may send.
        """
        if self._phase is not Phase.OFFERED:
            raise RuntimeError(f"nothing is offered: the session is {self._phase.value}")
        _check_payload(payload)
        if frame_limit is not None:
            self._decoder.limit = frame_limit
        self._put(self._noise.write_message(payload))
        self._finish()
        self._phase = Phase.CONFIRMING

    def close(self) -> None:
        """Ends the session: nothing is received or sent any more."""
        self._phase = Phase.CLOSED
        self._pending.clear()
        self._output.clear()

    def send(self, frames: Iterable[bytes]) -> bytes:
        """The bytes that carry all these frames: one join, and one encryption for each 64 KiB of them."""
        if self._phase is not Phase.OPEN:
            raise RuntimeError(f"frames can be sent only on an open session; this one is {self._phase.value}")
        content = encode_frames(frames)
        encrypt = self._sender.encrypt
        if len(content) <= CONTENT_SIZE_MAX:
            message = encrypt(b"", content)
            return _LENGTH.pack(len(message)) + message
        parts: list[bytes] = []
        for offset in range(0, len(content), CONTENT_SIZE_MAX):
            message = encrypt(b"", content[offset : offset + CONTENT_SIZE_MAX])
            parts.append(_LENGTH.pack(len(message)))
            parts.append(message)
        return b"".join(parts)

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """The frames that `data` completes, in order. Raises `SessionError`, after which the session is closed.

        `data` may be cut anywhere. It is copied where it must be kept, so that the caller may reuse its buffer.
        """
        if self._phase is Phase.CLOSED:
            raise SessionError("closed", "the session has ended")
        try:
            return self._receive(data)
        except NoiseError as error:
            opening = self._phase in (Phase.OPENING_SENT, Phase.AWAITING_OPENING)
            self.close()
            raise SessionError("bad handshake" if opening else "bad message", str(error)) from None
        except FramingError as error:
            self.close()
            reason: Reason = "frame too long" if isinstance(error, FrameTooLong) else "bad frame"
            raise SessionError(reason, str(error)) from None
        except SessionError:
            self.close()
            raise

    def _receive(self, data: bytes | memoryview) -> list[bytes]:
        pending = self._pending
        frames: list[bytes] = []
        offset = 0
        size = len(data)
        while pending:  # a message of which a part came earlier: completed by itself, so that the rest is not copied
            end = offset + self._needed - len(pending)
            pending += data[offset:end]
            offset = end
            if len(pending) < self._needed:
                return frames
            if self._needed == _LENGTH_SIZE:
                self._needed += self._checked_length(pending, 0)
                if len(pending) < self._needed:
                    continue
            self._needed = _LENGTH_SIZE
            del pending[:_LENGTH_SIZE]
            message = bytes(pending)
            pending.clear()
            frames += self._take(message)
        while size - offset >= _LENGTH_SIZE:
            start = offset + _LENGTH_SIZE
            end = start + self._checked_length(data, offset)
            if end > size:
                self._needed = end - offset
                break
            offset = end
            frames += self._take(bytes(data[start:end]))
        if offset < size:
            pending += data[offset:]
        return frames

    def _checked_length(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Before the peer has proved anything, no more is kept for it than the message that is due."""
        length: int = _LENGTH.unpack_from(data, offset)[0]
        phase = self._phase
        if phase is Phase.OPEN:
            return length
        if phase is Phase.OFFERED:
            raise SessionError("bad handshake", "bytes came before they were due")
        if phase is Phase.AWAITING_OPENING and length > OPENING_SIZE_MAX:
            raise SessionError("bad handshake", f"an opening of {length} bytes was announced")
        if phase is Phase.OPENING_SENT and length > ANSWER_SIZE_MAX:
            raise SessionError("bad handshake", f"an answer of {length} bytes was announced")
        return length

    def _take(self, message: bytes) -> list[bytes]:
        """The frames that one Noise message completes."""
        if self._phase is Phase.OPEN:
            return self._decoder.feed(self._receiver.decrypt(b"", message))
        return self._take_early(message)

    def _take_early(self, message: bytes) -> list[bytes]:
        if self._phase is Phase.AWAITING_OPENING:
            self._on_opening(message)
            return []
        if self._phase is Phase.OPENING_SENT:
            self.peer_payload = self._noise.read_message(message)
            self._finish()
            self._put(self._sender.encrypt(b"", b""))
            self._phase = Phase.OPEN
            return []
        assert self._phase is Phase.CONFIRMING
        content = self._receiver.decrypt(b"", message)
        self._phase = Phase.OPEN
        return self._decoder.feed(content)

    def _on_opening(self, message: bytes) -> None:
        content = self._noise.read_message(message)
        if len(content) < IDENTITY_SIZE:
            raise SessionError("bad handshake", "the opening names no identity")
        identity_key = content[:IDENTITY_SIZE]
        try:
            expected = static_public_key(identity_key)
        except ValueError as error:
            raise SessionError("unexpected peer", str(error)) from None
        if expected != self._noise.remote_static:
            raise SessionError("unexpected peer", "the peer's identity is not the key of its handshake")
        self.peer_key = identity_key
        self.peer_payload = content[IDENTITY_SIZE:]
        self._phase = Phase.OFFERED

    def _finish(self) -> None:
        self._sender, self._receiver = self._noise.split()
        self.handshake_hash = self._noise.handshake_hash

    def _put(self, message: bytes) -> None:
        self._output += _LENGTH.pack(len(message))
        self._output += message


def _check_payload(payload: bytes) -> None:
    if len(payload) > PAYLOAD_SIZE_MAX:
        raise ValueError(f"a handshake payload has at most {PAYLOAD_SIZE_MAX} bytes, not {len(payload)}")
