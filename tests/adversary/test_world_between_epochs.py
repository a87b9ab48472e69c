"""What members of other epochs, liars and old disks try between epochs: each by hand, against one member."""

from __future__ import annotations

from typing import Any

from bftkit.channel.frames import DecidedClaims, pack_control
from bftkit.channel.replica import Replica
from bftkit.core.machine import MemberId, Out
from bftkit.sim.links import Network
from bftkit.sim.world import World

LIMIT = 20_000


def group(protocol: str = "pbft", seed: int = 1, **more: Any) -> World:
    """A small group that has just decided something; m4 may become a member."""
    n, f, c = (4, 1, 0) if protocol in ("pbft", "cks") else (3, 0, 1)
    settings: dict[str, Any] = {"clients": 2, "interval": 4, "window": 8, "spares": 1, **more}
    world = World(seed, protocol, n, f, c, reconfigurable=True, network=Network(delay_max=3), **settings)
    world.load(8, keys=2, poison=0.0)
    world.run(80)
    return world


def cross(world: World, epoch: int = 1, *members: MemberId) -> None:
    """Run until these members, or all, are in this epoch."""
    wanted = members or tuple(world.members)
    world.run_until(lambda: all(world.replica(name).settings.epoch >= epoch for name in wanted), LIMIT, "the epoch")


def hears(replica: Replica, sender: MemberId, *frames: bytes) -> Out[Any, Any]:
    """What the replica does about these frames, which nobody really sent."""
    out: Out[Any, Any] = Out()
    for frame in frames:
        replica.on_message(sender, frame, out)
    return out


# ------------------------------------------------------------------------------------------------ quorums


def test_who_is_no_member_in_the_epoch_claims_no_decisions() -> None:
    """SAFETY rules 17 and 26: one liar and one removed member are no f + 1 members of this epoch."""
    world = group()
    world.switch(members=["m0", "m1", "m2", "m4"])
    cross(world, 1, "m0", "m1", "m2")
    replica = world.replica("m0")
    assert "m3" in replica.succession_part.observers()
    forged = pack_control(DecidedClaims(1, replica.applied + 1, (b"x" * 32,)))
    hears(replica, "m3", forged)
    hears(replica, "m1", forged)
    assert not replica.catchup.learned
    hears(replica, "m2", forged)  # two members' claims do count: it was no other check that stopped them
    assert replica.catchup.learned
