"""Sessions: both sides agree and prove who they are; whatever is altered, replayed or foreign is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bftkit.network.framing import encode_frames
from bftkit.network.noise import HandshakeState
from bftkit.network.session import (
    CONTENT_SIZE_MAX,
    OPENING_SIZE_MAX,
    PATTERN,
    PAYLOAD_SIZE_MAX,
    Identity,
    Phase,
    Session,
    SessionError,
    group_prologue,
    static_public_key,
)

ANN, BOB, EVE = (Identity.from_seed(name * 32) for name in (b"a", b"b", b"e"))
GROUP = group_prologue(b"g" * 32)
OTHER_GROUP = group_prologue(b"h" * 32)


def initiator(
    identity: Identity = ANN, peer: Identity = BOB, prologue: bytes = GROUP, payload: bytes = b"from ann"
) -> Session:
    return Session.initiator(identity, peer.public_key, prologue, b"i" * 32, payload)


def responder(identity: Identity = BOB, ephemeral: bytes = b"r" * 32) -> Session:
    return Session.responder(identity, GROUP, ephemeral)


def open_pair() -> tuple[Session, Session]:
    ann, bob = initiator(), responder()
    bob.receive(ann.take_output())
    bob.accept(b"from bob")
    ann.receive(bob.take_output())
    bob.receive(ann.take_output())
    return ann, bob


def test_both_learn_who_the_other_is() -> None:
    ann, bob = initiator(), responder()
    assert bob.receive(ann.take_output()) == []
    assert bob.phase is Phase.OFFERED
    assert (bob.peer_key, bob.peer_payload) == (ANN.public_key, b"from ann")
    bob.accept(b"from bob")
    assert not bob.is_open
    ann.receive(bob.take_output())
    assert ann.is_open
    assert (ann.peer_key, ann.peer_payload) == (BOB.public_key, b"from bob")
    bob.receive(ann.take_output())
    assert bob.is_open
    assert ann.handshake_hash == bob.handshake_hash
    assert len(ann.handshake_hash) == 64


def test_each_connection_has_its_own_name() -> None:
    first, second = responder(ephemeral=b"1" * 32), responder(ephemeral=b"2" * 32)
    opening = initiator().take_output()
    for bob in (first, second):
        bob.receive(opening)
        bob.accept()
    assert first.handshake_hash != second.handshake_hash


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5), max_size=5), st.integers(1, 50))
def test_cuts_do_not_matter(flushes: list[list[bytes]], step: int) -> None:
    """FAULTS 7: the same frames whatever the cuts, the handshake included."""
    ann, bob = initiator(), responder()
    got: list[bytes] = []

    def carry(data: bytes, to: Session) -> None:
        for offset in range(0, len(data), step):
            got.extend(to.receive(data[offset : offset + step]))

    carry(ann.take_output(), bob)
    bob.accept()
    carry(bob.take_output(), ann)
    stream = ann.take_output() + b"".join(ann.send(frames) for frames in flushes)
    carry(stream, bob)
    assert got == [frame for frames in flushes for frame in frames]
    got.clear()
    carry(b"".join(bob.send(frames) for frames in flushes), ann)
    assert got == [frame for frames in flushes for frame in frames]
    assert ann.buffered == bob.buffered == 0


@pytest.mark.parametrize("size", [CONTENT_SIZE_MAX - 4, CONTENT_SIZE_MAX - 3, 200_000])
def test_large_flushes_are_split(size: int) -> None:
    ann, bob = open_pair()
    frames = [b"x" * size, b"y"]
    data = ann.send(frames)
    messages = -(-len(encode_frames(frames)) // CONTENT_SIZE_MAX)
    assert len(data) == len(encode_frames(frames)) + messages * (2 + 16)
    assert bob.receive(data) == frames


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    """In the opening, the answer, the confirmation or a frame; FAULTS 10."""
    step = data.draw(st.sampled_from(["opening", "answer", "confirmation", "frame"]))
    ann, bob = initiator(), responder()
    got: list[bytes] = []

    def altered(message: bytes) -> bytes:
        position = data.draw(st.integers(0, len(message) - 1))
        changed = bytearray(message)
        changed[position] ^= 1 << data.draw(st.integers(0, 7))
        return bytes(changed)

    def receive(to: Session, message: bytes, this: str) -> None:
        # What follows an altered length may be needed for the error to show.
        got.extend(to.receive(altered(message) + bytes(70_000) if this == step else message))

    def converse() -> None:
        receive(bob, ann.take_output(), "opening")
        bob.accept()
        receive(ann, bob.take_output(), "answer")
        receive(bob, ann.take_output(), "confirmation")
        receive(bob, ann.send([b"important"]), "frame")

    with pytest.raises(SessionError):
        converse()
    assert got == []
    broken = ann if step == "answer" else bob
    assert broken.phase is Phase.CLOSED
    with pytest.raises(SessionError, match="ended"):
        broken.receive(b"")


def refused(bob: Session, opening: bytes) -> SessionError:
    with pytest.raises(SessionError) as caught:
        bob.receive(opening)
    assert bob.phase is Phase.CLOSED
    assert bob.take_output() == b""
    return caught.value


def test_another_group_or_version_is_refused() -> None:
    """FAULTS 11."""
    assert refused(responder(), initiator(prologue=OTHER_GROUP).take_output()).reason == "bad handshake"
    assert refused(responder(), initiator(prologue=GROUP[1:]).take_output()).reason == "bad handshake"


def test_an_opening_for_somebody_else_is_refused() -> None:
    assert refused(responder(EVE), initiator().take_output()).reason == "bad handshake"


def test_the_wrong_peer_cannot_answer() -> None:
    """Eve answers in Bob's place, with her own key: Ann does not take it."""
    ann = initiator()
    eve = responder(EVE)
    eve.receive(initiator(peer=EVE).take_output())
    eve.accept()
    with pytest.raises(SessionError) as caught:
        ann.receive(eve.take_output())
    assert caught.value.reason == "bad handshake"
    assert not ann.is_open


def opening_with(content: bytes, static: Identity = EVE) -> bytes:
    noise = HandshakeState(
        PATTERN,
        initiator=True,
        prologue=GROUP,
        static=static.static_key,
        ephemeral=b"i" * 32,
        remote_static=static_public_key(BOB.public_key),
    )
    message = noise.write_message(content)
    return len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ANN.public_key, "unexpected peer"),  # Eve's handshake, Ann's name
        (b"\xff" * 32, "unexpected peer"),  # no key at all
        (bytes(32), "unexpected peer"),  # a key of small order
        (b"short", "bad handshake"),
    ],
)
def test_a_name_that_the_handshake_does_not_prove_is_refused(content: bytes, reason: str) -> None:
    assert refused(responder(), opening_with(content)).reason == reason


def test_a_replayed_opening_opens_nothing() -> None:
    """Section 7.7 of the Noise specification: an opening can be replayed; what follows it cannot."""
    ann, bob = initiator(), responder()
    opening = ann.take_output()
    bob.receive(opening)
    bob.accept()
    ann.receive(bob.take_output())
    rest = ann.take_output() + ann.send([b"pay 1"])
    assert bob.receive(rest) == [b"pay 1"]
    again = responder(ephemeral=b"R" * 32)
    again.receive(opening)
    again.accept()
    assert not again.is_open
    with pytest.raises(RuntimeError, match="open session"):
        again.send([b"secret"])
    with pytest.raises(SessionError):
        again.receive(rest)
    assert not again.is_open


def test_replayed_and_reordered_frames_are_refused() -> None:
    """FAULTS 2, below the protocols: within a connection nothing comes twice."""
    ann, bob = open_pair()
    first, second = ann.send([b"1"]), ann.send([b"2"])
    assert bob.receive(first) == [b"1"]
    with pytest.raises(SessionError) as caught:
        bob.receive(first)
    assert caught.value.reason == "bad message"
    ann, bob = open_pair()
    first, second = ann.send([b"1"]), ann.send([b"2"])
    with pytest.raises(SessionError):
        bob.receive(second)
    ann, bob = open_pair()
    mirrored = ann.send([b"1"])
    with pytest.raises(SessionError):
        ann.receive(mirrored)


def test_what_a_stranger_can_make_us_keep() -> None:
    """FAULTS 9: an early length beyond what is due is refused by its two bytes alone."""
    bob = responder()
    assert bob.receive(OPENING_SIZE_MAX.to_bytes(2, "big")) == []
    assert bob.receive(bytes(OPENING_SIZE_MAX - 1)) == []
    assert bob.buffered <= OPENING_SIZE_MAX + 2
    assert refused(responder(), (OPENING_SIZE_MAX + 1).to_bytes(2, "big")).reason == "bad handshake"
    ann = initiator()
    with pytest.raises(SessionError):
        ann.receive(b"\xff\xff")
    opening = initiator().take_output()
    assert refused(responder(), opening + b"\x00\x00").reason == "bad handshake"


def test_a_peer_that_breaks_the_frames_is_refused() -> None:
    ann, bob = initiator(), Session.responder(BOB, GROUP, b"r" * 32, frame_limit=1000)
    bob.receive(ann.take_output())
    bob.accept(frame_limit=100)
    ann.receive(bob.take_output())
    assert bob.receive(ann.take_output() + ann.send([b"x" * 100])) == [b"x" * 100]
    with pytest.raises(SessionError) as caught:
        bob.receive(ann.send([b"x" * 101]))
    assert caught.value.reason == "frame too long"
    ann, bob = open_pair()
    with pytest.raises(SessionError) as caught:
        bob.receive(ann.send([b""]))
    assert caught.value.reason == "bad frame"


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waited_for(garbage: bytes) -> None:
    bob = responder()
    with contextlib.suppress(SessionError):
        assert bob.receive(garbage) == []
    assert bob.phase in (Phase.AWAITING_OPENING, Phase.CLOSED)
    assert not bob.is_open
    assert bob.peer_key is None


def test_callers_mistakes() -> None:
    with pytest.raises(ValueError, match="1024"):
        initiator(payload=bytes(PAYLOAD_SIZE_MAX + 1))
    with pytest.raises(ValueError, match="not an Ed25519"):
        Session.initiator(ANN, b"\xff" * 32, GROUP, b"i" * 32)
    with pytest.raises(ValueError, match="32 bytes"):
        group_prologue(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        Identity.from_seed(b"short")
    with pytest.raises(RuntimeError, match="nothing is offered"):
        responder().accept()
    assert "static" not in repr(ANN)


def test_payloads_of_full_length() -> None:
    ann, bob = initiator(payload=b"x" * PAYLOAD_SIZE_MAX), responder()
    bob.receive(ann.take_output())
    bob.accept(b"y" * PAYLOAD_SIZE_MAX)
    ann.receive(bob.take_output())
    assert ann.peer_payload == b"y" * PAYLOAD_SIZE_MAX
    assert bob.peer_payload == b"x" * PAYLOAD_SIZE_MAX
