"""Liars: objects that stand between a replica and the world and change what it hears and says.

The replica inside stays as it is, so a liar knows all that a broken-in member would know, its keys included, and
nothing more: it cannot sign for others. The same object works in the simulated world and, by ``bftkit node run
--adversary``, in a real process.
"""

from __future__ import annotations

from typing import Any

import attrs

from bftkit.channel import frames
from bftkit.channel.bundles import make_batch, parse_batch
from bftkit.channel.frames import ANSWER_CODEC, ReadAnswer, pack_answer, pack_protocol, pack_reply, unpack_reply
from bftkit.channel.replica import Replica, ReplicaOut, ReplicaSettings, ToClient
from bftkit.core.digest import digest
from bftkit.core.machine import Broadcast, Deliver, Effect, MemberId, Out, Send
from bftkit.core.ordering import Setup
from bftkit.core.wire import WireError


class Honest:
    """Changes nothing; the base of all liars."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self.settings = settings

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """What the replica hears in place of this frame; None: nothing."""
        return frame

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """What the world sees in place of these effects."""
        return out

    def status(self) -> dict[str, Any]:
        """What it has done, for tests and demonstrations."""
        return {}


class Silent(Honest):
    """Says nothing to some members, or to nobody at all."""

    def __init__(self, settings: ReplicaSettings, to: frozenset[MemberId] | None = None) -> None:
        super().__init__(settings)
        self._to = to if to is not None else frozenset(settings.members)

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """Drop what goes to them."""
        others = tuple(member for member in replica.others if member not in self._to)
        changed: ReplicaOut = Out()
        for effect in out.effects:
            match effect:
                case Broadcast(frame):
                    changed.send(others, frame)
                case Send(to, frame):
                    changed.send([member for member in to if member not in self._to], frame)
                case _:
                    changed.effects.append(effect)
        return changed


class BadChunks(Honest):
    """Serves state transfers with chunks in which one bit is wrong; honest in everything else."""

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self.bad_chunks = 0

    def status(self) -> dict[str, Any]:
        """How many bad chunks it sent."""
        return {"adversary": {"kind": "bad-chunks", "bad_chunks": self.bad_chunks}}

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """Flip a bit of every chunk."""
        changed: ReplicaOut = Out()
        for effect in out.effects:
            if isinstance(effect, Send) and effect.message[:1] == b"\x03":
                changed.send(effect.to, self._flipped(effect.message))
            else:
                changed.effects.append(effect)
        return changed

    def _flipped(self, frame: bytes) -> bytes:
        message = frames.CONTROL_CODEC.decode(frame[1:])
        if not isinstance(message, frames.Chunk):
            return frame
        self.bad_chunks += 1
        data = bytearray(message.data)
        data[len(data) // 2] ^= 1
        return frames.pack_control(attrs.evolve(message, data=bytes(data)))


@attrs.define
class LiarCounters:
    """How often it lied."""

    equivocations: int = 0
    """Proposals of which different members got different versions."""
    wrong_replies: int = 0


class Liar(Honest):
    """Equivocates whenever it leads, and gives clients wrong results, with digests that fit them.

    Half of the others get its proposal as it is, the other half one with the same signature's worth and other
    content. Whether it can sign another version is the protocol's to say (`Plugin.forge`).
    """

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self.counters = LiarCounters()
        self._setup = Setup(
            settings.me,
            settings.members,
            settings.quorum,
            settings.keyring,
            0,
            settings.window,
            settings.parameters,
        )
        others = [member for member in settings.members if member != settings.me]
        self._deceived = frozenset(others[(len(others) + 1) // 2 :])
        self._forged: dict[bytes, bytes | None] = {}

    def status(self) -> dict[str, Any]:
        """The counters."""
        return {"adversary": {"kind": "liar", **attrs.asdict(self.counters)}}

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """Two versions of each proposal, and nothing true to clients."""
        changed: ReplicaOut = Out()
        effects: list[Effect[bytes, Any]] = changed.effects
        for effect in out.effects:
            match effect:
                case Broadcast(frame):
                    self._send_versions(replica.others, frame, changed)
                case Send(to, frame):
                    self._send_versions(to, frame, changed)
                case Deliver(ToClient(client, frame)):
                    effects.append(Deliver(ToClient(client, self._wrong(frame))))
                case _:
                    effects.append(effect)
        return changed

    def _send_versions(self, to: tuple[MemberId, ...], frame: bytes, out: ReplicaOut) -> None:
        forged = self._forge(frame) if frame[:1] == b"\x01" else None
        if forged is None:
            out.send(to, frame)
            return
        out.send([member for member in to if member not in self._deceived], frame)
        out.send([member for member in to if member in self._deceived], forged)

    def _forge(self, frame: bytes) -> bytes | None:
        forge = self.settings.plugin.forge
        if forge is None:
            return None
        epoch, packed, carried = frames.unpack_protocol(frame)
        if len(carried) != 1:
            return None
        known = self._forged.get(packed)
        if known is not None or packed in self._forged:
            return known
        other = self._other_batch(carried[0])
        message = forge(self._setup, self.settings.plugin.codec.decode(packed), digest(other))
        result = None
        if message is not None:
            self.counters.equivocations += 1
            result = pack_protocol(epoch, self.settings.plugin.codec.encode(message), [other])
        if len(self._forged) > 1000:
            self._forged.clear()
        self._forged[packed] = result
        return result

    def _other_batch(self, raw: bytes) -> bytes:
        time_ms, bundles = parse_batch(raw, bundle_bytes_max=len(raw))
        return make_batch(time_ms + 1, [bundle.raw for bundle in reversed(bundles)])

    def _wrong(self, frame: bytes) -> bytes:
        try:
            if frame[0] == frames.REPLY:
                reply = unpack_reply(frame)
                if not reply.full or not reply.session:
                    return frame
                results = reply.results[:-1] + bytes((reply.results[-1] ^ 1,)) if reply.results else b"lie"
                self.counters.wrong_replies += 1
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
                    self.counters.wrong_replies += 1
                    name = digest(b"\0", b"+a lie")
                    return pack_answer(attrs.evolve(answer, failed=0, digest=name, result=b"+a lie"))
        except WireError:
            pass
        return frame
