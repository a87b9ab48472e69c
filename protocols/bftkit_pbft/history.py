"""Leaving the protocol without its machine: what a member may have helped to decide, from its records alone.

A *history* is the member's prepared certificates above a stable checkpoint, one a slot, each of the highest view that
the member has for it (SAFETY rule 29). The *continuation* takes for each slot, from n - f - c histories, the
certificate of the highest view, and ends at the first slot without one (SAFETY rule 22).

Nothing that was delivered is lost: a slot is decided only when q members hold certificates for it, durably; the
n - f - c histories are at least q, share f + 1 members with those, and so contain a correct member's certificate of
that view or a higher one. Certificates of higher views name the same digest (`view_change` has the argument). A liar
can leave certificates out or show older ones, but it cannot make one. All slots before a delivered one are delivered,
so none of them ends the continuation early.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import attrs

from bftkit.core.machine import Digest, MemberId, Record, Slot
from bftkit.core.ordering import Carried, Setup
from bftkit.core.wire import Codec, Many, Struct, WireError
from bftkit.crypto.signed import Certificate

from .messages import CERTIFICATES_MAX, RECORDS, Prepared, read_vote_statement
from .view_change import Invalid, check_certificate


@attrs.frozen
class History:
    """Prepared certificates, ascending by slot, one a slot."""

    certificates: Annotated[tuple[Certificate, ...], Many(Struct(Certificate), CERTIFICATES_MAX)]


_CODEC: Final = Codec[History]("pbft history", {1: History})


def history(setup: Setup, stable: Slot, records: Sequence[Record]) -> bytes:
    """This member's history above `stable`, from its durable records.

    Raises `WireError` if a record is not this protocol's: one's own disk is no peer.
    """
    best: dict[Slot, tuple[int, Certificate]] = {}
    for data in records:
        record = RECORDS.decode(data)
        if isinstance(record, Prepared):
            statement = read_vote_statement(record.certificate.body)
            assert statement is not None
            view, slot, _ = statement
            if slot > stable and (slot not in best or view > best[slot][0]):
                best[slot] = (view, record.certificate)
    return _CODEC.encode(History(tuple(best[slot][1] for slot in sorted(best))))


def check_history(setup: Setup, member: MemberId, stable: Slot, history: bytes) -> bool:
    """Whether a member's history is well formed, above `stable`, and proved by certificates.

    However far above: the checkpoint that a power cut leaves may be older than what the windows were above.
    """
    try:
        certificates = _CODEC.decode(history).certificates
        before = stable
        for certificate in certificates:
            _, slot, _ = check_certificate(setup, certificate)
            if slot <= before:
                return False
            before = slot
    except (WireError, Invalid):
        return False
    return member in setup.members


def carry(setup: Setup, stable: Slot, histories: Mapping[MemberId, bytes]) -> Carried:
    """The continuation above `stable`, the highest certified checkpoint, from checked histories.

    Raises `ValueError` if there are fewer than n - f - c.
    """
    if len(histories) < setup.quorum.available:
        raise ValueError(f"{len(histories)} histories; the continuation needs {setup.quorum.available}")
    best: dict[Slot, tuple[int, Digest]] = {}
    for member in sorted(histories):
        for certificate in _CODEC.decode(histories[member]).certificates:
            statement = read_vote_statement(certificate.body)
            assert statement is not None
            view, slot, digest = statement
            best[slot] = max(best.get(slot, (view, digest)), (view, digest))
    slots: list[tuple[Slot, Digest]] = []
    while (slot := stable + len(slots) + 1) in best:
        slots.append((slot, best[slot][1]))
    return Carried(stable, tuple(slots))
