"""Members whose digests are wrong: in votes, in batches, in replies, in chunks, and in checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import attrs

from bftkit.channel import frames
from bftkit.channel.frames import (
    CHECKPOINT_PURPOSE,
    CONTROL_CODEC,
    BatchBytes,
    CheckpointProof,
    CheckpointVote,
    Chunk,
    DecidedClaims,
    Manifest,
    checkpoint_body,
    pack_control,
    pack_reply,
    unpack_reply,
)
from bftkit.channel.replica import Replica, ReplicaSettings
from bftkit.core.digest import digest
from bftkit.core.wire import WireError
from bftkit.crypto.signed import Certificate, Vote
from bftkit.sim.adversaries.honest import Rewriting, Said, digests_of, replaced


def _flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :] if data else b"!"


class WrongDigests(Rewriting):
    """Every digest that it says is wrong: in votes, in checkpoint votes, in claims, in replies; batches, too.

    Its proposals are honest. What it may sign it signs again, so that only the digest is wrong. FAULTS 22. The
    defence: only what a quorum says of one digest counts (SAFETY rule 1), and bytes are known by their digest.
    """

    lines: ClassVar[tuple[int, ...]] = (22, 33)

    def __init__(self, settings: ReplicaSettings, every: int = 1) -> None:
        """`every`: lie in each so-manyth frame that has a digest. Raises ValueError if that is not positive."""
        super().__init__(settings)
        if every < 1:
            raise ValueError(f"every {every}th frame makes no sense")
        self._every = every
        self._count = 0
        self.wrong = 0

    def status(self) -> dict[str, Any]:
        """How many frames were wrong."""
        return {"adversary": {"kind": "wrong-digests", "wrong": self.wrong}}

    def say(self, to: tuple[Any, ...], frame: bytes) -> Iterator[Said]:
        """The same with another digest."""
        wrong = self._wrong(frame)
        if wrong is not None and self._turn():
            self.act(22)
            yield to, wrong
        else:
            yield to, frame

    def answer(self, client: bytes, frame: bytes) -> bytes | None:
        """A digest that does not fit the result."""
        if frame[0] != frames.REPLY or not self._turn():
            return frame
        reply = unpack_reply(frame)
        self.act(33)
        return pack_reply(
            reply.epoch,
            reply.slot,
            reply.session,
            reply.first,
            reply.count,
            digest(reply.digest),
            reply.leader,
            reply.results if reply.full else None,
        )

    def _turn(self) -> bool:
        self._count += 1
        if self._count % self._every:
            return False
        self.wrong += 1
        return True

    def _wrong(self, frame: bytes) -> bytes | None:
        if frame[0] == frames.CONTROL:
            return self._wrong_control(frame)
        found = self.unpacked(frame)
        if found is None or found[2]:
            return None
        epoch, message, _ = found
        changes = {name: digest(name) for name in digests_of(message).values()}
        return self.packed(self.resigned(replaced(message, changes)), (), epoch) if changes else None

    def _wrong_control(self, frame: bytes) -> bytes | None:
        match CONTROL_CODEC.decode(frame[1:]):
            case CheckpointVote() as vote:
                return pack_control(self.checkpoint_vote(vote.epoch, vote.slot, digest(vote.root)))
            case DecidedClaims(epoch, first, names):
                return pack_control(DecidedClaims(epoch, first, tuple(digest(name) for name in names)))
            case BatchBytes(raw):
                return pack_control(BatchBytes(_flipped(raw)))
            case _:
                return None

    def checkpoint_vote(self, epoch: int, slot: int, root: bytes) -> CheckpointVote:
        """A vote for this state, signed by this member."""
        signature = self.settings.keyring.sign(CHECKPOINT_PURPOSE, checkpoint_body(slot, root))
        return CheckpointVote(epoch, slot, root, signature)


class ForgedCheckpoints(Rewriting):
    """Claims checkpoints that no quorum signed, at slots that are executed and at slots far ahead.

    Certificates of itself alone, of itself many times over, of others' signatures under something else; claims of what
    was decided; and, where the protocol has such a message, its own word that a slot far ahead is stable. FAULTS 25.
    The defence: a certificate is q valid signatures of different members (SAFETY rule 1), and one member's word moves
    nobody (rule 17).
    """

    lines: ClassVar[tuple[int, ...]] = (25,)

    def __init__(self, settings: ReplicaSettings, every: int = 20) -> None:
        """`every`: lie at the end of each so-manyth round. Raises ValueError if that is not positive."""
        super().__init__(settings)
        if every < 1:
            raise ValueError(f"every {every}th round makes no sense")
        self._every = every
        self._rounds = 0
        self._heard: dict[str, bytes] = {}
        """The newest signature of each member under a checkpoint's statement."""
        self.forged = 0

    def status(self) -> dict[str, Any]:
        """How many frames were forged."""
        return {"adversary": {"kind": "forged-checkpoints", "forged": self.forged}}

    def incoming(self, sender: str, frame: bytes) -> bytes | None:
        """Collects signatures."""
        if frame[:1] == b"\x03":
            try:
                message = CONTROL_CODEC.decode(frame[1:])
            except WireError:
                return frame
            if isinstance(message, CheckpointVote):
                self._heard[sender] = message.signature
        return frame

    def besides(self, replica: Replica) -> Iterator[Said]:
        """One forgery after the other."""
        self._rounds += 1
        if self._rounds % self._every:
            return
        interval = self.settings.checkpoint_interval
        way = self._rounds // self._every
        ahead = (1, 3, 1 << 20)[way % 3] * interval
        slot = (replica.applied // interval) * interval + (ahead if way % 4 else 0)
        if slot == 0:
            return
        for frame in self._forgeries(replica, way, slot):
            self.forged += 1
            self.act(25)
            yield replica.others, frame

    def _forgeries(self, replica: Replica, way: int, slot: int) -> Iterator[bytes]:
        settings = self.settings
        root = digest(b"a state that nobody has", slot.to_bytes(8, "big"))
        body = checkpoint_body(slot, root)
        own = Vote(settings.me, settings.keyring.sign(CHECKPOINT_PURPOSE, body))
        size = settings.quorum.certificate
        votes: tuple[Vote, ...] = (own,)
        if way % 3 == 1:
            votes = (own,) * size
        elif way % 3 == 2:
            others = {**self._heard, settings.me: own.signature}
            votes = tuple(Vote(member, others.get(member, own.signature)) for member in sorted(settings.members))[:size]
        yield pack_control(CheckpointProof(settings.epoch, Certificate(body, votes)))
        yield pack_control(CheckpointVote(settings.epoch, slot, root, own.signature))
        yield pack_control(DecidedClaims(settings.epoch, replica.applied + 1, (root,) * 4))
        for cls in settings.plugin.codec.messages.values():
            if cls.__name__ == "Stable":
                yield self.packed(self.resigned(cls(slot, bytes(64))))


class BadChunks(Rewriting):
    """Serves state transfers with chunks in which one bit is wrong, if it is told so with wrong lists and batches, too.

    FAULTS 26. The defence: a chunk is known by its digest, which the certified root covers; another source is asked.
    """

    lines: ClassVar[tuple[int, ...]] = (26,)

    def __init__(self, settings: ReplicaSettings, lists: bool = False) -> None:
        """`lists`: every second list of chunks is wrong as well, and all batches that others ask for."""
        super().__init__(settings)
        self._lists = lists
        self._turn = 0
        self.bad_chunks = 0
        self.bad_lists = 0

    def status(self) -> dict[str, Any]:
        """How many bad chunks it sent."""
        return {"adversary": {"kind": "bad-chunks", "bad_chunks": self.bad_chunks, "bad_lists": self.bad_lists}}

    def say(self, to: tuple[Any, ...], frame: bytes) -> Iterator[Said]:
        """Flip a bit of every chunk."""
        if frame[0] == frames.CONTROL:
            message = CONTROL_CODEC.decode(frame[1:])
            if isinstance(message, Chunk):
                self.bad_chunks += 1
                self.act(26)
                frame = pack_control(attrs.evolve(message, data=_flipped(message.data)))
            elif self._lists and isinstance(message, BatchBytes):
                self.act(26)
                frame = pack_control(BatchBytes(_flipped(message.batch)))
            elif self._lists and isinstance(message, Manifest):
                self._turn += 1
                if self._turn % 2:
                    self.bad_lists += 1
                    self.act(26)
                    leaves = message.leaves
                    frame = pack_control(attrs.evolve(message, leaves=(*leaves[:-1], digest(leaves[-1]))))
        yield to, frame
