"""Asking for what was lost: members that are stuck say where they are, and get what the others said again.

The papers' links lose nothing; ours lose what was under way when a connection breaks. Nothing is repeated blindly: a
member that has unfinished rounds and makes no progress for an interval tells its `Status`. Each peer answers with the
outcomes of the rounds above it, or says again what it said in those that are open on both sides, and tells where it
stands itself, so that the first one repeats what it said, too. (A lost echo is got by sending the offer again.)

Nothing here decides anything. With links that lose nothing the timer is never needed: a test runs without it. Two
things besides the timer make a member ask, since messages were not taken or not seen: it jumped (a restart, a state
transfer), or it has reached rounds of which messages came too early for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from bftkit.core.machine import MemberId, TimerKey

from . import messages as m
from .record import RECORD
from .rounds import Out

if TYPE_CHECKING:
    from .machine import CksMachine

STATUS: Final[TimerKey] = ("status",)

ANSWER_BYTES_MAX: Final = 1 << 18
"""So much is said again to one peer between two looks, or while nothing is delivered, and then one answer more: asking
is cheap, answering is not."""
ANSWER_BYTES: Final = 1 << 12
"""An answer counts for so much at least."""
ROUNDS_MAX: Final = 8
"""So many rounds above the delivered one are spoken of in one answer."""
EAGER: Final = 20
"""A stuck member asks every interval, so many times; then now and then, as idle ones do."""
IDLE: Final = 10
"""An idle member tells its status every so many intervals (SAFETY rule 18)."""


@attrs.define
class Exchange:
    """What a member keeps for asking and for answering."""

    restored: bool = False
    """Whether this member was here before: then it asks first what it missed."""
    intervals: int = 0
    stuck: int = 0
    before: tuple[int, int] = (-1, -1)
    """How far this member was at the last look."""
    answered: dict[MemberId, int] = attrs.field(factory=dict[MemberId, int])
    """How many bytes were said again to each peer of late."""
    answered_at: int = -1
    low: int = 0
    """The lowest round of which messages came too early and were not asked for since; 0: none."""
    high: int = 0
    """The highest such round."""

    def missed(self, number: int) -> None:
        """A message came of a round that is further ahead than this member looks."""
        self.low = number if self.low == 0 else min(self.low, number)
        self.high = max(self.high, number)

    def is_due(self, number: int) -> bool:
        """Whether `number`, the round to be delivered next, is one of which messages were passed over."""
        if self.low == 0 or number < self.low:
            return False
        self.low = number + ROUNDS_MAX
        if self.low > self.high:
            self.low = self.high = 0
        return True

    def may_answer(self, member: MemberId, delivered: int) -> bool:
        """Whether this member's status is answered; progress or the next look gives new room."""
        if delivered != self.answered_at:
            self.answered_at = delivered
            self.answered.clear()
        return self.answered.get(member, 0) < ANSWER_BYTES_MAX

    def charge(self, member: MemberId, size: int) -> None:
        """So many bytes were said again to this member."""
        self.answered[member] = self.answered.get(member, 0) + size


def arm(machine: CksMachine, out: Out) -> None:
    out.set_timer(STATUS, machine.setup.parameter(RECORD, "status_ticks"))


def ask(machine: CksMachine, out: Out) -> None:
    """Tell everybody where this member stands."""
    out.broadcast(_status(machine, answer=False))


def due(machine: CksMachine, out: Out) -> None:
    """Look whether something is stuck."""
    arm(machine, out)
    own = machine.exchange
    own.intervals += 1
    own.answered.clear()
    unfinished = [state for state in machine.rounds.values() if not state.agreed]
    now = (machine.delivered, len(unfinished))
    # A round that is agreed on and not delivered lacks bytes only, and those the channel asks for.
    stuck = bool(unfinished) and now == own.before
    own.stuck = own.stuck + 1 if stuck else 0
    own.before = now
    if 0 < own.stuck <= EAGER or own.intervals % IDLE == 0:
        ask(machine, out)


def on_status(machine: CksMachine, sender: MemberId, status: m.Status, out: Out) -> None:
    """Send what the sender lacks, and say where this member stands, so that it does the same."""
    own = machine.exchange
    if not own.may_answer(sender, machine.view):
        return
    own.charge(sender, ANSWER_BYTES)
    open_on_both_sides = False
    first = max(status.delivered, machine.slots.complete(machine.stable)) + 1
    for number in range(first, first + ROUNDS_MAX):
        state = machine.rounds.get(number)
        if state is None or not own.may_answer(sender, machine.view):
            continue
        for part in state.said():
            out.send(sender, part)
            own.charge(sender, len(part.body))
        open_on_both_sides |= not state.agreed
    ahead = status.delivered > machine.view or status.begun > machine.begun
    if not status.answer and (open_on_both_sides or ahead):
        out.send(sender, _status(machine, answer=True))


def _status(machine: CksMachine, *, answer: bool) -> m.Status:
    return m.Status(machine.view, machine.begun, answer)
