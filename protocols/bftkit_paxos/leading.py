"""The leader's part: proposing, counting, heartbeats, and sending again what was lost.

A leader proposes each slot once in its ballot, and a ballot is never taken up again after a restart. So there are never
two values for one slot in one ballot, whatever a crash leaves of what was sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Digest, MemberId, Slot

from . import election
from . import messages as m
from .roles import Out, Role

if TYPE_CHECKING:
    from .machine import PaxosMachine

RESEND_MAX: Final = 32
"""One echo is answered with at most so many proposals; the next one gets more."""
CARRIES_MAX: Final = 4
"""So many batches go with them; whoever lacks others asks for them."""


def propose_next(machine: PaxosMachine, digest: Digest, out: Out) -> None:
    """Phase 2a for the next slot."""
    slot = machine.next_slot
    machine.next_slot = slot + 1
    propose(machine, slot, digest, out)


def propose_again(machine: PaxosMachine, slot: Slot, digest: Digest, out: Out) -> None:
    """Phase 2a for a slot that an earlier ballot left open, now that its bytes are here."""
    del machine.opening[slot]
    propose(machine, slot, digest, out)


def propose(machine: PaxosMachine, slot: Slot, digest: Digest, out: Out) -> None:
    """Phase 2a. The leader is an acceptor, too: it accepts its own proposal before it sends it."""
    assert machine.role is Role.LEADING
    if machine.chosen.get(slot, digest) != digest:
        # Others chose something else here, so a higher ballot exists. Who accepted this proposal would take it for
        # what was chosen, as soon as we say `Commit` for the slot.
        election.resign(machine, out)
        return
    ballot = machine.promised
    signature = machine.setup.keyring.sign(m.ACCEPT_PURPOSE, m.proposal_statement(ballot, slot, digest))
    entry = m.Entry(ballot, slot, digest, signature)
    machine.write(entry, out)
    out.broadcast(m.Accept(entry, machine.committed), () if digest == NO_DIGEST else (digest,))
    machine.votes[slot] = 0
    count(machine, machine.setup.me, slot, out)


def on_accepted(machine: PaxosMachine, sender: MemberId, ballot: int, slot: Slot, digest: Digest, out: Out) -> None:
    """One more member has accepted."""
    if machine.role is not Role.LEADING or ballot != machine.promised:
        return
    machine.heard_at[sender] = machine.beats
    if slot in machine.votes:
        if machine.accepted[slot].digest == digest:
            count(machine, sender, slot, out)
        else:
            # It holds what we do not know to have proposed in our own ballot: our past is not what we think it was
            # (SAFETY rule 16). A new ballot asks for all of it.
            election.resign(machine, out)


def count(machine: PaxosMachine, member: MemberId, slot: Slot, out: Out) -> None:
    """A value is chosen when q members have accepted it in one ballot. (Lamport 2001, section 2.2)"""
    votes = machine.votes[slot] | 1 << machine.setup.members.index(member)
    machine.votes[slot] = votes
    if votes.bit_count() >= machine.setup.quorum.certificate:
        del machine.votes[slot]
        machine.choose(slot, machine.accepted[slot].digest, out)


def commit(machine: PaxosMachine, out: Out) -> None:
    """Say at once how far everything is chosen, so that followers need not wait for the next proposal."""
    committed = max(machine.committed, machine.known)
    while committed + 1 in machine.chosen:
        committed += 1
    machine.next_slot = max(machine.next_slot, committed + 1)
    if committed > machine.committed:
        machine.committed = committed
        out.broadcast(m.Commit(machine.promised, committed))


def fill(machine: PaxosMachine, out: Out) -> None:
    """Empty batches up to the end of the epoch."""
    while machine.stop is not None and machine.role is Role.LEADING and machine.next_slot <= machine.stop:
        propose_next(machine, NO_DIGEST, out)


def forget(machine: PaxosMachine) -> None:
    """What was counted as leader of an earlier ballot."""
    machine.votes.clear()
    machine.opening.clear()
    machine.heard_at.clear()
    machine.held_by.clear()
    machine.lagging = 0


def beat(machine: PaxosMachine, out: Out) -> None:
    """Say that we are there; and go if a quorum no longer answers, or if we cannot get what we must begin with.

    A leader that hears no quorum decides nothing, and as long as its heartbeats arrive, members that could do better
    do not look for another one (Ng, Haridi, Carbone 2023, section 3).
    """
    patience = machine.parameter("silence") << machine.level
    fresh = 1 + sum(machine.beats - beat <= patience for beat in machine.heard_at.values())
    blocked = machine.known < machine.base or bool(machine.opening)
    machine.lagging = machine.lagging + 1 if blocked else 0
    if fresh < machine.setup.quorum.certificate or machine.lagging > machine.parameter("patience") << machine.level:
        election.resign(machine, out)
        return
    election.calm_down(machine)
    heartbeat(machine, out)


def heartbeat(machine: PaxosMachine, out: Out) -> None:
    machine.before = (machine.committed, machine.next_slot)
    out.broadcast(m.Heartbeat(machine.promised, machine.committed, machine.next_slot - 1))


def on_echo(machine: PaxosMachine, sender: MemberId, ballot: int, known: Slot, held: Slot, out: Out) -> None:
    """A member follows. Count what it holds, and send what it should have by now and does not."""
    if machine.role is not Role.LEADING or ballot != machine.promised:
        return
    machine.heard_at[sender] = machine.beats
    for slot in range(max(known, machine.committed) + 1, min(held, machine.next_slot - 1) + 1):
        if slot in machine.votes:
            count(machine, sender, slot, out)
    committed, next_slot = machine.before
    if known < committed:
        machine.tell_chosen(sender, known, out)
    elif known > machine.known:
        out.send(sender, m.Ask(machine.known))
    stuck = machine.held_by.get(sender) == held
    machine.held_by[sender] = held
    if not stuck:
        return
    first = max(held, machine.committed) + 1
    again = [slot for slot in range(first, next_slot) if slot in machine.votes][:RESEND_MAX]
    for index, slot in enumerate(again):
        entry = machine.accepted[slot]
        carry = index < CARRIES_MAX and entry.digest != NO_DIGEST
        out.send(sender, m.Accept(entry, machine.committed), (entry.digest,) if carry else ())
