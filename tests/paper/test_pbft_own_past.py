"""What a member remembers of its own votes, and what it does not owe to views that are over.

Votes that a strong read waits for (SAFETY rule 13), an own signature that comes back from a life that was forgotten
(rule 16), leaders that are known liars before they lead, and what a view's end lets go of.
"""

from __future__ import annotations

from typing import Any

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Blame, Broadcast, MemberId, Out, Persist
from bftkit.core.ordering import Available, Batch, Learned, Neglected, Propose, Setup, Waiting
from bftkit.core.quorum import Quorum
from bftkit.crypto.signed import Certificate
from bftkit.sim.keyring import fast_keyrings
from bftkit_pbft import messages as m
from bftkit_pbft.machine import PbftMachine
from bftkit_pbft.timers import REQUEST, STATUS
from bftkit_pbft.view_change import choose

A, B = digest(b"a"), digest(b"b")
MEMBERS = ("m0", "m1", "m2", "m3")
KEYRINGS = fast_keyrings(b"", bytes(32), 0, bytes(32), MEMBERS)


class Member:
    """One machine and its disk; the test says what its peers say."""

    def __init__(self, me: MemberId, records: tuple[bytes, ...] = ()) -> None:
        self.me = me
        self.setup = Setup(me, MEMBERS, Quorum(4, 1), KEYRINGS[me], window=16)
        self.machine = PbftMachine.create(self.setup)
        self.records = list(records)
        if records:
            self.machine.on_restore(records, Out())
        self.do("on_start")

    def do(self, event: str, *values: Any) -> list[Any]:
        out: Out[Any, Any] = Out()
        getattr(self.machine, event)(*values, out)
        self.records.extend(effect.record for effect in out.effects if isinstance(effect, Persist))
        return [effect.message for effect in out.effects if isinstance(effect, Broadcast)]

    def hear(self, sender: MemberId, message: Any) -> list[Any]:
        return self.do("on_message", sender, message)

    def give(self, value: Any) -> list[Any]:
        return self.do("on_input", value)

    def restarted(self) -> Member:
        return Member(self.me, tuple(self.records))


def vote(member: MemberId, view: int, slot: int, name: bytes) -> bytes:
    return KEYRINGS[member].sign(m.VOTE, m.vote_statement(view, slot, name))


def prepare(member: MemberId, leader: MemberId, view: int, slot: int, name: bytes) -> m.Prepare:
    return m.Prepare(view, slot, name, vote(leader, view, slot, name), vote(member, view, slot, name))


def header(leader: MemberId, view: int, slot: int, name: bytes) -> m.PrePrepare:
    return m.PrePrepare(view, slot, name, vote(leader, view, slot, name))


def change(member: MemberId, view: int, *certificates: Certificate) -> m.ViewChange:
    data = m.BODIES.encode(m.ViewChangeBody(view, (), certificates))
    return m.ViewChange(member, data, KEYRINGS[member].sign(m.VIEW_CHANGE, data))


def certificate(view: int, slot: int, name: bytes) -> Certificate:
    votes = {member: vote(member, view, slot, name) for member in ("m0", "m2", "m3")}
    return Certificate.of(m.vote_statement(view, slot, name), votes)


def new_view(view: int, leader: MemberId, *certificates: Certificate) -> m.NewView:
    changes = {member: m.ViewChangeBody(view, (), certificates) for member in ("m0", "m1", "m3")}
    opening = choose(Setup("m0", MEMBERS, Quorum(4, 1), KEYRINGS["m0"], window=16), changes)
    data = m.BODIES.encode(
        m.NewViewBody(
            view,
            tuple(change(member, view, *certificates) for member in sorted(changes)),
            tuple(vote(leader, view, choice.slot, choice.digest) for choice in opening.choices),
        )
    )
    return m.NewView(data, KEYRINGS[leader].sign(m.NEW_VIEW, data))


# ------------------------------------------------------------------------------------------------- strong reads


def test_a_leaders_votes_for_its_opening_survive_the_view_and_a_restart() -> None:
    """SAFETY rule 13: they stand in the new view only, which is forgotten when it ends; the certificates are not."""
    leader = Member("m1")
    for peer in ("m2", "m3"):
        leader.hear(peer, change(peer, 1, certificate(0, 1, A)))
    leader.give(Available(A))
    for peer in ("m2", "m3"):
        leader.hear(peer, prepare(peer, "m1", 1, 1, A))
    assert leader.machine.slots[1].prepared
    for peer in ("m2", "m3"):
        leader.hear(peer, change(peer, 2, certificate(0, 1, A)))
    assert (leader.machine.view, leader.machine.highest_voted) == (2, 1)
    again = leader.restarted()
    assert (again.machine.view, again.machine.highest_voted) == (2, 1)


def test_a_slot_that_was_settled_is_read_again_only_when_it_is_here() -> None:
    """SAFETY rule 13: a disk that lost its newest checkpoint may not answer from the older one."""
    member = Member("m1", (m.RECORDS.encode(m.Settled(8)),))
    assert member.machine.highest_voted == 8


def test_a_vote_that_led_to_nothing_holds_up_no_read_once_a_new_view_is_open() -> None:
    """What was decided before is in the opening or below it, so a vote above it decided nothing."""
    backup = Member("m2")
    backup.hear("m0", header("m0", 0, 16, A))
    backup.give(Available(A))
    assert backup.machine.highest_voted == 16
    for peer in ("m1", "m3"):
        backup.hear(peer, change(peer, 1))
    assert backup.machine.highest_voted == 16  # as long as no new view is open, it may be decided
    backup.hear("m1", new_view(1, "m1", certificate(0, 2, B)))
    assert backup.machine.active
    assert backup.machine.highest_voted == 2
    assert backup.restarted().machine.highest_voted == 2
    backup.hear("m1", header("m1", 1, 3, NO_DIGEST))
    assert backup.machine.highest_voted == 3
    assert backup.restarted().machine.highest_voted == 3


# ------------------------------------------------------------------------------------------------- rule 16


def test_a_leader_that_meets_a_proposal_of_its_own_that_it_forgot_proposes_nothing_more() -> None:
    """SAFETY rule 16: to propose in that slot again would be to say two things."""
    leader = Member("m0")
    leader.hear("m1", prepare("m1", "m0", 0, 1, A))
    assert leader.machine.view == 1
    assert leader.machine.room == 0
    # So it is before the view is open, too: a life that was forgotten had opened it.
    coming = Member("m1")
    coming.hear("m2", change("m2", 1))
    coming.hear("m3", change("m3", 2))
    assert (coming.machine.view, coming.machine.active) == (1, False)
    coming.hear("m2", prepare("m2", "m1", 1, 4, A))
    assert coming.machine.view == 2


def test_a_made_up_proposal_drives_no_leader_out() -> None:
    leader = Member("m0")
    leader.hear("m1", m.Prepare(0, 1, A, bytes(64), vote("m1", 0, 1, A)))
    assert leader.machine.view == 0
    assert [type(message) for message in leader.give(Propose(Batch(B, 1)))] == [m.PrePrepare]


def test_votes_for_what_a_leader_did_propose_drive_nobody_out() -> None:
    leader = Member("m0")
    leader.give(Propose(Batch(A, 1)))
    again = leader.restarted()
    again.hear("m1", prepare("m1", "m0", 0, 1, A))
    assert again.machine.view == 0
    # Nor for what is settled, of which no vote is left.
    settled = Member("m0", (m.RECORDS.encode(m.Settled(8)),))
    settled.hear("m1", prepare("m1", "m0", 0, 8, A))
    assert settled.machine.view == 0
    settled.hear("m1", prepare("m1", "m0", 0, 9, A))
    assert settled.machine.view == 1


# ------------------------------------------------------------------------------------------------- proved liars


def test_a_member_whose_lie_is_proved_opens_no_view() -> None:
    backup = Member("m2")
    for peer in ("m1", "m3"):
        backup.hear(peer, change(peer, 1))
    first, second = m.vote_statement(1, 1, A), m.vote_statement(1, 1, B)
    proof = m.equivocation("m1", (first, vote("m1", 1, 1, A)), (second, vote("m1", 1, 1, B)))
    backup.hear("m3", m.Accusation(proof))
    assert (backup.machine.view, backup.machine.active) == (1, False)
    backup.hear("m1", new_view(1, "m1"))
    assert (backup.machine.view, backup.machine.active) == (2, False)


# ------------------------------------------------------------------------------------------------- at a view's end


def test_what_a_leader_named_and_nobody_has_is_not_wanted_for_ever() -> None:
    """FAULTS 29: one batch a slot and view would pile up."""
    backup = Member("m2")
    backup.hear("m0", header("m0", 0, 1, A))
    backup.hear("m0", header("m0", 0, 2, B))
    for peer in ("m0", "m1", "m3"):
        backup.hear(peer, m.Commit(0, 2, B))
    assert sorted(backup.machine.wanted) == sorted((A, B))
    for peer in ("m1", "m3"):
        backup.hear(peer, change(peer, 1))
    # What q members hold a certificate for is decided, and still wanted.
    assert backup.machine.wanted == {B: [2]}


# ------------------------------------------------------------------------------------------------- only behind


def test_a_member_that_is_only_behind_does_not_leave_alone_because_it_feels_neglected() -> None:
    def status(delivered: int) -> m.Status:
        return m.Status(0, True, delivered, 0, None, b"", bytes(1), answer=True)

    behind = Member("m2")
    for peer in ("m1", "m3"):
        behind.hear(peer, status(5))
    behind.give(Neglected("m0"))
    assert behind.machine.view == 0
    # The others do not go on any more: this time it counts.
    behind.give(Neglected("m0"))
    assert behind.machine.view == 1


# ------------------------------------------------------------------------------------------------- empty batches


def test_a_leader_that_orders_nothing_but_empty_batches_is_given_up() -> None:
    """FAULTS 31: a slot without a request is no work, or else a censor could sit out everybody."""
    backup = Member("m1")
    backup.give(Waiting(True))
    for slot in range(1, 8):
        if backup.machine.view > 0:
            break
        backup.hear("m0", header("m0", 0, slot, NO_DIGEST))
        for peer in ("m2", "m3"):
            backup.hear(peer, prepare(peer, "m0", 0, slot, NO_DIGEST))
            backup.hear(peer, m.Commit(0, slot, NO_DIGEST))
        assert backup.machine.delivered == slot
        assert backup.machine.pace.proposals == 0
        backup.do("on_timer", REQUEST)
    assert backup.machine.view == 1


def test_the_empty_batches_that_end_an_epoch_are_work() -> None:
    backup = Member("m1")
    backup.do("on_stop", 4)
    for slot in range(1, 4):
        backup.do("on_timer", REQUEST)
        backup.hear("m0", header("m0", 0, slot, NO_DIGEST))
        for peer in ("m2", "m3"):
            backup.hear(peer, prepare(peer, "m0", 0, slot, NO_DIGEST))
            backup.hear(peer, m.Commit(0, slot, NO_DIGEST))
        assert backup.machine.patience.quiet == 0


def stable(member: MemberId, slot: int) -> m.Stable:
    return m.Stable(slot, KEYRINGS[member].sign(m.STABLE, m.stable_statement(slot)))


def test_who_lags_at_the_end_of_an_epoch_prepares_nothing_that_its_view_change_may_not_hold() -> None:
    """It learned three windows of slots and missed every stable vote: nobody may find a fault in what it says."""
    behind = Member("m1")
    for slot in range(1, 49):
        behind.give(Learned(slot, NO_DIGEST))
    behind.do("on_stop", 56)
    behind.hear("m0", header("m0", 0, 49, NO_DIGEST))
    for peer in ("m2", "m3"):
        behind.hear(peer, prepare(peer, "m0", 0, 49, NO_DIGEST))
    again = behind.restarted()
    (change,) = [message for message in again.give(Neglected("m0")) if isinstance(message, m.ViewChange)]
    out: Out[Any, Any] = Out()
    Member("m2").machine.on_message("m1", change, out)
    assert not [effect for effect in out.effects if isinstance(effect, Blame)]
    # As soon as the others' mark is known, it votes.
    said = [message for peer in ("m2", "m3") for message in behind.hear(peer, stable(peer, 24))]
    assert [message.slot for message in said if isinstance(message, m.Prepare)] == [49]
    assert behind.machine.held[49].digest == NO_DIGEST


def test_a_leader_that_lags_fills_up_to_the_end_as_its_mark_allows() -> None:
    leader = Member("m0")
    for slot in range(1, 49):
        leader.give(Learned(slot, NO_DIGEST))
    said = leader.do("on_stop", 56)
    assert [message.slot for message in said if isinstance(message, m.PrePrepare)] == list(range(1, 49))
    said = [message for peer in ("m2", "m3") for message in leader.hear(peer, stable(peer, 24))]
    assert [message.slot for message in said if isinstance(message, m.PrePrepare)] == list(range(49, 57))


# ------------------------------------------------------------------------------------------------- stable votes


def test_a_restarted_member_says_again_what_is_stable_here() -> None:
    """The channel tells it of its newest checkpoint; whoever missed the vote gets it, then and later."""
    member = Member("m1")
    member.do("on_stable", 8, A)
    again = member.restarted()
    (told,) = [message for message in again.do("on_stable", 8, A) if isinstance(message, m.Stable)]
    assert told.slot == 8
    statuses: list[m.Status] = []
    for _ in range(10):
        statuses = [message for message in again.do("on_timer", STATUS) if isinstance(message, m.Status)]
    assert [(status.stable, status.stable_signature) for status in statuses] == [(8, told.signature)]
