"""Requests that wait: authentic bundles that this member knows and that are not executed yet.

Bounded in bytes, over all and for each client (FAULTS 46). Bundles are proposed in the order in which they came, one
client's never before its own earlier ones. The pool also remembers since when a bundle has waited, in *beats* of the
replica's own timer, so that a leader that passes one over is noticed (FAULTS 31).
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from bftkit.channel.bundles import Bundle
from bftkit.core.machine import Slot


@attrs.define
class Waiting:
    """One bundle in the pool."""

    bundle: Bundle
    beat: int
    """When it came, in beats."""
    applied: Slot
    """What was executed when it came."""
    ahead: tuple[int, int] = (0, 0)
    """What waited before it: so many requests, and bytes."""
    in_flight: bool = False
    """Proposed by this member in its present leadership, and not decided yet."""


@attrs.define
class Pool:
    """The bundles that wait, by (client, session, first number)."""

    bytes_max: int
    client_bytes_max: int
    entries: dict[tuple[bytes, int, int], Waiting] = attrs.field(factory=dict[tuple[bytes, int, int], Waiting])
    fresh: dict[tuple[bytes, int, int], None] = attrs.field(factory=dict[tuple[bytes, int, int], None])
    """Keys of entries that are not in flight, oldest first."""
    requests: int = 0
    """In all bundles."""
    fresh_requests: int = 0
    size: int = 0
    removed: int = 0
    """How many bundles ever left the pool."""
    client_sizes: dict[bytes, int] = attrs.field(factory=dict[bytes, int])

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: tuple[bytes, int, int]) -> bool:
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
        self.entries[key] = Waiting(bundle, beat, applied, (self.requests, self.size))
        self.requests += bundle.count
        self.fresh[key] = None
        self.fresh_requests += bundle.count
        self.size += len(bundle.raw)
        self.client_sizes[bundle.client] = self.client_sizes.get(bundle.client, 0) + len(bundle.raw)

    def remove(self, key: tuple[bytes, int, int]) -> Bundle | None:
        """Drop the entry, if it is there."""
        entry = self.entries.pop(key, None)
        if entry is None:
            return None
        self.removed += 1
        self.requests -= entry.bundle.count
        if key in self.fresh:
            del self.fresh[key]
            self.fresh_requests -= entry.bundle.count
        size = len(entry.bundle.raw)
        self.size -= size
        rest = self.client_sizes[entry.bundle.client] - size
        if rest:
            self.client_sizes[entry.bundle.client] = rest
        else:
            del self.client_sizes[entry.bundle.client]
        return entry.bundle

    def take(self, bytes_max: int, requests_max: int) -> list[Bundle]:
        """The next bundles for a batch, oldest first; at least one, even if it is larger than the bounds."""
        taken: list[Bundle] = []
        size = requests = 0
        for key in self.fresh:
            bundle = self.entries[key].bundle
            size += len(bundle.raw)
            requests += bundle.count
            if taken and (size > bytes_max or requests > requests_max):
                break
            taken.append(bundle)
        for bundle in taken:
            key = (bundle.client, bundle.session, bundle.first)
            del self.fresh[key]
            self.fresh_requests -= bundle.count
            self.entries[key].in_flight = True
        return taken

    def land(self) -> None:
        """Nothing is in flight any more (the leader changed): everything may be proposed again, oldest first."""
        for entry in self.entries.values():
            entry.in_flight = False
        self.fresh = dict.fromkeys(self.entries)
        self.fresh_requests = sum(entry.bundle.count for entry in self.entries.values())

    def of_client(self, client: bytes) -> list[Bundle]:
        """What waits of one client."""
        if client not in self.client_sizes:
            return []
        return [entry.bundle for key, entry in self.entries.items() if key[0] == client]

    def oldest(self) -> Iterator[Waiting]:
        """All entries, oldest first."""
        return iter(self.entries.values())
