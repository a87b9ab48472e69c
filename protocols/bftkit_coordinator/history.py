"""What is left when the coordinator is left by force: pure functions over durable records (SAFETY rules 22, 24, 29).

Each of n - c members reports the entries on its disk. A slot that was delivered anywhere is held by c + 1 members
together with everything below it, so at least one of those that report holds it, and there is no gap below it. Hence
the continuation is simply: every slot that anybody reports, up to the first that nobody does.

With f = 0 nobody lies, and then no two reports differ in a slot. If they do, the coordinator signed both: it was not
what the group took it for, and the safety of this epoch is lost. The continuation must still be the same everywhere,
so a fixed rule ends it: the batch that more members report, and among equals the smaller digest. `conflicts` finds
the evidence, so that the group can write down what happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from bftkit.core.machine import Digest, MemberId, Record, Slot
from bftkit.core.ordering import Carried, Setup
from bftkit.core.wire import WireError
from bftkit_coordinator.messages import APPEND_PURPOSE, CONFLICTS, HISTORIES, RECORDS, Conflict, Entry, History
from bftkit_coordinator.record import RECORD


def history(setup: Setup, stable: Slot, records: Sequence[Record]) -> bytes:
    """Everything above the checkpoint `stable` that this member's disk holds."""
    entries = {entry.slot: entry for entry in map(RECORDS.decode, records) if entry.slot > stable}
    return HISTORIES.encode(History(stable, tuple(entries[slot] for slot in sorted(entries))))


def check_history(setup: Setup, member: MemberId, stable: Slot, reported: bytes) -> bool:
    """Whether a report can be read, starts at `stable`, is sorted, and every entry is signed by the coordinator."""
    try:
        report = HISTORIES.decode(reported)
    except WireError:
        return False
    slots = [stable, *(entry.slot for entry in report.entries)]
    return (
        member in setup.members
        and report.stable == stable
        and all(a < b for a, b in pairwise(slots))
        and all(_signed(setup, entry) for entry in report.entries)
    )


def carry(setup: Setup, stable: Slot, histories: Mapping[MemberId, bytes]) -> Carried:
    """The continuation above `stable`, from at least n - c checked histories.

    Raises `ValueError` if there are fewer: then a delivered slot could be lost. With c = 0 that means all members,
    the coordinator included.
    """
    needed = setup.quorum.available
    if len(histories) < needed:
        raise ValueError(f"{len(histories)} histories are too few: with c = {setup.quorum.c}, {needed} are needed")
    reports = _by_slot(histories)
    slots: list[tuple[Slot, Digest]] = []
    while (slot := stable + 1 + len(slots)) in reports:
        votes = Counter(entry.digest for entry in reports[slot])
        slots.append((slot, min(votes, key=lambda digest: (-votes[digest], digest))))
    return Carried(stable, tuple(slots))


def conflicts(histories: Mapping[MemberId, bytes]) -> tuple[Conflict, ...]:
    """Slots into which the coordinator signed two batches: if there are any, this epoch's safety is lost."""
    found: list[Conflict] = []
    for _, entries in sorted(_by_slot(histories).items()):
        first, *others = sorted({entry.digest: entry for entry in entries}.values(), key=lambda entry: entry.digest)
        found.extend(Conflict(first, other) for other in others)
    return tuple(found)


def lies(setup: Setup, histories: Mapping[MemberId, bytes]) -> tuple[tuple[MemberId, bytes], ...]:
    """The coordinator, once for each of the `conflicts`, with the proof that `convicts` takes."""
    coordinator = setup.members[setup.parameter(RECORD, "coordinator")]
    return tuple((coordinator, CONFLICTS.encode(conflict)) for conflict in conflicts(histories))


def convicts(setup: Setup, member: MemberId, proof: bytes) -> bool:
    """Whether the bytes show that this member, the coordinator, signed two batches for one slot."""
    try:
        found = CONFLICTS.decode(proof)
    except WireError:
        return False
    first, second = found.first, found.second
    return (
        member == setup.members[setup.parameter(RECORD, "coordinator")]
        and first.slot == second.slot
        and first.digest != second.digest
        and _signed(setup, first)
        and _signed(setup, second)
    )


def _by_slot(histories: Mapping[MemberId, bytes]) -> dict[Slot, list[Entry]]:
    reports: dict[Slot, list[Entry]] = {}
    for member in sorted(histories):
        for entry in HISTORIES.decode(histories[member]).entries:
            reports.setdefault(entry.slot, []).append(entry)
    return reports


def _signed(setup: Setup, entry: Entry) -> bool:
    coordinator = setup.members[setup.parameter(RECORD, "coordinator")]
    return setup.keyring.verify(coordinator, APPEND_PURPOSE, entry.statement, entry.signature)
