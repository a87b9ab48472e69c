"""The simulated world itself: one seed decides everything, and its checkers can fail."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bftkit.channel.application import Context
from bftkit.service import keyvalue
from bftkit.service.keyvalue import KeyValueStore
from bftkit.sim import run
from bftkit.sim.world import Violation, World

PROGRAM = """
from bftkit.sim import run
for protocol in ("pbft", "coordinator"):
    for seed in range(11, 14):
        print(run("mixed", protocol=protocol, seed=seed).digest)
"""


def test_the_same_seed_gives_the_same_run_in_any_process() -> None:
    runs: set[str] = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        runs.add(result.stdout)
    assert len(runs) == 1
    digests = runs.pop().split()
    assert run("mixed", protocol="pbft", seed=11).digest == digests[0]
    assert len(set(digests)) == 6


def test_real_keys_do_the_same_work() -> None:
    world = World(1, real_keys=True, clients=1)
    world.load(15, keys=2)
    world.finish()


class StaleReads(KeyValueStore):
    """Answers what was true before the last change: the same lie everywhere, so that the members agree on it."""

    def __init__(self) -> None:
        super().__init__()
        self._before = b"-"

    def apply(self, operation: bytes, context: Context) -> bytes:
        self._before = super().read(keyvalue.get(b"k0"))
        return super().apply(operation, context)

    def read(self, operation: bytes) -> bytes:
        return self._before


def test_a_planted_stale_read_is_caught() -> None:
    """SAFETY rule 13: what a strong read returns must fit the one order of all operations."""
    world = World(2, application=lambda member: StaleReads())
    client = world.actors["c0"]
    for _ in range(2):
        client.put(b"k0")
        world.run_until(lambda: world.outstanding == 0, 10_000)
    client.read(b"k0")
    world.run_until(lambda: world.outstanding == 0, 10_000)
    with pytest.raises(Violation, match="linearizability"):
        world.finish()


class Twice(KeyValueStore):
    """Gives another result at one member."""

    def __init__(self, member: str) -> None:
        super().__init__()
        self._member = member

    def apply(self, operation: bytes, context: Context) -> bytes:
        return super().apply(operation, context) + (b"!" if self._member == "m2" and context.slot == 5 else b"")


def test_two_results_for_one_operation_are_caught() -> None:
    world = World(3, application=Twice)
    world.load(40, keys=2, poison=0.0)
    with pytest.raises(Violation, match=r"agreement: the result at \(5, 0\)"):
        world.finish()


def test_a_halted_correct_member_is_a_violation() -> None:
    world = World(4)
    world.load(5, keys=1)
    world.run(100)
    world.on_halted(world.hosts["m1"], "planted")
    with pytest.raises(Violation, match="halting: the correct m1 halts: planted"):
        world.run(200)


def test_blame_of_a_correct_member_is_a_violation() -> None:
    world = World(5)
    world.on_blame(world.hosts["m1"], "m2", "planted", b"")
    with pytest.raises(Violation, match="m1 blames the correct m2"):
        world.run(200)
