"""One round: everybody's offer, and the agreement on n − f − c of them.

A round is a table of blocks and the wiring between them. It decides nothing itself:

1. each member's offer is a consistent broadcast of a batch's digest; whoever holds the batch's bytes echoes it;
2. with n − f − c offers delivered, this member proposes their list to the round's validated agreement;
3. what the agreement yields are the round's batches, in the order of their senders in the roster.

(CRYPTO 2001, section 6, with digests in the place of batches.)
"""

from __future__ import annotations

from typing import Final, TypeAlias

import attrs

from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.core.digest import DIGEST_SIZE, NO_DIGEST
from bftkit.core.machine import Digest, MemberId, Record, Transition
from bftkit.core.machine import Out as AnyOut
from bftkit.core.ordering import OrderingOutput, Setup

from . import lists
from . import messages as m

Out: TypeAlias = AnyOut[m.Message, OrderingOutput]

PHASES: Final = (
    Transition("IDLE", "any message of the round, or a batch of our own", "OFFERING"),
    Transition("OFFERING", "n − f − c offers delivered", "AGREEING"),
    Transition("OFFERING", "the outcome from a peer", "AGREED"),
    Transition("AGREEING", "the agreement decides, or the outcome from a peer", "AGREED"),
    Transition("AGREED", "all earlier rounds, and the bytes", "DELIVERED"),
    Transition("OFFERING", "Learned, or a checkpoint above it", "DELIVERED"),
    Transition("AGREEING", "Learned, or a checkpoint above it", "DELIVERED"),
)
"""A round, as one member sees it."""


@attrs.define(eq=False)
class Round:
    """What one member has of one round."""

    number: int
    offers: dict[int, cb.ConsistentBroadcast] = attrs.field(factory=dict[int, cb.ConsistentBroadcast])
    """By the index of the sender."""
    offered: Digest | None = None
    """What this member offered here."""
    asked: bool = False
    """A batch was asked for, since others began the round."""
    proofs: dict[int, bytes] = attrs.field(factory=dict[int, bytes])
    """The offers that were delivered here, by the index of the sender."""
    agreement: va.ValidatedAgreement | None = None
    proposed: bool = False
    serial: int = 0
    """Of the next record."""
    proof: bytes = b""
    """Of the agreement; b"": there is none yet."""
    batches: tuple[lists.Listed, ...] = ()
    """What was agreed on."""

    @property
    def agreed(self) -> bool:
        """Whether the round is decided, as far as this member knows."""
        return bool(self.proof)

    @property
    def phase(self) -> str:
        """For people and tests: see `PHASES`. (Delivered rounds are known by the slots.)"""
        if self.agreed:
            return "AGREED"
        return "AGREEING" if self.proposed else "OFFERING" if self.offers or self.agreement else "IDLE"

    def offer(self, setup: Setup, index: int) -> cb.ConsistentBroadcast:
        """The broadcast of the offer of the member with this index."""
        if index not in self.offers:
            sender = setup.members[index]
            self.offers[index] = cb.ConsistentBroadcast.create(setup, m.offer_id(self.number), sender, DIGEST_SIZE)
        return self.offers[index]

    def agree(self, setup: Setup) -> va.ValidatedAgreement:
        """The round's agreement."""
        if self.agreement is None:
            self.agreement = lists.agreement(setup, self.number)
        return self.agreement

    def record(self, kind: int, index: int, record: Record) -> Record:
        """What a block of the round persists, as this member's log has it."""
        own = m.Own(self.number, self.serial, kind, index, record)
        self.serial += 1
        return m.RECORDS.encode(own)

    def settle(self, setup: Setup, value: bytes, proof: bytes) -> None:
        """The round is agreed on: nothing of its blocks matters any more, since the proof convinces everybody."""
        self.proof = proof
        self.batches = lists.read_list(setup, self.number, value)
        self.offers.clear()
        self.proofs.clear()
        self.agreement = None

    def has(self, digest: Digest) -> bool:
        """Whether this batch is one of those that were agreed on."""
        return any(listed.digest == digest for listed in self.batches)

    def said(self) -> list[m.Part]:
        """What this member said in the round and what a peer that lost it may still need."""
        if self.agreed:
            return [outcome(self.number, self.proof)]
        parts = [
            m.Part(self.number, m.OFFER, index, cb.CODEC.encode(message))
            for index in sorted(self.offers)
            for message in self.offers[index].said()
        ]
        if self.agreement is not None:
            parts += [m.Part(self.number, said.kind, said.index, said.body) for said in self.agreement.said()]
        return parts


def outcome(number: int, proof: bytes) -> m.Part:
    """What the round agreed on, for who missed it."""
    return m.Part(number, va.OUTCOME, 0, proof)


def carried(digest: Digest) -> tuple[Digest, ...]:
    """The batch whose bytes go along with an offer of it."""
    return () if digest == NO_DIGEST else (digest,)


def holders_but(me: MemberId, holders: tuple[MemberId, ...]) -> tuple[MemberId, ...]:
    """Whom this member can ask for a batch."""
    return tuple(member for member in holders if member != me)
