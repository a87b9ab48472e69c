"""What must hold in every run of a world, and is looked at all the time.

agreement
    one batch for each slot, and for each place in it one operation with one result at one agreed time, over all
    correct members, their restarts included
exactly-once
    an operation is never executed at more places than it was submitted, less those of which a client was told that
    they never will be; and no member executes a place twice
checkpoints
    one state digest for each checkpoint
integrity
    nothing is executed that no client sent
agreed-time
    never runs back
deadline
    what had to be executed by some agreed time was not executed later; of what a client was told that it came too late
    nothing was executed, ever; and nothing is refused as late while no correct member's clock is near its deadline
best-effort
    what one correct member answers alone was the state after a slot that it had executed, as it says
blame
    no correct member is blamed by a correct one
halting
    no correct member stops
durability
    what a client was told ran, with the result that it was told, at that place of the order; and the order is still
    there at the end (`bftkit.sim.witness`)
linearizability
    what was asked after another operation had been answered stands behind it in the order; strong reads and all
    results are explained by the order (`bftkit.sim.witness`), and for the key-value store also by a search that knows
    nothing of it (`bftkit.sim.linearizability`)
progress
    what waits is answered within ten view timeouts after everything was healed (`bftkit.sim.bounds`)
bounded
    memory, queues and disk stay under their caps (`bftkit.sim.bounds`)
exception
    nothing is raised that nobody handles
figure
    a figure that a scenario demands (throughput, latency) was missed; judged by the scenario itself

The recorder outlives every crash in the world: what was true before a power cut must be true after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs

from bftkit.channel.agreed_time import SPREAD_MS
from bftkit.channel.application import Application, Context, StateView
from bftkit.channel.bundles import FAILED, OK
from bftkit.channel.deadlines import SHARED_MS
from bftkit.channel.state import error_text
from bftkit.core.machine import Digest, MemberId, Slot

FAILURE: Final = b"\x01"
SUCCESS: Final = b"\x00"

ORACLES: Final = (
    "agreement",
    "durability",
    "exactly-once",
    "linearizability",
    "progress",
    "bounded",
    "exception",
    "blame",
    "halting",
    "integrity",
    "checkpoints",
    "agreed-time",
    "deadline",
    "best-effort",
    "figure",
)

Place = tuple[Slot, int]
"""Slot, and position of the operation in it."""
Name = tuple[bytes, bytes]
"""A client's public key and an operation's bytes."""


class Violation(AssertionError):
    """Something that must always hold does not hold in this run. The text says what, and how to see it again."""

    def __init__(self, text: str, oracle: str = "exception", short: str = "") -> None:
        super().__init__(text)
        self.oracle = oracle
        """Which checker: one of `ORACLES`."""
        self.short = short or text.partition("\n")[0]
        """What it said, in one line."""


@attrs.frozen
class Finding:
    """What a checker is not content with."""

    oracle: str
    text: str
    """One line."""

    def __str__(self) -> str:
        return f"{self.oracle}: {self.text}"


@attrs.frozen
class Execution:
    """What happened at one place of the order."""

    client: bytes
    operation: bytes
    time_ms: int
    batch: Digest
    """Which the operation came in; with the place it decides `Context.seed`."""


@attrs.frozen
class Acknowledged:
    """An ordered operation whose outcome its client was told."""

    client: bytes
    operation: bytes
    place: Place


@attrs.frozen
class StrongRead:
    """A read that was answered without being ordered (SAFETY rule 13)."""

    client: bytes
    operation: bytes
    status: int
    result: bytes
    invoked: int
    """The moment when it was asked (`World.moment`)."""
    answered: int
    floor: Slot
    """Something in this slot was acknowledged before the read was asked: it sees at least that."""
    ceiling: Slot
    """The last slot that any correct member had executed when the answer was accepted: it sees no more than that."""


@attrs.frozen
class MemberRead:
    """What one member answered alone, as the state after a slot (a best-effort read)."""

    member: MemberId
    operation: bytes
    status: int
    result: bytes
    slot: Slot


@attrs.define(eq=False)
class Recorder:
    """All that is known of the one order, from all members and all of their lives."""

    submitted: dict[Name, int] = attrs.field(factory=dict[Name, int])
    """(client, operation) of everything that clients sent, and how often it may be executed."""
    repeatable: set[Name] = attrs.field(factory=set[Name])
    """Those whose number of executions nobody knows: strong reads may be ordered again and again."""
    batches: dict[Slot, tuple[Digest, MemberId]] = attrs.field(factory=dict[Slot, tuple[Digest, MemberId]])
    roots: dict[Slot, tuple[Digest, MemberId]] = attrs.field(factory=dict[Slot, tuple[Digest, MemberId]])
    places: dict[Place, tuple[Execution, MemberId]] = attrs.field(factory=dict[Place, tuple[Execution, MemberId]])
    results: dict[Place, tuple[bytes, MemberId]] = attrs.field(factory=dict[Place, tuple[bytes, MemberId]])
    undone: set[Place] = attrs.field(factory=set[Place])
    """Executed and taken back, since it failed or its result was too large."""
    first_place: dict[Name, Place] = attrs.field(factory=dict[Name, Place])
    """Where each operation was executed first."""
    executions: dict[Name, int] = attrs.field(factory=dict[Name, int])
    """At how many places each operation was executed."""
    acknowledgements: list[Acknowledged] = attrs.field(factory=list[Acknowledged])
    strong_reads: list[StrongRead] = attrs.field(factory=list[StrongRead])
    member_reads: list[MemberRead] = attrs.field(factory=list[MemberRead])
    deadlines: dict[Name, int] = attrs.field(factory=dict[Name, int])
    """Until when, in agreed ms, an operation may be executed; not those that may be at any time."""
    late: set[Name] = attrs.field(factory=set[Name])
    """Operations of which a client was told that they came too late."""
    latest_ms: int = 0
    """The latest time that any correct member's clock has shown."""
    applied: dict[MemberId, Slot] = attrs.field(factory=dict[MemberId, Slot])
    """The last slot whose state each correct member has ever had."""
    acknowledged_up_to: Slot = 0
    """The highest slot of which any client was told something."""
    executed_up_to: Slot = 0
    """The highest slot that any correct member executed."""
    exempt: set[MemberId] = attrs.field(factory=set[MemberId])
    """Members that lie or are broken on purpose: nothing that they do counts."""
    violations: list[Finding] = attrs.field(factory=list[Finding])
    """Kept and not raised: a replica takes whatever an operation raises for the operation's own failure."""
    _unclaimed: dict[tuple[bytes, bytes, Slot], list[int]] = attrs.field(
        factory=dict[tuple[bytes, bytes, Slot], list[int]]
    )
    """Where in the slot the client's operation ran, as far as no client was told so yet."""

    def fail(self, oracle: str, text: str) -> None:
        """Something does not hold; the world raises it after the step that is under way."""
        assert oracle in ORACLES, oracle
        self.violations.append(Finding(oracle, text))

    # ------------------------------------------------------------------------------------ what clients do

    def submit(self, client: bytes, operation: bytes, *, repeatable: bool = False, expires_ms: int = 0) -> None:
        """A client sends this operation: it may be executed once more than before, or (`repeatable`) at any time.

        With `expires_ms` not after this agreed time; of equal operations the latest time counts.
        """
        name = (client, operation)
        known = self.submitted.get(name, 0)
        self.submitted[name] = known + 1
        if expires_ms and (not known or name in self.deadlines):
            self.deadlines[name] = max(expires_ms, self.deadlines.get(name, 0))
        elif not expires_ms:
            self.deadlines.pop(name, None)
        if repeatable:
            self.repeatable.add(name)

    def acknowledged(
        self, client: bytes, operation: bytes, slot: Slot, status: int, result: bytes, floor: Slot = 0
    ) -> None:
        """A client was told that its operation ran in this slot.

        `floor` is `acknowledged_up_to` from the time when it was asked.
        """
        self.acknowledged_up_to = max(self.acknowledged_up_to, slot)
        if slot <= floor:
            self.fail(
                "linearizability",
                f"{operation[:40]!r} is told to have run in slot {slot}, and when it was asked, something in slot "
                f"{floor} had been answered already",
            )
        indices = self._unclaimed.get((client, operation, slot))
        if not indices:
            place = self.first_place.get((client, operation))
            self.fail(
                "durability", f"a client was told that {operation[:40]!r} ran in slot {slot}; it ran first at {place}"
            )
            return
        for position, index in enumerate(indices):
            known = self.results.get((slot, index), (b"", ""))[0]
            if self._fits(known, status, result, (slot, index)):
                del indices[position]
                self.acknowledgements.append(Acknowledged(client, operation, (slot, index)))
                return
        self.fail(
            "durability",
            f"a client was told {result[:40]!r} as the result of {operation[:40]!r} in slot {slot}, which no correct "
            "member had there",
        )

    def _fits(self, known: bytes, status: int, result: bytes, place: Place) -> bool:
        if status == OK:
            return known == SUCCESS + result and place not in self.undone
        # What failed after the application had answered has an error of the channel's own (a result too large).
        return status == FAILED and (known == FAILURE + result or (known[:1] == SUCCESS and place in self.undone))

    def refused_late(self, client: bytes, operation: bytes, expires_ms: int, late_ms: int) -> None:
        """A client was told that its operation came so much too late: it is a no-op, now and for ever."""
        name = (client, operation)
        self.late.add(name)
        self.submitted[name] -= 1
        if self.executions.get(name, 0) > self.submitted[name] and name not in self.repeatable:
            place = self.first_place[name]
            self.fail("deadline", f"{operation[:40]!r} was executed at {place}, and its client told that it was late")
        # Whose deadline is earlier shares its bundle; no agreed time is later than a correct clock by more than D.
        settled_ms = expires_ms - SHARED_MS + late_ms
        if not expires_ms:
            self.fail("deadline", f"{operation[:40]!r} has no deadline, and was refused as late")
        elif settled_ms > self.latest_ms + SPREAD_MS:
            self.fail(
                "deadline",
                f"{operation[:40]!r} was refused {late_ms} ms after its deadline, and the latest clock of a correct "
                f"member is {expires_ms - self.latest_ms} ms before it",
            )

    def refused(self, client: bytes, operation: bytes) -> None:
        """A client was told that its operation was not executed and never will be."""
        name = (client, operation)
        self.submitted[name] -= 1
        if self.executions.get(name, 0) > self.submitted[name] and name not in self.repeatable:
            self.fail(
                "exactly-once",
                f"{operation[:40]!r} was executed at {self.first_place[name]}; its client was told it never will be",
            )

    def glance(self, member: MemberId, operation: bytes, status: int, result: bytes, slot: Slot) -> None:
        """A client was told this by one member alone, as the state after this slot."""
        if member in self.exempt:
            return
        if slot > self.applied.get(member, 0):
            self.fail("best-effort", f"{member} answers from slot {slot}, which it had not executed")
        self.member_reads.append(MemberRead(member, operation, status, result, slot))

    def read(
        self, client: bytes, operation: bytes, status: int, result: bytes, floor: Slot, invoked: int, answered: int
    ) -> None:
        """A client accepted the answer to a strong read; see `StrongRead`."""
        ceiling = self.executed_up_to
        self.strong_reads.append(
            StrongRead(client, operation, status, result, invoked, answered, floor, max(floor, ceiling))
        )

    # ------------------------------------------------------------------------------------ what members do

    def batch(self, member: MemberId, slot: Slot, name: Digest) -> None:
        """The member executed this batch in this slot."""
        known, witness = self.batches.setdefault(slot, (name, member))
        self.executed_up_to = max(self.executed_up_to, slot)
        if known != name:
            self.fail("agreement", f"slot {slot} is {known.hex()[:12]} at {witness} and {name.hex()[:12]} at {member}")

    def reached(self, member: MemberId, slot: Slot) -> None:
        """The member has the state after this slot."""
        self.applied[member] = max(slot, self.applied.get(member, 0))

    def root(self, member: MemberId, slot: Slot, root: Digest) -> None:
        """The member holds a stable checkpoint."""
        known, witness = self.roots.setdefault(slot, (root, member))
        if known != root:
            self.fail(
                "checkpoints", f"slot {slot} has {known.hex()[:12]} at {witness} and {root.hex()[:12]} at {member}"
            )

    def executed(self, member: MemberId, slot: Slot, index: int, execution: Execution) -> None:
        """The member is about to execute this operation at this place."""
        place = (slot, index)
        known = self.places.get(place)
        if known is not None:
            if known[0] != execution:
                self.fail("agreement", f"place {place} is {known[0]} at {known[1]} and {execution} at {member}")
            return
        self.places[place] = (execution, member)
        self.executed_up_to = max(self.executed_up_to, slot)
        name = (execution.client, execution.operation)
        allowed = self.submitted.get(name)
        if allowed is None:
            self.fail("integrity", f"{member} executes {execution.operation[:40]!r}, which no client sent")
            return
        first = self.first_place.setdefault(name, place)
        self.executions[name] = count = self.executions.get(name, 0) + 1
        self._unclaimed.setdefault((*name, slot), []).append(index)
        expires_ms = self.deadlines.get(name)
        if expires_ms is not None and execution.time_ms > expires_ms and name not in self.repeatable:
            late_ms = execution.time_ms - expires_ms
            self.fail("deadline", f"{member} executes {execution.operation[:40]!r} at {place}, {late_ms} ms too late")
        if name in self.late and count > allowed and name not in self.repeatable:
            self.fail("deadline", f"{execution.operation[:40]!r} ran at {place}; its client was told that it was late")
            return
        if count > allowed and name not in self.repeatable:
            times = "once" if allowed == 1 else f"{allowed} times"
            self.fail(
                "exactly-once",
                f"{execution.operation[:40]!r}, submitted {times}, ran at {first} and again at {place} ({member})",
            )

    def answered(self, member: MemberId, slot: Slot, index: int, result: bytes) -> None:
        """The operation's result there."""
        known, witness = self.results.setdefault((slot, index), (result, member))
        if known != result:
            self.fail(
                "agreement",
                f"the result at {(slot, index)} is {known[:40]!r} at {witness}, {result[:40]!r} at {member}",
            )

    def taken_back(self, place: Place) -> None:
        """A member undid what happened at this place."""
        self.undone.add(place)


class Watched:
    """An application that tells the recorder everything. It stands between a replica and the real application."""

    def __init__(self, inner: Application, recorder: Recorder, member: MemberId) -> None:
        self.inner = inner
        self.pending: list[Callable[[], None]] = []
        """What happened in memory and nobody can have seen yet: a crash before the next sync may take it back."""
        self.last: Place = (0, -1)
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
                recorder.fail("exactly-once", f"{member} executes {place} after {self.last}")
            if context.time_ms < self.last_ms:
                recorder.fail("agreed-time", f"{context.time_ms} ms after {self.last_ms} ms at {place} ({member})")
            self.last, self.last_ms = place, context.time_ms
            execution = Execution(context.client, bytes(operation), context.time_ms, context.batch)
            self.pending.append(partial(recorder.executed, member, *place, execution))
        try:
            result = self.inner.apply(operation, context)
            if type(result) is not bytes:
                raise TypeError(f"apply returned {type(result).__name__}, not bytes")
        except Exception as error:
            if watched:
                self.pending.append(partial(recorder.answered, member, *place, FAILURE + error_text(error)))
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
        if self._member not in self._recorder.exempt:
            self.pending.append(partial(self._recorder.taken_back, self.last))
        self.inner.undo(mark)
