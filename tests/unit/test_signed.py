"""Signed bytes and certificates: what is refused, and that nothing can be shown for another use (SAFETY rule 2)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from bftkit.core.wire import Codec, WireError
from bftkit.crypto.keys import Ed25519Keyring, SigningKey
from bftkit.crypto.signed import Certificate, Signed, Vote

MEMBERS = ("m0", "m1", "m2", "m3")
KEYS = {member: SigningKey(bytes([index + 1]) * 32) for index, member in enumerate(MEMBERS)}
PUBLICS = {member: key.public for member, key in KEYS.items()}
STRANGER = SigningKey(b"s" * 32)

GROUP, OPENING = b"g" * 32, b"o" * 32
PURPOSE = "checkpoint"
BODY = b"slot 128 has digest d"
QUORUM = 3


def keyring(me: str = "m0", group: bytes = GROUP, epoch: int = 0, opening: bytes = OPENING) -> Ed25519Keyring:
    return Ed25519Keyring(group, epoch, opening, me, KEYS[me], PUBLICS)


def vote(member: str, body: bytes = BODY, purpose: str = PURPOSE) -> Vote:
    return Vote(member, keyring(member).sign(purpose, body))


def certificate(*members: str) -> Certificate:
    return Certificate(BODY, tuple(vote(member) for member in members))


OTHER_SCOPES = {
    "group": keyring(group=b"h" * 32),
    "epoch": keyring(epoch=1),
    "opening": keyring(opening=b"p" * 32),
}


# ------------------------------------------------------------------------------------------------- signed


def test_what_a_member_signed_is_valid_for_everybody() -> None:
    signed = Signed.by("m1", keyring("m1"), PURPOSE, BODY)
    assert (signed.signer, signed.body) == ("m1", BODY)
    for member in MEMBERS:
        assert signed.valid(keyring(member), PURPOSE)


@pytest.mark.parametrize("scope", sorted(OTHER_SCOPES))
def test_it_is_not_valid_in_another_group_epoch_or_chain(scope: str) -> None:
    """FAULTS 11."""
    signed = Signed.by("m1", keyring("m1"), PURPOSE, BODY)
    assert not signed.valid(OTHER_SCOPES[scope], PURPOSE)


@pytest.mark.parametrize("purpose", ["prepare", "checkpoint2", "checkpoin", "Checkpoint"])
def test_it_is_not_valid_for_another_purpose(purpose: str) -> None:
    assert not Signed.by("m1", keyring("m1"), PURPOSE, BODY).valid(keyring(), purpose)


@pytest.mark.parametrize(
    "change",
    [
        {"body": BODY + b"!"},
        {"body": b""},
        {"signer": "m2"},
        {"signer": "nobody"},
        {"signature": bytes(64)},
        {"signature": b""},
        {"signature": bytes(65)},
    ],
)
def test_a_changed_part_makes_it_invalid(change: dict[str, Any]) -> None:
    signed = Signed.by("m1", keyring("m1"), PURPOSE, BODY)
    assert signed.valid(keyring(), PURPOSE)
    assert not attrs.evolve(signed, **change).valid(keyring(), PURPOSE)


@pytest.mark.parametrize("bit", range(0, 512, 7))
def test_a_flipped_bit_of_the_signature_makes_it_invalid(bit: int) -> None:
    signed = Signed.by("m1", keyring("m1"), PURPOSE, BODY)
    signature = bytearray(signed.signature)
    signature[bit // 8] ^= 1 << bit % 8
    assert not attrs.evolve(signed, signature=bytes(signature)).valid(keyring(), PURPOSE)


# ------------------------------------------------------------------------------------------------- certificates


@pytest.mark.parametrize("members", [("m0", "m1", "m2"), ("m0", "m2", "m3"), MEMBERS])
def test_a_quorum_of_votes_is_a_certificate_for_everybody(members: tuple[str, ...]) -> None:
    for me in MEMBERS:
        assert certificate(*members).valid(keyring(me), PURPOSE, QUORUM)


def test_votes_are_put_in_order_whatever_order_they_came_in() -> None:
    signatures = {member: vote(member).signature for member in ("m3", "m0", "m2")}
    made = Certificate.of(BODY, signatures)
    assert made == certificate("m0", "m2", "m3")
    assert made.valid(keyring(), PURPOSE, QUORUM)


@pytest.mark.parametrize(
    "members",
    [
        (),
        ("m0",),
        ("m0", "m1"),
        ("m0", "m0", "m0"),
        ("m0", "m1", "m1"),
        ("m0", "m0", "m1", "m2"),
        ("m1", "m0", "m2"),
        ("m0", "m2", "m1"),
        ("m2", "m1", "m0"),
        ("m0", "m1", "m2", "m1"),
    ],
)
def test_too_few_repeated_and_unsorted_votes_are_refused(members: tuple[str, ...]) -> None:
    """FAULTS 23: every signature here is good, and each set of them is not a certificate of three."""
    assert all(keyring().verify(vote(each).member, PURPOSE, BODY, vote(each).signature) for each in members)
    assert not certificate(*members).valid(keyring(), PURPOSE, QUORUM)


@pytest.mark.parametrize(
    "bad",
    [
        vote("m3", body=b"slot 128 has digest e"),
        vote("m3", purpose="prepare"),
        Vote("m3", vote("m2").signature),
        Vote("m3", bytes(64)),
        Vote("m3", b""),
        Vote("m9", STRANGER.sign(BODY)),
        Vote("m9", vote("m3").signature),
    ],
)
def test_one_bad_vote_spoils_the_certificate_even_beyond_the_quorum(bad: Vote) -> None:
    good = certificate("m0", "m1", "m2")
    assert good.valid(keyring(), PURPOSE, QUORUM)
    assert not attrs.evolve(good, votes=(*good.votes, bad)).valid(keyring(), PURPOSE, QUORUM)
    assert not attrs.evolve(good, votes=(*good.votes[:2], bad)).valid(keyring(), PURPOSE, QUORUM)


def test_a_certificate_is_good_for_its_own_statement_and_purpose_only() -> None:
    good = certificate("m0", "m1", "m2")
    assert not attrs.evolve(good, body=BODY + b"!").valid(keyring(), PURPOSE, QUORUM)
    assert not good.valid(keyring(), "prepare", QUORUM)


@pytest.mark.parametrize("scope", sorted(OTHER_SCOPES))
def test_a_certificate_is_good_in_its_own_group_epoch_and_chain_only(scope: str) -> None:
    """FAULTS 11."""
    assert not certificate("m0", "m1", "m2").valid(OTHER_SCOPES[scope], PURPOSE, QUORUM)


def test_a_certificate_of_nobody_is_our_bug_not_a_proof() -> None:
    with pytest.raises(AssertionError):
        Certificate(BODY, ()).valid(keyring(), PURPOSE, 0)


# ------------------------------------------------------------------------------------------------- on the wire

CODEC = Codec[Signed | Certificate]("signed", {1: Signed, 2: Certificate})


@pytest.mark.parametrize("message", [Signed.by("m1", keyring("m1"), PURPOSE, BODY), certificate("m0", "m1", "m2")])
def test_they_travel(message: Signed | Certificate) -> None:
    assert CODEC.decode(CODEC.encode(message)) == message


def test_the_signed_bytes_survive_the_journey_untouched() -> None:
    """What is verified is what arrived: bodies need not be an encoding of anything."""
    for body in (b"", b"\x81\x01\x02", bytes(range(256))):
        received = CODEC.decode(CODEC.encode(Signed.by("m1", keyring("m1"), PURPOSE, body)))
        assert isinstance(received, Signed)
        assert received.body == body
        assert received.valid(keyring(), PURPOSE)


def test_signatures_of_another_length_do_not_arrive() -> None:
    data = CODEC.encode(certificate("m0", "m1", "m2"))
    assert data.count(b"\xc4\x40") == 3
    with pytest.raises(WireError):
        CODEC.decode(data.replace(b"\xc4\x40", b"\xc4\x3f", 1))
