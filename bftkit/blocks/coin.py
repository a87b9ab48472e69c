"""The common coin: 32 bytes that nobody knows and nobody chooses, until enough members want them known.

In words:

- `Share(share)`: here is my share of this coin, with the proof that it is mine. Whoever says it has nothing left to
  decide that the coin's outcome must not influence.

Any `setup.coins.threshold` valid shares make the coin, the same for everybody. So it is known to an adversary as soon
as threshold - f correct members released theirs, and a protocol on top must have its correct members committed by
then: that is why agreement takes the threshold n - t and not t + 1 (simulations/agreement_rounds.py shows what happens
otherwise).

Shares are checked late: none before there are as many as the threshold, and then only until so many are good, since a
check costs more than all else here. A share that is found bad is blamed and forgotten.

Source: Cachin, Kursawe, Shoup, "Random oracles in Constantinople" (PODC 2000), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import attrs

from bftkit.core.machine import Machine, MemberId, Out, Record, Transition
from bftkit.core.ordering import CoinProtocol, Setup
from bftkit.core.state import SHARED, Forkable
from bftkit.core.wire import Blob, Codec

SHARE_BYTES_MAX: Final = 128
"""A share with its proof is at most so long; those of the Ed25519 group have 96 bytes."""

SHARE_FIELD: Final = Blob(SHARE_BYTES_MAX)
"""A share as a field of a message; `CoinProtocol.verify` looks closer."""

COIN_ID_BYTES_MAX: Final = 160
"""The longest name of a coin: a block's own id and a few bytes of its number within it."""


@attrs.frozen
class Share:
    """The sender's share of the coin."""

    share: Annotated[bytes, SHARE_FIELD]


Message: TypeAlias = Share

CODEC: Final = Codec[Message]("coin", {1: Share})
"""For messages and for records: the only record is the share that this member released."""


@attrs.frozen
class Release:
    """Let the others have this member's share: whatever the coin must not influence is settled here."""


@attrs.frozen
class CoinTossed:
    """The coin, 32 bytes; said once."""

    value: bytes


Input: TypeAlias = Release
Output: TypeAlias = CoinTossed

PHASES: Final = (
    Transition("closed", "Release: persist and send the share", "released"),
    Transition("closed", "threshold valid shares of others", "tossed"),
    Transition("released", "threshold valid shares, one's own among them", "tossed"),
    Transition("tossed", "Release: persist and send the share", "tossed"),
)
"""The phases, for the documentation."""


@attrs.define
class CommonCoin(Forkable, Machine[Input, Message, Output]):
    """One member's part in one coin; see `create`."""

    setup: Setup = attrs.field(metadata=SHARED)
    id: bytes
    value: bytes | None = None
    """The coin, once it is known."""
    released: bool = False
    _shares: dict[MemberId, bytes] = attrs.field(factory=dict[MemberId, bytes])
    """One of each member, not checked unless the member is in `_good`. Forgotten once the coin is known."""
    _good: set[MemberId] = attrs.field(factory=set[MemberId])

    @classmethod
    def create(cls, setup: Setup, id: bytes) -> CommonCoin:  # noqa: A002
        """The coin that `id` names; its name is part of what is hashed, so use each id for one coin only.

        Raises `ValueError` if the group has no coin keys or the id is longer than `COIN_ID_BYTES_MAX`.
        """
        if setup.coins is None:
            raise ValueError("this group has no coin keys")
        if not 0 < len(id) <= COIN_ID_BYTES_MAX:
            raise ValueError(f"a coin's id has 1 to {COIN_ID_BYTES_MAX} bytes, not {len(id)}")
        return cls(setup, id)

    @property
    def _coins(self) -> CoinProtocol:
        assert self.setup.coins is not None
        return self.setup.coins

    def said(self) -> tuple[Message, ...]:
        """What this member broadcast: its share, once it released it."""
        return (Share(self._coins.share(self.id)),) if self.released else ()

    def on_input(self, value: Input, out: Out[Message, Output]) -> None:
        """Release one's share; a second time changes nothing."""
        if self.released:
            return
        self.released = True
        share = Share(self._coins.share(self.id))
        out.persist(CODEC.encode(share))
        out.broadcast(share)
        self._count_own(share.share, out)

    def on_message(self, sender: MemberId, message: Message, out: Out[Message, Output]) -> None:
        """Keep the first share of each member, until it proves bad or the coin is known."""
        if self.value is None and sender in self.setup.members and sender not in self._shares:
            self._shares[sender] = message.share
            self._toss(out)

    def on_restore(self, records: Sequence[Record], out: Out[Message, Output]) -> None:
        """What was released stays released. The share is a function of the name, so it is the same again."""
        if records and not self.released:
            self.released = True
            self._count_own(self._coins.share(self.id), out)

    def _count_own(self, share: bytes, out: Out[Message, Output]) -> None:
        if self.value is None:
            me = self.setup.me
            self._shares[me] = share
            self._good.add(me)
            self._toss(out)

    def _toss(self, out: Out[Message, Output]) -> None:
        """Toss the coin if there are enough shares; check only then, and no more than needed."""
        coins = self._coins
        for member in self.setup.members:
            if len(self._shares) < coins.threshold or len(self._good) >= coins.threshold:
                break
            if member in self._shares and member not in self._good:
                if coins.verify(member, self.id, self._shares[member]):
                    self._good.add(member)
                else:
                    del self._shares[member]
                    out.blame(member, "a share that is none of this coin")
        if len(self._good) >= coins.threshold:
            good = {member: self._shares[member] for member in self.setup.members if member in self._good}
            self.value = coins.combine(self.id, good)
            self._shares.clear()
            self._good.clear()
            out.deliver(CoinTossed(self.value))
