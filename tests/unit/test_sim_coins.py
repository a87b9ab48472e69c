"""Coins in the simulated worlds: dealt to protocols that toss them, checked once a world, charged each time."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from bftkit.core.ordering import Plugin, Setup
from bftkit.core.plugin import load_protocol
from bftkit.core.quorum import QuorumError
from bftkit.crypto.threshold import Coins
from bftkit.sim.adversaries import Honest
from bftkit.sim.coins import FastCoins, real_coins
from bftkit.sim.costs import Costs, Meter
from bftkit.sim.journal import Journal
from bftkit.sim.keyring import Notary
from bftkit.sim.ordering.world import OrderingWorld
from bftkit.sim.plan import Group, Plan, PlanError
from bftkit.sim.reductions import members
from bftkit.sim.world import World

MEMBERS = ("m0", "m1", "m2", "m3")


def tossing(name: str) -> Plugin:
    """The protocol, as if it tossed coins and a crash cost as much as a lie."""
    plugin = load_protocol(name)
    return attrs.evolve(plugin, record=attrs.evolve(plugin.record, coins=True, crash_as_lie=True))


@pytest.mark.parametrize("kind", ["fast", "ed25519"])
def test_each_share_is_checked_once_and_charged_each_time(kind: str) -> None:
    costs = Costs(coin_share_ns=7, coin_verify_ns=10, coin_combine_ns=100, verify_ns=1000, sign_ns=1000)
    notary = Notary(kind, bytes(32), MEMBERS, costs)
    meter = Meter()
    parts = {member: notary.coins(member, 3, meter) for member in MEMBERS}
    assert {part.threshold for part in parts.values()} == {3}
    shares = {member: part.share(b"coin") for member, part in parts.items()}
    assert meter.ns == 4 * 7
    assert all(part.verify("m0", b"coin", shares["m0"]) for part in parts.values())
    assert meter.ns == 4 * 7 + 4 * 10
    counters = notary.counters
    assert (counters.coin_shares, counters.coin_checks, counters.checked, counters.verifies) == (4, 4, 1, 0)
    assert len({part.combine(b"coin", shares) for part in parts.values()}) == 1
    assert meter.ns == 4 * 7 + 4 * 10 + 4 * 3 * 100
    assert counters.coins == 4
    for member, name, share in (("m1", b"coin", shares["m0"]), ("m0", b"other", shares["m0"]), ("x", b"coin", b"")):
        assert not parts["m2"].verify(member, name, share)
        assert not parts["m3"].verify(member, name, share)
    assert counters.checked == 4
    with pytest.raises(ValueError, match="make no coin"):
        parts["m0"].combine(b"coin", {member: shares[member] for member in ("m0", "m1")})


def test_two_thresholds_of_one_world_are_two_keys() -> None:
    """What is good for one is not remembered as good for the other."""
    notary = Notary("fast", bytes(32), MEMBERS, Costs.none())
    dual, simple = notary.coins("m0", 3), notary.coins("m0", 2)
    real = Notary("ed25519", bytes(32), MEMBERS, Costs.none())
    share = real.coins("m0", 3).share(b"coin")
    assert real.coins("m1", 3).verify("m0", b"coin", share)
    assert not real.coins("m1", 2).verify("m0", b"coin", share)
    assert (dual.threshold, simple.threshold) == (3, 2)


@pytest.mark.parametrize(("keys", "kind"), [("fast", FastCoins), ("ed25519", Coins)])
def test_a_world_deals_coins_to_protocols_that_toss_them(
    keys: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(host.settings.coins is None for host in World(1).hosts.values())
    monkeypatch.setattr("bftkit.sim.world.load_protocol", tossing)
    world = World(1, members=7, f=1, c=1, keys=keys, costs=Costs(coin_share_ns=5_000_000))
    shares: dict[str, bytes] = {}
    for member, host in world.hosts.items():
        coins = host.settings.coins
        assert coins is not None
        assert coins.threshold == 5
        assert isinstance(coins._coins, kind)  # type: ignore[attr-defined]
        shares[member] = coins.share(b"coin")
        # The machine and an adversary in its place are given the same.
        assert host.replica is not None
        machine_setup = Honest(host.settings).setup
        assert machine_setup is not None
        assert machine_setup.coins is coins
    values = {host.settings.coins.combine(b"coin", shares) for host in world.hosts.values() if host.settings.coins}
    assert len(values) == 1
    assert world.counters.coin_shares == 7


def test_a_world_has_the_members_that_the_protocol_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    World(1, members=6, f=1, c=1)
    monkeypatch.setattr("bftkit.sim.world.load_protocol", tossing)
    assert World(1, members=7, c=1).quorum == World(1, members=7, f=1, c=1).quorum
    with pytest.raises(QuorumError, match="pbft needs 7 members for 1 Byzantine and 1 crash faults, not 6"):
        World(1, members=6, f=1, c=1)


def test_a_plan_has_the_members_that_the_protocol_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(group=Group(members=6, f=1, c=1))
    plan.check()
    monkeypatch.setattr("bftkit.sim.plan.load_protocol", tossing)
    with pytest.raises(PlanError, match="group: pbft needs 7 members for 1 Byzantine and 1 crash faults, not 6"):
        plan.check()
    monkeypatch.setattr("bftkit.sim.reductions.load_protocol", tossing)
    smaller = [step.group for _, step in members(Plan(group=Group(members=8, f=1, c=1)))]
    assert smaller
    assert all(group.members >= 3 * (group.f + group.c) + 1 for group in smaller)


def test_no_share_of_the_key_leaves_its_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAFETY rule 20: not in a frame, a record, a snapshot or the journal, while coins are tossed all the time."""
    seen: list[bytes] = []
    add = Journal.add

    def heard(journal: Journal, now_us: int, kind: int, one: int, other: int, data: bytes) -> None:
        seen.append(data)
        add(journal, now_us, kind, one, other, data)

    monkeypatch.setattr(Journal, "add", heard)
    world = World(1, "cks", keys="ed25519")
    world.load(10, keys=3, poison=0.0)
    world.run_until(lambda: world.outstanding == 0, 60_000, "all answered")
    world.finish()
    assert world.counters.coins > 0
    dealt = [world.notary._coins[3][member] for member in MEMBERS]  # pyright: ignore[reportPrivateUsage]
    secrets = [part._share for part in dealt if isinstance(part, Coins)]  # pyright: ignore[reportPrivateUsage]
    assert len(secrets) == 4
    for host in world.hosts.values():
        seen += [host.disk.directory.read(name) for name in host.disk.directory.names()]
    everything = b"\0".join(seen)
    # Whatever was said is in there: the shares of coins, which everybody may know, are found.
    known: Any = world.notary._known  # pyright: ignore[reportPrivateUsage]
    said: list[bytes] = [key[5] for key in known if len(key) == 6 and key[0] == "coin"]
    assert said
    assert all(share in everything for share in said)
    assert not any(secret in everything or secret.hex().encode() in everything for secret in secrets)


def setups(world: OrderingWorld) -> list[Setup]:
    return [world.setup(member) for member in world.members]


def test_an_ordering_world_has_coins_of_the_threshold_that_is_asked_for() -> None:
    plugin = load_protocol("pbft")
    assert all(setup.coins is None for setup in setups(OrderingWorld(plugin, 4, 1, 0, 1)))
    for wanted, threshold in ((None, 3), (2, 2)):
        world = OrderingWorld(tossing("pbft"), 4, 1, 0, 1, coin_threshold=wanted)
        parts = {setup.me: setup.coins for setup in setups(world)}
        shares = {member: part.share(b"coin") for member, part in parts.items() if part is not None}
        first = parts["m0"]
        assert first is not None
        assert first.threshold == threshold
        enough = dict(sorted(shares.items())[:threshold])
        assert first.combine(b"coin", enough) == first.combine(b"coin", shares)
        with pytest.raises(ValueError, match="make no coin"):
            first.combine(b"coin", dict(sorted(shares.items())[: threshold - 1]))
    again, other = (OrderingWorld(tossing("pbft"), 4, 1, 0, seed).setup("m0").coins for seed in (1, 2))
    assert again is not None
    assert other is not None
    assert again.share(b"coin") != other.share(b"coin")


def test_an_ordering_world_takes_real_coins() -> None:
    dealt = real_coins(bytes(32), bytes(32), 0, bytes(32), MEMBERS, 3)
    world = OrderingWorld(tossing("pbft"), 4, 1, 0, 1, coins=dealt)
    assert [setup.coins for setup in setups(world)] == list(dealt.values())


def test_a_failure_says_which_threshold_the_run_had() -> None:
    with pytest.raises(AssertionError, match="coin_threshold=2, trace=True"):
        OrderingWorld(tossing("pbft"), 4, 1, 0, 1, coin_threshold=2).fail("look")
