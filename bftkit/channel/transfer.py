"""State transfer: how a member that is behind, new or repaired fetches a checkpoint from several others at once.

The certificate fixes the root, the manifest lists the chunks' digests (checked against the root), and each chunk is
checked by its digest when it comes. Who sends a bad one is dropped as a source and blamed; its chunks are asked of
others. Chunks that this member's own state holds already are not fetched. When the group moves on to a newer
checkpoint meanwhile, the transfer moves along and keeps what it has, and what is under way: chunks are known by their
content. Over a link that takes longer for a chunk than the group for a checkpoint, nothing else would ever count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from bftkit.core.digest import digest
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.crypto.merkle import root as merkle_root
from bftkit.crypto.signed import Certificate

OUTSTANDING_PER_SOURCE: Final = 4
"""So many chunks are asked of one member at a time."""
OWED_MAX: Final = 256
"""So many chunks that were asked for of earlier checkpoints are still waited for."""


@attrs.define(eq=False)
class Transfer:
    """One transfer towards the checkpoint at `slot`."""

    slot: Slot
    root: Digest
    certificate: Certificate
    sources: list[MemberId]
    """Whom to ask, best first; those that sent rubbish are taken out."""
    have: dict[Digest, bytes] = attrs.field(factory=dict[Digest, bytes])
    leaves: tuple[Digest, ...] | None = None
    asked: dict[int, MemberId] = attrs.field(factory=dict[int, MemberId])
    """Chunks under way, and of whom they were asked."""
    missing: list[int] = attrs.field(factory=list[int])
    """Chunks to ask for, first ones last."""
    turn: int = 0
    received_bytes: int = 0
    fruitless: int = 0
    """How often all that was under way was asked for again since something came."""
    owed: dict[tuple[Slot, int], tuple[MemberId, Digest]] = attrs.field(
        factory=dict[tuple[Slot, int], tuple[MemberId, Digest]]
    )
    """Chunks of checkpoints before this one that are under way, of whom they were asked, and their names."""
    barred: set[MemberId] = attrs.field(factory=set[MemberId])
    """Those that sent rubbish: they are no sources any more, whatever they say."""
    given_up: Slot = 0
    """The newer checkpoint that was fetched in vain before this one."""

    def go_on_from(self, before: Transfer) -> None:
        """This transfer takes the place of another one: what is here, and what is under way, is not lost."""
        self.have = before.have
        leaves = before.leaves or ()
        under_way = {(before.slot, index): (member, leaves[index]) for index, member in sorted(before.asked.items())}
        newest = [*before.owed.items(), *under_way.items()][-OWED_MAX:]
        self.owed = dict(newest)
        self.given_up = before.slot if before.slot > self.slot else 0

    def take_manifest(self, leaves: Sequence[Digest], own: Mapping[Digest, bytes]) -> bool:
        """Accept the list of chunks if it is the certified one. `own` are chunks that this member holds."""
        if merkle_root(leaves) != self.root:
            return False
        self.leaves = tuple(leaves)
        wanted = set(self.leaves)
        self.have = {name: data for name, data in self.have.items() if name in wanted}
        for name in self.leaves:
            if name not in self.have and name in own:
                self.have[name] = own[name]
        seen: set[Digest] = set(self.have)
        self.asked.clear()
        self.missing = []
        for index, name in enumerate(self.leaves):
            if name not in seen:
                seen.add(name)
                self.missing.append(index)
        owed = {name for _, name in self.owed.values()}
        # What is under way anyhow is asked for last.
        self.missing.sort(key=lambda index: (leaves[index] in owed, index), reverse=True)
        return True

    def requests(self) -> list[tuple[MemberId, int]]:
        """Which chunks to ask of whom now, spread over all sources."""
        if not self.sources or not self.missing:
            return []
        load = dict.fromkeys(self.sources, 0)
        for source in self.asked.values():
            if source in load:
                load[source] += 1
        result: list[tuple[MemberId, int]] = []
        while self.missing:
            source = min(self.sources, key=lambda member: (load[member], self.sources.index(member)))
            if load[source] >= OUTSTANDING_PER_SOURCE:
                break
            index = self.missing.pop()
            load[source] += 1
            self.asked[index] = source
            result.append((source, index))
        return result

    def take_chunk(self, sender: MemberId, index: int, data: bytes) -> bool:
        """A chunk came. False if it is not the certified one, which only a liar sends.

        One that comes late, after it was asked for again elsewhere, is as good: over a slow link all are late.
        """
        if self.leaves is None or (index not in self.asked and index not in self.missing):
            # Nothing that this transfer still waits for; a chunk that repeats is fetched by its first place.
            return True
        name = self.leaves[index]
        if digest(data) != name:
            if self.asked.get(index) != sender:
                return True
            self.bar(sender)
            return False
        if self.asked.pop(index, None) is None:
            self.missing.remove(index)
        self.have[name] = data
        self.received_bytes += len(data)
        return True

    def take_owed(self, sender: MemberId, slot: Slot, index: int, data: bytes) -> bool:
        """A chunk of an earlier checkpoint came. False if it is not the certified one, which only a liar sends."""
        source, name = self.owed.get((slot, index), (None, b""))
        if source != sender:
            return True  # nothing that is still waited for
        del self.owed[slot, index]
        if digest(data) != name:
            self.bar(sender)
            return False
        if name not in self.have:
            self.have[name] = data
            self.received_bytes += len(data)
            leaves = self.leaves or ()
            self.missing = [at for at in self.missing if leaves[at] != name]
            self.asked = {at: member for at, member in self.asked.items() if leaves[at] != name}
        return True

    def add(self, source: MemberId) -> None:
        """This member says that it holds the state, too: it is asked after the others, if they do not answer.

        Those that signed for it may be gone: the members of the epoch that it ends, of which none may have stayed.
        """
        if source not in self.sources and source not in self.barred:
            self.sources.append(source)

    def bar(self, source: MemberId) -> None:
        """This member lies: it is never asked again."""
        self.barred.add(source)
        self.drop(source)

    def drop(self, source: MemberId) -> None:
        """Ask this member no more, unless it says again that it holds the state; what it owed is asked of others."""
        if source in self.sources:
            self.sources.remove(source)
        self._ask_again([index for index, member in self.asked.items() if member == source])

    def retry(self) -> None:
        """Nothing came for a while: ask again for everything under way, beginning with another source."""
        self.fruitless += 1
        self._ask_again(list(self.asked))
        if self.sources:
            self.sources.append(self.sources.pop(0))

    def _ask_again(self, indices: list[int]) -> None:
        for index in sorted(indices, reverse=True):
            del self.asked[index]
            self.missing.append(index)

    def gives_way_to(self, slot: Slot) -> bool:
        """Whether to fetch the state after this slot instead: a newer one; or, if this one is fetched in vain, any.

        One that was given up is not newer in that sense: else a liar that shows it again and again, and never sends it,
        would keep this one from being fetched as well.
        """
        return slot != self.slot and (self.is_vain or slot > max(self.slot, self.given_up))

    @property
    def is_vain(self) -> bool:
        """Whether nothing has come although every source was asked first once."""
        return self.fruitless > len(self.sources)

    @property
    def complete(self) -> bool:
        """Whether every chunk is here."""
        return self.leaves is not None and not self.missing and not self.asked

    def chunks(self) -> list[bytes]:
        """All chunks, in order."""
        assert self.complete
        assert self.leaves is not None
        return [self.have[name] for name in self.leaves]
