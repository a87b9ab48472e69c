"""A checker for any deterministic service: the order that the members agreed on must explain everything.

A search for an order (`bftkit.sim.linearizability`) needs a model of the service. But here the order is known: the
recorder saw every operation at its place. So it is enough to replay it, in a fresh instance of the service that never
crashed, fetched a state or changed its leader:

- each operation has the result there that the members computed. What clients were told is compared with the members'
  results when they are told, so both are explained at once
- what was asked after something else had been answered stands behind it (checked as clients are told)
- each strong read has an answer that some state in between explains: not older than what was acknowledged when it was
  asked, or than what another read had seen that was answered by then; not newer than what anybody had executed
  (SAFETY rule 13)
- each answer of a best-effort read is the state after the slot that the member named
- a second instance, restored from a snapshot of the first several times on the way, does the same: nothing of the
  state stands outside the snapshot
- the states that live correct members hold in the end, and at their kept checkpoints, are those of the replay

The last is how durability is checked. A member that restarted or fetched its state has executed only a part of the
order itself, so it is not asked which operations it ran; but its state must be the one that *all* of the agreed order
gives, up to the slot that it claims to have applied, and every acknowledged operation must stand in that part.

One pass over the order: thousands of operations take a fraction of a second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from bftkit.channel.application import Application, Context, StateView
from bftkit.channel.bundles import FAILED, OK
from bftkit.channel.state import ReplicatedState, error_text
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.sim.checkers import FAILURE, SUCCESS, Execution, MemberRead, Place, Recorder, StrongRead

FORKS: Final = 3
"""So often on the way the second instance is made anew from a snapshot."""
FINDINGS_MAX: Final = 5
"""After so many there is nothing more to learn from a replay."""


@attrs.frozen
class Held:
    """A state of the application as a correct member holds it."""

    member: MemberId
    slot: Slot
    leaves: tuple[Digest, ...]
    what: str = "its state in the end"
    live: bool = True
    """Whether it is the member's present state."""


def leaves_of(view: StateView) -> tuple[Digest, ...]:
    """The digests of all chunks: equal states have equal ones (SAFETY rule 19)."""
    return tuple(view.leaf(index) for index in range(view.count))


def check_order(recorder: Recorder, make: Callable[[], Application], group: bytes, held: Sequence[Held] = ()) -> int:
    """Replay the agreed order; what it does not explain goes to `recorder.fail`. Returns how many operations it has.

    `make` gives a fresh instance of the service, without anything of this world's members.
    """
    _check_places(recorder, held)
    replay = _Replay(recorder, make, group, held)
    replay.run()
    return len(recorder.places)


def check_states(recorder: Recorder, states: Mapping[MemberId, ReplicatedState]) -> None:
    """Members that applied the same slots hold the same state: application, sessions and agreed clock."""
    by_slot: dict[Slot, tuple[MemberId, tuple[Digest, ...]]] = {}
    for member, state in states.items():
        leaves = leaves_of(state.view())
        witness, known = by_slot.setdefault(state.applied, (member, leaves))
        if known != leaves:
            recorder.fail("agreement", f"the states of {witness} and {member} after slot {state.applied} differ")


def _check_places(recorder: Recorder, held: Sequence[Held]) -> None:
    """Every acknowledged operation stands at its place, and every live member is past it."""
    lowest = min((state for state in held if state.live), key=lambda state: state.slot, default=None)
    for told in recorder.acknowledgements:
        known = recorder.places.get(told.place)
        if known is None or (known[0].client, known[0].operation) != (told.client, told.operation):
            recorder.fail("durability", f"{told.operation[:40]!r} was acknowledged at {told.place}, and is not there")
            return
        if lowest is not None and told.place[0] > lowest.slot:
            recorder.fail(
                "durability",
                f"{told.operation[:40]!r} was acknowledged at {told.place}; {lowest.member} ends at slot {lowest.slot}",
            )
            return


class _Replay:
    def __init__(self, recorder: Recorder, make: Callable[[], Application], group: bytes, held: Sequence[Held]) -> None:
        self._recorder = recorder
        self._make = make
        self._machine = make()
        self._twin: Application | None = None
        """Restored from a snapshot at the last fork."""
        self._forked: Slot = 0
        self._context = Context(group)
        self._twin_context = Context(group)
        self._found = 0
        self._slots: dict[Slot, list[tuple[int, Execution]]] = {}
        for slot, index in sorted(recorder.places):
            self._slots.setdefault(slot, []).append((index, recorder.places[slot, index][0]))
        self._held: dict[Slot, list[Held]] = {}
        for state in held:
            self._held.setdefault(state.slot, []).append(state)
        self._reads = _Reads(recorder.strong_reads)
        self._alone: dict[Slot, list[MemberRead]] = {}
        for answer in recorder.member_reads:
            self._alone.setdefault(answer.slot, []).append(answer)

    def run(self) -> None:
        slots = sorted({*self._slots, *self._held, *self._reads.slots, *self._alone})
        busy = sorted(self._slots)
        forks = {busy[len(busy) * number // (FORKS + 1)] for number in range(1, FORKS + 1)} if busy else set[Slot]()
        self._check_reads(0, slots[0] if slots else 0)
        for position, slot in enumerate(slots):
            for index, execution in self._slots.get(slot, ()):
                self._execute((slot, index), execution)
            following = slots[position + 1] if position + 1 < len(slots) else slot + 1
            self._check_reads(slot, following)
            if slot in self._held:
                self._check_held(slot)
            self._check_alone(slot)
            if slot in forks:
                self._fork(slot)
            if self._found >= FINDINGS_MAX:
                return

    def _fail(self, oracle: str, text: str) -> None:
        self._found += 1
        self._recorder.fail(oracle, text)

    def _execute(self, place: Place, execution: Execution) -> None:
        expected = self._recorder.results.get(place, (None, ""))[0]
        taken_back = place in self._recorder.undone
        result = _apply(self._machine, self._context, place, execution, taken_back=taken_back)
        if expected is not None and result != expected:
            self._fail(
                "agreement",
                f"the service is not deterministic: {execution.operation[:40]!r} at {place} gave {expected[1:][:40]!r} "
                f"at the members, and {result[1:][:40]!r} when the same order was replayed in a fresh instance",
            )
        if self._twin is not None:
            again = _apply(self._twin, self._twin_context, place, execution, taken_back=taken_back)
            if again != result:
                self._outside(f"{execution.operation[:40]!r} at {place} gives {result[1:][:40]!r}", again[1:][:40])

    def _outside(self, what: str, instead: object) -> None:
        self._twin = None
        self._fail(
            "agreement",
            f"the service keeps state outside its snapshot: {what}, and {instead!r} in an instance that was restored "
            f"from the snapshot after slot {self._forked}",
        )

    def _check_reads(self, slot: Slot, following: Slot) -> None:
        """`following`: the next slot at which anything can have changed."""
        for read, explained in self._reads.at(slot, following, self._machine):
            if not explained:
                self._fail(
                    "linearizability",
                    f"the strong read {read.operation[:40]!r} was answered {read.result[:40]!r}, which no state from "
                    f"slot {read.floor} to {read.ceiling} explains (or only one that an earlier read had left behind)",
                )
            elif self._twin is not None and _read(self._twin, read.operation) != (read.status, read.result):
                self._outside(f"the read {read.operation[:40]!r} after slot {slot} is answered", read.result[:40])

    def _check_alone(self, slot: Slot) -> None:
        for answer in self._alone.get(slot, ()):
            if _read(self._machine, answer.operation) != (answer.status, answer.result):
                self._fail(
                    "best-effort",
                    f"{answer.member} alone answered {answer.result[:40]!r} to {answer.operation[:40]!r}, which was "
                    f"not the state after slot {slot}",
                )

    def _check_held(self, slot: Slot) -> None:
        leaves = leaves_of(self._machine.snapshot())
        for state in self._held[slot]:
            if state.leaves != leaves:
                self._fail(
                    "durability",
                    f"the state of {state.member} after slot {slot} ({state.what}) is not the one that the agreed "
                    "order of operations gives",
                )

    def _fork(self, slot: Slot) -> None:
        """Make the second instance anew, from its own snapshot if there is one."""
        source = self._twin or self._machine
        self._forked = slot
        view = source.snapshot()
        chunks = [view.chunk(index) for index in range(view.count)]
        twin = self._make()
        try:
            twin.restore(chunks)
            after = leaves_of(twin.snapshot())
        except Exception as error:
            self._twin = None
            self._fail(
                "agreement",
                f"the service does not restore its own snapshot after slot {slot}: {type(error).__name__}: {error}",
            )
            return
        if after != leaves_of(view):
            self._fail("agreement", f"the service's snapshot after slot {slot} is another one once it was restored")
        self._twin = twin


def _apply(machine: Application, context: Context, place: Place, execution: Execution, *, taken_back: bool) -> bytes:
    """As a replica does it, and as `Watched` records it."""
    context.slot, context.index = place
    context.time_ms, context.client, context.batch = execution.time_ms, execution.client, execution.batch
    point = machine.mark()
    try:
        result = machine.apply(execution.operation, context)
        if type(result) is not bytes:
            raise TypeError(f"apply returned {type(result).__name__}, not bytes")
    except Exception as error:
        machine.undo(point)
        return FAILURE + error_text(error)
    if taken_back:
        machine.undo(point)
    return SUCCESS + result


def _read(machine: Application, operation: bytes) -> tuple[int, bytes]:
    try:
        result = machine.read(operation)
        if type(result) is not bytes:
            raise TypeError(f"read returned {type(result).__name__}, not bytes")
    except Exception as error:
        return FAILED, error_text(error)
    return OK, result


class _Reads:
    """Strong reads, each explained by the earliest state that can: then no other one is left without."""

    def __init__(self, reads: Sequence[StrongRead]) -> None:
        self._by_floor = sorted(reads, key=lambda read: -read.floor)
        self._by_answer = sorted(reads, key=lambda read: read.answered)
        self._answers = [read.answered for read in self._by_answer]
        self._settled: set[int] = set()
        """By the moment of the answer."""
        self._prefix = 0
        """So many reads, by the time of their answers, are explained."""
        self._active: list[StrongRead] = []

    @property
    def slots(self) -> Mapping[Slot, None]:
        """Where reads begin and end."""
        return dict.fromkeys(slot for read in self._by_answer for slot in (read.floor, read.ceiling))

    def at(self, slot: Slot, following: Slot, machine: Application) -> list[tuple[StrongRead, bool]]:
        """The reads that the state after this slot explains, and (False) those that nothing explains any more."""
        begun = False
        while self._by_floor and self._by_floor[-1].floor <= slot:
            self._active.append(self._by_floor.pop())
            begun = True
        if not self._active:
            return []
        if begun:
            self._active.sort(key=lambda read: read.invoked)
        settled: list[tuple[StrongRead, bool]] = []
        waiting: list[StrongRead] = []
        for read in self._active:
            # Reads that were answered before this one was asked must have seen no later state.
            free = bisect_left(self._answers, read.invoked) <= self._prefix
            if free and _read(machine, read.operation) == (read.status, read.result):
                settled.append((read, True))
            elif read.ceiling < following:
                settled.append((read, False))
            else:
                waiting.append(read)
                continue
            self._settled.add(read.answered)
            while self._prefix < len(self._by_answer) and self._answers[self._prefix] in self._settled:
                self._prefix += 1
        self._active = waiting
        return settled
