"""How a group in one process is founded: as `bftkit init` does it, with fresh keys and simulated disks."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

import attrs

from bftkit.client.local_member import Member
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.core.ordering import ProtocolRecord
from bftkit.core.plugin import load_protocol
from bftkit.crypto.keys import SigningKey
from bftkit.crypto.threshold import DEAL_SECRET_SIZE
from bftkit.membership.founding import deal_coin, default_faults
from bftkit.membership.genesis import NONCE_SIZE, Genesis
from bftkit.membership.roster import Roster

SERVICE_NAME: Final = "local:Service"
"""What the genesis says of the service; nobody loads it by this name."""


def founded(
    members: int,
    protocol: str,
    parameters: Mapping[str, int],
    interval: int,
    qos: QoS | None,
    policy: Policy | None,
) -> tuple[Genesis, list[Member], SigningKey]:
    """A genesis with fresh keys, every member's disk as `bftkit init` would leave it, and the operator's key."""
    record = load_protocol(protocol).record
    f, c = default_faults(record, members, None, None)
    ids = tuple(f"m{index}" for index in range(members))
    needs_coin = attrs.evolve(record, coins=coined(record, policy))
    coin, shares = deal_coin(needs_coin, ids, f, c, secrets.token_bytes(DEAL_SECRET_SIZE))
    found = [Member.made(member) for member in ids]
    operator = SigningKey(secrets.token_bytes(32))
    genesis = Genesis(
        name="local",
        protocol=protocol,
        f=f,
        c=c,
        roster=Roster(tuple(member.card.entry for member in found)),
        operators=(operator.public,),
        operator_threshold=1,
        service=SERVICE_NAME,
        nonce=secrets.token_bytes(NONCE_SIZE),
        parameters=parameters,
        checkpoint_interval=interval,
        coin=coin,
        schedule={member.id: member.vault.epochs.publics for member in found},
        qos=qos,
        policy=policy,
    )
    genesis.check_protocol(record)
    for member in found:
        member.vault.coin = shares.get(member.id)
        member.begin_log(genesis.group_id)
    return genesis, found, operator


def coined(record: ProtocolRecord, policy: Policy | None) -> bool:
    """Whether this protocol, or one that the policy may change to, tosses coins."""
    modes = () if policy is None else policy.modes
    return record.coins or any(load_protocol(mode.protocol).record.coins for mode in modes)
