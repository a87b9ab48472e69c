"""Operators' changes of a live group, as parts of a plan: switches, members that come and go, keys that are rotated.

They are no faults; they stand among the faults of a plan because they happen at a time of their own and any of them
may be left out. f and c stay what the plan says, so that what lies and what forgets is always allowed for. A change
that the group as it is then cannot be asked for (a member that is one already, too few members for the protocol) is
not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn

import attrs

from bftkit.core.machine import MemberId
from bftkit.core.plugin import load_protocol
from bftkit.sim.faults.base import Fault, bring_back, chosen

if TYPE_CHECKING:
    from bftkit.sim.host import Host
    from bftkit.sim.world import World


@attrs.frozen(kw_only=True)
class Switch(Fault):
    """Operators order another protocol, or the same one anew."""

    lines: ClassVar[tuple[int, ...]] = (35, 36)
    protocol: str
    """Its name on the shelf; empty: the one that runs."""
    forced: bool = False
    """Whether the members are to leave the present one at once, without its help."""
    to: tuple[str, ...] = ()
    """The members that the command is sent to; empty: all."""
    bears: tuple[int, ...] = ()
    """f and c from then on; empty: as before."""
    parameters: Mapping[str, int] = attrs.field(factory=dict[str, int], eq=dict)
    """Of the protocol, from then on; what is not named stays if the protocol has it."""

    def inject(self, world: World) -> None:
        protocol = self.protocol or world.configuration.protocol
        order(
            world,
            protocol,
            world.members,
            forced=self.forced,
            to=self.to,
            bears=self.bears,
            parameters=self.parameters,
        )

    def named(self) -> tuple[str, ...]:
        return self.to

    def tell(self) -> str:
        how = "leave the protocol by force, for" if self.forced else "go over to"
        told = f" (told to {', '.join(self.to)} only)" if self.to else ""
        return f"operators order the group to {how} {self.protocol or 'the same protocol'}{told}"


@attrs.frozen(kw_only=True)
class _OneMember(Fault):
    who: str
    protocol: str = ""
    """Goes with a change to this protocol in the same step; empty: the one that runs."""

    def named(self) -> tuple[str, ...]:
        return (self.who,)

    def _also(self) -> str:
        return f", and the protocol becomes {self.protocol}" if self.protocol else ""


@attrs.frozen(kw_only=True)
class Join(_OneMember):
    """A spare machine becomes a member."""

    lines: ClassVar[tuple[int, ...]] = (37,)

    def inject(self, world: World) -> None:
        if self.who not in world.members:
            order(world, self.protocol or world.configuration.protocol, (*world.members, self.who))

    def tell(self) -> str:
        return f"operators order that {self.who} becomes a member{self._also()}"


@attrs.frozen(kw_only=True)
class Leave(_OneMember):
    """A member becomes none."""

    lines: ClassVar[tuple[int, ...]] = (37, 38)

    def inject(self, world: World) -> None:
        member = chosen(world, self.who)
        rest = tuple(name for name in world.members if name != member)
        if member in world.members:
            order(world, self.protocol or world.configuration.protocol, rest)

    def tell(self) -> str:
        return f"operators order that {self.who} is removed{self._also()}"


@attrs.frozen(kw_only=True)
class Replace(_OneMember):
    """A spare machine takes a member's place."""

    lines: ClassVar[tuple[int, ...]] = (37, 38)
    by: str

    def inject(self, world: World) -> None:
        if self.who in world.members and self.by not in world.members:
            members = tuple(self.by if name == self.who else name for name in world.members)
            order(world, self.protocol or world.configuration.protocol, members)

    def named(self) -> tuple[str, ...]:
        return (self.who, self.by)

    def tell(self) -> str:
        return f"operators order that {self.by} takes the place of {self.who}{self._also()}"


@attrs.frozen(kw_only=True)
class RotateKeys(_OneMember):
    """A member gets new keys."""

    lines: ClassVar[tuple[int, ...]] = (39,)

    def inject(self, world: World) -> None:
        if self.who in world.members:
            order(world, self.protocol or world.configuration.protocol, world.members, rotate=(self.who,))

    def tell(self) -> str:
        return f"operators order new keys for {self.who}{self._also()}"


@attrs.frozen(kw_only=True)
class CrashAtStep(Fault):
    """A member dies at a step of the first change after `at`, and comes back. See `STEPS`."""

    lines: ClassVar[tuple[int, ...]] = (34,)
    who: str
    step: str
    ticks: int
    power: bool = True

    def inject(self, world: World) -> None:
        epoch = world.chain.now.epoch
        done = False

        def look(host: Host) -> None:
            nonlocal done
            if done or host.me != self.who or not STEPS[self.step](host, epoch):
                return
            done = True
            # Its round is over before anything of it is carried out: so in the middle of it.
            world.after_us(0, partial(self._crash, world))

        world.rounds_watched.append(look)

    def _crash(self, world: World) -> None:
        host = world.hosts[self.who]
        if host.up:
            world.crash(self.who, power=self.power)
            world.inject(34)
            world.after(self.ticks, partial(bring_back, world, self.who))

    def named(self) -> tuple[str, ...]:
        return (self.who,)

    def tell(self) -> str:
        what = "loses power" if self.power else "is killed"
        return f"{self.who} {what} when, in a change, it has reached the step {self.step}; back after {self.ticks} ms"


@attrs.frozen(kw_only=True)
class CutBeforeStep(Fault):
    """A member, or everybody, loses power right before the member's so-and-so-many-th step from `at`.

    A step is whatever of it outlives it or is seen by others: an operation on its disk, or the frames of a round that
    leave. So all points at which it can die are such steps, and their number is that of a run without this fault
    (`simulations/crash_steps.py` runs them all).
    """

    lines: ClassVar[tuple[int, ...]] = (34,)
    who: str
    step: int
    ticks: int
    """From the cut."""
    everybody: bool = False

    def inject(self, world: World) -> None:
        left = self.step

        def before(what: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                cut(world, self.who, what, self.ticks, everybody=self.everybody)

        world.watch_steps(self.who, before)

    def named(self) -> tuple[str, ...]:
        return (self.who,)

    def tell(self) -> str:
        victims = "all members lose" if self.everybody else f"{self.who} loses"
        return f"{victims} power right before step {self.step} of {self.who} from now, back {self.ticks} ms later"


def cut(world: World, member: MemberId, what: str, ticks: int, *, everybody: bool) -> NoReturn:
    """The power fails right before this step of the member, and is back so much later."""
    for name in world.hosts if everybody else (member,):
        world.after(ticks, partial(bring_back, world, name))
    world.cut_now(member, what, everybody=everybody)


def _prepared(host: Host, epoch: int) -> bool:
    replica = host.replica
    state = replica.state.reconfiguring if replica is not None else None
    return state is not None and state.pending is not None and state.configuration.epoch == epoch


def _committed(host: Host, epoch: int) -> bool:
    replica = host.replica
    state = replica.state.reconfiguring if replica is not None else None
    return _prepared(host, epoch) and state is not None and state.boundary > 0


def _signed(host: Host, epoch: int) -> bool:
    replica = host.replica
    return _in(host, epoch) and replica is not None and replica.succession_part.ending is not None


def _crossing(host: Host, epoch: int) -> bool:
    replica = host.replica
    return _in(host, epoch) and replica is not None and replica.succession_part.crossing is not None


def _entered(host: Host, epoch: int) -> bool:
    return _in(host, epoch + 1)


def _active(host: Host, epoch: int) -> bool:
    replica = host.replica
    return _in(host, epoch + 1) and replica is not None and replica.succession_part.active


def _working(host: Host, epoch: int) -> bool:
    replica = host.replica
    if replica is None or not _in(host, epoch + 1):
        return False
    opened_by = replica.succession_part.opened_by
    return opened_by is not None and replica.applied > opened_by.ending.slot


def _wedged(host: Host, epoch: int) -> bool:
    return _in(host, epoch) and host.replica is not None and host.replica.wedged


def _agreed(host: Host, epoch: int) -> bool:
    return _wedged(host, epoch) and host.replica is not None and host.replica.wedge.continuation is not None


def _in(host: Host, epoch: int) -> bool:
    return host.replica is not None and host.replica.settings.epoch == epoch


STEPS: Final = {
    "prepared": _prepared,
    "committed": _committed,
    "wedged": _wedged,
    "agreed": _agreed,
    "signed": _signed,
    "crossing": _crossing,
    "entered": _entered,
    "active": _active,
    "working": _working,
}
"""The steps of a change at one member: the command is ordered; so is its commit (or, by force: the member has left the
protocol; the bedrock has agreed); it signed the ending; it makes the state durable; it is in the next epoch; so many
others are that it executes; it has executed there."""
PLANNED_STEPS: Final = ("prepared", "committed", "signed", "crossing", "entered", "active", "working")
FORCED_STEPS: Final = ("wedged", "agreed", "signed", "crossing", "entered", "active", "working")


def order(
    world: World,
    protocol: str,
    members: Sequence[MemberId],
    *,
    rotate: Sequence[MemberId] = (),
    forced: bool = False,
    to: Sequence[MemberId] = (),
    bears: Sequence[int] = (),
    parameters: Mapping[str, int] | None = None,
) -> None:
    """Operators order this, if it is possible with these members and the f and c that there are, or are to be."""
    here = world.configuration
    record = load_protocol(protocol).record
    f, c = bears or (here.f, here.c)
    if len(members) < record.members_needed(f, c) or (f and not record.byzantine):
        return
    if forced and (here.why_not_forced() is not None or tuple(members) != here.members):
        return
    if record.coins and forced and here.coin is None:
        return
    stay = {name: value for name, value in here.parameters.items() if name in record.parameters}
    world.switch(
        protocol,
        members=tuple(members),
        rotate=rotate,
        f=f,
        c=c,
        parameters={**stay, **(parameters or {})},
        forced=forced,
        to=tuple(to) or None,
    )


CHANGES: Final[dict[str, type[Fault]]] = {
    "switch": Switch,
    "join": Join,
    "leave": Leave,
    "replace": Replace,
    "rotate-keys": RotateKeys,
    "crash-at-step": CrashAtStep,
    "cut-before-step": CutBeforeStep,
}
"""By the names under which stored plans have them."""
