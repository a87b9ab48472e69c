"""What members report that have left a protocol, and what follows from it: pure functions, the same at all members.

A *report* has its member's newest certified checkpoint and, above it, what it may have helped to decide, as its
protocol tells it from durable records alone. A *forced ending* is what the bedrock agrees on: the operators' command
and the reports that count, at least n - f - c (SAFETY rules 22 and 24). The *continuation* follows from these, and so
does who must have lied. How a member comes to all this is in `wedge`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Final

import attrs

from bftkit.blocks import bedrock as bed
from bftkit.channel.state import error_text
from bftkit.core.digest import DIGEST_SIZE, NO_DIGEST, digest
from bftkit.core.machine import Digest, MemberId, Slot
from bftkit.core.ordering import Carried, Setup
from bftkit.core.quorum import Quorum
from bftkit.core.wire import Blob, Codec, Many, Maybe, Member, Raw, Signature64, Struct, WireError
from bftkit.crypto.signed import Certificate
from bftkit.membership.commands import Command, CommandError, SignedCommand
from bftkit.membership.epochs import Configuration, Schedule, extended, following
from bftkit.membership.steering import authorized

REPORT_PURPOSE: Final = "abort"
HISTORY_BYTES_MAX: Final = 4 << 20
DECIDED_MAX: Final = 1 << 14


@attrs.frozen
class Report:
    """What a member that has left the protocol may have helped to decide."""

    stable: Annotated[Certificate | None, Maybe(Struct(Certificate))]
    """Its newest stable checkpoint, or the hand-over that opened the epoch; None: slot 0."""
    history: Annotated[bytes, Blob(HISTORY_BYTES_MAX)]
    """Above it: the protocol's own account (`Plugin.history`)."""
    decided: Annotated[tuple[Digest, ...], Many(Raw(DIGEST_SIZE), DECIDED_MAX)] = ()
    """Where nobody lies: what the member knows to be decided in the slots after that checkpoint. Others may have told
    it so, who are gone, and it may have executed what it never held for the protocol."""


@attrs.frozen
class SignedReport:
    """A report and its member's signature."""

    member: Member
    report: Annotated[bytes, Blob(HISTORY_BYTES_MAX + (1 << 20))]
    signature: Signature64


@attrs.frozen
class ForcedEnding:
    """What the bedrock agrees on: the command, and the reports that count."""

    command: Annotated[bytes, Blob(2 << 20)]
    reports: Annotated[tuple[SignedReport, ...], Many(Struct(SignedReport), 1024)]


REPORT_CODEC: Final = Codec[Report]("report", {1: Report}, bytes_max=HISTORY_BYTES_MAX + (1 << 20))
ENDING_CODEC: Final = Codec[ForcedEnding]("forced ending", {1: ForcedEnding}, bytes_max=bed.VALUE_BYTES_MAX)


@attrs.frozen
class Continuation:
    """How the epoch goes on, and ends, without its protocol."""

    command: SignedCommand
    start: Slot
    """The highest certified checkpoint of all reports."""
    certificate: Certificate | None
    slots: tuple[tuple[Slot, Digest], ...]

    @property
    def end(self) -> Slot:
        """The last slot."""
        return self.slots[-1][0] if self.slots else self.start


@attrs.frozen
class Court:
    """Judges reports and endings of one epoch: pure functions of what is the same at all members."""

    setup: Setup
    group: bytes
    configuration: Configuration
    schedule: Schedule
    history_of: Callable[[MemberId, Slot, bytes], bool]
    """Whether (member, stable slot, history) is well formed and proved."""
    certified: Callable[[Certificate], tuple[Slot, Digest]]
    """The state that a certificate proves. Raises `WireError`."""
    carry: Callable[[Setup, Slot, dict[MemberId, bytes]], Carried]
    """The protocol's continuation from these histories (`Plugin.carry`). Raises `ValueError`."""
    verify: Callable[[bytes, bytes, bytes], bool]

    def command(self, data: bytes) -> tuple[SignedCommand, Command]:
        """The forced command. Raises `WireError` or `CommandError`."""
        signed = SignedCommand.decode(data)
        command = authorized(self.group, self.configuration, signed, self.setup.keyring, self.verify)
        if not command.forced:
            raise CommandError("this is no command to leave the protocol by force")
        self.next(command)
        return signed, command

    def next(self, command: Command) -> Configuration:
        """The configuration that a forced command leads to: with the coin key there is. Raises `CommandError`."""
        there = following(self.configuration, command, extended(self.schedule, command))
        return attrs.evolve(there, coin=self.configuration.coin)

    def needed(self, command: Command) -> int:
        """How many reports count as enough (SAFETY rules 22 and 24)."""
        return self.quorum(command).available

    def quorum(self, command: Command) -> Quorum:
        """The quorum by which the continuation is computed."""
        quorum = self.setup.quorum
        if command.accept_loss and quorum.f == 0:
            # The operators accept that what only the missing ones have written is lost.
            return Quorum(quorum.n, 0, (quorum.n - 1) // 2)
        return quorum

    def stable_of(self, report: Report) -> Slot:
        """The slot of a report's certified checkpoint. Raises `WireError`."""
        if report.stable is None:
            if self.setup.start:
                raise WireError("a report without the state that the epoch begins with")
            return 0
        return self.certified(report.stable)[0]

    def judge(self, member: MemberId, data: bytes, signature: bytes) -> Report:
        """A member's report, if it is signed, well formed and proved. Raises `WireError`."""
        if member not in self.setup.members:
            raise WireError("a report of one that is no member")
        if not self.setup.keyring.verify(member, REPORT_PURPOSE, digest(data), signature):
            raise WireError("a report with a bad signature")
        report = REPORT_CODEC.decode(data)
        if not self.history_of(member, self.stable_of(report), report.history):
            raise WireError("a report whose history is not proved")
        return report

    def ending(self, value: bytes) -> tuple[SignedCommand, Command, dict[MemberId, Report]]:
        """What the bedrock may agree on. Raises `WireError` or `CommandError`."""
        ending = ENDING_CODEC.decode(value)
        signed, command = self.command(ending.command)
        members = [item.member for item in ending.reports]
        if members != sorted(set(members)):
            raise WireError("reports that are not in order, or one member's twice")
        reports = {item.member: self.judge(item.member, item.report, item.signature) for item in ending.reports}
        if len(reports) < self.needed(command):
            raise WireError(f"{len(reports)} reports; {self.needed(command)} are needed")
        return signed, command, reports

    def continuation(self, signed: SignedCommand, reports: Mapping[MemberId, Report]) -> Continuation:
        """What the epoch goes on with, from judged reports. Raises `WireError` if the protocol cannot tell."""
        start, certificate = self.setup.start, None
        for member in sorted(reports):
            stable = self.stable_of(reports[member])
            if stable > start or (certificate is None and stable == start):
                start, certificate = stable, reports[member].stable
        histories = {member: reports[member].history for member in sorted(reports)}
        setup = attrs.evolve(self.setup, quorum=self.quorum(signed.command))
        decided = self._decided(reports)
        slots: tuple[tuple[Slot, Digest], ...] = ()
        try:
            while True:
                slots += tuple(self.carry(setup, start + len(slots), histories).slots)
                slot = start + len(slots) + 1
                if slot not in decided:
                    break
                slots += ((slot, decided[slot]),)
        except Exception as error:  # its code has failed before, or nobody would leave it (SAFETY rule 29)
            raise WireError(f"the protocol cannot tell what was decided: {error_text(error).decode()}") from None
        if not slots and start == self.setup.start:
            # Every epoch has a slot of its own: else its end would be the state that it began with, which another
            # hand-over has certified as another epoch's.
            slots = ((start + 1, NO_DIGEST),)
        return Continuation(signed, start, certificate, slots)

    def _decided(self, reports: Mapping[MemberId, Report]) -> dict[Slot, Digest]:
        """What members that report know to be decided. Of two, which only lies can make, the smaller one."""
        decided: dict[Slot, Digest] = {}
        if self.setup.quorum.f:
            return decided
        for member in sorted(reports):
            first = self.stable_of(reports[member]) + 1
            for slot, name in enumerate(reports[member].decided, first):
                decided[slot] = min(decided.get(slot, name), name)
        return decided

    def outcome(self, value: bytes) -> Continuation:
        """The continuation that a value of the bedrock's means. Raises `WireError` or `CommandError`."""
        signed, _, reports = self.ending(value)
        return self.continuation(signed, reports)

    def is_valid(self, value: bytes) -> bool:
        """Whether the bedrock may agree on this: so whatever is agreed on can be carried out."""
        try:
            self.outcome(value)
        except (WireError, CommandError):
            return False
        return True
