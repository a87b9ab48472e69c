"""The Noise handshakes against published vectors, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt

from bftkit.network.noise import PATTERNS, CipherState, HandshakeState, NoiseError, diffie_hellman, public_key

VECTORS = Path(__file__).parent.parent / "vectors" / "noise.txt"
SUFFIX = "_25519_ChaChaPoly_BLAKE2b"
SMALL_ORDER = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")


def read_vectors() -> list[dict[str, str]]:
    lines = [line for line in VECTORS.read_text().splitlines() if not line.startswith("#")]
    blocks = "\n".join(lines).strip().split("\n\n")
    return [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks]


def test_both_patterns_have_vectors() -> None:
    names = [vector["handshake"] for vector in read_vectors()]
    assert sorted(set(names)) == sorted(f"Noise_{pattern}{SUFFIX}" for pattern in PATTERNS)
    assert len(names) == 8


@pytest.mark.parametrize("vector", read_vectors(), ids=lambda vector: vector["handshake"][6:8])
def test_vector(vector: dict[str, str]) -> None:
    """Every message of the published conversation, byte for byte, and read back by the other side."""
    field = {name: bytes.fromhex(text) for name, text in vector.items() if name != "handshake"}
    pattern = vector["handshake"].removeprefix("Noise_").removesuffix(SUFFIX)
    prologue = field.get("prologue", b"")
    initiator = HandshakeState(
        pattern,
        initiator=True,
        prologue=prologue,
        static=field["init_static"],
        ephemeral=field["gen_init_ephemeral"],
        remote_static=public_key(field["resp_static"]),
    )
    responder = HandshakeState(
        pattern,
        initiator=False,
        prologue=prologue,
        static=field["resp_static"],
        ephemeral=field["gen_resp_ephemeral"],
        remote_static=public_key(field["init_static"]) if PATTERNS[pattern].initiator_known else None,
    )
    for number, (writer, reader) in enumerate([(initiator, responder), (responder, initiator)]):
        message = writer.write_message(field[f"msg_{number}_payload"])
        assert message == field[f"msg_{number}_ciphertext"]
        assert reader.read_message(message) == field[f"msg_{number}_payload"]
    assert initiator.handshake_hash == responder.handshake_hash
    assert responder.remote_static == public_key(field["init_static"])
    to_responder, from_responder = initiator.split()
    to_initiator, from_initiator = responder.split()
    for number, sender, receiver in ((2, to_responder, from_initiator), (3, to_initiator, from_responder)):
        ciphertext = sender.encrypt(b"", field[f"msg_{number}_payload"])
        assert ciphertext == field[f"msg_{number}_ciphertext"]
        assert receiver.decrypt(b"", ciphertext) == field[f"msg_{number}_payload"]


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), SMALL_ORDER])
def test_keys_of_small_order_are_refused(key: bytes) -> None:
    with pytest.raises(NoiseError, match="small order"):
        diffie_hellman(b"\x42" * 32, key)


def test_replayed_reordered_and_short_messages_are_refused() -> None:
    key = b"k" * 32
    sender, receiver = CipherState(key), CipherState(key)
    first, second = sender.encrypt(b"", b"one"), sender.encrypt(b"", b"two")
    with pytest.raises(NoiseError):
        receiver.decrypt(b"", second)
    assert receiver.decrypt(b"", first) == b"one"
    with pytest.raises(NoiseError):
        receiver.decrypt(b"", first)
    for size in (0, 1, 15, 16):
        with pytest.raises(NoiseError):
            receiver.decrypt(b"", bytes(size))
    assert receiver.decrypt(b"", second) == b"two"


def test_a_key_is_not_used_for_ever() -> None:
    cipher = CipherState(b"k" * 32)
    cipher._counter = 2**64 - 1  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(OverflowError):
        cipher.encrypt(b"", b"x")
    last = crypto_aead_chacha20poly1305_ietf_encrypt(b"x", b"", bytes(4) + b"\xff" * 8, b"k" * 32)
    with pytest.raises(NoiseError):
        cipher.decrypt(b"", last)


def test_turns_are_kept() -> None:
    """A caller's mistake is an exception and not a wrong message."""
    side = HandshakeState("IK", initiator=False, prologue=b"", static=b"s" * 32, ephemeral=b"e" * 32)
    with pytest.raises(RuntimeError, match="turn"):
        side.write_message(b"")
    with pytest.raises(ValueError, match="static key"):
        HandshakeState("IK", initiator=True, prologue=b"", static=b"s" * 32, ephemeral=b"e" * 32)


@pytest.mark.parametrize("size", [0, 31, 32, 79, 80, 95])
def test_openings_cut_short_are_refused(size: int) -> None:
    initiator = HandshakeState(
        "IK",
        initiator=True,
        prologue=b"",
        static=b"a" * 32,
        ephemeral=b"e" * 32,
        remote_static=public_key(b"b" * 32),
    )
    responder = HandshakeState("IK", initiator=False, prologue=b"", static=b"b" * 32, ephemeral=b"f" * 32)
    message = initiator.write_message(b"")
    assert len(message) == 96
    with pytest.raises(NoiseError):
        responder.read_message(message[:size])
