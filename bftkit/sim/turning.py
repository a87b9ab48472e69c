"""Where a member stands between two epochs, and what has changed since it was last looked at, in words.

For the stories of runs in which the configuration changes (`bftkit.sim.story`): a command is prepared, refused, taken
back or committed; a coin key is made; members leave a protocol by force, report, and agree on its end; the end is
signed, the hand-over is there, a new epoch is entered, and begins once enough hold its state. Everything is read off
the member's parts from outside, so a member that lies or is wrong is told as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from bftkit.membership.commands import KINDS, SignedCommand

if TYPE_CHECKING:
    from bftkit.channel.replica import Replica
    from bftkit.core.machine import Digest, MemberId, Slot
    from bftkit.membership.epochs import Configuration


@attrs.frozen
class Standing:
    """What a member knows of the end of its epoch."""

    configuration: Configuration
    takes_part: bool
    """It is a member of the epoch."""
    active: bool
    """The epoch has begun here."""
    pending: SignedCommand | None
    boundary: Slot
    ready: tuple[MemberId, ...]
    outcomes: Mapping[Digest, tuple[Slot, str]]
    refused: Mapping[Digest, str]
    makings: tuple[Digest, ...]
    shares: tuple[int, ...]
    forced: SignedCommand | None
    reports: tuple[MemberId, ...]
    agreed: tuple[Slot, Slot] | None
    """After which checkpoint, and with which slot, a forced ending ends the epoch."""
    ending: tuple[Slot, Digest] | None
    """The epoch's last slot and the state after it, as this member signs it."""
    crossing: tuple[MemberId, ...]
    """Who signed the hand-over that this member goes by."""
    failed: str | None
    stopped: str | None


def standing_of(replica: Replica) -> Standing | None:
    """None for a member of a group whose configuration never changes."""
    succession, state = replica.succession, replica.state.reconfiguring
    if succession is None or state is None:
        return None
    wedge, keys = replica.wedge, replica.preparing.coin_keys
    agreed, ending, crossing = wedge.continuation, succession.ending, succession.crossing
    return Standing(
        configuration=succession.configuration,
        takes_part=not replica.observing,
        active=succession.active,
        pending=state.pending.signed if state.pending is not None else None,
        boundary=state.boundary,
        ready=tuple(sorted(replica.preparing.ready)),
        outcomes=dict(state.outcomes),
        refused=dict(replica.orders.refused),
        makings=tuple(sorted(keys.makings)),
        shares=tuple(sorted(keys.shares)),
        forced=wedge.command,
        reports=tuple(sorted(wedge.reports)),
        agreed=(agreed.start, agreed.end) if agreed is not None else None,
        ending=(ending.slot, ending.root) if ending is not None else None,
        crossing=tuple(vote.member for vote in crossing.certificate.votes) if crossing is not None else (),
        failed=replica.driving.failed,
        stopped=replica.stopped,
    )


def steps(before: Standing | None, now: Standing) -> list[str]:
    """What happened to the member since, each as the end of a sentence about it."""
    told: list[str] = []
    new = before is None or before.configuration.epoch != now.configuration.epoch
    if before is not None and new:
        told += _crossed(before, now)
    if before is None:
        return told  # as it was found; what it was before, its crash tells
    old = None if new else before
    told += _ordered(before, old, now)
    told += _left(old, now)
    if now.ending is not None and (old is None or old.ending != now.ending):
        slot, root = now.ending
        told.append(f"signs the end of epoch {now.configuration.epoch}: slot {slot}, state {root.hex()[:6]}")
    if now.crossing and (old is None or not old.crossing):
        told.append(f"has a hand-over out of epoch {now.configuration.epoch}, signed by {', '.join(now.crossing)}")
    if now.failed is not None and (old is None or old.failed is None):
        told.append(f"can run its protocol no further: {now.failed}")
    if now.stopped is not None and before.stopped is None:
        told.append(f"halts: {now.stopped}")
    return told


def command_words(signed: SignedCommand) -> str:
    """A command in a few words."""
    command = signed.command
    name = f"command {signed.name.hex()[:6]}"
    if command.change is None:
        return f"{name} (epoch {command.epoch}: take back what is prepared)"
    change = command.change
    members = ", ".join(seat.id for seat in change.members)
    kind = "forced" if command.forced else KINDS[command.kind]
    at = f", from slot {command.at} on" if command.at else ""
    return f"{name} (epoch {command.epoch}, {kind}: {change.protocol} on {members}, f = {change.f}, c = {change.c}{at})"


def configuration_words(configuration: Configuration) -> str:
    """A configuration in a few words."""
    return (
        f"{configuration.protocol} on {', '.join(configuration.members)}, f = {configuration.f}, c = {configuration.c}"
    )


def _crossed(before: Standing, now: Standing) -> list[str]:
    was, there = before.configuration, now.configuration
    told = [f"ENTERS epoch {there.epoch}: {configuration_words(there)}"]
    joined = [member for member in there.members if member not in was.members]
    left = [member for member in was.members if member not in there.members]
    if joined or left:
        parts = [f"{', '.join(who)} {what}" for who, what in ((joined, "joined"), (left, "left")) if who]
        told[0] += f" ({'; '.join(parts)})"
    if not now.takes_part:
        told.append(f"is no member of epoch {there.epoch}, and follows it")
    elif not before.takes_part:
        told.append(f"is a member from epoch {there.epoch} on")
    if now.active:
        told.append(f"takes part in epoch {there.epoch}")
    return told


def _ordered(before: Standing, old: Standing | None, now: Standing) -> list[str]:
    """What became of commands."""
    told: list[str] = []
    epoch = now.configuration.epoch
    earlier = old.pending if old is not None else None
    for name, text in now.refused.items():
        if before.refused.get(name) != text:
            told.append(f"refuses command {name.hex()[:6]}: {text}")
    if old is not None:
        for name, (slot, text) in now.outcomes.items():
            if name not in old.outcomes:
                told.append(f"executes command {name.hex()[:6]} in slot {slot}: {text}")
    if now.pending is not None and (earlier is None or earlier.name != now.pending.name):
        told.append(f"PREPARES {command_words(now.pending)}")
    if set(now.makings) - set(before.makings):
        told.append("makes a coin key with the others")
    if set(now.shares) - set(before.shares):
        told.append(f"holds a share of the coin key of epoch {max(now.shares)}")
    if now.ready and (old is None or now.ready != old.ready):
        told.append(f"knows to be ready for epoch {epoch + 1}: {', '.join(now.ready)}")
    if now.boundary and (old is None or old.boundary != now.boundary):
        assert now.pending is not None
        told.append(f"COMMITS command {now.pending.name.hex()[:6]}: epoch {epoch} ends at slot {now.boundary}")
    if old is not None and not old.active and now.active:
        told.append(f"takes part in epoch {epoch}")
    return told


def _left(old: Standing | None, now: Standing) -> list[str]:
    """How a protocol is left by force."""
    told: list[str] = []
    if now.forced is not None and (old is None or old.forced is None):
        protocol = now.configuration.protocol
        told.append(f"LEAVES {protocol} by force and votes in it no more, by {command_words(now.forced)}")
    if now.reports and (old is None or old.reports != now.reports):
        told.append(f"has reports of {', '.join(now.reports)}")
    if now.agreed is not None and (old is None or old.agreed is None):
        start, end = now.agreed
        told.append(
            f"AGREES by the bedrock: epoch {now.configuration.epoch} goes on from slot {start} and ends at {end}"
        )
    return told
