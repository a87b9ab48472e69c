"""Where nobody is to lie (f = 0) and somebody does, the epoch's safety is lost, and its end says so: SAFETY rule 24."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

import bftkit_coordinator.messages
import bftkit_paxos.messages
from bftkit.core.plugin import load_protocol
from bftkit.core.wire import Codec
from bftkit.membership.evidence import Evidence, why_not_proved
from bftkit.sim.links import Network
from bftkit.sim.world import World

LIMIT = 20_000
LOST = "safety lost in epoch 0"
SIGNED: dict[str, tuple[Codec[Any], str]] = {
    "coordinator": (bftkit_coordinator.messages.RECORDS, bftkit_coordinator.messages.APPEND_PURPOSE),
    "paxos": (bftkit_paxos.messages.RECORDS, bftkit_paxos.messages.ACCEPT_PURPOSE),
}


def _has_entry(codec: Codec[Any], record: bytes) -> bool:
    return hasattr(codec.decode(record), "statement")


@pytest.mark.parametrize("protocol", ["coordinator", "paxos"])
def test_two_suffixes_that_conflict_are_evidence_and_the_group_goes_on(protocol: str) -> None:
    """SAFETY rule 24: nobody was to lie (f = 0), and the leader signed two batches for one slot."""
    world = World(
        1, protocol, 4, 0, 1, reconfigurable=True, network=Network(delay_max=3), clients=2, interval=64, window=128
    )
    world.load(8, keys=2, poison=0.0)
    world.run(80)
    world.recorder.exempt.add("m0")  # who leads
    leader, other = world.replica("m0"), world.replica("m1")
    world.crash("m3")  # so that just these three reports count
    codec, purpose = SIGNED[protocol]
    places = [place for place, (_, record) in enumerate(other.driving.records) if _has_entry(codec, record)]
    slot, record = other.driving.records[places[-1]]
    entry: Any = codec.decode(record)
    false: Any = attrs.evolve(entry, digest=bytes(31) + b"\1")
    false = attrs.evolve(false, signature=leader.settings.keyring.sign(purpose, false.statement))
    other.driving.records[places[-1]] = (slot, codec.encode(false))
    setup, place = other.driving.setup, other.succession_part.place
    assert setup is not None
    world.switch(forced=True)
    world.run_until(lambda: world.replica("m2").settings.epoch == 1, LIMIT, "the next epoch")
    told = [
        (by, member, proof) for by, member, fault, proof in world.blames if fault.startswith("safety lost in epoch 0")
    ]
    assert {(by, member) for by, member, _ in told} >= {("m1", "m0"), ("m2", "m0")}
    plugin = load_protocol(protocol)
    evidence = Evidence(other.settings.group, 0, place.opening, protocol, "m0", "two batches", told[0][2], "m2")
    assert why_not_proved(evidence, place, plugin, setup.keyring) is None
    slandered = attrs.evolve(evidence, member="m1")
    assert why_not_proved(slandered, place, plugin, setup.keyring) is not None
