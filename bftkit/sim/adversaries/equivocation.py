"""Members that say two things, alone or together, and members that lie to clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import attrs

from bftkit.channel import frames
from bftkit.channel.bundles import make_batch, parse_batch
from bftkit.channel.frames import (
    ANSWER_CODEC,
    ReadAnswer,
    pack_answer,
    pack_protocol,
    pack_reply,
    unpack_protocol,
    unpack_reply,
)
from bftkit.channel.replica import ReplicaSettings
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.core.wire import WireError
from bftkit.sim.adversaries.honest import Rewriting, Said, digests_of, fields_of, hand_out, replaced

REMEMBERED: int = 1000
"""So many proposals are remembered."""


class Equivocate(Rewriting):
    """Proposes two things whenever it leads: half of the others get its proposal, the other half a different one.

    Both are signed and carry their bytes. Whether another version can be signed is the protocol's to say
    (`Plugin.forge`); where it cannot, nothing happens. FAULTS 20. The defence: two quorums share a correct member
    (SAFETY rule 1), and two signed proposals for one slot are evidence (rule 6).
    """

    lines: ClassVar[tuple[int, ...]] = (20,)

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self.equivocations = 0
        """Proposals of which different members got different versions."""
        self._deceived = frozenset(self.last_half)
        self._forged: dict[bytes, bytes | None] = {}

    def status(self) -> dict[str, Any]:
        """How often it equivocated, and whether it can."""
        return {"adversary": {"kind": "equivocate", "equivocations": self.equivocations, "able": self._able}}

    @property
    def _able(self) -> bool:
        return self.settings.plugin.forge is not None

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Two versions of each proposal."""
        forged = self._forge(frame) if frame[:1] == b"\x01" else None
        if forged is None:
            yield to, frame
            return
        yield [member for member in to if member not in self._deceived], frame
        if deceived := [member for member in to if member in self._deceived]:
            self.act(20)
            yield deceived, forged

    def _forge(self, frame: bytes) -> bytes | None:
        forge = self.settings.plugin.forge
        if forge is None or self.setup is None:
            return None
        epoch, packed, carried = unpack_protocol(frame)
        if len(carried) != 1:
            return None
        if packed in self._forged:
            return self._forged[packed]
        other = self._other_batch(carried[0])
        codec = self.settings.plugin.codec
        message = forge(self.setup, codec.decode(packed), digest(other))
        result = None
        if message is not None:
            self.equivocations += 1
            result = pack_protocol(epoch, codec.encode(message), [other])
        if len(self._forged) > REMEMBERED:
            self._forged.clear()
        self._forged[packed] = result
        return result

    def _other_batch(self, raw: bytes) -> bytes:
        time_ms, bundles = parse_batch(raw, bundle_bytes_max=len(raw))
        return make_batch(time_ms + 1, [bundle.raw for bundle in reversed(bundles)])


class WrongReplies(Rewriting):
    """Gives clients wrong results and wrong answers, with digests that fit them.

    FAULTS 33. The defence: a client believes f + 1 members that agree (SAFETY rule 8), and for a read a quorum
    (rule 13).
    """

    lines: ClassVar[tuple[int, ...]] = (33,)

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self.wrong_replies = 0

    def status(self) -> dict[str, Any]:
        """How many wrong replies it gave."""
        return {"adversary": {"kind": "wrong-replies", "wrong_replies": self.wrong_replies}}

    def answer(self, client: bytes, frame: bytes) -> bytes | None:
        """Nothing true to clients, but what session was opened and that this is the member's link."""
        wrong = wrong_answer(frame)
        if wrong != frame:
            self.wrong_replies += 1
            self.act(33)
        return wrong


def wrong_answer(frame: bytes) -> bytes:
    """A reply or an answer with another result in it, and the digest that fits; other frames as they are."""
    try:
        if frame[0] == frames.REPLY:
            reply = unpack_reply(frame)
            if not reply.full or not reply.session:
                return frame
            results = reply.results[:-1] + bytes((reply.results[-1] ^ 1,)) if reply.results else b"lie"
            return pack_reply(
                reply.epoch,
                reply.slot,
                reply.session,
                reply.first,
                reply.count,
                digest(results),
                reply.leader,
                results,
            )
        if frame[0] == frames.ANSWER:
            answer = ANSWER_CODEC.decode(frame[1:])
            if isinstance(answer, ReadAnswer):
                return answered(answer, 0, b"+a lie")
    except WireError:
        pass
    return frame


def answered(answer: ReadAnswer, failed: int, result: bytes) -> bytes:
    """The answer with this result in its place."""
    name = digest(bytes((failed,)), result)
    return pack_answer(attrs.evolve(answer, failed=failed, digest=name, result=result))


@attrs.define
class LiarCounters:
    """How often it lied."""

    equivocations: int = 0
    """Proposals of which different members got different versions."""
    wrong_replies: int = 0


class Liar(Equivocate):
    """Equivocates whenever it leads, and gives clients wrong results: `Equivocate` and `WrongReplies` in one."""

    lines: ClassVar[tuple[int, ...]] = (20, 33)

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self._wrong = WrongReplies(settings)

    @property
    def counters(self) -> LiarCounters:
        """How often it lied, of both kinds."""
        return LiarCounters(self.equivocations, self._wrong.wrong_replies)

    def status(self) -> dict[str, Any]:
        """The counters."""
        return {"adversary": {"kind": "liar", **attrs.asdict(self.counters)}}

    def answer(self, client: bytes, frame: bytes) -> bytes | None:
        """See `WrongReplies`."""
        wrong = self._wrong.answer(client, frame)
        if wrong != frame:
            self.act(33)
        return wrong


class Collude(Equivocate):
    """Equivocates consistently, together with fellows: each side sees a whole course of its own.

    Who leads sends one proposal to one half of the honest members, another to the other half, and both to its
    fellows. All of them then vote on each side for what that side was shown, and hand out the bytes of both. They
    agree by what they send each other, over their ordinary links. FAULTS 20.

    The defence is arithmetic (SAFETY rule 1): with f colluding members, the smaller side has no quorum. With a quorum
    that is one too small, both sides decide.
    """

    def __init__(self, settings: ReplicaSettings, fellows: str = "") -> None:
        """`fellows`: the ids of all colluding members with commas between. Raises ValueError for strangers."""
        super().__init__(settings)
        named = frozenset(part.strip() for part in fellows.split(",") if part.strip()) | {settings.me}
        if strangers := sorted(named - {*settings.members}):
            raise ValueError(f"{', '.join(strangers)}: no member of this group")
        self._fellows = named
        honest = [member for member in settings.members if member not in named]
        self._deceived = frozenset(honest[(len(honest) + 1) // 2 :])
        self._others: dict[bytes, dict[bytes, bytes]] = {}
        """By the digest of a first version: what stands for what in the second one."""
        self._batches: dict[bytes, bytes] = {}
        self.double_votes = 0

    def status(self) -> dict[str, Any]:
        """How often it led to both sides, and voted on both."""
        told = {"equivocations": self.equivocations, "double_votes": self.double_votes, "able": self._able}
        return {"adversary": {"kind": "collude", "fellows": sorted(self._fellows), **told}}

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """Second versions are kept from the replica: a fellow's, which is remembered, and votes for it."""
        found = self.unpacked(frame)
        if sender not in self._fellows:
            self._serve(sender, frame)
            hidden = found is not None and any(name in self._batches for name in digests_of(found[1]).values())
            return None if hidden else frame
        if found is None or len(found[2]) != 2:
            return frame
        epoch, message, (batch, second) = found
        other = self.unpacked(second)
        if other is not None and len(other[2]) == 1:
            self._note(message, other[1], other[2][0])
        return self.packed(message, [batch], epoch)

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """To the one side the truth, to the other what fits the second proposal, to fellows both proposals."""
        forged = self._forge(frame) if frame[:1] == b"\x01" else None
        if forged is not None:
            own, other = self.unpacked(frame), self.unpacked(forged)
            assert own is not None
            assert other is not None
            self._note(own[1], other[1], other[2][0])
            yield [member for member in to if member not in self._deceived | self._fellows], frame
            if deceived := [member for member in to if member in self._deceived]:
                self.act(20)
                yield deceived, forged
            if fellows := [member for member in to if member in self._fellows]:
                # The second one travels with the first, in the place of a batch: so they come together.
                yield fellows, self.packed(own[1], [*own[2], forged], own[0])
            return
        vote = self._other_vote(frame)
        if vote is None:
            yield to, frame
            return
        yield [member for member in to if member not in self._deceived], frame
        if deceived := [member for member in to if member in self._deceived]:
            self.double_votes += 1
            self.act(20)
            yield deceived, vote

    def _other_vote(self, frame: bytes) -> bytes | None:
        found = self.unpacked(frame)
        if found is None:
            return None
        epoch, message, carried = found
        for name in digests_of(message).values():
            changes = self._others.get(name)
            if changes is not None:
                other = self.resigned(replaced(message, changes))
                batches = [self._batches[changes[name]]] if carried else []
                return self.packed(other, batches, epoch)
        return None

    def _note(self, first: Any, second: Any, batch: bytes) -> None:
        changes: dict[bytes, bytes] = {}
        _differences(first, second, changes)
        for name in digests_of(first).values():
            if name in changes:
                if len(self._others) > REMEMBERED:
                    self._others.clear()
                    self._batches.clear()
                self._others[name] = changes
                self._batches[changes[name]] = batch

    def _serve(self, sender: MemberId, frame: bytes) -> None:
        """Bytes of second versions, which the replica knows nothing of, for whoever asks."""
        for answer in hand_out(self._batches, frame):
            self.later(0, (sender,), answer)


def _differences(first: Any, second: Any, changes: dict[bytes, bytes]) -> None:
    others = fields_of(second)
    for name, a in fields_of(first).items():
        b = others.get(name)
        if type(a) is bytes and type(b) is bytes:
            if a != b:
                changes[a] = b
        else:
            _differences(a, b, changes)
