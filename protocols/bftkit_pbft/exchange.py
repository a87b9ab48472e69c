"""Asking for what was lost: members that are stuck say where they are, and get exactly what they lack.

Links may lose messages, and TCP does when it reconnects. Nothing is repeated blindly: a member that makes no progress
for an interval tells its `Status`, slot by slot, and each peer answers with what that status lacks. A member that
learns from a status that it lacks something itself asks back at once. Idle members tell their status now and then, so
that a laggard in an idle network catches up (SAFETY rule 18). What lies below a stable checkpoint is the channel's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import MemberId, Slot
from bftkit.core.ordering import Fetch

from . import messages as m
from . import views
from .log import Phase
from .record import RECORD
from .timers import STATUS, Out
from .view_change import leader_of

if TYPE_CHECKING:
    from .machine import PbftMachine

ANSWERS_MAX: Final = 4
"""So many statuses of one peer are answered in a status interval: asking is cheap, answering is not."""
CARRIES_MAX: Final = 4
"""So many batches go with one answer."""
RETRIES_MAX: Final = 8
"""So many stuck slots are looked after at a time."""
IDLE: Final = 10
"""An idle member tells its status every so many intervals; one that stays stuck falls back to that, too."""
EAGER: Final = 20
"""A stuck member tells its status every interval, so many times."""

# ----------------------------------------------------------------------------------- the status exchange


def phase_of(machine: PbftMachine, slot: Slot) -> Phase:
    if slot in machine.decided:
        return Phase.DECIDED
    state = machine.slots.get(slot)
    if state is None:
        return Phase.OPEN
    if state.committed is not None:
        return Phase.DECIDED
    if state.prepared:
        return Phase.PREPARED
    if state.signature:
        return Phase.VOTED
    return Phase.OPEN if state.digest is None else Phase.HEADED


def status_of(machine: PbftMachine, *, answer: bool) -> m.Status:
    first = machine.delivered + 1
    phases = bytes(phase_of(machine, slot) for slot in range(first, first + m.PHASES_MAX)).rstrip(b"\0")
    bitmap = bytearray((len(machine.setup.members) + 7) // 8)
    for index, member in enumerate(machine.setup.members):
        change = machine.changes.get(member)
        if change is not None and change[1].view >= machine.view:
            bitmap[index // 8] |= 1 << index % 8
    own = machine.stable_votes.get(machine.setup.me)
    return m.Status(
        machine.view,
        machine.active,
        machine.delivered,
        own.slot if own is not None else 0,
        own.signature if own is not None else None,
        phases,
        bytes(bitmap),
        answer,
    )


def status_due(machine: PbftMachine, out: Out) -> None:
    """Look whether something is stuck; if so, say where this member is, and ask again for bytes."""
    out.set_timer(STATUS, machine.setup.parameter(RECORD, "status_interval"))
    machine.answered.clear()
    machine.intervals += 1
    unfinished = not machine.active or views.demand(machine) or any(slot > machine.delivered for slot in machine.slots)
    if not unfinished:
        machine.delivered_before = -1
        machine.stuck = 0
    elif machine.delivered == machine.delivered_before:
        machine.stuck += 1
    else:
        machine.delivered_before = machine.delivered
        machine.stuck = 0
    if machine.intervals % IDLE == 0 or 0 < machine.stuck <= EAGER:
        out.broadcast(status_of(machine, answer=False))
    if machine.stuck > 0:
        retry(machine, out)
        views.arm_request_timer(machine, out)


def retry(machine: PbftMachine, out: Out) -> None:
    """Take headers from others' prepares, and ask for missing bytes at everybody who should have them."""
    for slot in range(machine.delivered + 1, machine.delivered + 1 + RETRIES_MAX):
        state = machine.slots.get(slot)
        if state is None:
            continue
        if state.digest is None and machine.active and machine.opening.low < slot <= machine.high:
            for member in machine.setup.members:
                prepare = state.prepares.get(member)
                if prepare is None or state.digest is not None:
                    continue
                leader = leader_of(machine.setup, machine.view)
                if not machine.take_header(
                    member, slot, state, prepare.digest, prepare.leader_signature, (leader, member), out
                ):
                    del state.prepares[member]
                if not machine.active:
                    return
        digest = state.committed or state.digest
        if digest is not None and digest in machine.wanted:
            holders = [*state.holders]
            holders += [member for member, prepare in state.prepares.items() if prepare.digest == digest]
            holders += [member for member, commit in state.commits.items() if commit.digest == digest]
            out.deliver(Fetch(digest, slot, tuple(sorted(set(holders) - {machine.setup.me}))))


def may_answer(machine: PbftMachine, member: MemberId) -> bool:
    count = machine.answered.get(member, 0) + 1
    machine.answered[member] = count
    return count <= ANSWERS_MAX


def on_status(machine: PbftMachine, sender: MemberId, status: m.Status, out: Out) -> None:
    """Send exactly what the sender lacks and this member has; ask back if the sender has more."""
    if status.stable_signature is not None:
        machine.on_stable_vote(sender, status.stable, status.stable_signature, out)
    machine.claims[sender] = status.delivered
    if not may_answer(machine, sender):
        return
    if not status.answer and (status.delivered < machine.delivered or is_behind(machine, sender, status)):
        out.send(sender, status_of(machine, answer=True))
    if status.view < machine.view or (status.view == machine.view and machine.active and not status.active):
        if machine.new_view is not None:
            out.send(sender, machine.new_view)
        elif not machine.active:
            out.send(sender, machine.changes[machine.setup.me][0])
    elif status.view == machine.view and not machine.active and not status.active:
        index = machine.setup.members.index(machine.setup.me)
        bitmap = status.changes
        if index // 8 >= len(bitmap) or not bitmap[index // 8] >> index % 8 & 1:
            out.send(sender, machine.changes[machine.setup.me][0])
    send_missing(machine, sender, status, out)


def is_behind(machine: PbftMachine, sender: MemberId, status: m.Status) -> bool:
    change = machine.changes.get(sender)
    if status.view > machine.view:
        return status.active or change is None or change[1].view < status.view
    if status.view == machine.view and not machine.active:
        return status.active or change is None or change[1].view < status.view
    if status.delivered > machine.delivered:
        return True
    if status.view < machine.view:
        return False
    first = status.delivered + 1
    return any(
        phase > phase_of(machine, first + offset)
        for offset, phase in enumerate(status.phases)
        if first + offset > machine.delivered
    )


def send_missing(machine: PbftMachine, sender: MemberId, status: m.Status, out: Out) -> None:
    same_view = machine.active and status.active and status.view == machine.view
    leads = machine.leader == machine.setup.me
    carries = CARRIES_MAX
    first = max(status.delivered, min(machine.low, machine.stable)) + 1
    last = min(status.delivered + m.PHASES_MAX, max([machine.headed, machine.delivered, *machine.held]))
    for slot in range(first, last + 1):
        offset = slot - status.delivered - 1
        phase = status.phases[offset] if offset < len(status.phases) else Phase.OPEN
        if phase >= Phase.DECIDED:
            continue
        state = machine.slots.get(slot)
        if same_view and phase < Phase.PREPARED and state is not None and state.signature:
            digest = state.digest
            assert digest is not None
            if not leads:
                out.send(sender, m.Prepare(machine.view, slot, digest, state.leader_signature, state.signature))
            elif phase == Phase.OPEN and not state.from_new_view and carries > 0:
                carries -= 1
                carry = (digest,) if digest != NO_DIGEST else ()
                out.send(sender, m.PrePrepare(machine.view, slot, digest, state.signature), carry)
        held = machine.held.get(slot)
        if held is not None:
            out.send(sender, m.Commit(held.view, slot, held.digest))
