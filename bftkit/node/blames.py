"""What a member tells and keeps of the faults of others: counts for metrics, words for people, proofs for courts.

Liars decide how often they lie, and in which words the fault is told. So everything here is bounded: texts by member
and fault, each told once and then at every doubling, and a few proofs of each (FAULTS, oracle X).
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from bftkit.channel.replica import Replica
from bftkit.core.machine import MemberId
from bftkit.node.chronicle import Chronicle
from bftkit.node.evidence import EvidenceStore

logger = logging.getLogger("bftkit.node")

FAULTS_KEPT: Final = 500
"""So many pairs of member and fault are told apart."""
PROOFS_KEPT: Final = 4
"""So many proofs are kept for each member and kind of fault."""
TOLD_MAX: Final = 100
"""So many pairs are in the member's status."""
OTHERS: Final = "(others)"
"""No member's id."""


class Blames:
    """Whom one member has blamed, for what, and how often."""

    def __init__(self, replica: Replica, chronicle: Chronicle, store: EvidenceStore | None) -> None:
        """`chronicle` and `store` keep what people may want to read; None: proofs are kept in memory alone."""
        self.counts: Counter[tuple[MemberId, str]] = Counter()
        """How often each member was blamed, by whether that was a frame that is ``refused``, or another fault,
        ``proved`` or ``unproved``. Under `OTHERS`: whoever was none in the epoch of the time."""
        self.evidence: list[tuple[MemberId, str, bytes]] = []
        """Proofs: whose, of what."""
        self.store = store
        self._replica = replica
        self._chronicle = chronicle
        self._by_fault: dict[tuple[MemberId, str], int] = {}

    def blame(self, member: MemberId, fault: str, proof: bytes) -> None:
        """A member did this. `proof` is empty where there is none."""
        kind = "proved" if proof else "refused" if fault.startswith("refused:") else "unproved"
        self.counts[member if member in self._replica.indices else OTHERS, kind] += 1
        key = (member, fault[:80])
        if key not in self._by_fault and len(self._by_fault) >= FAULTS_KEPT:
            key = (member, "other faults")  # texts may hold numbers that a liar chooses
        count = self._by_fault[key] = self._by_fault.get(key, 0) + 1
        kept: str | None = None
        if proof and count <= PROOFS_KEPT:
            self.evidence.append((member, fault, proof))
            if self.store is not None:
                kept = self.store.keep(member, fault, proof)
        # Told once, then at every doubling: a liar must not fill our disk with words.
        if count & (count - 1) == 0:
            logger.warning("%s: %s %s (%d times)", self._replica.me, member, key[1], count)
            epoch = self._replica.settings.epoch
            self._chronicle.note("blamed", epoch=epoch, member=member, fault=key[1], count=count, evidence=kept)

    def told(self) -> dict[str, int]:
        """How often, by member and fault."""
        return {f"{member}: {fault}": count for (member, fault), count in sorted(self._by_fault.items())[:TOLD_MAX]}

    @property
    def proofs(self) -> int:
        """How many proofs there are."""
        return self.store.count if self.store is not None else len(self.evidence)
