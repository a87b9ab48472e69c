"""Liars at the end of an epoch: in reports, in the bedrock agreement, in votes on the ending, in what begins the next.

What they say is signed with the keys that they really have. One class for each lie, so that several can be told
together: ``thin-reports+two-endings``. All of it is an instance of lines 35 and 36 of docs/FAULTS.md: a switch while
somebody wants two of it, or none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any, ClassVar, Final

import attrs

from bftkit.blocks import bedrock as bed
from bftkit.channel.beginning import HOLDING_PURPOSE
from bftkit.channel.court import ENDING_CODEC, REPORT_CODEC, REPORT_PURPOSE, ForcedEnding, Report, SignedReport
from bftkit.channel.frames import (
    BedrockMessage,
    EndingVote,
    Holding,
    MakingMessage,
    ReadyFor,
    Wedged,
    pack_control,
)
from bftkit.channel.interface import ReplicaOut, ReplicaSettings
from bftkit.channel.reconfiguring import READY_PURPOSE
from bftkit.channel.replica import Replica
from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import MemberId
from bftkit.core.wire import WireError
from bftkit.membership import keymaking_messages as making
from bftkit.membership.chain import HANDOVER_PURPOSE, Ending
from bftkit.sim.adversaries.honest import Rewriting, Said, control_in

LINE: Final = 36
"""A switch while the protocol is stopped."""
AT_ONCE: Final = 35
"""Two switches at once."""


class _AtTheEnd(Rewriting):
    """Knows the replica inside as it is in the present epoch, which other adversaries need not."""

    lines: ClassVar[tuple[int, ...]] = (LINE,)

    def __init__(self, settings: ReplicaSettings) -> None:
        super().__init__(settings)
        self.replica: Replica | None = None
        self.lies = 0

    def status(self) -> dict[str, Any]:
        """How many lies left."""
        kind = "-".join(re.findall("[A-Z][a-z]*", type(self).__name__)).lower()
        return {"adversary": {"kind": kind, "lies": self.lies}}

    def outgoing(self, replica: Replica, out: ReplicaOut) -> ReplicaOut:
        """See `Rewriting`."""
        self.replica = replica
        return super().outgoing(replica, out)

    @property
    def here(self) -> Replica:
        """The replica inside."""
        assert self.replica is not None
        return self.replica

    def lie(self, line: int = LINE) -> None:
        """Count one."""
        self.lies += 1
        self.act(line)

    def halves(self, to: tuple[MemberId, ...]) -> tuple[tuple[MemberId, ...], tuple[MemberId, ...]]:
        """The receivers, in two sides that stay the same."""
        middle = (len(self.here.settings.members) + 1) // 2
        left = set(self.here.settings.members[:middle])
        return tuple(one for one in to if one in left), tuple(one for one in to if one not in left)

    def signed(self, report: Report) -> bytes:
        """A report of this member's, signed as it should be."""
        data = REPORT_CODEC.encode(report)
        settings = self.here.settings
        return pack_control(Wedged(settings.epoch, data, settings.keyring.sign(REPORT_PURPOSE, digest(data))))


def _emptied(replica: Replica, report: Report) -> Report:
    """The report without anything that was written above its checkpoint."""
    setup = replica.driving.setup
    assert setup is not None
    stable = 0 if report.stable is None else replica.wedge.court.stable_of(report)
    return attrs.evolve(report, history=replica.settings.plugin.history(setup, stable, ()))


class ThinReports(_AtTheEnd):
    """Reports leave out all that was decided; with `old`, they begin at the first checkpoint known, not the newest.

    The defence: n - f - c reports count, and hold f + 1 of every decision's (SAFETY rules 1 and 22).
    """

    def __init__(self, settings: ReplicaSettings, old: bool = False) -> None:
        """`old`: as if it had slept since the older checkpoint."""
        super().__init__(settings)
        self._old = old

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Nothing was decided."""
        said = control_in(frame)
        if not isinstance(said, Wedged):
            yield to, frame
            return
        report = REPORT_CODEC.decode(said.report)
        kept = self.here.checkpoints.kept
        if self._old and len(kept) > 1 and self.here.checkpoints.proves_here(kept[0]):
            report = Report(kept[0].certificate, report.history)
        self.lie()
        yield to, self.signed(_emptied(self.here, report))


class ForgedReports(_AtTheEnd):
    """Reports with a history or a certificate in which a byte is another one; by turns with a good signature or none.

    The defence: reports are judged before they count, and again in what is agreed on (SAFETY rules 6 and 22).
    """

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Something that nobody signed."""
        said = control_in(frame)
        if not isinstance(said, Wedged):
            yield to, frame
            return
        self.lie()
        report = REPORT_CODEC.decode(said.report)
        match self.lies % 4:
            case 0:
                yield to, pack_control(attrs.evolve(said, signature=digest(said.signature) * 2))
            case 1 if report.stable is not None:
                body = bytes((*report.stable.body[:-1], report.stable.body[-1] ^ 1))
                yield to, self.signed(attrs.evolve(report, stable=attrs.evolve(report.stable, body=body)))
            case 2:
                yield to, self.signed(attrs.evolve(report, stable=None))
            case _:
                middle = len(report.history) // 2
                changed = bytearray(report.history)
                changed[middle] ^= 1
                yield to, self.signed(attrs.evolve(report, history=bytes(changed)))


class FalseHistories(_AtTheEnd):
    """Reports say of the newest slot that can be contradicted that another batch was decided in it, and of no other.

    The batch is one that everybody has, of the largest name, so that it wins over a true certificate of the same view;
    the report is short, so that it is among those that are put together first. Only its certificate is no good.

    The defence: the plug-in checks every history before it counts, and what was carried (SAFETY rules 6 and 22).
    """

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Something else was decided."""
        said = control_in(frame)
        if isinstance(said, Wedged):
            forged = self._forged(REPORT_CODEC.decode(said.report))
            if forged is not None:
                self.lie()
                frame = self.signed(forged)
        yield to, frame

    def _forged(self, report: Report) -> Report | None:
        replica = self.here
        setup = replica.driving.setup
        assert setup is not None
        stable = 0 if report.stable is None else replica.wedge.court.stable_of(report)
        names = replica.history
        most = max((names.get(slot, NO_DIGEST) for slot in range(stable + 1, replica.applied + 1)), default=NO_DIGEST)
        for slot in range(replica.applied, stable, -1):
            true = names.get(slot, most)
            if true in (most, NO_DIGEST):
                continue
            records = [record for at, record in replica.driving.records if at == slot]
            history = replica.settings.plugin.history(setup, stable, records)
            if true in history:
                return attrs.evolve(report, history=history.replace(true, most))
        return None


class TwoReports(_AtTheEnd):
    """One half gets the true report, the other one in which nothing was decided.

    The defence: the bedrock agrees on the reports themselves (SAFETY rule 21).
    """

    lines: ClassVar[tuple[int, ...]] = (AT_ONCE,)

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Each half hears another thing."""
        said = control_in(frame)
        if not isinstance(said, Wedged):
            yield to, frame
            return
        self.lie(AT_ONCE)
        left, right = self.halves(to)
        yield left, frame
        yield right, self.signed(_emptied(self.here, REPORT_CODEC.decode(said.report)))


class BedrockSilence(_AtTheEnd):
    """Says nothing in the bedrock agreement; with `half`, to half of the members only.

    The defence: n - f - c members are enough for an outcome.
    """

    def __init__(self, settings: ReplicaSettings, half: bool = False) -> None:
        """`half`: the others are told everything."""
        super().__init__(settings)
        self._half = half

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Nothing."""
        if isinstance(control_in(frame), BedrockMessage):
            self.lie()
            if self._half:
                yield self.halves(to)[0], frame
            return
        yield to, frame


class TwoOffers(_AtTheEnd):
    """Offers two endings to the bedrock: one set of reports to one half, another one to the other, both good.

    The defence: one digest of each member's is certified, by those that hold the bytes (SAFETY rules 3 and 21).
    """

    lines: ClassVar[tuple[int, ...]] = (AT_ONCE,)

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Each half is offered another ending."""
        said = control_in(frame)
        offer = bed.CODEC.decode(said.message) if isinstance(said, BedrockMessage) else None
        other = self._other(offer.value) if isinstance(offer, bed.Offer) else None
        if other is None:
            yield to, frame
            return
        self.lie(AT_ONCE)
        left, right = self.halves(to)
        yield left, frame
        yield right, pack_control(BedrockMessage(self.here.settings.epoch, bed.CODEC.encode(bed.Offer(other))))

    def _other(self, value: bytes) -> bytes | None:
        """Another set of reports, or the same with an empty one of this member's."""
        replica = self.here
        ending = ENDING_CODEC.decode(value)
        reports = dict(replica.wedge.reports)
        mine = reports.get(replica.me)
        if mine is not None:
            data = REPORT_CODEC.encode(_emptied(replica, REPORT_CODEC.decode(mine.report)))
            signature = replica.settings.keyring.sign(REPORT_PURPOSE, digest(data))
            reports[replica.me] = SignedReport(replica.me, data, signature)
        for members in combinations(sorted(reports), len(ending.reports)):
            other = ENDING_CODEC.encode(ForcedEnding(ending.command, tuple(reports[member] for member in members)))
            if other != value:
                return other
        return None


class FewReports(_AtTheEnd):
    """Offers an ending that rests on too few reports, or on one report twice.

    The defence: the predicate of the agreement counts them (SAFETY rules 22 and 24).
    """

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Fewer than there must be."""
        said = control_in(frame)
        offer = bed.CODEC.decode(said.message) if isinstance(said, BedrockMessage) else None
        if not isinstance(offer, bed.Offer):
            yield to, frame
            return
        self.lie()
        ending = ENDING_CODEC.decode(offer.value)
        few = ending.reports[:-1] if self.lies % 2 else (*ending.reports[:-1], ending.reports[0])
        value = ENDING_CODEC.encode(attrs.evolve(ending, reports=few))
        yield to, pack_control(BedrockMessage(self.here.settings.epoch, bed.CODEC.encode(bed.Offer(value))))


class TwoEndings(_AtTheEnd):
    """Votes on two endings: the true one to one half; to the other one with another state, slot or configuration.

    The defence: a hand-over has q signatures under one ending (SAFETY rules 1 and 21).
    """

    lines: ClassVar[tuple[int, ...]] = (AT_ONCE,)

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Each half hears of another end."""
        said = control_in(frame)
        settings = self.here.settings
        if not isinstance(said, EndingVote) or Ending.decode(said.body).epoch != settings.epoch:
            yield to, frame
            return
        self.lie(AT_ONCE)
        ending = Ending.decode(said.body)
        match self.lies % 3:
            case 0:
                other = attrs.evolve(ending, root=digest(ending.root))
            case 1:
                other = attrs.evolve(ending, slot=ending.slot + 1)
            case _:
                other = attrs.evolve(ending, next=digest(ending.next))
        body = other.encode()
        left, right = self.halves(to)
        yield left, frame
        yield right, pack_control(EndingVote(body, settings.keyring.sign(HANDOVER_PURPOSE, body)))


class FalseHolding(_AtTheEnd):
    """Says that it holds the state that the next epoch begins with long before it does, or with nobody's signature.

    The defence: q' members must say so, and f' of them may lie (SAFETY rule 26).
    """

    def besides(self, replica: Replica) -> Iterator[Said]:
        """As soon as the end is known."""
        link = replica.succession.crossing if replica.succession is not None else None
        keychain = replica.settings.keychain
        if link is None or keychain is None or self.lies > 20 or replica.me not in link.next.members:
            return
        opening = link.ending.opening
        signature = keychain.preparing(link.next, opening).sign(HOLDING_PURPOSE, opening)
        self.lie()
        yield replica.others, pack_control(Holding(link.next.epoch, signature, answer=True))

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Every second one is signed by nobody."""
        said = control_in(frame)
        if isinstance(said, Holding):
            self.lie()
            if self.lies % 2:
                frame = pack_control(attrs.evolve(said, signature=digest(said.signature) * 2))
        yield to, frame


class ReadyForNothing(_AtTheEnd):
    """Says that it is ready for commands that nobody gave, and, with nobody's signature, for those that are prepared.

    The defence: a commit has n' - t' signatures that everybody checks (SAFETY rule 26).
    """

    def besides(self, replica: Replica) -> Iterator[Said]:
        """Now and then."""
        state = replica.state.reconfiguring
        if state is None or self.lies > 40 or replica.passive:
            return
        self.lie()
        name = digest(b"nothing %d" % self.lies)
        signature = replica.settings.keyring.sign(READY_PURPOSE, name)
        yield replica.others, pack_control(ReadyFor(name, signature))
        if state.pending is not None:
            yield replica.others, pack_control(ReadyFor(state.pending.signed.name, signature))


class BadDeals(_AtTheEnd):
    """Deals badly in the making of a coin key: wrong numbers to half of the members, nothing to one.

    The defence: each part is checked against the commitment; who deals badly is blamed, and the others finish.
    """

    def say(self, to: tuple[MemberId, ...], frame: bytes) -> Iterator[Said]:
        """Parts that do not fit."""
        said = control_in(frame)
        try:
            inner = making.CODEC.decode(said.message) if isinstance(said, MakingMessage) else None
        except WireError:
            inner = None
        if not isinstance(said, MakingMessage) or not isinstance(inner, making.Deal):
            yield to, frame
            return
        self.lie()
        left, right = self.halves(to)
        yield left[1:], frame
        row = bytes((inner.row[0] ^ 1, *inner.row[1:]))
        yield right, pack_control(attrs.evolve(said, message=making.CODEC.encode(attrs.evolve(inner, row=row))))


__all__ = [
    "BadDeals",
    "BedrockSilence",
    "FalseHistories",
    "FalseHolding",
    "FewReports",
    "ForgedReports",
    "ReadyForNothing",
    "ThinReports",
    "TwoEndings",
    "TwoOffers",
    "TwoReports",
]
