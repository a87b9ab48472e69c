"""What must stay bounded in every member, and how long anything may take once all is well again.

**Bounds** (oracle ``bounded``). Every few rounds of a member the sizes of all that it keeps are compared with caps that
follow from its settings: `Limits`, the window, the interval between checkpoints, the number of members. Two kinds:

- what the settings promise by name: bytes in the pool, of all and of each client; bytes of stored batches; sessions,
  their replies and their windows; reads that wait
- everything else, by a walker that knows no names: it follows attributes, dictionaries, lists, tuples and sets of the
  protocol's machine and of the channel's parts. No container may hold more than one entry for each slot that can be
  under discussion, times the members if each of them can fill one; a table that is never emptied exceeds that soon,
  since windows are small in simulated worlds

and of the process around it: frames that wait to be handled, bytes on the disk.

**Progress** (oracle ``progress``). Whatever waits when everything is healed, or is asked afterwards, is answered within
ten view timeouts. Why ten: one may have begun just now under a leader that will not do; f more leaders may be no better
(f is 1 to 3 in these worlds), each costs a timeout, and with n > 4 a member may need one more to agree which view is
next; twice that, since the members' timers need not stand alike. The timeout is the one in force when everything was
healed, as the machines have it: a group that was cut apart for long has doubled it several times. What comes on top is
the client's own patience: a bundle that was lost before waits until the client sends it again, four seconds at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from bftkit.channel.batches import BATCH_ROOM, NEXT_SLOTS, SERVED_AT_ONCE
from bftkit.channel.bundles import OVERHEAD, Bundle
from bftkit.channel.catchup import CLAIMS_AT_ONCE
from bftkit.channel.checkpoints import Stable
from bftkit.channel.client import PATIENCE_TICKS_MAX, RETRY_TICKS
from bftkit.channel.interface import Limits, ReplicaSettings
from bftkit.channel.replica import Replica
from bftkit.channel.state import FullView
from bftkit.core.ordering import Plugin, Setup
from bftkit.core.quorum import Quorum

if TYPE_CHECKING:
    from bftkit.sim.host import Host
    from bftkit.sim.world import World

LOOK_ROUNDS: Final = 16
"""What has a name is looked at every so many rounds of a member."""
WALK_ROUNDS: Final = 512
"""The walker goes every so many rounds."""
VIEW_TIMEOUTS: Final = 10
VIEW_TIMEOUT_USUAL: Final = 1000
"""Stands for protocols without a timeout of their own, in ticks."""
LOOK_TICKS: Final = 25
BATCH_COPIES: Final = 16
VOTE_BYTES: Final = 1024
"""A member's part in what a log keeps of one slot, at most: its votes, and what certificates have of them."""
_SKIPPED: Final = (Replica, ReplicaSettings, Limits, Setup, Plugin, Quorum, Bundle, Stable, FullView)
"""Shared things, the way back to the whole, and what has bounds of its own."""
_STOP: Final = (str, bytes, bytearray, int, float, bool, type(None), type)


# ------------------------------------------------------------------------------------------------ the walker


@attrs.define
class Survey:
    """The largest container of each kind that was found, by the path to it (``machine.slots[].prepares``)."""

    sizes: dict[str, int] = attrs.field(factory=dict[str, int])
    items: int = 0
    """All objects that were passed."""
    bytes: int = 0
    """All bytes in them."""


def survey(roots: Mapping[str, object], skip: tuple[type, ...] = ()) -> Survey:
    """Walk through everything that can be reached from these objects, but not through those of the types in `skip`."""
    found = Survey()
    seen: set[int] = set()
    stop: tuple[type, ...] = (*_STOP, *skip)
    stack: list[tuple[str, object]] = list(roots.items())

    def note(path: str, inner: Iterable[object]) -> None:
        # Most of what is met is plain: it is not worth a place on the stack.
        for value in inner:
            kind = type(value)
            if kind is bytes:
                found.bytes += len(cast(bytes, value))
            elif kind not in _PLAIN:
                stack.append((path, value))

    while stack:
        path, value = stack.pop()
        if isinstance(value, bytes | bytearray):
            found.bytes += len(value)
            continue
        if isinstance(value, stop) or id(value) in seen:
            continue
        seen.add(id(value))
        found.items += 1
        if isinstance(value, dict):
            table = cast("dict[Any, Any]", value)
            found.sizes[path] = max(found.sizes.get(path, 0), len(table))
            note(path + "[]", table.values())
            stack.extend((path + "[]", key) for key in table if type(key) not in _KEYS and not isinstance(key, _STOP))
        elif isinstance(value, list | tuple | set | frozenset | deque):
            row = cast("list[Any]", value)
            found.sizes[path] = max(found.sizes.get(path, 0), len(row))
            note(path + "[]", row)
        elif not callable(value):
            for name, inner in _attributes(value):
                note(f"{path}.{name}", (inner,))
    return found


def _attributes(value: object) -> Iterable[tuple[str, object]]:
    kind = type(value)
    names = _NAMES.get(kind)
    if names is None:
        names = _NAMES[kind] = tuple(field.name for field in attrs.fields(kind)) if attrs.has(kind) else ()
    if names:
        return [(name, getattr(value, name, None)) for name in names]
    return cast("dict[str, object]", getattr(value, "__dict__", {})).items()


_NAMES: Final[dict[type, tuple[str, ...]]] = {}
_PLAIN: Final = frozenset((str, int, float, bool, type(None)))
_KEYS: Final = frozenset((str, int, bytes))


# ------------------------------------------------------------------------------------------------ caps


@attrs.frozen
class Caps:
    """What a member may keep, from its settings."""

    slots: int
    """Slots that can be under discussion: those above the older kept checkpoint, up to the end of the window, of a
    member that is a window ahead of the others."""
    table: int
    """Entries of any table of the protocol's machine: one for each slot, and some for each member."""
    batches: int
    """Batches that are held or wanted: a slot may have several, of different views."""
    stored_bytes: int
    disk_bytes: int
    """Files of the log, besides the batches in them."""

    @staticmethod
    def of(settings: ReplicaSettings, segment_bytes: int) -> Caps:
        """See the fields."""
        window, interval, n = settings.window, settings.checkpoint_interval, len(settings.members)
        limits = settings.limits
        slots = 3 * window + 2 * interval
        batch = limits.batch_bytes + limits.bundle_bytes + BATCH_ROOM
        return Caps(
            slots=slots,
            table=slots + 8 * n + 16,
            batches=4 * slots + 8 * n + 16,
            stored_bytes=limits.stored_bytes + (NEXT_SLOTS + SERVED_AT_ONCE + window) * batch,
            disk_bytes=4 * segment_bytes + 4 * slots * n * VOTE_BYTES + (1 << 20),
        )


class Bounds:
    """Looks at one world's members. Cheap: most rounds cost nothing."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._caps: dict[str, tuple[ReplicaSettings, Caps]] = {}
        """Of each member, in its epoch."""
        self._stored: dict[str, int] = {}
        """The most bytes of batches that each member ever held."""
        self._standing: dict[str, int] = {}
        """The most bytes of standing records that it ever had."""

    def look(self, host: Host) -> None:
        """After a round of this member."""
        if host.rounds % LOOK_ROUNDS == 0:
            self.check(host, walk=host.rounds % WALK_ROUNDS == 0)

    def check(self, host: Host, *, walk: bool = True) -> None:
        """All sizes now; with `walk` those that have no name, too."""
        replica = host.replica
        if replica is None or host.me in self._world.recorder.exempt:
            return
        settings = replica.settings
        known = self._caps.get(host.me)
        if known is None or known[0] is not settings:
            known = self._caps[host.me] = settings, Caps.of(settings, self._world.segment_bytes)
        caps, limits = known[1], settings.limits
        pool, sessions, stored = replica.pool, replica.state.sessions, replica.batches.stored_bytes
        self._stored[host.me] = max(self._stored.get(host.me, 0), stored)
        self._within(host, "the history", len(replica.history), caps.slots + CLAIMS_AT_ONCE, "slots")
        self._within(host, "the pool", pool.size, limits.pool_bytes, "bytes")
        self._within(host, "the pool", len(pool), limits.pool_bytes // OVERHEAD, "bundles")
        self._within(host, "the store of batches", stored, caps.stored_bytes, "bytes")
        self._within(host, "the session table", len(sessions.by_client), limits.sessions, "sessions")
        self._within(host, "the session table", sessions.reply_bytes, sessions.table_bytes_max, "bytes of replies")
        if walk:
            self._walk(host, replica, caps)
            # A batch is written when it is voted for, and again if a later view carries it to a later slot; and it
            # stays until its whole segment may go. So what counts is the most that was ever stored at once.
            # Each segment begins with the standing records, and is at least twice as large as they were: so they take
            # no more than all else does, and the newest segments may hold nothing but them.
            standing = sum(map(len, replica.standing()))
            self._standing[host.me] = max(self._standing.get(host.me, 0), standing)
            disk_bytes = 2 * (caps.disk_bytes + 2 * BATCH_COPIES * self._stored[host.me]) + 4 * self._standing[host.me]
            self._within(host, "the log", host.log.bytes_on_disk, disk_bytes, "bytes")

    def _within(self, host: Host, what: str, size: int, cap: int, unit: str) -> None:
        if size > cap:
            self._world.recorder.fail("bounded", f"{host.me}: {what} has {size} {unit}, more than {cap}")

    def _walk(self, host: Host, replica: Replica, caps: Caps) -> None:
        limits = replica.settings.limits
        for client in sorted(replica.pool.client_sizes):
            size = replica.pool.client_sizes[client]
            self._within(host, f"the pool of client {client.hex()[:8]}", size, limits.client_pool_bytes, "bytes")
        total = 0
        for session in replica.state.sessions.by_client.values():
            total += session.reply_bytes
            name = f"the session of {session.client.hex()[:8]}"
            if len(session.replies) > 1:
                self._within(host, name, session.reply_bytes, limits.session_reply_bytes, "bytes of replies")
            self._within(host, name, session.executed.bit_length(), limits.session_window, "numbers")
        self._within(host, "the sum of kept replies", total, replica.state.sessions.reply_bytes, "bytes")
        claims = caps.table + 2 * CLAIMS_AT_ONCE
        for roots, cap in (
            ({"machine": replica.machine, "watch": replica.watch, "settling": replica.settling}, caps.table),
            ({"votes": replica.checkpoints.votes}, caps.table),
            ({"catchup": replica.catchup}, claims),
            ({"clients": replica.clients}, limits.reads),
            ({"batches": replica.batches}, caps.batches),
        ):
            found = survey(roots, skip=_SKIPPED)
            for path in sorted(found.sizes):
                # What one batch or one state consists of is bounded by its size, which is looked at elsewhere.
                if not path.startswith(("batches._stored[].", "catchup.transfer.")):
                    self._within(host, path, found.sizes[path], cap, "entries")


# ------------------------------------------------------------------------------------------------ progress


def view_timeout(host: Host) -> int:
    """For how long this member waits for a leader at present, in ticks.

    A machine that lets it grow shows it as ``patience.timeout``; for others it is the parameter ``view_timeout``.
    """
    replica, settings = host.replica, host.current
    known = settings.plugin.record.parameters.get("view_timeout")
    base = VIEW_TIMEOUT_USUAL if known is None else settings.parameters.get("view_timeout", known.default)
    grown: object = getattr(getattr(getattr(replica, "machine", None), "patience", None), "timeout", None)
    return max(base, grown) if isinstance(grown, int) else base


def healing_ticks(world: World) -> int:
    """So long may an operation wait from now on, if nothing goes wrong any more."""
    timeout = max([view_timeout(world.hosts[member]) for member in world.correct], default=VIEW_TIMEOUT_USUAL)
    return VIEW_TIMEOUTS * timeout + PATIENCE_TICKS_MAX + RETRY_TICKS


def await_answers(world: World, limit: int, what: str) -> None:
    """Run until every client has its answers; no operation may wait for more than `limit` ticks from now on."""
    healed_us = world.now_us

    def overdue() -> int | None:
        """For how long the oldest operation has waited, if that is too long."""
        waits = [since for actor in world.actors.values() if (since := actor.waits_since_us) is not None]
        waited = world.now_us - max(min(waits), healed_us) if waits else 0
        return waited if waited > limit * 1000 else None

    told, quiet_since = -1, healed_us
    while world.outstanding:
        world.run(LOOK_TICKS)
        if told != len(world.latencies):
            told, quiet_since = len(world.latencies), world.now_us
        waited = overdue()
        if waited is None and world.now_us - quiet_since > limit * 1000:
            waited = world.now_us - quiet_since
        if waited is not None:
            world.fail(
                f"progress: {what} did not come true: after everything was healed, an operation has waited for "
                f"{waited // 1000} ticks, longer than {VIEW_TIMEOUTS} view timeouts and a client's patience ({limit})",
                oracle="progress",
            )
