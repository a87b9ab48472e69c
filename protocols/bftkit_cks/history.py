"""Leaving the protocol without its machine: what a member may have helped to decide, from its records alone.

A *history* has, for each round above a stable checkpoint, either the proof of what the round agreed on, if this member
knew it, or its strongest vote: its main-vote for 0 or 1 of the highest attempt and agreement round, with the pre-votes
that justify it and, for a 1, the candidate's proposal (SAFETY rule 29). The *continuation* takes for each round, from
n - f - c histories, a proof if there is one, or else the strongest vote of all; it carries the round if that is a 1,
and ends at the first round without a 1 (SAFETY rule 22).

**Nothing that was delivered is lost.** A round that anybody delivered was decided in some attempt l and agreement
round k by main-votes for 1 of n - f - c members, each durable before it left. The histories are of n - f - c members,
too; the two sets share at least n - 2(f + c) >= f + c + 1 members, so a correct one, whose history has that vote or a
stronger one. Can anything stronger say otherwise?

- *A later round of the same attempt.* Once n - f - c members main-voted 1 in round k, any n - f - c main-votes of that
  round have a 1 among them, so correct members pre-vote 1 from round k + 1 on. A certificate for 0 would need the
  pre-votes of n - f - c members there, hence of correct ones. Stronger votes of this attempt say 1, for the same
  candidate.
- *A later attempt.* Correct members go into attempt l + 1 only with a decision for 0 of attempt l, and there is none.
  So no pre-votes of n - f - c members exist there, and no vote can be shown.
- *The same place.* Two certificates, for 0 and for 1, of one round would need a correct member that pre-voted twice.

So the strongest vote of any n - f - c histories is for 1 and for the candidate that was decided. A liar can leave out
or show older votes of its own, which the correct member's outweighs; it cannot make one. All rounds before a delivered
one are delivered, so that none of them ends the continuation early.

A round may be carried that nobody delivered. It was proposed by a member and its offers are proved, so that its
batches are authentic and can be fetched (see `lists`); to carry it harms nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.blocks.certificates import CERTIFICATE_FIELD
from bftkit.core.machine import Digest, MemberId, Record, Slot
from bftkit.core.machine import Out as AnyOut
from bftkit.core.ordering import Carried, Setup
from bftkit.core.wire import U16, U32, U64, Blob, Bool, Codec, Many, Maybe, Struct, WireError

from . import lists
from . import messages as m

ENTRIES_MAX: Final = 1 << 14


@attrs.frozen
class Voted:
    """A main-vote for 0 or 1, and what justifies it."""

    attempt: U16
    candidate: U16
    round: U32
    """Of the binary agreement."""
    value: Bool
    certificate: Annotated[bytes, CERTIFICATE_FIELD]
    proposal: Annotated[bytes, Blob(m.BODY_BYTES_MAX)]


@attrs.frozen
class Entry:
    """What a member has of one round: exactly one of the two."""

    number: U64
    proof: Annotated[bytes, Blob(m.BODY_BYTES_MAX)]
    """Of what the round agreed on; b"": not known."""
    voted: Annotated[Voted | None, Maybe(Struct(Voted))]

    def __attrs_post_init__(self) -> None:
        if bool(self.proof) == (self.voted is not None):
            raise ValueError("an entry is a proof or a vote")


@attrs.frozen
class History:
    """Entries, ascending by round."""

    entries: Annotated[tuple[Entry, ...], Many(Struct(Entry), ENTRIES_MAX)]


HISTORIES: Final = Codec[History]("cks history", {1: History})

Strength: TypeAlias = tuple[int, int, bool, int]


def history(setup: Setup, stable: Slot, records: Sequence[Record]) -> bytes:
    """This member's history above `stable`, from its durable records.

    Raises `WireError` if a record is not this protocol's: one's own disk is no peer.
    """
    over = m.Rounds(setup.start, setup.quorum.available).complete(stable)
    rounds = m.read_records(records)
    entries = [_entry(setup, number, rounds[number]) for number in sorted(rounds) if number > over]
    return HISTORIES.encode(History(tuple(entry for entry in entries if entry is not None)))


def _entry(setup: Setup, number: int, statements: Sequence[m.Own]) -> Entry | None:
    records = [own.record for own in statements if own.kind == m.AGREEMENT]
    if not records:
        return None
    agreement = lists.agreement(setup, number)
    out: AnyOut[va.Part, va.Agreed] = AnyOut()
    agreement.on_restore(records, out)
    if agreement.result is not None:
        return Entry(number, agreement.result.proof, None)
    vote = agreement.strongest()
    if vote is None:
        return None
    voted = Voted(vote.attempt, vote.candidate, vote.round, vote.value, vote.certificate, vote.proposal)
    return Entry(number, b"", voted)


def check_history(setup: Setup, member: MemberId, stable: Slot, history: bytes) -> bool:
    """Whether a member's history is well formed, above `stable`, and proved.

    However far above: the checkpoint that a power cut leaves may be older than what the windows were above.
    """
    try:
        entries = HISTORIES.decode(history).entries
    except WireError:
        return False
    slots = m.Rounds(setup.start, setup.quorum.available)
    before = slots.complete(stable)
    for entry in entries:
        if entry.number <= before or not _holds(setup, entry):
            return False
        before = entry.number
    return member in setup.members


def _holds(setup: Setup, entry: Entry) -> bool:
    judge = lists.judge(setup, entry.number)
    voted = entry.voted
    if voted is None:
        return judge.agreed(entry.proof) is not None
    if not 1 <= voted.attempt <= setup.quorum.n or voted.candidate >= setup.quorum.n or voted.round < 1:
        return False
    statement = am.pre_statement(judge.agreement_id(voted.attempt, voted.candidate), voted.round, voted.value)
    if not am.pre_certifier(setup).verify(statement, voted.certificate):
        return False
    return judge.value(voted.candidate, voted.proposal) is not None if voted.value else not voted.proposal


def carry(setup: Setup, stable: Slot, histories: Mapping[MemberId, bytes]) -> Carried:
    """The continuation above `stable`, the highest certified checkpoint, from checked histories.

    Raises `ValueError` if there are fewer than n - f - c.
    """
    if len(histories) < setup.quorum.available:
        raise ValueError(f"{len(histories)} histories; the continuation needs {setup.quorum.available}")
    agreed: dict[int, bytes] = {}
    strongest: dict[int, tuple[Strength, bytes]] = {}
    for member in sorted(histories):
        for entry in HISTORIES.decode(histories[member]).entries:
            if entry.voted is None:
                agreed.setdefault(entry.number, entry.proof)
            else:
                found = (_strength(entry.voted), entry.voted.proposal)
                strongest[entry.number] = max(strongest.get(entry.number, found), found)
    slots = m.Rounds(setup.start, setup.quorum.available)
    carried: list[tuple[Slot, Digest]] = []
    number = slots.of(stable + 1)
    while (value := _carried(setup, number, agreed, strongest)) is not None:
        listed = lists.read_list(setup, number, value)
        carried += [
            (slot, offer.digest) for slot, offer in enumerate(listed, start=slots.first(number)) if slot > stable
        ]
        number += 1
    return Carried(stable, tuple(carried))


def _carried(
    setup: Setup, number: int, agreed: Mapping[int, bytes], strongest: Mapping[int, tuple[Strength, bytes]]
) -> bytes | None:
    """The list of offers that a round is carried over with; None: it is not."""
    judge = lists.judge(setup, number)
    if number in agreed:
        return judge.agreed(agreed[number])
    (_, _, value, candidate), proposal = strongest.get(number, ((0, 0, False, 0), b""))
    return judge.value(candidate, proposal) if value else None


def _strength(voted: Voted) -> Strength:
    return voted.attempt, voted.round, voted.value, voted.candidate


def convicts(setup: Setup, member: MemberId, proof: bytes) -> bool:
    """Whether the bytes show that this member echoed two values of one broadcast, or voted twice in one round."""
    return cb.convicts(setup, member, proof) or am.check_proof(setup, proof) == member
