"""Coming back after a crash: the state is made again from the records, so that no vote is contradicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bftkit.core.digest import NO_DIGEST
from bftkit.core.machine import Record, Slot
from bftkit.crypto.signed import Certificate

from . import messages as m
from . import views
from .log import Held, SlotState
from .view_change import leader_of, low_of, read_new_view, view_of

if TYPE_CHECKING:
    from .machine import PbftMachine

# ----------------------------------------------------------------------------------- restarting


def restore(machine: PbftMachine, records: Sequence[Record]) -> None:
    """Be again what the records say: in the same view, with the same votes, contradicting nothing."""
    votes: list[m.Voted] = []
    installed: m.NewView | None = None
    settled = machine.setup.start
    for data in records:
        match m.RECORDS.decode(data):
            case m.Voted() as voted:
                votes.append(voted)
            case m.Prepared(certificate):
                restore_certificate(machine, certificate)
            case m.Entered(view):
                if view > machine.view:
                    machine.view, machine.active, installed = view, False, None
            case m.Installed(new_view):
                view = view_of(new_view)
                if view > machine.view or (view == machine.view and not machine.active):
                    machine.view, machine.active, installed = view, True, new_view
            case m.Proven(low_votes):
                low = low_of(machine.setup, low_votes)
                if low > machine.low:
                    machine.low, machine.low_votes = low, low_votes
                    machine.stable_votes = {vote.member: vote for vote in low_votes}
            case m.Settled(slot):
                settled = max(settled, slot)
    machine.restored = bool(records)
    machine.drop_certificates()
    machine.next_slot = machine.stable + 1
    machine.headed = machine.stable
    machine.set_high()
    if installed is not None:
        _, opening = read_new_view(machine.setup, installed)
        body = m.BODIES.decode(installed.body)
        assert isinstance(body, m.NewViewBody)
        views.enter(machine, installed, machine.view, opening, body.votes)
        restore_choices(machine, settled)
    for voted in votes:
        # Votes of earlier views are behind us once a new view is open: see `views.enter`.
        if voted.view == machine.view or not machine.active:
            machine.voted = max(machine.voted, voted.slot)
        if voted.view == machine.view and machine.active and voted.slot > machine.stable:
            restore_vote(machine, voted)
    # As leader: what is settled was proposed, even if the votes are forgotten. It is not said to be *delivered*: this
    # member's disk may have an older checkpoint only. `on_stable` tells, and opens what is left above that.
    machine.next_slot = max(machine.next_slot, settled + 1)
    machine.voted = max(machine.voted, settled)


def restore_certificate(machine: PbftMachine, certificate: Certificate) -> None:
    statement = m.read_vote_statement(certificate.body)
    assert statement is not None
    view, slot, digest = statement
    held = machine.held.get(slot)
    if held is None or view > held.view:
        machine.held[slot] = Held(view, digest, certificate)
    # It was this member's vote, too, even if it stood in a new view of its own that is over (SAFETY rule 13).
    machine.voted = max(machine.voted, slot)


def restore_choices(machine: PbftMachine, settled: Slot) -> None:
    leads = leader_of(machine.setup, machine.view) == machine.setup.me
    for choice, signature in zip(machine.opening.choices, machine.opening_votes, strict=True):
        if settled < choice.slot <= machine.high:
            state = machine.slots.setdefault(choice.slot, SlotState())
            views.take_choice(machine, choice, signature, state)
            if leads:
                state.signature = signature
                restore_prepared(machine, choice.slot, state)


def restore_vote(machine: PbftMachine, voted: m.Voted) -> None:
    slot, digest = voted.slot, voted.digest
    state = machine.slots.setdefault(slot, SlotState())
    machine.head(slot, state, digest, voted.leader_signature)
    state.signature = voted.signature
    state.votes[machine.setup.me] = voted.signature
    machine.next_slot = max(machine.next_slot, slot + 1)
    restore_prepared(machine, slot, state)


def restore_prepared(machine: PbftMachine, slot: Slot, state: SlotState) -> None:
    held = machine.held.get(slot)
    assert state.digest is not None
    # The vote was cast with the bytes here; they are kept until a checkpoint covers them (SAFETY rule 3).
    if state.digest != NO_DIGEST:
        machine.here[state.digest] = max(slot, machine.here.get(state.digest, slot))
    if held is not None and held.view == machine.view and held.digest == state.digest:
        state.prepared = True
        state.commits[machine.setup.me] = m.Commit(held.view, slot, held.digest)
