"""Signatures, epoch keys and keyrings."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping

import pytest

from bftkit.core.digest import digest
from bftkit.crypto import entropy
from bftkit.crypto.keys import (
    STATEMENT_WHOLE_MAX,
    Ed25519Keyring,
    EpochKeys,
    Keyring,
    SigningKey,
    client_statement,
    framed_statement,
    purpose_prefix,
    verify_epoch_key,
    verify_signature,
)
from bftkit.sim.keyring import fast_keyrings

GROUP, OPENING = digest(b"group"), digest(b"opening")
MEMBERS = ("m0", "m1", "m2")


def seed(number: int) -> bytes:
    return bytes([number]) * 32


class TestSigningKey:
    def test_the_first_vectors_of_rfc_8032(self) -> None:
        # RFC 8032, section 7.1, tests 1 and 2.
        key = SigningKey(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
        assert key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        assert key.sign(b"").hex() == (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        )
        key = SigningKey(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
        assert key.public.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
        assert key.sign(b"\x72").hex() == (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        )

    def test_a_signature_is_good_for_one_key_and_one_message(self) -> None:
        key = SigningKey(seed(1))
        signature = key.sign(b"message")
        assert len(signature) == 64
        assert verify_signature(key.public, b"message", signature)
        assert not verify_signature(key.public, b"messagf", signature)
        assert not verify_signature(SigningKey(seed(2)).public, b"message", signature)

    def test_what_a_peer_may_send_is_refused_without_an_exception(self) -> None:
        key = SigningKey(seed(1))
        signature = key.sign(b"message")
        for wrong in (b"", signature[:-1], signature + b"\0", bytes(64), b"\xff" * 64, signature + b"message"):
            assert not verify_signature(key.public, b"message", wrong)
        for public in (b"", key.public[:-1], key.public + b"\0", bytes(32), b"\xff" * 32):
            assert not verify_signature(public, b"message", signature)
        # The border between signature and message moved: the same bytes in sum.
        assert not verify_signature(key.public, signature[-1:] + b"message", signature[:-1])

    def test_a_key_of_small_order_verifies_nothing(self) -> None:
        # Under the neutral element any message would have one signature.
        neutral = b"\x01" + bytes(31)
        assert not verify_signature(neutral, b"message", neutral + bytes(32))

    def test_secrets_do_not_show(self) -> None:
        key, keys = SigningKey(seed(7)), EpochKeys.generate([seed(7), seed(8)])
        ring = Ed25519Keyring(GROUP, 0, OPENING, "m0", key, {"m0": key.public})
        for text in (repr(key), repr(keys), repr(ring), f"{key} {keys} {ring}"):
            assert seed(7).hex() not in text
            assert repr(seed(7))[2:-1] not in text
        assert key.public.hex() in repr(key)
        for secret in (key, keys):
            with pytest.raises(TypeError, match="not pickled"):
                pickle.dumps(secret)
        with pytest.raises(ValueError, match="has 32 bytes, not 31") as caught:
            SigningKey(b"secret!" + bytes(24))
        assert "secret!" not in str(caught.value)


class TestEpochKeys:
    def test_every_epochs_key_is_committed_to(self) -> None:
        keys = EpochKeys.generate([seed(number) for number in range(5)])
        assert (keys.count, keys.first) == (5, 0)
        for epoch in range(5):
            public, path = keys.public(epoch), keys.path(epoch)
            assert public == SigningKey(seed(epoch)).public == keys.signing_key(epoch).public
            assert verify_epoch_key(keys.root, 5, epoch, public, path)
            assert not verify_epoch_key(keys.root, 5, (epoch + 1) % 5, public, path)
            assert not verify_epoch_key(keys.root, 6, epoch, public, path)
            assert not verify_epoch_key(keys.root, 5, epoch, SigningKey(seed(9)).public, path)
            assert not verify_epoch_key(digest(b""), 5, epoch, public, path)

    def test_one_key_for_two_epochs_is_told_apart(self) -> None:
        keys = EpochKeys.generate([seed(1), seed(1)])
        assert not verify_epoch_key(keys.root, 2, 0, keys.public(0), keys.path(1))

    @pytest.mark.parametrize(("count", "epoch"), [(0, 0), (2, 2), (2, -1), (1 << 64, 1), (1 << 80, 1 << 70)])
    def test_impossible_numbers_of_a_peer(self, count: int, epoch: int) -> None:
        keys = EpochKeys.generate([seed(0), seed(1)])
        assert not verify_epoch_key(keys.root, count, epoch, keys.public(0), keys.path(0))
        assert not verify_epoch_key(keys.root, 2, 0, b"short", keys.path(0))

    def test_erased_secrets_are_gone_and_old_proofs_stay(self) -> None:
        keys = EpochKeys.generate([seed(number + 1) for number in range(4)])
        root, proof = keys.root, (keys.public(0), keys.path(0))
        keys.erase_before(2)
        keys.erase_before(1)  # changes nothing: what is erased is erased
        assert keys.first == 2
        for epoch in (0, 1):
            with pytest.raises(ValueError, match=f"private key of epoch {epoch} is erased"):
                keys.signing_key(epoch)
            assert seed(epoch + 1) not in keys.to_bytes()
        assert keys.signing_key(2).public == keys.public(2)
        assert seed(3) in keys.to_bytes()
        assert (keys.root, keys.public(0), keys.path(0)) == (root, *proof)

    def test_the_last_key_is_not_erased(self) -> None:
        keys = EpochKeys.generate([seed(1), seed(2)])
        with pytest.raises(ValueError, match="no key for epoch 2: the keys reach from 0 to 1"):
            keys.erase_before(2)
        for use in (keys.public, keys.path, keys.signing_key):
            for epoch in (-1, 2):
                with pytest.raises(ValueError, match="no key for epoch"):
                    use(epoch)

    @pytest.mark.parametrize("erased", [0, 1, 3])
    def test_through_a_file(self, erased: int) -> None:
        keys = EpochKeys.generate([seed(number) for number in range(4)])
        keys.erase_before(erased)
        again = EpochKeys.from_bytes(keys.to_bytes())
        assert (again.root, again.count, again.first) == (keys.root, 4, erased)
        assert again.to_bytes() == keys.to_bytes()
        assert again.signing_key(3) == keys.signing_key(3)

    def test_a_damaged_file_is_refused(self) -> None:
        data = EpochKeys.generate([seed(1), seed(2)]).to_bytes()
        for end in range(len(data)):
            with pytest.raises(ValueError, match="file of epoch keys"):
                EpochKeys.from_bytes(data[:end])
        for place in range(len(data)):
            flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            with pytest.raises(ValueError, match="file of epoch keys"):
                EpochKeys.from_bytes(flipped)

    def test_a_file_with_numbers_that_do_not_fit(self) -> None:
        magic = EpochKeys.generate([]).to_bytes()[:-48]
        for count, first in ((1 << 60, 0), (0, 1), (1, 0)):
            body = magic + count.to_bytes(8, "big") + first.to_bytes(8, "big")
            with pytest.raises(ValueError, match="do not fit"):
                EpochKeys.from_bytes(body + digest(body))

    def test_parts_that_do_not_fit_together(self) -> None:
        publics = [SigningKey(seed(number)).public for number in range(3)]
        assert EpochKeys(publics, 1, [seed(1), seed(2)]).root == EpochKeys.generate(list(map(seed, range(3)))).root
        with pytest.raises(ValueError, match="2 seeds from epoch 0 on do not fit 3 public keys"):
            EpochKeys(publics, 0, [seed(0), seed(1)])
        with pytest.raises(ValueError, match="epoch 2 are not a pair"):
            EpochKeys(publics, 1, [seed(1), seed(1)])
        with pytest.raises(ValueError, match="public key of epoch 0 has 5 bytes"):
            EpochKeys([b"short"], 1, [])


def ed25519(group: bytes, epoch: int, opening: bytes) -> Mapping[str, Keyring]:
    keys = {member: SigningKey(seed(number)) for number, member in enumerate(MEMBERS)}
    publics = {member: key.public for member, key in keys.items()}
    return {member: Ed25519Keyring(group, epoch, opening, member, key, publics) for member, key in keys.items()}


def fast(group: bytes, epoch: int, opening: bytes) -> Mapping[str, Keyring]:
    return fast_keyrings(b"a world", group, epoch, opening, MEMBERS)


@pytest.mark.parametrize("make", [ed25519, fast])
class TestKeyring:
    """The claims hold for both keyrings, so that a simulation cannot miss what a real group would refuse."""

    def test_all_members_judge_alike(self, make: Callable[..., Mapping[str, Keyring]]) -> None:
        rings = make(GROUP, 3, OPENING)
        signature = rings["m1"].sign("prepare", b"statement")
        assert len(signature) == 64
        for ring in rings.values():
            assert ring.verify("m1", "prepare", b"statement", signature)
            assert not ring.verify("m0", "prepare", b"statement", signature)
            assert not ring.verify("nobody", "prepare", b"statement", signature)
            assert not ring.verify("m1", "prepare", b"Statement", signature)
            for wrong in (b"", signature[:-1], signature + b"\0", bytes(64)):
                assert not ring.verify("m1", "prepare", b"statement", wrong)

    def test_a_signature_binds_purpose_group_epoch_and_opening(
        self, make: Callable[..., Mapping[str, Keyring]]
    ) -> None:
        signature = make(GROUP, 3, OPENING)["m1"].sign("prepare", b"statement")
        assert make(GROUP, 3, OPENING)["m0"].verify("m1", "prepare", b"statement", signature)
        for other in (make(digest(b"?"), 3, OPENING), make(GROUP, 4, OPENING), make(GROUP, 3, digest(b"?"))):
            assert not other["m0"].verify("m1", "prepare", b"statement", signature)
        assert not make(GROUP, 3, OPENING)["m0"].verify("m1", "commit", b"statement", signature)

    def test_a_long_statement_is_not_its_digest(self, make: Callable[..., Mapping[str, Keyring]]) -> None:
        ring = make(GROUP, 0, OPENING)["m0"]
        statement = bytes(STATEMENT_WHOLE_MAX + 1)
        signature = ring.sign("p", statement)
        assert ring.verify("m0", "p", statement, signature)
        for other in (digest(statement), b"\1" + digest(statement), statement[:-1], statement + b"\0"):
            assert not ring.verify("m0", "p", other, signature)

    @pytest.mark.parametrize("purpose", ["", "two\0parts", "umlaut ä", "line\n"])
    def test_a_purpose_is_plain_text(self, make: Callable[..., Mapping[str, Keyring]], purpose: str) -> None:
        with pytest.raises(ValueError, match="purpose is printable ASCII"):
            make(GROUP, 0, OPENING)["m0"].sign(purpose, b"")

    def test_lengths_are_checked(self, make: Callable[..., Mapping[str, Keyring]]) -> None:
        for group, epoch, opening in ((b"g", 0, OPENING), (GROUP, 0, OPENING[1:]), (GROUP, -1, OPENING)):
            with pytest.raises(ValueError, match=r"a group id and an opening|an epoch is"):
                make(group, epoch, opening)

    def test_a_copied_machine_shares_its_keyring(self, make: Callable[..., Mapping[str, Keyring]]) -> None:
        ring = make(GROUP, 0, OPENING)["m0"]
        assert copy.deepcopy(ring) is ring


def test_the_exact_string_that_is_signed() -> None:
    key = SigningKey(seed(0))
    ring = Ed25519Keyring(GROUP, 5, OPENING, "m0", key, {"m0": key.public})
    start = b"bftkit/1/prepare\0" + GROUP + bytes(7) + b"\x05" + OPENING
    assert ring.sign("prepare", b"short") == key.sign(start + b"\0short")
    assert ring.sign("prepare", bytes(128)) == key.sign(start + b"\0" + bytes(128))
    assert ring.sign("prepare", bytes(129)) == key.sign(start + b"\1" + digest(bytes(129)))


def test_a_client_binds_purpose_and_group_only() -> None:
    assert client_statement(GROUP, b"bundle") == b"bftkit/1/client\0" + GROUP + b"\0bundle"
    long = bytes(1000)
    assert client_statement(GROUP, long) == purpose_prefix("client") + GROUP + framed_statement(long)
    with pytest.raises(ValueError, match="a group id has 32 bytes, not 5"):
        client_statement(b"group", b"bundle")


def test_a_key_that_the_others_do_not_know_is_refused() -> None:
    key, other = SigningKey(seed(0)), SigningKey(seed(1))
    for publics in ({"m0": other.public}, {"m1": key.public}, {}):
        with pytest.raises(ValueError, match="not the one that the members know m0 by in epoch 2"):
            Ed25519Keyring(GROUP, 2, OPENING, "m0", key, publics)


def test_the_worlds_seed_decides_simulated_signatures() -> None:
    one = fast_keyrings(b"1", GROUP, 0, OPENING, MEMBERS)["m0"]
    two = fast_keyrings(b"2", GROUP, 0, OPENING, MEMBERS)["m0"]
    assert one.sign("p", b"s") == fast_keyrings(b"1", GROUP, 0, OPENING, MEMBERS)["m0"].sign("p", b"s")
    assert not two.verify("m0", "p", b"s", one.sign("p", b"s"))


def test_a_member_of_another_simulated_group_is_a_stranger() -> None:
    outsider = fast_keyrings(b"1", GROUP, 0, OPENING, [*MEMBERS, "m9"])["m9"]
    signature = outsider.sign("p", b"s")
    assert outsider.verify("m9", "p", b"s", signature)
    assert not fast_keyrings(b"1", GROUP, 0, OPENING, MEMBERS)["m0"].verify("m9", "p", b"s", signature)


def test_fresh_keys_differ() -> None:
    assert len(entropy.fresh_seed()) == 32
    assert entropy.fresh_seed() != entropy.fresh_seed()
    assert entropy.fresh_signing_key() != entropy.fresh_signing_key()
    keys = entropy.fresh_epoch_keys(3)
    assert keys.count == 3
    assert len({keys.public(epoch) for epoch in range(3)}) == 3
