"""Who checks signatures of an epoch: its roster has the keys, its opening goes in front of what is signed."""

from __future__ import annotations

from bftkit.core.machine import Digest
from bftkit.crypto.keys import Ed25519Verifier
from bftkit.membership.chain import Place, Verifiers
from bftkit.membership.epochs import Configuration
from bftkit.membership.genesis import Genesis


def roster_verifier(group: bytes) -> Verifiers:
    """Makes the verifier of each epoch of this group from the keys that its roster names."""

    def verifier(configuration: Configuration, opening: Digest) -> Ed25519Verifier:
        publics = {entry.id: entry.epoch_key for entry in configuration.roster.entries}
        return Ed25519Verifier(group, configuration.epoch, opening, publics)

    return verifier


def founding_place(genesis: Genesis) -> Place:
    """Where a group's chain begins: it is the genesis that opens epoch 0."""
    return Place(Configuration.first(genesis), genesis.group_id)
