"""A member's process from epoch to epoch: what it keeps, what it erases, whom it has links with, and in which order.

In a new epoch, the log says so first, and durably. Then, a moment later, since clients wait for the epoch's first
decision:

- the hand-over that led there is stored, for those who will ask for the chain;
- keys and coin secrets of the epochs before are erased (SAFETY rule 28);
- and only then may the log lose its old end, which held the only copy of both.

A crash may cut this off anywhere; the start does it again. Whom the member has links with is followed at once, and
elsewhere (`neighbours`); only the operators, who may always come in, are told from here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from bftkit.channel.interface import Entered, KeepSecret, SecretKept
from bftkit.channel.replica import Replica
from bftkit.node.chronicle import Chronicle
from bftkit.node.disk import Patience, StoppedInRound
from bftkit.node.evidence import EvidenceStore
from bftkit.node.neighbours import Neighbours
from bftkit.node.vault import Vault
from bftkit.storage.snapshots import SnapshotStore

logger = logging.getLogger("bftkit.node")

TIDY_SECONDS: Final = 0.2
"""So long after an epoch began its hand-over is stored, old keys are erased, and the log loses its old end."""


class Succession:
    """What one member's process has to do about epochs."""

    def __init__(
        self,
        replica: Replica,
        neighbours: Neighbours,
        snapshots: SnapshotStore,
        vault: Vault | None,
        chronicle: Chronicle,
        evidence: EvidenceStore | None,
        patience: Patience,
        *,
        kept: Callable[[SecretKept], None],
        wake: Callable[[], None],
    ) -> None:
        """`kept` gives the replica its answer, `wake` lets the member have a round."""
        self._replica = replica
        self._neighbours = neighbours
        self._snapshots = snapshots
        self._vault = vault
        self._chronicle = chronicle
        self._evidence = evidence
        self._patience = patience
        self._kept = kept
        self._wake = wake
        self._linking: dict[int, bytes] = {}
        """Hand-overs that are not stored yet, by the epoch that they end."""
        self._untidy = False
        self._root: bytes | None = None
        """The root of this member's keys in the present roster."""
        self._has_new_keys = False
        """Whether they are others than in the epoch before, and the key file has not followed yet."""
        self._logged: int | None = None
        """The epoch that the log was in when this process began."""

    @property
    def is_tidy(self) -> bool:
        """Nothing is left to do that still needs the log's old end."""
        return not self._untidy and not self._linking

    def restored(self) -> None:
        """At the start: the replica is where its log says, durably, and has not gone on from there yet."""
        if self._replica.succession is not None:
            self._logged = self._replica.succession.configuration.epoch
            self._root = self._own_root()

    async def begin(self) -> None:
        """At the start: do again what a crash may have cut off. Raises `StoppedInRound`: see `settle_new_keys`."""
        succession = self._replica.succession
        if succession is None:
            return
        if self._evidence is not None:
            self._evidence.place = succession.place
        stored = set(self._snapshots.links())
        known = {epoch: link.encode() for epoch, link in sorted(succession.links.items())}
        self._linking |= {epoch: link for epoch, link in known.items() if link not in stored}
        if succession.configuration.epoch == self._logged:
            self._forget()
        # Else the replica has just gone into an epoch that the log does not know yet, and needs its keys until it does.
        if not await self.tidy():
            raise StoppedInRound

    def entered(self, entered: Entered, nursery: trio.Nursery) -> None:
        """In a new epoch, and the log says so durably: what belongs to those before may go (SAFETY rule 28)."""
        self._chronicle.entered(entered.place, entered.link)
        if self._evidence is not None:
            self._evidence.place = entered.place
        here = self._replica.succession_part.configuration
        logger.info("%s is in epoch %d, under %s", self._replica.me, here.epoch, here.protocol)
        self._forget()
        self._tidy_soon(nursery)

    # ------------------------------------------------------------------------------------------ hand-overs

    def linked(self, epoch: int, link: bytes, nursery: trio.Nursery) -> None:
        """This hand-over is to be stored, soon."""
        self._linking[epoch] = link
        self._tidy_soon(nursery)

    async def keep_links(self) -> None:
        """Store the hand-overs that are not stored yet."""
        for epoch, link in sorted(self._linking.items()):
            if await self._patience.in_thread(partial(self._snapshots.keep_link, epoch, link), "keep a hand-over"):
                self._linking.pop(epoch, None)

    # ------------------------------------------------------------------------------------------ keys and secrets

    async def keep_secret(self, secret: KeepSecret) -> None:
        """Keep it in the vault, and tell the replica."""
        if self._vault is None:
            raise RuntimeError("a member without a vault cannot keep secrets")
        keep = partial(self._vault.keep, secret.epoch, secret.name, secret.secret)
        if await self._patience.in_thread(keep, "keep a secret"):
            self._kept(SecretKept(secret.name))

    async def settle_new_keys(self) -> None:
        """Before anything leaves that new keys have signed.

        Should the log be lost right now, the key file must say what keys were in use (SAFETY rule 16). Raises
        `StoppedInRound`.
        """
        if self._has_new_keys:
            if not await self._settle():
                raise StoppedInRound
            self._has_new_keys = False

    def _forget(self) -> None:
        succession = self._replica.succession_part
        configuration = succession.configuration
        self._neighbours.let_in(configuration.operators)
        if self._vault is not None:
            root = self._own_root()
            self._has_new_keys = None not in (self._root, root) and self._root != root
            self._root = root
            vain = self._replica.preparing.coin_keys.vain(self._vault.secrets())
            self._vault.forget(configuration.epoch, succession.lineage.coin_since, root, vain)

    def _own_root(self) -> bytes | None:
        mine = self._replica.succession_part.configuration.roster.by_id.get(self._replica.me)
        return mine.epoch_root if mine is not None else None

    async def _settle(self) -> bool:
        """Whether the disk has forgotten what it was to forget; if not, the member is to stop."""
        return self._vault is None or await self._patience.in_thread(self._vault.settle, "erase its old keys")

    # ------------------------------------------------------------------------------------------ in a moment

    def _tidy_soon(self, nursery: trio.Nursery) -> None:
        """Keep links, erase keys and cut the log in a moment: clients wait for the epoch's first decision."""
        if not self._untidy:
            self._untidy = True
            nursery.start_soon(self._tidy_later)

    async def _tidy_later(self) -> None:
        await trio.sleep(TIDY_SECONDS)
        await self.tidy()

    async def tidy(self) -> bool:
        """Store hand-overs and erase old keys, now; False if the member is to stop before there was room for that."""
        self._untidy = False
        await self.keep_links()
        self._wake()  # now the log's old end may go
        return await self._settle()
