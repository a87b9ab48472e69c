"""What can be done to a world: crashes, cuts, weather, clocks, disks, lies.

Whatever lasts gives a `Handle`, whose `end` ends this and nothing else. `World.inject` counts a line of docs/FAULTS.md
where the fault really bites: when a frame is lost at a cut, not when the cut is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NoReturn

from bftkit.channel import frames
from bftkit.channel.interface import ReplicaSettings
from bftkit.core.machine import MemberId
from bftkit.core.wire import WireError
from bftkit.sim.adversaries import Honest
from bftkit.sim.checkers import Recorder
from bftkit.sim.disk import Disk
from bftkit.sim.host import Host
from bftkit.sim.interpreter import HUB
from bftkit.sim.issuing import Issuer
from bftkit.sim.links import ONE_WAY as ONE_WAY_LINE
from bftkit.sim.links import PARTITION, TICK_US, Handle, Hold, Network, Slow
from bftkit.sim.traffic import Traffic, TwinOf
from bftkit.storage.memory_files import PowerCut

# Lines of docs/FAULTS.md.
_AT_THE_DISK = 12
_IN_A_CHANGE = 34
_AMNESIA = 18
_CLOCK = 19
_TWINS = 20


class Controls(Traffic):
    """The part of a `World` that a test, or a fault of a plan, turns."""

    recorder: Recorder
    issuer: Issuer

    def _start(self, host: Host) -> None:
        raise NotImplementedError

    def _new_host(self, member: MemberId, make: Callable[[ReplicaSettings], Honest] | None) -> Host:
        raise NotImplementedError

    def copies(self, member: MemberId) -> tuple[Host, ...]:
        """The member's hosts: one, or two if it has a twin."""
        twin = self._twins.get(member)
        return (self.hosts[member],) if twin is None else (self.hosts[member], twin.copy)

    # ------------------------------------------------------------------------------------------ processes

    def crash(self, *members: MemberId, power: bool = True) -> None:
        """The members' machines lose power, or (`power` False) only their processes are killed."""
        for member in members:
            for host in self.copies(member):
                if host.up or host is self.hosts[member]:
                    self.stop_host(host, power=power)

    def stop_host(self, host: Host, *, power: bool) -> None:
        """One copy of a member dies."""
        self.note(host.me, "crash" if power else "kill")
        host.stop(power=power)
        self.drop_connections(host)

    def restart(self, *members: MemberId, disk: Disk | None = None) -> None:
        """The members come back with what their disks have; with `disk`, with that one in their place.

        A member whose disk refuses stays down, and says why in `broken_disk`.
        """
        for member in members:
            self.note(member, "restart")
            if disk is not None:
                self.hosts[member].disk = disk
                self.inject(_AMNESIA)
            for host in self.copies(member):
                if not host.up or host is self.hosts[member]:
                    self._start(host)

    def pause(self, *members: MemberId) -> None:
        """The members' processes stand still; their machines take frames in."""
        for member in members:
            self.note(member, "pause")
            self.hosts[member].pause()

    def resume(self, *members: MemberId) -> None:
        """They go on. Nothing happens to one that crashed, or goes already."""
        for member in members:
            if self.hosts[member].paused:
                self.note(member, "resume")
                self.hosts[member].resume()

    def power_cut(self) -> None:
        """All members lose power at once."""
        for member in tuple(self.hosts):
            for host in self.copies(member):
                if host.up:
                    self.stop_host(host, power=True)

    def cut_power_before(self, member: MemberId, operation: int) -> None:
        """Cut everybody's power right before the so-and-so-many-th operation on this member's disk from now."""
        self._plan_end(member, operation, "power cut")

    def kill_before(self, member: MemberId, operation: int) -> None:
        """Kill the member's process, and nothing else, right before such an operation: what was written stays."""
        self._plan_end(member, operation, "kill")

    def cut_now(self, member: MemberId, what: str, *, everybody: bool) -> NoReturn:
        """For a hook before a member's step: the power fails at this moment."""
        host = self.hosts[member]
        self.watch_steps(member, None)
        self.note(member, f"{'power cut' if everybody else 'loses power'} before {what}")
        self.inject(_IN_A_CHANGE)
        host.cut_alone = not everybody
        raise PowerCut

    def watch_steps(self, member: MemberId, before: Callable[[str], None] | None) -> None:
        """Call this before each step of the member: an operation on its disk, or the frames of a round that leave.

        Nothing else that a member does outlives it or is seen by anybody.
        """
        host = self.hosts[member]
        host.disk.plan(before)
        host.before_step = before

    def _plan_end(self, member: MemberId, operation: int, what: str) -> None:
        host, left = self.hosts[member], operation

        def before(name: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.note(member, f"{what} before {name}")
                self.inject(_AT_THE_DISK)
                host.killed_at_disk = what == "kill"
                raise PowerCut

        host.disk.plan(before)

    def forget_planned_cut(self, member: MemberId) -> None:
        """Undo `cut_power_before` and `kill_before`."""
        self.hosts[member].disk.plan(None)

    def on_power_cut(self, host: Host) -> None:
        """A hook ended this in the middle of an operation: all members lose power, or one does, or one is killed."""
        if not host.killed_at_disk and not host.cut_alone:
            self.power_cut()
            return
        power = not host.killed_at_disk
        host.killed_at_disk = host.cut_alone = False
        if host.up:
            self.stop_host(host, power=power)

    # ------------------------------------------------------------------------------------------ disks

    def wipe(self, member: MemberId) -> None:
        """A member that is down gets an empty disk."""
        self.note(member, "wipe")
        self.inject(_AMNESIA)
        self.hosts[member].wipe()

    def disk_of(self, member: MemberId) -> Disk:
        """A copy of what the member's disk has now, to be put back later."""
        return self.hosts[member].disk.copy()

    def slow_disk(self, member: MemberId, us: int) -> Handle:
        """Each sync of this member's disk takes so many microseconds longer."""
        self.note(member, f"syncs take {us} µs longer")
        slow = self.hosts[member].disk.slow_us
        slow.append(us)

        def end() -> None:
            if us in slow:  # everything may have been healed meanwhile
                slow.remove(us)

        return Handle(end)

    # ------------------------------------------------------------------------------------------ network

    def partition(self, *sides: Iterable[str]) -> Handle:
        """Cut all links between members or clients of different sides. Who is named in none reaches everybody."""
        chosen = [tuple(side) for side in sides]
        self.note("", f"partition {chosen}")
        named = {name for side in chosen for name in side}
        bridge = not named.issuperset(self.members)
        line = ONE_WAY_LINE if bridge else PARTITION
        return self._mending(self.links.partition((*self.members, *self.actors), chosen, line))

    def cut(self, sender: str, receiver: str) -> Handle:
        """Cut one direction of one link."""
        self.note("", f"cut {sender} > {receiver}")
        return self._mending(self.links.cut_pairs([(sender, receiver)]))

    def uncut(self, sender: str, receiver: str) -> None:
        """Open this direction, whoever cut it."""
        self.note("", f"open {sender} > {receiver}")
        broken = self.suffering()
        self.links.uncut(sender, receiver)
        self.mend(broken)

    def _mending(self, handle: Handle) -> Handle:
        def end() -> None:
            self.note("", "a cut ends")
            broken = self.suffering()
            handle.end()
            self.mend(broken)

        return Handle(end)

    def heal(self) -> None:
        """All links are whole, and as fast as ever; connections of clients that suffered are made anew."""
        self.note("", "heal")
        broken = self.suffering()
        self.links.heal()
        self.mend(broken)

    def slow(self, sender: str, ticks: int, applies: Callable[[bytes], bool] = lambda frame: True) -> Handle:
        """Frames of this sender that fit take so many ticks longer."""
        self.note(sender, f"frames take {ticks} ticks longer")
        return self.links.slow_down(Slow(sender, ticks, applies))

    def hold(self, kind: str, ticks: int, spared: Iterable[str] = ()) -> Handle:
        """Frames with a message of this class come so many ticks later, or are lost if it is 0.

        Frames for the spared members come in time. Raises ValueError if neither the protocol nor the channel has
        such a message.
        """
        plugin = self.issuer.template.plugin
        tests = [
            partial(_holds, head, tag)
            for head, codec in ((frames.PROTOCOL, plugin.codec), (frames.CONTROL, frames.CONTROL_CODEC))
            for tag, message in codec.messages.items()
            if message.__name__ == kind
        ]
        if not tests:
            raise ValueError(f"neither {plugin.record.name} nor the channel has a message {kind}")
        self.note("", f"{kind} {f'comes {ticks} ticks late' if ticks else 'is lost'}, spared: {sorted(spared)}")
        return self.links.hold(
            Hold(lambda frame: any(test(frame) for test in tests), ticks * TICK_US, frozenset(spared))
        )

    def weather(self, network: Network) -> Handle:
        """The links do this until it ends."""
        self.note("", f"weather {network}")
        return self.links.weather(network)

    def limit_bandwidth(self, party: str, bits_per_second: int, *, queue_bytes: int = HUB.queue_bytes) -> Handle:
        """The party stands behind a line of so many bits a second, in each direction.

        Frames queue before it up to so many bytes; then the newest are refused, as by a hub (`Limits.queue_bytes`).
        """
        self.note(party, f"{bits_per_second} bit/s")
        return self.links.limit(party, bits_per_second, queue_bytes)

    # ------------------------------------------------------------------------------------------ clocks and lies

    def jump_clock(self, member: MemberId, ms: int) -> None:
        """The member's wall clock jumps."""
        self.note(member, f"clock jumps by {ms} ms")
        self.inject(_CLOCK)
        self.hosts[member].clock.offset_ms += ms

    def set_clock_rate(self, member: MemberId, factor_ppm: int) -> None:
        """From now on the member's wall clock, and the timers that it sets, run so fast; a million is as they should.

        Raises ValueError unless the factor is positive.
        """
        if factor_ppm <= 0:
            raise ValueError(f"a clock's rate is positive, not {factor_ppm} ppm")
        self.note(member, f"clock runs at {factor_ppm} ppm")
        if factor_ppm != 1_000_000:
            self.inject(_CLOCK)
        self.hosts[member].clock.set_factor(self.now_us, factor_ppm)

    def lie(self, member: MemberId, make: Callable[[ReplicaSettings], Honest]) -> Honest:
        """From now on the member is what `make` makes of it, and nothing that it does counts."""
        self.note(member, "lies")
        self.recorder.exempt.add(member)
        host = self.hosts[member]
        host.adversary = adversary = make(host.settings)
        return adversary

    def exempt(self, *members: MemberId) -> None:
        """These members are broken on purpose: nothing that they do counts."""
        self.recorder.exempt.update(members)

    def twin(
        self,
        member: MemberId,
        left: Iterable[str],
        right: Iterable[str],
        make: Callable[[ReplicaSettings], Honest] | None = None,
    ) -> Host:
        """From now on the member runs twice, with one identity and a copy of its disk each (Bano et al., "Twins").

        The first copy is linked with the members and clients of `left` only, the second with those of `right`; who
        stands in both hears both. Clients that are named in neither stay with the first. `make` makes a liar of the
        second copy. Neither counts. Returns the second. Raises ValueError if the member has a twin already.
        """
        if member in self._twins:
            raise ValueError(f"{member} has a twin already")
        one, other = frozenset(left), frozenset(right)
        self.note(member, f"runs twice: with {sorted(one)}, and with {sorted(other)}")
        self.exempt(member)
        first = self.hosts[member]
        copy = self._new_host(member, make)
        copy.disk = first.disk.copy()
        named = one | other
        unnamed = frozenset(name for name in self.actors if name not in named)
        self._twins[member] = TwinOf(copy, one | unnamed, other)
        for actor in self.actors.values():
            if actor.name in other and actor.name not in one:
                self.drop_connection(actor, member)
        self._start(copy)
        return copy

    def untwin(self, member: MemberId) -> None:
        """The second copy dies; the first one goes on alone."""
        twin = self._twins.pop(member)
        self.note(member, "runs once")
        if twin.copy.up:
            self.stop_host(twin.copy, power=True)
        if self.hosts[member].up:
            for actor in self.actors.values():
                self.connect(actor, member)


def _holds(head: int, tag: int, frame: bytes) -> bool:
    """Whether the frame carries the message with this tag."""
    if frame[:1] != bytes((head,)):
        return False
    if head == frames.CONTROL:
        return frame[1:2] == bytes((tag,))
    try:
        return frames.unpack_protocol(frame)[1][:1] == bytes((tag,))
    except WireError:
        return False
