"""Liars at the end of an epoch, in worlds that are left by force and by plan (SAFETY rules 21, 22, 25 and 26).

Whatever f members say in reports, in the agreement, in votes on the ending and in what begins the next epoch: the
correct ones agree, lose nothing and run nothing twice, and come to the next epoch.
"""

from __future__ import annotations

from typing import Any

import pytest

from bftkit.sim.adversaries import load_adversary
from bftkit.sim.links import Network
from bftkit.sim.world import World

FORCED_LIES: list[tuple[str, dict[str, Any]]] = [
    ("thin-reports", {}),
    ("thin-reports", {"old": True}),
    ("forged-reports", {}),
    ("false-histories", {}),
    ("two-reports", {}),
    ("bedrock-silence", {}),
    ("bedrock-silence", {"half": True}),
    ("two-offers", {}),
    ("few-reports", {}),
    ("two-endings", {}),
    ("false-holding", {}),
    ("thin-reports+two-offers+two-endings", {}),
]
PLANNED_LIES = ["ready-for-nothing", "bad-deals", "two-endings+false-holding"]
LIMIT = 20_000


def arrive(world: World) -> None:
    """Run until somebody is in the next epoch."""
    world.run_until(lambda: world.chain.now.epoch == 1, LIMIT, "epoch 1")


def lying_world(name: str, options: dict[str, Any], seed: int, liar: str) -> World:
    """Four members, one of which lies about the end, and some load."""
    network = Network(delay_max=5)
    world = World(seed, "pbft", 4, 1, 0, reconfigurable=True, interval=4, window=8, clients=2, network=network)
    world.lie(liar, load_adversary(name, **options))
    world.load(12, keys=2)
    world.run(90 + 7 * seed)
    return world


@pytest.mark.parametrize(("name", "options"), FORCED_LIES, ids=lambda value: str(value).replace("'", ""))
def test_lies_about_a_forced_ending(name: str, options: dict[str, Any]) -> None:
    told = 0
    for seed, liar in enumerate(("m0", "m2")):
        world = lying_world(name, options, seed, liar)
        world.switch("cks", f=1, c=0, forced=True)
        world.load(8, keys=2)
        arrive(world)
        world.finish()
        told += world.injected[35] + world.injected[36]
    assert told


@pytest.mark.parametrize("name", PLANNED_LIES)
def test_lies_about_a_planned_ending(name: str) -> None:
    world = lying_world(name, {}, 1, "m3")
    world.switch("cks", f=1, c=0)
    world.load(12, keys=2)
    arrive(world)
    world.finish()
    assert world.injected[35] + world.injected[36]


def test_two_liars_of_seven() -> None:
    world = World(5, "pbft", 7, 2, 0, reconfigurable=True, interval=4, window=16, clients=2)
    for liar, name in (("m0", "thin-reports+two-endings"), ("m4", "two-offers+false-holding")):
        world.lie(liar, load_adversary(name))
    world.load(12, keys=2)
    world.run(120)
    world.switch("pbft", f=2, c=0, forced=True)
    arrive(world)
    world.finish()


def test_who_brings_no_history_is_named() -> None:
    """A report that is not proved is refused, and its member blamed for it by those that saw it."""
    world = lying_world("forged-reports", {}, 0, "m2")
    world.switch("cks", f=1, c=0, forced=True)
    arrive(world)
    faults = {fault for _, whom, fault, _ in world.blames if whom == "m2"}
    assert any("report" in fault or "certificate" in fault for fault in faults)
