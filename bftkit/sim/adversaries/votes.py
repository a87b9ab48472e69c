"""Liars in the normal case: votes that nobody signed or that contradict each other, accusations, claims, requests.

Messages of the protocol are known by the names of their classes and fields; nothing here imports a protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

import attrs

from bftkit.channel import frames
from bftkit.channel.bundles import make_batch, parse_batch
from bftkit.channel.frames import CheckpointVote, DecidedClaims, Status, pack_control
from bftkit.channel.replica import Replica, ReplicaSettings
from bftkit.core.digest import digest
from bftkit.core.machine import MemberId
from bftkit.sim.adversaries.equivocation import Equivocate
from bftkit.sim.adversaries.honest import Rewriting, Said, control_in, digests_of, hand_out, protocol_names

REMEMBERED: Final = 1000
"""So many votes are remembered."""
PROPOSAL: Final = "PrePrepare"
VOTE: Final = "Prepare"
COMMIT: Final = "Commit"


def _checked(every: int) -> int:
    if every < 1:
        raise ValueError(f"every {every}th round makes no sense")
    return every


def _made_up(data: bytes) -> bytes:
    """64 bytes that are nobody's signature."""
    return digest(data) * 2


class BadVotes(Rewriting):
    """Votes for the right digest with a signature that is none, or for a digest that the leader never signed.

    The same with its votes for checkpoints. By turns, and always alike for one slot. FAULTS 22 and 25. The defence: a
    vote counts when its signature is verified, since it must convince others (SAFETY rules 1 and 6).
    """

    lines: ClassVar[tuple[int, ...]] = (22, 25)

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self.bad = 0

    def status(self) -> dict[str, Any]:
        """How many votes were bad."""
        return {"adversary": {"kind": "bad-votes", "bad": self.bad}}

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """A vote that is none."""
        bad = self._bad(frame)
        if bad is not None:
            self.bad += 1
        yield to, frame if bad is None else bad

    def _bad(self, frame: bytes) -> bytes | None:
        vote = control_in(frame)
        if isinstance(vote, CheckpointVote):
            self.act(25)
            return pack_control(attrs.evolve(vote, signature=_made_up(vote.signature)))
        found = self.unpacked(frame)
        if found is None or type(found[1]).__name__ != VOTE or found[1].slot % 4 == 3:
            return None
        message = found[1]
        self.act(22)
        if message.slot % 4 != 2:
            return self.packed(attrs.evolve(message, signature=_made_up(message.signature)), (), found[0])
        header = _made_up(message.leader_signature)
        other = attrs.evolve(message, digest=digest(message.digest), leader_signature=header)
        return self.packed(self.resigned(other), (), found[0])


class Framer(Rewriting):
    """Accuses correct members, with proofs that look like some.

    A signature of the accused with another that is made up; its own one in the place of theirs; two true ones from
    different views or slots; the same one twice. FAULTS 22. The defence: an accusation is a proof or nothing (SAFETY
    rule 6).
    """

    lines: ClassVar[tuple[int, ...]] = (22,)
    _FIELDS: ClassVar[frozenset[str]] = frozenset({"signer", "first", "first_signature", "second", "second_signature"})

    def __init__(self, settings: ReplicaSettings, every: int = 15) -> None:
        """`every`: at the end of each so-manyth round. Raises ValueError if that is not positive."""
        super().__init__(settings)
        self._every = _checked(every)
        self._rounds = 0
        self._heard: dict[str, tuple[bytes, bytes]] = {}
        """A statement that each member signed, with its signature."""
        self._before: dict[str, tuple[bytes, bytes]] = {}
        self.accused = 0

    def status(self) -> dict[str, Any]:
        """How often it accused somebody."""
        return {"adversary": {"kind": "framer", "accused": self.accused}}

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """Collects signatures."""
        found = self.unpacked(frame)
        if found is not None and type(found[1]).__name__ in (PROPOSAL, VOTE):
            message = found[1]
            statement = message.view.to_bytes(8, "big") + message.slot.to_bytes(8, "big") + message.digest
            if sender in self._heard and self._heard[sender][0] != statement:
                self._before[sender] = self._heard[sender]
            self._heard[sender] = (statement, message.signature)
        return frame

    def besides(self, replica: Replica) -> Iterator[Said]:
        """The leader is accused above all: that is what would do harm."""
        self._rounds += 1
        if self._rounds % self._every or not self._heard:
            return
        turn = self._rounds // self._every
        leader = replica.machine.leader
        names = sorted(self._heard)
        whom = leader if turn % 3 and leader in self._heard else names[turn % len(names)]
        assert whom is not None
        proof = self._proof(whom, turn % 4)
        if proof is not None:
            self.accused += 1
            self.act(22)
            yield replica.others, self.packed(proof)

    def _proof(self, whom: MemberId, way: int) -> Any | None:
        statement, signature = self._heard[whom]
        other = statement[:16] + digest(statement[16:])
        made_up = _made_up(signature)
        proposal = self.message(PROPOSAL)
        if way == 1 and proposal is not None:
            view, slot = int.from_bytes(statement[:8], "big"), int.from_bytes(statement[8:16], "big")
            made_up = self.resigned(proposal(view, slot, other[16:], bytes(64))).signature
        elif way == 2 and whom in self._before:
            other, made_up = self._before[whom]
        elif way == 3:
            other, made_up = statement, signature
        pairs = sorted(((statement, signature), (other, made_up)))
        accusation = self.message("Accusation")
        for codec in self.settings.plugin.inside:
            for cls in codec.messages.values():
                names: list[str] = [field.name for field in attrs.fields(cls)]
                if accusation is not None and frozenset(names) == self._FIELDS:
                    return accusation(codec.encode(cls(whom, *pairs[0], *pairs[1])))
        return None


class Echo(Equivocate):
    """Tells each member what it wants to hear: it votes with everybody for whatever that one voted for.

    At once, and without having seen the bytes or any other vote. Whenever it leads it proposes two things, one to each
    half, and stands by both. FAULTS 20. The defence: two quorums share a correct member, and f votes more than the
    correct ones make no quorum (SAFETY rule 1).
    """

    lines: ClassVar[tuple[int, ...]] = (20,)

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self._voting = {PROPOSAL, VOTE, COMMIT} <= protocol_names(settings)
        self._echoed: dict[tuple[str, str, int, int], None] = {}
        """What was said to whom about which view and slot."""
        self._seconds: dict[bytes, bytes] = {}
        """Batches of second versions, by digest."""
        self._first: dict[tuple[int, int], bytes] = {}
        self.echoes = 0
        self.double_votes = 0

    def status(self) -> dict[str, Any]:
        """How often it voted with others, how often for two things."""
        told = {"equivocations": self.equivocations, "echoes": self.echoes, "double_votes": self.double_votes}
        return {"adversary": {"kind": "echo", "able": self._able and self._voting, **told}}

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """Echoes votes; keeps those for second versions from its replica, which knows nothing of them."""
        for answer in hand_out(self._seconds, frame):
            self.later(0, (sender,), answer)
        found = self.unpacked(frame) if self._voting else None
        if found is None:
            return frame
        name, message = type(found[1]).__name__, found[1]
        if name in (PROPOSAL, VOTE, COMMIT):
            view: int = message.view
            leader = self.settings.members[view % len(self.settings.members)]
            if name != COMMIT and leader != self.settings.me:
                header = message.signature if name == PROPOSAL else message.leader_signature
                prepare = self.message(VOTE)(message.view, message.slot, message.digest, header, bytes(64))
                prepare = self.resigned(prepare)
                for member in (sender, leader):  # what a new view begins with, its leader does not propose once more
                    self._echo(member, prepare)
            self._echo(sender, self.message(COMMIT)(message.view, message.slot, message.digest))
        return None if any(each in self._seconds for each in digests_of(message).values()) else frame

    def _echo(self, member: MemberId, vote: Any) -> None:
        key = (type(vote).__name__, member, vote.view, vote.slot)
        if key in self._echoed:
            return
        if len(self._echoed) > REMEMBERED:
            del self._echoed[next(iter(self._echoed))]
        if len(self._first) > REMEMBERED:
            del self._first[next(iter(self._first))]
        self._echoed[key] = None
        self.echoes += 1
        if self._first.setdefault((vote.view, vote.slot), vote.digest) != vote.digest:
            self.double_votes += 1
            self.act(20)
        self.later(0, (member,), self.packed(vote))

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Two versions of each proposal; votes for whoever did not get one yet."""
        found = self.unpacked(frame) if self._voting else None
        if found is None or type(found[1]).__name__ not in (VOTE, COMMIT):
            for receivers, said in super().say(to, frame):
                if said != frame and (second := self.unpacked(said)) is not None and second[2]:
                    if len(self._seconds) > REMEMBERED:
                        self._seconds.clear()
                    self._seconds[digest(second[2][0])] = second[2][0]
                yield receivers, said
            return
        vote = found[1]
        self._first.setdefault((vote.view, vote.slot), vote.digest)
        name = type(vote).__name__
        fresh = [member for member in to if (name, member, vote.view, vote.slot) not in self._echoed]
        for member in fresh:
            self._echoed[name, member, vote.view, vote.slot] = None
        yield fresh, frame


def _place(message: Any) -> int:
    """The number of the slot, or else of the round, that a message is about."""
    place: int = getattr(message, "slot", getattr(message, "round", 0))
    return place


class ForgeRequests(Echo):
    """Proposes requests that no client made: a bundle that waits with one byte of a payload changed, or a new number.

    To all others alike; and it stands by it, as `Echo` does. FAULTS 30. The defence: nobody votes for a batch with a
    bundle in it that its client did not sign, byte for byte (SAFETY rule 4).
    """

    lines: ClassVar[tuple[int, ...]] = (20, 30)
    _FIRST: ClassVar[slice] = slice(41, 49)
    """Where a bundle has the number of its first request: behind kind, client and session."""
    _SIGNATURE: ClassVar[int] = 64

    def __init__(self, settings: ReplicaSettings, every: int = 3) -> None:
        """`every`: forges about each so-manyth proposal. Raises ValueError if that is not positive."""
        super().__init__(settings)
        self._every = _checked(every)
        self._deceived = frozenset(self.others)
        self._proposals = 0

    def status(self) -> dict[str, Any]:
        """How many proposals were forged."""
        return {"adversary": {"kind": "forge-requests", "forged": self.equivocations, "able": self._able}}

    def _forge(self, frame: bytes) -> bytes | None:
        found = self.unpacked(frame)
        if found is None or len(found[2]) != 1 or not self._forgeable(_place(found[1]), found[2][0]):
            return None
        forged = super()._forge(frame)
        if forged is not None:
            self.act(30)
        return forged

    def _forgeable(self, slot: int, batch: bytes) -> bool:
        bundles = parse_batch(batch, bundle_bytes_max=len(batch))[1]
        return slot % self._every == 0 and any(bundle.payloads()[-1:] > [b""] for bundle in bundles)

    def _other_batch(self, raw: bytes) -> bytes:
        time_ms, bundles = parse_batch(raw, bundle_bytes_max=len(raw))
        at = next(index for index, bundle in enumerate(bundles) if bundle.payloads()[-1:] > [b""])
        forged = bytearray(bundles[at].raw)
        if self.equivocations % 3 == 2:
            number = int.from_bytes(forged[self._FIRST], "big")
            forged[self._FIRST] = (number + bundles[at].count).to_bytes(8, "big")
        else:
            forged[-self._SIGNATURE - 1] ^= 1
        changed = [bundle.raw for bundle in bundles]
        changed[at] = bytes(forged)
        return make_batch(time_ms, changed)


class FalseClaims(Rewriting):
    """Tells whoever is behind that batches were decided which it made up, and hands out their bytes.

    FAULTS 22. The defence: one member's claim is none; f + 1 equal ones are (SAFETY rule 17).
    """

    lines: ClassVar[tuple[int, ...]] = (22,)
    AT_ONCE: ClassVar[int] = 3

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        batch = make_batch(1, ())
        self._batches = {digest(batch): batch}
        self.claims = 0

    def status(self) -> dict[str, Any]:
        """How often it claimed something."""
        return {"adversary": {"kind": "false-claims", "claims": self.claims}}

    def incoming(self, sender: MemberId, frame: bytes) -> bytes | None:
        """Answers a status with a lie, before anybody can with the truth."""
        for answer in hand_out(self._batches, frame):
            self.later(0, (sender,), answer)
        status = control_in(frame)
        if isinstance(status, Status) and status.epoch == self.settings.epoch:
            self.later(0, (sender,), self._claim(status.epoch, status.applied + 1, self.AT_ONCE))
        return frame

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Claims nothing that is true."""
        claims = control_in(frame) if frame[:1] == bytes((frames.CONTROL,)) else None
        if isinstance(claims, DecidedClaims):
            frame = self._claim(claims.epoch, claims.first, len(claims.digests))
        yield to, frame

    def _claim(self, epoch: int, first: int, count: int) -> bytes:
        self.claims += 1
        self.act(22)
        return pack_control(DecidedClaims(epoch, first, (next(iter(self._batches)),) * count))


class HighStable(Rewriting):
    """Says that a checkpoint is stable far ahead of what is executed, at first a little, in the end a million slots.

    FAULTS 25. The defence: f + 1 members prove a low mark, and the lowest of what they say is proved (SAFETY rule 17).
    """

    lines: ClassVar[tuple[int, ...]] = (25,)
    FAR: ClassVar[int] = 1_000_000

    def __init__(self, settings: ReplicaSettings, every: int = 10, near: int = 30) -> None:
        """`every`: at the end of each so-manyth round. `near`: how often a little, before it is a million.

        Raises ValueError for a number that is too small.
        """
        super().__init__(settings)
        if near < 0:
            raise ValueError("it cannot happen less than never")
        self._every = _checked(every)
        self._near = near
        self._rounds = 0
        self.said = 0

    def status(self) -> dict[str, Any]:
        """How often it said so."""
        told = {"kind": "high-stable", "said": self.said, "able": self.message("Stable") is not None}
        return {"adversary": told}

    def besides(self, replica: Replica) -> Iterator[Said]:
        """Higher and higher."""
        stable = self.message("Stable")
        self._rounds += 1
        if stable is None or self._rounds % self._every:
            return
        interval, window = self.settings.checkpoint_interval, self.settings.window
        ahead = (interval, window, 2 * window)[self.said % 3] if self.said < self._near else self.FAR + self.said
        slot = (replica.applied + ahead) // interval * interval
        if slot > 0:
            self.said += 1
            self.act(25)
            yield replica.others, self.packed(self.resigned(stable(slot, bytes(64))))
