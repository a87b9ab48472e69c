"""A policy in a group of real members: it decides by what they measure, and a protocol that has stopped is left."""

from __future__ import annotations

import attrs
import pytest
import trio

from bftkit.client import AsyncClient
from bftkit.client.local import LocalGroup, local_group
from bftkit.configuration.policy import Mode, Policy
from bftkit.configuration.qos import QoS
from bftkit.service.keyvalue import KeyValueStore, put

TIMEOUT = 60.0
BACK = Policy(
    "steady",
    (Mode("pbft"), Mode("cks")),
    parameters={"period_ms": 100, "calm": 1, "cooldown": 0, "late_ms": 60_000, "silent": 4, "slow_ms": 60_000},
)
"""Nothing is slow enough for `cks`, and everything is calm enough for `pbft`."""
LEFT = Policy("manual", (Mode("coordinator"), Mode("paxos")), forced=2, stall_ms=500)


async def asks(client: AsyncClient) -> None:
    while True:
        await client.submit(put(b"key", b"value"), timeout=TIMEOUT)


def epoch_of(group: LocalGroup) -> int:
    return group.configuration.epoch


async def test_members_go_back_to_the_fast_protocol_when_it_is_calm_and_remember_why() -> None:
    async with local_group(KeyValueStore, protocol="cks", policy=BACK, checkpoint_interval=4) as group:
        client = await group.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asks, client)
            await group.until(lambda: epoch_of(group) == 1, TIMEOUT)
            nursery.cancel_scope.cancel()
        assert group.configuration.protocol == "pbft"
        assert group.configuration.policy == BACK
        await client.submit(put(b"key", b"other"), timeout=TIMEOUT)
        await group.in_step(TIMEOUT)
        links = {group.node(member).replica.opened_by for member in group.running}
        assert {(link.kind, link.cause) for link in links if link is not None} == {("planned", "policy")}
        told = [group.node(member).replica.status()["policy"] for member in group.running]
        assert all(one["decisions"] == told[0]["decisions"] for one in told)
        (decision,) = told[0]["decisions"]
        assert (decision["epoch"], decision["from"], decision["to"], decision["forced"]) == (0, "cks", "pbft", False)
        assert "all members are heard" in decision["reason"] or "not heard" in decision["reason"]
        assert told[0]["mode"] == 0


async def test_a_coordinator_that_is_gone_is_left_by_the_votes_of_the_others() -> None:
    async with local_group(KeyValueStore, members=3, protocol="coordinator", policy=LEFT) as group:
        client = await group.client()
        await client.submit(put(b"key", b"value"), timeout=TIMEOUT)
        leader = group.leader
        assert leader is not None
        await group.crash(leader)
        await client.submit(put(b"key", b"other"), timeout=TIMEOUT)
        assert group.configuration.protocol == "paxos"
        assert group.configuration.stalls == 1
        link = group.node(group.running[0]).replica.opened_by
        assert link is not None
        assert (link.kind, link.cause) == ("forced", "policy")
        await group.restart(leader)
        await group.until(lambda: all(group.node(one).replica.settings.epoch == 1 for one in group.members), TIMEOUT)
        (decision,) = group.node(leader).replica.status()["policy"]["decisions"]
        assert decision["forced"]
        assert "has stopped" in decision["reason"]


async def test_operators_set_needs_and_a_policy_of_a_running_group() -> None:
    async with local_group(KeyValueStore, protocol="pbft") as group:
        assert group.node("m0").replica.status()["policy"] is None
        qos = QoS(deadline_ms=5000)
        here = await group.switch(qos=qos, policy=attrs.evolve(BACK, modes=BACK.modes[:1]), timeout=TIMEOUT)
        assert (here.protocol, here.qos) == ("pbft", qos)
        status = group.node("m0").replica.status()
        assert status["qos"]["deadline_ms"] == 5000
        assert status["policy"]["name"] == "steady"


async def test_a_policy_that_may_toss_coins_wants_a_coin_key() -> None:
    tossing = Policy("manual", (Mode("paxos"), Mode("cks")))
    async with local_group(KeyValueStore, members=4, protocol="paxos") as group:
        with pytest.raises(ValueError, match=r"cks tosses coins.*the command wants no coin key made"):
            await group.switch(policy=tossing, coin=False, timeout=TIMEOUT)
        here = await group.switch(policy=tossing, timeout=TIMEOUT)
        assert here.coin is not None


async def test_a_policy_that_a_member_does_not_have_is_refused() -> None:
    async with local_group(KeyValueStore, members=3, protocol="paxos") as group:
        for wrong, text in (
            (Policy("unheard-of"), "no policy named 'unheard-of'"),
            (Policy("steady", parameters={"calm": 0}), "policy.parameters.calm"),
            (Policy("manual", (Mode("paxos"), Mode("pxos"))), "pxos"),
        ):
            with pytest.raises(ValueError, match=text):
                await group.switch(policy=wrong, coin=False, timeout=TIMEOUT)
