"""The shelf of adversaries: names, options, and several around one member."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bftkit.channel.interface import ToClient
from bftkit.channel.replica import Replica, ReplicaOut
from bftkit.core.machine import Broadcast, Deliver, Out
from bftkit.sim import adversaries
from bftkit.sim.adversaries import (
    ADVERSARIES,
    Honest,
    Rewriting,
    Said,
    Together,
    UnknownAdversary,
    adversary_names,
    load_adversary,
)
from bftkit.sim.world import World


class Marked(Rewriting):
    """Appends its mark to all that is said and heard."""

    mark = b""

    def incoming(self, sender: str, frame: bytes) -> bytes | None:
        return frame + self.mark

    def from_client(self, client: bytes, frame: bytes) -> bytes | None:
        return None if frame == b"drop" else frame + self.mark

    def say(self, to: tuple[str, ...], frame: bytes) -> Iterator[Said]:
        self.act(22)
        self.later(5, to, self.mark)
        yield to, frame + self.mark

    def answer(self, client: bytes, frame: bytes) -> bytes | None:
        return frame + self.mark


class A(Marked):
    mark = b"a"


class B(Marked):
    mark = b"b"


@pytest.fixture(name="world", scope="module")
def made_world() -> World:
    return World(0, clients=0)


def test_the_first_of_several_is_the_innermost(world: World) -> None:
    settings = world.hosts["m0"].settings
    both = Together(A, B)(settings)
    out: ReplicaOut = Out()
    out.broadcast(b"x")
    out.deliver(ToClient(b"client", b"y"))
    changed = both.outgoing(world.replica("m0"), out)
    said = [effect for effect in changed.effects if not isinstance(effect, Deliver)]
    assert [effect.message for effect in said if not isinstance(effect, Broadcast)] == [b"xab"]  # type: ignore[union-attr]
    assert Deliver(ToClient(b"client", b"yab")) in changed.effects
    assert both.incoming("m1", b"z") == b"zba"
    assert both.from_client(b"client", b"z") == b"zba"
    assert both.from_client(b"client", b"drop") is None
    assert both.postponed() == [(5, ("m1", "m2", "m3"), b"a"), (5, ("m1", "m2", "m3"), b"b")]
    assert both.postponed() == []
    assert both.acted == {22: 2}
    both.acted.clear()
    both.outgoing(world.replica("m0"), out)
    assert both.acted == {22: 2}, "all parts count in one place, also after it was emptied"


@pytest.mark.parametrize("name", adversary_names())
def test_each_adversary_says_what_it_is(world: World, name: str) -> None:
    settings = world.hosts["m1"].settings
    adversary = load_adversary(name)(settings)
    assert isinstance(adversary, Honest)
    text = type(adversary).__doc__
    assert text
    assert name == "honest" or type(adversary).lines
    json.dumps(adversary.status())
    if name not in ("honest", "mutate"):
        told = adversary.status()["adversary"]
        assert told["kind"] in (name, "silent")


def test_names_may_be_combined_and_options_go_where_they_belong(world: World) -> None:
    settings = world.hosts["m0"].settings
    both = load_adversary("withhold + slow-leader", ticks=7, to="half")(settings)
    assert isinstance(both, Together)
    assert [type(part) for part in both.parts] == [adversaries.Withhold, adversaries.SlowLeader]
    assert both.status()["adversary"]["parts"][1]["ticks"] == 7


def test_a_class_is_found_by_its_module(world: World) -> None:
    settings = world.hosts["m0"].settings
    assert isinstance(load_adversary("bftkit.sim.adversaries:Liar")(settings), adversaries.Liar)
    assert isinstance(load_adversary(f"{__name__}:A")(settings), A)


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("nobody", {}, "equivocate"),
        ("silent+nobody", {}, "nobody"),
        ("", {}, "no adversary"),
        ("no.such.module:Liar", {}, "no.such.module"),
        ("bftkit.sim.adversaries:Nobody", {}, "Nobody"),
        ("bftkit.sim.adversaries:ADVERSARIES", {}, "no class"),
        (":", {}, "cannot be loaded"),
        ("slow-leader", {"tick": 3}, "it has ticks"),
        ("slow-leader", {"ticks": "3"}, "of type int"),
        ("slow-leader", {"ticks": True}, "of type int"),
        ("silent", {"clients": 1}, "of type bool"),
        ("silent", {"to": None}, "whole number"),
    ],
)
def test_what_is_not_there_is_the_callers_mistake(name: str, options: dict[str, Any], part: str) -> None:
    with pytest.raises(UnknownAdversary, match=part):
        load_adversary(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("silent", {"to": "m9"}),
        ("withhold", {"to": "everyone"}),
        ("slow-leader", {"ticks": 0}),
        ("collude", {"fellows": "m0,m9"}),
        ("unfair-leader", {"client": "no"}),
        ("flood", {"times": 0}),
        ("flood", {"to": "m9"}),
        ("replay", {"every": 0}),
        ("garbage", {"every": 0}),
        ("far-future", {"far": -1}),
        ("wrong-digests", {"every": 0}),
        ("forged-checkpoints", {"every": 0}),
        ("reads-blocker", {"dark": "m9"}),
    ],
)
def test_options_that_make_no_sense_are_refused(world: World, name: str, options: dict[str, Any]) -> None:
    make = load_adversary(name, **options)
    with pytest.raises(ValueError, match=r"."):
        make(world.hosts["m1"].settings)


@pytest.mark.parametrize("name", ["forged-certificates", "omit-prepared", "equivocate", "collude"])
def test_an_adversary_that_a_protocol_gives_no_chance_says_so(name: str) -> None:
    """The coordinator survives no liar; this one does nothing, so its member counts like any other."""
    world = World(1, "coordinator", 3)
    host = world.hosts["m0"]
    host.adversary = adversary = load_adversary(name)(host.settings)
    world.load(20, keys=2)
    world.run(400)
    world.finish()
    told = adversary.status()["adversary"]
    assert told.get("able", False) is False
    assert adversary.told[20] == adversary.told[23] == adversary.told[24] == 0


class Counts(Honest):
    """Counts rounds."""

    rounds = 0

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        self.rounds += 1
        return out


def test_an_honest_adversary_changes_nothing() -> None:
    """The base is transparent: the run is the same, byte for byte."""
    prints: list[str] = []
    for make in (None, Honest, Counts, Together(Honest, Rewriting)):
        world = World(3, adversaries={} if make is None else {"m0": make})
        world.exempt("m0")
        world.load(20, keys=2)
        world.run(600)
        world.finish()
        prints.append(world.fingerprint)
    assert len(set(prints)) == 1


def test_every_class_of_the_package_stands_on_the_shelf() -> None:
    base = {Honest, Rewriting, Together}
    classes = {each for each in vars(adversaries).values() if isinstance(each, type) and issubclass(each, Honest)}
    assert classes - base == set(ADVERSARIES.values()) - base
