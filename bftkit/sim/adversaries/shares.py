"""A liar where members toss coins: each share that it says is wrong, in another way for each receiver.

Shares travel in the messages of blocks (`bftkit.blocks.coin`, and `CoinShare` of binary agreement), which a protocol
wraps as parts with a kind, an index and a body; and in the same way in the bedrock agreement that ends an epoch. A
liar can make no share that is valid and wrong, for that is what the proof in it is for. So these are all that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final, TypeAlias

import attrs
from nacl.bindings import crypto_core_ed25519_add, crypto_core_ed25519_from_uniform

from bftkit.blocks import agreement_messages as am
from bftkit.blocks import bedrock_messages as bed
from bftkit.blocks import coin as co
from bftkit.blocks import validated_messages as va
from bftkit.channel.frames import BedrockMessage, pack_control
from bftkit.channel.interface import ReplicaSettings
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.core.wire import WireError
from bftkit.crypto.threshold import GROUP_ORDER, POINT_SIZE, SCALAR_SIZE
from bftkit.sim.adversaries.honest import Rewriting, Said, control_in, fields_of

LINE: Final = 28
"""An invalid threshold share."""
REMEMBERED: Final = 1000
"""So many coins are remembered of which others gave their shares."""
OF_ORDER_TWO: Final = ((1 << 255) - 20).to_bytes(POINT_SIZE, "little")
"""A point of the curve outside the group of prime order: (0, -1)."""

ROUND_MAX: Final = (1 << 32) - 1

Place: TypeAlias = tuple[object, ...]
"""Which coin: the epoch, the place of the part that its shares stand in, and the round of a binary agreement."""


@attrs.frozen
class _Found:
    """A part in a frame, and how to make a frame of it with another body."""

    place: Place
    part: Any
    """With a kind, an index and a body."""
    frame: Callable[[Any], bytes]

    @property
    def share(self) -> tuple[int, bytes] | None:
        """The round of the binary agreement (0: the coin is not one of those) and the share, if there is one."""
        if self.part.kind == va.ORDER:
            return 0, co.CODEC.decode(self.part.body).share
        if self.part.kind == va.AGREEMENT and isinstance(said := am.CODEC.decode(self.part.body), am.CoinShare):
            return said.round, said.share
        return None

    @property
    def voted(self) -> int | None:
        """The round that a vote of a binary agreement in the part is of."""
        if self.part.kind != va.AGREEMENT:
            return None
        said = am.CODEC.decode(self.part.body)
        return said.round if isinstance(said, am.PreVote | am.MainVote | am.Abstention) else None

    def with_share(self, share: bytes, number: int = 0) -> bytes:
        """The frame with this share; `number` is the round of the binary agreement that its coin belongs to."""
        ordering = self.part.kind == va.ORDER
        body = co.CODEC.encode(co.Share(share)) if ordering else am.CODEC.encode(am.CoinShare(number, share))
        return self.frame(attrs.evolve(self.part, body=body))


class BadShares(Rewriting):
    """Gives shares of coins that are none: to each receiver another one, and to the same receiver by turns.

    By turns: its share of another coin; another member's share of this one; right proofs for a multiple of its point,
    for a point that nobody knows anything of, and for its point moved out of the group; the right share with another
    challenge or response, or with the response in another encoding; and what is no share at all. With its votes in a
    binary agreement it sends some already for the next round's coin, since the first share of each member counts.
    FAULTS 28. The defence: a share counts when its proof is verified, under the sender's point and the coin's name.
    """

    lines: ClassVar[tuple[int, ...]] = (LINE,)

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self._heard: dict[Place, dict[MemberId, bytes]] = {}
        """What others gave, by coin."""
        self._turn = 0
        self.bad = 0
        self.early = 0
        self._ways: tuple[Callable[[Place, bytes], bytes], ...] = (
            self._of_another_coin,
            self._of_another_member,
            _of_a_multiple,
            _of_any_point,
            _outside,
            lambda _, share: _turned(share, POINT_SIZE),
            lambda _, share: _turned(share, POINT_SIZE + SCALAR_SIZE),
            _encoded_otherwise,
            lambda _, share: share[:-1],
            lambda _, share: b"",
            lambda _, share: bytes(len(share)),
        )

    def status(self) -> dict[str, Any]:
        """How many shares were bad, and how many of them came before their time."""
        return {"adversary": {"kind": "bad-shares", "bad": self.bad, "early": self.early}}

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """Collects what others give."""
        found = self._found(frame)
        if found is not None and (given := found.share) is not None:
            place = (*found.place, given[0])
            if place not in self._heard and len(self._heard) >= REMEMBERED:
                del self._heard[next(iter(self._heard))]
            self._heard.setdefault(place, {})[sender] = given[1]
        return frame

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """No share leaves that is one."""
        found = self._found(frame)
        if found is None:
            yield to, frame
            return
        if (given := found.share) is not None:
            number, share = given
        else:
            yield to, frame
            assert found.voted is not None
            number, share = min(found.voted + 1, ROUND_MAX), digest(frame) * 3
            self.early += len(to)
        for member in to:
            yield (member,), found.with_share(self._wrong((*found.place, number), share), number)

    def _found(self, frame: bytes) -> _Found | None:
        """The part of a block in a frame, of the protocol's or of the bedrock's; None: there is none in it."""
        try:
            found = self._of_protocol(frame) or self._of_bedrock(frame)
            return None if found is None or (found.share is None and found.voted is None) else found
        except WireError:
            return None  # another adversary's garbage, or a protocol whose parts are others

    def _of_protocol(self, frame: bytes) -> _Found | None:
        unpacked = self.unpacked(frame)
        if unpacked is None:
            return None
        epoch, message, carried = unpacked
        fields = fields_of(message)
        if not {"kind", "index", "body"} <= fields.keys():
            return None
        place = tuple(value for name, value in sorted(fields.items()) if name != "body")
        return _Found((epoch, *place), message, lambda part: self.packed(part, carried, epoch))

    def _of_bedrock(self, frame: bytes) -> _Found | None:
        control = control_in(frame)
        if not isinstance(control, BedrockMessage):
            return None
        part = bed.CODEC.decode(control.message)
        if not isinstance(part, bed.Part):
            return None
        return _Found(
            (control.epoch, "bedrock", part.kind, part.index),
            part,
            lambda part: pack_control(BedrockMessage(control.epoch, bed.CODEC.encode(part))),
        )

    def _wrong(self, place: Place, share: bytes) -> bytes:
        """A share that is none, in the place of this one."""
        self._turn += 1
        self.bad += 1
        self.act(LINE)
        wrong = self._ways[self._turn % len(self._ways)](place, share)
        return wrong if wrong != share else _turned(share, 0)

    def _of_another_coin(self, place: Place, share: bytes) -> bytes:
        coins = self.settings.coins
        return coins.share(digest(share)) if coins is not None else _of_any_point(place, share)

    def _of_another_member(self, place: Place, share: bytes) -> bytes:
        heard = self._heard.get(place, {})
        return heard[min(heard)] if heard else _of_any_point(place, share)


def _turned(share: bytes, at: int) -> bytes:
    """With one bit turned over."""
    return share[:at] + bytes((share[at] ^ 1,)) + share[at + 1 :] if at < len(share) else share + b"\0"


def _moved(share: bytes, by: bytes) -> bytes:
    """With the sum of its point and another one; with the other one, if it has none (as shares of simulated coins)."""
    point, rest = share[:POINT_SIZE], share[POINT_SIZE:]
    if len(point) < POINT_SIZE or len(by) < POINT_SIZE:
        return OF_ORDER_TWO + rest  # another adversary's garbage
    try:
        return crypto_core_ed25519_add(point, by) + rest
    except RuntimeError:
        return by + rest


def _of_a_multiple(place: Place, share: bytes) -> bytes:
    """Twice its point: half of what the proof says would still hold."""
    return _moved(share, share[:POINT_SIZE])


def _of_any_point(place: Place, share: bytes) -> bytes:
    return crypto_core_ed25519_from_uniform(digest(share)) + share[POINT_SIZE:]


def _outside(place: Place, share: bytes) -> bytes:
    return _moved(share, OF_ORDER_TWO)


def _encoded_otherwise(place: Place, share: bytes) -> bytes:
    """The response plus the group's order: the same number, and no scalar."""
    at = POINT_SIZE + SCALAR_SIZE
    number = (int.from_bytes(share[at:], "little") + GROUP_ORDER) % (1 << 8 * SCALAR_SIZE)
    return share[:at] + number.to_bytes(SCALAR_SIZE, "little")
