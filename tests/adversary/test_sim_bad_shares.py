"""The liar `bad-shares` (FAULTS 28): no share that it gives is one, it is blamed, and all coins are tossed.

And it is sharp enough: where shares are not verified, it does the harm that the check prevents.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import bedrock_messages as bed
from bftkit.blocks import coin as co
from bftkit.blocks import validated_messages as va
from bftkit.blocks.agreement_rounds import RoundCoins
from bftkit.channel.frames import CONTROL_CODEC, BedrockMessage, pack_control, pack_protocol, unpack_protocol
from bftkit.core.machine import Blame, Out
from bftkit.sim.adversaries import BadShares, load_adversary
from bftkit.sim.block_world import block_setups
from bftkit.sim.campaign import CampaignError
from bftkit.sim.examining import check_fit, examine
from bftkit.sim.keyring import CheckedCoins
from bftkit.sim.plan import Load, Plan
from bftkit.sim.scenarios import load_scenario
from bftkit.sim.world import World
from bftkit_cks.messages import CODEC, Part

NAME = b"the name of a coin"
TURNS = 11
"""In so many ways a share is wrong."""


@pytest.fixture(name="world", params=["fast", "ed25519"])
def made_world(request: pytest.FixtureRequest) -> World:
    return World(0, protocol="cks", clients=0, keys=request.param)


def liar_in(world: World) -> BadShares:
    adversary = load_adversary("bad-shares")(world.hosts["m1"].settings)
    assert isinstance(adversary, BadShares)
    return adversary


def share_of(world: World, member: str, name: bytes = NAME) -> bytes:
    coins = world.hosts[member].settings.coins
    assert coins is not None
    return coins.share(name)


def part(kind: int, index: int, body: bytes) -> bytes:
    return pack_protocol(0, CODEC.encode(Part(1, kind, index, body)), [])


def said(liar: BadShares, frame: bytes) -> Iterator[tuple[str, bytes]]:
    """Who is told what in the place of a frame to all others."""
    for to, instead in liar.say(liar.others, frame):
        for member in to:
            yield member, instead


def part_in(frame: bytes) -> Part:
    message = CODEC.decode(unpack_protocol(frame)[1])
    assert isinstance(message, Part)
    return message


def test_no_share_that_it_gives_is_one_and_no_two_are_wrong_in_the_same_way(world: World) -> None:
    liar, mine = liar_in(world), share_of(world, "m1")
    coins = world.hosts["m0"].settings.coins
    assert coins is not None
    assert coins.verify("m1", NAME, mine)
    others = share_of(world, "m2")
    frame = part(va.ORDER, 0, co.CODEC.encode(co.Share(others)))
    assert liar.incoming("m2", frame) == frame
    frame = part(va.ORDER, 0, co.CODEC.encode(co.Share(mine)))
    shares = [co.CODEC.decode(part_in(instead).body).share for _ in range(TURNS) for _, instead in said(liar, frame)]
    assert len(shares) == 3 * TURNS == liar.bad == liar.told[28]
    assert len(set(shares)) == TURNS
    assert others in shares
    assert not [share for share in shares if coins.verify("m1", NAME, share)]
    assert coins.verify("m1", NAME, mine), "what is verified is not all refused"


def test_shares_in_binary_agreement_and_in_the_bedrock_are_wrong_too(world: World) -> None:
    liar, mine = liar_in(world), share_of(world, "m1")
    told = dict(said(liar, part(va.AGREEMENT, 2, am.CODEC.encode(am.CoinShare(3, mine)))))
    shares = [am.CODEC.decode(part_in(frame).body) for frame in told.values()]
    assert sorted(told) == ["m0", "m2", "m3"]
    assert all(isinstance(share, am.CoinShare) and share.round == 3 and share.share != mine for share in shares)
    body = co.CODEC.encode(co.Share(mine))
    for _, frame in said(liar, pack_control(BedrockMessage(0, bed.CODEC.encode(bed.Part(va.ORDER, 0, body))))):
        control = CONTROL_CODEC.decode(frame[1:])
        assert isinstance(control, BedrockMessage)
        inner = bed.CODEC.decode(control.message)
        assert isinstance(inner, bed.Part)
        assert (inner.kind, inner.index) == (va.ORDER, 0)
        assert inner.body != body
    assert liar.bad == 6


def test_with_a_vote_goes_a_share_of_the_next_round(world: World) -> None:
    liar = liar_in(world)
    vote = part(va.AGREEMENT, 1, am.CODEC.encode(am.PreVote(1, False, False, b"", bytes(64), b"")))
    told = list(said(liar, vote))
    assert [frame for _, frame in told[:3]] == [vote] * 3
    early = [am.CODEC.decode(part_in(frame).body) for _, frame in told[3:]]
    assert [type(message) for message in early] == [am.CoinShare] * 3
    assert {message.round for message in early if isinstance(message, am.CoinShare)} == {2}


def test_what_holds_no_share_is_said_as_it_is(world: World) -> None:
    liar = liar_in(world)
    for frame in (b"", b"\x01", b"\x03\xff", part(va.OUTCOME, 0, b"x"), part(va.ORDER, 0, b"\xff"), part(0, 1, b"")):
        assert {instead for _, instead in said(liar, frame)} == {frame}
    assert liar.bad == 0


@pytest.mark.parametrize("length", [0, 1, 31, 32, 95, 128])
def test_it_makes_something_even_of_what_another_liar_garbled(world: World, length: int) -> None:
    liar, share = liar_in(world), bytes(range(length))
    frame = part(va.ORDER, 0, co.CODEC.encode(co.Share(share)))
    told = [co.CODEC.decode(part_in(instead).body).share for _ in range(TURNS) for _, instead in said(liar, frame)]
    assert len(told) == 3 * TURNS
    assert share not in told


def test_an_early_share_that_is_bad_is_refused_once_its_coin_is_tossed() -> None:
    """Its sender is blamed, and the coin is the same as everywhere."""
    setups = block_setups(4, 1, kind="ed25519")
    values: set[bool | None] = set()
    for me, liar in (("m0", "m1"), ("m1", "m0")):
        coins, out = RoundCoins(setups[me], b"id", biased=True), Out[am.Message, bytes]()
        shares = {name: setup.coins.share(am.coin_id(b"id", 2)) for name, setup in setups.items() if setup.coins}
        assert not coins.take(liar, 2, shares["m2"], 1, out)
        assert not coins.take("m2", 2, shares["m2"], 1, out)
        assert not coins.release(2, out)
        assert out.effects[-1] == Blame(liar, "a share that is none of this coin")
        assert coins.take("m3", 2, shares["m3"], 1, out)
        values.add(coins.value(2))
    assert len(values) == 1


# ------------------------------------------------------------------------------------------------- the scenario


def brief(seed: int = 0) -> Plan:
    load = Load(clients=2, operations=40, bursts=2)
    return attrs.evolve(load_scenario("bad-shares").plan("cks", seed), load=load, ticks=700)


def test_the_scenario_holds_and_every_liar_is_blamed() -> None:
    result = examine(load_scenario("bad-shares"), brief())
    assert result.ok, result.report
    assert result.injected[28] > 20


def test_where_shares_are_not_verified_the_scenario_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(coins: CheckedCoins, member: str, name: bytes, share: bytes) -> bool:
        return len(share) == len(coins.share(name))  # a share that can be no point would stop the member

    monkeypatch.setattr(CheckedCoins, "verify", verify)
    result = examine(load_scenario("bad-shares"), brief())
    assert not result.ok
    assert result.oracle != "figure"


def test_where_bad_shares_are_put_down_to_nobody_the_scenario_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*rest: object) -> None:
        """Nobody is blamed."""

    monkeypatch.setattr(World, "on_blame", nothing)
    result = examine(load_scenario("bad-shares"), brief())
    assert (result.oracle, result.violation) == ("figure", "nobody blames m0 for a share")


def test_it_is_left_out_where_no_coins_are_tossed() -> None:
    found = load_scenario("bad-shares")
    assert found.suits("cks")
    assert found.misses("pbft") == "is about coins, and pbft tosses none"
    assert "does not claim to survive: liar" in found.misses("paxos")
    with pytest.raises(CampaignError, match="bad-shares is about coins"):
        check_fit("bad-shares", "pbft")
