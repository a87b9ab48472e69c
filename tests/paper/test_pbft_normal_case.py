"""The normal case, step by step, on one machine whose peers are played by the test (Castro 2001, section 2.3.4)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import Blame, Broadcast, Deliver, MemberId, Out, Persist, Send, SetTimer
from bftkit.core.ordering import (
    Available,
    Batch,
    Decided,
    Fetch,
    LeaderChanged,
    Learned,
    Neglected,
    Propose,
    Refused,
    Setup,
    Waiting,
)
from bftkit.core.quorum import Quorum
from bftkit.core.state import fingerprint
from bftkit.crypto.signed import Certificate
from bftkit.sim.keyring import fast_keyrings
from bftkit_pbft import messages as m
from bftkit_pbft.evidence import accused
from bftkit_pbft.machine import PbftMachine

A, B, C = digest(b"a"), digest(b"b"), digest(b"c")
MEMBERS = ("m0", "m1", "m2", "m3")
KEYRINGS = fast_keyrings(b"", bytes(32), 0, bytes(32), [f"m{index}" for index in range(7)])
WINDOW = 16


class Play:
    """One machine; the test says what its peers say."""

    def __init__(self, me: MemberId, members: tuple[MemberId, ...] = MEMBERS, quorum: Quorum | None = None) -> None:
        self.quorum = quorum or Quorum(4, 1)
        self.setup = Setup(me, members, self.quorum, KEYRINGS[me], window=WINDOW)
        self.machine = PbftMachine.create(self.setup)
        self.records: list[bytes] = []
        self.do("on_start")

    def do(self, event: str, *values: Any) -> list[Any]:
        out: Out[Any, Any] = Out()
        getattr(self.machine, event)(*values, out)
        self.records.extend(effect.record for effect in out.effects if isinstance(effect, Persist))
        return out.effects

    def hear(self, sender: MemberId, message: Any) -> list[Any]:
        return self.do("on_message", sender, message)

    def give(self, value: Any) -> list[Any]:
        return self.do("on_input", value)

    def restarted(self) -> Play:
        again = Play.__new__(Play)
        again.quorum, again.setup, again.records = self.quorum, self.setup, list(self.records)
        again.machine = PbftMachine.create(self.setup)
        again.do("on_restore", list(self.records))
        again.do("on_start")
        return again

    def decide(self, slot: int, name: bytes, view: int = 0) -> None:
        """The whole story of one slot, as a backup of m0 sees it."""
        self.hear("m0", pre_prepare(slot, name, view))
        if name != NO_DIGEST:
            self.give(Available(name))
        for member in ("m2", "m3"):
            self.hear(member, prepare(member, slot, name, view))
            self.hear(member, m.Commit(view, slot, name))
        assert self.machine.delivered == slot


def vote(member: MemberId, slot: int, name: bytes, view: int = 0) -> bytes:
    return KEYRINGS[member].sign(m.VOTE, m.vote_statement(view, slot, name))


def pre_prepare(slot: int, name: bytes, view: int = 0, leader: MemberId = "m0") -> m.PrePrepare:
    return m.PrePrepare(view, slot, name, vote(leader, slot, name, view))


def prepare(member: MemberId, slot: int, name: bytes, view: int = 0, leader: MemberId = "m0") -> m.Prepare:
    return m.Prepare(view, slot, name, vote(leader, slot, name, view), vote(member, slot, name, view))


def said(effects: list[Any], kind: type) -> list[Any]:
    """The messages of one kind that were sent."""
    sent: list[Any] = [effect.message for effect in effects if type(effect) in (Send, Broadcast)]
    return [message for message in sent if type(message) is kind]


def outputs(effects: list[Any], kind: type) -> list[Any]:
    delivered: list[Any] = [effect for effect in effects if type(effect).__name__ == Deliver.__name__]
    return [effect.output for effect in delivered if type(effect.output) is kind]


def blamed(effects: list[Any]) -> list[tuple[MemberId, bool]]:
    return [(effect.member, bool(effect.proof)) for effect in effects if isinstance(effect, Blame)]


# ------------------------------------------------------------------------------------------------- three phases


def test_the_leader_sends_the_bytes_with_its_proposal_and_votes_by_it() -> None:
    leader = Play("m0")
    effects = leader.give(Propose(Batch(A, 10)))
    assert isinstance(effects[0], Persist)
    assert effects[0].slot == 1
    assert effects[1] == Broadcast(pre_prepare(1, A), (A,))
    assert len(effects) == 2


def test_a_backup_votes_only_when_the_bytes_are_here() -> None:
    """SAFETY rule 3: bytes before votes."""
    backup = Play("m1")
    effects = backup.hear("m0", pre_prepare(1, A))
    assert effects == [Deliver(Fetch(A, 1, ("m0",)))]
    effects = backup.give(Available(A))
    assert [type(effect) for effect in effects] == [Persist, Broadcast]
    assert said(effects, m.Prepare) == [prepare("m1", 1, A)]


def test_a_batch_that_comes_again_in_a_later_slot_is_kept_for_that_slot() -> None:
    """SAFETY rule 3: the channel may forget the bytes with the slot that they were fetched for."""
    backup = Play("m1")
    backup.decide(1, A)
    effects = backup.hear("m0", pre_prepare(2, A))
    assert outputs(effects, Fetch) == [Fetch(A, 2, ())]
    kinds: list[type] = [type(effect) for effect in effects]
    assert kinds == [Deliver, Persist, Broadcast]


def test_the_three_phases_with_two_persists_each_before_what_it_gates() -> None:
    """SAFETY rule 5. q = 3: the leader's header, the own prepare and one more; then three commits."""
    backup = Play("m1")
    backup.hear("m0", pre_prepare(1, A))
    backup.give(Available(A))
    effects = backup.hear("m2", prepare("m2", 1, A))
    assert [type(effect) for effect in effects] == [Persist, Broadcast]
    assert said(effects, m.Commit) == [m.Commit(0, 1, A)]
    assert backup.hear("m3", prepare("m3", 1, A)) == []
    assert backup.hear("m2", m.Commit(0, 1, A)) == []
    assert backup.hear("m3", m.Commit(0, 1, A)) == [Deliver(Decided(1, A))]
    assert backup.hear("m0", m.Commit(0, 1, A)) == []
    assert len(backup.records) == 2


def test_votes_for_another_digest_or_by_one_member_twice_do_not_count() -> None:
    backup = Play("m1")
    backup.hear("m0", pre_prepare(1, A))
    backup.give(Available(A))
    for _ in range(3):
        backup.hear("m3", m.Commit(0, 1, A))
    backup.hear("m2", m.Commit(0, 1, B))
    backup.hear("m0", m.Commit(1, 1, A))
    assert backup.machine.delivered == 0
    backup.hear("m2", m.Commit(1, 1, A))
    assert backup.machine.slots[1].committed is None
    assert not said(backup.hear("m2", attrs.evolve(prepare("m2", 1, A), signature=bytes(64))), m.Commit)
    assert backup.machine.delivered == 0


def test_a_prepare_with_a_bad_signature_is_blamed_and_the_next_one_counts() -> None:
    backup = Play("m1")
    backup.hear("m0", pre_prepare(1, A))
    backup.give(Available(A))
    assert blamed(backup.hear("m2", attrs.evolve(prepare("m2", 1, A), signature=bytes(64)))) == [("m2", False)]
    assert said(backup.hear("m3", prepare("m3", 1, A)), m.Commit)


def test_slots_are_delivered_in_order_however_they_are_decided() -> None:
    backup = Play("m1")
    for slot, name in ((2, B), (1, A)):
        backup.hear("m0", pre_prepare(slot, name))
        backup.give(Available(name))
        backup.hear("m2", prepare("m2", slot, name))
        backup.hear("m2", m.Commit(0, slot, name))
        effects = backup.hear("m3", m.Commit(0, slot, name))
        assert outputs(effects, Decided) == ([] if slot == 2 else [Decided(1, A), Decided(2, B)])


def test_votes_may_come_before_the_proposal() -> None:
    backup = Play("m1")
    for member in ("m2", "m3"):
        assert backup.hear(member, prepare(member, 1, A)) == []
        backup.hear(member, m.Commit(0, 1, A))
    backup.hear("m0", pre_prepare(1, A))
    effects = backup.give(Available(A))
    assert said(effects, m.Prepare)
    assert said(effects, m.Commit)
    assert outputs(effects, Decided) == [Decided(1, A)]


def test_a_group_of_one_writes_before_it_decides() -> None:
    alone = Play("m0", ("m0",), Quorum(1, 0))
    effects = alone.give(Propose(Batch(A, 1)))
    kinds: list[type] = [type(effect) for effect in effects]
    assert kinds.index(Deliver) > max(index for index, kind in enumerate(kinds) if kind is Persist)
    assert outputs(effects, Decided) == [Decided(1, A)]


def test_q_commits_decide_even_for_a_member_that_missed_the_votes() -> None:
    """A commit says "I hold a certificate"; q of those are the decision, once the bytes are here."""
    backup = Play("m1")
    for member in ("m0", "m2", "m3"):
        effects = backup.hear(member, m.Commit(0, 1, A))
    assert effects == [Deliver(Fetch(A, 1, ("m0", "m2", "m3")))]
    assert outputs(backup.give(Available(A)), Decided) == [Decided(1, A)]


def test_a_learned_slot_is_decided() -> None:
    """SAFETY rule 17: the channel has f + 1 claims and the bytes."""
    backup = Play("m1")
    assert backup.give(Learned(2, B)) == []
    assert outputs(backup.give(Learned(1, A)), Decided) == [Decided(1, A), Decided(2, B)]
    assert outputs(backup.give(Learned(1, A)), Decided) == []


# ------------------------------------------------------------------------------------------------- refusals


def test_a_proposal_is_refused_from_anybody_but_the_leader() -> None:
    backup = Play("m1")
    effects = backup.hear("m2", pre_prepare(1, A, leader="m2"))
    assert blamed(effects) == [("m2", False)]
    assert outputs(effects, Fetch) == []


def test_a_proposal_of_another_view_is_not_taken() -> None:
    backup = Play("m1")
    assert backup.hear("m2", pre_prepare(1, A, view=2, leader="m2")) == []


def test_a_header_with_a_bad_signature_is_blamed() -> None:
    backup = Play("m1")
    effects = backup.hear("m0", attrs.evolve(pre_prepare(1, A), signature=bytes(64)))
    assert blamed(effects) == [("m0", False)]
    assert backup.machine.slots[1].digest is None


def test_two_headers_for_one_slot_convict_the_leader_and_end_the_view() -> None:
    backup = Play("m1")
    backup.hear("m0", pre_prepare(1, A))
    effects = backup.hear("m0", pre_prepare(1, B))
    (blame,) = [effect for effect in effects if isinstance(effect, Blame)]
    assert accused(backup.setup, blame.proof) == "m0"
    assert said(effects, m.Accusation) == [m.Accusation(blame.proof)]
    assert said(effects, m.ViewChange)
    assert outputs(effects, LeaderChanged) == [LeaderChanged(1, None)]
    # Whoever hears of it convicts and leaves, too, without having seen either header.
    other = Play("m2")
    effects = other.hear("m1", m.Accusation(blame.proof))
    assert blamed(effects) == [("m0", True)]
    assert not other.machine.active


def test_a_prepare_that_shows_another_header_convicts_the_leader() -> None:
    """Each prepare carries the header it answers, so that backups that were told different things notice."""
    backup = Play("m1")
    backup.hear("m0", pre_prepare(1, A))
    effects = backup.hear("m2", prepare("m2", 1, B))
    assert blamed(effects) == [("m0", True)]
    assert not backup.machine.active
    # The same if the prepare comes first.
    backup = Play("m1")
    backup.hear("m2", prepare("m2", 1, B))
    assert blamed(backup.hear("m0", pre_prepare(1, A))) == [("m0", True)]


def test_a_prepare_with_a_made_up_header_convicts_nobody_but_is_held_against_its_sender() -> None:
    backup = Play("m1")
    backup.hear("m0", pre_prepare(1, A))
    effects = backup.hear("m2", attrs.evolve(prepare("m2", 1, B), leader_signature=bytes(64)))
    assert blamed(effects) == [("m2", False)]
    assert backup.machine.active


def test_a_backup_that_votes_twice_is_convicted_and_the_view_goes_on() -> None:
    backup = Play("m1")
    backup.hear("m2", prepare("m2", 1, A))
    effects = backup.hear("m2", prepare("m2", 1, B))
    assert blamed(effects) == [("m2", True)]
    assert backup.machine.active


def test_made_up_accusations_convict_nobody() -> None:
    backup = Play("m1")
    same = (m.vote_statement(0, 1, A), vote("m0", 1, A))
    other = (m.vote_statement(0, 2, B), vote("m0", 2, B))
    forged = (m.vote_statement(0, 1, B), bytes(64))
    for proof in (
        m.equivocation("m0", same, same),
        m.equivocation("m0", same, other),
        m.equivocation("m0", same, forged),
        m.equivocation("m9", same, forged),
        b"garbage",
    ):
        assert accused(backup.setup, proof) is None
        assert blamed(backup.hear("m3", m.Accusation(proof))) == [("m3", False)]
    assert backup.machine.active


def test_a_proof_of_a_far_view_does_not_hide_one_of_this_view() -> None:
    """A liar may sign two votes in a view far away, so that a later proof looks like old news."""
    backup = Play("m1")
    far = m.equivocation(
        "m0",
        (m.vote_statement(1 << 40, 1, A), vote("m0", 1, A, 1 << 40)),
        (m.vote_statement(1 << 40, 1, B), vote("m0", 1, B, 1 << 40)),
    )
    backup.hear("m2", m.Accusation(far))
    assert backup.machine.active
    backup.hear("m0", pre_prepare(1, A))
    assert blamed(backup.hear("m0", pre_prepare(1, B))) == [("m0", True)]
    assert not backup.machine.active


def test_a_batch_that_is_refused_gets_no_vote_and_ends_the_view() -> None:
    """SAFETY rule 4: authenticity is settled before the vote."""
    backup = Play("m1")
    backup.hear("m0", pre_prepare(1, A))
    effects = backup.give(Refused(A))
    assert said(effects, m.Prepare) == []
    (blame,) = [effect for effect in effects if isinstance(effect, Blame)]
    assert accused(backup.setup, blame.proof) == "m0"
    assert said(effects, m.ViewChange)


def test_a_leader_that_prepares_and_a_member_that_commits_twice_are_blamed() -> None:
    backup = Play("m1")
    assert blamed(backup.hear("m0", prepare("m0", 1, A))) == [("m0", False)]
    backup.hear("m2", m.Commit(0, 1, A))
    assert blamed(backup.hear("m2", m.Commit(0, 1, B))) == [("m2", False)]


# ------------------------------------------------------------------------------------------------- windows


def test_the_leader_has_room_for_the_pipeline_and_never_beyond_the_window() -> None:
    leader = Play("m0")
    depth = 8
    assert leader.machine.room == depth
    for slot in range(1, depth + 1):
        leader.give(Propose(Batch(digest(b"%d" % slot), 1)))
    assert leader.machine.room == 0
    with pytest.raises(ValueError, match="no room"):
        leader.give(Propose(Batch(A, 1)))
    for slot in range(1, depth + 1):
        for member in ("m1", "m2"):
            leader.hear(member, prepare(member, slot, digest(b"%d" % slot)))
            leader.hear(member, m.Commit(0, slot, digest(b"%d" % slot)))
    assert leader.machine.delivered == depth
    assert leader.machine.room == depth
    for slot in range(depth + 1, WINDOW + 1):
        leader.give(Learned(slot, A))
        leader.machine.next_slot = slot + 1
    assert leader.machine.room == 0
    leader.do("on_stable", 8, A)
    for member in ("m1", "m2"):
        leader.hear(member, m.Stable(8, KEYRINGS[member].sign(m.STABLE, m.stable_statement(8))))
    assert leader.machine.room == 8


def test_backups_have_no_room() -> None:
    assert Play("m1").machine.room == 0


def test_a_proposal_ahead_of_the_watermark_waits_for_it() -> None:
    """A trap of real implementations: a pre-prepare dropped because a backup's watermark lags."""
    backup = Play("m1")
    slot = WINDOW + 1
    assert backup.hear("m0", pre_prepare(slot, A)) == []
    effects = backup.do("on_stable", 8, B)
    assert outputs(effects, Fetch) == [Fetch(A, slot, ("m0",))]
    # Further than one window ahead nothing is kept: it will be asked for.
    assert backup.hear("m0", pre_prepare(8 + 2 * WINDOW + 1, A)) == []
    assert 8 + 2 * WINDOW + 1 not in backup.machine.slots


def test_a_stable_checkpoint_forgets_what_lies_below() -> None:
    backup = Play("m1")
    for slot in range(1, 5):
        backup.decide(slot, digest(b"%d" % slot))
    backup.do("on_stable", 4, A)
    machine = backup.machine
    assert not machine.slots
    assert not machine.decided
    assert not machine.here
    assert backup.hear("m0", pre_prepare(3, B)) == []
    assert backup.hear("m2", m.Commit(0, 3, B)) == []
    assert not machine.slots


def test_certificates_are_kept_until_f_plus_one_members_have_the_checkpoint() -> None:
    """The own stable checkpoint alone drops no certificate: see `bftkit_pbft.view_change`."""
    backup = Play("m1")
    for slot in range(1, 5):
        backup.decide(slot, digest(b"%d" % slot))
    backup.do("on_stable", 4, A)
    assert sorted(backup.machine.held) == [1, 2, 3, 4]
    forged = m.Stable(4, bytes(64))
    assert blamed(backup.hear("m2", forged)) == [("m2", False)]
    assert sorted(backup.machine.held) == [1, 2, 3, 4]
    backup.hear("m2", m.Stable(2, KEYRINGS["m2"].sign(m.STABLE, m.stable_statement(2))))
    assert sorted(backup.machine.held) == [3, 4]
    backup.hear("m3", m.Stable(1 << 40, KEYRINGS["m3"].sign(m.STABLE, m.stable_statement(1 << 40))))
    assert sorted(backup.machine.held) == []
    assert backup.machine.low == 4


def test_the_records_that_outlive_their_segment_are_standing() -> None:
    backup = Play("m1")
    for slot in range(1, 5):
        backup.decide(slot, digest(b"%d" % slot))
    backup.do("on_stable", 4, A)
    again = Play("m1")
    again.do("on_restore", list(backup.machine.standing()))
    assert sorted(again.machine.held) == [1, 2, 3, 4]
    # The checkpoint that this member's disk has may be an older one: its slots are delivered again from there.
    assert again.machine.stable == 0
    assert again.machine.delivered == 0
    # The leader's case: every vote is forgotten, and still it must not begin at slot 1 again.
    assert again.machine.next_slot == 5


def test_a_proved_mark_that_no_disk_has_yet_costs_no_certificate() -> None:
    """A power cut may throw everybody back below the proved mark: then these slots must be decided once more."""
    backup = Play("m1")
    for slot in range(1, 5):
        backup.decide(slot, digest(b"%d" % slot))
    backup.do("on_stable", 4, A)
    backup.hear("m2", m.Stable(4, KEYRINGS["m2"].sign(m.STABLE, m.stable_statement(4))))
    assert not backup.machine.held
    again = backup.restarted()  # its newest checkpoint on disk is still the epoch's start
    assert again.machine.low == 4
    assert sorted(again.machine.held) == [1, 2, 3, 4]
    asked = again.hear("m2", m.Status(0, True, 0, 0, None, b"", b"\0", True))
    assert {message.slot for message in said(asked, m.Commit)} == {1, 2, 3, 4}
    for slot in range(1, 5):
        for member in ("m2", "m3"):
            again.hear(member, m.Commit(0, slot, digest(b"%d" % slot)))
    assert again.machine.delivered == 4
    # What is below the mark is in no view change: everybody would refuse it.
    (change,) = said(again.give(Neglected("m0")), m.ViewChange)
    body = m.BODIES.decode(change.body)
    assert isinstance(body, m.ViewChangeBody)
    assert body.prepared == ()


def test_a_state_transfer_jumps_over_slots() -> None:
    backup = Play("m1")
    backup.do("on_stable", 8, A)
    assert backup.machine.delivered == 8
    backup.decide(9, A)


# ------------------------------------------------------------------------------------------------- restarts


def test_a_restart_repeats_no_vote_differently() -> None:
    """A trap of real implementations: a vote refused as a double-sign, or contradicted, after a restart."""
    backup = Play("m1")
    backup.hear("m0", pre_prepare(1, A))
    backup.give(Available(A))
    again = backup.restarted()
    effects = again.hear("m0", pre_prepare(1, B))
    assert said(effects, m.Prepare) == []
    assert blamed(effects) == [("m0", True)]
    again = backup.restarted()
    assert said(again.hear("m2", prepare("m2", 1, A)), m.Commit) == [m.Commit(0, 1, A)]


def test_a_leader_that_restarts_goes_on_after_its_last_proposal() -> None:
    leader = Play("m0")
    leader.give(Propose(Batch(A, 1)))
    leader.give(Propose(Batch(B, 1)))
    again = leader.restarted()
    effects = again.give(Propose(Batch(C, 1)))
    assert [message.slot for message in said(effects, m.PrePrepare)] == [3]


def test_a_restart_in_a_later_view_does_not_go_back() -> None:
    backup = Play("m1")
    backup.hear("m0", pre_prepare(1, A))
    backup.hear("m0", pre_prepare(1, B))
    again = backup.restarted()
    assert again.machine.view == 1
    assert not again.machine.active
    assert said(again.hear("m0", pre_prepare(2, C)), m.Prepare) == []
    assert outputs(again.hear("m0", pre_prepare(2, C)), Fetch) == []


def test_a_restarted_machine_says_where_it_is() -> None:
    backup = Play("m1")
    backup.decide(1, A)
    out: Out[Any, Any] = Out()
    again = PbftMachine.create(backup.setup)
    again.on_restore(backup.records, out)
    again.on_start(out)
    assert said(out.effects, m.Status)


def test_a_group_of_one_decides_again_what_it_had_decided() -> None:
    alone = Play("m0", ("m0",), Quorum(1, 0))
    alone.give(Propose(Batch(A, 1)))
    out: Out[Any, Any] = Out()
    again = PbftMachine.create(alone.setup)
    again.on_restore(alone.records, out)
    again.on_start(out)
    assert outputs(out.effects, Decided) == [Decided(1, A)]


# ------------------------------------------------------------------------------------------------- patience


def status(delivered: int) -> m.Status:
    return m.Status(0, True, delivered, 0, None, b"", b"\0", True)


def impatient(backup: Play, quarters: int = 5) -> bool:
    """Whether the member leaves its view after so many quarters of the timeout."""
    for _ in range(quarters):
        backup.do("on_timer", ("request",))
    return not backup.machine.active


def test_a_member_leaves_when_requests_wait_for_a_timeout() -> None:
    backup = Play("m1")
    assert not impatient(backup)
    backup.give(Waiting(True))
    assert not impatient(backup, 4)
    assert impatient(backup, 1)


def test_a_member_that_is_only_behind_does_not_leave_alone() -> None:
    """f + 1 peers that deliver more and more show that the leader works; f of them show nothing."""
    backup = Play("m1")
    backup.give(Waiting(True))
    for delivered in (5, 9, 12):
        backup.hear("m2", status(delivered))
        backup.hear("m3", status(delivered + 100))
        assert not impatient(backup)
    # They stop, too: now it is time.
    assert impatient(backup)
    backup = Play("m1")
    backup.give(Waiting(True))
    backup.hear("m2", status(1 << 40))
    assert impatient(backup)


# ------------------------------------------------------------------------------------------------- a new leader


def change_with(member: MemberId, view: int, *certificates: Certificate) -> m.ViewChange:
    data = m.BODIES.encode(m.ViewChangeBody(view, (), certificates))
    return m.ViewChange(member, data, KEYRINGS[member].sign(m.VIEW_CHANGE, data))


def certificate(slot: int, name: bytes) -> Certificate:
    return Certificate.of(
        m.vote_statement(0, slot, name), {member: vote(member, slot, name) for member in ("m0", "m2", "m3")}
    )


def test_a_new_leader_fetches_what_it_lacks_before_it_signs() -> None:
    """SAFETY rule 3: the new view's proposals are its leader's votes."""
    leader = Play("m1")
    leader.hear("m2", change_with("m2", 1, certificate(1, A), certificate(2, B)))
    effects = leader.hear("m3", change_with("m3", 1))
    # f + 1 members have left: it follows them, and q view changes are here with its own.
    assert leader.machine.view == 1
    assert outputs(effects, Fetch) == [Fetch(A, 1, ("m0", "m2", "m3")), Fetch(B, 2, ("m0", "m2", "m3"))]
    assert said(effects, m.NewView) == []
    assert said(leader.give(Available(A)), m.NewView) == []
    effects = leader.give(Available(B))
    (new_view,) = said(effects, m.NewView)
    kinds: list[type] = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Broadcast)
    assert outputs(effects, LeaderChanged) == [LeaderChanged(1, "m1")]
    # A backup votes for it and what it starts with; the leader goes on after it.
    backup = Play("m2")
    effects = backup.hear("m1", new_view)
    assert outputs(effects, Fetch) == [Fetch(A, 1, ("m0", "m3")), Fetch(B, 2, ("m0", "m3"))]
    assert [prepare.slot for prepare in said(backup.give(Available(A)), m.Prepare)] == [1]
    assert [message.slot for message in said(leader.give(Propose(Batch(C, 1))), m.PrePrepare)] == [3]


def test_a_new_leader_signs_the_view_changes_that_it_counted() -> None:
    """While it fetches bytes, one of those whom it counted may go on to the next view: that is not part of this one."""
    leader = Play("m1")
    leader.hear("m2", change_with("m2", 1, certificate(1, A)))
    leader.hear("m3", change_with("m3", 1))
    leader.hear("m3", change_with("m3", 2))
    (new_view,) = said(leader.give(Available(A)), m.NewView)
    assert blamed(Play("m2").hear("m1", new_view)) == []


def test_a_group_of_one_comes_back_from_a_crash_in_a_view_change() -> None:
    alone = Play("m0", ("m0",), Quorum(1, 0))
    alone.records = [m.RECORDS.encode(m.Entered(1))]
    again = alone.restarted()
    assert again.machine.leader == "m0"
    assert again.machine.view == 1


def test_a_leader_that_restarts_does_not_open_its_view_a_second_time() -> None:
    leader = Play("m1")
    leader.hear("m2", change_with("m2", 1))
    (new_view,) = said(leader.hear("m3", change_with("m3", 1)), m.NewView)
    leader.give(Propose(Batch(C, 1)))
    again = leader.restarted()
    assert again.machine.leader == "m1"
    again.hear("m2", change_with("m2", 1, certificate(1, A)))
    # Whoever still asks gets the same again.
    assert said(again.hear("m3", change_with("m3", 1)), m.NewView) == [new_view]
    assert again.machine.next_slot == 2


def test_a_new_view_that_breaks_the_rules_convicts_its_leader_and_ends() -> None:
    """FAULTS 24: it leaves out what one of its own view changes proves."""
    backup = Play("m2")
    changes = (change_with("m0", 1, certificate(1, A)), change_with("m1", 1), change_with("m3", 1))
    data = m.BODIES.encode(m.NewViewBody(1, changes, ()))
    new_view = m.NewView(data, KEYRINGS["m1"].sign(m.NEW_VIEW, data))
    for change in changes:
        backup.hear(change.signer, change)
    assert backup.machine.view == 1
    effects = backup.hear("m1", new_view)
    (blame,) = [effect for effect in effects if isinstance(effect, Blame)]
    assert accused(backup.setup, blame.proof) == "m1"
    assert backup.machine.view == 2
    # Somebody else cannot say it in its name.
    forged = m.NewView(data, KEYRINGS["m3"].sign(m.NEW_VIEW, data))
    assert accused(backup.setup, m.PROOFS.encode(m.BadNewView(forged))) is None
    assert blamed(Play("m2").hear("m3", forged)) == [("m3", False)]


def test_a_view_change_that_breaks_the_rules_convicts_its_signer() -> None:
    """FAULTS 23."""
    backup = Play("m2")
    good = certificate(1, A)
    bad = change_with("m3", 1, attrs.evolve(good, votes=good.votes[:2]))
    effects = backup.hear("m3", bad)
    (blame,) = [effect for effect in effects if isinstance(effect, Blame)]
    assert accused(backup.setup, blame.proof) == "m3"
    assert "m3" not in backup.machine.changes
    # A good one convicts nobody, and somebody else's is not taken.
    change = change_with("m3", 1, good)
    assert accused(backup.setup, m.PROOFS.encode(m.BadViewChange(change))) is None
    assert blamed(backup.hear("m0", change)) == [("m0", False)]


# ------------------------------------------------------------------------------------------------- the rest


def test_a_fork_is_independent_and_equal() -> None:
    backup = Play("m1")
    backup.hear("m0", pre_prepare(1, A))
    copy = backup.machine.fork()
    assert copy.fingerprint() == backup.machine.fingerprint() == fingerprint(backup.machine)
    backup.give(Available(A))
    assert copy.fingerprint() != backup.machine.fingerprint()
    out: Out[Any, Any] = Out()
    copy.on_input(Available(A), out)
    assert copy.fingerprint() == backup.machine.fingerprint()


def test_the_highest_vote_is_told() -> None:
    """SAFETY rule 13: a strong read waits for it."""
    backup = Play("m1")
    assert backup.machine.highest_voted == 0
    backup.hear("m0", pre_prepare(5, NO_DIGEST))
    assert backup.machine.highest_voted == 5


def test_the_empty_batch_needs_no_fetching() -> None:
    backup = Play("m1")
    effects = backup.hear("m0", pre_prepare(1, NO_DIGEST))
    assert outputs(effects, Fetch) == []
    assert said(effects, m.Prepare)


def test_the_end_of_the_epoch_is_filled_and_not_passed() -> None:
    """SAFETY rule 23, even beyond the window."""
    end = WINDOW + 8
    leader = Play("m0")
    effects = leader.do("on_stop", end)
    assert [message.slot for message in said(effects, m.PrePrepare)] == list(range(1, end + 1))
    assert all(message.digest == NO_DIGEST for message in said(effects, m.PrePrepare))
    assert leader.machine.room == 0
    backup = Play("m1")
    backup.do("on_stop", 2)
    for slot in (1, 2):
        backup.decide(slot, NO_DIGEST)
    assert backup.give(Learned(3, A)) == []
    assert said(backup.hear("m0", pre_prepare(3, NO_DIGEST)), m.Prepare) == []


def test_the_hot_path_sets_no_timer() -> None:
    backup = Play("m1")
    effects = backup.hear("m0", pre_prepare(1, A)) + backup.give(Available(A))
    for member in ("m2", "m3"):
        effects += backup.hear(member, prepare(member, 1, A)) + backup.hear(member, m.Commit(0, 1, A))
    assert not any(isinstance(effect, SetTimer) for effect in effects)
