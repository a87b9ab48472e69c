"""Requests that wait: authentic bundles that this member knows and that are not executed yet.

Bounded in bytes, over all and for each client (FAULTS 46). Clients take turns: each that waits has one bundle proposed
before any has two, so that one who floods waits for itself. One client's bundles are proposed in the order in which
they came. The pool also remembers since when each client has waited for its turn, in *beats* of the replica's own
timer, so that a leader that passes one over is noticed (FAULTS 31).
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from bftkit.channel.bundles import Bundle
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


@attrs.define
class Pool:
    """The bundles that wait, by (client, session, first number)."""

    bytes_max: int
    client_bytes_max: int
    entries: dict[Key, Waiting] = attrs.field(factory=dict[Key, Waiting])
    fresh: dict[bytes, Keys] = attrs.field(factory=dict[bytes, Keys])
    """Keys of entries that are not in flight: the client whose turn it is first, and its oldest first."""
    turns: dict[bytes, tuple[int, Slot]] = attrs.field(factory=dict[bytes, tuple[int, Slot]])
    """Beat and slot since when each client waits without one of its bundles leaving the pool; longest first."""
    fresh_requests: int = 0
    size: int = 0
    removed: int = 0
    """How many bundles ever left the pool."""
    client_sizes: dict[bytes, int] = attrs.field(factory=dict[bytes, int])

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: Key) -> bool:
        return key in self.entries

    def fits(self, bundle: Bundle) -> bool:
        """Whether there is room for it."""
        size = len(bundle.raw)
        mine = self.client_sizes.get(bundle.client, 0)
        return self.size + size <= self.bytes_max and mine + size <= self.client_bytes_max

    def add(self, bundle: Bundle, beat: int, applied: Slot) -> None:
        """Take a bundle in; the caller has checked `fits` and its signature."""
        key = (bundle.client, bundle.session, bundle.first)
        assert key not in self.entries
        self.entries[key] = Waiting(bundle, beat, applied)
        self.fresh.setdefault(bundle.client, {})[key] = None
        self.turns.setdefault(bundle.client, (beat, applied))
        self.fresh_requests += bundle.count
        self.size += len(bundle.raw)
        self.client_sizes[bundle.client] = self.client_sizes.get(bundle.client, 0) + len(bundle.raw)

    def remove(self, key: Key, beat: int, applied: Slot) -> Bundle | None:
        """Drop the entry, if it is there; its client's next turn is counted from now."""
        entry = self.entries.pop(key, None)
        if entry is None:
            return None
        self.removed += 1
        client = entry.bundle.client
        queue = self.fresh.get(client)
        if queue is not None and key in queue:
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

    def land(self) -> None:
        """Nothing is in flight any more (the leader changed): everything may be proposed again.

        Whoever has waited longest for its turn has it first.
        """
        self.fresh = {client: {} for client in self.turns}
        for key, entry in self.entries.items():
            entry.in_flight = False
            self.fresh[key[0]][key] = None
        self.fresh_requests = sum(entry.bundle.count for entry in self.entries.values())

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
