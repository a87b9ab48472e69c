"""How a member stands, in one line: what a violation says of everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bftkit.channel.replica import Replica

if TYPE_CHECKING:
    from bftkit.sim.host import Host


def line_of(host: Host) -> str:
    """Where the member is in the order, in its protocol and between epochs."""
    replica = host.replica
    if replica is None:
        return f"{host.me} down{f' ({host.broken_disk})' if host.broken_disk else ''}"
    return (
        f"{host.me} {_epoch_of(replica)}applied {replica.applied} stable {replica.checkpoints.stable} "
        f"view {replica.machine.view} "
        f"leader {replica.machine.leader} waiting {len(replica.pool)} room {replica.machine.room} "
        f"silent {replica.silent} stopped {replica.stopped} transfer {replica.catchup.transfer is not None}"
    )


def _epoch_of(replica: Replica) -> str:
    succession = replica.succession
    if succession is None:
        return ""
    state = replica.state.reconfiguring
    assert state is not None
    pending = "" if state.pending is None else f" pending since {state.pending.slot}, end {state.pending.boundary}"
    return (
        f"epoch {replica.settings.epoch} ({replica.settings.plugin.record.name}{pending}, "
        f"{'active' if succession.active else f'{len(succession.holders)} hold'}"
        f"{', crossing' if succession.crossing is not None else ''}"
        f"{f', {len(succession.ahead)} ahead' if succession.ahead else ''}) "
    )
