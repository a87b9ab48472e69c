"""Leaving a view and opening the next one, and when to: timeouts, proofs, slow leaders. (Castro 2001, section 2.3.5)

What a view change and a new view must prove is in `view_change`; here is who says it when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bftkit.core.machine import STANDING, MemberId
from bftkit.core.ordering import LeaderChanged

from . import exchange
from . import messages as m
from .log import SlotState
from .timers import NEW_VIEW, PACE, REQUEST, Out
from .view_change import (
    Choice,
    Invalid,
    Known,
    Opening,
    choose,
    leader_of,
    read_new_view,
    read_view_change,
    signed_by_leader,
    signed_by_signer,
    view_of,
)

if TYPE_CHECKING:
    from .machine import PbftMachine

BUSY: Final = 2
"""With so many slots in flight, the leader is under load."""

# ----------------------------------------------------------------------------------- leaving a view


def demand(machine: PbftMachine) -> bool:
    """Whether somebody waits for decisions: clients here, the end of the epoch, or others who decided without us.

    A slot that has this member's vote may be decided elsewhere, and whoever decided it may wait for us in a later view.
    What was asked for in it may be answered already, so no request here tells of that.
    """
    return (
        machine.waiting
        or (machine.stop is not None and machine.delivered < machine.stop)
        or any(slot > machine.delivered and state.signature for slot, state in machine.slots.items())
    )


def on_waiting(machine: PbftMachine, waiting: bool, out: Out) -> None:
    if waiting and not machine.waiting:
        machine.patience.quiet = 0
    if not waiting:
        machine.pace.unbroken = False
    machine.waiting = waiting
    if waiting:
        arm_request_timer(machine, out)
        if not machine.pace_timer and machine.pace.gap > 0:
            machine.pace_timer = True
            out.set_timer(PACE, machine.pace.period)


def arm_request_timer(machine: PbftMachine, out: Out) -> None:
    if not machine.request_timer and machine.active and demand(machine):
        machine.request_timer = True
        machine.patience.quiet = 0
        out.set_timer(REQUEST, machine.patience.quarter)


def request_timer_due(machine: PbftMachine, out: Out) -> None:
    """Requests waited for a whole timeout and nothing was decided: the leader is given up. (Section 2.3.5)"""
    machine.request_timer = False
    if not machine.active or not demand(machine):
        return
    if machine.patience.quarter_passed() and not others_go_on(machine):
        leave_view(machine, machine.view + 1, out, timed_out=True)
    else:
        machine.request_timer = True
        out.set_timer(REQUEST, machine.patience.quarter)


def others_go_on(machine: PbftMachine) -> bool:
    """Whether f + 1 peers, and so a correct one, say that they have delivered more than this member, and ever more.

    Then the leader does its work and this member is only behind. To leave alone would help nobody, and would cost the
    group a voter.
    """
    claims = sorted(machine.claims.values())
    if len(claims) < machine.setup.quorum.weak:
        return False
    common = claims[-machine.setup.quorum.weak]
    if common <= max(machine.delivered, machine.claims_seen):
        return False
    machine.claims_seen = common
    machine.patience.quiet = 0
    return True


def leave_view(machine: PbftMachine, view: int, out: Out, *, timed_out: bool = False) -> None:
    """Accept no more in views below `view`, durably, and say what may have been decided. (Section 2.3.5)

    The timeout grows if it was over, or if the view brought nothing. A leader that decided and had to go for another
    reason, because it was unfair or slow, says nothing about the timeout.
    """
    assert view > machine.view
    if timed_out or not machine.active or machine.delivered <= machine.view_began:
        machine.patience.failed()
    forget_view(machine)
    machine.view, machine.active = view, False
    out.persist(m.RECORDS.encode(m.Entered(view)), STANDING)
    out.deliver(LeaderChanged(view, None))
    if machine.new_view_timer:
        machine.new_view_timer = False
        out.cancel_timer(NEW_VIEW)
    tell_view_change(machine, out)
    count_changes(machine, out)


def forget_view(machine: PbftMachine) -> None:
    machine.new_view = None
    machine.opening, machine.opening_votes = Opening(machine.setup.start, ()), ()
    machine.candidate = ()
    machine.headed = machine.stable
    machine.pace.new_leader()
    for slot in list(machine.slots):
        state = machine.slots[slot]
        state.leave_view()
        if not state.commits:
            del machine.slots[slot]
    # A leader can name any number of batches that nobody has. Only what is committed is wanted in later views, too.
    for digest in list(machine.wanted):
        kept = [at for at in machine.wanted[digest] if at in machine.slots and machine.slots[at].committed == digest]
        if kept:
            machine.wanted[digest] = kept
        else:
            del machine.wanted[digest]


def tell_view_change(machine: PbftMachine, out: Out) -> None:
    me = machine.setup.me
    slots = [slot for slot in sorted(machine.held) if slot > machine.low]
    body = m.ViewChangeBody(machine.view, machine.low_votes, tuple(machine.held[slot].certificate for slot in slots))
    data = m.BODIES.encode(body)
    change = m.ViewChange(me, data, machine.setup.keyring.sign(m.VIEW_CHANGE, data))
    machine.changes[me] = (change, body)
    out.broadcast(change)


def known(machine: PbftMachine) -> Known:
    return Known(machine.changes, {slot: held.certificate for slot, held in machine.held.items()})


def on_view_change(machine: PbftMachine, sender: MemberId, message: m.ViewChange, out: Out) -> None:
    before = machine.changes.get(sender)
    if before is not None and before[0] == message:
        return
    if message.signer != sender or not signed_by_signer(machine.setup, message):
        out.blame(sender, "a view change that it did not sign")
        return
    try:
        body = read_view_change(machine.setup, message, known(machine))
    except Invalid as fault:
        out.blame(sender, f"view change: {fault}", m.PROOFS.encode(m.BadViewChange(message)))
        return
    if before is not None and before[1].view >= body.view:
        return
    machine.changes[sender] = (message, body)
    if body.view < machine.view or (body.view == machine.view and machine.active):
        tell_view(machine, sender, out)
    else:
        count_changes(machine, out)


def tell_view(machine: PbftMachine, member: MemberId, out: Out) -> None:
    """A member in an older view is sent what brought this one here; bounded, since it can be asked for again."""
    if exchange.may_answer(machine, member):
        if machine.new_view is not None:
            out.send(member, machine.new_view)
        elif not machine.active:
            out.send(member, machine.changes[machine.setup.me][0])


def count_changes(machine: PbftMachine, out: Out) -> None:
    """Follow f + 1 others into a later view; with q in this one, its leader opens it. (Section 2.3.5)

    The view that is joined is the (f + 1)-th highest: a correct member is there or beyond.
    """
    later = sorted(body.view for _, body in machine.changes.values() if body.view > machine.view)
    if len(later) >= machine.setup.quorum.weak:
        leave_view(machine, later[-machine.setup.quorum.weak], out)
        return
    if machine.active:
        return
    arrived = [member for member in machine.setup.members if member in machine.changes]
    arrived = [member for member in arrived if machine.changes[member][1].view >= machine.view]
    if len(arrived) < machine.setup.quorum.certificate:
        return
    if not machine.new_view_timer:
        # Members that went on alone count: they do not come back, so those that are left must go after them. (Else
        # two in view 2 and one in view 4 would wait for each other for ever, when the fourth is down.)
        # Only now: to wait for a new view that too few want would be to race ahead alone.
        machine.new_view_timer = True
        out.set_timer(NEW_VIEW, machine.patience.timeout)
    here = [member for member in arrived if machine.changes[member][1].view == machine.view]
    if len(here) < machine.setup.quorum.certificate:
        return
    if leader_of(machine.setup, machine.view) == machine.setup.me and not machine.candidate:
        chosen = sorted(here)[: machine.setup.quorum.certificate]
        machine.candidate = tuple(machine.changes[member] for member in chosen)
        open_view(machine, out)


# ----------------------------------------------------------------------------------- opening a view


def open_view(machine: PbftMachine, out: Out) -> None:
    """As the new leader: once all bytes are here, sign what the view changes yield, durably, and say it.

    The signatures are the leader's votes, so it fetches what it lacks first (SAFETY rule 3). A certificate's
    voters hold the bytes, so that this ends; if it takes too long, the timer ends the view.
    """
    view, setup = machine.view, machine.setup
    bodies = {change.signer: body for change, body in machine.candidate}
    opening = choose(setup, bodies)
    missing = False
    for choice in opening.choices:
        if choice.slot > machine.stable and not machine.have(choice.digest, choice.slot, choice.holders, out):
            missing = True
    if missing:
        return
    votes = tuple(
        setup.keyring.sign(m.VOTE, m.vote_statement(view, choice.slot, choice.digest)) for choice in opening.choices
    )
    data = m.BODIES.encode(m.NewViewBody(view, tuple(change for change, _ in machine.candidate), votes))
    new_view = m.NewView(data, setup.keyring.sign(m.NEW_VIEW, data))
    install(machine, new_view, view, opening, votes, out)


def on_new_view(machine: PbftMachine, sender: MemberId, message: m.NewView, out: Out) -> None:
    """A backup computes for itself what the new view must start with. (Castro 2001, section 2.3.5)"""
    try:
        view = view_of(message)
    except Invalid as fault:
        out.blame(sender, f"new view: {fault}")
        return
    if view < 1 or view < machine.view or (view == machine.view and machine.active):
        return
    if not signed_by_leader(machine.setup, message, view):
        out.blame(sender, "a new view that its leader did not sign")
        return
    leader = leader_of(machine.setup, view)
    try:
        body, opening = read_new_view(machine.setup, message, known(machine))
    except Invalid as fault:
        out.blame(leader, f"new view: {fault}", m.PROOFS.encode(m.BadNewView(message)))
        if view == machine.view:
            leave_view(machine, view + 1, out)
        return
    if machine.accused.get(leader) == view:
        leave_view(machine, view + 1, out)  # its lie was proved before it could open the view
    elif leader != machine.setup.me:
        install(machine, message, view, opening, body.votes, out)


def install(
    machine: PbftMachine, new_view: m.NewView, view: int, opening: Opening, votes: tuple[bytes, ...], out: Out
) -> None:
    """Start in the new view, durably: the records of votes in it rely on it."""
    enter(machine, new_view, view, opening, votes)
    out.persist(m.RECORDS.encode(m.Installed(new_view)), STANDING)
    leader = leader_of(machine.setup, view)
    if leader == machine.setup.me:
        out.broadcast(new_view)
    if machine.new_view_timer:
        machine.new_view_timer = False
        out.cancel_timer(NEW_VIEW)
    out.deliver(LeaderChanged(view, leader))
    take_choices(machine, out)
    machine.fill(out)
    arm_request_timer(machine, out)


def enter(machine: PbftMachine, new_view: m.NewView, view: int, opening: Opening, votes: tuple[bytes, ...]) -> None:
    if view > machine.view:
        forget_view(machine)
    machine.view, machine.active = view, True
    machine.new_view, machine.opening, machine.opening_votes = new_view, opening, votes
    machine.candidate = ()
    machine.next_slot = max(opening.high, machine.stable) + 1
    machine.headed = max(opening.low, machine.stable)
    # What was decided in an earlier view lies at or below the low mark, or in the opening. A vote above that decided
    # nothing and never will: strong reads need not wait for its slot (SAFETY rule 13).
    machine.voted = max(opening.high, machine.delivered)
    machine.patience.quiet = 0
    machine.view_began = machine.delivered


def take_choices(machine: PbftMachine, out: Out) -> None:
    """Run the new view's first slots through the phases again, decided ones too: others may lack them."""
    leader = leader_of(machine.setup, machine.view)
    for choice, signature in zip(machine.opening.choices, machine.opening_votes, strict=True):
        slot = choice.slot
        if not machine.active or slot <= machine.stable or slot > machine.high:
            continue
        state = machine.slots.setdefault(slot, SlotState())
        if state.digest is None:
            take_choice(machine, choice, signature, state)
            if leader == machine.setup.me:
                state.signature = signature
                state.votes[leader] = signature
            machine.compare_prepares(slot, state, out)
            if machine.active:
                machine.vote_if_here(slot, state, out)
                machine.try_prepare(slot, state, out)


def take_choice(machine: PbftMachine, choice: Choice, signature: bytes, state: SlotState) -> None:
    machine.head(choice.slot, state, choice.digest, signature)
    state.from_new_view = True
    state.holders = choice.holders


# ----------------------------------------------------------------------------------- slow leaders


def pace_due(machine: PbftMachine, out: Out) -> None:
    machine.pace_timer = False
    judged = machine.active and machine.leader != machine.setup.me
    in_flight = in_work(machine)
    idle = in_flight == 0 and machine.delivered < machine.high and machine.stop is None
    waiting, seen = machine.waiting, machine.pace.proposals
    if judged and machine.pace.period_passed(waiting=waiting, idle=idle, busy=in_flight >= BUSY):
        if others_go_on(machine):
            machine.pace.forgiven()
        else:
            machine.pace.suspected()
            leave_view(machine, machine.view + 1, out)
    if waiting or seen:
        machine.pace_timer = True
        out.set_timer(PACE, machine.pace.period)


def in_work(machine: PbftMachine) -> int:
    """How many slots in a row, from the first undecided one on, have this member's vote.

    Slots further ahead, or without their bytes, do not count: a leader could open such and have an excuse for proposing
    nothing.
    """
    slot = machine.delivered + 1
    while (state := machine.slots.get(slot)) is not None and state.signature:
        slot += 1
    return slot - machine.delivered - 1
