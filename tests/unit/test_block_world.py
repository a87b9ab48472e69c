"""The world for blocks: whose choice the order is, what a crash keeps, what a liar sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import attrs
import pytest

from bftkit.core.machine import Machine, MemberId, Out, Record
from bftkit.core.wire import U32, Codec
from bftkit.sim.block_world import BlockWorld, Liar, Lying, Silent, block_setups

MEMBERS: Final = ("m0", "m1", "m2")


@attrs.frozen
class Number:
    """A number."""

    value: U32


CODEC: Final = Codec[Number]("test", {1: Number})


@attrs.define
class Echo(Machine[int, Number, int]):
    """Broadcasts and records what it is given; delivers what it hears, and at a restart what it recorded."""

    heard: list[int] = attrs.field(factory=list[int])

    def on_input(self, value: int, out: Out[Number, int]) -> None:
        out.persist(b"%d" % value)
        out.broadcast(Number(value))

    def on_message(self, sender: MemberId, message: Number, out: Out[Number, int]) -> None:
        self.heard.append(message.value)
        out.deliver(message.value)

    def on_restore(self, records: Sequence[Record], out: Out[Number, int]) -> None:
        for record in records:
            out.deliver(-int(record))

    def said(self) -> tuple[Number, ...]:
        return tuple(Number(value) for value in self.heard)


World: TypeAlias = BlockWorld[int, Number, int]


def world(
    *,
    seed: int = 0,
    codec: Codec[Number] | None = None,
    choose: Callable[[World], int] | None = None,
    liars: Mapping[MemberId, Liar[Number]] | None = None,
) -> World:
    machines = {name: Echo() for name in MEMBERS}
    return BlockWorld(machines, create=lambda name: Echo(), seed=seed, codec=codec, choose=choose, liars=liars)


def oldest_first(seen: World) -> int:
    return min(range(len(seen.flights)), key=lambda index: seen.flights[index].number)


def order(seed: int) -> list[int]:
    made = world(seed=seed, codec=CODEC)
    for value in range(10):
        made.input("m0", value)
    made.run()
    return made.outputs["m1"]


def test_one_seed_is_one_order_and_nothing_is_lost() -> None:
    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == list(range(10))


def test_a_schedule_can_choose() -> None:
    made = world(choose=oldest_first)
    for value in range(10):
        made.input("m0", value)
    made.run()
    assert made.outputs["m1"] == made.outputs["m2"] == list(range(10))
    assert made.steps == 20


def test_run_says_when_it_does_not_get_there() -> None:
    made = world()
    made.input("m0", 1)
    with pytest.raises(AssertionError, match="seed 0: not reached after 2 messages, 0 under way"):
        made.run(lambda: False)
    made.input("m0", 1)
    with pytest.raises(AssertionError, match="not reached"):
        made.run(steps=1)


def test_a_crash_keeps_the_records_and_loses_the_machine() -> None:
    made = world()
    made.input("m1", 7)
    made.input("m0", 8)
    made.crash("m1")
    made.run()
    assert made.outputs["m1"] == [], "who is down hears nothing"
    assert sorted(made.outputs["m2"]) == [7, 8], "what was under way arrives"
    made.restart("m1")
    assert made.outputs["m1"] == [-7]
    made.input("m0", 9)
    made.crash("m0", lose=True)
    assert not made.flights


def test_what_is_dropped_does_not_arrive_and_what_is_repeated_does() -> None:
    made = world()
    made.input("m0", 5)
    assert made.drop(lambda flight: flight.receiver == "m1") == 1
    made.run()
    assert made.outputs == {"m0": [], "m1": [], "m2": [5]}
    made.repeat()
    made.run()
    assert made.outputs["m1"] == [5]


def test_a_liar_says_something_else_to_each() -> None:
    def change(receiver: MemberId, message: Number) -> list[Number]:
        return [attrs.evolve(message, value=int(receiver[1])), message]

    made = world(liars={"m0": Lying(change), "m1": Silent()})
    seen: list[tuple[MemberId, Number]] = []
    made.observers.append(lambda name, message: seen.append((name, message)))
    for name in MEMBERS:
        made.input(name, 9)
    made.run()
    assert made.honest == ("m2",)
    assert sorted(made.outputs["m2"]) == [2, 9]
    assert sorted(made.outputs["m1"]) == [1, 9, 9]
    assert seen == [("m2", Number(9))], "liars are not watched"
    made.inject("m1", "m2", Number(3))
    made.run()
    assert made.outputs["m2"][-1] == 3


def test_set_ups_share_one_coin_and_each_signs_for_itself() -> None:
    setups = block_setups(4, 1, seed=1)
    coins = {name: setup.coins for name, setup in setups.items()}
    shares = {name: coin.share(b"x") for name, coin in coins.items() if coin is not None}
    assert len(set(shares.values())) == 4
    for coin in coins.values():
        assert coin is not None
        assert coin.threshold == 3
        assert all(coin.verify(name, b"x", share) for name, share in shares.items())
    vote = setups["m1"].keyring.sign("p", b"s")
    assert setups["m2"].keyring.verify("m1", "p", b"s", vote)
    assert not setups["m2"].keyring.verify("m0", "p", b"s", vote)
    other = block_setups(4, 1, seed=2)["m2"]
    assert not other.keyring.verify("m1", "p", b"s", vote)
    assert block_setups(4, 1, coin_threshold=2)["m0"].coins is not None
