"""The common coin: when it is known, what is checked, what is kept through a restart."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest

from bftkit.blocks.coin import CODEC, COIN_ID_BYTES_MAX, CoinTossed, CommonCoin, Message, Output, Release, Share
from bftkit.core.machine import Blame, Broadcast, Deliver, Effect, MemberId, Out, Persist
from bftkit.core.ordering import CoinProtocol, Setup
from bftkit.sim.block_world import BlockWorld, block_setups

NAME = b"a coin"


def step(coin: CommonCoin, event: Release | Share, sender: MemberId = "") -> list[Effect[Message, Output]]:
    out = Out[Message, Output]()
    if isinstance(event, Release):
        coin.on_input(event, out)
    else:
        coin.on_message(sender, event, out)
    return list(out.effects)


def share_of(setup: Setup, name: bytes = NAME) -> Share:
    assert setup.coins is not None
    return Share(setup.coins.share(name))


@attrs.define
class Counted:
    """Coins that count how many shares they were asked to check."""

    inner: CoinProtocol
    checks: int = 0

    @property
    def threshold(self) -> int:
        return self.inner.threshold

    def share(self, name: bytes) -> bytes:
        return self.inner.share(name)

    def verify(self, member: MemberId, name: bytes, share: bytes) -> bool:
        self.checks += 1
        return self.inner.verify(member, name, share)

    def combine(self, name: bytes, shares: Mapping[MemberId, bytes]) -> bytes:
        return self.inner.combine(name, shares)


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
def test_everybody_tosses_the_same_coin_and_another_name_is_another_coin(kind: str) -> None:
    setups = block_setups(4, 1, seed=3, kind=kind)
    values: set[bytes] = set()
    for name in (b"one", b"two"):
        world = BlockWorld({member: CommonCoin.create(setups[member], name) for member in setups}, codec=CODEC)
        for member in world.members:
            world.input(member, Release())
        world.run()
        tossed = {value for said in world.outputs.values() for value in said}
        assert len(tossed) == 1
        assert all(len(said) == 1 for said in world.outputs.values())
        values |= {value.value for value in tossed}
    assert len(values) == 2


def test_fewer_shares_than_the_threshold_make_no_coin_and_ones_own_counts_once_released() -> None:
    setups = block_setups(4, 1)
    coin = CommonCoin.create(setups["m0"], NAME)
    assert step(coin, share_of(setups["m1"]), "m1") == []
    assert step(coin, share_of(setups["m2"]), "m2") == []
    released = step(coin, Release())
    assert [type(effect) for effect in released] == [Persist, Broadcast, Deliver]


def test_the_coin_is_known_without_ones_own_release() -> None:
    setups = block_setups(4, 1)
    coin = CommonCoin.create(setups["m0"], NAME)
    for name in ("m1", "m2"):
        step(coin, share_of(setups[name]), name)
    (tossed,) = step(coin, share_of(setups["m3"]), "m3")
    assert tossed == Deliver(CoinTossed(coin.value or b""))
    # A member that knows the coin still releases its share: others may wait for it.
    assert [type(effect) for effect in step(coin, Release())] == [Persist, Broadcast]
    assert step(coin, Release()) == []


def test_a_bad_share_is_blamed_and_forgotten() -> None:
    setups = block_setups(4, 1)
    coin = CommonCoin.create(setups["m0"], NAME)
    step(coin, share_of(setups["m1"], b"another coin"), "m1")
    step(coin, share_of(setups["m2"]), "m2")
    (blame,) = step(coin, share_of(setups["m3"]), "m3")
    assert isinstance(blame, Blame)
    assert blame.member == "m1"
    assert coin.value is None
    # What was bad does not stand in the way of what is good.
    assert [type(effect) for effect in step(coin, share_of(setups["m1"]), "m1")] == [Deliver]


def test_shares_are_checked_only_when_there_are_enough_and_no_more_than_needed() -> None:
    setups = block_setups(7, 2)
    assert setups["m0"].coins is not None
    counted = Counted(setups["m0"].coins)
    coin = CommonCoin.create(attrs.evolve(setups["m0"], coins=counted), NAME)
    for name in ("m1", "m2", "m3", "m4"):
        step(coin, share_of(setups[name]), name)
    assert counted.checks == 0
    step(coin, share_of(setups["m5"]), "m5")
    assert counted.checks == 5
    step(coin, share_of(setups["m6"]), "m6")
    assert counted.checks == 5


def test_one_share_of_each_member_is_kept() -> None:
    setups = block_setups(4, 1)
    coin = CommonCoin.create(setups["m0"], NAME)
    before = coin.fingerprint()
    step(coin, share_of(setups["m1"]), "m1")
    once = coin.fingerprint()
    for _ in range(100):
        step(coin, share_of(setups["m1"], b"junk"), "m1")
    step(coin, share_of(setups["m1"]), "stranger")
    assert before != once == coin.fingerprint()


def test_after_a_restart_what_was_released_is_said_again() -> None:
    setups = block_setups(4, 1)
    coin = CommonCoin.create(setups["m0"], NAME)
    assert coin.said() == ()
    (persisted, sent) = step(coin, Release())
    assert isinstance(persisted, Persist)
    assert isinstance(sent, Broadcast)
    again = CommonCoin.create(setups["m0"], NAME)
    again.on_restore([persisted.record], Out())
    assert again.said() == coin.said() == (sent.message,)
    assert again.fingerprint() == coin.fingerprint()
    assert step(again, Release()) == []


def test_what_cannot_be_a_coin_is_refused() -> None:
    setup = block_setups(4, 1)["m0"]
    with pytest.raises(ValueError, match="no coin keys"):
        CommonCoin.create(attrs.evolve(setup, coins=None), NAME)
    for wrong in (b"", bytes(COIN_ID_BYTES_MAX + 1)):
        with pytest.raises(ValueError, match="id"):
            CommonCoin.create(setup, wrong)
