"""What a round agrees on: a list of n − f − c offers of different members, each with its proof.

An offer is the digest of a batch, or `NO_DIGEST` for the empty one, sent by consistent broadcast. Its proof carries the
votes of n − f − c members, each of which held the batch's bytes, durably, when it voted (SAFETY rule 3). At most f of
them lie and c more are gone for ever: at least one correct member that is up can be asked for the bytes, since
n − 2(f + c) > f + c. So to agree on digests is to agree on batches that can be had.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

import attrs

from bftkit.blocks import consistent_broadcast as cb
from bftkit.blocks import validated_agreement as va
from bftkit.blocks.certificates import CERTIFICATE_BYTES_MAX, VOTE_BYTES
from bftkit.core.digest import DIGEST_SIZE, digest
from bftkit.core.machine import Digest, MemberId
from bftkit.core.ordering import Setup
from bftkit.core.wire import U16, Blob, Codec, Many, Struct, WireError

from .messages import agreement_id, offer_id

OFFERS_MAX: Final = 1024
"""A group has at most so many members."""

OFFER_BYTES_MAX: Final = CERTIFICATE_BYTES_MAX + DIGEST_SIZE + 16
"""No proof of an offer is longer."""


@attrs.frozen
class Offer:
    """The offer of the member with this index in the roster, and the proof that it is one."""

    index: U16
    proof: Annotated[bytes, Blob(OFFER_BYTES_MAX)]


@attrs.frozen
class OfferList:
    """Exactly n − f − c offers, ascending by index."""

    offers: Annotated[tuple[Offer, ...], Many(Struct(Offer), OFFERS_MAX)]


LISTS: Final = Codec[OfferList]("cks list", {1: OfferList})


@attrs.frozen
class Listed:
    """An offer as a list proves it."""

    index: int
    digest: Digest
    holders: tuple[MemberId, ...]
    """Who voted for it, and therefore held the bytes."""


def make_list(proofs: dict[int, bytes]) -> bytes:
    """The list of these offers' proofs, by the index of their senders."""
    return LISTS.encode(OfferList(tuple(Offer(index, proofs[index]) for index in sorted(proofs))))


def list_bytes_max(setup: Setup) -> int:
    """The length of the longest good list of this group, in bytes."""
    certificate = (setup.quorum.n + 7) // 8 + setup.quorum.available * VOTE_BYTES
    return 16 + setup.quorum.available * (certificate + DIGEST_SIZE + 32)


def check_offer(setup: Setup, number: int, index: int, proof: bytes) -> Digest | None:
    """The digest that this proof shows to be the member's offer in that round; None if it shows nothing."""
    if index >= len(setup.members):
        return None
    value = cb.check_proof(setup, offer_id(number), setup.members[index], proof)
    return value if value is not None and len(value) == DIGEST_SIZE else None


def valid_list(setup: Setup, number: int, value: bytes) -> bool:
    """Whether these bytes are a good list for the round: n − f − c offers of different members, in order, all proved.

    This is the predicate of the round's agreement: nothing else can be decided (CRYPTO 2001, section 5, "external
    validity").
    """
    key = ("cks list", number, digest(value))
    if setup.memo.recall(key) is not None:
        return True
    try:
        offers = LISTS.decode(value).offers
    except WireError:
        return False
    indices = [offer.index for offer in offers]
    if len(indices) != setup.quorum.available or indices != sorted(set(indices)):
        return False
    if any(check_offer(setup, number, offer.index, offer.proof) is None for offer in offers):
        return False
    setup.memo.keep(key)
    return True


def agreement(setup: Setup, number: int) -> va.ValidatedAgreement:
    """A round's agreement: on a list of offers."""
    return va.ValidatedAgreement.create(setup, agreement_id(number), validity(setup, number), list_bytes_max(setup))


def judge(setup: Setup, number: int) -> va.Judge:
    """Who tells good proofs of a round's agreement from bad ones, without taking part in it."""
    return va.Judge(setup, agreement_id(number), validity(setup, number), list_bytes_max(setup))


def validity(setup: Setup, number: int) -> partial[bool]:
    """`valid_list` for one round, as the agreement wants its predicate."""
    return partial(valid_list, setup, number)


def read_list(setup: Setup, number: int, value: bytes) -> tuple[Listed, ...]:
    """What a good list says. The value must have passed `valid_list`."""
    listed: list[Listed] = []
    for offer in LISTS.decode(value).offers:
        found = check_offer(setup, number, offer.index, offer.proof)
        assert found is not None, "only good lists are agreed on"
        listed.append(Listed(offer.index, found, cb.proof_signers(setup, offer.proof)))
    return tuple(listed)
