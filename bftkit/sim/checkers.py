"""What must hold in every run of a world, and is looked at all the time.

Agreement
    one batch for each slot, and for each place in it one operation with one result at one agreed time, over all
    correct members, their restarts included
exactly once
    an operation that is unique in the world is never executed at two places, and no member executes a place twice
checkpoints
    one state digest for each checkpoint
integrity
    nothing is executed that no client sent
agreed time
    never runs back
blame
    no correct member is blamed by a correct one
halting
    no correct member stops
durability and linearizability
    what clients were told is explained by one order of all operations, up to the last reads at the end

The recorder outlives every crash in the world: what was true before a power cut must be true after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs

from bftkit.channel.application import Application, Context, StateView
from bftkit.core.digest import digest
from bftkit.core.machine import Digest, MemberId, Slot

FAILURE: Final = b"\x01"
SUCCESS: Final = b"\x00"


class Violation(AssertionError):
    """Something that must always hold does not hold in this run. The text says what, and how to see it again."""


@attrs.frozen
class Execution:
    """What happened at one place of the order."""

    client: bytes
    operation: bytes
    time_ms: int
    seed: bytes


@attrs.define(eq=False)
class Recorder:
    """All that is known of the one order, from all members and all of their lives."""

    submitted: set[tuple[bytes, bytes]] = attrs.field(factory=set[tuple[bytes, bytes]])
    """(client, operation) of everything that clients sent."""
    unique: set[tuple[bytes, bytes]] = attrs.field(factory=set[tuple[bytes, bytes]])
    """Those of them that were submitted once only."""
    batches: dict[Slot, tuple[Digest, MemberId]] = attrs.field(factory=dict[Slot, tuple[Digest, MemberId]])
    roots: dict[Slot, tuple[Digest, MemberId]] = attrs.field(factory=dict[Slot, tuple[Digest, MemberId]])
    places: dict[tuple[Slot, int], tuple[Execution, MemberId]] = attrs.field(
        factory=dict[tuple[Slot, int], tuple[Execution, MemberId]]
    )
    results: dict[tuple[Slot, int], tuple[bytes, MemberId]] = attrs.field(
        factory=dict[tuple[Slot, int], tuple[bytes, MemberId]]
    )
    first_place: dict[tuple[bytes, bytes], tuple[Slot, int]] = attrs.field(
        factory=dict[tuple[bytes, bytes], tuple[Slot, int]]
    )
    exempt: set[MemberId] = attrs.field(factory=set[MemberId])
    """Members that lie or are broken on purpose: nothing that they do counts."""
    violations: list[str] = attrs.field(factory=list[str])
    """Kept and not raised: a replica takes whatever an operation raises for the operation's own failure."""

    def fail(self, text: str) -> None:
        """Something does not hold; the world raises it after the step that is under way."""
        self.violations.append(text)

    def submit(self, client: bytes, operation: bytes) -> None:
        """A client sends this operation."""
        name = (client, operation)
        if name in self.submitted:
            self.unique.discard(name)
        else:
            self.submitted.add(name)
            self.unique.add(name)

    def batch(self, member: MemberId, slot: Slot, name: Digest) -> None:
        """The member executed this batch in this slot."""
        known, witness = self.batches.setdefault(slot, (name, member))
        if known != name:
            self.fail(f"agreement: slot {slot} is {known.hex()[:12]} at {witness} and {name.hex()[:12]} at {member}")

    def root(self, member: MemberId, slot: Slot, root: Digest) -> None:
        """The member holds a stable checkpoint."""
        known, witness = self.roots.setdefault(slot, (root, member))
        if known != root:
            self.fail(f"checkpoints: slot {slot} has {known.hex()[:12]} at {witness} and {root.hex()[:12]} at {member}")

    def executed(self, member: MemberId, slot: Slot, index: int, execution: Execution) -> None:
        """The member is about to execute this operation at this place."""
        place = (slot, index)
        known, witness = self.places.setdefault(place, (execution, member))
        if known != execution:
            self.fail(f"agreement: place {place} is {known} at {witness} and {execution} at {member}")
        name = (execution.client, execution.operation)
        if name not in self.submitted:
            self.fail(f"integrity: {member} executes {execution.operation[:40]!r}, which no client sent")
        if name in self.unique and self.first_place.setdefault(name, place) != place:
            self.fail(
                f"exactly once: {execution.operation[:40]!r} ran at {self.first_place[name]} and again at {place} "
                f"({member})"
            )

    def answered(self, member: MemberId, slot: Slot, index: int, result: bytes) -> None:
        """The operation's result there."""
        known, witness = self.results.setdefault((slot, index), (result, member))
        if known != result:
            self.fail(
                f"agreement: the result at {(slot, index)} is {known[:40]!r} at {witness}, {result[:40]!r} at {member}"
            )

    def acknowledged(self, client: bytes, operation: bytes, slot: Slot, result: bytes) -> None:
        """A client was told that its operation ran in this slot."""
        name = (client, operation)
        place = self.first_place.get(name)
        if name not in self.unique:
            return
        if place is None or place[0] != slot:
            self.fail(f"validity: a client was told that {operation[:40]!r} ran in slot {slot}; it ran at {place}")
        elif self.results.get(place, (b"", ""))[0] != result:
            self.fail(f"validity: a client was told a result of {operation[:40]!r} that no correct member had")


class Watched:
    """An application that tells the recorder everything. It stands between a replica and the real application."""

    def __init__(self, inner: Application, recorder: Recorder, member: MemberId) -> None:
        self.inner = inner
        self.pending: list[Callable[[], None]] = []
        """What happened in memory and nobody can have seen yet: a crash before the next sync may take it back."""
        self.last: tuple[Slot, int] = (0, -1)
        self.last_ms = 0
        self._recorder = recorder
        self._member = member

    def apply(self, operation: bytes, context: Context) -> bytes:
        """Execute and record; a failure is recorded as a result."""
        recorder, member = self._recorder, self._member
        place = (context.slot, context.index)
        watched = member not in recorder.exempt
        if watched:
            if place <= self.last:
                recorder.fail(f"exactly once: {member} executes {place} after {self.last}")
            if context.time_ms < self.last_ms:
                recorder.fail(f"agreed time: {context.time_ms} ms after {self.last_ms} ms at {place} ({member})")
            self.last, self.last_ms = place, context.time_ms
            execution = Execution(context.client, bytes(operation), context.time_ms, context.seed())
            self.pending.append(partial(recorder.executed, member, *place, execution))
        try:
            result = self.inner.apply(operation, context)
        except Exception as error:
            if watched:
                failure = FAILURE + digest(f"{type(error).__name__}: {error}".encode())
                self.pending.append(partial(recorder.answered, member, *place, failure))
            raise
        if watched:
            self.pending.append(partial(recorder.answered, member, *place, SUCCESS + result))
        return result

    def read(self, operation: bytes) -> bytes:
        """As the application."""
        return self.inner.read(operation)

    def snapshot(self) -> StateView:
        """As the application."""
        return self.inner.snapshot()

    def restore(self, chunks: Sequence[bytes]) -> None:
        """As the application; what comes next may lie anywhere."""
        self.last, self.last_ms = (0, -1), 0
        self.inner.restore(chunks)

    def mark(self) -> object:
        """As the application."""
        return self.inner.mark()

    def undo(self, mark: object) -> None:
        """As the application."""
        self.inner.undo(mark)
