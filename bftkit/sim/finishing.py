"""The end of a run: everything heals, everybody comes back, all questions are answered, and then all is checked.

`finish` waits until every client has its answers and every member is up to date, reads all keys back and looks for one
order of all operations that explains what the clients saw; that order must also explain every member's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bftkit.channel.frames import DONE, REFUSED
from bftkit.channel.replica import Replica
from bftkit.core.machine import Digest, MemberId
from bftkit.membership.epochs import Configuration
from bftkit.sim.bounds import await_answers, healing_ticks
from bftkit.sim.linearizability import SearchTooLarge, check
from bftkit.sim.links import Network
from bftkit.sim.register import Get, RegisterModel
from bftkit.sim.witness import Held, leaves_of
from bftkit.sim.witness import check_order as check_agreed_order
from bftkit.sim.witness import check_states as check_agreed_states

if TYPE_CHECKING:
    from bftkit.sim.world import World

SEARCH_MAX: Final = 10_000
"""So many configurations of one key are looked at in search of an order."""


def finish(world: World, without: Sequence[MemberId], max_ticks: int | None, *, calm: bool) -> None:
    """See `World.finish`."""
    _heal(world, without, calm=calm)
    limit = max_ticks or healing_ticks(world)
    await_answers(world, limit, "every client has its answers")
    reader = world.join("reader")
    for key in sorted(world.keys):
        reader.ask(Get(key))
        reader.read(key)
    await_answers(world, limit, "the last reads are answered")
    world.run_until(lambda: _is_settled(world, without), limit, "all members are up to date")
    live = _live(world, without)
    world.check_history()
    for member in live:
        world.bounds.check(world.hosts[member])
    world.check_order(live)


def _heal(world: World, without: Sequence[MemberId], *, calm: bool) -> None:
    """Whatever is broken becomes whole; no client asks for anything more."""
    world.heal()
    if calm:
        world.links.network = Network()
    for member, host in world.hosts.items():
        host.disk.mend()
        if host.clock.factor_ppm != 1_000_000:
            world.set_clock_rate(member, 1_000_000)
        world.resume(member)
        if not host.up and member not in without:
            world.restart(member)
    for actor in world.actors.values():
        actor.retire()


# ------------------------------------------------------------------------------------------------ is all done?


def _live(world: World, without: Sequence[MemberId]) -> list[MemberId]:
    return [member for member in world.correct if member not in without and world.hosts[member].halted is None]


def _is_settled(world: World, without: Sequence[MemberId]) -> bool:
    """Whether all members are in the same state, and nothing that operators ordered is under way."""
    if not all(world.hosts[member].up for member in _live(world, without)):
        return False  # one of them died at a late step of a change, and comes back
    live = [world.replica(member) for member in _live(world, without)]
    if len({(replica.settings.epoch, replica.applied) for replica in live}) > 1:
        return False
    if world.chain.now.place is None:
        return True
    return live[0].settings.epoch == world.chain.now.epoch and not any(
        _is_changing(world, replica, without) for replica in live
    )


def _is_changing(world: World, replica: Replica, without: Sequence[MemberId]) -> bool:
    succession, state = replica.succession_part, replica.state.reconfiguring
    assert state is not None
    if not succession.active or succession.crossing is not None or succession.at_end or replica.wedged:
        return True
    if state.pending is not None:
        return state.pending.committed or _can_be_ready(world, state.pending.next, without)
    # Who refused a command and was started again knows nothing of it, and is not told once more.
    return any(
        one.signed.command.epoch == world.chain.now.epoch
        and replica.orders.state_of(one.signed.name)[0] not in (DONE, REFUSED)
        and _may_succeed(world, one.signed.name, without)
        for one in world.ordered
        if not world.operator.is_over(one)
    )


def _may_succeed(world: World, name: Digest, without: Sequence[MemberId]) -> bool:
    """Whether not so many members have refused this command that too few are left to get ready for it.

    The others may hold it for ever: one that is to leave has nothing to get ready, and a silent one tells no operator.
    """
    refused = [one for one in _live(world, without) if world.replica(one).orders.state_of(name)[0] == REFUSED]
    return world.quorum.n - len(refused) >= world.quorum.available


def _can_be_ready(world: World, configuration: Configuration, without: Sequence[MemberId]) -> bool:
    """Whether so many of these members are well that their epoch can begin."""
    able = 0
    for member in configuration.members:
        host = world.hosts[member]
        replica = host.replica
        if member in world.recorder.exempt or member in without or replica is None or replica.stopped is not None:
            continue
        able += not replica.silent and world.keychain(member).why_not(configuration) is None
    return able >= configuration.quorum.available


# ------------------------------------------------------------------------------------------------ was all right?


def check_order(world: World, live: Sequence[MemberId]) -> None:
    """See `World.check_order`."""
    held: list[Held] = []
    for member in live:
        replica = world.replica(member)
        held.append(Held(member, replica.applied, leaves_of(replica.state.application.snapshot())))
        for stable in replica.checkpoints.kept:
            leaves = leaves_of(stable.view.application)
            held.append(Held(member, stable.slot, leaves, "its stable checkpoint", live=False))
    check_agreed_order(world.recorder, lambda: world.application(world.members[0]), world.issuer.group, held)
    check_agreed_states(world.recorder, {member: world.replica(member).state for member in live})


def check_history(world: World) -> None:
    """See `World.check_history`."""
    try:
        verdict = check(RegisterModel(), world.history.calls(), configurations_max=SEARCH_MAX)
    except SearchTooLarge:
        world.tangled += 1
        return
    if not verdict.linearizable:
        world.fail(f"linearizability: {verdict}", oracle="linearizability")
