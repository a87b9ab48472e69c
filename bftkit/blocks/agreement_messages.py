"""What members say to each other in binary agreement, what they sign and what they write down.

In words:

- `Wish(b)`: my input is b. Said in the plain form only, where the inputs alone must justify what is decided.
- `PreVote(r, b)`: in round r I am for b, and this is why I may be. In round 1 it is my input, with evidence for 1 in
  the validated form; or (in the plain one) most wishes that I heard of, and here are f + 1 members'. Later either n - t
  members were for b in round r - 1 (*hard*), or n - t members abstained in round r - 1 and b is that round's coin
  (*soft*).
- `MainVote(r, b)`: n - t members pre-voted b in round r; here are their votes.
- `Abstention(r)`: my n - t pre-votes of round r were not all for one value: here is a justified one for each.
- `AllAbstained(r)`: n - t members abstained in round r, though I did not vote there; here are their votes.
- `CoinShare(r)`: my n - t main-votes of round r are in hand, and what I do next is settled: here is my share of the
  round's coin.
- `Decision(b)`: n - t members main-voted b in round r. This convinces everybody, whenever and wherever.

**What is signed.** A vote is a `Certifier`'s vote under `pre_statement` or `main_statement`: the instance, the round
and the value, and nothing else. The justification around it is not signed: it convinces by itself. So two votes of
one member in one round and phase with different values prove to anybody that it lies, and `check_proof` says so.

**Evidence.** Where 1 needs evidence, it goes with everything from which a pre-vote of 1 may follow: each vote for 1,
each abstention and each soft pre-vote. So nobody can come to be for 1, or decide it, without holding the evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.blocks.certificates import CERTIFICATE_FIELD, VOTE_FIELD, SignatureLists
from bftkit.blocks.coin import SHARE_FIELD
from bftkit.core.machine import MemberId
from bftkit.core.ordering import Setup
from bftkit.core.wire import U8, U32, Blob, Bool, Codec, Member, WireError

WISH: Final = "agreement wish"
"""The purpose under which wishes are signed."""
PRE_VOTE: Final = "agreement pre-vote"
"""The purpose under which pre-votes are signed."""
MAIN_VOTE: Final = "agreement main-vote"

ABSTAIN: Final = 2
"""The value of a main-vote for neither 0 nor 1."""

ID_BYTES_MAX: Final = 128
"""The longest name of an instance."""
EVIDENCE_BYTES_MAX: Final = (1 << 20) + (1 << 17)
"""The longest evidence for 1: the proof of a consistent broadcast of the longest value fits in."""
EVIDENCE_FIELD: Final = Blob(EVIDENCE_BYTES_MAX)

Valid: TypeAlias = Callable[[bytes], bool]
"""Whether bytes are evidence for 1; a pure function."""

# ------------------------------------------------------------------------------------------------- statements


def wish_statement(id: bytes, number: int, value: int) -> bytes:  # noqa: A002
    """What a wish signs; `number` is 0."""
    return number.to_bytes(4, "big") + bytes([value]) + id


def pre_statement(id: bytes, number: int, value: int) -> bytes:  # noqa: A002
    """What a pre-vote of round `number` signs. What is before the id has one length, so no two share a statement."""
    return number.to_bytes(4, "big") + bytes([value]) + id


def main_statement(id: bytes, number: int, value: int) -> bytes:  # noqa: A002
    """What a main-vote signs; `value` is 0, 1 or `ABSTAIN`."""
    return number.to_bytes(4, "big") + bytes([value]) + id


def coin_id(id: bytes, number: int) -> bytes:  # noqa: A002
    """The name of a round's coin."""
    return b"agreement" + number.to_bytes(4, "big") + id


def wish_certifier(setup: Setup) -> SignatureLists:
    """Makes and checks certificates of wishes: of f + 1, so that a correct member had this wish."""
    return SignatureLists.of(setup, WISH, setup.quorum.weak)


def pre_certifier(setup: Setup) -> SignatureLists:
    """Makes and checks certificates of pre-votes."""
    return SignatureLists.of(setup, PRE_VOTE, setup.quorum.available)


def main_certifier(setup: Setup) -> SignatureLists:
    """Makes and checks certificates of main-votes."""
    return SignatureLists.of(setup, MAIN_VOTE, setup.quorum.available)


# ------------------------------------------------------------------------------------------------- messages


@attrs.frozen
class Wish:
    """The sender's input is `value`."""

    value: Bool
    vote: Annotated[bytes, VOTE_FIELD]


@attrs.frozen
class PreVote:
    """The sender is for `value` in `round`."""

    round: U32
    value: Bool
    soft: Bool
    """Whether it follows the coin of the round before."""
    certificate: Annotated[bytes, CERTIFICATE_FIELD]
    """Of the round before: pre-votes for the value if hard, abstentions if soft. In round 1 of wishes, or empty."""
    vote: Annotated[bytes, VOTE_FIELD]
    evidence: Annotated[bytes, EVIDENCE_FIELD]


@attrs.frozen
class Shown:
    """Somebody's pre-vote, inside an abstention that gives round and value."""

    member: Member
    soft: Bool
    certificate: Annotated[bytes, CERTIFICATE_FIELD]
    vote: Annotated[bytes, VOTE_FIELD]


@attrs.frozen
class MainVote:
    """The sender holds n - t pre-votes for `value` in `round`."""

    round: U32
    value: Bool
    certificate: Annotated[bytes, CERTIFICATE_FIELD]
    vote: Annotated[bytes, VOTE_FIELD]
    evidence: Annotated[bytes, EVIDENCE_FIELD]


@attrs.frozen
class Abstention:
    """The sender's main-vote for neither: the members are not of one mind in `round`."""

    round: U32
    zero: Shown
    """A justified pre-vote for 0."""
    one: Shown
    """A justified pre-vote for 1."""
    vote: Annotated[bytes, VOTE_FIELD]
    evidence: Annotated[bytes, EVIDENCE_FIELD]


@attrs.frozen
class CoinShare:
    """The sender's share of the coin of `round`."""

    round: U32
    share: Annotated[bytes, SHARE_FIELD]


@attrs.frozen
class Decision:
    """n - t members main-voted `value` in `round`: it is decided."""

    round: U32
    value: Bool
    certificate: Annotated[bytes, CERTIFICATE_FIELD]
    evidence: Annotated[bytes, EVIDENCE_FIELD]


@attrs.frozen
class AllAbstained:
    """n - t members abstained in `round`; so the next pre-vote of whoever says this is the round's coin.

    Written down by everybody that saw it, before the share of the coin leaves; sent by those only that came to it
    without a main-vote of their own, since others may wait for that.
    """

    round: U32
    certificate: Annotated[bytes, CERTIFICATE_FIELD]
    evidence: Annotated[bytes, EVIDENCE_FIELD]


Message: TypeAlias = Wish | PreVote | MainVote | Abstention | AllAbstained | CoinShare | Decision

CODEC: Final = Codec[Message](
    "binary agreement",
    {1: Wish, 2: PreVote, 3: MainVote, 4: Abstention, 5: AllAbstained, 6: CoinShare, 7: Decision},
    bytes_max=2 << 20,
)
"""For messages and for records: what this member wrote down is what it said (or was about to say)."""

# ------------------------------------------------------------------------------------------------- proofs


@attrs.frozen
class Equivocation:
    """`signer` signed two values in one round and phase of one instance."""

    signer: Member
    id: Annotated[bytes, Blob(ID_BYTES_MAX)]
    phase: U8
    """0: wishes, 1: pre-votes, 2: main-votes."""
    round: U32
    first: U8
    first_vote: Annotated[bytes, VOTE_FIELD]
    second: U8
    second_vote: Annotated[bytes, VOTE_FIELD]


PROOFS: Final = Codec[Equivocation]("binary agreement proof", {1: Equivocation})


_PHASES: Final = (
    (wish_certifier, wish_statement),
    (pre_certifier, pre_statement),
    (main_certifier, main_statement),
)


def equivocation(
    signer: MemberId,
    id: bytes,  # noqa: A002
    phase: int,
    number: int,
    first: tuple[int, bytes],
    second: tuple[int, bytes],
) -> bytes:
    """The proof that `signer` cast both (value, vote) pairs, in one defined order."""
    (a, a_vote), (b, b_vote) = sorted((first, second))
    return PROOFS.encode(Equivocation(signer, id, phase, number, a, a_vote, b, b_vote))


def check_proof(setup: Setup, proof: bytes) -> MemberId | None:
    """Whom a proof convicts, for anybody with the members' keys; None if it proves nothing."""
    try:
        fault = PROOFS.decode(proof)
    except WireError:
        return None
    if fault.first >= fault.second or fault.phase >= len(_PHASES):
        return None
    make, statement = _PHASES[fault.phase]
    certifier = make(setup)
    for value, vote in ((fault.first, fault.first_vote), (fault.second, fault.second_vote)):
        if not certifier.verify_vote(fault.signer, statement(fault.id, fault.round, value), vote):
            return None
    return fault.signer


def read_decision(setup: Setup, id: bytes, proof: bytes, valid: Valid | None = None) -> Decision | None:  # noqa: A002
    """The decision that a proof shows, with its evidence; None if it shows none.

    With `valid`, a decision for 1 counts only with good evidence, as in the machine.
    """
    try:
        decision = CODEC.decode(proof)
    except WireError:
        return None
    return decision if isinstance(decision, Decision) and decision_holds(setup, id, decision, valid) else None


def decision_holds(setup: Setup, id: bytes, decision: Decision, valid: Valid | None) -> bool:  # noqa: A002
    """Whether n - t members cast these main-votes, and the evidence is good where it is needed."""
    statement = main_statement(id, decision.round, decision.value)
    if not main_certifier(setup).verify(statement, decision.certificate):
        return False
    return evidence_fits(decision.value, decision.evidence, valid)


def check_decision(setup: Setup, id: bytes, proof: bytes, valid: Valid | None = None) -> bool | None:  # noqa: A002
    """What a proof shows to be decided in the instance `id`; None if it shows nothing. See `read_decision`."""
    decision = read_decision(setup, id, proof, valid)
    return None if decision is None else decision.value


def evidence_fits(needed: bool, evidence: bytes, valid: Valid | None) -> bool:
    """Whether the evidence is what it must be: good where it is needed, and empty where it is not."""
    return valid(evidence) if needed and valid is not None else not evidence
