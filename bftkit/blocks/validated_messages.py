"""What is said, written down and proved in validated agreement; `validated_agreement` has the story.

There is one kind of message, `Part(kind, index, body)`: (kind, index) says what it is about, in words:

- `PROPOSAL`, `COMMITMENT`, `ORDER`, `AGREEMENT`: `body` is a message of one of the smaller machines that this one
  consists of.
- `STATEMENT`: about the candidate of attempt `index`. Without a body: I do not hold its proposal, as my commitment says
  ("no"). With one: here is the proof of its proposal ("yes").
- `OUTCOME`: it is decided; `body` is the proof, which shows to anybody what.

A part carries no signature of its own. What must convince others is signed inside (proposals, commitments, votes,
proofs). A statement need not be: a "yes" is proved by what it carries, and a "no" is one member's word to one other.
It is never handed on, it moves nobody to anything but to stop waiting for its speaker, and it is believed only where
the speaker's commitment, which *is* signed and cannot be two, says the same.

A vote for 1 in the agreement carries the same proof, so it is a "yes" by itself. Who holds the candidate's proposal
sends that vote alone; a "yes" of its own is only sent to somebody who may have lost the vote.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks.certificates import VOTE_BYTES
from bftkit.core.machine import Transition
from bftkit.core.ordering import Setup
from bftkit.core.wire import U16, Blob, Codec, Digest32, WireError

PROPOSAL: Final = 1
"""The consistent broadcast of a member's proposal; the index is the member's place in the roster."""
COMMITMENT: Final = 2
"""The consistent broadcast of a member's commitment; the index is the member's place in the roster."""
ORDER: Final = 3
"""The coin that orders the candidates; the index is 0."""
AGREEMENT: Final = 4
"""The binary agreement about a candidate; the index is the attempt, from 1 on."""
STATEMENT: Final = 5
"""Whether the sender holds a candidate's proposal; the index is the attempt, from 1 on."""
OUTCOME: Final = 6
"""What was decided; the index is 0."""

BYTES_MAX: Final = 4 << 20
"""No proof and no part is longer; each instance has a closer bound."""

# ------------------------------------------------------------------------------------------------- messages


@attrs.frozen
class Part:
    """`body` is about what (kind, index) names."""

    kind: U16
    index: U16
    body: Annotated[bytes, Blob(BYTES_MAX)]


CODEC: Final = Codec[Part]("validated agreement", {1: Part})

# ------------------------------------------------------------------------------------------------- proofs


@attrs.frozen
class Agreement:
    """The agreement on this candidate, in this attempt, decided 1, and here is what the candidate proposed."""

    attempt: U16
    candidate: U16
    """The candidate's place in the roster."""
    decision: Annotated[bytes, Blob(BYTES_MAX)]
    """The proof of the binary agreement's decision. Its evidence is the proof of the candidate's proposal."""


PROOFS: Final = Codec[Agreement]("validated agreement proof", {1: Agreement})

# ------------------------------------------------------------------------------------------------- records


@attrs.frozen
class Said:
    """`record` is one of the machine that (kind, index) names."""

    kind: U16
    index: U16
    record: Annotated[bytes, Blob(BYTES_MAX)]


@attrs.frozen
class Held:
    """I hold this proposal, and am about to say so: in my commitment, in a statement or in a vote."""

    candidate: U16
    proof: Annotated[bytes, Blob(BYTES_MAX)]


@attrs.frozen
class Ordered:
    """The coin came to this. Without it a restarted member would not know what its votes were about."""

    coin: Digest32


@attrs.frozen
class Denied:
    """I said that I do not hold the proposal of the attempt's candidate. (A "yes" is in the agreement's records.)"""

    attempt: U16


@attrs.frozen
class Finished:
    """I know the outcome."""

    proof: Annotated[bytes, Blob(BYTES_MAX)]


OwnRecord: TypeAlias = Said | Held | Ordered | Denied | Finished

RECORDS: Final = Codec[OwnRecord]("validated agreement record", {1: Said, 2: Held, 3: Ordered, 4: Denied, 5: Finished})

# ------------------------------------------------------------------------------------------------- inputs, outputs


@attrs.frozen
class Propose:
    """Agree on this value or on another member's. It is valid."""

    value: bytes


@attrs.frozen
class Learn:
    """`proof` is an `Agreed.proof` that came from elsewhere, unchecked."""

    proof: bytes


@attrs.frozen
class Agreed:
    """The value that all agree on; said once. `proof` makes anybody agree on it; see `check_agreed`."""

    value: bytes
    proof: bytes


Input: TypeAlias = Propose | Learn


@attrs.frozen
class Strongest:
    """A member's strongest vote, for histories: its main-vote for 0 or 1 of the highest attempt and round."""

    attempt: int
    candidate: int
    round: int
    value: bool
    certificate: bytes
    """The n - t pre-votes behind it."""
    proposal: bytes
    """The proof of the candidate's proposal; empty if the vote is for 0."""


PHASES: Final = (
    Transition("gathering", "n - t valid proposals: record them, commit", "committed"),
    Transition("committed", "n - t commitments: release the share", "tossing"),
    Transition("tossing", "n - t shares: the order", "attempting"),
    Transition("gathering", "n - t shares of others", "attempting"),
    Transition("committed", "n - t shares of others", "attempting"),
    Transition("attempting", "0 decided: the next candidate", "attempting"),
    Transition("attempting", "1 decided", "agreed"),
    Transition("gathering", "a proof of the outcome", "agreed"),
    Transition("committed", "a proof of the outcome", "agreed"),
    Transition("tossing", "a proof of the outcome", "agreed"),
    Transition("attempting", "a proof of the outcome", "agreed"),
)
"""The phases, for the documentation."""


# ------------------------------------------------------------------------------------------------- judgement


def part_id(id: bytes, kind: int, *numbers: int) -> bytes:  # noqa: A002
    """The name of one of the machines within instance `id`: no two share one, of whatever instances they are."""
    inner = b"".join([number.to_bytes(2, "big") for number in (kind, *numbers)])
    return b"".join((b"validated", len(id).to_bytes(1, "big"), id, inner))


@attrs.frozen
class Judge:
    """Decides, the same at every member, which values and which proofs of proposals are good in one instance."""

    setup: Setup
    id: bytes
    valid: Callable[[bytes], bool]
    value_max: int

    @property
    def proof_bytes_max(self) -> int:
        """The proof of a proposal is at most so long: the value, the certificate, and a few lengths."""
        quorum = self.setup.quorum
        return self.value_max + ((quorum.n + 7) >> 3) + quorum.available * VOTE_BYTES + 16

    @property
    def part_bytes_max(self) -> int:
        """No part is longer: at most it has a proof, two certificates beside it, names, votes and lengths."""
        quorum = self.setup.quorum
        return self.proof_bytes_max + 2 * (((quorum.n + 7) >> 3) + quorum.available * VOTE_BYTES) + 1024

    def accepts(self, value: bytes) -> bool:
        """Whether a proposal may have this value. Found out once."""
        if len(value) > self.value_max:
            return False
        key = ("validated value", self.id, value)
        if self.setup.memo.recall(key) is not None:
            return True
        if not self.valid(value):
            return False
        self.setup.memo.keep(key)
        return True

    def value(self, candidate: int, proof: bytes) -> bytes | None:
        """What the member with this place in the roster proposed, if this proves it; else None."""
        value = cb.check_proof(self.setup, part_id(self.id, PROPOSAL), self.setup.members[candidate], proof)
        return value if value is not None and self.accepts(value) else None

    def proves(self, candidate: int, proof: bytes) -> bool:
        """Whether this proves a proposal of that candidate: the evidence that a vote for 1 needs."""
        return self.value(candidate, proof) is not None

    def agreement_id(self, attempt: int, candidate: int) -> bytes:
        """The name of the binary agreement: with the candidate, so that its decision is about no other one."""
        return part_id(self.id, AGREEMENT, attempt, candidate)

    def agreed(self, proof: bytes) -> bytes | None:
        """The value that this proves to be agreed on; else None."""
        key = ("validated agreement", self.id, proof)
        known = self.setup.memo.recall(key)
        if known is not None:
            return known
        try:
            said = PROOFS.decode(proof)
        except WireError:
            return None
        n = self.setup.quorum.n
        if not 1 <= said.attempt <= n or said.candidate >= n:
            return None
        name = self.agreement_id(said.attempt, said.candidate)
        decision = am.read_decision(self.setup, name, said.decision, partial(self.proves, said.candidate))
        if decision is None or not decision.value:
            return None
        value = self.value(said.candidate, decision.evidence)
        if value is not None:
            self.setup.memo.keep(key, value)
        return value


def check_agreed(setup: Setup, id: bytes, valid: Callable[[bytes], bool], value_max: int, proof: bytes) -> bytes | None:  # noqa: A002
    """The value that this proves to be agreed on in instance `id`; None for what is no proof of that. Pure."""
    return Judge(setup, id, valid, value_max).agreed(proof)


def vector_bytes(setup: Setup) -> int:
    """The length of a commitment."""
    return (setup.quorum.n + 7) >> 3


def read_vector(setup: Setup, value: bytes) -> int | None:
    """The bits of a commitment; None if it commits to fewer than n - t proposals, or to more than there can be."""
    vector = int.from_bytes(value, "little")
    if len(value) != vector_bytes(setup) or vector >> setup.quorum.n:
        return None
    return vector if vector.bit_count() >= setup.quorum.available else None
