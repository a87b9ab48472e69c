"""The threshold coin: what makes one, what is refused, and what fewer shares than the threshold say (nothing).

Cachin, Kursawe, Shoup (PODC 2000), section 4: *robustness* (no liar turns a coin into another one, or stops it) and
*unpredictability* (below the threshold, every value of a coin is as likely as before).
"""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_from_uniform,
    crypto_core_ed25519_is_valid_point,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_core_ed25519_sub,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)

from bftkit.core.digest import digest
from bftkit.core.ordering import CoinProtocol
from bftkit.core.quorum import Quorum
from bftkit.crypto.threshold import (
    GROUP_ORDER,
    SHARE_SIZE,
    CoinPublics,
    Coins,
    deal,
    interpolate,
    is_point,
    is_scalar,
    lagrange,
    public_point,
    scalar,
)
from bftkit.sim.coins import coins_of, fast_coins, real_coins

GROUP, OPENING = digest(b"group"), digest(b"opening")
MEMBERS = ("m0", "m1", "m2", "m3")
QUORUM = Quorum(4, 1)
SECRET = bytes(range(32))
VECTORS = Path(__file__).parent.parent / "vectors" / "coin.txt"

DUAL = QUORUM.available
"""n - t: what agreement needs."""
SIMPLE = QUORUM.faulty + 1
"""t + 1: what a coin without agreement around it would do with."""

TORSION = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
"""A point of order 8."""
SMALL = [
    (1).to_bytes(32, "little"),  # zero
    bytes(32),  # order 4
    ((1 << 255) - 20).to_bytes(32, "little"),  # order 2
    TORSION,
]


FULL = b"bftkit/1/coin\0" + GROUP + (0).to_bytes(8, "big") + OPENING + b"\0coin"
"""The name of the coin ``coin`` with all that stands in front of it."""


def coins(threshold: int = DUAL, members: tuple[str, ...] = MEMBERS) -> dict[str, Coins]:
    return real_coins(SECRET, GROUP, 0, OPENING, members, threshold)


def tossed(threshold: int = DUAL) -> tuple[dict[str, Coins], dict[str, bytes]]:
    """Everybody's coins, and everybody's share of one coin."""
    parts = coins(threshold)
    return parts, {member: part.share(b"coin") for member, part in parts.items()}


# ------------------------------------------------------------------------------------------------- one coin


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
@pytest.mark.parametrize("threshold", [SIMPLE, DUAL])
def test_any_threshold_shares_make_the_same_coin(kind: str, threshold: int) -> None:
    parts = coins_of(kind, SECRET, GROUP, 0, OPENING, MEMBERS, threshold)
    shares = {member: part.share(b"coin") for member, part in parts.items()}
    assert all(parts[a].verify(b, b"coin", shares[b]) for a in MEMBERS for b in MEMBERS)
    values = {
        parts[member].combine(b"coin", {chosen: shares[chosen] for chosen in some})
        for size in range(threshold, len(MEMBERS) + 1)
        for some in itertools.permutations(MEMBERS, size)
        for member in MEMBERS[:1]
    }
    assert len(values) == 1
    assert len(values.pop()) == 32
    assert parts["m0"].share(b"coin") == shares["m0"]
    assert len(shares["m0"]) == SHARE_SIZE


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
@pytest.mark.parametrize("threshold", [SIMPLE, DUAL])
def test_with_fewer_shares_there_is_no_coin(kind: str, threshold: int) -> None:
    parts = coins_of(kind, SECRET, GROUP, 0, OPENING, MEMBERS, threshold)
    assert parts["m0"].threshold == threshold
    few = {member: parts[member].share(b"coin") for member in MEMBERS[: threshold - 1]}
    with pytest.raises(ValueError, match=f"make no coin; {threshold} do"):
        parts["m0"].combine(b"coin", few)


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
def test_another_name_is_another_coin(kind: str) -> None:
    parts = coins_of(kind, SECRET, GROUP, 0, OPENING, MEMBERS, DUAL)
    names = [b"", b"a", b"b", b"a" * 128, b"a" * 129, digest(b"a" * 129)]
    values = [parts["m0"].combine(name, {m: parts[m].share(name) for m in MEMBERS}) for name in names]
    assert len(set(values)) == len(names)
    shares = [parts["m0"].share(name) for name in names]
    for one, other in itertools.permutations(range(len(names)), 2):
        assert not parts["m1"].verify("m0", names[one], shares[other])


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
@pytest.mark.parametrize(
    "context", [(digest(b"other"), 0, OPENING), (GROUP, 1, OPENING), (GROUP, 0, digest(b"other"))], ids=str
)
def test_a_share_is_good_in_one_group_epoch_and_opening(kind: str, context: tuple[bytes, int, bytes]) -> None:
    """SAFETY rule 2: with the same key, coins of the same name are others elsewhere."""
    here = coins_of(kind, SECRET, GROUP, 0, OPENING, MEMBERS, DUAL)
    there = coins_of(kind, SECRET, *context, MEMBERS, DUAL)
    share = here["m0"].share(b"coin")
    assert here["m1"].verify("m0", b"coin", share)
    assert not there["m1"].verify("m0", b"coin", share)
    assert share != there["m0"].share(b"coin")
    values = [parts["m0"].combine(b"coin", {m: parts[m].share(b"coin") for m in MEMBERS}) for parts in (here, there)]
    assert values[0] != values[1]


def test_own_vectors() -> None:
    """What was dealt and tossed once is dealt and tossed for ever; made by these lines, and checked by hand below."""
    found: dict[str, str] = {}
    for line in VECTORS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition(" = ")
            found[name] = value
    for label, threshold in (("dual", DUAL), ("simple", SIMPLE)):
        publics, shares = deal(MEMBERS, threshold, SECRET)
        parts = coins(threshold)
        for member in MEMBERS:
            assert found.pop(f"{label}.public.{member}") == publics[member].hex()
            assert found.pop(f"{label}.secret.{member}") == shares[member].hex()
            assert found.pop(f"{label}.share.{member}") == parts[member].share(b"coin").hex()
        assert (
            found.pop(f"{label}.coin")
            == parts["m0"].combine(b"coin", {m: parts[m].share(b"coin") for m in MEMBERS}).hex()
        )
    assert found == {}


# ------------------------------------------------------------------------------------------------- refused


def _without_a_byte(share: bytes) -> bytes:
    return share[:-1]


def _other(number: int) -> Callable[[bytes], bytes]:
    def flip(share: bytes) -> bytes:
        return share[:number] + bytes([share[number] ^ 1]) + share[number + 1 :]

    return flip


def _response_plus_order(share: bytes) -> bytes:
    response = int.from_bytes(share[64:], "little") + GROUP_ORDER
    return share[:64] + response.to_bytes(32, "little")


def _challenge_plus_order(share: bytes) -> bytes:
    challenge = int.from_bytes(share[32:64], "little") + GROUP_ORDER
    return share[:32] + challenge.to_bytes(32, "little") + share[64:]


TAMPERED: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("nothing", lambda share: b""),
    ("a byte is missing", _without_a_byte),
    ("a byte too many", lambda share: share + b"\0"),
    ("the point", _other(5)),
    ("the point's sign", _other(31)),
    ("the challenge", _other(40)),
    ("the challenge's last byte", _other(63)),
    ("the response", _other(70)),
    ("the response's last byte", _other(95)),
    ("a second encoding of the response", _response_plus_order),
    ("a second encoding of the challenge", _challenge_plus_order),
    ("no challenge", lambda share: share[:32] + bytes(32) + share[64:]),
    ("no response", lambda share: share[:64] + bytes(32)),
    ("no point", lambda share: bytes(32) + share[32:]),
    ("all bits", lambda share: b"\xff" * SHARE_SIZE),
    ("all zero", lambda share: bytes(SHARE_SIZE)),
]


@pytest.mark.parametrize("change", [case[1] for case in TAMPERED], ids=[case[0] for case in TAMPERED])
def test_a_share_with_a_changed_field_is_refused(change: Callable[[bytes], bytes]) -> None:
    parts, shares = tossed()
    assert parts["m1"].verify("m0", b"coin", shares["m0"])
    assert not parts["m1"].verify("m0", b"coin", change(shares["m0"]))


def test_a_share_is_its_owners_only() -> None:
    parts, shares = tossed()
    for member, owner in itertools.permutations(MEMBERS, 2):
        assert not parts["m0"].verify(member, b"coin", shares[owner])
    assert not parts["m0"].verify("m9", b"coin", shares["m0"])


def proof_of(part: Coins, secret: bytes, claimed: bytes, nonce: bytes, member: str = "m0") -> bytes:
    """A proof with a nonce of the prover's choice, written down from the paper and the module's text alone."""
    base = point_of(FULL)
    place = (list(part.publics).index(member) + 1).to_bytes(4, "big")
    said = b"".join(
        (
            b"coin challenge",
            place,
            part.publics[member],
            base,
            claimed,
            crypto_scalarmult_ed25519_base_noclamp(nonce),
            crypto_scalarmult_ed25519_noclamp(nonce, base),
            FULL,
        )
    )
    challenge = crypto_core_ed25519_scalar_reduce(hash512(said))
    response = crypto_core_ed25519_scalar_add(nonce, crypto_core_ed25519_scalar_mul(challenge, secret))
    return claimed + challenge + response


def hash512(data: bytes) -> bytes:
    return blake2b(data).digest()


def point_of(full: bytes) -> bytes:
    halves = [crypto_core_ed25519_from_uniform(digest(label, full)) for label in (b"coin point 1", b"coin point 2")]
    return crypto_core_ed25519_add(*halves)


def test_a_proof_by_the_book_is_taken() -> None:
    """The prover of this test knows nothing of the code, so the next tests' proofs fail for their reason only."""
    parts = coins()
    _, secrets = deal(MEMBERS, DUAL, SECRET)
    claimed = crypto_scalarmult_ed25519_noclamp(secrets["m0"], point_of(FULL))
    for nonce in (scalar(7), scalar(12345)):
        assert parts["m1"].verify("m0", b"coin", proof_of(parts["m0"], secrets["m0"], claimed, nonce))


def test_a_wrong_share_has_no_proof() -> None:
    """A member that knows its secret, but claims another point: the share would turn the coin into another one."""
    parts = coins()
    _, secrets = deal(MEMBERS, DUAL, SECRET)
    for claimed in (
        crypto_scalarmult_ed25519_noclamp(scalar(99), point_of(FULL)),
        crypto_scalarmult_ed25519_base_noclamp(secrets["m0"]),
        crypto_scalarmult_ed25519_noclamp(secrets["m1"], point_of(FULL)),
    ):
        for secret in (secrets["m0"], scalar(99), secrets["m1"]):
            assert not parts["m1"].verify("m0", b"coin", proof_of(parts["m0"], secret, claimed, scalar(7)))


@pytest.mark.parametrize("bound", [True, False])
def test_the_challenge_is_bound_to_the_share(bound: bool) -> None:
    """Were the share left out of the challenge, it could be chosen after it: a proof of a false statement.

    From w B, v U with different w and v, and the challenge c over them: S = ((w - v) / c + x) U passes both equations.
    """
    parts = coins()
    _, secrets = deal(MEMBERS, DUAL, SECRET)
    base, x = point_of(FULL), int.from_bytes(secrets["m0"], "little")
    w, v = 7, 9
    honest = crypto_scalarmult_ed25519_noclamp(secrets["m0"], base)
    said = b"".join(
        (
            b"coin challenge",
            (1).to_bytes(4, "big"),
            parts["m0"].publics["m0"],
            base,
            honest if bound else b"",
            crypto_scalarmult_ed25519_base_noclamp(scalar(w)),
            crypto_scalarmult_ed25519_noclamp(scalar(v), base),
            FULL,
        )
    )
    c = int.from_bytes(crypto_core_ed25519_scalar_reduce(hash512(said)), "little")
    false = crypto_scalarmult_ed25519_noclamp(scalar((w - v) * pow(c, -1, GROUP_ORDER) + x), base)
    assert false != honest
    # Both equations hold; it is the challenge alone that refuses it.
    response = scalar(w + c * x)
    assert crypto_core_ed25519_sub(
        crypto_scalarmult_ed25519_noclamp(response, base), crypto_scalarmult_ed25519_noclamp(scalar(c), false)
    ) == crypto_scalarmult_ed25519_noclamp(scalar(v), base)
    assert not parts["m1"].verify("m0", b"coin", false + scalar(c) + response)


@pytest.mark.parametrize("small", SMALL, ids=["zero", "order 4", "order 2", "order 8"])
def test_a_point_with_a_small_part_is_refused(small: bytes) -> None:
    """With such a part a share may pass the proof by chance (1 in 8) and makes another coin.

    The liar tries nonces until the challenge is a multiple of 8: then the small part vanishes from the equation.
    """
    parts, shares = tossed()
    _, secrets = deal(MEMBERS, DUAL, SECRET)
    assert not is_point(small)
    claimed = crypto_core_ed25519_add(shares["m0"][:32], small)
    tries = [proof_of(parts["m0"], secrets["m0"], claimed, scalar(nonce)) for nonce in range(1, 80)]
    assert any(int.from_bytes(share[32:64], "little") % 8 == 0 for share in tries), "no try would pass: more nonces"
    if claimed == shares["m0"][:32]:
        assert small == SMALL[0]
        return
    assert not is_point(claimed)
    assert not any(parts["m1"].verify("m0", b"coin", share) for share in tries)
    assert not parts["m1"].verify("m0", b"coin", small + shares["m0"][32:])


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
def test_random_bytes_are_no_share(kind: str) -> None:
    parts = coins_of(kind, SECRET, GROUP, 0, OPENING, MEMBERS, DUAL)
    for number in range(20):
        noise = b"".join(digest(bytes([number, part])) for part in range(3))
        assert not parts["m1"].verify("m0", b"coin", noise)


def test_the_fast_coins_take_valid_shares_only() -> None:
    parts = fast_coins(SECRET, GROUP, 0, OPENING, MEMBERS, DUAL)
    shares = {member: part.share(b"coin") for member, part in parts.items()}
    value = parts["m0"].combine(b"coin", shares)
    assert parts["m3"].combine(b"coin", {**shares, "m0": bytes(SHARE_SIZE)}) == value
    for wrong in (
        {**shares, "m0": bytes(SHARE_SIZE), "m1": shares["m2"]},
        {"m1": shares["m1"], "m2": shares["m2"], "m9": shares["m3"]},
        {member: parts[member].share(b"other") for member in MEMBERS},
    ):
        with pytest.raises(ValueError, match="make no coin; 3 do"):
            parts["m0"].combine(b"coin", wrong)
    other = fast_coins(b"other", GROUP, 0, OPENING, MEMBERS, DUAL)
    assert other["m0"].share(b"coin") != shares["m0"]
    assert other["m0"].combine(b"coin", {m: other[m].share(b"coin") for m in MEMBERS}) != value
    with pytest.raises(ValueError, match="5 shares of 4 can never make a coin"):
        fast_coins(SECRET, GROUP, 0, OPENING, MEMBERS, 5)


def test_combining_what_was_never_verified_is_the_callers_mistake() -> None:
    parts, shares = tossed()
    for wrong in ({**shares, "m9": shares["m0"]}, {**shares, "m0": b"short"}, {**shares, "m0": bytes(SHARE_SIZE)}):
        with pytest.raises(ValueError):
            parts["m0"].combine(b"coin", wrong)


# ------------------------------------------------------------------------------------------------- secrecy


def secrets_of(threshold: int) -> tuple[list[int], int]:
    """The members' shares, and the coin's secret, as numbers."""
    _, shares = deal(MEMBERS, threshold, SECRET)
    numbers = [int.from_bytes(shares[member], "little") for member in MEMBERS]
    places = range(1, threshold + 1)
    secret = sum(f * x for f, x in zip(lagrange(places), numbers[:threshold], strict=True)) % GROUP_ORDER
    return numbers, secret


@pytest.mark.parametrize("threshold", [SIMPLE, DUAL])
def test_interpolation_from_fewer_shares_gives_another_value(threshold: int) -> None:
    """One share fewer, taken for a polynomial of a lower degree, does not lead to the coin's point."""
    parts, shares = tossed(threshold)
    points = {place: shares[member][:32] for place, member in enumerate(MEMBERS, 1)}
    _, secret = secrets_of(threshold)
    point = crypto_scalarmult_ed25519_noclamp(scalar(secret), point_of(FULL))
    for some in itertools.combinations(points, threshold):
        assert interpolate({place: points[place] for place in some}) == point
    for some in itertools.combinations(points, threshold - 1):
        assert interpolate({place: points[place] for place in some}) != point
    assert parts["m0"].combine(b"coin", shares) == digest(b"coin value", point, FULL)


@pytest.mark.parametrize("threshold", [SIMPLE, DUAL])
def test_fewer_shares_fit_every_value_of_the_coin(threshold: int) -> None:
    """For every k - 1 shares and every candidate for the secret there is a polynomial that fits them all.

    So the shares rule no value out: among the polynomials of degree k - 1, exactly one goes through k - 1 shares and
    the candidate (k places, Lagrange). Its shares at the other places are as good as the real ones: the public points
    that belong to it pass every check that a key of this threshold must pass.
    """
    numbers, secret = secrets_of(threshold)
    for some in itertools.combinations(range(1, 5), threshold - 1):
        for candidate in (secret, (secret + 1) % GROUP_ORDER, 1, GROUP_ORDER - 1, 1 << 250):
            places = [0, *some]
            known = [candidate, *(numbers[place - 1] for place in some)]

            def at(place: int, places: list[int] = places, known: list[int] = known) -> int:
                return sum(f * x for f, x in zip(lagrange(places, place), known, strict=True)) % GROUP_ORDER

            assert all(at(place) == numbers[place - 1] for place in some)
            shares = [at(place) for place in range(1, 5)]
            assert (shares == numbers) == (candidate == secret)
            again = sum(f * x for f, x in zip(lagrange(range(1, threshold + 1)), shares, strict=False)) % GROUP_ORDER
            assert again == candidate
            CoinPublics(threshold, tuple(public_point(scalar(share)) for share in shares))


def test_the_nonce_is_another_one_for_everything_that_is_proved() -> None:
    """Two proofs with one nonce reveal the share: it must differ whenever the challenge does.

    Here the same secret stands at two places and under two names. If the nonce depended on less than the challenge,
    the difference of two responses divided by that of the challenges would be the secret.
    """
    _, secrets = deal(MEMBERS, 1, SECRET)
    secret = secrets["m0"]
    assert secrets["m1"] == secret, "a key of threshold 1 is the same at every place"
    publics = {member: public_point(secret) for member in MEMBERS}
    proofs = [
        Coins(GROUP, 0, OPENING, me, secret, publics, 1).share(name)
        for me, name in (("m0", b"coin"), ("m1", b"coin"), ("m0", b"other"))
    ]
    proofs += [Coins(GROUP, 1, OPENING, "m0", secret, publics, 1).share(b"coin")]
    numbers = [(int.from_bytes(p[32:64], "little"), int.from_bytes(p[64:], "little")) for p in proofs]
    x = int.from_bytes(secret, "little")
    nonces = {(response - challenge * x) % GROUP_ORDER for challenge, response in numbers}
    assert len(nonces) == len(proofs)
    # And whoever does not know the share cannot compute it.
    known = b"coin nonce" + (1).to_bytes(4, "big") + publics["m0"] + point_of(FULL) + proofs[0][:32] + FULL
    guess = crypto_core_ed25519_scalar_reduce(hash512(known))
    assert int.from_bytes(guess, "little") not in nonces
    for (c1, r1), (c2, r2) in itertools.combinations(numbers, 2):
        assert (r1 - r2) * pow(c1 - c2, -1, GROUP_ORDER) % GROUP_ORDER != x


def test_secrets_do_not_show_and_are_not_pickled() -> None:
    """SAFETY rule 20."""
    _, shares = deal(MEMBERS, DUAL, SECRET)
    part = coins()["m0"]
    for text in (repr(part), str(part), f"{part}"):
        assert shares["m0"].hex() not in text
        assert repr(shares["m0"])[2:-1] not in text
    with pytest.raises(TypeError, match="secrets leave through key files only"):
        pickle.dumps(part)
    with pytest.raises(ValueError) as caught:
        Coins(GROUP, 0, OPENING, "m1", shares["m0"], part.publics, DUAL)
    assert shares["m0"].hex() not in str(caught.value)


def test_coins_are_shared_by_copies_of_a_machine() -> None:
    part: CoinProtocol = coins()["m0"]
    assert copy.deepcopy(part) is part
    fast: CoinProtocol = fast_coins(SECRET, GROUP, 0, OPENING, MEMBERS, DUAL)["m0"]
    assert copy.deepcopy(fast) is fast


def test_points_are_remembered_for_the_newest_names_only() -> None:
    part = coins()["m0"]
    first = part.share(b"0")
    for number in range(200):
        part.share(b"%d" % number)
    assert len(part._points) <= 64  # pyright: ignore[reportPrivateUsage]
    assert part.share(b"0") == first


# ------------------------------------------------------------------------------------------------- keys


def test_what_is_dealt_follows_from_the_secret_bytes() -> None:
    assert deal(MEMBERS, DUAL, SECRET) == deal(MEMBERS, DUAL, SECRET)
    publics, shares = deal(MEMBERS, DUAL, SECRET)
    assert list(publics) == list(shares) == list(MEMBERS)
    assert all(public_point(shares[member]) == publics[member] for member in MEMBERS)
    others = [
        deal(MEMBERS, DUAL, digest(SECRET)),
        deal(MEMBERS, SIMPLE, SECRET),
        deal((*MEMBERS, "m4"), DUAL, SECRET),
    ]
    for other, _ in others:
        assert not set(other.values()) & set(publics.values())


@pytest.mark.parametrize(
    ("members", "threshold", "secret", "message"),
    [
        (MEMBERS, 0, SECRET, "0 shares of 4 can never make a coin"),
        (MEMBERS, 5, SECRET, "5 shares of 4 can never make a coin"),
        (MEMBERS, 3, b"short", "a key is dealt from 32 secret bytes, not 5"),
        (("m0", "m0"), 1, SECRET, "a member is named twice"),
    ],
)
def test_what_cannot_be_dealt(members: tuple[str, ...], threshold: int, secret: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deal(members, threshold, secret)


@pytest.mark.parametrize("threshold", [1, 2, 3, 4])
def test_a_key_is_known_by_its_degree(threshold: int) -> None:
    """With a higher degree two sets of shares would give two coins; with a lower one too few members could toss it."""
    points = tuple(deal(MEMBERS, threshold, SECRET)[0].values())
    assert CoinPublics(threshold, points).threshold == threshold
    for other in {1, 2, 3, 4} - {threshold}:
        with pytest.raises(ValueError, match=f"not those of one polynomial of degree {other - 1}"):
            CoinPublics(other, points)


def test_one_changed_point_is_found() -> None:
    points = list(deal(MEMBERS, DUAL, SECRET)[0].values())
    for index, point in enumerate(points):
        changed = crypto_core_ed25519_add(point, public_point(scalar(1)))
        assert crypto_core_ed25519_is_valid_point(changed)
        with pytest.raises(ValueError, match="not those of one polynomial"):
            CoinPublics(DUAL, (*points[:index], changed, *points[index + 1 :]))
    with pytest.raises(ValueError, match="not those of one polynomial"):
        CoinPublics(DUAL, (points[1], points[0], *points[2:]))


@pytest.mark.parametrize("wrong", [*SMALL, b"\xff" * 32, b"short"], ids=lambda point: point.hex()[:8])
def test_a_public_point_lies_in_the_group(wrong: bytes) -> None:
    publics, shares = deal(MEMBERS, DUAL, SECRET)
    with pytest.raises(ValueError, match="what stands at place 2 is no point of the group"):
        CoinPublics(DUAL, tuple({**publics, "m1": wrong}.values()))
    with pytest.raises(ValueError, match="the public point of m1 is no point of the group"):
        Coins(GROUP, 0, OPENING, "m0", shares["m0"], {**publics, "m1": wrong}, DUAL)


def test_coins_of_parts_that_do_not_fit_are_refused() -> None:
    publics, shares = deal(MEMBERS, DUAL, SECRET)

    def made(
        group: bytes = GROUP, me: str = "m0", share: bytes = shares["m0"], threshold: int = DUAL, epoch: int = 0
    ) -> Coins:
        return Coins(group, epoch, OPENING, me, share, publics, threshold)

    made()
    cases: list[tuple[Callable[[], Coins], str]] = [
        (lambda: made(group=b"short"), "a group id and an opening have 32 bytes"),
        (lambda: made(epoch=-1), "an epoch is a number from 0 on"),
        (lambda: made(me="m1"), "not the one that the members know m1 by in epoch 0"),
        (lambda: made(me="m9"), "not the one that the members know m9 by"),
        (lambda: made(share=bytes(32)), "this is no share of a coin key"),
        (lambda: made(share=shares["m0"] + b"\0"), "this is no share of a coin key"),
        (lambda: made(threshold=0), "0 shares of 4 can never make a coin"),
        (lambda: made(threshold=5), "5 shares of 4 can never make a coin"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_scalars_have_one_encoding() -> None:
    assert is_scalar(scalar(1))
    assert is_scalar(scalar(-1))
    for wrong in (scalar(0), GROUP_ORDER.to_bytes(32, "little"), b"\xff" * 32, b"", bytes(33)):
        assert not is_scalar(wrong)


def test_the_order_of_the_group() -> None:
    """(q - 1) B + B is zero, and B is not: q is the order, by the library's own arithmetic."""
    base = crypto_scalarmult_ed25519_base_noclamp(scalar(1))
    last = crypto_scalarmult_ed25519_base_noclamp(scalar(-1))
    assert crypto_core_ed25519_add(last, base) == SMALL[0]
    assert crypto_core_ed25519_sub(base, base) == SMALL[0]
    assert base != SMALL[0]
