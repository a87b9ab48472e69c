"""The thirty-odd lines of docs/protocols/index.md are a protocol for a group of one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from bftkit.core.digest import NO_DIGEST
from bftkit.core.ordering import OrderingMachine, Setup
from bftkit.core.plugin import load_protocol
from bftkit.sim.ordering.world import OrderingWorld

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocols" / "index.md"


def make_world(seed: int) -> OrderingWorld:
    section = PAGE.read_text(encoding="utf-8").partition("## The smallest machine")[2]
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(compile(code, "index.md", "exec", dont_inherit=True), names)  # noqa: S102 - our own manual

    def create(setup: Setup) -> OrderingMachine:
        machine: OrderingMachine = names["Alone"](setup, setup.start, setup.start)
        return machine

    return OrderingWorld(attrs.evolve(load_protocol("coordinator"), create=create), 1, 0, 0, seed)


@pytest.mark.parametrize("seed", range(5))
def test_it_decides_each_batch_once_over_crashes(seed: int) -> None:
    world = make_world(seed)
    batches: list[bytes] = []
    for _ in range(8):
        batches += world.submit(7)
        world.run(30 + seed)
        world.crash("m0")
        world.restart("m0")
    world.run_until(world.all_delivered, 10_000)
    assert sorted(name for name in world.delivered("m0") if name != NO_DIGEST) == sorted(batches)
    assert len(world.records("m0")) <= 3 * world.interval


def test_it_ends_with_the_epoch() -> None:
    world = make_world(1)
    world.stop(5, 16)
    world.submit(5)
    world.run_until(world.all_stopped, 10_000)
    assert max(world.chosen) == 16
    assert world.machine("m0").room == 0
