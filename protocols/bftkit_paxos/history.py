"""Leaving the protocol without its machine: what a member may have helped to choose, from its records alone.

A *history* is what the member accepted above a stable checkpoint, for each slot in the highest ballot in which it did
(SAFETY rule 29). The *continuation* takes for each slot, from n - c histories, the accepted value with the highest
ballot, and ends at the first slot without one (SAFETY rule 22).

Nothing that was delivered is lost. Let slot s be delivered as d somewhere: then d was chosen in some ballot b, that
is, q members accepted (b, s, d), durably, before they said so. The n - c histories share a member with these (q + n -
c > n, because q > c). It accepts in rising ballots only, so it reports (b, s, d) or a value of a higher ballot. And
whatever was proposed for s in a ballot above b is d, too: its leader had the promises of q members before it
proposed, one of them had accepted (b, s, d) or, by induction over the ballots between, d in a higher one, and the
leader took the value of the highest ballot. So the highest ballot reported for s is at least b and has d. All slots
between the checkpoint and s were delivered before s, so none of them ends the continuation early. A member drops what
it accepted only below a stable checkpoint, and the continuation starts from the highest one.

It may carry slots that were never chosen; that is harmless, since they hold a client's genuine batch or nothing.

With f = 0 nobody lies, and then no ballot has two values for a slot. If one has, its leader signed both: the safety of
this epoch is lost. The continuation must still be the same everywhere, so a fixed rule ends it (of two values in one
ballot, the greater digest), and `conflicts` finds the evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Final

import attrs

from bftkit.core.machine import Digest, MemberId, Record, Slot
from bftkit.core.ordering import Carried, Setup
from bftkit.core.wire import Codec, Many, Struct, WireError

from .ballots import leader_of
from .messages import ACCEPT_PURPOSE, CONFLICTS, HELD_MAX, RECORDS, Conflict, Entry


@attrs.frozen
class History:
    """Accepted proposals, ascending by slot, one a slot."""

    entries: Annotated[tuple[Entry, ...], Many(Struct(Entry), HELD_MAX)]


HISTORIES: Final = Codec[History]("paxos history", {1: History}, bytes_max=64 << 20)


def history(setup: Setup, stable: Slot, records: Sequence[Record]) -> bytes:
    """This member's history above `stable`, from its durable records.

    Raises `WireError` if a record is not this protocol's: one's own disk is no peer.
    """
    best: dict[Slot, Entry] = {}
    for data in records:
        record = RECORDS.decode(data)
        if isinstance(record, Entry) and record.slot > stable:
            known = best.get(record.slot)
            if known is None or record.ballot > known.ballot:
                best[record.slot] = record
    return HISTORIES.encode(History(tuple(best[slot] for slot in sorted(best))))


def check_history(setup: Setup, member: MemberId, stable: Slot, history: bytes) -> bool:
    """Whether a report can be read, is sorted, above `stable`, and each entry is signed by its ballot's leader.

    However many there are: the checkpoint that a power cut leaves may be older than what the windows were above.
    """
    try:
        entries = HISTORIES.decode(history).entries
    except WireError:
        return False
    slots = [stable, *(entry.slot for entry in entries)]
    return (
        member in setup.members
        and all(a < b for a, b in pairwise(slots))
        and all(signed(setup, entry) for entry in entries)
    )


def carry(setup: Setup, stable: Slot, histories: Mapping[MemberId, bytes]) -> Carried:
    """The continuation above `stable`, the highest certified checkpoint, from checked histories.

    Raises `ValueError` if there are fewer than n - c: then a delivered slot could be lost.
    """
    needed = setup.quorum.available
    if len(histories) < needed:
        raise ValueError(f"{len(histories)} histories are too few: with c = {setup.quorum.c}, {needed} are needed")
    best: dict[Slot, tuple[int, Digest]] = {}
    for member in sorted(histories):
        for entry in HISTORIES.decode(histories[member]).entries:
            best[entry.slot] = max(best.get(entry.slot, (0, b"")), (entry.ballot, entry.digest))
    slots: list[tuple[Slot, Digest]] = []
    while (slot := stable + 1 + len(slots)) in best:
        slots.append((slot, best[slot][1]))
    return Carried(stable, tuple(slots))


def conflicts(histories: Mapping[MemberId, bytes]) -> tuple[Conflict, ...]:
    """Slots for which one ballot's leader signed two batches: if there are any, this epoch's safety is lost."""
    proposals: dict[tuple[Slot, int], dict[Digest, Entry]] = {}
    for member in sorted(histories):
        for entry in HISTORIES.decode(histories[member]).entries:
            proposals.setdefault((entry.slot, entry.ballot), {})[entry.digest] = entry
    found: list[Conflict] = []
    for place in sorted(proposals):
        first, *others = (proposals[place][digest] for digest in sorted(proposals[place]))
        found.extend(Conflict(first, other) for other in others)
    return tuple(found)


def lies(setup: Setup, histories: Mapping[MemberId, bytes]) -> tuple[tuple[MemberId, bytes], ...]:
    """The leader of each of the `conflicts`, with the proof that `convicts` takes."""
    return tuple((leader_of(setup, found.first.ballot), CONFLICTS.encode(found)) for found in conflicts(histories))


def convicts(setup: Setup, member: MemberId, proof: bytes) -> bool:
    """Whether the bytes show that this member signed two batches for one slot, as the leader of one ballot."""
    try:
        found = CONFLICTS.decode(proof)
    except WireError:
        return False
    first, second = found.first, found.second
    return (
        member == leader_of(setup, first.ballot)
        and (first.ballot, first.slot) == (second.ballot, second.slot)
        and first.digest != second.digest
        and signed(setup, first)
        and signed(setup, second)
    )


def signed(setup: Setup, entry: Entry) -> bool:
    """Whether the leader of the entry's ballot signed it."""
    return setup.keyring.verify(leader_of(setup, entry.ballot), ACCEPT_PURPOSE, entry.statement, entry.signature)
