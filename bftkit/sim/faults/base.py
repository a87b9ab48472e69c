"""What all faults are: a time, an effect on a world, and words. And whom a fault means by ``leader``."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import attrs

if TYPE_CHECKING:
    from bftkit.sim.world import World

LEADER: Final = "leader"
FOLLOWER: Final = "follower"


@attrs.frozen(kw_only=True)
class Fault:
    """The base of all faults."""

    lines: ClassVar[tuple[int, ...]] = ()
    """Which lines of docs/FAULTS.md it injects."""

    at: int
    """Ticks from the start of the run."""

    def inject(self, world: World) -> None:
        """Make it happen now, and see to its end."""
        raise NotImplementedError

    def tell(self) -> str:
        """What happens, in words."""
        raise NotImplementedError

    def named(self) -> tuple[str, ...]:
        """The members and clients that it names."""
        return ()

    def lying(self) -> tuple[str, ...]:
        """The members that count as Byzantine from then on."""
        return ()

    def forgetful(self) -> tuple[str, ...]:
        """The members that may lose what they had promised to keep (SAFETY rule 16)."""
        return ()


@attrs.frozen(kw_only=True)
class OneMember(Fault):
    """The base of what happens to one member."""

    who: str
    """Its name, `LEADER` or `FOLLOWER`."""

    def named(self) -> tuple[str, ...]:
        return (self.who,)


def chosen(world: World, who: str) -> str | None:
    """The member that is meant; None if there is none now."""
    up = [member for member in world.correct if world.hosts[member].up]
    if who not in (LEADER, FOLLOWER):
        return who
    votes: dict[str, int] = {}
    for member in up:
        leader = world.replica(member).machine.leader
        if leader is not None:
            votes[leader] = votes.get(leader, 0) + 1
    leader = max(sorted(votes), key=lambda name: votes[name], default=None)
    if up and not world.is_led:
        leader = up[world.replica(up[0]).applied % len(up)]
    if who == LEADER:
        return leader
    return next((member for member in up if member != leader), None)


def bring_back(world: World, member: str) -> None:
    """The member starts again, unless it has meanwhile."""
    if not world.hosts[member].up:
        world.restart(member)
