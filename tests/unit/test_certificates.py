"""Quorum certificates: exactly `size` good votes of different members, in one form, and nothing else is one."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest

from bftkit.blocks.certificates import CERTIFICATE_BYTES_MAX, VOTE_BYTES, Certifier, SignatureLists
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Setup, SignerProtocol
from bftkit.core.quorum import Quorum, largest_tolerance
from bftkit.crypto.keys import Ed25519Keyring, SigningKey

GROUP, OPENING = b"g" * 32, b"o" * 32
PURPOSE = "test vote"
STATEMENT = b"slot 7 has digest d"


@attrs.define
class Counting:
    """A keyring that counts its checks."""

    ring: Ed25519Keyring
    checks: int = 0

    def sign(self, purpose: str, statement: bytes) -> bytes:
        return self.ring.sign(purpose, statement)

    def verify(self, member: MemberId, purpose: str, statement: bytes, signature: bytes) -> bool:
        self.checks += 1
        return self.ring.verify(member, purpose, statement, signature)


def setups(n: int, group: bytes = GROUP, epoch: int = 0) -> dict[MemberId, Setup]:
    members = tuple(f"m{index}" for index in range(n))
    keys = {member: SigningKey(member.encode().ljust(32, b".")) for member in members}
    publics = {member: key.public for member, key in keys.items()}
    quorum = Quorum(n, largest_tolerance(n))
    return {
        member: Setup(
            member, members, quorum, Counting(Ed25519Keyring(group, epoch, OPENING, member, keys[member], publics))
        )
        for member in members
    }


def certifiers(n: int = 4, purpose: str = PURPOSE) -> dict[MemberId, Certifier]:
    made: dict[MemberId, Certifier] = {}
    for member, setup in setups(n).items():
        made[member] = SignatureLists.of(setup, purpose, setup.quorum.available)
    return made


def votes(group: Mapping[MemberId, Certifier], *members: MemberId) -> dict[MemberId, bytes]:
    return {member: group[member].sign(STATEMENT) for member in members}


def checks(setup: Setup) -> int:
    keyring: SignerProtocol = setup.keyring
    assert isinstance(keyring, Counting)
    return keyring.checks


@pytest.mark.parametrize("n", [1, 2, 4, 7, 8, 9, 10, 31])
def test_a_certificate_of_the_size_is_good_for_everybody(n: int) -> None:
    group = certifiers(n)
    size = group["m0"].size
    signers = tuple(f"m{index}" for index in range(n))[-size:]
    certificate = group["m0"].combine(STATEMENT, votes(group, *signers))
    assert len(certificate) == (n + 7) // 8 + VOTE_BYTES * size <= CERTIFICATE_BYTES_MAX
    for certifier in group.values():
        assert certifier.verify(STATEMENT, certificate)
        assert certifier.signers(certificate) == signers
        assert not certifier.verify(STATEMENT + b".", certificate)


def test_what_is_over_is_left_out_and_the_order_of_the_votes_is_nothing() -> None:
    group = certifiers()
    all_votes = votes(group, "m3", "m1", "m0", "m2")
    certificate = group["m1"].combine(STATEMENT, all_votes)
    assert certificate == group["m2"].combine(STATEMENT, votes(group, "m0", "m1", "m2"))


def test_too_few_votes_or_those_of_strangers_make_none() -> None:
    group = certifiers()
    with pytest.raises(ValueError, match="3 members, not of 2"):
        group["m0"].combine(STATEMENT, votes(group, "m0", "m1"))
    with pytest.raises(ValueError, match="3 members, not of 2"):
        group["m0"].combine(STATEMENT, votes(group, "m0", "m1") | {"m9": bytes(64)})


def test_every_flipped_bit_is_found() -> None:
    group = certifiers()
    good = group["m0"].combine(STATEMENT, votes(group, "m0", "m1", "m2"))
    judge = certifiers()["m3"]
    for bit in [*range(8), *range(8, len(good) * 8, 13)]:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        assert not judge.verify(STATEMENT, bytes(bad)), bit
    assert judge.verify(STATEMENT, good)
    # After the good one is known, too.
    assert not judge.verify(STATEMENT, good[:-1] + bytes([good[-1] ^ 1]))


def test_other_lengths_orders_and_signers_are_refused() -> None:
    group = certifiers()
    cast = votes(group, "m0", "m1", "m2", "m3")
    judge = group["m3"]
    a, b, c, d = (cast[f"m{index}"] for index in range(4))
    assert judge.verify(STATEMENT, b"\x07" + a + b + c)
    bad = {
        "empty": b"",
        "a bitmap of nothing": b"\x00",
        "a vote twice": b"\x07" + a + a + b,
        "one vote for three bits": b"\x07" + a,
        "too few": b"\x03" + a + b,
        "two signers and three votes": b"\x03" + a + b + c,
        "wrong order": b"\x07" + b + a + c,
        "other signers": b"\x0b" + a + b + c,
        "one more than needed": b"\x0f" + a + b + c + d,
        "a stranger": b"\x13" + a + b + c,
        "a stranger beside": b"\x17" + a + b + c,
        "a longer bitmap": b"\x07\x00" + a + b + c,
        "something behind": b"\x07" + a + b + c + b"\x00",
        "something missing": b"\x07" + a + b + c[:-1],
    }
    for what, certificate in bad.items():
        assert not judge.verify(STATEMENT, certificate), what
    for what in ("empty", "too few", "two signers and three votes", "one more than needed", "a stranger"):
        assert judge.signers(bad[what]) == (), what


def test_a_vote_counts_for_its_member_its_statement_and_its_purpose_only() -> None:
    group = certifiers()
    vote = group["m1"].sign(STATEMENT)
    judge = group["m0"]
    for _ in range(2):
        assert judge.verify_vote("m1", STATEMENT, vote)
        assert not judge.verify_vote("m2", STATEMENT, vote)
        assert not judge.verify_vote("m9", STATEMENT, vote)
        assert not judge.verify_vote("m1", STATEMENT + b".", vote)
        assert not judge.verify_vote("m1", STATEMENT, vote[:-1])
        assert not judge.verify_vote("m1", STATEMENT, b"")


def test_two_purposes_and_two_sizes_share_a_memo_but_nothing_else() -> None:
    everybody = setups(4)
    group = {member: SignatureLists.of(setup, PURPOSE, 3) for member, setup in everybody.items()}
    other = SignatureLists.of(everybody["m0"], "another purpose", 3)
    weak = SignatureLists.of(everybody["m0"], PURPOSE, 2)
    cast = {member: certifier.sign(STATEMENT) for member, certifier in group.items()}
    three = group["m0"].combine(STATEMENT, cast)
    two = weak.combine(STATEMENT, cast)
    for _ in range(2):
        assert group["m0"].verify(STATEMENT, three)
        assert weak.verify(STATEMENT, two)
        assert not weak.verify(STATEMENT, three)
        assert not group["m0"].verify(STATEMENT, two)
        assert not other.verify(STATEMENT, three)
        assert not other.verify_vote("m1", STATEMENT, cast["m1"])


@pytest.mark.parametrize("scope", [{"group": b"h" * 32}, {"epoch": 1}])
def test_a_certificate_of_another_group_or_epoch_is_none(scope: dict[str, bytes | int]) -> None:
    group = certifiers()
    good = group["m0"].combine(STATEMENT, votes(group, "m0", "m1", "m2"))
    stranger = setups(4, **scope)["m0"]  # type: ignore[arg-type]
    assert not SignatureLists.of(stranger, PURPOSE, 3).verify(STATEMENT, good)


def test_what_was_checked_once_is_not_checked_again() -> None:
    everybody = setups(7)
    group = {member: SignatureLists.of(setup, PURPOSE, 5) for member, setup in everybody.items()}
    cast = {member: certifier.sign(STATEMENT) for member, certifier in group.items()}
    judge, setup = group["m6"], everybody["m6"]
    for member in ("m0", "m1", "m2", "m6"):
        assert judge.verify_vote(member, STATEMENT, cast[member])
    assert checks(setup) == 3, "the own vote is known to be good"
    first = judge.combine(STATEMENT, {member: cast[member] for member in ("m0", "m1", "m2", "m3", "m6")})
    assert judge.verify(STATEMENT, first)
    assert checks(setup) == 4, "of its votes only one was new"
    second = judge.combine(STATEMENT, {member: cast[member] for member in ("m0", "m1", "m2", "m3", "m4")})
    again = SignatureLists.of(setup, PURPOSE, 5)
    assert again.verify(STATEMENT, second)
    assert again.verify(STATEMENT, first)
    assert again.verify(STATEMENT, second)
    assert checks(setup) == 5


def test_lies_are_not_remembered() -> None:
    setup = setups(4)["m0"]
    judge = SignatureLists.of(setup, PURPOSE, 3)
    for number in range(50):
        assert not judge.verify_vote("m1", STATEMENT, bytes([number]) * 64)
        assert not judge.verify(STATEMENT, b"\x07" + bytes([number]) * 192)
    assert len(setup.memo) == 0
