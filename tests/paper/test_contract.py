"""The contract of all ordering protocols, over every plug-in that is installed: see `bftkit.sim.contract`."""

from __future__ import annotations

import os

import pytest

from bftkit.core.ordering import Plugin
from bftkit.core.plugin import load_protocol, protocol_names
from bftkit.sim import contract

SEEDS = range(1, 1 + int(os.environ.get("BFTKIT_SEEDS", "4")))


def plugins() -> list[Plugin]:
    """All installed protocols."""
    found: list[Plugin] = []
    for name in protocol_names():
        try:
            found.append(load_protocol(name))
        except (ImportError, AttributeError):
            continue
    return found


@pytest.mark.parametrize("case", [case for plugin in plugins() for case in contract.cases(plugin, SEEDS)], ids=str)
def test_contract(case: contract.Case) -> None:
    contract.run(case)
