"""Paxos, one test for each rule of its story. These tests drive single machines by hand.

"Paxos Made Simple" is cited by its sections. `test_paxos_world` runs whole groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bftkit.core.digest import NO_DIGEST, digest
from bftkit.core.machine import (
    Blame,
    Broadcast,
    Deliver,
    Digest,
    Draw,
    Effect,
    MemberId,
    Out,
    Persist,
    Record,
    Send,
    Slot,
)
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
from bftkit.sim.keyring import fast_keyrings
from bftkit_paxos import PLUGIN
from bftkit_paxos import messages as m
from bftkit_paxos.ballots import leader_of, next_ballot, window_max
from bftkit_paxos.machine import PaxosMachine
from bftkit_paxos.record import RECORD
from bftkit_paxos.roles import BEAT, ELECTION, Role

A, B, C = (digest(name.encode()) for name in "abc")
KEYRINGS = fast_keyrings(b"test", bytes(32), 0, bytes(32), [f"m{index}" for index in range(7)])
SILENCE = RECORD.parameters["silence"].default
PATIENCE = RECORD.parameters["patience"].default


def setup_of(me: str, n: int = 3, c: int = 1, **more: Any) -> Setup:
    """A set-up for one of n members that survive c crashes."""
    return Setup(me, tuple(f"m{index}" for index in range(n)), Quorum(n, 0, c), KEYRINGS[me], **more)


def step(machine: PaxosMachine, event: str, *values: Any) -> list[Effect[Any, Any]]:
    """The effects of one call."""
    out: Out[Any, Any] = Out()
    getattr(machine, event)(*values, out)
    return out.effects


def started(me: str, n: int = 3, c: int = 1, **more: Any) -> PaxosMachine:
    """A fresh member that runs."""
    machine = PaxosMachine.create(setup_of(me, n, c, **more))
    step(machine, "on_start")
    return machine


def restarted(machine: PaxosMachine, records: Sequence[Record]) -> PaxosMachine:
    """The same member after a crash, with these records on its disk."""
    again = PaxosMachine.create(machine.setup)
    step(again, "on_restore", records)
    step(again, "on_start")
    return again


def entry(ballot: int, slot: Slot, batch: Digest, signer: str | None = None) -> m.Entry:
    """A proposal as the ballot's leader (or somebody else) signs it."""
    name = signer or f"m{ballot % 3}"
    return m.Entry(
        ballot, slot, batch, KEYRINGS[name].sign(m.ACCEPT_PURPOSE, m.proposal_statement(ballot, slot, batch))
    )


def hear(machine: PaxosMachine, sender: MemberId, message: m.Message) -> list[Effect[Any, Any]]:
    """The effects of a message."""
    return step(machine, "on_message", sender, message)


def propose(machine: PaxosMachine, batch: Digest) -> list[Effect[Any, Any]]:
    """The effects of a proposal."""
    return step(machine, "on_input", Propose(Batch(batch, 10)))


def take(machine: PaxosMachine, ballot: int, slot: Slot, batch: Digest, committed: Slot = 0) -> list[Effect[Any, Any]]:
    """A follower hears a proposal and gets its bytes."""
    effects = hear(machine, leader_of(machine.setup, ballot), m.Accept(entry(ballot, slot, batch), committed))
    if any(isinstance(each.output, Fetch) for each in effects if isinstance(each, Deliver)):
        effects += step(machine, "on_input", Available(batch))
    return effects


def sent(effects: list[Effect[Any, Any]], kind: type[Any]) -> list[Any]:
    """The messages of this kind, to whomever."""
    return [e.message for e in effects if isinstance(e, Send | Broadcast) and isinstance(e.message, kind)]


def decided(effects: list[Effect[Any, Any]]) -> list[tuple[Slot, Digest]]:
    """What was decided, in order."""
    return [
        (e.output.slot, e.output.digest) for e in effects if isinstance(e, Deliver) and isinstance(e.output, Decided)
    ]


def written(effects: list[Effect[Any, Any]]) -> list[m.OwnRecord]:
    """What was written down."""
    return [m.RECORDS.decode(e.record) for e in effects if isinstance(e, Persist)]


def place(effects: list[Effect[Any, Any]], kind: type[Any]) -> int:
    """Where the first such effect, or message, stands among all."""
    for index, e in enumerate(effects):
        if isinstance(e, kind) or (isinstance(e, Send | Broadcast) and isinstance(e.message, kind)):
            return index
    raise AssertionError(f"no {kind.__name__} in {effects}")


def lose(machine: PaxosMachine) -> list[Effect[Any, Any]]:
    """Beats without a sign of the leader, until it is lost and the drawn time is over."""
    effects: list[Effect[Any, Any]] = []
    for _ in range(SILENCE << machine.level):
        if machine.role is Role.FOLLOWING:
            effects = step(machine, "on_timer", BEAT)
    (draw,) = [e for e in effects if isinstance(e, Draw)]
    step(machine, "on_draw", draw.key, 3)
    return effects + step(machine, "on_timer", ELECTION)


def role_of(machine: PaxosMachine) -> Role:
    """Its role by now."""
    return machine.role


def preparing(machine: PaxosMachine, granter: MemberId, ballot: int = 0) -> list[Effect[Any, Any]]:
    """A candidate that has lost its leader and got a quorum's grants (of three)."""
    lose(machine)
    return hear(machine, granter, m.Grant(machine.attempt, ballot))


# ------------------------------------------------------------------------------------------------- ballots


def test_a_ballot_has_one_leader_and_each_member_has_one_in_every_round() -> None:
    setups = [setup_of(f"m{index}") for index in range(3)]
    assert [leader_of(setups[0], ballot) for ballot in range(6)] == ["m0", "m1", "m2"] * 2
    for above in range(20):
        mine = [next_ballot(setup, above) for setup in setups]
        assert all(leader_of(setup, ballot) == setup.me for setup, ballot in zip(setups, mine, strict=True))
        assert sorted(mine) == [above + 1, above + 2, above + 3]


def test_the_window_is_bounded_by_what_a_promise_can_carry() -> None:
    fits = window_max(setup_of("m0"))
    assert fits > 10_000
    with pytest.raises(ValueError, match="window"):
        PaxosMachine.create(setup_of("m0", window=fits + 1))
    top = (1 << 64) - 1
    thousand = len(m.CODEC.encode(m.Promise(top, top, (m.Held(top, top, NO_DIGEST),) * 1000)))
    assert 4 * fits * thousand / 1000 <= m.PROMISE_BYTES_MAX
    assert 4 * fits <= m.HELD_MAX


def test_no_group_with_liars_is_served() -> None:
    setup = Setup("m0", tuple(f"m{index}" for index in range(4)), Quorum(4, 1), KEYRINGS["m0"])
    with pytest.raises(ValueError, match="no Byzantine member"):
        PLUGIN.create(setup)


# ------------------------------------------------------------------------------------------------- phase 2


def test_the_leader_writes_down_signs_and_sends_with_the_bytes() -> None:
    leader = started("m0")
    effects = propose(leader, A)
    assert written(effects) == [entry(0, 1, A)]
    assert place(effects, Persist) < place(effects, m.Accept)
    (broadcast,) = [e for e in effects if isinstance(e, Broadcast)]
    assert broadcast.message == m.Accept(entry(0, 1, A), 0)
    assert broadcast.carry == (A,)


def test_a_follower_accepts_only_when_the_bytes_are_here_and_the_record_is_written() -> None:
    """SAFETY rules 3 and 5."""
    follower = started("m1")
    effects = hear(follower, "m0", m.Accept(entry(0, 1, A), 0))
    assert [e for e in effects if isinstance(e, Deliver)] == [Deliver(Fetch(A, 1, ("m0",)))]
    assert not sent(effects, m.Accepted)
    assert not written(effects)
    effects = step(follower, "on_input", Available(A))
    assert written(effects) == [entry(0, 1, A)]
    assert sent(effects, m.Accepted) == [m.Accepted(0, 1, A)]
    assert place(effects, Persist) < place(effects, m.Accepted)


def test_a_refused_batch_is_never_accepted() -> None:
    """SAFETY rule 4."""
    follower = started("m1")
    hear(follower, "m0", m.Accept(entry(0, 1, A), 0))
    effects = step(follower, "on_input", Refused(A))
    assert [e.member for e in effects if isinstance(e, Blame)] == ["m0"]
    assert not sent(effects, m.Accepted)
    assert 1 not in follower.accepted


def test_when_a_proposal_comes_again_the_bytes_are_asked_for_elsewhere() -> None:
    follower = started("m1")
    hear(follower, "m0", m.Accept(entry(0, 1, A), 0))
    effects = hear(follower, "m0", m.Accept(entry(0, 1, A), 0))
    assert Deliver(Fetch(A, 1, ("m0", "m2"))) in effects


def test_chosen_is_what_q_members_accepted_and_the_leader_says_so_at_once() -> None:
    """Section 2.2. Of five, the leader and two more."""
    leader = started("m0", 5, 2)
    propose(leader, A)
    assert not decided(hear(leader, "m1", m.Accepted(0, 1, A)))
    assert not decided(hear(leader, "m1", m.Accepted(0, 1, A)))  # once more the same member
    effects = hear(leader, "m4", m.Accepted(0, 1, A))
    assert decided(effects) == [(1, A)]
    assert sent(effects, m.Commit) == [m.Commit(0, 1)]


def test_slots_are_chosen_in_any_order_and_delivered_in_theirs() -> None:
    leader = started("m0")
    for batch in (A, B, C):
        propose(leader, batch)
    assert decided(hear(leader, "m1", m.Accepted(0, 3, C))) == []
    assert decided(hear(leader, "m1", m.Accepted(0, 1, A))) == [(1, A)]
    assert decided(hear(leader, "m2", m.Accepted(0, 2, B))) == [(2, B), (3, C)]


def test_acceptances_of_another_ballot_do_not_count() -> None:
    leader = started("m0")
    propose(leader, A)
    assert not decided(hear(leader, "m1", m.Accepted(3, 1, A)))


def test_followers_deliver_what_is_committed_in_the_leaders_own_ballot() -> None:
    follower = started("m1")
    take(follower, 0, 1, A)
    assert decided(hear(follower, "m0", m.Commit(0, 1))) == [(1, A)]
    # The commit index of a proposal counts, too, whichever comes first.
    assert decided(take(follower, 0, 2, B, committed=2)) == [(2, B)]


def test_what_was_accepted_in_an_older_ballot_may_not_be_what_is_committed() -> None:
    follower = started("m1")
    take(follower, 0, 1, A)  # nobody else accepted this
    hear(follower, "m2", m.Heartbeat(2, 0, 1))
    assert decided(hear(follower, "m2", m.Commit(2, 1))) == []
    step(follower, "on_input", Available(B))
    assert decided(hear(follower, "m2", m.Chosen(1, (B,)))) == [(1, B)]


def test_a_leader_that_learns_another_value_resigns_and_never_commits_it() -> None:
    """It proposed A in slot 1, and a higher ballot has chosen B: its commit index would make followers deliver A."""
    leader = started("m0")
    propose(leader, A)
    effects = step(leader, "on_input", Learned(1, B))
    assert decided(effects) == [(1, B)]
    assert sent(effects, m.Resign) == [m.Resign(0)]
    assert not sent(effects, m.Commit)
    assert leader.leader is None


def test_room_is_bounded_by_pipeline_and_window() -> None:
    leader = started("m0", window=40)
    rooms: list[int] = []
    for index in range(1, 41):
        rooms.append(leader.room)
        if not leader.room:
            break
        propose(leader, digest(b"%d" % index))
        if index > 8:
            hear(leader, "m1", m.Accepted(0, index - 8, digest(b"%d" % (index - 8))))
    assert rooms[:3] == [32, 31, 30]
    assert leader.room == 0
    assert leader.next_slot == 41
    step(leader, "on_stable", 30, bytes(32))
    assert leader.room > 0
    assert started("m1").room == 0
    with pytest.raises(ValueError, match="no room"):
        propose(started("m1"), A)


def test_nothing_is_accepted_far_above_the_checkpoint() -> None:
    """SAFETY rule 18: or else a promise might not fit into a message."""
    follower = started("m1", window=8)
    assert not take(follower, 0, 17, A)
    assert not follower.offered
    assert sent(take(follower, 0, 16, A), m.Accepted)


# ------------------------------------------------------------------------------------------------- evidence


def test_two_values_in_one_ballot_and_slot_are_evidence() -> None:
    """SAFETY rule 6, before and after the first one was accepted."""
    for accepted in (False, True):
        follower = started("m1")
        if accepted:
            take(follower, 0, 1, A)
        else:
            hear(follower, "m0", m.Accept(entry(0, 1, A), 0))
        (blame,) = [e for e in hear(follower, "m0", m.Accept(entry(0, 1, B), 0)) if isinstance(e, Blame)]
        conflict = m.CONFLICTS.decode(blame.proof)
        assert blame.member == "m0"
        assert {conflict.first.digest, conflict.second.digest} == {A, B}
        for each in (conflict.first, conflict.second):
            assert follower.setup.keyring.verify("m0", m.ACCEPT_PURPOSE, each.statement, each.signature)


def test_a_proposal_without_the_leaders_signature_is_no_evidence_and_is_not_accepted() -> None:
    follower = started("m1")
    effects = hear(follower, "m0", m.Accept(entry(0, 1, A, signer="m2"), 0))
    assert [(e.member, e.proof) for e in effects if isinstance(e, Blame)] == [("m0", b"")]
    assert not follower.offered
    take(follower, 0, 1, A)
    effects = hear(follower, "m0", m.Accept(entry(0, 1, B, signer="m2"), 0))
    assert [(e.member, e.proof) for e in effects if isinstance(e, Blame)] == [("m0", b"")]


@pytest.mark.parametrize(
    "message",
    [m.Accept(entry(0, 1, A), 0), m.Commit(0, 1), m.Heartbeat(0, 0, 0), m.Prepare(3), m.Resign(0)],
    ids=lambda message: type(message).__name__,
)
def test_only_the_leader_of_a_ballot_speaks_for_it(message: m.Message) -> None:
    member = started("m1")
    before = member.fingerprint()
    effects = hear(member, "m2", message)
    assert [e.member for e in effects if isinstance(e, Blame)] == ["m2"]
    assert member.fingerprint() == before


# ------------------------------------------------------------------------------------------------- phase 1


def test_a_promise_is_written_down_before_it_is_given_and_reports_everything_accepted() -> None:
    """Section 2.2, phase 1b; SAFETY rule 5."""
    member = started("m1")
    take(member, 0, 1, A)
    take(member, 0, 3, B)
    effects = hear(member, "m2", m.Prepare(5))
    assert written(effects) == [m.Promised(5)]
    assert place(effects, Persist) < place(effects, m.Promise)
    assert sent(effects, m.Promise) == [m.Promise(5, 0, (m.Held(1, 0, A), m.Held(3, 0, B)))]


def test_a_promise_binds_against_lower_ballots() -> None:
    """Section 2.2: neither promises nor acceptances below it."""
    member = started("m1")
    hear(member, "m2", m.Prepare(5))
    assert sent(take(member, 0, 1, A), m.Refuse) == [m.Refuse(5)]
    assert 1 not in member.accepted
    assert sent(hear(member, "m0", m.Prepare(3)), m.Refuse) == [m.Refuse(5)]
    assert sent(hear(member, "m0", m.Heartbeat(3, 0, 0)), m.Refuse) == [m.Refuse(5)]
    assert member.view == 5


def test_bytes_that_come_after_a_promise_do_not_make_an_older_proposal_accepted() -> None:
    member = started("m1")
    hear(member, "m0", m.Accept(entry(0, 1, A), 0))
    hear(member, "m2", m.Prepare(5))
    effects = step(member, "on_input", Available(A))
    assert not sent(effects, m.Accepted)
    assert not written(effects)


def test_a_candidate_writes_its_ballot_down_before_it_asks_for_promises() -> None:
    candidate = started("m1")
    effects = preparing(candidate, "m2")
    assert written(effects) == [m.Promised(1)]
    assert sent(effects, m.Prepare) == [m.Prepare(1)]
    assert place(effects, Persist) < place(effects, m.Prepare)


def test_the_new_leader_takes_the_value_of_the_highest_ballot_and_fills_holes() -> None:
    """Section 3: for each slot the value of the highest ballot; a no-op where there is none."""
    candidate = started("m1")
    take(candidate, 0, 1, A)
    take(candidate, 0, 2, A)
    preparing(candidate, "m2", ballot=2)
    assert candidate.view == 4
    effects = hear(candidate, "m2", m.Promise(4, 0, (m.Held(2, 2, B), m.Held(4, 0, C))))
    proposed = {message.entry.slot: message.entry.digest for message in sent(effects, m.Accept)}
    assert proposed == {1: A, 3: NO_DIGEST}  # the bytes of B and C are not here yet
    assert Deliver(Fetch(B, 2, ("m2",))) in effects
    assert candidate.leader == "m1"
    effects = step(candidate, "on_input", Available(B)) + step(candidate, "on_input", Available(C))
    assert [(message.entry.slot, message.entry.digest) for message in sent(effects, m.Accept)] == [(2, B), (4, C)]
    assert candidate.next_slot == 5


def test_what_a_promise_calls_settled_is_not_proposed_again() -> None:
    candidate = started("m1")
    take(candidate, 0, 1, A)
    preparing(candidate, "m2")
    effects = hear(candidate, "m2", m.Promise(1, 8, (m.Held(10, 0, NO_DIGEST),)))
    proposed = [(message.entry.slot, message.entry.digest) for message in sent(effects, m.Accept)]
    assert proposed == [(9, NO_DIGEST), (10, NO_DIGEST)]
    assert candidate.next_slot == 11
    # It goes on above, although it still lacks what is settled.
    assert candidate.room > 0
    propose(candidate, B)
    assert sent(hear(candidate, "m0", m.Accepted(1, 9, NO_DIGEST)), m.Commit) == [m.Commit(1, 9)]
    assert candidate.delivered == 0


def test_a_leader_that_lags_keeps_the_bytes_of_what_it_proposes_far_above_its_own_checkpoint() -> None:
    """SAFETY rule 3: the channel keeps a proposal's bytes for a window above this member's own state, and no longer."""
    candidate = started("m1", window=8)
    preparing(candidate, "m2")
    hear(candidate, "m2", m.Promise(1, 8, ()))
    effects = propose(candidate, A)
    assert place(effects, Deliver) < place(effects, Persist)
    assert [effect.output for effect in effects if isinstance(effect, Deliver)] == [Fetch(A, 9, ())]
    step(candidate, "on_stable", 8, B)
    assert not [effect for effect in propose(candidate, B) if isinstance(effect, Deliver)]


def test_a_leader_that_cannot_get_what_is_settled_goes_so_that_phase_1_reads_it_again() -> None:
    candidate = started("m1")
    preparing(candidate, "m2")
    hear(candidate, "m2", m.Promise(1, 8, ()))
    effects: list[Effect[Any, Any]] = []
    for _ in range(PATIENCE + 1):
        assert not sent(effects, m.Resign)
        hear(candidate, "m2", m.Echo(1, 8, 8))
        effects = step(candidate, "on_timer", BEAT)
    assert sent(effects, m.Resign) == [m.Resign(1)]


def test_a_leader_that_cannot_get_the_bytes_of_what_it_must_propose_goes() -> None:
    candidate = started("m1")
    preparing(candidate, "m2")
    hear(candidate, "m2", m.Promise(1, 0, (m.Held(1, 0, A),)))
    effects: list[Effect[Any, Any]] = []
    for _ in range(PATIENCE + 1):
        assert not sent(effects, m.Resign)
        hear(candidate, "m2", m.Echo(1, 0, 0))
        effects = step(candidate, "on_timer", BEAT)
    assert sent(effects, m.Resign) == [m.Resign(1)]


def test_bytes_that_come_with_a_proposal_of_our_own_serve_an_earlier_slot_too() -> None:
    candidate = started("m1")
    preparing(candidate, "m2")
    hear(candidate, "m2", m.Promise(1, 0, (m.Held(1, 0, A),)))
    effects = propose(candidate, A)  # a client sent it to us as well
    assert sorted(message.entry.slot for message in sent(effects, m.Accept)) == [1, 2]


def test_a_promise_about_slots_far_beyond_any_window_is_not_believed() -> None:
    candidate = started("m1", window=8)
    preparing(candidate, "m2")
    effects = hear(candidate, "m2", m.Promise(1, 0, (m.Held(1 << 60, 0, A),)))
    assert [e.member for e in effects if isinstance(e, Blame)] == ["m2"]
    assert role_of(candidate) is Role.PREPARING
    assert sent(hear(candidate, "m0", m.Promise(1, 0, (m.Held(32, 0, NO_DIGEST),))), m.Accept)


def test_too_few_promises_make_no_leader() -> None:
    candidate = started("m1", 5, 2)
    lose(candidate)
    hear(candidate, "m2", m.Grant(candidate.attempt, 0))
    hear(candidate, "m3", m.Grant(candidate.attempt, 0))
    assert role_of(candidate) is Role.PREPARING
    hear(candidate, "m2", m.Promise(1, 0, ()))
    hear(candidate, "m2", m.Promise(1, 0, ()))
    hear(candidate, "m3", m.Promise(6, 0, ()))  # of another ballot
    assert role_of(candidate) is Role.PREPARING
    hear(candidate, "m4", m.Promise(1, 0, ()))
    assert role_of(candidate) is Role.LEADING


def test_a_higher_prepare_binds_a_candidate_and_a_leader_too() -> None:
    for role in (Role.PREPARING, Role.LEADING):
        member = started("m1")
        preparing(member, "m2")
        if role is Role.LEADING:
            hear(member, "m2", m.Promise(1, 0, ()))
        assert role_of(member) is role
        assert sent(hear(member, "m2", m.Prepare(2)), m.Promise)
        assert role_of(member) is Role.FOLLOWING
        assert member.room == 0


# ------------------------------------------------------------------------------------------------- losing a leader


def test_a_leader_is_lost_by_silence_and_not_before() -> None:
    member = started("m1")
    for _ in range(SILENCE - 1):
        step(member, "on_timer", BEAT)
    assert member.leader == "m0"
    hear(member, "m0", m.Heartbeat(0, 0, 0))
    for _ in range(SILENCE - 1):
        step(member, "on_timer", BEAT)
    assert member.leader == "m0"
    effects = step(member, "on_timer", BEAT)
    assert Deliver(LeaderChanged(0, None)) in effects
    assert [e for e in effects if isinstance(e, Draw)]


def test_nobody_grants_who_hears_a_leader_and_a_pre_vote_changes_nothing() -> None:
    """A member behind a one-way partition asks again and again, and deposes nobody."""
    member = started("m1")
    for attempt in range(1, 50):
        hear(member, "m0", m.Heartbeat(0, 0, 0))
        assert hear(member, "m2", m.PreVote(attempt)) == []
        step(member, "on_timer", BEAT)
    assert (member.leader, member.view) == ("m0", 0)


def test_who_loses_the_leader_a_little_later_answers_then() -> None:
    member = started("m1")
    step(member, "on_timer", BEAT)
    assert hear(member, "m2", m.PreVote(7)) == []
    assert sent(lose(member), m.Grant) == [m.Grant(7, 0)]
    assert sent(hear(member, "m2", m.PreVote(8)), m.Grant) == [m.Grant(8, 0)]


def test_a_sign_of_the_leader_ends_the_search() -> None:
    member = started("m1")
    lose(member)
    assert role_of(member) is Role.ASKING
    hear(member, "m0", m.Heartbeat(0, 0, 0))
    assert member.leader == "m0"
    assert not hear(member, "m2", m.Grant(member.attempt, 0))
    assert role_of(member) is Role.FOLLOWING


def test_grants_of_an_earlier_attempt_do_not_count() -> None:
    member = started("m1")
    lose(member)
    hear(member, "m2", m.Grant(member.attempt - 1, 0))
    assert role_of(member) is Role.ASKING


def test_a_candidates_own_followers_grant_at_once() -> None:
    """A leader that was restarted, or refused by one member, need not wait until it is missed."""
    follower = started("m1")
    assert sent(hear(follower, "m0", m.PreVote(1)), m.Grant) == [m.Grant(1, 0)]
    assert follower.leader == "m0"


def test_a_leader_that_does_not_hear_a_quorum_resigns() -> None:
    leader = started("m0")
    gone: list[int] = []
    for beat in range(1, 40):
        if beat < 20:
            hear(leader, "m1", m.Echo(0, 0, 0))  # one of the two others is a quorum with itself
        gone += [beat] * len(sent(step(leader, "on_timer", BEAT), m.Resign))
    assert gone == [19 + SILENCE]
    assert leader.room == 0
    # The others need not wait for its silence.
    follower = started("m1")
    assert [e for e in hear(follower, "m0", m.Resign(0)) if isinstance(e, Draw)]


def test_a_leader_that_is_refused_asks_its_followers_before_it_takes_a_higher_ballot() -> None:
    """Or else two leaders that do not hear each other would depose each other for ever."""
    leader = started("m0")
    effects = hear(leader, "m2", m.Refuse(5))
    assert sent(effects, m.PreVote) == [m.PreVote(1)]
    assert not sent(effects, m.Prepare)
    effects = hear(leader, "m1", m.Grant(1, 0))
    assert sent(effects, m.Prepare) == [m.Prepare(6)]


def test_waits_grow_with_each_failure_and_shrink_under_a_leader() -> None:
    member = started("m1")
    spreads: list[int] = []
    lose(member)
    for _ in range(8):
        effects = step(member, "on_timer", ELECTION)
        draws = [e for e in effects if isinstance(e, Draw)]
        if draws:
            spreads.append(draws[0].choices)
            step(member, "on_draw", draws[0].key, 0)
    spread = RECORD.parameters["spread"].default
    assert spreads == [spread << 1, spread << 2, spread << 3, spread << 4]
    for _ in range(100):
        hear(member, "m0", m.Heartbeat(0, 0, 0))
        step(member, "on_timer", BEAT)
    assert member.level == 0


def test_a_leader_under_which_nothing_is_chosen_while_requests_wait_is_given_up() -> None:
    def beats(*, waiting: bool, progress: bool) -> PaxosMachine:
        member = started("m1")
        step(member, "on_input", Waiting(waiting))
        for slot in range(1, PATIENCE + 1):
            take(member, 0, slot, A)
            hear(member, "m0", m.Heartbeat(0, slot if progress else 0, slot))
            step(member, "on_timer", BEAT)
        return member

    assert beats(waiting=True, progress=False).leader is None
    assert beats(waiting=True, progress=True).leader == "m0"
    assert beats(waiting=False, progress=False).leader == "m0"


def test_neglected_gives_the_leader_up_for_a_while_and_still_accepts_its_proposals() -> None:
    member = started("m1")
    step(member, "on_input", Neglected("m2"))
    assert member.leader == "m0"
    step(member, "on_input", Neglected("m0"))
    assert member.leader is None
    assert sent(hear(member, "m2", m.PreVote(1)), m.Grant)
    assert sent(take(member, 0, 1, A), m.Accepted)
    for _ in range(PATIENCE):
        assert member.leader is None
        assert sent(hear(member, "m0", m.Heartbeat(0, 0, 1)), m.Echo)
        step(member, "on_timer", BEAT)
    hear(member, "m0", m.Heartbeat(0, 0, 1))
    assert member.leader == "m0"


# ------------------------------------------------------------------------------------------------- what was lost


def test_an_echo_counts_as_acceptances_and_asks_for_what_is_missing() -> None:
    leader = started("m0")
    for batch in (A, B, C):
        propose(leader, batch)
    step(leader, "on_timer", BEAT)
    # The acceptance of slot 1 was lost, and the proposals of 2 and 3 were.
    effects = hear(leader, "m1", m.Echo(0, 0, 1))
    assert decided(effects) == [(1, A)]
    assert not sent(effects, m.Accept)  # it may be on its way
    step(leader, "on_timer", BEAT)
    effects = hear(leader, "m1", m.Echo(0, 1, 1))
    assert [(message.entry.slot, message.entry.digest) for message in sent(effects, m.Accept)] == [(2, B), (3, C)]


def test_a_follower_says_again_what_it_accepted_when_it_is_asked_again() -> None:
    follower = started("m1")
    take(follower, 0, 1, A)
    effects = hear(follower, "m0", m.Accept(entry(0, 1, A), 0))
    assert sent(effects, m.Accepted) == [m.Accepted(0, 1, A)]
    assert not written(effects)


def test_a_member_without_a_leader_asks_everybody_what_it_missed() -> None:
    member = started("m1")
    lose(member)
    asked = [message for _ in range(SILENCE) for message in sent(step(member, "on_timer", BEAT), m.Ask)]
    assert asked == [m.Ask(0)]
    other = started("m2")
    take(other, 0, 1, A)
    take(other, 0, 2, B, committed=2)
    assert sent(hear(other, "m1", m.Ask(0)), m.Chosen) == [m.Chosen(1, (A, B))]
    assert sent(hear(other, "m1", m.Ask(2)), m.Chosen) == []


# ------------------------------------------------------------------------------------------------- restarts


def records_of(effects: list[Effect[Any, Any]]) -> list[Record]:
    return [e.record for e in effects if isinstance(e, Persist)]


def test_a_restarted_member_keeps_its_promise_and_what_it_accepted() -> None:
    """SAFETY rule 5: nothing that it said is taken back."""
    member = PaxosMachine.create(setup_of("m1"))
    records = records_of(step(member, "on_start"))
    records += records_of(take(member, 0, 1, A))
    records += records_of(hear(member, "m2", m.Prepare(5)))
    again = restarted(member, records)
    assert sent(take(again, 0, 2, B), m.Refuse) == [m.Refuse(5)]
    assert sent(hear(again, "m0", m.Prepare(6)), m.Promise) == [m.Promise(6, 0, (m.Held(1, 0, A),))]
    assert again.highest_voted == 1


def test_an_acceptance_is_a_promise_too() -> None:
    member = PaxosMachine.create(setup_of("m1"))
    records = records_of(step(member, "on_start")) + records_of(take(member, 5, 1, A))
    again = restarted(member, records)
    assert sent(hear(again, "m0", m.Prepare(3)), m.Refuse) == [m.Refuse(5)]


def test_the_promise_outlives_its_log_segment() -> None:
    member = started("m1")
    hear(member, "m2", m.Prepare(5))
    again = restarted(member, list(member.standing()))
    assert sent(hear(again, "m0", m.Prepare(3)), m.Refuse) == [m.Refuse(5)]


def test_a_restarted_leader_never_leads_its_old_ballot_again() -> None:
    """It may have proposed in it what it did not write down."""
    leader = PaxosMachine.create(setup_of("m0"))
    records = records_of(step(leader, "on_start"))
    assert records  # even before its first proposal
    again = restarted(leader, records)
    assert again.leader is None
    assert again.room == 0
    assert role_of(again) is Role.SEEKING


def test_a_member_whose_echo_shows_a_forgotten_proposal_ends_the_ballot() -> None:
    """SAFETY rule 16, as far as this protocol sees it."""
    leader = started("m0")
    propose(leader, A)
    assert sent(hear(leader, "m1", m.Accepted(0, 1, B)), m.Resign) == [m.Resign(0)]


# ------------------------------------------------------------------------------------------------- reads, epochs


def test_highest_voted_counts_what_was_accepted_and_not_only_what_is_chosen() -> None:
    """SAFETY rule 13."""
    follower = started("m1")
    take(follower, 0, 2, A)
    assert follower.highest_voted == 2
    leader = started("m0")
    propose(leader, A)
    assert leader.highest_voted == 1


def test_a_new_ballot_ends_the_wait_for_what_it_never_proposed() -> None:
    """ADR 0013: above `high` only what was accepted in the new ballot counts."""
    follower = started("m1")
    for slot in (1, 2, 3):
        take(follower, 0, slot, A)
    hear(follower, "m2", m.Heartbeat(2, 0, 2))
    assert follower.highest_voted == 2
    take(follower, 2, 4, B)
    assert follower.highest_voted == 4
    early = started("m1")
    take(early, 0, 3, A)
    take(early, 2, 4, B)  # overtakes the heartbeat
    hear(early, "m2", m.Heartbeat(2, 0, 3))
    assert early.highest_voted == 4


def test_a_stop_is_filled_by_the_leader_and_by_every_later_leader() -> None:
    """SAFETY rule 23."""
    leader = started("m0", window=8)
    propose(leader, A)
    effects = step(leader, "on_stop", 12)
    assert [message.entry.slot for message in sent(effects, m.Accept)] == list(range(2, 13))
    assert leader.room == 0
    later = started("m1", window=8)
    step(later, "on_stop", 4)
    preparing(later, "m2")
    effects = hear(later, "m2", m.Promise(1, 0, (m.Held(2, 0, NO_DIGEST), m.Held(7, 0, NO_DIGEST))))
    assert [message.entry.slot for message in sent(effects, m.Accept)] == [1, 2, 3, 4]
    decided_slots = decided(
        [effect for slot in range(1, 5) for effect in hear(later, "m2", m.Accepted(1, slot, NO_DIGEST))]
    )
    assert [slot for slot, _ in decided_slots] == [1, 2, 3, 4]


def test_a_stable_checkpoint_forgets_what_lies_below() -> None:
    follower = started("m1")
    for slot in range(1, 9):
        take(follower, 0, slot, digest(b"%d" % slot), committed=slot)
    step(follower, "on_stable", 6, bytes(32))
    assert sorted(follower.accepted) == sorted(follower.chosen) == [7, 8]
    assert len(follower.here) == 2
