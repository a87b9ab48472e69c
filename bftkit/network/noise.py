"""The Noise protocol framework (T. Perrin, revision 34): handshakes and encrypted transport.

Only what we use is here, exactly as specified: Diffie-Hellman 25519, ChaChaPoly, BLAKE2b (64-byte hash, HMAC and HKDF
over it), and the patterns in the table `PATTERNS`. The names are the specification's, so that one can read it section
by section beside this file: `CipherState` and `SymmetricState` are section 5.1 and 5.2, `HandshakeState` is 5.3,
the patterns are section 7.

Randomness is passed in: the driver draws 32 bytes for the ephemeral key of each handshake and never uses them twice.
The primitives are libsodium's, through PyNaCl.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import blake2b
from struct import Struct
from types import MappingProxyType
from typing import Final

import attrs
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError

KEY_SIZE: Final = 32
"""Bytes of a private key, a public key (DHLEN) and a cipher key."""

HASH_SIZE: Final = 64
"""HASHLEN of BLAKE2b."""

TAG_SIZE: Final = 16
"""Bytes that encryption adds."""

MESSAGE_SIZE_MAX: Final = 65535
"""The longest Noise message (section 3)."""

_ZERO_KEY: Final = bytes(KEY_SIZE)
_NONCE: Final = Struct("<4xQ").pack  # 32 bits of zeros, then the counter, little-endian (section 12.3)
_NONCE_MAX: Final = 2**64 - 1  # reserved (section 5.1)


class NoiseError(Exception):
    """A message from the peer does not fit: wrong key, wrong prologue, altered, replayed, or cut short."""


@attrs.frozen
class Pattern:
    """One handshake pattern of section 7: what is known beforehand, and the tokens of each message in turn."""

    initiator_known: tuple[str, ...]
    responder_known: tuple[str, ...]
    messages: tuple[tuple[str, ...], ...]


PATTERNS: Final[Mapping[str, Pattern]] = MappingProxyType(
    {
        "KK": Pattern(("s",), ("s",), (("e", "es", "ss"), ("e", "ee", "se"))),
        "IK": Pattern((), ("s",), (("e", "es", "s", "ss"), ("e", "ee", "se"))),
    }
)
"""To add a pattern, add its row; only the tokens e, s, ee, es, se, ss exist."""


def public_key(private: bytes) -> bytes:
    """The X25519 public key of a private key."""
    return crypto_scalarmult_base(private)


def diffie_hellman(private: bytes, public: bytes) -> bytes:
    """The shared secret. An all-zero result is refused: it comes from a public key of small order, with which the
    peer would fix the secret without knowing any private key (section 12.1 leaves this check to us)."""
    try:
        secret = crypto_scalarmult(private, public)
    except (CryptoError, RuntimeError):
        raise NoiseError("the peer's key is of small order") from None
    if secret == _ZERO_KEY:
        raise NoiseError("the peer's key is of small order")
    return secret


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """HKDF of section 4.3 with two outputs."""
    temporary = hmac.digest(chaining_key, material, "blake2b")
    first = hmac.digest(temporary, b"\x01", "blake2b")
    return first, hmac.digest(temporary, first + b"\x02", "blake2b")


class CipherState:
    """A key and a counter of messages (section 5.1). Without a key, messages pass in the clear."""

    __slots__ = ("_counter", "_key")

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key
        self._counter = 0

    @property
    def has_key(self) -> bool:
        """Whether messages are encrypted."""
        return self._key is not None

    def encrypt(self, associated: bytes, plaintext: bytes) -> bytes:
        """The next message, `TAG_SIZE` bytes longer than `plaintext`."""
        key = self._key
        if key is None:
            return plaintext
        counter = self._counter
        if counter == _NONCE_MAX:
            raise OverflowError("a Noise key must not encrypt more than 2**64 - 1 messages")
        self._counter = counter + 1
        return crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, associated, _NONCE(counter), key)

    def decrypt(self, associated: bytes, ciphertext: bytes) -> bytes:
        """The content of the next message. Raises `NoiseError`; the counter then stays where it was."""
        key = self._key
        if key is None:
            return ciphertext
        counter = self._counter
        if counter == _NONCE_MAX or len(ciphertext) < TAG_SIZE:
            raise NoiseError("a message is too short to be authentic")
        try:
            plaintext = crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, associated, _NONCE(counter), key)
        except CryptoError:
            raise NoiseError("a message is not authentic") from None
        self._counter = counter + 1
        return plaintext


class SymmetricState:
    """The running hash and chaining key of a handshake (section 5.2)."""

    __slots__ = ("_chaining_key", "_cipher", "hash")

    def __init__(self, protocol_name: bytes) -> None:
        if len(protocol_name) <= HASH_SIZE:
            self.hash = protocol_name.ljust(HASH_SIZE, b"\0")
        else:
            self.hash = blake2b(protocol_name).digest()
        self._chaining_key = self.hash
        self._cipher = CipherState()

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, key = _hkdf(self._chaining_key, material)
        self._cipher = CipherState(key[:KEY_SIZE])

    def mix_hash(self, data: bytes) -> None:
        self.hash = blake2b(self.hash + data).digest()

    @property
    def has_key(self) -> bool:
        return self._cipher.has_key

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self._cipher.encrypt(self.hash, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = self._cipher.decrypt(self.hash, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        """The ciphers for what the initiator sends and for what the responder sends."""
        first, second = _hkdf(self._chaining_key, b"")
        return CipherState(first[:KEY_SIZE]), CipherState(second[:KEY_SIZE])


class HandshakeState:
    """One side of one handshake (section 5.3).

    Call `write_message` and `read_message` alternately, the initiator writing first, until `finished`; then `split`.
    After a `NoiseError` the object must not be used again.
    """

    def __init__(
        self,
        pattern: str,
        *,
        initiator: bool,
        prologue: bytes,
        static: bytes,
        ephemeral: bytes,
        remote_static: bytes | None = None,
    ) -> None:
        """`static` and `ephemeral` are private keys; `remote_static` is the peer's public key where the pattern
        says that this side knows it beforehand."""
        self._pattern = PATTERNS[pattern]
        self._initiator = initiator
        self._static = static
        self._static_public = public_key(static)
        self._ephemeral = ephemeral
        self._remote_ephemeral: bytes | None = None
        self.remote_static = remote_static
        """The peer's static public key, as soon as it is known."""
        self._next = 0
        self._symmetric = SymmetricState(f"Noise_{pattern}_25519_ChaChaPoly_BLAKE2b".encode())
        self._symmetric.mix_hash(prologue)
        for ours, known in ((initiator, self._pattern.initiator_known), (not initiator, self._pattern.responder_known)):
            for token in known:
                assert token == "s", "pre-messages with ephemeral keys are not in our table"
                key = self._static_public if ours else remote_static
                if key is None:
                    raise ValueError(f"{pattern} needs the peer's static key beforehand")
                self._symmetric.mix_hash(key)

    @property
    def finished(self) -> bool:
        """Whether all messages of the pattern have passed."""
        return self._next == len(self._pattern.messages)

    @property
    def handshake_hash(self) -> bytes:
        """After the last message: names this very handshake, the same on both sides (section 11.2)."""
        return self._symmetric.hash

    def write_message(self, payload: bytes) -> bytes:
        """Our next handshake message."""
        symmetric = self._symmetric
        parts: list[bytes] = []
        for token in self._tokens(ours=True):
            if token == "e":
                key = public_key(self._ephemeral)
                parts.append(key)
                symmetric.mix_hash(key)
            elif token == "s":
                parts.append(symmetric.encrypt_and_hash(self._static_public))
            else:
                self._mix_secret(token)
        parts.append(symmetric.encrypt_and_hash(payload))
        return b"".join(parts)

    def read_message(self, message: bytes) -> bytes:
        """The payload of the peer's next handshake message. Raises `NoiseError`."""
        symmetric = self._symmetric
        offset = 0
        for token in self._tokens(ours=False):
            if token == "e":
                self._remote_ephemeral = _cut(message, offset, KEY_SIZE)
                offset += KEY_SIZE
                symmetric.mix_hash(self._remote_ephemeral)
            elif token == "s":
                size = KEY_SIZE + TAG_SIZE if symmetric.has_key else KEY_SIZE
                self.remote_static = symmetric.decrypt_and_hash(_cut(message, offset, size))
                offset += size
            else:
                self._mix_secret(token)
        return symmetric.decrypt_and_hash(message[offset:])

    def split(self) -> tuple[CipherState, CipherState]:
        """After the last message: the ciphers to send with and to receive with, in this order."""
        assert self.finished
        first, second = self._symmetric.split()
        return (first, second) if self._initiator else (second, first)

    def _tokens(self, *, ours: bool) -> tuple[str, ...]:
        if self.finished or (self._next % 2 == 0) != (self._initiator == ours):
            raise RuntimeError("it is not this side's turn in the handshake")
        tokens = self._pattern.messages[self._next]
        self._next += 1
        return tokens

    def _mix_secret(self, token: str) -> None:
        """`token` names the two keys: first the initiator's, then the responder's (e: ephemeral, s: static)."""
        own, remote = (token[0], token[1]) if self._initiator else (token[1], token[0])
        private = self._ephemeral if own == "e" else self._static
        public = self._remote_ephemeral if remote == "e" else self.remote_static
        assert public is not None, "a pattern uses a key only after it was sent"
        self._symmetric.mix_key(diffie_hellman(private, public))


def _cut(message: bytes, offset: int, size: int) -> bytes:
    part = message[offset : offset + size]
    if len(part) < size:
        raise NoiseError("a handshake message is cut short")
    return part
