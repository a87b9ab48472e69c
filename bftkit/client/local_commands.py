"""What an operator does to a group in one process: makes a change, says a command to all, and asks what became of it.

A command proves itself, so whoever says it is nobody: a stranger with links to the members, who repeats it until they
have carried it out. That they did, or why they refuse, is looked up in the members and not asked for.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from bftkit.channel.bundles import COMMAND, make_proved_bundle
from bftkit.channel.frames import BUNDLE, REFUSED
from bftkit.channel.replica import Replica
from bftkit.client.local_founding import coined
from bftkit.configuration.policy import Policy
from bftkit.configuration.qos import QoS
from bftkit.core.machine import MemberId
from bftkit.core.plugin import load_protocol
from bftkit.membership.card import MemberCard
from bftkit.membership.commands import Change, SignedCommand
from bftkit.membership.epochs import Configuration
from bftkit.membership.founding import default_faults
from bftkit.network.addresses import Address
from bftkit.network.hub import LinkUp
from bftkit.network.memory import MemoryHub, MemoryNetwork
from bftkit.network.session import Identity

SAY_AGAIN_SECONDS: Final = 0.5


def changed(
    here: Configuration,
    card: Callable[[MemberId], MemberCard],
    protocol: str | None = None,
    *,
    members: Sequence[MemberId] | None = None,
    f: int | None = None,
    c: int | None = None,
    parameters: Mapping[str, int] | None = None,
    checkpoint_interval: int | None = None,
    coin: bool | None = None,
    qos: QoS | None = None,
    policy: Policy | None = None,
) -> Change:
    """See `LocalGroup.change`. `card`: of a member that is none of this configuration."""
    name = protocol if protocol is not None else here.protocol
    record = load_protocol(name).record
    names = tuple(members) if members is not None else here.members
    if name != here.protocol or len(names) != len(here.members):
        f, c = default_faults(record, len(names), f, c)
    f, c = here.f if f is None else f, here.c if c is None else c
    interval = checkpoint_interval if checkpoint_interval is not None else here.checkpoint_interval
    seats = {seat.id: seat for seat in here.seats()}
    return Change(
        name,
        dict(parameters) if parameters is not None else dict(here.parameters) if name == here.protocol else {},
        f,
        c,
        tuple(seats[one] if one in seats else card(one).seat() for one in names),
        here.operators,
        here.operator_threshold,
        interval,
        max(2 * interval, here.window),
        (coined(record, policy or here.policy) or f > 0) if coin is None else coin,
        qos or here.qos,
        policy or here.policy,
    )


@asynccontextmanager
async def saying(
    signed: SignedCommand, network: MemoryNetwork, running: Callable[[], Mapping[MemberId, bytes]]
) -> AsyncGenerator[None]:
    """Meanwhile every running member is told this, at once and again from time to time. `running`: their identities."""
    frame = bytes((BUNDLE,)) + make_proved_bundle(COMMAND, signed.name, signed.encode())
    hub = MemoryHub(network, Identity.from_seed(secrets.token_bytes(32)), signed.command.group)

    async def say() -> None:
        again = 0.0
        while True:
            now = hub.clock()
            if now >= again:
                again = now + SAY_AGAIN_SECONDS
                there = running()
                for member, identity in there.items():  # those that are there already keep their links
                    hub.connect(member, identity, (Address("memory", member),))
                hub.broadcast(tuple(there), frame)
            hub.flush()
            hub.poll()
            for event in hub.events():
                if isinstance(event, LinkUp) and isinstance(event.peer, str):
                    hub.send(event.peer, frame)  # what was said before it was up may be lost
            await hub.wait(min(again, hub.deadline()))

    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            try:
                yield
            except Exception as error:
                failure = error  # the members' refusal is raised as it is, and in no group
            nursery.cancel_scope.cancel()
    finally:
        hub.close()
    if failure is not None:
        raise failure


def has_entered(replica: Replica, epoch: int) -> bool:
    """Whether a member takes part in this epoch, or is in a later one."""
    succession = replica.succession_part
    here = succession.configuration.epoch
    return here > epoch or (here == epoch and succession.active)


def refusal(replicas: Sequence[Replica], signed: SignedCommand) -> str | None:
    """Why this command has no effect, if all that could carry it out refuse it."""
    states = [
        replica.orders.state_of(signed.name)
        for replica in replicas
        if not replica.observing and replica.settings.epoch == signed.command.epoch
    ]
    if states and all(state == REFUSED for state, _ in states):
        return "; ".join(sorted({text for _, text in states}))
    return None


def whereabouts(replicas: Sequence[Replica], signed: SignedCommand) -> str:
    """Where every member is, and what it says of this command, for people."""
    told: list[str] = []
    for replica in replicas:
        state, text = replica.orders.state_of(signed.name)
        stopped = f", stopped: {replica.stopped}" if replica.stopped else ""
        told.append(
            f"{replica.me} in epoch {replica.settings.epoch} at slot {replica.applied} "
            f"(command: {state} {text}{stopped})"
        )
    return "; ".join(told)
