"""Requests that wait: authentic bundles that this member knows and that are not executed yet.

Bounded in bytes, over all and for each client (FAULTS 46). Clients take turns: each that waits has one bundle proposed
before any has two, so that one who floods waits for itself. One client's bundles are proposed in the order in which
they came. The pool also remembers since when each client has waited for its turn, in *beats* of the replica's own
timer, so that a leader that passes one over is noticed (FAULTS 31).

Where nobody leads, a bundle waits *aside* while it is another member's turn to propose it (`proposing.py`); it is
*promoted* once that turn is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from bftkit.channel.bundles import COMMIT, Bundle
from bftkit.core.machine import Slot

Key = tuple[bytes, int, int]
"""Client, session, first number."""
Keys = dict[Key, None]


@attrs.define
class Waiting:
    """One bundle in the pool."""

    bundle: Bundle
    beat: int
    """When it came, in beats."""
    applied: Slot
    """What was executed when it came."""
    in_flight: bool = False
    """Proposed by this member in its present leadership, and not decided yet."""
    rank: int = 0
    """So many members may propose it before this one."""
    turn: int = 0
    """It is aside until this turn; 0: this member may propose it."""


@attrs.define
class Pool:
    """The bundles that wait, by (client, session, first number)."""

    bytes_max: int
    client_bytes_max: int
    entries: dict[Key, Waiting] = attrs.field(factory=dict[Key, Waiting])
    fresh: dict[bytes, Keys] = attrs.field(factory=dict[bytes, Keys])
    """Keys of entries that are not in flight: the client whose turn it is first, and its oldest first."""
    aside: dict[int, dict[Key, Slot]] = attrs.field(factory=dict[int, dict[Key, Slot]])
    """By turn: keys of entries that others propose first, and the slot after which this member may; oldest first."""
    turns: dict[bytes, tuple[int, Slot]] = attrs.field(factory=dict[bytes, tuple[int, Slot]])
    """Beat and slot since when each client waits without one of its bundles leaving the pool; longest first."""
    fresh_requests: int = 0
    size: int = 0
    removed: int = 0
    """How many bundles ever left the pool, but for those that their clients replaced."""
    client_sizes: dict[bytes, int] = attrs.field(factory=dict[bytes, int])

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: Key) -> bool:
        return key in self.entries

    def holds(self, bundle: Bundle) -> bool:
        """Whether exactly this bundle waits; of commits, one of the same command is as good."""
        entry = self.entries.get((bundle.client, bundle.session, bundle.first))
        if entry is None:
            return False
        return entry.bundle.raw == bundle.raw or bundle.kind == entry.bundle.kind == COMMIT

    def fits(self, bundle: Bundle) -> bool:
        """Whether there is room for it."""
        size = len(bundle.raw)
        mine = self.client_sizes.get(bundle.client, 0)
        return self.size + size <= self.bytes_max and mine + size <= self.client_bytes_max

    def add(self, bundle: Bundle, beat: int, applied: Slot, rank: int = 0, turn: int = 0, due: Slot = 0) -> None:
        """Take a bundle in; the caller has checked `fits` and its signature.

        With a `turn` it stays aside until slot `due` is applied; of one turn, `due` must never fall.
        """
        key = (bundle.client, bundle.session, bundle.first)
        assert key not in self.entries
        self.entries[key] = Waiting(bundle, beat, applied, False, rank, turn)
        if turn:
            self.aside.setdefault(turn, {})[key] = due
        else:
            self.fresh.setdefault(bundle.client, {})[key] = None
            self.fresh_requests += bundle.count
        self.turns.setdefault(bundle.client, (beat, applied))
        self.size += len(bundle.raw)
        self.client_sizes[bundle.client] = self.client_sizes.get(bundle.client, 0) + len(bundle.raw)

    def remove(self, key: Key, beat: int, applied: Slot, *, replaced: bool = False) -> Bundle | None:
        """Drop the entry, if it is there; its client's next turn is counted from now.

        `replaced`: its client wants another one in its place. That is nothing that whoever leads has done.
        """
        entry = self.entries.pop(key, None)
        if entry is None:
            return None
        self.removed += not replaced
        client = entry.bundle.client
        queue = self.fresh.get(client)
        if entry.turn:
            del self.aside[entry.turn][key]
        elif queue is not None and key in queue:
            del queue[key]
            if not queue:
                del self.fresh[client]
            self.fresh_requests -= entry.bundle.count
        size = len(entry.bundle.raw)
        self.size -= size
        rest = self.client_sizes[client] - size
        del self.turns[client]
        if rest:
            self.client_sizes[client] = rest
            self.turns[client] = (beat, applied)
        else:
            del self.client_sizes[client]
        return entry.bundle

    def take(self, bytes_max: int, requests_max: int) -> list[Bundle]:
        """The next bundles for a batch, one client after the other; at least one, even if it exceeds the bounds."""
        taken: list[Bundle] = []
        size = requests = 0
        while self.fresh:
            client = next(iter(self.fresh))
            queue = self.fresh[client]
            key = next(iter(queue))
            entry = self.entries[key]
            bundle = entry.bundle
            size += len(bundle.raw)
            requests += bundle.count
            if taken and (size > bytes_max or requests > requests_max):
                break
            taken.append(bundle)
            entry.in_flight = True
            self.fresh_requests -= bundle.count
            del queue[key]
            del self.fresh[client]
            if queue:
                self.fresh[client] = queue  # behind all others
        return taken

    def land(self, *, everything: bool = True) -> None:
        """Nothing is in flight any more (the leader changed): it may be proposed again, and with `everything` all.

        Whoever has waited longest for its turn has it first.
        """
        fresh: dict[bytes, Keys] = {client: {} for client in self.turns}
        self.fresh_requests = 0
        if everything:
            self.aside.clear()
        for key, entry in self.entries.items():
            entry.in_flight = False
            if everything:
                entry.turn = 0
            if not entry.turn:
                fresh[key[0]][key] = None
                self.fresh_requests += entry.bundle.count
        self.fresh = {client: queue for client, queue in fresh.items() if queue}

    def give_back(self, keys: Iterable[Key]) -> None:
        """What was proposed and is not decided by that comes first again."""
        back: list[Key] = []
        for key in keys:
            entry = self.entries.get(key)
            if entry is not None and entry.in_flight:
                entry.in_flight = False
                back.append(key)
        self._put_first(back)

    def is_due(self, applied: Slot) -> bool:
        """Whether something that is aside may be proposed by now."""
        return any(next(iter(waiting.values())) <= applied for waiting in self.aside.values() if waiting)

    def promote(self, applied: Slot, bytes_max: int, requests_max: int) -> list[tuple[Bundle, int]]:
        """Put first, within these bounds and at least one, what was aside and whose time has come.

        Returns these with the turns that passed.
        """
        size = requests = 0
        promoted: list[Key] = []
        passed: list[tuple[Bundle, int]] = []
        for turn in sorted(self.aside, reverse=True):  # what has waited for more turns first
            waiting = self.aside[turn]
            while waiting:
                key, due = next(iter(waiting.items()))
                bundle = self.entries[key].bundle
                size += len(bundle.raw)
                requests += bundle.count
                if due > applied or (promoted and (size > bytes_max or requests > requests_max)):
                    break
                del waiting[key]
                self.entries[key].turn = 0
                promoted.append(key)
                passed.append((bundle, turn))
        self._put_first(promoted)
        return passed

    def _put_first(self, keys: list[Key]) -> None:
        if not keys:
            return
        first: dict[bytes, Keys] = {}
        for key in keys:
            first.setdefault(key[0], {})[key] = None
            self.fresh_requests += self.entries[key].bundle.count
        for client, queue in first.items():
            queue.update(self.fresh.pop(client, {}))
        self.fresh = {**first, **self.fresh}

    def of_client(self, client: bytes) -> list[Bundle]:
        """What waits of one client."""
        if client not in self.client_sizes:
            return []
        return [entry.bundle for key, entry in self.entries.items() if key[0] == client]

    def longest_wait(self) -> tuple[int, Slot] | None:
        """Beat and slot since when some client has waited without a turn; None if nobody waits."""
        return next(iter(self.turns.values()), None)

    def oldest(self) -> Iterator[Waiting]:
        """All entries, oldest first."""
        return iter(self.entries.values())
